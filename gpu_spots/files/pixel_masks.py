"""Masks of pixels in files of their own: HDF5, NPY, TIFF, and what fabio reads (EDF, ...)."""

import re
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from gpu_spots.errors import InputError, ParameterError, given
from gpu_spots.files.hdf5.chunk_map import hdf5_reason
from gpu_spots.files.hdf5.tree import FAILURES, absolute, datasets_below, item_at
from gpu_spots.files.hdf5.virtual import read_values
from gpu_spots.files.images import npy
from gpu_spots.files.images.image import HEAD, is_image, read_image_of_any_type
from gpu_spots.files.layouts.recognise import LAYOUTS
from gpu_spots.files.paths import require_regular_file
from gpu_spots.model import Array

DEPTH = 12
KINDS = "an HDF5 file, or an image as NPY, TIFF or MarCCD, with fabio also EDF, CBF and others"


def read_mask(text: str, mask_good: int | None, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Read a mask file and return the good pixels.

    Args:
        text: FILE, or FILE:PATH for a dataset of an HDF5 file.
        mask_good: 0 where pixels of value 0 are good, 1 where those of any other value are; None:
            as the format has it.
        shape: n_X and n_Y of the frames.

    Returns:
        (n_X, n_Y) bool: True where a pixel is good.

    Raises:
        InputError: the mask cannot be read or does not fit the frames.
        ParameterError: it is not certain what marks a good pixel, and ``mask_good`` does not say.
    """
    file, path = _file_and_path(text)
    values, place = _read(file, path, shape)
    if values.shape != shape:
        turned = (
            "; X and Y are exchanged, transpose the mask" if values.shape == shape[::-1] else ""
        )
        raise InputError(
            f"{place}: the mask has shape {values.shape}, expected that of a frame, {shape}{turned}"
        )
    if values.dtype.kind not in "iufb":
        raise InputError(f"{place}: the mask is {values.dtype}, expected numbers")
    if mask_good is not None:
        good = values == 0 if mask_good == 0 else values != 0
        return good & np.isfinite(values) if values.dtype.kind == "f" else good
    for layout in LAYOUTS if values.dtype.kind in "iu" else ():
        if (bits := layout.mask_bits) and re.fullmatch(bits.paths, place, re.DOTALL):
            return bits.good(values)
    found = ", ".join(f"{value:g}" for value in np.unique(values)[:4].astype(float))
    n_zero = int((values == 0).sum())
    raise ParameterError(
        "mask_good",
        f"{place} has values {found}{', ...' if len(np.unique(values)) > 4 else ''} ({n_zero} of "
        f"{values.size} pixels are 0), it is unknown which are good; use {given('mask_good', 0)} "
        f"if 0 marks a good pixel, {given('mask_good', 1)} if 0 marks a bad pixel",
    )


def _file_and_path(text: str) -> tuple[Path, str | None]:
    if Path(text).exists() or ":" not in text:
        return Path(text), None
    file, _, path = text.rpartition(":")
    return Path(file), path


def _read(file: Path, path: str | None, shape: tuple[int, int]) -> tuple[Array, str]:
    """Return the image and its name in messages."""
    require_regular_file(file, "a mask")
    if h5py.is_hdf5(file):
        return _read_hdf5(file, path, shape)
    if path is not None:
        raise InputError(f"{file}: is not an HDF5 file, so it has no dataset {path}")
    try:
        return read_image_of_any_type(file).frame, str(file)
    except InputError as error:
        with file.open("rb") as opened:
            head = opened.read(HEAD)
        if is_image(head) or head.startswith(npy.SIGNATURE):
            raise
        raise InputError(f"{error}; a mask is {KINDS}") from error


def _read_hdf5(file: Path, path: str | None, shape: tuple[int, int]) -> tuple[Array, str]:
    try:
        with h5py.File(file, "r") as opened:
            if path is None:
                fitting = [
                    found
                    for found in datasets_below(opened, "", DEPTH)
                    if found[1].shape == shape and found[1].dtype.kind in "iufb"
                ]
                if len(fitting) != 1:
                    listed = f": {', '.join(place for place, _ in fitting[:5])}" if fitting else ""
                    found = f"{len(fitting) or 'no'} dataset{'s' * (len(fitting) != 1)}"
                    raise InputError(
                        f"{file}: has {found} with the shape of a frame, {shape}{listed}, "
                        "expected one; name the mask as FILE:PATH"
                    )
                path = fitting[0][0]
            item = item_at(opened, path)
            if not isinstance(item, h5py.Dataset):
                raise InputError(f"{file}: {path} is a group, expected the dataset of the mask")
            place = f"{file}:{absolute(path)}"
            return read_values(item, place), place
    except FAILURES as error:
        raise InputError(f"{file}: cannot be read: {hdf5_reason(error)}") from error
