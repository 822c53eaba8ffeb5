"""List of the images of a run in order, with their metadata.

The metadata come from a log, a table, or the names.
"""

import glob
import itertools
import os
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from gpu_spots.errors import InputError, ParameterError, given
from gpu_spots.files.images.image import COMPRESSED
from gpu_spots.files.images.lauecollect_log import is_log, read_log, typed
from gpu_spots.files.images.name_pattern import compile_pattern
from gpu_spots.files.lauecollect import Column, write_columns, write_comments
from gpu_spots.files.suffixes import HDF5_SUFFIXES
from gpu_spots.files.table import read_table

SKIPPED = "skipped"
"""Group of the skipped images: names and reasons."""
UNITS = {"angle": "degrees"}
"""Units of columns that have none in the log or table."""
MANY = 100_000
"""Largest number of files of a folder that are examined for a message."""
IMAGE_SUFFIXES = ("mccd", "tif", "tiff", "cbf", "edf", "img", "sfrm", "mar3450", "mar2300")
"""Endings of image names, without the dot."""
IN_MESSAGES = 3
"""Number of names in a message. Of the others, only the number is given."""


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """Request of the user: which images make the run, and where their metadata is.

    Names of files may be text or paths. Raises `ParameterError` for values out of range, and for
    options that do not go together.
    """

    sources: tuple[str, ...] = ()
    """Names of images, or patterns with ``*``, ``?`` and ``[]``. A single one may be a string."""
    log: Path | None = None
    """Lauecollect log with the names and the metadata of the images."""
    folder: Path | None = None
    """Folder of the images that a log or a table lists. None: its own folder."""
    table: Path | None = None
    """Table (CSV or TSV) with one row per image."""
    name_pattern: str | None = None
    """Pattern of the names, such as ``{base}_{angle}_{laser}_{repeat}.mccd``."""
    angle_start: float | None = None
    """First angle, degrees. None: 0 if ``angle_step`` is given."""
    angle_step: float | None = None
    """Difference between successive angles, degrees. None: angles are from elsewhere."""
    frames_per_angle: int | None = None
    """Number of consecutive frames at each angle. None: number of states in ``laser``, or 1."""
    laser: tuple[str, ...] | None = None
    """Laser states of the frames, repeated in turn, such as ``"off,on"``. None: from elsewhere."""
    skip_bad: bool = False
    """Skip images that are missing, damaged or of another size. False: they are errors."""

    def __post_init__(self) -> None:
        sources = (self.sources,) if isinstance(self.sources, str | Path) else self.sources
        object.__setattr__(self, "sources", tuple(map(str, sources)))
        for name in ("log", "folder", "table"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else Path(value))
        if isinstance(self.laser, str):
            object.__setattr__(self, "laser", tuple(self.laser.split(",")))
        self._check()

    def _check(self) -> None:
        if not self.sources and self.log is None and self.table is None:
            raise ParameterError("sources", "images are missing; give images, a log or a table")
        if self.laser is not None and not (self.laser and set(self.laser) <= {"on", "off"}):
            raise ParameterError(
                "laser", f"{','.join(self.laser)!r} is not a list of on and off such as off,on"
            )
        for name in ("angle_start", "frames_per_angle"):
            if getattr(self, name) is not None and self.angle_step is None:
                raise ParameterError(name, f"needs {given('angle_step')}")
        for name in ("angle_start", "angle_step"):
            value = getattr(self, name)
            if value is not None and not np.isfinite(value):
                raise ParameterError(name, f"{value!r} is not a finite number of degrees")
        if self.folder is not None and self.log is None and (self.table is None or self.sources):
            raise ParameterError(
                "folder",
                "needs a log or a table that lists the images",
            )
        if self.log is not None and self.sources:
            raise ParameterError(
                "log", f"lists all images of the run, found {self.sources[0]} as well; choose one"
            )
        if self.log is not None and self.table is not None:
            raise ParameterError("table", "cannot be used with a log, which has the metadata")
        if self.name_pattern is not None:
            compile_pattern(self.name_pattern)

    @property
    def named(self) -> list[Path]:
        """Return the files that the request itself names; `list_images` finds the images."""
        return [
            path for path in (self.log, self.table, *map(Path, self.sources)) if path is not None
        ]


