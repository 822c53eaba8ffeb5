"""Arguments and options that several commands have: paths, outputs and what is printed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

PATH = click.Path(path_type=Path, readable=False)
"""Type of a path. The module that opens the file says what is wrong with it."""

spots_argument = click.argument("spots", metavar="RUN__spots.h5", type=PATH)
"""The spots file."""
frames_from_option = click.option(
    "--frames-from",
    metavar="FILE|FOLDER",
    type=PATH,
    help="HDF5 file with the frames of the run, or folder of its images  "
    "[default: as RUN__spots.h5 names them]",
)
"""``--frames-from``."""
threads_option = click.option(
    "--threads",
    metavar="N",
    type=click.IntRange(1, 10_000),
    help="Threads that read and compress frames  [default: one per core]",
)
"""``--threads`` of commands that copy frames."""
force_option = click.option("--force", is_flag=True, help="Overwrite an existing output")
"""``--force``."""
quiet_option = click.option("--quiet", is_flag=True, help="Print warnings and errors only")
"""``--quiet``."""


def output_option(help_text: str, metavar: str = "OUT") -> Callable[[Command], Command]:
    """Return a decorator that adds ``-o/--output``."""
    return click.option("-o", "--output", metavar=metavar, type=PATH, help=help_text)


def csv_option(what: str) -> Callable[[Command], Command]:
    """Return a decorator that adds ``--csv``, which writes the ratios as text too."""
    return click.option(
        "--csv",
        metavar="FILE",
        type=PATH,
        help=f"Write the {what} as text too, one line per reflection",
    )


def json_option(what: str) -> Callable[[Command], Command]:
    """Return a decorator that adds ``--json``, the parameter ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help=f"Print {what} as JSON")


def plot_option(what: str) -> Callable[[Command], Command]:
    """Return a decorator that adds ``--plot``, which takes the name of a PNG or SVG file."""
    return click.option(
        "--plot",
        metavar="FILE.png|FILE.svg",
        type=click.Path(path_type=Path, dir_okay=False, readable=False),
        callback=_picture,
        help=f"Draw {what}; needs matplotlib",
    )


def _picture(_: click.Context, __: click.Parameter, value: Path | None) -> Path | None:
    if value is not None and value.suffix not in (".png", ".svg"):
        raise click.BadParameter(f"{str(value)!r}, expected a name that ends in .png or .svg")
    return value
