"""Time of the background of ``-m clip`` and of ``-m n_removed`` for the same frames.

Both run in one process, one after the other.

    python benchmarks/clip.py [--frames 60 180] [--size 1024] [--repeats 5]

Prints nanoseconds of processor time per value for a band of frames (least of the repeats), and
seconds for the last step, which makes the maps of the whole frame.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np

from cpu_fallback import CpuBackend
from gpu_spots.background.clip import block_shifts, start_table
from gpu_spots.background.complete import complete
from gpu_spots.background.maps import BackgroundMaps
from gpu_spots.background.methods import Clip, Method, Trimmed
from gpu_spots.model import Validity
from gpu_spots.simulate.run import Design, simulate_run

BAND = 64
"""Rows of a band."""
BLOCK = 6
"""Frames of a block."""


def methods_for(n_frames: int) -> dict[str, Method]:
    """Return the methods that are compared."""
    start = start_table(n_frames, 25)
    of_frame = np.arange(n_frames) // BLOCK
    return {
        "n_removed": Trimmed(25),
        "clip": Clip(start, None, block_shifts(0)),
        "clip by blocks": Clip(start, of_frame, block_shifts(int(of_frame[-1]) + 1)),
    }


def processor_time(function: Callable[[], object]) -> float:
    """Return the seconds of processor time that a call took."""
    begin = time.process_time()
    function()
    return time.process_time() - begin


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, nargs="+", default=[60, 180])
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print("frames  method           ns/value  last step, s")
    for n_frames in options.frames:
        size = (options.size, options.size)
        design = Design(laser=False, size=size, angles=n_frames, repeats=1)
        frames = np.stack(list(simulate_run(design).frames()))
        for name, method in methods_for(n_frames).items():
            backend = CpuBackend(1)
            maps = BackgroundMaps(
                frames.shape[1:],
                frames.dtype,
                3.0,
                method.varies,
                levelled=not method.scales_frames,
            )

            def first_pass(
                backend: CpuBackend = backend,
                maps: BackgroundMaps = maps,
                method: Method = method,
                frames: np.ndarray = frames,
            ) -> None:
                for row in range(0, frames.shape[1], BAND):
                    end = min(row + BAND, frames.shape[1])
                    backend.background(frames[:, row:end], method, Validity(), maps.rows(row, end))

            def last_step(
                maps: BackgroundMaps = maps, method: Method = method, n_frames: int = n_frames
            ) -> None:
                complete(maps.finish(Validity()), *maps.samples, method, n_frames, 3.0)

            times = [
                (processor_time(first_pass), processor_time(last_step))
                for _ in range(options.repeats)
            ]
            band, last = (min(column) for column in zip(*times, strict=True))
            print(f"{n_frames:6}  {name:15}  {band / frames.size * 1e9:8.2f}  {last:12.3f}")


if __name__ == "__main__":
    main()
