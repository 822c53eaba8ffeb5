"""Planted faults of the matched finder's kernels are found.

The emulated backend is compared with the CPU backend.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from cpu_fallback import CpuBackend
from emulator.emulated import COMPILER, EmulatedToolkit, EmulationError
from gpu_spots.backend import Backend
from gpu_spots.cuda.backend import GpuBackend
from gpu_spots.masks.matched import significance_maps
from gpu_spots.masks.noise_map import NoiseMap
from gpu_spots.masks.seed_levels import Calibration, Thresholds
from gpu_spots.model import Validity

pytestmark = pytest.mark.skipif(COMPILER is None, reason="g++ is not installed")


def arrays(backend: Backend, dtype: str) -> Iterator[np.ndarray]:
    """Yield every result, with and without missing values.

    Frames end within a word, or with one.
    """
    yield from of_frames(backend, dtype, (70, 140), holes=True)
    yield from of_frames(backend, dtype, (36, 96), holes=True)
    yield from of_frames(backend, dtype, (36, 75), holes=False)


def of_frames(
    backend: Backend, dtype: str, shape: tuple[int, int], *, holes: bool
) -> Iterator[np.ndarray]:
    """Yield every result for frames of several tiles.

    They have spots that touch, plateaus, and extreme values.
    """
    rng, n = np.random.default_rng(1), 4
    x, y = np.mgrid[: shape[0], : shape[1]]
    mean = 20.0 + 3 * np.sin(x / 5)
    frames = rng.poisson(np.broadcast_to(mean, (n, *shape))).astype(float)
    for frame in frames:
        for _ in range(40):
            cx, cy = rng.uniform(-2, shape[0] + 2), rng.uniform(-2, shape[1] + 2)
            height, width = np.exp(rng.uniform(2, 8)), rng.uniform(0.7, 3)
            frame += height * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * width * width))
    frames[1, 20:40, 50:90] = 40000  # a plateau
    frames[2, ::2, ::3] = 35
    frames[3, 30:40, 60:70] = 34
    # equal spots side by side, mirrored
    frames[3, 5:12, 60:63] = frames[3, 5:12, 64:67] = 300
    # all strengths beside each other
    frames[::2, 8:20, 10:40] = np.exp(rng.uniform(3, 10.9, (2, 12, 30)))
    noise = np.sqrt(mean).astype(np.float32)
    quiet = rng.random(shape) < 0.02
    noise[quiet] *= 3e-3  # small enough for both limits of values, and of levels
    mean[quiet] = 60
    frames[0, quiet] = 2
    frames = np.clip(np.rint(frames), 0, 65535).astype(dtype)
    validity = Validity()
    if holes:
        frames[rng.random(frames.shape) < 0.01] = 65535
        validity = Validity(rng.random(shape) < 0.95, 1, 65534)
    # a gain would keep the noise of quiet pixels large
    gain = 0.9 if holes else 0.02
    of = NoiseMap(mean, noise, gain, 2.0, validity, holes, np.dtype(dtype))
    for streaks in (False, True):
        maps = significance_maps(of, streaks=streaks, workers=1)
        prepared = backend.prepare_significance(maps)
        levels = np.array([65536, 60000, 200000, 9000])
        found = backend.significance(backend.upload(frames), prepared, levels)
        yield backend.smoothed_maps(found, prepared)
        thresholds = Thresholds(of, 5.5, streaks=streaks)
        n_maps = 7 if streaks else 3
        calibration = Calibration(1, (0.5,) * n_maps, (1.1,) * n_maps)
        sums = backend.empty_sums(prepared, 2, shape)
        backend.add_significance(sums, found, np.array([0, 1, 0, -1]))
        groups = backend.of_sums(sums, [2, 1])
        yield backend.smoothed_maps(groups, prepared)
        seeds = [backend.prepare_seeds(thresholds.levels(size, calibration)) for size in (1, 2)]
        for some, of_some in ((found, [seeds[0]] * n), (groups, [seeds[1], seeds[0]])):
            masks = backend.matched_masks(some, prepared, of_some)
            yield from (packed[:] for packed in backend.fetch([masks.raw, masks.filtered]))
            spots = masks.spots
            yield from (spots.pixels, spots.begin, spots.box, spots.first)


@dataclass(frozen=True)
class Fault:
    """A change of a kernel file."""

    file: str
    right: str
    wrong: str
    dtype: str = "uint16"

    def edit(self, name: str, text: str) -> str:
        """The file with the fault in it."""
        if name != self.file:
            return text
        n = text.count(self.right)
        assert n == 1, f"{n} places for the fault in {name}.cu"
        return text.replace(self.right, self.wrong)


PIXELS = """  for (i32 i = threadIdx.x; i < TILE_X * TILE_Y; i += THREADS) {
    const i32 tx = i / TILE_Y, ty = i % TILE_Y, x = row + tx, y = column + ty;
    if (x >= n_rows || y >= n_columns) continue;
    const i16* const here"""
INSIDE = "if (x >= {} && x < n_rows && y >= 0 && y < n_columns) {{\n      const i64 at"
LAST_STEP = "smooth(b, a, 2, 2);\n  smooth(a, b, {}, 2);"
TAKEN = "      else if (value >= levels[k * n_pixels + at])"
IMAGE = "image[(i64)(x + dx) * n_columns + y + dy]"
OUTSIDE = "if (x < 0 || x >= image.n_rows || y < 0 || y >= image.n_columns) return -1;"
LIMITED = "background = max(-largest, min(largest, maps.level[at]))"
SADDLE = "atomicMax(&saddle[lower], (u64)({}(u32)level ^ 0x80000000u) << 32"
EQUAL = "height[other] == height[best] && other {} best"
HIGH = "level <= 0 || level * level < {}variance"
FAULTS = {
    "a fixed rounding": Fault("matched", "(y & 3) & 15) + 1) << 11", "(y & 3) & 0) + 1) << 11"),
    "mirrored rounding": Fault(
        "matched", "order[x & 3] >> 4 * (y & 3)", "order[y & 3] >> 4 * (x & 3)"
    ),
    "a limit that is left out": Fault(
        "matched", "if (maps.low && value < maps.low[at]) value = maps.low[at];", ""
    ),
    "the other limit": Fault("matched", "if (value > maps.high[at]) value = maps.high[at];", ""),
    "a level that is not limited": Fault("matched", LIMITED, "background = maps.level[at]"),
    "a level that is shifted too far": Fault(
        "matched", "product >> -shift[1]", "product >> (-shift[1] + 1)"
    ),
    "floats that are rounded towards zero": Fault(
        "matched", "found = floor(found)", "found = (f64)(i64)found", "float32"
    ),
    "a level of floats that is not applied": Fault(
        "matched", "maps.offset[at] * level", "maps.offset[at]", "float64"
    ),
    "invalid values that count": Fault("matched", "if (!checked || is_valid", "if (1 || is_valid"),
    "a neighbour that zingers are not compared with": Fault(
        "matched", "for (i32 d = -1; d <= 1; d++) most", "for (i32 d = -1; d <= 0; d++) most"
    ),
    "zingers of twice their neighbour": Fault("matched", "most + (most >> 1))", "most + most)"),
    "a tile without its edge": Fault("matched", INSIDE.format("0"), INSIDE.format("row")),
    "a barrier before zingers": Fault("matched", "  __syncthreads();\n" + PIXELS, PIXELS),
    "a barrier between steps": Fault(
        "matched", "to[i] = (i16)sum;\n  }\n  __syncthreads();", "to[i] = (i16)sum;\n  }"
    ),
    "sums without their zero": Fault("matched", "+= values[i] - ZERO", "+= values[i]"),
    "a group that is not limited": Fault("matched", "max(-limit, min(limit, sums[i]))", "sums[i]"),
    "another limit of seeds": Fault("matched", "#define CLIP 511", "#define CLIP 510"),
    "a step that is too short": Fault("matched", LAST_STEP.format(2), LAST_STEP.format(1)),
    "a direction that is mirrored": Fault(
        "matched", "{1, WIDTH + 1, WIDTH, WIDTH - 1}", "{1, WIDTH - 1, WIDTH, WIDTH + 1}"
    ),
    "above in place of at least": Fault("matched", TAKEN, TAKEN.replace(">=", ">")),
    "invalid pixels that are seeds": Fault(
        "matched", "if (invalid) word &= ~invalid[of_frame];", ""
    ),
    "heights of limited significance": Fault(
        "basins", f"{IMAGE} - ZERO", f"min(511, (i32){IMAGE}) - ZERO"
    ),
    "heights across the edge": Fault(
        "basins", "y + dy >= 0 && y + dy < n_columns)\n          sum", "y + dy >= 0)\n          sum"
    ),
    "the last of equal tops": Fault("basins", EQUAL.format("<"), EQUAL.format(">")),
    "neighbours of another row": Fault(
        "basins",
        OUTSIDE,
        # but no rows before the first and behind the last one, which may not be there
        "if (x < 0 || x >= image.n_rows || (y < 0 && !x) || (y >= image.n_columns && x + 1 == "
        "image.n_rows)) return -1;",
    ),
    "a direction of saddles that is left out": Fault("basins", "d < 4; d++", "d < 3; d++"),
    "the lowest saddle": Fault("basins", SADDLE.format(""), SADDLE.format("~")),
    "another share of the peak": Fault(
        "basins", "10 * level >= 9 * peak", "10 * level >= 8 * peak"
    ),
    "noise without the spot's own": Fault("basins", " + own[at] * (peak > 0 ? peak : 0)", ""),
    "seeds below a tenth": Fault("basins", "|| 10ll * height[seed] < peak", ""),
    "growth into noise": Fault("basins", HIGH.format(""), HIGH.format("1.1 * ")),
    "growth further down": Fault("basins", "100 * level >=", "120 * level >="),
    "a last step by height": Fault("basins", "!variance || 100", "100"),
    "growth into masked pixels": Fault("basins", "if (usable) near &= usable[of_mask];", ""),
    "growth into invalid pixels": Fault("basins", "if (invalid) near &= ~invalid[word];", ""),
    "growth beyond the last column": Fault(
        "basins", "if (n_columns - 32 * w < 32) near", "if (n_columns < 0) near"
    ),
    "growth that stops at a word": Fault("basins", "here << 1 | before >> 31", "here << 1"),
    "the last of several spots": Fault(
        "basins", "best < 0 || spot < best", "best < 0 || spot > best"
    ),
}


@cache
def on_cpu(dtype: str) -> list[np.ndarray]:
    """Return every result of the CPU backend."""
    return list(arrays(CpuBackend(1), dtype))


def first_difference(folder: Path, fault: Fault | None, dtype: str) -> str | None:
    """Return the first difference between the emulated backend and the CPU; None: none."""
    emulated = GpuBackend(EmulatedToolkit(folder, None if fault is None else fault.edit), 1)
    try:
        pairs = zip(arrays(emulated, dtype), on_cpu(dtype), strict=True)
        for i, (found, expected) in enumerate(pairs):
            if found.dtype != expected.dtype or not np.array_equal(found, expected):
                return f"result {i} differs"
    # numbers may come out so wrong that host code stumbles over them
    except (EmulationError, ValueError, IndexError) as error:
        return str(error) or "an error"
    return None


@pytest.mark.parametrize("dtype", ["uint16", "float32", "float64"])
def test_without_a_fault_there_is_no_difference(kernel_folder: Path, dtype: str) -> None:
    assert first_difference(kernel_folder, None, dtype) is None


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(kernel_folder: Path, fault: str) -> None:
    assert first_difference(kernel_folder, FAULTS[fault], FAULTS[fault].dtype)
