"""Planted faults of kernels are found by the comparison with the CPU backend."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cpu_fallback import CpuBackend
from emulator.emulated import EmulatedToolkit, EmulationError
from gpu_spots.backend import Backend
from gpu_spots.cuda.backend import GpuBackend
from gpu_spots.model import Morphology, Validity
from helpers import background_of, images_of, means_of

pytestmark = pytest.mark.emulated
Scenario = Callable[[Backend, str], Iterator[np.ndarray]]


def mask_arrays(backend: Backend, dtype: str) -> Iterator[np.ndarray]:
    """Yield masks of two tiles in each direction, dense and sparse.

    Some values and pixels are invalid; morphology has few and many steps.
    """
    rng, shape = np.random.default_rng(1), (70, 1100)
    frames = rng.integers(0, 100, (2, *shape)).astype(dtype)
    frames[1][rng.random(shape) < 0.9995] = 2
    threshold = rng.integers(20, 60, shape).astype(np.float64 if dtype[0] == "f" else np.int32)
    background = background_of(
        threshold, frames.dtype, validity=Validity(rng.random(shape) < 0.7, 2, 97), gaps=True
    )
    for morphology in (Morphology(1, 2, 2), Morphology(2, 3, 1), Morphology(0, 20, 1)):
        found = backend.find_masks(
            backend.upload(frames), backend.prepare(background, morphology, None)
        )
        yield from (
            images_of(backend, masks) for masks in (found.raw, found.filtered, found.invalid)
        )
        # which also sees bits beyond the last column
        yield backend.components(found.filtered, 2).pixels
        onto = backend.empty_masks(1, shape)
        backend.union(onto, found.filtered, np.array([0, 0]))
        yield images_of(backend, onto)


def spot_arrays(backend: Backend, dtype: str) -> Iterator[np.ndarray]:
    """Components of tangled masks, and sums of values that tie."""
    rng, shape = np.random.default_rng(2), (24, 450)
    images, frames = (
        (rng.random((3, *shape)) < 0.1).astype(np.uint8),
        rng.integers(0, 4, (3, *shape)).astype(dtype),
    )
    if dtype == "int32":  # both halves of the values count
        frames = 70001 * frames - 100000
    background = background_of(
        np.full(shape, 0.5 if dtype[0] == "f" else 1),
        frames.dtype,
        means_of(frames.dtype, shape, rng),
    )
    prepared = backend.prepare(background, Morphology(0, 0, 1), 3)
    as_masks = backend.prepare(
        background_of(np.ones(shape, np.int32), np.dtype("uint8")), Morphology(0, 1, 1), None
    )
    masks = backend.find_masks(backend.upload(images), as_masks).filtered
    for connectivity in (1, 2):
        found = backend.components(masks, connectivity)
        yield from (found.pixels, found.begin, found.box, found.first)
        measured: Any = backend.measure(
            backend.upload(frames),
            found,
            np.array([0, 2, 2]),
            prepared,
            np.array([65536, 65000, 70000]),
            with_values=True,
        )
        yield measured.values
        yield from (measured.total, measured.peak, measured.overload)
        yield from (measured.largest, measured.n_maxima, measured.moments)
        if measured.background_high is not None:
            yield from (measured.background_high, measured.background_low)
        if measured.moments_high is not None:
            yield measured.moments_high


@cache
def on_cpu(scenario: Scenario, dtype: str) -> list[np.ndarray]:
    """Return every result of the CPU backend."""
    return list(scenario(CpuBackend(1), dtype))


def first_difference(
    folder: Path, edit: Callable[[str, str], str] | None, scenario: Scenario, dtype: str
) -> str | None:
    """Return the first difference between the emulated backend and the CPU; None: none."""
    emulated = GpuBackend(EmulatedToolkit(folder, edit), 1)
    try:
        for i, (found, expected) in enumerate(
            zip(scenario(emulated, dtype), on_cpu(scenario, dtype), strict=True)
        ):
            if found.dtype != expected.dtype or not np.array_equal(found, expected):
                return f"result {i} differs"
    # numbers may come out so wrong that host code stumbles over them
    except (EmulationError, ValueError) as error:
        return str(error)
    return None


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
        assert text.count(self.right) == 1, (
            f"{text.count(self.right)} places for the fault in {name}.cu"
        )
        return text.replace(self.right, self.wrong)


STEP_ENDS = "    u32* const result = other;"
BOUNDS = "return value >= low && value {} high; }}\n__device__ __forceinline__ bool is_valid(f32"
OVER = "n_over += value {} saturation;\n    sum"
FAULTS = {
    "a dropped barrier between steps": Fault(
        "masks", f"    __syncthreads();\n{STEP_ENDS}", STEP_ENDS
    ),
    "a dropped barrier before masks are stored": Fault(
        "masks", "  __syncthreads();\n  store(tile, words, raw", "  store(tile, words, raw"
    ),
    "a halo that is a row too small": Fault(
        "masks",
        "Tile tile(erosions + dilations, n_rows, n_columns);\n  u32* const words = shared + 1;  //",
        "Tile tile(erosions + dilations - 1, n_rows, n_columns);\n  u32* const words = shared + 1; "
        " //",
    ),
    "rows that are off by one": Fault(
        "masks", "return row - halo + i / ROW", "return row - halo + 1 + i / ROW"
    ),
    "a bit of the neighbouring word": Fault("masks", "words[-1] >> 31", "words[-1] >> 30"),
    "the last columns": Fault("masks", "y >= 0 && y < n_columns)", "y >= 0 && y + 8 < n_columns)"),
    "growth beyond the last column": Fault("masks", "if (left < 32) word &= (1u << left) - 1;", ""),
    "above in place of at least": Fault(
        "masks", "return widened(value) >= limit", "return widened(value) > limit", "float32"
    ),
    "a bound that is excluded": Fault("masks", BOUNDS.format("<="), BOUNDS.format("<")),
    "validity that is applied too early": Fault(
        "masks", "finish ? valid : nullptr, finish && invalid", "valid, invalid"
    ),
    "the last frame in place of all": Fault("union", "+ i] |= word", "+ i] = word"),
    "corners across words": Fault("components", "above >> 1 | above_right << 31", "above >> 1"),
    "rows of different masks that touch": Fault(
        "components", "i / row_words % n_rows == 0", "i < row_words"
    ),
    "a box that ends a column early": Fault(
        "components", "sides[3] = y_last + 1", "sides[3] = y_last"
    ),
    "the last of equal maxima": Fault(
        "measure", "other == value && there < at", "other == value && there > at"
    ),
    "any of equal maxima": Fault("measure", "|| (other == value && there < at)", ""),
    "saturation that is excluded": Fault("measure", OVER.format(">="), OVER.format(">")),
    "the upper part of the background": Fault(
        "measure", "if (mean_high) high +=", "if (!mean_high) high +="
    ),
    "floats that are added in another order": Fault(
        "measure", "difference, j)", "difference, n - 1 - j)", "float32"
    ),
    "rows in the frame in place of the box": Fault("measure", "x = row - area.x_begin", "x = row"),
    "columns in the frame in place of the box": Fault(
        "measure", "row * n_columns - area.y_begin;\n    const", "row * n_columns;\n    const"
    ),
    "squares of the other axis": Fault(
        "measure", "{x, y, x * x, y * y, x * y}", "{x, y, y * y, x * x, x * y}"
    ),
    "halves of values that overlap": Fault(
        "measure", "value >> HALF_BITS", "value >> (HALF_BITS - 1)", "int32"
    ),
    "a half with the sign": Fault(
        "measure", "value & ((1 << HALF_BITS) - 1)", "value & ((1 << (HALF_BITS + 1)) - 1)", "int32"
    ),
    "moments of floats that are added in another order": Fault(
        "measure", "parts[k], j)", "parts[k], n - 1 - j)", "float32"
    ),
    "maxima that tie with the one before": Fault(
        "measure", "|| (is_before && beside == value)", ""
    ),
    "maxima that tie with the one after": Fault("measure", "is_before && beside", "beside"),
    "maxima that other spots hide": Fault(
        "measure",
        "if (is_before ? contains(other, first, at) : contains(other, at + 1, end)) return",
        "return",
    ),
    "maxima with corners left out": Fault("measure", "if (step == 4 ||", "if (step % 2 == 0 ||"),
    "low maxima": Fault(
        "measure", "2 * value >= largest.value + least", "2 * value >= least + least"
    ),
    "maxima at half of the zero level": Fault(
        "measure", "0.5 * largest.value + 0.5 * least", "0.5 * largest.value", "float64"
    ),
    "values that are a pixel late": Fault(
        "measure", "kept[i] = found", "kept[i] = values[pixels[first]]"
    ),
    "a factor that is not applied": Fault(
        "measure", "mean[pixel] * scale", "mean[pixel]", "float64"
    ),
}


@pytest.mark.sanitize
@pytest.mark.parametrize("dtype", ["uint16", "int32", "float32", "float64"])
@pytest.mark.parametrize("scenario", [mask_arrays, spot_arrays])
def test_without_a_fault_there_is_no_difference(
    kernel_folder: Path, scenario: Scenario, dtype: str
) -> None:
    assert first_difference(kernel_folder, None, scenario, dtype) is None


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(kernel_folder: Path, fault: str) -> None:
    planted = FAULTS[fault]
    scenarios = (mask_arrays, spot_arrays) if planted.file in ("masks", "union") else (spot_arrays,)
    assert any(
        first_difference(kernel_folder, planted.edit, scenario, planted.dtype)
        for scenario in scenarios
    )
