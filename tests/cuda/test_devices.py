"""Reasons why a GPU cannot be used are one line with a remedy.

With auto, the CPU is used, and a note gives the reason.
"""

import importlib
import importlib.metadata
import importlib.util
import os
import re
import stat
import subprocess
import sys
import tomllib
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from emulator.arrays import ArrayModule
from emulator.emulated import EmulatedToolkit
from gpu_spots.backend import choose_backend, select_backend
from gpu_spots.cuda import devices
from gpu_spots.cuda.reasons import NO_CUPY, reason
from gpu_spots.errors import BackendError, OutOfDeviceMemory, ParameterError
from gpu_spots.packages import EXTRAS
from helpers import ROOT, assert_refused, command, write_run

NO_GPU = "no usable GPU; run gpu-spots devices for the reason"
"""Reason that auto gives when it falls back although there is a driver."""
HAS_CUPY = importlib.util.find_spec("cupy") is not None
needs_cupy = pytest.mark.skipif(not HAS_CUPY, reason=NO_CUPY)


@pytest.fixture
def cupy_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the search for CuPy succeed."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(devices, "installed_wheels", lambda: ["cupy-cuda13x"])


def test_without_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    problem = devices.obstacle()
    assert problem is not None
    assert problem.startswith("CuPy is not installed: pip install cupy-cuda13x ")


@pytest.mark.usefixtures("cupy_is_there")
def test_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "DRIVER", "libcuda_which_is_not_there.so.1")
    assert devices.obstacle() == (
        "there is no NVIDIA driver (libcuda_which_is_not_there.so.1 cannot be loaded); "
        "install it, or compute on the CPU"
    )


@pytest.mark.usefixtures("cupy_is_there")
def test_with_two_cupys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "driver_version", lambda: 13000)
    monkeypatch.setattr(devices, "installed_wheels", lambda: ["cupy-cuda12x", "cupy-cuda13x"])
    problem = devices.obstacle()
    assert problem is not None
    assert "cupy-cuda12x and cupy-cuda13x are both installed" in problem
    assert "pip uninstall cupy-cuda12x cupy-cuda13x" in problem


def test_wheels_are_found_by_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["numpy", "cupy-cuda12x", "cupy_xarray", "cupy"]
    monkeypatch.setattr(
        importlib.metadata,
        "distributions",
        lambda: [SimpleNamespace(metadata={"Name": name}) for name in names],
    )
    assert devices.installed_wheels() == ["cupy", "cupy-cuda12x"]


@needs_cupy
@pytest.mark.parametrize(
    ("driver", "words"),
    [
        (12040, ["12.4", "update the driver", "pip install cupy-cuda12x"]),
        (11080, ["11.8", "update the driver"]),
    ],
)
def test_with_an_old_driver(monkeypatch: pytest.MonkeyPatch, driver: int, words: list[str]) -> None:
    import cupy

    monkeypatch.setattr(devices, "driver_version", lambda: driver)
    monkeypatch.setattr(cupy.cuda.runtime, "runtimeGetVersion", lambda: 13020)
    problem = devices.obstacle()
    assert problem is not None
    assert not [word for word in words if word not in problem]
    assert "\n" not in problem


@needs_cupy
@pytest.mark.parametrize(
    ("version", "is_refused"),
    [("13.6.0", True), ("14.0.1", True), ("14.1.0", False), ("14.2.0rc1", False), ("15.0", False)],
)
def test_a_cupy_whose_sorts_hide_errors_is_refused(
    monkeypatch: pytest.MonkeyPatch, version: str, is_refused: bool
) -> None:
    import cupy

    monkeypatch.setattr(devices, "driver_version", lambda: 13020)
    monkeypatch.setattr(devices, "installed_wheels", lambda: ["cupy-cuda13x"])
    monkeypatch.setattr(cupy, "__version__", version)
    refused = (
        f"CuPy {version} is installed, expected at least 14.1: pip install --upgrade cupy-cuda13x"
    )
    assert devices.obstacle() == (refused if is_refused else None)
    if is_refused:
        with pytest.raises(BackendError, match=refused):
            devices.open_backend((0,), None, 1)
        with pytest.raises(BackendError, match=refused):
            devices.list_devices()
        assert choose_backend("auto", threads=1)[1] == NO_GPU


