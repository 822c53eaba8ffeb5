"""Noise model of a run: variance against background, from the run's own frames.

    variance = offset + gain * background

``gain`` is in counts a counted unit (photon), ``offset`` in counts^2 (read noise).
"""

import math

import numpy as np
from numpy.typing import NDArray

from gpu_spots.background.clip import lower_part
from gpu_spots.model import Background, FixedPointMean
from gpu_spots.noise_model import NoiseModel

N_BINS = 40
"""Bins of background that pixels are divided into, equally many in each."""
TRIMMED = 20
"""One in so many variances is left out at either end of a bin."""
TRIMMED_SQUARE = 0.6230
"""Variance of a unit Gaussian without these ends."""
SAMPLE = 1 << 15
"""Pixels that the model is fitted to, where there are as many."""
ENOUGH_SPREAD = 4.0
"""The backgrounds must differ by that many times the error of one, or no offset is fitted."""
SURE = 3.0
"""And the gain must be that many times its error."""
LEAST_SLOPE = 0.5
"""Without a line, the variances of pixels with few counted units must rise with their means by this
part of the gain at least.
"""
LEAST_WEIGHT = 1e-2
"""Smallest variance of a bin that is told from 0, of the largest."""

Floats = NDArray[np.float64]


def fit(
    mean: Floats,
    variance: Floats,
    kept: NDArray[np.int32],
    *,
    counts: bool,
) -> NoiseModel:
    """Fit the noise model to the pixels of a run.

    Args:
        mean: (n,) float64, counts: background of some pixels, about `SAMPLE`.
        variance: (n,) float64, counts^2: variance of their values.
        kept: (n,) int32: values they are known from; pixels with fewer than 2 are left out, and
            pixels without variance, as dead ones.
        counts: frames hold integers, of which one is the smallest unit.

    Returns:
        The model, with noise that is not correlated. Where no pixel is left the gain is 1 for
        counts below 1, else 0.
    """
    known = mean[(kept >= 2) & np.isfinite(mean)]
    good = (kept >= 2) & np.isfinite(mean) & np.isfinite(variance) & (variance > 0)
    b, v, n = mean[good], variance[good], kept[good]
    order = np.argsort(b, kind="stable")
    bins = [part for part in np.array_split(order, N_BINS) if len(part)]
    x = np.array([_median(b[part]) for part in bins])
    y = np.array([_trimmed_mean(v[part]) for part in bins])
    n_pixels = np.array([len(part) for part in bins], np.int64)
    if not len(bins):
        # frames with next to no photons: each is a count
        is_dark = counts and len(known) > 0 and _median(known) < 1
        line = (1.0 if is_dark else 0.0, 0.0, math.nan, math.nan)
    else:
        n_values = _median(n.astype(np.float64))
        unbiased = y / _trimmed_share(n_values - 1)
        if found := _line(x, unbiased, n_values):
            line, y = found, unbiased
        else:
            means = np.array([_trimmed_mean(b[part]) for part in bins])
            # the outermost bins hold what few pixels are dead or hot
            ends = len(y) // TRIMMED
            inner = slice(ends, len(y) - ends)
            line = (*_through_zero(means[inner], y[inner]), math.nan, math.nan)
    gain, offset, gain_error, offset_error = line
    return NoiseModel(
        gain, offset, gain_error, offset_error, 1.0, math.nan, 0.0, 0.0, 0.0, 0.0, x, y, n_pixels
    )


def _trimmed_share(freedom: float) -> float:
    """Return the trimmed mean of variances of Gaussian noise, of their mean.

    Variances are skewed, so that their trimmed mean is too small. The third root of a variance is
    close to Gaussian (Wilson and Hilferty).

    Args:
        freedom: degrees of freedom of a variance.
    """
    square = 2 / (9 * freedom)
    mean = 1 - square
    return mean * mean * mean + 3 * mean * square * TRIMMED_SQUARE


def _line(x: Floats, y: Floats, n_values: float) -> tuple[float, float, float, float] | None:
    """Return gain, offset and their errors; None: backgrounds are too much alike for a line."""
    low, high = x[len(x) // 10], x[len(x) - 1 - len(x) // 10]
    if len(x) < 3 or not high - low > ENOUGH_SPREAD * math.sqrt(_median(y) / n_values):
        return None
    least = LEAST_WEIGHT * float(y.max())
    w = [1 / max(each, least) ** 2 for each in y.tolist()]
    total = math.fsum(w)
    x0 = math.fsum(a * b for a, b in zip(w, x.tolist(), strict=True)) / total
    y0 = math.fsum(a * b for a, b in zip(w, y.tolist(), strict=True)) / total
    dx, dy = [each - x0 for each in x.tolist()], [each - y0 for each in y.tolist()]
    sxx = math.fsum(a * b * b for a, b in zip(w, dx, strict=True))
    sxy = math.fsum(a * b * c for a, b, c in zip(w, dx, dy, strict=True))
    gain = sxy / sxx
    rest = [b - gain * a for a, b in zip(dx, dy, strict=True)]
    scatter = math.fsum(a * b * b for a, b in zip(w, rest, strict=True)) / (len(w) - 2)
    gain_error = math.sqrt(scatter / sxx)
    if not gain > SURE * gain_error:
        return None
    offset_error = math.sqrt(scatter * (1 / total + x0 * x0 / sxx))
    return gain, y0 - gain * x0, gain_error, offset_error


def _through_zero(means: Floats, y: Floats) -> tuple[float, float]:
    """Return gain and offset where backgrounds are too much alike to tell one from the other.

    All noise is taken to be that of counted units. If there were less than one of them in a value,
    the means of the samples would be the higher the larger their variances are, by the gain. Where
    they are not, as in frames without background, the noise is read noise.
    """
    level, variance = _mean(means), _mean(y)
    if not level > 0:
        return 0.0, variance
    gain = variance / level
    if gain > level:
        dx = [each - level for each in means.tolist()]
        sxx = math.fsum(each * each for each in dx)
        sxy = math.fsum(a * b for a, b in zip(dx, y.tolist(), strict=True))
        if sxy < LEAST_SLOPE * gain * sxx:
            return 0.0, variance
    return gain, 0.0


def _mean(values: Floats) -> float:
    return math.fsum(values.tolist()) / len(values)


def _median(values: Floats) -> float:
    ascending = np.sort(values)
    return float(ascending[len(ascending) // 2])


def _trimmed_mean(values: Floats) -> float:
    ends = len(values) // TRIMMED
    return _mean(np.sort(values)[ends : len(values) - ends])


def mean_counts(mean: FixedPointMean | Floats, rows: slice = slice(None)) -> Floats:
    """Return the background to subtract of some rows, (rows, n_Y) float64 counts."""
    if not isinstance(mean, FixedPointMean):
        return mean[rows]
    low = mean.low[rows].astype(np.float64)
    if mean.high is not None:
        low += mean.high[rows] * 2.0**32
    return low / max(1, mean.scale)  # 0 where all pixels are masked


def unbiased_mean(background: Background, share: float, rows: slice = slice(None)) -> Floats:
    """Return the mean of all values of the pixels of some rows, as if noise were Gaussian.

    Args:
        background: with its noise.
        share: part of the values of a pixel, the lowest ones, that its background is the mean of.
        rows: rows of the frame.

    Returns:
        (rows, n_Y) float64, counts.
    """
    assert background.noise is not None
    shift, _ = lower_part(share)
    with np.errstate(over="ignore", invalid="ignore"):
        mean = mean_counts(background.mean, rows)
        return mean + shift * background.noise[rows].astype(np.float64)
