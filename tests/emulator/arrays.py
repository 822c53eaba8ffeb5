"""Arrays with NumPy's values that behave like those of a device.

Host code reaches them by explicit copies only.
"""

import threading
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from gpu_spots.errors import OutOfDeviceMemory

COMPUTES = (
    "CuPy may compute it with kernels of its own, which are not loaded when a device is "
    "opened: use one of ours"
)
CROSSED = "a device array was used as a host array: only to_host may"


class Memory:
    """The emulated device's memory: how much is taken, and how much there is."""

    def __init__(self) -> None:
        self.limit, self.live, self.peak = 1 << 34, 0, 0
        self._lock = threading.RLock()

    def take(self, array: np.ndarray) -> None:
        """Count an array until it is gone. Raises `OutOfDeviceMemory`."""
        with self._lock:
            if self.live + array.nbytes > self.limit:
                raise OutOfDeviceMemory(
                    f"{array.nbytes} bytes on top of {self.live}, of {self.limit}"
                )
            self.live += array.nbytes
            self.peak = max(self.peak, self.live)
        weakref.finalize(array, self._give_back, array.nbytes).atexit = False

    def _give_back(self, n_bytes: int) -> None:
        with self._lock:
            self.live -= n_bytes


MEMORIES = [Memory(), Memory()]
"""One a device."""
MEMORY = MEMORIES[0]
"""Memory of the first device; most tests need no other one."""


class Current(threading.local):
    """The thread's current device, on which arrays are made and worked on."""

    number = 0


CURRENT = Current()


class DeviceArray:
    """NumPy array in the role of a CuPy array, on the device ``number`` or the current one."""

    def __init__(self, values: Any, number: int | None = None) -> None:
        self.values = np.asarray(values)
        self.number = CURRENT.number if number is None else number
        # views are counted with what they look at
        if self.values.flags.owndata:
            MEMORIES[self.number].take(self.values)

    def here(self) -> np.ndarray:
        """The values, for work on the current device."""
        if self.number != CURRENT.number:
            raise TypeError(f"an array of device {self.number} was used on device {CURRENT.number}")
        return self.values

    def __getattr__(self, name: str) -> Any:
        if name in ("shape", "dtype", "ndim", "size", "nbytes", "strides", "itemsize", "flags"):
            return getattr(self.values, name)
        if name in ("reshape", "view"):
            return in_the_role_of(getattr(self.here(), name))
        raise AttributeError(f"{name} of a device array: {COMPUTES}")

    @property
    def data(self) -> SimpleNamespace:
        """Address of the data."""
        return SimpleNamespace(ptr=self.values.ctypes.data)

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: Any) -> "DeviceArray":
        if all(
            isinstance(part, slice | int)
            for part in (index if isinstance(index, tuple) else (index,))
        ):
            return DeviceArray(self.values[index], self.number)  # a view, wherever it is
        raise TypeError(f"an index of {index!r}: {COMPUTES}")

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise TypeError(CROSSED)

    __array__ = __bool__ = __int__ = __float__ = __index__ = __iter__ = __contains__ = _refuse
    __hash__ = None  # type: ignore[assignment]
    __array_ufunc__ = None


def to_values(value: Any) -> Any:
    """NumPy's view of an argument; host arrays are refused, as CuPy refuses them."""
    if isinstance(value, DeviceArray):
        return value.here()
    if isinstance(value, np.ndarray):
        raise TypeError("a host array was given to an operation of the device: only to_device may")
    if isinstance(value, tuple | list):
        return type(value)(to_values(item) for item in value)
    return value


def in_the_role_of(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of NumPy's as CuPy has it: arrays in, arrays out, those without dimensions too."""

    def call(*args: Any, **options: Any) -> Any:
        result = function(
            *map(to_values, args), **{name: to_values(value) for name, value in options.items()}
        )
        if result is NotImplemented or result is None:
            return result
        return tuple(map(DeviceArray, result)) if isinstance(result, tuple) else DeviceArray(result)

    return call


FUNCTIONS = frozenset({"empty", "zeros", "argsort"})
"""Functions with the same name and meaning in NumPy and CuPy; a test asks CuPy for them.

Each that launches kernels must be tried when a device is opened (`gpu_spots.cuda.devices`), so that
they are loaded while there is memory, and must not hide its errors.
"""


class ArrayModule:
    """NumPy in CuPy's place."""

    ndarray = DeviceArray

    def __getattr__(self, name: str) -> Any:
        value = getattr(np, name)
        if isinstance(value, type | np.dtype | float | int):
            return value
        if name not in FUNCTIONS:
            raise AttributeError(
                f"xp.{name}: tests/emulator/arrays.py does not know it; is its failure seen, and "
                "is it tried when a device is opened?"
            )
        return in_the_role_of(value)