@needs_cupy
@pytest.mark.parametrize(
    ("capability", "cuda", "words"),
    [
        (
            (7, 0),
            13020,
            ["compute capability 7.0, expected at least 7.5 with CUDA 13", "cupy-cuda12x"],
        ),
        ((5, 2), 13020, ["compute capability 5.2, expected at least 7.5 with CUDA 13"]),
        ((6, 0), 12090, ["compute capability 6.0, expected at least 6.1 with CUDA 12"]),
        ((7, 5), 13020, []),
        ((6, 1), 12090, []),
        ((12, 0), 13020, []),
    ],
)
def test_a_device_without_the_instructions_is_refused(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], cuda: int, words: list[str]
) -> None:
    import cupy

    from gpu_spots.cuda import device as device_module

    class Opened(Exception):
        pass

    def opened(*_: Any) -> None:
        raise Opened

    properties = {
        "name": b"Old",
        "totalGlobalMem": 1 << 34,
        "major": capability[0],
        "minor": capability[1],
    }
    monkeypatch.setattr(devices, "obstacle", lambda: None)
    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceCount", lambda: 1)
    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceProperties", lambda number: properties)
    monkeypatch.setattr(cupy.cuda.runtime, "runtimeGetVersion", lambda: cuda)
    monkeypatch.setattr(device_module, "Device", opened)
    if not words:
        with pytest.raises(Opened):
            devices.open_device(0, None, 1)
        return
    (listed,) = devices.list_devices()
    assert listed.problem is not None
    assert not [word for word in words if word not in listed.problem]
    assert ("cupy-cuda12x" in listed.problem) == ("cupy-cuda12x" in words)


SEES = """
import importlib.util, sys
from gpu_spots.cuda import devices
devices.driver_version = lambda: 13020
from gpu_spots.backend import choose_backend
backend, _ = choose_backend("auto", threads=1)
import os
cache = os.environ.get("CUPY_CACHE_DIR")
print(backend.name, "|", devices.obstacle(), "|", cache, "|", "cupy" in sys.modules)
"""


def seen(**environment: str) -> list[str]:
    """Return backend, obstacle, cache folder, and whether CuPy was imported.

    A process of its own tells it.
    """
    names = {name: value for name, value in os.environ.items() if name != "CUPY_CACHE_DIR"}
    ended = subprocess.run(
        [sys.executable, "-c", SEES],
        capture_output=True,
        text=True,
        env=names | environment,
        check=True,
    )
    return ended.stdout.strip().split(" | ")


@needs_cupy
def test_a_home_that_cannot_be_written(tmp_path: Path) -> None:
    """Kernels are kept in a private folder for temporary files.

    HOME is a file, which refuses root too.
    """
    home, temporary = tmp_path / "home", tmp_path / "tmp"
    home.write_text("")
    temporary.mkdir()
    name, obstacle, folder, was_imported = seen(HOME=str(home), TMPDIR=str(temporary))
    assert (name, was_imported) == ("cpu", "True")
    # it went on to look for devices
    assert "CuPy cannot be imported" not in obstacle
    assert Path(folder).parent == temporary
    assert stat.S_IMODE(Path(folder).stat().st_mode) == 0o700
    assert seen(HOME=str(home), TMPDIR=str(temporary))[2] == folder
    # somebody else may have put kernels into one that others can write
    Path(folder).chmod(0o777)
    other = seen(HOME=str(home), TMPDIR=str(temporary))[2]
    assert other != folder
    assert Path(other).parent == temporary


@needs_cupy
def test_a_home_that_can_be_written_keeps_the_kernels(tmp_path: Path) -> None:
    assert seen(HOME=str(tmp_path))[2] == "None"
    assert (tmp_path / ".cupy" / "kernel_cache").is_dir()


@needs_cupy
def test_a_cache_folder_of_the_users_that_cannot_be_made(tmp_path: Path) -> None:
    """The folder is not changed; auto uses the CPU and gives the reason."""
    (tmp_path / "file").write_text("")
    chosen = str(tmp_path / "file" / "cache")
    name, obstacle, folder, _ = seen(HOME=str(tmp_path), CUPY_CACHE_DIR=chosen)
    assert (name, folder) == ("cpu", chosen)
    assert obstacle.startswith("CuPy cannot be imported: ")
    assert chosen in obstacle


@needs_cupy
def test_without_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    import cupy

    monkeypatch.setattr(devices, "driver_version", lambda: 13020)
    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceCount", lambda: 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(
        BackendError, match="the NVIDIA driver sees no device; CUDA_VISIBLE_DEVICES is ''"
    ):
        devices.open_backend((0,), None, 1)


@needs_cupy
@pytest.mark.parametrize(("count", "words"), [(1, "device 0$"), (2, "devices 0 to 1")])
def test_an_unknown_device(monkeypatch: pytest.MonkeyPatch, count: int, words: str) -> None:
    import cupy

    monkeypatch.setattr(devices, "obstacle", lambda: None)
    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceCount", lambda: count)
    with pytest.raises(
        BackendError, match=f"--device 5: there is no such device; CUDA found {words}"
    ):
        devices.open_device(5, None, 1)


