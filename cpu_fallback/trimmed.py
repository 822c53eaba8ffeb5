"""Trimmed statistics of each pixel: tiles of pixels, transposed so that a pixel's values lie in a row, then sorted.

A tile is copied into a buffer with a padded row before it is transposed: transposing the stack itself, whose frames are megabytes apart,
is ten times slower. Sums are exact: every partial sum is an integer below 2^53 held in float64, where SIMD is fastest.
"""

import time
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from cpu_fallback.validity import valid_values
from gpu_spots.model import Array, FloatMoments, IntegerMoments, Validity

TILE = 4096
"""Pixels of a tile: large enough that threads do not fight for the interpreter, small enough for the cache."""
PADDING = 32
"""Columns added to a tile's buffer, so that its rows do not fall on the same cache lines."""
MAX_FRAMES = 65535
"""More frames would overflow the exact sums below."""


class TrimmedStatistics:
    """Computes moments band by band; chooses once the integer type that this machine sorts fastest."""

    def __init__(self) -> None:
        self._short_sort_is_fast = _seconds_to_sort(np.uint16) < 2 * _seconds_to_sort(np.uint32)

    def moments(self, frames: Array, percent: int, validity: Validity) -> IntegerMoments | FloatMoments:
        """Moments of a band; see ``gpu_spots.backend.Backend.trimmed_moments``."""
        n_frames, n_x, n_y = frames.shape
        if n_frames > MAX_FRAMES:
            raise ValueError(f"{n_frames} frames: at most {MAX_FRAMES} can be summed exactly")
        flat = frames.reshape(n_frames, n_x * n_y)
        pixels = None if validity.pixels is None else validity.pixels.reshape(-1)
        band = _Band(n_x * n_y, frames.dtype)
        padded = np.empty((n_frames, TILE + PADDING), frames.dtype)
        rows = np.empty((TILE, n_frames), self._sorting_dtype(frames.dtype))
        for begin in range(0, n_x * n_y, TILE):
            tile = slice(begin, min(begin + TILE, n_x * n_y))
            values = padded[:, : tile.stop - begin]
            np.copyto(values, flat[:, tile])
            usable = valid_values(values, validity)
            if usable is None:
                _whole_tile(band, tile, values, rows[: tile.stop - begin], percent)
            else:
                _tile_with_gaps(band, tile, values, usable, rows[: tile.stop - begin], percent, pixels)
        if pixels is not None:
            band.clear(~pixels)
        return band.moments((n_x, n_y))

    def _sorting_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        if dtype.kind == "f" or dtype.itemsize == 4:
            return dtype
        return np.dtype(f"{dtype.kind}{2 if self._short_sort_is_fast else 4}")


def _seconds_to_sort(dtype: DTypeLike) -> float:
    """Best of three sorts of the same short rows."""
    rows = (np.arange(64 * 180, dtype=np.uint64) * 40503 % 65521).astype(dtype).reshape(64, 180)
    best = np.inf
    for _ in range(3):
        copy = rows.copy()
        start = time.perf_counter()
        copy.sort(axis=1)
        best = min(best, time.perf_counter() - start)
    return best


class _Band:
    """The moments of a band while they are being filled, flat."""

    def __init__(self, n_pixels: int, dtype: np.dtype[Any]) -> None:
        self.is_float = dtype.kind == "f"
        self.is_wide = dtype.itemsize == 4
        self.gaps = False
        self.kept = np.empty(n_pixels, np.int32)
        self.max = np.empty(n_pixels, dtype)
        self.arg = np.empty(n_pixels, np.int32)
        if self.is_float:
            self.average, self.deviation, self.iqr = (np.empty(n_pixels, np.float64) for _ in range(3))
        else:
            self.total, self.iqr4 = np.empty(n_pixels, np.int64), np.empty(n_pixels, np.int64)
            self.scatter_low, self.scatter_high = np.empty(n_pixels, np.uint64), np.zeros(n_pixels, np.uint64)

    def fields(self) -> list[str]:
        own = ["average", "deviation", "iqr"] if self.is_float else ["total", "scatter_low", "scatter_high", "iqr4"]
        return ["kept", *own, "max", "arg"]

    def clear(self, where: Any) -> None:
        for name in self.fields():
            getattr(self, name)[where] = 0

    def sample(self, where: Any, kept: Array) -> None:
        """Store the statistics of the ascending rows ``kept`` (pixels, m)."""
        self.kept[where] = kept.shape[1]
        if self.is_float:
            self.average[where], self.deviation[where], self.iqr[where] = _float_statistics(kept)
        else:
            self.total[where], self.scatter_low[where], self.scatter_high[where] = _exact_sums(kept, self.is_wide)
            self.iqr4[where] = _quartiles(kept)

    def moments(self, shape: tuple[int, int]) -> IntegerMoments | FloatMoments:
        fields: dict[str, Any] = {name: getattr(self, name).reshape(shape) for name in self.fields()}
        if self.is_float:
            self.max += 0  # no negative zero
            return FloatMoments(**fields, gaps=self.gaps)
        if not self.scatter_high.any():
            fields["scatter_high"] = None
        return IntegerMoments(**fields, gaps=self.gaps)


