"""Memory and sizes in bytes: what is free, what an output takes, and how they are written."""

from collections.abc import Callable
from pathlib import Path

OUTPUT = {"raw": 0.067, "filtered": 0.007, "synced": 0.007, "labels": 0.009, "pixels": 0.04}
"""Bytes of the output per pixel of each mask, with gzip: measured on a run of `gpu-spots simulate`
with its defaults.
"""
OUTPUT_MAPS = 11
"""Bytes of the output per pixel of a frame for the statistics; from the same run."""
OUTPUT_TABLE = 0.013
"""Bytes of the output per pixel of each frame for the table of spots; from the same run, which has
84 spots of 164 bytes on a frame of 1024 x 1024.
"""


def in_words(n_bytes: int, rounded: Callable[[float], int] = round) -> str:
    """Return a size with its unit, such as ``1.5 GiB``."""
    if n_bytes >= 2**30:
        return f"{rounded(10 * n_bytes / 2**30) / 10:.1f} GiB"
    return f"{rounded(n_bytes / 2**20)} MiB" if n_bytes >= 2**20 else f"{n_bytes >> 10} KiB"


def output_bytes(shape: tuple[int, int, int], n_masks: int, keep: frozenset[str]) -> int:
    """Return the approximate size of the output with gzip, bytes.

    The estimate is for usual masks. With others, the output can be a few times larger or smaller.
    """
    n_frames, n_rows, n_columns = shape
    images = {
        "raw": n_frames,
        "filtered": n_frames,
        "synced": n_masks if n_masks < n_frames else 0,
        "labels": n_masks,
        "pixels": n_masks,
    }
    return int(
        n_rows
        * n_columns
        * (
            OUTPUT_MAPS
            + OUTPUT_TABLE * n_frames
            + sum(OUTPUT[kind] * n for kind, n in images.items() if kind in keep)
        )
    )


def available_memory() -> int | None:
    """Return the bytes that can be allocated without swapping; None: unknown.

    The limit of the control group of this process is taken into account.
    """
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(
            int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")
        )
    except (OSError, StopIteration, ValueError):
        return None
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (
            (group / name).read_text().strip() for name in ("memory.max", "memory.current")
        )
    except OSError:
        return available
    return available if limit == "max" else min(available, max(0, int(limit) - int(used)))
