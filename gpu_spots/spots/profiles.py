"""Weighted intensities and centroids of spots.

All frames of a group that share a mask show the profile of a spot better than one of them does.
Pixels get weights by it, the same on every frame of the group, so that weak pixels add less noise.
A centroid without weights would take most of its noise from the edge of the mask. The profile also
tells how many pixels are in a mask because of their noise. All of it is computed on the host, in a
fixed order.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_spots.model import FACTOR_BITS, Array, Components, SpotTable, Surface
from gpu_spots.noise_model import NoiseModel
from gpu_spots.spots.centroids import Axis, Offsets
from gpu_spots.spots.properties import ComponentMaps, ComponentSums, PixelMaps, over_sigma
from gpu_spots.spots.turns import Turns, summed, turns

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
ROW_STEP = 8
"""Rows of spots on a grid are multiples of so many places."""
ZINGER = 8.0
"""Height of a zinger above twice the mean of the other frames, sigmas of a pixel."""

Each = Callable[[Callable[[Any], None], Iterable[Any]], Iterable[None]]
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
    def empty(cls, n: int) -> "Weighted":
        """Return those of n spots, which are to be filled in."""
        return cls(
            intensity=np.empty(n),
            sigma=np.empty(n),
            centroid=np.empty((n, 2)),
            centroid_sigma=np.empty((n, 2)),
            offsets=Offsets(*(np.empty((n, 2)) for _ in fields(Offsets))),
            mask_error=np.empty(n),
        )

    def fill(self, rows: Indices, others: "Weighted") -> None:
        """Fill in some rows."""
        for of, to in ((others, self), (others.offsets, self.offsets)):
            for one in fields(of):
                if one.name != "offsets":
                    getattr(to, one.name)[rows] = getattr(of, one.name)

    @classmethod
    def joined(cls, parts: Sequence["Weighted"]) -> "Weighted":
        """Return those of consecutive frames, at least one, as those of one."""
        columns = {
            one.name: np.concatenate([getattr(part, one.name) for part in parts])
            for one in fields(cls)
            if one.name != "offsets"
        }
        return cls(**columns, offsets=Offsets.joined([part.offsets for part in parts]))


@dataclass(slots=True)
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
    sums: ComponentSums | None = None
    """Sums over the components, which are added up with the others; None: they are not wanted."""
    _values: Array | None = field(default=None, init=False)
    """Values of the pixels of all spots of each frame, one frame after the other."""
    _n_added: int = field(default=0, init=False)
    """Number of them that have been added."""

    def add(self, values: Array) -> None:
        """Add the values of the next frames, `Measurements.values`."""
        n = int(self._n_values.sum())
        if len(values) == n:
            self._values = values
            return
        if self._values is None:
            self._values = np.empty(n, values.dtype)
        end = self._n_added + len(values)
        self._values[self._n_added : end] = values
        self._n_added = end

    @property
    def _n_values(self) -> Indices:
        """(n_frames,) int64: number of values of each frame."""
        return np.diff(self.found.begin[self.found.first])[self.mask_of_frame]

    def columns(self, each: Each = map) -> Weighted:
        """Return the weighted sums of all spots.

        ``each``: calls a function with each of some arguments, in any order.
        """
        found = self.found
        counts = np.diff(found.first)
        n_rows = counts[self.mask_of_frame]
        result = Weighted.empty(int(n_rows.sum()))
        # of each frame: its first row less the first component, and its first value less the pixel
        rows = np.cumsum(n_rows) - n_rows - found.first[self.mask_of_frame]
        n_values = self._n_values
        places = np.cumsum(n_values) - n_values
        places -= found.begin[found.first[self.mask_of_frame]]
        by_mask = np.argsort(self.mask_of_frame, kind="stable")
        n_frames = np.bincount(self.mask_of_frame, minlength=len(counts))
        first_frame = np.cumsum(n_frames) - n_frames
        mask = np.repeat(np.arange(len(counts)), counts)

        def pieces() -> Iterator[tuple[Turns, Indices]]:
            for n in np.unique(n_frames[n_frames > 0]).tolist():
                for some in turns(found.begin, np.flatnonzero(n_frames[mask] == n)):
                    yield some, by_mask[first_frame[mask[some.component]] + np.arange(n)[:, None]]

        def compute(piece: tuple[Turns, Indices]) -> None:
            some, frames = piece
            pixels = self.maps.pixels(found, some)
            if self.sums is not None:
                self.maps.add(pixels, self.sums)
            of_frames = self._of_spots(pixels, frames, places[frames])
            for of_frame, weighted in zip(frames, of_frames, strict=True):
                result.fill(rows[of_frame] + some.component, weighted)

        for _ in each(compute, pieces()):
            pass
        return result

    def _of_spots(self, pixels: PixelMaps, frames: Indices, places: Indices) -> Iterator[Weighted]:
        """Yield the weighted sums of some spots on each of their frames.

        Args:
            pixels: pixels of spots of masks with equally many frames.
            frames: (k, c) int64: the frames of each spot.
            places: (k, c) int64: what a pixel's place in the list of values is beyond that in the
                list of pixels.
        """
        gain, n_frames = self.noise.gain, len(frames)
        spots, background, variance = pixels.of, pixels.background, pixels.variance
        even, mean = _even(self._floor(variance), spots)
        box = self.found.box[spots.component].astype(np.int64)
        grid = _Grid.of(pixels, box)
        levels = [self._level(of_frame, pixels) for of_frame in frames]
        values = self._values
        assert values is not None

        def difference(k: int) -> Floats:
            on_frame = values.take(spots.index + places[k]).astype(np.float64)
            return spots.without_empty(on_frame - levels[k] * background)

        course = _Course.of(difference, n_frames, background.shape)
        zingers = course.zingers(difference, even, gain, grid)
        profile = course.total.copy()
        for at, others in zingers.values():
            profile[at] = course.total[at] - course.highest[at] + others
        counts, smooth = _smooth_counts(profile, even, grid)
        soft, expected, step = self._soft_weights(counts / (SMOOTHING * n_frames), even)
        factor = self.noise.factor(spots.length)
        mask_error = np.zeros(len(factor))
        if n_frames == 1:
            shared = np.maximum(factor - 1, 0.0) * mean
            mask_error = self._chosen_by_noise(smooth) * np.sqrt(shared)
        prf = _Intensities.of(profile, smooth, even) if self.with_intensities else None
        of_profile = soft * profile
        total = summed(of_profile)
        places_of_axes = pixels.x, pixels.y
        axes = [
            Axis.of(place, soft, of_profile, total, variance, background)
            for place in places_of_axes
        ]
        all_noise = n_frames * variance + (sum(levels) - n_frames) * gain * background
        masses = summed(profile), total, summed(expected)
        offsets = Offsets.along(
            *(
                axis.offset(place, profile, expected, masses, all_noise, gain, factor, step)
                for axis, place in zip(axes, places_of_axes, strict=True)
            )
        )
        begins = box[:, [0, 2]].astype(np.float64)
        for k, level in enumerate(levels):
            # the photons that a frame has more of, or less, than the run
            more = (level - 1.0) * gain
            above = profile if n_frames == 1 else difference(k)
            intensity = sigma = np.full(len(factor), np.nan)
            if prf is not None:
                noise = variance + more * background
                intensity, sigma = prf.on_frame(above, noise, gain, factor)
            if k in zingers:
                at, others = zingers[k]
                above[at] = others
            of_soft = total if n_frames == 1 else summed(soft * above)
            x, y = (
                axis.on_frame(
                    above,
                    of_soft,
                    axis.added(more, background),
                    gain,
                    factor,
                    step,
                    moves=n_frames > 1,
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

    def _level(self, frames: Indices, pixels: PixelMaps) -> Floats:
        """Return the background on a frame over that of the run, of spots or of their pixels.

        ``frames``: (c,) int64: frame of each spot.
        """
        if self.surface is None:
            one = np.float64(2**FACTOR_BITS)
            return np.ones(len(frames)) if self.factors is None else one / self.factors[frames]
        level = np.ones(pixels.background.shape)
        for frame in np.unique(frames).tolist():
            here = frames == frame
            place = np.divmod(pixels.pixels[:, here], self.maps.shape[1])
            below = pixels.background[:, here]
            on_frame = self.surface.background(frame, *place, below, self.maps.constant_part)
            ones = np.ones(below.shape)
            level[:, here] = np.divide(on_frame, below, out=ones, where=below != 0)
        return level

    def _floor(self, variance: Floats) -> Floats:
        """Variance of each pixel, counts^2, at least a quarter of that of a photon; NaN stays."""
        return np.maximum(variance, np.float64(self.noise.gain) ** 2 / 4)

    def _chosen_by_noise(self, smooth: Floats) -> Floats:
        """Return the error of sums by the choice of pixels, in sigmas of the noise that they share.

        Pixels with a smoothed profile of 1 to 3 sigmas are in the mask because noise has raised
        them. Those of 3 to 6 sigmas belong to the slope of the spot; the more there are of them,
        the fewer of the others are noise.

        ``smooth``: (t, c) float64: smoothed profile of the frame, sigmas / 256.
        """
        noise, (one, two) = self.noise, SMOOTHED_LAGS
        unit = SMOOTHED_NOISE * (1 + one * noise.correlation_lag_1 + two * noise.correlation_lag_2)
        is_low = (smooth >= unit) & (smooth < 3 * unit)
        is_slope = (smooth >= 3 * unit) & (smooth < 6 * unit)
        return MASK_ERROR * np.abs(summed(is_low.astype(np.float64) - is_slope))

    def _soft_weights(self, counts: Floats, below: Floats) -> tuple[Floats, Floats, Floats]:
        """Return weights of the pixels for centroids, weighted counts, and the step of each spot.

        The weight is the expected counts over their variance. The step brings the distance of the
        centre of mass from that of the weights to the distance of the spot: 2 if the noise is that
        of the background, 1 if it is that of the spot's own photons.

        Args:
            counts: (t, c) float64, counts: smoothed profile of a frame.
            below: (t, c) float64, counts^2: variance of each pixel without the spot.
        """
        all_noise = below + self.noise.gain * counts
        with np.errstate(all="ignore"):
            weight = np.where(all_noise > 0, counts / all_noise, 0.0)
            share = np.where(all_noise > 0, below / all_noise, 0.0)
            product = weight * counts
            mean = summed(product * share) / summed(product)
            return weight, product, 2 / (2 - mean)


@dataclass(frozen=True, slots=True)
class _Course:
    """Values of the pixels of a mask over its frames."""

    total: Floats
    """(t, c) float64, counts: sum over the frames."""
    highest: Floats
    """(t, c) float64, counts: largest value."""
    at: Indices
    """(t, c) int64: first frame with the largest value."""
    n_frames: int
    """Number of frames."""

    @classmethod
    def of(
        cls, difference: Callable[[int], Floats], n_frames: int, shape: tuple[int, ...]
    ) -> "_Course":
        """Return the course of pixels in that shape. ``difference``: values of a frame."""
        total = np.zeros(shape)
        highest, at = np.full(shape, -np.inf), np.zeros(shape, np.int64)
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
    ) -> dict[int, tuple[tuple[Indices, ...], Floats]]:
        """Return the pixels with a zinger on each frame that has one, and their other frames' mean.

        A zinger is far above the other frames, and as sharp as no spot.

        Args:
            difference: values of a frame, counts.
            variance: (t, c) float64, counts^2: variance of each pixel without the spot.
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
            above, near = difference(k), np.zeros(mean.shape)
            for beside in grid.beside(above):
                near = np.maximum(near, beside)
            is_sharp = above > 1.5 * near + 2 * np.sqrt(variance)
            here = np.nonzero(far & is_sharp & (self.at == k))
            if len(here[0]):
                found[k] = here, mean[here]
        return found


