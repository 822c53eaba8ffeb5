"""Argument and options of the commands that read a spots file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from gpu_spots.cli.completion import file_names

Command = TypeVar("Command", bound=Callable[..., Any])

spots_argument = click.argument(
    "spots",
    metavar="RUN__spots.h5",
    type=click.Path(path_type=Path),
    shell_complete=file_names,
)
"""The spots file."""


def output_option(help_text: str, metavar: str = "OUT") -> Callable[[Command], Command]:
    """Return a decorator that adds ``-o/--output``."""
    return click.option(
        "-o", "--output", metavar=metavar, type=click.Path(path_type=Path), help=help_text
    )


frames_from_option = click.option(
    "--frames-from",
    metavar="FILE|FOLDER",
    type=click.Path(path_type=Path),
    shell_complete=file_names,
    help="HDF5 file with the frames of the run, or folder of its images  "
    "[default: as RUN__spots.h5 names them]",
)
"""``--frames-from``."""


force_option = click.option("--force", is_flag=True, help="Overwrite an existing output")
"""``--force``."""
