"""Spots that stand out on one frame of their mask."""

import numpy as np
from numpy.typing import NDArray

TIMES = 2.0
"""Intensity of such a spot, in that of the same spot on any other frame."""
SIGMAS = 8.0
"""And above that, in sigmas of the spot on the other frame."""
FEWEST = 3
"""Smallest number of frames that are compared: two may differ by the laser."""


def stand_out(
    mask: NDArray[np.int32],
    label: NDArray[np.int32],
    intensity: NDArray[np.float64],
    sigma: NDArray[np.float64],
) -> NDArray[np.bool_]:
    """Return rows of the table of spots whose spot is far stronger than on the other frames.

    A zinger of several pixels is the usual cause. Of equal ones none stands out.

    Args:
        mask: (n,) int32: mask of each row.
        label: (n,) int32: label of its spot in the mask.
        intensity: (n,) float64, counts: at a common level of the frames.
        sigma: (n,) float64, counts: its error; NaN: not known, and nothing stands out.
    """
    order = np.lexsort((intensity, label, mask))
    of_spot = np.stack([mask[order], label[order]])
    last = np.flatnonzero(np.append((of_spot[:, 1:] != of_spot[:, :-1]).any(axis=0), True))
    last = last[np.diff(last, prepend=-1) >= FEWEST]
    highest, next_to_it = order[last], order[last - 1]
    with np.errstate(invalid="ignore"):
        most = TIMES * np.maximum(intensity[next_to_it], 0.0) + SIGMAS * sigma[next_to_it]
        found = np.zeros(len(mask), bool)
        found[highest] = intensity[highest] > most
    return found
