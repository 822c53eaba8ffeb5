"""Uploads, memory, and masks in many launches, of the CUDA backend only.

It is emulated, and on a device if there is one.
"""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from cpu_fallback import CpuBackend
from emulator.arrays import MEMORY
from emulator.emulated import EmulatedToolkit
from gpu_spots.backend import Backend
from gpu_spots.background.methods import Trimmed
from gpu_spots.cuda import components as cuda_components
from gpu_spots.cuda import masks as cuda_masks
from gpu_spots.cuda.backend import GpuBackend
from gpu_spots.cuda.packed import PackedMasks, words_for
from gpu_spots.errors import InputError, OutOfDeviceMemory
from gpu_spots.files.frames import ArrayStack
from gpu_spots.memory import plan
from gpu_spots.memory.needs import Place, Work
from gpu_spots.model import FRAME_DTYPES, Morphology, Validity
from gpu_spots.parameters import Parameters
from helpers import (
    assert_same,
    background_of,
    images_of,
    means_of,
    moments_of,
    run,
    series,
)

COLUMNS = {"angle": np.tile([1.0, 2.0, 3.0], 8), "laser_on": np.arange(24) // 3 % 2}


def device_frames(backend: Any, held: Any) -> np.ndarray:
    """Back on the host."""
    return backend.toolkit.call(lambda: backend.toolkit.to_host(held))


@pytest.mark.sanitize
@pytest.mark.parametrize("dtype", FRAME_DTYPES, ids=str)
def test_uploads_of_any_view(device_backend: Backend, dtype: np.dtype) -> None:
    wide = np.random.default_rng(0).integers(0, 90, (7, 20, 30)).astype(dtype)
    for view in (
        wide,
        wide[:, 3:11],
        wide[1:2],
        wide[::2, ::3, 1::2],
        wide.astype(dtype.newbyteorder(">")),
    ):
        held = device_backend.upload(view)
        assert held.dtype == dtype
        assert np.array_equal(device_frames(device_backend, held), view)
        assert device_backend.upload(held) is held
        assert device_backend.upload(held[:, 1:2]).shape == view[:, 1:2].shape


@pytest.mark.sanitize
def test_large_uploads_go_in_pieces(
    device_backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpu_spots.cuda.backend.UPLOAD_BYTES", 2 * 20 * 30 * 2)
    frames = np.arange(7 * 20 * 30, dtype=np.uint16).reshape(7, 20, 30)
    assert np.array_equal(device_frames(device_backend, device_backend.upload(frames)), frames)


@pytest.mark.sanitize
def test_frames_are_staged_by_several_threads(device_backend: Backend) -> None:
    frames = np.arange(40 * 6 * 5, dtype=np.int32).reshape(40, 6, 5)
    held = device_backend.allocate(frames.shape, frames.dtype)

    def stage(first: int) -> None:
        for begin in range(first, 40, 8):
            with device_backend.staging(held, begin, begin + 2) as slot:
                assert slot.flags.c_contiguous
                slot[...] = frames[begin : begin + 2]

    threads = [threading.Thread(target=stage, args=(2 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert np.array_equal(device_frames(device_backend, held), frames)
    found = moments_of(device_backend, held[:, 2:5], Trimmed(25), Validity())
    assert np.array_equal(
        found.total, moments_of(CpuBackend(1), frames[:, 2:5], Trimmed(25), Validity()).total
    )


@pytest.mark.sanitize
def test_a_failed_read_leaves_the_slot_to_others(device_backend: Backend) -> None:
    held = device_backend.allocate((2, 3, 4), np.dtype("uint8"))

    def fails() -> None:
        with device_backend.staging(held, 0, 1):
            raise OSError("not read")

    for _ in range(20):
        with pytest.raises(OSError, match="not read"):
            fails()
    assert device_frames(device_backend, device_backend.upload(np.ones((2, 3, 4), np.uint8))).all()


@pytest.mark.sanitize
@pytest.mark.parametrize(
    ("erosions", "dilations"),
    [(9, 0), (0, 9), (8, 8), (3, 40), (17, 20), (200, 300), (10**9, 10**9), (0, 10**9)],
)
@pytest.mark.parametrize("connectivity", [1, 2])
def test_many_steps_equal_scipy(
    device_backend: Backend, erosions: int, dilations: int, connectivity: int
) -> None:
    """More than one launch is needed. This number of steps has the effect of any larger one."""
    rng = np.random.default_rng(5)
    images = np.ones((2, 75, 130), np.uint8)
    images[0, 30, 60] = images[0, 70, 3] = 0
    images[1] = rng.random((75, 130)) < 0.001 if not erosions else images[1]
    prepared = device_backend.prepare(
        background_of(np.ones(images.shape[1:], np.int32), np.dtype("uint8")),
        Morphology(erosions, dilations, connectivity),
        None,
    )
    found = images_of(
        device_backend, device_backend.find_masks(device_backend.upload(images), prepared).filtered
    )
    structure = ndimage.generate_binary_structure(2, connectivity)
    for image, mask in zip(images.astype(bool), found, strict=True):
        expected = image
        if erosions:
            expected = ndimage.binary_erosion(expected, structure, min(erosions, 250))
        if dilations:
            expected = ndimage.binary_dilation(expected, structure, min(dilations, 250))
        assert np.array_equal(mask, expected)


@pytest.mark.sanitize
def test_more_masks_than_can_be_numbered_at_once(
    device_backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks = device_backend.empty_masks(5, (30, 50))
    images = (np.random.default_rng(1).random((5, 30, 50)) < 0.2).astype(np.uint8)
    prepared = device_backend.prepare(
        background_of(np.ones((30, 50), np.int32), np.dtype("uint8")), Morphology(0, 0, 1), None
    )
    masks = device_backend.find_masks(device_backend.upload(images), prepared).raw
    whole = device_backend.components(masks, 2)
    monkeypatch.setattr(cuda_components, "MOST_WORDS", 2 * 30 * words_for(50))
    parts = device_backend.components(masks, 2)
    for name in ("pixels", "begin", "box", "first"):
        assert np.array_equal(getattr(parts, name), getattr(whole, name))
        assert getattr(parts, name).dtype == getattr(whole, name).dtype


@pytest.mark.sanitize
@pytest.mark.parametrize("sync", ["none", "pairs", "blocks"])
def test_results_do_not_depend_on_bands_or_batches(
    device_backend: Backend, sync: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(2)
    frames = rng.poisson(40, (24, 33, 50)).astype(np.uint16)
    frames[rng.random(frames.shape) < 0.02] += 200
    parameters = Parameters.manual(angles=3, sync=sync, erosions=0)
    expected = run(frames, parameters, CpuBackend(1), COLUMNS)
    for band, batch in [(60, 33 * 50), (700, 7 * 33 * 50), (10**6, 10**9)]:
        monkeypatch.setattr(plan, "BAND_PIXELS", band)
        monkeypatch.setattr(plan, "BATCH_PIXELS", batch)
        assert_same(run(frames, parameters, device_backend, COLUMNS), expected)


@pytest.fixture
def emulated(make_backend: Callable[[str], Backend]) -> Backend:
    """Return an emulated backend whose memory can be inspected."""
    return make_backend("emulated")


@pytest.mark.parametrize(
    "dtype", [np.dtype("uint8"), np.dtype("uint32"), np.dtype("float64")], ids=str
)
def test_a_batch_takes_no_more_memory_than_was_said(emulated: Backend, dtype: np.dtype) -> None:
    """With one pixel in 20 set, the bound is at most a fifth too high."""
    rng, shape = np.random.default_rng(3), (200, 300)
    frames = (rng.random((4, *shape)) < 1 / cuda_set_pixels()).astype(dtype)
    limits = np.ones(shape, np.float64 if dtype.kind == "f" else np.int64)
    background = background_of(
        limits,
        dtype,
        means_of(dtype, shape, rng),
        Validity(np.ones(shape, bool), 0, 50),
        gaps=True,
    )
    prepared = emulated.prepare(background, Morphology(0, 0, 2), 3)
    held = emulated.upload(frames)
    MEMORY.peak = before = MEMORY.live
    found = emulated.find_masks(held, prepared)
    components = emulated.components(found.filtered, 2)
    emulated.measure(held, components, np.arange(4), prepared, None)
    needed = MEMORY.peak - before
    said = emulated.batch_bytes(4, frames[0].size, dtype)
    assert needed <= said <= 1.2 * needed + (1 << 20)


def cuda_set_pixels() -> int:
    from gpu_spots.cuda import memory

    return memory.PIXELS_PER_SET_PIXEL


@pytest.mark.parametrize("share", [0.3, 0.6, 1.2, 3])
def test_a_run_within_any_memory(
    emulated: Backend, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan stays within what is free; where it was wrong, the work is halved.

    The results are the same.
    """
    frames = series(24, (64, 90))
    parameters = Parameters.manual(angles=3, sync="blocks", erosions=0)
    expected = run(frames, parameters, CpuBackend(2), COLUMNS)
    monkeypatch.setattr(MEMORY, "limit", MEMORY.live + int(share * frames.nbytes) + (3 << 20))
    assert_same(run(frames, parameters, emulated, COLUMNS), expected)


def test_memory_that_is_less_than_was_thought(
    emulated: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = series(24, (64, 90))
    parameters = Parameters.manual(angles=3, erosions=0)
    expected = run(frames, parameters, CpuBackend(2), COLUMNS)
    released = 0

    def release() -> None:
        nonlocal released
        released += 1

    # one thread, as what others hold at the moment would be chance
    backend = GpuBackend(emulated.toolkit, 1)  # type: ignore[attr-defined]
    monkeypatch.setattr(emulated.toolkit, "free_bytes", lambda: 1 << 40)  # type: ignore[attr-defined]
    monkeypatch.setattr(emulated.toolkit, "release", release)  # type: ignore[attr-defined]
    monkeypatch.setattr(MEMORY, "limit", MEMORY.live + 2 * frames.nbytes)
    assert_same(run(frames, parameters, backend, COLUMNS), expected)
    assert released


def test_a_file_through_the_device_and_in_parts(
    emulated: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpu_spots.files.frames import open_run
    from gpu_spots.files.output.spots_file import open_spots
    from gpu_spots.resources import Resources
    from gpu_spots.run import Output, find_to_file
    from helpers import Notes, datasets, write_run

    source = write_run(tmp_path / "run__mccd.h5", frames=series(20, (64, 90)))
    results = []
    for i, (backend, room) in enumerate(
        ((CpuBackend(2), 0), (emulated, 100 << 20), (emulated, 4 << 20))
    ):
        monkeypatch.setattr(MEMORY, "limit", MEMORY.live + room)
        with open_run(source) as stack:
            output = Output(tmp_path / f"{i}.h5")
            find_to_file(stack, Parameters.manual(), Resources(backend), output, Notes())
        with open_spots(tmp_path / f"{i}.h5") as spots:
            results.append(datasets(spots._file))
    assert_same(results[1], results[0])
    assert_same(results[2], results[0])


def test_a_device_that_is_too_small(emulated: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MEMORY, "limit", MEMORY.live + (2 << 20))
    with pytest.raises(
        InputError,
        match=r"24 frames of 64 x 90 need at least \d+ MiB of GPU memory, 2 MiB are available$",
    ):
        run(series(24, (64, 90)), Parameters.manual(angles=0), emulated)


@pytest.mark.parametrize("when", ["before", "while frames are read"])
def test_frames_that_cannot_stay_on_the_device_after_all(
    emulated: Backend, when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpu_spots.files.frames import open_run
    from gpu_spots.files.output.spots_file import open_spots
    from gpu_spots.resources import Resources
    from gpu_spots.run import Output, find_to_file
    from helpers import Notes, datasets, write_run

    frames = series(20, (64, 90))
    source = write_run(tmp_path / "run__mccd.h5", frames=frames)
    with open_run(source) as stack:
        output = Output(tmp_path / "expected.h5")
        find_to_file(stack, Parameters.manual(), Resources(CpuBackend(1)), output, Notes())
    backend, notes, staged = GpuBackend(emulated.toolkit, 1), Notes(), []  # type: ignore[attr-defined]
    monkeypatch.setattr(backend.toolkit, "free_bytes", lambda: 1 << 40)
    if when == "before":
        monkeypatch.setattr(MEMORY, "limit", MEMORY.live + frames.nbytes // 2)
    else:
        staging = backend.staging

        def full_once(*given: Any) -> Any:
            staged.append(MEMORY.live)
            if len(staged) == 5:
                raise OutOfDeviceMemory("GPU 0: out of memory")
            return staging(*given)

        monkeypatch.setattr(backend, "staging", full_once)
    with open_run(source) as stack:
        output = Output(tmp_path / "found.h5")
        summary = find_to_file(stack, Parameters.manual(), Resources(backend), output, notes)
    assert summary.plan.place == Place.FILE
    assert "GPU memory ran out, reading the frames in parts instead" in " ".join(notes.warnings)
    # what was read first is not held any more: a band of all rows is as large
    assert max(staged, default=0) < 2 * frames.nbytes
    with (
        open_spots(tmp_path / "expected.h5") as expected,
        open_spots(tmp_path / "found.h5") as found,
    ):
        assert_same(datasets(found._file), datasets(expected._file))


@pytest.mark.parametrize(
    "sizes", [[0], [3, 0, 5], [1] * 1024, [7] * 1025, [2**20] * 1000, list(range(5000))], ids=len
)
def test_running_sums(kernel_folder: Path, sizes: list[int]) -> None:
    """One and several steps of the block give the sums; nothing is written after the last one."""
    toolkit = EmulatedToolkit(kernel_folder)
    begins = toolkit.to_device(np.full(len(sizes) + 2, -1, np.int64))
    values = toolkit.to_device(np.array(sizes, np.int32))
    toolkit.kernel("components", "scan")((1,), (256,), (values, np.int32(len(sizes)), begins))
    assert toolkit.to_host(begins).tolist() == [
        0,
        *np.cumsum(np.array(sizes, np.int64)).tolist(),
        -1,
    ]


@pytest.mark.parametrize(("mib", "rows", "frames"), [(12, 20, 1), (24, 50, 4), (256, 262, 30)])
def test_bands_and_batches_share_what_a_small_device_has(
    kernel_folder: Path, mib: int, rows: int, frames: int
) -> None:
    """Bands and batches that need too much device memory are halved, for any host memory."""
    backend = GpuBackend(EmulatedToolkit(kernel_folder), 2)
    backend.toolkit.free_bytes = lambda: mib << 20  # type: ignore[method-assign]
    stack = ArrayStack(np.zeros((60, 400, 500), np.uint16), {"angle": np.arange(60.0)})
    made = plan.make_plan(stack, Work(Trimmed(25), False, None), backend, plan.ResourceLimits())
    assert made.device_bytes is not None
    assert made.device_bytes <= mib << 20
    assert made.band_rows >= rows
    assert made.batch_frames >= frames


def test_masks_are_fetched_in_parts(kernel_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through slots as large as the plan says, all kinds of some frames in each."""
    toolkit = EmulatedToolkit(kernel_folder)
    words = np.random.default_rng(0).integers(0, 2**32, (2, 7, 5, 3), np.uint32)
    monkeypatch.setattr(cuda_masks, "FETCH_BYTES", 3 * words[:, 0].nbytes)
    sizes, host_copies = [], toolkit.host_copies

    def noted(arrays: Any) -> Any:
        sizes.append([len(array) for array in arrays])
        return host_copies(arrays)

    monkeypatch.setattr(toolkit, "host_copies", noted)
    masks = [PackedMasks(toolkit.to_device(each), 70) for each in words]
    fetched = cuda_masks.fetch(toolkit, masks)
    assert sizes == [[3, 3], [3, 3], [1, 1]]
    assert np.array_equal(np.stack([each.octets for each in fetched]), words.view(np.uint8))
    assert cuda_masks.fetch(toolkit, []) == []
