"""Base class of the formats, and what they all need of a spots file."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from gpu_spots.errors import InputError, ParameterError
from gpu_spots.files.output.frames_of_spots import open_frames
from gpu_spots.files.output.new_file import check_output, complete_or_absent, refuse_inputs
from gpu_spots.files.output.spots_file import SpotsFile
from gpu_spots.geometry import Geometry
from gpu_spots.masks import grouping
from gpu_spots.model import Array
from gpu_spots.protocols import Observer, Stack


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """Options that only some formats have. Each is None if it is not given."""

    one_per_angle: str | None = None
    """Frame to keep of each angle: "off", "on", or its number at the angle, from "1"."""
    frames_from: Path | None = None
    """HDF5 file with the frames of the run, or folder of its images."""
    geometry: Geometry | None = None
    """Detector and wavelengths."""

    def __post_init__(self) -> None:
        choice = self.one_per_angle
        if choice not in (None, "off", "on") and not (
            str(choice).isascii() and str(choice).isdecimal() and int(str(choice)) > 0
        ):
            raise ParameterError(
                "one_per_angle", f"{choice!r} is not off, on or a number of at least 1"
            )


@dataclass
class Source:
    """A spots file to export, with the columns that formats take from it."""

    results: SpotsFile
    """The spots file."""
    output: Path
    """Requested output."""
    options: ExportOptions
    """Options of the format."""
    observer: Observer
    """Is told of the progress."""
    workers: int = 1
    """Number of threads that read and compress frames."""
    notes: list[str] = field(default_factory=list)
    """Lines for the user: what this spots file lacks, and what was left out."""

    @property
    def name(self) -> str:
        """Name of the spots file."""
        return self.results.name

    @cached_property
    def columns(self) -> dict[str, Array]:
        """Columns of the table of spots by name, (n_spots,) each: see `SpotsFile.spot_columns`."""
        return self.results.spot_columns()

    @cached_property
    def positions(self) -> NDArray[np.float64]:
        """(n_spots, 2) float64, pixels: X and Y of the centroid, else of the most intense pixel."""
        columns = self.columns
        brightest = np.stack([columns["X"], columns["Y"]], axis=1).astype(np.float64)
        if "centroid_X" not in columns:
            self.notes.append(
                "positions are those of the most intense pixels (spots/XY): "
                "the file has no spots/centroid"
            )
            return brightest
        centroids = np.stack([columns["centroid_X"], columns["centroid_Y"]], axis=1)
        is_known = np.isfinite(centroids).all(axis=1, keepdims=True)
        if n_unknown := int((~is_known).sum()):
            self.notes.append(
                f"spots without a centroid: {n_unknown}; their positions are those of their most "
                "intense pixels"
            )
        return np.where(is_known, centroids, brightest)

    @cached_property
    def n_pixels(self) -> Array | None:
        """(n_spots,) int32: number of pixels of each spot; None: the file does not say."""
        return self.columns.get("n_pixels")

    @cached_property
    def frame_angles(self) -> NDArray[np.float64] | None:
        """(n_frames,) float64, degrees, NaN where unknown; None: the run has no angles."""
        angles = self.results.columns.get("angle")
        if angles is None or np.shape(angles) != (self.results.n_frames,):
            return None
        return np.array([_number(angle) for angle in np.asarray(angles).tolist()])

    @cached_property
    def frame_laser(self) -> NDArray[np.int8] | None:
        """(n_frames,) int8: 1 with laser, 0 without; None: unknown."""
        try:
            states = grouping.laser_states(
                self.results.columns, self.results.n_frames, self.results.name
            )
        except InputError as error:
            self.notes.append(f"laser states are left out: {error}")
            return None
        return None if states is None else states.astype(np.int8)

    def table(self) -> dict[str, Array]:
        """Return all columns of the spots, followed by the angle and the laser state, if known."""
        columns, frame = dict(self.columns), self.columns["frame"]
        for name, values in (("angle", self.frame_angles), ("laser_on", self.frame_laser)):
            if values is not None:
                columns.setdefault(name, values[frame])
        return columns

    def extra_columns(self, used: Sequence[str], taken: Sequence[str]) -> dict[str, Array]:
        """Return the columns that a format has no name of its own for.

        Args:
            used: Columns of the table that the format writes under another name.
            taken: Names of the format. A column of the same name gets the prefix ``spots.``.
        """
        return {
            f"spots.{name}" if name in taken else name: values
            for name, values in self.table().items()
            if name not in used
        }

    @contextmanager
    def frames(self) -> Iterator[Stack]:
        """Open the frames of the run.

        Raises:
            InputError: They are not found.
            OutputError: The output is one of their files.
        """
        with open_frames(self.results, self.options.frames_from) as stack:
            refuse_inputs(self.output, stack.files)
            yield stack

    def frame_shape(self) -> tuple[int, int]:
        """Return n_X and n_Y."""
        n_X, n_Y = self.results.avg.shape
        return n_X, n_Y

    def pixels_by_frame(self) -> "FramePixels":
        """Return the pixels of the spots. Raises `InputError` if the file has none."""
        return FramePixels(self.results)

    def amplitudes(self) -> NDArray[np.float64]:
        """Return the value of each spot's most intense pixel, less the background there.

        The value is ``spots/max`` if the file has it. Otherwise the frames are read.

        Returns:
            (n_spots,) float64, counts.

        Raises:
            InputError: The frames are needed and not found.
        """
        X, Y = self.columns["X"], self.columns["Y"]
        background = self.results.avg[X, Y].astype(np.float64)
        for frame, (begin, end) in enumerate(self.results.frame_ranges.tolist()):
            some = slice(begin, end)
            background[some] = self.results.background_on(frame, X[some], Y[some], background[some])
        return self.peak_values - background

    @cached_property
    def peak_values(self) -> NDArray[np.float64]:
        """(n_spots,) float64, counts: value of each spot's most intense pixel, see `amplitudes`."""
        if "max" in self.columns:
            return self.columns["max"].astype(np.float64)
        X, Y = self.columns["X"], self.columns["Y"]
        found = np.zeros(self.results.n_spots)
        with self.frames() as stack:
            self.observer.stage("export", self.results.n_frames, "frames")
            for index, (begin, end) in enumerate(self.results.frame_ranges.tolist()):
                if begin < end:
                    frame = read_frame(stack, index)
                    found[begin:end] = frame[X[begin:end], Y[begin:end]]
                self.observer.advance(1)
        return found


