"""Number of kernels, copies, waits and new threads of a run.

Python takes some ten microseconds for each, whatever the size of the frames. So the numbers are
those of 180 frames of 2048 x 2048: the frames here are smaller, and bands and batches with them.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from emulator.arrays import ArrayModule
from emulator.emulated import EmulatedToolkit
from gpu_spots.cuda.backend import GpuBackend
from gpu_spots.files.frames import open_run
from gpu_spots.memory import plan
from gpu_spots.memory.needs import Place
from gpu_spots.parameters import Parameters
from gpu_spots.resources import Resources
from gpu_spots.run import Output, find_to_file
from helpers import Notes, datasets, series, write_run

pytestmark = pytest.mark.emulated

N_FRAMES, SIZE, SCALE = 180, 64, 32
THREADS = 4


class Counting(EmulatedToolkit):
    """Counts by the device's operations: what reading the frames takes is not counted."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.counts: Counter[str] = Counter()
        self._threads: set[threading.Thread] = set()
        self._counting = threading.Lock()
        counting = self

        class Module(ArrayModule):
            def argsort(self, array: Any, kind: str) -> Any:
                counting.count("launches")
                return ArrayModule.__getattr__(self, "argsort")(array, kind=kind)

        self.xp = Module()

    def count(self, what: str, n: int = 1) -> None:
        with self._counting:
            self.counts[what] += n

    def call(self, function: Callable[[], Any]) -> Any:
        """A thread that is new to the device makes it current before CuPy asks for free memory."""
        with self._counting:
            self._threads.add(threading.current_thread())
            self.counts["threads"] = len(self._threads)
        return super().call(function)

    def kernel(self, file: str, name: str, **defines: int | str) -> Any:
        kernel = super().kernel(file, name, **defines)

        def launch(*args: Any, **options: Any) -> None:
            self.count("launches")
            kernel(*args, **options)

        return launch

    def to_host(self, array: Any) -> np.ndarray:
        self.count("transfers")
        self.count("waits")
        return super().to_host(array)

    @contextmanager
    def host_copies(self, arrays: Sequence[Any]) -> Iterator[list[np.ndarray]]:
        self.count("transfers", len(arrays))
        self.count("waits")
        yield [EmulatedToolkit.to_host(self, array) for array in arrays]

    def to_device(self, array: np.ndarray) -> Any:
        self.count("transfers")
        return super().to_device(array)


def counts_of(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, parameters: Parameters
) -> Counter[str]:
    """Return the counts of a run whose frames stay on the device."""
    for name in ("BATCH_PIXELS", "RESIDENT_BATCH"):
        monkeypatch.setattr(plan, name, getattr(plan, name) // SCALE**2, raising=False)
    # bands of 128 of 2048 rows
    monkeypatch.setattr(plan, "RESIDENT_PIXELS", SIZE * 128 // SCALE)
    frames = series(N_FRAMES, (SIZE, SIZE))
    source = write_run(tmp_path / "run__mccd.h5", frames=frames)
    with h5py.File(source, "r+") as file:
        path = next(path for path, values in datasets(file).items() if values.shape == frames.shape)
        del file[path]
        file.create_dataset(path, data=frames, chunks=(1, SIZE, SIZE), compression="gzip")
    toolkit: Any = Counting(folder)
    with open_run(source) as stack:
        resources = Resources(GpuBackend(toolkit, THREADS))
        output = Output(tmp_path / "spots.h5")
        summary = find_to_file(stack, parameters, resources, output, Notes())
    assert summary.plan.place == Place.DEVICE
    assert summary.plan.n_bands == 16
    return toolkit.counts


MOST = {
    # 308, 803 and 468, with pairs 221, 896 and 525, before batches were large and masks came
    # together; 9 and 16 threads, before those of a walk were kept for the next one
    "none": {"threads": THREADS + 1, "launches": 110, "transfers": 228, "waits": 46},
    "pairs": {"threads": THREADS + 1, "launches": 83, "transfers": 231, "waits": 40},
}
"""By how frames are grouped."""


@pytest.mark.parametrize("sync", MOST)
def test_a_run_asks_the_device_seldom(
    sync: str, tmp_path: Path, kernel_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = counts_of(tmp_path, kernel_folder, monkeypatch, Parameters.manual(sync=sync))
    assert not {what: found[what] for what, most in MOST[sync].items() if found[what] > most}
