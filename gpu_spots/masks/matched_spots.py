"""Result of the matched finder: masks of frames or groups, and their spots."""

from dataclasses import dataclass
from typing import Generic

import numpy as np
from numpy.typing import NDArray

from gpu_spots.model import Components, Masks


@dataclass(frozen=True, slots=True)
class MatchedMasks(Generic[Masks]):
    """Masks of a batch of frames or groups by the matched finder."""

    raw: Masks
    """Pixels at or above the seed level of any map, one mask a frame or group."""
    filtered: Masks
    """Pixels of spots, one mask a frame or group."""
    invalid: Masks | None
    """Pixels without a valid value on some frame, one mask a frame or group; None: none but those
    of ``Validity.pixels``.
    """
    spots: Components
    """Spots. They may touch each other, unlike connected components."""


def list_spots(
    mask: NDArray[np.int64],
    pixels: NDArray[np.int64],
    spot: NDArray[np.int64],
    n_masks: int,
    n_columns: int,
) -> Components:
    """Return spots as components, numbered in raster order of their first pixels.

    Args:
        mask: (p,) int64: mask of each pixel that belongs to a spot.
        pixels: (p,) int64: flat index of the pixel in its mask.
        spot: (p,) int64: number of its spot in the mask, any numbers.
        n_masks: how many masks there are.
        n_columns: n_Y.
    """
    if not len(pixels):
        none = np.zeros(0, np.int64)
        return Components(
            none, np.zeros(1, np.int64), np.zeros((0, 4), np.int32), np.zeros(n_masks + 1, np.int64)
        )
    order = np.lexsort((pixels, spot, mask))
    mask, pixels, spot = mask[order], pixels[order], spot[order]
    new = np.flatnonzero((np.diff(spot, prepend=-1) != 0) | (np.diff(mask, prepend=-1) != 0))
    length = np.diff(new, append=len(pixels))
    # spots of a mask by their first pixels
    by_first = np.lexsort((pixels[new], mask[new]))
    begin = np.concatenate([[0], np.cumsum(length[by_first])])
    take = np.arange(len(pixels)) + np.repeat(new[by_first] - begin[:-1], length[by_first])
    pixels = pixels[take]
    x, y = np.divmod(pixels, n_columns)
    starts = begin[:-1]
    sides = (
        np.minimum.reduceat(x, starts),
        np.maximum.reduceat(x, starts) + 1,
        np.minimum.reduceat(y, starts),
        np.maximum.reduceat(y, starts) + 1,
    )
    return Components(
        pixels=pixels,
        begin=begin,
        box=np.stack(sides, axis=1).astype(np.int32),
        first=np.searchsorted(mask[new][by_first], np.arange(n_masks + 1)),
    )
