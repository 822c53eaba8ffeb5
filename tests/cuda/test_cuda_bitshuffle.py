"""Decoding of bitshuffle with LZ4 by CUDA kernels: values of hdf5plugin, and damage."""

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest

from gpu_spots.packages import install_command

pytest.importorskip(
    "hdf5plugin", reason=f"hdf5plugin is not installed: {install_command('plugins')}"
)

import hdf5plugin

from gpu_spots.cuda.bitshuffle import (
    DAMAGE,
    MAX_BLOCK,
    block_bytes,
    can_decode,
    decode_chunks,
    first_damage,
)
from gpu_spots.cuda.toolkit import source_of

KINDS = ("noise", "random", "zeros", "sparse", "ramp")


def frames_of(kind: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Values that compress like a detector's noise, not at all, and very well."""
    rng = np.random.default_rng(len(kind))
    if kind == "noise":
        values = rng.poisson(50, shape)
    elif kind == "random":  # LZ4 has literals only
        n_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return (
            np.frombuffer(rng.bytes(n_bytes), f"u{np.dtype(dtype).itemsize}")
            .reshape(shape)
            .view(dtype)
        )
    elif kind == "zeros":
        values = np.zeros(shape, int)
    elif kind == "sparse":
        values = (rng.random(shape) < 2e-3) * rng.integers(1, 120, shape)
    else:
        values = np.arange(int(np.prod(shape))).reshape(shape) // 3 % 100
    return values.astype(dtype)


def stored_as(folder: Path, frames: np.ndarray, block_values: int = 0) -> list[bytes]:
    """Return each frame as hdf5plugin stores it, with ``block_values`` values per block.

    0 is the default.
    """
    with h5py.File(folder / "x.h5", "w") as file:
        chunks = (1, *frames.shape[1:])
        dataset = file.create_dataset(
            "x", data=frames, chunks=chunks, compression=hdf5plugin.Bitshuffle(nelems=block_values)
        )
        assert np.array_equal(dataset[...].view(np.uint8), frames.view(np.uint8))
        return [
            dataset.id.read_direct_chunk((i, *[0] * (frames.ndim - 1)))[1]
            for i in range(len(frames))
        ]


def decoded(
    backend: Any,
    chunks: list[bytes],
    shape: tuple[int, ...],
    dtype: str,
    n_block_bytes: int,
    gap: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Values, and the damage of each chunk. The ``gap`` values between results must not change."""
    toolkit, offsets = backend.toolkit, np.cumsum([0, *map(len, chunks)])
    n_values = int(np.prod(shape))
    # exactly as long as the chunks are, so that sanitizers see what is read behind them
    stored = np.frombuffer(b"".join(chunks), np.uint8)

    def decode() -> tuple[np.ndarray, np.ndarray]:
        room = toolkit.to_device(
            np.full(len(chunks) * (n_values + gap) * np.dtype(dtype).itemsize, 0x5A, np.uint8)
        )
        room = room.view(np.dtype(dtype)).reshape(len(chunks), n_values + gap)
        damage = decode_chunks(
            toolkit, toolkit.to_device(stored), offsets, n_block_bytes, room[:, :n_values]
        )
        return toolkit.to_host(room), toolkit.to_host(damage)

    values, damage = toolkit.call(decode)
    assert (values[:, n_values:].copy().view(np.uint8) == 0x5A).all()
    return values[:, :n_values].reshape(len(chunks), *shape), damage


@pytest.mark.sanitize
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32", "float32", "float64"])
def test_frames_decoded_as_by_hdf5plugin(
    device_backend: Any, dtype: str, kind: str, tmp_path: Path
) -> None:
    """Several blocks, a shorter last one, values after it, and results at unaligned addresses."""
    for shape in ((97, 131), (64, 128)):
        frames = frames_of(kind, (2, *shape), dtype)
        chunks = stored_as(tmp_path, frames)
        for gap in (0, 3):
            values, damage = decoded(
                device_backend, chunks, shape, dtype, block_bytes(chunks[0]), gap
            )
            assert first_damage(damage) is None
            assert np.array_equal(values.view(np.uint8), frames.view(np.uint8))


@pytest.mark.sanitize
@pytest.mark.parametrize("n_values", [1, 7, 8, 15, 16, 127, 4095, 4096, 4097, 4103, 4104, 8192])
def test_sizes_decoded_as_by_hdf5plugin(device_backend: Any, n_values: int, tmp_path: Path) -> None:
    frames = frames_of("noise", (3, 1, n_values), "uint16")
    chunks = stored_as(tmp_path, frames)
    values, damage = decoded(
        device_backend, chunks, (1, n_values), "uint16", block_bytes(chunks[0])
    )
    assert not damage.any()
    assert np.array_equal(values, frames)


@pytest.mark.sanitize
@pytest.mark.parametrize("block_values", [8, 64, 1000, 24576])
def test_blocks_decoded_of_other_sizes(
    device_backend: Any, block_values: int, tmp_path: Path
) -> None:
    frames = frames_of("sparse", (2, 90, 303), "uint16")
    chunks = stored_as(tmp_path, frames, block_values)
    assert block_bytes(chunks[0]) == 2 * block_values
    values, damage = decoded(device_backend, chunks, frames.shape[1:], "uint16", 2 * block_values)
    assert not damage.any()
    assert np.array_equal(values, frames)


def damaged(rng: np.random.Generator, chunk: bytes) -> bytes:
    """The chunk with some bytes changed, or cut off, or both; never the same."""
    data = bytearray(chunk)
    if rng.random() < 0.7:
        for _ in range(rng.integers(1, 4)):
            # half of them where headers, lengths and first tokens are
            at = int(rng.integers(0, len(data) if rng.random() < 0.5 else min(20, len(data))))
            data[at] = (
                rng.integers(0, 256) if rng.random() < 0.5 else data[at] ^ 1 << int(rng.integers(8))
            )
    if bytes(data) == chunk or rng.random() < 0.3:
        del data[int(rng.integers(0, len(data))) :]
    return bytes(data)


@pytest.mark.sanitize
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_chunks_decoded(device_backend: Any, kind: str, dtype: str, tmp_path: Path) -> None:
    """Damage is reported or decodes to some values; good chunks are right, and gaps unchanged."""
    shape = (33, 141)
    (frame,) = frames = frames_of(kind, (1, *shape), dtype)
    (good,) = stored_as(tmp_path, frames)
    rng = np.random.default_rng(7)
    chunks = [good if i % 8 == 0 else damaged(rng, good) for i in range(48)]
    values, damage = decoded(device_backend, chunks, shape, dtype, block_bytes(good), gap=11)
    assert set(damage) <= {0, *DAMAGE}
    assert np.count_nonzero(damage) >= 10
    for i, chunk in enumerate(chunks):
        if chunk == good:
            assert damage[i] == 0
            assert np.array_equal(values[i], frame)
        assert len(chunk) >= len(good) or damage[i]


def prefixed(*blocks: bytes, size: int, block: int, tail: bytes = b"") -> bytes:
    """A chunk of blocks that are compressed already."""
    head = size.to_bytes(8, "big") + block.to_bytes(4, "big")
    return head + b"".join(len(data).to_bytes(4, "big") + data for data in blocks) + tail


GOOD = b"\xf0\x31" + bytes(range(64))  # 15 + 49 literals: one block of 64 bytes
CASES = {
    "good": (prefixed(GOOD, size=64, block=64), 0),
    "followed by more": (prefixed(GOOD, size=64, block=64, tail=b"more"), 0),
    "nothing": (b"", 1),
    "half a header": (prefixed(GOOD, size=64, block=64)[:11], 1),
    "header only": (prefixed(size=64, block=64), 1),
    "half a length": (prefixed(size=64, block=64, tail=b"\0\0"), 1),
    "length beyond the end": (prefixed(GOOD, size=64, block=64)[:-1], 1),
    "length of 4 GiB": (prefixed(size=64, block=64, tail=b"\xff\xff\xff\xff" + GOOD), 1),
    "other size": (prefixed(GOOD, size=65, block=64), 2),
    "size beyond 32 bits": (prefixed(GOOD, size=64 + (1 << 32), block=64), 2),
    "other blocks": (prefixed(GOOD, size=64, block=32), 3),
    "more literals than there are": (prefixed(b"\xf0\x31" + bytes(63), size=64, block=64), 4),
    "more literals than fit": (prefixed(b"\xf0\x32" + bytes(65), size=64, block=64), 4),
    "length that does not end": (prefixed(b"\xf0" + b"\xff" * 300, size=64, block=64), 4),
    "length that ends with the data": (prefixed(b"\xf0\xff\xff", size=64, block=64), 4),
    "match length that does not end": (
        prefixed(b"\x1f\0\1\0" + b"\xff" * 300, size=64, block=64),
        5,
    ),
    "match length that ends with the data": (prefixed(b"\x1f\0\1\0\xff", size=64, block=64), 5),
    "match at no distance": (prefixed(b"\x10\0\0\0", size=64, block=64), 5),
    "match before the beginning": (prefixed(b"\x10\0\2\0", size=64, block=64), 5),
    "match without anything before it": (prefixed(b"\x00\1\0", size=64, block=64), 5),
    "match longer than fits": (prefixed(b"\x1f\0\1\0\x2d" + b"\x10\0", size=64, block=64), 5),
    "half a distance": (prefixed(b"\x10\0\1", size=64, block=64), 5),
    "ends with a match": (prefixed(b"\x1f\0\1\0\x2c", size=64, block=64), 6),
    "no data": (prefixed(b"", size=64, block=64), 6),
    "too short": (prefixed(b"\x10\0", size=64, block=64), 6),
}


@pytest.mark.sanitize
@pytest.mark.parametrize("case", CASES)
def test_made_up_chunks_decoded(device_backend: Any, case: str) -> None:
    chunk, expected = CASES[case]
    _, damage = decoded(device_backend, [chunk], (64,), "uint8", 64, gap=5)
    assert damage.tolist() == [expected]


@pytest.mark.sanitize
def test_requests_that_do_not_fit(device_backend: Any) -> None:
    toolkit = device_backend.toolkit
    stored, into = (
        toolkit.call(lambda n=n: toolkit.to_device(np.zeros(n, np.uint8))) for n in (20, 16)
    )
    for offsets, block in (
        ([0, 20, 20], 8),
        ([0, 21], 8),
        ([-1, 20], 8),
        ([0, 20], 0),
        ([0, 20], 12),
        ([0, 20], MAX_BLOCK + 8),
    ):
        with pytest.raises(ValueError, match=r"offsets|blocks of"):
            toolkit.call(
                lambda offsets=offsets, block=block: decode_chunks(
                    toolkit, stored, np.array(offsets), block, into.reshape(1, 16)
                )
            )
    with pytest.raises(ValueError, match="chunk of 3 bytes"):
        block_bytes(b"abc")
    assert can_decode(8192, 2)
    assert not can_decode(8192, 3)


@pytest.mark.sanitize
def test_no_chunks_decoded(device_backend: Any) -> None:
    values, damage = decoded(device_backend, [], (4, 5), "uint16", 8192)
    assert (values.shape, damage.shape) == ((0, 4, 5), (0,))


def test_every_damage_has_words() -> None:
    (names,) = re.findall(r"enum Damage \{ NONE, (.*?) \};", source_of("bitshuffle"))
    assert list(DAMAGE) == list(range(1, 1 + len(names.split(", "))))
    assert first_damage(np.array([0, 0, 5, 1])) == (2, DAMAGE[5])


FAULTS = {
    "a bit in another place": ("bits >> 14) & 0x0000cccc", "bits >> 14) & 0x0000cccd"),
    "no overlap": ("from[i % distance]", "from[i]"),
    "lengths that stop at 255": ("n_full = ends ? __ffs(ends) - 1 : 32", "n_full = 0"),
    "the last block as long as all": (
        "min((i64)block_values, n_values - first)",
        "(i64)block_values",
    ),
    "no rest": ("i < rest", "i < 0"),
    "results at odd places": ("8 * column + i] = eight[i]", "8 * column + i] = eight[7 - i]"),
}


@pytest.mark.emulated
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_show(fault: str, kernel_folder: Path, tmp_path: Path) -> None:
    from emulator.emulated import EmulatedToolkit

    right, wrong = FAULTS[fault]
    edit: Callable[[str, str], str] = lambda _, text: text.replace(right, wrong)  # noqa: E731
    assert right in source_of("bitshuffle")
    backend = SimpleNamespace(toolkit=EmulatedToolkit(kernel_folder, edit))
    for kind in ("noise", "ramp", "zeros"):
        frames = frames_of(kind, (2, 61, 77), "uint16")
        chunks = stored_as(tmp_path, frames)
        values, damage = decoded(
            backend, chunks, frames.shape[1:], "uint16", block_bytes(chunks[0]), gap=1
        )
        if damage.any() or not np.array_equal(values, frames):
            return
    pytest.fail("the fault does not show")
