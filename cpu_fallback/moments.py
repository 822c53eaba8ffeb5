"""Moments of pixels: tiles of pixels of a band of frames, and the statistics of sorted samples.

A tile is copied into a buffer with a padded row before it is transposed: transposing the stack
itself, whose frames are megabytes apart, is ten times slower. Sums are exact: every partial sum is
an integer below 2^53 held in float64, where SIMD is fastest.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_spots.model import Array, FloatMoments, IntegerMoments, Validity, check_frame_count

PADDING = 32
"""Columns added to a tile's buffer, so that its rows do not fall on the same cache lines."""
AT_ONCE = 64
"""Frames that are transposed at a time: a third faster than all, as what they are written to stays
in the cache.
"""
PIXELS_AT_ONCE = 1 << 12
"""Pixels that are transposed at a time."""
IN_CACHE = 1 << 18
"""Values that are summed as float64 at a time: 2 MB. With fewer, threads wait for the interpreter.
"""


@dataclass(frozen=True)
class Tile:
    """Tile: some pixels of a band on all frames."""

    where: slice | NDArray[np.int64]
    """Flat indices of the pixels in the band."""
    values: Array
    """(n, p), the frames' dtype, counts."""
    usable: NDArray[np.bool_] | None
    """(n, p) bool: which values are valid; None: all are."""

    @cached_property
    def lowest(self) -> Array:
        """Smallest value of each pixel, (p,), valid or not."""
        return self.values.min(axis=0)

    @cached_property
    def largest(self) -> Array:
        """Largest value of each pixel, (p,), valid or not."""
        return self.values.max(axis=0)

    def of(self, pixels: NDArray[np.int64]) -> "Tile":
        """Return copies of some of the pixels."""
        usable = None if self.usable is None else self.usable.take(pixels, axis=1)
        return Tile(places(self.where)[pixels], self.values.take(pixels, axis=1), usable)


def places(where: slice | NDArray[np.int64]) -> NDArray[np.int64]:
    """Return flat indices as an array."""
    return np.arange(where.start, where.stop) if isinstance(where, slice) else where


def tiles(frames: Array, validity: Validity, size: int) -> Iterator[Tile]:
    """Cut a band (n, n_X, n_Y) into tiles of at most ``size`` pixels."""
    n_frames, n_pixels = len(frames), frames[0].size
    check_frame_count(n_frames)
    flat = frames.reshape(n_frames, n_pixels)
    for begin in range(0, n_pixels, size):
        where = slice(begin, min(begin + size, n_pixels))
        values = flat[:, where]
        yield Tile(where, values, validity.allows(values))


