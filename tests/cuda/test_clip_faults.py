"""Faults planted in the kernels of ``-m clip`` are found by the comparison with the CPU backend."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from cpu_fallback import CpuBackend
from emulator.emulated import COMPILER, EmulatedToolkit, EmulationError
from gpu_spots.backend import Backend
from gpu_spots.background.methods import METHODS
from gpu_spots.cuda.backend import GpuBackend
from gpu_spots.cuda.clip import FILE
from gpu_spots.model import Validity
from gpu_spots.parameters import Parameters
from helpers import moments_of

pytestmark = pytest.mark.skipif(COMPILER is None, reason="g++ is not installed")

SHAPE = (6, 23)
SIZES = (4, 5, 2, 6, 4)
"""Frames of the blocks."""
CLOSE_TO_LIMIT = (
    [16] * 11 + [17] * 6 + [20] * 4,
    [15, 15, *[17] * 3, *[18] * 5, 20, 20, 21, 22, 22, 26, 30, 30, 31, 31, 39],
    [12, 12, *[18] * 3, 19, 19, *[20] * 3, *[21] * 5, 22, 22, 32, 34, 34, 36],
    [*[2] * 9, *[3] * 4, *[4] * 3, 5, 6, 7, 10, 11],
)
"""Values of pixels, one so close to the limit of the clip that a small part of it decides. They
were chosen from random ones by the CPU backend, with and without that part: the least variance of a
negative background (20 is subtracted), the corrections of variance and of mean, and `SPARSE`.
"""


def frames_of(dtype: str, seed: int) -> np.ndarray:
    """Return frames of few and of many counts, with spots on single frames and on blocks."""
    rng, n = np.random.default_rng(seed), sum(SIZES)
    level = np.geomspace(0.1, 90, SHAPE[1]) * np.ones(SHAPE)
    frames = rng.poisson(level, (n, *SHAPE)).astype(np.float64)
    for frame in range(n):
        frames[frame, frame % SHAPE[0], frame % 7 :: 7] += rng.integers(1, 40, 4)[
            : len(frames[0, 0, frame % 7 :: 7])
        ]
    frames[4:9, 1:3, 5:15] += 30
    # equal values, equal blocks, and a pixel of which all blocks stand out but one
    frames[:, 0, :3] = 7
    frames[4:, 5, 3] = 100
    frames[:, 2, : len(CLOSE_TO_LIMIT)] = np.transpose(CLOSE_TO_LIMIT)
    if dtype == "float32":
        frames = frames * 1.37 - 3
    if dtype == "float64":
        # sums overflow: no limit can be computed
        frames[:, 2, 0] = np.where(np.arange(n) % 2, -1.7e308, -1.6e308)
    if dtype == "int16":
        frames -= 20
    if dtype == "uint32":
        frames = np.minimum(frames * 40_000_000, 2**32 - 1)
    return frames.astype(dtype)


def arrays(backend: Backend, dtype: str) -> Iterator[np.ndarray]:
    """Yield the moments of values and of blocks, levelled or not, all valid or not."""
    frames = frames_of(dtype, 1)
    n = len(frames)
    levels = np.rint(65536 * np.linspace(0.7, 1.4, n)).astype(np.int64)
    gaps = frames.copy()
    gaps[np.random.default_rng(2).random(frames.shape) < 0.1] = frames.max()
    # of two pixels, one and no value is valid
    gaps[1:, 3, 3] = gaps[:, 3, 4] = frames.max()
    high = np.nextafter(frames.max(), -np.inf) if frames.dtype.kind == "f" else frames.max() - 1
    for columns in ({}, {"angle": np.repeat(np.arange(len(SIZES)), SIZES)}):
        method = METHODS["clip"].for_run(Parameters(), columns, n, "run")
        # float64 frames have a pixel whose background overflows: it cannot be subtracted
        for of in (method,) if dtype == "float64" else (method, method.at_levels(levels)):
            for some, validity in ((frames, Validity()), (gaps, Validity(high=float(high)))):
                found = moments_of(backend, backend.upload(some), of, validity)
                for field in fields(found):
                    value = getattr(found, field.name)
                    if isinstance(value, np.ndarray):
                        yield value


@cache
def expected_arrays(dtype: str) -> list[np.ndarray]:
    """Return the same by the CPU backend."""
    return list(arrays(CpuBackend(1), dtype))


@dataclass(frozen=True)
class Fault:
    """A change of the kernel file."""

    right: str
    wrong: str
    dtype: str = "uint16"

    def edit(self, name: str, text: str) -> str:
        """Return the file with the fault in it."""
        if name != FILE:
            return text
        n = text.count(self.right)
        assert n == 1, f"{n} places for the fault in {name}.cu"
        return text.replace(self.right, self.wrong)


FAULTS = {
    "a least variance without its limit": Fault(
        "if (least > MOST_OF_POISSON) least = MOST_OF_POISSON;", ""
    ),
    "a negative background as if it were positive": Fault(
        "mean > 0 ? mean : 0.0", "mean > 0 ? mean : -mean", "int16"
    ),
    "a variance that is not corrected": Fault("sqrt(variance) / CLIPPED_SD", "sqrt(variance)"),
    "a mean that is not corrected": Fault("mean + (CLIPPED_MEAN * sd) * part", "mean"),
    "a mean that is corrected where nothing is cut off": Fault(
        "variance / (variance + SPARSE * QUANTUM)", "1.0"
    ),
    "a large scatter without its lower half": Fault(
        "high << (64 - shift) | low >> shift", "high << (64 - shift)", "uint32"
    ),
    "values at the limit left out": Fault(
        "counts_of(entries[i]) <= most", "counts_of(entries[i]) < most", "float32"
    ),
    "one value at least": Fault("if (m < 2) m = 2;", "if (m < 2) m = 1;", "float64"),
    "blocks at the limit left out": Fault(
        "blocks.mean[b] <= clip_limit", "blocks.mean[b] < clip_limit", "float32"
    ),
    "no block at least": Fault(
        "if (!any && team.thread == 0 && first != ~0u) blocks.left[first] = 1;", "", "float64"
    ),
    "a limit without its width": Fault("mean + WIDTH * sqrt(least / number)", "mean"),
    "a variance of the population": Fault(
        "found.variance = scatter / ((f64)m * ((f64)m - 1.0))",
        "found.variance = scatter / ((f64)m * (f64)m)",
    ),
    "a level without a rounding": Fault(" + (1 << 19)) >> 20)", ") >> 20)"),
    "a level that is added": Fault("- ((above * sixteenths + (1", "+ ((above * sixteenths + (1"),
    "levelled values that are not sorted": Fault("  sort(team, entries, size);\n}", "}"),
    "a start without its shift": Fault("found.mean + start_shift[n_valid] * sd", "found.mean"),
    "a start without its width": Fault(
        "sqrt(found.population) / start_width[n_valid]", "sqrt(found.population)"
    ),
    "a step too few": Fault("step < STEPS", "step < 1"),
    "a block that is one frame short": Fault(
        "blocks.size[b] = size;", "blocks.size[b] = size ? size - 1 : 0;"
    ),
    "freedom of all values": Fault("freedom += blocks.size[b] - 1;", "freedom += blocks.size[b];"),
    "half of the blocks, rounded down": Fault("(there + 1) / 2", "there / 2"),
    "the last of equal blocks": Fault("other < b))", "other > b))"),
    "a step of blocks too few": Fault("step < BLOCK_STEPS", "step < 1"),
    "a limit of one value for blocks": Fault(
        "clip_limit(mean, variance, (f64)blocks.size[b], BLOCK_MARGIN)",
        "clip_limit(mean, variance, 1.0, BLOCK_MARGIN)",
    ),
    "blocks that are levelled from the wrong start": Fault(
        "sum_blocks(team, entries, n_valid, SAMPLE_BIAS, block_of_frame, n_blocks, blocks);", ""
    ),
}


def first_difference(folder: Path, fault: Fault | None, dtype: str) -> str | None:
    """Return what the emulated backend does otherwise than the CPU; None: nothing."""
    emulated = GpuBackend(EmulatedToolkit(folder, None if fault is None else fault.edit), 1)
    try:
        pairs = zip(arrays(emulated, dtype), expected_arrays(dtype), strict=True)
        for i, (found, expected) in enumerate(pairs):
            if found.dtype != expected.dtype or not np.array_equal(
                found, expected, equal_nan=found.dtype.kind == "f"
            ):
                return f"result {i} differs"
    # numbers may come out so wrong that host code stumbles over them
    except (EmulationError, ValueError, IndexError) as error:
        return str(error) or "an error"
    return None


@pytest.mark.parametrize("dtype", ["uint16", "int16", "uint32", "float32", "float64"])
def test_without_a_fault_there_is_no_difference(kernel_folder: Path, dtype: str) -> None:
    assert first_difference(kernel_folder, None, dtype) is None


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(kernel_folder: Path, fault: str) -> None:
    assert first_difference(kernel_folder, FAULTS[fault], FAULTS[fault].dtype)