@dataclass(frozen=True, slots=True)
class Skipped:
    """Image that was skipped."""

    file: str
    """Name of the image."""
    reason: str
    """Reason why it was skipped."""


@dataclass(frozen=True, slots=True)
class ImageList:
    """The images of a run, in order."""

    source: str
    """Name of the list in messages."""
    paths: list[Path]
    """The images."""
    columns: dict[str, Column]
    """Metadata, one value per image. The column ``file`` is always present."""
    inputs: list[Path]
    """Files that were read in addition to the images: the log or the table."""
    comments: list[str] = field(default_factory=list)
    """Comments of the log."""
    skipped: list[Skipped] = field(default_factory=list)
    """Images that were skipped."""
    warnings: list[str] = field(default_factory=list)
    """Warnings for the user."""

    def only(self, kept: Sequence[int]) -> "ImageList":
        """Return the list with some of the images only, chosen by their indices."""
        index = np.asarray(kept, np.int64)
        columns = {
            name: replace(column, values=column.values[index])
            for name, column in self.columns.items()
        }
        return replace(self, paths=[self.paths[i] for i in kept], columns=columns)


def write_images(file: h5py.File, images: ImageList) -> None:
    """Write the metadata of a run of images, and what was left out of it.

    Raises OSError or RuntimeError where that fails.
    """
    write_columns(file, images.columns)
    write_comments(file, images.comments)
    if images.skipped:
        names, reasons = (
            np.array([getattr(image, name) for image in images.skipped], object)
            for name in ("file", "reason")
        )
        write_columns(
            file,
            {"file": Column(names), "reason": Column(reasons)},
            SKIPPED,
            "images that were left out, and why",
        )


def list_images(request: ImageRequest) -> ImageList:
    """Find the images that a request is about, and their metadata.

    Raises:
        InputError: there are none, one is missing (unless ``skip_bad``), or the metadata does not
            fit.
        ParameterError: the options of the request do not go together.
    """
    if request.log is not None:
        images = _of_log(request.log, request)
    elif request.sources:
        images = _of_names(request.sources)
    else:
        assert request.table is not None
        images = _of_table(request.table, request)
    if request.table is not None and request.sources:
        images = _with(
            images, _columns_of_table(request.table, images), given("table", str(request.table))
        )
    if request.name_pattern is not None:
        images = _with_pattern(images, request.name_pattern, request)
    elif request.angle_step is not None:
        images = _with_angles(images, _in_turn(len(images.paths), request), request)
    if request.laser is not None:
        states = np.resize(
            np.array([state == "on" for state in request.laser], np.uint8), len(images.paths)
        )
        images = _with(images, {"laser_on": Column(states)}, given("laser"))
    return _present(images, request.skip_bad)


# --------------------------------------------------------------------------- where images come from


def _of_log(path: Path, request: ImageRequest) -> ImageList:
    log = read_log(path)
    if log.bad and not request.skip_bad:
        bad = log.bad[0]
        raise InputError(
            f"{path}: line {bad.number}: {bad.reason}{_more(len(log.bad) - 1)}; "
            f"use {given('skip_bad', True)} to skip it"
        )
    warnings = []
    if log.repeated:
        warnings.append(
            f"{path}: {_names(log.repeated)} {'is' if len(log.repeated) == 1 else 'are'} "
            "listed more than once; the last entry is used"
        )
    return ImageList(
        source=str(path),
        paths=_places(
            log.columns["file"].values.tolist(),
            _folder(path, request),
            ("", "xray_images") if request.folder is None else ("",),
        ),
        columns=log.columns,
        inputs=[path],
        comments=log.comments,
        skipped=[Skipped(bad.file, f"line {bad.number}: {bad.reason}") for bad in log.bad],
        warnings=warnings,
    )


