"""What the second pass needs of the background, on the device."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu_spots.cuda.packed import pack
from gpu_spots.cuda.toolkit import Toolkit, uploaded
from gpu_spots.model import Array, Background, IntegerLevel, Morphology, Validity


@dataclass(frozen=True, slots=True)
class Levels:
    """The background to subtract, on the device."""

    high: Any
    """(n_X, n_Y) int64: upper part of integers; None: 0 everywhere."""
    low: Any
    """(n_X, n_Y) uint32: lower part of integers; None for float frames."""
    low_is_signed: bool
    """Whether ``low`` is an int32 level, whose upper part is its sign; then ``high`` is None."""
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
    """Which values count; None: all values of all pixels that are not masked do."""
    morphology: Morphology
    levels: Levels
    """The background to subtract."""
    saturation: float | None
    """The smallest saturated value, counts of frames as read; None: unknown."""


def prepare(
    toolkit: Toolkit, background: Background, morphology: Morphology, saturation: float | None
) -> Prepared:
    """Copy maps to the device, unless they are there as the background was made there."""
    valid = background.validity.pixels
    return Prepared(
        limits=_limits(toolkit, background.threshold, background.max.dtype)
        if background.held is None
        else background.held.below,
        valid=None if valid is None else toolkit.to_device(pack(valid)),
        value_range=background.validity if background.gaps else None,
        morphology=morphology,
        levels=_levels(toolkit, background),
        saturation=saturation,
    )


def _limits(toolkit: Toolkit, threshold: Array, dtype: np.dtype[Any]) -> Any:
    """A threshold as a map that values of ``dtype`` are compared with."""
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


def _levels(toolkit: Toolkit, background: Background) -> Levels:
    """What of a background has to be subtracted: as it is held on the device, else copied there."""
    level = background.level
    if not isinstance(level, IntegerLevel):
        return Levels(None, None, False, uploaded(toolkit, level, level.dtype))
    # sums are the level where all samples are of one size
    if background.held is not None and background.n_used is None:
        return Levels(None, background.held.total, level.high is not None, None)
    high = None if level.high is None else uploaded(toolkit, level.high, level.high.dtype)
    return Levels(high, uploaded(toolkit, level.low, level.low.dtype), False, None)
