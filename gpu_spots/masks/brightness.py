"""Frames that are brighter than the run: their background has more noise than its usual one."""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from gpu_spots.model import FACTOR_BITS, ConstantPart

CLASSES = (
    *(1.0, 1.1875, 1.4375, 1.6875, 2.0, 2.375, 2.8125, 3.375, 4.0),
    *(4.75, 5.625, 6.75, 8.0, 9.5, 11.25, 13.5, 16.0),
)
"""Light of a group over that of the mean frame; the nearest of these is taken."""


def light_of_groups(
    levels: NDArray[np.int64],
    mask_of_frame: NDArray[np.int64],
    left_out: NDArray[np.bool_] | None,
    part: ConstantPart | None,
) -> list[float]:
    """Return the light of each group of frames over that of the mean frame, one of `CLASSES`.

    Args:
        levels: (n_frames,) int64, 2^-16: levels over that of the run.
        mask_of_frame: (n_frames,) int64: group of each frame.
        left_out: (n_frames,) bool: frames without beam; None: there are none.
        part: part of the background that does not follow the level; None: there is none.
    """
    beam = np.ones(len(levels), bool) if left_out is None else ~left_out
    sizes = np.bincount(mask_of_frame[beam], minlength=int(mask_of_frame.max()) + 1)
    totals = np.zeros(len(sizes), np.int64)
    np.add.at(totals, mask_of_frame[beam], levels[beam])
    slope = light_slope(part)
    mean = _light(int(levels[beam].sum()), int(np.count_nonzero(beam)), slope)
    return [
        _nearest(_light(total, size, slope), mean)
        for total, size in zip(totals.tolist(), sizes.tolist(), strict=True)
    ]


def light_slope(part: ConstantPart | None) -> float:
    """Return how much the light changes with the level: more than 1 with a bias."""
    return 1.0 if part is None else 1.0 + max(0.0, part.contrast)


def _light(total: int, size: int, slope: float) -> float:
    """Return the light over that at the level of the run, from the sum of levels."""
    level = total / (max(1, size) << FACTOR_BITS)
    return 1.0 + slope * (level - 1.0)


def _nearest(light: float, mean: float) -> float:
    """Return the class of a group; ties: the lower one."""
    if mean > 0:
        for lower, upper in pairwise(CLASSES):
            if light <= ((lower + upper) / 2) * mean:
                return lower
    return CLASSES[-1] if mean > 0 else CLASSES[0]
