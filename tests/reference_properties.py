"""A naive reference of the properties of spots: plain loops over Python numbers.

Like `reference.py` it shares no code with the program. Python's floats are IEEE doubles without
fused operations.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from once import once
from reference_clip import factor_of_sum

LONGEST_SIDE = 4096
BORDER, INVALID, OVERLOADED, SEVERAL_MAXIMA, NEIGHBOUR, STATIC, ONE_FRAME = 1, 2, 4, 8, 16, 32, 64
AROUND = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]

Place = tuple[int, int]


class Below(NamedTuple):
    """Background under a pixel that is not masked."""

    exact: tuple[int, int] | None
    """Numerator and denominator, counts, for integer frames; None for float frames."""
    rounded: float
    """Counts."""


class Noise(NamedTuple):
    """Noise of a run."""

    pixel: list[float]
    """Noise of a value of each pixel in raster order, counts."""
    n_used: list[int]
    """Values that the background of each pixel is known from."""
    gain: float
    lags: tuple[float, ...]
    """Correlations of pixels 1 to 4 apart."""


class Spot(NamedTuple):
    """Pixels of a spot on a frame, in raster order."""

    places: list[Place]
    values: list[Any]
    below: list[Below]


@once
def properties(
    frames: NDArray[Any],
    result: dict[str, NDArray[Any]],
    below: list[Below | None],
    factors: Sequence[int],
    static: Sequence[Place] = (),
    noise: Noise | None = None,
    hot: Sequence[Place] = (),
    invalid: NDArray[np.bool_] | None = None,
) -> dict[str, NDArray[Any]]:
    """Compute the properties of all spots.

    `frames` are in their own counts; `result` has the table of spots, and the labels; `below` is
    the background of every pixel in raster order, None for masked pixels. With `factors` the
    background is that of frames times factor / 65536. `static` are places of static spots. Without
    `noise` no errors are computed. `hot` are hot and cold pixels. `invalid`, (masks, n_X, n_Y), are
    pixels without a valid value on a frame of each mask, if any are not masked.
    """
    n_y = frames.shape[2]
    masked = {divmod(i, n_y) for i, each in enumerate(below) if each is None}
    without = [
        masked if invalid is None else masked | {(int(x), int(y)) for x, y in np.argwhere(of_mask)}
        for of_mask in (result["masks/labels"] if invalid is None else invalid)
    ]
    rows: dict[str, list[Any]] = {}
    for row, frame in enumerate(result["spots/frame"].tolist()):
        begin, end = result["spots/pixel_list_BE"][row]
        pixels = result["spots/pixel_list"][begin:end].tolist()
        image = frames[frame].ravel().tolist()
        here = [each for each in (below[pixel] for pixel in pixels) if each is not None]
        spot = Spot([divmod(p, n_y) for p in pixels], [image[p] for p in pixels], here)
        label, labels = result["spots/label"][row], result["masks/labels"]
        found = {
            "n_pixels": len(pixels),
            "max": max(spot.values),
            "background": background_sum(spot, factors[frame] if factors else None),
            **shape_of(
                spot,
                float(result["spots/I"][row]),
                result["spots/box"][row].tolist(),
                factors[frame] if factors else None,
            ),
            "n_maxima": count_maxima(dict(zip(spot.places, spot.values, strict=True))),
        }
        if noise is not None:
            found |= errors_of(
                spot, pixels, found, result["spots/box"][row].tolist(),
                float(result["spots/I"][row]), factors[frame] if factors else None, noise,
            )  # fmt: skip
        overload = result.get("spots/overload")
        flags = {
            BORDER: touches_border(spot.places, frames.shape[1:]),
            INVALID: any(
                (x + i, y + j) in without[result["spots/mask"][row]]
                for x, y in spot.places
                for i, j in [(0, 0), *AROUND]
            ),
            OVERLOADED: overload is not None and overload[row] > 0,
            SEVERAL_MAXIMA: found["n_maxima"] > 1,
            NEIGHBOUR: touches_other(spot.places, labels[result["spots/mask"][row]], label),
            STATIC: any(
                abs(x - a) <= 3 and abs(y - b) <= 3 for x, y in spot.places for a, b in static
            )
            or any(place in spot.places for place in hot),
        }
        found["flags"] = sum(bit for bit, is_set in flags.items() if is_set)
        found.pop("from_box", None)
        for name, value in found.items():
            rows.setdefault(name, []).append(value)
    if noise is not None:
        for row in far_stronger(result, rows["sigma"] if rows else [], factors):
            rows["flags"][row] += ONE_FRAME
    n, dtype = len(result["spots/frame"]), frames.dtype.newbyteorder("=")
    types: dict[str, tuple[Any, tuple[int, ...]]] = {
        "n_pixels": ("int32", ()),
        "max": (dtype, ()),
        "background": ("float64", ()),
        "centroid": ("float64", (2,)),
        "moments": ("float64", (3,)),
        "fwhm": ("float64", (2,)),
        "orientation": ("float64", ()),
        **(
            {}
            if noise is None
            else {
                "sigma": ("float64", ()),
                "snr": ("float64", ()),
                "centroid_sigma": ("float64", (2,)),
            }
        ),
        "n_maxima": ("int32", ()),
        "flags": ("uint16", ()),
    }
    return {
        f"spots/{name}": np.array(rows.get(name, []), of).reshape(n, *shape)
        for name, (of, shape) in types.items()
    }


def far_stronger(
    result: dict[str, NDArray[Any]], sigmas: list[float], factors: Sequence[int]
) -> list[int]:
    """Give the rows of spots far stronger than on each of at least two other frames of the mask."""
    found = []
    keys = list(zip(result["spots/mask"].tolist(), result["spots/label"].tolist(), strict=True))
    of_spot: dict[tuple[int, int], list[int]] = {}
    for row, key in enumerate(keys):
        of_spot.setdefault(key, []).append(row)
    for rows in of_spot.values():
        at_level = []
        for row in rows:
            scale = factors[int(result["spots/frame"][row])] / 65536 if factors else 1.0
            at_level.append((scale * float(result["spots/I"][row]), scale * sigmas[row], row))
        for value, _, row in at_level:
            others = [other for other in at_level if other[2] != row]
            if len(others) >= 2:
                most, sigma, _ = max(others)
                if value > 2 * max(most, 0.0) + 8 * sigma:
                    found.append(row)
    return found


def background_sum(spot: Spot, factor: int | None) -> float:
    """Sum the background under a spot, at the level of the frame."""
    if spot.below[0].exact is None:
        total = 0.0
        for each in spot.below:
            total = total + each.rounded
        return total if factor is None else (65536.0 / factor) * total
    exact = [each.exact for each in spot.below if each.exact is not None]
    numerator, (denominator,) = sum(a for a, _ in exact), {b for _, b in exact}
    if factor is None:
        return float(numerator) / float(denominator)
    return float(65536 * numerator) / float(factor * denominator)


def shape_of(spot: Spot, intensity: float, box: list[int], factor: int | None) -> dict[str, Any]:
    """Compute centroid, second moments, widths and orientation."""
    longest = max(box[1] - box[0], box[3] - box[2])
    if not intensity > 0 or longest > LONGEST_SIDE:
        nan = math.nan
        return {
            "centroid": (nan, nan), "moments": (nan,) * 3, "fwhm": (nan, nan), "orientation": nan,
        }  # fmt: skip
    means = []
    for power_x, power_y in ((1, 0), (0, 1), (2, 0), (0, 2), (1, 1)):
        weights = [(x - box[0]) ** power_x * (y - box[2]) ** power_y for x, y in spot.places]
        means.append(first_order(spot, weights, factor) / intensity)
    x, y, xx, yy, xy = means
    xx, yy, xy = xx - x * x, yy - y * y, xy - x * y
    half, middle = (xx - yy) / 2, (xx + yy) / 2
    spread = math.sqrt(half * half + xy * xy)
    width = 2 * math.sqrt(2 * math.log(2))
    fwhm = [width * math.sqrt(max(each, 0.0)) for each in (middle + spread, middle - spread)]
    return {
        "centroid": (box[0] + x, box[2] + y),
        "from_box": (x, y),
        "moments": (xx, yy, xy),
        "fwhm": fwhm,
        "orientation": math.atan2(2 * xy + 0.0, xx - yy) * (90 / math.pi),
    }


def errors_of(
    spot: Spot,
    pixels: list[int],
    found: dict[str, Any],
    box: list[int],
    intensity: float,
    factor: int | None,
    noise: Noise,
) -> dict[str, Any]:
    """Compute sigma of the intensity and of the centroid."""
    level = 1.0 if factor is None else 65536.0 / factor
    sums = []
    for power_x, power_y in ((0, 0), (1, 0), (0, 1), (2, 0), (0, 2)):
        of_noise = of_background = 0.0
        for (x, y), pixel, below in zip(spot.places, pixels, spot.below, strict=True):
            weight = float((x - box[0]) ** power_x * (y - box[2]) ** power_y)
            variance = noise.pixel[pixel] * noise.pixel[pixel]
            of_noise = of_noise + (variance + variance / noise.n_used[pixel]) * weight
            of_background = of_background + below.rounded * weight
        sums.append(of_noise + ((level - 1.0) * noise.gain) * of_background)
    signal = noise.gain * max(intensity, 0.0)
    correlated = factor_of_sum(len(pixels), noise.lags)
    sigma = math.sqrt(correlated * (max(sums[0], 0.0) + signal))
    result = {
        "sigma": sigma,
        "snr": intensity / sigma if sigma > 0 else math.nan,
        "centroid_sigma": (math.nan, math.nan),
    }
    if not math.isnan(found["centroid"][0]):
        each = []
        for axis in (0, 1):
            # the centroid from the begin of the box, before that was added
            at = found["from_box"][axis]
            second = sums[3 + axis] - 2 * at * sums[1 + axis] + at * at * sums[0]
            along = max(second, 0.0) + signal * max(found["moments"][axis], 0.0)
            each.append(math.sqrt(correlated * along) / intensity)
        result["centroid_sigma"] = (each[0], each[1])
    return result


def first_order(spot: Spot, weights: list[int], factor: int | None) -> float:
    """Sum (value - background) * weight over a spot."""
    scale = 1.0 if factor is None else 65536.0 / factor
    if spot.below[0].exact is None:
        total = 0.0
        for value, below, weight in zip(spot.values, spot.below, weights, strict=True):
            total = total + (value - below.rounded * scale) * float(weight)
        return total
    exact = sum(value * weight for value, weight in zip(spot.values, weights, strict=True))
    under = 0.0
    for below, weight in zip(spot.below, weights, strict=True):
        under = under + below.rounded * float(weight)
    return float(exact) - scale * under


def count_maxima(values: dict[Place, Any]) -> int:
    """Count the local maxima of a spot that are at least half as high as its highest pixel."""
    half = 0.5 * max(values.values()) + 0.5 * min(values.values())
    count = 0
    for (x, y), value in values.items():
        beside = [(x + i, y + j) for i, j in AROUND if (x + i, y + j) in values]
        is_beaten = any(
            values[place] > value or (values[place] == value and place < (x, y)) for place in beside
        )
        count += value >= half and not is_beaten
    return count


@once
def weighted_intensities(
    frames: NDArray[Any],
    result: dict[str, NDArray[Any]],
    below: list[Below | None],
    factors: Sequence[int],
    noise: Noise,
) -> dict[str, NDArray[Any]]:
    """Compute I_prf, sigma_prf and weighted centroids; the arguments are those of `properties`.

    The column ``mask_error`` is the error of I by the choice of the mask, of masks of one frame.
    """
    n_y = frames.shape[2]
    images = [frame.ravel().tolist() for frame in frames]
    levels = [65536.0 / factor for factor in factors] or [1.0] * len(frames)
    spots: dict[tuple[int, int], list[int]] = {}
    for row, key in enumerate(zip(result["spots/mask"], result["spots/label"], strict=True)):
        spots.setdefault((int(key[0]), int(key[1])), []).append(row)
    found = np.full((3, len(result["spots/frame"])), math.nan)
    centroids = np.full((2, len(result["spots/frame"]), 2), math.nan)
    offsets = np.full((3, len(result["spots/frame"]), 2), math.nan)
    for rows in spots.values():
        begin, end = result["spots/pixel_list_BE"][rows[0]]
        pixels = result["spots/pixel_list"][begin:end].tolist()
        under = [
            each.rounded if each is not None else math.nan
            for each in map(below.__getitem__, pixels)
        ]
        on = [int(result["spots/frame"][row]) for row in rows]
        differences = [
            [
                float(images[frame][p]) - levels[frame] * b
                for p, b in zip(pixels, under, strict=True)
            ]
            for frame in on
        ]
        variances = []
        for pixel in pixels:
            variance = noise.pixel[pixel] * noise.pixel[pixel]
            variances.append(variance + variance / noise.n_used[pixel])
        factor = factor_of_sum(len(pixels), noise.lags)
        floors = [max(variance, noise.gain * noise.gain / 4) for variance in variances]
        mean = harmonic_mean(floors)
        even = [mean if variance <= 4 * mean else variance for variance in floors]
        profile, clean = without_zingers(pixels, n_y, differences, even, noise.gain)
        smooth = smoothed_profile(pixels, n_y, profile, even)
        weights, scale = weights_of(profile, smooth, even)
        softs, step = soft_weights_of(smooth, even, len(rows), noise.gain)
        for row in rows:
            shared = max(factor - 1, 0.0) * harmonic_mean(floors) if len(rows) == 1 else 0.0
            found[2, row] = chosen_by_noise(smooth, noise) * math.sqrt(shared)
        box = result["spots/box"][rows[0]].tolist()
        more = (sum(levels[frame] for frame in on) - len(on)) * noise.gain
        all_noise = [len(on) * v + more * b for v, b in zip(variances, under, strict=True)]
        for axis in (0, 1):
            begin = float(box[2 * axis])
            places = [divmod(pixel, n_y)[axis] - begin for pixel in pixels]
            centre = centre_of(softs, profile, places)
            moments = [w * (place - centre) for w, place in zip(softs, places, strict=True)]
            offset = offset_of(
                places, centre, softs, step, profile, smooth, even, len(on), all_noise, noise.gain
            )
            for row in rows:
                offsets[:, row, axis] = offset[0], factor * offset[1], offset[2]
            for row, frame, difference in zip(rows, on, clean, strict=True):
                total = first = second = fixed = more = 0.0
                for w, m, d, v, b in zip(softs, moments, difference, variances, under, strict=True):
                    total, first, second = total + w * d, first + m * d, second + (m * m) * d
                    fixed, more = fixed + (m * m) * v, more + (m * m) * b
                if not total > 0:
                    continue
                of_noise = fixed + ((levels[frame] - 1.0) * noise.gain) * more
                spread = factor * (max(of_noise, 0.0) + noise.gain * max(second, 0.0))
                first = first if len(rows) > 1 else 0.0
                centroids[:, row, axis] = (
                    begin + (centre + step * (first / total)), step * (math.sqrt(spread) / total),
                )  # fmt: skip
        for row, frame, difference in zip(rows, on, differences, strict=True):
            total = squares = of_noise = 0.0
            for w, d, v, b in zip(weights, difference, variances, under, strict=True):
                total = total + w * d
                squares = squares + w * (w * d)
                of_noise = of_noise + w * w * (v + (levels[frame] - 1.0) * noise.gain * b)
            spread = factor * (max(of_noise, 0.0) + noise.gain * max(squares, 0.0))
            found[:2, row] = scale * total, scale * math.sqrt(spread)
    asymmetry = move_by_offsets(centroids, offsets)
    return {
        "spots/I_prf": found[0],
        "spots/sigma_prf": found[1],
        "spots/centroid": centroids[0],
        "spots/centroid_sigma": centroids[1],
        "mask_error": found[2],
        "asymmetry": np.array(asymmetry),
    }


def offset_of(
    places: list[float],
    centre: float,
    weights: list[float],
    step: float,
    profile: list[float],
    smooth: list[float],
    variances: list[float],
    n_frames: int,
    all_noise: list[float],
    gain: float,
) -> tuple[float, float, float]:
    """Give the distance of a centre of mass from the centre, its variance and its spread.

    The variance is without the factor of correlated noise.
    """
    mass = first = total = 0.0
    for w, p, place in zip(weights, profile, places, strict=True):
        mass, first, total = mass + p, first + place * p, total + w * p
    if not mass > 0 or not total > 0:
        return math.nan, math.nan, math.nan
    middle = first / mass
    of_noise = of_light = wide = expected = 0.0
    for w, p, place, s, v, n in zip(
        weights, profile, places, smooth, variances, all_noise, strict=True
    ):
        gained = (place - middle) / mass - step / total * (w * (place - centre))
        square = gained * gained
        of_noise, of_light = of_noise + square * n, of_light + square * p
        light = w * (s * math.sqrt(v) / (256 * n_frames))
        expected = expected + light
        wide = wide + light * ((place - centre) * (place - centre))
    variance = max(of_noise, 0.0) + gain * max(of_light, 0.0)
    return middle - centre, variance, wide / expected * (2 - 2 / step)


def move_by_offsets(centroids: NDArray[Any], offsets: NDArray[Any]) -> float:
    """Move centroids towards centres of mass, add the error of that to theirs; give the asymmetry.

    `centroids` are values and sigmas, `offsets` distances, variances and spreads, (n, 2) each.
    """
    known = [
        (float(d), float(v), float(s))
        for d, v, s in zip(*(each.ravel() for each in offsets), strict=True)
        if math.isfinite(d) and math.isfinite(v) and s > 0
    ]
    ratios = sorted((d * d / 0.4549 - v) / s for d, v, s in known if v < 0.01 * s)
    n = len(ratios)
    is_sure = n >= 100 and ratios[n // 2 - 2 * math.isqrt(n)] > 0
    asymmetry = ratios[n // 2] if is_sure else 0.0
    for place in np.ndindex(centroids.shape[1:]):
        d, v, s = (float(each[place]) for each in offsets)
        if math.isfinite(d) and math.isfinite(v) and s > 0 and asymmetry > 0:
            share = asymmetry * s / (asymmetry * s + v)
            centroids[0][place] = float(centroids[0][place]) + share * d
            sigma = float(centroids[1][place])
            centroids[1][place] = math.sqrt(sigma * sigma + share * v)
    return asymmetry


def harmonic_mean(variances: list[float]) -> float:
    """Give the harmonic mean of some variances."""
    total = 0.0
    for variance in variances:
        total = total + (1 / variance if variance > 0 else math.inf)
    return len(variances) / total


def without_zingers(
    pixels: list[int],
    n_y: int,
    differences: list[list[float]],
    variances: list[float],
    gain: float,
) -> tuple[list[float], list[list[float]]]:
    """Sum the frames of a mask; give the sum, and the frames, with zingers replaced.

    A zinger is above twice the mean of the other frames by 8 sigmas, and above 1.5 times the
    highest neighbour in the spot by 2 sigmas.
    """
    clean = [list(each) for each in differences]
    at = {divmod(pixel, n_y): i for i, pixel in enumerate(pixels)}
    profile = []
    for (x, y), i in at.items():
        course = [each[i] for each in differences]
        total = 0.0
        for value in course:
            total = total + value
        highest = max(course)
        frame = course.index(highest)
        if len(course) > 1:
            mean = (total - highest) / (len(course) - 1)
            level = max(mean, 0.0)
            around = [at[x + a, y + b] for a, b in AROUND if (x + a, y + b) in at]
            beside = [differences[frame][k] for k in around]
            if highest > 2 * level + 8 * math.sqrt(
                variances[i] + gain * level
            ) and highest > 1.5 * max([0.0, *beside]) + 2 * math.sqrt(variances[i]):
                clean[frame][i] = mean
                total = total - highest + mean
        profile.append(total)
    return profile, clean


def chosen_by_noise(smooth: list[float], noise: Noise) -> float:
    """Give the error of a sum by the choice of its pixels."""
    unit = 70 * (1 + 1.6 * noise.lags[0] + 0.8 * noise.lags[1])
    low = sum(unit <= each < 3 * unit for each in smooth)
    slope = sum(3 * unit <= each < 6 * unit for each in smooth)
    return 0.3 * abs(low - slope)


def with_mask_errors(
    columns: dict[str, NDArray[Any]], intensity: NDArray[Any], errors: NDArray[Any]
) -> None:
    """Add the error by the choice of the mask to sigma."""
    sigmas = [
        math.sqrt(s * s + e * e)
        for s, e in zip(columns["spots/sigma"].tolist(), errors.tolist(), strict=True)
    ]
    columns["spots/sigma"] = np.array(sigmas)
    columns["spots/snr"] = np.array([i / s for i, s in zip(intensity, sigmas, strict=True)])


def centre_of(weights: list[float], profile: list[float], places: list[float]) -> float:
    """Give the weighted centre of a profile."""
    first = total = 0.0
    for w, p, place in zip(weights, profile, places, strict=True):
        first, total = first + (w * p) * place, total + w * p
    return first / total if total != 0 else math.nan


def smoothed_profile(
    pixels: list[int], n_y: int, profile: list[float], variances: list[float]
) -> list[float]:
    """Smooth a profile in sigmas twice by [1 2 1] along both axes; negative values become 0."""
    smooth: dict[Place, float] = {}
    for pixel, total, variance in zip(pixels, profile, variances, strict=True):
        smooth[divmod(pixel, n_y)] = total / math.sqrt(variance) if variance > 0 else 0.0
    for _ in range(2):
        before = dict(smooth)
        for x, y in smooth:
            total = 4 * before[x, y]
            # in pairs of opposite directions: along a row first
            for i, j in ((0, 1), (0, -1), (1, -1), (-1, 1), (1, 0), (-1, 0), (1, 1), (-1, -1)):
                if (x + i, y + j) in before:
                    total = total + (2 if i == 0 or j == 0 else 1) * before[x + i, y + j]
            smooth[x, y] = total
    return [max(value, 0.0) for value in smooth.values()]


def weights_of(
    profile: list[float], smooth: list[float], variances: list[float]
) -> tuple[list[float], float]:
    """Return the weight of each pixel of a spot, and the factor to counts."""
    sigmas = [math.sqrt(variance) for variance in variances]
    heights = [p / s if s > 0 else 0.0 for p, s in zip(smooth, sigmas, strict=True)]
    highest = max(heights)
    weights = [float(round(15 * h / highest)) if highest > 0 else 0.0 for h in heights]
    all_of_it = weighted = 0.0
    for w, p in zip(weights, profile, strict=True):
        all_of_it = all_of_it + p
        weighted = weighted + w * p
    return weights, all_of_it / weighted if all_of_it > 0 and weighted > 0 else math.nan


def soft_weights_of(
    smooth: list[float], variances: list[float], n_frames: int, gain: float
) -> tuple[list[float], float]:
    """Give the weight of each pixel for the centroid, and the step of the spot."""
    weights = []
    total = of_background = 0.0
    for p, v in zip(smooth, variances, strict=True):
        counts = p * math.sqrt(v) / (256 * n_frames)
        weight, share = counts / (v + gain * counts), v / (v + gain * counts)
        weights.append(weight)
        total = total + weight * counts
        of_background = of_background + weight * counts * share
    return weights, 2 / (2 - of_background / total) if total > 0 else math.nan


def touches_border(places: list[Place], shape: tuple[int, ...]) -> bool:
    """Tell whether a spot has a pixel in the outermost rows or columns."""
    return any(x in (0, shape[0] - 1) or y in (0, shape[1] - 1) for x, y in places)


def touches_other(places: list[Place], labels: NDArray[Any], label: int) -> bool:
    """Tell whether a pixel of another spot is beside one of this spot."""
    for x, y in places:
        for i, j in AROUND:
            a, b = x + i, y + j
            inside = 0 <= a < labels.shape[0] and 0 <= b < labels.shape[1]
            if inside and labels[a, b] not in (0, label):
                return True
    return False
