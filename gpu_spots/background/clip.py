"""Constants, tables and whole-frame maps of the background method ``-m clip``.

docs/decisions/clip-background.md specifies the arithmetic. All floating-point operations are
float64, correctly rounded, in the order written there.
"""

from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_spots.model import Array, ConstantPart
from gpu_spots.noise_model import NoiseModel

STEPS = 5
"""Times that a pixel's sample is chosen anew, runs without blocks."""
BLOCK_STEPS = 3
"""Times that the blocks of a pixel are chosen anew."""
LEAST_LEVEL = 1 / 16
"""Smallest level of blocks that their background is divided by."""
LEVELLINGS = 4
"""Times that values are levelled by surfaces, each time with a better background."""
WIDTH = 3.0
"""A value is left out if it is that many standard deviations above the background."""
MARGIN = 1.5
"""And that many counts, integer frames."""
BLOCK_MARGIN = 2.5
"""Like `MARGIN`, for the sum of a block: half of few photons tells less of the background."""
MOST_OF_POISSON = 4.0
"""The variance of integer frames is at least the background, up to that many counts: the own
variance of a pixel with few photons means little.
"""
CLIPPED_SD = 0.9933
"""Standard deviation of a unit Gaussian without its values above `WIDTH`."""
CLIPPED_MEAN = 0.0044
"""Mean of a unit Gaussian less its mean without its values above `WIDTH`."""
SPARSE = 0.4
"""Counts^2: with a variance far below this nothing is cut off a pixel, as `MARGIN` is larger."""
PRIOR = 64.0
"""Weight of the neighbourhood, counted units: it is known to 1/8 of itself."""
NEAR = 11
"""Side of the window that the mean of the neighbourhood is taken from, pixels."""
CELL, CELLS = 8, 9
"""Side of a cell, pixels, and of the window of cells whose mean that mean is drawn towards."""
ROUNDS = 2
"""Times that hot and cold pixels are looked for; each time those found before are left out of the
windows.
"""
FLAG_WIDTH, FLAG_MARGIN = 4.5, 4.4
"""A pixel is hot or cold if its sum is that many standard deviations, and that many counted units,
from its neighbourhood's.
"""
SHRINK = 20.0
"""Degrees of freedom of the noise model in the variance of a pixel."""
LEAST_GAIN_SQUARED = 1e-3
"""Smallest variance of a pixel, squared counted units."""
MIN_FRAMES = 8
"""Fewer frames cannot tell a spot from the background."""
DIGITS = 2.0**20
"""Constants from logarithms and exponentials are rounded to multiples of 1 / this: equal on every
platform.
"""
FIXED_BITS = 48
"""Sums of float frames are rounded to that many bits below the largest before they are added over
windows.
"""
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class StartTable:
    """Start of the clip, by the number of valid values of a pixel."""

    kept: NDArray[np.int32]
    """(n_frames + 1,) int32: the smallest values that are taken first."""
    shift: Floats
    """(n_frames + 1,) float64: the mean of a unit Gaussian is above that of its smallest values by
    this.
    """
    width: Floats
    """(n_frames + 1,) float64: standard deviation of the smallest values of a unit Gaussian."""


def start_table(n_frames: int, percent: int) -> StartTable:
    """Return the table for a run whose largest ``percent`` % of values are left out at first."""
    n = np.arange(n_frames + 1)
    kept = n - n * percent // 100
    shift, width = np.zeros(n_frames + 1), np.ones(n_frames + 1)
    for count in range(1, n_frames + 1):
        if kept[count] < count:
            shift[count], width[count] = lower_part(int(kept[count]) / count)
    return StartTable(kept.astype(np.int32), shift, width)


def block_shifts(n_blocks: int) -> Floats:
    """Return by how much a unit Gaussian's mean is above that of the lower half of b values.

    (n_blocks + 1,) float64, index b.
    """
    shifts = np.zeros(n_blocks + 1)
    for b in range(1, n_blocks + 1):
        if lower_half(b) < b:
            shifts[b] = lower_part(lower_half(b) / b)[0]
    return shifts


