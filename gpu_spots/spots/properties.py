"""Properties of spots, from exact sums over the values and sums over the maps of the background.

Sums over the values come from the backend (`Measurements`). What does not depend on the frame is
summed once a component, on the host, in ascending order of the pixels. All operations are correctly
rounded float64 operations in a fixed order, so the results are the same for every backend.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_spots.columns import Flag
from gpu_spots.model import (
    FACTOR_BITS,
    HALF_BITS,
    MOMENT_SIDE,
    Array,
    Background,
    Components,
    ConstantPart,
    FixedPointMean,
    Measurements,
    PackedImages,
    Surface,
)
from gpu_spots.noise_model import NoiseModel
from gpu_spots.spots.neighbours import neighbours
from gpu_spots.spots.turns import Turns, summed, turns

FWHM = 2 * math.sqrt(2 * math.log(2))
"""Full width at half maximum of a Gaussian, in standard deviations."""
STATIC_REACH = 3
"""Distance along X and along Y, pixels, from a static spot within which a place is static."""

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class ComponentSums:
    """Properties of components that are the same on every frame."""

    n_pixels: NDArray[np.int64]
    """(c,) int64: number of pixels."""
    background: Floats
    """(6, c) float64, counts times pixel^k: sums of B, B x, B y, B x^2, B y^2 and B x y, with x and
    y from the begin of the box.
    """
    noise: Floats
    """(5, c) float64, counts^2 times pixel^k: sums of W, W x, W y, W x^2 and W y^2, where W is the
    variance of a value less the background.
    """
    flags: NDArray[np.int64]
    """(c,) int64: `Flag` of what does not depend on the frame."""


@dataclass(frozen=True, slots=True)
class ComponentMaps:
    """Maps that properties of components are taken from."""

    shape: tuple[int, int]
    """(n_X, n_Y) of a frame."""
    mean: FixedPointMean | Floats
    """Background under each pixel, as `Background.mean`."""
    noise: NDArray[np.float32] | None
    """(n_X, n_Y) float32, counts: noise of a value; None: not known."""
    n_used: NDArray[np.int32] | int
    """Values in the background sample of each pixel, (n_X, n_Y) int32, or of all."""
    flagged: tuple[tuple[Flag, Bools], ...]
    """Flag of a component that has a pixel of the map, (n_X, n_Y) bool."""
    may_touch: bool
    """Whether pixels of different components can be neighbours."""
    constant_part: ConstantPart | None
    """Part of the background that does not follow the levels of the frames; None: there is none."""

    @classmethod
    def of(cls, background: Background, *, may_touch: bool) -> "ComponentMaps":
        """Return the maps of a background."""
        shape = background.avg.shape
        maps = []
        if background.validity.pixels is not None:
            maps.append((Flag.INVALID, _beside(~background.validity.pixels)))
        if len(background.static):
            maps.append((Flag.STATIC, _around(background.static, shape)))
        if background.flagged is not None and background.flagged.any():
            maps.append((Flag.STATIC, background.flagged))
        return cls(
            shape=(shape[0], shape[1]),
            mean=background.mean,
            noise=background.noise,
            n_used=background.n_sampled if background.n_used is None else background.n_used,
            flagged=tuple(maps),
            may_touch=may_touch,
            constant_part=background.constant_part,
        )

    def pixels(self, found: Components, some: Turns) -> "PixelMaps":
        """Return the maps at the pixels of some components."""
        pixels, box = found.pixels.take(some.index), found.box[some.component]
        row = pixels // self.shape[1]
        return PixelMaps(
            of=some,
            pixels=pixels,
            x=(row - box[:, 0]).astype(np.float64),
            y=(pixels - row * self.shape[1] - box[:, 2]).astype(np.float64),
            background=some.without_empty(self.mean_at(pixels)),
            variance=some.without_empty(self.variance_at(pixels)),
        )

    def sums(
        self,
        found: Components,
        invalid: PackedImages | None = None,
        known: ComponentSums | None = None,
    ) -> ComponentSums:
        """Return the sums over components.

        Args:
            found: Components.
            invalid: Pixels without a valid value on a frame of each mask; None: only masked pixels
                have none.
            known: `no_sums` to which `add` has added all components; None: it is done here.
        """
        if (result := known) is None:
            result = self.no_sums(found)
            for some in turns(found.begin, np.arange(len(found.begin) - 1)):
                self.add(self.pixels(found, some), result)
        if invalid is not None:
            result.flags[_beside_invalid(found, invalid, self.shape)] |= int(Flag.INVALID)
        if self.may_touch:
            for hits in _touching(found, self.shape):
                result.flags[hits] |= int(Flag.NEIGHBOUR)
        return result

    def no_sums(self, found: Components) -> ComponentSums:
        """Return the sums over components, to which nothing has been added."""
        n = len(found.begin) - 1
        return ComponentSums(
            n_pixels=np.diff(found.begin),
            background=np.zeros((6, n)),
            noise=np.zeros((5, n)),
            flags=np.where(_at_border(found.box, self.shape), int(Flag.BORDER), 0),
        )

    def add(self, pixels: "PixelMaps", to: ComponentSums) -> None:
        """Add the sums over some components, and their flags but `Flag.NEIGHBOUR`."""
        component, powers = pixels.of.component, _powers(pixels.x, pixels.y)
        for flag, is_flagged in self.flagged:
            hits = is_flagged.reshape(-1).take(pixels.pixels).any(axis=0)
            to.flags[component[hits]] |= int(flag)
        for sums, of_map in ((to.background, pixels.background), (to.noise, pixels.variance)):
            products = _products(of_map, powers[: len(sums) - 1])
            for of_power, each in zip(sums, products, strict=True):
                of_power[component] = summed(each)

    def excess(
        self,
        found: Components,
        mask_of_frame: NDArray[np.int64],
        surface: Surface,
        factors: NDArray[np.int64],
    ) -> Floats:
        """Return `Measurements.excess` of the components on some frames, (6, s) float64.

        Args:
            found: Components of masks.
            mask_of_frame: (n,) int64: mask of each frame.
            surface: Levels of the frames.
            factors: (n,) int64, 2^-16: factors of the frames.
        """
        parts = [np.zeros((6, 0))]
        for frame, mask in enumerate(mask_of_frame.tolist()):
            begin = found.begin[found.first[mask] : found.first[mask + 1] + 1]
            pixels, n = found.pixels[begin[0] : begin[-1]], len(begin) - 1
            component = np.repeat(np.arange(n), np.diff(begin))
            box = found.box[found.first[mask] : found.first[mask + 1]]
            place = np.divmod(pixels, self.shape[1])
            x, y = (
                (each - box[component, side]).astype(np.float64)
                for each, side in zip(place, (0, 2), strict=True)
            )
            mean = self.mean_at(pixels)
            at_level = mean * (2.0**FACTOR_BITS / float(factors[frame]))
            more = surface.background(frame, *place, mean, self.constant_part) - at_level
            sums = [np.bincount(component, each, n) for each in _products(more, _powers(x, y))]
            parts.append(np.stack(sums))
        return np.concatenate(parts, axis=1)

    def mean_at(self, pixels: NDArray[np.int64]) -> Floats:
        """Background under some pixels, counts, by one correctly rounded division."""
        mean = self.mean
        if not isinstance(mean, FixedPointMean):
            return mean.reshape(-1).take(pixels)
        exact = mean.low.reshape(-1).take(pixels).astype(np.float64)
        if mean.high is not None:
            exact += mean.high.reshape(-1).take(pixels) * 2.0**32
        return exact / mean.scale

    def variance_at(self, pixels: NDArray[np.int64]) -> Floats:
        """Variance of a value less the background at some pixels, counts^2; NaN: not known."""
        if self.noise is None:
            return np.full(pixels.shape, np.nan)
        noise = self.noise.reshape(-1).take(pixels).astype(np.float64)
        n_used = self.n_used
        if not isinstance(n_used, int):
            n_used = n_used.reshape(-1).take(pixels)
        variance = noise * noise
        return variance + variance / n_used


@dataclass(frozen=True, slots=True)
class PixelMaps:
    """Maps at the pixels of some components. Empty places are as in `Turns`."""

    of: Turns
    """The components."""
    pixels: NDArray[np.int64]
    """(t, c) int64: flat index of each pixel in the frame."""
    x: Floats
    """(t, c) float64, pixels: X from the begin of the box of the component."""
    y: Floats
    """(t, c) float64, pixels: Y from there."""
    background: Floats
    """(t, c) float64, counts; 0 in empty places."""
    variance: Floats
    """(t, c) float64, counts^2: that of a value less the background; NaN: not known; 0 in empty
    places.
    """


def joined_sums(parts: Sequence[ComponentSums]) -> ComponentSums:
    """Return the sums of consecutive batches of components, at least one, as those of one batch."""
    return ComponentSums(
        *(
            np.concatenate([getattr(part, each.name) for part in parts], axis=-1)
            for each in fields(ComponentSums)
        )
    )


def spot_columns(
    measured: Measurements,
    intensity: Floats,
    of_component: ComponentSums,
    component: NDArray[np.int64],
    box: NDArray[np.int32],
    scale: int | None,
    factors: NDArray[np.int64] | None,
    dtype: np.dtype[Any],
    noise: NoiseModel | None,
) -> dict[str, Array]:
    """Return the columns of `gpu_spots.columns` that describe each spot, by name.

    Args:
        measured: sums of all rows of the table of spots.
        intensity: (n,) float64, counts: column ``I``.
        of_component: sums of all components.
        component: (n,) int64: component of each row.
        box: (n, 4) int32: box of each row.
        scale: `FixedPointMean.scale`; None for float frames.
        factors: (n,) int64, 2^-16: factor of the frame of each row; None: frames are not scaled.
        dtype: type of the frames.
        noise: noise model of the run; None: not known, and sigmas are NaN.
    """
    level = 1.0 if factors is None else 2**FACTOR_BITS / factors
    below = level * of_component.background[:, component]
    with np.errstate(all="ignore"):
        sums = _moments(measured) - (below[1:] if scale is not None else 0.0)
        if measured.excess is not None:
            sums = sums - measured.excess[1:]
        is_known = (intensity > 0) & (
            np.maximum(box[:, 1] - box[:, 0], box[:, 3] - box[:, 2]) <= MOMENT_SIDE
        )
        x, y, xx, yy, xy = np.where(is_known, sums / intensity, np.nan)
        xx, yy, xy = xx - x * x, yy - y * y, xy - x * y
        half, middle = (xx - yy) / 2, (xx + yy) / 2
        spread = np.sqrt(half * half + xy * xy)
        variances = np.stack([middle + spread, middle - spread], axis=1)
        fwhm = FWHM * np.sqrt(np.maximum(variances, 0.0))
        sigma, centroid_sigma = _errors(
            of_component, component, level, intensity, (x, y, xx, yy), noise, measured.excess
        )
    background = below[0] if scale is None else _exact_background(measured, scale, factors)
    if measured.excess is not None:
        background = background + measured.excess[0]
    flags = of_component.flags[component]
    if measured.overload is not None:
        flags = flags | np.where(measured.overload > 0, int(Flag.OVERLOADED), 0)
    flags = flags | np.where(measured.n_maxima > 1, int(Flag.SEVERAL_MAXIMA), 0)
    return {
        "n_pixels": of_component.n_pixels[component].astype(np.int32),
        "max": (measured.largest + 0).astype(dtype),  # no negative zero
        "centroid": np.stack([box[:, 0] + x, box[:, 2] + y], axis=1),
        "centroid_sigma": centroid_sigma,
        "moments": np.stack([xx, yy, xy], axis=1),
        "fwhm": fwhm,
        "orientation": _orientation(xx - yy, 2 * xy),
        "background": background,
        "sigma": sigma,
        "snr": over_sigma(intensity, sigma),
        "n_maxima": measured.n_maxima.astype(np.int32),
        "flags": flags.astype(np.uint16),
    }


def _errors(
    of_component: ComponentSums,
    component: NDArray[np.int64],
    level: Floats | float,
    intensity: Floats,
    shape: tuple[Floats, Floats, Floats, Floats],
    noise: NoiseModel | None,
    excess: Floats | None,
) -> tuple[Floats, Floats]:
    """Return sigma of the intensity (n,), and of the centroid (n, 2).

    ``shape``: centroid from the begin of the box, and moments XX and YY. ``excess``: as in
    `Measurements`.
    """
    if noise is None:
        return np.full(len(component), np.nan), np.full((len(component), 2), np.nan)
    x, y, xx, yy = shape
    gain = np.float64(noise.gain)
    # the photons that a frame has more of, or less, than the run
    sums = (
        of_component.noise[:, component]
        + ((level - 1.0) * gain) * of_component.background[:5, component]
    )
    if excess is not None:
        sums = sums + gain * excess[:5]
    signal = gain * np.maximum(intensity, 0.0)
    total, by_x, by_y, by_xx, by_yy = sums
    factor = noise.factor(of_component.n_pixels)[component]
    variance = factor * (np.maximum(total, 0.0) + signal)
    along = [
        factor
        * (
            np.maximum(second - 2 * at * first + at * at * total, 0.0)
            + signal * np.maximum(moment, 0.0)
        )
        for at, first, second, moment in ((x, by_x, by_xx, xx), (y, by_y, by_yy, yy))
    ]
    return np.sqrt(variance), np.stack([np.sqrt(each) / intensity for each in along], axis=1)


def over_sigma(intensity: Floats, sigma: Floats) -> Floats:
    """Intensity in units of its sigma; NaN where sigma is 0 or not known."""
    with np.errstate(all="ignore"):
        return np.where(sigma > 0, intensity / sigma, np.nan)


def _moments(measured: Measurements) -> Floats:
    """Return moments of the values as float64, rounded once."""
    lower, upper = measured.moments, measured.moments_high
    if upper is None:
        return lower.astype(np.float64)
    if _largest(upper) < 2**45:
        # the lower half adds at most 2^62.5
        return ((upper << HALF_BITS) + lower).astype(np.float64)
    exact = [
        [float((a << HALF_BITS) + b) for a, b in zip(*rows, strict=True)]
        for rows in zip(upper.tolist(), lower.tolist(), strict=True)
    ]
    return np.array(exact, np.float64)


def _exact_background(
    measured: Measurements, scale: int, factors: NDArray[np.int64] | None
) -> Floats:
    """Background under each spot, counts: exact integers up to one division."""
    high, low = measured.background_high, measured.background_low
    assert high is not None
    assert low is not None
    if factors is None and (_largest(high) << 32) + _largest(low) < 2**63:
        return ((high << 32) + low).astype(np.float64) / scale
    one = 1 if factors is None else 2**FACTOR_BITS
    each = [1] * len(high) if factors is None else factors.tolist()
    rows = zip(high.tolist(), low.tolist(), each, strict=True)
    return np.array(
        [float(one * ((h << 32) + b)) / float(f * scale) for h, b, f in rows], np.float64
    )


def _largest(values: NDArray[np.int64]) -> int:
    return max(int(values.max(initial=0)), -int(values.min(initial=0)))


def _orientation(cosine: Floats, sine: Floats) -> Floats:
    """Angle of the major axis from X towards Y, degrees, above -90 and up to 90."""
    # math's, as NumPy's depends on the processor
    pairs = zip((sine + 0.0).tolist(), cosine.tolist(), strict=True)
    return np.array([math.atan2(a, b) for a, b in pairs], np.float64) * (90 / math.pi)


def _powers(x: Floats, y: Floats) -> list[Floats]:
    """Return x, y, x^2, y^2 and x y."""
    return [x, y, x * x, y * y, x * y]


def _products(values: Floats, powers: Sequence[Floats]) -> Iterator[Floats]:
    """Yield values, and values times each of some powers of the place."""
    yield values
    for power in powers:
        with np.errstate(over="ignore", invalid="ignore"):
            yield values * power


def _at_border(box: NDArray[np.int32], shape: tuple[int, int]) -> Bools:
    return (box[:, 0] == 0) | (box[:, 1] == shape[0]) | (box[:, 2] == 0) | (box[:, 3] == shape[1])


def _beside(marked: Bools) -> Bools:
    """Return pixels that are marked or share an edge or a corner with one that is."""
    result = marked.copy()
    result[1:] |= marked[:-1]
    result[:-1] |= marked[1:]
    rows = result.copy()
    result[:, 1:] |= rows[:, :-1]
    result[:, :-1] |= rows[:, 1:]
    return result


def _beside_invalid(
    found: Components, invalid: PackedImages, shape: tuple[int, int]
) -> NDArray[np.int64]:
    """Return the component of each pixel that is marked in its mask, or beside one that is."""
    mask = np.repeat(np.arange(len(found.first) - 1), np.diff(found.begin[found.first]))
    x, y = np.divmod(found.pixels, shape[1])
    hits = np.zeros(len(x), bool)
    for dx, dy in product((-1, 0, 1), repeat=2):
        # beyond the border: a neighbour on this side of it
        row, column = np.clip(x + dx, 0, shape[0] - 1), np.clip(y + dy, 0, shape[1] - 1)
        hits |= (invalid.octets[mask, row, column >> 3] >> (column & 7)) & 1 > 0
    return np.repeat(np.arange(len(found.begin) - 1), np.diff(found.begin))[hits]


def _around(places: NDArray[np.int64], shape: tuple[int, ...]) -> Bools:
    """Return pixels near some places, (n, 2)."""
    result = np.zeros(shape, bool)
    for x, y in places.tolist():
        result[
            max(0, x - STATIC_REACH) : x + STATIC_REACH + 1,
            max(0, y - STATIC_REACH) : y + STATIC_REACH + 1,
        ] = True
    return result


def _touching(found: Components, shape: tuple[int, int]) -> list[NDArray[np.int64]]:
    """Return the components with a neighbouring pixel of another one of their mask, in parts."""
    of_component = np.repeat(np.arange(len(found.first) - 1), found.counts)
    length = np.where(_boxes_touch(found, of_component, shape), np.diff(found.begin), 0)
    component = np.repeat(np.arange(len(length)), length)
    taken = np.repeat(found.begin[:-1] - np.cumsum(length) + length, length)
    mask, pixels = of_component[component], found.pixels[taken + np.arange(len(taken))]
    order = np.argsort(mask * (shape[0] * shape[1]) + pixels, kind="stable")
    of_pixel = component[order]
    parts = []
    for at, other in neighbours(mask[order], pixels[order], shape):
        apart = of_pixel[at] != of_pixel[other]
        parts += [of_pixel[at[apart]], of_pixel[other[apart]]]
    return parts


def _boxes_touch(found: Components, mask: NDArray[np.int64], shape: tuple[int, int]) -> Bools:
    """Return which components have a box that overlaps that of another, or borders on it.

    Args:
        found: components; those of a mask are in the order of the begins of their boxes along X.
        mask: (c,) int64: mask of each component.
        shape: (n_X, n_Y) of a mask.
    """
    begin_x, end_x, begin_y, end_y = found.box.astype(np.int64).T
    # rows of one mask after the other, with one in between
    row = mask * (shape[0] + 1)
    here = np.arange(len(mask))
    n_after = np.searchsorted(row + begin_x, row + end_x, side="right") - here - 1
    one = np.repeat(here, n_after)
    other = one + 1 + np.arange(len(one)) - np.repeat(np.cumsum(n_after) - n_after, n_after)
    touch = (
        (mask[one] == mask[other]) & (begin_y[one] <= end_y[other]) & (begin_y[other] <= end_y[one])
    )
    result = np.zeros(len(mask), bool)
    result[one[touch]] = result[other[touch]] = True
    return result
