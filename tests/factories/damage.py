"""Damage in HDF5 files."""

import struct
from pathlib import Path

NAMES = [f"run_{i:03}_{'on' if i % 2 else 'off'}.mccd" for i in range(20)]


def damage_heap(path: Path) -> None:
    """Let free space in the first heap that has some have the size 0."""
    content = bytearray(path.read_bytes())
    at = end = 0
    while at >= end:  # in a full heap no free space follows the objects
        begin = content.index(b"GCOL\x01", end)
        at, end = begin + 16, begin + struct.unpack_from("<Q", content, begin + 8)[0]
        while at < end and struct.unpack_from("<H", content, at)[0]:
            at += 16 + (struct.unpack_from("<Q", content, at + 8)[0] + 7) // 8 * 8
    content[at + 8 : at + 16] = bytes(8)
    path.write_bytes(content)
