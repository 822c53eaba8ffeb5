"""Rates of decoding compressed frames by the host, and bitshuffle with LZ4 by a device.

    python benchmarks/decode.py [--frames 16] [--size 2048] [--rounds 5] [--threads 1 2]
                                [--device 0] [--copy-mib 1024] [--folder DIR]

The frames are those of a simulated dark run. Files are in the page cache. The host reads whole
frames into memory that is used again, as pinned memory is, in the way of a run, which for
bitshuffle is h5py with hdf5plugin. The second table is decompression alone. On a device, decoding
is timed by events and copies by the host's clock. The decoded frames are compared with those of
h5py. Without a device, the script says so and measures the host only.

Prints the tables of docs/decisions/decode-on-the-device.md.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import deflate
import h5py
import hdf5plugin
import numpy as np
from chunks import in_turns
from isal import isal_zlib

from cpu_fallback import CpuBackend
from gpu_spots.backend import select_backend
from gpu_spots.cuda.bitshuffle import HEADER, block_bytes, decode_chunks, first_damage
from gpu_spots.errors import BackendError
from gpu_spots.files.hdf5.chunks import FrameReader
from gpu_spots.simulate.run import Design, simulate_run

LAYOUTS: dict[str, dict[str, Any]] = {
    "contiguous": {},
    "gzip 4": {"compression": "gzip"},
    "shuffle + gzip 4": {"compression": "gzip", "shuffle": True},
    "bitshuffle + LZ4": {"compression": hdf5plugin.Bitshuffle()},
}
CODECS: dict[str, Callable[[bytes, int], object]] = {
    "deflate": deflate.zlib_decompress,
    "isal": lambda data, n_bytes: isal_zlib.decompress(data, bufsize=n_bytes),
    "zlib": lambda data, n_bytes: zlib.decompress(data, bufsize=n_bytes),
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--device", type=int, default=0)
    parser.add_argument(
        "--copy-mib",
        type=int,
        default=1024,
        help="of the device's copy whose bandwidth is measured",
    )
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    libraries = ", ".join(
        f"{name} {version(name)}" for name in ("numpy", "h5py", "hdf5plugin", "deflate", "isal")
    )
    print(
        f"{CpuBackend(1).device.split(',')[0]}, {os.cpu_count()} cores; Python "
        f"{platform.python_version()}, {libraries}"
    )
    spots = min(200, options.size**2 // 600)  # as gpu-spots simulate
    design = Design(
        laser=False, size=(options.size,) * 2, angles=options.frames, repeats=1, spots=spots
    )
    frames = np.stack(list(simulate_run(design).frames()))
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        files = {name: Path(folder) / f"{i}.h5" for i, name in enumerate(LAYOUTS)}
        for name, path in files.items():
            with h5py.File(path, "w") as file:
                chunks = {"chunks": (1, *frames.shape[1:])} if LAYOUTS[name] else {}
                file.create_dataset("frames", data=frames, **chunks, **LAYOUTS[name])
        by_host(files, frames, options.threads, options.rounds)
        codecs(
            {name: stored_chunks(files[name])[0] for name in LAYOUTS if "gzip" in name},
            frames[0].nbytes,
            options.rounds,
        )
        packed = stored_chunks(files["bitshuffle + LZ4"])
        n_sequences, n_blocks = sequences(packed[0], frames[0].nbytes)
        print(
            f"\nbitshuffle + LZ4: {n_blocks} blocks a frame, {n_sequences / n_blocks:.0f} "
            "sequences of LZ4 a block"
        )
        on_device(packed, frames, options.device, options.rounds, options.copy_mib)


def stored_chunks(path: Path) -> list[bytes]:
    """Return the chunks of the frames as they are in the file."""
    with h5py.File(path) as file:
        dataset = file["frames"]
        return [dataset.id.read_direct_chunk((i, 0, 0))[1] for i in range(len(dataset))]


def by_host(files: dict[str, Path], frames: np.ndarray, threads: list[int], rounds: int) -> None:
    """Measure frames per second in memory, processor time per frame, and stored bytes alone."""
    columns = [f"frames/s, {n} thread{'s' * (n > 1)}" for n in threads]
    print(
        f"\n| layout | MB a frame | CPU ms a frame | {' | '.join(columns)} | stored bytes only, "
        "frames/s |"
    )
    print("|---" * (4 + len(threads)) + "|")
    into, planes = (
        np.zeros_like(frames),
        np.zeros((len(frames), 1, frames.itemsize, *frames.shape[1:]), np.uint8),
    )
    for name, path in files.items():
        with h5py.File(path) as file, FrameReader(file["frames"]) as reader:
            stored = file["frames"].id.get_storage_size() / len(frames)
            plain = len(into) / statistics.median(
                in_turns({"copy": partial(read_all, path)}, rounds)["copy"]
            )

            def in_order(i: int, reader: FrameReader = reader) -> None:
                reader.read(i, i + 1, into[i : i + 1])

            def shuffled(i: int, reader: FrameReader = reader) -> None:
                reader.read_shuffled(i, i + 1, 0, frames.shape[1], planes[i : i + 1])

            ways = {name: in_order}
            if reader.shuffled_rows:
                ways[f"{name}, left shuffled"] = shuffled
            for way, read in ways.items():

                def every_frame(read: Callable[[int], None] = read) -> None:
                    for i in range(len(into)):
                        read(i)

                of_cpu = cpu_seconds(every_frame, rounds) / len(into)
                rates = [rate(read, len(into), n, rounds) for n in threads]
                print(
                    f"| {way} | {stored / 1e6:.2f} | {of_cpu * 1e3:.1f} | "
                    f"{' | '.join(f'{x:.0f}' for x in rates)} | {plain:.0f} |"
                )
            assert np.array_equal(into, frames)


def rate(read: Callable[[int], None], n_frames: int, threads: int, rounds: int) -> float:
    """Return frames per second."""
    with ThreadPoolExecutor(threads) as pool:
        return n_frames / statistics.median(
            in_turns({"read": lambda: list(pool.map(read, range(n_frames)))}, rounds)["read"]
        )


def cpu_seconds(function: Callable[[], object], rounds: int) -> float:
    """Return the median processor time, which other work on the machine disturbs least."""
    taken = []
    for _ in range(rounds + 1):
        start = time.thread_time()
        function()
        taken.append(time.thread_time() - start)
    return statistics.median(taken[1:])


def read_all(path: Path) -> None:
    """Read every byte of a file into memory that is used again."""
    room = bytearray(4 << 20)
    with path.open("rb", buffering=0) as file:
        while file.readinto(room):
            pass


def codecs(chunks: dict[str, bytes], n_bytes: int, rounds: int) -> None:
    """Decompressing alone, on one thread, by the processor's time."""
    print(
        f"\n| codec, 1 thread | {' | '.join(f'{name}, CPU ms a frame' for name in chunks)} |\n"
        + "|---" * (1 + len(chunks))
        + "|"
    )
    for name, codec in CODECS.items():
        taken = [cpu_seconds(partial(codec, data, n_bytes), rounds) for data in chunks.values()]
        print(
            f"| {name} | "
            + " | ".join(f"{one * 1e3:.1f} ({n_bytes / 1e6 / one:.0f} MB/s)" for one in taken)
            + " |"
        )


