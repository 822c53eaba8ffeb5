"""Trimmed moments of the CUDA kernels, run on the CPU.

They are compared with the naive reference and the CPU backend, to the bit.
"""

import math
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cpu_fallback.background import moments as cpu_moments
from emulator.emulated import EmulatedToolkit, EmulationError
from factories.moments import KINDS, assert_equal, band_of, frames_of, small_stacks, validities
from gpu_spots.background.maps import BackgroundMaps
from gpu_spots.background.methods import Trimmed
from gpu_spots.cuda import ranked
from gpu_spots.cuda.backend import GpuBackend
from gpu_spots.cuda.memory import band_bytes
from gpu_spots.cuda.moments import PlaneMoments, RankedMoments
from gpu_spots.cuda.planes import is_possible, most_frames
from gpu_spots.cuda.ranked import Launch, ranked_moments
from gpu_spots.cuda.trimmed import trimmed_moments as moments_on_device
from gpu_spots.model import FRAME_DTYPES, FloatMoments, IntegerMoments, Validity
from reference import find_valid, pixel_sample
from reference_background import four_quantile

pytestmark = pytest.mark.emulated


@pytest.fixture(scope="module")
def toolkit(kernel_folder: Path) -> EmulatedToolkit:
    return EmulatedToolkit(kernel_folder)


def trimmed_moments(
    toolkit: EmulatedToolkit, frames: Any, percent: int, validity: Validity
) -> IntegerMoments | FloatMoments:
    """Return the moments of the device, on the host."""
    return moments_on_device(toolkit, frames, percent, validity).to_host(toolkit, frames.shape[1:])


def test_frames_of_four_gigabytes_are_sorted() -> None:
    """Their addresses do not fit the 32 bits of the other kernel."""
    for n_columns, possible in ((2**31 - 1, True), (2**31, False)):
        stack = np.lib.stride_tricks.as_strided(
            np.zeros(9, np.uint16), (3, 2, 2), (2 * n_columns, 4, 2)
        )
        assert is_possible(stack) == possible


def assert_equals_naive(
    found: IntegerMoments | FloatMoments, frames: np.ndarray, percent: int, validity: Validity
) -> None:
    """Compare each pixel with plain loops over Python's numbers."""
    valid = find_valid(frames, validity.pixels, validity.low, validity.high)
    for pixel in np.ndindex(frames.shape[1:]):
        values, good = frames[:, *pixel].tolist(), valid[:, *pixel].tolist()
        kept = pixel_sample(values, good, percent, None, 0.5)
        m = len(kept)
        assert found.kept[pixel] == m, pixel
        if not m:
            assert all(
                getattr(found, field.name)[pixel] == 0
                for field in fields(found)
                if isinstance(getattr(found, field.name), np.ndarray)
            )
            continue
        largest = max(value for value, usable in zip(values, good, strict=True) if usable)
        first = next(i for i, value in enumerate(values) if good[i] and value == largest)
        assert found.max[pixel] == largest
        assert found.arg[pixel] == first
        if isinstance(found, IntegerMoments):
            high = 0 if found.scatter_high is None else int(found.scatter_high[pixel])
            assert found.total[pixel] == sum(kept)
            assert (
                high << 64 | int(found.scatter_low[pixel])
                == m * sum(value * value for value in kept) - sum(kept) ** 2
            )
            assert found.iqr4[pixel] == four_quantile(kept, 3) - four_quantile(kept, 1)
        else:
            average, deviation = 0.0, 0.0
            for value in kept:
                average += value
            average = kept[0] if kept[0] == kept[-1] else average / m
            for value in kept:
                deviation += (value - average) * (value - average)
            assert found.average[pixel] == average
            assert found.deviation[pixel] == deviation
    partly = valid.any(axis=0) & ~valid.all(axis=0)
    assert found.gaps == bool(
        partly.any() if validity.pixels is None else (partly & validity.pixels).any()
    )


@pytest.mark.sanitize
@pytest.mark.parametrize(
    ("dtype", "n_frames"),
    [
        *(("uint16", n) for n in (1, 2, 3, 31, 32, 33, 180, 255, 256, 257, 1000)),
        *((dtype, n) for dtype in ("uint8", "int16") for n in (1, 33, 300)),
        ("uint8", 512),
        ("uint8", 513),
    ],
)
def test_bit_planes_equal_the_cpu(toolkit: EmulatedToolkit, dtype: str, n_frames: int) -> None:
    for kind in KINDS:
        frames = frames_of(np.dtype(dtype), (n_frames, 3, 47), kind)
        for validity in validities(frames):
            for percent in (25, 0, 99):
                found = moments_on_device(toolkit, band_of(toolkit, frames), percent, validity)
                assert isinstance(found, PlaneMoments)
                assert_equal(
                    found.to_host(toolkit, (3, 47)), cpu_moments(frames, Trimmed(percent), validity)
                )


