"""Upper bounds of the memory that the CPU backend's operations need beside their frames."""

from typing import Any

import numpy as np

from cpu_fallback.kruskal import TILE_VALUES
from cpu_fallback.trimmed import TILE

PER_PIXEL = 64
"""Bytes of a pixel's moments."""


def band_bytes(n_frames: int, n_pixels: int, dtype: np.dtype[Any], method: str) -> int:
    """Of the moments of a band: one tile at a time, its values as they are, sorted, and as float64."""
    tile = min(n_pixels, TILE if method == "n_removed" else max(1, TILE_VALUES // n_frames))
    per_value = 4 * max(4, dtype.itemsize) if method == "n_removed" else 40
    return PER_PIXEL * n_pixels + per_value * tile * n_frames


def batch_bytes(n_frames: int, n_pixels: int, dtype: np.dtype[Any]) -> int:
    """Of the masks, components and sums of a batch: two bytes a value, for comparisons, packed masks and the few pixels that are set."""
    return 2 * n_pixels * n_frames
