"""Sums and maxima over components, for every frame that shares the components' mask."""

import numpy as np
from numpy.typing import NDArray

from cpu_fallback.prepared import Prepared
from gpu_spots.model import FACTOR_BITS, Array, Components, FixedPointMean, Measurements


def measure(
    frames: Array,
    components: Components,
    mask_of_frame: NDArray[np.integer],
    prepared: Prepared,
    factors: NDArray[np.integer] | None,
) -> Measurements:
    """Measure every frame's components; see ``gpu_spots.backend.Operations.measure``."""
    mean, saturation, n_pixels = prepared.mean, prepared.saturation, frames[0].size
    pixels, begin, frame = _repeated(components, mask_of_frame)
    if not len(begin):
        empty = np.zeros(0, np.int64)
        overload = None if saturation is None else empty
        if isinstance(mean, FixedPointMean):
            return Measurements(empty, empty, empty, empty, overload)
        return Measurements(np.zeros(0), None, None, empty, overload)
    length = np.diff(begin, append=len(pixels))
    values = frames.reshape(-1)[pixels + frame * n_pixels]
    peak = pixels[_first_maximum(values, begin, length)]
    overload = (
        None
        if saturation is None
        else np.add.reduceat(values >= np.float64(saturation), begin, dtype=np.int64)
    )
    if isinstance(mean, FixedPointMean):
        return Measurements(
            total=np.add.reduceat(values.astype(np.int64), begin),
            background_high=_sum_of(mean.high, pixels, begin),
            background_low=_sum_of(mean.low, pixels, begin),
            peak=peak,
            overload=overload,
        )
    background = mean.reshape(-1)[pixels]
    # values may be as large as the type allows
    with np.errstate(over="ignore", invalid="ignore"):
        if factors is not None:
            background *= (2**FACTOR_BITS / factors)[frame]
        difference = values.astype(np.float64) - background
    # bincount adds one value after the other, in a defined order; reduceat adds in pairs
    total = np.bincount(np.repeat(np.arange(len(begin)), length), weights=difference)
    return Measurements(total, None, None, peak, overload)


def _repeated(
    components: Components, mask_of_frame: NDArray[np.integer]
) -> tuple[NDArray[np.int64], ...]:
    """The components' pixels once for every frame: flat index in the frame, begin of each component, and the frame of each pixel."""
    first, last = components.first[mask_of_frame], components.first[mask_of_frame + 1]
    pixel_first, pixel_last = components.begin[first], components.begin[last]
    length = pixel_last - pixel_first
    frame = np.repeat(np.arange(len(mask_of_frame)), length)
    if np.array_equal(mask_of_frame, np.arange(len(components.first) - 1)):
        return components.pixels, components.begin[:-1], frame
    shift = np.cumsum(length) - length - pixel_first
    pixels = np.concatenate(
        [components.pixels[a:b] for a, b in zip(pixel_first, pixel_last, strict=True)]
    )
    begin = np.concatenate(
        [components.begin[a:b] + s for a, b, s in zip(first, last, shift, strict=True)]
    )
    return pixels, begin, frame


def _first_maximum(
    values: Array, begin: NDArray[np.int64], length: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Index of the largest value of each component, the first of equals."""
    largest = np.maximum.reduceat(values, begin)
    hits = np.flatnonzero(values == np.repeat(largest, length))
    return hits[np.searchsorted(hits, begin)]


def _sum_of(
    mean: Array | None, pixels: NDArray[np.int64], begin: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Exact sums of a background map over components."""
    if mean is None:
        return np.zeros(len(begin), np.int64)
    return np.add.reduceat(mean.reshape(-1)[pixels].astype(np.int64), begin)
