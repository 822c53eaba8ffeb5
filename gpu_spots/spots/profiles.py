"""Weighted intensities of spots whose mask belongs to a group of frames.

All frames of the group together show the profile of a spot better than one of them does. Pixels get
weights by it, the same on every frame of the group, so that weak pixels add less noise. All of it
is computed on the host, in a fixed order.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gpu_spots.model import FACTOR_BITS, Array, Components, NoiseModel
from gpu_spots.spots.neighbours import neighbours
from gpu_spots.spots.properties import ComponentMaps

LARGEST_WEIGHT = 15
"""Weights are whole numbers from 0 to this."""

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class WeightedSums:
    """Gathers the values of spots frame by frame, and makes their weighted intensities."""

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

    def columns(self) -> tuple[Floats, Floats]:
        """Return weighted intensity and its sigma of each spot, (n,) float64, counts."""
        intensities, sigmas = ([np.zeros(0)] * len(self.mask_of_frame) for _ in range(2))
        order = np.argsort(self.mask_of_frame, kind="stable")
        ends = np.cumsum(np.bincount(self.mask_of_frame, minlength=len(self.found.first) - 1))
        for mask, frames in enumerate(np.split(order, ends[:-1])):
            for frame, of_frame in zip(frames, self._of_mask(mask, frames), strict=True):
                intensities[frame], sigmas[frame] = of_frame
        return np.concatenate(intensities), np.concatenate(sigmas)

    def _of_mask(self, mask: int, frames: Indices) -> Iterator[tuple[Floats, Floats]]:
        """Yield weighted intensity and sigma of the spots of a mask on each of its frames."""
        first, last = self.found.first[mask], self.found.first[mask + 1]
        begin, n = self.found.begin[first : last + 1], int(last - first)
        pixels, spot = (
            self.found.pixels[begin[0] : begin[-1]],
            np.repeat(np.arange(n), np.diff(begin)),
        )
        background, variance = self.maps.mean_at(pixels), self.maps.variance_at(pixels)
        levels = [self._level(frame) for frame in frames]
        profile = np.zeros(len(pixels))
        for frame, level in zip(frames, levels, strict=True):
            profile += self.values[frame].astype(np.float64) - level * background
        weight, scale = self._weights(profile, variance, pixels, spot, n)
        gain, correlation = self.noise.gain, self.noise.correlation
        for frame, level in zip(frames, levels, strict=True):
            difference = self.values[frame].astype(np.float64) - level * background
            # the photons that a frame has more of, or less, than the run
            noise = variance + ((level - 1.0) * gain) * background
            total, squares, of_noise = (
                np.bincount(spot, weights=each, minlength=n)
                for each in (weight * difference, weight * (weight * difference), weight**2 * noise)
            )
            spread = correlation * np.maximum(of_noise, 0.0) + gain * np.maximum(squares, 0.0)
            yield scale * total, scale * np.sqrt(spread)

    def _level(self, frame: int) -> np.float64:
        """Return the level of a frame over that of the run."""
        one = np.float64(2**FACTOR_BITS)
        return np.float64(1.0) if self.factors is None else one / self.factors[frame]

    def _weights(
        self, profile: Floats, variance: Floats, pixels: Indices, spot: Indices, n: int
    ) -> tuple[Floats, Floats]:
        """Return the weight of each pixel, and what brings the sums of each spot to counts.

        ``pixels``, ``spot``: flat index and spot of each pixel; ``n``: number of spots.
        """
        sigma = np.sqrt(np.maximum(variance, np.float64(self.noise.gain) ** 2 / 4))
        with np.errstate(all="ignore"):
            smooth = np.where(sigma > 0, profile / sigma, 0.0)
            smooth = np.maximum(_smoothed(smooth, pixels, spot, self.maps.shape), 0.0)
            height = np.where(sigma > 0, smooth / sigma, 0.0)
            highest = np.zeros(n)
            np.maximum.at(highest, spot, height)
            above = highest[spot]
            weight = np.where(above > 0, np.rint(LARGEST_WEIGHT * height / above), 0.0)
            counts = smooth * sigma
            all_of_it = np.bincount(spot, weights=counts, minlength=n)
            weighted = np.bincount(spot, weights=weight * counts, minlength=n)
            return weight, np.where(weighted > 0, all_of_it / weighted, np.nan)


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
