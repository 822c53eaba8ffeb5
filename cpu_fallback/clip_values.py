"""Clip of a pixel's values, runs without blocks.

Values are sorted first, so that a sample is the first m values of a pixel, and its sums are
differences of cumulative sums. Few pixels change after the first step, and only these are looked at
again.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpu_fallback.moments import Band, Tile, narrow_sums, places, same_quartiles
from gpu_spots.background.clip import STEPS, limit, unclipped
from gpu_spots.background.methods import Clip
from gpu_spots.model import Array

TILE, TILE_VALUES, MOST_PIXELS = 1 << 12, 3 << 19, 1 << 15
"""Pixels of a tile, at least, and values and pixels, at most if there are more pixels. With smaller
tiles, threads wait for the interpreter.
"""
FEWEST, FEW = 4, 16
"""In all but a few pixels at most that many values are left out, and one of that many more."""
TOP_VALUES = 1 << 18
"""Values whose cumulative sums are taken at a time."""

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Sums = tuple[Floats, Floats]
"""Sums of values, and of their squares, (p,) float64 each."""
Moments = Callable[[Counts, NDArray[np.int64]], tuple[Floats, Floats, Floats]]
"""Mean, population variance and variance of the first ``m`` values of some pixels."""


def tile_pixels(n_frames: int) -> int:
    """Return the pixels of a tile."""
    return max(TILE, min(TILE_VALUES // n_frames, MOST_PIXELS))


def store_samples(
    band: Band,
    tile: Tile,
    rows: Array,
    method: Clip,
    base: Counts | None = None,
    low: Sums | None = None,
) -> None:
    """Store the statistics of a tile after the clip.

    Args:
        band: receiver of the statistics.
        tile: place of the pixels, and which of their values are valid.
        rows: (p, n): their values, ascending, valid ones first.
        method: the clip.
        base: (p,): what was subtracted from 8- or 16-bit values; None: nothing.
        low: sums of the first values that `starts` took; None: unknown.
    """
    if tile.usable is None:
        _store_sample(band, tile.where, rows, method, base, low)
        return
    where, counts = places(tile.where), tile.usable.sum(axis=0)
    for count in np.unique(counts):
        alike = np.flatnonzero(counts == count)
        of_low = None if low is None else (low[0][alike], low[1][alike])
        _store_sample(
            band, where[alike], rows[alike, : int(count)], method, _of(base, alike), of_low
        )


def _store_sample(
    band: Band, where: Any, rows: Array, method: Clip, base: Counts | None, low: Sums | None
) -> None:
    """Store the statistics of ascending rows (p, n) without invalid values."""
    n = rows.shape[1]
    m = int(method.start.kept[n])
    if m < 2:
        band.sample(where, rows[:, :m])
        return
    shift, width = float(method.start.shift[n]), float(method.start.width[n])
    is_known_short = base is not None or low is not None
    if band.is_float:
        m_of_pixel = _steps(*_of_floats(rows), len(rows), m, shift, width, 0.0)
    elif band.is_wide and not is_known_short:
        m_of_pixel = _steps(*_of_integers(rows), len(rows), m, shift, width, 1.0)
    else:
        low = narrow_sums(rows[:, :m]) if low is None else low
        _sample_short(band, where, rows, m, shift, width, low, base)
        return
    band.sample_counted(places(where), rows, m_of_pixel, int)


def starts(
    rows: Array, usable: NDArray[np.bool_] | None, method: Clip, *, is_short: bool
) -> tuple[Floats, Sums | None]:
    """Return the first background (p,) for the clip of ascending rows (p, n); 0 if masked.

    Also returns the sums of the values that it comes from, of short values.

    ``is_short``: the values have 8 or 16 bits.
    """
    means = np.zeros(len(rows))
    sums = (np.zeros(len(rows)), np.zeros(len(rows))) if is_short else None
    counts = None if usable is None else usable.sum(axis=0)
    for count in [rows.shape[1]] if counts is None else np.unique(counts):
        m = int(method.start.kept[count])
        if m < 2:
            continue
        alike = slice(None) if counts is None else np.flatnonzero(counts == count)
        some = rows[alike]
        if sums is not None:
            low = narrow_sums(some[:, :m])
            sums[0][alike], sums[1][alike] = low
            mean, population, _ = of_sums(float(m), *shifted(m, *low, None))
        elif rows.dtype.kind == "f":
            moments, _ = _of_floats(some[:, :m])
            mean, population, _ = moments(np.full(len(some), m), np.arange(len(some)))
        else:
            mean, population = _of_lowest(some[:, :m])
        means[alike], _ = first_of(
            mean, population, float(method.start.shift[count]), float(method.start.width[count])
        )
    return means, sums


def _of_lowest(rows: Array) -> tuple[Floats, Floats]:
    """Return mean and population variance (p,) of ascending integer rows (p, m) of any size."""
    m, lowest = rows.shape[1], rows[:, :1].astype(np.int64)
    span = int((rows[:, -1] - lowest[:, 0]).max(initial=0))
    if m * span**2 >= 2**53 or (m * span) ** 2 >= 2**63:
        moments, _ = _of_integers(rows)
        mean, population, _ = moments(np.full(len(rows), m), np.arange(len(rows)))
        return mean, population
    total, square = narrow_sums(rows - lowest)
    scatter = as_float(exact_scatter(m, total, square))
    mean, population, _ = of_sums(float(m), total + m * lowest[:, 0], scatter)
    return mean, population


def first_of(mean: Floats, population: Floats, shift: float, width: float) -> tuple[Floats, Floats]:
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
        mean, variance = first_of(mean, population, shift, width)
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
        return of_sums(m.astype(np.float64), total, scatter)

    def count(most: Floats, pixels: NDArray[np.int64]) -> Counts:
        return np.count_nonzero(rows[pixels] <= most[:, None], axis=1)

    return moments, count


def of_sums(m: Floats | float, total: Floats, scatter: Floats) -> tuple[Floats, Floats, Floats]:
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


def _sample_short(
    band: Band,
    where: Any,
    rows: Array,
    m: int,
    shift: float,
    width: float,
    low: Sums,
    base: Counts | None = None,
) -> None:
    """Store the statistics of ascending rows (p, n) of 8- or 16-bit values after the clip.

    ``low``: sums of the first ``m`` values. ``base`` (p,): what was subtracted from them; None:
    nothing.
    """
    n_pixels, n = rows.shape
    mean, population, _ = of_sums(float(m), *shifted(m, *low, base))
    most = limit(*first_of(mean, population, shift, width), 1.0)
    rest = narrow_sums(rows[:, m:])
    total, square = low[0] + rest[0], low[1] + rest[1]
    mean, _, variance = of_sums(float(n), *shifted(n, total, square, base))
    # pixels that keep all values in the first step and in the second do so in all
    then = limit(*unclipped(mean, variance, 1.0), 1.0)
    highest = rows[:, -1] if base is None else rows[:, -1] + base
    pixels = np.flatnonzero(~((highest <= most) & (highest <= then)))
    kept = np.full(n_pixels, n)
    step = max(1, TOP_VALUES // (n - m + 1))
    for begin in range(0, len(pixels), step):
        some = pixels[begin : begin + step]
        kept[some], total[some], square[some] = some_left_out(
            rows.take(some, axis=0), m, (low[0][some], low[1][some]), most[some], _of(base, some)
        )
    band.kept[where], band.total[where] = kept, total if base is None else total + kept * base
    band.scatter_low[where] = exact_scatter(kept, total, square)
    band.iqr4[where] = quartiles(rows, kept)


def shifted(m: int, total: Floats, square: Floats, base: Counts | None) -> tuple[Floats, Floats]:
    """Return sum and m*Q - S*S of values that ``base`` (p,) was subtracted from."""
    return total if base is None else total + m * base, as_float(exact_scatter(m, total, square))


def some_left_out(
    rows: Array, m: int, low: Sums, most: Floats, base: Counts | None, cut: int | None = None
) -> tuple[Counts, Floats, Floats]:
    """Leave out the largest values of some pixels.

    Args:
        rows: (p, n): ascending 8- or 16-bit values.
        m: values that the first step begins with.
        low: (p,) float64 each: sums of the first ``m`` values, and of their squares.
        most: (p,) float64, counts: limit of the first step.
        base: (p,) int64: what was subtracted from the values; None: nothing.
        cut: larger values were cut to this one; None: they are as they were.

    Returns:
        (p,) each: how many values are kept, int64, 0 where it is not known because of the cut;
        their sum, and that of their squares, float64.
    """
    n = rows.shape[1]
    columns = columns_left_out(n, m)
    if n - columns > m:
        more = narrow_sums(rows[:, m : n - columns])
        low = low[0] + more[0], low[1] + more[1]
    top = np.ascontiguousarray(rows[:, n - columns :].T)
    kept, total, square, beyond = largest_left_out(top, n, low, most, base, cut)
    left = np.flatnonzero(beyond)
    while len(left) and columns < n - 2:
        columns = min(n - 2, 4 * max(1, columns))
        step = max(1, TOP_VALUES // columns)
        for begin in range(0, len(left), step):
            again = left[begin : begin + step]
            some = rows[again]
            kept[again], total[again], square[again], beyond[again] = largest_left_out(
                np.ascontiguousarray(some[:, n - columns :].T),
                n,
                narrow_sums(some[:, : n - columns]),
                most[again],
                _of(base, again),
                cut,
            )
        left = left[beyond[left]]
    return kept, total, square


def columns_left_out(n: int, m: int) -> int:
    """Return how many of ``n`` values are left out at most, in all but a few pixels."""
    return min(n - m, FEWEST + n // FEW)


def _of(base: Counts | None, pixels: Any) -> Counts | None:
    return None if base is None else base[pixels]


def largest_left_out(
    top: Array,
    n: int,
    low: Sums,
    most: Floats,
    base: Counts | None,
    cut: int | None,
) -> tuple[Counts, Floats, Floats, NDArray[np.bool_]]:
    """Leave out the largest values of some pixels.

    Args:
        top: (columns, p): the largest 8- or 16-bit values, ascending.
        n: number of all values.
        low: sums of all others.
        most: (p,) float64, counts: limit of the first step.
        base: (p,) int64: what was subtracted from the values; None: nothing.
        cut: larger values were cut to this one; None: they are as they were.

    Returns:
        (p,) each: how many values are kept, int64, 0 where it is not known because of the cut;
        their sum, and that of their squares, float64; and whether, in any step, as many as
        ``top`` has, or more, were to be left out.
    """
    columns, n_pixels = top.shape
    sums, squares = (np.empty((n_pixels, columns + 1)) for _ in "12")
    sums[:, 0], squares[:, 0] = low
    sums[:, 1:] = top.T
    np.multiply(sums[:, 1:], sums[:, 1:], out=squares[:, 1:])
    for each in (sums, squares):
        np.cumsum(each, axis=1, out=each)
    # the difference of m*Q and S*S is exact below this
    is_small = n * float(squares[:, -1].max(initial=0.0)) < 2.0**53
    of_type = np.iinfo(top.dtype)
    largest = of_type.max if cut is None else cut - 1
    is_cut = top[-1] > largest if columns else np.zeros(n_pixels, bool)
    unknown = np.zeros(n_pixels, bool)

    of_pixel = np.zeros(n_pixels, np.int64)
    beyond = np.zeros(n_pixels, bool)
    pixels = np.arange(n_pixels)
    for step in range(STEPS):
        highest = np.floor(most) if base is None else np.floor(most) - base[pixels]
        unknown[pixels] |= is_cut[pixels] & (highest > largest)
        highest = np.minimum(np.maximum(highest, of_type.min), largest)
        found = number_of(top <= highest.astype(top.dtype))
        beyond[pixels[found == 0]] = True
        if step:
            changed = np.flatnonzero(found != of_pixel[pixels])
            pixels, found, top = pixels[changed], found[changed], top[:, changed]
        of_pixel[pixels] = found
        if step == STEPS - 1 or not len(pixels):
            break
        at = found + pixels * (columns + 1)
        total, square = sums.reshape(-1).take(at), squares.reshape(-1).take(at)
        found += n - columns
        m_of = found.astype(np.float64)
        scatter = m_of * square - total * total if is_small else exact_scatter(found, total, square)
        total = total if base is None else total + m_of * base[pixels]
        mean, _, variance = of_sums(m_of, total, as_float(scatter))
        most = limit(*unclipped(mean, variance, 1.0), 1.0)
    at = of_pixel + np.arange(n_pixels) * (columns + 1)
    total, square = sums.reshape(-1).take(at), squares.reshape(-1).take(at)
    kept = of_pixel + (n - columns)
    kept[unknown] = 0
    return kept, total, square, beyond


def number_of(flags: NDArray[np.bool_]) -> Counts:
    """Return the number of true flags (n, p) of each pixel, (p,) int64."""
    small = np.uint8 if len(flags) < 256 else np.int64
    return np.add.reduce(flags.view(np.uint8), axis=0, dtype=small).astype(np.int64)


def exact_scatter(m: Counts | int, total: Floats, square: Floats) -> Array:
    """Return m*Q - S*S exactly, from whole numbers: float64 below 2^53, else uint64."""
    scaled = np.asarray(m, np.float64) * square
    if float(scaled.max(initial=0.0)) < 2.0**53:
        return np.subtract(scaled, total * total, out=scaled)
    whole, squares = total.astype(np.int64), square.astype(np.int64)
    # modulo 2^64, as the difference fits
    return (m * squares - whole * whole).view(np.uint64)


def as_float(values: Array) -> Floats:
    """Return integers as float64, float64 as it is."""
    return values.astype(np.float64, copy=False)


def quartiles(rows: Array, kept: Counts) -> Counts:
    """Return 4 * (Q75 - Q25) of the first ``kept`` values of ascending integer rows (p, n)."""
    result = same_quartiles(rows)
    pixels = np.flatnonzero(kept != rows.shape[1])
    result[pixels] = quartiles_of(rows, pixels, kept[pixels])
    return result


def quartiles_of(rows: Array, pixels: NDArray[np.int64], kept: Counts) -> Counts:
    """Return them of some pixels."""
    return quartiles_at(rows.reshape(-1), pixels * rows.shape[1], 1, kept)


def quartiles_at(values: Array, begin: Counts, step: int, kept: Counts) -> Counts:
    """Return them of ascending values that follow each other by ``step`` places."""
    last = np.maximum(kept - 1, 0)
    result = np.zeros(len(begin), np.int64)
    for sign, place in ((1, 3 * last), (-1, last)):
        index, weight = place >> 2, place & 3
        low = values.take(begin + step * index).astype(np.int64)
        index += 1
        high = values.take(begin + step * np.minimum(index, last)).astype(np.int64)
        high -= low
        high *= weight
        high += 4 * low
        result += sign * high
    return result
