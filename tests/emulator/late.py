"""Stand-in for CuPy whose streams work as late as they may.

Data that are used too early, or changed too soon, give wrong results.

A copy takes place when somebody waits for it, or for what stands behind it in its stream; until
then there is nonsense where it goes. Kernels and operations on arrays run when they are asked for,
once what their stream had to do before is done. For one device, with the arrays and kernels of the
emulation.
"""

import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from emulator.arrays import DeviceArray
from emulator.emulated import EmulatedKernel, load
from gpu_spots.cuda.device import RESERVE

LOCK = threading.RLock()


class LateStream:
    """A stream: work in order, none of it done before it must be."""

    def __init__(self) -> None:
        self._work: list[Callable[[], object]] = []
        self._n_done = 0

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...

    def ask(self, job: Callable[[], object]) -> None:
        """Do it some time, after all that was asked for before."""
        with LOCK:
            self._work.append(job)

    def record(self, event: "LateEvent") -> "LateEvent":
        """The event comes when all that was asked for so far is done."""
        with LOCK:
            event.stream, event.after = self, self._n_done + len(self._work)
        return event

    def wait_event(self, event: "LateEvent") -> None:
        """Let later work wait for the event."""
        self.ask(event.synchronize)

    def synchronize(self) -> None:
        """Do all work."""
        self.record(LateEvent()).synchronize()

    def work_until(self, n: int) -> None:
        """Do a number of jobs."""
        with LOCK:
            while self._n_done < n:
                self._n_done += 1
                self._work.pop(0)()


class LateEvent:
    """An event of a stream."""

    stream: LateStream
    after: int

    def synchronize(self) -> None:
        """Wait for it: what is before it is done now."""
        self.stream.work_until(self.after)


class LateCupy:
    """Functions of CuPy that `gpu_spots.cuda.device` uses. ``free``: bytes of the device.

    The rest is that of the ``real`` one.
    """

    __version__ = "late"

    def __init__(self, real: Any, folder: Path, free: int) -> None:
        self.streams: list[LateStream] = []
        self._folder = folder
        pool = SimpleNamespace(
            malloc=None, get_limit=lambda: 0, free_bytes=lambda: 0, free_all_blocks=lambda: None
        )
        self.cuda = SimpleNamespace(
            Device=lambda number: SimpleNamespace(use=lambda: None),
            MemoryPool=lambda: pool,
            Stream=self._stream,
            Event=lambda disable_timing: LateEvent(),
            using_allocator=lambda allocator: nullcontext(),
            PinnedMemory=lambda n_bytes: np.full(n_bytes, 0xA5, np.uint8),
            PinnedMemoryPointer=lambda memory, offset: memory[offset:],
            runtime=SimpleNamespace(
                CUDARuntimeError=real.cuda.runtime.CUDARuntimeError,
                getDeviceProperties=lambda number: {"name": b"Late"},
                runtimeGetVersion=lambda: 13000,
                memGetInfo=lambda: (free + RESERVE, free + RESERVE),
            ),
            memory=real.cuda.memory,
            compiler=real.cuda.compiler,
        )

    def _stream(self, non_blocking: bool) -> LateStream:
        self.streams.append(LateStream())
        return self.streams[-1]

    def use(self) -> None:
        """An operation on arrays begins, on the stream that was made first, which computes."""
        self.streams[0].synchronize()

    def RawModule(self, code: str, options: tuple[str, ...]) -> SimpleNamespace:
        """A kernel file, by g++."""
        library = load(code, self._folder)
        return SimpleNamespace(
            get_function=lambda name: self._launcher(EmulatedKernel(library, name))
        )

    def _launcher(self, kernel: EmulatedKernel) -> Callable[..., None]:
        def launch(
            grid: tuple[int, ...],
            block: tuple[int, ...],
            args: tuple[Any, ...],
            *,
            shared_mem: int = 0,
        ) -> None:
            self.use()
            pointers = [kind == "P" for kind, _ in kernel.parameters]
            given = (
                None if is_pointer and isinstance(arg, np.uint64) and not arg else arg
                for is_pointer, arg in zip(pointers, args, strict=True)
            )
            kernel(grid, block, tuple(given), shared_mem=shared_mem)

        return launch


def _spoil(values: np.ndarray) -> None:
    values.reshape(-1).view(np.uint8)[...] = 0xA5


def copies_come_late(cupy: LateCupy, monkeypatch: Any) -> None:
    """Copy device arrays, in and out, when a stream of ``cupy`` reaches the copy."""
    at_once = DeviceArray.here

    def here(array: DeviceArray) -> np.ndarray:
        cupy.use()
        return at_once(array)

    def set_(array: DeviceArray, host: np.ndarray, stream: LateStream) -> None:
        assert (array.shape, array.dtype, array.values.flags.c_contiguous) == (
            host.shape,
            host.dtype,
            True,
        )
        _spoil(array.values)
        stream.ask(lambda: np.copyto(array.values, host))

    def get(array: DeviceArray, out: np.ndarray, blocking: bool) -> None:
        assert (array.shape, array.dtype, blocking) == (out.shape, out.dtype, False)
        _spoil(out)
        cupy.streams[0].ask(lambda: np.copyto(out, array.values))

    monkeypatch.setattr(DeviceArray, "here", here)
    monkeypatch.setattr(DeviceArray, "set", set_, raising=False)
    monkeypatch.setattr(DeviceArray, "get", get, raising=False)