def row_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type in which values are sorted: some processors sort short integers slowly."""
    return np.dtype(f"{dtype.kind}{max(4, dtype.itemsize)}")


class Band:
    """Moments of a band of frames (n, n_X, n_Y), filled tile by tile, as flat arrays."""

    def __init__(self, frames: Array, validity: Validity) -> None:
        dtype, n_pixels = frames.dtype, frames[0].size
        self.shape = frames.shape[1:]
        self.pixels = None if validity.pixels is None else validity.pixels.reshape(-1)
        self.is_float = dtype.kind == "f"
        self.is_wide = dtype.itemsize == 4
        self.limits: Any = np.finfo(dtype) if self.is_float else np.iinfo(dtype)
        self.gaps = False
        self.kept = np.empty(n_pixels, np.int32)
        self.max = np.empty(n_pixels, dtype)
        self.arg = np.empty(n_pixels, np.int32)
        if self.is_float:
            self.average, self.deviation, self.iqr = (
                np.empty(n_pixels, np.float64) for _ in range(3)
            )
        else:
            self.total, self.iqr4 = np.empty(n_pixels, np.int64), np.empty(n_pixels, np.int64)
            self.scatter_low, self.scatter_high = (
                np.empty(n_pixels, np.uint64),
                np.zeros(n_pixels, np.uint64),
            )

    def load(self, tile: Tile, rows: Array) -> None:
        """Transpose a tile into ``rows`` (p, n), and store maxima.

        Invalid values become the largest value of the type.
        """
        fill(tile.values, tile.usable, rows)
        self.extremes(tile)

    def extremes(self, tile: Tile) -> None:
        """Store the maxima of a tile, and the frames they are on."""
        values, usable = tile.values, tile.usable
        if usable is None:
            largest = tile.largest
            self.arg[tile.where] = _first(values == largest)
        else:
            largest = np.where(usable, values, self.limits.min).max(axis=0)
            self.arg[tile.where] = _first((values == largest) & usable)
            counts = usable.sum(axis=0)
            partial = (counts > 0) & (counts < len(values))
            self.gaps |= bool(
                partial.any() if self.pixels is None else (partial & self.pixels[tile.where]).any()
            )
        self.max[tile.where] = largest

    def sample(self, where: Any, kept: Array) -> None:
        """Store the statistics of the ascending rows ``kept`` (pixels, m).

        A pixel with fewer than two values is masked.
        """
        if kept.shape[1] < 2:
            self.mask(where)
            return
        self.kept[where] = kept.shape[1]
        if self.is_float:
            self.average[where], self.deviation[where], self.iqr[where] = _float_statistics(kept)
        else:
            self.total[where], self.scatter_low[where], self.scatter_high[where] = _exact_sums(
                kept, self.is_wide
            )
            self.iqr4[where] = same_quartiles(kept)

    def sample_counted(
        self,
        where: NDArray[np.int64],
        rows: Array,
        counts: NDArray[np.int64],
        size: Callable[[int], int],
    ) -> None:
        """Set moments of rows that begin with ``counts`` valid values each.

        Of ``v`` valid values, the ``size(v)`` smallest are the sample.
        """
        for count in np.unique(counts):
            alike = counts == count
            self.sample(where[alike], rows[alike, : size(int(count))])

    def moments(self) -> IntegerMoments | FloatMoments:
        """Return the moments; pixels that are invalid on every frame are masked."""
        if self.pixels is not None:
            self.mask(~self.pixels)
        fields: dict[str, Any] = {
            name: getattr(self, name).reshape(self.shape) for name in self._fields()
        }
        if self.is_float:
            self.max += 0  # no negative zero
            return FloatMoments(**fields, gaps=self.gaps)
        if not self.scatter_high.any():
            fields["scatter_high"] = None
        return IntegerMoments(**fields, gaps=self.gaps)

    def mask(self, where: Any) -> None:
        """Mask pixels."""
        for name in self._fields():
            getattr(self, name)[where] = 0

    def _fields(self) -> list[str]:
        own = (
            ["average", "deviation", "iqr"]
            if self.is_float
            else ["total", "scatter_low", "scatter_high", "iqr4"]
        )
        return ["kept", *own, "max", "arg"]


def _first(flags: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Return the first frame (p,) on which a flag (n, p) is true, 0 if there is none.

    The flags are overwritten.
    """
    found = np.zeros(flags.shape[1], np.int32)
    most = np.iinfo(np.uint8).max
    weights = np.arange(most, 0, -1, dtype=np.uint8)[:, None]
    for begin in reversed(range(0, len(flags), most)):
        # the first of some frames has the largest weight: faster than argmax along columns
        some = flags[begin : begin + most].view(np.uint8)
        some *= weights[: len(some)]
        weight = some.max(axis=0)
        np.copyto(found, begin + most - weight.astype(np.int32), where=weight > 0)
    return found


def fill(values: Array, usable: NDArray[np.bool_] | None, rows: Array) -> None:
    """Fill ``rows`` (p, n) from ``values`` (n, p); invalid ones become the largest of the type."""
    if usable is not None:
        values = np.where(usable, values, largest_of(values.dtype))
    transpose(values, rows)


def largest_of(dtype: np.dtype[Any]) -> Any:
    """Return the largest value of a type."""
    return (np.finfo if dtype.kind == "f" else np.iinfo)(dtype).max


def transpose(values: Array, rows: Array) -> None:
    """Fill ``rows`` (p, n) from ``values`` (n, p)."""
    n, p = values.shape
    padded = np.empty((min(n, AT_ONCE), min(p, PIXELS_AT_ONCE) + PADDING), values.dtype)
    for first in range(0, p, PIXELS_AT_ONCE):
        pixels = slice(first, min(first + PIXELS_AT_ONCE, p))
        for begin in range(0, n, AT_ONCE):
            frames = slice(begin, min(begin + AT_ONCE, n))
            some = padded[: frames.stop - begin, : pixels.stop - first]
            np.copyto(some, values[frames, pixels])
            np.copyto(rows[pixels, frames], some.T)


def _exact_sums(kept: Array, is_wide: bool) -> tuple[Array, Array, Array | int]:
    """Return S and the two words of m*Q - S*S of ascending integer rows (pixels, m).

    ``is_wide``: values have 32 bits.
    """
    if not is_wide:
        return *_narrow_sums(kept), 0
    # m*Q - S*S does not change when a pixel's smallest value is subtracted, and what is left is
    # often small
    m, lowest = kept.shape[1], kept[:, 0].astype(np.int64)
    shifted = kept - lowest[:, None]
    span = int(shifted[:, -1].max())
    if m * span**2 < 2**53 and (m * span) ** 2 < 2**66:
        total, low = _narrow_sums(shifted)
        high: Array | int = 0
    else:
        total, low, high = _wide_sums(shifted)
    return total + m * lowest, low, high


