"""Strict reader of MarCCD images."""

import re
import struct
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gpu_spots.errors import InputError
from gpu_spots.model import Array

Order = Literal["<", ">"]
"""Little-endian, big-endian."""
DATA_BEGIN = 4096
"""First byte of a MarCCD file's frame."""
NAME = b"MMX\0\0\0\0\0"
"""Name in a MarCCD header, at byte 1028."""
# MarCCD: byte from the begin of the file, and what one unit of the integer there is
_NUMBERS = {
    "bias": (1804, 1e-3),
    "distance": (1664, 1e-3),
    "beam_x": (1668, 1e-3),
    "beam_y": (1672, 1e-3),
    "pixel_size_x": (1796, 1e-6),
    "pixel_size_y": (1800, 1e-6),
    "wavelength": (1932, 1e-5),
    "start_omega": (1696, 1e-3),
    "end_omega": (1728, 1e-3),
    "start_phi": (1708, 1e-3),
    "end_phi": (1740, 1e-3),
}
_ANGLES = ("start_omega", "end_omega", "start_phi", "end_phi")
_DTYPES = {1: "u1", 2: "u2", 4: "u4"}


def is_marccd(content: bytes) -> bool:
    """Return True if the first bytes of a file are those of a MarCCD file."""
    return content[:2] in (b"II", b"MM") and content[1028:1031] == b"MMX"


def check_not_marccd(head: bytes, path: Path) -> None:
    """Raise `InputError` for a TIFF file that should be a MarCCD file.

    With bytes lost or added, a MarCCD file is still a valid TIFF file, but its frame is shifted.
    """
    if NAME in head[:DATA_BEGIN] or ".mccd" in (suffix.lower() for suffix in path.suffixes[-2:]):
        raise InputError(
            f"{path}: is a damaged MarCCD file: no MarCCD header at byte 1024; "
            "if it is another kind of TIFF file, rename it to .tif"
        )


def layout_of(head: bytes, n_bytes: int, path: Path) -> tuple[tuple[int, int], np.dtype[Any]]:
    """Return shape and type of a frame, from the first bytes of a file of ``n_bytes``.

    The type has the byte order of the file.
    """
    if n_bytes < DATA_BEGIN or len(head) < DATA_BEGIN:
        raise InputError(
            f"{path}: is cut off: {n_bytes} bytes, "
            f"expected at least {DATA_BEGIN} for the MarCCD header"
        )
    orders = _orders(head)
    if orders is None:
        raise InputError(
            f"{path}: is a damaged MarCCD file: its header does not define the byte order"
        )
    n_fast, n_slow, depth = struct.unpack_from(f"{orders[0]}3i", head, 1104)
    expected = bytes_of(head, path)
    if n_bytes < expected:
        raise InputError(
            f"{path}: is cut off: {n_bytes} bytes, expected {expected} for {n_slow} x {n_fast} "
            f"pixels of {depth} bytes"
        )
    return (n_slow, n_fast), np.dtype(_DTYPES[depth]).newbyteorder(orders[1])


def bytes_of(head: bytes, path: Path) -> int:
    """Return the size of header and frame together, from the header."""
    orders = _orders(head) if len(head) >= DATA_BEGIN else None
    if orders is None:
        raise InputError(
            f"{path}: is a damaged MarCCD file: its header does not define the byte order"
        )
    n_fast, n_slow, depth = struct.unpack_from(f"{orders[0]}3i", head, 1104)
    if n_fast < 1 or n_slow < 1 or depth not in _DTYPES:
        raise InputError(
            f"{path}: is a damaged MarCCD file: {n_slow} x {n_fast} pixels of {depth} bytes"
        )
    return int(DATA_BEGIN + n_slow * n_fast * depth)


def read(content: bytes, path: Path) -> tuple[Array, dict[str, float | str]]:
    """Return frame and header of a whole file."""
    shape, stored = layout_of(content, len(content), path)
    frame = np.frombuffer(content, stored, shape[0] * shape[1], DATA_BEGIN).reshape(shape)
    return frame.astype(stored.newbyteorder("="), copy=False), header_of(content)


def header_of(content: bytes) -> dict[str, float | str]:
    """Return the values of a header; some are absent if they are 0."""
    order, _ = _orders(content) or ("<", "<")

    def number(begin: int) -> int:
        return int(struct.unpack_from(f"{order}i", content, begin)[0])

    header: dict[str, float | str] = {
        name: round(number(begin) * unit, 9)
        for name, (begin, unit) in _NUMBERS.items()
        if number(begin) or name in _ANGLES
    }
    saturation = struct.unpack_from(f"{order}I", content, 1128)[0]
    if 0 < saturation < 256 ** number(1112):
        header["saturation"] = float(saturation)
    exposure = number(1680) or number(1676)
    if exposure:
        header["exposure_time"] = exposure / 1000
    if acquired := _time(content[2368:2400]):
        header["acquired"] = acquired
    return header


def _orders(head: bytes) -> tuple[Order, Order] | None:
    """Return byte orders of header and frame, ``<`` or ``>``; None if they are unknown."""
    known: dict[int, Order] = {1234: "<", 4321: ">"}
    for order in known.values():
        of_header, of_frame = struct.unpack_from(f"{order}2i", head, 1052)
        if known.get(of_header) == order and of_frame in known:
            return order, known[of_frame]
    return None


def _time(stamp: bytes) -> str:
    """Return ``MMDDhhmmYYYY.ss`` as ISO 8601; another text is returned unchanged."""
    text = stamp.split(b"\0")[0].decode("ascii", "replace").strip()
    found = re.fullmatch(r"(\d\d)(\d\d)(\d\d)(\d\d)(\d{4})\.(\d\d)", text)
    return "{4}-{0}-{1}T{2}:{3}:{5}".format(*found.groups()) if found else text
