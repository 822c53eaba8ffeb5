"""CUDA devices of the machine, and the reason why one cannot be used.

CuPy is imported here when nothing else stands in the way.
"""

import ctypes
import importlib.util
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpu_spots.cuda.cache import choose_kernel_cache
from gpu_spots.cuda.reasons import EXTRA, EXTRA12, NO_CUPY, reason
from gpu_spots.errors import BackendError

if TYPE_CHECKING:
    from gpu_spots.cuda.backend import GpuBackend
    from gpu_spots.cuda.device import Device
    from gpu_spots.cuda.several import SeveralGpus

DRIVER = {"win32": "nvcuda.dll"}.get(sys.platform, "libcuda.so.1")
TRIED = (256, 1024)
"""Rows and columns of a mask that is labelled to try a device: its set pixels are more than a sort
takes in one step.
"""
OLDEST_CUPY = (14, 1)
"""Older versions ignore that a sort could not allocate its workspace, and return garbage."""
OLDEST_DEVICE = {12: (6, 1), 13: (7, 5)}
"""Least compute capability by CUDA's major version: ``__dp4a`` needs 6.1, CUDA 13 compiles for 7.5
and later.
"""


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """Description of a device."""

    number: int
    """Number of the device for CUDA, from 0, among those that CUDA_VISIBLE_DEVICES allows."""
    description: str
    """Name, memory and compute capability of the device."""
    problem: str | None
    """Reason why the device cannot be used; None: a kernel ran on it."""


def open_backend(
    numbers: Sequence[int], memory_limit: int | None, threads: int
) -> "GpuBackend | SeveralGpus":
    """Return the backend on one or several devices; see `open_device`.

    ``memory_limit`` holds for each device. Each has at least one thread.
    """
    workers = max(threads, len(numbers))
    devices: list[Device] = []
    for number in numbers:
        devices.append(open_device(number, memory_limit, workers, devices[0] if devices else None))
    # most machines have none, and need not load this
    from gpu_spots.cuda.backend import GpuBackend
    from gpu_spots.cuda.several import SeveralGpus

    backends = [GpuBackend(device, workers) for device in devices]
    return backends[0] if len(backends) == 1 else SeveralGpus(backends, workers)


def open_device(
    number: int, memory_limit: int | None, threads: int, beside: "Device | None" = None
) -> "Device":
    """Return a device after a kernel has run on it.

    Raises `BackendError`, one line that says what to install or to do.
    """
    if problem := obstacle():
        raise BackendError(problem)
    from gpu_spots.cuda.device import Device

    count = _count()
    if number >= count:
        numbers = "device 0" if count == 1 else f"devices 0 to {count - 1}"
        raise BackendError(f"--device {number}: there is no such device; CUDA found {numbers}")
    if problem := _too_old(number):
        raise BackendError(f"GPU {number}: {problem}")
    try:
        device = Device(number, memory_limit, threads, beside)
    except (RuntimeError, ImportError) as error:
        raise BackendError(f"GPU {number}: {reason(error)}") from error
    _try(device)
    return device


def list_devices() -> list[DeviceInfo]:
    """Try every device. Raises `BackendError` where there can be none."""
    if problem := obstacle():
        raise BackendError(problem)
    import cupy

    devices = []
    for number in range(_count()):
        properties = cupy.cuda.runtime.getDeviceProperties(number)
        memory, capability = (
            properties["totalGlobalMem"] / 2**30,
            f"{properties['major']}.{properties['minor']}",
        )
        description = (
            f"{properties['name'].decode()}, {memory:.0f} GiB, compute capability {capability}"
        )
        try:
            open_device(number, None, 1)
            failure = None
        except BackendError as error:
            failure = str(error)
        devices.append(DeviceInfo(number, description, failure))
    return devices


