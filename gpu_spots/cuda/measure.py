"""Sums and maxima over components, for every frame that shares the components' mask.

Kernel: measure.cu.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_spots.cuda.prepared import Prepared
from gpu_spots.cuda.toolkit import Toolkit, blocks_for, c_type, fetched, frame_stride
from gpu_spots.model import FACTOR_BITS, Components, Measurements

THREADS = 256
"""Threads of a block, as in measure.cu."""
WIDEST = 2**62
"""Number larger than any value of an integer frame."""


def measure(
    toolkit: Toolkit,
    frames: Any,
    components: Components,
    mask_of_frame: NDArray[np.integer],
    prepared: Prepared,
    factors: NDArray[np.integer] | None,
) -> Measurements:
    """Measure every frame's components; see ``gpu_spots.backend.Operations.measure``."""
    mean, saturation, on_device = prepared.mean, prepared.saturation, components.held
    xp, is_float = toolkit.xp, mean.float is not None
    if on_device is None:
        masks, mask_of_frame = np.unique(mask_of_frame, return_inverse=True)
        components = _of_masks(components, masks)
    component, frame = _spots(components.first, mask_of_frame)
    n_spots = len(frame)
    kind = np.float64 if is_float else np.int64
    total, (high, low, peak, overload) = (
        xp.empty(n_spots, kind),
        (xp.empty(n_spots, np.int64) for _ in range(4)),
    )
    if n_spots:
        scales = (
            None if factors is None or not is_float else toolkit.to_device(2**FACTOR_BITS / factors)
        )
        pixels, begin = on_device or (
            toolkit.to_device(components.pixels.astype(np.int32)),
            toolkit.to_device(components.begin),
        )
        # in one transfer
        spots = toolkit.to_device(np.stack([frame, component]))
        kernel = toolkit.kernel(
            "measure",
            "measure",
            FRAME=c_type(frames.dtype),
            SUM="f64" if is_float else "i64",
            FLOAT=int(is_float),
        )
        kernel(
            blocks_for(32 * n_spots, THREADS),
            (THREADS,),
            (
                *(frames, np.int64(frame_stride(frames)), np.int32(n_spots), spots[0], spots[1]),
                *(begin, pixels, _smallest_saturated(saturation, is_float)),
                *(mean.high, mean.low, np.int32(mean.low_is_signed), mean.float, scales),
                *(total, high, low, peak, overload),
            ),
        )
    total, high, low, peak, overload = fetched(toolkit, (total, high, low, peak, overload))
    return Measurements(
        total=total,
        background_high=None if is_float else high,
        background_low=None if is_float else low,
        peak=peak,
        overload=None if saturation is None else overload,
    )


def _of_masks(components: Components, masks: NDArray[np.integer]) -> Components:
    """The components of some masks, ascending; boxes are left out."""
    if len(masks) == len(components.first) - 1:
        return components
    first, last = components.first[masks], components.first[masks + 1]
    begin = components.begin
    pixels = [components.pixels[begin[a] : begin[b]] for a, b in zip(first, last, strict=True)]
    lengths = [np.diff(begin[a : b + 1]) for a, b in zip(first, last, strict=True)]
    return Components(
        pixels=np.concatenate(pixels),
        begin=np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64),
        box=components.box[:0],
        first=np.concatenate([[0], np.cumsum(last - first)]),
    )


def _spots(
    first: NDArray[np.int64], mask_of_frame: NDArray[np.integer]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Component and frame of each spot, by frame, then component."""
    counts = np.diff(first)[mask_of_frame]
    frame = np.repeat(np.arange(len(mask_of_frame), dtype=np.int32), counts)
    in_frame = np.arange(len(frame)) - (np.cumsum(counts) - counts)[frame]
    return (first[mask_of_frame][frame] + in_frame).astype(np.int32), frame


def _smallest_saturated(saturation: float | None, is_float: bool) -> np.generic:
    """Return the smallest saturated value in the type that the kernel compares."""
    if is_float:
        return np.float64(math.inf if saturation is None else saturation)
    return np.int64(
        WIDEST if saturation is None else math.ceil(min(max(saturation, -WIDEST), WIDEST))
    )
