"""Which values of frames are valid."""

import numpy as np
from numpy.typing import NDArray

from gpu_spots.model import Array, Validity


def valid_values(frames: Array, validity: Validity) -> NDArray[np.bool_] | None:
    """Bool of the frames' shape: finite and within the valid range, wherever the pixel is; None: all are."""
    usable = None
    if frames.dtype.kind == "f":
        usable = np.isfinite(frames)
    for bound, inside in ((validity.low, at_least), (validity.high, at_most)):
        if bound is not None:
            within = inside(frames, bound)
            usable = within if usable is None else usable & within
    return None if usable is None or usable.all() else usable


def at_least(values: Array, bound: float) -> NDArray[np.bool_]:
    """``values >= bound``."""
    return values >= _as_it_is(values, bound)


def at_most(values: Array, bound: float) -> NDArray[np.bool_]:
    """``values <= bound``."""
    return values <= _as_it_is(values, bound)


def _as_it_is(values: Array, bound: float) -> float:
    """A bound for float values that NumPy does not round to their type before it compares."""
    return np.float64(bound) if values.dtype.kind == "f" else bound
