"""Interfaces of the pipeline to its surroundings: stacks, scratch files, sinks, observers."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gpu_spots.model import Array, Columns, ConstantPart, SpotTable, Surface, Validity
from gpu_spots.noise_model import NoiseModel


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
    dataset: str = ""
    """Path of the dataset that has all frames; empty: there is none."""


@dataclass(frozen=True, slots=True)
class Shuffled:
    """Frames as they are stored, decoded except for the shuffle filter of HDF5."""

    rows: int
    """Number of rows of a strip. Each strip of a frame is shuffled separately, and a frame consists
    of whole strips.
    """
    read: Callable[[int, int, int, int, Array], None]
    """Function like `Stack.read_rows` for whole strips, which stay shuffled. Its last argument is
    (end - begin, strips, bytes of a value, rows, n_Y) uint8: the first bytes of all values of a
    strip, as in memory, then all second bytes, and so on.
    """

    def has(self, rows: tuple[int, int]) -> bool:
        """Return True if these rows are whole strips."""
        return rows[0] % self.rows == 0 and rows[1] % self.rows == 0

    @staticmethod
    def rows_in_order(stretches: Array, rows: slice, dtype: np.dtype[Any]) -> Array:
        """Return some rows of a frame, unshuffled.

        Args:
            stretches: (strips, bytes of a value, rows of a strip, n_Y) uint8.
            rows: rows of the frame to return.
            dtype: type of the frame.

        Returns:
            (rows, n_Y), counts.
        """
        n_rows = stretches.shape[2]
        stretch, row = np.divmod(np.arange(len(stretches) * n_rows)[rows], n_rows)
        octets = stretches[stretch, :, row]  # (rows, bytes of a value, n_Y)
        return np.ascontiguousarray(octets.swapaxes(1, 2)).view(dtype)[..., 0]


class Stack(Protocol):
    """Frames of a run and their metadata."""

    source: str
    """Name of the stack in messages."""
    files: tuple[Path, ...]
    """Files that are read, and must not be overwritten."""
    notes: tuple[str, ...]
    """Lines that the user should read before the run."""
    provenance: Provenance
    """Origin of the frames."""
    shape: tuple[int, int, int]
    """Number of frames, rows and columns: (n_frames, n_X, n_Y)."""
    dtype: np.dtype[Any]
    """One of `gpu_spots.model.FRAME_DTYPES`."""
    columns: Columns
    """Metadata of the run, one value per frame (group ``lauecollect``)."""
    validity: Validity
    """Valid pixels and values."""
    saturation: float | None
    """The smallest saturated value, counts; None: unknown."""
    step: int
    """Number of frames that are best read together."""
    rows_apart: int | None
    """Number of rows that can be read without reading others; None: reading some rows of a frame
    takes as long as reading all of them.
    """
    is_decoded: bool
    """True if the file stores frames as they are in memory. Reading them is then as fast as copying
    them.
    """

    @property
    def shuffled(self) -> Shuffled | None:
        """Reader of shuffled frames (see `gpu_spots.memory.shuffled`); None: there is none."""

    def resident(self) -> Array | None:
        """Return the whole stack if it is in memory already, else None."""

    def read(self, begin: int, end: int, into: Array) -> None:
        """Read the frames from ``begin`` to ``end``, end exclusive. Any thread may call this.

        Args:
            begin: index of the first frame.
            end: index after the last frame.
            into: array to fill, (end - begin, n_X, n_Y).

        Raises:
            InputError: a frame cannot be read; the message names it.
        """

    def read_rows(self, begin: int, end: int, first: int, last: int, into: Array) -> None:
        """Read the rows from ``first`` to ``last`` of these frames, like `read`.

        ``into`` has the shape (end - begin, last - first, n_Y).
        """

    def check_whole(self) -> None:
        """Raise `InputError` if frames are missing, or were changed since the stack was opened."""

    def storage(self) -> Mapping[str, Any]:
        """Return how the frames are stored, for ``gpu-spots info``; empty: in memory."""

    def write_metadata(self, file: Any, warn: Callable[[str], None]) -> None:
        """Write the metadata of the run to an open HDF5 file.

        ``warn`` is called with a message for each damaged item, which is left out.
        """


class Spool(Protocol):
    """Scratch storage of decoded frames that do not fit in memory."""

    def write(self, begin: int, frames: Array) -> None:
        """Store frames (k, n_X, n_Y), contiguous, from index ``begin`` on.

        Any thread may call this. Raises `OutputError` on failure.
        """

    def read(self, begin: int, end: int, into: Array) -> None:
        """Read frames, like `Stack.read`."""

    def read_rows(self, begin: int, end: int, first: int, last: int, into: Array) -> None:
        """Read rows of frames, like `Stack.read_rows`."""


OpenSpool = Callable[[tuple[int, int, int], "np.dtype[Any]"], AbstractContextManager[Spool]]
"""Function that opens a scratch file for frames of a shape (n_frames, n_X, n_Y) and a type."""


class Sink(Protocol):
    """Destination of the results.

    One thread calls the methods that write, in the order of this list, with masks and frames in
    ascending order. Any thread may call `encode`.
    """

    keep: frozenset[str]
    """Stacks to write, of raw, filtered, synced, labels and pixels. Others are not encoded."""

    def write_levels(
        self,
        frame_levels: NDArray[np.float64],
        factors: NDArray[np.int64] | None,
        left_out: NDArray[np.bool_] | None = None,
        constant_part: ConstantPart | None = None,
        surface: Surface | None = None,
    ) -> None:
        """Write the level of each frame, and the factors that scaled the frames.

        Args:
            frame_levels: (n_frames,) float64, counts.
            factors: (n_frames,) int64, multiples of 2^-16; None: frames were not scaled.
            left_out: (n_frames,) bool: frames without beam; None: there are none.
            constant_part: part of the background that does not follow the level; None: there is
                none.
            surface: levels of the pixels of all frames; None: each frame has one level.
        """

    def write_noise(self, model: NoiseModel) -> None:
        """Write the noise model of the run."""

    def encode(self, image: Callable[[], Array]) -> Any:
        """Prepare an image (n_X, n_Y) for writing.

        The sink calls ``image`` at once, or when the image is written.
        """

    def write_map(self, name: str, encoded: Any) -> None:
        """Write a map of the background, such as avg or std."""

    def expect_matched(self, n_masks: int | None) -> None:
        """Announce the masks of the matched finder.

        ``n_masks``: of each kind, raw, filtered and synced, one a group of frames; None: raw and
        filtered, one a frame.
        """

    def expect_synced(self, n_masks: int) -> None:
        """Set the number of synced masks, which are the ones that are labelled."""

    def write_masks(self, kind: str, begin: int, images: Sequence[Any]) -> None:
        """Write consecutive masks, uint8, 0 or 1.

        Args:
            kind: raw or filtered, with one mask per frame, or synced.
            begin: index of the first mask.
            images: encoded masks.
        """

    def write_labels(self, begin: int, counts: NDArray[np.int32], images: Sequence[Any]) -> None:
        """Write label images of consecutive masks, uint16 or uint32.

        Args:
            begin: index of the first mask.
            counts: (k,) int32: number of spots of each mask, which decides the type.
            images: encoded label images.
        """

    def write_pixels(self, pixels: NDArray[np.int64]) -> None:
        """Write the flat indices of the pixels of the next components, (p,) int64."""

    def write_spots(self, table: SpotTable) -> None:
        """Write the columns of all spots, masks and frames."""


class Observer(Protocol):
    """Receiver of progress and warnings."""

    def stage(self, name: str, total: int, unit: str) -> None:
        """Begin a stage of ``total`` frames, rows or masks, as ``unit`` says."""

    def advance(self, steps: int) -> None:
        """Report that ``steps`` more of them are done."""

    def warn(self, message: str) -> None:
        """Show a warning to the user."""
