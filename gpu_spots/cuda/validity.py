"""Which values of frames are valid, in the form that kernels test: unsigned keys within bounds, and a map of pixels."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_spots.cuda.toolkit import Toolkit
from gpu_spots.model import Array, Validity


def sign_bit(dtype: np.dtype[Any]) -> int:
    """What makes the bits of an integer an unsigned key of the same order, by XOR."""
    return 1 << (8 * dtype.itemsize - 1) if dtype.kind == "i" else 0


def bits_of(array: Any) -> Any:
    """The same array as unsigned integers."""
    return array.view(np.dtype(f"u{array.dtype.itemsize}"))


def integer_bounds(dtype: np.dtype[Any], validity: Validity) -> tuple[int, int, bool]:
    """Smallest and largest key that is valid, and whether any is not; 1 and 0 where none is valid."""
    limits = np.iinfo(dtype)
    low, high = limits.min, limits.max
    if validity.low is not None and validity.low > low:
        low = math.ceil(validity.low) if validity.low <= high else high + 1
    if validity.high is not None and validity.high < high:
        high = math.floor(validity.high) if validity.high >= limits.min else limits.min - 1
    if low > high:
        return 1, 0, True
    return low - limits.min, high - limits.min, (low, high) != (limits.min, limits.max)


def pixels_on_device(toolkit: Toolkit, validity: Validity) -> Any:
    """(n_X * n_Y,) uint8, 0 where a pixel is masked; None: none is."""
    return (
        None
        if validity.pixels is None
        else toolkit.to_device(np.ascontiguousarray(validity.pixels, np.uint8).reshape(-1))
    )


def float_bounds(validity: Validity) -> tuple[float, float]:
    """Smallest and largest valid value as float64; infinity is not valid."""
    most = float(np.finfo(np.float64).max)
    low = -most if validity.low is None else max(float(validity.low), -most)
    return low, most if validity.high is None else min(float(validity.high), most)


def valid_values(values: Array, validity: Validity) -> NDArray[np.bool_]:
    """The same test on the host, for the few values that are looked at there; wherever their pixels are."""
    if values.dtype.kind == "f":
        low, high = float_bounds(validity)
        wide = values.astype(np.float64)
        return (wide >= low) & (wide <= high)
    first, last, _ = integer_bounds(values.dtype, validity)
    keys = values.astype(np.int64) - np.iinfo(values.dtype).min
    return (keys >= first) & (keys <= last)
