"""Last step of the first pass: noise model, noise of each pixel, and the background of ``-m clip``.

All of it is computed on the host from maps of the whole frame, for every backend.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gpu_spots.background import clip, noise
from gpu_spots.background.clip import Samples
from gpu_spots.background.maps import threshold_map
from gpu_spots.background.methods import Clip, KruskalWallis, Method, Trimmed
from gpu_spots.memory.workers import in_order
from gpu_spots.model import Array, Background, IntegerLevel

Floats = NDArray[np.float64]

PIECE_PIXELS = 1 << 16
"""Pixels that are worked on at a time: what comes in between stays in the cache."""


def complete(
    background: Background,
    kept: NDArray[np.int32],
    total: Array,
    method: Method,
    cutoff: float,
    correlation: tuple[float, float] = (1.0, math.nan),
    threads: int = 1,
) -> Background:
    """Return the background with its noise; that of ``-m clip`` with its means and thresholds.

    Args:
        background: what the samples of the pixels gave.
        kept: (n_X, n_Y) int32: values in each sample; 0: the pixel is masked.
        total: (n_X, n_Y), counts: sum of each sample; float frames: its average.
        method: background method.
        cutoff: noises above the background from which on a value stands out; used for ``clip``.
        correlation: correlation factor of the noise, and its error.
        threads: number of threads; the result does not depend on it.
    """
    is_integer = background.max.dtype.kind != "f"
    quantum = 1.0 if is_integer else 0.0
    statistics = _statistics_of(background, kept, total, method, quantum)
    n_pixels = kept.size
    some = slice(None, None, max(1, n_pixels // noise.SAMPLE) | 1)
    sampled, counts = statistics(some), kept.reshape(-1)[some]
    model = noise.fit(*sampled, counts, correlation, counts=is_integer)

    sigma = np.empty(kept.shape, np.float32)
    if not isinstance(method, Clip):

        def rows(part: slice) -> None:
            mean, variance = statistics(part)
            v = clip.variance_of(mean, variance, kept.reshape(-1)[part], model)
            with np.errstate(over="ignore", invalid="ignore"):
                sigma.reshape(-1)[part] = np.sqrt(v)

        _in_pieces(rows, n_pixels, threads)
        return replace(background, noise=sigma, noise_model=model)

    by_blocks = method.block_of_frame is not None
    samples = Samples(kept, total, background.std, quantum, by_blocks)
    mean, flagged = clip.background_of(samples, model, threads)
    flat_mean = mean.reshape(-1)
    avg, std = (np.empty(kept.shape, np.float32) for _ in range(2))
    threshold = np.empty_like(background.threshold)
    high = np.empty(kept.shape, np.int64) if is_integer else None
    low = np.empty(kept.shape, np.uint32) if is_integer else None
    g = model.gain

    def clipped_rows(part: slice) -> None:
        mean, masked = flat_mean[part], kept.reshape(-1)[part] == 0
        _, variance = statistics(part)
        with np.errstate(over="ignore", invalid="ignore"):
            v = clip.variance_of(mean, variance, kept.reshape(-1)[part], model)
            sigma.reshape(-1)[part] = np.sqrt(v)
            avg.reshape(-1)[part] = mean
            std.reshape(-1)[part] = np.where(masked, 0.0, np.sqrt(variance))
            own = sigma.reshape(-1)[part].astype(np.float64)
            apart = np.sqrt(np.maximum(own * own, (g * g) / 4.0))
            threshold.reshape(-1)[part] = threshold_map(
                mean, apart, cutoff, masked, background.max.dtype
            )
        if high is not None and low is not None:
            whole = np.floor(mean)
            high.reshape(-1)[part] = whole
            low.reshape(-1)[part] = np.floor((mean - whole) * 2.0**32)

    _in_pieces(clipped_rows, n_pixels, threads)
    return replace(
        background,
        avg=avg,
        std=std,
        threshold=threshold,
        dropped=None,
        level=mean if high is None or low is None else IntegerLevel(2**32, high, low),
        noise=sigma,
        noise_model=model,
        flagged=flagged,
    )


def _in_pieces(function: Callable[[slice], None], n_pixels: int, threads: int) -> None:
    """Call the function for all pixels, some at a time, in threads."""
    pieces = (
        slice(begin, min(begin + PIECE_PIXELS, n_pixels))
        for begin in range(0, n_pixels, PIECE_PIXELS)
    )
    for _ in in_order(function, pieces, threads):
        pass


def _statistics_of(
    background: Background,
    kept: NDArray[np.int32],
    total: Array,
    method: Method,
    quantum: float,
) -> Callable[[slice], tuple[Floats, Floats]]:
    """Return a function of some pixels: their mean and variance, without the bias of the method."""
    shift, width = 0.0, 1.0
    match method:
        case Clip():
            by_blocks = method.block_of_frame is not None

            def of_clip(part: slice) -> tuple[Floats, Floats]:
                _, mean, variance = Samples(
                    kept.reshape(-1)[part],
                    total.reshape(-1)[part],
                    background.std.reshape(-1)[part],
                    quantum,
                    by_blocks,
                ).statistics()
                return mean, variance

            return of_clip
        case Trimmed(percent):
            shift, width = clip.lower_part(1 - percent / 100)
        case KruskalWallis():
            pass

    def of_sample(part: slice) -> tuple[Floats, Floats]:
        count = np.maximum(kept.reshape(-1)[part], 1).astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            sd = background.std.reshape(-1)[part].astype(np.float64) / width
            mean = background.avg.reshape(-1)[part].astype(np.float64) + shift * sd
            return mean, (sd * sd) * (count / np.maximum(count - 1.0, 1.0))

    return of_sample
