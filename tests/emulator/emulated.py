"""EmulatedToolkit: the toolkit of the CUDA backend on the CPU.

Strict where a device would be silently wrong.
"""

import ctypes
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from emulator.arrays import CURRENT, MEMORIES, ArrayModule, DeviceArray
from gpu_spots.cuda.toolkit import source_of

Result = TypeVar("Result")

SHIM = Path(__file__).with_name("cuda_cpu_shim.h")
COMPILER = shutil.which("g++")
SANITIZE = bool(os.environ.get("GPU_SPOTS_SANITIZE"))
"""Kernels run under AddressSanitizer and UndefinedBehaviorSanitizer, which the process must have
loaded: make sanitize.
"""
FLAGS = (
    "-std=c++17",
    "-fPIC",
    "-w",
    "-U_FORTIFY_SOURCE",
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-strict-aliasing",
    "-ffp-contract=off",
)
OPTIMISE = (
    ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")
    if SANITIZE
    else ("-O1",)
)
QUICK = OPTIMISE if SANITIZE else ("-O0",)
"""Options for kernels with a planted fault. Each runs in one test only, which takes less time than
to optimise it.
"""
KERNEL = re.compile(
    r'^extern "C" __global__ void\s+(?:__launch_bounds__\(.*\)\s+)?(\w+)\s*\(', re.MULTILINE
)
C_TYPES: dict[str, Any] = {
    "f": ctypes.c_float, "d": ctypes.c_double,
    "b": ctypes.c_int8, "h": ctypes.c_int16, "i": ctypes.c_int32, "q": ctypes.c_int64,
    "B": ctypes.c_uint8, "H": ctypes.c_uint16, "I": ctypes.c_uint32, "Q": ctypes.c_uint64,
}  # fmt: skip
MOST_SHARED = 48 << 10
MOST_BLOCKS = (2**31 - 1, 65535, 65535)
MOST_THREADS = (1024, 1024, 64)


class EmulationError(Exception):
    """A launch that a device would refuse, or leave undefined."""


