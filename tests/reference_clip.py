"""A naive reference of ``-m clip`` and of the noise model.

It is written from
docs/decisions/clip-background.md alone.

Plain loops over Python integers and floats, which are IEEE double precision numbers.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from once import once


class Line(NamedTuple):
    """Noise model: variance = offset + gain * mean, and the binned points."""

    gain: float
    offset: float
    level: list[float]
    variance: list[float]
    offset_error: float = math.nan

    @property
    def read_variance(self) -> float:
        """The offset, not below 0."""
        return max(self.offset, 0.0)

    @property
    def bias(self) -> float:
        """The counts without noise."""
        if not self.offset < -3 * self.offset_error:
            return 0.0
        bias = -self.offset / self.gain
        return bias if 10 * bias > self.level[len(self.level) // 2] else 0.0

    def of(self, mean: float) -> tuple[float, float, float]:
        """Give c, P and w of a mean."""
        counted = max(mean - self.bias, 0.0)
        least = min(self.variance) if self.bias else self.read_variance
        light = mean - self.bias
        return (
            counted,
            max(self.gain * counted + self.read_variance, least),
            light * light + least,
        )


def lower_part(share: float) -> tuple[float, float]:
    """Give a and w of the lowest share of a unit Gaussian."""
    if share >= 1:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(share)
    a = NormalDist().pdf(z) / share
    w = (1 - z * a - a * a) ** 0.5
    return round(a * 2**20) / 2**20, round(w * 2**20) / 2**20


def divided(a: float, b: float) -> float:
    """Divide as IEEE 754 does, by 0 as well."""
    if b:
        return a / b
    return math.nan if a == 0 or math.isnan(a) else math.copysign(math.inf, a)


def squares_about_mean(values: Sequence[Any], integer: bool) -> tuple[float, float, float, float]:
    """Give S / m, the sum of squared deviations over m, over m - 1, and over 1; values ascend."""
    m = len(values)
    if integer:
        total, square = sum(values), sum(value * value for value in values)
        scatter = float(m * square - total * total)
        return (
            float(total) / m,
            scatter / (m * m),
            divided(scatter, m * (m - 1)),
            scatter / m,
        )
    total = 0.0
    for value in values:
        total += value
    mean = values[0] if values[0] == values[-1] else total / m
    deviation = 0.0
    for value in values:
        deviation += (value - mean) * (value - mean)
    return mean, deviation / m, divided(deviation, m - 1), deviation


def limit(mean: float, variance: float, u: int, number: int = 1, margin: float = 1.5) -> float:
    """Give the largest mean of `number` values that is kept."""
    least = min(max(mean, 0.0), 4.0) * u
    return (mean + 3.0 * math.sqrt(max(variance, least) / number)) + margin * u / number


def corrected(mean: float, variance: float, u: int) -> tuple[float, float]:
    """Undo the cut of a Gaussian at 3 standard deviations."""
    s = math.sqrt(variance) / 0.9933
    v = s * s
    part = v / (v + 0.4 * u) if s else 0.0
    return mean + 0.0044 * s * part, v


def start_of(values: Sequence[Any], percent: int, integer: bool) -> tuple[int, float, float]:
    """Give m, the background and the variance that the clip of ascending values begins with."""
    n = len(values)
    m = n - n * percent // 100
    if m < 2:
        return m, 0.0, 0.0
    a, w = lower_part(m / n)
    mean, population, _, _ = squares_about_mean(values[:m], integer)
    s = math.sqrt(population) / w
    return m, mean + a * s, s * s


def following(background: float, constant: tuple[float, float] | None) -> float:
    """Give the part of a background that follows the levels."""
    if constant is None or not background > 0:
        return background
    contrast, centre = constant
    most = max(2.0, 1.0 + contrast) * background
    return min(max(background + contrast * (background - centre), 0.0), most)


def at_run_level(mean: float, above: float, contrast: float, centre: float) -> float:
    """Give the background at the level of the run of blocks whose levels are above it."""
    if not mean > 0:
        return mean

    def over(counts: float, slope: float) -> float:
        divisor = 1 + above * slope
        return counts / divisor if divisor > 1 / 16 else mean

    most = max(2.0, 1.0 + contrast)
    found = over(mean + above * (contrast * centre), 1.0 + contrast)
    line = found + contrast * (found - centre)
    return mean if line < 0 else over(mean, most) if line > most * found else found


def levelled(
    value: Any, level: int, background: float, dtype: Any, before: float | None = None
) -> Any:
    """Subtract from a value what its background is above the run's; `level` in 2^-16.

    `before`: background by which that was done already.
    """
    above = level - 65536
    if dtype.kind == "f":
        part = above / 65536 * background
        if before is None:
            return float(dtype.type(value - part))
        return float(dtype.type(value + (above / 65536 * before - part)))
    lowest = int(np.iinfo(dtype).min) - 2**30
    left = value - ((above * math.floor(16 * background) + 2**19) >> 20)
    if before is not None:
        left += (above * math.floor(16 * before) + 2**19) >> 20
    return min(max(left, lowest), lowest + 2**32 - 1)


def levels_between(knots: NDArray[Any], bits: int, shape: tuple[int, int]) -> NDArray[np.int64]:
    """Give the level of each pixel in 2^-16, (n, n_X, n_Y), between knots 2^bits pixels apart."""
    d = 2**bits

    def between(a: int, b: int, along: int) -> int:
        return (a * (d - along) + b * along + d // 2) // d

    found = np.zeros((len(knots), *shape), np.int64)
    for (f, x, y), _ in np.ndenumerate(found):
        i, j = x // d, y // d
        left, right = (
            between(int(knots[f, i, k]), int(knots[f, i + 1, k]), x % d) for k in (j, j + 1)
        )
        found[f, x, y] = between(left, right, y % d)
    return found


def clipped(values: Sequence[Any], percent: int, integer: bool) -> list[Any]:
    """Give the sample of one pixel; `values` ascend. Empty: the pixel is masked."""
    u = int(integer)
    m, mean, variance = start_of(values, percent, integer)
    if m < 2:
        return []
    for _ in range(5):
        most = limit(mean, variance, u)
        m = max(2, sum(value <= most for value in values))
        mean, _, variance, _ = squares_about_mean(values[:m], integer)
        mean, variance = corrected(mean, variance, u)
    return list(values[:m])


def blocks_kept(
    blocks: Sequence[Sequence[Any]],
    integer: bool,
    *,
    only_start: bool = False,
    levels: Sequence[int] | None = None,
    constant: tuple[float, float] | None = None,
) -> Any:
    """Give the ascending sample of one pixel; each block holds its valid values, ascending.

    Or the background that the clip begins with, at the level of the run. `levels`: of each block.
    """
    u = int(integer)
    w = [level for level, block in zip(levels or [0] * len(blocks), blocks, strict=True) if block]
    blocks = [block for block in blocks if len(block)]
    if not blocks:
        return 0.0 if only_start else []
    means, scatters = [], []
    for block in blocks:
        mean, _, _, scatter = squares_about_mean(block, integer)
        if not integer:
            mean = block[0] if block[0] == block[-1] else mean
        means.append(sum(block) / len(block) if integer else _total(block) / len(block))
        scatters.append(scatter)
    order = sorted(range(len(blocks)), key=lambda j: (means[j], j))
    b, n_values = len(blocks), sum(len(block) for block in blocks)
    h = min(b, max(2, (b + 1) // 2))
    kept = sorted(order[:h])
    mean = _total([means[j] for j in kept]) / h
    variance = _pooled([blocks[j] for j in kept], [scatters[j] for j in kept])
    if levels is not None:
        above = (sum(w[j] for j in kept) - 65536 * h) / (65536 * h)
        return at_run_level(mean, above, *(constant or (0.0, 0.0)))
    mean = mean + lower_part(h / b)[0] * math.sqrt(variance * b / n_values)
    if only_start:
        return mean
    for _ in range(3):
        kept = [
            j for j in range(b) if means[j] <= limit(mean, variance, u, len(blocks[j]), 2.5)
        ] or order[:1]
        number = sum(len(blocks[j]) for j in kept)
        sums = [sum(blocks[j]) if integer else _total(blocks[j]) for j in kept]
        mean = float(sum(sums) if integer else _total(sums)) / number
        variance = _pooled([blocks[j] for j in kept], [scatters[j] for j in kept])
    sample = sorted(value for j in kept for value in blocks[j])
    return sample if len(sample) >= 2 else []


def _total(values: Sequence[float]) -> float:
    total = 0.0
    for value in values:
        total += value
    return total


def _pooled(blocks: Sequence[Sequence[Any]], scatters: Sequence[float]) -> float:
    freedom = sum(len(block) - 1 for block in blocks)
    return _total(scatters) / freedom if freedom else 0.0


def noise_line(means: list[float], variances: list[float], sizes: list[int], integer: bool) -> Line:
    """Fit the noise model; pixels in raster order, 0 values where masked."""
    step = max(1, len(means) // 2**15) | 1
    known = [i for i in range(0, len(means), step) if sizes[i] >= 2 and math.isfinite(means[i])]
    pixels = [i for i in known if math.isfinite(variances[i]) and variances[i] > 0]
    pixels.sort(key=lambda i: means[i])
    if not pixels:
        is_dark = integer and known and sorted(means[i] for i in known)[len(known) // 2] < 1
        return Line(1.0 if is_dark else 0.0, 0.0, [], [])
    bins = [list(part) for part in np.array_split(pixels, 40) if len(part)]

    def inner(values: list[float]) -> float:
        ends = len(values) // 20
        some = sorted(values)[ends : len(values) - ends]
        return math.fsum(some) / len(some)

    def middle(values: list[float]) -> float:
        return sorted(values)[len(values) // 2]

    x = [middle([means[i] for i in part]) for part in bins]
    y = [inner([variances[i] for i in part]) for part in bins]
    ends = len(bins) // 20
    inside = range(ends, len(bins) - ends)
    mids = [inner([means[i] for i in bins[j]]) for j in inside]
    level = math.fsum(mids) / len(mids)
    noise = math.fsum(y[j] for j in inside) / len(mids)
    alike = Line(noise / level, 0.0, x, y) if level > 0 else Line(0.0, noise, x, y)
    if level > 0 and noise / level > level:
        rise = math.fsum((mid - level) * y[j] for mid, j in zip(mids, inside, strict=True))
        spread = math.fsum((mid - level) * (mid - level) for mid in mids)
        if rise < 0.5 * (noise / level) * spread:
            alike = Line(0.0, noise, x, y)
    tenth = len(x) // 10
    n = middle([float(sizes[i]) for i in pixels])
    square = 2 / (9 * (n - 1))
    share = (1 - square) * (1 - square) * (1 - square) + 3 * (1 - square) * square * 0.623
    y = [each / share for each in y]
    error = math.sqrt(middle(y) / n)
    if len(x) < 3 or not x[len(x) - 1 - tenth] - x[tenth] > 4 * error:
        return alike
    w = [1 / max(each, max(y) / 100) ** 2 for each in y]
    x0 = math.fsum(a * b for a, b in zip(w, x, strict=True)) / math.fsum(w)
    y0 = math.fsum(a * b for a, b in zip(w, y, strict=True)) / math.fsum(w)
    dx, dy = [each - x0 for each in x], [each - y0 for each in y]
    sxx = math.fsum(a * b * b for a, b in zip(w, dx, strict=True))
    sxy = math.fsum(a * b * c for a, b, c in zip(w, dx, dy, strict=True))
    gain = sxy / sxx
    rest = [b - gain * a for a, b in zip(dx, dy, strict=True)]
    scatter = math.fsum(a * b * b for a, b in zip(w, rest, strict=True)) / (len(w) - 2)
    if not gain > 3 * math.sqrt(scatter / sxx):
        return alike
    error = math.sqrt(scatter * (1 / math.fsum(w) + x0 * x0 / sxx))
    return Line(gain, y0 - gain * x0, x, y, error)


@once
def clip_maps(
    frames: NDArray[Any],
    valid: NDArray[np.bool_],
    percent: int,
    cutoff: float,
    blocks: list[list[int]] | None = None,
    levels: Sequence[int] | NDArray[np.int64] | None = None,
    constant: tuple[float, float] | None = None,
) -> tuple[dict[str, NDArray[Any]], Line, NDArray[np.bool_], list[float]]:
    """Give the maps of a run: stats by name, the noise line, the flags, and B in raster order.

    `blocks`: frames of each block, None: single values are left out. `levels`: level of each frame
    over the run's, in 2^-16, or (n, n_X, n_Y) that of each pixel. `constant`: contrast and centre
    of the part of the background that does not follow the levels.
    """
    _, n_x, n_y = frames.shape
    dtype = frames.dtype
    integer = dtype.kind != "f"
    u = int(integer)
    samples = []
    for x in range(n_x):
        for y in range(n_y):
            values, good = frames[:, x, y].tolist(), valid[:, x, y].tolist()
            before = None
            for _ in range(0 if levels is None else 4 if np.ndim(levels) == 3 else 1):
                assert levels is not None
                ascending = sorted(v for v, is_good in zip(values, good, strict=True) if is_good)
                if blocks is None:
                    _, start, _ = start_of(ascending, percent, integer)
                else:
                    parts = [sorted(values[f] for f in block if good[f]) for block in blocks]
                    of_blocks = None
                    if np.ndim(levels) == 1:
                        of_blocks = [
                            sum(int(levels[f]) for f in block) // len(block) for block in blocks
                        ]
                    start = blocks_kept(
                        parts, integer, only_start=True, levels=of_blocks, constant=constant
                    )
                start = following(start, constant)
                here = [int(np.asarray(each)[x, y] if np.ndim(each) else each) for each in levels]
                values = [
                    levelled(v, level, start, dtype, before) if is_good else v
                    for v, level, is_good in zip(values, here, good, strict=True)
                ]
                before = start
            if blocks is None:
                samples.append(
                    clipped(
                        sorted(v for v, is_good in zip(values, good, strict=True) if is_good),
                        percent,
                        integer,
                    )
                )
            else:
                samples.append(
                    blocks_kept(
                        [sorted(values[f] for f in block if good[f]) for block in blocks], integer
                    )
                )
    sizes = [len(sample) for sample in samples]
    own: list[float] = []
    mean: list[float] = []
    variance: list[float] = []
    iqr: list[float] = []
    spread: list[float] = []
    for sample in samples:
        if not sample:
            for values in (own, mean, variance, iqr, spread):
                values.append(0.0)
            continue
        m = len(sample)
        average, population, _, _ = squares_about_mean(sample, integer)
        if integer:
            total = sum(sample)
            scatter = float(m * sum(value * value for value in sample) - total * total)
            std = math.sqrt(scatter) / m
        else:
            std = math.sqrt(population)
        spread.append(std)
        d = float(np.float32(std))
        v = d * d * (m / max(m - 1, 1))
        own.append(average)
        if blocks is None:
            average, v = corrected(average, v, u)
        mean.append(average)
        variance.append(v)
        iqr.append(float(np.subtract(*np.percentile(np.array(sample, np.float64), [75, 25]))))
    line = noise_line(mean, variance, sizes, integer)
    background, flags = _neighbours(own, mean, sizes, samples, line, n_x, n_y, integer)

    g = line.gain
    noise: list[np.float32] = []
    threshold: list[float] = []
    for b, v, m in zip(background, variance, sizes, strict=True):
        counted, model, _ = line.of(b)
        twice = 2.0 * (model * model)
        full = twice + g * g * g * counted
        nu = (m - 1) * (twice / full) if full > 0 else 0.0
        found = max(model, (nu * v + 20 * model) / (nu + 20), 0.001 * (g * g)) if m else 0.0
        noise.append(np.float32(math.sqrt(found)))
        apart = math.sqrt(max(float(noise[-1]) ** 2, g * g / 4))
        level = b + cutoff * apart
        if integer:
            type_min, type_max = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
            least = max(math.ceil(level), math.floor(b) + 1)
            threshold.append(min(max(least, type_min), type_max + 1) if m else type_max + 1)
        else:
            threshold.append(
                (level if level > b else math.nextafter(b, math.inf)) if m else math.nan
            )
    wide = np.int64 if dtype.itemsize == 4 else np.int32
    shape = (n_x, n_y)
    stats = {
        "avg": np.array(background, np.float64).astype(np.float32).reshape(shape),
        "std": np.array([math.sqrt(v) for v in variance]).astype(np.float32).reshape(shape),
        "iqr": np.array(iqr).astype(np.float32).reshape(shape),
        "threshold": np.array(threshold, wide if integer else np.float64).reshape(shape),
        "n_used": np.array(sizes, np.int32).reshape(shape),
        "noise": np.array(noise, np.float32).reshape(shape),
    }
    stats["spread"] = np.array(spread).astype(np.float32).reshape(shape)
    return stats, line, np.array(flags).reshape(shape), background


def _neighbours(
    own: list[float],
    mean: list[float],
    sizes: list[int],
    samples: list[list[Any]],
    line: Line,
    n_x: int,
    n_y: int,
    integer: bool,
) -> tuple[list[float], list[bool]]:
    g = line.gain
    if integer:
        sums, unit = [sum(sample) for sample in samples], 1.0
    else:
        products = [a * m for a, m in zip(own, sizes, strict=True)]
        unit = 2.0 ** (math.frexp(max(map(abs, products), default=0.0))[1] - 48)
        sums = [round(each / unit) for each in products]

    def weight(v: float) -> float:
        _, noise, spread = line.of(v)
        return 64 * noise / spread if spread > 0 else 0.0

    flags = [False] * len(own)
    background: list[float] = []
    for _ in range(2):
        before, flags, background = flags, [], []
        usable = np.array([m > 0 and not f for m, f in zip(sizes, before, strict=True)])
        s = np.where(usable, np.array(sums, object), 0).reshape(n_x, n_y)
        c = np.where(usable, np.array(sizes, object), 0).reshape(n_x, n_y)
        for i in range(n_x * n_y):
            x, y = divmod(i, n_y)
            left, top = 8 * (x // 8 - 4), 8 * (y // 8 - 4)
            wide = np.s_[max(0, left) : left + 72, max(0, top) : top + 72]
            near = np.s_[max(0, x - 5) : x + 6, max(0, y - 5) : y + 6]
            wide_mean = (float(s[wide].sum()) * unit + g) / float(max(c[wide].sum(), 1))
            k, count = weight(wide_mean), float(c[near].sum())
            total = float(s[near].sum()) * unit
            m11 = (total + k * wide_mean) / (count + k) if count + k > 0 else wide_mean
            m, total = float(sizes[i]), float(sums[i]) * unit
            _, noise, spread = line.of(m11)
            allowed = 4.5 * math.sqrt(m * noise + spread * (m * m) / 64) + 4.4 * g
            flag = m > 0 and abs(total - m * m11) > allowed
            flags.append(flag)
            if not m or flag:
                background.append(mean[i] if m else 0.0)
                continue
            k = weight(m11)
            drawn = (total + k * m11) / (m + k) if m + k > 0 else 0.0
            background.append(drawn + (mean[i] - own[i]))
        if not any(flags):
            break
    return background, flags


def correlation_of(
    samples: list[tuple[NDArray[Any], NDArray[np.bool_], float]],
    background: NDArray[np.float64],
    noise: NDArray[np.float32],
    gain: float,
) -> tuple[tuple[float, float, tuple[float, ...]], int]:
    """Give F, its error, r(1) to r(4), and n, from docs/decisions/noise-correlation.md.

    `samples`: sampled rows of a frame, which of their values are valid, and the level of the frame
    over the run's.
    """
    lags = (1, 2, 3, 4, 8, 9, 10, 11)
    changes, squares, n = dict.fromkeys(lags, 0), dict.fromkeys(lags, 0), 0
    for rows, valid, level in samples:
        images = []
        for v, good, b, s in zip(rows.tolist(), valid.tolist(), background, noise, strict=True):
            z, e, there = [], [], []
            for value, is_good, mean, sd in zip(v, good, b.tolist(), s.tolist(), strict=True):
                d = math.sqrt(max(sd * sd, 0.001 * (gain * gain)))
                there.append(is_good and sd > 0)
                z.append(
                    round(min(max((value - mean * level) * 256 / d, -4096), 4096))
                    if there[-1]
                    else 0
                )
                e.append(gain / d * ((2.75 * 2.75 - 1) / 6) if there[-1] else 0.0)
            images.append((z, e, there))
        n += _add_frame(images, changes, squares)
    if n < 1000 or not all(squares.values()):
        return (1.0, math.nan, (0.0,) * 4), n
    q = {lag: changes[lag] / squares[lag] for lag in lags}
    far = math.fsum(q[lag] for lag in lags[4:]) / 4
    r = tuple(1 - q[lag] / far for lag in lags[:4])
    factor = factor_of_sum(9, r)
    return (factor, 2 * math.sqrt(factor) * math.sqrt(29 / 9 / n), r), n


def factor_of_sum(n_pixels: int, r: Sequence[float]) -> float:
    """Give F(n), with the correlations of pixels 1 to 4 apart."""
    side = math.sqrt(n_pixels)
    pairs = 0.0
    for distance in range(1, 5):
        pairs += (2 * max(side - distance, 0.0)) * r[distance - 1]
    a = pairs / side
    w = 1.0
    o, t = r[0] - r[3], r[1] - r[3]
    if o > 0 and t > 0:
        cube = min(max(o * o * o * o / t, 1 / 64), 1.0)
        for _ in range(20):
            w = w - (w * w * w - cube) / (3 * w * w)
        w = max(w, min(o * o / (4 * t), 1.0))
    return 1 + 2 * a + a * a / w


def _add_frame(
    images: list[tuple[list[int], list[float], list[bool]]],
    changes: dict[int, int],
    squares: dict[int, int],
) -> int:
    """Add the pairs of a frame, given as z, e and whether valid of each row; give its pixels."""
    rows = range(len(images))
    columns = range(len(images[0][0]))

    def near(i: int, reach: int) -> range:
        return range(max(0, i - reach), min(len(columns), i + reach + 1))

    def less_mean(known: list[list[bool]], most: int) -> list[list[int]]:
        found: list[list[int]] = []
        for row in rows:
            z = images[row][0]
            found.append([])
            for i in columns:
                some = [min(max(z[j], -most), most) for j in near(i, 32) if known[row][j]]
                found[-1].append(z[i] - round(sum(some) / max(len(some), 1)))
        return found

    valid = [there for _, _, there in images]
    y = less_mean(valid, 512)
    w = 1.0
    high: list[list[bool]] = []
    low: list[list[bool]] = []
    for _ in range(3):
        sums = [
            [sum(y[row][j] for j in near(i, 3) if valid[row][j]) for i in columns] for row in rows
        ]
        number = [[sum(valid[row][j] for j in near(i, 3)) for i in columns] for row in rows]
        below = [
            sums[row][i]
            for row in rows
            for i in columns
            if valid[row][i] and number[row][i] == 7 and sums[row][i] < 0
        ]
        of_sums = math.sqrt(
            float(sum(s * s for s in below)) / 65536 / max(1.0, float(7 * len(below)))
        )
        of_sums = min(max(of_sums, w), 3 * w)
        high, low = [], []
        for sign, flags in ((1, high), (-1, low)):
            for row in rows:
                e = images[row][1]
                out = [
                    valid[row][i]
                    and (
                        sign * sums[row][i]
                        > (2.75 * of_sums * math.sqrt(number[row][i]) + e[i]) * 256
                        or sign * y[row][i] > (4.0 * w + e[i]) * 256
                    )
                    for i in columns
                ]
                flags.append([any(out[j] for j in near(i, 6)) for i in columns])
        known = [
            [valid[row][i] and not high[row][i] and not low[row][i] for i in columns]
            for row in rows
        ]
        y = less_mean(known, 10**9)
        inside = [y[row][i] for row in rows for i in columns if known[row][i]]
        w = math.sqrt(float(sum(v * v for v in inside)) / 65536 / max(1.0, float(len(inside))))
        w = min(max(w, 0.05), 1.0)
    for row in rows:
        for lag in changes:
            for i in range(len(columns) - lag):
                if any(high[row][j] or not valid[row][j] for j in (i, i + lag)):
                    continue
                weight = 2 if low[row][i] or low[row][i + lag] else 1
                a, b = y[row][i], y[row][i + lag]
                changes[lag] += weight * (a - b) ** 2
                squares[lag] += weight * (a * a + b * b)
    return sum(valid[row][i] and not high[row][i] for row in rows for i in columns)
