"""Decompression of gzip and bzip2 with limits, and with all checksums verified."""

import bz2
import zlib
from pathlib import Path
from typing import Any

from gpu_spots.errors import InputError

MAX_CONTENT = 2**29
"""Largest decompressed file that is read, bytes."""
SIGNATURES = (b"\x1f\x8b", b"BZh")
"""First bytes of gzip and bzip2."""


def decompressed(content: bytes, path: Path, limit: int) -> tuple[bytes, bool]:
    """Return at most ``limit`` decompressed bytes of gzip or bzip2, and whether they are all.

    Checksums and lengths are verified for each stream that is read to its end.
    """
    signature = next((known for known in SIGNATURES if content.startswith(known)), b"\0")
    is_gzip = signature == SIGNATURES[0]
    parts: list[bytes] = []
    n_left = limit
    try:
        while content.startswith(signature):
            stream: Any = zlib.decompressobj(31) if is_gzip else bz2.BZ2Decompressor()
            part = stream.decompress(content, n_left + 1)
            if len(part) <= n_left and not stream.eof:  # the checksum may be left
                part += stream.decompress(stream.unconsumed_tail if is_gzip else b"", 1)
            parts.append(part[:n_left])
            if len(part) > n_left:
                return b"".join(parts), False
            if not stream.eof:
                raise InputError(f"{path}: cannot be decompressed: it is cut off")
            n_left -= len(part)
            content = stream.unused_data
    except (OSError, ValueError, zlib.error) as error:
        raise InputError(f"{path}: cannot be decompressed: {error}") from error
    if content.strip(b"\0"):
        raise InputError(
            f"{path}: cannot be decompressed: {len(content)} bytes after its end are not compressed"
        )
    return b"".join(parts), True
