"""Weighted intensities and centroids of spots.

All frames of a group that share a mask show the profile of a spot better than one of them does.
Pixels get weights by it, the same on every frame of the group, so that weak pixels add less noise.
A centroid without weights would take most of its noise from the edge of the mask. All of it is
computed on the host, in a fixed order.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

from gpu_spots.model import FACTOR_BITS, Array, Components, NoiseModel, SpotTable, Surface
from gpu_spots.spots.neighbours import neighbours
from gpu_spots.spots.properties import ComponentMaps

LARGEST_WEIGHT = 15
"""Weights are whole numbers from 0 to this."""

SMOOTHING = 256
"""Sum of the weights by which profiles are smoothed."""

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

    def centroids(self) -> SpotTable:
        """Return the columns of the centroids, by path."""
        return {
            "spots/centroid": self.centroid,
            "spots/centroid_sigma": self.centroid_sigma,
        }

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
    surface: Surface | None = None
    """Levels of the pixels of the frames; None: each frame has one level."""
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
        levels = [self._level(frame, pixels, background) for frame in frames]
        profile = np.zeros(len(pixels))
        for frame, level in zip(frames, levels, strict=True):
            profile += self.values[frame].astype(np.float64) - level * background
        counts, smooth = self._smooth_counts(profile, variance, pixels, spot)
        weight, scale = self._weights(counts, smooth, variance, spot, n)
        of_frame = counts / (SMOOTHING * len(frames))
        soft, step = self._soft_weights(of_frame, variance, spot, n)
        gain, factor = self.noise.gain, self.noise.factor(np.diff(begin))
        box = self.found.box[first:last]
        begins = box[:, 0].astype(np.float64), box[:, 2].astype(np.float64)
        axes = [
            _Axis.of(place - begin[spot], begin, soft, step, profile, variance, background, spot)
            for place, begin in zip(np.divmod(pixels, self.maps.shape[1]), begins, strict=True)
        ]
        for frame, level in zip(frames, levels, strict=True):
            difference = self.values[frame].astype(np.float64) - level * background
            # the photons that a frame has more of, or less, than the run
            noise = variance + ((level - 1.0) * gain) * background
            total, squares, of_noise = (
                _summed(each, spot, n)
                for each in (weight * difference, weight * (weight * difference), weight**2 * noise)
            )
            spread = factor * (np.maximum(of_noise, 0.0) + gain * np.maximum(squares, 0.0))
            added = (level - 1.0) * gain
            more = [
                _summed(axis.square * (added * background), spot, n)
                if isinstance(added, np.ndarray)
                else added * axis.background
                for axis in axes
            ]
            of_soft = _summed(soft * difference, spot, n)
            along = [
                axis.on_frame(difference, of_soft, spot, of_axis, gain, factor)
                for axis, of_axis in zip(axes, more, strict=True)
            ]
            yield Weighted(
                scale * total,
                scale * np.sqrt(spread),
                *(np.stack(both, axis=1) for both in zip(*along, strict=True)),
            )

    def _level(self, frame: int, pixels: Indices, background: Floats) -> np.float64 | Floats:
        """Return the background on a frame over that of the run, of all pixels or of each."""
        one = np.float64(2**FACTOR_BITS)
        if self.surface is not None:
            place = np.divmod(pixels, self.maps.shape[1])
            on_frame = self.surface.background(frame, *place, background)
            is_known = background != 0
            return np.divide(on_frame, background, out=np.ones(len(pixels)), where=is_known)
        return np.float64(1.0) if self.factors is None else one / self.factors[frame]

    def _floor(self, variance: Floats) -> Floats:
        """Variance of each pixel, counts^2, at least a quarter of that of a photon; NaN stays."""
        return np.maximum(variance, np.float64(self.noise.gain) ** 2 / 4)

    def _smooth_counts(
        self, profile: Floats, variance: Floats, pixels: Indices, spot: Indices
    ) -> tuple[Floats, Floats]:
        """Return the smoothed profile, (p,) float64, in 1/256 counts and in 1/256 sigmas."""
        sigma = np.sqrt(self._floor(variance))
        with np.errstate(all="ignore"):
            smooth = np.where(sigma > 0, profile / sigma, 0.0)
            smooth = np.maximum(_smoothed(smooth, pixels, spot, self.maps.shape), 0.0)
            return smooth * sigma, smooth

    def _weights(
        self, counts: Floats, smooth: Floats, variance: Floats, spot: Indices, n: int
    ) -> tuple[Floats, Floats]:
        """Return the weight of each pixel, and what brings the sums of each spot to counts."""
        sigma = np.sqrt(self._floor(variance))
        with np.errstate(all="ignore"):
            height = np.where(sigma > 0, smooth / sigma, 0.0)
            highest = np.zeros(n)
            np.maximum.at(highest, spot, height)
            above = highest[spot]
            weight = np.where(above > 0, np.rint(LARGEST_WEIGHT * height / above), 0.0)
            all_of_it = _summed(counts, spot, n)
            weighted = _summed(weight * counts, spot, n)
            return weight, np.where(weighted > 0, all_of_it / weighted, np.nan)

    def _soft_weights(
        self, counts: Floats, variance: Floats, spot: Indices, n: int
    ) -> tuple[Floats, Floats]:
        """Return the weight of each pixel for centroids, and the step of each spot.

        The weight is the expected counts over their variance. The step brings the distance of the
        centre of mass from that of the weights to the distance of the spot: 2 if the noise is that
        of the background, 1 if it is that of the spot's own photons.

        ``counts``: smoothed profile of a frame, counts.
        """
        below = self._floor(variance)
        all_noise = below + self.noise.gain * counts
        with np.errstate(all="ignore"):
            weight = np.where(all_noise > 0, counts / all_noise, 0.0)
            share = np.where(all_noise > 0, below / all_noise, 0.0)
            product = weight * counts
            mean = _summed(product * share, spot, n) / _summed(product, spot, n)
            return weight, 2 / (2 - mean)


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
        more: Floats,
        gain: float,
        factor: Floats,
    ) -> tuple[Floats, Floats]:
        """Return centroid and its standard error on a frame, (c,) float64, pixels.

        Args:
            difference: (p,) float64, counts: values less the background.
            total: (c,) float64, counts: weighted sum of each spot.
            spot: (p,) int64: spot of each pixel.
            more: (c,) float64: sum of ``square`` times the variance that the level of the frame
                adds.
            gain: counts per counted unit.
            factor: (c,) float64: `NoiseModel.factor` of each spot.
        """
        n = len(self.begin)
        first, second = (_summed(each * difference, spot, n) for each in (self.moment, self.square))
        of_noise = self.noise + more
        spread = factor * (np.maximum(of_noise, 0.0) + gain * np.maximum(second, 0.0))
        with np.errstate(all="ignore"):
            known = np.where(total > 0, total, np.nan)
            centroid = self.begin + (self.centre + self.step * (first / known))
            return centroid, self.step * (np.sqrt(spread) / known)


def _summed(values: Floats, spot: Indices, n: int) -> Floats:
    """Return the sum of the values of each of n spots, pixel by pixel."""
    return np.bincount(spot, weights=values, minlength=n).astype(np.float64, copy=False)


def _smoothed(values: Floats, pixels: Indices, spot: Indices, shape: tuple[int, int]) -> Floats:
    """Smooth twice with [1 2 1] along X and along Y, inside of each spot."""
    pairs = list(neighbours(spot, pixels, shape))
    for _ in range(2 if pairs else 0):
        result = 4 * values
        for (at, other), weight in zip(pairs, (2, 1, 2, 1), strict=True):
            result[at] += weight * values[other]
            result[other] += weight * values[at]
        values = result
    return values
