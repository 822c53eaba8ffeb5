"""The options that convert and find share: which images make a run, and what is known of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

IMAGE_OPTIONS: dict[str, str] = {
    "log": "--log",
    "folder": "-p/--path",
    "table": "--table",
    "name_pattern": "--name-pattern",
    "angle_start": "--angle-start",
    "angle_step": "--angle-step",
    "frames_per_angle": "--frames-per-angle",
    "laser": "--laser",
    "skip_bad": "--skip-bad",
}
"""Names of the options, and how the user writes them."""


def _states(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    """``off,on`` gives ("off", "on")."""
    return None if value is None else tuple(part.strip().lower() for part in value.split(","))


def image_options(command: Command) -> Command:
    """Give a command the options about images."""
    path = click.Path(path_type=Path)
    options = [
        click.option("--log", metavar="LOG", type=path, help="Lauecollect log that names the images and has their metadata"),
        click.option("-p", "--path", "folder", metavar="DIR", type=path, help="folder of the images that a log or table names"),
        click.option("--table", metavar="TABLE", type=path, help="CSV or TSV table of metadata: a column `file`, or one row an image"),
        click.option(
            "--name-pattern", metavar="PATTERN", help="metadata from names, such as '{base}_{angle}_{laser}_{repeat}.mccd'"
        ),
        click.option("--angle-start", metavar="DEG", type=float, help="angle of the first image, degrees  [default: 0, with --angle-step]"),
        click.option("--angle-step", metavar="DEG", type=float, help="degrees from angle to angle"),
        click.option(
            "--frames-per-angle", metavar="N", type=click.IntRange(min=1),
            help="images at each angle, with --angle-step  [default: as many as --laser has states, else 1]",
        ),
        click.option("--laser", metavar="STATES", callback=_states, help="laser states of the images, in turn, such as off,on"),
        click.option("--skip-bad", is_flag=True, help="leave out images that are missing, damaged or of another size, and say which"),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def option_of(name: str) -> str:
    """How the user writes an option about images; the name itself for any other."""
    return IMAGE_OPTIONS.get(name, name)
