"""Protocols of what surrounds the pipeline: stacks, scratch files, sinks and observers."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gpu_spots.masks.grouping import Columns
from gpu_spots.memory.shuffled import Shuffled
from gpu_spots.model import Array, NoiseModel, SpotTable, Validity


@dataclass(frozen=True, slots=True)
class Provenance:
    """Origin of a stack, for the group ``info`` of the results and for ``gpu-spots info``."""

    input_file: str = ""
    """Name of the HDF5 file, the log or table, or the first image; empty: frames in memory."""
    frames_path: str = ""
    """Path of the frames in the file, or folder of the images; empty: frames in memory."""
    layout: str = ""
    """Layout of the HDF5 file, or "images"; empty: frames in memory."""
    record: Mapping[str, Any] = field(default_factory=dict)
    """Further attributes of ``info``: layout of a file, origin of angles and laser states, masks,
    valid range, origin of the saturation.
    """


class Stack(Protocol):
    """Frames of a run, with what is known of them."""

    source: str
    """Name in messages."""
    files: tuple[Path, ...]
    """Files that are read. They must not be overwritten."""
    notes: tuple[str, ...]
    """Lines that the user should read before the run."""
    provenance: Provenance
    """Origin of the frames."""
    shape: tuple[int, int, int]
    """n_frames, n_X, n_Y."""
    dtype: np.dtype[Any]
    """One of `gpu_spots.model.FRAME_DTYPES`."""
    columns: Columns
    """The run's metadata (lauecollect)."""
    validity: Validity
    """Which values count."""
    saturation: float | None
    """The smallest saturated value, counts; None: unknown."""
    step: int
    """How many frames it is best to read at once."""
    rows_apart: int | None
    """Stretches of so many rows can be read without reading others; None: some rows of a frame cost
    as much as all of them.
    """
    is_decoded: bool
    """Frames lie in the file as they are in memory: to read them again costs no more than to copy
    them.
    """

    @property
    def shuffled(self) -> Shuffled | None:
        """How frames can be read shuffled (see `gpu_spots.memory.shuffled`); None: they cannot."""

    def resident(self) -> Array | None:
        """The whole stack if it is in memory already."""

    def read(self, begin: int, end: int, into: Array) -> None:
        """Fill ``into`` (end - begin, n_X, n_Y) with the frames from ``begin`` to ``end``; several threads may.

        Raises `InputError`, which names the frame.
        """

    def read_rows(self, begin: int, end: int, first: int, last: int, into: Array) -> None:
        """The same for the rows from ``first`` to ``last`` of these frames: ``into`` is (end - begin, last - first, n_Y)."""

    def check_whole(self) -> None:
        """Raise `InputError` if frames are missing, or were changed since the stack was opened."""

    def storage(self) -> Mapping[str, Any]:
        """Return how the frames are stored, for ``gpu-spots info``; empty: in memory."""

    def write_metadata(self, file: Any, warn: Callable[[str], None]) -> None:
        """Write the metadata of the run to an open HDF5 file.

        ``warn`` is called with a message for each damaged item, which is left out.
        """


class Spool(Protocol):
    """Where decoded frames are put that do not fit in memory."""

    def write(self, begin: int, frames: Array) -> None:
        """Put frames (k, n_X, n_Y), contiguous, at their place; several threads may.

        Raises `OutputError`.
        """

    def read(self, begin: int, end: int, into: Array) -> None:
        """As a `Stack` does it."""

    def read_rows(self, begin: int, end: int, first: int, last: int, into: Array) -> None:
        """As a `Stack` does it."""


OpenSpool = Callable[[tuple[int, int, int], "np.dtype[Any]"], AbstractContextManager[Spool]]
"""Opens a scratch file for decoded frames of a shape (n_frames, n_X, n_Y) and a type."""


class Sink(Protocol):
    """Where results go.

    One thread writes, in the order of these methods, masks and frames ascending; any thread may
    encode.
    """

    keep: frozenset[str]
    """Which stacks it takes: raw, filtered, synced, labels, pixels; others are not even made."""

    def write_levels(
        self, frame_levels: NDArray[np.float64], factors: NDArray[np.int64] | None
    ) -> None:
        """The level of each frame, counts, and the factors in 2^-16 that frames were scaled by; None: they were not."""

    def write_noise(self, model: NoiseModel) -> None:
        """Write the noise model of the run."""

    def encode(self, image: Callable[[], Array]) -> Any:
        """Make an image (n_X, n_Y) ready to be written; it is asked for now or when it is written, as the sink prefers."""

    def write_map(self, name: str, encoded: Any) -> None:
        """A map of the background: avg, std, ..."""

    def expect_synced(self, n_masks: int) -> None:
        """There will be that many synced masks, and they are the ones that are labelled."""

    def write_masks(self, kind: str, begin: int, images: Sequence[Any]) -> None:
        """Consecutive masks of a ``kind``, raw, filtered (a frame's) or synced, from number ``begin`` on; uint8, 0 or 1."""

    def write_labels(self, begin: int, counts: NDArray[np.int32], images: Sequence[Any]) -> None:
        """Label images of consecutive masks; uint16, or uint32 where ``counts``, the spots of each mask, ask for it."""

    def write_pixels(self, pixels: NDArray[np.int64]) -> None:
        """Flat indices of the pixels of the next components."""

    def write_spots(self, table: SpotTable) -> None:
        """Write the columns of all spots, masks and frames."""


class Observer(Protocol):
    """Who is told how far things are."""

    def stage(self, name: str, total: int, unit: str) -> None:
        """A stage begins, of ``total`` of some unit: frames, rows, masks."""

    def advance(self, steps: int) -> None:
        """That many of them are done."""

    def warn(self, message: str) -> None:
        """Something the user should know."""
