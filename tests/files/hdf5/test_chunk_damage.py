"""Damaged, missing and changed chunks: every kind is named."""

import os
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from factories.chunks import SHAPE, frames_of, make, read_all
from gpu_spots.errors import InputError
from gpu_spots.files.hdf5 import codecs
from gpu_spots.files.hdf5.chunks import FrameReader
from gpu_spots.files.hdf5.codecs import CodecError


@pytest.fixture
def open_run(tmp_path: Path) -> Iterator[Callable[..., FrameReader]]:
    """Opens a file; everything is closed at the end."""
    opened: list[Any] = []

    def opener(path: Path) -> FrameReader:
        opened.append(h5py.File(path))
        opened.append(FrameReader(opened[-1]["frames"]))
        return opened[-1]

    yield opener
    for item in reversed(opened):
        item.close()


def damage(path: Path, at: int, change: int = 0xFF) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ change]))


def chunks_of(path: Path) -> list[Any]:
    chunks: list[Any] = []
    with h5py.File(path) as file:
        file["frames"].id.chunk_iter(chunks.append)
    return chunks


def problem(reader: FrameReader, frame: int, into: np.ndarray) -> str:
    """Return the error of the reader on a frame; empty: none."""
    try:
        reader.read(frame, frame + 1, into)
    except InputError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("shuffle", [False, True])
def test_any_corrupt_byte_of_any_chunk_is_named(
    shuffle: bool, library: str, open_run: Callable[..., FrameReader], tmp_path: Path
) -> None:
    frames = frames_of(shape=(3, 6, 5))
    make(tmp_path / "good.h5", frames, chunks=(1, 3, 5), compression="gzip", shuffle=shuffle)
    into = np.empty_like(frames[:1])
    found = harmless = 0
    for chunk in chunks_of(tmp_path / "good.h5"):
        frame, x, _ = chunk.chunk_offset
        for i in range(chunk.size):
            path = Path(shutil.copy(tmp_path / "good.h5", tmp_path / "bad.h5"))
            damage(path, chunk.byte_offset + i)
            with h5py.File(path) as file, FrameReader(file["frames"]) as reader:
                message = problem(reader, frame, into)
                if message:
                    assert message.startswith(
                        f"{path}: /frames: frame {frame} cannot be read: chunk at X {x}, Y 0: "
                    )
                    found += 1
                else:
                    np.testing.assert_array_equal(into[0], frames[frame])
                    harmless += 1
                for other in set(range(3)) - {frame}:
                    reader.read(other, other + 1, into)
                    np.testing.assert_array_equal(into[0], frames[other])
    assert found > 100
    assert harmless <= 6  # a chunk's last byte before its checksum may have bits that say nothing


@pytest.mark.parametrize(
    ("stored", "why"),
    [
        (zlib.compress(b"\0" * 1426), "1426 bytes when decompressed, expected 1428"),
        (zlib.compress(b"\0" * 1430), "more than 1428 bytes when decompressed"),
        (zlib.compress(bytes(range(100)) * 15)[:-20], "compressed data that ends early"),
        (b"", "compressed data that ends early"),
        (zlib.compress(b"\0" * 1428)[:-1] + b"\x77", "damaged compressed data: "),
        (b"nothing of the sort", "damaged compressed data: "),
    ],
)
def test_chunks_of_the_wrong_length(
    stored: bytes, why: str, library: str, open_run: Callable[..., FrameReader], tmp_path: Path
) -> None:
    with h5py.File(tmp_path / "run.h5", "w") as file:
        dataset = file.create_dataset(
            "frames", SHAPE, np.uint16, chunks=(1, 21, 34), compression="gzip"
        )
        dataset[...] = 1
        dataset.id.write_direct_chunk((2, 0, 0), stored or b"\0")
    if not stored:
        with pytest.raises(CodecError, match=why):
            codecs.inflate(b"", 1428)
        return
    reader = open_run(tmp_path / "run.h5")
    with pytest.raises(InputError, match=f"frame 2 cannot be read: chunk at X 0, Y 0: {why}"):
        read_all(reader, frames_of())


def test_what_follows_the_compressed_data_is_ignored(library: str) -> None:
    assert codecs.inflate(zlib.compress(b"spots") + b"more", 5) == b"spots"


