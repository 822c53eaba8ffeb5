"""Trimmed statistics of each pixel, from sorted values.

Tiles of pixels are transposed, so that the values of a pixel are next to each other.
"""

import time
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from cpu_fallback.moments import Band, places, tiles
from gpu_spots.model import Array, FloatMoments, IntegerMoments, Validity

TILE = 4096
"""Pixels of a tile: large enough that threads do not fight for the interpreter, small enough for
the cache.
"""


def trimmed_moments(
    frames: Array, percent: int, validity: Validity
) -> IntegerMoments | FloatMoments:
    """Return the moments of a band; see ``cpu_fallback.background.moments``.

    Args:
        frames: (n, n_X, n_Y), counts.
        percent: share of the valid values of a pixel that is dropped, the largest ones.
        validity: which values count.

    Raises:
        ValueError: there are more than `MAX_FRAMES` frames.
    """
    band = Band(frames, validity)
    buffer = np.empty((TILE, len(frames)), sorting_dtype(frames.dtype))

    def size(n_valid: int) -> int:
        return n_valid - n_valid * percent // 100

    for tile in tiles(frames, validity, TILE):
        rows = buffer[: tile.values.shape[1]]
        band.load(tile, rows)
        rows.sort(axis=1)
        if tile.usable is None:
            band.sample(tile.where, rows[:, : size(len(frames))])
        else:
            band.sample_counted(places(tile.where), rows, tile.usable.sum(axis=0), size)
    return band.moments()


def sorting_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the integer type that this machine sorts fastest.

    A type of 4 or 8 bytes is returned as it is.
    """
    if dtype.kind == "f" or dtype.itemsize == 4:
        return dtype
    return np.dtype(f"{dtype.kind}{2 if _sorts_short_integers_fast() else 4}")


@cache
def _sorts_short_integers_fast() -> bool:
    """Return True if this processor sorts 16-bit values faster than longer ones; measured once."""
    return _seconds_to_sort(np.uint16) < 2 * _seconds_to_sort(np.uint32)


def _seconds_to_sort(dtype: DTypeLike) -> float:
    """Return the shortest time of three sorts of the same short rows."""
    rows = (np.arange(64 * 180, dtype=np.uint64) * 40503 % 65521).astype(dtype).reshape(64, 180)
    best = np.inf
    for _ in range(3):
        copy = rows.copy()
        start = time.perf_counter()
        copy.sort(axis=1)
        best = min(best, time.perf_counter() - start)
    return best
