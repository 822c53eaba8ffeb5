"""Correlation factor of the noise, from frames less their background, without spots.

docs/decisions/noise-correlation.md specifies the arithmetic. Deviations are whole numbers, and
their sums are exact, so that the factor is the same on every platform.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_spots.noise_model import correlation_factor

UNITS = 256
"""Deviations are rounded to multiples of 1 / this of a standard deviation."""
LARGEST = 16 * UNITS
"""Larger deviations are limited to it."""
FIRST_LARGEST = 2 * UNITS
"""And to this one in the first mean, which includes the spots."""
WIDE = 32
"""Pixels on either side whose mean is subtracted: changes of the background's shape."""
NEAR = 3
"""Pixels on either side that are added up to find spots."""
PIXEL_WIDTH = 4.0
"""A pixel belongs to a spot if it deviates by that many standard deviations."""
SUM_WIDTH = 2.75
"""And so it does if its sum deviates by that many standard deviations of the sum."""
WIDEST = 3.0
"""The standard deviation of a sum is at most that many times the one of uncorrelated pixels."""
AROUND = 6
"""Pixels on either side of these that are left out too."""
LEAST_WIDTH = 0.05
"""Smallest standard deviation of a frame's pixels, of the noise of the run."""
STEPS = 3
"""Times that spots are looked for, each time without those found before in the mean."""
CLOSE = (1, 2, 3, 4)
"""Distances at which neighbours are compared, pixels."""
FAR = (8, 9, 10, 11)
"""Distances at which noise is taken to be uncorrelated, pixels."""
ENOUGH = 1000
"""Pixels that a factor is taken from, at least."""
LEAST_GAIN_SQUARED = 1e-3
"""Smallest variance of a pixel, squared counted units."""

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Deviations:
    """Some rows of a frame, less their background."""

    value: Floats
    """(rows, n_Y) float64: deviation from the background, whole numbers of 1 / `UNITS` standard
    deviations; 0 where not good.
    """
    good: Bools
    """(rows, n_Y) bool: valid pixels."""
    unit: Floats
    """(rows, n_Y) float64: a counted unit in standard deviations; 0 where not good."""


def deviations(
    rows: NDArray[Any], good: Bools, background: Floats, noise: Floats, gain: float
) -> Deviations:
    """Return the deviations of some rows of a frame.

    Args:
        rows: (rows, n_Y), counts.
        good: (rows, n_Y) bool: valid values.
        background: (rows, n_Y) float64, counts: at the level of the frame.
        noise: (rows, n_Y) float64, counts: standard deviation of a pixel; 0: masked.
        gain: counts per counted unit.
    """
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        sd = np.sqrt(np.maximum(noise * noise, LEAST_GAIN_SQUARED * (gain * gain)))
        relative = (rows - background) * UNITS / sd
        good = good & (noise > 0) & np.isfinite(relative)
        value = np.rint(np.clip(np.where(good, relative, 0.0), -LARGEST, LARGEST))
        return Deviations(value, good, np.where(good, gain / sd, 0.0))


@dataclass(frozen=True, slots=True)
class Correlation:
    """Correlation of the noise of neighbouring pixels."""

    factor: float
    """Variance of the sum of 3 x 3 pixels divided by the sum of their variances."""
    error: float
    """Standard error of the factor; NaN: unknown."""
    lags: tuple[float, ...]
    """Correlations of pixels as far apart as in `CLOSE`."""


def correlation(frames: Iterable[Deviations]) -> Correlation:
    """Return the correlation of the noise.

    It comes from neighbours along rows, and the same correlation is assumed along columns. None is
    assumed, and its error is unknown, where fewer than `ENOUGH` pixels are known, or none that are
    far apart.
    """
    lags = (*CLOSE, *FAR)
    changes, squares = dict.fromkeys(lags, 0.0), dict.fromkeys(lags, 0.0)
    n = 0
    for frame in frames:
        above, below, value = _spots(frame)
        left_out = above | ~frame.good
        n += above.size - int(np.count_nonzero(left_out))
        square = value * value
        for lag in lags:
            left, right = np.s_[:, :-lag], np.s_[:, lag:]
            # what is far below stands for as much noise that is left out above
            weight = (below[left] | below[right]) + 1.0
            weight[left_out[left] | left_out[right]] = 0.0
            change = value[right] - value[left]
            change *= change
            changes[lag] += float((weight * change).sum())
            squares[lag] += float((weight * (square[left] + square[right])).sum())
    if n < ENOUGH or not all(squares.values()) or not any(changes[lag] for lag in FAR):
        return Correlation(1.0, math.nan, (0.0,) * len(CLOSE))
    change_of = {lag: changes[lag] / squares[lag] for lag in lags}
    far = math.fsum(change_of[lag] for lag in FAR) / len(FAR)
    found = tuple(1 - change_of[lag] / far for lag in CLOSE)
    factor = float(correlation_factor(np.array(9), found))
    return Correlation(factor, 2 * math.sqrt(factor) * math.sqrt(29 / 9 / n), found)


def _spots(frame: Deviations) -> tuple[Bools, Bools, Floats]:
    """Return pixels near high deviations, those near low ones, and values less their mean."""
    good, value = frame.good, frame.value
    n_near = sums_along(good, NEAR)
    is_whole = good & (n_near == 2 * NEAR + 1)
    margin = frame.unit * ((SUM_WIDTH * SUM_WIDTH - 1) / 6)
    root = np.sqrt(n_near)
    left = _less_mean(value, np.clip(value, -FIRST_LARGEST, FIRST_LARGEST), good)
    width = 1.0
    for _ in range(STEPS):
        near = sums_along(np.where(good, left, 0.0), NEAR)
        # spots are above 0: the width of sums is that of those below
        lower = np.minimum(near[is_whole], 0.0)
        n_values = np.count_nonzero(lower) * (2 * NEAR + 1)
        of_sums = math.sqrt(_square(lower) / max(1.0, float(n_values)))
        of_sums = min(max(of_sums, width), WIDEST * width)
        most = (SUM_WIDTH * of_sums * root + margin) * UNITS
        of_pixel = (PIXEL_WIDTH * width + margin) * UNITS
        above, below = (
            sums_along(good & ((sign * near > most) | (sign * left > of_pixel)), AROUND) > 0
            for sign in (1, -1)
        )
        known = good & ~(above | below)
        left = _less_mean(value, value, known)
        # a background that drifts makes the noise of a run larger than that of a frame
        n_known = float(np.count_nonzero(known))
        width = min(max(math.sqrt(_square(left[known]) / max(1.0, n_known)), LEAST_WIDTH), 1.0)
    return above, below, left


def _less_mean(value: Floats, of_mean: Floats, known: Bools) -> Floats:
    """Return values less the mean, rounded, of the known ones around them."""
    count = np.maximum(sums_along(known, WIDE), 1.0)
    return value - np.rint(sums_along(np.where(known, of_mean, 0.0), WIDE) / count)


def _square(values: Floats) -> float:
    """Return the sum of squares, in standard deviations."""
    return float((values * values).sum()) / (UNITS * UNITS)


def sums_along(values: Floats | Bools, reach: int) -> Floats:
    """Return the sums along rows of the pixels up to ``reach`` apart, float64."""
    up_to = np.zeros((len(values), values.shape[1] + 2 * reach + 1))
    inside = up_to[:, reach + 1 : reach + 1 + values.shape[1]]
    np.cumsum(values, axis=1, out=inside)
    up_to[:, reach + 1 + values.shape[1] :] = inside[:, -1:]
    return up_to[:, 2 * reach + 1 :] - up_to[:, : -2 * reach - 1]
