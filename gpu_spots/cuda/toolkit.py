"""Toolkit: device, arrays and kernels for the CUDA operations.

Tests replace it, so that they need no device.

Host code computes on the device through `Toolkit.xp` and through kernels; nothing crosses between
host and device but by `Toolkit.to_host` and `Toolkit.to_device`.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from gpu_spots.model import Array

Result = TypeVar("Result")

KERNELS = Path(__file__).parent / "kernels"
OPTIONS = ("--std=c++17", "--fmad=false")
"""Options of the compiler: without fused multiply-add, floating point rounds as on the host."""


class Kernel(Protocol):
    """A compiled kernel; launching it does not wait for it."""

    def __call__(
        self,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        args: tuple[Any, ...],
        *,
        shared_mem: int = 0,
    ) -> None:
        """Launch it.

        ``args``: device arrays, None for one that is not there, and NumPy scalars of exactly the
        parameters' types (a Python number would be passed as 64 bits). An array is contiguous in
        all dimensions but the first, whose stride, in elements, the kernel is told where it may
        differ. ``shared_mem``: bytes of dynamic shared memory, at most 48 KiB.
        """


class Toolkit(Protocol):
    """A device, its array module and its kernels. Safe to use from several threads."""

    xp: Any
    """The array module: CuPy, or what the tests put in its place."""
    description: str
    """The device in words, for people."""

    def call(self, function: Callable[[], Result]) -> Result:
        """Run a function that computes on the device.

        Every other method of a toolkit except `staging` is called inside such a function.

        Raises `OutOfDeviceMemory`, and `BackendError` for whatever else the device or its compiler
        complains of.
        """

    def kernel(self, file: str, name: str, **defines: int | str) -> Kernel:
        """Return the kernel ``name`` of kernels/``file``.cu, compiled once with these macros.

        See `source_of`.
        """

    def to_host(self, array: Any) -> Array:
        """Copy a device array to the host; waits for it."""

    def host_copy(self, array: Any) -> AbstractContextManager[Array]:
        """Provide a host copy of a device array inside a block: faster than `to_host`."""

    def host_copies(self, arrays: Sequence[Any]) -> AbstractContextManager[list[Array]]:
        """Lend several contiguous arrays to the host, with one wait for all of them."""

    def to_device(self, array: Array) -> Any:
        """Copy a host array to the device, contiguous; the host array may change at once."""

    def staging(
        self, part: Any, also: Iterable[tuple[Any, Any]] = ()
    ) -> AbstractContextManager[Array]:
        """Provide a contiguous host array, which is copied to ``part`` after the block.

        ``part`` is a contiguous device array.

        ``also``: toolkits of other devices, and an array on each that gets the same.
        The copy may still be under way when this returns; kernels that are launched later wait for
        it.
        """

    def free_bytes(self) -> int:
        """Return the bytes that can still be allocated on the device."""

    def release(self) -> None:
        """Give back the memory that is kept for later."""


MAP_BYTES = 1 << 22
"""Bytes of a piece of a map that is uploaded: while one is on its way the next is put into its
slot.
"""


def fetched(toolkit: Toolkit, arrays: Sequence[Any]) -> list[Array]:
    """Return host copies of device arrays that last, with one wait for all."""
    with toolkit.host_copies(arrays) as copies:
        return [array.copy() for array in copies]


def uploaded(
    toolkit: Toolkit, values: Array, dtype: Any, put: Callable[[Array, Array], object] = np.copyto
) -> Any:
    """Return a map (n_X, n_Y) as an array of ``dtype`` on the device.

    It is copied through pinned slots; ``put(slot, rows)`` puts some rows into one.
    """
    held = toolkit.xp.empty(values.shape, dtype)
    step = max(1, MAP_BYTES // max(1, held[:1].nbytes))
    for begin in range(0, len(values), step):
        with toolkit.staging(held[begin : begin + step]) as slot:
            put(slot, values[begin : begin + step])
    return held


def source_of(file: str, **defines: int | str) -> str:
    """Return a kernel file behind its macros and what all files share; lines keep their numbers.

    ``file``: its name without suffix, or several with + between them, of which the later ones use
    what is in the earlier ones.
    """
    macros = "".join(f"#define {name} {value}\n" for name, value in sorted(defines.items()))
    names = ["common.h", *(f"{name}.cu" for name in file.split("+"))]
    return macros + "\n".join(f'#line 1 "{name}"\n{(KERNELS / name).read_text()}' for name in names)


C_TYPES = {
    "uint8": "u8",
    "uint16": "u16",
    "uint32": "u32",
    "uint64": "u64",
    "int8": "i8",
    "int16": "i16",
    "int32": "i32",
    "int64": "i64",
    "float32": "f32",
    "float64": "f64",
}
"""NumPy's types by the names that kernels give them (common.h)."""


def c_type(dtype: Any) -> str:
    """Return the name of a NumPy type in the kernels, for their macros."""
    return C_TYPES[dtype.name]


def blocks_for(n_items: int, block: int) -> tuple[int]:
    """Return a grid of blocks of ``block`` threads, with one thread per item.

    It has at least one block, because a grid cannot be empty.
    """
    return (max(1, -(-n_items // block)),)


def frame_stride(frames: Any) -> int:
    """Return the number of elements from one frame or mask to the next.

    The array is contiguous inside of each.
    """
    return int(frames.strides[0]) // int(frames.dtype.itemsize)
