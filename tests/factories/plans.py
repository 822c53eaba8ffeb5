"""Runs, devices and stacks for tests of the plan."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from cpu_fallback import CpuBackend
from gpu_spots import pipeline
from gpu_spots.backend import Backend
from gpu_spots.background.maps import BackgroundRows
from gpu_spots.background.methods import Method, Trimmed
from gpu_spots.errors import OutOfDeviceMemory
from gpu_spots.files.frames import ArrayStack, FileStack
from gpu_spots.files.output.scratch import scratch_file
from gpu_spots.files.output.spots_writer import SpotsWriter, memory_file
from gpu_spots.memory.needs import Work
from gpu_spots.memory.plan import Plan, ResourceLimits, make_plan
from gpu_spots.model import Validity
from gpu_spots.parameters import Parameters
from gpu_spots.resources import Resources
from helpers import Notes, datasets

LAYOUTS: dict[str, dict[str, Any]] = {
    "contiguous": {},
    "plain chunks": {"chunks": (1, 31, 45)},
    "gzip frames": {"chunks": (1, 37, 45), "compression": "gzip"},
    "gzip strips": {"chunks": (1, 8, 45), "compression": "gzip", "shuffle": True},
    "gzip blocks": {"chunks": (5, 16, 20), "compression": "gzip"},
    "lzf strips": {"chunks": (1, 8, 45), "compression": "lzf"},
}
MODES = {
    "none": Parameters.manual(angles=0),
    "pairs": Parameters.manual(angles=0, sync="pairs", cutoff=2.0),
    "kruskal": Parameters.manual(angles=0, method="kruskal", sync="blocks", alpha=0.3),
    "level": Parameters.manual(angles=0, normalise="level", sync="blocks"),
    "matched": Parameters.manual(angles=0, finder="matched"),
    "matched pairs": Parameters.manual(angles=0, finder="matched", sync="pairs"),
    "clip": Parameters.manual(angles=0, method="clip", normalise="level"),
    "clip matched pairs": Parameters(angles=0, sync="pairs"),
}
COLUMNS = {"angle": np.arange(30) // 6 * 2.0, "laser_on": np.arange(30) % 2}


def saved(path: Path, frames: np.ndarray, **layout: Any) -> Path:
    """A run on disk."""
    with h5py.File(path, "w") as file:
        file.create_dataset("frames", data=frames, **layout)
        for name, column in COLUMNS.items():
            file[f"lauecollect/{name}"] = column[: len(frames)]
    return path


def results(
    stack: ArrayStack | FileStack,
    parameters: Parameters,
    backend: Backend,
    folder: Path,
    notes: Notes,
) -> dict[str, np.ndarray]:
    """Return all datasets of a run."""
    with memory_file() as file:
        writer = SpotsWriter(file, "memory", stack.shape, {})
        pipeline.find_spots(
            stack,
            parameters,
            Resources(backend, open_spool=lambda *of: scratch_file(folder, *of)),
            writer,
            notes,
        )
        return datasets(file)


def force(monkeypatch: pytest.MonkeyPatch, **fields: Any) -> None:
    """Give every plan these fields."""
    monkeypatch.setattr(pipeline, "make_plan", lambda *given: replace(make_plan(*given), **fields))


class Device(CpuBackend):
    """The CPU backend as if it had a memory of its own, which is full now and then."""

    def __init__(
        self, free: int | None = 2**40, rows: int = 10**9, frames: int = 10**9, united: int = 10**9
    ) -> None:
        super().__init__(2)
        self.free, self.rows, self.frames, self.united, self.released = (
            free,
            rows,
            frames,
            united,
            0,
        )

    def free_bytes(self) -> int | None:  # type: ignore[override]
        return self.free

    def release(self) -> None:
        self.released += 1

    def background(
        self, frames: np.ndarray, method: Method, validity: Validity, into: BackgroundRows
    ) -> bool:
        if frames.shape[1] > self.rows:
            raise OutOfDeviceMemory("device: out of memory")
        return super().background(frames, method, validity, into)

    def find_masks(self, frames: np.ndarray, prepared: Any) -> Any:
        if len(frames) > self.frames:
            raise OutOfDeviceMemory("device: out of memory")
        return super().find_masks(frames, prepared)

    def union(self, onto: Any, masks: Any, mask_of_frame: np.ndarray) -> None:
        if len(masks) > self.united:
            raise OutOfDeviceMemory("device: out of memory")
        super().union(onto, masks, mask_of_frame)


class Stack:
    """A stack of any size that nobody reads."""

    source, validity, saturation, shuffled = "run.h5: /frames", Validity(), None, None

    def __init__(
        self,
        shape: tuple[int, int, int],
        rows_apart: int | None,
        is_decoded: bool = False,
        step: int = 1,
    ) -> None:
        self.shape, self.rows_apart, self.is_decoded, self.step = (
            shape,
            rows_apart,
            is_decoded,
            step,
        )
        self.dtype, self.columns = np.dtype("uint16"), dict[str, np.ndarray]()

    def resident(self) -> None:
        return None


def planned(
    stack: Stack,
    backend: Backend | None = None,
    memory: int | None = None,
    spool: bool = True,
    **work: Any,
) -> Plan:
    of = Work(**{"method": Trimmed(25), "scales": False, "n_masks": None, **work})
    limits = ResourceLimits(memory, may_spool=spool)
    return make_plan(stack, of, backend or CpuBackend(2), limits)  # type: ignore[arg-type]
