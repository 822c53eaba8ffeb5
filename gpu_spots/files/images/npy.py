"""Strict reader of NumPy's ``.npy`` files.

NumPy evaluates the header as Python code, which absurd headers turn into crashes; here it has to
have exactly the form that NumPy writes for arrays of numbers.
"""

import math
import re
from pathlib import Path

import numpy as np

from gpu_spots.errors import InputError
from gpu_spots.model import Array

SIGNATURE = b"\x93NUMPY"
_HEADER = re.compile(
    rb"\{'descr': '([<>|=]?[a-zA-Z]\d{1,2}|\|?b1)', 'fortran_order': (True|False), "
    rb"'shape': \(((?:\d{1,15}, ?){0,8}(?:\d{1,15})?)\),? ?\} *\n?"
)


def read_npy(content: bytes, path: Path) -> Array:
    """Return the array of numbers in a ``.npy`` file.

    Args:
        content: the whole file.
        path: its name, for messages.

    Raises:
        InputError: the header is not one of an array of numbers, or the size does not fit it.
    """
    long = content[6:7] > b"\x01"
    begin = 12 if long else 10
    end = begin + int.from_bytes(content[8:begin], "little")
    found = _HEADER.fullmatch(content[begin:end]) if end - begin < 4096 else None
    if found is None:
        raise InputError(
            f"{path}: is a damaged .npy file or not one of numbers: its header is not one that "
            "NumPy writes for them"
        )
    try:
        dtype = np.dtype(found[1].decode())
    except TypeError:
        dtype = np.dtype(object)
    if dtype.kind not in "biufc":
        raise InputError(f"{path}: has values of type {found[1].decode()}, expected numbers")
    shape = tuple(int(part) for part in found[3].split(b",") if part.strip())
    expected = math.prod(shape) * dtype.itemsize
    if len(content) - end != expected:
        raise InputError(
            f"{path}: is damaged or cut off: {len(content)} bytes, expected {end + expected} for "
            f"shape {shape} of {dtype}"
        )
    values = np.frombuffer(content, dtype, offset=end).reshape(
        shape, order="F" if found[2] == b"True" else "C"
    )
    return np.ascontiguousarray(values, dtype.newbyteorder("="))
