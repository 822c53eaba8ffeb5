"""Device: the toolkit on CuPy, for one CUDA device.

One stream computes, whichever thread asks: kernels fill the device by themselves, and memory that
is freed can be used again in the order of the stream. A second one copies to the device meanwhile.
See docs/decisions/one-compute-stream.md.
"""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Any

import cupy
import numpy as np

from gpu_spots.cuda.reasons import reason
from gpu_spots.cuda.toolkit import OPTIONS, Kernel, Result, source_of
from gpu_spots.errors import BackendError, OutOfDeviceMemory
from gpu_spots.model import Array

ALIGNED = 256
"""Alignment of the arrays that share a slot, bytes."""
SLOTS = 2
"""Slots of pinned memory in addition to one per thread, for copies that are not finished."""
RESERVE = 256 << 20
"""Bytes of the device that arrays leave free: CUDA loads a kernel when it is first launched, and
needs memory for its code and its stack, which no pool of ours can give.
"""
NULL = np.uint64(0)
DRIVER_ERRORS = (cupy.cuda.runtime.CUDARuntimeError, cupy.cuda.driver.CUDADriverError)
OUT_OF_MEMORY = 2
"""Status numbers of cudaErrorMemoryAllocation and CUDA_ERROR_OUT_OF_MEMORY."""
SAYS_OUT_OF_MEMORY = ("out of memory", "bad_alloc", "bad allocation", "cudaErrorMemoryAllocation")
"""Words of Thrust's errors, which arrive as plain RuntimeError or MemoryError."""


