"""A stand-in for CuPy and its device, for whole programs in processes of their own.

`environment` gives the variables with which any Python program imports the emulation in place of
CuPy. Kernels run, results are right, and copies take place at once. It does not emulate the
device's time (events give the host's), memory shared by processes, the cache of compiled kernels,
and errors of the driver. Device arrays accept more than those of the other tests, as benchmarks
need.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from scipy import ndimage

from emulator.arrays import MEMORY, DeviceArray, in_the_role_of, to_values
from emulator.emulated import COMPILER
from emulator.late import LateCupy, LateEvent, LateStream

STARTUP = Path(__file__).parent / "startup"
KERNELS = "GPU_SPOTS_STAND_IN_KERNELS"
"""The variable that names the folder of compiled kernels. Only the stand-in looks at it."""
METHODS = (
    *("mean", "std", "argmax", "max", "min", "sum", "any", "all", "astype", "copy", "transpose"),
    *("__add__", "__sub__", "__mul__", "__truediv__", "__rmul__", "__radd__", "__invert__"),
    *("__and__", "__or__", "__ge__", "__gt__", "__le__", "__lt__", "__eq__", "__ne__"),
)
"""Methods of device arrays that benchmarks use; the backend is held to fewer by the other tests."""
DRIVER = 'extern "C" int cuDriverGetVersion(int *version) { *version = 99000; return 0; }'
MEMORY_BYTES = 3 << 29
"""Memory of the device: 1.5 GiB."""


def environment(folder: Path, kernels: Path) -> dict[str, str]:
    """Environment of a process whose Python finds the stand-in.

    A driver is compiled into ``folder``; ``kernels`` keeps compiled kernels.
    """
    assert COMPILER is not None
    subprocess.run(
        [COMPILER, "-shared", "-fPIC", "-x", "c++", "-", "-o", folder / "libcuda.so.1"],
        input=DRIVER,
        text=True,
        check=True,
    )
    lists = {"PYTHONPATH": str(STARTUP), "LD_LIBRARY_PATH": str(folder)}
    joined = {
        name: os.pathsep.join(filter(None, (first, os.environ.get(name))))
        for name, first in lists.items()
    }
    return {**os.environ, **joined, KERNELS: str(kernels)}


class TimedEvent(LateEvent):
    """An event that also knows when it was recorded."""

    stream = LateStream()
    after = 0
    when = 0.0

    def record(self) -> None:
        """Record an event on a stream that has done everything."""
        self.when = time.perf_counter()


class Number:
    """A device by its number, which changes nothing here."""

    def __init__(self, number: int) -> None: ...

    def use(self) -> None: ...

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


class StandIn(LateCupy):
    """CuPy's part that drives devices: one device, whose copies take place at once."""

    def __init__(self, real: Any, kernels: Path) -> None:
        super().__init__(real, kernels, MEMORY_BYTES)
        limits: list[int] = [0]
        pool = {
            "malloc": None,
            "free_bytes": lambda: 0,
            "used_bytes": lambda: MEMORY.live,
            "free_all_blocks": lambda: None,
        }
        pool |= {
            "get_limit": lambda: limits[0],
            "set_limit": lambda size: limits.__setitem__(0, size),  # type: ignore[dict-item]
        }
        self.cuda.MemoryPool = lambda: SimpleNamespace(**pool)
        self.cuda.Device = Number
        self.cuda.Event = lambda disable_timing=False: TimedEvent()
        self.cuda.get_elapsed_time = lambda begin, end: 1e3 * max(end.when - begin.when, 1e-6)
        self.cuda.get_current_stream = LateStream
        self.cuda.driver, self.cuda.nvrtc = real.cuda.driver, real.cuda.nvrtc
        self.cuda.runtime.getDeviceCount = lambda: 1
        self.cuda.runtime.memGetInfo = lambda: (MEMORY_BYTES - MEMORY.live, MEMORY_BYTES)
        properties = {"name": b"stand-in", "totalGlobalMem": MEMORY_BYTES, "major": 9, "minor": 0}
        self.cuda.runtime.getDeviceProperties = lambda number: properties

    def use(self) -> None:
        """Do nothing, as nothing is late."""


def fill(module: Any, real: Any) -> None:
    """Give the module what it has of its own; cupyx.scipy.ndimage is replaced by SciPy's."""
    MEMORY.limit = MEMORY_BYTES
    device = StandIn(real, Path(os.environ[KERNELS]))
    module.__version__ = f"{real.__version__} (stand-in)"
    module.cuda, module.RawModule = device.cuda, device.RawModule
    module.asarray = lambda values: DeviceArray(np.array(values, order="C"))
    for name in ("array", "percentile"):
        setattr(module, name, in_the_role_of(getattr(np, name)))
    images = ModuleType("cupyx.scipy.ndimage")
    for name in ("binary_erosion", "binary_dilation", "label"):
        setattr(images, name, in_the_role_of(getattr(ndimage, name)))
    packages = [ModuleType(name) for name in ("cupyx", "cupyx.scipy")]
    packages[1].ndimage = images  # type: ignore[attr-defined]
    # CuPy leaves a module here that loads the real one when it is looked at
    sys.modules.update({part.__name__: part for part in (*packages, images)})
    _arrays_as_cupys()


def _arrays_as_cupys() -> None:
    """Give device arrays the methods of CuPy that benchmarks use."""

    def set_(array: DeviceArray, host: np.ndarray, stream: object = None) -> None:
        assert (array.shape, array.dtype, array.values.flags.c_contiguous) == (
            host.shape,
            host.dtype,
            True,
        )
        np.copyto(array.values, host)

    def get(array: DeviceArray, out: np.ndarray | None = None, blocking: bool = True) -> np.ndarray:
        if out is None:
            return array.values.copy()
        np.copyto(out, array.values)
        return out

    def each(array: DeviceArray) -> Iterator[DeviceArray]:
        return (array[i : i + 1].reshape(array.shape[1:]) for i in range(len(array)))

    def method(name: str) -> Callable[..., Any]:
        return lambda array, *args, **options: in_the_role_of(getattr(array.here(), name))(
            *args, **options
        )

    def item(array: DeviceArray, index: Any) -> DeviceArray:
        parts = index if isinstance(index, tuple) else (index,)
        if all(isinstance(part, slice) for part in parts):
            return DeviceArray(array.values[index], array.number)  # a view
        return DeviceArray(array.here()[to_values(index)])

    def set_item(array: DeviceArray, index: Any, value: Any) -> None:
        array.here()[to_values(index)] = to_values(value)

    added: dict[str, Any] = {
        "__getitem__": item,
        "__setitem__": set_item,
        "set": set_,
        "get": get,
        "__iter__": each,
        "__int__": lambda array: int(array.values),
    }
    for name, value in {
        **added,
        **{name: method(name) for name in METHODS},
    }.items():
        setattr(DeviceArray, name, value)
