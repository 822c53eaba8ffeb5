"""Clip of a pixel's values, or of its blocks of frames: docs/decisions/clip-background.md.

Values are sorted first, so that a sample is the first m values of a pixel, and its sums are
differences of cumulative sums. Few pixels change after the first step, and only these are looked at
again.
"""

from collections.abc import Callable
from copy import copy
from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from cpu_fallback.kruskal import _Blocks
from cpu_fallback.moments import Band, Tile, narrow_sums, tiles
from cpu_fallback.trimmed import TILE, sorting_dtype
from gpu_spots.background.clip import BLOCK_MARGIN, BLOCK_STEPS, STEPS, limit, lower_half, unclipped
from gpu_spots.background.methods import Clip
from gpu_spots.model import FACTOR_BITS, Array, FloatMoments, IntegerMoments, Validity

TILE_VALUES = 1 << 18
"""Values of a tile where blocks are compared: some megabytes of work."""

FEWEST, FEW = 4, 16
"""In all but a few pixels at most that many values are left out, and one of that many more."""
LONG_ROW = 24
"""Values of a pixel that are faster added up along the row, without what comes in between."""
TOP_VALUES = 1 << 16
"""Values whose cumulative sums are taken at a time."""

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Moments = Callable[[Counts, NDArray[np.int64]], tuple[Floats, Floats, Floats]]
"""Mean, population variance and variance of the first ``m`` values of some pixels."""


def clip_moments(frames: Array, method: Clip, validity: Validity) -> IntegerMoments | FloatMoments:
    """Return the moments of a band; see ``cpu_fallback.background.moments``."""
    if method.levels is not None and not method.levels.all():
        return _of_some_frames(frames, method, validity)
    if method.levels is not None:
        return _levelled(Band(frames, validity), frames, method, validity)
    if method.block_of_frame is not None:
        return _by_blocks(frames, method, validity)
    band = Band(frames, validity)
    buffer = np.empty((min(TILE, frames[0].size), len(frames)), sorting_dtype(frames.dtype))
    for tile in tiles(frames, validity, TILE):
        rows = buffer[: tile.values.shape[1]]
        band.load(tile, rows)
        rows.sort(axis=1)
        if tile.usable is None:
            _sample(band, tile.where, rows, method)
            continue
        where, counts = np.arange(tile.where.start, tile.where.stop), tile.usable.sum(axis=0)
        for count in np.unique(counts):
            alike = counts == count
            _sample(band, where[alike], rows[alike, : int(count)], method)
    return band.moments()


def _of_some_frames(
    frames: Array, method: Clip, validity: Validity
) -> IntegerMoments | FloatMoments:
    """Return the moments of a band without the frames whose level is 0."""
    assert method.levels is not None
    with_beam = np.flatnonzero(method.levels)
    some = method.of_frames(with_beam)
    _, n_rows, n_columns = frames.shape
    step = max(1, TILE_VALUES // (len(with_beam) * n_columns))
    parts = [
        clip_moments(frames[with_beam, row : row + step], some, validity.rows(row, row + step))
        for row in range(0, n_rows, step)
    ]
    maps: dict[str, Any] = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts])
        for field in fields(parts[0])
        if isinstance(getattr(parts[0], field.name), np.ndarray)
    }
    maps["arg"] = np.where(maps["kept"] > 0, with_beam[maps["arg"]], 0).astype(np.int32)
    return replace(parts[0], **maps, gaps=any(part.gaps for part in parts))


def _sample(band: Band, where: Any, rows: Array, method: Clip) -> None:
    """Store the statistics of ascending rows (p, n) after the clip."""
    n = rows.shape[1]
    m = int(method.start.kept[n])
    if m < 2:
        band.sample(where, rows[:, :m])
        return
    shift, width = float(method.start.shift[n]), float(method.start.width[n])
    if band.is_float:
        m_of_pixel = _steps(*_of_floats(rows), len(rows), m, shift, width, 0.0)
    elif band.is_wide:
        m_of_pixel = _steps(*_of_integers(rows), len(rows), m, shift, width, 1.0)
    else:
        _sample_short(band, where, rows, m, shift, width)
        return
    if isinstance(where, slice):
        where = np.arange(where.start, where.stop)
    band.sample_counted(where, rows, m_of_pixel, int)


