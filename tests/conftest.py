"""Shared fixtures: the backends that every contract test runs on."""

import gc
import os
from functools import cache
from pathlib import Path

import pytest

from emulator.emulated import COMPILER
from gpu_spots.backend import Backend, select_backend
from gpu_spots.errors import BackendError

DEVICE_MEMBERS = [
    pytest.param("emulated", marks=pytest.mark.emulated),
    pytest.param("gpu", marks=pytest.mark.gpu),
]
"""The CUDA kernels on the CPU, with NumPy in the place of CuPy; and a CUDA device."""
MEMBERS = ["cpu", *DEVICE_MEMBERS]
"""All backends."""


@pytest.fixture(scope="session")
def kernel_folder(pytestconfig: pytest.Config) -> Path:
    """Folder of compiled emulated kernels, kept between sessions."""
    assert pytestconfig.cache is not None
    return Path(pytestconfig.cache.mkdir("emulator"))


@pytest.fixture(scope="session")
def make_backend(kernel_folder: Path) -> "MakeBackend":
    """Return a function that makes each backend once."""
    return MakeBackend(kernel_folder)


class MakeBackend:
    """Backends by name; skips a test where one cannot be had."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made = cache(self._make)

    def __call__(self, name: str) -> Backend:
        """The backend of that name, on two threads."""
        made = self._made(name)
        if isinstance(made, str):
            pytest.skip(made)
        return made

    def _make(self, name: str) -> Backend | str:
        if name.endswith("emulated"):
            from emulator.emulated import EmulatedToolkit
            from gpu_spots.cuda.backend import GpuBackend
            from gpu_spots.cuda.several import SeveralGpus

            if not COMPILER:
                return "g++ is not installed"
            first, second = (
                GpuBackend(EmulatedToolkit(self._folder, number=number), 2) for number in (0, 1)
            )
            return first if name == "emulated" else SeveralGpus([first, second], 2)
        try:
            return select_backend(name, threads=2)
        except BackendError as error:
            return str(error)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test of the fixture ``backend`` on each backend."""
    if "backend" in metafunc.fixturenames:
        on_two = metafunc.definition.get_closest_marker("on_two_devices")
        more = ["two emulated"] if on_two else []
        metafunc.parametrize("backend", [*MEMBERS, *more], indirect=True, scope="session")


@pytest.fixture(scope="session")
def backend(request: pytest.FixtureRequest, make_backend: MakeBackend) -> Backend:
    """Return each computing backend, with two threads."""
    return make_backend(request.param)


@pytest.fixture(params=DEVICE_MEMBERS, scope="session")
def device_backend(request: pytest.FixtureRequest, make_backend: MakeBackend) -> Backend:
    """The CUDA backend, emulated and on a device."""
    return make_backend(request.param)


def pytest_collection_finish() -> None:
    """Leave what lives to the end, thousands of tests and all modules, to no search for garbage."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Let others see all objects again, as hypothesis does where it is imported at the end."""
    gc.unfreeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests of emulated kernels where nothing can compile them."""
    if item.get_closest_marker("emulated") and not COMPILER:
        pytest.skip("g++ is not installed")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add an option for tests that take minutes."""
    parser.addoption(
        "--all-architectures",
        action="store_true",
        help="look at the kernels' resources on every architecture",
    )


def pytest_report_header() -> str:
    """Say whether kernels run under sanitizers."""
    return (
        "emulated kernels: AddressSanitizer and UndefinedBehaviorSanitizer"
        if os.environ.get("GPU_SPOTS_SANITIZE")
        else ""
    )
