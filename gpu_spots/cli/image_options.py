"""Options for images and their metadata, shared by convert, find and info."""

import glob
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from gpu_spots.cli.output_options import PATH
from gpu_spots.errors import ParameterError
from gpu_spots.files.suffixes import HDF5_SUFFIXES

Command = TypeVar("Command", bound=Callable[..., Any])

IMAGE_OPTIONS = (
    "log",
    "folder",
    "table",
    "name_pattern",
    "angle_start",
    "angle_step",
    "frames_per_angle",
    "laser",
    "skip_bad",
)
"""Names of the options."""
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
IMAGE_SUFFIXES = (".mccd", ".tif", ".tiff", ".cbf", ".edf", ".img", ".mar3450", ".mar2300")
"""Endings of the names of images. Files with other names may be images too."""


def _states(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    """Return the laser states of a text: ``off,on`` gives ("off", "on")."""
    return None if value is None else tuple(part.strip().lower() for part in value.split(","))


def image_options(command: Command) -> Command:
    """Add the options to a command."""
    options = [
        click.option(
            "--log", metavar="LOG", type=PATH,
            help="Lauecollect log that lists the images and their metadata",
        ),
        click.option(
            "-p", "--path", "folder", metavar="DIR", type=PATH,
            help="Folder of the images that a log or table lists  [default: folder of the log or "
                 "table]",
        ),
        click.option(
            "--name-pattern", metavar="PATTERN",
            help="Pattern that reads metadata from image names, such as "
            "'{base}_{angle}_{laser}_{repeat}.mccd'",
        ),
        click.option(
            "--angle-start", metavar="DEG", type=float,
            help="Angle of the first image, degrees  [default: 0, with --angle-step]",
        ),
        click.option(
            "--angle-step", metavar="DEG", type=float,
            help="Difference between successive angles, degrees",
        ),
        click.option(
            "--frames-per-angle", metavar="N", type=click.IntRange(min=1),
            help="Images at each angle, with --angle-step  "
            "[default: number of --laser states, else 1]",
        ),
        click.option(
            "--laser", metavar="STATES", callback=_states,
            help="Laser states of the images, repeated in turn, such as off,on",
        ),
        click.option(
            "--skip-bad", is_flag=True,
            help="Skip images that are missing, damaged or of another size, and list them",
        ),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def image_request(sources: tuple[str, ...], options: dict[str, Any]) -> dict[str, Any]:
    """Take the options of an `ImageRequest` out of ``options`` and return its arguments.

    A single source that ends in ``.log`` is a log.

    Raises:
        ParameterError: a log is given together with other sources.
    """
    images = {
        name: options[name] if name == "table" else options.pop(name) for name in IMAGE_OPTIONS
    }
    if len(sources) == 1 and sources[0].lower().endswith(".log") and images["log"] is None:
        return {**images, "log": Path(sources[0]), "sources": ()}
    if logs := [source for source in sources if source.lower().endswith(".log")]:
        raise ParameterError(
            "sources", f"{logs[0]} is a log, which lists its images; give the log alone, or images"
        )
    return {**images, "sources": sources}


def take_images(sources: tuple[str, ...], options: dict[str, Any]) -> dict[str, Any] | None:
    """Take the options of an `ImageRequest` out of ``options``.

    Returns:
        Arguments of the request; None: the only source is read as HDF5.

    Raises:
        ParameterError: there is nothing to read, there are several HDF5 files, or options for
            images are given with an HDF5 file.
    """
    images = image_request(sources, options)
    given = sorted(name for name in IMAGE_OPTIONS if images[name] not in (None, False))
    if not sources and not {"log", "table"} & set(given):
        raise ParameterError("sources", "Missing argument 'file__mccd.h5 | IMAGES...'.")
    hdf5 = [source for source in sources if _is_hdf5(source)]
    if hdf5 and len(sources) > 1:
        raise ParameterError(
            "sources", f"{sources[1]} is one argument too many, expected one HDF5 file or images"
        )
    if hdf5 and (of_images := [name for name in given if name != "table"]):
        raise ParameterError(
            of_images[0], f"can only be used with images, {hdf5[0]} is an HDF5 file"
        )
    single = (
        len(sources) == 1
        and not given
        and not (glob.has_magic(sources[0]) and not Path(sources[0]).exists())
    )
    return None if hdf5 or (single and not _is_image(sources[0])) else images


def _is_hdf5(source: str) -> bool:
    """Return True for an HDF5 file, by its name; if that is not enough, by its content."""
    path = Path(source)
    if path.suffix.lower() in HDF5_SUFFIXES or not path.is_file():
        return path.suffix.lower() in HDF5_SUFFIXES
    try:
        with path.open("rb") as file:
            return file.read(len(HDF5_SIGNATURE)) == HDF5_SIGNATURE
    except OSError:  # those who read it will say so
        return False


def _is_image(source: str) -> bool:
    """Return True for an image, by its name; if that is not enough, by its content.

    A folder counts as images, so that the error says how to name them.
    """
    path = Path(source)
    if any(suffix.lower() in IMAGE_SUFFIXES for suffix in path.suffixes[-2:]) or path.is_dir():
        return True
    if not path.is_file():
        return False
    from gpu_spots.files.images.image import HEAD, is_image

    try:
        with path.open("rb") as file:
            return is_image(file.read(HEAD))
    except OSError:  # readers will say so
        return False
