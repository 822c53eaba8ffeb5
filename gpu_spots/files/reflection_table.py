"""DIALS reflection tables (.refl), read for the Miller indices that DIALS gave to spots."""

from pathlib import Path
from typing import Any

import numpy as np

from gpu_spots.errors import InputError
from gpu_spots.files.paths import require_regular_file
from gpu_spots.model import Array

SUFFIX = ".refl"
"""Ending of their names."""
KIND = "dials::af::reflection_table"
"""First item of a table."""
ELEMENTS = {
    "int": ("<i4", 1),
    "std::size_t": ("<u8", 1),
    "double": ("<f8", 1),
    "cctbx::miller::index<>": ("<i4", 3),
}
"""Types of the columns that are read: NumPy type, values per row."""
COLUMNS = ("frame", "label", "wavelength", "Wavelength")
"""Columns that are read beside ``miller_index``."""
MAX_BYTES = 2**34
"""Largest file."""
MAX_DEPTH = 16
"""Deepest nesting of lists."""
FIXED = {0xC0: None, 0xC2: False, 0xC3: True}
"""Values without data, by the first byte."""
NUMBERS = {
    **{0xCA: ">f4", 0xCB: ">f8", 0xCC: ">u1", 0xCD: ">u2", 0xCE: ">u4", 0xCF: ">u8"},
    **{0xD0: ">i1", 0xD1: ">i2", 0xD2: ">i4", 0xD3: ">i8"},
}
"""Types of numbers, by the first byte."""
TEXTS = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
"""Bytes of the length of text and binary data, by the first byte."""
LISTS = {0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4}
"""Bytes of the length of lists and maps, by the first byte."""


def read_reflections(path: Path) -> dict[str, Array]:
    """Return Miller indices, frames and labels of a reflection table.

    Returns:
        Columns by name, (n,) each: ``h``, ``k``, ``l``, and those of `COLUMNS` that are there.

    Raises:
        InputError: The file cannot be read, is damaged, or has no Miller indices.
    """
    require_regular_file(path, "a DIALS reflection table")
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise InputError(f"{path}: has {size} bytes, expected at most {MAX_BYTES}")
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be opened: {error.strerror}") from error
    try:
        found = _columns(_Unpacker(data).item())
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise InputError(
            f"{path}: is damaged, or not a DIALS reflection table: {' '.join(str(error).split())}"
        ) from error
    if "miller_index" not in found:
        raise InputError(
            f"{path}: has no column miller_index, expected the table that dials.index or "
            "laue.index wrote"
        )
    indices = found.pop("miller_index")
    return dict(zip("hkl", indices.T, strict=True)) | found


def _columns(whole: Any) -> dict[str, Array]:
    """Return the columns of an unpacked table that are read. Raises ValueError for another one."""
    kind, _, table = whole
    if kind != KIND:
        raise ValueError(f"is of the kind {str(kind)[:40]!r}")
    n_rows, data = table["nrows"], table["data"]
    return {
        name: _column(data[name], n_rows) for name in ("miller_index", *COLUMNS) if name in data
    }


def _column(column: Any, n_rows: int) -> Array:
    """Return a column, (n_rows,) or (n_rows, width). Raises ValueError if it does not fit."""
    kind, (_, content) = column
    dtype, width = ELEMENTS[kind]
    values = np.frombuffer(content, dtype)
    if len(values) != n_rows * width:
        raise ValueError(f"a column has {len(values)} values, expected {n_rows * width}")
    return values.reshape(n_rows, width) if width > 1 else values


class _Unpacker:
    """Reader of msgpack data."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def item(self, depth: int = 0) -> Any:
        """Return the next item. Raises ValueError if the data end before it."""
        if depth > MAX_DEPTH:
            raise ValueError("lists are nested too deeply")
        head = self._take(1)[0]
        if head < 0x80:
            return head
        if head < 0xA0:
            return self._list(head & 0x0F, depth, is_map=head < 0x90)
        if head < 0xC0:
            return self._take(head & 0x1F).decode()
        if head >= 0xE0:
            return head - 256
        if head in FIXED:
            return FIXED[head]
        if head in NUMBERS:
            dtype = np.dtype(NUMBERS[head])
            return np.frombuffer(self._take(dtype.itemsize), dtype)[0].item()
        if head in TEXTS:
            content = self._take(self._length(TEXTS[head]))
            return content if head < 0xD0 else content.decode()
        if head in LISTS:
            return self._list(self._length(LISTS[head]), depth, is_map=head >= 0xDE)
        raise ValueError(f"byte {head:#x} is no msgpack")

    def _list(self, length: int, depth: int, *, is_map: bool) -> Any:
        if is_map:
            return {self.item(depth + 1): self.item(depth + 1) for _ in range(length)}
        return [self.item(depth + 1) for _ in range(length)]

    def _length(self, n_bytes: int) -> int:
        return int.from_bytes(self._take(n_bytes), "big")

    def _take(self, n_bytes: int) -> bytes:
        begin, self._at = self._at, self._at + n_bytes
        if self._at > len(self._data):
            raise ValueError("the file ends too early")
        return self._data[begin : self._at]