def _of_table(path: Path, request: ImageRequest) -> ImageList:
    columns = _typed_table(path)
    if "file" not in columns:
        raise InputError(f"{path}: column 'file' is missing; add it, or give the images")
    names = [str(name) for name in columns["file"].values.tolist()]
    return ImageList(str(path), _places(names, _folder(path, request), ("",)), columns, [path])


def _of_names(sources: Sequence[str]) -> ImageList:
    paths: list[Path] = []
    for source in sources:
        if glob.has_magic(source) and not Path(source).exists():
            found = sorted(glob.glob(source), key=_natural)
            if not found:
                raise InputError(f"{source}: no file matches this pattern")
            paths.extend(map(Path, found))
        elif Path(source).is_dir():
            raise InputError(f"{source}: is a folder; {_inputs_in(Path(source))}")
        else:
            paths.append(Path(source))
    twice = (
        next((path for i, path in enumerate(paths) if path in set(paths[:i])), None)
        if len(set(paths)) < len(paths)
        else None
    )
    if twice is not None:
        raise InputError(f"{twice}: is given twice, expected each image once")
    source = str(paths[0]) if len(paths) == 1 else f"{paths[0]} ... {paths[-1].name}"
    return ImageList(
        source, paths, {"file": Column(np.array([path.name for path in paths], object))}, []
    )


def _inputs_in(folder: Path) -> str:
    """Return the inputs to use in place of a folder, from the files in it."""
    try:
        names = sorted(
            path.name for path in itertools.islice(folder.iterdir(), MANY) if path.is_file()
        )
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    shown = str(folder)
    logs = [name for name in names if name.lower().endswith(".log") and is_log(folder / name)]
    if len(logs) == 1:
        return f"give its log: {shlex.quote(f'{shown}/{logs[0]}')}"
    endings = Counter(_ending(name) for name in names)
    of_images = [
        ending
        for ending, _ in endings.most_common()
        if any(part in IMAGE_SUFFIXES for part in ending.split("."))
    ]
    if of_images:
        return f"give its images as a pattern: '{shown}/*{of_images[0]}'"
    hdf5 = [name for name in names if name.lower().endswith(HDF5_SUFFIXES)]
    if hdf5:
        return f"give a file in it, such as {shlex.quote(f'{shown}/{hdf5[0]}')}"
    others = f"{len(names)} files of other kinds" if names else "none"
    return f"expected images in it, found {others}; give images as a pattern: '{shown}/*.mccd'"


def _ending(name: str) -> str:
    """Return the ending of a name: ``.mccd.gz`` of ``a_1.500.mccd.gz``."""
    suffixes = Path(name).suffixes
    return "".join(
        suffixes[-2:] if suffixes and suffixes[-1].lower() in COMPRESSED else suffixes[-1:]
    )


def _folder(path: Path, request: ImageRequest) -> Path:
    folder = path.parent if request.folder is None else request.folder
    if not folder.is_dir():
        raise InputError(f"{folder}: not a directory, expected the folder of the images")
    return folder


def _places(names: Iterable[str], folder: Path, below: Sequence[str]) -> list[Path]:
    """Find each image in the folder or below it, compressed or not.

    An image is found by its full name or by the last part of it.
    """

    def place(name: str) -> Path:
        ways = dict.fromkeys((name.replace("\\", "/"), _base(name)))
        candidates = [folder / sub / way for sub in below for way in ways]
        tried = (
            path.with_name(path.name + ending)
            for ending in ("", *COMPRESSED)
            for path in candidates
        )
        return next((path for path in tried if os.path.exists(path)), folder / _base(name))

    return [place(name) for name in names]


