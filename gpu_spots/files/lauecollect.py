"""The run's metadata: group lauecollect, one 1-D array a column, one value a frame."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import h5py

from gpu_spots.errors import InputError
from gpu_spots.files.tree import item_at, member
from gpu_spots.files.virtual import read_values
from gpu_spots.grouping import Columns
from gpu_spots.model import Array

GROUP = "lauecollect"
COLUMNS = ("angle", "laser_on", "delay", "file")
"""What the program looks at; the whole group is copied to the output."""


def read_columns(file: h5py.File) -> Columns:
    """The columns of the group that the program uses; none where there is no such group.

    Raises `InputError` where one is there and cannot be read. Lengths and values are checked by those who use them, as not every run
    needs every column.
    """
    if member(file, GROUP) is None:
        return {}
    group = item_at(file, GROUP)
    if not isinstance(group, h5py.Group):
        raise InputError(f"{file.filename}: {GROUP} is a dataset, expected a group of columns")
    columns = {}
    for name in COLUMNS:
        if name not in group:
            continue
        path = f"{GROUP}/{name}"
        column = item_at(file, path)
        if not isinstance(column, h5py.Dataset):
            raise InputError(f"{file.filename}: {path} is a group, expected a column of one value a frame")
        columns[name] = read_values(column, f"{file.filename}: {path}")
    return columns


MAX_ATTRIBUTE = 60_000
"""Bytes; HDF5 allows 64 kB."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of metadata on its way into a file."""

    values: Array
    """(n_frames,): numbers, or object (str)."""
    units: str | None = None
    """Of the values."""
    attributes: Mapping[str, str] | None = None
    """What else is known of it."""


def write_columns(file: h5py.File, columns: Mapping[str, Column], group: str = GROUP, description: str = "") -> None:
    """Write a group of columns, text as UTF-8 of variable length. Raises OSError or RuntimeError where that fails."""
    into = file.require_group(group)
    if description:
        into.attrs["description"] = description
    for name, column in columns.items():
        text = column.values.dtype.kind == "O"
        # names that are no Unicode, as those of files can be, are escaped
        values = [value.encode(errors="backslashreplace") for value in column.values.tolist()] if text else column.values
        dataset = into.create_dataset(name, data=values, dtype=h5py.string_dtype() if text else None)
        dataset.attrs.update({**(column.attributes or {}), **({"units": column.units} if column.units else {})})


def write_comments(file: h5py.File, comments: Sequence[str]) -> None:
    """Write the comments of a log as an attribute of the group; its begin, where they are longer than an attribute can be."""
    if comments:
        text = "\n".join(comments).encode(errors="backslashreplace")
        file.require_group(GROUP).attrs["comments"] = text[:MAX_ATTRIBUTE].decode(errors="ignore")
