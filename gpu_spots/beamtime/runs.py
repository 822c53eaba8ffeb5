"""Search for runs: HDF5 files, logs with their images, and folders of images."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from gpu_spots.errors import InputError, given
from gpu_spots.files.images.image import COMPRESSED
from gpu_spots.files.images.image_list import IMAGE_SUFFIXES
from gpu_spots.files.images.lauecollect_log import is_log
from gpu_spots.files.layouts.dectris import DATA_FILE
from gpu_spots.files.suffixes import HDF5_SUFFIXES

RESULTS = re.compile(r".*__(spots|ratios|preview|growing|cleaned|peaks|sparse)\.(h5|cxi)")
"""Names of results of this program, which are no runs."""
IMAGE_FOLDERS = ("xray_images",)
"""Folders whose images belong to a log in the folder above."""
KINDS = ("dark", "laser")
"""Kinds of runs: without laser-on frames, and with both states."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run, and the names of its results."""

    name: str
    """Path below the folder that was given, without ending; the results have this name."""
    source: tuple[str, ...]
    """Arguments of ``gpu-spots find``: an HDF5 file, a log, or a pattern of images."""
    options: tuple[str, ...] = ()
    """Further options of this run, as on the command line."""
    kind: str | None = None
    """One of `KINDS`; None: the run itself tells."""

    @property
    def words(self) -> tuple[str, ...]:
        """Arguments and options of the run."""
        return *self.source, *self.options


@dataclass(frozen=True, slots=True)
class Search:
    """Rules of the search in folders. Patterns are compared with the name and with the path."""

    patterns: tuple[str, ...] = ()
    """Patterns of files that are runs, such as ``*__mccd.h5``; empty: all that can be runs."""
    exclude: tuple[str, ...] = ()
    """Patterns of files and folders that are left out."""
    outside: tuple[Path, ...] = ()
    """Folders that are left out, such as that of the results."""
    image_folders: bool = False
    """A folder of images without a log is a run."""


@dataclass(slots=True)
class Found:
    """Runs that were found, and what was left out."""

    runs: list[Run] = field(default_factory=list)
    """Runs, by folder and name."""
    notes: list[str] = field(default_factory=list)
    """Lines for the user: what was left out, and why."""


def find_runs(sources: Sequence[str | Path], search: Search) -> Found:
    """Find the runs in folders, and those that are given themselves.

    A folder is searched with all that is below it. These are runs: an HDF5 file; a Lauecollect log
    with its images; with ``search.image_folders`` also a folder of images without a log. DECTRIS
    data files belong to their master file, and results of this program are no runs.

    Raises:
        InputError: A source does not exist or is no run, or two runs have the same name.
    """
    found = Found()
    for source in sources:
        path = Path(os.path.abspath(source))
        if path.is_dir():
            _search_folder(path, search, found)
        elif path.exists():
            found.runs.append(Run(run_name(path.name), (str(path),)))
        else:
            raise InputError(f"{source}: No such file or directory")
    refuse_clashes(found.runs)
    return found


def run_name(file: str) -> str:
    """Return the name of a run from the name of its file.

    Examples:
        >>> run_name("day1/laser_01__mccd.h5"), run_name("scan_1.log"), run_name("a_master.h5")
        ('day1/laser_01', 'scan_1', 'a')
    """
    name = file.removesuffix(Path(file).suffix)
    return name.removesuffix("__mccd").removesuffix("_master") or name


def companions(path: Path) -> list[Path]:
    """Return the data files of a DECTRIS master file that are there; for other files none."""
    if not path.stem.endswith("_master"):
        return []
    base = path.stem.removesuffix("_master")
    try:
        names = os.listdir(path.parent)
    except OSError:
        return []
    return [
        path.with_name(name)
        for name in sorted(names)
        if (data := DATA_FILE.fullmatch(name)) and data[1] == base
    ]


def image_ending(name: str) -> str | None:
    """Return the ending of an image's name, such as ``.mccd`` or ``.mccd.gz``; None: no image.

    Examples:
        >>> image_ending("a_1.500.mccd.gz"), image_ending("notes.txt")
        ('.mccd.gz', None)
    """
    plain = next((name.removesuffix(end) for end in COMPRESSED if name.endswith(end)), name)
    suffix = Path(plain).suffix
    known = suffix.lower().lstrip(".") in IMAGE_SUFFIXES
    return suffix + name.removeprefix(plain) if known else None


