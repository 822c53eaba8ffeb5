"""Facts about the detector, and the reading of pixel masks, which the layouts share."""

from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from gpu_spots.errors import InputError, given
from gpu_spots.files.hdf5.tree import attribute_of, item_at, member, members, why_broken
from gpu_spots.files.hdf5.virtual import read_values
from gpu_spots.model import Array

Bounds = dict[str, Any]
"""Fields of `DetectorFacts` about valid values and saturation, by name."""


@dataclass(frozen=True, slots=True)
class DetectorFacts:
    """Facts of a file about its detector. Fields that the file does not have are None or empty."""

    mask: NDArray[np.bool_] | None = None
    """(n_X, n_Y) bool: True where a pixel is good."""
    mask_path: str = ""
    """Path of the mask."""
    low: float | None = None
    """Smallest valid value, counts."""
    low_from: str = ""
    """Origin of ``low``."""
    high: float | None = None
    """Largest valid value, counts."""
    high_from: str = ""
    """Origin of ``high``."""
    saturation: float | None = None
    """Smallest saturated value, counts."""
    saturation_from: str = ""
    """Origin of ``saturation``."""
    unused_mask: str = ""
    """Path of a dataset that may be a mask, without a known value for good pixels."""
    note: str = ""
    """Warning about the range of valid values."""


@dataclass(frozen=True, slots=True)
class MaskBits:
    """Meaning of the values of a pixel mask."""

    bad: int
    """Bits that mark a pixel which cannot be used."""
    paths: str
    """Regular expression of ``FILE:PATH`` of masks with this meaning, for masks that users give."""

    def good(self, values: Array) -> NDArray[np.bool_]:
        """Return the good pixels of a mask of integers, as bool of its shape."""
        return (values.astype(np.int64) & self.bad) == 0


def attribute_bounds(frames: h5py.Dataset) -> Bounds:
    """Return the bounds that attributes of the frames give: what `convert` and `simulate` write."""
    found: Bounds = {}
    names = {"saturation": "saturation", "low": "valid_min", "high": "valid_max"}
    for field, name in names.items():
        value = np.asarray(attribute_of(frames, name))
        if value.size == 1 and value.dtype.kind in "iuf" and np.isfinite(value).all():
            found |= {field: value.item(), f"{field}_from": f"attribute {name} of {frames.name}"}
    return found


def has_mask(file: h5py.File, path: str, wanted: bool) -> bool:
    """Return whether a file has a mask at a path.

    Raises `InputError` if the mask is wanted and a link to it leads nowhere.
    """
    if wanted and (why := why_broken(file, path)):
        raise InputError(f"{file.filename}: the mask {path} is missing: {why}; {ignore_mask()}")
    return isinstance(member(file, path), h5py.Dataset)


def read_mask_values(
    file: h5py.File, path: str, shape: tuple[int, int], *, one_layer: bool = False
) -> Array:
    """Read the values of a mask, integers of a frame's shape.

    Args:
        file: the opened file.
        path: path of the mask.
        shape: n_X and n_Y.
        one_layer: also accept the shape (1, n_X, n_Y).

    Raises:
        InputError: the mask cannot be read, or has another shape or type.
    """
    item = item_at(file, path)
    if not isinstance(item, h5py.Dataset):
        raise InputError(f"{file.filename}: the mask {path} is a group, expected a dataset")
    values = read_values(item, f"{file.filename}: the mask {path}")
    if one_layer and values.ndim == 3 and len(values) == 1:
        values = values[0]
    if values.dtype.kind not in "iub":
        raise InputError(
            f"{file.filename}: the mask {path} is {values.dtype}, expected integers; "
            f"{ignore_mask()}"
        )
    if values.shape != shape:
        raise InputError(
            f"{file.filename}: the mask {path} has shape {values.shape}, "
            f"expected that of a frame, {shape}; {ignore_mask()}"
        )
    return values


def mask_beside(file: h5py.File, place: str, shape: tuple[int, int]) -> str:
    """Return the path of an image in a group that is called a mask; empty if there is none."""
    group = file[place or "/"]
    for name, item in members(group, skip_damaged=True) if isinstance(group, h5py.Group) else ():
        if (
            "mask" in name.lower()
            and isinstance(item, h5py.Dataset)
            and item.shape == shape
            and item.dtype.kind in "iub"
        ):
            return f"{place}/{name}"
    return ""


def ignore_mask() -> str:
    """Return the remedy for a mask in the file that cannot be used."""
    return f"use {given('file_mask', False)} to ignore it"