def test_a_size_beyond_the_end_of_the_file_asks_for_no_memory(
    open_run: Callable[..., FrameReader], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One damaged byte can make a chunk of 2 GB."""
    path = tmp_path / "run.h5"
    make(path, frames_of(), chunks=(1, 21, 34), compression="gzip")
    size = chunks_of(path)[2].size
    content = path.read_bytes()
    key = struct.pack("<II4Q", size, 0, 2, 0, 0, 0)
    assert content.count(key) == 1
    path.write_bytes(content.replace(key, struct.pack("<II4Q", size | 0x7F000000, 0, 2, 0, 0, 0)))
    reader = open_run(path)
    asked: list[int] = []
    pread = os.pread
    monkeypatch.setattr(
        os,
        "pread",
        lambda file, n, begin: asked.append(n) or pread(file, n, begin),  # type: ignore[func-returns-value]
    )
    into = np.empty((1, *SHAPE[1:]), np.uint16)
    with pytest.raises(
        InputError, match=r"frame 2 cannot be read: chunk at X 0, Y 0: the file ends before it"
    ):
        reader.read(2, 3, into)
    reader.read(1, 2, into)
    assert max(asked) < len(content)


@pytest.mark.parametrize(
    ("shape", "chunks", "words"),
    [
        (
            (10**6, 10**3, 10**3),
            (1, 1, 1),
            r"has 1000000000000 chunks .*, of which 0 are written; expected at most 16777216",
        ),
        ((20, 2**40, 2), (1, 2**10, 2), r"has 21474836480 chunks"),
    ],
)
def test_a_list_of_chunks_that_fits_no_memory(
    shape: tuple[int, int, int], chunks: tuple[int, int, int], words: str, tmp_path: Path
) -> None:
    with h5py.File(tmp_path / "run.h5", "w") as file:
        file.create_dataset("frames", shape, np.uint16, chunks=chunks)
    with (
        h5py.File(tmp_path / "run.h5") as file,
        pytest.raises(InputError, match=rf"run\.h5: /frames {words}"),
    ):
        FrameReader(file["frames"])


def test_plain_chunk_of_the_wrong_size(
    open_run: Callable[..., FrameReader], tmp_path: Path
) -> None:
    with h5py.File(tmp_path / "run.h5", "w") as file:
        dataset = file.create_dataset(
            "frames", SHAPE, np.uint16, chunks=(2, 21, 34), compression="gzip"
        )
        dataset[...] = 1
        dataset.id.write_direct_chunk((2, 0, 0), b"\0" * 999, filter_mask=1)
    reader = open_run(tmp_path / "run.h5")
    with pytest.raises(
        InputError,
        match="frames 2 to 3 cannot be read: chunk at X 0, Y 0: 999 bytes, expected 2856",
    ):
        reader.read(2, 4, np.empty((2, 21, 34), np.uint16))
    with pytest.raises(InputError, match="frame 3 cannot be read"):
        reader.read(3, 5, np.empty((2, 21, 34), np.uint16))


def test_damage_that_hdf5_finds(open_run: Callable[..., FrameReader], tmp_path: Path) -> None:
    make(tmp_path / "run.h5", frames_of(), chunks=(1, 21, 34), fletcher32=True)
    damage(tmp_path / "run.h5", chunks_of(tmp_path / "run.h5")[3].byte_offset + 100)
    reader = open_run(tmp_path / "run.h5")
    reader.read(0, 3, np.empty((3, 21, 34), np.uint16))
    with pytest.raises(InputError, match=r"run\.h5: /frames: frame 3 cannot be read: "):
        reader.read(1, 5, np.empty((4, 21, 34), np.uint16))


@pytest.mark.parametrize(
    ("chunks", "options"),
    [((1, 8, 34), {"compression": "gzip"}), ((2, 8, 34), {}), ((2, 8, 34), {"compression": "lzf"})],
    ids=["gzip", "plain", "lzf"],
)
def test_chunk_that_was_never_written(
    chunks: tuple[int, ...],
    options: dict[str, Any],
    open_run: Callable[..., FrameReader],
    tmp_path: Path,
) -> None:
    with h5py.File(tmp_path / "run.h5", "w") as file:
        dataset = file.create_dataset("frames", SHAPE, np.uint16, chunks=chunks, **options)
        dataset[:2] = dataset[4:] = 1
        dataset[2:4, :16] = 1
    reader = open_run(tmp_path / "run.h5")
    into = np.empty_like(frames_of())
    reader.read(0, 2, into[:2])
    reader.read(4, 5, into[4:])
    for begin, end, frame in (2, 3, 2), (3, 4, 3), (0, 5, 2):
        with pytest.raises(
            InputError,
            match=f"frame {frame} cannot be read: its chunk at X 16, Y 0 was never written",
        ):
            reader.read(begin, end, into[begin:end])
    with pytest.raises(
        InputError, match="frame 2 cannot be read: its chunk at X 16, Y 0 was never written"
    ):
        reader.check_written()


@pytest.mark.parametrize("chunks", [None, (1, 21, 34)])
def test_nothing_was_ever_written(
    chunks: tuple[int, ...] | None, open_run: Callable[..., FrameReader], tmp_path: Path
) -> None:
    with h5py.File(tmp_path / "run.h5", "w") as file:
        file.create_dataset("frames", SHAPE, np.uint16, chunks=chunks)
    reader = open_run(tmp_path / "run.h5")
    with pytest.raises(InputError, match=r"frame 0 cannot be read: .* never written"):
        reader.check_written()
    with pytest.raises(InputError, match=r"frame 3 cannot be read: .* never written"):
        reader.read(3, 4, np.empty((1, 21, 34), np.uint16))


@pytest.mark.parametrize(
    "options",
    [{}, {"chunks": (1, 21, 34)}, {"chunks": (1, 21, 34), "compression": "gzip"}],
    ids=str,
)
def test_truncated_file(options: dict[str, Any], tmp_path: Path) -> None:
    make(tmp_path / "run.h5", frames_of(), **options)
    into = np.empty_like(frames_of())
    with h5py.File(tmp_path / "run.h5") as file:
        begin = file["frames"].id.get_offset()
        last = (
            max(chunk.byte_offset for chunk in chunks_of(tmp_path / "run.h5"))
            if options
            else begin + 4 * 1428
        )
        with FrameReader(file["frames"]) as before:
            os.truncate(tmp_path / "run.h5", last + 5)
            with FrameReader(file["frames"]) as after:
                after.read(0, 4, into[:4])
                with pytest.raises(
                    InputError,
                    match=r"run\.h5: /frames: frame 4 cannot be read: .*the file ends before it",
                ):
                    after.read(0, 5, into)
            with pytest.raises(
                InputError, match=r"run\.h5: /frames: the file was changed while it was being read"
            ):
                before.read(0, 5, into)


def test_file_changed_while_reading(open_run: Callable[..., FrameReader], tmp_path: Path) -> None:
    make(tmp_path / "run.h5", frames_of(), compression="lzf")
    reader = open_run(tmp_path / "run.h5")
    reader.check_unchanged()
    os.utime(tmp_path / "run.h5", (1, 1))
    with pytest.raises(
        InputError, match=r"run\.h5: /frames: the file was changed while it was being read"
    ):
        reader.check_unchanged()


def test_file_replaced_while_reading_is_not_missed(
    open_run: Callable[..., FrameReader], tmp_path: Path
) -> None:
    make(tmp_path / "run.h5", frames_of(), chunks=(1, 21, 34), compression="gzip")
    reader = open_run(tmp_path / "run.h5")
    make(tmp_path / "other.h5", frames_of(seed=1)[:2])
    os.replace(tmp_path / "other.h5", tmp_path / "run.h5")
    np.testing.assert_array_equal(read_all(reader, frames_of()), frames_of())
    reader.check_unchanged()


def test_damaged_list_of_chunks(tmp_path: Path) -> None:
    make(tmp_path / "run.h5", frames_of(), chunks=(1, 21, 34))
    data = (tmp_path / "run.h5").read_bytes()
    (tmp_path / "run.h5").write_bytes(data.replace(b"TREE\x01", b"EERT\x01"))  # the index of chunks
    with (
        h5py.File(tmp_path / "run.h5") as file,
        pytest.raises(InputError, match="/frames: the list of its chunks cannot be read"),
    ):
        FrameReader(file["frames"])


def test_what_read_refuses(open_run: Callable[..., FrameReader], tmp_path: Path) -> None:
    make(tmp_path / "run.h5", frames_of())
    reader = open_run(tmp_path / "run.h5")
    wrong = [
        (0, 1, np.empty((2, 21, 34), np.uint16)),
        (0, 1, np.empty((1, 21, 34), np.int16)),
        (0, 1, np.empty((1, 21, 34), ">u2")),
        (0, 1, np.empty((1, 34, 21), np.uint16).swapaxes(1, 2)),
        (5, 6, np.empty((1, 21, 34), np.uint16)),
    ]
    for begin, end, into in wrong:
        with pytest.raises(ValueError, match="expected"):
            reader.read(begin, end, into)
    reader.close()
    reader.close()
    with pytest.raises(ValueError, match="closed"):
        reader.read(0, 1, np.empty((1, 21, 34), np.uint16))