def _search_folder(folder: Path, search: Search, found: Found) -> None:
    without_log: list[Path] = []
    n_orphans = 0
    for here, names in _walk(folder, search):
        files = [
            name
            for name in names
            if not search.patterns or _matches(here / name, folder, search.patterns)
        ]
        hdf5, logs, orphans = _runs_of(here, files, names)
        n_orphans += orphans
        converted = {run_name(name) for name in hdf5}
        for name in logs:
            if run_name(name) in converted:
                found.notes.append(
                    f"{here / name}: left out, as an HDF5 file beside it has the same run"
                )
        new_logs = [name for name in logs if run_name(name) not in converted]
        for name in sorted([*hdf5, *new_logs]):
            relative = (here / name).relative_to(folder)
            found.runs.append(Run(run_name(str(relative)), (str(here / name),)))
        is_of_log = here.name in IMAGE_FOLDERS and here != folder
        if not logs and not is_of_log and (ending := _ending_of_images(names)):
            if search.image_folders and not search.patterns:
                name = here.name if here == folder else str(here.relative_to(folder))
                found.runs.append(Run(name, (f"{here}/*{ending}",)))
            else:
                without_log.append(here)
    if without_log:
        found.notes.append(
            f"{without_log[0]}: images without a log were left out"
            + (f" (and {len(without_log) - 1} more folders)" if len(without_log) > 1 else "")
            + f"; {given('name_pattern')}, {given('angle_step')} or a list of runs makes them runs"
        )
    if n_orphans:
        found.notes.append(
            f"{folder}: {n_orphans} DECTRIS data files without their master file were left out; "
            "give such a file itself to process it"
        )


def _walk(folder: Path, search: Search) -> Iterator[tuple[Path, list[str]]]:
    """Yield each folder that is searched with the names of its files, sorted."""
    outside = {path.resolve() for path in search.outside}

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: cannot be searched: {error.strerror}") from error

    def is_searched(path: Path) -> bool:
        return not path.name.startswith(".") and not _matches(path, folder, search.exclude)

    for place, folders, names in os.walk(folder, onerror=refuse):
        here = Path(place)
        folders[:] = sorted(
            name
            for name in folders
            if is_searched(here / name) and (here / name).resolve() not in outside
        )
        yield here, sorted(name for name in names if is_searched(here / name))


def _runs_of(
    folder: Path, files: Sequence[str], names: Sequence[str]
) -> tuple[list[str], list[str], int]:
    """Return HDF5 files that are runs, logs, and the number of data files without a master.

    Args:
        folder: Folder of the files.
        files: Files that can be runs.
        names: All files of the folder.
    """
    hdf5 = [
        name
        for name in files
        if Path(name).suffix.lower() in HDF5_SUFFIXES and not RESULTS.fullmatch(name)
    ]
    data = [of for name in hdf5 if (of := DATA_FILE.fullmatch(name))]
    n_orphans = sum(f"{of[1]}_master.h5" not in names for of in data)
    runs = [name for name in hdf5 if not DATA_FILE.fullmatch(name)]
    logs = [name for name in files if name.lower().endswith(".log") and is_log(folder / name)]
    return runs, logs, n_orphans


def _ending_of_images(names: Iterable[str]) -> str | None:
    """Return the most frequent ending of images; None: there are fewer than two images."""
    endings = [ending for name in names if (ending := image_ending(name))]
    most = max(set(endings), key=lambda ending: (endings.count(ending), ending), default=None)
    return most if len(endings) > 1 else None


def _matches(path: Path, folder: Path, patterns: Sequence[str]) -> bool:
    relative = str(path.relative_to(folder))
    return any(fnmatch(path.name, one) or fnmatch(relative, one) for one in patterns)


def refuse_clashes(runs: Sequence[Run]) -> None:
    """Raise `InputError` if two runs would have the same results."""
    seen: dict[str, Run] = {}
    for run in runs:
        other = seen.setdefault(run.name, run)
        if other is not run and other.source == run.source:
            raise InputError(f"{run.source[0]}: is given twice, expected each run once")
        if other is not run:
            raise InputError(
                f"{run.source[0]} and {other.source[0]}: both are called {run.name}; give the "
                "folder that has both, or a list of runs with a column name"
            )
