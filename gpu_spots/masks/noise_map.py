"""Background and noise of a run as the matched finder needs them, for every background method."""

import numpy as np

from gpu_spots.background.clip import lower_part
from gpu_spots.background.methods import Method
from gpu_spots.background.noise import mean_counts
from gpu_spots.masks.matched import NoiseMap
from gpu_spots.model import Background


def noise_map(background: Background, method: Method, n_frames: int) -> NoiseMap:
    """Return background and noise of a run.

    Where a method takes the lowest values of each pixel, their average is raised to the mean of
    all, as if noise were Gaussian.

    Args:
        background: result of the first pass, with noise.
        method: its background method.
        n_frames: frames of the run.
    """
    noise, model = background.noise, background.noise_model
    assert noise is not None
    assert model is not None
    shift, _ = lower_part(method.n_sampled(n_frames) / n_frames)
    with np.errstate(over="ignore", invalid="ignore"):
        mean = mean_counts(background.mean) + shift * noise.astype(np.float64)
    return NoiseMap(
        mean=mean,
        noise=noise,
        gain=model.gain,
        read_variance=model.read_variance,
        validity=background.validity,
        gaps=background.gaps,
        dtype=background.max.dtype,
    )
