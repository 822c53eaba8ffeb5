"""Background from exact moments: avg, std, iqr and the threshold map.

No other module of the background computes with floating point.

Each value goes through correctly rounded float64 operations in one order: here, for every backend
that has its moments on the host. A backend that takes the same step where it computes
(gpu_spots/cuda/kernels/background.cu) is held to the same bits by a test.

    avg = S / m        std = sqrt(m*Q - S*S) / m        iqr = iqr4 / 4        threshold =
    max(ceil(avg + cutoff * std), floor(avg) + 1)

The second term of the threshold is ``I > avg``: without it, constant and dead pixels (std 0) would
be in every mask.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_spots.model import (
    Array,
    Background,
    FixedPointMean,
    FloatMoments,
    IntegerMoments,
    Validity,
)

PIECE = 1 << 14
"""Pixels that are evaluated at a time: three times as fast as a whole band, as what comes in
between stays in the cache.
"""


def threshold_dtype(frames: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type of the thresholds: one more than the largest value of a frame must fit."""
    if frames.kind == "f":
        return np.dtype(np.float64)
    return np.dtype(np.int64 if frames.itemsize == 4 else np.int32)


@dataclass(frozen=True, slots=True)
class BackgroundRows:
    """Rows of the maps of the whole frame, to be filled with the background of a band.

    The arrays are views of the maps; `gpu_spots.model.Background` describes them.
    """

    begin: int
    """First row of the band in the frame."""
    cutoff: float
    """Standard deviations above the average from which on a value stands out."""
    avg: NDArray[np.float32]
    """(n_X, n_Y) float32, counts."""
    std: NDArray[np.float32]
    """(n_X, n_Y) float32, counts."""
    iqr: NDArray[np.float32]
    """(n_X, n_Y) float32, counts."""
    max: Array
    """(n_X, n_Y), dtype of the frames, counts."""
    arg: NDArray[np.int32]
    """(n_X, n_Y) int32."""
    threshold: Array
    """(n_X, n_Y) int32, int64 or float64, counts."""
    kept: NDArray[np.int32]
    """(n_X, n_Y) int32: values in the sample; 0: the pixel is masked."""
    sums: Array
    """(n_X, n_Y), counts: sum of the sample, uint32 (uint8 and uint16 frames) or int64.

    Float frames: its average, float64.
    """
    dropped: NDArray[np.int32] | None
    """(n_X, n_Y) int32: blocks dropped; None: the method drops none."""
    held: Any
    """Result of ``allocate_background`` for the whole frame; None: the backend keeps none."""

    def fill(self, moments: IntegerMoments | FloatMoments) -> bool:
        """Fill all rows from the moments of the band; return its ``gaps``."""
        step = max(1, PIECE // self.kept.shape[1])
        for first in range(0, len(moments.kept), step):
            self._fill(slice(first, first + step), moments)
        return moments.gaps

    def _fill(self, rows: slice, whole: IntegerMoments | FloatMoments) -> None:
        """Fill some rows, few enough for the cache."""
        moments = _rows(whole, rows)
        masked = moments.kept == 0
        m = np.maximum(moments.kept, 1).astype(np.float64)
        # float frames may hold values so large that their statistics overflow:
        # such a pixel stands out on no frame
        with np.errstate(over="ignore", invalid="ignore"):
            if isinstance(moments, IntegerMoments):
                avg = moments.total / m
                std = np.sqrt(_rounded_once(moments.scatter_high, moments.scatter_low)) / m
                iqr = moments.iqr4 / 4.0
                self.sums[rows] = moments.total
                self.threshold[rows] = _integer_threshold(
                    avg, std, self.cutoff, masked, np.iinfo(self.max.dtype)
                )
            else:
                avg, std, iqr = moments.average, np.sqrt(moments.deviation / m), moments.iqr
                self.sums[rows] = avg
                self.threshold[rows] = _float_threshold(avg, std, self.cutoff, masked)
            self.avg[rows], self.std[rows], self.iqr[rows] = avg, std, iqr
        self.max[rows], self.arg[rows], self.kept[rows] = moments.max, moments.arg, moments.kept
        if self.dropped is not None and moments.dropped is not None:
            self.dropped[rows] = moments.dropped


class BackgroundMaps:
    """Background in progress, filled band by band by several threads."""

    gaps = False
    """A pixel that ``Validity.pixels`` lets through is invalid on some frames and valid on others,
    in any of the bands.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        dtype: np.dtype[Any],
        cutoff: float,
        varies: bool,
        held: Any = None,
        *,
        levelled: bool = False,
    ) -> None:
        """Prepare maps of frames of ``shape`` and ``dtype``.

        ``varies``: the samples of pixels have different sizes, even if all values are valid.

        ``held``: what the backend holds of them where it computes. ``levelled``: sums may be beyond
        those of the frames' type.
        """
        self._cutoff = cutoff
        self._varies = varies
        self._held = held
        self._dropped = np.zeros(shape, np.int32) if varies else None
        self._avg, self._std, self._iqr = (np.empty(shape, np.float32) for _ in range(3))
        self._max, self._arg = np.empty(shape, dtype), np.empty(shape, np.int32)
        self._threshold = np.empty(shape, threshold_dtype(dtype))
        self._kept = np.empty(shape, np.int32)
        # sums of at most 65535 values of 16 bits fit 32 bits
        is_short = dtype.kind == "u" and dtype.itemsize <= 2 and not levelled
        exact = np.uint32 if is_short else np.int64
        self._sums = np.empty(shape, np.float64 if dtype.kind == "f" else exact)

    def rows(self, begin: int, end: int) -> BackgroundRows:
        """Return the rows from ``begin`` to ``end``, to be filled."""
        rows = slice(begin, end)
        return BackgroundRows(
            begin=begin,
            cutoff=self._cutoff,
            avg=self._avg[rows],
            std=self._std[rows],
            iqr=self._iqr[rows],
            max=self._max[rows],
            arg=self._arg[rows],
            threshold=self._threshold[rows],
            kept=self._kept[rows],
            sums=self._sums[rows],
            dropped=None if self._dropped is None else self._dropped[rows],
            held=self._held,
        )

    @property
    def samples(self) -> tuple[NDArray[np.int32], Array]:
        """Return the size of each pixel's sample, (n_X, n_Y), and `BackgroundRows.sums`."""
        return self._kept, self._sums

    def finish(self, validity: Validity, *, has_mean: bool = True) -> Background:
        """Return the background of the whole frame, after every row is filled.

        ``has_mean``: False: its mean is 0, as `complete` computes it from the samples.
        """
        good = self._kept > 0
        return Background(
            avg=self._avg,
            std=self._std,
            iqr=self._iqr,
            max=self._max,
            arg=self._arg,
            threshold=self._threshold,
            n_used=self._kept if self.gaps or self._varies else None,
            dropped=self._dropped,
            gaps=self.gaps,
            mean=self._mean() if has_mean else FixedPointMean(1, None, _zeros(good.shape)),
            validity=replace(validity, pixels=None if good.all() else good),
            held=self._held,
        )

    def _mean(self) -> FixedPointMean | NDArray[np.float64]:
        total = self._sums
        if total.dtype.kind == "f":
            return total
        if self.gaps or self._varies:
            m = np.maximum(self._kept, 1).astype(np.int64)
            whole, rest = np.divmod(total.astype(np.int64), m)
            return FixedPointMean(
                scale=2**32, high=whole, low=((rest << 32) // m).astype(np.uint32)
            )
        scale = int(self._kept.max())
        if total.dtype == np.uint32:
            return FixedPointMean(scale=scale, high=None, low=total)
        return FixedPointMean(
            scale=scale, high=total >> 32, low=(total & 0xFFFFFFFF).astype(np.uint32)
        )


def threshold_map(
    mean: Array, sigma: Array, cutoff: float, masked: NDArray[np.bool_], dtype: np.dtype[Any]
) -> Array:
    """Return the thresholds of pixels of frames of some type: ``cutoff * sigma`` above the mean.

    (n,) float64 each; NaN where a pixel of float frames is masked.
    """
    if dtype.kind == "f":
        return _float_threshold(mean, sigma, cutoff, masked)
    return _integer_threshold(mean, sigma, cutoff, masked, np.iinfo(dtype))


def _zeros(shape: tuple[int, ...]) -> NDArray[np.uint32]:
    """Return zeros that take no memory."""
    return np.broadcast_to(np.uint32(0), shape)


def _rows(moments: IntegerMoments | FloatMoments, rows: slice) -> IntegerMoments | FloatMoments:
    """Return some rows of a band's moments."""
    values = {field.name: getattr(moments, field.name) for field in fields(moments)}
    some: dict[str, Any] = {
        name: array[rows] for name, array in values.items() if isinstance(array, np.ndarray)
    }
    return replace(moments, **some)


def _integer_threshold(
    avg: Array, std: Array, cutoff: float, masked: NDArray[np.bool_], limits: Any
) -> Array:
    """Return the smallest integer that stands out; if there is none, the type's maximum + 1.

    floor(avg) is floor(S / m) exactly: S / m is at least 1 / m away from the next integer, more
    than float64 rounds off.
    """
    threshold = np.ceil(avg + cutoff * std)
    np.maximum(threshold, np.floor(avg) + 1, out=threshold)
    np.clip(threshold, limits.min, limits.max + 1, out=threshold)
    threshold[masked] = limits.max + 1
    return threshold


def _float_threshold(avg: Array, std: Array, cutoff: float, masked: NDArray[np.bool_]) -> Array:
    """Return the smallest float64 that stands out; NaN if there is none."""
    threshold = avg + cutoff * std
    threshold = np.where(threshold <= avg, np.nextafter(avg, np.inf), threshold)
    threshold[masked] = np.nan
    return threshold


def _rounded_once(high: NDArray[np.uint64] | None, low: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Return ``high * 2^64 + low``, rounded once to float64. ``high`` is below 2^63."""
    result = low.astype(np.float64)
    if high is None:
        return result
    big = np.flatnonzero(high)
    upper, lower = high.reshape(-1)[big], low.reshape(-1)[big]
    # the leading 63 or 64 bits as one word, whose last bit also says whether anything follows:
    # enough to round as the whole number would
    shift = np.frexp(upper.astype(np.float64))[1].astype(np.uint64)
    leading = upper << (np.uint64(64) - shift) | lower >> shift
    leading |= (lower & ((np.uint64(1) << shift) - np.uint64(1))) > 0
    result.reshape(-1)[big] = np.ldexp(leading.astype(np.float64), shift.astype(np.int32))
    return result