@dataclass(frozen=True, slots=True)
class _Grid:
    """Places of the pixels of some spots, each of which has rows of its own with gaps between.

    Spots with rows of about the same length have equally long ones, and follow each other.
    """

    index: Indices
    """(t, c) int64: index of each pixel."""
    stride: Indices
    """(c,) int64: from a row of each spot to the next."""
    parts: list[tuple[int, int, int]]
    """Begin and end of the rows of equal length, and their length."""
    on_grid: Floats
    """Values at all places, 0 where there is no pixel."""

    @classmethod
    def of(cls, pixels: PixelMaps, box: Indices) -> "_Grid":
        """Return the places of pixels of spots with these boxes. Empty places are far from all."""
        stride = ((box[:, 3] - box[:, 2]) // ROW_STEP + 1) * ROW_STEP
        order = np.argsort(stride, kind="stable")
        # an empty row after each spot, and one before the first of each part
        size = ((box[:, 1] - box[:, 0] + 1) * stride)[order]
        strides, first = np.unique(stride[order], return_index=True)
        with_gaps = size.copy()
        with_gaps[first] += strides
        end = 1 + np.cumsum(with_gaps)
        begin = np.empty(len(end), np.int64)
        begin[order] = end - size
        index = (begin + pixels.x * stride + pixels.y).astype(np.int64)
        if pixels.of.empty is not None:
            np.copyto(index, end[-1], where=pixels.of.empty)
        last = np.append(first[1:], len(end)) - 1
        edges = (end - size)[first].tolist(), end[last].tolist(), strides.tolist()
        on_grid = np.zeros(int(end[-1] + strides[-1]) + 2)
        return cls(index, stride, list(zip(*edges, strict=True)), on_grid)

    def beside(self, values: Floats) -> Iterator[Floats]:
        """Yield the values of the 8 neighbours of each pixel, 0 where they are not in its spot.

        ``values`` are 0 in empty places.
        """
        on_grid = self.on_grid
        on_grid[self.index] = values
        for step in (1, self.stride - 1, self.stride, self.stride + 1):
            yield on_grid.take(self.index + step)
            yield on_grid.take(self.index - step)

    def smoothed(self, values: Floats) -> Floats:
        """Smooth twice with [1 2 1] along X and along Y, inside of each spot.

        Neighbours are added in this order: those along Y, then the two diagonals of rising X and
        falling Y, those along X, and the other diagonals; the one with the higher index first.
        ``values`` are 0 in empty places.
        """
        on_grid, result = self.on_grid, np.zeros(len(self.on_grid))
        for _ in range(2):
            on_grid[self.index] = values
            twice = 2 * on_grid
            for begin, end, stride in self.parts:
                sums = result[begin:end]
                np.multiply(on_grid[begin:end], 4.0, out=sums)
                for of, step in (
                    (twice, 1), (on_grid, stride - 1), (twice, stride), (on_grid, stride + 1)
                ):  # fmt: skip
                    sums += of[begin + step : end + step]
                    sums += of[begin - step : end - step]
            values = result.take(self.index)
        return values


@dataclass(frozen=True, slots=True)
class _Intensities:
    """Weights of the pixels of a mask for intensities."""

    weight: Floats
    """(t, c) float64: whole numbers."""
    scale: Floats
    """(c,) float64: what brings the sums of each spot to counts."""

    @classmethod
    def of(cls, profile: Floats, smooth: Floats, variance: Floats) -> "_Intensities":
        """Return the weights of spots by their profile, in counts, and as smoothed, in sigmas."""
        sigma = np.sqrt(variance)
        with np.errstate(all="ignore"):
            height = np.where(sigma > 0, smooth / sigma, 0.0)
            above = np.maximum.reduce(height, axis=0, initial=0.0)
            weight = np.where(above > 0, np.rint(LARGEST_WEIGHT * height / above), 0.0)
            all_of_it = summed(profile)
            weighted = summed(weight * profile)
            is_known = (all_of_it > 0) & (weighted > 0)
            return cls(weight, np.where(is_known, all_of_it / weighted, np.nan))

    def on_frame(
        self, difference: Floats, noise: Floats, gain: float, factor: Floats
    ) -> tuple[Floats, Floats]:
        """Return intensities on a frame and their standard errors, (c,) float64, counts.

        Args:
            difference: (t, c) float64, counts: values less the background.
            noise: (t, c) float64, counts^2: their variance without the spot.
            gain: counts per counted unit.
            factor: (c,) float64: `NoiseModel.factor` of each spot.
        """
        by_weight = self.weight * difference
        total, squares, of_noise = map(
            summed, (by_weight, self.weight * by_weight, self.weight**2 * noise)
        )
        spread = factor * (np.maximum(of_noise, 0.0) + gain * np.maximum(squares, 0.0))
        return self.scale * total, self.scale * np.sqrt(spread)


def _even(variance: Floats, spots: Turns) -> tuple[Floats, Floats]:
    """Return the variance of each pixel for weights, (t, c) float64, and of each spot, counts^2.

    It is the harmonic mean of the spot, as the variances of single pixels are known so badly that
    weights by them would move the centroid. Pixels with much more noise keep their own.
    """
    with np.errstate(all="ignore"):
        mean = spots.length / summed(spots.without_empty(1 / variance))
        return np.where(variance <= UNEVEN * mean, mean, variance), mean


def _smooth_counts(profile: Floats, variance: Floats, grid: _Grid) -> tuple[Floats, Floats]:
    """Return the smoothed profile, (t, c) float64, in 1/256 counts and in 1/256 sigmas."""
    sigma = np.sqrt(variance)
    with np.errstate(all="ignore"):
        smooth = np.where(sigma > 0, profile / sigma, 0.0)
        smooth = np.maximum(grid.smoothed(smooth), 0.0)
        return smooth * sigma, smooth