def lower_half(n_blocks: int) -> int:
    """Return how many of ``n_blocks`` blocks are taken first."""
    return min(n_blocks, max(2, (n_blocks + 1) // 2))


def at_run_level(mean: Floats, above: Floats, part: ConstantPart | None) -> Floats:
    """Return the background at the level of the run of blocks whose levels differ from it.

    It is the ``b`` with ``b + above F(b) = mean``.

    Args:
        mean: (p,) float64, counts: mean of the blocks.
        above: (p,) float64: mean of their levels over that of the run, less 1.
        part: part of the background that does not follow the levels; None: there is none.
    """

    def less(counts: Floats, slope: float) -> Floats:
        divisor = 1.0 + above * slope
        return np.divide(counts, divisor, out=mean.copy(), where=divisor > LEAST_LEVEL)

    if part is None:
        found = less(mean, 1.0)
    else:
        found = less(mean + above * (part.contrast * part.centre), 1.0 + part.contrast)
        line = found + part.contrast * (found - part.centre)
        found = np.where(line > part.most * found, less(mean, part.most), found)
        found = np.where(line < 0, mean, found)
    return np.where(mean > 0, found, mean)


def lower_part(share: float) -> tuple[float, float]:
    """Return mean, below 0, and sd of the lowest ``share`` of a unit Gaussian."""
    if not 0 < share < 1:
        return 0.0, 1.0
    unit = NormalDist()
    z = unit.inv_cdf(share)
    below = unit.pdf(z) / share
    sd = (1 - z * below - below * below) ** 0.5
    return round(below * DIGITS) / DIGITS, round(sd * DIGITS) / DIGITS


def limit(
    mean: Floats,
    variance: Floats,
    quantum: float,
    number: Floats | float = 1.0,
    margin: float = MARGIN,
) -> Floats:
    """Return the largest mean of ``number`` values that stays in the sample, counts.

    Args:
        mean: background, counts.
        variance: of a value, counts^2.
        quantum: 1 for integer frames, 0 for float frames.
        number: values in a block of frames; 1 for single values.
        margin: `MARGIN`, or `BLOCK_MARGIN` for blocks.
    """
    least = np.minimum(np.maximum(mean, 0.0), MOST_OF_POISSON) * quantum
    return (mean + WIDTH * np.sqrt(np.maximum(variance, least) / number)) + (
        margin * quantum / number
    )


def unclipped(mean: Floats, variance: Floats, quantum: float) -> tuple[Floats, Floats]:
    """Return mean and variance of the values before the clip, from those of the values it kept."""
    sd = np.sqrt(variance) / CLIPPED_SD
    whole = sd * sd
    below = whole + SPARSE * quantum
    part = whole / below if quantum else _divided(whole, below)
    return mean + (CLIPPED_MEAN * sd) * part, whole


def sample_variance(sd: Floats, kept: NDArray[np.int32]) -> Floats:
    """Return the variance of a value, counts^2, from the population sd of ``kept`` of them."""
    count = np.maximum(kept, 1).astype(np.float64)
    return (sd * sd) * (count / np.maximum(count - 1.0, 1.0))


@dataclass(frozen=True, slots=True)
class Samples:
    """Background samples of some pixels, after the clip."""

    kept: NDArray[np.int32]
    """int32: values in each sample; 0: the pixel is masked."""
    total: Array
    """Their sums, counts: uint32 or int64; float frames: their mean, float64."""
    std: NDArray[np.float32]
    """float32, counts: their population standard deviations."""
    by_blocks: bool
    """Whole blocks were left out, not the largest values."""

    def __getitem__(self, rows: Any) -> "Samples":
        """Return some of them, as a view."""
        return replace(self, kept=self.kept[rows], total=self.total[rows], std=self.std[rows])

    def flat(self) -> "Samples":
        """Return them as arrays of one dimension."""
        return replace(
            self,
            kept=self.kept.reshape(-1),
            total=self.total.reshape(-1),
            std=self.std.reshape(-1),
        )

    def statistics(self) -> tuple[Floats, Floats, Floats]:
        """Return mean of the sample, and mean and variance corrected for the clip, float64."""
        count = np.maximum(self.kept, 1).astype(np.float64)
        own = self.total if self.total.dtype.kind == "f" else self.total / count
        variance = sample_variance(self.std.astype(np.float64), self.kept)
        if self.by_blocks:
            return own, own, variance
        return own, *unclipped(own, variance, 0.0 if self.total.dtype.kind == "f" else 1.0)


def scale_of(samples: Samples) -> float:
    """Return the power of two that is the unit of sums of samples in windows; 1 for integers."""
    if samples.total.dtype.kind != "f":
        return 1.0
    largest = 0.0
    for total, kept in zip(samples.total, samples.kept, strict=True):  # row by row
        with np.errstate(over="ignore", invalid="ignore"):
            known = np.abs(total * kept)
        largest = max(largest, float(known[np.isfinite(known)].max(initial=0.0)))
    return float(np.ldexp(1.0, int(np.frexp(largest)[1]) - FIXED_BITS))


def cell_sums(
    samples: Samples, scale: float, flagged: Bools, begin: int, end: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return sums over cells of `CELL` x `CELL` pixels of the rows ``begin`` to ``end``.

    ``begin`` is a multiple of `CELL`. (cells of the rows, cells of a row) int64: sum of the samples
    in units of ``scale``, and number of their values; pixels that are ``flagged`` are left out.
    """
    part = slice(begin, end)
    total, count = _usable_sums(samples[part], scale, flagged[part])
    rows, columns = (np.arange(0, n, CELL) for n in total.shape)
    sums = (
        np.add.reduceat(np.add.reduceat(each, rows), columns, axis=1) for each in (total, count)
    )
    return next(sums), next(sums)


def wide_means(
    totals: NDArray[np.int64], counts: NDArray[np.int64], scale: float, noise: NoiseModel
) -> Floats:
    """Return the mean over `CELLS` x `CELLS` cells around each cell, counts, from `cell_sums`."""
    total, count = (window_sums(np.pad(each, CELLS // 2), CELLS) for each in (totals, counts))
    return (total.astype(np.float64) * scale + noise.gain) / np.maximum(count, 1).astype(np.float64)


def background_of_rows(
    samples: Samples,
    noise: NoiseModel,
    scale: float,
    wide: Floats,
    flagged: Bools,
    begin: int,
    end: int,
) -> tuple[Floats, Bools]:
    """Return the background of some rows: own means, drawn towards those of the neighbourhoods.

    Args:
        samples: (n_X, n_Y) each: samples of all pixels.
        noise: noise model of the run.
        scale: `scale_of` the samples.
        wide: `wide_means` of all cells.
        flagged: (n_X, n_Y) bool: pixels that are left out of the neighbourhoods.
        begin: first row, a multiple of `CELL`.
        end: last row, exclusive.

    Returns:
        (end - begin, n_Y) float64, counts: the background, 0 where a pixel is masked; and bool: hot
        and cold pixels, whose background is their own mean.
    """
    m = _near_means(samples, noise, scale, wide, flagged, begin, end)
    samples = samples[begin:end]
    valid = (samples.kept > 0) & np.isfinite(samples.total)
    own, mean, _ = samples.statistics()
    count = samples.kept.astype(np.float64)
    total = _fixed(samples, valid, scale).astype(np.float64) * scale
    level, spread = _of_neighbourhoods(m, noise)
    allowed = FLAG_WIDTH * np.sqrt(count * level + (spread * (count * count)) / PRIOR)
    flags = valid & (np.abs(total - count * m) > allowed + FLAG_MARGIN * noise.gain)
    weight = _divided(PRIOR * level, spread)
    drawn = _divided(total + weight * m, count + weight)
    found = np.where(flags | ~valid, mean, drawn + (mean - own))
    return np.where(samples.kept > 0, found, 0.0), flags


def _near_means(
    samples: Samples,
    noise: NoiseModel,
    scale: float,
    wide: Floats,
    flagged: Bools,
    begin: int,
    end: int,
) -> Floats:
    """Return the mean of the neighbourhood of the pixels of some rows, counts."""
    n_rows, n_columns = samples.kept.shape
    first, last = max(0, begin - NEAR // 2), min(n_rows, end + NEAR // 2)
    edges = (NEAR // 2 - (begin - first), NEAR // 2 - (last - end)), (NEAR // 2, NEAR // 2)
    total, count = (
        window_sums(np.pad(each, edges), NEAR).astype(np.float64)
        for each in _usable_sums(samples[first:last], scale, flagged[first:last])
    )
    of_cells = wide[begin // CELL : -(-end // CELL)]
    level, spread = _of_neighbourhoods(of_cells, noise)
    weights = _divided(PRIOR * level, spread)

    def of_pixels(cells: Floats) -> Floats:
        rows = np.repeat(cells, CELL, axis=0)[: end - begin]
        return np.repeat(rows, CELL, axis=1)[:, :n_columns]

    weight, mean = of_pixels(weights), of_pixels(of_cells)
    divisor = count + weight
    total = total * scale + of_pixels(weights * of_cells)
    return np.divide(total, divisor, out=mean, where=divisor > 0)


def _of_neighbourhoods(mean: Floats, noise: NoiseModel) -> tuple[Floats, Floats]:
    """Return the variance of a value and `PRIOR` times that of the backgrounds, counts^2."""
    of_light = mean - noise.bias
    return noise.expected_variance(noise.counted(mean)), of_light * of_light + noise.least_variance


def variance_of(
    mean: Floats, variance: Floats, kept: NDArray[np.int32], noise: NoiseModel
) -> Floats:
    """Return the variance of each pixel, counts^2: its own, drawn towards the noise model's.

    Args:
        mean: (n_X, n_Y) float64, counts: background.
        variance: (n_X, n_Y) float64, counts^2: own variance.
        kept: (n_X, n_Y) int32: values it is known from; 0: the pixel is masked.
        noise: noise model of the run.
    """
    g = noise.gain
    counted = noise.counted(mean)
    model = noise.expected_variance(counted)
    freedom = np.maximum(kept - 1, 0).astype(np.float64)
    twice = 2.0 * (model * model)
    nu = freedom * _divided(twice, twice + (g * g * g) * counted)
    shrunk = (nu * variance + SHRINK * model) / (nu + SHRINK)
    found = np.maximum(np.maximum(model, shrunk), LEAST_GAIN_SQUARED * (g * g))
    return np.where(kept > 0, found, 0.0)


def least_noise(noise: NDArray[np.float32], model: NoiseModel) -> Floats:
    """Return the standard deviation, counts, in thresholds: at least half of a counted unit."""
    own, g = noise.astype(np.float64), model.gain
    return np.sqrt(np.maximum(own * own, (g * g) / 4.0))


def window_sums(values: NDArray[np.int64], side: int) -> NDArray[np.int64]:
    """Return the sum over each square of ``side`` (8 to 15) pixels, int64.

    The shape is (n_X - side + 1, n_Y - side + 1).
    """
    n = len(values) - side + 1
    two = values[:-1] + values[1:]
    four = two[:-2] + two[2:]
    sums = (four[:-4] + four[4:])[:n]
    at = 8
    for size, some in ((4, four), (2, two), (1, values)):
        if (side - 8) & size:
            sums = sums + some[at : at + n]
            at += size
    n = sums.shape[1] - side + 1
    two = sums[:, :-1] + sums[:, 1:]
    four = two[:, :-2] + two[:, 2:]
    across = (four[:, :-4] + four[:, 4:])[:, :n]
    at = 8
    for size, some in ((4, four), (2, two), (1, sums)):
        if (side - 8) & size:
            across = across + some[:, at : at + n]
            at += size
    return across


def _divided(a: Floats, b: Floats) -> Floats:
    """Return a / b, 0 where b is not above 0."""
    return np.divide(a, b, out=np.zeros_like(b), where=b > 0)


def _usable_sums(
    samples: Samples, scale: float, flagged: Bools
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return sum and number of values of each sample, int64; 0 where a pixel is left out."""
    usable = (samples.kept > 0) & ~flagged
    if samples.total.dtype.kind == "f":
        usable &= np.isfinite(samples.total)
    return _fixed(samples, usable, scale), np.where(usable, samples.kept, 0).astype(np.int64)


def _fixed(samples: Samples, valid: Bools, scale: float) -> NDArray[np.int64]:
    """Return the sums of samples in units of ``scale``; 0 where not valid."""
    if samples.total.dtype.kind != "f":
        return np.where(valid, samples.total, 0).astype(np.int64)
    with np.errstate(over="ignore", invalid="ignore"):
        known = np.where(valid, samples.total * samples.kept, 0.0)
    known[~np.isfinite(known)] = 0.0
    return np.rint(known / scale).astype(np.int64)
