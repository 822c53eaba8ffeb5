"""Strict reader of CBF images with byte-offset compression, as Pilatus detectors write them."""

import base64
import hashlib
import re
from pathlib import Path

import numpy as np

from gpu_spots.errors import InputError
from gpu_spots.model import Array

SIGNATURE = b"###CBF: VERSION"
SECTION = b"--CIF-BINARY-FORMAT-SECTION--"
"""Line that begins the part with the pixels."""
_STARTER = b"\x0c\x1a\x04\xd5"
_MAX_HEADER = 2**20
"""Bytes before the pixels."""
_DTYPES = {
    f"{sign} {bits}-bit integer": np.dtype(f"{sign[0].replace('s', 'i')}{bits // 8}")
    for sign in ("signed", "unsigned")
    for bits in (8, 16, 32, 64)
}
_PADDING = 16
"""Bytes after the data for the decoder, more than the longest code has."""


def size_of(head: bytes) -> int | None:
    """Return the bytes up to the last pixel, from the first bytes of a file.

    None if the first bytes do not tell it.
    """
    found = re.search(rb"^X-Binary-Size: *(\d{1,15})\s", head, re.M)
    starter = head.find(_STARTER)
    return starter + len(_STARTER) + int(found[1]) if found and starter >= 0 else None


def read_cbf(content: bytes, path: Path) -> tuple[Array, str]:
    """Decode a CBF file.

    Args:
        content: the whole file.
        path: its name, for messages.

    Returns:
        The frame, (rows, columns); and the text of the header before the pixels.

    Raises:
        InputError: the file is damaged or cut off, its checksum is wrong, or it is compressed by
            another method.
    """
    from fabio.compression import decByteOffset

    section = content.find(SECTION, 0, _MAX_HEADER)
    starter = content.find(_STARTER, max(section, 0), _MAX_HEADER)
    if section < 0 or starter < 0:
        raise InputError(
            f"{path}: is damaged or cut off: no pixels in the first "
            f"{min(len(content), _MAX_HEADER)} bytes of the CBF file"
        )
    header = content[section:starter].decode("latin-1")
    found = {
        name.lower(): value.strip(' "\t\r\n;')
        for name, value in re.findall(r"^\s*([\w-]+)[ \t]*[:=](.*)$", header, re.M)
    }
    scheme = found.get("conversions", "")
    if not scheme:  # on the line of Content-Type
        scheme = (re.findall(r'conversions="([^"\n]*)"', header) or ["none"])[0]
    if scheme.lower() != "x-cbf_byte_offset":
        raise InputError(
            f"{path}: is compressed by {scheme[:40]!r}, expected x-CBF_BYTE_OFFSET; write it again "
            "with this method"
        )

    def number(name: str) -> int:
        text = found.get(name.lower(), "")
        if not re.fullmatch(r"\d{1,15}", text, re.ASCII) or not int(text):
            raise InputError(
                f"{path}: is a damaged CBF file: {name} is {text[:40]!r}, expected a number above 0"
            )
        return int(text)

    shape = number("X-Binary-Size-Second-Dimension"), number("X-Binary-Size-Fastest-Dimension")
    n_pixels, n_bytes, begin = shape[0] * shape[1], number("X-Binary-Size"), starter + len(_STARTER)
    kind = found.get("x-binary-element-type", "signed 32-bit integer")
    if kind not in _DTYPES:
        raise InputError(
            f"{path}: is a damaged CBF file: pixels of type {kind[:40]!r}, expected "
            f"{', '.join(_DTYPES)}"
        )
    if begin + n_bytes > len(content):
        raise InputError(
            f"{path}: is cut off: {len(content)} bytes, expected at least {begin + n_bytes}"
        )
    if n_pixels > n_bytes or (
        "x-binary-number-of-elements" in found and number("X-Binary-Number-of-Elements") != n_pixels
    ):
        raise InputError(
            f"{path}: is a damaged CBF file: {shape[0]} x {shape[1]} pixels do not fit {n_bytes} "
            "bytes and its other sizes"
        )
    data = content[begin : begin + n_bytes]
    checksum = found.get("content-md5")
    if (
        checksum
        and checksum != base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
    ):
        raise InputError(
            f"{path}: is damaged: the checksum Content-MD5 of its pixels does not match"
        )
    # each byte of padding becomes a pixel one above the one before, unless a code of the data is
    # cut off
    values = decByteOffset(
        data + b"\1" * _PADDING, dtype="int32" if _DTYPES[kind] == np.int32 else "int64"
    )
    if (
        len(values) != n_pixels + _PADDING
        or (np.diff(values[-_PADDING - 1 :].astype(np.int64) % 2**32) % 2**32 != 1).any()
    ):
        raise InputError(
            f"{path}: is damaged: its data do not decode to {shape[0]} x {shape[1]} pixels"
        )
    values = values[:n_pixels]
    if _DTYPES[kind].itemsize < values.dtype.itemsize:
        limits = np.iinfo(_DTYPES[kind])
        if values.min() < limits.min or values.max() > limits.max:
            raise InputError(f"{path}: is damaged: it has values beyond those of a {kind}")
    return values.astype(_DTYPES[kind]).reshape(shape), content[:section].decode("latin-1")