def _narrow_sums(values: Array) -> tuple[Array, Array]:
    """Return S and m*Q - S*S of integer rows (pixels, m) with short values.

    Q is below 2^53, so that float64 sums are exact, and the result is below 2^64.
    """
    exact, squares = narrow_sums(values)
    total, scatter = exact.astype(np.int64), squares.astype(np.uint64)
    scatter *= np.uint64(values.shape[1])
    # modulo 2^64, as the difference fits
    scatter -= total.astype(np.uint64) ** 2
    return total, scatter


def narrow_sums(values: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return sums of integer rows (pixels, m), and of their squares; both are exact below 2^53."""
    n_pixels, m = values.shape
    total, squares = np.empty(n_pixels), np.empty(n_pixels)
    # a few rows at a time as float64, which then stay in the cache
    some = max(1, IN_CACHE // max(1, m))
    buffer = np.empty((min(some, n_pixels), m))
    for begin in range(0, n_pixels, some):
        rows = slice(begin, min(begin + some, n_pixels))
        exact = buffer[: rows.stop - begin]
        np.copyto(exact, values[rows])
        np.einsum("ij->i", exact, out=total[rows])  # faster than sum
        np.vecdot(exact, exact, out=squares[rows])  # faster than einsum
    return total, squares


def _wide_sums(values: NDArray[np.int64]) -> tuple[Array, Array, Array]:
    """Return S and the two words of m*Q - S*S of values from 0 to 2^32 - 1.

    A value is split into halves of 16 bits: value = a * 2^16 + b.
    """
    m = values.shape[1]
    a, b = (values >> 16).astype(np.float64), (values & 0xFFFF).astype(np.float64)
    sum_a, sum_b = a.sum(axis=1).astype(np.int64), b.sum(axis=1).astype(np.int64)
    dot = [np.einsum("ij,ij->i", x, y).astype(np.int64) for x, y in ((a, a), (a, b), (b, b))]
    # each of the three is below 2^62 in size for m < 2^16
    top, middle, bottom = (
        m * dot[0] - sum_a * sum_a,
        m * dot[1] - sum_a * sum_b,
        m * dot[2] - sum_b * sum_b,
    )
    low = top.astype(np.uint64) << np.uint64(32)
    high = (top >> 32) + (middle >> 47)
    for part in (middle.astype(np.uint64) << np.uint64(17), bottom.astype(np.uint64)):
        low += part
        high += low < part
    return (sum_a << 16) + sum_b, low, high.astype(np.uint64)


def same_quartiles(kept: Array) -> Array:
    """Return 4 * (Q75 - Q25) of ascending integer rows (pixels, m), linearly interpolated."""
    last = kept.shape[1] - 1
    result = np.zeros(len(kept), np.int64)
    for sign, quarters in ((1, 3 * last), (-1, last)):
        index, rest = divmod(quarters, 4)
        result += sign * (4 - rest) * kept[:, index].astype(np.int64)
        if rest:
            result += sign * rest * kept[:, index + 1].astype(np.int64)
    return result


def _float_statistics(kept: Array) -> tuple[Array, Array, Array]:
    """Return average, sum of squared deviations and interquartile range of ascending rows.

    The rows have the shape (pixels, m). The order of operations is fixed.

    Values may be as large as the type allows: what overflows becomes infinite or NaN, and such a
    pixel stands out on no frame.
    """
    columns = np.ascontiguousarray(kept.T, dtype=np.float64)
    m = len(columns)
    with np.errstate(over="ignore", invalid="ignore"):
        average = np.zeros(len(kept))
        for column in columns:
            average += column
        average /= m
        # equal values: their sum may be rounded, their average is known
        constant = columns[0] == columns[-1]
        average[constant] = columns[0][constant]
        average += 0.0  # no negative zero
        deviation = np.zeros(len(kept))
        for column in columns:
            difference = column - average
            difference *= difference
            deviation += difference
        iqr = _interpolate(columns, 3 * (m - 1)) - _interpolate(columns, m - 1)
        iqr += 0.0  # which of equal zeros come first is the sort's choice
    return average, deviation, iqr


def _interpolate(columns: Array, quarters: int) -> Array:
    """Return the value at position quarters / 4 of ascending columns, like ``numpy.quantile``."""
    index, rest = divmod(quarters, 4)
    if not rest:
        return columns[index]
    below, above, weight = columns[index], columns[index + 1], rest / 4
    step = above - below
    return above - step * (1 - weight) if weight >= 0.5 else below + step * weight
