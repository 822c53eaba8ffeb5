"""Noise of sums of pixels whose noise is correlated."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

LEAST_SHARED = 0.25
"""Smallest part of the variance of a pixel that its neighbours are taken to share."""
CUBE_ROOT_STEPS = 20
"""Steps to a third root from 1/64 to 1, which are more than enough."""


def correlation_factor(n_pixels: NDArray[np.int64], lags: Sequence[float]) -> NDArray[np.float64]:
    """Return the variance of the sum of a square of pixels over the sum of their variances.

    Args:
        n_pixels: int64, pixels of each square, at least 1; its side need not be a whole number.
        lags: correlations of the noise of pixels 1, 2, ... apart, along rows and columns.

    Returns:
        float64, of the same shape.
    """
    side = np.sqrt(n_pixels.astype(np.float64))
    pairs = np.zeros(side.shape)
    for distance, lag in enumerate(lags, 1):
        pairs += (2 * np.maximum(side - distance, 0.0)) * lag
    along = pairs / side
    return np.asarray(1 + 2 * along + along * along / shared_part(lags), np.float64)


def shared_part(lags: Sequence[float]) -> float:
    """Return the part of the variance of a pixel that its neighbours share.

    Noise that is not shared makes the correlation ``o`` of pixels beside each other and ``t`` of
    pixels 2 apart smaller. Light with a wide Gaussian spread has ``t = o^4``, and light that
    spreads to the next pixels only has ``t = o^2 / 4``. The larger part of both is right.

    ``lags``: as for `correlation_factor`. The last one is taken for structure, which is no light.
    """
    one, two = lags[0] - lags[-1], lags[1] - lags[-1]
    if not (one > 0 and two > 0):
        return 1.0
    cube = min(max(one * one * one * one / two, LEAST_SHARED**3), 1.0)
    # Newton's steps, as roots of a mathematical library depend on the machine
    root = 1.0
    for _ in range(CUBE_ROOT_STEPS):
        root -= (root * root * root - cube) / (3 * root * root)
    return max(root, min(one * one / (4 * two), 1.0))
