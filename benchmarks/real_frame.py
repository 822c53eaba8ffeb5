"""A real Laue frame, taken apart into its background, its spots and its noise.

- Background: the median of every 4 x 4 pixels, a median filter of 13 x 13 of those, and linear
  interpolation between them.
- Spots: components of at least 4 pixels 10 sigma above the background, grown to where they end,
  each cut out as a small image.
- Noise: what is left, away from the spots. Its variance follows ``gain * (counts - zero)``, which
  is fitted. Neighbouring pixels are correlated (0.39 in the frame of ``semi_real.py``), as the
  light spreads in the screen: the autocorrelation is measured out to 3 pixels.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Image = NDArray[np.float32]
BORDER = 12
"""Pixels at the edge of the frame where spots are neither taken from nor put, and noise is not
measured.
"""
LAGS = 3
"""Pixels out to which the noise is correlated."""
HELD = 1 - math.exp(-2)
"""Part of a Gaussian's intensity that is inside its 2-sigma ellipse."""


@dataclass(frozen=True, slots=True)
class Spot:
    """A spot that was cut out."""

    image: Image
    """(h, w) float32, counts above the background; 0 outside of the spot."""
    peak: tuple[int, int]
    """X and Y of its highest pixel in ``image``."""
    intensity: float
    """Sum, counts."""
    area: int
    """The fewest pixels that hold the part `HELD` of the intensity."""
    factor: float
    """Variance of the noise of their sum over that of as many independent pixels."""
    fourth: float
    """Its fourth highest pixel, counts."""

    @property
    def radius(self) -> float:
        """Return the radius of the circle around ``peak`` that holds ``image``, pixels."""
        corners = [
            (x - self.peak[0], y - self.peak[1])
            for x in (0, self.image.shape[0])
            for y in (0, self.image.shape[1])
        ]
        return max(math.hypot(*corner) for corner in corners)


@dataclass(frozen=True, slots=True)
class Parts:
    """A real frame, taken apart."""

    background: Image
    """(n_X, n_Y) float32, counts."""
    spots: list[Spot]
    """The spots."""
    gain: float
    """Variance of the noise, counts^2, for each count above ``zero``."""
    zero: float
    """Counts where there would be no noise."""
    correlation: Image
    """(2 * LAGS + 1, 2 * LAGS + 1) float32: mean product of pixels over the variance, by their
    distance, equal in all four quadrants.
    """

    def variance(self, counts: Image | np.float32) -> Image:
        """Return the variance of the noise of each pixel, counts^2."""
        return np.asarray(self.gain * np.maximum(counts - self.zero, 1), np.float32)


def read(path: Path) -> NDArray[np.uint16]:
    """Return the frame in a JPEG 2000 file, (n_X, n_Y) uint16. Needs imagecodecs."""
    from imagecodecs import jpeg2k_decode

    return np.asarray(jpeg2k_decode(path.read_bytes()), np.uint16)


def take_apart(frame: NDArray[np.uint16]) -> Parts:
    """Return background, spots and noise of a real frame."""
    background = smooth(frame)
    left = frame - background
    # the noise of the whole frame says where spots are, what is away from them says how noise
    # depends on the counts
    sigma = 1.4826 * np.median(abs(left))
    quiet = ~ndimage.binary_dilation(left > 7 * sigma, iterations=BORDER)
    quiet[:BORDER], quiet[-BORDER:], quiet[:, :BORDER], quiet[:, -BORDER:] = (
        False,
        False,
        False,
        False,
    )
    gain, zero = noise_line(background[quiet], left[quiet])
    in_sigmas = left / np.sqrt(gain * np.maximum(background - zero, 1))
    correlation = autocorrelation(in_sigmas.clip(-5, 5), quiet)
    return Parts(background, cut_out(left, in_sigmas, correlation), gain, zero, correlation)


