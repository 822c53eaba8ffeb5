"""Several GPUs: every thread has one, and all get bands and batches.

Only packed masks are copied between GPUs.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest

from cpu_fallback import CpuBackend
from emulator.arrays import CROSSED, MEMORIES, DeviceArray
from emulator.emulated import EmulationError
from factories.masks import masks_of
from factories.plans import COLUMNS as PLAN_COLUMNS
from factories.plans import LAYOUTS, MODES, force, results, saved
from gpu_spots import pipeline
from gpu_spots.backend import Backend, select_backend
from gpu_spots.background.methods import Trimmed
from gpu_spots.cuda import devices
from gpu_spots.cuda.several import Assignment, SeveralGpus
from gpu_spots.errors import BackendError, OutOfDeviceMemory, ParameterError
from gpu_spots.files.frames import ArrayStack, open_run
from gpu_spots.memory import plan
from gpu_spots.memory.needs import Place
from gpu_spots.model import Morphology, Validity
from gpu_spots.parameters import Parameters
from gpu_spots.resources import Resources
from helpers import (
    Notes,
    assert_refused,
    assert_same,
    background_of,
    command,
    datasets,
    fetched,
    images_of,
    moments_of,
    run,
    series,
    write_run,
)

COLUMNS = {"angle": np.arange(24) // 6 * 2.0, "laser_on": np.arange(24) % 2}


@pytest.fixture
def several(make_backend: Callable[[str], Backend]) -> SeveralGpus:
    """Two emulated devices."""
    made = make_backend("two emulated")
    assert isinstance(made, SeveralGpus)
    return made


def in_threads(number: int, function: Callable[[], Any]) -> list[Any]:
    """Return the results of a number of threads that run at the same time."""
    together = threading.Barrier(number)

    def one(_: int) -> Any:
        together.wait(10)
        result = function()
        together.wait(10)
        return result

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(one, range(number)))


@pytest.mark.parametrize("n_devices", [2, 3])
def test_threads_are_spread_evenly_whatever_pools_came_before(n_devices: int) -> None:
    assignment = Assignment(n_devices)
    for n_threads in (1, 4, 3, 1, 1, 5, 2, 6):
        counts = np.bincount(in_threads(n_threads, assignment.device), minlength=n_devices)
        assert counts.max() - counts.min() <= 1, n_threads
    # a thread keeps its device, and counts as long as it lives
    mine = assignment.device()
    assert [assignment.device() for _ in range(5)] == [mine] * 5
    assert mine not in in_threads(n_devices - 1, assignment.device)


def test_there_is_a_thread_for_each_device(several: SeveralGpus) -> None:
    assert SeveralGpus(several.backends, 1).workers == 2
    assert SeveralGpus(several.backends, 7).workers == 7
    assert several.device == "emulation 0 and emulation 1"


@pytest.mark.parametrize("place", [Place.MEMORY, Place.FILE, Place.SCRATCH, Place.DEVICE])
@pytest.mark.parametrize("sync", ["none", "blocks"])
def test_all_devices_get_bands_and_batches(
    several: SeveralGpus, place: Place, sync: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first operation of a kind waits for that of the other thread.

    Otherwise one thread might do all of a short run.
    """
    done: dict[str, list[int]] = {}

    def spy(
        name: str,
        device: int,
        operation: Callable[..., Any],
        together: threading.Barrier,
        *args: Any,
        **options: Any,
    ) -> Any:
        done.setdefault(name, []).append(device)
        if done[name].count(device) == 1:
            together.wait(10)
        return operation(*args, **options)

    for name in ("background", "find_masks", "components", "measure"):
        together = threading.Barrier(2)
        for device, backend in enumerate(several.backends):
            monkeypatch.setattr(
                backend, name, partial(spy, name, device, getattr(backend, name), together)
            )
    frames, parameters = series(30), Parameters.manual(angles=0, sync=sync)
    expected = results(
        ArrayStack(frames, PLAN_COLUMNS), parameters, CpuBackend(1), tmp_path, Notes()
    )
    force(monkeypatch, place=place, band_rows=5, batch_frames=2, threads=2)
    with open_run(
        saved(tmp_path / "x.h5", frames, **LAYOUTS["gzip frames"] | {"chunks": (1, 24, 40)})
    ) as stack:
        assert_same(results(stack, parameters, several, tmp_path, Notes()), expected)
    assert {name: set(used) for name, used in done.items()} == {name: {0, 1} for name in done}
    assert {name: len(used) for name, used in done.items()} == {
        "background": 5,
        "find_masks": 15,
        "components": 15 if sync == "none" else 3,
        "measure": 15,
    }


