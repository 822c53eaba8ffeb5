"""Speed of the CUDA backend on a device: each stage, then the command.

Stages are compared with a simple program of CuPy's functions, and with the CPU backend.

    python benchmarks/gpu.py [--frames 60 180 720 1000] [--sizes 2048 3840] [--repeats 9] [--device
    0] [--threads 1 2 4 8]
                             [--no-cpu] [--no-command] [--copy-mib 1024]

Stages of the device are timed by events on its stream, warm, and the median counts. `share` is what
a stage must move at least (it reads the frames once, and writes its results), by its time, of the
bandwidth of a copy on the same device. The frames are Poisson noise with spots, made on the host;
they stay on the device. CuPy's program and the CPU backend run on the same frames, the CPU on some
of them, and the results of the kernels are compared with the CPU's.

Then the computing of a whole run whose frames are on the device, as the pipeline asks for it,
without reading and writing: background up to the maps on the host, masks, components, and sums on
the host, by the host's clock, with several threads, bands and batches.

Prints the tables of docs/benchmarks.md.
"""

import argparse
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cupy
import numpy as np
from cupyx.scipy import ndimage

from cpu_fallback import CpuBackend
from cpu_fallback.background import moments as cpu_moments
from gpu_spots.backend import select_backend
from gpu_spots.background.maps import BackgroundMaps
from gpu_spots.background.methods import Trimmed
from gpu_spots.cuda.background import HeldBackground, evaluated, fill
from gpu_spots.cuda.trimmed import trimmed_moments
from gpu_spots.files.output.simulated_run import write_run
from gpu_spots.memory.needs import spans
from gpu_spots.memory.workers import in_order
from gpu_spots.model import Background, Morphology, Validity
from gpu_spots.simulate.run import Design, simulate_run

PERCENT, CUTOFF, MORPHOLOGY = 25, 3.0, Morphology(1, 2, 2)
SHAPES = [(64, 8), (128, 8), (128, 32), (512, 32), (512, 128)]
"""Rows of a band and frames of a batch, of a run whose frames are on the device."""
CPU_FRAMES = 60
"""Frames that the CPU backend is timed on, and compared on."""
NOISE_SHIFTS = 64
"""Places, in each direction, of a frame's window in a field of noise."""
COMMAND = Path(sysconfig.get_path("scripts")) / "lu_hdf2spots"


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    stage: str
    seconds: float
    moved: float | None = None
    cupy: float | None = None
    cpu: float | None = None


class Clock:
    """Clock of the work on a device's stream."""

    def __init__(self, device: Any, repeats: int) -> None:
        self.device, self.repeats = device, repeats

    def __call__(self, function: Callable[[], Any], repeats: int | None = None) -> float:
        """Median seconds of a function, after two runs that do not count."""

        def once() -> float:
            begin, end = cupy.cuda.Event(), cupy.cuda.Event()
            begin.record()
            function()
            end.record()
            end.synchronize()
            return float(cupy.cuda.get_elapsed_time(begin, end)) / 1e3

        for _ in range(2 if repeats is None else 1):
            self.device.call(once)
        return statistics.median(self.device.call(once) for _ in range(repeats or self.repeats))


def copy_bandwidth(clock: Clock, n_mib: int = 1024) -> float:
    """Return bytes per second, read and written, of a copy of so many MiB on the device."""
    n_words = n_mib << 18
    a, b = clock.device.call(
        lambda: (cupy.ones(n_words, cupy.uint32), cupy.empty(n_words, cupy.uint32))
    )
    return 2 * a.nbytes / clock(lambda: cupy.copyto(b, a))


def noise_with_spots(n_frames: int, size: int) -> Any:
    """Return frames, (n, size, size) uint16, on the device.

    Made on the host, as CuPy's random numbers need a library (cuRAND) that the extras do not bring:
    windows of a few fields of noise, each frame with spots of its own.
    """
    rng = np.random.default_rng(n_frames)
    fields = rng.poisson(200, (4, size + NOISE_SHIFTS, size + NOISE_SHIFTS)).astype(np.uint16)
    frames, host = (
        cupy.empty((n_frames, size, size), cupy.uint16),
        np.empty((size, size), np.uint16),
    )
    n_spots = size * size // 20000
    for i, frame in enumerate(frames):
        left, top = rng.integers(0, NOISE_SHIFTS, 2)
        host[...] = fields[i % len(fields), left : left + size, top : top + size]
        x, y = rng.integers(4, size - 4, (2, n_spots))
        for dx in range(-2, 3):
            for dy in range(-2, 3):
                host[x + dx, y + dy] = 900 - 100 * (dx * dx + dy * dy)
        frame.set(host)
    return frames


