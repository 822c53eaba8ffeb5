"""Setting of the C library's memory allocator, for a command that takes and returns tens of megabytes many times a second."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Names of glibc's malloc.h."""
LARGEST_KEPT = 1 << 25
"""Blocks up to this size come from memory that the process has already, the most that glibc allows.
"""
KEPT = 1 << 28
"""So much freed memory is kept."""


def keep_freed_memory() -> None:
    """Keep freed memory for the next array, where the C library is glibc: else the system clears each page of each array again.

    That cost a quarter of the time of a run on two cores. It concerns the whole process, so only
    commands ask for it.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
        mallopt(M_TRIM_THRESHOLD, KEPT)