class FramePixels:
    """Pixels of all spots of a frame, for each frame."""

    def __init__(self, results: SpotsFile) -> None:
        self._results = results
        try:
            self._pixels: Array | None = results.pixel_list
            self._ranges = results.spots()["pixel_list_BE"]
        except KeyError:
            self._pixels = None
            try:
                results.labels(0)
            except KeyError:
                raise InputError(
                    f"{results.name}: has no spots/pixel_list and no masks/labels, expected one "
                    "of them; find the spots again without --keep"
                ) from None

    def of_frame(self, frame: int) -> NDArray[np.int64]:
        """Return the flat indices X * n_Y + Y of the pixels of a frame's spots, ascending."""
        if self._pixels is None:
            return np.flatnonzero(self._results.labels(frame)).astype(np.int64)
        begin, end = self._results.frame_ranges[frame]
        parts = [self._pixels[b:e] for b, e in self._ranges[begin:end].tolist()]
        if not parts:
            return np.empty(0, np.int64)
        return np.sort(np.concatenate(parts).astype(np.int64))


def read_frame(stack: Stack, index: int) -> Array:
    """Return a frame, (n_X, n_Y), in its own type."""
    frame = np.empty((1, *stack.shape[1:]), stack.dtype)
    stack.read(index, index + 1, frame)
    return frame[0]


@dataclass(frozen=True, slots=True)
class Target:
    """Output of an export."""

    path: Path
    """Temporary file, or temporary folder, to write to."""
    name: str
    """Name of the output, for messages."""
    second: Path | None = None
    """Temporary file of the second output; None: there is none."""


class Format:
    """A format of another program. Subclasses are registered in `gpu_spots.export.formats`."""

    name: ClassVar[str]
    """Name on the command line."""
    title: ClassVar[str]
    """Name in texts."""
    reader: ClassVar[str]
    """Programs that read it."""
    ending: ClassVar[str]
    """Ending of the name of the output, in the place of ``__spots.h5``."""
    written: ClassVar[str]
    """Contents of the output."""
    left_out: ClassVar[str]
    """Data that the format cannot hold, or that spots files do not have."""
    options: ClassVar[tuple[str, ...]] = ()
    """Names of the fields of `ExportOptions` that it uses."""

    def opened(self, output: Path) -> AbstractContextManager[Path]:
        """Return a context manager with the temporary path that becomes the output."""
        return complete_or_absent(output)

    def check_output(self, output: Path, sources: Sequence[Path], force: bool) -> None:
        """Raise `OutputError` if the output cannot be made, or is there already."""
        check_output(output, sources, force)

    def second_output(self, output: Path, options: ExportOptions) -> Path | None:
        """Return the file that is written beside the output with these options; None: none."""
        return None

    def write(self, source: Source, target: Target) -> None:
        """Write the file.

        Raises:
            InputError: The spots file or its frames cannot be read.
            OutputError: The output cannot be written, or the format cannot hold the spots.
        """
        raise NotImplementedError


def rows_of_text(columns: Sequence[Sequence[str]], separator: str) -> str:
    """Return columns of text as lines."""
    return "".join(f"{row}\n" for row in map(separator.join, zip(*columns, strict=True)))


def exact_text(values: Array) -> list[str]:
    """Return numbers as the shortest text from which they can be read back exactly."""
    return list(map(repr, values.tolist()))


def formatted(values: Any, pattern: str) -> list[str]:
    """Return numbers as text, by a pattern such as ``.4f``."""
    return list(map(f"{{:{pattern}}}".format, np.asarray(values).tolist()))


def _number(value: Any) -> float:
    """Return an angle, NaN if it is not a number."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")
