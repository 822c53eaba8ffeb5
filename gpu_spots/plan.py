"""Bytes into work: which rows make a band, which frames make a batch, and whether a stack fits in memory."""

from collections.abc import Iterator
from pathlib import Path

from gpu_spots.errors import InputError

BAND_PIXELS = 1 << 17
"""Pixels of a band in the first pass: some tens of milliseconds of work, so that Ctrl-C and the progress bar answer at once."""
BATCH_PIXELS = 1 << 22
"""Pixels of a batch in the second pass: enough to share the cost of a call, few enough for the cache and for memory."""
COPIED_VALUES = 1 << 24
"""Values of a band that is copied, for all frames together."""
MAX_BATCH = 512
"""Frames of a batch, where they are tiny."""
RESERVE = 400 * 2**20
"""Bytes left for everything that is not the stack."""


def spans(total: int, step: int) -> Iterator[tuple[int, int]]:
    """Begin and end of consecutive stretches of at most ``step``."""
    for begin in range(0, total, step):
        yield begin, min(begin + step, total)


def rows_per_band(n_columns: int) -> int:
    """Rows of a band in the first pass."""
    return max(1, BAND_PIXELS // n_columns)


def rows_per_copied_band(n_columns: int, n_frames: int) -> int:
    """Rows of a band in the first pass where each worker holds a scaled copy of it."""
    return max(1, min(BAND_PIXELS, COPIED_VALUES // n_frames) // n_columns)


def frames_per_batch(n_pixels: int) -> int:
    """Frames of a batch in the second pass."""
    return max(1, min(MAX_BATCH, BATCH_PIXELS // n_pixels))


def check_fits(n_bytes: int, what: str) -> None:
    """Raise `InputError` if memory for ``n_bytes`` and the program's own needs is not free, where the system tells what is."""
    available = available_memory()
    if available is not None and n_bytes + RESERVE > available:
        raise InputError(f"{what} needs {n_bytes / 2**30:.1f} GiB of memory, {available / 2**30:.1f} GiB are free")


def available_memory() -> int | None:
    """Bytes that can be allocated without swapping, in this process's control group too; None where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = ((group / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return available
    return available if limit == "max" else min(available, max(0, int(limit) - int(used)))
