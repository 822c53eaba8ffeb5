"""Speed of the CPU backend against functions of NumPy and SciPy.

Both process the same frames in one process, one after the other. Ratios are those of medians.

    python benchmarks/cpu.py [--frames 60 180 720] [--size 1024] [--threads 1 2] [--repeats 3]

The naive stages are what a scientist would write: sort, mean, std, percentile, max and argmax over
the stack; then for each frame comparison, binary_erosion, binary_dilation, label, sum_labels,
maximum_position, find_objects and the pixels of each spot. Ours are the operations of the contract,
and the pipeline from frames in memory to the table of spots. Reading and writing are not part of
it. The results are checked: both must find the same spots and, to rounding, the same intensities.
"""

import argparse
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import scipy
from scipy import ndimage

from cpu_fallback import CpuBackend
from cpu_fallback.background import moments as cpu_moments
from gpu_spots import pipeline
from gpu_spots.background.maps import BackgroundMaps
from gpu_spots.background.methods import Trimmed
from gpu_spots.files.frames import ArrayStack
from gpu_spots.model import Morphology, SpotTable, Validity
from gpu_spots.parameters import Parameters
from gpu_spots.resources import Resources
from gpu_spots.simulate.run import Design, simulate_run

PARAMETERS = Parameters.manual(angles=0)


class Kept:
    """Sink that keeps the table.

    Masks and labels are made as images, as the naive program makes them, and dropped.
    """

    keep = frozenset(("raw", "filtered", "synced", "labels", "pixels"))

    def write_levels(
        self,
        frame_levels: np.ndarray,
        factors: np.ndarray | None,
        left_out: np.ndarray | None = None,
        constant_part: object = None,
        surface: object = None,
    ) -> None: ...

    def write_noise(self, model: object) -> None: ...

    def write_map(self, name: str, encoded: np.ndarray) -> None: ...

    def expect_matched(self, n_masks: int | None) -> None: ...

    def expect_synced(self, n_masks: int) -> None: ...

    def encode(self, image: Callable[[], np.ndarray]) -> np.ndarray:
        return image()

    def write_masks(self, kind: str, begin: int, images: Sequence[np.ndarray]) -> None: ...

    def write_labels(
        self, begin: int, counts: np.ndarray, images: Sequence[np.ndarray]
    ) -> None: ...

    def write_pixels(self, pixels: np.ndarray) -> None: ...

    def write_spots(self, table: SpotTable) -> None:
        self.table = table


class Silent:
    """An observer that says nothing."""

    def stage(self, name: str, total: int, unit: str) -> None: ...

    def advance(self, steps: int) -> None: ...

    def warn(self, message: str) -> None: ...


