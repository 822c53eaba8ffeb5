"""Maps that the device computes from moments: those of the host, to the bit.

Some stay there for masks and sums.
"""

import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cpu_fallback import CpuBackend
from cpu_fallback.background import moments as cpu_moments
from emulator.emulated import EmulatedToolkit
from factories.moments import KINDS, SHORT, frames_of, small_stacks, validities
from factories.plans import Device, Stack, planned
from gpu_spots.backend import Backend
from gpu_spots.background.maps import PIECE, BackgroundMaps
from gpu_spots.background.methods import KruskalWallis, Method, Trimmed, critical_values
from gpu_spots.cuda.backend import GpuBackend
from gpu_spots.cuda.background import HeldBackground, evaluated
from gpu_spots.cuda.moments import PlaneMoments
from gpu_spots.cuda.planes import most_frames
from gpu_spots.cuda.toolkit import MAP_BYTES
from gpu_spots.memory import needs
from gpu_spots.model import FRAME_DTYPES, Background, FixedPointMean, Morphology, Validity
from helpers import assert_same, background_of, fetched, means_of

MAPS = ("avg", "std", "iqr", "max", "arg", "threshold", "n_used", "dropped")


def method_of(n_frames: int, n_blocks: int, percent: int = 25) -> Method:
    """Kruskal-Wallis with that many blocks, or n_removed for none."""
    if not n_blocks:
        return Trimmed(percent)
    return KruskalWallis(np.arange(n_frames) * n_blocks // n_frames, critical_values(0.3, n_blocks))


def learnt(
    backend: Backend,
    frames: np.ndarray,
    validity: Validity,
    cutoff: float = 3.0,
    percent: int = 25,
    n_blocks: int = 0,
    band: int = 3,
) -> Background:
    """The background of a stack by ``band`` rows at a time, as the first pass makes it."""
    shape, method = frames.shape[1:], method_of(len(frames), n_blocks, percent)
    held = backend.allocate_background(frames.shape, frames.dtype, method)
    maps = BackgroundMaps(shape, frames.dtype, cutoff, varies=method.varies, held=held)
    whole = backend.upload(frames)
    for begin in range(0, shape[0], band):
        end = min(begin + band, shape[0])
        maps.gaps |= backend.background(
            whole[:, begin:end], method, validity.rows(begin, end), maps.rows(begin, end)
        )
    return maps.finish(validity)


def bits_of(background: Background) -> dict[str, np.ndarray]:
    """Return all maps of the pixels, floats as their bits."""
    mean = background.mean
    arrays = {name: getattr(background, name) for name in MAPS}
    if isinstance(mean, FixedPointMean):
        arrays |= {"scale": np.array(mean.scale), "high": mean.high, "low": mean.low}
    else:
        arrays["mean"] = mean
    arrays |= {"pixels": background.validity.pixels, "gaps": np.array(background.gaps)}
    return {
        name: values.view(f"u{values.itemsize}") if values.dtype.kind == "f" else values
        for name, values in arrays.items()
        if values is not None
    }


def assert_equal(found: Background, expected: Background) -> None:
    ours, theirs = bits_of(found), bits_of(expected)
    assert ours.keys() == theirs.keys()
    assert_same(ours, theirs)


@pytest.mark.sanitize
@pytest.mark.parametrize("cutoff", [0.0, 0.1, 1.0, 3.0, 1e5, 1e308])
@pytest.mark.parametrize("dtype", SHORT, ids=str)
def test_maps_equal_the_hosts(device_backend: Backend, dtype: np.dtype, cutoff: float) -> None:
    for kind in KINDS:
        frames = frames_of(dtype, (33, 7, 61), kind)
        if kind == "noise":
            frames[:, 3] = np.arange(61) % 4  # constant pixels
        for validity in validities(frames):
            for percent in (25, 0, 99):
                found = learnt(device_backend, frames, validity, cutoff, percent)
                assert found.held is not None
                assert_equal(found, learnt(CpuBackend(1), frames, validity, cutoff, percent))


@pytest.mark.sanitize
@pytest.mark.parametrize("n_blocks", [0, 5])
@pytest.mark.parametrize("dtype", FRAME_DTYPES, ids=str)
def test_every_type_and_method_equals_the_cpu(
    device_backend: Backend, dtype: np.dtype, n_blocks: int
) -> None:
    """Bands of one row and of more, one frame of one pixel, values as large as can be."""
    for kind in KINDS:
        for n_frames, shape in ((30, (5, 19)), (10, (1, 1)), (10, (3, 1))):
            frames = frames_of(dtype, (n_frames, *shape), kind)
            for validity in validities(frames):
                found = learnt(device_backend, frames, validity, n_blocks=n_blocks, band=2)
                assert_equal(
                    found, learnt(CpuBackend(1), frames, validity, n_blocks=n_blocks, band=2)
                )


@pytest.mark.sanitize
@pytest.mark.parametrize("dtype", SHORT, ids=str)
def test_one_frame_and_a_few(device_backend: Backend, dtype: np.dtype) -> None:
    """With one frame every pixel is masked, although every value is valid."""
    for n_frames in (1, 2, 3):
        frames = frames_of(dtype, (n_frames, 4, 9), "full range")
        found = learnt(device_backend, frames, Validity(), percent=0)
        assert_equal(found, learnt(CpuBackend(1), frames, Validity(), percent=0))
        assert (found.validity.pixels is not None) == (n_frames == 1)


@pytest.mark.sanitize
@settings(
    deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.sampled_from(SHORT).flatmap(small_stacks),
    st.integers(0, 99),
    st.sampled_from(
        [Validity(), Validity(low=1), Validity(high=2), Validity(np.arange(5)[None] > 1, 1, 200)]
    ),
    st.sampled_from([0.0, 1.0, 3.0]) | st.floats(0, 1e300),
)
def test_any_small_stack(
    device_backend: Backend, frames: np.ndarray, percent: int, validity: Validity, cutoff: float
) -> None:
    assert_equal(
        learnt(device_backend, frames, validity, cutoff, percent),
        learnt(CpuBackend(1), frames, validity, cutoff, percent),
    )


@pytest.mark.sanitize
def test_the_smallest_results(device_backend: Backend) -> None:
    """One count in the largest number of frames is above the values that -ftz=true takes for 0."""
    frames = np.zeros((most_frames(np.dtype("uint8")), 1, 40), np.uint8)
    frames[7, 0, 3:] = 1
    found = learnt(device_backend, frames, Validity(), percent=0)
    assert_equal(found, learnt(CpuBackend(1), frames, Validity(), percent=0))
    assert found.avg[0, 3] == np.float32(1 / 4096)
    assert found.avg[0, 0] == found.std[0, 0] == 0


def any_moments(toolkit: EmulatedToolkit, dtype: np.dtype) -> PlaneMoments:
    """Draw moments of samples of any size, up to the largest possible."""
    rng, low, high = np.random.default_rng(3), int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    kept = rng.integers(2, most_frames(dtype) + 1, 4000)
    kept[:2], kept[2::50] = most_frames(dtype), 0
    total = rng.integers(kept * low, kept * high + 1)
    total[0], total[1] = kept[0] * high, kept[1] * low
    # m^2 times the variance, which is largest where half of the values are at either end
    scatter = [int(rng.random() * (m * (high - low) // 2) ** 2) for m in kept.tolist()]
    # averages that are whole, or are so with their deviation or a hundred of it: a last digit that
    # is rounded otherwise moves the threshold
    whole, root = rng.integers(low, high, len(kept)), rng.integers(0, kept + 1)
    total[::3], scatter[::3] = (whole * kept)[::3], (root**2)[::3].tolist()
    total[1::3], scatter[1::3] = (
        (whole * kept - root)[1::3].clip(kept[1::3] * low),
        (root**2)[1::3].tolist(),
    )
    total[2::6], scatter[2::6] = (-100 * root % np.maximum(kept, 1))[2::6], (root**2)[2::6].tolist()
    return PlaneMoments(
        kept=toolkit.to_device(kept.astype(np.uint16)),
        total=toolkit.to_device((total % 2**32).astype(np.uint32)),
        scatter=toolkit.to_device(np.array(scatter, np.uint64)),
        iqr4=toolkit.to_device(rng.integers(0, 4 * (high - low) + 1, len(kept)).astype(np.int32)),
        max=toolkit.to_device(np.zeros(len(kept), dtype)),
        arg=toolkit.to_device(np.zeros(len(kept), np.uint16)),
        gaps=toolkit.to_device(np.zeros(1, np.int32)),
    )


def map_that_differs(toolkit: EmulatedToolkit, dtype: np.dtype, cutoff: float) -> str | None:
    """Return the first map in which device and host differ; None: there is none."""
    moments = any_moments(toolkit, dtype)
    found = evaluated(toolkit, moments, cutoff)
    maps = BackgroundMaps((1, len(moments.kept)), dtype, cutoff, varies=False)
    maps.rows(0, 1).fill(moments.to_host(toolkit, (1, len(moments.kept))))
    expected = maps.finish(Validity())
    for name in ("avg", "std", "iqr", "threshold"):
        ours, theirs = toolkit.to_host(getattr(found, name)), getattr(expected, name)[0]
        if ours.dtype != theirs.dtype or not np.array_equal(
            ours.view(np.uint32), theirs.view(np.uint32)
        ):
            return name
    return None


@pytest.mark.sanitize
@pytest.mark.emulated
@pytest.mark.parametrize("cutoff", [0.0, 1.0, 100.0, 1e308])
@pytest.mark.parametrize("dtype", SHORT, ids=str)
def test_any_moments_equal_the_hosts(kernel_folder: Path, dtype: np.dtype, cutoff: float) -> None:
    assert map_that_differs(EmulatedToolkit(kernel_folder), dtype, cutoff) is None


@pytest.mark.sanitize
@pytest.mark.parametrize("dtype", SHORT, ids=str)
def test_what_is_held_is_what_would_be_uploaded(device_backend: Any, dtype: np.dtype) -> None:
    """Limits and means, with and without masked pixels and missing values."""
    for kind in KINDS:
        frames = frames_of(dtype, (33, 7, 61), kind)
        for validity in validities(frames):
            background = learnt(device_backend, frames, validity)
            held, sent = (
                device_backend.prepare(each, Morphology(1, 2, 2), 3)
                for each in (background, replace(background, held=None))
            )
            assert held.limits is background.held.below
            assert (held.mean.low is background.held.total) == (not background.gaps)
            assert held.value_range == sent.value_range
            for name in ("limits", "valid"):
                assert_same_there(device_backend, getattr(held, name), getattr(sent, name))
            for name in ("low", "float"):
                assert_same_there(
                    device_backend, getattr(held.mean, name), getattr(sent.mean, name)
                )
            if held.mean.low_is_signed:
                signs = fetched(device_backend, held.mean.low).view(np.int32) >> 31
                assert held.mean.high is None
                assert np.array_equal(fetched(device_backend, sent.mean.high), signs)
            else:
                assert_same_there(device_backend, held.mean.high, sent.mean.high)


def assert_same_there(backend: Any, ours: Any, theirs: Any) -> None:
    """Two arrays of the device, or nothing twice."""
    assert (ours is None) == (theirs is None)
    if ours is not None:
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype
        assert np.array_equal(fetched(backend, ours), fetched(backend, theirs))


@pytest.mark.sanitize
def test_what_is_not_made_on_the_device_is_not_held_there(device_backend: Backend) -> None:
    short, wide = np.dtype("uint16"), np.dtype("uint32")
    for shape, dtype, method, held in (
        ((2048, 4, 5), short, Trimmed(25), True),
        ((2049, 4, 5), short, Trimmed(25), False),
        ((4096, 4, 5), np.dtype("uint8"), Trimmed(25), True),
        ((20, 4, 5), wide, Trimmed(25), False),
        ((20, 4, 5), np.dtype("float32"), Trimmed(25), False),
        ((20, 4, 5), short, method_of(20, 5), False),
    ):
        found = device_backend.allocate_background(shape, dtype, method)
        assert (found is not None) == held
        if isinstance(found, HeldBackground):
            assert found.below.shape == found.total.shape == shape[1:]
            assert found.below.dtype == dtype


@pytest.mark.sanitize
@pytest.mark.parametrize("dtype", FRAME_DTYPES, ids=str)
def test_maps_that_are_uploaded_in_pieces(
    device_backend: Any, dtype: np.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thresholds of which some let every value pass, too."""
    rng, shape = np.random.default_rng(1), (23, 40)
    monkeypatch.setattr("gpu_spots.cuda.toolkit.MAP_BYTES", 1000)
    is_float, lowest = dtype.kind == "f", -5 if dtype.kind == "f" else int(np.iinfo(dtype).min)
    for least in (lowest, lowest + 1):
        threshold = (
            rng.integers(least, 90, shape) if least else rng.integers(0, 90, shape)
        ).astype(np.float64 if is_float else np.int64)
        threshold[4, 5] = least
        background = background_of(threshold, dtype, means_of(dtype, shape, rng))
        prepared = device_backend.prepare(background, Morphology(0, 0, 1), None)
        limits = fetched(device_backend, prepared.limits)
        assert limits.dtype == (np.float64 if is_float else np.int64 if least == lowest else dtype)
        assert np.array_equal(limits, threshold if is_float else threshold - 1)
        mean: Any = background.mean
        on_device = prepared.mean
        if is_float:
            assert np.array_equal(fetched(device_backend, on_device.float), mean)
        else:
            assert np.array_equal(fetched(device_backend, on_device.high), mean.high)
            assert np.array_equal(fetched(device_backend, on_device.low), mean.low)


class Counting(EmulatedToolkit):
    """Toolkit that counts waits of the host, fetched bytes, and the largest fetch."""

    waits = n_bytes = most_bytes = 0

    def to_host(self, array: Any) -> np.ndarray:
        self.waits, self.n_bytes = self.waits + 1, self.n_bytes + array.nbytes
        return super().to_host(array)

    @contextmanager
    def host_copies(self, arrays: Sequence[Any]) -> Iterator[list[np.ndarray]]:
        waits = self.waits
        with super().host_copies(arrays) as lent:
            self.waits, self.most_bytes = (
                waits + 1,
                max(self.most_bytes, sum(array.nbytes for array in arrays)),
            )
            yield lent


@pytest.mark.emulated
@pytest.mark.parametrize(
    ("dtype", "n_bytes"), [("uint8", 25), ("uint16", 26), ("uint32", 44), ("float32", 36)]
)
def test_a_band_costs_one_wait(kernel_folder: Path, dtype: str, n_bytes: int) -> None:
    """avg, std, iqr, threshold, sums, kept, max and arg of short frames; the moments of others."""
    toolkit = Counting(kernel_folder)
    frames = frames_of(np.dtype(dtype), (20, 6, 50), "noise")
    background = learnt(GpuBackend(toolkit, 1), frames, Validity(), band=2)
    assert toolkit.waits == 3
    assert toolkit.n_bytes == n_bytes * 300 + 3 * 4
    toolkit.waits = toolkit.n_bytes = 0
    GpuBackend(toolkit, 1).prepare(background, Morphology(1, 2, 2), None)
    assert toolkit.waits == 0


@pytest.mark.emulated
@pytest.mark.parametrize("n_blocks", [0, 4])
@pytest.mark.parametrize("dtype", FRAME_DTYPES, ids=str)
def test_a_band_takes_no_more_of_the_host_than_the_plan_says(
    kernel_folder: Path, dtype: np.dtype, n_blocks: int
) -> None:
    """Memory is taken in pinned memory, and for the step from moments to maps.

    Most is needed if every sum of squares has two words.
    """
    toolkit, n_pixels = Counting(kernel_folder), 40 * 50
    frames = frames_of(dtype, (12, 40, 50), "full range")
    learnt(GpuBackend(toolkit, 1), frames, Validity(), n_blocks=n_blocks, band=40)
    assert toolkit.most_bytes <= needs.OF_SLOT * n_pixels + (1 << 12)
    for shape in ((40, 50), (200, 201)):
        maps = BackgroundMaps(shape, dtype, 3.0, varies=n_blocks > 0)
        moments = cpu_moments(frames_of(dtype, (12, *shape), "full range"), Trimmed(0), Validity())
        tracemalloc.start()
        maps.rows(0, shape[0]).fill(moments)
        needed = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert needed <= needs.OF_MOMENTS * min(shape[0] * shape[1], PIECE) + (1 << 14)
    assert MAP_BYTES <= needs.MAP_PIECE


def test_a_stack_on_a_device_is_worked_on_in_larger_bands() -> None:
    stack = Stack((180, 2048, 2048), None)
    assert planned(stack, Device(2**36), memory=2**34).band_rows == 128
    assert planned(stack, Device(2**36), memory=2**34, scales=True).band_rows == 64
    assert planned(stack, Device(2**30), memory=2**34).band_rows == 64
    assert planned(Stack((60000, 2048, 2048), None), Device(2**40), memory=2**34).band_rows == 128


FAULTS = {
    "the sample's size": ("kept[pixel] ? kept[pixel] : 1", "kept[pixel] ? kept[pixel] + 1 : 1"),
    "a division by zero": ("kept[pixel] ? kept[pixel] : 1", "kept[pixel]"),
    "signs": ("is_signed ? (f64)(i32)sum", "!is_signed ? (f64)(i32)sum"),
    "a root in float32": ("sqrt((f64)scatter[pixel])", "(f64)sqrtf((f32)scatter[pixel])"),
    "a root of a quotient": (
        "sqrt((f64)scatter[pixel]) / m",
        "sqrt((f64)scatter[pixel] / (m * m))",
    ),
    "a quotient by a reciprocal": ("(f64)sum) / m", "(f64)sum) * (1 / m)"),
    "rounding of the threshold": ("ceil(average", "rint(average"),
    "above its average": ("floor(average) + 1", "floor(average)"),
    "a ceiling above the average": ("floor(average) + 1", "ceil(average) + 1"),
    "no limit": ("least > beyond || ", ""),
    "masked pixels": (" || !kept[pixel]", ""),
    "averages that are rounded first": ("average + cutoff", "narrowed(average) + cutoff"),
    "quarters": ("iqr4[pixel] * 0.25", "iqr4[pixel] >> 2"),
    "a limit that is excluded": ("(i32)least - 1)", "(i32)least)"),
    "another sum": ("sums[pixel] = sum", "sums[pixel] = sum + 1"),
    "the last pixel": ("pixel >= n_pixels", "pixel >= n_pixels - 1"),
}


@pytest.mark.emulated
@pytest.mark.parametrize("fault", [None, *FAULTS])
def test_a_planted_fault_is_found(kernel_folder: Path, fault: str | None) -> None:
    """Faults are found by the comparison with the CPU.

    Without a fault there is no difference in the maps and measurements.
    """

    def edit(name: str, text: str) -> str:
        if fault is None or name != "background":
            return text
        right, wrong = FAULTS[fault]
        assert text.count(right) == 1, f"{text.count(right)} places for the fault"
        return text.replace(right, wrong)

    toolkit = EmulatedToolkit(kernel_folder, edit)
    differs = any(
        map_that_differs(toolkit, dtype, cutoff)
        for dtype in SHORT
        for cutoff in (0.0, 1.0, 100.0, 1e308)
    )
    assert (differs or is_held_otherwise(GpuBackend(toolkit, 1))) == (fault is not None)


def is_held_otherwise(backend: Any) -> bool:
    """Return whether the stored background differs from an upload of it."""
    background = learnt(backend, frames_of(np.dtype("uint16"), (34, 7, 61), "noise"), Validity())
    held, sent = (
        backend.prepare(each, Morphology(1, 2, 2), 3)
        for each in (background, replace(background, held=None))
    )
    try:
        assert_same_there(backend, held.limits, sent.limits)
        assert_same_there(backend, held.mean.low, sent.mean.low)
    except AssertionError:
        return True
    return False
