"""Background and noise of a run as the matched finder needs them, for every background method."""

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from gpu_spots.background.methods import Method
from gpu_spots.masks.matched import NoiseMap
from gpu_spots.model import Background, FixedPointMean


def noise_map(background: Background, method: Method, n_frames: int) -> NoiseMap:
    """Return background and noise of a run.

    Where a method takes the lowest values of each pixel, their average is raised to the mean of
    all, as if noise were Gaussian.

    Args:
        background: what the first pass learnt.
        method: background method that it did so by.
        n_frames: frames of the run.
    """
    mean = _mean(background.mean)
    shift, width = lower_part(method.n_sampled(n_frames) / n_frames)
    noise, model = background.noise, background.noise_model
    if noise is not None and model is not None:
        gain, read_variance = model.gain, model.read_variance
    else:
        noise = (background.std.astype(np.float64) / width).astype(np.float32)
        gain, read_variance = _photon_transfer(mean, noise)
    with np.errstate(over="ignore", invalid="ignore"):
        mean = mean - shift * noise.astype(np.float64)
    return NoiseMap(
        mean=mean,
        noise=noise,
        gain=gain,
        read_variance=read_variance,
        validity=background.validity,
        gaps=background.gaps,
        dtype=background.max.dtype,
    )


def lower_part(share: float) -> tuple[float, float]:
    """Return mean and standard deviation of the lowest values of a Gaussian of mean 0 and width 1.

    >>> mean, width = lower_part(0.75)
    >>> print(f"{mean:.3f} {width:.3f}")
    -0.424 0.731
    """
    if share >= 1:
        return 0.0, 1.0
    normal = NormalDist()
    z = normal.inv_cdf(share)
    # the last digits of logarithms differ between machines
    density = round(normal.pdf(z), 9) / share
    return -density, math.sqrt(1 - round(z, 9) * density - density * density)


def _mean(level: FixedPointMean | NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the background to subtract, counts."""
    if not isinstance(level, FixedPointMean):
        return level
    low = level.low.astype(np.float64)
    if level.high is not None:
        low += level.high * 2.0**32
    return low / max(1, level.scale)  # 0 where all pixels are masked


def _photon_transfer(mean: NDArray[np.float64], noise: NDArray[np.float32]) -> tuple[float, float]:
    """Return gain and read variance: a line through the darker and the brighter half of the pixels."""
    variance = noise.astype(np.float64) ** 2
    good = (noise > 0) & np.isfinite(variance) & np.isfinite(mean)
    if not good.any():
        return 0.0, 0.0
    b, v = mean[good], variance[good]
    middle = np.median(b)
    dark, bright = b <= middle, b > middle
    if bright.any():
        rise = float(np.mean(b[bright]) - np.mean(b[dark]))
        gain = float(np.median(v[bright]) - np.median(v[dark])) / rise
        rest = float(np.median(v[dark])) - gain * float(np.mean(b[dark]))
        if gain > 0 and rest >= 0 and rise > 0.2 * abs(float(middle)):
            return gain, rest
    level = float(np.median(b))
    return (float(np.median(v)) / level, 0.0) if level > 0 else (0.0, float(np.median(v)))