class Device:
    """A CUDA device. Several threads may use it at once.

    ``memory_limit``: bytes that arrays may take, None for all; CUDA's own few hundred megabytes
    come on top. ``threads``: how many will. ``beside``: another device, whose pinned memory is
    used. Raises `BackendError`.
    """

    xp = cupy

    def __init__(
        self,
        number: int,
        memory_limit: int | None = None,
        threads: int = 1,
        beside: "Device | None" = None,
    ) -> None:
        self.number = number
        self._pool = cupy.cuda.MemoryPool()
        self._lock = threading.Lock()
        self._modules: dict[tuple[Any, ...], Any] = {}
        self._kernels: dict[tuple[Any, ...], Kernel] = {}
        # CuPy pins memory for all devices, whichever is current
        self._slots: _Slots = beside._slots if beside else _Slots(threads + SLOTS)
        self._make_current()
        # a stream that cannot be made says so twice: the first use of a device must be another call
        cupy.cuda.runtime.memGetInfo()
        self._compute, self._copies = (cupy.cuda.Stream(non_blocking=True) for _ in range(2))
        if memory_limit is not None:
            self._pool.set_limit(size=memory_limit)
        self.description = self.call(self._describe)

    def call(self, function: Callable[[], Result]) -> Result:
        """Call a function on this device, with its compute stream and its memory pool.

        This remains the current device of the thread. Errors of the array library are replaced by
        those of `gpu_spots.errors`.
        """
        try:
            self._make_current()
            with self._compute, cupy.cuda.using_allocator(self._pool.malloc):
                return function()
        except cupy.cuda.memory.OutOfMemoryError as error:
            failure: Exception = OutOfDeviceMemory(
                f"GPU {self.number}: out of memory: {_line(error)}"
            )
        except MemoryError as error:
            # NumPy's own is a subclass, and the host's business
            if type(error) is not MemoryError:
                raise
            failure = OutOfDeviceMemory(
                f"GPU {self.number}: out of memory while sorting or summing"
            )
        except DRIVER_ERRORS as error:
            kind = (
                OutOfDeviceMemory
                if getattr(error, "status", None) == OUT_OF_MEMORY
                else BackendError
            )
            failure = kind(f"GPU {self.number}: {reason(error)}")
        except (cupy.cuda.compiler.CompileException, ImportError, OSError) as error:
            failure = BackendError(f"GPU {self.number}: {reason(error)}")
        except RuntimeError as error:
            if isinstance(error, NotImplementedError | RecursionError):
                raise
            is_full = type(error) is RuntimeError and any(
                words in str(error) for words in SAYS_OUT_OF_MEMORY
            )
            failure = (OutOfDeviceMemory if is_full else BackendError)(
                f"GPU {self.number}: {reason(error)}"
            )
        # out here, as an error that is being handled keeps all that the function had on the device
        raise failure

    def kernel(self, file: str, name: str, **defines: int | str) -> Kernel:
        """Return a kernel. NVRTC compiles it once; CuPy keeps the result on disk."""
        key = (file, name, *sorted(defines.items()))
        with self._lock:
            if key not in self._kernels:
                module = (file, *key[2:])
                if module not in self._modules:
                    # macros are in the source: for each set of options CuPy compiles an empty file
                    # first
                    self._modules[module] = cupy.RawModule(
                        code=source_of(file, **defines), options=OPTIONS
                    )
                self._kernels[key] = _with_null_pointers(self._modules[module].get_function(name))
            return self._kernels[key]

    def to_host(self, array: Any) -> Array:
        """Wait for what has been launched so far, not for what other threads launch meanwhile."""
        host = np.empty(array.shape, array.dtype)
        self._receive([array], [host])
        return host

    @contextmanager
    def host_copy(self, array: Any) -> Iterator[Array]:
        """Copy an array into a slot of pinned memory."""
        with self.host_copies([array]) as (host,):
            yield host

    @contextmanager
    def host_copies(self, arrays: Sequence[Any]) -> Iterator[list[Array]]:
        """Copy several arrays into one slot, and wait once for all of them."""
        begins = [0, *accumulate(-(-array.nbytes // ALIGNED) * ALIGNED for array in arrays)]
        with self._slot(begins[-1]) as slot:
            hosts = [
                slot.view(array.shape, array.dtype, begin)
                for array, begin in zip(arrays, begins, strict=False)
            ]
            self._receive(arrays, hosts)
            yield hosts

    def to_device(self, array: Array) -> Any:
        """Copy through a slot of pinned memory, of which the caller may not have another one."""
        there = self.xp.empty(array.shape, array.dtype)
        if array.size:
            with self.staging(there) as slot:
                np.copyto(slot, array)
        return there

    @contextmanager
    def staging(self, part: Any, also: Iterable[tuple["Device", Any]] = ()) -> Iterator[Array]:
        """Provide a slot of pinned memory, which is used again when its copies have ended."""
        with self._slot(part.nbytes) as slot:
            host = slot.view(part.shape, part.dtype)
            yield host
            for device, there in ((self, part), *also):
                device.call(partial(device._send, host, there, slot))

    def free_bytes(self) -> int:
        """Return the free bytes of the device and the pool, less `RESERVE`, within the limit."""

        def free() -> int:
            left = max(0, cupy.cuda.runtime.memGetInfo()[0] - RESERVE) + self._pool.free_bytes()
            limit = self._pool.get_limit()
            return int(min(left, limit - self._pool.used_bytes()) if limit else left)

        return self.call(free)

    def release(self) -> None:
        """Return the free memory of the pool to the device."""
        self._compute.synchronize()
        self._pool.free_all_blocks()

    @contextmanager
    def _slot(self, n_bytes: int) -> Iterator["_Slot"]:
        """Return a slot of pinned memory of at least that size, whose copies have ended."""
        with self._slots.slot() as slot:
            self.call(partial(self._slots.ready, slot, n_bytes))
            yield slot

    def _make_current(self) -> None:
        """Make this device the thread's current one, and leave it so.

        A ``with`` statement would go back to the one before, device 0 in a new thread: CUDA would
        make a context there, which takes hundreds of MB, or fails where device 0 is not to be used.
        """
        cupy.cuda.Device(self.number).use()

    def _receive(self, arrays: Sequence[Any], hosts: Sequence[Array]) -> None:
        under_way = []
        for array, host in zip(arrays, hosts, strict=True):
            if array.size:
                # CuPy would compile a kernel that makes it contiguous
                assert array.flags.c_contiguous
                array.get(out=host, blocking=False)
                under_way.append(array)
        if under_way:
            _recorded(self._compute).synchronize()

    def _send(self, host: Array, part: Any, slot: "_Slot") -> None:
        # the memory may have been another array's, which kernels still read
        self._copies.wait_event(_recorded(self._compute))
        part.set(host, stream=self._copies)
        copied = _recorded(self._copies)
        slot.busy.append(copied)
        self._compute.wait_event(copied)

    def _describe(self) -> str:
        name = cupy.cuda.runtime.getDeviceProperties(self.number)["name"].decode()
        runtime = cupy.cuda.runtime.runtimeGetVersion()
        return (
            f"{name} (GPU {self.number}), CUDA {runtime // 1000}.{runtime % 1000 // 10}, CuPy "
            f"{cupy.__version__}"
        )


def _with_null_pointers(kernel: Any) -> Kernel:
    """Replace None by a null pointer. CuPy passes None as no argument at all."""

    def launch(
        grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...], *, shared_mem: int = 0
    ) -> None:
        kernel(
            grid, block, tuple(NULL if arg is None else arg for arg in args), shared_mem=shared_mem
        )

    return launch


@dataclass(slots=True)
class _Slot:
    """Pinned memory, which the device can copy from by itself."""

    memory: Any = None
    n_bytes: int = 0
    busy: list[Any] = field(default_factory=list)
    """The events that its last copies end with, one a device."""

    def view(self, shape: tuple[int, ...], dtype: Any, begin: int = 0) -> Array:
        """Return the bytes from ``begin`` on as an array."""
        count = int(np.prod(shape))
        return (
            np.frombuffer(self.memory, dtype, count, begin).reshape(shape)
            if count
            else np.empty(shape, dtype)
        )


class _Slots:
    """Queue of slots.

    The slot that was returned first is taken first, as its copy has most likely ended.
    """

    def __init__(self, number: int) -> None:
        self._free: queue.Queue[_Slot] = queue.Queue()
        for _ in range(number):
            self._free.put(_Slot())

    @contextmanager
    def slot(self) -> Iterator[_Slot]:
        """Return a slot, to be made `ready`."""
        slot = self._free.get()
        try:
            yield slot
        finally:
            self._free.put(slot)

    def ready(self, slot: _Slot, n_bytes: int) -> None:
        """Wait for the copies of the slot, and make it at least that large."""
        while slot.busy:
            slot.busy[-1].synchronize()
            slot.busy.pop()
        if slot.n_bytes < n_bytes:
            slot.memory, slot.n_bytes = None, 0
            slot.memory = self._pinned(n_bytes)
            slot.n_bytes = n_bytes

    def _pinned(self, n_bytes: int) -> Any:
        """Allocate exactly this much. CuPy's pools round up, and keep memory that is too small."""
        try:
            return cupy.cuda.PinnedMemoryPointer(cupy.cuda.PinnedMemory(n_bytes), 0)
        except cupy.cuda.runtime.CUDARuntimeError as error:
            raise BackendError(
                f"{n_bytes / 2**20:.0f} MiB of the host's memory could not be pinned for the GPU: "
                f"{reason(error)}"
            ) from None


def _recorded(stream: Any) -> Any:
    return stream.record(cupy.cuda.Event(disable_timing=True))


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
