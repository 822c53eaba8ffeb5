"""Weighted intensities and centroids of spots.

All frames of a group that share a mask show the profile of a spot better than one of them does.
Pixels get weights by it, the same on every frame of the group, so that weak pixels add less noise.
A centroid without weights would take most of its noise from the edge of the mask. The profile also
tells how many pixels are in a mask because of their noise. All of it is computed on the host, in a
fixed order.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

from gpu_spots.model import FACTOR_BITS, Array, Components, NoiseModel, SpotTable
from gpu_spots.spots.neighbours import neighbours
from gpu_spots.spots.properties import ComponentMaps, over_sigma

LARGEST_WEIGHT = 15
"""Weights are whole numbers from 0 to this."""

SMOOTHING = 256
"""Sum of the weights by which profiles are smoothed."""
SMOOTHED_NOISE = 70
"""Noise of a smoothed profile in that of a pixel: the root of the sum of the squared weights."""
SMOOTHED_LAGS = 1.6, 0.8
"""Correlations of pixels 1 and 2 apart increase the noise of a smoothed profile by these."""
UNEVEN = 4.0
"""Variance of a pixel over the mean of its spot, above which its weight depends on it."""
MASK_ERROR = 0.4
"""Error of a sum for each pixel that is in the mask because of its noise, in sigmas of the noise
that pixels share.
"""
ZINGER = 8.0
"""Height of a zinger above twice the mean of the other frames, sigmas of a pixel."""

Each = Callable[[Callable[[int], None], Iterable[int]], Iterable[None]]
Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Weighted:
    """Weighted intensities and centroids of spots."""

    intensity: Floats
    """(n,) float64, counts; NaN where no pixel has a weight."""
    sigma: Floats
    """(n,) float64, counts: standard error of the intensity."""
    centroid: Floats
    """(n, 2) float64, pixels; NaN where the weighted sum is not above 0."""
    centroid_sigma: Floats
    """(n, 2) float64, pixels: standard errors of the centroid; NaN where it is."""
    mask_error: Floats
    """(n,) float64, counts: error of the sum over a mask that follows the noise of its frame; NaN:
    several frames share the mask.
    """

    def centroids(self) -> SpotTable:
        """Return the columns of the centroids, by path."""
        return {
            "spots/centroid": self.centroid,
            "spots/centroid_sigma": self.centroid_sigma,
        }

    def errors(self, intensity: Floats, sigma: Floats) -> SpotTable:
        """Return the columns of the errors of ``I``, by path, with that by the choice of the mask.

        Args:
            intensity: (n,) float64, counts: column ``I``.
            sigma: (n,) float64, counts: error of ``I`` in a mask that does not follow the noise.
        """
        sigma = np.sqrt(sigma * sigma + self.mask_error * self.mask_error)
        return {"spots/sigma": sigma, "spots/snr": over_sigma(intensity, sigma)}

    @classmethod
    def joined(cls, parts: Sequence["Weighted"]) -> "Weighted":
        """Return those of consecutive frames, at least one, as those of one."""
        return cls(
            *(np.concatenate([getattr(part, one.name) for part in parts]) for one in fields(cls))
        )


@dataclass(frozen=True, slots=True)
class WeightedSums:
    """Gathers the values of spots frame by frame, and makes their weighted sums."""

    found: Components
    """Components of all masks."""
    maps: ComponentMaps
    """Maps of the background."""
    noise: NoiseModel
    """Noise model of the run."""
    mask_of_frame: Indices
    """(n_frames,) int64: mask of each frame."""
    factors: Indices | None
    """(n_frames,) int64, 2^-16: factor of each frame; None: frames are not scaled."""
    values: list[Array] = field(default_factory=list)
    """Values of the pixels of all spots of each frame seen so far."""

    def add(self, values: Array, mask_of_frame: Indices) -> None:
        """Add the values of the next frames, `Measurements.values`, each with its mask."""
        lengths = np.diff(self.found.begin[self.found.first])[mask_of_frame]
        self.values.extend(np.split(values, np.cumsum(lengths)[:-1]))

    def columns(self, each: Each = map) -> Weighted:
        """Return the weighted sums of all spots.

        ``each``: calls a function with each of some numbers, in any order.
        """
        of_frames: list[Weighted | None] = [None] * len(self.mask_of_frame)
        order = np.argsort(self.mask_of_frame, kind="stable")
        ends = np.cumsum(np.bincount(self.mask_of_frame, minlength=len(self.found.first) - 1))
        of_masks = np.split(order, ends[:-1])

        def compute(mask: int) -> None:
            for frame, of_frame in zip(
                of_masks[mask], self._of_mask(mask, of_masks[mask]), strict=True
            ):
                of_frames[frame] = of_frame

        for _ in each(compute, range(len(of_masks))):
            pass
        return Weighted.joined([each for each in of_frames if each is not None])

    def _of_mask(self, mask: int, frames: Indices) -> Iterator[Weighted]:
        """Yield the weighted sums of the spots of a mask on each of its frames."""
        first, last = self.found.first[mask], self.found.first[mask + 1]
        begin, n = self.found.begin[first : last + 1], int(last - first)
        pixels, spot = (
            self.found.pixels[begin[0] : begin[-1]],
            np.repeat(np.arange(n), np.diff(begin)),
        )
        background, variance = self.maps.mean_at(pixels), self.maps.variance_at(pixels)
        even = _even(self._floor(variance), spot, n)
        levels = [self._level(frame) for frame in frames]
        pairs = list(neighbours(spot, pixels, self.maps.shape))

        def difference(k: int) -> Floats:
            return self.values[frames[k]].astype(np.float64) - levels[k] * background

        course = _Course.of(difference, len(frames), len(pixels))
        zingers = course.zingers(difference, even, self.noise.gain, pairs)
        profile = course.total.copy()
        for at, mean in zingers.values():
            profile[at] = course.total[at] - course.highest[at] + mean
        counts, smooth = _smooth_counts(profile, even, pairs)
        weight, scale = _weights(counts, smooth, even, spot, n)
        of_frame = counts / (SMOOTHING * len(frames))
        soft, step = self._soft_weights(of_frame, even, spot, n)
        gain, factor = self.noise.gain, self.noise.factor(np.diff(begin))
        chosen = np.full(n, np.nan) if len(frames) > 1 else self._chosen_by_noise(smooth, spot, n)
        box = self.found.box[first:last]
        begins = box[:, 0].astype(np.float64), box[:, 2].astype(np.float64)
        axes = [
            _Axis.of(place - begin[spot], begin, soft, step, profile, variance, background, spot)
            for place, begin in zip(np.divmod(pixels, self.maps.shape[1]), begins, strict=True)
        ]
        for k, level in enumerate(levels):
            above = difference(k)
            # the photons that a frame has more of, or less, than the run
            more = (level - 1.0) * gain
            noise = variance + more * background
            total, squares, of_noise, all_noise = (
                _summed(each, spot, n)
                for each in (weight * above, weight * (weight * above), weight**2 * noise, noise)
            )
            spread = factor * (np.maximum(of_noise, 0.0) + gain * np.maximum(squares, 0.0))
            shared = np.maximum(factor - 1, 0.0) * (np.maximum(all_noise, 0.0) / np.diff(begin))
            if k in zingers:
                at, mean = zingers[k]
                above[at] = mean
            of_soft = _summed(soft * above, spot, n)
            x, y = (axis.on_frame(above, of_soft, spot, more, gain, factor) for axis in axes)
            yield Weighted(
                intensity=scale * total,
                sigma=scale * np.sqrt(spread),
                centroid=np.stack([x[0], y[0]], axis=1),
                centroid_sigma=np.stack([x[1], y[1]], axis=1),
                mask_error=chosen * np.sqrt(shared),
            )

    def _level(self, frame: int) -> np.float64:
        """Return the level of a frame over that of the run."""
        one = np.float64(2**FACTOR_BITS)
        return np.float64(1.0) if self.factors is None else one / self.factors[frame]

    def _floor(self, variance: Floats) -> Floats:
        """Variance of each pixel, counts^2, at least a quarter of that of a photon; NaN stays."""
        return np.maximum(variance, np.float64(self.noise.gain) ** 2 / 4)

    def _chosen_by_noise(self, smooth: Floats, spot: Indices, n: int) -> Floats:
        """Return the error of sums by the choice of pixels, in sigmas of the noise that they share.

        Pixels with a smoothed profile of 1 to 3 sigmas are in the mask because noise has raised
        them. Those of 3 to 6 sigmas belong to the slope of the spot; the more there are of them,
        the fewer of the others are noise.

        Args:
            smooth: (p,) float64: smoothed profile of the frame, sigmas / 256.
            spot: (p,) int64: spot of each pixel.
            n: number of spots.
        """
        noise, (one, two) = self.noise, SMOOTHED_LAGS
        unit = SMOOTHED_NOISE * (1 + one * noise.correlation_lag_1 + two * noise.correlation_lag_2)
        is_low = (smooth >= unit) & (smooth < 3 * unit)
        is_slope = (smooth >= 3 * unit) & (smooth < 6 * unit)
        return MASK_ERROR * np.abs(_summed(is_low.astype(np.float64) - is_slope, spot, n))

    def _soft_weights(
        self, counts: Floats, below: Floats, spot: Indices, n: int
    ) -> tuple[Floats, Floats]:
        """Return the weight of each pixel for centroids, and the step of each spot.

        The weight is the expected counts over their variance. The step brings the distance of the
        centre of mass from that of the weights to the distance of the spot: 2 if the noise is that
        of the background, 1 if it is that of the spot's own photons.

        Args:
            counts: (p,) float64, counts: smoothed profile of a frame.
            below: (p,) float64, counts^2: variance of each pixel without the spot.
            spot: (p,) int64: spot of each pixel.
            n: number of spots.
        """
        all_noise = below + self.noise.gain * counts
        with np.errstate(all="ignore"):
            weight = np.where(all_noise > 0, counts / all_noise, 0.0)
            share = np.where(all_noise > 0, below / all_noise, 0.0)
            product = weight * counts
            mean = _summed(product * share, spot, n) / _summed(product, spot, n)
            return weight, 2 / (2 - mean)


@dataclass(frozen=True, slots=True)
class _Course:
    """Values of the pixels of a mask over its frames."""

    total: Floats
    """(p,) float64, counts: sum over the frames."""
    highest: Floats
    """(p,) float64, counts: largest value."""
    at: Indices
    """(p,) int64: first frame with the largest value."""
    n_frames: int
    """Number of frames."""

    @classmethod
    def of(cls, difference: Callable[[int], Floats], n_frames: int, n_pixels: int) -> "_Course":
        """Return the course of the pixels. ``difference``: values of a frame."""
        total = np.zeros(n_pixels)
        highest, at = np.full(n_pixels, -np.inf), np.zeros(n_pixels, np.int64)
        for k in range(n_frames):
            above = difference(k)
            total += above
            if n_frames > 1:
                is_higher = above > highest
                highest[is_higher], at[is_higher] = above[is_higher], k
        return cls(total, highest, at, n_frames)

    def zingers(
        self,
        difference: Callable[[int], Floats],
        variance: Floats,
        gain: float,
        pairs: Sequence[tuple[Indices, Indices]],
    ) -> dict[int, tuple[Indices, Floats]]:
        """Return the pixels with a zinger on each frame that has one, and their other frames' mean.

        A zinger is far above the other frames, and as sharp as no spot.

        Args:
            difference: values of a frame, counts.
            variance: (p,) float64, counts^2: variance of each pixel without the spot.
            gain: counts per counted unit.
            pairs: neighbouring pixels.
        """
        if self.n_frames == 1:
            return {}
        mean = (self.total - self.highest) / (self.n_frames - 1)
        without = np.maximum(mean, 0.0)
        far = self.highest > 2 * without + ZINGER * np.sqrt(variance + gain * without)
        found = {}
        for k in np.unique(self.at[far]).tolist():
            above, near = difference(k), np.zeros(len(mean))
            for one, other in pairs:
                near[one] = np.maximum(near[one], above[other])
                near[other] = np.maximum(near[other], above[one])
            is_sharp = above > 1.5 * near + 2 * np.sqrt(variance)
            here = np.flatnonzero(far & is_sharp & (self.at == k))
            if len(here):
                found[k] = here, mean[here]
        return found


@dataclass(frozen=True, slots=True)
class _Axis:
    """Weights of the pixels of a mask times their distance from the centre of the profile."""

    begin: Floats
    """(c,) float64, pixels: begin of the box of each spot."""
    step: Floats
    """(c,) float64: see `WeightedSums._soft_weights`."""
    centre: Floats
    """(c,) float64, pixels: weighted centre of the profile, from the begin of the box."""
    moment: Floats
    """(p,) float64: weight times distance of each pixel."""
    square: Floats
    """(p,) float64: its square."""
    noise: Floats
    """(c,) float64: sum of ``square`` times variance."""
    background: Floats
    """(c,) float64: sum of ``square`` times background."""

    @classmethod
    def of(
        cls,
        place: Floats,
        begin: Floats,
        weight: Floats,
        step: Floats,
        profile: Floats,
        variance: Floats,
        background: Floats,
        spot: Indices,
    ) -> "_Axis":
        n = len(begin)
        of_pixel = weight * profile
        with np.errstate(all="ignore"):
            centre = _summed(of_pixel * place, spot, n) / _summed(of_pixel, spot, n)
        moment = weight * (place - centre[spot])
        square = moment * moment
        of_maps = (_summed(square * values, spot, n) for values in (variance, background))
        return cls(begin, step, centre, moment, square, *of_maps)

    def on_frame(
        self,
        difference: Floats,
        total: Floats,
        spot: Indices,
        more: float,
        gain: float,
        factor: Floats,
    ) -> tuple[Floats, Floats]:
        """Return centroid and its standard error on a frame, (c,) float64, pixels.

        Args:
            difference: (p,) float64, counts: values less the background.
            total: (c,) float64, counts: weighted sum of each spot.
            spot: (p,) int64: spot of each pixel.
            more: variance over background that the level of the frame adds, counts.
            gain: counts per counted unit.
            factor: (c,) float64: `NoiseModel.factor` of each spot.
        """
        n = len(self.begin)
        first, second = (_summed(each * difference, spot, n) for each in (self.moment, self.square))
        of_noise = self.noise + more * self.background
        spread = factor * (np.maximum(of_noise, 0.0) + gain * np.maximum(second, 0.0))
        with np.errstate(all="ignore"):
            known = np.where(total > 0, total, np.nan)
            centroid = self.begin + (self.centre + self.step * (first / known))
            return centroid, self.step * (np.sqrt(spread) / known)


def _summed(values: Floats, spot: Indices, n: int) -> Floats:
    """Return the sum of the values of each of n spots, pixel by pixel."""
    return np.bincount(spot, weights=values, minlength=n).astype(np.float64, copy=False)


def _even(variance: Floats, spot: Indices, n: int) -> Floats:
    """Return the variance of each pixel for weights, (p,) float64, counts^2.

    It is the harmonic mean of the spot, as the variances of single pixels are known so badly that
    weights by them would move the centroid. Pixels with much more noise keep their own.
    """
    with np.errstate(all="ignore"):
        mean = (np.bincount(spot, minlength=n) / _summed(1 / variance, spot, n))[spot]
        return np.where(variance <= UNEVEN * mean, mean, variance)


def _smooth_counts(
    profile: Floats, variance: Floats, pairs: Sequence[tuple[Indices, Indices]]
) -> tuple[Floats, Floats]:
    """Return the smoothed profile, (p,) float64, in 1/256 counts and in 1/256 sigmas."""
    sigma = np.sqrt(variance)
    with np.errstate(all="ignore"):
        smooth = np.where(sigma > 0, profile / sigma, 0.0)
        smooth = np.maximum(_smoothed(smooth, pairs), 0.0)
        return smooth * sigma, smooth


def _weights(
    counts: Floats, smooth: Floats, variance: Floats, spot: Indices, n: int
) -> tuple[Floats, Floats]:
    """Return the weight of each pixel, and what brings the sums of each spot to counts."""
    sigma = np.sqrt(variance)
    with np.errstate(all="ignore"):
        height = np.where(sigma > 0, smooth / sigma, 0.0)
        highest = np.zeros(n)
        np.maximum.at(highest, spot, height)
        above = highest[spot]
        weight = np.where(above > 0, np.rint(LARGEST_WEIGHT * height / above), 0.0)
        all_of_it = _summed(counts, spot, n)
        weighted = _summed(weight * counts, spot, n)
        return weight, np.where(weighted > 0, all_of_it / weighted, np.nan)


def _smoothed(values: Floats, pairs: Sequence[tuple[Indices, Indices]]) -> Floats:
    """Smooth twice with [1 2 1] along X and along Y, inside of each spot."""
    for _ in range(2 if pairs else 0):
        result = 4 * values
        for (at, other), weight in zip(pairs, (2, 1, 2, 1), strict=True):
            result[at] += weight * values[other]
            result[other] += weight * values[at]
        values = result
    return values
