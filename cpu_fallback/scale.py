"""Frames brought to a common level by fixed-point factors."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from cpu_fallback.prepared import Prepared
from gpu_spots.model import FACTOR_BITS, Array, Surface, Validity


def scaled(frames: Array, factors: NDArray[np.integer], validity: Validity) -> Array:
    """Multiply each frame by its factor; see ``gpu_spots.backend.Operations.scaled``."""
    usable = validity.allows(frames)
    marks = validity.marks(frames.dtype)
    if frames.dtype.kind == "f":
        result = np.empty_like(frames)
        with np.errstate(over="ignore", invalid="ignore"):
            for out, frame, factor in zip(result, frames, factors, strict=True):
                product = frame.astype(np.float64) * (factor / 2**FACTOR_BITS)
                out[...] = np.clip(product, np.finfo(frame.dtype).min, np.finfo(frame.dtype).max)
    elif frames.dtype.itemsize <= 2:
        result = np.empty_like(frames)
        every = np.arange(np.iinfo(frames.dtype).min, np.iinfo(frames.dtype).max + 1)
        for out, frame, factor in zip(result, frames, factors, strict=True):
            # a value is looked up by its bits, so that negative ones follow the others
            table = np.roll(_product(every, factor, frames.dtype, marks), every[0])
            np.take(
                table,
                frame.view(f"u{frame.itemsize}") if frame.dtype.kind == "i" else frame,
                out=out,
                mode="clip",
            )
    else:
        result = np.empty_like(frames)
        for out, frame, factor in zip(result, frames, factors, strict=True):
            out[...] = _product(frame.astype(np.int64), factor, frames.dtype, marks)
    if usable is not None:
        result[~usable] = np.nan if frames.dtype.kind == "f" else np.iinfo(frames.dtype).max
    return result


def levelled(
    frames: Array, levels: NDArray[np.int64] | Surface, validity: Validity, prepared: Prepared
) -> Array:
    """Subtract from each frame its part of the background.

    See ``gpu_spots.backend.Operations.levelled``.
    """
    usable, follows = validity.allows(frames), prepared.follows
    assert follows is not None
    result = np.empty_like(frames)
    above = _above(levels, frames.shape[1:])
    if frames.dtype.kind != "f":
        limits, marks = np.iinfo(frames.dtype), validity.marks(frames.dtype)
        for out, frame, part in zip(result, frames, above, strict=True):
            left = frame - ((part * follows + (1 << 19)) >> 20)
            out[...] = np.clip(left, limits.min, limits.max - marks)
    else:
        for out, frame, part in zip(result, frames, above, strict=True):
            with np.errstate(over="ignore", invalid="ignore"):
                left = frame.astype(np.float64) - (part / 2**FACTOR_BITS) * follows
                out[...] = np.clip(left, np.finfo(frame.dtype).min, np.finfo(frame.dtype).max)
    if usable is not None:
        result[~usable] = np.nan if frames.dtype.kind == "f" else np.iinfo(frames.dtype).max
    return result


def _above(
    levels: NDArray[np.int64] | Surface, shape: tuple[int, ...]
) -> Iterator[np.int64 | NDArray[np.int64]]:
    """Yield the level of each frame less that of the run, of all pixels or of each, in 2^-16."""
    for frame in range(len(levels)):
        if isinstance(levels, Surface):
            level = levels.of_rows(frame, slice(0, shape[0]), shape[1]).astype(np.int64)
            yield level - (1 << FACTOR_BITS)
        else:
            yield levels[frame] - (1 << FACTOR_BITS)


def _product(values: NDArray[np.int64], factor: np.integer, dtype: np.dtype, marks: bool) -> Array:
    """Return the rounded product, limited to the type.

    If the largest value of the type marks invalid values, it is left free.
    """
    limits = np.iinfo(dtype)
    product = (values * factor + (1 << (FACTOR_BITS - 1))) >> FACTOR_BITS
    return np.clip(product, limits.min, limits.max - marks).astype(dtype)
