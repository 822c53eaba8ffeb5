"""Damage to files, as lists of edits that can be stored, replayed and made smaller."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fuzz.seeds import Seed

BYTES = (0x00, 0xFF, 0x7F, 0x80, 0x01)
HDF5_BLOCKS = tuple(
    b"\x89HDF TREE SNOD HEAP GCOL OHDR OCHK FRHP FHDB FHIB BTHD BTLF BTIN FAHD FADB EAHD EAIB EADB "
    b"FSHD FSSE".split()
)
"""Signatures of blocks of metadata in HDF5 files."""
TOKENS = (
    *("nan", "inf", "-inf", "-1", "0", "1e999", "1e-400", "9" * 20, "1_0", "0x10", "off", "on"),
    *("-", "#", "[", "(", "../..", "/dev/zero"),
    *("", "9" * 200_000, "x" * 200_000, '"', '""', "'", ";", ",", "\t", "\0", "\r", "\n"),
    *("\x1b]0;title\x1b\\", "\x07", "\u00e9", "\ufeff", "\u2028"),
)
"""Texts that replace a value."""
RAW_SHARE = 0.15
"""Share of the edits that fall into raw data, where a file has some."""


@dataclass(frozen=True)
class Edit:
    """Replacement of some bytes of a file."""

    file: str
    at: int
    """Offset of the first byte."""
    cut: int
    """Number of bytes that are taken out."""
    put: bytes
    """Bytes that take their place."""

    def as_json(self) -> dict[str, object]:
        """Return what `of_json` takes; a run of one byte is stored as its length."""
        long_run = len(self.put) > 64 and len(set(self.put)) == 1
        put = {"byte": self.put[:1].hex(), "times": len(self.put)} if long_run else self.put.hex()
        return {"file": self.file, "at": self.at, "cut": self.cut, "put": put}

    @classmethod
    def of_json(cls, found: dict[str, Any]) -> "Edit":
        """Return the edit that `as_json` describes."""
        put = found["put"]
        content = (
            bytes.fromhex(put)
            if isinstance(put, str)
            else bytes.fromhex(put["byte"]) * put["times"]
        )
        return cls(found["file"], found["at"], found["cut"], content)


def damaged(seed: Seed, edits: Sequence[Edit]) -> dict[str, bytes]:
    """Return the files of a seed after some edits, in order."""
    files = dict(seed.files)
    for edit in edits:
        content = files[edit.file]
        files[edit.file] = content[: edit.at] + edit.put + content[edit.at + edit.cut :]
    return files


def draw(seed: Seed, others: Sequence[bytes], rng: random.Random) -> list[Edit]:
    """Return random damage to a seed; ``others`` are files that parts are taken from."""
    edits: list[Edit] = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        file = rng.choice(seed.targets)
        content = damaged(seed, edits)[file]
        if not content:
            continue
        if seed.text and rng.random() < 0.7:
            edits.append(_token(file, content, rng))
        else:
            edits.append(
                rng.choice(WAYS)(file, content, _offset(seed, file, content, rng), others, rng)
            )
    return edits


def _offset(seed: Seed, file: str, content: bytes, rng: random.Random) -> int:
    """Return an offset, in metadata more often than in raw data."""
    raw = seed.raw[file]
    if raw and rng.random() < RAW_SHARE:
        begin, end = rng.choice(raw)
        return min(rng.randrange(begin, max(end, begin + 1)), len(content) - 1)
    if rng.random() < 0.5:
        begins = [begin for signature in HDF5_BLOCKS for begin in _all(content, signature)]
        if begins:
            return min(rng.choice(begins) + rng.randrange(64), len(content) - 1)
    for _ in range(50):
        at = rng.randrange(len(content))
        if not any(begin <= at < end for begin, end in raw):
            return at
    return rng.randrange(len(content))


def _all(content: bytes, signature: bytes) -> list[int]:
    found, at = [], content.find(signature)
    while at >= 0:
        found.append(at)
        at = content.find(signature, at + 1)
    return found


Way = Callable[[str, bytes, int, Sequence[bytes], random.Random], Edit]


def _flip(file: str, content: bytes, at: int, _: Sequence[bytes], rng: random.Random) -> Edit:
    return Edit(file, at, 1, bytes([content[at] ^ 1 << rng.randrange(8)]))


def _set(file: str, _: bytes, at: int, __: Sequence[bytes], rng: random.Random) -> Edit:
    return Edit(file, at, 1, bytes([rng.choice((*BYTES, rng.randrange(256)))]))


def _integer(file: str, content: bytes, at: int, _: Sequence[bytes], rng: random.Random) -> Edit:
    size = rng.choice((2, 4, 8))
    at -= at % rng.choice((1, size))
    largest = (1 << 8 * size) - 1
    orders: tuple[Literal["little", "big"], ...] = ("little", "little", "big")
    order = rng.choice(orders)
    old = int.from_bytes(content[at : at + size], order)
    choices = (
        0,
        1,
        largest,
        largest >> 1,
        (largest >> 1) + 1,
        old + 1,
        old - 1,
        old * 2,
        old // 2,
        1 << rng.randrange(8 * size),
        len(content),
    )
    return Edit(
        file,
        at,
        min(size, len(content) - at),
        (rng.choice(choices) & largest).to_bytes(size, order),
    )


def _truncate(file: str, content: bytes, at: int, _: Sequence[bytes], __: random.Random) -> Edit:
    return Edit(file, at, len(content) - at, b"")


def _insert(file: str, _: bytes, at: int, __: Sequence[bytes], rng: random.Random) -> Edit:
    return Edit(
        file,
        at,
        0,
        rng.choice(
            (
                rng.randbytes(rng.randrange(1, 17)),
                bytes([rng.choice(BYTES)]) * rng.choice((1, 8, 512)),
            )
        ),
    )


def _delete(file: str, content: bytes, at: int, _: Sequence[bytes], rng: random.Random) -> Edit:
    return Edit(file, at, min(rng.choice((1, 2, 8, 64, 512)), len(content) - at), b"")


def _duplicate(file: str, content: bytes, at: int, _: Sequence[bytes], rng: random.Random) -> Edit:
    return Edit(file, at, 0, content[at : at + rng.choice((1, 8, 64, 512))])


def _fill(file: str, content: bytes, at: int, _: Sequence[bytes], rng: random.Random) -> Edit:
    length = min(rng.choice((4, 16, 64, 512)), len(content) - at)
    return Edit(file, at, length, bytes([rng.choice(BYTES)]) * length)


def _splice(
    file: str, content: bytes, at: int, others: Sequence[bytes], rng: random.Random
) -> Edit:
    other = rng.choice(others)
    length = rng.choice((8, 64, 512))
    from_ = at if rng.random() < 0.5 else rng.randrange(max(1, len(other)))
    return Edit(file, at, min(length, len(content) - at), other[from_ : from_ + length])


WAYS: tuple[Way, ...] = (
    _flip,
    _flip,
    _flip,
    _set,
    _set,
    _integer,
    _integer,
    _integer,
    _truncate,
    _insert,
    _delete,
    _duplicate,
    _fill,
    _splice,
)


def _token(file: str, content: bytes, rng: random.Random) -> Edit:
    """Replace, duplicate or remove a token or a line of a text."""
    text = content.decode(errors="surrogateescape")
    lines = text.splitlines(keepends=True)
    number = rng.randrange(len(lines))
    line = lines[number]
    begin = len("".join(lines[:number]).encode(errors="surrogateescape"))
    size = len(line.encode(errors="surrogateescape"))
    match rng.randrange(6):
        case 0:
            return Edit(file, begin, size, b"")
        case 1:
            return Edit(file, begin, 0, line.encode(errors="surrogateescape"))
        case _:
            separator = next((one for one in "\t;, " if one in line), " ")
            tokens = line.rstrip("\r\n").split(separator)
            index = rng.randrange(len(tokens))
            begin += len(
                "".join(token + separator for token in tokens[:index]).encode(
                    errors="surrogateescape"
                )
            )
            old = len(tokens[index].encode(errors="surrogateescape"))
            return Edit(file, begin, old, rng.choice(TOKENS).encode())
