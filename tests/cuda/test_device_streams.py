"""Order in which streams of a device wait for each other.

A stand-in for CuPy records its calls.
"""

import importlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gpu_spots.cuda.reasons import NO_CUPY

pytest.importorskip("cupy", reason=NO_CUPY)

from gpu_spots.cuda import shuffle as shuffle_module
from gpu_spots.cuda.backend import GpuBackend
from gpu_spots.cuda.device import Device
from gpu_spots.errors import BackendError

device_module: Any = importlib.import_module("gpu_spots.cuda.device")
"""Any, as tests replace what it imports."""


class FakeEvent:
    """An event of a stream."""

    def __init__(self, log: list[str]) -> None:
        self.log, self.after = log, ""

    def synchronize(self) -> None:
        self.log.append(f"host waits for {self.after}")


class FakeStream:
    """A stream with a name."""

    def __init__(self, log: list[str], name: str) -> None:
        self.log, self.name, self.done = log, name, 0

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...

    def record(self, event: FakeEvent) -> FakeEvent:
        self.done += 1
        event.after = f"{self.name} {self.done}"
        return event

    def wait_event(self, event: FakeEvent) -> None:
        self.log.append(f"{self.name} waits for {event.after}")

    def synchronize(self) -> None:
        self.log.append(f"host waits for {self.name}")


class FakeArray:
    """Values on the device."""

    def __init__(self, log: list[str], values: np.ndarray) -> None:
        self.log, self.values = log, values
        self.shape, self.dtype, self.size, self.nbytes, self.flags = (
            values.shape,
            values.dtype,
            values.size,
            values.nbytes,
            values.flags,
        )

    def reshape(self, *shape: int) -> "FakeArray":
        return FakeArray(self.log, self.values.reshape(shape))

    def set(self, host: np.ndarray, stream: FakeStream) -> None:
        self.log.append(f"{stream.name} copies in")
        self.values[...] = host

    def get(self, out: np.ndarray, blocking: bool) -> None:
        assert not blocking
        self.log.append("compute copies out")
        out[...] = self.values


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
def device(log: list[str], monkeypatch: pytest.MonkeyPatch) -> Device:
    """A device of such a CuPy, whose allocations of pinned memory are written down too."""
    names = iter(("compute", "copies", "compute of 1", "copies of 1"))
    current = threading.local()

    def fake_device(number: int) -> SimpleNamespace:
        # no `with`: it would touch the device that was current before
        return SimpleNamespace(use=lambda: setattr(current, "number", number))

    def pinned(n_bytes: int) -> bytearray:
        assert current.number is not None
        log.append(f"{n_bytes} bytes pinned")
        return bytearray(n_bytes)

    real = device_module.cupy.cuda
    runtime = SimpleNamespace(
        CUDARuntimeError=real.runtime.CUDARuntimeError,
        getDeviceProperties=lambda number: {"name": b"Fake"},
        runtimeGetVersion=lambda: 13020,
        memGetInfo=lambda: (1000 + device_module.RESERVE, 1 << 30),
    )
    pool = SimpleNamespace(
        malloc=None, get_limit=lambda: 700, used_bytes=lambda: 100, free_bytes=lambda: 50
    )
    pool.set_limit = lambda size: log.append(f"limit {size}")
    pool.free_all_blocks = lambda: log.append("pool emptied")

    @contextmanager
    def using_allocator(allocator: Any) -> Iterator[None]:
        yield

    cuda = SimpleNamespace(
        Device=fake_device,
        MemoryPool=lambda: pool,
        Stream=lambda non_blocking: FakeStream(log, next(names)),
        Event=lambda disable_timing: FakeEvent(log),
        using_allocator=using_allocator,
        PinnedMemory=pinned,
        PinnedMemoryPointer=lambda memory, offset: memoryview(memory)[offset:],
        runtime=runtime,
        memory=real.memory,
        compiler=real.compiler,
    )
    monkeypatch.setattr(device_module, "cupy", SimpleNamespace(cuda=cuda, __version__="14"))
    made = Device(0, 700, threads=1)
    assert made.description == "Fake (GPU 0), CUDA 13.2, CuPy 14"
    assert log == ["limit 700"]
    log.clear()
    return made


def test_a_copy_waits_for_earlier_kernels_and_later_kernels_for_the_copy(
    device: Device, log: list[str]
) -> None:
    part = FakeArray(log, np.zeros((2, 3), np.uint16))
    with device.staging(part) as slot:
        slot[...] = 7
        assert log == ["12 bytes pinned"]
    assert (part.values == 7).all()
    assert log[1:] == [
        "copies waits for compute 1",
        "copies copies in",
        "compute waits for copies 1",
    ]


