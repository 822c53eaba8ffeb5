"""Spots files to export, and the programs of others that read what is written."""

import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from gpu_spots.export.format import ExportOptions
from gpu_spots.export.formats import export_spots
from helpers import ROOT, command, write_run

READERS = ROOT / "build/readers/bin/python"
"""Python with the programs that ``make readers`` installs."""


class Silent:
    """An observer that nobody looks at."""

    def stage(self, name: str, total: int, unit: str) -> None: ...

    def advance(self, steps: int) -> None: ...

    def warn(self, message: str) -> None: ...


def spots_of_run(
    folder: Path, *options: object, edit: Callable[[h5py.File], object] | None = None
) -> Path:
    """A run of 20 frames of 24 x 40 at 10 angles, off and on at each, and its spots."""
    run = write_run(folder / "run__mccd.h5", edit)
    spots = folder / "run__spots.h5"
    arguments = options or ("-S", "pairs")
    assert command(run, "-o", spots, "--quiet", *arguments).status == 0
    return spots


def export(
    name: str, spots: Path, output: Path | None = None, **options: Any
) -> tuple[Path, list[str]]:
    """Export with two threads; return the output and the lines for the user."""
    path, _, notes = export_spots(
        spots, name, output, ExportOptions(**options), Silent(), workers=2
    )
    return path, notes


@cache
def _python_with(module: str) -> str | None:
    """Return the Python that has a module, this one or that of ``make readers``."""
    package = module.partition(".")[0]
    program = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({package!r}) is None)"
    for python in (sys.executable, str(READERS)):
        if Path(python).exists():
            tried = subprocess.run([python, "-c", program], capture_output=True, check=False)
            if tried.returncode == 0:
                return python
    return None


def read_by(module: str, program: str, path: Path) -> dict[str, np.ndarray]:
    """Return what a program of others reads from a file.

    Args:
        module: the module of that program, imported as ``it``.
        program: lines of Python that put arrays into ``found``; ``path`` is the file.
        path: the file.

    The test is skipped if the program is not installed.
    """
    python = _python_with(module)
    if python is None:
        pytest.skip(f"needs {module}: make readers installs it, for Python 3.11 and 3.12")
    result = path.parent / "found.npz"
    body = "\n".join(f"    {line}" for line in program.strip().splitlines())
    lines = f"""
import contextlib, importlib, sys
import numpy
it = importlib.import_module({module!r})
path, found = {str(path)!r}, {{}}
with contextlib.redirect_stdout(sys.stderr):
{body}
numpy.savez({str(result)!r}, **found)
"""
    ended = subprocess.run(
        [python, "-W", "ignore", "-c", lines], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    with np.load(result) as arrays:
        return dict(arrays)


def edited(spots: Path, **datasets: Any) -> Path:
    """Replace or add datasets of a spots file; ``spots_max`` is spots/max, None only removes."""
    with h5py.File(spots, "r+") as file:
        for name, values in datasets.items():
            path = name.replace("_", "/", 1)
            if path in file:
                del file[path]
            if values is not None:
                file[path] = values
    return spots
