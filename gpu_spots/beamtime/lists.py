"""Lists of runs: CSV or YAML files with options for each run."""

import csv
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gpu_spots.beamtime.runs import (
    KINDS,
    Found,
    Run,
    Search,
    find_runs,
    refuse_clashes,
    run_name,
)
from gpu_spots.errors import GpuSpotsError, InputError, given
from gpu_spots.files.text import read_content
from gpu_spots.packages import install_command

LIST_SUFFIXES = (".csv", ".yaml", ".yml")
"""Endings of the names of lists."""
OWN = ("run", "name", "kind", "options")
"""Entries of a run that are no options of find."""

OptionWords = Callable[[Mapping[str, Any]], Sequence[str]]
"""Function that returns the words of a command line for options by name."""


def take_runs(
    sources: Sequence[str | Path],
    search: Search,
    check_words: Callable[[Sequence[str]], None],
    option_words: OptionWords,
) -> Found:
    """Return the runs of folders, files and lists of runs.

    Args:
        sources: folders, files and lists.
        search: rules of the search in folders.
        check_words: raises `GpuSpotsError` for options that find refuses.
        option_words: see `read_list`.

    Raises:
        GpuSpotsError: A source cannot be used, two runs have the same name, or there are no runs.
    """
    lists = [Path(source) for source in sources if Path(source).suffix.lower() in LIST_SUFFIXES]
    found = find_runs([source for source in sources if Path(source) not in lists], search)
    for path in lists:
        for run in read_list(path, option_words):
            try:
                check_words(run.options)
            except GpuSpotsError as error:
                raise InputError(f"{path}: run {run.name}: {error}") from error
            found.runs.append(run)
    refuse_clashes(found.runs)
    if not found.runs:
        raise InputError(
            f"{sources[0]}: no runs found, expected HDF5 files, or logs with their images; "
            f"{given('pattern')} chooses files"
        )
    return found


def read_list(path: Path, option_words: OptionWords) -> list[Run]:
    """Read a list of runs.

    A CSV file has a line of names, and one line per run. A YAML file is a list of entries, or has
    one under ``runs``. Names: ``run``, the file or pattern, relative to the folder of the list;
    ``name``, that of the results; ``kind``, dark or laser; ``options``, as on the command line; and
    any option of find by its long name, such as ``cutoff``. Only ``run`` is required.

    Args:
        path: the list.
        option_words: returns the command line for options by name, or raises `GpuSpotsError`.

    Raises:
        InputError: The list cannot be read, or an entry is wrong; the message names the entry.
    """
    entries = _yaml(path) if path.suffix.lower() != ".csv" else _csv(path)
    if not entries:
        raise InputError(f"{path}: has no runs, expected one entry or line per run")
    return [_run(path, place, entry, option_words) for place, entry in entries]


def _run(path: Path, place: str, entry: Any, option_words: OptionWords) -> Run:
    if isinstance(entry, str):
        entry = {"run": entry}
    if not isinstance(entry, Mapping) or not entry.get("run"):
        raise InputError(f"{path}: {place}: 'run' is missing, expected the file of the run")
    kind = entry.get("kind") or None
    if kind not in (None, *KINDS):
        raise InputError(f"{path}: {place}: kind is {kind!r}, expected {' or '.join(KINDS)}")
    source = os.path.normpath(path.absolute().parent / str(entry["run"]))
    options = entry.get("options") or ()
    try:
        words = [
            *(option_words(options) if isinstance(options, Mapping) else _split(options)),
            *option_words({key: value for key, value in entry.items() if key not in OWN}),
        ]
    except (GpuSpotsError, ValueError) as error:
        raise InputError(f"{path}: {place}: {error}") from error
    name = str(entry.get("name") or run_name(Path(source).name))
    if Path(name).is_absolute() or ".." in Path(name).parts or not Path(name).name:
        raise InputError(
            f"{path}: {place}: name is {name!r}, expected a name below the folder of the results"
        )
    return Run(name, (source,), tuple(words), kind)


def _split(options: Any) -> list[str]:
    if isinstance(options, str):
        return shlex.split(options)
    return [str(word) for word in options]


def _csv(path: Path) -> list[tuple[str, Any]]:
    lines = _text(path).splitlines()
    rows = [
        (number, row)
        for number, row in enumerate(csv.reader(lines, skipinitialspace=True), 1)
        if any(row) and not row[0].startswith("#")
    ]
    if not rows:
        return []
    names = [name.strip().lower() for name in rows[0][1]]
    if "run" not in names:
        raise InputError(
            f"{path}: line {rows[0][0]} names no column 'run', expected the runs in it"
        )
    entries = []
    for number, row in rows[1:]:
        if len(row) != len(names):
            raise InputError(
                f"{path}: line {number} has {len(row)} values, expected {len(names)}: "
                f"{', '.join(names)}"
            )
        values = {name: text.strip() for name, text in zip(names, row, strict=True)}
        entries.append((f"line {number}", {name: text for name, text in values.items() if text}))
    return entries


def _yaml(path: Path) -> list[tuple[str, Any]]:
    try:
        import yaml
    except ImportError:
        raise InputError(
            f"{path}: needs PyYAML; install it with {install_command('cluster')}"
        ) from None
    try:
        content = yaml.safe_load(_text(path))
    except yaml.YAMLError as error:
        text = " ".join(str(error).split())
        raise InputError(f"{path}: is not YAML: {text}") from error
    runs = content.get("runs") if isinstance(content, Mapping) else content
    if runs is not None and not isinstance(runs, list):
        raise InputError(f"{path}: has no list of runs, expected entries such as '- run: a.h5'")
    return [(f"entry {number}", entry) for number, entry in enumerate(runs or (), 1)]


def _text(path: Path) -> str:
    try:
        return read_content(path, "a list of runs").decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not a text file (UTF-8), expected a list of runs") from None
