"""Valid values for kernels: unsigned keys within bounds, and a map of pixels."""

from typing import Any

import numpy as np

from gpu_spots.cuda.toolkit import Toolkit
from gpu_spots.model import Validity


def sign_bit(dtype: np.dtype[Any]) -> int:
    """Return the mask that turns the bits of an integer into an unsigned key, by XOR.

    Keys have the order of the integers.
    """
    return 1 << (8 * dtype.itemsize - 1) if dtype.kind == "i" else 0


def bits_of(array: Any) -> Any:
    """Return the array as unsigned integers of the same size."""
    return array.view(np.dtype(f"u{array.dtype.itemsize}"))


def key_bounds(dtype: np.dtype[Any], validity: Validity) -> tuple[int, int]:
    """Return the smallest and largest valid key of an integer type; 1 and 0: none is valid."""
    low, high = validity.bounds(dtype)
    least = int(np.iinfo(dtype).min)
    return (int(low) - least, int(high) - least) if low <= high else (1, 0)


def pixels_on_device(toolkit: Toolkit, validity: Validity) -> Any:
    """Return a map that is 0 where a pixel is masked, (n_X * n_Y,) uint8; None: none is."""
    return (
        None
        if validity.pixels is None
        else toolkit.to_device(np.ascontiguousarray(validity.pixels, np.uint8).reshape(-1))
    )
