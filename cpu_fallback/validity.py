"""Which values of frames are valid."""

import numpy as np
from numpy.typing import NDArray

from gpu_spots.model import Array, Validity


def valid_values(frames: Array, validity: Validity) -> NDArray[np.bool_] | None:
    """Bool of the frames' shape: finite and within the valid range, wherever the pixel is; None: all are."""
    usable = None
    if frames.dtype.kind == "f":
        usable = np.isfinite(frames)
    for bound, inside in ((validity.low, np.greater_equal), (validity.high, np.less_equal)):
        if bound is not None:
            # a bound is compared as it is: as a Python number it would be rounded to the frames' type first
            within = inside(frames, np.float64(bound) if frames.dtype.kind == "f" else bound)
            usable = within if usable is None else usable & within
    return None if usable is None or usable.all() else usable