@pytest.mark.sanitize
@pytest.mark.parametrize("n_frames", [1, 2, 3, 31, 33, 180])
@pytest.mark.parametrize("dtype", FRAME_DTYPES, ids=str)
def test_sorted_values_equal_the_cpu(
    toolkit: EmulatedToolkit, dtype: np.dtype, n_frames: int
) -> None:
    for kind in KINDS:
        frames = frames_of(dtype, (n_frames, 2, 17), kind)
        if dtype.kind == "f" and kind == "noise":
            frames[::5, 0, 3:9] = np.nan
            frames[1::7, 1, 3:9] = -np.inf
            frames[:, 1, 2] = np.inf
        for validity in validities(frames):
            for percent in (25, 0, 99):
                found = ranked_moments(
                    toolkit, band_of(toolkit, frames), percent, validity
                ).to_host(toolkit, (2, 17))
                assert_equal(found, cpu_moments(frames, Trimmed(percent), validity))


@pytest.mark.parametrize("n_frames", [2, 5, 32, 40])
@pytest.mark.parametrize("dtype", FRAME_DTYPES, ids=str)
def test_moments_equal_plain_loops(
    toolkit: EmulatedToolkit, dtype: np.dtype, n_frames: int
) -> None:
    for kind in KINDS:
        if dtype.kind == "f" and kind in ("full range", "smallest", "saturated"):
            continue  # sums overflow: compared with the CPU above
        frames = frames_of(dtype, (n_frames, 2, 7), kind)
        for validity in validities(frames):
            for percent in (25, 7):
                found = trimmed_moments(toolkit, band_of(toolkit, frames), percent, validity)
                assert_equals_naive(found, frames, percent, validity)


@pytest.mark.parametrize("percent", range(0, 100, 3))
def test_any_part_may_be_dropped(toolkit: EmulatedToolkit, percent: int) -> None:
    for dtype, n_frames in (("uint16", 100), ("int32", 41)):
        frames = frames_of(np.dtype(dtype), (n_frames, 1, 9), "noise")
        assert_equal(
            trimmed_moments(toolkit, toolkit.to_device(frames), percent, Validity()),
            cpu_moments(frames, Trimmed(percent), Validity()),
        )


@pytest.mark.parametrize("dtype", FRAME_DTYPES, ids=str)
@pytest.mark.parametrize(
    ("low", "high"),
    [
        (-5, 10**12),
        (0.5, 2.5),
        (1.0, 1.0),
        (3, 2),
        (10**12, None),
        (None, -(10**12)),
        (-math.inf, 2),
        (math.inf, None),
        (None, math.inf),
    ],
)
def test_bounds_may_be_any_numbers(
    toolkit: EmulatedToolkit, dtype: np.dtype, low: float | None, high: float | None
) -> None:
    frames = frames_of(dtype, (20, 2, 5), "few values")
    validity = Validity(None, low, high)
    for compute in (trimmed_moments, lambda *args: ranked_moments(*args).to_host(toolkit, (2, 5))):
        assert_equals_naive(
            compute(toolkit, toolkit.to_device(frames), 25, validity), frames, 25, validity
        )


@pytest.mark.parametrize("n_frames", [2048, 2049, 4096, 4097, 20000, 65535])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint32", "float32", "float64"])
def test_thousands_of_frames(toolkit: EmulatedToolkit, dtype: str, n_frames: int) -> None:
    frames = frames_of(np.dtype(dtype), (n_frames, 1, 3), "noise")
    frames[n_frames // 2 :: 5, 0, 1] = 0
    on_device = toolkit.to_device(frames)
    kind = PlaneMoments if n_frames <= most_frames(np.dtype(dtype)) else RankedMoments
    for validity in (Validity(), Validity(low=1)):
        found = moments_on_device(toolkit, on_device, 25, validity)
        assert isinstance(found, kind)
        assert_equal(found.to_host(toolkit, (1, 3)), cpu_moments(frames, Trimmed(25), validity))


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "int32"])
def test_the_largest_sums(toolkit: EmulatedToolkit, dtype: str) -> None:
    """Half of the values are at each end of the type, so that the scatter has up to 96 bits.

    There are as many frames as there may be.
    """
    limits = np.iinfo(dtype)
    frames = np.where(np.arange(65535) % 2, limits.min, limits.max).astype(dtype)[:, None, None]
    found = trimmed_moments(toolkit, toolkit.to_device(frames), 0, Validity())
    assert isinstance(found, IntegerMoments)
    values = frames.reshape(-1).tolist()
    scatter = len(values) * sum(value * value for value in values) - sum(values) ** 2
    high = 0 if found.scatter_high is None else int(found.scatter_high.item())
    assert (found.total.item(), high << 64 | int(found.scatter_low.item())) == (
        sum(values),
        scatter,
    )
    assert (found.iqr4.item(), found.arg.item()) == (4 * (int(limits.max) - int(limits.min)), 0)


