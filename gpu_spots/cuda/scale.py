"""Frames brought to a common level by fixed-point factors."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_spots.cuda.prepared import Prepared
from gpu_spots.cuda.toolkit import Toolkit, blocks_for, c_type, frame_stride
from gpu_spots.model import Surface, Validity

THREADS = 256


def scaled(
    toolkit: Toolkit, frames: Any, factors: NDArray[np.integer[Any]], validity: Validity
) -> Any:
    """Multiply each frame by its factor; see ``gpu_spots.backend.Operations.scaled``.

    The result is on the device, contiguous.
    """
    return _launched(toolkit, "scaled", frames, factors, (), validity)


def levelled(
    toolkit: Toolkit,
    frames: Any,
    levels: NDArray[np.int64] | Surface,
    validity: Validity,
    prepared: Prepared,
) -> Any:
    """Subtract from each frame its part of the background.

    See ``gpu_spots.backend.Operations.levelled``.

    The result is on the device, contiguous.
    """
    if isinstance(levels, Surface):
        surface = surface_on_device(toolkit, levels, frames.shape[2])
        return _launched(toolkit, "levelled", frames, None, (surface, prepared.follows), validity)
    return _launched(toolkit, "levelled", frames, levels, (None, prepared.follows), validity)


def surface_on_device(toolkit: Toolkit, surface: Surface, n_columns: int) -> Any:
    """Return the surfaces of some frames of ``n_columns`` columns as common.h describes them."""
    g_x, g_y = surface.knots.shape[1:]
    head = np.array([surface.bits, g_x * g_y, g_y, surface.first_row, n_columns], np.int32)
    return toolkit.to_device(np.concatenate([head, surface.knots.reshape(-1)]))


def _launched(
    toolkit: Toolkit,
    name: str,
    frames: Any,
    of_frame: NDArray[np.integer[Any]] | None,
    maps: tuple[Any, ...],
    validity: Validity,
) -> Any:
    dtype = np.dtype(frames.dtype)
    n_frames, n_pixels = len(frames), frames.shape[1] * frames.shape[2]
    low, high = validity.bounds(dtype)
    if dtype.kind == "f":
        wide: Any = np.float64
        mark = 0
        lowest, highest = float(np.finfo(dtype).min), float(np.finfo(dtype).max)
    else:
        wide, mark = np.int64, int(np.iinfo(dtype).max)
        lowest, highest = int(np.iinfo(dtype).min), mark - validity.marks(dtype)
    result = toolkit.xp.empty(frames.shape, dtype)
    kernel = toolkit.kernel(
        "scale", name, FRAME=c_type(dtype), IS_FLOAT=int(dtype.kind == "f"), MARK=f"{mark}u"
    )
    kernel(
        (*blocks_for(n_pixels, THREADS), n_frames),
        (THREADS,),
        (
            frames,
            np.int64(frame_stride(frames)),
            np.int32(n_pixels),
            None if of_frame is None else toolkit.to_device(of_frame.astype(np.int64)),
            *maps,
            wide(low),
            wide(high),
            wide(lowest),
            wide(highest),
            result,
        ),
    )
    return result