def obstacle() -> str | None:
    """Return the reason why no CUDA device can be used; None: none was found.

    Cheap checks come first.
    """
    if importlib.util.find_spec("cupy") is None:
        return NO_CUPY
    version = driver_version()
    if version is None:
        return (
            f"there is no NVIDIA driver ({DRIVER} cannot be loaded); install it, or compute on "
            "the CPU"
        )
    wheels = installed_wheels()
    if len(wheels) > 1:
        names = " ".join(wheels)
        return (
            f"{' and '.join(wheels)} are both installed, and neither works: pip uninstall "
            f"{names}, then {EXTRA}, or {EXTRA12}"
        )
    choose_kernel_cache()
    try:
        import cupy
    except Exception as error:  # it makes its cache folder, and loads CUDA's libraries
        return f"CuPy cannot be imported: {reason(error)}"
    if _numbers_of(cupy.__version__) < OLDEST_CUPY:
        return (
            f"CuPy {cupy.__version__} is installed, expected at least "
            f"{'.'.join(map(str, OLDEST_CUPY))}: pip install --upgrade {' '.join(wheels) or 'cupy'}"
        )
    needed = cupy.cuda.runtime.runtimeGetVersion()
    if version // 1000 < needed // 1000:
        other = f", or pip uninstall {' '.join(wheels)} and {EXTRA12}" if version >= 12000 else ""
        return (
            f"the NVIDIA driver supports CUDA {version // 1000}.{version % 1000 // 10}, CuPy is "
            f"built for {needed // 1000}: "
            f"update the driver{other}"
        )
    return None


def _numbers_of(version: str) -> tuple[int, ...]:
    """Return major and minor number of a version: 14 and 2 of 14.2.0rc1."""
    return tuple(map(int, re.findall(r"\d+", version)[:2]))


def _too_old(number: int) -> str | None:
    """Return why the compute capability of a device is too low; None: it is supported."""
    import cupy

    runtime = cupy.cuda.runtime
    try:
        properties, cuda = runtime.getDeviceProperties(number), runtime.runtimeGetVersion() // 1000
    except runtime.CUDARuntimeError as error:
        return reason(error)
    found, least = (
        (properties["major"], properties["minor"]),
        OLDEST_DEVICE.get(cuda, max(OLDEST_DEVICE.values())),
    )
    if found >= least:
        return None
    other = (
        f"; compute capability 6.1 and later can be used with {EXTRA12}" if found >= (6, 1) else ""
    )
    return "compute capability {}.{}, expected at least {}.{} with CUDA {}{}".format(
        *found, *least, cuda, other
    )


def driver_version() -> int | None:
    """Return the newest CUDA that the driver supports, 13000 for 13.0; None: no driver."""
    version = ctypes.c_int()
    try:
        failed = ctypes.CDLL(DRIVER).cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return None
    return None if failed else version.value


def installed_wheels() -> list[str]:
    """Return the packages that contain CuPy. Two of them overwrite each other."""
    import importlib.metadata  # which takes longer than all that is asked before

    names = {
        distribution.metadata["Name"] or "" for distribution in importlib.metadata.distributions()
    }
    return sorted(
        name
        for name in names
        if name.lower() == "cupy" or name.lower().startswith(("cupy-cuda", "cupy-rocm"))
    )


def _count() -> int:
    import cupy

    try:
        count = int(cupy.cuda.runtime.getDeviceCount())
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise BackendError(f"{reason(error)}{_hidden()}") from error
    if not count:
        raise BackendError(f"the NVIDIA driver sees no device{_hidden()}")
    return count


def _hidden() -> str:
    """Return the environment variable that hides devices, if one does."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "" if visible is None else f"; CUDA_VISIBLE_DEVICES is {visible!r}"


def _try(device: "Device") -> None:
    """Label stripes, and compare: it needs the compiler, kernels, a sort, and copies both ways.

    The sort is the only thing that CuPy computes for the operations. Here its kernels are loaded,
    while there is memory for them.
    """
    import numpy as np

    from gpu_spots.cuda.components import components
    from gpu_spots.cuda.packed import PackedMasks

    n_rows, n_columns = TRIED
    words = np.full((1, n_rows, n_columns // 32), 0x55555555, np.uint32)
    try:
        found = device.call(
            lambda: components(device, PackedMasks(device.to_device(words), n_columns), 1)
        )
    except RuntimeError as error:  # of CuPy's, where a library cannot be loaded
        raise BackendError(f"GPU {device.number}: {reason(error)}") from error
    expected = np.arange(0, n_columns, 2)[:, None] + n_columns * np.arange(n_rows)
    if not np.array_equal(found.pixels, expected.reshape(-1)):
        raise BackendError(
            f"GPU {device.number}: a test of its kernels gave wrong results: the device or its "
            "driver is broken"
        )
