"""Images that threads compress: h5py and h5dump read them, and files are small."""

import shutil
import subprocess
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from factories.chunks import SHAPE, frames_of, read_all
from gpu_spots.files.hdf5 import codecs
from gpu_spots.files.hdf5.chunk_writer import ImageWriter, compress_image
from gpu_spots.files.hdf5.chunks import FrameReader


def mask_like(shape: tuple[int, int], dtype: Any, seed: int = 0) -> np.ndarray:
    """A few blobs on nothing, as masks and labels are."""
    image = np.zeros(shape, dtype)
    rng = np.random.default_rng(seed)
    X, Y = np.ogrid[: shape[0], : shape[1]]
    for i in range(max(3, image.size // 20000)):
        x, y = rng.integers(shape[0]), rng.integers(shape[1])
        around = (slice(max(0, x - 9), x + 9), slice(max(0, y - 9), y + 9))
        inside = (X[around[0]] - x) ** 2 / rng.uniform(4, 25) + (
            Y[:, around[1]] - y
        ) ** 2 / rng.uniform(4, 25) < 1
        image[around][inside] = 1 if dtype == np.uint8 else i + 1
    return image


@pytest.fixture(params=["isal", "zlib"])
def compressor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Use each library that compresses."""
    if request.param == "zlib":
        monkeypatch.setattr(codecs, "isal_zlib", None)
    codecs._compressed_zeros.cache_clear()
    yield request.param
    codecs._compressed_zeros.cache_clear()


@pytest.mark.parametrize("shuffle", [False, True], ids=["gzip", "shuffle and gzip"])
@pytest.mark.parametrize("rows", [1, 127, 128, 129, 300])
@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "i4", "i8", "f4", "f8"])
def test_images_are_read_by_plain_h5py(
    rows: int, dtype: str, shuffle: bool, compressor: str, tmp_path: Path
) -> None:
    images = np.stack(
        [mask_like((rows, 50), dtype), np.zeros((rows, 50), dtype), frames_of(dtype, (rows, 50))]
    )
    strip = min(128, rows)
    with (
        h5py.File(tmp_path / "out.h5", "w", libver=("earliest", "v110")) as file,
        ThreadPoolExecutor(2) as pool,
    ):
        stack = file.create_dataset(
            "stack", images.shape, dtype, chunks=(1, strip, 50), compression="gzip", shuffle=shuffle
        )
        single = file.create_dataset(
            "single",
            images.shape[1:],
            dtype,
            chunks=(strip, 50),
            compression="gzip",
            shuffle=shuffle,
        )
        writer, single_writer = ImageWriter(stack), ImageWriter(single)
        assert writer.why_not_direct is None
        assert single_writer.why_not_direct is None
        for i, strips in enumerate(pool.map(writer.compress, images)):
            writer.store(i, strips)
        single_writer.store(None, single_writer.compress(images[2].T.copy().T))
    with h5py.File(tmp_path / "out.h5") as file:
        np.testing.assert_array_equal(file["stack"][...], images)
        np.testing.assert_array_equal(file["single"][...], images[2])
        with FrameReader(file["stack"]) as reader:
            reader.check_written()
            np.testing.assert_array_equal(read_all(reader, images, 3), images)


@pytest.mark.skipif(not shutil.which("h5dump"), reason="h5dump is not installed")
def test_images_are_read_by_h5dump(compressor: str, tmp_path: Path) -> None:
    images = np.stack([mask_like((200, 64), np.uint16, seed) for seed in range(3)])
    with h5py.File(tmp_path / "out.h5", "w", libver=("earliest", "v110")) as file:
        writer = ImageWriter(
            file.create_dataset(
                "labels", images.shape, np.uint16, chunks=(1, 128, 64), compression="gzip"
            )
        )
        for i, image in enumerate(images):
            writer.store(i, writer.compress(image))
    command = [
        "h5dump",
        "-d",
        "/labels",
        "-b",
        "LE",
        "-o",
        str(tmp_path / "labels.bin"),
        str(tmp_path / "out.h5"),
    ]
    subprocess.run(command, check=True, capture_output=True)
    np.testing.assert_array_equal(
        np.fromfile(tmp_path / "labels.bin", "<u2").reshape(images.shape), images
    )


def test_sizes_are_at_most_twice_those_of_h5py(compressor: str) -> None:
    filtered, labels = mask_like((512, 2048), np.uint8), mask_like((512, 2048), np.uint16)
    raw = filtered | (np.random.default_rng(0).random(filtered.shape) < 0.002).astype(np.uint8)
    here, by_h5py = np.transpose(
        [
            [
                size(image, codecs.compress),
                size(image, lambda strip: zlib.compress(bytes(strip), 4)),
            ]
            for image in (raw, filtered, labels)
        ]
    )
    assert here.sum() <= 2 * by_h5py.sum()
    assert (here <= 2.5 * by_h5py).all()  # of small spots and nothing else


def size(image: np.ndarray, compress: Callable[[np.ndarray], bytes]) -> int:
    return sum(len(compress(image[x : x + 128])) for x in range(0, len(image), 128))


def test_strips_of_zeros_and_of_negative_zeros(compressor: str) -> None:
    zeros = np.zeros((256, 40), np.float32)
    first, second = compress_image(zeros, 128)
    assert first is second
    zeros[128:] = -0.0
    first, second = compress_image(zeros, 128)
    assert zlib.decompress(second) == zeros[128:].tobytes()
    assert zlib.decompress(first) == bytes(128 * 40 * 4)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (
            {"compression": "lzf", "chunks": (1, 8, 34)},
            "not compressed by gzip, with or without shuffle",
        ),
        (
            {"compression": "gzip", "fletcher32": True, "chunks": (1, 8, 34)},
            "not compressed by gzip, with or without shuffle",
        ),
        ({}, "not compressed by gzip, with or without shuffle"),
        ({"compression": "gzip", "chunks": (2, 8, 34)}, "not whole rows of one image"),
        ({"compression": "gzip", "chunks": (1, 8, 17)}, "not whole rows of one image"),
        ({"compression": "gzip", "chunks": (1, 8, 34), "dtype": ">u2"}, "not in native byte order"),
    ],
    ids=str,
)
def test_what_has_to_be_written_through_h5py(
    options: dict[str, Any], why: str, tmp_path: Path
) -> None:
    with h5py.File(tmp_path / "out.h5", "w") as file:
        assert why in str(
            ImageWriter(
                file.create_dataset("masks", SHAPE, **{"dtype": np.uint16, **options})
            ).why_not_direct
        )


def test_wrong_images_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "out.h5", "w") as file:
        writer = ImageWriter(
            file.create_dataset("masks", SHAPE, np.uint8, chunks=(1, 8, 34), compression="gzip")
        )
        for wrong in np.zeros((21, 33), np.uint8), np.zeros((21, 34), np.uint16):
            with pytest.raises(ValueError, match="expected uint8"):
                writer.compress(wrong)
