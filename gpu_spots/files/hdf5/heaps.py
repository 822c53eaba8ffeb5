"""Reading text of variable length, which HDF5 keeps in heaps, from files that may be damaged.

HDF5 walks through a heap from object to object. Where free space of size 0 stands in it, as after
one flipped byte, it never comes to the end. So what HDF5 reads passes a check here first. HDF5 also
allocates memory for a text before it compares the length of the text with the heap.
"""

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

SIGNATURE = b"GCOL\x01\0\0\0"
"""Start of a global heap collection: name, version 1, and three unused bytes."""
SMALLEST = 4096
"""Smallest size of a collection, bytes."""
LARGEST = 1 << 30
"""Largest size of a collection that is searched, bytes."""
HEADER = struct.Struct("<HHIQ")
"""Header of an object in a collection: number (0: free space), references, 4 unused bytes, size."""


REFERENCE = np.dtype([("length", "<u4"), ("heap", "<u8"), ("number", "<u4")])
"""Value of variable length in a dataset: length, heap and object."""


class DamagedHeapError(OSError):
    """A heap, or a reference to it, that HDF5 cannot read safely."""


class CheckedFile:
    """A file for h5py to read from.

    Heaps are checked before HDF5 sees them; a damaged one is a read error.
    """

    def __init__(self, path: Path) -> None:
        """Open the file. Raises OSError."""
        self._path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._size = os.fstat(self._descriptor).st_size
        self._position = 0
        self._sound: set[int] = set()

    def __repr__(self) -> str:
        """Return the path, which h5py uses in messages."""
        return str(self._path)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set and return the position."""
        self._position = (
            offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        )
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def read(self, size: int) -> bytes:
        """Return bytes; fewer at the end of the file."""
        if not 0 <= self._position < self._size:  # a damaged address
            return b""
        data = os.pread(self._descriptor, size, self._position)
        begin = data.find(SIGNATURE)
        while begin >= 0:
            self._check(self._position + begin)
            begin = data.find(SIGNATURE, begin + 1)
        self._position += len(data)
        return data

    def readinto(self, buffer: bytearray | memoryview) -> int:
        """Fill a buffer, with zeros behind the end of the file."""
        into = memoryview(buffer).cast("B")
        into[:] = self.read(len(into)).ljust(len(into), b"\0")
        return len(into)

    def flush(self) -> None:
        """Do nothing: nothing is written."""

    def _check(self, begin: int) -> None:
        """Raise `DamagedHeapError` where the objects of a collection do not fill it."""
        if begin in self._sound:
            return
        size = int.from_bytes(os.pread(self._descriptor, 8, begin + len(SIGNATURE)), "little")
        if (
            SMALLEST <= size <= min(self._size - begin, LARGEST)
        ):  # others HDF5 refuses, or they are no heap
            data = os.pread(self._descriptor, size, begin)
            at = len(SIGNATURE) + 8
            while at + HEADER.size <= size:
                number, _, _, length = HEADER.unpack_from(data, at)
                at += HEADER.size + (length + 7) // 8 * 8 if number else length
                if at > size or (not number and length < HEADER.size):
                    raise DamagedHeapError(f"the heap at byte {begin} is damaged")
        self._sound.add(begin)


def read_checked(dataset: h5py.Dataset) -> Any:
    """Return all values of a dataset, which may be of variable length.

    Raises what h5py does, and `DamagedHeapError`.
    """
    if not dataset.dtype.hasobject:
        return dataset[()]
    with checked(dataset.file) as safe:
        same = safe[dataset.name]
        check_lengths(same)
        return same[()]


def attribute(item: h5py.HLObject, name: str) -> Any:
    """Return an attribute; None where there is none.

    Raises what h5py does, and `DamagedHeapError`.
    """
    if name not in item.attrs:
        return None
    if not item.attrs.get_id(name).dtype.hasobject:
        return item.attrs[name]
    with checked(item.file) as safe:
        return safe[item.name].attrs[name]


def attributes(item: h5py.HLObject) -> dict[str, Any]:
    """Return all attributes. Raises what h5py does, and `DamagedHeapError`."""
    with checked(item.file) as safe:
        return dict(safe[item.name].attrs)


def check_lengths(item: h5py.HLObject) -> None:
    """Raise `DamagedHeapError` if a value of variable length is longer than its file.

    Compressed values are not looked at: their checksum is verified when they are read. Nor are
    attributes, whose bytes h5py does not give.

    Args:
        item: a dataset, or a group whose datasets are checked; of a file from `checked`.
    """
    if isinstance(item, h5py.Group):
        item.visititems(
            lambda _, inner: check_lengths(inner) if isinstance(inner, h5py.Dataset) else None
        )
    elif isinstance(item, h5py.Dataset) and item.dtype.hasobject and item.file.driver == "fileobj":
        _check_lengths(item)


def _check_lengths(dataset: h5py.Dataset) -> None:
    stored = dataset.id.get_type()
    is_text = isinstance(stored, h5py.h5t.TypeStringID) and stored.is_variable_str()
    is_plain = dataset.id.get_create_plist().get_nfilters() == 0
    if not is_plain or not (is_text or isinstance(stored, h5py.h5t.TypeVlenID)):
        return
    places = [(dataset.id.get_offset(), dataset.id.get_storage_size())]
    if dataset.chunks is not None:
        chunks: list[Any] = []
        dataset.id.chunk_iter(chunks.append)
        places = [(chunk.byte_offset, chunk.size) for chunk in chunks]
    path = Path(dataset.file.filename)
    n_bytes = path.stat().st_size
    for begin, size in places:
        if begin is None or begin + size > n_bytes:
            continue
        longest = np.fromfile(path, REFERENCE, size // REFERENCE.itemsize, offset=begin)[
            "length"
        ].max(initial=0)
        if longest > n_bytes:
            raise DamagedHeapError(f"a text of {longest} bytes in a file of {n_bytes}")


@contextmanager
def checked(file: h5py.File) -> Iterator[h5py.File]:
    """Open a file once more, so that its heaps are checked.

    If that is impossible, the same file is returned.

    Links to other files cannot be followed in it. Raises OSError where the file cannot be opened.
    """
    lengths: tuple[int, int] = file.id.get_create_plist().get_sizes()
    if file.driver != "sec2" or file.mode != "r" or lengths != (8, 8) or file.userblock_size:
        yield file
        return
    source: Any = CheckedFile(Path(file.filename))
    try:
        with h5py.File(source, "r") as again:
            yield again
    finally:
        source.close()
