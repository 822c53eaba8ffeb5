"""Reader of the spots file."""

import math
import operator
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from gpu_spots.columns import (
    DATASETS,
    FRAME_COLUMNS,
    NOISE_ATTRIBUTES,
    NOISE_COLUMNS,
    NOISE_LAGS,
    SPOT_COLUMNS,
    SURFACE,
)
from gpu_spots.errors import GpuSpotsError, InputError, given
from gpu_spots.files import lauecollect
from gpu_spots.files.hdf5.chunk_map import hdf5_reason
from gpu_spots.files.hdf5.heaps import attributes, read_checked
from gpu_spots.model import FACTOR_BITS, Array, ConstantPart, Surface
from gpu_spots.packages import install_command

if TYPE_CHECKING:
    import pandas

    from gpu_spots.spots.ratios import RatioResult


class SpotsFile:
    """Results of a run.

    Use it in a ``with`` statement, or call `close`. Each access reads from the file; arrays remain
    available after it is closed.

    Raises:
        InputError: The file is damaged: a dataset is missing or cannot be read.
        ValueError: The file is closed.
    """

    def __init__(self, file: h5py.File) -> None:
        self._file = file
        self._name: str = file.filename
        self._ranges = self._read("frame2spotsBE")

    def __enter__(self) -> Self:
        """Return the results."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __repr__(self) -> str:
        """Return the name and the numbers of frames and spots."""
        if not self._file:
            return "<SpotsFile, closed>"
        return f"<SpotsFile {self._name!r}: {self.n_frames} frames, {self.n_spots} spots>"

    def _repr_html_(self) -> str:
        """Return a summary with small pictures, which notebooks show."""
        from html import escape

        from gpu_spots.files.output.notebook import summary

        try:
            return summary(self) if self._file else f"<pre>{escape(repr(self))}</pre>"
        except InputError as error:
            return f"<pre>{escape(str(error))}</pre>"

    @property
    def name(self) -> str:
        """Name of the file."""
        return self._name

    @property
    def avg(self) -> NDArray[np.float32]:
        """Average of the background sample, (n_X, n_Y) float32, counts."""
        return self._read("stats/avg")

    @property
    def std(self) -> NDArray[np.float32]:
        """Standard deviation of the background sample, (n_X, n_Y) float32, counts."""
        return self._read("stats/std")

    @property
    def iqr(self) -> NDArray[np.float32]:
        """Interquartile range of the background sample, (n_X, n_Y) float32, counts."""
        return self._read("stats/iqr")

    @property
    def max(self) -> Array:
        """Maximum over all frames, (n_X, n_Y), the frames' type, counts."""
        return self._read("stats/max")

    @property
    def arg(self) -> NDArray[np.int32]:
        """Index of the first frame that has the maximum, (n_X, n_Y) int32."""
        return self._read("stats/arg")

    @property
    def threshold(self) -> Array:
        """Smallest value of a pixel in the raw mask, (n_X, n_Y), counts.

        The type is int32, int64 or float64, which depends on the type of the frames; see
        docs/file-format.md.
        """
        return self._read("stats/threshold")

    @property
    def noise(self) -> NDArray[np.float32]:
        """Noise of a value of each pixel, (n_X, n_Y) float32, counts."""
        return self._read("stats/noise")

    @property
    def n_used(self) -> NDArray[np.int32] | None:
        """Number of frames in the background of each pixel, (n_X, n_Y) int32.

        None if it is the same for all pixels.
        """
        return self._read("stats/n_used") if self._has("stats/n_used") else None

    @property
    def noise_model(self) -> dict[str, float] | None:
        """Gain, offset and correlation of the noise, and their errors; None: not known.

        The variance of a value is ``offset + gain * background``, counts^2. ``correlation_lag_1``
        to ``correlation_lag_4`` are NaN in older files.
        """
        if not self._has("noise"):
            return None
        with self._reading("noise"):
            found = attributes(self._found("noise", h5py.Group))
            older = dict.fromkeys(NOISE_LAGS, math.nan)
            return {name: float((older | found)[name]) for name in NOISE_ATTRIBUTES}

    @cached_property
    def constant_part(self) -> ConstantPart | None:
        """Part of the background that does not follow the level of a frame; None: there is none."""
        with self._reading("per_frame/level"):
            found = attributes(self._found("per_frame/level", h5py.Dataset))
            if "contrast" not in found:
                return None
            return ConstantPart(float(found["contrast"]), float(found["centre"]))

    @cached_property
    def surface(self) -> Surface | None:
        """Levels of the pixels of each frame; None: each frame has one level, see `frame_scale`."""
        if not self._has(SURFACE.path):
            return None
        with self._reading(SURFACE.path):
            distance = int(attributes(self._found(SURFACE.path, h5py.Dataset))["distance"])
        knots = np.rint(self._read(SURFACE.path) * 2.0**FACTOR_BITS).astype(np.int32)
        n_rows, n_columns = self.shape[1:]
        expected = tuple((n - 1) // max(1, distance) + 2 for n in (n_rows, n_columns))
        if distance.bit_count() != 1 or knots.shape != (self.n_frames, *expected):
            raise InputError(
                f"{self.name}: {SURFACE.path} has the shape {knots.shape} and the distance "
                f"{distance}, expected {(self.n_frames, *expected)} and a power of two; the file "
                "is damaged"
            )
        return Surface(knots, distance.bit_length() - 1)

    def background_on(
        self, frame: int, X: NDArray[np.int64], Y: NDArray[np.int64], average: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the background of some pixels at the level of a frame, float64, counts.

        Args:
            frame: Index of the frame.
            X: (p,) int64: rows of the pixels.
            Y: (p,) int64: columns of the pixels.
            average: (p,) float64, counts: ``stats/avg`` of the pixels.
        """
        part, scale = self.constant_part, self.frame_scale
        if self.surface is not None:
            return self.surface.background(frame, X, Y, average, part)
        if scale is None or part is None:
            return average if scale is None else average / scale[frame]
        return average + (1.0 / scale[frame] - 1.0) * part.following(average)

    @property
    def noise_points(self) -> dict[str, Array] | None:
        """Points that the noise model was fitted to, (n_bins,) each; None: not known.

        ``level``, float64, counts; ``variance``, float64, counts^2; ``n_pixels``, int64.
        """
        if not self._has("noise"):
            return None
        return {record.name: self._read(record.path) for record in NOISE_COLUMNS}

    @property
    def valid(self) -> NDArray[np.bool_]:
        """(n_X, n_Y) bool: pixels that can be in a spot; the others are masked."""
        threshold = self.threshold
        if threshold.dtype.kind == "f":
            return ~np.isnan(threshold)
        return threshold <= np.iinfo(self._dtype("stats/max")).max

    @property
    def info(self) -> dict[str, Any]:
        """Values of the options, and other information about how the file was made."""
        with self._reading("info"):
            return attributes(self._found("info", h5py.Group))

    @property
    def columns(self) -> dict[str, Array]:
        """Metadata of the run: one value per frame for each name (group lauecollect).

        Text is an array of str.
        """
        with self._reading(lauecollect.GROUP):
            group = self._file.get(lauecollect.GROUP, {})
            return {
                name: _with_text(read_checked(item))
                for name, item in group.items()
                if isinstance(item, h5py.Dataset)
            }

    @property
    def frame_ranges(self) -> NDArray[np.int64]:
        """Begin and end of the rows of each frame in the table of spots, (n_frames, 2) int64."""
        return self._ranges

    @property
    def pixel_list(self) -> Array:
        """Flat index X * n_Y + Y of the pixels of all spots, (p,) int32 or int64.

        ``pixel_list_BE`` in the table of spots gives the range of each spot.

        Raises:
            KeyError: The file has no list of pixels.
        """
        self._check_kept("spots/pixel_list")
        pixels = self._read("spots/pixel_list")
        if pixels.size and not 0 <= pixels.min() <= pixels.max() < math.prod(self.shape[1:]):
            raise InputError(
                f"{self._name}: spots/pixel_list has pixels outside of the frame; "
                "the file is damaged"
            )
        return pixels

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the run, (n_frames, n_X, n_Y)."""
        with self._reading("stats/avg"):
            shape = self._found("stats/avg", h5py.Dataset).shape
        if len(shape) != 2:
            raise InputError(
                f"{self._name}: stats/avg has shape {shape}, expected 2 dimensions; "
                "the file is damaged"
            )
        return self.n_frames, *shape

    @cached_property
    def frame_scale(self) -> NDArray[np.float64] | None:
        """Factor by which each frame was multiplied, (n_frames,) float64; None: not scaled."""
        return self._read("frame_scale") if self._has("frame_scale") else None

    @property
    def n_frames(self) -> int:
        """Number of frames of the run."""
        return len(self._ranges)

    @property
    def n_spots(self) -> int:
        """Number of spots on all frames."""
        with self._reading("spots/I"):
            return len(self._found("spots/I", h5py.Dataset))

    def mask(self, frame: int, kind: str = "filtered") -> NDArray[np.bool_]:
        """Return the mask of a frame, (n_X, n_Y) bool.

        Args:
            frame: index of the frame; negative indices count from the end.
            kind: raw, filtered or synced.

        Raises:
            KeyError: the file does not have masks of this kind.
            IndexError: there is no such frame.
            TypeError: ``frame`` is not an integer.
        """
        self._check_kept(f"masks_{kind}")
        path = f"masks_{kind}"
        with self._reading(path):
            n_masks = len(self._found(path, h5py.Dataset))
        # the matched finder has raw and filtered masks of groups too
        is_of_frames = kind != "synced" and n_masks == self.n_frames
        index = (
            self._checked(frame, self.n_frames, "frame") if is_of_frames else self._mask_of(frame)
        )
        return self._read(path, index).astype(bool)

    def labels(self, frame: int) -> Array:
        """Return the labels in the mask of a frame, (n_X, n_Y) uint16 or uint32; 0: no spot.

        Args:
            frame: Index of the frame; negative indices count from the end.

        Raises:
            KeyError: The file has no labels.
            IndexError: There is no such frame.
            TypeError: ``frame`` is not an integer.
        """
        self._check_kept("masks/labels")
        return self._read("masks/labels", self._mask_of(frame))

    def spots(self, frame: int | None = None) -> dict[str, Array]:
        """Return the table of the spots of a frame, or of all frames.

        Args:
            frame: index of the frame; negative indices count from the end. None: all frames.

        Returns:
            Columns by name, each with one row per spot. These are the datasets of the group
            ``spots`` of the file, without ``pixel_list``; see `SPOT_COLUMNS` and
            docs/file-format.md for types, shapes and units. Optional columns that the file does
            not have are left out.

        Raises:
            IndexError: there is no such frame.
            TypeError: ``frame`` is not an integer.
        """
        begin, end = (
            (0, self.n_spots)
            if frame is None
            else self._ranges[self._checked(frame, self.n_frames, "frame")]
        )
        return {
            record.name: self._read(record.path, slice(begin, end))
            for record in SPOT_COLUMNS
            if not (record.optional or record.is_new) or self._has(record.path)
        }

    def per_frame(self) -> dict[str, Array]:
        """Return what is known of each frame.

        Returns:
            Columns by name, each with one value per frame: the datasets of the group ``per_frame``
            of the file; see docs/file-format.md for types and units.
        """
        return {
            record.name: self._read(record.path)
            for record in FRAME_COLUMNS
            if record.path.startswith("per_frame/")
        }

    def spot_columns(self, frame: int | None = None) -> dict[str, Array]:
        """Return the table of the spots of a frame, or of all frames, as 1-D columns.

        Args:
            frame: Index of the frame; negative indices count from the end. None: all frames.

        Returns:
            Columns by name, (n_spots,) each: those of `spots`, where ``XY`` becomes ``X`` and
            ``Y``, and so on. ``pixel_list_BE`` is left out, but ``n_pixels`` is there.

        Raises:
            IndexError: There is no such frame.
            TypeError: ``frame`` is not an integer.

        Examples:
            >>> with open_spots("laser__spots.h5") as results:
            ...     columns = results.spot_columns()
            >>> print(*list(columns)[:10], sep=", ")
            I, X, Y, X_begin, X_end, Y_begin, Y_end, frame, label, mask
        """
        columns: dict[str, Array] = {}
        for name, values in self.spots(frame).items():
            if name == "pixel_list_BE":
                columns["n_pixels"] = (values[:, 1] - values[:, 0]).astype(np.int32)
            elif values.ndim == 1:
                columns[name] = values
            else:
                names = DATASETS[f"spots/{name}"].components
                columns |= zip(names, values.T, strict=True)
        return columns

    def spot_column(self, name: str, begin: int = 0, end: int | None = None) -> Array:
        """Return one column of the table of the spots of all frames, or some of its rows.

        Args:
            name: Name of the column, such as ``I``; see `spots`.
            begin: First row.
            end: Row after the last one. None: the end of the table.

        Returns:
            Type and shape as in docs/file-format.md, one row per spot.

        Raises:
            InputError: The file has no such column.

        Examples:
            >>> with open_spots("laser__spots.h5") as results:
            ...     print(results.spot_column("XY", 0, 2).shape)
            (2, 2)
        """
        return self._read(f"spots/{name}", slice(begin, end))

    def to_dataframe(self, frame: int | None = None) -> "pandas.DataFrame":
        """Return the table of the spots of a frame, or of all frames, as a pandas DataFrame.

        Args:
            frame: Index of the frame; negative indices count from the end. None: all frames.

        Returns:
            One row per spot, with the columns of `spot_columns`.

        Raises:
            GpuSpotsError: pandas is not installed.
            IndexError: There is no such frame.
            TypeError: ``frame`` is not an integer.

        Examples:
            >>> with open_spots("laser__spots.h5") as results:
            ...     print(results.to_dataframe()[["frame", "X", "Y", "I"]].dtypes.tolist())
            [dtype('int32'), dtype('int32'), dtype('int32'), dtype('float64')]
        """
        try:
            import pandas
        except ImportError:
            raise GpuSpotsError(
                f"to_dataframe: needs pandas; install it with {install_command('export')}"
            ) from None
        return pandas.DataFrame(self.spot_columns(frame))

    def ratios(
        self, *, scale: str = "none", intensity: str | None = None, keep_saturated: bool = False
    ) -> "RatioResult":
        """Return the on/off ratios of a laser run with ``-S pairs`` or ``-S blocks``.

        Args:
            scale: ``"pairs"`` divides the laser-on intensities of each pair of frames by the
                median ratio of its strong spots, which also removes a response that all spots
                share; ``"none"`` does not.
            intensity: ``"I"`` or ``"I_prf"``. None: ``I_prf`` if the file has it.
            keep_saturated: Whether pairs with saturated spots are used.

        Raises:
            InputError: The run has no laser-on or no laser-off frames, frames do not share masks,
                or the file is from an older version.
            ParameterError: A value is not allowed.

        Examples:
            >>> with open_spots("laser__spots.h5") as results:
            ...     found = results.ratios()
            >>> print(found.verdict.partition(":")[0])
            response seen
        """
        from gpu_spots.files.output.ratios_file import ratios_of

        return ratios_of(self, scale=scale, intensity=intensity, keep_saturated=keep_saturated)

    def pixels(self, spot: int) -> NDArray[np.int64]:
        """Return X and Y of every pixel of a spot, (p, 2) int64.

        Args:
            spot: Row of the spot in the table of all frames; negative indices count from the end.

        Raises:
            KeyError: The file has no list of pixels.
            IndexError: There is no such spot.
            TypeError: ``spot`` is not an integer.
        """
        self._check_kept("spots/pixel_list_BE")
        begin, end = self._read("spots/pixel_list_BE", self._checked(spot, self.n_spots, "spot"))
        flat = self._read("spots/pixel_list", slice(begin, end)).astype(np.int64)
        return np.stack(np.divmod(flat, self.shape[2]), axis=1)

    @contextmanager
    def _reading(self, path: str) -> Iterator[None]:
        """Turn what h5py raises into errors that name the file and the dataset."""
        if not self._file:
            raise ValueError(
                f"{self._name}: the spots file is closed; open it again with open_spots"
            )
        try:
            yield
        except (KeyError, OSError, RuntimeError) as error:
            raise InputError(
                f"{self._name}: {path} cannot be read: {hdf5_reason(error)}; the file is damaged"
            ) from error

    def _found(self, path: str, kind: type[h5py.Dataset] | type[h5py.Group]) -> Any:
        item = self._file.get(path)
        if not isinstance(item, kind):
            raise InputError(
                f"{self._name}: not a spots file, it has no {kind.__name__.lower()} {path}; "
                "give the output of gpu-spots find"
            )
        return item

    def _read(self, path: str, where: Any = ...) -> Array:
        """Read a dataset, or the part ``where`` of it."""
        with self._reading(path):
            return np.asarray(self._found(path, h5py.Dataset)[where])

    def _dtype(self, path: str) -> np.dtype[Any]:
        with self._reading(path):
            return self._found(path, h5py.Dataset).dtype

    def _has(self, path: str) -> bool:
        with self._reading(path):
            return path in self._file

    def _check_kept(self, path: str) -> None:
        """Raise KeyError for a stack that the file does not have."""
        if not self._has(path):
            raise KeyError(
                f"{self._name}: no {path}; {given('keep')} and {given('sync')} "
                "define which stacks a file has"
            )

    def _checked(self, index: int, n: int, what: str) -> int:
        """Return an index from 0 to n - 1."""
        try:
            index = operator.index(index)
        except TypeError:
            raise TypeError(
                f"{what}: found {index!r}, expected an integer from {-n} to {n - 1}"
            ) from None
        if not -n <= index < n:
            raise IndexError(f"{what} {index} of {n}: expected an index from {-n} to {n - 1}")
        return index % n

    def _mask_of(self, frame: int) -> int:
        return int(self._read("frame2mask", self._checked(frame, self.n_frames, "frame")))


def _with_text(values: Any) -> Any:
    """Return a column with its bytes as str. Bytes that are not UTF-8 are escaped."""
    column = np.asarray(values)
    items = column.ravel().tolist()
    if column.dtype.kind not in "SO" or not all(isinstance(item, bytes | str) for item in items):
        return values
    texts = [
        item.decode(errors="backslashreplace") if isinstance(item, bytes) else item
        for item in items
    ]
    return np.array(texts, str).reshape(column.shape)


def open_spots(path: str | Path) -> SpotsFile:
    """Open the results of an earlier run.

    Args:
        path: Spots file, the output of `find_spots` or of the command.

    Raises:
        InputError: The file does not exist, or is not a spots file.

    Examples:
        >>> with open_spots("laser__spots.h5") as results:
        ...     print(results.n_frames, results.info["cutoff"])
        60 3.0
    """
    from gpu_spots.files.frames import open_hdf5

    file = open_hdf5(Path(path))
    try:
        return SpotsFile(file)
    except BaseException:
        file.close()
        raise
