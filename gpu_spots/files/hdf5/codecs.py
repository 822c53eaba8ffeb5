"""Two filters of HDF5 that are applied here: gzip, which is a zlib stream, and shuffle.

HDF5 holds its one lock while it decompresses; these functions need none and let go of the
interpreter's, so threads share the work. The fastest library that is installed does it: libdeflate
(package deflate) and ISA-L (package isal), else the standard library's zlib.
"""

import sys
import zlib
from functools import lru_cache
from typing import Any

import numpy as np

from gpu_spots.model import Array

try:
    import deflate
except ImportError:
    deflate = None  # type: ignore[assignment]
try:
    from isal import isal_zlib
except ImportError:
    isal_zlib = None  # type: ignore[assignment]

ISAL_LEVEL = 1
"""Level of ISA-L. On masks and labels it is twenty times as fast as level 4 of zlib, with about 1.5
times the bytes.
"""
ZLIB_LEVEL = 4
"""Level of h5py. Levels 1 to 3 are at most twice as fast and make masks three times as large."""
BLOCK = 1 << 18
"""Values unshuffled at a time. With fewer, threads wait for the interpreter three times as long as
it takes.
"""


class CodecError(ValueError):
    """Compressed data is damaged, or is not as long as it should be; the text says which."""


def inflate(data: bytes, n_bytes: int) -> bytes | bytearray:
    """Decompress a zlib stream that holds ``n_bytes``; as in HDF5, what follows its end is ignored.

    Raises `CodecError` where the stream is damaged, ends early, fails its checksum, or holds more
    or less.
    """
    if deflate is not None:
        try:
            inflated = deflate.zlib_decompress(data, n_bytes)
        except deflate.DeflateError:
            return _inflate_stream(zlib, data, n_bytes)  # which says what is wrong
        return inflated if len(inflated) == n_bytes else _inflate_stream(zlib, data, n_bytes)
    return _inflate_stream(isal_zlib or zlib, data, n_bytes)


def _inflate_stream(library: Any, data: bytes, n_bytes: int) -> bytes:
    stream = library.decompressobj()
    try:
        # one byte more than there should be: a stream that goes on is seen, and is not followed to
        # its end
        inflated: bytes = stream.decompress(data, n_bytes + 1)
    except library.error as error:
        raise CodecError(f"damaged compressed data: {str(error).rpartition(': ')[2]}") from None
    if len(inflated) > n_bytes:
        raise CodecError(f"more than {n_bytes} bytes when decompressed")
    if not stream.eof:
        raise CodecError("compressed data that ends early")
    if len(inflated) < n_bytes:
        raise CodecError(f"{len(inflated)} bytes when decompressed, expected {n_bytes}")
    return inflated


def compress(values: Array) -> bytes:
    """Return a zlib stream of a C-contiguous array, any type; speed matters more than size."""
    octets = values.reshape(-1).view(np.uint8)
    # strips without a spot are many; as truth values, the first byte that is none ends the search
    return _compress(octets) if octets.view(np.bool_).any() else _compressed_zeros(octets.size)


@lru_cache(maxsize=16)
def _compressed_zeros(n_bytes: int) -> bytes:
    return _compress(np.zeros(n_bytes, np.uint8))


def _compress(octets: Array) -> bytes:
    if isal_zlib is not None:
        return isal_zlib.compress(octets, ISAL_LEVEL)
    return zlib.compress(octets, ZLIB_LEVEL)


def shuffle(values: Array) -> Array:
    """Return the bytes of a C-contiguous array as HDF5's shuffle filter stores them.

    The result is (itemsize, values) uint8: all first bytes, all second bytes, and so on.
    """
    return np.ascontiguousarray(values.reshape(-1, 1).view(np.uint8).T)


def unshuffle(data: bytes | bytearray, out: Array) -> None:
    """Fill ``out`` from bytes that HDF5's shuffle filter stored.

    ``out`` is C-contiguous, of any type. The data are its first bytes, then its second bytes, and
    so on.

    Raises ValueError where ``data`` has not as many bytes as ``out``.
    """
    size = out.itemsize
    words = out.reshape(-1).view(f"u{size}")
    planes = np.frombuffer(data, np.uint8).reshape(size, words.size)
    high_to_low = planes[::-1] if sys.byteorder == "little" else planes
    # shifts of whole words are twice as fast as a byte here and a byte there
    for begin in range(0, words.size, BLOCK):
        block = words[begin : begin + BLOCK]
        highest, *lower = high_to_low[:, begin : begin + BLOCK]
        block[...] = highest
        for plane in lower:
            np.left_shift(block, 8, out=block)
            np.bitwise_or(block, plane, out=block)
