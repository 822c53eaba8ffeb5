"""Seed levels of the matched finder, from the noise of the pixels and from maps of some frames."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from statistics import median

import numpy as np
from numpy.typing import NDArray

from gpu_spots.masks.kernels import M1, kernels
from gpu_spots.masks.matched import UNIT, bands
from gpu_spots.masks.noise_map import NoiseMap
from gpu_spots.memory.workers import Span, in_order
from gpu_spots.model import Array

MAP_ZERO = 1024
"""Value of a smoothed map where every pixel is at its background."""
NEVER = 32767
"""Seed level that no map reaches."""
ENOUGH_COUNTS = 16
"""Weighted counts under a kernel from which on a map is close enough to Gaussian to measure it."""
SAMPLE_ROWS, SAMPLE_EVERY = 16, 128
"""Rows of a stretch that the width of a map is measured on, and rows from one to the next."""
SAMPLE_ALL = 1 << 18
"""Frames of at most so many pixels are measured on all rows."""
SAMPLE_PIXELS = 1 << 12
"""A map is measured on so many pixels at least."""
SAMPLE_FRAMES = 6
"""Frames or groups that it is measured on."""
LARGEST_VARIANCE, LARGEST_OWN = 2.0**30, 2.0**26
"""Limits of `SeedLevels.variance` and `SeedLevels.own`."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Measurements on the maps of some frames of a run, one value per kernel."""

    size: int
    """Frames of the groups that were looked at."""
    offset: tuple[float, ...]
    """Median of the map, less `MAP_ZERO`, units of the map."""
    width: tuple[float, ...]
    """Width of the map over the one expected from the noise of pixels; 1 or more."""


@dataclass(frozen=True, slots=True)
class SeedLevels:
    """Levels of the maps of groups of a size."""

    size: int
    """Frames of a group."""
    seed: tuple[NDArray[np.int16], ...]
    """(n_X, n_Y) int16 for each kernel: a pixel at or above it is a seed."""
    variance: NDArray[np.int32]
    """(n_X, n_Y) int32: four times the variance of M1, in units of the unlimited sum."""
    own: NDArray[np.int32]
    """(n_X, n_Y) int32: what the counts of a spot add to it, per unit of its peak, in 2^-8."""


Moments = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
"""Sums over the pixels under a kernel, see `Thresholds`."""


