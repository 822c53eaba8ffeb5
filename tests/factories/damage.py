"""Damage in HDF5 files."""

import struct
from pathlib import Path

NAMES = [f"run_{i:03}_{'on' if i % 2 else 'off'}.mccd" for i in range(20)]


def damage_heap(path: Path) -> None:
    """Let free space in the first heap have the size 0."""
    content = bytearray(path.read_bytes())
    at = content.index(b"GCOL") + 16
    while struct.unpack_from("<H", content, at)[0]:
        at += 16 + (struct.unpack_from("<Q", content, at + 8)[0] + 7) // 8 * 8
    content[at + 8 : at + 16] = bytes(8)
    path.write_bytes(content)
