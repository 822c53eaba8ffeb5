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

    It is that of light with a Gaussian spread, for which the correlation of pixels 2 apart is the
    fourth power of that of pixels beside each other, once noise that is not shared is taken out.
    Its third power is the fourth power of the first of the ``lags`` over the second.
    """
    one, two = lags[:2]
    if not (one > 0 and two > 0):
        return 1.0
    cube = min(max(one * one * one * one / two, LEAST_SHARED**3), 1.0)
    # Newton's steps, as roots of a mathematical library depend on the machine
    root = 1.0
    for _ in range(CUBE_ROOT_STEPS):
        root -= (root * root * root - cube) / (3 * root * root)
    return root