def smooth(frame: NDArray[np.uint16], bin_: int = 4, window: int = 13) -> Image:
    """Return the background, (n_X, n_Y) float32, counts."""
    n_x, n_y = frame.shape
    padded = np.pad(frame, ((0, -n_x % bin_), (0, -n_y % bin_)), mode="edge")
    blocks = padded.reshape(padded.shape[0] // bin_, bin_, padded.shape[1] // bin_, bin_)
    small = ndimage.median_filter(
        np.median(blocks, axis=(1, 3)).astype(np.float32), window, mode="nearest"
    )
    return ndimage.zoom(small, bin_, order=1, mode="nearest", grid_mode=True)[:n_x, :n_y]


def noise_line(background: Image, left: Image) -> tuple[float, float]:
    """Return gain and zero of the line that the variance follows.

    It is fitted in steps of 10 counts, without values beyond 5 sigma.
    """
    step = (background // 10).astype(np.int64)
    level, variance, weight = [], [], []
    for k in np.unique(step):
        values = left[step == k]
        if len(values) > 5000:
            values = values[abs(values - np.median(values)) < 5 * values.std()]
            level.append(10 * k + 5)
            variance.append(values.var())
            weight.append(math.sqrt(len(values)))
    gain, offset = np.polyfit(level, variance, 1, w=weight)
    return float(gain), float(-offset / gain)


def autocorrelation(noise: Image, quiet: NDArray[np.bool_]) -> Image:
    """Return the mean product of pixels over the variance, by their distance.

    The result is (2 * LAGS + 1, 2 * LAGS + 1) float32, equal in all four quadrants.
    """
    n_x, n_y = noise.shape
    noise = np.where(quiet, noise, 0)
    quadrant = np.zeros((LAGS + 1, LAGS + 1), np.float32)
    for dx in range(LAGS + 1):
        for dy in range(LAGS + 1):
            for turned in (noise, noise[:, ::-1]):
                product = turned[: n_x - dx, : n_y - dy] * turned[dx:, dy:]
                quadrant[dx, dy] += product.sum() / np.count_nonzero(product)
    quadrant /= quadrant[0, 0]
    right = np.concatenate([quadrant[:, :0:-1], quadrant], axis=1)
    return np.concatenate([right[:0:-1], right])


def cut_out(left: Image, in_sigmas: Image, correlation: Image) -> list[Spot]:
    """Return spots: components of 4 pixels and more above 10 sigma.

    They include all pixels around them that are clearly above the noise.
    """
    eight = np.ones((3, 3))
    labels, _ = ndimage.label(in_sigmas > 10, eight)
    large = np.bincount(labels.ravel()) >= 4
    large[0] = False
    # the mean of nine correlated pixels has half of the noise
    regions, _ = ndimage.label((ndimage.uniform_filter(in_sigmas, 3) > 1.5) | large[labels], eight)
    chosen = np.zeros(regions.max() + 1, bool)
    chosen[regions[large[labels]]] = True
    chosen[0] = False
    found = []
    for number, box in enumerate(ndimage.find_objects(regions), 1):
        inside = all(
            side.start >= BORDER and side.stop <= n - BORDER
            for side, n in zip(box, left.shape, strict=True)
        )
        if chosen[number] and inside:
            image = np.where(regions[box] == number, left[box], 0).astype(np.float32)
            ordered = np.sort(image, axis=None)[::-1]
            area = int(np.searchsorted(np.cumsum(ordered), HELD * image.sum())) + 1
            counted = (image >= ordered[area - 1]).astype(np.float32)
            factor = float(
                (counted * ndimage.convolve(counted, correlation, mode="constant")).sum()
                / counted.sum()
            )
            peak = np.unravel_index(image.argmax(), image.shape)
            found.append(
                Spot(
                    image,
                    (int(peak[0]), int(peak[1])),
                    float(image.sum()),
                    area,
                    factor,
                    float(ordered[3]),
                )
            )
    return found


def noise_kernel(correlation: Image) -> Image:
    """Return the kernel that gives white noise this correlation.

    It is the square root, in frequencies, of the autocorrelation.
    """
    n = 32
    whole = np.zeros((n, n))
    whole[: len(correlation), : len(correlation)] = correlation
    whole = np.roll(whole, (-LAGS, -LAGS), (0, 1))
    kernel = np.fft.ifft2(np.sqrt(np.maximum(np.fft.fft2(whole).real, 0))).real
    kernel = np.roll(kernel, (LAGS, LAGS), (0, 1))[: 2 * LAGS + 1, : 2 * LAGS + 1]
    return np.asarray(kernel / np.sqrt((kernel**2).sum()), np.float32)
