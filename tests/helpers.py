"""What several test files need: results of the pipeline as plain arrays, and comparison to the bit."""

from typing import Any

import h5py
import numpy as np

from gpu_spots.backend import Backend
from gpu_spots.files.frames import ArrayStack
from gpu_spots.files.spots_file import SpotsWriter, memory_file
from gpu_spots.model import Validity
from gpu_spots.parameters import Parameters
from gpu_spots.pipeline import find_spots


class Notes:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, int]] = []
        self.done = 0
        self.warnings: list[str] = []

    def stage(self, name: str, total: int) -> None:
        """A stage begins."""
        self.stages.append((name, total))

    def advance(self, steps: int) -> None:
        """Steps are done."""
        self.done += steps

    def warn(self, message: str) -> None:
        """A warning."""
        self.warnings.append(message)


def datasets(file: h5py.Group) -> dict[str, np.ndarray]:
    """Every dataset of a file by its path; soft links are not followed."""
    found: dict[str, np.ndarray] = {}
    file.visititems(lambda path, item: found.update({path: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return found


def run(
    frames: np.ndarray,
    parameters: Parameters,
    backend: Backend,
    columns: dict[str, Any] | None = None,
    validity: Validity | None = None,
    notes: Notes | None = None,
) -> dict[str, np.ndarray]:
    """All datasets of a run in memory, as they stand in the file."""
    with memory_file() as file:
        stack = ArrayStack(frames, columns)
        find_spots(stack, parameters, backend, SpotsWriter(file, "memory", stack.shape, {}), notes or Notes(), validity)
        return datasets(file)


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Every expected dataset is there with the same type, shape and bits."""
    for path, value in expected.items():
        assert path in found, f"{path} is missing"
        assert found[path].dtype == value.dtype, f"{path}: {found[path].dtype}, expected {value.dtype}"
        assert found[path].shape == value.shape, f"{path}: {found[path].shape}, expected {value.shape}"
        equal = np.array_equal(found[path], value, equal_nan=value.dtype.kind == "f")
        assert equal, f"{path} differs at {np.argwhere(~((found[path] == value) | (found[path] != found[path])))[:3].tolist()}"
