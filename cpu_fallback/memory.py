"""Upper bounds of the memory that the CPU backend's operations need beside their frames."""

from typing import Any

import numpy as np

from cpu_fallback import clip_blocks, clip_values, kruskal
from cpu_fallback.moments import IN_CACHE
from cpu_fallback.trimmed import TILE, sorting_dtype
from gpu_spots.background.methods import Clip, Method

OF_MOMENTS = 68
"""Bytes for what is known of a pixel of a band."""


def band_bytes(n_frames: int, n_pixels: int, dtype: np.dtype[Any], method: Method) -> int:
    """Return the memory of the moments of a band.

    One tile at a time is held: its values as they are, sorted, and some of them as float64.
    """
    if method.n_blocks:
        is_clip = isinstance(method, Clip)
        n_values = clip_blocks.TILE_VALUES if is_clip else kruskal.TILE_VALUES
        tile = min(n_pixels, max(1, n_values // n_frames))
        of_value = 12 + 3 * max(4, dtype.itemsize) + 24 * is_clip
        if is_clip and dtype.itemsize <= 2:
            of_value = 22 + 2 * sorting_dtype(dtype).itemsize
    else:
        size, of_value = TILE, 3 * max(4, dtype.itemsize)
        if isinstance(method, Clip):
            size = clip_values.tile_pixels(n_frames)
            if dtype.itemsize <= 2:
                of_value = 6 + 2 * sorting_dtype(dtype).itemsize
            else:
                of_value += 40  # cumulative sums
        tile = min(n_pixels, size)
    return OF_MOMENTS * n_pixels + of_value * tile * n_frames + 16 * IN_CACHE


def batch_bytes(n_frames: int, n_pixels: int, dtype: np.dtype[Any]) -> int:
    """Return the memory of the masks, components and sums of a batch.

    It consists of the mask and labels of one frame as images, the masks of all frames as bits, and
    their set pixels.

    It is enough if at most one pixel in fifty is set, which is more than in usual masks.
    """
    return 6 * n_pixels + 6 * n_pixels * n_frames // 5
