"""Background in the form that the second pass needs, on the device."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu_spots.cuda.packed import pack
from gpu_spots.cuda.toolkit import Toolkit, uploaded
from gpu_spots.model import Array, Background, FixedPointMean, Morphology, Validity


@dataclass(frozen=True, slots=True)
class MeanOnDevice:
    """The background to subtract, on the device."""

    high: Any
    """(n_X, n_Y) int64: upper part of integers; None: 0 everywhere."""
    low: Any
    """(n_X, n_Y) uint32: lower part of integers; None for float frames."""
    low_is_signed: bool
    """True: ``low`` is an int32 mean, whose upper part is its sign, and ``high`` is None."""
    float: Any
    """(n_X, n_Y) float64, for float frames; None for integers."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """The background in the form that kernels read fastest."""

    limits: Any
    """(n_X, n_Y), on the device: integer values stand out above it, float values at or above it."""
    valid: Any
    """(n_X, words) uint32, on the device: pixels that are not masked; None: all."""
    value_range: Validity | None
    """Valid values; None: all values of the pixels that are not masked."""
    morphology: Morphology
    mean: MeanOnDevice
    """The background to subtract."""
    follows: Any
    """(n_X, n_Y), on the device: as in `Background`."""
    saturation: float | None
    """The smallest saturated value, counts of frames as read; None: unknown."""


def prepare(
    toolkit: Toolkit, background: Background, morphology: Morphology, saturation: float | None
) -> Prepared:
    """Copy maps to the device, unless they are there as the background was made there."""
    valid, follows = background.validity.pixels, background.follows
    return Prepared(
        limits=_limits(toolkit, background.threshold, background.max.dtype)
        if background.held is None
        else background.held.below,
        valid=None if valid is None else toolkit.to_device(pack(valid)),
        value_range=background.validity if background.gaps else None,
        morphology=morphology,
        mean=_mean(toolkit, background),
        follows=None if follows is None else uploaded(toolkit, follows, follows.dtype),
        saturation=saturation,
    )


def _limits(toolkit: Toolkit, threshold: Array, dtype: np.dtype[Any]) -> Any:
    """Return a threshold as a map that values of ``dtype`` are compared with."""
    if dtype.kind == "f":
        return uploaded(toolkit, threshold, threshold.dtype)
    # the frames' own type where it can be, as it is read fastest; what lets every value pass has no
    # value below it
    lowest = np.iinfo(dtype).min
    fits = threshold.min(initial=lowest + 1) > lowest
    return uploaded(
        toolkit,
        threshold,
        dtype if fits else np.int64,
        lambda slot, rows: np.subtract(rows, 1, out=slot, casting="unsafe"),
    )


def _mean(toolkit: Toolkit, background: Background) -> MeanOnDevice:
    """Return the mean under each pixel on the device, as it is held there, otherwise copied."""
    mean = background.mean
    if not isinstance(mean, FixedPointMean):
        return MeanOnDevice(None, None, False, uploaded(toolkit, mean, mean.dtype))
    # sums are the mean where all samples are of one size
    if background.held is not None and background.n_used is None:
        return MeanOnDevice(None, background.held.total, mean.high is not None, None)
    high = None if mean.high is None else uploaded(toolkit, mean.high, mean.high.dtype)
    return MeanOnDevice(high, uploaded(toolkit, mean.low, mean.low.dtype), False, None)
