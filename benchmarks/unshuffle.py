"""Work of the host for a frame of shuffled gzip.

It inflates and unshuffles the frame, or inflates and copies it if a device unshuffles.

    python benchmarks/unshuffle.py [--size 2048] [--rounds 20] [--threads 1,2]

Milliseconds a frame, the median of the rounds, every step on the same frame in turns; then frames a
second of whole reads into memory that is used again, as pinned memory is, and the ratio, the median
of the rounds' ratios. Frames are uint16, Poisson noise of 50 counts on a slope, in chunks of a
frame, gzip 4.
"""

import argparse
import platform
import statistics
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import h5py
import numpy as np
from chunks import in_turns

from gpu_spots.files.hdf5.chunks import FrameReader
from gpu_spots.files.hdf5.codecs import inflate, unshuffle


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", default="1,2")
    options = parser.parse_args()
    libraries = ", ".join(f"{name} {version(name)}" for name in ("numpy", "h5py", "deflate"))
    print(f"{_processor()}; Python {platform.python_version()}, {libraries}")
    rng = np.random.default_rng(0)
    frames = rng.poisson(50 + np.arange(options.size) / 40, (8, options.size, options.size)).astype(
        np.uint16
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.h5"
        with h5py.File(path, "w") as file:
            dataset = file.create_dataset(
                "frames",
                data=frames,
                chunks=(1, *frames.shape[1:]),
                compression="gzip",
                shuffle=True,
            )
            print(
                f"frames of {options.size} x {options.size} uint16, compressed to "
                f"1/{frames.nbytes / dataset.id.get_storage_size():.2f}"
            )
        with h5py.File(path) as file, FrameReader(file["frames"]) as reader:
            stored = file["frames"].id.read_direct_chunk((0, 0, 0))[1]
            steps(stored, np.zeros_like(frames[0]), options.rounds)
            for threads in map(int, options.threads.split(",")):
                reads(reader, frames, threads, options.rounds)


def steps(stored: bytes, out: np.ndarray, rounds: int) -> None:
    """Time each step separately."""
    data, octets = inflate(stored, out.nbytes), out.reshape(-1).view(np.uint8)
    ways: dict[str, Callable[[], object]] = {
        "inflate": lambda: inflate(stored, out.nbytes),
        "unshuffle": lambda: unshuffle(data, out),
        "copy": lambda: np.copyto(octets, np.frombuffer(data, np.uint8)),
    }
    for name, taken in in_turns(ways, rounds).items():
        print(f"  {name:10} {statistics.median(taken) * 1e3:7.2f} ms")


def reads(reader: FrameReader, frames: np.ndarray, threads: int, rounds: int) -> None:
    """Read all frames, in order or still shuffled."""
    n_frames, n_rows, n_columns = frames.shape
    into, planes = np.zeros_like(frames), np.zeros((n_frames, 1, 2, n_rows, n_columns), np.uint8)
    with ThreadPoolExecutor(threads) as pool:

        def run(read: Callable[[int], None]) -> None:
            list(pool.map(read, range(n_frames)))

        ways: dict[str, Callable[[], object]] = {
            "in order": lambda: run(lambda i: reader.read(i, i + 1, into[i : i + 1])),
            "shuffled": lambda: run(
                lambda i: reader.read_shuffled(i, i + 1, 0, n_rows, planes[i : i + 1])
            ),
        }
        taken = in_turns(ways, rounds)
    assert np.array_equal(into, frames)
    ratio = statistics.median(
        a / b for a, b in zip(taken["in order"], taken["shuffled"], strict=True)
    )
    rates = ", ".join(
        f"{name} {n_frames / statistics.median(seconds):.1f}" for name, seconds in taken.items()
    )
    print(
        f"  {threads} thread{'s' * (threads > 1)}, frames a second: {rates}; {ratio:.3f} times as "
        "fast"
    )


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next(
        (line.partition(": ")[2] for line in lines if line.startswith("model name")),
        platform.processor(),
    )


if __name__ == "__main__":
    main()