def test_shuffled_frames_are_put_in_order_after_their_copy(
    device: Device, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Device,
        "xp",
        SimpleNamespace(empty=lambda shape, dtype: FakeArray(log, np.empty(shape, dtype))),
    )
    monkeypatch.setattr(
        shuffle_module,
        "unshuffle",
        lambda toolkit, chunks, into: log.append(f"compute writes {into.shape}"),
    )
    held = np.zeros((5, 6, 7), np.uint16)
    with GpuBackend(device, 1).staging(held, 1, 4, shuffled_rows=3) as slot:
        slot[...] = 7
    assert log == [
        f"{slot.nbytes} bytes pinned",
        "copies waits for compute 1",
        "copies copies in",
        "compute waits for copies 1",
        "compute writes (6, 3, 7)",
    ]


def test_a_slot_is_filled_again_when_its_copy_has_ended(device: Device, log: list[str]) -> None:
    """There are three slots for one thread; the fourth copy takes the first one."""
    for i in range(4):
        with device.staging(FakeArray(log, np.zeros(4 + i, np.uint8))):
            pass
    waits = [line for line in log if line.startswith("host waits")]
    assert waits == ["host waits for copies 1"]
    # it was too small
    assert [line for line in log if line.endswith("pinned")] == [
        f"{n} bytes pinned" for n in (4, 5, 6, 7)
    ]