def sequences(chunk: bytes, n_bytes: int) -> tuple[int, int]:
    """Return the numbers of LZ4 sequences (literals and a match) and of blocks in a chunk."""

    def length(at: int, size: int) -> tuple[int, int]:
        if size == 15:
            while chunk[at] == 255:
                at, size = at + 1, size + 255
            at, size = at + 1, size + chunk[at]
        return at, size

    at, count, n_blocks = HEADER, 0, -(-n_bytes // block_bytes(chunk))
    for _ in range(n_blocks):
        end = at + 4 + int.from_bytes(chunk[at : at + 4], "big")
        at += 4
        while at < end:
            count, token = count + 1, chunk[at]
            at, literals = length(at + 1, token >> 4)
            at += literals
            if at < end:
                at, _ = length(at + 2, token & 15)
    return count, n_blocks


def on_device(
    chunks: list[bytes], frames: np.ndarray, number: int, rounds: int, copy_mib: int
) -> None:
    """Measure the kernel, and the copies that come before it."""
    try:
        backend: Any = select_backend("gpu", device=number)
    except BackendError as error:
        print(f"\nDevice: not measured. {error}")
        return
    from gpu import Clock, copy_bandwidth, wall

    device, clock = backend.toolkit, Clock(backend.toolkit, rounds)
    octets, offsets = np.frombuffer(b"".join(chunks), np.uint8), np.cumsum([0, *map(len, chunks)])
    stored, into = device.call(
        lambda: (device.to_device(octets), device.xp.empty(frames.shape, frames.dtype))
    )
    n_block_bytes = block_bytes(chunks[0])

    def decode() -> Any:
        return decode_chunks(device, stored, offsets, n_block_bytes, into)

    problem = first_damage(device.call(lambda: device.to_host(decode())))
    assert problem is None, problem
    assert np.array_equal(device.call(lambda: device.to_host(into)), frames), (
        "the device decoded other values than h5py"
    )

    def arrived(*steps: Callable[[], object]) -> None:
        for step in steps:
            step()
        device.call(lambda: device.xp.cuda.get_current_stream().synchronize())

    def send(host: np.ndarray, part: Any) -> None:
        with device.staging(part) as slot:
            np.copyto(slot, host)

    seconds = {
        "decoding": clock(decode),
        "stored bytes: into pinned memory, and to the device": wall(
            lambda: arrived(lambda: send(octets, stored)), rounds
        ),
        "the same, and decoding": wall(
            lambda: arrived(lambda: send(octets, stored), lambda: device.call(decode)), rounds
        ),
    }
    seconds["decoded frames: into pinned memory, and to the device"] = wall(
        lambda: arrived(lambda: send(frames, into)), rounds
    )
    bandwidth = copy_bandwidth(clock, copy_mib)
    print(f"\n{backend.device}; copy on the device: {bandwidth / 1e12:.2f} TB/s\n")
    print(
        "| bitshuffle + LZ4, on the device | ms a frame | frames/s | share of copy bandwidth "
        "|\n|---|---|---|---|"
    )
    for name, taken in seconds.items():
        share = (
            f"{(stored.nbytes + into.nbytes) / taken / bandwidth:.0%}" if name == "decoding" else ""
        )
        print(f"| {name} | {taken / len(frames) * 1e3:.3f} | {len(frames) / taken:.0f} | {share} |")


if __name__ == "__main__":
    main()
