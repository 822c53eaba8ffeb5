"""Background and noise of a run as the matched finder needs them, for every background method.

In formulas, ``V`` is the variance of a pixel (counts^2), ``g`` the gain (counts per counted unit)
and ``s`` the unit of the significance, ``s^2 = max(V, g^2 / 4)``.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_spots.background.methods import Method
from gpu_spots.background.noise import unbiased_mean
from gpu_spots.masks.brightness import light_slope
from gpu_spots.model import Background, ConstantPart, Validity

SMALLEST_NOISE, LARGEST_NOISE = 2.0**-6, 2.0**20
"""Limits of ``s`` for integer frames, counts."""


@dataclass(frozen=True, slots=True)
class NoiseMap:
    """Background and noise of a run, as the finder needs them."""

    mean: NDArray[np.float64]
    """(n_X, n_Y) float64, counts: B."""
    noise: NDArray[np.float32]
    """(n_X, n_Y) float32, counts: sqrt(V); 0 where it is unknown."""
    gain: float
    """g, counts per counted unit; 0: unknown."""
    read_variance: float
    """r^2, counts^2."""
    validity: Validity
    """Valid values."""
    gaps: bool
    """True: some values of pixels that ``validity.pixels`` allows are invalid."""
    dtype: np.dtype[Any]
    """Type of the frames."""
    constant_part: ConstantPart | None = None
    """Part of the background that does not follow the level of a frame; used for integer frames, as
    others have seldom a bias.
    """
    bias: float = 0.0
    """Part of the background that has no noise, counts."""

    @property
    def shape(self) -> tuple[int, int]:
        """n_X, n_Y."""
        return self.mean.shape[0], self.mean.shape[1]

    def usable(self, rows: slice) -> NDArray[np.bool_]:
        """Return the pixels of some rows that have a background and a noise."""
        known: NDArray[np.bool_] = (self.noise[rows] > 0) | (self.gain > 0)
        known &= np.isfinite(self.noise[rows])
        known &= np.isfinite(self.mean[rows])
        pixels = self.validity.pixels
        return known if pixels is None else known & pixels[rows]

    def _variances(self, rows: slice) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return V and s^2 of some rows."""
        variance = self.noise[rows].astype(np.float64)
        variance *= variance
        return variance, np.maximum(variance, self.gain * self.gain / 4)

    def unit(self, rows: slice) -> NDArray[np.float64]:
        """Return ``s`` of some rows, counts, within the limits of integer arithmetic."""
        unit: NDArray[np.float64] = np.sqrt(self._variances(rows)[1])
        return unit if self.dtype.kind == "f" else np.clip(unit, SMALLEST_NOISE, LARGEST_NOISE)

    def _light(self, rows: slice) -> NDArray[np.float64]:
        """Return the part of the background of some rows that is light, counts, not below 0."""
        mean, part = self.mean[rows], self.constant_part
        if part is not None:
            mean = part.following(mean) / light_slope(part)
        return np.maximum(mean, 0.0)

    def shares(
        self, begin: int, end: int, margin: int, light: float = 1.0
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return V / s^2 and g (V - r^2) / s^3 of rows with a margin; 0 for pixels not usable.

        The second is at least g^3 / 1000 / s^3. V is that of frames with so much ``light`` over
        that of the mean frame, s that of the run.
        """
        n_x, n_y = self.shape
        first, last = max(0, begin - margin), min(n_x, end + margin)
        rows = slice(first, last)
        variance, _ = self._variances(rows)
        unit = self.unit(rows)
        usable = self.usable(rows)
        # where noise is not finite, which is not usable
        with np.errstate(over="ignore", invalid="ignore"):
            if light > 1:
                variance += ((light - 1.0) * self.gain) * self._light(rows)
            counted = np.maximum(variance - self.read_variance, self.gain * self.gain / 1000)
            counted = self.gain * counted
        results = []
        for over, power in ((variance, 2), (counted, 3)):
            whole = np.zeros((end - begin + 2 * margin, n_y + 2 * margin))
            at = first - (begin - margin)
            inside = whole[at : at + last - first, margin : margin + n_y]
            below = unit * unit if power == 2 else unit * unit * unit
            np.divide(over, below, out=inside, where=usable)
            results.append(whole)
        return results[0], results[1]


def noise_map(
    background: Background,
    method: Method,
    n_frames: int,
) -> NoiseMap:
    """Return background and noise of a run.

    Where a method takes the lowest values of each pixel, their average is raised to the mean of
    all, as if noise were Gaussian.

    Args:
        background: result of the first pass, with noise.
        method: its background method, at the levels of the frames.
        n_frames: frames of the run.
    """
    noise, model = background.noise, background.noise_model
    assert noise is not None
    assert model is not None
    mean = unbiased_mean(background, method.n_sampled(n_frames) / n_frames)
    if (saturated := method.saturated(background.max, mean)) is not None:
        noise = np.where(saturated, np.float32(np.nan), noise)
    return NoiseMap(
        mean=mean,
        noise=noise,
        gain=model.gain,
        read_variance=model.read_variance,
        validity=background.validity,
        gaps=background.gaps,
        dtype=background.max.dtype,
        constant_part=background.constant_part,
        bias=model.bias,
    )