def test_errors_around_a_slot_are_ours(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors of pinned memory, and of an earlier kernel, leave the slot usable."""
    failure = device_module.cupy.cuda.runtime.CUDARuntimeError(700)

    def fails(n_bytes: int) -> bytearray:
        raise failure

    slots = [device._slots._free.get() for _ in range(2)]  # one is left
    with device._slot(100):
        pass
    with monkeypatch.context() as patched:
        patched.setattr(device_module.cupy.cuda, "PinnedMemory", fails)
        with (
            pytest.raises(BackendError, match="could not be pinned for the GPU"),
            device._slot(1000),
        ):
            pass
    with device._slot(50) as slot:
        assert len(slot.view((50,), np.uint8)) == 50
    event = FakeEvent([])
    monkeypatch.setattr(event, "synchronize", lambda: fails(0))
    slot.busy.append(event)
    with (
        pytest.raises(BackendError, match="GPU 0: "),
        device.staging(FakeArray([], np.zeros(5, np.uint8))),
    ):
        pass
    assert len(slots) == 2


def test_a_slot_goes_to_two_devices_at_once(device: Device, log: list[str]) -> None:
    """Each device has its own streams.

    The slot is filled again when both copies have ended.
    """
    other = Device(1, None, threads=1, beside=device)
    assert log == []
    parts = [FakeArray(log, np.zeros(5, np.uint8)) for _ in range(2)]
    with device.staging(parts[0], [(other, parts[1])]) as slot:
        slot[...] = 7
    assert all((part.values == 7).all() for part in parts)
    assert log == [
        "5 bytes pinned",
        *("copies waits for compute 1", "copies copies in", "compute waits for copies 1"),
        *(
            "copies of 1 waits for compute of 1 1",
            "copies of 1 copies in",
            "compute of 1 waits for copies of 1 1",
        ),
    ]
    # the other device takes its slots from the same ring: two that are new, and then this one
    log.clear()
    for _ in range(3):
        with other.staging(parts[1]):
            pass
    assert [line for line in log if line.startswith(("host", "5"))] == [
        *(
            "5 bytes pinned",
            "5 bytes pinned",
            "host waits for copies of 1 1",
            "host waits for copies 1",
        ),
    ]


def test_results_wait_for_their_own_copy(device: Device, log: list[str]) -> None:
    array = FakeArray(log, np.arange(5, dtype=np.int32))

    def lent() -> list[int]:
        with device.host_copy(array) as host:
            return host.tolist()

    assert device.call(lambda: device.to_host(array)).tolist() == [0, 1, 2, 3, 4]
    assert log == ["compute copies out", "host waits for compute 1"]
    assert device.call(lent) == [0, 1, 2, 3, 4]
    assert device.call(lambda: device.to_host(FakeArray(log, np.zeros(0)))).shape == (0,)
    assert device.call(lambda: device.to_host(FakeArray(log, np.array(9)))) == 9


def test_several_arrays_come_through_one_slot_with_one_wait(device: Device, log: list[str]) -> None:
    """Each array begins at a multiple of 256 bytes, and none overlaps another.

    Empty ones are not copied.
    """
    values: list[np.ndarray] = [
        np.arange(5, dtype=np.int32),
        np.full((70, 2), 7, np.uint16),
        np.zeros((0, 3)),
        np.array([1.5]),
    ]

    def lent() -> None:
        with device.host_copies([FakeArray(log, each) for each in values]) as hosts:
            for host, each in zip(hosts, values, strict=True):
                assert host.dtype == each.dtype
                assert np.array_equal(host, each)
            assert [host.ctypes.data - hosts[0].ctypes.data for host in (hosts[1], hosts[3])] == [
                256,
                256 + 512,
            ]

    device.call(lent)
    # 280 bytes are two times 256
    assert log == [
        f"{4 * 256} bytes pinned",
        *["compute copies out"] * 3,
        "host waits for compute 1",
    ]


def test_memory_that_is_free(device: Device, log: list[str]) -> None:
    """Free memory counts 1000 beyond the reserve, and 50 of the pool.

    The limit is 700, of which 100 are used.
    """
    assert device.free_bytes() == 600
    device.release()
    assert log == ["host waits for compute", "pool emptied"]


def test_a_device_that_is_full_leaves_no_bytes(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Free memory of the pool is usable even if the device has less than the reserve."""
    monkeypatch.setattr(
        device_module.cupy.cuda.runtime, "memGetInfo", lambda: (device_module.RESERVE - 1, 1 << 30)
    )
    assert device.free_bytes() == 50


def test_arrays_of_the_host_go_through_slots(
    device: Device, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """CuPy's own pinned memory is not used, as it would never be freed.

    The caller may change the array at once.
    """
    monkeypatch.setattr(
        Device,
        "xp",
        SimpleNamespace(empty=lambda shape, dtype: FakeArray(log, np.empty(shape, dtype))),
    )
    array = np.arange(6, dtype=np.int32)[::2]
    there = device.call(lambda: device.to_device(array))
    assert there.values.tolist() == [0, 2, 4]
    assert log == [
        "12 bytes pinned",
        "copies waits for compute 1",
        "copies copies in",
        "compute waits for copies 1",
    ]
    assert device.call(lambda: device.to_device(np.zeros((0, 4)))).shape == (0, 4)


def test_other_devices_are_not_touched(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread makes its device current once.

    CUDA makes a context on each device that becomes current.
    """
    made_current: list[int] = []
    monkeypatch.setattr(
        device_module.cupy.cuda,
        "Device",
        lambda number: SimpleNamespace(use=lambda: made_current.append(number)),
    )
    other = Device(1, None, threads=1)
    thread = threading.Thread(target=lambda: [other.free_bytes(), other.call(lambda: None)])
    thread.start()
    thread.join()
    with other.staging(FakeArray([], np.zeros(5, np.uint8))):
        pass
    assert set(made_current) == {1}


def test_a_context_that_cannot_be_made_is_said_once(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream that cannot be made fails once more when it is deleted.

    memGetInfo fails once.
    """

    def fails() -> None:
        raise device_module.cupy.cuda.runtime.CUDARuntimeError(2)

    def never(non_blocking: bool) -> None:
        pytest.fail("a stream was made on a device that has no context")

    monkeypatch.setattr(device_module.cupy.cuda.runtime, "memGetInfo", fails)
    monkeypatch.setattr(device_module.cupy.cuda, "Stream", never)
    with pytest.raises(device_module.cupy.cuda.runtime.CUDARuntimeError):
        Device(0, None, threads=1)


def test_all_kernels_have_the_same_options(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """CuPy compiles an empty program for each set of them; macros are lines of the source."""
    asked = []

    def module(code: str, options: tuple[str, ...]) -> SimpleNamespace:
        asked.append((code, options))
        return SimpleNamespace(get_function=lambda name: None)

    monkeypatch.setattr(device_module.cupy, "RawModule", module, raising=False)
    for size in (1, 2):
        device.kernel("unshuffle", "unshuffle", SIZE=size)
        device.kernel("unshuffle", "unshuffle", SIZE=size)
    assert [code.splitlines()[0] for code, _ in asked] == ["#define SIZE 1", "#define SIZE 2"]
    assert {options for _, options in asked} == {device_module.OPTIONS}
