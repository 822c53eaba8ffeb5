"""Writing of a run of images as one HDF5 file.

It has LaueUtil's layout, and NeXus markings so that viewers find the frames.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from gpu_spots.files.hdf5.chunk_writer import ImageWriter
from gpu_spots.files.images.image import HEADER_FIELDS
from gpu_spots.files.images.image_list import write_images
from gpu_spots.files.images.image_stack import ImageStack
from gpu_spots.files.lauecollect import Column, write_columns
from gpu_spots.files.output.new_file import new_output, writing
from gpu_spots.files.output.nexus import add_frames
from gpu_spots.files.output.spots_writer import STRIP
from gpu_spots.memory.workers import in_order
from gpu_spots.protocols import Observer

FILTERS = {"compression": "gzip", "shuffle": True}
HEADERS = "headers"
"""Group of what the images' own headers say, one value a frame."""
ANGLES = ("start_omega", "end_omega", "start_phi", "end_phi", "start_angle")
"""Zero on all frames, they say that nobody told the detector."""


def write_converted(
    stack: ImageStack, output: Path, observer: Observer, workers: int, *, force: bool = False
) -> None:
    """Write frames, headers and metadata of a stack of images to ``output``.

    The file appears when it is complete.

    Threads read and compress. Raises `InputError`, which names the image, and `OutputError`; then
    nothing new is left on disk.
    """
    with new_output(output, stack.files, force=force) as file:
        with writing(file, output):
            _mark(file, stack)
            write_images(file, stack.images)
        headers = _write_frames(file, stack, output, observer, workers)
        with writing(file, output):
            names = np.array([path.name for path in stack.images.paths], object)
            read = {"file": Column(names, None, {"description": "name of the image that was read"})}
            write_columns(
                file,
                {**read, **_header_columns(headers)},
                HEADERS,
                "what the headers of the images say, one value a frame",
            )


def _write_frames(
    file: h5py.File, stack: ImageStack, output: Path, observer: Observer, workers: int
) -> list[tuple[dict[str, float | str], str]]:
    """Write all frames; returns the header and the format of each."""
    with writing(file, output):
        writer = ImageWriter(file["frames"])

    def prepare(frame: int) -> tuple[list[bytes], dict[str, float | str], str]:
        image = stack.read_image(frame)
        return writer.compress(image.frame), image.header, image.format

    observer.stage("convert", stack.shape[0], "frames")
    headers = []
    stack.check_whole()
    for frame, (strips, header, kind) in enumerate(
        in_order(prepare, range(stack.shape[0]), workers)
    ):
        with writing(file, output):
            writer.store(frame, strips)
        headers.append((header, kind))
        observer.advance(1)
    stack.check_whole()
    return headers


def _mark(file: h5py.File, stack: ImageStack) -> None:
    """Create the empty dataset of the frames, and mark it for NeXus."""
    _, n_rows, n_columns = stack.shape
    frames = file.create_dataset(
        "frames", stack.shape, stack.dtype, chunks=(1, min(STRIP, n_rows), n_columns), **FILTERS
    )
    frames.attrs["description"] = (
        "frames, indexed [frame, X, Y]: rows of the images are X, their columns Y"
    )
    frames.attrs["units"] = "counts"
    if stack.saturation is not None:
        frames.attrs["saturation"] = stack.saturation
    if stack.validity.low is not None:
        frames.attrs["valid_min"] = stack.validity.low
    add_frames(file, "converted images", has_angles="angle" in stack.columns)
    file.attrs.update(
        {
            "file_time": datetime.now(UTC).isoformat(timespec="seconds"),
            "converted_from": str(Path(stack.files[0]).absolute())
            .encode(errors="backslashreplace")
            .decode(),
        }
    )


def _header_columns(headers: list[tuple[dict[str, float | str], str]]) -> dict[str, Column]:
    """Return columns of all header values, one value per frame.

    A missing value is NaN or an empty text.
    """
    columns = {
        "format": Column(
            np.array([kind for _, kind in headers], object),
            None,
            {"description": "format of the image"},
        )
    }
    for name, (units, description) in HEADER_FIELDS.items():
        values: list[Any] = [header.get(name) for header, _ in headers]
        if all(value is None or (name in ANGLES and not value) for value in values):
            continue
        text = any(isinstance(value, str) for value in values)
        missing: str | float = "" if text else np.nan
        filled = [missing if value is None else value for value in values]
        columns[name] = Column(
            np.array(filled, object if text else np.float64), units, {"description": description}
        )
    return columns
