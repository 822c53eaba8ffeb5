"""Fit of the surfaces of ``--normalise surface`` to the clipped counts of a run's own frames.

The sampled rows of each frame are added up to cells of a few columns. What a cell has on a frame is
its mean over the frames times the level of the frame times the surface. Surfaces are fitted by
weighted least squares, without the cells that spots stand out of, and with a weak prior that they
are smooth. All operations are correctly rounded, in a fixed order.
"""

import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_spots.background.clip import MARGIN, MOST_OF_POISSON, WIDTH, StartTable
from gpu_spots.background.clipped_levels import ClippedLevelSampler, background_of_sample
from gpu_spots.background.levels import LARGEST, SIGNIFICANT, run_level
from gpu_spots.model import FACTOR_BITS, Array, ConstantPart, Surface, Validity

SAMPLE_PIXELS = 1 << 18
"""Pixels of a frame that its surface is taken from, where there are as many."""
MOST_CELLS = 1 << 22
"""Cells of all frames together."""
CELL = 8
"""Columns of a cell, where that many cells are allowed."""
ROUNDS = 3
"""Times that the means of the cells are taken anew, each time with the surfaces before."""
STEPS = 2
"""Steps of the fit in each round."""
LEAST_BITS, MOST_BITS = 6, 10
"""Binary logarithms of the smallest and the largest distance of knots, pixels."""
INTERVALS = 8
"""Intervals along the longer side of a frame, where the limits of the distance allow it."""
LARGEST_KNOT = 1 << (FACTOR_BITS + 4)
"""Largest level of a knot; the smallest is its inverse. Products with distances fit 32 bits."""
ONE = 1 << FACTOR_BITS
"""Level of the run."""
OUTLIER = 8.0
"""A cell tells nothing if a pixel of it has so many times the background of a typical one: what hot
pixels count does not follow the beam.
"""
SLOPE, CURVATURE = 0.1, 0.02
"""Expected change of the level from one knot to the next, and of that change: the prior."""
PRIOR = 1.0
"""Expected distance of a knot from the level of the frame."""
AT_ONCE = 1 << 18
"""Values that are sorted at a time."""
SORTING = 64
"""Bytes of each of them for copies and sums."""
MATRICES = 1 << 20
"""Numbers of matrices that are solved at a time."""

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def sample_bytes(shape: tuple[int, int, int]) -> int:
    """Return the bytes that the surfaces of a stack need, at most."""
    n_cells = min(MOST_CELLS, shape[0] * shape[1] * shape[2] // CELL) + shape[0] * shape[2]
    return 10 * n_cells + SORTING * AT_ONCE + 16 * MATRICES + 64 * SAMPLE_PIXELS


class SurfaceSampler(ClippedLevelSampler):
    """Samples of frames, from which `finish` makes levels and surfaces."""

    sample_pixels = SAMPLE_PIXELS
    rounds = 0  # a change of the shape looks like a part that does not follow the beam

    def __init__(
        self,
        shape: tuple[int, int, int],
        dtype: np.dtype[Any],
        validity: Validity,
        start: StartTable,
    ) -> None:
        """Prepare levels and surfaces for a stack of that shape.

        ``start``: `gpu_spots.background.clip.start_table` of its frames.
        """
        super().__init__(shape, dtype, validity, start)
        n_frames, n_rows, n_columns = shape
        self._shape = n_rows, n_columns
        rows = np.arange(n_rows)[self.rows]
        width = CELL
        while n_frames * len(rows) * -(-n_columns // width) > MOST_CELLS and width < n_columns:
            width *= 2
        self._starts = np.arange(0, n_columns, width)
        pixels = self._validity.pixels
        good = np.ones((len(rows), n_columns)) if pixels is None else pixels.astype(np.float64)
        self._counts = np.add.reduceat(good, self._starts, axis=1)
        self._y = np.add.reduceat(good * np.arange(n_columns), self._starts, axis=1)
        self._y /= np.maximum(self._counts, 1.0)
        self._x = np.broadcast_to(rows[:, None].astype(np.float64), self._y.shape)
        self._pixels = good > 0
        self._lit, self._lock = np.zeros(good.shape, bool), threading.Lock()
        self._cells: Floats = np.empty((n_frames, self._y.size))
        self._good = np.empty(self._cells.shape, bool)

    def see(self, frame: int, rows: Array) -> None:
        """Look at the sampled rows of a frame: (rows, n_Y), counts."""
        super().see(frame, rows)
        pixels, valid = self._validity.pixels, self._validity.allows(rows)
        counts = rows.astype(np.float64)
        if pixels is not None:
            counts[~pixels] = 0.0
        good = self._counts > 0
        if valid is not None:
            bad = ~valid if pixels is None else ~valid & pixels
            counts[~valid] = 0.0
            good &= ~np.logical_or.reduceat(bad, self._starts, axis=1)
        lit = rows != 0
        with self._lock:
            self._lit |= lit
        self._cells[frame] = np.add.reduceat(counts, self._starts, axis=1).reshape(-1)
        self._good[frame] = good.reshape(-1)

    def finish(self) -> None:
        """Make levels and surfaces final."""
        super().finish()
        cells, good = self._cells, self._good
        self._cells, self._good = np.empty((0, 0)), np.empty((0, 0), bool)
        run = run_level(self.levels)
        if not run > 0:
            return
        with np.errstate(all="ignore"):
            ratios = self.levels / run
            some = np.flatnonzero((ratios >= 1 / LARGEST) & (ratios <= LARGEST))
            n_rows, n_columns = self._shape
            bits = distance_bits(n_rows, n_columns)
            size = knots_for(n_rows, n_columns, bits)
            fit = _Fit(
                values=cells[some],
                good=good[some],
                ratios=ratios[some],
                counts=self._lit_pixels(),
                corners=[*corners(self._x.reshape(-1), self._y.reshape(-1), size[1], bits)],
                size=size,
                start=self._start,
                quantum=0.0 if self._is_float else 1.0,
            )
            found = fit.surfaces()
        if found is None:
            return
        knots = np.full((len(cells), *size), ONE, np.int32)
        whole = np.rint(found * (ratios[some] * ONE)[:, None])
        limited = np.clip(whole, ONE * ONE // LARGEST_KNOT, LARGEST_KNOT).astype(np.int32)
        knots[some] = limited.reshape(-1, *size)
        self.constant_part = fit.constant_part
        self.surface = Surface(knots, bits)

    def _lit_pixels(self) -> Floats:
        """Return the pixels of each cell that have a count on any frame, (c,)."""
        lit = (self._lit & self._pixels).astype(np.float64)
        return np.add.reduceat(lit, self._starts, axis=1).reshape(-1)


@dataclass(slots=True)
class _Fit:
    """Cells of the frames with beam, and the knots about them."""

    values: Floats
    """(n, c) float64: counts of each cell on each frame."""
    good: Bools
    """(n, c) bool: all values of a cell are valid."""
    ratios: Floats
    """(n,) float64: level of each frame over that of the run."""
    counts: Floats
    """(c,) float64: pixels of each cell, without those that never have a count, such as beyond the
    edge of a round detector: they have no bias.
    """
    corners: list[tuple[NDArray[np.int64], Floats]]
    """Number and weight of the four knots about each cell, (c,) each."""
    size: tuple[int, int]
    """Number of knots along X and along Y."""
    start: StartTable
    """Table of the clip."""
    quantum: float
    """1 for frames of integers, else 0."""
    constant_part: ConstantPart | None = None
    """Part of the background that does not follow the levels; None: there is none, so far."""

    def surfaces(self) -> Floats | None:
        """Return knots of each frame over its level, (n, knots) float64; None: unknown."""
        n, n_knots = len(self.values), self.size[0] * self.size[1]
        if n < 2:
            return None
        found = np.ones((n, n_knots))
        mean, variance = np.zeros(len(self.counts)), np.empty(len(self.counts))
        prior = _prior(*self.size)
        step = max(1, AT_ONCE // n)
        for _ in range(ROUNDS):
            for begin in range(0, len(mean), step):
                part = slice(begin, begin + step)
                levels = self.ratios[:, None] * self._at_cells(found, part)
                share = np.divide(
                    self._following(mean[part], part), mean[part],
                    out=np.ones(len(mean[part])), where=mean[part] > 0,
                )  # fmt: skip
                levels = 1.0 + (levels - 1.0) * share
                mean[part], variance[part] = background_of_sample(
                    self.values[:, part] / levels, self.good[:, part], self.start, self.quantum
                )
            known = np.isfinite(mean) & np.isfinite(variance) & (mean > 0) & (self.counts > 0)
            if not known.any():
                return None
            a_pixel = mean / np.maximum(self.counts, 1.0)
            known &= a_pixel <= OUTLIER * float(np.median(a_pixel[known]))
            a_count = float(np.median(variance[known] / mean[known]))
            if not a_count > 0:
                return None
            noise = np.maximum(variance, a_count * mean)
            cells = _Cells(mean, noise, known, np.where(known, 1.0 / noise, 0.0))
            for _ in range(STEPS):
                following = np.where(known, self._following(mean, slice(None)), 0.0)
                precision = self._precision(cells.weight * (following * following))
                rests = self._rests(found, cells, following)
                change = np.stack([self._at_knots(following * rest) for rest in rests])
                change -= _product(prior, found - 1.0)
                found = found + self._solved(precision, prior, change, self.ratios)
                if not np.isfinite(found).all():
                    return None
            if self.quantum:
                self._fit_constant_part(found, cells, prior)
        return found

    def _following(self, mean: Floats, part: slice) -> Floats:
        """Return the part of the counts of some cells that follows the levels."""
        if self.constant_part is None:
            return mean
        counts = np.maximum(self.counts[part], 1.0)
        return counts * self.constant_part.following(mean / counts)

    def _fit_constant_part(self, knots: Floats, cells: "_Cells", prior: Floats) -> None:
        """Fit the contrast, from what surfaces cannot describe of how cells follow the levels."""
        known, counts = cells.known, np.maximum(self.counts, 1.0)
        of_pixels = np.where(known, cells.mean / counts, 0.0)
        centre = _ordered_sum(of_pixels) / float(np.count_nonzero(known))
        if not centre >= MOST_OF_POISSON:
            return  # photon counters have no bias
        following = np.where(known, self._following(cells.mean, slice(None)), 0.0)
        contrast = np.where(known, counts * (of_pixels - centre), 0.0)
        precision = self._precision(cells.weight * (following * following))
        right = self._at_knots(cells.weight * following * contrast)[None]
        smooth = self._solved(precision, prior, right, np.ones(1))
        rest = contrast - following * self._at_cells(smooth, slice(None)).reshape(-1)
        square = _ordered_sum(cells.weight * (rest * rest))
        total = spread = 0.0
        for ratio, of_frame in zip(
            self.ratios.tolist(), self._rests(knots, cells, following), strict=True
        ):
            total += (ratio - 1.0) * _ordered_sum(of_frame * rest)
            spread += (ratio - 1.0) * (ratio - 1.0) * square
        if not spread > 0:
            return
        before = 0.0 if self.constant_part is None else self.constant_part.contrast
        found = before + total / spread
        is_sure = abs(found) * math.sqrt(spread) > SIGNIFICANT
        self.constant_part = ConstantPart(found, centre) if is_sure else None

    def _at_cells(self, knots: Floats, part: slice) -> Floats:
        """Return the surfaces at some cells, (n, c)."""
        total = np.zeros((len(knots), len(self.counts[part])))
        for number, weight in self.corners:
            total += knots[:, number[part]] * weight[part]
        return total

    def _precision(self, weight: Floats) -> Floats:
        """Return the sums over cells of weight times the product of two knots, (knots, knots)."""
        n = self.size[0] * self.size[1]
        total = np.zeros(n * n)
        for one, of_one in self.corners:
            for other, of_other in self.corners:
                total += np.bincount(one * n + other, weight * of_one * of_other, n * n)
        return total.reshape(n, n)

    def _rests(self, knots: Floats, cells: "_Cells", following: Floats) -> Iterator[Floats]:
        """Yield the weighted residuals of the cells on each frame, (c,); 0 where spots may be."""
        width = WIDTH * np.sqrt(cells.noise)
        for frame, ratio in enumerate(self.ratios.tolist()):
            level = ratio * self._at_cells(knots[frame : frame + 1], slice(None)).reshape(-1)
            rest = self.values[frame] - (cells.mean + (level - 1.0) * following)
            most = width * np.sqrt(np.maximum(level, 0.0)) + (MARGIN * self.quantum)
            kept = cells.known & self.good[frame] & (np.abs(rest) <= most)
            yield np.where(kept, cells.weight * rest, 0.0)

    def _at_knots(self, values: Floats) -> Floats:
        """Return the sums of values of cells (c,) about each knot, (knots,)."""
        n_knots = self.size[0] * self.size[1]
        total = np.zeros(n_knots)
        for number, of_knot in self.corners:
            total += np.bincount(number, values * of_knot, n_knots)
        return total

    def _solved(self, precision: Floats, prior: Floats, change: Floats, ratios: Floats) -> Floats:
        """Return the change of the knots, (n, knots); dim frames tell less than bright ones."""
        n_knots = len(precision)
        result = np.empty(change.shape)
        step = max(1, MATRICES // (n_knots * n_knots))
        for begin in range(0, len(change), step):
            part = slice(begin, begin + step)
            matrices = ratios[part, None, None] * precision + prior
            result[part] = _cholesky(matrices, change[part], 2 * self.size[1] + 1)
        return result


@dataclass(frozen=True, slots=True)
class _Cells:
    """Statistics of the cells, (c,) each."""

    mean: Floats
    """Mean at the level of the run, counts."""
    noise: Floats
    """Variance, counts^2."""
    known: Bools
    """Cells that take part."""
    weight: Floats
    """Inverse of the variance; 0 for other cells."""


def _ordered_sum(values: Floats) -> float:
    """Return the sum of values, one after the other."""
    return float(np.add.accumulate(values)[-1])


def _prior(n_rows: int, n_columns: int) -> Floats:
    """Return the precision of the prior of knots, (knots, knots)."""
    n = n_rows * n_columns
    number = np.arange(n).reshape(n_rows, n_columns)
    total = np.zeros((n, n))
    total[np.arange(n), np.arange(n)] = 1 / (PRIOR * PRIOR)
    for names in (number, number.T):
        for taps, size in (((-1.0, 1.0), SLOPE), ((1.0, -2.0, 1.0), CURVATURE)):
            length = len(names) - len(taps) + 1
            for i, one in enumerate(taps):
                for j, other in enumerate(taps):
                    at = names[i : i + max(0, length)], names[j : j + max(0, length)]
                    np.add.at(total, at, one * other / (size * size))
    return total


def _product(matrix: Floats, vectors: Floats) -> Floats:
    """Return the product of a symmetric matrix (k, k) and each of some vectors (n, k)."""
    total = np.zeros(vectors.shape)
    for k in range(len(matrix)):
        total += vectors[:, k : k + 1] * matrix[k]
    return total


def _cholesky(matrices: Floats, right: Floats, band: int) -> Floats:
    """Return the solutions (n, k) of systems with positive matrices (n, k, k), which it changes.

    Args:
        matrices: (n, k, k) float64.
        right: (n, k) float64: right sides.
        band: Elements further than this from the diagonal are 0.
    """
    found = right.copy()
    n = found.shape[1]
    for k in range(n):
        below = slice(k + 1, min(k + band + 1, n))
        matrices[:, k, k] = np.sqrt(matrices[:, k, k])
        column = matrices[:, below, k] / matrices[:, k, k, None]
        matrices[:, below, k] = column
        matrices[:, below, below] -= column[:, :, None] * column[:, None, :]
        found[:, k] /= matrices[:, k, k]
        found[:, below] -= column * found[:, k, None]
    for k in range(n - 1, -1, -1):
        above = slice(max(0, k - band), k)
        found[:, k] /= matrices[:, k, k]
        found[:, above] -= matrices[:, k, above] * found[:, k, None]
    return found


def distance_bits(n_rows: int, n_columns: int) -> int:
    """Return the binary logarithm of the distance of knots for frames of a size."""
    bits = LEAST_BITS
    while bits < MOST_BITS and max(n_rows, n_columns) > INTERVALS << bits:
        bits += 1
    return bits


def knots_for(n_rows: int, n_columns: int, bits: int) -> tuple[int, int]:
    """Return the number of knots along X and along Y."""
    return ((n_rows - 1) >> bits) + 2, ((n_columns - 1) >> bits) + 2


def corners(
    x: NDArray[np.float64], y: NDArray[np.float64], n_columns: int, bits: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Yield number and weight of each of the four knots about places, (p,) int64 and float64.

    Args:
        x: (p,) float64: place along X, pixels.
        y: (p,) float64: place along Y, pixels.
        n_columns: g_Y, knots of a row.
        bits: Binary logarithm of the distance of knots.
    """
    distance = float(1 << bits)
    i, j = (np.floor(each / distance).astype(np.int64) for each in (x, y))
    u, v = x / distance - i, y / distance - j
    for down, of_x in ((0, 1.0 - u), (1, u)):
        for right, of_y in ((0, 1.0 - v), (1, v)):
            yield (i + down) * n_columns + j + right, of_x * of_y
