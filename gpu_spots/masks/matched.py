"""Matched finder, host part: constants of the significance, seed levels, and the list of spots.

The rule is `docs/decisions/matched-finder.md`. A backend works on integers only; whatever needs
floating point is computed here, once a run, by correctly rounded float64 operations in a fixed
order. In formulas, ``V`` is the variance of a pixel (counts^2), ``g`` the gain (counts per counted
unit) and ``s`` the unit of the significance, ``s^2 = max(V, g^2 / 4)``.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from statistics import median
from typing import Any, Generic

import numpy as np
from numpy.typing import NDArray

from gpu_spots.masks.poisson import WeightedSum
from gpu_spots.memory.workers import Span, in_order
from gpu_spots.model import Array, Components, ConstantPart, Masks, Validity

UNIT = 16
"""Units of a pixel's significance in one ``s``."""
ZERO = 64
"""Significance of a pixel at its background, and of every place without a valid value."""
BITS = 16
"""Bits of fraction of the significance while it is computed."""
FURTHEST = 16000
"""A frame's value is limited so that its significance is at most this far from `ZERO`."""
LARGEST_SHIFT = 5843
"""The level of a frame moves the significance of a pixel by at most so many units."""
LEVEL_BITS = 8
"""Bits of fraction of the background in units of ``s``, which frame levels are multiplied by."""
LARGEST_LEVEL = (1 << 19) - 1
"""Largest background in these units."""
CLIP = 511
"""Significance is limited to so much, either way, before it is smoothed for seeds."""
MAP_ZERO = 1024
"""Value of a smoothed map where every pixel is at its background."""
NEVER = 32767
"""Seed level that no map reaches."""
STEPS = 5
"""Steps that a mask may grow down the height of its spot; one step more goes to any pixel."""
SMALLEST_NOISE, LARGEST_NOISE = 2.0**-6, 2.0**20
"""Limits of ``s`` for integer frames, counts."""
LARGEST_SUM = 21844
"""The significance of a group is limited to be so far from `ZERO`."""
BAYER = np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]])
"""Order in which the pixels of a 4 x 4 square round up: sums over pixels are not biased then."""
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
BAND_PIXELS = 1 << 16
"""Pixels of a band in the computation of maps: few enough for the cache."""


@dataclass(frozen=True, eq=False)
class Kernel:
    """Kernel of a smoothed map."""

    name: str
    """Name, for messages."""
    weights: NDArray[np.int64]
    """(k, k) int64, k odd: its weights."""
    profile: NDArray[np.int64] | None
    """(k,) int64: ``weights`` are the products of this along both axes; None: they are not."""
    divisor: int
    """The map is the sum of weights times significance, over this."""

    @property
    def reach(self) -> int:
        """Number of pixels that the kernel extends to each side."""
        return len(self.weights) // 2

    @cached_property
    def sum_of_counts(self) -> WeightedSum:
        """Distribution of the map on a background of counts."""
        return WeightedSum(tuple(int(w) for w in self.weights.ravel() if w))

    @property
    def unit(self) -> float:
        """Units of the map in ``sqrt(sum K^2 V / s^2)``."""
        return UNIT / self.divisor

    def squares(self, values: NDArray[np.float64], power: int) -> NDArray[np.float64]:
        """Sum of ``weights**power`` times ``values`` about each pixel, in a fixed order.

        Args:
            values: (n_X + 2 reach, n_Y + 2 reach) float64.
            power: 2 or 3.

        Returns:
            (n_X, n_Y) float64.
        """
        if self.profile is not None:
            taps = self.profile.astype(np.float64) ** power
            return _along(_along(values, taps, 0), taps, 1)
        reach, total = self.reach, None
        n_x, n_y = (length - 2 * reach for length in values.shape)
        for x, y in zip(*np.nonzero(self.weights), strict=True):
            term = values[x : x + n_x, y : y + n_y] * (float(self.weights[x, y]) ** power)
            total = term if total is None else np.add(total, term, out=total)
        assert total is not None
        return total


