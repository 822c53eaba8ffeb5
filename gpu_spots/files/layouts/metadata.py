"""Angle and laser state of each frame: what the user gives, otherwise what the file has."""

from collections.abc import Mapping

import h5py

from gpu_spots.errors import InputError
from gpu_spots.files import lauecollect
from gpu_spots.files.hdf5.tree import absolute, item_at
from gpu_spots.files.hdf5.virtual import read_values
from gpu_spots.files.layouts.layout import FrameDatasets
from gpu_spots.files.layouts.named_columns import find_columns
from gpu_spots.files.table import read_table
from gpu_spots.inputs import Inputs
from gpu_spots.model import Array, Columns, LocatedColumns


def read_metadata(frames: FrameDatasets, options: Inputs) -> LocatedColumns:
    """Return the columns of a run.

    They are those that the user gives, otherwise those of the group ``lauecollect``; in a file
    without this group, those that are found by their names. `LocatedColumns.missing` gives the
    reason for a column that is not found.

    Raises:
        InputError: what the user gives is missing or does not have one value per frame, or
            ``lauecollect`` is damaged.
    """
    file = frames.file
    given = _given(file, frames.n_frames, options)
    if lauecollect.GROUP in file:
        columns = dict(lauecollect.read_columns(file, given))
        origin = {name: f"{lauecollect.GROUP}/{name}" for name in columns}
        missing: Mapping[str, str] = {}
    else:
        found = find_columns(frames)
        columns, origin, missing = dict(found), dict(found.origin), found.missing
    if {"laser_on", "delay", "file"} & given.keys():  # no states of the file among the user's
        for name in ("laser_on", "delay", "file"):
            columns.pop(name, None)
    columns.update({name: values for name, (_, values) in given.items()})
    origin.update({name: place for name, (place, _) in given.items()})
    return LocatedColumns(
        columns, {name: place for name, place in origin.items() if name in columns}, missing
    )


def given_to_frames_in_memory(columns: Columns, n_frames: int, options: Inputs) -> Columns:
    """Return columns, replaced by those of a table if one is given. Raises `InputError`."""
    table = _of_table(n_frames, options)
    if not table:
        return columns
    values = {name: values for name, (_, values) in table.items()}
    return LocatedColumns(
        {**columns, **values}, {name: place for name, (place, _) in table.items()}, {}
    )


def _given(file: h5py.File, n_frames: int, options: Inputs) -> Mapping[str, tuple[str, Array]]:
    """Return the place and the values of each column that the user gives."""
    given = dict(_of_table(n_frames, options))
    for name, parameter in (("angle", "angles_path"), ("laser_on", "laser_path")):
        path = getattr(options, parameter)
        if path is not None:
            given[name] = absolute(path), _one_a_frame(file, path, parameter, n_frames)
    return given


def _of_table(n_frames: int, options: Inputs) -> dict[str, tuple[str, Array]]:
    if options.table is None:
        return {}
    columns = read_table(options.table)
    n_rows = len(next(iter(columns.values())))
    if n_rows != n_frames:
        raise InputError(
            f"{options.table}: has {n_rows} row{'s' * (n_rows != 1)} below the column names "
            f"({', '.join(columns)}), expected one for each of the {n_frames} frames"
        )
    return {name: (f"{options.table}: {name}", values) for name, values in columns.items()}


def _one_a_frame(file: h5py.File, path: str, parameter: str, n_frames: int) -> Array:
    item = item_at(file, path, parameter)
    if not isinstance(item, h5py.Dataset):
        raise InputError(
            f"{file.filename}: {path} is a group, expected a dataset of one value per frame"
        )
    if item.shape != (n_frames,):
        raise InputError(
            f"{file.filename}: {path} has shape {item.shape}, "
            f"expected one value for each of the {n_frames} frames"
        )
    return read_values(item, f"{file.filename}: {path}")