def cupy_background(frames: Any) -> tuple[Any, ...]:
    """Calculate the background with CuPy's functions, in bands if it does not fit at once."""
    free, rows = cupy.cuda.runtime.memGetInfo()[0], frames.shape[1]
    while 12 * frames[:, :rows].nbytes > free and rows > 1:
        rows //= 2
    parts = []
    for begin in range(0, frames.shape[1], rows):
        band = frames[:, begin : begin + rows]
        kept = cupy.sort(band, axis=0)[: len(band) - len(band) * PERCENT // 100]
        quartiles = cupy.percentile(kept, cupy.array([25, 75]), axis=0)
        parts.append(
            (kept.mean(0), kept.std(0), quartiles[1] - quartiles[0], band.max(0), band.argmax(0))
        )
    return tuple(cupy.concatenate(maps) for maps in zip(*parts, strict=True))


def cupy_masks(frames: Any, avg: Any, std: Any) -> Any:
    """Frame by frame, as SciPy's functions are used."""
    square, threshold = cupy.ones((3, 3), bool), avg + CUTOFF * std
    masks = cupy.empty(frames.shape, bool)
    for mask, frame in zip(masks, frames, strict=True):
        raw = (frame >= threshold) & (frame > avg)
        mask[...] = ndimage.binary_dilation(
            ndimage.binary_erosion(raw, square), square, iterations=2, brute_force=True
        )
    return masks


def cupy_labels(masks: Any) -> int:
    """Return labels only: sums and maxima by label take minutes."""
    square = cupy.ones((3, 3), bool)
    return sum(int(ndimage.label(mask, square)[1]) for mask in masks)


def cupy_stages(clock: Clock, frames: Any) -> dict[str, float]:
    """Return the seconds of the program of CuPy's functions."""
    avg, std, *_ = clock.device.call(lambda: cupy_background(frames))
    masks = clock.device.call(lambda: cupy_masks(frames, avg, std))
    return {
        "background": clock(lambda: cupy_background(frames), 1),
        "masks": clock(lambda: cupy_masks(frames, avg, std), 1),
        "components": clock(lambda: cupy_labels(masks), 1),
    }


def stages(backend: Any, clock: Clock, frames: Any, with_cpu: bool) -> list[Row]:
    """Time all stages of one stack that stays on the device."""
    n_frames, size, _ = frames.shape
    device, n_pixels = backend.toolkit, size * size
    values, words = frames.nbytes, n_frames * size * (-(-size // 32)) * 4
    moments = device.call(lambda: trimmed_moments(device, frames, PERCENT, Validity()))
    held = device.call(lambda: HeldBackground.empty(device, (size, size), np.dtype(np.uint16)))
    maps = BackgroundMaps((size, size), np.dtype(np.uint16), CUTOFF, varies=False, held=held)
    device.call(lambda: fill(device, moments, maps.rows(0, size)))
    known = maps.finish(Validity())
    prepared = backend.prepare(known, MORPHOLOGY, None)
    masks = backend.find_masks(frames, prepared)
    found, everyone = backend.components(masks.filtered, 2), np.arange(n_frames)

    of_cupy = cupy_stages(clock, frames)
    of_cpu = (
        cpu_stages(
            device.call(lambda: frames[:CPU_FRAMES].get()),
            known,
            n_frames,
            backend,
            frames,
            prepared,
        )
        if with_cpu
        else {}
    )

    def to_threshold() -> None:
        moments: Any = trimmed_moments(device, frames, PERCENT, Validity())
        evaluated(device, moments, CUTOFF, held)

    def fill_maps() -> None:
        device.call(lambda: fill(device, moments, maps.rows(0, size)))

    def everything() -> None:
        to_threshold()
        part = backend.find_masks(frames, prepared)
        backend.measure(frames, backend.components(part.filtered, 2), everyone, prepared, None)

    def union() -> None:
        backend.union(
            backend.empty_masks((n_frames + 1) // 2, (size, size)), masks.filtered, everyone // 2
        )

    def only_moments() -> None:
        trimmed_moments(device, frames, PERCENT, Validity())

    def both(stage: str) -> tuple[float | None, float | None]:
        return of_cupy.get(stage), of_cpu.get(stage)

    of_masks = values + 2 * words + 2 * n_pixels
    rows = [
        Row("background: moments", clock(only_moments), values + 22 * n_pixels),
        Row(
            "moments to maps, on the device",
            clock(lambda: evaluated(device, moments, CUTOFF, held)),
            40 * n_pixels,
        ),
        Row(
            "background: to the threshold",
            clock(to_threshold),
            values + 62 * n_pixels,
            *both("background"),
        ),
        Row("masks", clock(lambda: backend.find_masks(frames, prepared)), of_masks, *both("masks")),
        Row("union of pairs", clock(union), 2 * words),
        Row(
            "components, to the host",
            clock(lambda: backend.components(masks.filtered, 2)),
            words,
            *both("components"),
        ),
        Row(
            "sums and maxima, to the host",
            clock(lambda: backend.measure(frames, found, everyone, prepared, None)),
            None,
            *both("sums"),
        ),
        Row("moments to maps, to the host", wall(fill_maps, clock.repeats)),
        Row(
            "moments, to the host",
            clock(
                lambda: trimmed_moments(device, frames, PERCENT, Validity()).to_host(
                    device, (size, size)
                )
            ),
        ),
        Row("all of it, frames resident", clock(everything), 2 * values),
    ]
    host = np.empty((min(n_frames, 16), size, size), np.uint16)
    seconds = wall(
        lambda: (
            backend.upload(host),
            device.call(lambda: cupy.cuda.get_current_stream().synchronize()),
        ),
        clock.repeats,
    )
    return [
        *rows,
        Row("upload, of the same number of frames", seconds * n_frames / len(host), values),
    ]


def compute_background(
    backend: Any, frames: Any, maps: BackgroundMaps, rows: int, threads: int
) -> Background:
    """Compute the background of frames on the device, as the first pass makes it."""

    def band(span: tuple[int, int]) -> bool:
        return backend.background(
            frames[:, slice(*span)], Trimmed(PERCENT), Validity(), maps.rows(*span)
        )

    maps.gaps = any(list(in_order(band, spans(frames.shape[1], rows), threads)))
    return maps.finish(Validity())


def find(backend: Any, frames: Any, prepared: Any, step: int, threads: int) -> int:
    """Compute masks, components and sums as the second pass does; return the number of spots."""

    def batch(span: tuple[int, int]) -> int:
        some = frames[slice(*span)]
        found = backend.components(backend.find_masks(some, prepared).filtered, 2)
        return len(backend.measure(some, found, np.arange(len(some)), prepared, None).total)

    return sum(in_order(batch, spans(len(frames), step), threads))


def resident(
    backend: Any, frames: Any, rows: int, step: int, threads: int, repeats: int
) -> tuple[float, float]:
    """Return the median seconds of the background, and of masks and spots.

    The first run does not count.

    The host's maps are made once: fresh memory is the system's to give, and costs what it costs.
    """
    _, *shape = frames.shape
    held = backend.allocate_background(frames.shape, frames.dtype, Trimmed(25))
    maps = BackgroundMaps(tuple(shape), frames.dtype, CUTOFF, varies=False, held=held)
    taken = []
    for _ in range(1 + repeats):
        start = time.perf_counter()
        prepared = backend.prepare(
            compute_background(backend, frames, maps, rows, threads), MORPHOLOGY, None
        )
        between = time.perf_counter()
        find(backend, frames, prepared, step, threads)
        taken.append((between - start, time.perf_counter() - between))
    return statistics.median(first for first, _ in taken[1:]), statistics.median(
        second for _, second in taken[1:]
    )


def resident_table(frames: Any, device: int, threads: list[int], repeats: int) -> None:
    """Measure frames per second by numbers of threads, and sizes of bands and batches."""
    print(
        "\n| computing only, frames resident | background | masks and spots | all | frames a "
        "second |\n|---|---|---|---|---|"
    )
    for n in threads:
        backend = select_backend("gpu", n, device)
        for rows, step in SHAPES:
            first, second = resident(backend, frames, rows, step, n, repeats)
            sizes = f"{n} thread{'s' * (n > 1)}, bands of {rows} rows, batches of {step} frames"
            print(
                f"| {sizes} | {first * 1e3:.2f} ms | {second * 1e3:.2f} ms | "
                f"{(first + second) * 1e3:.2f} ms | ",
                end="",
            )
            print(f"{len(frames) / (first + second):.0f} |")


def wall(function: Callable[[], Any], repeats: int) -> float:
    """Median seconds by the host's clock."""
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def cpu_stages(
    frames: np.ndarray, known: Any, n_frames: int, backend: Any, on_device: Any, prepared: Any
) -> dict[str, float]:
    """Return the seconds of the CPU backend, scaled to the number of frames.

    One thread of all is timed. Masks and sums must be those of the device.
    """
    cpu, scale = CpuBackend(1), n_frames / len(frames)
    here, everyone = cpu.prepare(known, MORPHOLOGY, None), np.arange(len(frames))
    masks = cpu.find_masks(frames, here)
    found = cpu.components(masks.filtered, 2)
    theirs = backend.components(backend.find_masks(on_device[: len(frames)], prepared).filtered, 2)
    assert np.array_equal(found.pixels, theirs.pixels)
    ours = cpu.measure(frames, found, everyone, here, None)
    assert np.array_equal(
        ours.total,
        backend.measure(on_device[: len(frames)], theirs, everyone, prepared, None).total,
    )
    rows = slice(0, 64)
    there: Any = backend.toolkit.call(
        lambda: trimmed_moments(
            backend.toolkit, on_device[: len(frames), rows], PERCENT, Validity()
        ).to_host(backend.toolkit, frames[:, rows].shape[1:])
    )
    here_too: Any = cpu_moments(frames[:, rows], Trimmed(PERCENT), Validity())
    assert np.array_equal(there.scatter_low, here_too.scatter_low)
    of_rows = wall(lambda: cpu_moments(frames[:, rows], Trimmed(PERCENT), Validity()), 3)
    return {
        "background": of_rows * frames.shape[1] / 64 * scale,
        "masks": wall(lambda: cpu.find_masks(frames, here), 3) * scale,
        "components": wall(lambda: cpu.components(masks.filtered, 2), 3) * scale,
        "sums": wall(lambda: cpu.measure(frames, found, everyone, here, None), 3) * scale,
    }


def print_table(rows: list[Row], bandwidth: float) -> None:
    """Print the table in Markdown."""
    print(
        "| stage | time | GB moved | share of copy bandwidth | CuPy's functions | CPU backend, 1 "
        "thread |\n|---|---|---|---|---|---|"
    )
    for row in rows:
        moved, share = (
            ("", "")
            if row.moved is None
            else (f"{row.moved / 1e9:.2f}", f"{row.moved / row.seconds / bandwidth:.0%}")
        )
        others = [
            f"{s * 1e3:.1f} ms ({s / row.seconds:.0f} x)" if s else "" for s in (row.cupy, row.cpu)
        ]
        print(
            f"| {row.stage} | {row.seconds * 1e3:.2f} ms | {moved} | {share} | "
            f"{' | '.join(others)} |"
        )


def whole_command(n_frames: int, size: int, device: int) -> None:
    """Time the whole command, uncompressed and with gzip, on the GPU and on the CPU."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "run__mccd.h5"
        write_run(
            source, simulate_run(Design(laser=False, size=(size, size), angles=n_frames, repeats=1))
        )
        for options in (["--backend", "gpu", "--device", str(device)], ["--backend", "cpu"]):
            arguments = [str(COMMAND), str(source), "-a", "0", "--force", *options]
            for _ in range(2):  # kernels are compiled by the first
                start = time.perf_counter()
                ended = subprocess.run(arguments, capture_output=True, text=True, check=True)
                seconds = time.perf_counter() - start
            print(
                f"| {n_frames} of {size} x {size}, {options[1]} | {seconds:.2f} s | "
                f"{ended.stderr.splitlines()[-2]} |"
            )


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, nargs="+", default=[60, 180, 720, 1000])
    parser.add_argument("--sizes", type=int, nargs="+", default=[2048, 3840])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--device", type=int, default=0)
    parser.add_argument(
        "--threads",
        type=int,
        nargs="+",
        default=[1, 2, 4, 8],
        help="of the host, which ask for bands and batches",
    )
    parser.add_argument(
        "--no-cpu", action="store_true", help="leave out the CPU backend and the comparison with it"
    )
    parser.add_argument("--no-command", action="store_true", help="leave out the whole command")
    parser.add_argument(
        "--copy-mib", type=int, default=1024, help="of the copy whose bandwidth is measured"
    )
    options = parser.parse_args()
    backend: Any = select_backend("gpu", device=options.device)
    clock = Clock(backend.toolkit, options.repeats)
    bandwidth = copy_bandwidth(clock, options.copy_mib)
    print(
        f"{backend.device}, NumPy {np.__version__}, Python {sys.version.split()[0]}; copy on the "
        f"device: {bandwidth / 1e12:.2f} TB/s"
    )
    for size in options.sizes:
        for n_frames in options.frames:
            needed = 3 * n_frames * size * size * 2
            backend.release()
            print(f"\n{n_frames} frames of {size} x {size}, uint16\n")
            if backend.free_bytes() < needed:
                print(
                    f"Not measured: {needed / 2**30:.0f} GiB of device memory are needed with the "
                    "program of CuPy's functions."
                )
                continue
            frames = backend.toolkit.call(lambda n=n_frames, size=size: noise_with_spots(n, size))
            print_table(stages(backend, clock, frames, not options.no_cpu), bandwidth)
            backend.release()
            resident_table(frames, options.device, options.threads, options.repeats)
            del frames
    if not options.no_command:
        print("\n| the whole command | wall | stages |\n|---|---|---|")
        for n_frames in options.frames:
            whole_command(n_frames, options.sizes[0], options.device)


if __name__ == "__main__":
    main()
