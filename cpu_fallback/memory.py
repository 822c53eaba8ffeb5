"""Upper bounds of the memory that the CPU backend's operations need beside their frames."""

from typing import Any

import numpy as np

from cpu_fallback import clip_blocks, clip_short, clip_values, kruskal, narrow
from cpu_fallback.blocks import FrameBlocks
from cpu_fallback.moments import IN_CACHE
from cpu_fallback.trimmed import TILE, sorting_dtype
from gpu_spots.background.methods import Clip, Method

OF_MOMENTS = 68
"""Bytes for what is known of a pixel of a band."""
OF_TILE = 128
"""Bytes for what is known of a pixel of a tile."""


def band_bytes(n_frames: int, n_pixels: int, dtype: np.dtype[Any], method: Method) -> int:
    """Return the memory of the moments of a band.

    One tile at a time is held: its values as they are, sorted, and some of them as float64.
    """
    is_short, of_pixel = dtype.kind != "f" and dtype.itemsize <= 2, 0
    if isinstance(method, Clip) and method.block_of_frame is not None:
        blocks = FrameBlocks.of(method.block_of_frame)
        size = clip_short.tile_pixels(n_frames, dtype, blocks)
        of_value = 36 + 3 * max(4, dtype.itemsize)
        if is_short and size * n_frames > clip_blocks.TILE_VALUES:
            of_value = 15  # sums of long blocks take little
    elif isinstance(method, Clip):
        size, of_value = clip_values.tile_pixels(n_frames), 40 + 3 * max(4, dtype.itemsize)
        if is_short:
            size, of_pixel = narrow.tile_pixels(n_frames, n_pixels), OF_TILE
            of_value = 3 + 2 * sorting_dtype(dtype).itemsize
    elif method.n_blocks:
        size = max(1, kruskal.TILE_VALUES // n_frames)
        of_value = 12 + 3 * max(4, dtype.itemsize)
    else:
        size, of_value = TILE, 3 * max(4, dtype.itemsize)
    tile = (of_value * n_frames + of_pixel) * min(n_pixels, size)
    return OF_MOMENTS * n_pixels + tile + 16 * IN_CACHE


def batch_bytes(n_frames: int, n_pixels: int, dtype: np.dtype[Any]) -> int:
    """Return the memory of the masks, components and sums of a batch.

    It consists of the mask and labels of one frame as images, the masks of all frames as bits, and
    their set pixels.

    It is enough if at most one pixel in fifty is set, which is more than in usual masks.
    """
    return 6 * n_pixels + 6 * n_pixels * n_frames // 5
