"""Weighted intensities of spots whose mask belongs to a group of frames.

All frames of the group together show the profile of a spot better than one of them does. Pixels get
weights by it, the same on every frame of the group, so that weak pixels add less noise. All of it is
computed on the host, in a fixed order.
"""

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
        begin = self._pixel_begin
        lengths = (begin[1:] - begin[:-1])[mask_of_frame]
        self.values.extend(np.split(values, np.cumsum(lengths)[:-1]))

    def columns(self) -> tuple[Floats, Floats]:
        """Return weighted intensity and its sigma of each spot, (n,) float64, counts."""
        n_components = len(self.found.begin) - 1
        component = np.repeat(np.arange(n_components), np.diff(self.found.begin))
        background = self.maps.mean_at(self.found.pixels)
        variance = self.maps.variance_at(self.found.pixels)
        begin, first = self._pixel_begin, self.found.first
        profile = np.zeros(len(component))
        for frame, mask in enumerate(self.mask_of_frame.tolist()):
            part = slice(begin[mask], begin[mask + 1])
            profile[part] += self._difference(frame, background[part])
        weight, scale = self._weights(profile, variance, component)
        gain, correlation = self.noise.gain, self.noise.correlation
        intensities, sigmas = [np.zeros(0)], [np.zeros(0)]
        for frame, mask in enumerate(self.mask_of_frame.tolist()):
            part, spots = slice(begin[mask], begin[mask + 1]), slice(first[mask], first[mask + 1])
            label, w = component[part] - first[mask], weight[part]
            by_weight = w * self._difference(frame, background[part])
            # the photons that a frame has more of, or less, than the run
            added = (self._level(frame) - 1.0) * gain
            noise = (w * w) * (variance[part] + added * background[part])
            total, squares, of_noise = (
                np.bincount(label, weights=each, minlength=spots.stop - spots.start)
                for each in (by_weight, w * by_weight, noise)
            )
            spread = correlation * np.maximum(of_noise, 0.0) + gain * np.maximum(squares, 0.0)
            intensities.append(scale[spots] * total)
            sigmas.append(scale[spots] * np.sqrt(spread))
        return np.concatenate(intensities), np.concatenate(sigmas)

    @property
    def _pixel_begin(self) -> Indices:
        """(n_masks + 1,) int64: begin of each mask in the pixels of all components."""
        return self.found.begin[self.found.first]

    def _level(self, frame: int) -> np.float64:
        """Level of a frame over that of the run."""
        one = np.float64(2**FACTOR_BITS)
        return np.float64(1.0) if self.factors is None else one / self.factors[frame]

    def _difference(self, frame: int, background: Floats) -> Floats:
        """Values of the spots of a frame less the background."""
        return self.values[frame].astype(np.float64) - self._level(frame) * background

    def _weights(
        self, profile: Floats, variance: Floats, component: Indices
    ) -> tuple[Floats, Floats]:
        """Return the weight of each pixel, and what brings the sums of each component to counts."""
        n = len(self.found.begin) - 1
        if not n:
            return np.zeros(0), np.zeros(0)
        sigma = np.sqrt(np.maximum(variance, np.float64(self.noise.gain) ** 2 / 4))
        with np.errstate(all="ignore"):
            smooth = self._smoothed(np.where(sigma > 0, profile / sigma, 0.0), component)
            smooth = np.maximum(smooth, 0.0)
            height = np.where(sigma > 0, smooth / sigma, 0.0)
            highest = np.maximum.reduceat(height, self.found.begin[:-1])[component]
            weight = np.where(highest > 0, np.rint(LARGEST_WEIGHT * height / highest), 0.0)
            counts = smooth * sigma
            all_of_it = np.bincount(component, weights=counts, minlength=n)
            weighted = np.bincount(component, weights=weight * counts, minlength=n)
            return weight, np.where(weighted > 0, all_of_it / weighted, np.nan)

    def _smoothed(self, values: Floats, component: Indices) -> Floats:
        """Smooth twice with [1 2 1] along X and along Y, inside of each component."""
        pairs = list(neighbours(component, self.found.pixels, self.maps.shape))
        for _ in range(2):
            result = 4 * values
            for (at, other), weight in zip(pairs, (2, 1, 2, 1), strict=True):
                result[at] += weight * values[other]
                result[other] += weight * values[at]
            values = result
        return values