def test_more_frames_are_refused(toolkit: EmulatedToolkit) -> None:
    with pytest.raises(ValueError, match="65536 frames: at most 65535"):
        trimmed_moments(toolkit, toolkit.xp.empty((65536, 1, 1), np.uint8), 25, Validity())


@pytest.mark.parametrize("shape", [(1, 1), (1, 127), (1, 128), (1, 129), (3, 43), (31, 33)])
def test_any_size_of_band(toolkit: EmulatedToolkit, shape: tuple[int, int]) -> None:
    for dtype, n_frames in (("uint16", 33), ("uint16", 600), ("float32", 9)):
        frames = frames_of(np.dtype(dtype), (n_frames, *shape), "noise")
        found = trimmed_moments(toolkit, band_of(toolkit, frames), 10, Validity())
        assert_equal(found, cpu_moments(frames, Trimmed(10), Validity()))


@pytest.mark.parametrize(
    ("shared", "blocks"), [(1 << 14, 1024), (600, 1024), (100, 1024), (100, 2)]
)
def test_any_share_of_memory(
    toolkit: EmulatedToolkit, monkeypatch: pytest.MonkeyPatch, shared: int, blocks: int
) -> None:
    """Eight, one or no pixels of a block in shared memory; fewer blocks than pixels."""
    monkeypatch.setattr(ranked, "SHARED", shared)
    monkeypatch.setattr(ranked, "MOST_BLOCKS", blocks)
    for dtype in FRAME_DTYPES:
        frames = frames_of(dtype, (30, 2, 9), "noise")
        for validity in validities(frames):
            found = ranked_moments(toolkit, band_of(toolkit, frames), 30, validity).to_host(
                toolkit, (2, 9)
            )
            assert_equal(found, cpu_moments(frames, Trimmed(30), validity))


def test_memory_is_what_is_allocated(toolkit: EmulatedToolkit) -> None:
    """Every array on the device for the background of a band counts, the map of pixels too."""
    for dtype, n_frames, shape in (
        *(("uint8", 20, (40, 50)), ("uint16", 20, (40, 50)), ("int16", 3000, (4, 9))),
        *(("uint32", 9000, (4, 9)), ("float64", 40, (40, 50))),
    ):
        frames = toolkit.to_device(frames_of(np.dtype(dtype), (n_frames, *shape), "noise"))
        allocated = 0
        empty = type(toolkit.xp).__getattr__

        def counting(module: Any, name: str, empty: Callable[..., Any] = empty) -> Any:
            function = empty(module, name)
            if name not in ("empty", "zeros"):
                return function

            def count(*args: Any, **options: Any) -> Any:
                nonlocal allocated
                result = function(*args, **options)
                allocated += result.nbytes
                return result

            return count

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(toolkit.xp), "__getattr__", counting)
            maps = BackgroundMaps(shape, np.dtype(dtype), 3.0, varies=False)
            GpuBackend(toolkit, 1).background(
                frames, Trimmed(25), Validity(np.ones(shape, bool)), maps.rows(0, shape[0])
            )
        allocated += shape[0] * shape[1]
        bound = band_bytes(n_frames, shape[0] * shape[1], np.dtype(dtype), Trimmed(25))
        assert allocated <= bound <= 1.2 * allocated + 4 * n_frames + 4096


@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.sampled_from(FRAME_DTYPES).flatmap(small_stacks),
    st.integers(0, 99),
    st.sampled_from([None, 1, 0]),
    st.sampled_from([None, 2, 3]),
    st.booleans(),
)
def test_any_small_stack(
    toolkit: EmulatedToolkit,
    frames: np.ndarray,
    percent: int,
    low: int | None,
    high: int | None,
    by_rank: bool,
) -> None:
    validity = Validity(None, low, high)
    found = (ranked_moments if by_rank else moments_on_device)(
        toolkit, toolkit.to_device(frames), percent, validity
    )
    assert_equal(found.to_host(toolkit, (1, 5)), cpu_moments(frames, Trimmed(percent), validity))


