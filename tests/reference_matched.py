"""A naive reference of the matched finder: plain int64 arrays, Python loops and decimal numbers.

It is written from docs/decisions/matched-finder.md alone and shares no code with the program.
"""

import math
from collections.abc import Iterable, Sequence
from decimal import Decimal, getcontext
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from once import once

ROUND_UP = [[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]]
LINES = [(0, 1), (1, 1), (1, 0), (1, -1)]
NEIGHBOURS = [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]
# light of a frame over the mean one
CLASSES = [1, 1.1875, 1.4375, 1.6875, 2, 2.375, 2.8125, 3.375, 4]
CLASSES += [4.75, 5.625, 6.75, 8, 9.5, 11.25, 13.5, 16]
AROUND = 16  # pixels that are added on each side of a frame before it is smoothed
getcontext().prec = 60


class Noise(NamedTuple):
    """Background and noise of a run."""

    mean: NDArray[np.float64]
    noise: NDArray[np.float32]
    gain: float
    read_variance: float
    valid: NDArray[np.bool_]
    contrast: float = 0.0
    centre: float = 0.0


Pixel = tuple[int, int]


class Found(NamedTuple):
    """Masks of one frame or group."""

    raw: NDArray[np.bool_]
    labels: NDArray[np.int64]


# ------------------------------------------------------------------------------------ significance


def usable_pixels(of: Noise) -> NDArray[np.bool_]:
    """Pixels with a background and a noise."""
    finite = np.isfinite(of.mean) & np.isfinite(of.noise)
    return of.valid & finite & ((of.noise > 0) | (of.gain > 0))


def unit(of: Noise, is_float: bool) -> NDArray[np.float64]:
    """Unit s of the significance of each pixel, counts."""
    s = np.sqrt(np.maximum(of.noise.astype(np.float64) ** 2, of.gain * of.gain / 4))
    return s if is_float else np.clip(s, 1 / 64, 2.0**20)


def rounding(shape: tuple[int, int]) -> NDArray[np.int64]:
    """Number that is added before rounding down, in 2^-16."""
    return np.array(
        [
            [(2 * ROUND_UP[x % 4][y % 4] + 1) * 2048 for y in range(shape[1])]
            for x in range(shape[0])
        ]
    )


