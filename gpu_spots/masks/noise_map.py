"""Background and noise of a run as the matched finder needs them, for every background method."""

import numpy as np

from gpu_spots.background.methods import Method
from gpu_spots.background.noise import unbiased_mean
from gpu_spots.masks.matched import NoiseMap
from gpu_spots.model import Background, ConstantPart

LARGEST_BACKGROUND = 2.0**29
"""Counts from which on the background of a pixel of levelled 32-bit frames is a mark, no number."""


def noise_map(
    background: Background,
    method: Method,
    n_frames: int,
    constant_part: ConstantPart | None = None,
    *,
    is_levelled: bool = False,
) -> NoiseMap:
    """Return background and noise of a run.

    Where a method takes the lowest values of each pixel, their average is raised to the mean of
    all, as if noise were Gaussian.

    Args:
        background: result of the first pass, with noise.
        method: its background method.
        n_frames: frames of the run.
        constant_part: part of the background that does not follow the level of a frame.
        is_levelled: the background is that of levelled values.
    """
    noise, model = background.noise, background.noise_model
    assert noise is not None
    assert model is not None
    mean = unbiased_mean(background, method.n_sampled(n_frames) / n_frames)
    dtype = background.max.dtype
    if is_levelled and dtype.kind != "f" and dtype.itemsize == 4:
        # marks of dead pixels, which a level moves out of the range of levelled values
        noise = np.where(mean < LARGEST_BACKGROUND, noise, np.float32(np.nan))
    return NoiseMap(
        mean=mean,
        noise=noise,
        gain=model.gain,
        read_variance=model.read_variance,
        validity=background.validity,
        gaps=background.gaps,
        dtype=dtype,
        constant_part=constant_part,
    )