class EmulatedKernel:
    """A kernel with the interface of CuPy's."""

    def __init__(self, library: ctypes.CDLL, name: str) -> None:
        self.name = name
        self._launch = getattr(library, f"launch_{name}")
        self._launch.restype = None
        signature = getattr(library, f"signature_of_{name}")
        signature.restype = ctypes.c_char_p
        text = signature().decode()
        self.parameters = list(zip(text[: len(text) // 2], text[len(text) // 2 :], strict=True))

    def __call__(
        self,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        args: tuple[Any, ...],
        *,
        shared_mem: int = 0,
    ) -> None:
        """Run it."""
        if len(args) != len(self.parameters):
            raise EmulationError(
                f"{self.name}: {len(args)} arguments, expected {len(self.parameters)}"
            )
        values = [
            self._value(i, value, *parameter)
            for i, (value, parameter) in enumerate(zip(args, self.parameters, strict=True))
        ]
        blocks, threads = (
            self._three(grid, MOST_BLOCKS, "grid"),
            self._three(block, MOST_THREADS, "block"),
        )
        if threads[0] * threads[1] * threads[2] > 1024:
            raise EmulationError(f"{self.name}: block {block}: more than 1024 threads")
        if not 0 <= shared_mem <= MOST_SHARED:
            raise EmulationError(
                f"{self.name}: {shared_mem} bytes of shared memory, at most {MOST_SHARED}"
            )
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        error = ctypes.create_string_buffer(256)
        self._launch(blocks, threads, ctypes.c_size_t(shared_mem), pointers, error)
        if error.value:
            raise EmulationError(f"{self.name}: {error.value.decode()}")

    def _three(self, sizes: tuple[int, ...], most: tuple[int, ...], what: str) -> Any:
        three = (*sizes, 1, 1)[:3]
        if not all(
            type(size) is int and 1 <= size <= limit
            for size, limit in zip(three, most, strict=True)
        ):
            raise EmulationError(
                f"{self.name}: {what} {sizes}: expected Python integers from 1 to {most}"
            )
        return (ctypes.c_uint * 3)(*three)

    def _value(self, i: int, value: Any, kind: str, code: str) -> Any:
        where = f"{self.name}: argument {i}"
        if kind == "V":
            if (
                not isinstance(value, np.generic)
                or value.dtype.char.replace("l", "q").replace("L", "Q") != code
            ):
                raise EmulationError(
                    f"{where}: {value!r} of {type(value).__name__}, expected a NumPy scalar of "
                    f"type {code!r}"
                )
            return C_TYPES[code](value.item())
        if value is None:
            return ctypes.c_void_p(0)
        if not isinstance(value, DeviceArray):
            raise EmulationError(f"{where}: {type(value).__name__}, expected a device array")
        array = value.here()
        found = array.dtype.char.replace("l", "q").replace("L", "Q").replace("?", "B")
        if code != "*" and found != code:
            raise EmulationError(f"{where}: an array of type {found!r}, expected {code!r}")
        if array.size and not array[0 if array.ndim > 1 else slice(None)].flags.c_contiguous:
            raise EmulationError(
                f"{where}: an array of shape {array.shape} and strides {array.strides}, which is "
                "not contiguous"
            )
        return ctypes.c_void_p(array.ctypes.data)


class EmulatedToolkit:
    """Kernels by g++, arrays of NumPy's.

    ``edit`` changes the source of a kernel file before it is compiled: for planted faults.

    ``number``: of the device, 0 or 1, on which its arrays are; no other may use them.
    """

    def __init__(
        self, folder: Path, edit: Callable[[str, str], str] | None = None, number: int = 0
    ) -> None:
        self.xp = ArrayModule()
        self.description = f"emulation {number}"
        self.number = number
        self.memory = MEMORIES[number]
        self._folder = folder
        self._edit = edit or (lambda _, text: text)
        self._lock = threading.Lock()
        self._kernels: dict[tuple[Any, ...], EmulatedKernel] = {}

    def kernel(self, file: str, name: str, **defines: int | str) -> EmulatedKernel:
        """Compiled once in all sessions, as long as nothing of it changes."""
        self._check_current()
        key = (file, name, *sorted(defines.items()))
        with self._lock:
            if key not in self._kernels:
                right = source_of(file, **defines)
                source = self._edit(file, right)
                library = load(source, self._folder, OPTIMISE if source == right else QUICK)
                self._kernels[key] = EmulatedKernel(library, name)
            return self._kernels[key]

    def call(self, function: Callable[[], Result]) -> Result:
        """Run it, with this device as the current one."""
        before, CURRENT.number = CURRENT.number, self.number
        try:
            return function()
        finally:
            CURRENT.number = before

    def _check_current(self) -> None:
        if CURRENT.number != self.number:
            raise EmulationError(f"device {CURRENT.number} is the current one, not {self.number}")

    def to_host(self, array: DeviceArray) -> np.ndarray:
        """A copy."""
        if not isinstance(array, DeviceArray):
            raise TypeError(f"to_host: {type(array).__name__}, expected a device array")
        self._check_current()
        return array.here().copy()

    @contextmanager
    def host_copy(self, array: DeviceArray) -> Iterator[np.ndarray]:
        """A copy, spoilt afterwards."""
        host = self.to_host(array)
        yield host
        host.view(np.uint8)[...] = 0xA5

    @contextmanager
    def host_copies(self, arrays: Sequence[DeviceArray]) -> Iterator[list[np.ndarray]]:
        """Copies, spoilt afterwards."""
        with ExitStack() as stack:
            yield [stack.enter_context(self.host_copy(array)) for array in arrays]

    def to_device(self, array: np.ndarray) -> DeviceArray:
        """A copy."""
        if not isinstance(array, np.ndarray | np.generic):
            raise TypeError(f"to_device: {type(array).__name__}, expected a host array")
        self._check_current()
        return DeviceArray(np.array(array, order="C"))

    @contextmanager
    def staging(
        self, part: DeviceArray, also: Iterable[tuple["EmulatedToolkit", DeviceArray]] = ()
    ) -> Iterator[np.ndarray]:
        """Copied when the block ends, and spoilt."""
        host = np.full(part.nbytes, 0xA5, np.uint8).view(part.dtype).reshape(part.shape)
        yield host
        for toolkit, there in ((self, part), *also):
            assert (there.number, there.shape, there.values.flags.c_contiguous) == (
                toolkit.number,
                host.shape,
                True,
            )
            there.values[...] = host
        host.view(np.uint8)[...] = 0xA5

    def free_bytes(self) -> int:
        """Return the free part of the memory that the tests allow."""
        return self.memory.limit - self.memory.live

    def release(self) -> None:
        """Do nothing, as nothing is kept."""


@cache
def load(source: str, folder: Path, optimise: tuple[str, ...] = OPTIMISE) -> ctypes.CDLL:
    """Return the library of a kernel file; it is compiled once in all processes."""
    library = folder / f"{_key(source, optimise)}.so"
    with _one_process(library):
        if not library.exists():
            exports = "".join(f"EMULATOR_EXPORT({name})\n" for name in KERNEL.findall(source))
            text = library.with_suffix(".cpp")
            text.write_text(f'#include "{_header(folder, optimise)}"\n{source}\n{exports}')
            _compile(text, library, *optimise, "-shared")
            text.unlink()
    return ctypes.CDLL(str(library))


@cache
def _header(folder: Path, optimise: tuple[str, ...]) -> Path:
    """Return a copy of the shim, compiled by g++. It halves the time of each kernel file."""
    header = folder / f"{_key('', optimise)}.h"
    compiled = header.with_suffix(".h.gch")
    with _one_process(header):
        if not compiled.exists():
            header.write_text(SHIM.read_text())
            _compile(header, compiled, *optimise, "-x", "c++-header")
    return header


def _key(source: str, optimise: tuple[str, ...]) -> str:
    text = "\0".join([source, SHIM.read_text(), *FLAGS, *optimise])
    return hashlib.sha256(text.encode()).hexdigest()[:24]


@contextmanager
def _one_process(path: Path) -> Iterator[None]:
    """Let no other process of the tests into the block for this path."""
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _compile(source: Path, output: Path, *options: str) -> None:
    assert COMPILER is not None
    part = output.with_suffix(".part")
    command = [COMPILER, *FLAGS, *options, str(source), "-o", str(part)]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        raise EmulationError(f"g++: {run.stderr}")
    part.replace(output)
