"""Noise model of a run: variance of a pixel against its background, and noise of sums of pixels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SURE_OFFSET = 3.0
"""An offset below 0 by that many times its error is that of a bias."""
LEAST_BIAS = 10.0
"""With a bias of less than one in so many counts, noise is at most 5 % too large."""
LEAST_SHARED = 0.25
"""Smallest part of the variance of a pixel that its neighbours are taken to share."""
CUBE_ROOT_STEPS = 20
"""Steps to a third root from 1/64 to 1, which are more than enough."""


@dataclass(frozen=True, slots=True, eq=False)
class NoiseModel:
    """Variance of a pixel as a function of its background."""

    gain: float
    """Counts a counted unit; 0: it cannot be told."""
    offset: float
    """Variance without background, counts^2; it may come out negative."""
    gain_error: float
    """Standard error; NaN: unknown."""
    offset_error: float
    """Standard error; NaN: unknown."""
    correlation: float
    """Variance of the sum of 3 x 3 pixels divided by the sum of their variances; 1: not correlated.
    """
    correlation_error: float
    """Standard error; NaN: unknown."""
    correlation_lag_1: float
    """Correlation of the noise of pixels beside each other; NaN: unknown."""
    correlation_lag_2: float
    """Correlation of the noise of pixels 2 apart; NaN: unknown."""
    correlation_lag_3: float
    """Correlation of the noise of pixels 3 apart; NaN: unknown."""
    correlation_lag_4: float
    """Correlation of the noise of pixels 4 apart; NaN: unknown."""
    level: NDArray[np.float64]
    """(n_bins,) float64, counts: median background of the pixels in each bin."""
    variance: NDArray[np.float64]
    """(n_bins,) float64, counts^2: trimmed mean of their variances."""
    n_pixels: NDArray[np.int64]
    """(n_bins,) int64: pixels in each bin."""

    def words(self) -> str:
        """Return the model in one line."""

        def number(value: float, error: float) -> str:
            return f"{value:.4g}" + (f" +- {error:.2g}" if error == error else "")

        return (
            f"noise: variance = {number(self.offset, self.offset_error)} + "
            f"({number(self.gain, self.gain_error)}) x background, counts^2; "
            f"correlation factor {number(self.correlation, self.correlation_error)}"
            + (f"; {self.bias:.4g} counts of the background have no noise" if self.bias else "")
        )

    def factor(self, n_pixels: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the variance of sums of pixels divided by the sum of their variances, float64.

        ``n_pixels``: int64, number of pixels of each sum, at least 1.
        """
        return correlation_factor(n_pixels, self.correlation_lags)

    @property
    def correlation_lags(self) -> tuple[float, float, float, float]:
        """Correlations of the noise of pixels 1 to 4 apart; NaN: unknown."""
        return (
            self.correlation_lag_1,
            self.correlation_lag_2,
            self.correlation_lag_3,
            self.correlation_lag_4,
        )

    @property
    def read_variance(self) -> float:
        """Variance without background, counts^2, not below 0."""
        return max(self.offset, 0.0)

    @property
    def bias(self) -> float:
        """Counts of the background that have no noise, as a detector's bias; 0: none are seen.

        They are seen where the offset is below 0 by more than `SURE_OFFSET` times its error, and
        where they are more than one in `LEAST_BIAS` of the median background. The read noise is
        not told from them: with ``r`` counts, they are ``r^2 / gain`` too few.
        """
        if not self.offset < -SURE_OFFSET * self.offset_error:
            return 0.0
        found = -self.offset / self.gain
        return found if LEAST_BIAS * found > float(self.level[len(self.level) // 2]) else 0.0

    @property
    def least_variance(self) -> float:
        """Variance where all of the background is bias, counts^2: that of the quietest bin."""
        return float(self.variance.min()) if self.bias else self.read_variance

    def counted(self, mean: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the part of backgrounds that has noise, counts, not below 0."""
        return np.maximum(mean - self.bias, 0.0)

    def expected_variance(self, counted: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the variance of pixels, counts^2, by the part of their background with noise."""
        return np.maximum(self.gain * counted + self.read_variance, self.least_variance)


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
