"""Runs beyond 2^31 pixels, and the memory and its limit, on a CUDA device.

`pytest -m gpu` runs these and the whole contract on it; `-m "gpu and not large"` leaves out what
needs 15 GiB of memory.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from cpu_fallback import CpuBackend
from factories.plans import COLUMNS, MODES, force, results, saved
from gpu_spots.backend import Backend, select_backend
from gpu_spots.background.methods import Trimmed
from gpu_spots.cuda.packed import PackedMasks
from gpu_spots.errors import BackendError, OutOfDeviceMemory
from gpu_spots.files.frames import ArrayStack, open_run
from gpu_spots.memory.needs import Place
from gpu_spots.model import Morphology, Validity
from gpu_spots.parameters import Parameters
from helpers import (
    Notes,
    assert_same,
    background_of,
    command,
    datasets,
    images_of,
    moments_of,
    run,
    series,
    write_run,
)

pytestmark = pytest.mark.gpu

GIB = 1 << 30


@pytest.fixture
def gpu(make_backend: Callable[[str], Backend]) -> Any:
    return make_backend("gpu")


@pytest.fixture
def limited() -> Callable[[int], Any]:
    """Backends that may take so many bytes of the device."""

    def make(limit: int) -> Any:
        try:
            return select_backend("gpu", threads=2, device_memory_limit=limit)
        except BackendError as error:
            pytest.skip(str(error))

    return make


@pytest.fixture
def two() -> Backend:
    """The first two devices."""
    try:
        return select_backend("gpu", threads=4, device=[0, 1])
    except BackendError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("place", [Place.MEMORY, Place.FILE, Place.SCRATCH, Place.DEVICE])
@pytest.mark.parametrize("mode", MODES)
def test_runs_on_two_devices(
    two: Backend, mode: str, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = series(30, (400, 500))
    expected = results(ArrayStack(frames, COLUMNS), MODES[mode], CpuBackend(2), tmp_path, Notes())
    force(monkeypatch, place=place, band_rows=20, batch_frames=2)
    with open_run(
        saved(tmp_path / "x.h5", frames, chunks=(1, 400, 500), compression="gzip")
    ) as stack:
        assert_same(results(stack, MODES[mode], two, tmp_path, Notes()), expected)


@pytest.mark.usefixtures("two")
def test_the_command_on_two_devices(tmp_path: Path) -> None:
    source = write_run(tmp_path / "run__mccd.h5", frames=series(20, (400, 500)))
    found = {}
    for i, options in enumerate((["--device", "0,1"], ["--device", "1"], ["--backend", "cpu"])):
        output = tmp_path / f"{i}.h5"
        ended = command(source, *options, "-S", "pairs", "-o", output)
        assert ended.status == 0, ended.stderr
        with h5py.File(output) as file:
            found[i] = datasets(file)
    assert_same(found[0], found[2])
    assert_same(found[1], found[2])


@pytest.fixture
def huge(gpu: Any) -> tuple[np.ndarray, Any]:
    """1000 frames of 2048 x 2048, on the host and on the device."""
    shape = (1000, 2048, 2048)
    n_bytes = 2 * int(np.prod(shape, dtype=np.int64))
    if gpu.free_bytes() < 1.5 * n_bytes:
        pytest.skip(
            f"{gpu.free_bytes() / GIB:.0f} GiB of device memory are free, "
            f"{1.5 * n_bytes / GIB:.0f} GiB are needed"
        )
    rng = np.random.default_rng(1)
    pattern = rng.poisson(300, (2048 + 64, 2048 + 64)).astype(np.uint16)
    pattern[rng.random(pattern.shape) < 1e-3] = 9000
    frames = np.empty(shape, np.uint16)
    for i, frame in enumerate(frames):
        x, y = i % 61, i * 7 % 59
        np.add(pattern[x : x + 2048, y : y + 2048], i % 13, out=frame)
    return frames, gpu.upload(frames)


@pytest.mark.large
def test_bands_of_more_than_2_to_31_values(gpu: Any, huge: tuple[np.ndarray, Any]) -> None:
    frames, held = huge
    for begin in (0, 1023, 2046):
        rows = slice(begin, begin + 2)
        found = moments_of(gpu, held[:, rows], Trimmed(25), Validity())
        expected = moments_of(CpuBackend(1), frames[:, rows], Trimmed(25), Validity())
        for name in ("kept", "total", "scatter_low", "iqr4", "max", "arg"):
            assert np.array_equal(getattr(found, name), getattr(expected, name)), name


@pytest.mark.large
def test_batches_of_more_than_2_to_31_pixels(gpu: Any, huge: tuple[np.ndarray, Any]) -> None:
    """All masks are found, labelled and measured at once; the last ones are compared."""
    frames, held = huge
    cpu = CpuBackend(1)
    background = background_of(np.full(frames.shape[1:], 5000, np.int32), frames.dtype)
    here, there = (backend.prepare(background, Morphology(0, 2, 2), 9005) for backend in (cpu, gpu))
    masks = gpu.find_masks(held, there).filtered
    found = gpu.components(masks, 2)
    measured = gpu.measure(held, found, np.arange(len(frames)), there, None)
    last = slice(len(frames) - 3, len(frames))
    expected_masks = cpu.find_masks(frames[last], here).filtered
    assert np.array_equal(images_of(gpu, masks[last]), images_of(cpu, expected_masks))
    expected = cpu.components(expected_masks, 2)
    first = found.first[-4]
    assert np.array_equal(found.first[-4:] - first, expected.first)
    assert np.array_equal(found.box[first:], expected.box)
    assert np.array_equal(found.pixels[found.begin[first] :], expected.pixels)
    sums = cpu.measure(frames[last], expected, np.arange(3), here, None)
    for name in ("total", "background_high", "background_low", "peak", "overload"):
        assert np.array_equal(getattr(measured, name)[first:], getattr(sums, name)), name


def test_the_limit_holds(limited: Callable[[int], Any]) -> None:
    backend = limited(64 << 20)
    assert backend.free_bytes() <= 64 << 20
    with pytest.raises(OutOfDeviceMemory, match="GPU 0: out of memory"):
        backend.allocate((70, 1024, 1024), np.dtype("uint8"))
    # what failed is not counted, and smaller pieces fit
    held = backend.allocate((40, 1024, 1024), np.dtype("uint8"))
    del held
    backend.release()
    assert backend.allocate((60, 1024, 1024), np.dtype("uint8")).shape == (60, 1024, 1024)


@pytest.mark.parametrize("limit", [9 << 20, 24 << 20, 256 << 20])
def test_a_run_within_a_limit(limited: Callable[[int], Any], limit: int) -> None:
    frames, parameters = series(60, (400, 500)), Parameters.manual(angles=0, erosions=0)
    assert_same(run(frames, parameters, limited(limit)), run(frames, parameters, CpuBackend(2)))


def test_memory_that_is_less_than_was_thought(
    limited: Callable[[int], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    frames, parameters = series(60, (400, 500)), Parameters.manual(angles=0, erosions=0)
    backend = limited(24 << 20)
    monkeypatch.setattr(backend.toolkit, "free_bytes", lambda: 1 << 40)
    assert_same(run(frames, parameters, backend), run(frames, parameters, CpuBackend(2)))


def test_a_batch_takes_no_more_memory_than_was_said(gpu: Any) -> None:
    """Memory is that of the pool's own count, in blocks of 512 bytes."""
    import cupy

    rng, shape = np.random.default_rng(3), (800, 1000)
    frames = (rng.random((4, *shape)) < 1 / 20).astype(np.uint16)
    prepared = gpu.prepare(
        background_of(np.ones(shape, np.int32), frames.dtype), Morphology(0, 0, 2), 3
    )
    held, peak = gpu.upload(frames), 0
    pool = gpu.toolkit._pool
    before = pool.used_bytes()

    class Hook(cupy.cuda.MemoryHook):  # type: ignore[misc]
        name = "peak"

        def malloc_postprocess(self, **_: Any) -> None:
            nonlocal peak
            peak = max(peak, pool.used_bytes() - before)

    with Hook():
        masks: PackedMasks = gpu.find_masks(held, prepared).filtered
        gpu.measure(held, gpu.components(masks, 2), np.arange(4), prepared, None)
    assert 0 < peak <= gpu.batch_bytes(4, frames[0].size, frames.dtype)
