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

from gpu_spots.model import FACTOR_BITS, Array, Components, SpotTable, Surface
from gpu_spots.noise_model import NoiseModel
from gpu_spots.spots.centroids import Axis, Offsets, summed
from gpu_spots.spots.properties import ComponentMaps, Values, over_sigma, pieces, taking_turns

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
MASK_ERROR = 0.3
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
    """(n,) float64, counts; NaN where no pixel has a weight, or intensities are not wanted."""
    sigma: Floats
    """(n,) float64, counts: standard error of the intensity."""
    centroid: Floats
    """(n, 2) float64, pixels: with weights; NaN where the weighted sum is not above 0."""
    centroid_sigma: Floats
    """(n, 2) float64, pixels: standard errors of the centroid; NaN where it is."""
    offsets: Offsets
    """Distances of the centres of mass from the centroids."""
    mask_error: Floats
    """(n,) float64, counts: error of the sum over a mask that follows the noise of its frame; 0 if
    several frames share the mask.
    """

    def centroids(self) -> SpotTable:
        """Return the columns of the centroids, by path.

        Those of all spots of a run depend on each other, as their asymmetry is that of the run.
        """
        centroid, sigma = self.offsets.columns(self.centroid, self.centroid_sigma)
        return {"spots/centroid": centroid, "spots/centroid_sigma": sigma}

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
        columns = {
            one.name: np.concatenate([getattr(part, one.name) for part in parts])
            for one in fields(cls)
            if one.name != "offsets"
        }
        return cls(**columns, offsets=Offsets.joined([part.offsets for part in parts]))


