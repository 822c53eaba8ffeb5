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
    *,
    with_values: bool = False,
) -> Measurements:
    """Measure every frame's components; see ``gpu_spots.backend.Operations.measure``."""
    mean, saturation, on_device = prepared.mean, prepared.saturation, components.held
    xp, is_float = toolkit.xp, mean.float is not None
    is_wide = not is_float and frames.dtype.itemsize == 4
    if on_device is None:
        masks, mask_of_frame = np.unique(mask_of_frame, return_inverse=True)
        components = _of_masks(components, masks)
    component, frame = _spots(components.first, mask_of_frame)
    n_spots = len(frame)
    # rows as in measure.cu
    sums = xp.empty((2 + 5 * (1 + is_wide), n_spots), np.float64 if is_float else np.int64)
    counts = xp.empty((3 if is_float else 5, n_spots), np.int64)
    ends = np.cumsum(np.diff(components.begin)[component])
    values = xp.empty(int(ends[-1]) if n_spots else 0, frames.dtype) if with_values else None
    if n_spots:
        scales = (
            None if factors is None or not is_float else toolkit.to_device(2**FACTOR_BITS / factors)
        )
        pixels, begin, box = on_device or (
            toolkit.to_device(components.pixels.astype(np.int32)),
            toolkit.to_device(components.begin),
            toolkit.to_device(components.box),
        )
        # in one transfer
        spots = toolkit.to_device(np.stack([frame, component]))
        kernel = toolkit.kernel(
            "measure",
            "measure",
            FRAME=c_type(frames.dtype),
            SUM="f64" if is_float else "i64",
            FLOAT=int(is_float),
            WIDE=int(is_wide),
        )
        kernel(
            blocks_for(32 * n_spots, THREADS),
            (THREADS,),
            (
                *(frames, np.int64(frame_stride(frames)), np.int32(n_spots), spots[0], spots[1]),
                *(begin, pixels, box, np.int32(frames.shape[2])),
                *(_smallest_saturated(saturation, is_float), mean.high, mean.low),
                *(np.int32(mean.low_is_signed), mean.float, scales, sums, counts),
                *(None if values is None else toolkit.to_device(ends), values),
            ),
        )
    sums, counts, *more = fetched(
        toolkit, (sums, counts) if values is None else (sums, counts, values)
    )
    return Measurements(
        total=sums[0],
        background_high=None if is_float else counts[3],
        background_low=None if is_float else counts[4],
        peak=counts[0],
        overload=None if saturation is None else counts[1],
        largest=sums[1],
        n_maxima=counts[2],
        moments=sums[2:7],
        moments_high=sums[7:] if is_wide else None,
        values=more[0] if with_values else None,
    )


def _of_masks(components: Components, masks: NDArray[np.integer]) -> Components:
    """Return the components of some masks, ascending."""
    if len(masks) == len(components.first) - 1:
        return components
    first, last = components.first[masks], components.first[masks + 1]
    begin = components.begin
    pixels = [components.pixels[begin[a] : begin[b]] for a, b in zip(first, last, strict=True)]
    lengths = [np.diff(begin[a : b + 1]) for a, b in zip(first, last, strict=True)]
    return Components(
        pixels=np.concatenate(pixels),
        begin=np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64),
        box=np.concatenate([components.box[a:b] for a, b in zip(first, last, strict=True)]),
        first=np.concatenate([[0], np.cumsum(last - first)]),
    )


def _spots(
    first: NDArray[np.int64], mask_of_frame: NDArray[np.integer]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return component and frame of each spot, by frame, then component."""
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
