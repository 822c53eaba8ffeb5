"""Options for the geometry of the experiment, shared by the commands that need it."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

OPTIONS = (
    click.option(
        "--distance", metavar="MM", type=float,
        help="Distance of the detector from the crystal, mm; the geometry needs all four options",
    ),
    click.option(
        "--pixel-size", metavar="MM[,MM]", help="Size of a pixel along X (rows) and Y, mm"
    ),
    click.option(
        "--beam-centre", metavar="X,Y",
        help="Row and column of the beam on the detector, pixels; centres are whole numbers",
    ),
    click.option(
        "--wavelength", metavar="A[,A]",
        help="Wavelength, or the smallest and the largest one, Angstrom",
    ),
)  # fmt: skip


def geometry_options(command: Command) -> Command:
    """Add the options to a command."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command
