"""Whole runs by the host code for CuPy give the CPU's results, to the bit.

Streams work as late as they may.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from gpu_spots.cuda.reasons import NO_CUPY

pytest.importorskip("cupy", reason=NO_CUPY)

from cpu_fallback import CpuBackend
from emulator.arrays import ArrayModule
from emulator.late import LateCupy, copies_come_late
from gpu_spots.cuda.backend import GpuBackend
from gpu_spots.cuda.device import Device
from gpu_spots.files.frames import open_run
from gpu_spots.files.output.spots_file import open_spots
from gpu_spots.memory.needs import Place
from gpu_spots.memory.plan import ResourceLimits
from gpu_spots.parameters import Parameters
from gpu_spots.resources import Resources
from gpu_spots.run import Output, find_to_file, spool_for
from helpers import Notes, assert_same, datasets, series, write_run

device_module: Any = importlib.import_module("gpu_spots.cuda.device")
"""Any, as tests replace what it imports."""

pytestmark = pytest.mark.emulated

SHAPE = (20, 64, 90)
MODES = {
    "alone": Parameters.manual(),
    "pairs": Parameters.manual(sync="pairs", erosions=0),
    "blocks, kruskal": Parameters.manual(sync="blocks", method="kruskal"),
    "level": Parameters.manual(normalise="level"),
}


@pytest.fixture
def make(kernel_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], GpuBackend]:
    """The backend on such a device, with so many threads."""

    def made(threads: int) -> GpuBackend:
        late = LateCupy(device_module.cupy, kernel_folder, 1 << 30)
        monkeypatch.setattr(device_module, "cupy", late)
        monkeypatch.setattr(Device, "xp", ArrayModule())
        copies_come_late(late, monkeypatch)
        return GpuBackend(Device(0, None, threads), threads)

    return made


def source_of(tmp_path: Path, layout: str) -> Path:
    """A run whose frames are stored in some way."""
    frames = series(SHAPE[0], SHAPE[1:])
    source = write_run(tmp_path / "run__mccd.h5", frames=frames)
    if layout == "contiguous":
        return source
    with h5py.File(source, "r+") as file:
        path = next(path for path, values in datasets(file).items() if values.shape == SHAPE)
        del file[path]
        file.create_dataset(
            path,
            data=frames,
            chunks=(1, *SHAPE[1:]),
            compression="gzip",
            shuffle=layout == "shuffled",
        )
    return source


def found(
    source: Path, output: Path, parameters: Parameters, backend: Any, *, may_stay: bool = True
) -> tuple[Place, dict[str, np.ndarray]]:
    """Return the place of the frames, and all results."""
    with open_run(source) as stack:
        resources = Resources(backend, ResourceLimits(may_stay=may_stay), spool_for(output))
        summary = find_to_file(stack, parameters, resources, Output(output), Notes())
    with open_spots(output) as spots:
        return summary.plan.place, datasets(spots._file)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("layout", "place"),
    [
        ("gzip", Place.DEVICE),
        ("shuffled", Place.DEVICE),
        ("contiguous", Place.DEVICE),
        ("contiguous", Place.FILE),
        ("gzip", Place.MEMORY),
    ],
)
def test_runs_on_late_streams(
    make: Callable[[int], GpuBackend], mode: str, layout: str, place: Place, tmp_path: Path
) -> None:
    source = source_of(tmp_path, layout)
    _, expected = found(source, tmp_path / "cpu.h5", MODES[mode], CpuBackend(2))
    where, results = found(
        source, tmp_path / "late.h5", MODES[mode], make(3), may_stay=place == Place.DEVICE
    )
    assert where == place
    assert_same(results, expected)


rightly_sent = Device._send


def sent_too_freely(self: Device, host: np.ndarray, part: Any, slot: Any) -> None:
    """Return the source, except that the slot of frames is free at once."""
    if part.ndim < 3:
        return rightly_sent(self, host, part, slot)
    part.set(host, stream=self._copies)
    self._compute.wait_event(device_module._recorded(self._copies))
    return None


def used_too_early(self: Device, host: np.ndarray, part: Any, slot: Any) -> None:
    """Return the source, except that kernels do not wait for frames.

    They would read anywhere without their lists of pixels.
    """
    if part.ndim < 3:
        return rightly_sent(self, host, part, slot)
    part.set(host, stream=self._copies)
    slot.busy.append(device_module._recorded(self._copies))
    return None


def received_too_early(self: Device, arrays: Any, hosts: Any) -> None:
    """Return the source, except that the host does not wait."""
    for array, host in zip(arrays, hosts, strict=True):
        if array.size:
            array.get(out=host, blocking=False)


@pytest.mark.parametrize(
    ("method", "faulty"),
    [("_send", sent_too_freely), ("_send", used_too_early), ("_receive", received_too_early)],
)
def test_planted_faults_show(
    make: Callable[[int], GpuBackend],
    method: str,
    faulty: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, backend = source_of(tmp_path, "gzip"), make(1)
    _, expected = found(source, tmp_path / "right.h5", Parameters.manual(), backend)
    monkeypatch.setattr(Device, method, faulty)
    try:
        _, results = found(source, tmp_path / "wrong.h5", Parameters.manual(), backend)
    except ValueError:  # numbers that cannot be
        return
    with pytest.raises(AssertionError):
        assert_same(results, expected)