def timed(function: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Median seconds of some calls, and what the last returned."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), result


def naive_background(frames: np.ndarray) -> tuple[np.ndarray, ...]:
    kept = np.sort(frames, axis=0)[: len(frames) - len(frames) * 25 // 100]
    avg, std = kept.mean(0), kept.std(0)
    iqr = np.subtract(*np.percentile(kept, [75, 25], axis=0))
    return avg, std, iqr, frames.max(0), frames.argmax(0)


def naive_masks(frames: np.ndarray, avg: np.ndarray, std: np.ndarray) -> list[np.ndarray]:
    square, threshold = ndimage.generate_binary_structure(2, 2), avg + 3.0 * std
    raw = [(frame >= threshold) & (frame > avg) for frame in frames]
    return [
        ndimage.binary_dilation(ndimage.binary_erosion(mask, square), square, iterations=2)
        for mask in raw
    ]


def naive_spots(frames: np.ndarray, masks: list[np.ndarray], avg: np.ndarray) -> list[Any]:
    square, table, all_pixels = ndimage.generate_binary_structure(2, 2), [], []
    for i, (frame, mask) in enumerate(zip(frames, masks, strict=True)):
        labels, count = ndimage.label(mask, square)
        if not count:
            continue
        index = np.arange(1, count + 1)
        intensity = ndimage.sum_labels(frame - avg, labels, index)
        peak = ndimage.maximum_position(frame, labels, index)
        for j, box in enumerate(ndimage.find_objects(labels)):
            x, y = np.nonzero(labels[box] == j + 1)
            all_pixels.append((x + box[0].start) * frame.shape[1] + y + box[1].start)
            table.append((i, j + 1, len(x), intensity[j], *peak[j]))
    return table


def compare(frames: np.ndarray, threads: list[int], repeats: int) -> None:
    """Print a row for each stage."""
    million = frames.size / 1e6
    naive_repeats = repeats if len(frames) <= 200 else 1
    t_background, (avg, std, *_) = timed(lambda: naive_background(frames), naive_repeats)
    t_masks, masks = timed(lambda: naive_masks(frames, avg, std), naive_repeats)
    t_spots, table = timed(lambda: naive_spots(frames, masks, avg), naive_repeats)

    backend, step = CpuBackend(1), 8
    morphology = Morphology(PARAMETERS.erosions, PARAMETERS.dilations, PARAMETERS.connectivity)
    bands = range(0, frames.shape[1], 128)
    moments, of_bands = timed(
        lambda: [cpu_moments(frames[:, i : i + 128], Trimmed(25), Validity()) for i in bands],
        repeats,
    )
    maps = BackgroundMaps(frames.shape[1:], frames.dtype, PARAMETERS.cutoff, varies=False)
    for begin, of_band in zip(bands, of_bands, strict=True):
        maps.rows(begin, begin + 128).fill(of_band)
    prepared = backend.prepare(maps.finish(Validity()), morphology, None)
    batches = [frames[i : i + step] for i in range(0, len(frames), step)]
    find, found = timed(lambda: [backend.find_masks(batch, prepared) for batch in batches], repeats)
    label, components = timed(
        lambda: [backend.components(masks.filtered, 2) for masks in found], repeats
    )
    everyone = [np.arange(len(batch)) for batch in batches]
    measure, _ = timed(
        lambda: [
            backend.measure(*three, prepared, None)
            for three in zip(batches, components, everyone, strict=True)
        ],
        repeats,
    )

    print(
        f"\n{len(frames)} frames of {frames.shape[1]} x {frames.shape[2]} {frames.dtype}, "
        f"{len(table)} spots; ms per million values"
    )
    print(f"{'':34}{'naive':>9}{'ours':>9}{'ratio':>8}")

    def row(name: str, naive: float, ours: float) -> None:
        print(
            f"{name:34}{naive * 1e3 / million:9.2f}{ours * 1e3 / million:9.3f}{naive / ours:8.1f}"
        )

    row("moments (1 thread)", t_background, moments)
    row("masks (1 thread)", t_masks, find)
    row("labels, sums, pixels (1 thread)", t_spots, label + measure)
    sink = Kept()
    for n in threads:
        backend = CpuBackend(n)
        whole, summary = timed(
            partial(
                pipeline.find_spots,
                ArrayStack(frames),
                PARAMETERS,
                Resources(backend),
                sink,
                Silent(),
            ),
            repeats,
        )
        row(f"frames to table ({n} thread{'s' * (n > 1)})", t_background + t_masks + t_spots, whole)
    check(sink.table, table)
    assert summary.n_spots == len(table)


def check(ours: SpotTable, naive: list[Any]) -> None:
    """Both found the same spots, and for equal pixels the same intensities.

    The naive mean and standard deviation are rounded, so now and then a pixel that is just at the
    threshold falls on the other side.
    """
    frame, label, size, intensity = (
        np.array(column) for column in list(zip(*naive, strict=True))[:4]
    )
    assert np.array_equal(ours["spots/frame"], frame)
    assert np.array_equal(ours["spots/label"], label)
    alike = np.diff(ours["spots/pixel_list_BE"], axis=1)[:, 0] == size
    assert alike.mean() > 0.9999
    assert np.allclose(ours["spots/I"][alike], intensity[alike], rtol=1e-9, atol=1e-6)


def main() -> None:
    """Parse, simulate, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, nargs="+", default=[60, 180, 720])
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(
        f"{CpuBackend(1).device}; {cores} cores; Python {platform.python_version()}, NumPy "
        f"{np.__version__}, SciPy {scipy.__version__}"
    )
    for n_frames in options.frames:
        design = Design(
            laser=False,
            size=(options.size, options.size),
            angles=n_frames,
            repeats=1,
            seed=n_frames,
        )
        compare(np.stack(list(simulate_run(design).frames())), options.threads, options.repeats)
    print(
        "\npeak memory of all this, the naive stages included: "
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB"
    )


if __name__ == "__main__":
    main()