def _along(values: NDArray[np.float64], taps: NDArray[np.float64], axis: int) -> Any:
    """Return the weighted sum of neighbours along an axis: centre, then pairs outwards."""
    reach = len(taps) // 2
    n = values.shape[axis] - 2 * reach

    def shifted(by: int) -> NDArray[np.float64]:
        part = slice(reach + by, reach + by + n)
        return values[part] if axis == 0 else values[:, part]

    total = shifted(0) * taps[reach]
    for i in range(1, reach + 1):
        pair = shifted(-i) + shifted(i)
        pair *= taps[reach + i]
        total += pair
    return total


def _kernels() -> tuple[Kernel, ...]:
    three, five = np.array([1, 2, 1]), np.array([1, 4, 6, 4, 1])
    apart = np.zeros(9, np.int64)
    apart[::2] = five
    both = np.convolve(five, apart)
    round_ones = [
        Kernel(name, np.outer(profile, profile), profile, divisor)
        for name, profile, divisor in (
            ("M07", three, 1),
            ("M1", five, 16),
            ("M2", both, 4096),
        )
    ]
    lines = []
    for name, (dx, dy) in zip(("L0", "L45", "L90", "L135"), DIRECTIONS, strict=True):
        weights = np.zeros((15, 15), np.int64)
        for i, weight in enumerate(both):
            x, y = 7 + (i - 6) * dx, 7 + (i - 6) * dy
            weights[x - 1 : x + 2, y - 1 : y + 2] += weight * np.outer(three, three)
        lines.append(Kernel(name, weights, None, 256))
    return (*round_ones, *lines)


DIRECTIONS = ((0, 1), (1, 1), (1, 0), (1, -1))
"""Steps in X and Y of the lines that streaks are looked for along."""
ALL_KERNELS = _kernels()
"""Kernels of the maps: three round ones, then four lines."""
M1 = 1
"""Index of the kernel that basins and masks are those of."""


def kernels(*, streaks: bool) -> tuple[Kernel, ...]:
    """Return the kernels that are used: three, with ``streaks`` seven."""
    return ALL_KERNELS if streaks else ALL_KERNELS[:3]


def rounding(rows: slice, n_columns: int) -> NDArray[np.int64]:
    """Return what is added to the significance of each pixel before it is rounded down, in 2^-16.

    (rows, n_Y) int64: 1/32, 3/32 ... 31/32, each once in any 4 x 4 pixels.
    """
    four_rows = ((2 * BAYER + 1) << (BITS - 5))[:, np.arange(n_columns) & 3]
    every: NDArray[np.int64] = four_rows[np.arange(rows.start, rows.stop) & 3]
    return every


@dataclass(frozen=True, slots=True)
class NoiseMap:
    """Background and noise of a run, as the finder needs them."""

    mean: NDArray[np.float64]
    """(n_X, n_Y) float64, counts: B."""
    noise: NDArray[np.float32]
    """(n_X, n_Y) float32, counts: sqrt(V); 0 where it is unknown."""
    gain: float
    """g, counts per counted unit; 0: unknown."""
    read_variance: float
    """r^2, counts^2."""
    validity: Validity
    """Valid values."""
    gaps: bool
    """Whether some values of pixels that ``validity.pixels`` allows are invalid."""
    dtype: np.dtype[Any]
    """Type of the frames."""
    constant_part: ConstantPart | None = None
    """Part of the background that does not follow the level of a frame; used for integer frames, as
    others have seldom a bias.
    """

    @property
    def shape(self) -> tuple[int, int]:
        """n_X, n_Y."""
        return self.mean.shape[0], self.mean.shape[1]

    def usable(self, rows: slice) -> NDArray[np.bool_]:
        """Return the pixels of some rows that have a background and a noise."""
        known: NDArray[np.bool_] = (self.noise[rows] > 0) | (self.gain > 0)
        known &= np.isfinite(self.noise[rows])
        known &= np.isfinite(self.mean[rows])
        pixels = self.validity.pixels
        return known if pixels is None else known & pixels[rows]

    def _variances(self, rows: slice) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return V and s^2 of some rows."""
        variance = self.noise[rows].astype(np.float64)
        variance *= variance
        return variance, np.maximum(variance, self.gain * self.gain / 4)

    def unit(self, rows: slice) -> NDArray[np.float64]:
        """Return ``s`` of some rows, counts, within the limits of integer arithmetic."""
        unit: NDArray[np.float64] = np.sqrt(self._variances(rows)[1])
        return unit if self.dtype.kind == "f" else np.clip(unit, SMALLEST_NOISE, LARGEST_NOISE)

    def shares(
        self, begin: int, end: int, margin: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return V / s^2 and g (V - r^2) / s^3 of rows with a margin; 0 for pixels not usable.

        The second is at least g^3 / 1000 / s^3.
        """
        n_x, n_y = self.shape
        first, last = max(0, begin - margin), min(n_x, end + margin)
        rows = slice(first, last)
        variance, _ = self._variances(rows)
        unit = self.unit(rows)
        usable = self.usable(rows)
        # where noise is not finite, which is not usable
        with np.errstate(over="ignore", invalid="ignore"):
            counted = np.maximum(variance - self.read_variance, self.gain * self.gain / 1000)
            counted = self.gain * counted
        results = []
        for over, power in ((variance, 2), (counted, 3)):
            whole = np.zeros((end - begin + 2 * margin, n_y + 2 * margin))
            at = first - (begin - margin)
            inside = whole[at : at + last - first, margin : margin + n_y]
            below = unit * unit if power == 2 else unit * unit * unit
            np.divide(over, below, out=inside, where=usable)
            results.append(whole)
        return results[0], results[1]