@pytest.mark.parametrize(
    ("said", "meaning"),
    [
        (
            'Failure finding "libnvrtc.so.13 or libnvrtc.so.12": No such file: libnvrtc.so.13',
            "NVRTC, CUDA's compiler, is missing",
        ),
        (
            'carray.cuh(5): catastrophic error: cannot open source file "cuda_fp16.h"\n1 '
            "catastrophic error",
            "CUDA's headers are missing",
        ),
        (
            "cudaErrorNoDevice: no CUDA-capable device is detected",
            "the NVIDIA driver sees no device",
        ),
        (
            "cudaErrorDevicesUnavailable: all CUDA-capable devices are busy or unavailable",
            "the device is taken",
        ),
        (
            "nvrtc: error: invalid value for --gpu-architecture (-arch)",
            "this CUDA cannot compile for the device",
        ),
        ("NVRTC_ERROR_OUT_OF_MEMORY (1)", "the host's memory is not enough to compile a kernel"),
        (
            "[Errno 30] Read-only file system: '/home/me/.cupy'",
            "CuPy's kernel cache cannot be written; set CUPY_CACHE_DIR",
        ),
        ("something new", "something new"),
    ],
)
def test_what_cuda_says_is_translated(said: str, meaning: str) -> None:
    line = reason(RuntimeError(said))
    assert line.startswith(meaning)
    assert "\n" not in line


def fake_device() -> Any:
    """A device without one: what it says about errors needs none."""
    from gpu_spots.cuda.device import Device

    device: Any = object.__new__(Device)
    device.number = 3
    device._make_current, device._compute = lambda: None, nullcontext()
    device._pool = SimpleNamespace(malloc=None)
    return device


@needs_cupy
def test_errors_of_the_device_are_ours() -> None:
    import cupy

    def fails(error: BaseException) -> Any:
        def function() -> None:
            big = np.zeros(3)
            raise error from ValueError(big)

        return function

    device = fake_device()
    runtime, nvrtc = cupy.cuda.runtime.CUDARuntimeError, cupy.cuda.nvrtc.NVRTCError
    for error, kind in (
        (
            RuntimeError(
                "radix_sort: failed on 1st step: cudaErrorMemoryAllocation: out of memory"
            ),
            OutOfDeviceMemory,
        ),
        (RuntimeError("std::bad_alloc: bad allocation"), OutOfDeviceMemory),
        (
            RuntimeError("parallel_for: failed to synchronize: cudaErrorIllegalAddress"),
            BackendError,
        ),
        # PROGRAM_CREATION_FAILURE has the number that means "out of memory" elsewhere; 1 is the
        # host's memory
        (nvrtc(2), BackendError),
        (nvrtc(1), BackendError),
        (OSError(28, "No space left on device"), BackendError),
        (cupy.cuda.memory.OutOfMemoryError(1 << 40, 1 << 30, 0), OutOfDeviceMemory),
        (MemoryError("bad allocation"), OutOfDeviceMemory),
        (runtime(2), OutOfDeviceMemory),
        (runtime(719), BackendError),
        (
            cupy.cuda.compiler.CompileException("masks.cu(3): error", "", "masks.cu", ()),
            BackendError,
        ),
    ):
        with pytest.raises(BackendError, match="GPU 3: ") as raised:
            device.call(fails(error))
        assert type(raised.value) is kind
        # else what the failed work had on the device would live as long as the error
        assert raised.value.__context__ is None
        assert raised.value.__cause__ is None
    with pytest.raises(ValueError, match="mine"):
        device.call(lambda: int("mine"))
    with pytest.raises(NotImplementedError):
        device.call(fails(NotImplementedError()))
    with pytest.raises(np._core._exceptions._ArrayMemoryError):  # type: ignore[attr-defined]
        device.call(lambda: np.empty(1 << 62, np.uint8))