FAULTS = [
    # what is right, what is wrong, and a stack that shows it: type, frames, kind, smallest and
    # largest valid value
    ("trimmed", "sharing.turn ^= 1;", "", ("uint16", 300, "noise", None, None)),
    ("trimmed", "= mine;\n  __syncthreads();", "= mine;", ("uint16", 300, "noise", None, None)),
    ("trimmed", "? 0x33333333u :", "? 0x33333331u :", ("uint16", 45, "noise", None, None)),
    ("trimmed", "32 * w + i < mine;", "32 * w + i <= mine;", ("uint16", 45, "noise", None, None)),
    ("trimmed", "left >= zeros", "left > zeros", ("uint16", 45, "noise", None, None)),
    ("trimmed", "place < below", "place <= below", ("uint16", 33, "few values", None, None)),
    (
        "trimmed",
        "(u64)equal * (cut * cut)",
        "(u64)(equal * (cut * cut))",
        ("uint16", 64, "saturated", None, None),
    ),
    (
        "trimmed",
        "((u64)(u32)sum_of_pixel(sharing, (int)hl) << 9)",
        "((u32)sum_of_pixel(sharing, (int)hl) << 9)",
        ("uint16", 256, "at the top", None, None),
    ),
    (
        "trimmed",
        "for (int w = WORDS - 1; w >= 0; w--)\n      if",
        "for (int w = 0; w < WORDS; w++)\n      if",
        ("uint16", 45, "few values", None, None),
    ),
    ("trimmed", "(u32)m * BIAS", "(u32)n * BIAS", ("int16", 45, "noise", None, None)),
    (
        "trimmed",
        "(i32)(key - low) | (i32)(high - key)",
        "(i32)(key - low) | (i32)(high - 1 - key)",
        ("uint16", 45, "few values", 1, 2),
    ),
    (
        "trimmed",
        "if (first == NEVER && ~absent)",
        "if (~absent)",
        ("uint16", 45, "few values", 0, 0),
    ),
    ("ranked", "if (bits == SIGN) return SIGN;", "", ("float32", 31, "at the top", None, None)),
    ("ranked", "widened(value) <= high", "true", ("float32", 31, "few values", None, 1.0)),
    ("ranked", "f < frames.size;", "f < frames.n;", ("float32", 31, "noise", None, None)),
    ("ranked", "      team_sync();\n    }\n}", "    }\n}", ("float64", 300, "noise", None, None)),
    ("ranked", "(product_low < squared_low)", "0", ("uint32", 100, "full range", None, None)),
    ("ranked", "(u32)f)", "(u32)f + 1)", ("uint32", 30, "noise", None, None)),
    ("ranked", "] = pixel;\n  __syncthreads();", "] = pixel;", ("uint32", 30, "noise", None, None)),
    ("ranked", "rest >= 2 ?", "rest >= 3 ?", ("float64", 30, "full range", None, None)),
]


@pytest.mark.parametrize(
    ("file", "right", "wrong", "stack"),
    FAULTS,
    ids=lambda value: value.strip()[:30] if isinstance(value, str) else "",
)
def test_planted_faults_are_found(
    kernel_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    file: str,
    right: str,
    wrong: str,
    stack: tuple[Any, ...],
) -> None:
    """Each change gives another result, or a launch that the emulation refuses."""
    compute = moments_on_device if file == "trimmed" else ranked_moments
    dtype, n_frames, kind, low, high = stack
    if n_frames == 300:  # several warps a pixel
        monkeypatch.setattr(ranked, "SHARED", 0)
    frames, validity = (
        frames_of(np.dtype(dtype), (n_frames, 1, 40), kind),
        Validity(None, low, high),
    )

    def edit(name: str, text: str) -> str:
        assert name == file
        assert text.count(right) == 1, "the kernel has changed: plant the fault anew"
        return text.replace(right, wrong)

    def same(toolkit: EmulatedToolkit) -> bool:
        try:
            found = compute(toolkit, toolkit.to_device(frames), 25, validity).to_host(
                toolkit, (1, 40)
            )
        except EmulationError as error:
            if str(error).startswith("g++"):
                raise
            return False
        try:
            assert_equal(found, cpu_moments(frames, Trimmed(25), validity))
        except AssertionError:
            return False
        return True

    assert same(EmulatedToolkit(kernel_folder))
    assert not same(EmulatedToolkit(kernel_folder, edit))


def test_a_launch_fits_into_shared_memory() -> None:
    for dtype in FRAME_DTYPES:
        for n_frames in (1, 2, 180, 720, 1000, 4096, 5000, 65535):
            for n_blocks in (0, 18, n_frames):
                launch = Launch.of(dtype, n_frames, n_blocks)
                assert launch.size >= n_frames
                assert launch.team == 256 or launch.teams * launch.bytes <= ranked.SHARED
                assert launch.scratch_bytes(10**7) <= max(ranked.SCRATCH, launch.bytes)
                assert launch.bytes % 16 == 0