@dataclass(frozen=True, slots=True)
class SignificanceMaps:
    """Maps that turn the values of a frame into significance.

    Integer frames: ``p = (min(max(I, low), high) * gain - offset - level shift) >> 16``, see
    `level_shift`. Float frames: ``p = floor((I - offset * level) * gain + 64 + rounding)``.
    """

    gain: Array
    """(n_X, n_Y) int32: units per count in 2^-16; float frames float64, units per count.

    0 for pixels that are not usable.
    """
    offset: Array
    """(n_X, n_Y) int32, modulo 2^32; float frames: float64, the background in counts."""
    low: Array | None
    """(n_X, n_Y), type of the frames: smallest value that is told apart; None: the type's, or
    float frames.
    """
    high: Array | None
    """(n_X, n_Y), type of the frames: largest value that is told apart; None: float frames."""
    level: NDArray[np.int32] | None
    """(n_X, n_Y) int32: part of the background that follows the level, in units of ``s`` in 2^-8;
    None: float frames.
    """
    usable: NDArray[np.bool_] | None
    """(n_X, n_Y) bool: pixels that may be in masks; None: all."""
    validity: Validity | None
    """Valid values of a frame; None: all values of usable pixels."""
    dtype: np.dtype[Any]
    """Type of the frames."""
    streaks: bool
    """Maps of lines are computed too."""