def _present(images: ImageList, skip_bad: bool) -> ImageList:
    """Return the list without missing images. Without ``skip_bad`` they are an error."""
    # os.path.exists, as Path.exists raises OSError for a name that is too long
    present = [os.path.exists(path) for path in images.paths]
    missing = [i for i, is_there in enumerate(present) if not is_there]
    if not missing:
        return images
    if not skip_bad:
        if len(images.paths) == 1 or not images.inputs:
            raise InputError(
                f"{images.paths[missing[0]]}: No such file or directory{_more(len(missing) - 1)}"
            )
        names = _names([images.paths[i].name for i in missing])
        folder = images.paths[missing[0]].parent
        raise InputError(
            f"{images.source}: {len(missing)} of {len(images.paths)} images are missing in "
            f"{folder}: {names}; use {given('folder')} to name another folder, or "
            f"{given('skip_bad', True)} to skip them"
        )
    images.skipped.extend(Skipped(images.paths[i].name, "is missing") for i in missing)
    return images.only([i for i, is_there in enumerate(present) if is_there])


# ----------------------------------------------------------------------------------------- metadata


def _with(images: ImageList, columns: dict[str, Column], whose: str) -> ImageList:
    """Return the list with more columns. Raises `InputError` for a column that it has already."""
    for name in columns:
        if name in images.columns and name != "file":
            raise InputError(
                f"{images.source}: {whose} gives {name}, which is already known; choose one"
            )
    return replace(
        images,
        columns={
            **images.columns,
            **{name: column for name, column in columns.items() if name != "file"},
        },
    )


def _typed_table(path: Path) -> dict[str, Column]:
    columns = {}
    for name, values in read_table(path).items():
        known = name.replace("/", "_")
        if known == "laser_on":
            values = typed(known, [str(value) for value in values.tolist()])
        columns[known] = Column(values, UNITS.get(known))
    return columns


def _columns_of_table(path: Path, images: ImageList) -> dict[str, Column]:
    """Return the columns of a table, one value per image.

    Rows are matched by the column ``file``; without it, they are in the order of the images.
    """
    columns = _typed_table(path)
    n_rows = len(next(iter(columns.values())).values)
    if "file" not in columns:
        if n_rows != len(images.paths):
            raise InputError(
                f"{path}: has {n_rows} rows and no column 'file', "
                f"expected one row for each of the {len(images.paths)} images"
            )
        return columns
    names = [_plain(str(name)) for name in columns["file"].values.tolist()]
    row_of = {name: row for row, name in enumerate(names)}
    wanted = [_plain(image.name) for image in images.paths]
    for found, where in ((names, str(path)), (wanted, images.source)):
        if len(set(found)) < len(found):
            twice = next(name for i, name in enumerate(found) if name in found[:i])
            raise InputError(f"{where}: {twice} is listed twice, expected once")
    if missing := [name for name in wanted if name not in row_of]:
        raise InputError(f"{path}: has no row for {_names(missing)}")
    if len(names) > len(wanted):
        images.warnings.append(
            f"{path}: {len(names) - len(wanted)} of {len(names)} rows match none of the images "
            "and are ignored"
        )
    rows = np.array([row_of[name] for name in wanted])
    return {name: replace(column, values=column.values[rows]) for name, column in columns.items()}