def test_a_shared_stack_is_on_all_devices_and_a_threads_own_is_on_its(several: SeveralGpus) -> None:
    frames = series(6)
    held = several.allocate(frames.shape, frames.dtype, shared=True)
    for begin in (0, 3):
        with several.staging(held, begin, begin + 3) as slot:
            slot[...] = frames[begin : begin + 3]
    assert (held.shape, held.dtype, len(held)) == (frames.shape, frames.dtype, 6)
    for device, backend in enumerate(several.backends):
        assert np.array_equal(fetched(backend, held.on[device]), frames)

    def rows_of_the_thread() -> tuple[int, Any]:
        (device,) = several.allocate((1, 2, 3), frames.dtype).on
        (same,) = several.upload(held[:, 3:9]).on
        (other,) = several.upload(frames[:, 3:9]).on
        assert device == same == other
        # of a stack that is everywhere the thread's device takes its own
        return device, moments_of(several, held[:, 3:9], Trimmed(25), Validity()).total

    found = in_threads(2, rows_of_the_thread)
    assert {device for device, _ in found} == {0, 1}
    expected = moments_of(CpuBackend(1), frames[:, 3:9], Trimmed(25), Validity()).total
    for _, total in found:
        assert np.array_equal(total, expected)


def test_masks_of_groups_meet_on_one_device_by_a_bit_a_pixel(
    several: SeveralGpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = (np.random.default_rng(1).random((4, 20, 40)) < 0.3).astype(np.uint8)
    batches = in_threads(2, lambda: masks_of(several, frames))
    there, here = sorted(batches, key=lambda masks: -masks.device)
    assert (there.device, here.device) == (1, 0)
    crossed = []
    toolkit = several.backends[1].toolkit
    to_host = toolkit.to_host
    monkeypatch.setattr(
        toolkit,
        "to_host",
        lambda array: crossed.append(array.nbytes) or to_host(array),  # type: ignore[func-returns-value]
    )
    onto = several.empty_masks(2, (20, 40))
    for masks in (here[:2], there[2:]):
        several.union(onto, masks, np.array([1, 0]))
    assert onto.device == 0
    # two masks of 20 rows of two words, one by one
    assert crossed == [160, 160]
    assert np.array_equal(images_of(several, onto), frames[[1, 0]] | frames[[3, 2]])
    left = several.without(onto, there[:2])
    assert np.array_equal(
        images_of(several, left), (frames[[1, 0]] | frames[[3, 2]]) & ~frames[:2] & 1
    )
    # they are labelled on the devices of those who ask
    found = in_threads(2, lambda: several.components(onto, 2))
    expected = CpuBackend(1).components(masks_of(CpuBackend(1), frames[[1, 0]] | frames[[3, 2]]), 2)
    for name in ("pixels", "begin", "box", "first"):
        for components in found:
            assert np.array_equal(getattr(components, name), getattr(expected, name)), name


def test_components_of_one_device_are_measured_on_another(several: SeveralGpus) -> None:
    """Components that a device holds are not used on another one."""
    frames = np.random.default_rng(2).integers(0, 90, (3, 20, 40)).astype(np.uint16)
    background = background_of(np.zeros((20, 40), np.int32), frames.dtype)
    mask_of_frame = np.array([2, 0, 2])

    def made(backend: Backend) -> tuple[Any, Any, Any]:
        return (
            backend.prepare(background, Morphology(0, 0, 1), 80),
            backend.upload(frames),
            backend.components(masks_of(backend, frames > 70), 2),
        )

    (prepared, ours, here), (_, theirs, there) = in_threads(2, lambda: made(several))
    assert {*ours.on, *theirs.on} == {0, 1}
    cpu = CpuBackend(1)
    prepared_there, _, found = made(cpu)
    expected = cpu.measure(frames, found, mask_of_frame, prepared_there, None)
    for batch in (ours, theirs):
        for components in (here, there):
            measured = several.measure(batch, components, mask_of_frame, prepared, None)
            for name in ("total", "background_low", "peak", "overload"):
                assert np.array_equal(getattr(measured, name), getattr(expected, name)), name


@pytest.mark.parametrize(
    "use",
    [
        lambda first, array: first.to_host(array),
        lambda first, array: first.xp.argsort(array, kind="stable"),
        lambda first, array: array.view(np.int32),
        lambda first, array: first.kernel("union", "unite")(
            (1,),
            (32,),
            (
                array,
                first.to_device(np.zeros(1, np.int32)),
                np.int32(1),
                np.int64(3),
                first.xp.zeros(3, np.uint32),
            ),
        ),
    ],
    ids=["to_host", "function", "method", "kernel"],
)
def test_a_device_refuses_the_others_arrays(
    several: SeveralGpus, use: Callable[[Any, DeviceArray], object]
) -> None:
    """The emulation refuses them, so whole runs show that none is used."""
    first, second = (backend.toolkit for backend in several.backends)
    array = second.call(lambda: second.to_device(np.arange(3, dtype=np.uint32)))
    with pytest.raises(TypeError, match="an array of device 1 was used on device 0"):
        first.call(lambda: use(first, array))
    assert array[1:].number == 1
    with pytest.raises(TypeError, match=CROSSED):
        np.asarray(array)
    with pytest.raises(EmulationError, match="device 0 is the current one, not 1"):
        second.to_device(np.zeros(3))


@pytest.mark.parametrize("place", [Place.FILE, Place.DEVICE])
@pytest.mark.parametrize("mode", ["none", "pairs", "level", "matched", "matched pairs"])
def test_no_device_takes_more_memory_than_was_planned(
    several: SeveralGpus, mode: str, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames, backend = series(30, (200, 300)), SeveralGpus(several.backends, 3)
    monkeypatch.setattr(plan, "BAND_PIXELS", 40 * 300)
    monkeypatch.setattr(plan, "RESIDENT_PIXELS", 40 * 300)
    monkeypatch.setattr(plan, "BATCH_PIXELS", 3 * 200 * 300)
    if place == Place.FILE:
        places = plan._Planner._places
        monkeypatch.setattr(
            plan._Planner,
            "_places",
            lambda planner: [at for at in places(planner) if at != Place.DEVICE],
        )
    before = [memory.live for memory in MEMORIES]
    for memory in MEMORIES:
        memory.peak = memory.live
    with open_run(saved(tmp_path / "x.h5", frames)) as stack:
        made = pipeline.plan_run(stack, MODES[mode], Resources(backend))
        # where frames stay as they are, batches are large: of a quarter of the frames, encoded in
        # pieces
        batch = 8 if place == Place.DEVICE and mode != "level" else 3
        assert (made.place, made.band_rows, made.batch_frames, made.piece_frames, made.threads) == (
            place,
            40,
            batch,
            3,
            3,
        )
        results(stack, MODES[mode], backend, tmp_path, Notes())
    for memory, live in zip(MEMORIES, before, strict=True):
        assert memory.peak - live > (frames.nbytes if place == Place.DEVICE else 0)
        assert made.device_bytes is not None
        assert memory.peak - live <= made.device_bytes


@pytest.mark.parametrize("share", [0.3, 0.6, 3])
@pytest.mark.parametrize("smaller", [0, 1])
def test_the_smaller_device_limits_the_plan(
    several: SeveralGpus, smaller: int, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames, parameters = (
        series(24, (64, 90)),
        Parameters.manual(angles=3, sync="blocks", erosions=0),
    )
    room = int(share * frames.nbytes) + (3 << 20)
    monkeypatch.setattr(MEMORIES[smaller], "limit", MEMORIES[smaller].live + room)
    assert several.free_bytes() == room
    assert_same(
        run(frames, parameters, several, COLUMNS), run(frames, parameters, CpuBackend(2), COLUMNS)
    )


def test_few_batches_are_shared_out_evenly_among_many_threads(
    several: SeveralGpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads of the first pass, three on each device, might both be those of one device."""
    found: list[int] = []
    together = threading.Barrier(2, timeout=10)

    def find_masks(device: int, operation: Callable[..., Any], *args: Any) -> Any:
        together.wait()
        found.append(device)
        return operation(*args)

    for device, backend in enumerate(several.backends):
        monkeypatch.setattr(backend, "find_masks", partial(find_masks, device, backend.find_masks))
    frames = series(20)
    force(monkeypatch, band_rows=2, batch_frames=10, piece_frames=10, threads=6)
    for _ in range(8):
        run(frames, Parameters.manual(angles=0), several)
    assert [sorted(found[i : i + 2]) for i in range(0, 16, 2)] == [[0, 1]] * 8


def test_one_device_has_less_memory_than_was_thought(
    several: SeveralGpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pieces are halved on this device; the other one keeps whole pieces."""
    frames, parameters = series(96, (32, 45)), Parameters.manual(angles=0)
    expected = run(frames, parameters, CpuBackend(2))
    together, first, failed = threading.Barrier(2), {0, 1}, list[tuple[int, tuple[int, ...]]]()

    def allocate(
        device: int, operation: Callable[..., Any], shape: tuple[int, ...], *args: Any
    ) -> Any:
        if device in first:
            first.remove(device)
            together.wait(10)
        try:
            return operation(shape, *args)
        except OutOfDeviceMemory:
            failed.append((device, shape))
            raise

    for device, backend in enumerate(several.backends):
        monkeypatch.setattr(backend.toolkit, "free_bytes", lambda: 1 << 40)
        monkeypatch.setattr(backend, "allocate", partial(allocate, device, backend.allocate))
    # bands of 8 rows and batches of 24 frames take 69 kB; half of them fit, with 8 kB for moments,
    # and 10 kB for the thresholds and means
    force(monkeypatch, band_rows=8, batch_frames=24, threads=2)
    monkeypatch.setattr(MEMORIES[1], "limit", MEMORIES[1].live + 60_000)
    assert_same(run(frames, parameters, several), expected)
    assert (1, (96, 8, 45)) in failed
    assert {device for device, _ in failed} == {1}


@pytest.fixture
def two_devices(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Let CUDA have two devices; opened ones are recorded, and 2 cannot be used."""
    opened = []

    def open_device(number: int, memory_limit: int | None, threads: int, beside: Any = None) -> Any:
        if number == 2:
            raise BackendError("GPU 2: the device is too old for this CUDA")
        device = SimpleNamespace(description=f"GPU {number}")
        opened.append((device, memory_limit, threads, beside))
        return device

    monkeypatch.setattr(devices, "open_device", open_device)
    return opened


def test_each_device_is_opened_with_the_same_pinned_memory(two_devices: list[Any]) -> None:
    backend = select_backend("auto", threads=1, device=[3, 0], device_memory_limit=9)
    assert (backend.name, backend.device, backend.workers) == ("gpu", "GPU 3 and GPU 0", 2)
    (first, *given), (_, *others) = two_devices
    assert given == [9, 2, None]
    assert others == [9, 2, first]
    both: Any = np.arange(2)
    assert select_backend("gpu", device=both, threads=5).workers == 5
    # one device is as it was, in a list too
    assert not isinstance(select_backend("gpu", device=(1,)), SeveralGpus)
    assert select_backend("gpu", device=1).device == "GPU 1"
    assert select_backend("gpu").device == "GPU 0"


@pytest.mark.usefixtures("two_devices")
@pytest.mark.parametrize(
    ("device", "words"),
    [
        ([0, 0], "device: GPU 0 is listed twice"),
        ([1, 0, 1], "device: GPU 1 is listed twice"),
        ([0, -1], "device: -1 is not an integer >= 0"),
        ([0.5], "device: 0.5 is not an integer >= 0"),
        ("0,1", "device: '0' is not an integer >= 0"),
        ([], "device: no GPU is listed"),
    ],
)
def test_lists_that_make_no_sense(device: Any, words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        select_backend("auto", device=device)
    with pytest.raises(BackendError, match="backend gpu: GPU 2: the device is too old"):
        select_backend("auto", device=[0, 2])


@pytest.mark.usefixtures("two_devices")
def test_the_command_takes_a_list(
    tmp_path: Path, several: SeveralGpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, output = write_run(tmp_path / "run__mccd.h5"), tmp_path / "out.h5"
    for value in ("0;1", "0,", ",", "", "-1", "1.5", "first", "0,1,x"):
        assert_refused(
            command(source, "--device", value),
            2,
            "--device",
            repr(value),
            "is not a GPU number",
        )
    assert_refused(command(source, "--device", "1,1"), 2, "--device", "GPU 1 is listed twice")
    assert_refused(
        command(source, "--device", "0,2"), 1, "backend gpu: GPU 2: the device is too old"
    )
    asked: list[object] = []
    monkeypatch.setattr(
        devices,
        "open_backend",
        lambda *given: asked.append(given) or several,  # type: ignore[func-returns-value]
    )
    ended = command(source, "--device", "0,1", "--threads", 1, "-o", output)
    assert ended.status == 0, ended.stderr
    assert asked == [((0, 1), None, 1)]
    assert "computing on emulation 0 and emulation 1" in ended.lines[0]
    with h5py.File(output) as file:
        assert dict(file["info"].attrs)["device"] == "emulation 0 and emulation 1"
        assert dict(file["info"].attrs)["plan"].endswith("2 threads")
        found = datasets(file)
    assert command(source, "--backend", "cpu", "-o", output, "--force").status == 0
    with h5py.File(output) as file:
        assert_same(found, datasets(file))
