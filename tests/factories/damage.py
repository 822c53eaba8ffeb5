"""Damage in files."""

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

NAMES = [f"run_{i:03}_{'on' if i % 2 else 'off'}.mccd" for i in range(20)]


def damage_heap(path: Path, text: bytes = b"") -> None:
    """Let free space in the first heap that has some, and has the text, have the size 0."""
    content = bytearray(path.read_bytes())
    begin = at = end = 0
    # in a full heap no free space follows the objects
    while at >= end or text not in content[begin:end]:
        begin = content.index(b"GCOL\x01", end)
        at, end = begin + 16, begin + struct.unpack_from("<Q", content, begin + 8)[0]
        while at < end and struct.unpack_from("<H", content, at)[0]:
            at += 16 + (struct.unpack_from("<Q", content, at + 8)[0] + 7) // 8 * 8
    content[at + 8 : at + 16] = bytes(8)
    path.write_bytes(content)


def mutations(data: bytes, seed: int, n: int) -> Iterator[bytes]:
    """Yield ``n`` damaged versions of ``data``.

    They are cut off, or have changed, repeated or missing bytes.
    """
    rng = np.random.default_rng(seed)
    for i in range(n):
        changed = bytearray(data)
        begin, end = sorted(rng.integers(0, len(data), 2).tolist())
        if i % 4 == 0:
            changed = changed[:end]
        elif i % 4 == 1:  # headers stand at the beginning
            for place in rng.integers(
                0, len(data) if i % 8 == 1 else min(len(data), 600), 3
            ).tolist():
                changed[place] = int(rng.choice([0, 255, 128, int(rng.integers(256))]))
        elif i % 4 == 2:
            changed[begin:begin] = changed[begin : begin + min(end - begin, 100)] * int(
                rng.integers(1, 4)
            )
        else:
            del changed[begin : begin + min(end - begin + 1, 64)]
        yield bytes(changed)