@dataclass(frozen=True, slots=True)
class WeightedSums:
    """Values of spots, added frame by frame, and their weighted sums."""

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
    with_intensities: bool
    """True: weighted intensities are wanted, not only centroids."""
    surface: Surface | None = None
    """Levels of the pixels of the frames; None: each frame has one level."""
    at_pixels: Values | None = None
    """Values of the maps at all pixels of the components; None: they are not known yet."""
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

    def _of_mask(self, mask: int, frames: Indices) -> list[Weighted]:
        """Return the weighted sums of the spots of a mask on each of its frames."""
        of_frames: list[list[Weighted]] = [[] for _ in frames]
        begin, end = self.found.first[mask : mask + 2].tolist()
        for first, last in pieces(self.found.begin, begin, end):
            some = self._of_spots(first, last, frames, int(self.found.begin[begin]))
            for parts, part in zip(of_frames, some, strict=True):
                parts.append(part)
        return [Weighted.joined(parts) for parts in of_frames]

    def _of_spots(self, first: int, last: int, frames: Indices, of_mask: int) -> Iterator[Weighted]:
        """Yield the weighted sums of some spots of a mask on each of its frames.

        ``of_mask``: begin of the pixels of the mask.
        """
        found, gain, n = self.found, self.noise.gain, last - first
        begin, length = found.begin[first : last + 1], np.diff(found.begin[first : last + 1])
        inside = slice(int(begin[0]) - of_mask, int(begin[-1]) - of_mask)
        listed = slice(begin[0], begin[-1])
        spot, order = taking_turns(length)
        pixels, known = found.pixels[listed].take(order), self.at_pixels
        here = self.maps.at(pixels) if known is None else known.some(listed, order)
        background, variance = here.mean, here.variance
        even, mean = _even(self._floor(variance), length, spot)
        grid = _Grid.of(pixels, found.box[first:last], spot, self.maps.shape[1])
        levels = [self._level(frame, pixels, background) for frame in frames]

        def difference(k: int) -> Floats:
            values = self.values[frames[k]][inside].take(order).astype(np.float64)
            return values - levels[k] * background

        course = _Course.of(difference, len(frames), len(pixels))
        zingers = course.zingers(difference, even, gain, grid)
        profile = course.total.copy()
        for at, others in zingers.values():
            profile[at] = course.total[at] - course.highest[at] + others
        counts, smooth = _smooth_counts(profile, even, grid)
        soft, expected, step = self._soft_weights(counts / (SMOOTHING * len(frames)), even, spot, n)
        factor = self.noise.factor(length)
        mask_error = np.zeros(n)
        if len(frames) == 1:
            shared = np.maximum(factor - 1, 0.0) * mean
            mask_error = self._chosen_by_noise(smooth, spot, n) * np.sqrt(shared)
        prf = None
        if self.with_intensities:
            prf = _Intensities.of(profile, smooth, even, spot, n)
        of_profile = soft * profile
        total = summed(of_profile, spot, n)
        axes = [
            Axis.of(place, soft, of_profile, total, variance, background, spot)
            for place in grid.places
        ]
        all_noise = len(frames) * variance + (sum(levels) - len(frames)) * gain * background
        masses = summed(profile, spot, n), total, summed(expected, spot, n)
        offsets = Offsets.along(
            *(
                axis.offset(place, profile, expected, masses, all_noise, gain, factor, step)
                for axis, place in zip(axes, grid.places, strict=True)
            )
        )
        begins = found.box[first:last, [0, 2]].astype(np.float64)
        for k, level in enumerate(levels):
            # the photons that a frame has more of, or less, than the run
            more = (level - 1.0) * gain
            above = profile if len(frames) == 1 else difference(k)
            intensity = sigma = np.full(n, np.nan)
            if prf is not None:
                noise = variance + more * background
                intensity, sigma = prf.on_frame(above, noise, gain, factor)
            if k in zingers:
                at, others = zingers[k]
                above[at] = others
            of_soft = total if len(frames) == 1 else summed(soft * above, spot, n)
            x, y = (
                axis.on_frame(
                    above,
                    of_soft,
                    axis.added(more, background),
                    gain,
                    factor,
                    step,
                    moves=len(frames) > 1,
                )
                for axis in axes
            )
            yield Weighted(
                intensity=intensity,
                sigma=sigma,
                centroid=begins + np.stack([x[0], y[0]], axis=1),
                centroid_sigma=np.stack([x[1], y[1]], axis=1),
                offsets=offsets,
                mask_error=mask_error,
            )

    def _level(self, frame: int, pixels: Indices, background: Floats) -> np.float64 | Floats:
        """Return the background on a frame over that of the run, of all pixels or of each."""
        one = np.float64(2**FACTOR_BITS)
        if self.surface is not None:
            place = np.divmod(pixels, self.maps.shape[1])
            part = self.maps.constant_part
            on_frame = self.surface.background(frame, *place, background, part)
            is_known = background != 0
            return np.divide(on_frame, background, out=np.ones(len(pixels)), where=is_known)
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
        return MASK_ERROR * np.abs(summed(is_low.astype(np.float64) - is_slope, spot, n))

    def _soft_weights(
        self, counts: Floats, below: Floats, spot: Indices, n: int
    ) -> tuple[Floats, Floats, Floats]:
        """Return weights of the pixels for centroids, weighted counts, and the step of each spot.

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
            mean = summed(product * share, spot, n) / summed(product, spot, n)
            return weight, product, 2 / (2 - mean)


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
        grid: "_Grid",
    ) -> dict[int, tuple[Indices, Floats]]:
        """Return the pixels with a zinger on each frame that has one, and their other frames' mean.

        A zinger is far above the other frames, and as sharp as no spot.

        Args:
            difference: values of a frame, counts.
            variance: (p,) float64, counts^2: variance of each pixel without the spot.
            gain: counts per counted unit.
            grid: neighbours of the pixels.
        """
        if self.n_frames == 1:
            return {}
        mean = (self.total - self.highest) / (self.n_frames - 1)
        without = np.maximum(mean, 0.0)
        far = self.highest > 2 * without + ZINGER * np.sqrt(variance + gain * without)
        found = {}
        for k in np.unique(self.at[far]).tolist():
            above, near = difference(k), np.zeros(len(mean))
            for beside in grid.beside(above):
                near = np.maximum(near, beside)
            is_sharp = above > 1.5 * near + 2 * np.sqrt(variance)
            here = np.flatnonzero(far & is_sharp & (self.at == k))
            if len(here):
                found[k] = here, mean[here]
        return found


@dataclass(frozen=True, slots=True)
class _Grid:
    """Places of the pixels of some spots, each of which has rows of its own with gaps between."""

    index: Indices
    """(p,) int64: index of each pixel."""
    stride: Indices
    """(p,) int64: from a row of its spot to the next."""
    size: int
    """Number of places."""
    places: tuple[Floats, Floats]
    """X and Y of each pixel from the begin of the box of its spot, (p,) float64 each."""

    @classmethod
    def of(cls, pixels: Indices, box: NDArray[np.int32], spot: Indices, n_columns: int) -> "_Grid":
        """Return the places of pixels of spots with these boxes on frames of ``n_columns``."""
        box = box.astype(np.int64)
        stride = box[:, 3] - box[:, 2] + 1
        end = np.cumsum((box[:, 1] - box[:, 0] + 2) * stride)
        begin = end - (box[:, 1] - box[:, 0] + 1) * stride
        row = pixels // n_columns
        x, y = row - box[spot, 0], pixels - row * n_columns - box[spot, 2]
        of_pixel = stride[spot]
        index = begin[spot] + x * of_pixel + y
        size = int(end[-1]) if len(end) else 0
        return cls(index, of_pixel, size, (x.astype(np.float64), y.astype(np.float64)))

    def beside(self, values: Floats) -> Iterator[Floats]:
        """Yield the values of the 8 neighbours of each pixel, 0 where they are not in its spot.

        First those along Y, then the two diagonals of rising X and falling Y, those along X, and
        the other diagonals.
        """
        on_grid = np.zeros(self.size)
        on_grid[self.index] = values
        for step in (1, self.stride - 1, self.stride, self.stride + 1):
            yield on_grid.take(self.index + step)
            # the first place of all has no row before: -1 is the last one, which is empty
            yield on_grid.take(self.index - step)

    def smoothed(self, values: Floats) -> Floats:
        """Smooth twice with [1 2 1] along X and along Y, inside of each spot."""
        for _ in range(2):
            result = 4 * values
            for beside, weight in zip(self.beside(values), (2, 2, 1, 1, 2, 2, 1, 1), strict=True):
                result += beside if weight == 1 else weight * beside
            values = result
        return values


@dataclass(frozen=True, slots=True)
class _Intensities:
    """Weights of the pixels of a mask for intensities."""

    weight: Floats
    """(p,) float64: whole numbers."""
    scale: Floats
    """(c,) float64: what brings the sums of each spot to counts."""
    spot: Indices
    """(p,) int64: spot of each pixel."""

    @classmethod
    def of(
        cls, profile: Floats, smooth: Floats, variance: Floats, spot: Indices, n: int
    ) -> "_Intensities":
        """Return the weights of n spots by their profile, in counts, and as smoothed, in sigmas."""
        sigma = np.sqrt(variance)
        with np.errstate(all="ignore"):
            height = np.where(sigma > 0, smooth / sigma, 0.0)
            highest = np.zeros(n)
            np.maximum.at(highest, spot, height)
            above = highest[spot]
            weight = np.where(above > 0, np.rint(LARGEST_WEIGHT * height / above), 0.0)
            all_of_it = summed(profile, spot, n)
            weighted = summed(weight * profile, spot, n)
            is_known = (all_of_it > 0) & (weighted > 0)
            return cls(weight, np.where(is_known, all_of_it / weighted, np.nan), spot)

    def on_frame(
        self, difference: Floats, noise: Floats, gain: float, factor: Floats
    ) -> tuple[Floats, Floats]:
        """Return intensities on a frame and their standard errors, (c,) float64, counts.

        Args:
            difference: (p,) float64, counts: values less the background.
            noise: (p,) float64, counts^2: their variance without the spot.
            gain: counts per counted unit.
            factor: (c,) float64: `NoiseModel.factor` of each spot.
        """
        by_weight = self.weight * difference
        total, squares, of_noise = (
            summed(each, self.spot, len(self.scale))
            for each in (by_weight, self.weight * by_weight, self.weight**2 * noise)
        )
        spread = factor * (np.maximum(of_noise, 0.0) + gain * np.maximum(squares, 0.0))
        return self.scale * total, self.scale * np.sqrt(spread)


def _even(variance: Floats, length: Indices, spot: Indices) -> tuple[Floats, Floats]:
    """Return the variance of each pixel for weights, (p,) float64, and of each spot, counts^2.

    It is the harmonic mean of the spot, as the variances of single pixels are known so badly that
    weights by them would move the centroid. Pixels with much more noise keep their own.

    ``length``: (c,) int64, number of pixels of each spot.
    """
    with np.errstate(all="ignore"):
        mean = length / summed(1 / variance, spot, len(length))
        of_pixel = mean[spot]
        return np.where(variance <= UNEVEN * of_pixel, of_pixel, variance), mean


def _smooth_counts(profile: Floats, variance: Floats, grid: _Grid) -> tuple[Floats, Floats]:
    """Return the smoothed profile, (p,) float64, in 1/256 counts and in 1/256 sigmas."""
    sigma = np.sqrt(variance)
    with np.errstate(all="ignore"):
        smooth = np.where(sigma > 0, profile / sigma, 0.0)
        smooth = np.maximum(grid.smoothed(smooth), 0.0)
        return smooth * sigma, smooth
