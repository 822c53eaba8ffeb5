"""Check of mar345 images before they are decoded, as the decoder trusts every number in them."""

import re
import struct
from pathlib import Path

import numpy as np

from gpu_spots.errors import InputError

SIGNATURES = (b"\xd2\x04", b"\x2d\x04", b"\x04\xd2", b"\x04\x2d")
_HEADER_BYTES = 4096
_PACKED = re.compile(rb"CCP4 packed image( V2)?, X: *(\d{1,9}), Y: *(\d{1,9})\n")
# number of bits of the values of a block, by its code; version 2 has 4 bits for codes, not 3
_BITS = (0, 4, 5, 6, 7, 8, 16, 32)
_BITS_V2 = (0, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 32)


def check_mar345(content: bytes, path: Path) -> None:
    """Raise `InputError` unless sizes, overflow table and pixels of a mar345 file agree.

    Args:
        content: the whole file.
        path: its name, for messages.
    """
    if len(content) < _HEADER_BYTES:
        raise InputError(
            f"{path}: is cut off: {len(content)} bytes, "
            f"expected at least {_HEADER_BYTES} for the mar345 header"
        )
    order = "<" if struct.unpack_from("<i", content)[0] == 1234 else ">"
    _, width, n_high, _, _, n_pixels = struct.unpack_from(f"{order}6i", content)
    found = _PACKED.search(content, _HEADER_BYTES)
    if found is None:
        raise InputError(
            f"{path}: is damaged or cut off: it has no packed image after its mar345 header"
        )
    if (
        width < 1
        or n_pixels < 1
        or (int(found[2]), int(found[3])) != (width, n_pixels // width)
        or n_pixels % width
    ):
        raise InputError(
            f"{path}: is a damaged mar345 file: {n_pixels} pixels in rows of {width}, but "
            f"{int(found[3])} x {int(found[2])} are packed"
        )
    n_table = max(n_high + 7, 0) // 8 * 64
    if n_high < 0 or _HEADER_BYTES + n_table > found.start():
        raise InputError(
            f"{path}: is a damaged mar345 file: its table of {n_high} strong pixels is cut off"
        )
    places = np.frombuffer(content, f"{order}i4", 2 * n_high, _HEADER_BYTES)[::2]
    if n_high and not ((places >= 0) & (places <= n_pixels)).all():
        raise InputError(
            f"{path}: is a damaged mar345 file: strong pixels are beyond the last of {n_pixels}"
        )
    n_packed = _unpacked(content, found.end(), n_pixels, found[1] is not None)
    if n_packed != n_pixels:
        raise InputError(
            f"{path}: is damaged or cut off: its packed data hold {n_packed} pixels, expected "
            f"{n_pixels}"
        )


def _unpacked(content: bytes, begin: int, n_pixels: int, is_v2: bool) -> int:
    """Return the number of packed pixels, counted block by block up to ``n_pixels``."""
    bits_of, n_code = (_BITS_V2, 4) if is_v2 else (_BITS, 3)
    mask, n_bits = (1 << n_code) - 1, 8 * len(content)
    content += b"\0\0"
    at, n_found = 8 * begin, 0
    while n_found < n_pixels and at + 2 * n_code <= n_bits:
        code = (content[at >> 3] | content[(at >> 3) + 1] << 8) >> (at & 7)
        n_values = 1 << (code & mask)
        at += 2 * n_code + n_values * bits_of[code >> n_code & mask]
        n_found += n_values if at <= n_bits else 0
    return n_found