@once
def plain_significance(
    frame: NDArray[Any], of: Noise, level: int | NDArray[Any], usable_values: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Significance of each value of a frame, zingers included; its level, or that of each pixel."""
    is_float = frame.dtype.kind == "f"
    s, good, up = unit(of, is_float), usable_pixels(of), rounding(frame.shape)
    p = np.full(frame.shape, 64, np.int64)
    info: Any = None if is_float else np.iinfo(frame.dtype)
    for x in range(frame.shape[0]):
        for y in range(frame.shape[1]):
            if not good[x, y] or not usable_values[x, y]:
                continue
            if is_float:
                at = level if isinstance(level, int) else int(level[x, y])
                value = float(frame[x, y]) - float(of.mean[x, y]) * (at / 65536)
                found = value * (16 / float(s[x, y])) + (64 + int(up[x, y]) / 65536)
                p[x, y] = math.floor(
                    max(-16000.0, min(16000.0, math.floor(found) if abs(found) < 1e9 else found))
                )
                continue
            mean = min(max(float(of.mean[x, y]), float(info.min)), float(info.max))
            factor = round(16 * 65536 / float(s[x, y]))
            zero = round(mean * float(factor)) - (64 << 16) - int(up[x, y])
            highest = max(info.min, min(info.max, ((16000 << 16) + 65535 + zero) // factor))
            lowest = max(info.min, min(info.max, -((16000 * 65536 - zero) // factor)))
            value = max(min(int(frame[x, y]), highest), lowest)
            follows = following(of, mean)
            in_units = follows / float(s[x, y])
            in_units = round(max(-2048.0, min(2048.0, in_units)) * 256)
            in_units = max(-(2**19) + 1, min(2**19 - 1, in_units))
            if isinstance(level, int):
                shift = level_shift(in_units, level)
            else:
                shift = in_units * (int(level[x, y]) - 65536) >> 4
                shift = min(max(shift, -5843 * 65536), 5843 * 65536)
            p[x, y] = (value * factor - zero - shift) >> 16
    return p


def following(of: Noise, mean: float) -> float:
    """Part of a background that follows the level of a frame."""
    if not (of.contrast and mean > 0):
        return mean
    line = mean + of.contrast * (mean - of.centre)
    return min(max(line, 0.0), max(2.0, 1.0 + of.contrast) * mean)


def light_of_groups(
    levels: Sequence[int], groups: Sequence[Sequence[int]], of: Noise
) -> list[float]:
    """Light of groups of frames over the mean frame's, in classes; levels are in 2^-16."""
    slope = 1.0 + max(0.0, of.contrast)

    def light_of(some: Sequence[int]) -> float:
        return 1.0 + slope * (sum(some) / (len(some) * 65536) - 1.0)

    light, mean = [light_of([levels[i] for i in group]) for group in groups], light_of(levels)
    return [min(CLASSES, key=lambda c: (abs(each / mean - c), c)) for each in light]


def level_shift(background: int, level: int) -> int:
    """Shift of the significance of a pixel by the level of its frame, in 2^-16."""
    change, bits = level - 65536, 16
    while abs(change) >= 2048:
        change, bits = (change + 1) // 2, bits - 1
    room = 5843 * 65536
    # background * change * 2^(12 - bits)
    most = math.floor(room / 2.0 ** (12 - bits)) // max(1, abs(change))
    product = max(-most, min(most, background)) * change
    return product << (12 - bits) if bits <= 12 else product >> (bits - 12)


def without_zingers(p: NDArray[np.int64]) -> NDArray[np.int64]:
    """Limit each pixel by the largest of its eight neighbours; outside of the frame is 64."""
    n_x, n_y = p.shape
    padded = np.pad(p, 1, constant_values=64)
    m = np.max([padded[1 + a : 1 + a + n_x, 1 + b : 1 + b + n_y] for a, b in NEIGHBOURS], axis=0)
    return np.minimum(p, m + (m >> 1))


def group_significance(members: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Significance of a group of frames, from theirs."""
    total = sum(p - 64 for p in members)
    assert isinstance(total, np.ndarray)
    factor = round(65536 / math.sqrt(len(members)))
    limit = (21844 - 64) * 65536 // factor
    return 64 + ((np.clip(total, -limit, limit) * factor + rounding(total.shape)) >> 16)


# -------------------------------------------------------------------------------------------- maps


def shifted_sum(x: NDArray[np.int64], dx: int, dy: int) -> NDArray[np.int64]:
    """``x[-1] + 2 x[0] + x[1]`` along a direction; wraps at the edges, which are far away."""
    return np.roll(x, (dx, dy), (0, 1)) + 2 * x + np.roll(x, (-dx, -dy), (0, 1))


def smoothed(p: NDArray[np.int64], streaks: bool) -> list[NDArray[np.int64]]:
    """The maps of a frame or group."""
    c = np.pad(np.clip(p, -511, 511), AROUND, constant_values=64)
    fine = shifted_sum(shifted_sum(c, 1, 0), 0, 1)
    middle = shifted_sum(shifted_sum(fine, 1, 0) >> 2, 0, 1) >> 2
    coarse = middle
    for step in ((2, 0), (2, 0), (0, 2), (0, 2)):
        coarse = shifted_sum(coarse, *step) >> 2
    maps = [fine, middle, coarse]
    for dx, dy in LINES if streaks else ():
        line = fine
        for times in (1, 1, 2, 2):
            line = shifted_sum(line, times * dx, times * dy) >> 2
        maps.append(line)
    return [each[AROUND:-AROUND, AROUND:-AROUND] for each in maps]


def heights(p: NDArray[np.int64]) -> NDArray[np.int64]:
    """M1 without limits and divisions."""
    x = np.pad(p - 64, AROUND)
    for step in ((1, 0), (1, 0), (0, 1), (0, 1)):
        x = shifted_sum(x, *step)
    return x[AROUND:-AROUND, AROUND:-AROUND]


# -------------------------------------------------------------------------------------- thresholds


@cache
def kernel(name: str) -> dict[tuple[int, int], int]:
    """Weights of a map's kernel by their offsets in X and Y."""
    five, wide = {-2: 1, -1: 4, 0: 6, 1: 4, 2: 1}, dict[int, int]()
    for a, v in five.items():
        for b, w in five.items():
            wide[a + 2 * b] = wide.get(a + 2 * b, 0) + v * w
    three = {-1: 1, 0: 2, 1: 1}
    if name in ("M07", "M1", "M2"):
        profile = {"M07": three, "M1": five, "M2": wide}[name]
        return {(a, b): v * w for a, v in profile.items() for b, w in profile.items()}
    dx, dy = LINES[int(name[1:])]
    weights: dict[tuple[int, int], int] = {}
    for a, v in three.items():
        for b, w in three.items():
            for i, u in wide.items():
                at = a + i * dx, b + i * dy
                weights[at] = weights.get(at, 0) + u * v * w
    return weights


DIVISORS = {"M07": 1, "M1": 16, "M2": 4096, "L0": 256, "L1": 256, "L2": 256, "L3": 256}


@cache
def sums_of_powers(name: str) -> tuple[int, ...]:
    """Sums of the kernel's weights to the powers 0 (pixels) to 4."""
    return tuple(sum(w**power for w in kernel(name).values()) for power in range(5))


@cache
def chance_of_gaussian(significance: float) -> Decimal:
    """Phi(-T), by its continued fraction."""
    t = Decimal(significance)
    fraction = t
    for k in range(4000, 0, -1):
        fraction = t + k / fraction
    pi = Decimal("3.14159265358979323846264338327950288419716939937510582097494459")
    return (-t * t / 2).exp() / (2 * pi).sqrt() / fraction


@cache
def tabulated(name: str, significance: float, index: int) -> float:
    """Threshold at the background ``2^(-10 + index // 8) (1 + index % 8 / 8)``, in sigmas."""
    background = 2.0 ** (index // 8 - 10) * (1 + index % 8 / 8)
    weights = list(kernel(name).values())
    largest = max(weights)
    if largest > 200:
        weights = [(2 * w * 24 + largest) // (2 * largest) for w in weights]
    counted: dict[int, int] = {}
    for weight in weights:
        if weight:
            counted[weight] = counted.get(weight, 0) + 1
    n_pixels, b = sum(counted.values()), Decimal(background)
    if background * n_pixels > 600:
        return expanded(name, significance, background)
    chances = [(-b * n_pixels).exp()]
    below, wanted, n = chances[0], chance_of_gaussian(significance), 0
    # 60 digits: 1 - P(sum < n) is exact enough
    while 1 - below > wanted:
        n += 1
        terms = [j * c * chances[n - j] for j, c in counted.items() if j <= n]
        chances.append(b / n * sum(terms, Decimal(0)))
        below += chances[n]
    # now P(sum > n) <= wanted, so n + 1 is the smallest that is rare enough
    first = sum(j * c for j, c in counted.items())
    second = sum(j * j * c for j, c in counted.items())
    return (n + 1 - 0.5 - background * first) / math.sqrt(background * second)


def expanded(name: str, t: float, background: float) -> float:
    """Cornish and Fisher's expansion."""
    _, _, second, third, fourth = sums_of_powers(name)
    skewness = third / (second * math.sqrt(second)) / math.sqrt(background)
    kurtosis = fourth / (second * second) / background
    t3 = t * t * t
    found = t + skewness * ((t * t - 1) / 6) + kurtosis * ((t3 - 3 * t) / 24)
    return found - skewness * skewness * ((2 * t3 - 5 * t) / 36)


def threshold(name: str, significance: float, background: float) -> float:
    """Threshold for any background, in sigmas."""
    if background > 256:
        return significance if math.isinf(background) else expanded(name, significance, background)
    background = max(background, 2.0**-10)
    fraction, exponent = math.frexp(background)  # background = fraction 2^exponent, 0.5 <= fraction
    eighths = (2 * fraction - 1) * 8
    cell, share = math.floor(eighths), eighths - math.floor(eighths)
    index = (exponent - 1 + 10) * 8 + cell
    low = tabulated(name, significance, index)
    high = tabulated(name, significance, min(index + 1, 144))
    return low + share * (high - low)


def moments(
    of: Noise, name: str, is_float: bool, light: float = 1.0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """k2 and k3 of each pixel."""
    variance, s, good = of.noise.astype(np.float64) ** 2, unit(of, is_float), usable_pixels(of)
    if light > 1:
        slope = 1.0 + max(0.0, of.contrast)
        more = [max(following(of, b) / slope, 0.0) for b in of.mean.ravel().tolist()]
        variance = variance + ((light - 1.0) * of.gain) * np.reshape(more, of.mean.shape)
    counted = np.maximum(variance - of.read_variance, of.gain * of.gain / 1000)
    with np.errstate(divide="ignore", invalid="ignore"):
        second = np.where(good, variance / (s * s), 0.0)
        third = np.where(good, of.gain * counted / (s * s * s), 0.0)
    return weighted(second, name, 2), weighted(third, name, 3)


def weighted(values: NDArray[np.float64], name: str, power: int) -> NDArray[np.float64]:
    """Sum a power of the kernel's weights times the values, in the order of the method."""
    weights, (n_x, n_y) = kernel(name), values.shape
    padded = np.pad(values, AROUND)
    if name.startswith("L"):
        total = np.zeros(values.shape)
        for (a, b), weight in sorted(weights.items()):
            x, y = AROUND + a, AROUND + b
            total = total + padded[x : x + n_x, y : y + n_y] * float(weight) ** power
        return total
    reach = max(a for a, _ in weights)
    largest = max(b for (a, b) in weights if a == 0)
    profile = [math.isqrt(weights[a, a]) ** power for a in range(largest + 1)]
    for axis in (0, 1):
        total = padded * float(profile[0])
        for a in range(1, reach + 1):
            pair = np.roll(padded, a, axis) + np.roll(padded, -a, axis)
            total = total + pair * float(profile[a])
        padded = total
    return padded[AROUND:-AROUND, AROUND:-AROUND]


class Levels(NamedTuple):
    """Seed levels and noise of groups of a size."""

    seed: list[NDArray[np.int64]]
    variance: NDArray[np.int64]
    own: NDArray[np.int64]


def names(streaks: bool) -> list[str]:
    """The maps in use."""
    return ["M07", "M1", "M2"] + (["L0", "L1", "L2", "L3"] if streaks else [])


def effective_background(
    name: str, k2: NDArray[np.float64], k3: NDArray[np.float64], size: int
) -> NDArray[np.float64]:
    """Counts per pixel of the Poisson background that is as skew as the map."""
    _, _, second, third, _ = sums_of_powers(name)
    factor = third / (second * math.sqrt(second))
    b = np.full(k2.shape, np.inf)
    some = k3 != 0
    b[some] = (k2 * k2 * k2)[some] * (factor * factor * size) / (k3 * k3)[some]
    return b


@once
def calibration(
    maps: Sequence[list[NDArray[np.int64]]], of: Noise, size: int, streaks: bool, is_float: bool
) -> list[tuple[float, float]]:
    """Offset and width of each map, from some frames or groups."""
    rows = [x for x in range(of.mean.shape[0]) if x % 128 < 16 or of.mean.size <= 2**18]
    found = []
    for k, name in enumerate(names(streaks)):
        _, first, second, _, _ = sums_of_powers(name)
        k2, k3 = moments(of, name, is_float)
        b = effective_background(name, k2, k3, size)
        enough = (b * (first * first / second) >= 16) & usable_pixels(of)
        enough[[x for x in range(len(enough)) if x not in rows]] = False
        if enough.sum() < 4096 or not maps:
            found.append((0.0, 1.0))
            continue
        roots = sorted(np.sqrt(k2[enough]).tolist())
        expected = 16 / DIVISORS[name] * roots[len(roots) // 2]
        quarters = [[quartile(each[k][enough], i) for i in (1, 2)] for each in maps]
        offset = middle([q[1] for q in quarters]) - 1024
        width = middle([q[1] - q[0] for q in quarters]) / 0.6745
        found.append((offset, max(1.0, width / expected)))
    return found


def middle(values: Sequence[float]) -> float:
    """Median; of an even number the mean of the middle two."""
    values, n = sorted(values), len(values)
    return values[n // 2] if n % 2 else (values[n // 2 - 1] + values[n // 2]) / 2


def quartile(values: NDArray[np.int64], quarter: int) -> float:
    """Quartile of integers, each spread over the unit about it."""
    wanted, before = quarter * len(values), 0  # in quarters of a value
    for value, count in zip(*np.unique(values, return_counts=True), strict=True):
        if before + 4 * count >= wanted:
            numerator = (int(value) * 2 - 1) * 2 * int(count) + wanted - before
            return numerator / (4 * int(count))
        before += 4 * int(count)
    raise AssertionError


@once
def levels(
    of: Noise, size: int, significance: float, measured: Sequence[tuple[float, float]],
    measured_size: int, streaks: bool, is_float: bool, light: float = 1.0,
) -> Levels:  # fmt: skip
    """Seed levels for groups of a size."""
    seeds = []
    good = usable_pixels(of)
    for name, (offset, width) in zip(names(streaks), measured, strict=True):
        k2, k3 = moments(of, name, is_float, light)
        b = effective_background(name, k2, k3, size)
        seed = np.full(k2.shape, 32767, np.int64)
        for x, y in zip(*np.nonzero(good & (k2 > 0)), strict=True):
            t = threshold(name, significance, float(b[x, y]))
            level = math.sqrt(k2[x, y]) * (16 / DIVISORS[name] * width) * t
            level += offset * math.sqrt(size / measured_size)
            seed[x, y] = max(-32767, min(32767, math.ceil(level) + 1024))
        seeds.append(seed)
        if name == "M1":
            variance = np.minimum(np.rint(k2 * (1024 * (width * width))), 2.0**30)
            skew = np.zeros(k2.shape)
            skew[k2 > 0] = k3[k2 > 0] / k2[k2 > 0]
            own = np.minimum(np.rint(skew * (16384 / math.sqrt(size))), 2.0**26)
    return Levels(seeds, variance.astype(np.int64), own.astype(np.int64))


# --------------------------------------------------------------------- seeds, basins, masks


@once
def find(p: NDArray[np.int64], of: Levels, allowed: NDArray[np.bool_], streaks: bool) -> Found:
    """Seeds and spots of one frame or group."""
    raw = np.zeros(p.shape, bool)
    for each, level in zip(smoothed(p, streaks), of.seed, strict=True):
        raw |= each >= level
    raw &= allowed
    n_x, n_y = p.shape
    # Python's integers: NumPy's take several times as long, one by one
    places = [(x, y) for x in range(n_x) for y in range(n_y)]
    height = dict(zip(places, heights(p).ravel().tolist(), strict=True))

    def beside(pixel: tuple[int, int]) -> Iterable[tuple[int, int]]:
        for dx, dy in NEIGHBOURS:
            if 0 <= pixel[0] + dx < n_x and 0 <= pixel[1] + dy < n_y:
                yield pixel[0] + dx, pixel[1] + dy

    seeds = [(int(x), int(y)) for x, y in zip(*np.nonzero(raw), strict=True)]

    def rank(pixel: tuple[int, int]) -> tuple[int, int, int]:
        """Larger is higher; of equals the first in raster order is the higher one."""
        return height[pixel], -pixel[0], -pixel[1]

    root: dict[Pixel, Pixel] = {}
    for each_seed in sorted(seeds, key=rank, reverse=True):
        near = [each_seed, *(other for other in beside(each_seed) if raw[other])]
        best = max(near, key=rank)
        root[each_seed] = each_seed if best == each_seed else root[best]
    saddles: dict[Pixel, dict[Pixel, int]] = {}
    for seed in seeds:
        for other in beside(seed):
            if raw[other] and rank(root[seed]) < rank(root[other]):
                of_lower = saddles.setdefault(root[seed], {})
                saddle = min(height[seed], height[other])
                of_lower[root[other]] = max(saddle, of_lower.get(root[other], saddle))
    parent: dict[Pixel, Pixel] = {}
    for lower, onto in saddles.items():
        saddle, x, y = max((saddle, -x, -y) for (x, y), saddle in onto.items())
        peak = height[lower]
        noise = 256 * int(of.variance[lower]) + int(of.own[lower]) * max(peak, 0)
        if 10 * saddle >= 9 * peak or 256 * (peak - saddle) ** 2 < noise:
            parent[lower] = (-x, -y)

    def top(pixel: tuple[int, int]) -> tuple[int, int]:
        while pixel in parent:
            pixel = parent[pixel]
        return pixel

    spot: dict[Pixel, Pixel] = {}
    for seed in seeds:
        name = top(root[seed])
        if height[name] > 0 and 10 * height[seed] >= height[name]:
            spot[seed] = name
    for step in range(6):
        joins: dict[tuple[int, int], tuple[int, int]] = {}
        for pixel, name in spot.items():
            for other in beside(pixel):
                h = height[other]
                high = h > 0 and 100 * h >= height[name] and h * h >= int(of.variance[other])
                if other not in spot and allowed[other] and (high or step == 5):
                    joins[other] = min(name, joins.get(other, name))
        spot |= joins
    labels, numbers = np.zeros(p.shape, np.int64), dict[tuple[int, int], int]()
    for pixel in sorted(spot):
        labels[pixel] = numbers.setdefault(spot[pixel], len(numbers) + 1)
    return Found(raw, labels)