def significance_maps(of: NoiseMap, *, streaks: bool, workers: int) -> SignificanceMaps:
    """Return the constants that turn frames into significance."""
    is_float = of.dtype.kind == "f"
    shape, wide = of.shape, np.float64 if is_float else np.int32
    gain, offset = np.empty(shape, wide), np.empty(shape, wide)
    usable = np.empty(shape, bool)
    low = high = level = None
    if not is_float:
        low, high, level = (
            np.empty(shape, of.dtype),
            np.empty(shape, of.dtype),
            np.empty(shape, np.int32),
        )

    def fill(span: Span) -> bool:
        rows = slice(*span)
        good = usable[rows] = of.usable(rows)
        unit = np.where(good, of.unit(rows), 1.0)
        if is_float:
            gain[rows] = np.where(good, UNIT / unit, 0.0)
            offset[rows] = np.where(good, of.mean[rows], 0.0)
            return False
        limits = np.iinfo(of.dtype)
        mean = np.clip(of.mean[rows], limits.min, limits.max)
        factor = np.where(good, np.rint(UNIT * 2.0**BITS / unit), 0.0)
        whole = factor.astype(np.int64)
        zero = np.rint(np.where(good, mean, 0.0) * factor).astype(np.int64)
        zero -= (ZERO << BITS) + np.where(good, rounding(rows, shape[1]), 0)
        gain[rows] = whole
        offset[rows] = _modulo(zero)
        divisor = np.maximum(whole, 1)
        most = ((FURTHEST << BITS) + (1 << BITS) - 1 + zero) // divisor
        least = -((-(-(FURTHEST << BITS) + zero)) // divisor)
        assert low is not None
        assert high is not None
        assert level is not None
        high[rows] = np.where(good, np.clip(most, limits.min, limits.max), limits.max)
        low[rows] = np.where(good, np.clip(least, limits.min, limits.max), limits.min)
        part = of.constant_part
        follows = mean if part is None else part.following(mean)
        in_units = np.rint(np.clip(follows / unit, -(2.0**11), 2.0**11) * 2.0**LEVEL_BITS)
        level[rows] = np.where(good, np.clip(in_units, -LARGEST_LEVEL, LARGEST_LEVEL), 0)
        return bool((low[rows] > limits.min).any())

    limited = list(in_order(fill, bands(shape), workers))
    return SignificanceMaps(
        gain=gain,
        offset=offset,
        low=low if any(limited) else None,
        high=high,
        level=level,
        usable=None if usable.all() else usable,
        validity=of.validity if of.gaps or is_float else None,
        dtype=of.dtype,
        streaks=streaks,
    )


def _modulo(values: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return the lower 32 bits."""
    return (values & 0xFFFFFFFF).astype(np.uint32).view(np.int32)


def bands(shape: tuple[int, int]) -> Iterator[Span]:
    """Yield stretches of rows, few enough pixels for the cache; they begin at multiples of 4."""
    step = max(4, BAND_PIXELS // shape[1] // 4 * 4)
    for begin in range(0, shape[0], step):
        yield begin, min(begin + step, shape[0])


def level_shift(relative_level: int) -> tuple[int, int, int]:
    """Return how the level of a frame moves the significance.

    The shift of a pixel is ``L * factor`` times ``2**up`` (down: rounded down), limited to
    `LARGEST_SHIFT` units, where ``L`` is `SignificanceMaps.level` limited to ``largest``.

    Args:
        relative_level: level of the frame over that of the run, in 2^-16.

    Returns:
        factor, up (negative: bits to shift right), largest.

    >>> level_shift(65536 + 655)
    (655, -4, 524287)
    """
    factor, bits = relative_level - (1 << BITS), BITS
    while abs(factor) >= 1 << 11:
        factor, bits = (factor + 1) >> 1, bits - 1
    up = BITS + 4 - LEVEL_BITS - bits
    # |L factor 2^up| <= LARGEST_SHIFT 2^16
    room = LARGEST_SHIFT << BITS
    most = (room >> up if up >= 0 else room << -up) // max(1, abs(factor))
    return factor, up, min(most, LARGEST_LEVEL)


def group_scale(size: int) -> tuple[int, int]:
    """Return how the sum of a group becomes a significance.

    ``p = 64 + ((limited sum * factor + rounding) >> 16)``.

    Returns:
        limit of the sum, either way, and factor: 65536 / sqrt(size), rounded.
    """
    factor = int(np.rint(65536 / np.sqrt(float(size))))
    return (LARGEST_SUM - ZERO) * (1 << BITS) // factor, factor


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
        kept: dict[tuple[int, ...], list[Moments]] | None = None,
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
        # once, before several threads ask for them
        for kernel in self._kernels:
            kernel.sum_of_counts.table(significance)

    def calibrate(self, maps: Iterable[Array], size: int) -> Calibration:
        """Measure offset and width of the maps of some frames or groups, which have few spots.

        Only pixels with `ENOUGH_COUNTS` take part, and only the half of the values below the
        median, as spots are above. A kernel with fewer than `SAMPLE_PIXELS` such pixels has the
        offset 0 and the width 1.

        Args:
            maps: of each frame or group, (kernels, n_X, n_Y) int16.
            size: frames of a group.
        """
        stretches, enough, expected = self._sample(size)
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
        self, size: int
    ) -> tuple[list[Span], list[list[NDArray[np.bool_]]], list[float | None]]:
        """Return stretches of rows, and for each kernel the pixels used and the expected width.

        None: too few take part.
        """
        n_x, n_y = self._of.shape
        every = SAMPLE_ROWS if n_x * n_y <= SAMPLE_ALL else SAMPLE_EVERY
        stretches = [(begin, min(begin + SAMPLE_ROWS, n_x)) for begin in range(0, n_x, every)]
        enough: list[list[NDArray[np.bool_]]] = [[] for _ in self._kernels]
        squares: list[list[NDArray[np.float64]]] = [[] for _ in self._kernels]
        for begin, end in stretches:
            usable = self._of.usable(slice(begin, end))
            for k, (k2, _, b) in enumerate(self._moments(begin, end, size)):
                first, second, _, _ = self._kernels[k].sum_of_counts.moments
                good = usable & (b * (first * first / second) >= ENOUGH_COUNTS)
                enough[k].append(good)
                squares[k].append(k2[good])
        expected: list[float | None] = []
        for k, kernel in enumerate(self._kernels):
            values = np.sqrt(np.concatenate(squares[k]))
            n = len(values)
            middle = float(np.partition(values, n // 2)[n // 2]) if n >= SAMPLE_PIXELS else None
            expected.append(None if middle is None else kernel.unit * middle)
        return stretches, enough, expected

    def levels(self, size: int, calibration: Calibration) -> SeedLevels:
        """Return the levels for groups of a size."""
        shape = self._of.shape
        seed = tuple(np.empty(shape, np.int16) for _ in self._kernels)
        variance, own = np.empty(shape, np.int32), np.empty(shape, np.int32)
        more = np.sqrt(size / calibration.size)

        def fill(span: Span) -> None:
            begin, end = span
            rows = slice(begin, end)
            usable = self._of.usable(rows)
            every = self._kept_moments(begin, end, size)
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

    def _kept_moments(self, begin: int, end: int, size: int) -> Iterable[Moments]:
        if self._kept is None:
            return self._moments(begin, end, size)
        key = begin, end, size
        if key not in self._kept:
            self._kept[key] = list(self._moments(begin, end, size))
        return self._kept[key]

    def _moments(self, begin: int, end: int, size: int) -> Iterator[Moments]:
        """Yield for each kernel and rows: sums k2 and k3, and effective counts per pixel b.

        k2 is the sum of K^2 V/s^2, k3 that of K^3 g (V - r^2)/s^3.
        """
        margin = max(kernel.reach for kernel in self._kernels)
        share, skew = self._of.shares(begin, end, margin)
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


@dataclass(frozen=True, slots=True)
class MatchedMasks(Generic[Masks]):
    """Masks of a batch of frames or groups by the matched finder."""

    raw: Masks
    """Pixels at or above the seed level of any map, one mask a frame or group."""
    filtered: Masks
    """Pixels of spots, one mask a frame or group."""
    invalid: Masks | None
    """Pixels without a valid value on some frame, one mask a frame or group; None: none but those
    of ``Validity.pixels``.
    """
    spots: Components
    """Spots. They may touch each other, unlike connected components."""


def list_spots(
    mask: NDArray[np.int64],
    pixels: NDArray[np.int64],
    spot: NDArray[np.int64],
    n_masks: int,
    n_columns: int,
) -> Components:
    """Return spots as components, numbered in raster order of their first pixels.

    Args:
        mask: (p,) int64: mask of each pixel that belongs to a spot.
        pixels: (p,) int64: flat index of the pixel in its mask.
        spot: (p,) int64: number of its spot in the mask, any numbers.
        n_masks: how many masks there are.
        n_columns: n_Y.
    """
    if not len(pixels):
        none = np.zeros(0, np.int64)
        return Components(
            none, np.zeros(1, np.int64), np.zeros((0, 4), np.int32), np.zeros(n_masks + 1, np.int64)
        )
    order = np.lexsort((pixels, spot, mask))
    mask, pixels, spot = mask[order], pixels[order], spot[order]
    new = np.flatnonzero((np.diff(spot, prepend=-1) != 0) | (np.diff(mask, prepend=-1) != 0))
    length = np.diff(new, append=len(pixels))
    # spots of a mask by their first pixels
    by_first = np.lexsort((pixels[new], mask[new]))
    begin = np.concatenate([[0], np.cumsum(length[by_first])])
    take = np.arange(len(pixels)) + np.repeat(new[by_first] - begin[:-1], length[by_first])
    pixels = pixels[take]
    x, y = np.divmod(pixels, n_columns)
    starts = begin[:-1]
    sides = (
        np.minimum.reduceat(x, starts),
        np.maximum.reduceat(x, starts) + 1,
        np.minimum.reduceat(y, starts),
        np.maximum.reduceat(y, starts) + 1,
    )
    return Components(
        pixels=pixels,
        begin=begin,
        box=np.stack(sides, axis=1).astype(np.int32),
        first=np.searchsorted(mask[new][by_first], np.arange(n_masks + 1)),
    )
