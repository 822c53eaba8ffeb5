"""Speed of reading frames and writing images: h5py against gpu_spots.files.hdf5.chunks.

Both run in one process, in turns.

    python benchmarks/chunks.py [--frames 8] [--size 2048] [--rounds 5] [--folder DIR]

MB/s of decoded values from a warm cache; files are made in DIR, default the system's temporary
folder. The ratio is the median of the rounds' ratios to h5py: on a shared machine it is worth more
than the rates.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from gpu_spots.files.hdf5.chunk_writer import ImageWriter
from gpu_spots.files.hdf5.chunks import FrameReader

STRIP = 128
LAYOUTS: dict[str, dict[str, Any]] = {
    "contiguous": {},
    "gzip 4": {"compression": "gzip"},
    "shuffle + gzip 4": {"compression": "gzip", "shuffle": True},
}
Way = Callable[[], object]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    print(
        ", ".join(f"{name} {_version(name)}" for name in ("numpy", "h5py", "deflate", "isal"))
        + f", HDF5 {h5py.version.hdf5_version}"
    )
    shape = (options.frames, options.size, options.size)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        reading(Path(folder), shape, options.rounds)
        writing(Path(folder), shape, options.rounds)


def reading(folder: Path, shape: tuple[int, int, int], rounds: int) -> None:
    """Measure reading of frames with a detector's noise, in chunks of a frame and in strips."""
    frames = np.random.default_rng(0).poisson(200, shape).astype(np.uint16)
    print(f"\nread {shape[0]} frames of {shape[1]} x {shape[2]}, uint16")
    for name, filters in LAYOUTS.items():
        for rows in (None,) if not filters else (shape[1], STRIP):
            chunks = None if rows is None else (1, rows, shape[2])
            with h5py.File(folder / "run.h5", "w") as file:
                stored = file.create_dataset(
                    "frames", data=frames, chunks=chunks, **filters
                ).id.get_storage_size()
            with h5py.File(folder / "run.h5") as file, FrameReader(file["frames"]) as reader:
                assert reader.way == "direct"
                into = np.zeros_like(frames)

                def by_h5py(
                    dataset: h5py.Dataset = file["frames"], into: np.ndarray = into
                ) -> None:
                    for i in range(len(into)):
                        dataset.read_direct(into[i], np.s_[i])

                ways = {
                    "h5py": by_h5py,
                    "1 thread": direct(reader, into, 1),
                    "2 threads": direct(reader, into, 2),
                }
                report(
                    f"{name}, chunks {chunks}, ratio {frames.nbytes / stored:.2f}",
                    ways,
                    frames.nbytes,
                    rounds,
                )
                assert np.array_equal(into, frames)


def direct(reader: FrameReader, into: np.ndarray, threads: int) -> Way:
    """Read all frames by a reader."""

    def read() -> None:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda i: reader.read(i, i + 1, into[i : i + 1]), range(len(into))))

    return read


def writing(folder: Path, shape: tuple[int, int, int], rounds: int) -> None:
    """Measure writing of images as the program makes them: noise and spots, spots, labels."""
    print(f"\nwrite {shape[0]} images of {shape[1]} x {shape[2]}, file made and closed")
    for name, images in _images(shape).items():
        sizes: dict[str, int] = {}

        def way(threads: int, images: np.ndarray = images, sizes: dict[str, int] = sizes) -> Way:
            def write() -> None:
                with (
                    h5py.File(folder / "out.h5", "w", libver=("earliest", "v110")) as file,
                    ThreadPoolExecutor(max(threads, 1)) as pool,
                ):
                    dataset = file.create_dataset(
                        "images",
                        images.shape,
                        images.dtype,
                        chunks=(1, STRIP, shape[2]),
                        compression="gzip",
                    )
                    if not threads:
                        dataset[...] = images
                    else:
                        writer = ImageWriter(dataset)
                        for i, strips in enumerate(pool.map(writer.compress, images)):
                            writer.store(i, strips)
                    sizes["direct" if threads else "h5py"] = dataset.id.get_storage_size()

            return write

        report(
            name,
            {"h5py gzip 4": way(0), "1 thread": way(1), "2 threads": way(2)},
            images.nbytes,
            rounds,
        )
        per_image = {kind: size / shape[0] / 1000 for kind, size in sizes.items()}
        print(
            f"    kB an image: h5py {per_image['h5py']:.1f}, here {per_image['direct']:.1f}, "
            f"{sizes['direct'] / sizes['h5py']:.2f} times"
        )
        with h5py.File(folder / "out.h5") as file:
            assert np.array_equal(file["images"][...], images)


def _images(shape: tuple[int, int, int]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.zeros(shape, np.uint16)
    X, Y = np.ogrid[-10:11, -10:11]
    for image in labels:
        for label, (x, y) in enumerate(
            rng.integers(10, np.subtract(shape[1:], 10), (shape[1] * shape[2] // 20000, 2)), 1
        ):
            image[x - 10 : x + 11, y - 10 : y + 11][
                X**2 / rng.uniform(4, 40) + Y**2 / rng.uniform(4, 40) < 1
            ] = label
    filtered = (labels > 0).astype(np.uint8)
    raw = filtered | (rng.random(shape, np.float32) < 0.02).astype(np.uint8)
    return {"masks_raw": raw, "masks_filtered": filtered, "labels": labels}


def in_turns(ways: dict[str, Way], rounds: int) -> dict[str, list[float]]:
    """Return the seconds that each way takes, the first round unmeasured."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(rounds + 1):
        for name, way in ways.items():
            begin = time.perf_counter()
            way()
            if i:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def report(title: str, ways: dict[str, Way], n_bytes: int, rounds: int) -> None:
    """Time each way ``rounds`` times, in turns, and print rates and ratios to the first way.

    The first round is not measured.
    """
    seconds = in_turns(ways, rounds)
    first = next(iter(seconds.values()))
    print(f"  {title}")
    for name, taken in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(first, taken, strict=True))
        print(f"    {name:12} {n_bytes / 1e6 / statistics.median(taken):7.0f} MB/s  {ratio:5.1f} x")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


if __name__ == "__main__":
    main()
