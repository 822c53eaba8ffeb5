"""Threshold map of a background at any cutoff."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_spots.background.clip import least_noise
from gpu_spots.background.maps import threshold_map
from gpu_spots.background.methods import Method
from gpu_spots.background.noise import mean_counts
from gpu_spots.memory.workers import in_order
from gpu_spots.model import Array, Background

PIECE = 1 << 16
"""Pixels that are worked on at a time."""
SMALLEST_STEP = 2.0**-23
"""Largest relative error of the square of a float32 deviation."""


class Cutoffs:
    """Threshold map of a background at any cutoff."""

    def __init__(
        self, background: Background, method: Method, cutoff: float, workers: int = 1
    ) -> None:
        """Prepare thresholds.

        Args:
            background: Background with the thresholds of ``cutoff``.
            method: Background method.
            cutoff: Cutoff of the run.
            workers: Number of threads.
        """
        self._background, self._cutoff, self._workers = background, cutoff, workers
        self._method = method
        self._statistics: tuple[Array, Array] | None = None
        self._last = cutoff, background.threshold

    def at(self, cutoff: float) -> Array:
        """Return the threshold map of a cutoff, counts; the type is that of `Background.threshold`.

        That of the run's own cutoff is returned as it is.
        """
        if cutoff == self._cutoff:
            return self._background.threshold
        if cutoff != self._last[0]:
            self._last = cutoff, self._at(cutoff)
        return self._last[1]

    def _at(self, cutoff: float) -> Array:
        if self._statistics is None:
            self._statistics = _statistics(self._background, self._method, self._workers)
        background = self._background
        mean, sigma = self._statistics
        pixels, dtype = background.validity.pixels, background.max.dtype
        valid = None if pixels is None else pixels.reshape(-1)
        found = np.empty_like(background.threshold)

        def fill(part: slice) -> None:
            n = len(mean[part])
            masked = np.zeros(n, bool) if valid is None else ~valid[part]
            with np.errstate(over="ignore", invalid="ignore"):
                found.reshape(-1)[part] = threshold_map(
                    mean[part], sigma[part], cutoff, masked, dtype
                )

        _in_pieces(fill, found.size, self._workers)
        return found


def with_threshold(background: Background, threshold: Array) -> Background:
    """Return a background with other thresholds."""
    return replace(background, threshold=threshold, held=None)


def exact_sums(
    avg: NDArray[np.floating[Any]], std: NDArray[np.float32], kept: NDArray[np.integer[Any]]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the sums of samples of integers from their averages and deviations.

    With the sum ``S`` of ``m`` integers and the sum ``Q`` of their squares, ``m*Q - S*S`` is the
    same as ``m*S - S*S`` modulo ``2*m``, because a number and its square are both even or both odd.
    So the float32 deviation tells it exactly as long as its error is below ``m``, which it is for
    variances of up to 15 000 counts^2 in 540 frames. Beyond that, the nearest integer is returned.

    Args:
        avg: Average of each sample, counts.
        std: Population standard deviation of each sample, counts.
        kept: Number m of values of each sample.

    Returns:
        ``S``, int64, and ``m*Q - S*S``, float64.
    """
    m = kept.astype(np.int64)
    total = np.rint(avg.astype(np.float64) * m).astype(np.int64)
    near = np.square(std.astype(np.float64) * m)
    twice = np.maximum(2 * m, 2)
    rest = ((total % twice) * ((m - total) % twice)) % twice
    steps = np.rint((near - rest) / twice)
    exact = np.maximum(steps, 0) * twice + rest
    return total, np.where(near * SMALLEST_STEP < m, exact, np.rint(near))


def is_clipped(method: Method) -> bool:
    """Return whether the background is more than the average of a sample."""
    one = np.ones(1, np.int32)
    return method.clipped(one, one, one.astype(np.float32)) is not None


def _statistics(background: Background, method: Method, workers: int) -> tuple[Array, Array]:
    """Return average and deviation of all pixels that thresholds are made from, float64."""
    size = background.avg.size
    mean, sigma = np.empty(size), np.empty(size)
    exact = mean_counts(background.mean).reshape(-1)
    clips, is_float = is_clipped(method), background.max.dtype.kind == "f"
    std = background.std.reshape(-1)
    n_used = None if background.n_used is None else background.n_used.reshape(-1)

    def fill(part: slice) -> None:
        if clips:
            assert background.noise is not None
            assert background.noise_model is not None
            mean[part] = exact[part]
            sigma[part] = least_noise(background.noise.reshape(-1)[part], background.noise_model)
        elif is_float:
            mean[part], sigma[part] = exact[part], std[part]
        else:
            m = np.full(len(std[part]), background.n_sampled) if n_used is None else n_used[part]
            total, scatter = exact_sums(exact[part], std[part], m)
            number = np.maximum(m, 1).astype(np.float64)
            mean[part], sigma[part] = total / number, np.sqrt(scatter) / number

    _in_pieces(fill, size, workers)
    return mean, sigma


def _in_pieces(fill: Any, size: int, workers: int) -> None:
    def one(begin: int) -> None:
        fill(slice(begin, min(begin + PIECE, size)))

    for _ in in_order(one, range(0, size, PIECE), workers):
        pass