def _whole_tile(band: _Band, tile: slice, values: Array, rows: Array, percent: int) -> None:
    """A tile in which every value is valid: what nearly every tile is."""
    n_frames = len(values)
    np.copyto(rows, values.T)
    largest = values.max(axis=0)
    band.max[tile] = largest
    band.arg[tile] = (rows == largest[:, None]).argmax(axis=1)
    m = n_frames - n_frames * percent // 100
    if m < 2:
        band.clear(tile)
        return
    rows.sort(axis=1)
    band.sample(tile, rows[:, :m])


def _tile_with_gaps(
    band: _Band, tile: slice, values: Array, usable: NDArray[np.bool_], rows: Array, percent: int, pixels: NDArray[np.bool_] | None
) -> None:
    """A tile in which some values are invalid: they are sorted to the end, and pixels with equally many valid values go together."""
    limits: Any = np.finfo(values.dtype) if values.dtype.kind == "f" else np.iinfo(values.dtype)
    largest = np.where(usable, values, limits.min).max(axis=0)
    band.max[tile] = largest
    band.arg[tile] = ((values == largest) & usable).argmax(axis=0)
    np.copyto(rows, np.where(usable, values, limits.max).T)
    rows.sort(axis=1)
    counts = usable.sum(axis=0)
    partial = (counts > 0) & (counts < len(values))
    band.gaps |= bool(partial.any() if pixels is None else (partial & pixels[tile]).any())
    for count in np.unique(counts):
        where = tile.start + np.flatnonzero(counts == count)
        m = int(count - count * percent // 100)
        if m < 2:
            band.clear(where)
        else:
            band.sample(where, rows[counts == count, :m])


def _exact_sums(kept: Array, is_wide: bool) -> tuple[Array, Array, Array | int]:
    """S, and the two words of m*Q - S*S, of ascending integer rows (pixels, m); ``is_wide``: of 32 bits."""
    if not is_wide:
        return *_narrow_sums(kept.astype(np.float64)), 0
    # m*Q - S*S does not change when a pixel's smallest value is subtracted, and what is left is often small
    m, lowest = kept.shape[1], kept[:, 0].astype(np.int64)
    shifted = kept - lowest[:, None]
    span = int(shifted[:, -1].max())
    if m * span**2 < 2**53 and (m * span) ** 2 < 2**66:
        total, low = _narrow_sums(shifted.astype(np.float64))
        high: Array | int = 0
    else:
        total, low, high = _wide_sums(shifted)
    return total + m * lowest, low, high


def _narrow_sums(values: NDArray[np.float64]) -> tuple[Array, Array]:
    """S and m*Q - S*S where Q is below 2^53, so that float64 sums are exact, and the result below 2^64."""
    total = values.sum(axis=1).astype(np.int64)
    squares = np.einsum("ij,ij->i", values, values).astype(np.uint64)
    squares *= np.uint64(values.shape[1])
    # modulo 2^64, as the difference fits
    squares -= total.astype(np.uint64) ** 2
    return total, squares


def _wide_sums(values: NDArray[np.int64]) -> tuple[Array, Array, Array]:
    """S and m*Q - S*S in two words, of values from 0 to 2^32 - 1, by halves of 16 bits: value = a * 2^16 + b."""
    m = values.shape[1]
    a, b = (values >> 16).astype(np.float64), (values & 0xFFFF).astype(np.float64)
    sum_a, sum_b = a.sum(axis=1).astype(np.int64), b.sum(axis=1).astype(np.int64)
    dot = [np.einsum("ij,ij->i", x, y).astype(np.int64) for x, y in ((a, a), (a, b), (b, b))]
    # each of the three is below 2^62 in size for m < 2^16
    top, middle, bottom = m * dot[0] - sum_a * sum_a, m * dot[1] - sum_a * sum_b, m * dot[2] - sum_b * sum_b
    low = top.astype(np.uint64) << np.uint64(32)
    high = (top >> 32) + (middle >> 47)
    for part in (middle.astype(np.uint64) << np.uint64(17), bottom.astype(np.uint64)):
        low += part
        high += low < part
    return (sum_a << 16) + sum_b, low, high.astype(np.uint64)


def _quartiles(kept: Array) -> Array:
    """4 * (Q75 - Q25) of ascending integer rows (pixels, m), linear interpolation."""
    last = kept.shape[1] - 1
    result = np.zeros(len(kept), np.int64)
    for sign, quarters in ((1, 3 * last), (-1, last)):
        index, rest = divmod(quarters, 4)
        result += sign * (4 - rest) * kept[:, index].astype(np.int64)
        if rest:
            result += sign * rest * kept[:, index + 1].astype(np.int64)
    return result


def _float_statistics(kept: Array) -> tuple[Array, Array, Array]:
    """Average, sum of squared deviations and interquartile range of ascending rows (pixels, m), in a fixed order of operations.

    Values may be as large as the type allows: what overflows becomes infinite or NaN, and such a pixel stands out on no frame.
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
    return average, deviation, iqr


def _interpolate(columns: Array, quarters: int) -> Array:
    """The value at position quarters / 4 of ascending columns, as ``numpy.quantile`` rounds it."""
    index, rest = divmod(quarters, 4)
    if not rest:
        return columns[index]
    below, above, weight = columns[index], columns[index + 1], rest / 4
    step = above - below
    return above - step * (1 - weight) if weight >= 0.5 else below + step * weight
