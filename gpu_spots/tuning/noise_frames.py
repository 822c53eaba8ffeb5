"""Frames with the noise of a run and without its spots, in which every spot is false."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_spots.masks.noise_map import NoiseMap
from gpu_spots.model import FACTOR_BITS, Array, Surface, Validity, following

LARGEST_SKEWNESS = 0.045
"""Skewness of the noise up to which pixels are mirrored; that of 500 counted units."""
SMALLEST_VARIANCE = 4.0
"""Counts^2: below this, the steps of integers show in mirrored values."""
GAIN_OF_COUNTERS = 0.05
"""Integer frames have a count per counted unit if the fitted gain differs from 1 by less."""
SEED = 1
"""Seed of the random numbers; a frame has the same ones each time."""


class NoiseFrames:
    """Frames mirrored about the background B: ``2 B - I`` has the noise of I, but holes for spots.

    Pixels whose noise is skew, as they have few counts, are drawn instead. The n frames of the
    background have S counted units in a pixel. Each of them is on a frame with the probability
    1 / n, so that the number on it is binomial. The read noise is added.

    Values that are not valid stay as they are.
    """

    def __init__(
        self,
        frames: Callable[[int], Array],
        noise: NoiseMap,
        n_used: NDArray[np.int32] | int,
        values: Validity,
        factors: NDArray[np.int64] | None,
        surface: Surface | None = None,
    ) -> None:
        """Prepare the frames.

        Args:
            frames: Returns a frame by its index.
            noise: Background and noise of the run.
            n_used: Number of values in the background of each pixel, (n_X, n_Y) or one for all.
            values: Which values of the frames are valid.
            factors: (n_frames,) int64, 2^-16: what each frame is multiplied by to scale it.
            surface: Levels of the pixels of frames; None: each frame has one level.
        """
        self._frames, self._noise = frames, noise
        self._values, self._factors, self._surface = values, factors, surface
        self._drawn = skew_pixels(noise)
        is_counter = noise.dtype.kind != "f" and abs(noise.gain - 1) < GAIN_OF_COUNTERS
        self._gain = 1.0 if is_counter else noise.gain
        self._n = np.maximum(np.broadcast_to(n_used, noise.shape)[self._drawn], 1)
        self._mean_drawn = np.maximum(noise.mean[self._drawn] - noise.bias, 0.0)
        whole = self._mean_drawn * self._n / (self._gain or 1.0)
        # means of neighbouring pixels are no multiples of 1 / n
        rounding = np.random.default_rng(SEED).random(len(whole))
        self._counted = np.floor(whole + rounding).astype(np.int64)

    def __getitem__(self, frame: int) -> Array:
        """Return the noise of a frame, (n_X, n_Y), of the frame's type."""
        image = self._frames(frame)
        is_float = image.dtype.kind == "f"
        mean = self._mean(frame)
        low, high = self._values.bounds(image.dtype)
        usable = self._values.allows(image)
        with np.errstate(invalid="ignore", over="ignore"):
            twice = 2.0 * mean
            made: Any = np.clip((twice if is_float else np.rint(twice)) - image, low, high)
            if self._drawn.any():
                values = self._draw(frame, mean[self._drawn])
                made[self._drawn] = np.clip(values if is_float else np.rint(values), low, high)
            made = made.astype(image.dtype)
        return made if usable is None else np.where(usable, made, image)

    def _mean(self, frame: int) -> NDArray[np.float64]:
        """Return the background at the level of a frame, counts."""
        mean, part = self._noise.mean, self._noise.constant_part
        if self._surface is not None:
            levels = self._surface.of_rows(frame, slice(0, len(mean)), mean.shape[1])
            return mean + (levels / 2.0**FACTOR_BITS - 1.0) * following(mean, part)
        if self._factors is None:
            return mean
        level = 2.0**FACTOR_BITS / float(self._factors[frame])
        return level * mean if part is None else mean + (level - 1) * part.following(mean)

    def _draw(self, frame: int, mean: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return random values of the pixels that are drawn, counts; ``mean``: background."""
        noise, random = self._noise, np.random.default_rng([SEED, frame])
        level = np.divide(
            mean - noise.bias,
            self._mean_drawn,
            out=np.ones(len(mean)),
            where=self._mean_drawn > 0,
        )
        share = np.clip(level / self._n, 0.0, 1.0)
        units = random.binomial(self._counted, share)
        drawn: NDArray[np.float64] = noise.bias + self._gain * units
        if noise.read_variance > 0:
            variance = noise.noise[self._drawn].astype(np.float64) ** 2
            rest = np.clip(variance - self._gain * self._mean_drawn, 0.0, noise.read_variance)
            drawn += np.sqrt(rest) * random.standard_normal(len(drawn))
        return drawn


def skew_pixels(noise: NoiseMap) -> NDArray[np.bool_]:
    """Return the pixels whose noise is not the same upwards and downwards, (n_X, n_Y) bool."""
    gain, usable = noise.gain, noise.usable(slice(None))
    if not gain > 0:
        return np.zeros(noise.shape, bool)
    variance = np.where(usable, noise.noise, 0).astype(np.float64) ** 2
    counted = gain * np.maximum(variance - noise.read_variance, 0.0)
    is_skew = counted > LARGEST_SKEWNESS * variance**1.5
    if noise.dtype.kind != "f":
        is_skew |= variance < SMALLEST_VARIANCE
    found: NDArray[np.bool_] = is_skew & usable
    return found
