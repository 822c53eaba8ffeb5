"""The images of a run as a stack of frames."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from gpu_spots.errors import InputError, given, one_of
from gpu_spots.files.frames import largest_value
from gpu_spots.files.images.image import (
    COMPRESSED,
    Image,
    read_header,
    read_image,
    read_rows,
    shape_of,
)
from gpu_spots.files.images.image_list import (
    ImageList,
    ImageRequest,
    Skipped,
    list_images,
    write_images,
)
from gpu_spots.files.lauecollect import Column
from gpu_spots.memory.workers import in_order
from gpu_spots.model import Array, Columns, LocatedColumns, Validity
from gpu_spots.protocols import Observer, Provenance

COUNTING_PIXELS = ("cbf", "pilatus")
"""Formats of detectors that count photons, and mark gaps and bad pixels by negative values."""
GIVEN_BY = {
    "angle": ("table", "name_pattern", "angle_step"),
    "laser_on": ("table", "name_pattern", "laser"),
}
"""Parameters that can give a column which images do not have."""

HEADER_ANGLES = ("start_omega", "start_phi", "start_angle")
"""Fields of image headers that are taken as angles: the first of them that varies over a run."""
IN_HEADERS = "image headers, field "
"""Origin of an angle from there."""


class ImageStack:
    """Frames in files of their own. Threads may read at once; nothing is kept in memory.

    Of MarCCD images that are not compressed any rows can be read. Any other image is decoded as a
    whole, so that its rows are as dear as the frame.
    """

    step = 1
    shuffled = None

    def __init__(
        self, images: ImageList, shape: tuple[int, int], dtype: np.dtype[Any], first: Image
    ) -> None:
        self.images = images
        self.source = images.source
        self.files: tuple[Path, ...] = (*images.inputs, *images.paths)
        self.provenance = Provenance(
            input_file=str(self.files[0]),
            frames_path=str(images.paths[0].parent.absolute()),
            layout="images",
        )
        self.shape = (len(images.paths), *shape)
        self.dtype = dtype
        origin = {
            name: column.attributes["origin"]
            for name, column in images.columns.items()
            if column.attributes and "origin" in column.attributes
        }
        self.columns: Columns = LocatedColumns(
            {name: column.values for name, column in images.columns.items()}, origin, {}, GIVEN_BY
        )
        self.validity = (
            Validity(low=0) if first.format in COUNTING_PIXELS and dtype.kind == "i" else Validity()
        )
        saturation = float(first.header.get("saturation", "nan"))
        self.saturation: float | None = saturation
        if dtype.kind != "f" or math.isnan(saturation):
            self.saturation = largest_value(dtype) if math.isnan(saturation) else int(saturation)
        self.format = first.format
        self.notes: tuple[str, ...] = ()
        self.is_decoded = first.format == "marccd" and not any(
            path.suffix.lower() in COMPRESSED for path in images.paths
        )
        self.rows_apart: int | None = 1 if self.is_decoded else None
        self._states = [_state(path) for path in self.files]

    def resident(self) -> None:
        """Return None, because nothing is in memory."""

    def read(self, begin: int, end: int, into: Array) -> None:
        """Read frames; may be called by several threads.

        Raises `InputError`, which names the image.
        """
        self.read_rows(begin, end, 0, self.shape[1], into)

    def read_rows(self, begin: int, end: int, first: int, last: int, into: Array) -> None:
        """Read the rows from ``first`` to ``last`` of frames; as `read`."""
        for frame in range(begin, end):
            path = self.images.paths[frame]
            self._check(path, *read_rows(path, first, last, into[frame - begin]))

    def read_image(self, frame: int) -> Image:
        """Read one image with its header.

        Raises `InputError` where it cannot be read or is not like the others.
        """
        path = self.images.paths[frame]
        image = read_image(path)
        self._check(path, image.frame.shape, image.frame.dtype)
        return image

    def _check(self, path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        if shape != self.shape[1:] or dtype != self.dtype:
            found, expected = _words(shape, dtype), _words(self.shape[1:], self.dtype)
            raise InputError(
                f"{path}: is {found}, expected {expected} as the other images; "
                f"use {given('skip_bad', True)} to skip it"
            )

    def check_whole(self) -> None:
        """Raise `InputError` if an image was changed or removed since the stack was opened."""
        for path, state in zip(self.files, self._states, strict=True):
            if _state(path) != state:
                raise InputError(f"{path}: was changed while it was being read")

    def storage(self) -> dict[str, str]:
        """Return the format of the images."""
        return {"images": self.format}

    def write_metadata(self, file: h5py.File, warn: Callable[[str], None]) -> None:
        """Write the metadata of the images, and what was left out."""
        write_images(file, self.images)


def open_images(request: ImageRequest, observer: Observer, workers: int) -> ImageStack:
    """Return the images of a request as a stack. No file stays open.

    With ``skip_bad`` all images are looked at first, and those that cannot be read or differ from
    most others are left out. Warnings go to the observer.

    Raises:
        InputError: there are no images, the first one cannot be read, or the metadata does not fit.
    """
    images = list_images(request)
    if request.skip_bad:
        images = _without_bad(images, observer, workers)
    if "angle" not in images.columns:
        images = _with_header_angles(images, workers)
    for message in images.warnings:
        observer.warn(message)
    if images.skipped:
        total = len(images.skipped) + len(images.paths)
        observer.warn(f"{images.source}: {len(images.skipped)} of {total} frames are left out:")
        for skipped in images.skipped:
            observer.warn(f"  {skipped.file}: {skipped.reason}")
    if not images.paths:
        raise InputError(f"{images.source}: all images are left out, expected at least one")
    first = read_image(images.paths[0])
    n_rows, n_columns = first.frame.shape
    return ImageStack(images, (n_rows, n_columns), first.frame.dtype, first)


def _without_bad(images: ImageList, observer: Observer, workers: int) -> ImageList:
    """Return the list without images that cannot be read, or of another shape or type."""

    def look(path: Path) -> tuple[tuple[int, ...], np.dtype[Any]] | str:
        try:
            return shape_of(path)
        except InputError as error:
            return str(error).removeprefix(f"{path}: ")

    observer.stage("look", len(images.paths), "images")
    found = []
    for state in in_order(look, images.paths, workers):
        found.append(state)
        observer.advance(1)
    usual = Counter(state for state in found if not isinstance(state, str)).most_common(1)
    skipped = list(images.skipped)
    kept = []
    for i, state in enumerate(found):
        if isinstance(state, str):
            skipped.append(Skipped(images.paths[i].name, state))
        elif state != usual[0][0]:
            skipped.append(
                Skipped(
                    images.paths[i].name,
                    f"is {_words(*state)}, expected {_words(*usual[0][0])} as most images",
                )
            )
        else:
            kept.append(i)
    return replace(images.only(kept), skipped=skipped)


def _with_header_angles(images: ImageList, workers: int) -> ImageList:
    """Return the list with angles from the image headers.

    One of `HEADER_ANGLES` is used if it varies over the run.
    """

    def look(path: Path) -> list[float]:
        try:
            header = read_header(path)
        except InputError:  # reading the frame will say so
            header = {}
        return [float(header.get(name, "nan")) for name in HEADER_ANGLES]

    if len(images.paths) < 2 or all(map(math.isnan, look(images.paths[0]))):
        return images
    found = np.round(np.array(list(in_order(look, images.paths, workers)), np.float64).T, 3)
    varying = [
        i
        for i, angles in enumerate(found)
        if np.isfinite(angles).all() and (angles != angles[0]).any()
    ]
    if not varying:
        return images
    used, angles = HEADER_ANGLES[varying[0]], found[varying[0]]
    others = [HEADER_ANGLES[i] for i in varying[1:] if (found[i] != angles).any()]
    images.warnings.append(
        f"{images.source}: angles are taken from the image headers, field {used}: "
        f"{len(np.unique(angles))} different, {angles.min():g} to {angles.max():g} degrees"
        + (
            f"; {' and '.join(others)} var{'y' if len(others) > 1 else 'ies'} as well"
            if others
            else ""
        )
        + f"; use {one_of(*GIVEN_BY['angle'])} for other angles"
    )
    column = Column(angles, "degrees", {"origin": f"{IN_HEADERS}{used}"})
    return replace(images, columns={**images.columns, "angle": column})


def _words(shape: tuple[int, ...], dtype: np.dtype[Any]) -> str:
    return f"{' x '.join(map(str, shape))} pixels of {dtype}"


def _state(path: Path) -> tuple[int, int] | None:
    """Return size and time of a file; None: it does not exist any more."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns
