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
        mask: (p,) int64, ascending: mask of each pixel that belongs to a spot.
        pixels: (p,) int64: flat index of the pixel in its mask, ascending inside a mask.
        spot: (p,) int64: number of its spot in the mask, any numbers.
        n_masks: how many masks there are.
        n_columns: n_Y.
    """
    if not len(pixels):
        none = np.zeros(0, np.int64)
        return Components(
            none, np.zeros(1, np.int64), np.zeros((0, 4), np.int32), np.zeros(n_masks + 1, np.int64)
        )
    # runs of pixels of a spot in a row are sorted, of which there are few
    goes_on = (np.diff(pixels) == 1) & (np.diff(spot) == 0) & (np.diff(mask) == 0)
    goes_on &= pixels[1:] % n_columns != 0
    run = np.flatnonzero(np.concatenate([[True], ~goes_on]))
    length = np.diff(run, append=len(pixels))
    mask, pixel, spot = mask[run], pixels[run], spot[run]
    order = np.lexsort((spot, mask))
    is_new = np.diff(spot[order], prepend=-1) != 0
    is_new |= np.diff(mask[order], prepend=-1) != 0
    new = np.flatnonzero(is_new)
    # spots of a mask by their first pixels
    by_first = np.lexsort((pixel[order[new]], mask[order[new]]))
    n_runs = np.diff(new, append=len(order))[by_first]
    order = order[stretches(new[by_first], n_runs)]
    starts = np.cumsum(n_runs) - n_runs
    mask, length = mask[order], length[order]
    x, y = np.divmod(pixel[order], n_columns)
    begin = np.append(np.cumsum(length) - length, len(pixels))
    sides = (
        x[starts],
        np.maximum.reduceat(x, starts) + 1,
        np.minimum.reduceat(y, starts),
        np.maximum.reduceat(y + length, starts),
    )
    return Components(
        pixels=pixels[stretches(run[order], length)],
        begin=begin[np.append(starts, len(order))],
        box=np.stack(sides, axis=1).astype(np.int32),
        first=np.searchsorted(mask[starts], np.arange(n_masks + 1)),
    )


def stretches(begin: NDArray[np.int64], length: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the numbers of stretches, one after the other, (sum of lengths,) int64."""
    end = np.cumsum(length)
    return np.arange(end[-1]) + np.repeat(begin - (end - length), length)
