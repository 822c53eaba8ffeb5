"""Strict check of EDF files, whose missing bytes fabio would fill with zeros."""

import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gpu_spots.errors import InputError
from gpu_spots.files.images import tiff
from gpu_spots.files.images.decompress import MAX_CONTENT, decompressed

MAX_HEADER = 2**20
"""Bytes in which the end of the header is looked for."""


def check_edf(head: bytes, n_bytes: int, content: Callable[[], bytes], path: Path) -> None:
    """Raise `InputError` unless the file has the whole frame of its EDF header.

    Args:
        head: the first bytes of the file, `MAX_HEADER` or all.
        n_bytes: size of the file.
        content: returns all of it; called for compressed pixels only.
        path: its name, for messages.
    """
    from fabio.edfimage import DATA_TYPES

    end = re.compile(rb"\}\r?\n").search(head)
    if end is None:
        raise InputError(
            f"{path}: is damaged or cut off: its header has no end in the first {len(head)} bytes"
        )
    pairs = (
        part.split("=", 1)
        for part in head[: end.start()].decode("latin-1").split(";")
        if "=" in part
    )
    header = {name.strip(" {\t\r\n").upper(): value.strip() for name, value in pairs}
    if "EDF_BINARYFILENAME" in header:
        raise InputError(
            f"{path}: has its pixels in another file, {header['EDF_BINARYFILENAME'][:80]!r}, "
            "expected them after the header"
        )
    dimensions = [value for name, value in header.items() if re.fullmatch(r"DIM_\d", name)]
    if not dimensions or "DATATYPE" not in header:
        return
    sizes = [header[name] for name in ("SIZE",) if name in header]
    kind = DATA_TYPES.get(header["DATATYPE"])
    if kind is None or not all(re.fullmatch(r"\d{1,9}", value, re.ASCII) for value in dimensions):
        raise InputError(
            f"{path}: is a damaged EDF file: dimensions {' x '.join(dimensions)[:80]!r} of type "
            f"{header['DATATYPE'][:40]!r}"
        )
    expected, stored = (
        math.prod(map(int, dimensions)) * np.dtype(kind).itemsize,
        n_bytes - end.end(),
    )
    method = header.get("COMPRESSION", "NONE").upper()
    if not method.startswith("NO"):
        if not sizes or not re.fullmatch(r"\d{1,15}", sizes[0], re.ASCII) or int(sizes[0]) > stored:
            raise InputError(
                f"{path}: is damaged or cut off: {stored} bytes after the header, expected "
                f"{repr(sizes[0][:40]) if sizes else 'Size'}"
            )
        data = content()[end.end() : end.end() + int(sizes[0])]
        if "OFFSET" in method or "Z" not in method:
            raise InputError(
                f"{path}: is compressed by {method[:40]!r}, expected GZIP, BZIP2, ZLIB or none; "
                "write it again with one of these"
            )
        try:
            if "GZIP" in method or "BZ" in method:
                found, is_whole = decompressed(data, path, min(expected, MAX_CONTENT))
            else:
                found, is_whole = tiff.inflate(data, min(expected, MAX_CONTENT)), True
        except ValueError as error:
            raise InputError(
                f"{path}: is damaged: its pixels cannot be decompressed: {error}"
            ) from error
        if not is_whole or len(found) != expected:
            raise InputError(
                f"{path}: is damaged: its pixels decompress to {len(found)} bytes or more, "
                f"expected {expected}"
            )
    elif stored < expected:
        raise InputError(
            f"{path}: is cut off: Data stream is incomplete: {stored} bytes after the header, "
            f"expected {expected}"
        )