def _with_pattern(images: ImageList, pattern: str, request: ImageRequest) -> ImageList:
    """Return the list with the columns that the names of the images hold.

    Where names hold a repeat, its off and on images follow each other, in the order of measurement.
    """
    compiled = compile_pattern(pattern)
    found = []
    for path in images.paths:
        match = compiled.match(path.name) or compiled.match(
            path.name.removesuffix(".gz").removesuffix(".bz2")
        )
        if match is None:
            raise InputError(
                f"{path}: the name does not match {given('name_pattern')}, expected "
                f"{pattern[:200]!r}"
            )
        found.append(match)
    texts = {name: [groups[name] for groups in found] for name in compiled.fields}
    columns = {"laser_on" if name == "laser" else name: values for name, values in texts.items()}
    typed_columns = {
        name: Column(typed(name, values), UNITS.get(name)) for name, values in columns.items()
    }
    images = _with(images, typed_columns, given("name_pattern"))
    if "angle_number" in texts:
        numbers = images.columns["angle_number"].values
        if numbers.dtype != np.int64:
            longest = max(texts["angle_number"], key=len)
            raise InputError(
                f"{images.source}: {{angle_number}} is {longest} in a name, "
                "expected a number of at most 18 digits"
            )
        if request.angle_step is None:
            raise ParameterError(
                "name_pattern", f"has {{angle_number}}, which needs {given('angle_step')}"
            )
        if request.frames_per_angle is not None:
            raise ParameterError(
                "frames_per_angle", "cannot be used with {angle_number} in the names"
            )
        images = _with_angles(images, numbers - numbers.min(), request)
    elif request.angle_step is not None:
        images = _with_angles(images, _in_turn(len(images.paths), request), request)
    if "repeat" not in texts or "laser_on" not in images.columns:
        return images
    angles = (
        images.columns["angle"].values.tolist()
        if "angle" in images.columns
        else [0] * len(images.paths)
    )
    first = {angle: i for i, angle in reversed(list(enumerate(angles)))}
    repeats, states = (
        images.columns["repeat"].values.tolist(),
        images.columns["laser_on"].values.tolist(),
    )
    return images.only(
        sorted(range(len(angles)), key=lambda i: (first[angles[i]], repeats[i], states[i]))
    )


def _in_turn(n_images: int, request: ImageRequest) -> NDArray[np.int64]:
    """Return the index of the angle of each image, for images in the order of angles."""
    return np.arange(n_images) // (request.frames_per_angle or len(request.laser or ("off",)))


def _with_angles(images: ImageList, steps: NDArray[np.int64], request: ImageRequest) -> ImageList:
    """Return the list with angles: the first one plus a number of steps."""
    # 0.1 * 3 is 0.30000000000000004
    angles = np.round((request.angle_start or 0.0) + (request.angle_step or 0.0) * steps, 9)
    return _with(images, {"angle": Column(angles, UNITS["angle"])}, given("angle_step"))


# -------------------------------------------------------------------------------------------- names


def default_output(request: ImageRequest, kind: str) -> Path:
    """Return the default output ``NAME__kind.h5``, beside the log, the table or the images.

    Raises `ParameterError` where the images have nothing in common.
    """
    named = request.log or (request.table if not request.sources else None)
    if named is not None:
        return named.with_name(f"{named.name.removesuffix(named.suffix)}__{kind}.h5")
    paths = _of_names(request.sources).paths
    common = (
        paths[0].name.split(".")[0] if len(paths) == 1 else _common([path.name for path in paths])
    )
    if not common:
        raise ParameterError(
            "output", "no default, as the names of the images begin differently; give a name"
        )
    return paths[0].with_name(f"{common}__{kind}.h5")


def _common(names: Sequence[str]) -> str:
    """Return the common beginning of all names, up to a number or to the end of a word."""
    first, last = min(names), max(names)
    n_equal = next(
        (i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b),
        min(len(first), len(last)),
    )
    common = first[:n_equal].rstrip("0123456789")
    if not all(name[len(common) : len(common) + 1].isdigit() for name in names):
        common = (re.match(r".*[_\-. +]", common) or [common])[0]
    return common.rstrip("_-. +")


def _base(name: str) -> str:
    """Return the last part of a path of any operating system."""
    return re.split(r"[/\\]", name)[-1]


def _plain(name: str) -> str:
    """Return the name of an image without the ending of a compression."""
    base = _base(name)
    return next((base.removesuffix(ending) for ending in COMPRESSED if base.endswith(ending)), base)


def _natural(name: str) -> list[tuple[float, str]]:
    """Return a key that sorts names by the numbers in them: 2 before 10."""
    return [
        (float(part), "") if i % 2 else (0.0, part)
        for i, part in enumerate(re.split(r"(\d+)", name))
    ]


def _names(names: Sequence[str]) -> str:
    return ", ".join(names[:IN_MESSAGES]) + (
        f" and {len(names) - IN_MESSAGES} more" if len(names) > IN_MESSAGES else ""
    )


def _more(n: int) -> str:
    return f" (and {n} more)" if n else ""
