"""Last step of the first pass: noise model, noise of each pixel, and the background of ``-m clip``.

All of it is computed on the host from maps of the whole frame, for every backend.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gpu_spots.background import clip, noise
from gpu_spots.background.clip import Samples
from gpu_spots.background.levels import LevelSampler
from gpu_spots.background.maps import threshold_map
from gpu_spots.background.methods import Method
from gpu_spots.memory.workers import Span, Workers, in_order
from gpu_spots.model import Array, Background, FixedPointMean
from gpu_spots.noise_model import NoiseModel

Bools = NDArray[np.bool_]

PIECE_PIXELS = 1 << 13
"""Pixels that are worked on at a time: what comes in between stays in the cache."""
STRIP_PIXELS = 1 << 16
"""Pixels that ``-m clip`` works on at a time. With fewer, threads wait for the interpreter."""


def complete(
    background: Background,
    kept: NDArray[np.int32],
    total: Array,
    method: Method,
    n_frames: int,
    cutoff: float,
    threads: int | Workers = 1,
) -> Background:
    """Return the background with its noise; that of ``-m clip`` with its means and thresholds.

    The maps of ``-m clip`` are overwritten. The noise is that of single pixels; `with_correlation`
    completes its model.

    Args:
        background: what the samples of the pixels gave.
        kept: (n_X, n_Y) int32: values in each sample; 0: the pixel is masked.
        total: (n_X, n_Y), counts: sum of each sample; float frames: its average.
        method: background method.
        n_frames: frames of the run.
        cutoff: noises above the background from which on a value stands out; used for ``clip``.
        threads: threads, or their number; the result does not depend on it.
    """
    n, s = kept.reshape(-1), total.reshape(-1)
    avg, std = background.avg.reshape(-1), background.std.reshape(-1)
    some = slice(None, None, max(1, len(n) // noise.SAMPLE) | 1)
    with _quiet():
        mean, variance = method.unbiased(n_frames, n[some], s[some], avg[some], std[some])
        is_integer = background.max.dtype.kind != "f"
        n_values = n[some]
        if (saturated := method.saturated(background.max.reshape(-1)[some], mean)) is not None:
            n_values = np.where(saturated, 0, n_values)
        model = noise.fit(mean, variance, n_values, counts=is_integer)
    samples = method.clipped(kept, total, background.std)
    if samples is not None:
        return _with_clipped(background, samples, model, cutoff, threads)

    sigma = np.empty(kept.shape, np.float32)

    def fill(part: slice) -> None:
        mean, variance = method.unbiased(n_frames, n[part], s[part], avg[part], std[part])
        sigma.reshape(-1)[part] = np.sqrt(clip.variance_of(mean, variance, n[part], model))

    _in_pieces(fill, len(n), PIECE_PIXELS, threads)
    return replace(background, noise=sigma, noise_model=model)


def with_correlation(
    background: Background, sampler: LevelSampler, method: Method, n_frames: int
) -> Background:
    """Return the background with the correlation of noise on the frames of the sampler."""
    model, rows = background.noise_model, sampler.rows
    assert background.noise is not None
    assert model is not None
    mean = noise.unbiased_mean(background, method.n_sampled(n_frames) / n_frames, rows)
    of_pixels = background.noise[rows].astype(np.float64)
    if (saturated := method.saturated(background.max[rows], mean)) is not None:
        of_pixels[saturated] = 0.0
    found = sampler.correlation(mean, of_pixels, model.gain)
    model = replace(
        model,
        correlation=found.factor,
        correlation_error=found.error,
        correlation_lag_1=found.lags[0],
        correlation_lag_2=found.lags[1],
        correlation_lag_3=found.lags[2],
        correlation_lag_4=found.lags[3],
    )
    return replace(background, noise_model=model)


def _with_clipped(
    background: Background,
    samples: Samples,
    model: NoiseModel,
    cutoff: float,
    threads: int | Workers,
) -> Background:
    """Return the background of clipped samples. Average, sd and thresholds are overwritten."""
    shape, dtype = samples.kept.shape, background.max.dtype
    mean, flagged = _means(samples, model, threads)
    sigma = np.empty(shape, np.float32)
    exact: Array | FixedPointMean = mean
    if dtype.kind != "f":
        exact = FixedPointMean(2**32, mean.view(np.int64), np.empty(shape, np.uint32))
    flat = samples.flat()
    # fresh memory costs more time than what is computed: the maps take the place of those that
    # they are made from
    avg, std, threshold = (
        each.reshape(-1) for each in (background.avg, background.std, background.threshold)
    )

    def fill(part: slice) -> None:
        own, b = flat[part], mean.reshape(-1)[part]
        masked = own.kept == 0
        _, _, variance = own.statistics()
        noise_of = sigma.reshape(-1)[part]
        noise_of[:] = np.sqrt(clip.variance_of(b, variance, own.kept, model))
        avg[part] = b
        std[part] = np.where(masked, 0.0, np.sqrt(variance))
        threshold[part] = threshold_map(b, clip.least_noise(noise_of, model), cutoff, masked, dtype)
        if isinstance(exact, FixedPointMean) and exact.high is not None:
            whole = np.floor(b)
            exact.low.reshape(-1)[part] = np.floor((b - whole) * 2.0**32)
            exact.high.reshape(-1)[part] = whole

    _in_pieces(fill, flat.kept.size, STRIP_PIXELS, threads)
    return replace(
        background,
        dropped=None,
        mean=exact,
        noise=sigma,
        noise_model=model,
        flagged=flagged,
    )


def _means(
    samples: Samples, model: NoiseModel, threads: int | Workers
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the background of all pixels, counts, and which of them are hot or cold."""
    n_rows, n_columns = samples.kept.shape
    mean, flagged = np.empty((n_rows, n_columns)), np.zeros((n_rows, n_columns), bool)
    scale = clip.scale_of(samples)
    cell = clip.CELL
    rows = cell * max(1, STRIP_PIXELS // n_columns // cell)
    spans = [(begin, min(begin + rows, n_rows)) for begin in range(0, n_rows, rows)]
    totals, counts = (np.empty((-(-n_rows // cell), -(-n_columns // cell)), np.int64) for _ in "12")
    for _ in range(clip.ROUNDS):
        before, flagged = flagged, np.empty_like(flagged)

        def add_up(span: Span, before: Bools = before) -> None:
            part = slice(span[0] // cell, -(-span[1] // cell))
            with _quiet():
                totals[part], counts[part] = clip.cell_sums(samples, scale, before, *span)

        for _ in in_order(add_up, spans, threads):
            pass
        wide = clip.wide_means(totals, counts, scale, model)

        def fill(
            span: Span,
            wide: NDArray[np.float64] = wide,
            before: Bools = before,
            flagged: Bools = flagged,
        ) -> None:
            part = slice(*span)
            with _quiet():
                mean[part], flagged[part] = clip.background_of_rows(
                    samples, model, scale, wide, before, *span
                )

        for _ in in_order(fill, spans, threads):
            pass
        if not flagged.any():
            break
    return mean, flagged


def _in_pieces(
    function: Callable[[slice], None], n_pixels: int, at_once: int, threads: int | Workers
) -> None:
    """Call the function for all pixels, some at a time, in threads."""

    def one(begin: int) -> None:
        with _quiet():
            function(slice(begin, min(begin + at_once, n_pixels)))

    for _ in in_order(one, range(0, n_pixels, at_once), threads):
        pass


def _quiet() -> np.errstate:
    """Silence warnings of float frames whose statistics overflow; such pixels never stand out."""
    return np.errstate(over="ignore", invalid="ignore")