@needs_cupy
def test_none_is_a_null_pointer() -> None:
    from gpu_spots.cuda.device import _with_null_pointers

    launched = []
    kernel = _with_null_pointers(lambda *args, **options: launched.append((args, options)))
    kernel((1,), (32,), (None, np.int32(5)), shared_mem=8)
    (((grid, block, args), options),) = launched
    assert (grid, block, options) == ((1,), (32,), {"shared_mem": 8})
    assert (type(args[0]), args[0], args[1]) == (np.uint64, 0, 5)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no GPU be found."""
    monkeypatch.setattr(devices, "obstacle", lambda: "it is somewhere else")
    monkeypatch.setattr(devices, "driver_version", lambda: 13000)


@pytest.mark.usefixtures("no_gpu")
def test_auto_falls_back_and_says_so() -> None:
    backend, note = choose_backend("auto", threads=1)
    assert backend.name == "cpu"
    assert note == NO_GPU
    assert choose_backend("cpu")[1] is None


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("options", [{"name": "gpu"}, {"name": "auto", "device": 0}])
def test_a_gpu_that_is_asked_for_must_be_there(options: dict[str, Any]) -> None:
    with pytest.raises(BackendError, match="backend gpu: it is somewhere else"):
        select_backend(**options)


@pytest.mark.parametrize("name", ["device", "device_memory_limit"])
def test_numbers_of_the_device_are_checked(name: str) -> None:
    with pytest.raises(ParameterError, match=f"{name}: -1 is not an integer >= "):
        select_backend("auto", **{name: -1})
    with pytest.raises(ParameterError, match="cannot be used with the CPU backend"):
        select_backend("cpu", **{name: 1})


@pytest.mark.usefixtures("no_gpu")
def test_the_commands_say_it_in_one_line(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run__mccd.h5")
    assert_refused(command(run, "--backend", "gpu"), 1, "backend gpu: it is somewhere else")
    assert_refused(
        command(run, "--backend", "cpu", "--device", 1),
        2,
        "--device",
        "cannot be used with the CPU backend",
    )
    assert_refused(command(run, "--device-memory-limit", "8"), 2, "--device-memory-limit", "'8'")
    ended = command(run)
    assert ended.status == 0
    assert ended.lines[0].endswith(f"; {NO_GPU}")


@pytest.mark.usefixtures("no_gpu")
def test_a_machine_without_a_driver_needs_no_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "driver_version", lambda: None)
    assert choose_backend("auto", threads=1)[1] is None


def test_advice_names_the_packages_of_the_extras() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extra, packages in EXTRAS.items():
        assert [
            re.split("[<>=]", requirement)[0]
            for requirement in project["optional-dependencies"][extra]
        ] == list(packages)


def test_devices_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        devices.DeviceInfo(0, "NVIDIA H200, 141 GiB", None),
        devices.DeviceInfo(1, "Tesla K80, 11 GiB", "GPU 1: it is too old"),
    ]
    monkeypatch.setattr(devices, "list_devices", lambda: found)
    ended = command("devices", name="gpu-spots")
    assert (ended.status, ended.stderr) == (0, "")
    assert ended.stdout.splitlines() == [
        "0: NVIDIA H200, 141 GiB: can be used",
        "1: Tesla K80, 11 GiB: GPU 1: it is too old",
    ]


@pytest.mark.usefixtures("no_gpu")
def test_no_devices_are_no_error() -> None:
    ended = command("devices", name="gpu-spots")
    assert (ended.status, ended.stdout, ended.stderr) == (0, "no GPU: it is somewhere else\n", "")


@needs_cupy
def test_the_benchmark_needs_no_more_than_the_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames are made without CuPy's random numbers, which need cuRAND."""

    class OnDevice(np.ndarray):
        def set(self, host: np.ndarray) -> None:
            self[...] = host

    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    benchmark = importlib.import_module("gpu")
    fake = SimpleNamespace(
        uint16=np.uint16, empty=lambda shape, dtype: np.empty(shape, dtype).view(OnDevice)
    )
    monkeypatch.setattr(benchmark, "cupy", fake)
    frames = benchmark.noise_with_spots(5, 300)
    assert frames.shape == (5, 300, 300)
    assert 190 < np.median(frames) < 210
    assert all((frame >= 800).sum() >= 4 for frame in frames)
    assert not np.array_equal(frames[0], frames[4])


@pytest.mark.emulated
def test_a_device_is_tried_with_the_kernels_that_are_used(kernel_folder: Path) -> None:
    """CuPy's sort is tried too, on more than one step; a fault in either is found."""
    toolkit: Any = EmulatedToolkit(kernel_folder)
    sort, sizes = toolkit.xp.argsort, []

    class Module(ArrayModule):
        def argsort(self, array: Any, kind: str) -> Any:
            sizes.append(len(array))
            return sort(array, kind=kind)

    toolkit.xp = Module()
    devices._try(toolkit)
    assert sizes == [256 * 512]

    def edit(name: str, text: str) -> str:
        return text.replace("before += total;", "")

    with pytest.raises(BackendError, match="GPU 0: a test of its kernels gave wrong results"):
        devices._try(EmulatedToolkit(kernel_folder, edit))  # type: ignore[arg-type]
