"""Frames brought to a common level by fixed-point factors."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_spots.cuda.toolkit import Toolkit, blocks_for, c_type, frame_stride
from gpu_spots.model import Validity

THREADS = 256


def scaled(
    toolkit: Toolkit, frames: Any, factors: NDArray[np.integer[Any]], validity: Validity
) -> Any:
    """Each frame times its factor; see ``gpu_spots.backend.Operations.scaled``.

    The result is on the device, contiguous.
    """
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
        "scale", "scaled", FRAME=c_type(dtype), IS_FLOAT=int(dtype.kind == "f"), MARK=f"{mark}u"
    )
    kernel(
        (*blocks_for(n_pixels, THREADS), n_frames),
        (THREADS,),
        (
            frames,
            np.int64(frame_stride(frames)),
            np.int32(n_pixels),
            toolkit.to_device(factors.astype(np.int64)),
            wide(low),
            wide(high),
            wide(lowest),
            wide(highest),
            result,
        ),
    )
    return result