def _levelled(
    band: Band, frames: Array, method: Clip, validity: Validity
) -> IntegerMoments | FloatMoments:
    """Moments of a band whose frames are brought to one level by the background of each pixel."""
    assert method.levels is not None
    # levelled values may be beyond the type of the frames
    band.is_wide = not band.is_float
    above = method.levels.astype(np.int64) - (1 << FACTOR_BITS)
    blocks = None if method.block_of_frame is None else _Blocks.of(method.block_of_frame)
    n_frames = len(frames)
    step = max(1, TILE_VALUES // n_frames)
    buffer = np.empty((min(step, frames[0].size), n_frames), _row_dtype(frames.dtype))
    for tile in tiles(frames, validity, step):
        rows = buffer[: tile.values.shape[1]]
        band.load(tile, rows)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            if blocks is None:
                rows.sort(axis=1)
                start = _starts(rows, tile.usable, method)
            else:
                start = _Comparison(tile, blocks, method.block_shifts).mean
            values = _less(tile.values, above, start)
            levelled = Tile(tile.where, values, tile.usable)
            left = None
            if blocks is not None:
                left = _Comparison(levelled, blocks, method.block_shifts).left()[blocks.of_frame]
        usable = np.ones(values.shape, bool) if tile.usable is None else tile.usable
        kept = usable if left is None else usable & left
        most = np.inf if band.is_float else np.iinfo(np.int64).max
        rows = np.where(kept, values, most).T
        rows.sort(axis=1)
        where, counts = np.arange(tile.where.start, tile.where.stop), kept.sum(axis=0)
        if left is not None:
            band.sample_counted(where, rows, counts, int)
            continue
        for count in np.unique(counts):
            alike = counts == count
            _sample(band, where[alike], rows[alike, : int(count)], method)
    return band.moments()


def _starts(rows: Array, usable: NDArray[np.bool_] | None, method: Clip) -> Floats:
    """Return the first background (p,) for the clip of ascending rows (p, n); 0 if masked."""
    means = np.zeros(len(rows))
    counts = np.full(len(rows), rows.shape[1]) if usable is None else usable.sum(axis=0)
    for count in np.unique(counts):
        m = int(method.start.kept[count])
        if m < 2:
            continue
        alike = np.flatnonzero(counts == count)
        some = rows[alike, :count]
        moments, _ = (_of_floats if rows.dtype.kind == "f" else _of_integers)(some)
        mean, population, _ = moments(np.full(len(alike), m), np.arange(len(alike)))
        means[alike], _ = _start(
            mean, population, float(method.start.shift[count]), float(method.start.width[count])
        )
    return means


def _less(values: Array, above: Counts, background: Floats) -> Array:
    """Return values (n, p) less ``above`` (n,), in 2^-16, times their background (p,)."""
    if values.dtype.kind == "f":
        part = (above / 2**FACTOR_BITS)[:, None] * background
        return (values.astype(np.float64) - part).astype(values.dtype)
    sixteenths = np.floor(16.0 * background).astype(np.int64)
    lowest = int(np.iinfo(values.dtype).min) - 2**30
    left = values - ((above[:, None] * sixteenths + (1 << 19)) >> 20)
    return np.clip(left, lowest, lowest + 2**32 - 1)


def _start(mean: Floats, population: Floats, shift: float, width: float) -> tuple[Floats, Floats]:
    """Return mean and variance of all values, as if the smallest were those of a Gaussian."""
    sd = np.sqrt(population) / width
    return mean + shift * sd, sd * sd


def _steps(
    moments: Moments,
    count: Callable[[Floats, NDArray[np.int64]], Counts],
    n_pixels: int,
    m: int,
    shift: float,
    width: float,
    quantum: float,
) -> Counts:
    """Return (p,) int64: the number of smallest values that each pixel keeps."""
    pixels = np.arange(n_pixels)
    kept = np.full(n_pixels, m)
    with np.errstate(over="ignore", invalid="ignore"):
        mean, population, _ = moments(kept, pixels)
        mean, variance = _start(mean, population, shift, width)
        for step in range(STEPS):
            found = np.maximum(count(limit(mean, variance, quantum), pixels), 2)
            changed = (found != kept[pixels]) | (step == 0)
            kept[pixels] = found
            pixels, found = pixels[changed], found[changed]
            if not len(pixels):
                break
            mean, _, variance = moments(found, pixels)
            mean, variance = unclipped(mean, variance, quantum)
    return kept


def _of_integers(rows: Array) -> tuple[Moments, Callable[[Floats, NDArray[np.int64]], Counts]]:
    """Return what `_steps` needs of ascending integer rows of any size."""
    n, lowest = rows.shape[1], rows[:, :1].astype(np.int64)
    shifted: Array = rows - lowest
    if (n * int(shifted[:, -1].max(initial=0))) ** 2 >= 2**63:
        shifted = shifted.astype(object)
    sums, squares = (
        np.concatenate([np.zeros_like(lowest, shifted.dtype), values.cumsum(axis=1)], axis=1)
        for values in (shifted, shifted * shifted)
    )

    def moments(m: Counts, pixels: NDArray[np.int64]) -> tuple[Floats, Floats, Floats]:
        total, square = sums[pixels, m], squares[pixels, m]
        scatter = (m * square - total * total).astype(np.float64)
        total = (total + m * lowest[pixels, 0]).astype(np.float64)
        return _of_sums(m.astype(np.float64), total, scatter)

    def count(most: Floats, pixels: NDArray[np.int64]) -> Counts:
        return np.count_nonzero(rows[pixels] <= most[:, None], axis=1)

    return moments, count


def _of_sums(m: Floats | float, total: Floats, scatter: Floats) -> tuple[Floats, Floats, Floats]:
    """Return mean, population variance and variance from S and m*Q - S*S."""
    return total / m, scatter / (m * m), scatter / (m * (m - 1.0))


def _of_floats(rows: Array) -> tuple[Moments, Callable[[Floats, NDArray[np.int64]], Counts]]:
    """Return what `_steps` needs of ascending rows of floats."""
    columns = np.ascontiguousarray(rows.T, dtype=np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        sums = np.cumsum(columns, axis=0)

    def moments(m: Counts, pixels: NDArray[np.int64]) -> tuple[Floats, Floats, Floats]:
        number = m.astype(np.float64)
        mean = sums[m - 1, pixels] / number
        same = columns[0, pixels] == columns[m - 1, pixels]
        mean = np.where(same, columns[0, pixels], mean) + 0.0
        deviation = np.zeros(len(m))
        for i in range(int(m.max(initial=0))):
            difference = columns[i, pixels] - mean
            difference *= difference
            deviation += np.where(i < m, difference, 0.0)
        return mean, deviation / number, deviation / (number - 1.0)

    def count(most: Floats, pixels: NDArray[np.int64]) -> Counts:
        return np.count_nonzero(columns[:, pixels] <= most, axis=0)

    return moments, count


def _sample_short(band: Band, where: Any, rows: Array, m: int, shift: float, width: float) -> None:
    """Store the statistics of ascending rows (p, n) of 8- or 16-bit values after the clip."""
    n_pixels, n = rows.shape
    low = narrow_sums(rows[:, :m])
    mean, population, _ = _of_sums(float(m), low[0], _as_float(_scatter(m, *low)))
    most = limit(*_start(mean, population, shift, width), 1.0)
    kept, total, square = (np.empty(n_pixels, kind) for kind in (np.int64, float, float))
    columns = min(n - m, FEWEST + n // FEW)
    if n - columns >= m + LONG_ROW:
        more = narrow_sums(rows[:, m : n - columns])
        low, m = (low[0] + more[0], low[1] + more[1]), n - columns
    beyond = np.ones(n_pixels, bool)
    step = max(1, TOP_VALUES // (n - m + 1))
    for begin in range(0, n_pixels, step):
        part = slice(begin, begin + step)
        kept[part], total[part], square[part], beyond[part] = _largest_left_out(
            rows[part], m, columns, (low[0][part], low[1][part]), most[part]
        )
    left = np.flatnonzero(beyond)
    while len(left) and columns < n - 2:
        columns = min(n - 2, 4 * max(1, columns))
        step = max(1, TOP_VALUES // columns)
        for begin in range(0, len(left), step):
            again = left[begin : begin + step]
            some = rows[again]
            kept[again], total[again], square[again], beyond[again] = _largest_left_out(
                some, n - columns, columns, narrow_sums(some[:, : n - columns]), most[again]
            )
        left = left[beyond[left]]
    band.kept[where], band.total[where] = kept, total
    band.scatter_low[where] = _scatter(kept, total, square)
    band.iqr4[where] = _quartiles(rows, kept)


def _largest_left_out(
    rows: Array, m: int, columns: int, low: tuple[Floats, Floats], most: Floats
) -> tuple[Counts, Floats, Floats, NDArray[np.bool_]]:
    """Leave out the largest values of some pixels, ``columns`` at most.

    Args:
        rows: (p, n): ascending 8- or 16-bit values.
        m: ``n - columns`` or less.
        columns: values that are left out at most.
        low: (p,) float64 each: sums of the first ``m`` values, and of their squares.
        most: (p,) float64, counts: limit of the first step.

    Returns:
        (p,) each: how many values are kept, int64; their sum, and that of their squares, float64;
        and whether, in any step, ``columns`` or more were to be left out.
    """
    n_pixels, n = rows.shape
    high = np.ascontiguousarray(rows[:, m:].T)
    top = high[len(high) - columns :]
    sums, squares = (np.empty((columns + 1, n_pixels)) for _ in "12")
    sums[0], squares[0] = low
    value = np.empty(n_pixels)
    for i, column in enumerate(high, columns - len(high)):
        at, to = (i, i + 1) if i >= 0 else (0, 0)
        np.copyto(value, column)
        np.add(sums[at], value, out=sums[to])
        np.multiply(value, value, out=value)
        np.add(squares[at], value, out=squares[to])
    # the difference of m*Q and S*S is exact below this
    is_small = n * float(squares[-1].max(initial=0.0)) < 2.0**53
    of_type = np.iinfo(rows.dtype)

    of_pixel = np.zeros(n_pixels, np.int64)
    beyond = np.zeros(n_pixels, bool)
    pixels = np.arange(n_pixels)
    for step in range(STEPS):
        highest = np.minimum(np.maximum(np.floor(most), of_type.min), of_type.max)
        found = _number(top <= highest.astype(rows.dtype))
        beyond[pixels[found == 0]] = True
        if step:
            changed = np.flatnonzero(found != of_pixel[pixels])
            pixels, found, top = pixels[changed], found[changed], top[:, changed]
        of_pixel[pixels] = found
        if step == STEPS - 1 or not len(pixels):
            break
        at = found * n_pixels + pixels
        total, square = sums.reshape(-1).take(at), squares.reshape(-1).take(at)
        found += n - columns
        m_of = found.astype(np.float64)
        scatter = m_of * square - total * total if is_small else _scatter(found, total, square)
        mean, _, variance = _of_sums(m_of, total, _as_float(scatter))
        most = limit(*unclipped(mean, variance, 1.0), 1.0)
    at = of_pixel * n_pixels + np.arange(n_pixels)
    total, square = sums.reshape(-1).take(at), squares.reshape(-1).take(at)
    return of_pixel + (n - columns), total, square, beyond


def _number(flags: NDArray[np.bool_]) -> Counts:
    """Return the number of true flags (n, p) of each pixel, (p,) int64."""
    small = np.uint8 if len(flags) < 256 else np.int64
    return np.add.reduce(flags.view(np.uint8), axis=0, dtype=small).astype(np.int64)


def _scatter(m: Counts | int, total: Floats, square: Floats) -> Array:
    """Return m*Q - S*S exactly, from whole numbers: float64 below 2^53, else uint64."""
    scaled = np.asarray(m, np.float64) * square
    if float(scaled.max(initial=0.0)) < 2.0**53:
        return scaled - total * total
    whole, squares = total.astype(np.int64), square.astype(np.int64)
    # modulo 2^64, as the difference fits
    return (m * squares - whole * whole).view(np.uint64)


def _as_float(values: Array) -> Floats:
    return values.astype(np.float64, copy=False)


def _quartiles(rows: Array, kept: Counts) -> Counts:
    """Return 4 * (Q75 - Q25) of the first ``kept`` values of ascending integer rows (p, n)."""
    n_pixels, n = rows.shape
    values, begin = rows.reshape(-1), np.arange(0, n_pixels * n, n)
    last = np.maximum(kept - 1, 0)
    end = begin + last
    result = np.zeros(n_pixels, np.int64)
    for sign, place in ((1, 3 * last), (-1, last)):
        index, weight = begin + (place >> 2), place & 3
        low = values.take(index).astype(np.int64)
        index += 1
        high = values.take(np.minimum(index, end)).astype(np.int64)
        high -= low
        high *= weight
        high += 4 * low
        result += sign * high
    return result


# ------------------------------------------------------------------------- blocks of frames


def _by_blocks(frames: Array, method: Clip, validity: Validity) -> IntegerMoments | FloatMoments:
    """Moments of a band whose blocks are compared."""
    assert method.block_of_frame is not None
    blocks = _Blocks.of(method.block_of_frame)
    band = Band(frames, validity)
    n_frames, n_pixels = len(frames), frames[0].size
    step = max(1, TILE_VALUES // n_frames)
    buffer = np.empty((min(step, n_pixels), n_frames), sorting_dtype(frames.dtype))
    for tile in tiles(frames, validity, step):
        rows = buffer[: tile.values.shape[1]]
        band.load(tile, rows)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            comparison = _Comparison(tile, blocks, method.block_shifts)
            left = comparison.left()
        _leave_out(rows, left, blocks, band.limits.max)
        rows.sort(axis=1)
        if comparison.lowest is not None:
            comparison.store(band, tile.where, rows, left)
        elif tile.usable is None and left.all():
            band.sample(tile.where, rows)
        else:
            counts = comparison.size(left)
            where = np.arange(tile.where.start, tile.where.stop)
            band.sample_counted(where, rows, counts, int)
    return band.moments()


def _leave_out(rows: Array, left: NDArray[np.bool_], blocks: _Blocks, largest: Any) -> None:
    """Replace values of rows (p, n) where ``left`` (b, p) is false by the largest of their type."""
    values, n_frames = rows.reshape(-1), rows.shape[1]
    block, pixel = np.divmod(np.flatnonzero(~left), left.shape[1])
    begin, size = blocks.begin[block], (blocks.begin[1:] - blocks.begin[:-1])[block]
    pixel *= n_frames
    for i in range(int(size.max(initial=0))):
        if i:
            some = size > i
            begin, size, pixel = begin[some], size[some], pixel[some]
        values[pixel + blocks.order.take(begin + i)] = largest


def _row_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type in which values are sorted: some processors sort short integers slowly."""
    return np.dtype(f"{dtype.kind}{max(4, dtype.itemsize)}")


class _Comparison:
    """The blocks of some pixels, (b, p) each, while it is decided which are kept."""

    def __init__(self, tile: Tile, blocks: _Blocks, shifts: Floats) -> None:
        is_float = tile.values.dtype.kind == "f"
        self.quantum = 0.0 if is_float else 1.0
        self.sizes: Counts
        """(b, p), or (b, 1) where all values are valid."""
        self.totals: Array
        """(b, p): int64, or float64, exact where they are integers."""
        self.lowest: Floats | None = None
        """(p,) float64: smallest value of a pixel, 8- and 16-bit values; else None."""
        if is_float:
            self.sizes, self.totals, self.scatters = _float_sums(tile, blocks)
        elif tile.values.dtype.itemsize > 2:
            self.sizes, self.totals, self.scatters = _integer_sums(tile, blocks)
        else:
            self.lowest, self.sizes, self.sums, self.squares, keys = _short_sums(tile, blocks)
            number = self.sizes.astype(np.float64)
            self.totals = self.sums + number * self.lowest
            self.scatters = _as_float(_scatter(self.sizes, self.sums, self.squares))
            self.scatters /= np.maximum(number, 1.0)
        if tile.usable is None:
            self.sizes = self.sizes[:, :1]
        self.number = self.sizes.astype(np.float64)
        self.means = self.totals / self.number
        self.all_there = bool((self.sizes > 0).all())
        self.there = np.broadcast_to(self.sizes > 0, self.means.shape)
        if not self.all_there:
            self.means[~self.there] = np.inf
        if (self.sizes == self.sizes[0]).all():
            # the limit of all blocks of a pixel is one number
            self.number = self.number[:1]
        n_blocks = _number(self.there) if not self.all_there else len(self.means)
        n_values = self.sizes.sum(axis=0).astype(np.float64)
        half = np.broadcast_to(
            np.array([lower_half(b) for b in range(len(shifts))])[n_blocks], self.means.shape[1:]
        )
        if self.lowest is None or not (self.all_there and len(self.number) == 1):
            keys = self.means
        left = self._lowest(half, keys)
        bits = _bits(left)
        mean = _in_order(self.means, bits) / np.maximum(half, 1)
        self.variance = self._pooled(left, bits, self.size(left))
        error = np.divide(
            self.variance * n_blocks, n_values, out=np.zeros_like(mean), where=n_values > 0
        )
        self.mean = mean + shifts[n_blocks] * np.sqrt(error)

    def left(self) -> NDArray[np.bool_]:
        """Return (b, p) bool: the blocks that are kept; those without valid values are not."""
        if not (self.all_there and len(self.number) == 1):
            return self._steps(self.mean, self.variance)
        # pixels that keep all blocks in the first step and in the second do so in all
        left = np.ones(self.means.shape, bool)
        most, then = (
            limit(mean, variance, self.quantum, self.number[0], BLOCK_MARGIN)
            for mean, variance in ((self.mean, self.variance), self._moments_of_all())
        )
        highest = self.means.max(axis=0)
        pixels = np.flatnonzero(~((highest <= most) & (highest <= then)))
        if len(pixels):
            left[:, pixels] = self._of(pixels)._steps(self.mean[pixels], self.variance[pixels])
        return left

    def _of(self, pixels: NDArray[np.int64]) -> "_Comparison":
        """Return what `_steps` needs of some pixels; all blocks have valid values."""
        part = copy(self)
        part.totals = self.totals.take(pixels, axis=1)
        part.scatters = self.scatters.take(pixels, axis=1)
        part.means = self.means.take(pixels, axis=1)
        part.there = self.there[:, : len(pixels)]
        if self.sizes.shape[1] > 1:
            part.sizes = self.sizes.take(pixels, axis=1)
        return part

    def _steps(self, mean: Floats, variance: Floats) -> NDArray[np.bool_]:
        """Return (b, p) bool: the blocks that are kept, from the mean and variance of the first."""
        for step in range(BLOCK_STEPS):
            left = self.means <= limit(mean, variance, self.quantum, self.number, BLOCK_MARGIN)
            left &= self.there
            none = np.flatnonzero(~left.any(axis=0))
            if len(none):
                left[self.means[:, none].argmin(axis=0), none] = self.there[:, none].any(axis=0)
            if step < BLOCK_STEPS - 1:
                mean, variance = self._moments(left)
        return left

    def store(self, band: Band, where: slice, rows: Array, left: NDArray[np.bool_]) -> None:
        """Store the statistics of ascending 8- or 16-bit rows (p, n).

        The first values of a row are those of the blocks that are ``left``, (b, p) bool.
        """
        assert self.lowest is not None
        kept = self.size(left)
        bits = _bits(left)
        total, square = (_in_order(each, bits) for each in (self.sums, self.squares))
        band.kept[where], band.total[where] = kept, total + kept * self.lowest
        band.scatter_low[where] = _scatter(kept, total, square)
        band.iqr4[where] = _quartiles(rows, kept)
        masked = np.flatnonzero(kept < 2)
        if len(masked):
            band.sample(where.start + masked, rows[masked, :0])

    def _lowest(self, half: Counts, keys: Array) -> NDArray[np.bool_]:
        """Return (b, p) bool: the blocks of lowest mean; ties: the first of the run.

        ``keys`` (b, p) are the means, or numbers in the same order.
        """
        ascending = np.ascontiguousarray(keys.T)
        ascending.sort(axis=1)
        highest = ascending[np.arange(len(half)), np.maximum(half - 1, 0)]
        left = (keys <= highest) & self.there
        more = np.flatnonzero(_number(left) > half)
        if len(more):
            some = keys.take(more, axis=1)
            tied = some == highest[more]
            below = _number(some < highest[more])
            left[:, more] &= ~tied | (tied.cumsum(axis=0) <= half[more] - below)
        return left

    def size(self, left: NDArray[np.bool_]) -> Counts:
        """Return the number of values (p,) int64 of the blocks that are left."""
        if len(self.number) == 1 and self.all_there:
            return _number(left) * self.sizes[0, 0]
        return np.add.reduce(np.broadcast_to(self.sizes, left.shape), axis=0, where=left)

    def _moments(self, left: NDArray[np.bool_]) -> tuple[Floats, Floats]:
        """Return mean and variance (p,) of the values of the blocks that are left.

        Sums of integers are exact, and rounded once.
        """
        bits = _bits(left)
        if self.totals.dtype.kind == "f":
            total = _in_order(self.totals, bits)
        else:
            total = np.add.reduce(self.totals, axis=0, where=left).astype(np.float64)
        size = self.size(left)
        return total / np.maximum(size, 1), self._pooled(left, bits, size)

    def _moments_of_all(self) -> tuple[Floats, Floats]:
        """Return the same of all blocks, where each has as many values as the others."""
        is_float = self.totals.dtype.kind == "f"
        total = _in_order(self.totals) if is_float else self.totals.sum(axis=0).astype(np.float64)
        size, n_blocks = int(self.sizes[0, 0]), len(self.totals)
        variance = np.zeros(len(total))
        if size > 1:
            variance = _in_order(self.scatters) / (n_blocks * (size - 1))
        return total / (n_blocks * size), variance

    def _pooled(self, left: NDArray[np.bool_], bits: NDArray[np.int64], size: Counts) -> Floats:
        """Return the variance (p,) of a value inside the blocks that are left.

        They have ``size`` values.
        """
        freedom = size - _number(left)
        scatter = _in_order(self.scatters, bits)
        return np.divide(scatter, freedom, out=np.zeros(len(scatter)), where=freedom > 0)


def _in_order(values: Floats, bits: NDArray[np.int64] | None = None) -> Floats:
    """Return the sums (p,) over blocks, added one after the other.

    ``bits``: `_bits` of those that are left, (b, p); None: all.
    """
    if bits is not None:
        values = (values.view(np.int64) & bits).view(np.float64)
    if values.shape[1] == 1:
        # NumPy adds up pairs where all values follow each other in memory
        return np.cumsum(values, axis=0)[-1] + 0.0
    return np.add.reduce(values, axis=0, initial=0.0)


def _bits(left: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return all bits where true, else none: with them a float64 stays, or becomes 0."""
    return np.negative(left.view(np.int8)).astype(np.int64)


def _short_sums(tile: Tile, blocks: _Blocks) -> tuple[Floats, Counts, Floats, Floats, Array]:
    """Return sums of 8- or 16-bit values, less the lowest of each pixel.

    Returns:
        (p,) float64: the lowest value; (b, p) each: number of values, int64, or (b, 1) where all
        are valid; their sum, and that of their squares, float64, exact; and their sum as a short
        integer.
    """
    values, usable = tile.values, tile.usable
    n_blocks, n_pixels = len(blocks.begin) - 1, values.shape[1]
    known = values if usable is None else np.where(usable, values, np.iinfo(values.dtype).max)
    lowest = known.min(axis=0)
    # differences modulo 2^8 or 2^16 are right, as they fit
    unsigned = np.dtype(f"u{values.dtype.itemsize}")
    above = known.view(unsigned) - lowest.view(unsigned)
    if usable is not None:
        above[~usable] = 0
    above = above.astype(np.uint16, copy=False)
    n_frames = blocks.begin[1:] - blocks.begin[:-1]
    sizes = n_frames[:, None]
    if usable is not None:
        sizes = np.add.reduceat(usable[blocks.order], blocks.begin[:-1], axis=0, dtype=np.int64)

    sums = np.zeros((n_blocks, n_pixels), np.uint16)
    squares = np.zeros((n_blocks, n_pixels), np.uint32)
    for i in range(int(n_frames.max())):
        # the i-th frame of each block
        which = slice(None) if n_frames.min() > i else np.flatnonzero(n_frames > i)
        some = above.take(blocks.order[blocks.begin[:-1][which] + i], axis=0)
        sums[which] += some
        square = some.astype(np.uint32)
        square *= square
        squares[which] += square
    exact, exact_squares = sums.astype(np.float64), squares.astype(np.float64)
    # sums of a few pixels do not fit 16 bits, or those of their squares 32
    large = np.flatnonzero(above.max(axis=0) >= (1 << 16) // int(n_frames.max()))
    if len(large):
        values = above[:, large].astype(np.float64)[blocks.order]
        exact[:, large] = np.add.reduceat(values, blocks.begin[:-1], axis=0)
        values *= values
        exact_squares[:, large] = np.add.reduceat(values, blocks.begin[:-1], axis=0)
    keys = exact.astype(np.uint32) if len(large) else sums
    return lowest.astype(np.float64), sizes, exact, exact_squares, keys


def _integer_sums(tile: Tile, blocks: _Blocks) -> tuple[Counts, Counts, Floats]:
    """Return number, sum and sum of squared deviations, (b, p) each; 32 bits."""
    values, usable = tile.values, tile.usable
    lowest = values.min(axis=0).astype(np.int64)
    span = int((values.max(axis=0) - lowest).max(initial=0))
    kind: DTypeLike = object if (len(values) * span) ** 2 >= 2**63 else np.int64
    shape = len(blocks.begin) - 1, values.shape[1]
    sizes, totals, scatters = np.empty(shape, np.int64), np.empty(shape, np.int64), np.empty(shape)
    value, sums, squares = (np.empty(shape[1], kind) for _ in "123")
    for block in range(shape[0]):
        frames = blocks.order[blocks.begin[block] : blocks.begin[block + 1]]
        sums[:] = squares[:] = 0
        for frame in frames:
            value[:] = values[frame] - lowest
            if usable is not None:
                value[~usable[frame]] = 0
            sums += value
            value *= value
            squares += value
        size = len(frames) if usable is None else usable[frames].sum(axis=0)
        sizes[block] = size
        totals[block] = sums.astype(np.int64) + sizes[block] * lowest
        scatter = sizes[block] * squares - sums * sums
        scatters[block] = scatter.astype(np.float64) / np.maximum(sizes[block], 1)
    return sizes, totals, scatters


def _float_sums(tile: Tile, blocks: _Blocks) -> tuple[Counts, Floats, Floats]:
    """Return the sums of float values, with the values of each block in ascending order."""
    n_blocks, p = len(blocks.begin) - 1, tile.values.shape[1]
    sizes = np.empty((n_blocks, p), np.int64)
    totals, scatters = np.zeros((n_blocks, p)), np.zeros((n_blocks, p))
    for block in range(n_blocks):
        which = blocks.order[blocks.begin[block] : blocks.begin[block + 1]]
        values = tile.values[which].astype(np.float64)
        usable = np.ones(values.shape, bool) if tile.usable is None else tile.usable[which]
        values[~usable] = np.inf
        values.sort(axis=0)
        sizes[block] = usable.sum(axis=0)
        for i, row in enumerate(values):
            totals[block] += np.where(i < sizes[block], row, 0.0)
        last = values[np.maximum(sizes[block] - 1, 0), np.arange(p)]
        mean = totals[block] / np.maximum(sizes[block], 1)
        mean = np.where(values[0] == last, values[0], mean)
        for i, row in enumerate(values):
            difference = row - mean
            scatters[block] += np.where(i < sizes[block], difference * difference, 0.0)
    return sizes, totals, scatters
