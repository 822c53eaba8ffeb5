"""Strict reader of TIFF images with one value per pixel.

Decoders that fill damaged parts with zeros are not used: each strip or tile must lie in the file
and decode to exactly the expected number of bytes, and Deflate checksums are verified.
"""

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpu_spots.errors import InputError
from gpu_spots.model import Array

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of TIFF and BigTIFF files, in both byte orders."""
MAX_FRAME_BYTES = 2**30
"""Largest decompressed frame that is read, bytes."""
NO_COMPRESSION, LZW, DEFLATE, OLD_DEFLATE = 1, 5, 8, 32946
_COLOUR = (2, 3, 5, 6, 8)
"""Photometric interpretations: RGB, palette, CMYK, YCbCr, CIELab."""
_NAMES = {2: "CCITT", 3: "CCITT", 4: "CCITT", 6: "JPEG", 7: "JPEG", 32773: "PackBits"}
_MAX_RATIO = {NO_COMPRESSION: 1, LZW: 4096, DEFLATE: 1100, OLD_DEFLATE: 1100}
"""Bytes that one compressed byte can become at most, rounded up."""

_WIDTH, _LENGTH, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 256, 257, 258, 259, 262, 266
_DESCRIPTION, _STRIP_OFFSETS, _SAMPLES, _ROWS_PER_STRIP, _STRIP_COUNTS = 270, 273, 277, 278, 279
_PREDICTOR, _TILE_WIDTH, _TILE_LENGTH, _TILE_OFFSETS, _TILE_COUNTS = 317, 322, 323, 324, 325
_SAMPLE_FORMAT = 339
_TAGS = {
    _WIDTH, _LENGTH, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER, _DESCRIPTION,
    _STRIP_OFFSETS, _SAMPLES,
    _ROWS_PER_STRIP, _STRIP_COUNTS, _PREDICTOR, _TILE_WIDTH, _TILE_LENGTH, _TILE_OFFSETS,
    _TILE_COUNTS, _SAMPLE_FORMAT,
}  # fmt: skip
_MAX_VALUES = 2**20
"""Values of a tag; no image has more strips."""
_MAX_IMAGES = 1000
"""Directories that are counted."""
_INTEGERS = {1: "B", 3: "H", 4: "I", 16: "Q"}
_ASCII = 2


@dataclass(frozen=True, slots=True)
class _Parts:
    """Positions of the parts (strips or tiles) of an image, and their shape and type."""

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    bits: int
    part: tuple[int, int]
    is_tiled: bool
    offsets: tuple[int, ...]
    counts: tuple[int, ...]
    compression: int
    predictor: int

    @property
    def row_bytes(self) -> int:
        return (self.part[1] * self.bits + 7) // 8


def read_tiff(content: bytes, path: Path) -> tuple[Array, str]:
    """Decode a TIFF or BigTIFF file.

    Args:
        content: the whole file.
        path: its name, for messages.

    Returns:
        The frame, (rows, columns) in native byte order, bool for 1 bit per pixel; and the text of
        ImageDescription.

    Raises:
        InputError: the file is damaged or cut off, holds several images, has several values per
            pixel, or is compressed by something other than LZW or Deflate.
    """
    try:
        order, tags = _directory(content, path)
        parts = _parts_of(tags, order, len(content), path)
        frame = _decode(content, parts, path)
    except (struct.error, OverflowError) as error:
        raise InputError(f"{path}: is a damaged TIFF file: its header is cut off") from error
    if parts.bits == 1 and _one(tags, _PHOTOMETRIC, 1) == 0:
        frame = ~frame
    return frame, tags.get(_DESCRIPTION, ("",))[0]


def _directory(content: bytes, path: Path) -> tuple[str, dict[int, tuple[Any, ...]]]:
    """Return byte order and known tags of the only image."""
    order = "<" if content[:1] == b"I" else ">"
    if struct.unpack_from(f"{order}H", content, 2)[0] == 43:
        begin, pointer, number, entry_bytes = 8, "Q", "Q", 20
    else:
        begin, pointer, number, entry_bytes = 4, "I", "H", 12
    (offset,) = struct.unpack_from(order + pointer, content, begin)
    first, seen = offset, set()
    while offset:
        if offset in seen:
            raise InputError(f"{path}: is a damaged TIFF file: its image directories form a loop")
        seen.add(offset)
        if len(seen) > _MAX_IMAGES:
            break
        (n_entries,) = struct.unpack_from(order + number, content, offset)
        end = offset + struct.calcsize(number) + n_entries * entry_bytes
        if end + struct.calcsize(pointer) > len(content):
            raise InputError(
                f"{path}: is damaged or cut off: {len(content)} bytes, expected a TIFF directory "
                f"of {n_entries} entries at {offset}"
            )
        (offset,) = struct.unpack_from(order + pointer, content, end)
    if len(seen) != 1:
        raise InputError(f"{path}: contains {len(seen)} images, expected one per file")
    (n_entries,) = struct.unpack_from(order + number, content, first)
    tags: dict[int, tuple[Any, ...]] = {}
    for i in range(n_entries):
        at = first + struct.calcsize(number) + i * entry_bytes
        tag, kind, count = struct.unpack_from(f"{order}HH{pointer}", content, at)
        if tag in tags or tag not in _TAGS or kind not in (*_INTEGERS, _ASCII):
            continue
        if (kind == _ASCII) != (tag == _DESCRIPTION) or count > _MAX_VALUES:
            raise InputError(
                f"{path}: is a damaged TIFF file: tag {tag} has {count} values of type {kind}"
            )
        code = "s" if kind == _ASCII else _INTEGERS[kind]
        n_bytes, at = count * struct.calcsize(code), at + 4 + struct.calcsize(pointer)
        if n_bytes > struct.calcsize(pointer):
            (at,) = struct.unpack_from(order + pointer, content, at)
        if at + n_bytes > len(content):
            raise InputError(
                f"{path}: is damaged or cut off: the values of TIFF tag {tag} lie beyond its end"
            )
        values = struct.unpack_from(f"{order}{count}{code}", content, at)
        if kind == _ASCII:
            values = (values[0].split(b"\0")[0].decode("utf-8", "replace"),)
        tags[tag] = values
    return order, tags


def _one(tags: dict[int, tuple[Any, ...]], tag: int, default: int) -> int:
    values = tags.get(tag) or (default,)
    return int(values[0])


def _parts_of(tags: dict[int, tuple[Any, ...]], order: str, n_bytes: int, path: Path) -> _Parts:
    shape = (_one(tags, _LENGTH, 0), _one(tags, _WIDTH, 0))
    if 0 in shape:
        raise InputError(f"{path}: is a damaged TIFF file: {shape[0]} x {shape[1]} pixels")
    samples, compression = _one(tags, _SAMPLES, 1), _one(tags, _COMPRESSION, NO_COMPRESSION)
    if samples != 1:
        raise InputError(
            f"{path}: has shape {(*shape, samples)}, expected one image of rows and columns"
        )
    if _one(tags, _PHOTOMETRIC, 1) in _COLOUR:
        raise InputError(f"{path}: is a colour image, expected one value per pixel")
    if compression not in _MAX_RATIO:
        name = _NAMES.get(compression, f"method {compression}")
        raise InputError(
            f"{path}: is compressed by {name}, expected LZW, Deflate or no compression; write it "
            "again with one of these"
        )
    bits, sample_format = _one(tags, _BITS, 1), _one(tags, _SAMPLE_FORMAT, 1)
    kind = {1: "u", 2: "i", 3: "f", 4: "u"}.get(sample_format)
    allowed = (32, 64) if kind == "f" else (1, 8, 16, 32, 64) if kind == "u" else (8, 16, 32, 64)
    if kind is None or bits not in allowed or _one(tags, _FILL_ORDER, 1) != 1:
        raise InputError(
            f"{path}: has {bits} bits per pixel, TIFF sample format {sample_format}, "
            "expected integers of 1, 8, 16, 32 or 64 bits, or floating point of 32 or 64"
        )
    dtype = np.dtype(bool) if bits == 1 else np.dtype(f"{order}{kind}{bits // 8}")
    predictor = _one(tags, _PREDICTOR, 1) if compression != NO_COMPRESSION else 1
    if (
        predictor not in (1, 2, 3)
        or (predictor > 1 and bits == 1)
        or (predictor == 3 and kind != "f")
    ):
        raise InputError(
            f"{path}: has TIFF predictor {predictor} with {dtype} pixels, expected 1, 2, or 3 with "
            "floating point"
        )
    is_tiled = _TILE_OFFSETS in tags
    if is_tiled:
        part = (_one(tags, _TILE_LENGTH, 0), _one(tags, _TILE_WIDTH, 0))
        offsets, counts = tags[_TILE_OFFSETS], tags.get(_TILE_COUNTS, ())
    else:
        offsets, counts = tags.get(_STRIP_OFFSETS, ()), tags.get(_STRIP_COUNTS, ())
        part = (
            shape[0] if len(offsets) == 1 else min(_one(tags, _ROWS_PER_STRIP, shape[0]), shape[0]),
            shape[1],
        )
    if 0 in part:
        raise InputError(f"{path}: is a damaged TIFF file: parts of {part[0]} x {part[1]} pixels")
    n_parts = -(-shape[0] // part[0]) * -(-shape[1] // part[1])
    parts = _Parts(shape, dtype, bits, part, is_tiled, offsets, counts, compression, predictor)
    if not counts and compression == NO_COMPRESSION:  # not written by some programs
        sizes = tuple(
            parts.row_bytes * min(part[0], shape[0] - i * part[0])
            for i in range(min(n_parts, len(offsets)))
        )
        parts = _Parts(shape, dtype, bits, part, is_tiled, offsets, sizes, compression, predictor)
    if not len(parts.offsets) == len(parts.counts) == n_parts:
        raise InputError(
            f"{path}: is a damaged TIFF file: {len(offsets)} offsets and {len(counts)} sizes of "
            f"strips or tiles, expected {n_parts}"
        )
    beyond = max(offset + count for offset, count in zip(parts.offsets, parts.counts, strict=True))
    if beyond > n_bytes:
        raise InputError(f"{path}: is damaged or cut off: {n_bytes} bytes, expected {beyond}")
    needed = n_parts * part[0] * parts.row_bytes if is_tiled else shape[0] * parts.row_bytes
    stored = min(sum(parts.counts), n_bytes)  # strips of a damaged file may overlap
    if needed > stored * _MAX_RATIO[compression]:
        raise InputError(
            f"{path}: is a damaged TIFF file: {shape[0]} x {shape[1]} pixels of {bits} bits cannot "
            f"be in {stored} bytes of data"
        )
    if compression != NO_COMPRESSION and needed > MAX_FRAME_BYTES:
        raise InputError(
            f"{path}: is an image of {needed} bytes when it is decompressed, expected at most "
            f"{MAX_FRAME_BYTES}"
        )
    return parts


def _decode(content: bytes, parts: _Parts, path: Path) -> Array:
    n_rows, n_columns = parts.shape
    frame = np.empty(parts.shape, parts.dtype.newbyteorder("="))
    across = -(-n_columns // parts.part[1])
    full = parts.part[0] * parts.row_bytes
    for index, (offset, count) in enumerate(zip(parts.offsets, parts.counts, strict=True)):
        row, column = index // across * parts.part[0], index % across * parts.part[1]
        rows = parts.part[0] if parts.is_tiled else min(parts.part[0], n_rows - row)
        expected = rows * parts.row_bytes
        try:
            data = _DECODERS[parts.compression](content[offset : offset + count], full)
        except ValueError as error:
            raise InputError(
                f"{path}: is damaged: strip or tile {index} of its TIFF data: {error}"
            ) from error
        # some programs fill up the last strip
        if len(data) != expected and (
            (len(data) != full and parts.compression != NO_COMPRESSION) or len(data) < expected
        ):
            raise InputError(
                f"{path}: is damaged: strip or tile {index} of its TIFF data has {len(data)} "
                f"bytes, expected {expected}"
            )
        pixels = _pixels(data[:expected], rows, parts)
        end = min(row + rows, n_rows), min(column + parts.part[1], n_columns)
        frame[row : end[0], column : end[1]] = pixels[: end[0] - row, : end[1] - column]
    return frame


def _pixels(data: bytes, rows: int, parts: _Parts) -> Array:
    """Return pixels (rows, columns of a part) with the predictor undone."""
    columns, dtype = parts.part[1], parts.dtype
    if parts.bits == 1:
        packed = np.frombuffer(data, np.uint8).reshape(rows, -1)
        return np.unpackbits(packed, axis=1, count=columns).view(bool)
    if parts.predictor == 3:
        planes = np.cumsum(np.frombuffer(data, np.uint8).reshape(rows, -1), axis=1, dtype=np.uint8)
        interleaved = planes.reshape(rows, dtype.itemsize, columns).transpose(0, 2, 1)
        return (
            np.ascontiguousarray(interleaved).view(dtype.newbyteorder(">")).reshape(rows, columns)
        )
    pixels = np.frombuffer(data, dtype).reshape(rows, columns)
    if parts.predictor == 2:
        unsigned = pixels.astype(dtype.newbyteorder("=")).view(f"u{dtype.itemsize}")
        return np.cumsum(unsigned, axis=1, dtype=unsigned.dtype).view(dtype.newbyteorder("="))
    return pixels


def inflate(data: bytes, at_most: int) -> bytes:
    """Decompress Deflate.

    Raises ValueError for more than ``at_most`` bytes, a wrong checksum or a missing end.
    """
    stream = zlib.decompressobj()
    try:
        found = stream.decompress(data, at_most)
        if not stream.eof:  # the checksum may be left
            found += stream.decompress(stream.unconsumed_tail, 1)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if len(found) > at_most:
        raise ValueError(f"it has more than the {at_most} bytes expected")
    if not stream.eof:
        raise ValueError("it is cut off")
    return found


_CLEAR, _END, _FIRST = 256, 257, 258
_MAX_CODES = 4096 - _FIRST + 1
# after a clear code, codes have 9 bits until the table has 511 entries, then 10, 11 and 12
_WIDTHS = np.repeat([9, 10, 11, 12], [254, 512, 1024, _MAX_CODES - 1790 + 1])
_BEGINS = np.cumsum(_WIDTHS) - _WIDTHS


def _unpack_lzw(data: bytes, at_most: int) -> bytes:
    """Decompress TIFF's LZW.

    Raises ValueError for more than ``at_most`` bytes or impossible codes.
    """
    padded = np.frombuffer(data + bytes(4), np.uint8).astype(np.uint32)
    n_bits, at, found, n_found = 8 * len(data), 0, [], 0
    while True:
        begins = at + _BEGINS
        begins = begins[: np.searchsorted(begins + _WIDTHS, n_bits, side="right")]
        widths = _WIDTHS[: len(begins)]
        byte = begins >> 3
        window = padded[byte] << 16 | padded[byte + 1] << 8 | padded[byte + 2]
        codes = ((window >> (24 - (begins & 7) - widths)) & ((1 << widths) - 1)).astype(np.int64)
        stops = np.flatnonzero((codes == _CLEAR) | (codes == _END))
        n = int(stops[0]) if len(stops) else len(codes)
        if n > _MAX_CODES:
            raise ValueError("its LZW table overflows")
        if n:
            text = _unpack_codes(codes[:n], at_most - n_found)
            found.append(text)
            n_found += len(text)
        if not len(stops) or codes[n] == _END:  # the end code is missing in some files
            return b"".join(found)
        at = int(begins[n] + widths[n])


def _unpack_codes(codes: Array, at_most: int) -> bytes:
    """Decode the LZW codes between two clear codes.

    Code 258 + j stands for the text of code j of this stretch and the first byte after it.
    """
    index = np.arange(len(codes))
    parents = np.where(codes < _CLEAR, -1, codes - _FIRST)
    if (parents >= index).any():
        raise ValueError("it has an LZW code that is not defined yet")
    # the first byte and the length of each text, from the chain of parents
    lengths, roots = np.ones_like(index), index.copy()
    alive, at = index, parents
    while len(alive := alive[(deeper := at >= 0)]):
        at = at[deeper]
        lengths[alive] += 1
        roots[alive] = at
        at = parents[at]
    n_bytes = int(lengths.sum())
    if n_bytes > at_most:
        raise ValueError("it has more bytes than expected")
    first = codes[roots]
    last = np.where(parents < 0, codes, first[np.minimum(parents + 1, len(codes) - 1)]).astype(
        np.uint8
    )
    text = np.empty(n_bytes, np.uint8)
    ends, at = np.cumsum(lengths) - 1, index
    while len(at):
        text[ends] = last[at]
        at = parents[at]
        deeper = at >= 0
        at, ends = at[deeper], ends[deeper] - 1
    return text.tobytes()


def _as_is(data: bytes, at_most: int) -> bytes:
    return data


_DECODERS: dict[int, Callable[[bytes, int], bytes]] = {
    NO_COMPRESSION: _as_is,
    LZW: _unpack_lzw,
    DEFLATE: inflate,
    OLD_DEFLATE: inflate,
}
