"""Speed of the Kruskal-Wallis background.

It is compared with a loop of scipy.stats.kruskal over the pixels, and with the trimmed background.

    python benchmarks/kruskal.py [--frames 180] [--blocks 18] [--rows 64] [--drift 0 3] [--pixels
    40] [--repeats 3]

One thread. A value is one pixel of one frame. The loop is what a scientist would write: test, drop
the block of largest mean rank, test again, then mean, standard deviation and percentiles of what is
left. It runs on a few pixels only and is extrapolated from there; these pixels are checked. Frames
are 1128 counts with noise 7.2, each block at its own level: the drift is the standard deviation of
the levels, in per cent.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import scipy
from scipy.stats import chi2, kruskal, rankdata

from cpu_fallback import CpuBackend
from cpu_fallback.background import moments as cpu_moments
from gpu_spots.background.methods import KruskalWallis, Trimmed
from gpu_spots.model import Validity

ALPHA = 0.05


def simulated(
    n_frames: int, n_blocks: int, n_rows: int, drift: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return frames, (n, rows, 1024) uint16, and the block of each."""
    rng = np.random.default_rng(1)
    block_of_frame = np.arange(n_frames) * n_blocks // n_frames
    levels = 1128 * (1 + drift / 100 * rng.standard_normal(n_blocks))[block_of_frame]
    frames = [
        np.rint(level + 7.2 * rng.standard_normal((n_rows, 1024))).astype(np.uint16)
        for level in levels
    ]
    return np.stack(frames), block_of_frame


def naive(
    values: np.ndarray, block_of_frame: np.ndarray, n_blocks: int
) -> tuple[int, float, float, np.ndarray]:
    """Size, mean, standard deviation and quartiles of the sample of one pixel."""
    left = list(range(n_blocks))
    while len(left) > 2:
        groups = [values[block_of_frame == block] for block in left]
        if not kruskal(*groups).statistic > chi2.ppf(1 - ALPHA, len(left) - 1):
            break
        ranks = np.split(
            rankdata(np.concatenate(groups)), np.cumsum([len(group) for group in groups])[:-1]
        )
        del left[int(np.argmax([part.mean() for part in ranks]))]
    kept = values[np.isin(block_of_frame, left)]
    return len(kept), kept.mean(), kept.std(), np.percentile(kept, [75, 25])


def loop_over(
    pixels: np.ndarray, block_of_frame: np.ndarray, n_blocks: int
) -> list[tuple[int, float, float, np.ndarray]]:
    """Test each row of values in a loop."""
    return [naive(values, block_of_frame, n_blocks) for values in pixels]


def best(function: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Shortest time of some calls in seconds, and what the last returned."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - start)
    return min(seconds), result


def main() -> None:
    """Simulate, time, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=180)
    parser.add_argument("--blocks", type=int, default=18)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--drift", type=float, nargs="+", default=[0, 3])
    parser.add_argument("--pixels", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    backend = CpuBackend(1)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(
        f"{backend.device}; {cores} cores; Python {platform.python_version()}, NumPy "
        f"{np.__version__}, SciPy {scipy.__version__}"
    )
    size = (
        f"{options.frames} frames in {options.blocks} blocks, {options.rows} x 1024 pixels, uint16"
    )
    print(f"{size}, alpha {ALPHA}; ns a value, best of {options.repeats}")
    print(
        f"{'drift':>7}{'dropped':>9}{'kruskal':>9}{'trimmed':>9}{'ratio':>7}"
        f"{'SciPy, extrapolated':>21}{'ratio':>7}"
    )
    critical = np.array(
        [np.inf] * 3 + [chi2.ppf(1 - ALPHA, b - 1) for b in range(3, options.blocks + 1)]
    )
    for drift in options.drift:
        frames, block_of_frame = simulated(options.frames, options.blocks, options.rows, drift)
        method = KruskalWallis(block_of_frame, critical)
        ours, moments = best(partial(cpu_moments, frames, method, Validity()), options.repeats)
        trimmed, _ = best(partial(cpu_moments, frames, Trimmed(25), Validity()), options.repeats)
        few = frames[:, 0, : options.pixels].T.copy()
        loop, found = best(partial(loop_over, few, block_of_frame, options.blocks), 1)
        assert [size for size, *_ in found] == moments.kept[0, : options.pixels].tolist()
        ours, trimmed, loop = (
            ours / frames.size * 1e9,
            trimmed / frames.size * 1e9,
            loop / few.size * 1e9,
        )
        print(
            f"{drift:6g}%{np.median(moments.dropped):9g}{ours:9.1f}{trimmed:9.2f}"
            f"{ours / trimmed:7.1f}{loop:14.0f} ({options.pixels} px)"
            f"{loop / ours:7.0f}"
        )


if __name__ == "__main__":
    main()