class Thresholds:
    """Seed levels of a run, for groups of any size."""

    def __init__(
        self,
        of: NoiseMap,
        significance: float,
        *,
        streaks: bool,
        workers: int = 1,
        kept: dict[tuple[float, ...], list[Moments]] | None = None,
    ) -> None:
        """Compute the levels that background exceeds with the probability of ``significance``.

        ``kept``: keeps what does not depend on it, for other values and the same ``of`` and
        ``streaks``, 24 bytes per pixel and map; None: nothing is kept.
        """
        self._kept = kept
        self._of = of
        self._significance = significance
        self._kernels = kernels(streaks=streaks)
        self._workers = workers

    @property
    def sampled_rows(self) -> list[Span]:
        """Stretches of rows that `calibrate` looks at."""
        n_x, n_y = self._of.shape
        every = SAMPLE_ROWS if n_x * n_y <= SAMPLE_ALL else SAMPLE_EVERY
        return [(begin, min(begin + SAMPLE_ROWS, n_x)) for begin in range(0, n_x, every)]

    def calibrate(self, maps: Iterable[Array], size: int) -> Calibration:
        """Measure offset and width of the maps of some frames or groups, which have few spots.

        Only pixels with `ENOUGH_COUNTS` take part, and only the half of the values below the
        median, as spots are above. A kernel with fewer than `SAMPLE_PIXELS` such pixels has the
        offset 0 and the width 1.

        Args:
            maps: of each frame or group, (kernels, n_X, n_Y) int16; only `sampled_rows` count.
            size: frames of a group.
        """
        stretches = self.sampled_rows
        enough, expected = self._sample(stretches, size)
        found: list[list[tuple[float, float]]] = [[] for _ in self._kernels]
        for of_frame in maps:
            for k, some in enumerate(found):
                if expected[k] is not None:
                    parts = zip(stretches, enough[k], strict=True)
                    values = [of_frame[k, begin:end][good] for (begin, end), good in parts]
                    some.append(quartiles(np.concatenate(values)))
        offsets, widths = [], []
        for some, width in zip(found, expected, strict=True):
            measured = some if width is not None else []
            offsets.append(median(q[1] for q in measured) - MAP_ZERO if measured else 0.0)
            lower = median(q[1] - q[0] for q in measured) / 0.6745 if measured else 0.0
            widths.append(max(1.0, lower / width if width else 1.0))
        return Calibration(size, tuple(offsets), tuple(widths))

    def _sample(
        self, stretches: list[Span], size: int
    ) -> tuple[list[list[NDArray[np.bool_]]], list[float | None]]:
        """Return for each kernel the pixels of stretches that are used, and the expected width.

        None: too few take part.
        """

        def one(span: Span) -> list[tuple[NDArray[np.bool_], NDArray[np.float64]]]:
            usable, found = self._of.usable(slice(*span)), []
            for kernel, (k2, _, b) in zip(self._kernels, self._moments(*span, size), strict=True):
                first, second, _, _ = kernel.sum_of_counts.moments
                good = usable & (b * (first * first / second) >= ENOUGH_COUNTS)
                found.append((good, k2[good]))
            return found

        by_kernel = list(zip(*in_order(one, stretches, self._workers), strict=True))
        enough = [[good for good, _ in parts] for parts in by_kernel]
        squares = [[k2 for _, k2 in parts] for parts in by_kernel]
        expected: list[float | None] = []
        for k, kernel in enumerate(self._kernels):
            values = np.sqrt(np.concatenate(squares[k]))
            n = len(values)
            middle = float(np.partition(values, n // 2)[n // 2]) if n >= SAMPLE_PIXELS else None
            expected.append(None if middle is None else kernel.unit * middle)
        return enough, expected

    def levels(self, size: int, calibration: Calibration, light: float = 1.0) -> SeedLevels:
        """Return the levels for groups of a size, with so much light over that of the mean frame.

        Its noise is that of the run, and that of the light above it.
        """
        shape = self._of.shape
        seed = tuple(np.empty(shape, np.int16) for _ in self._kernels)
        variance, own = np.empty(shape, np.int32), np.empty(shape, np.int32)
        more = np.sqrt(size / calibration.size)

        def fill(span: Span) -> None:
            begin, end = span
            rows = slice(begin, end)
            usable = self._of.usable(rows)
            every = self._kept_moments(begin, end, size, light)
            for k, (kernel, (k2, k3, b)) in enumerate(zip(self._kernels, every, strict=True)):
                sigmas = kernel.sum_of_counts.threshold(b, self._significance)
                wide = kernel.unit * calibration.width[k]
                level = np.ceil(np.sqrt(k2) * wide * sigmas + calibration.offset[k] * more)
                level = np.clip(level + MAP_ZERO, -NEVER, NEVER)
                seed[k][rows] = np.where(usable & (k2 > 0), level, NEVER)
                if k == M1:
                    square = calibration.width[k] * calibration.width[k]
                    four = np.rint(k2 * (4 * UNIT * UNIT * square))
                    variance[rows] = np.minimum(four, LARGEST_VARIANCE)
                    skew = np.divide(k3, k2, out=np.zeros_like(k3), where=k2 > 0)
                    skew = np.rint(skew * (256 * 4 * UNIT / np.sqrt(float(size))))
                    own[rows] = np.minimum(skew, LARGEST_OWN)

        for _ in in_order(fill, bands(shape), self._workers):
            pass
        return SeedLevels(size, seed, variance, own)

    def _kept_moments(self, begin: int, end: int, size: int, light: float) -> Iterable[Moments]:
        if self._kept is None:
            return self._moments(begin, end, size, light)
        key = begin, end, size, light
        if key not in self._kept:
            self._kept[key] = list(self._moments(begin, end, size, light))
        return self._kept[key]

    def _moments(self, begin: int, end: int, size: int, light: float = 1.0) -> Iterator[Moments]:
        """Yield for each kernel and rows: sums k2 and k3, and effective counts per pixel b.

        k2 is the sum of K^2 V/s^2, k3 that of K^3 g (V - r^2)/s^3.
        """
        margin = max(kernel.reach for kernel in self._kernels)
        share, skew = self._of.shares(begin, end, margin, light)
        for kernel in self._kernels:
            less = margin - kernel.reach
            inside = slice(less, -less if less else None)
            k2 = kernel.squares(share[inside, inside], 2)
            k3 = kernel.squares(skew[inside, inside], 3)
            factor = kernel.sum_of_counts.skewness
            with np.errstate(divide="ignore", invalid="ignore"):
                b = (k2 * k2 * k2) * (factor * factor * size) / (k3 * k3)
            b[k3 == 0] = np.inf
            yield k2, k3, b


def quartiles(values: NDArray[np.int16]) -> tuple[float, float]:
    """Return the lower quartile and the median of integers, each spread over the unit about it.

    >>> quartiles(np.array([1, 2, 3, 4], np.int16))
    (1.5, 2.5)
    """
    lowest = int(values.min())
    up_to = np.cumsum(np.bincount(values.astype(np.int64) - lowest))
    found = []
    for quarter in (1, 2):
        wanted = Fraction(quarter * len(values), 4)
        i = int(np.searchsorted(4 * up_to, quarter * len(values)))
        before = int(up_to[i - 1]) if i else 0
        share = (wanted - before) / (int(up_to[i]) - before)
        found.append(float(lowest + i - Fraction(1, 2) + share))
    return found[0], found[1]
