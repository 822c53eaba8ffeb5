"""Setting of the C library's memory allocator.

A command allocates and frees tens of megabytes many times per second.
"""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Names of glibc's malloc.h."""
LARGEST_KEPT = 1 << 25
"""Blocks up to this size come from memory that the process has already, the most that glibc allows.
"""
KEPT = 1 << 28
"""Bytes of freed memory that are kept."""


def keep_freed_memory() -> None:
    """Keep freed memory for the next array, if the C library is glibc.

    Otherwise the system clears each page of each array again, which takes a quarter of the time of
    a run on two cores. The setting changes the whole process, so only commands use it.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
        mallopt(M_TRIM_THRESHOLD, KEPT)
