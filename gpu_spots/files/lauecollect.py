"""The run's metadata: group lauecollect, one 1-D array a column, one value a frame."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from gpu_spots.errors import InputError
from gpu_spots.files.hdf5.chunk_map import hdf5_reason
from gpu_spots.files.hdf5.heaps import check_lengths, checked
from gpu_spots.files.hdf5.tree import FAILURES, item_at, member, why_broken
from gpu_spots.files.hdf5.virtual import read_values
from gpu_spots.model import Array, Columns, LocatedColumns

GROUP = "lauecollect"
STATES = ("laser_on", "delay", "file")
"""Columns that tell the state of the laser; the first that is there is taken."""
COLUMNS = ("angle", *STATES)
"""Columns that the program uses; the whole group is copied to the output."""
COLUMN_ATTRIBUTES = {
    "angle": {"description": "rotation angle of the crystal", "units": "degrees"},
    "laser_on": {"description": "state of the laser: 1 or on, 0 or off"},
}
"""Attributes of columns that do not come from the group."""


def read_columns(file: h5py.File, given: Collection[str] = ()) -> Columns:
    """Return the columns of the group that the program uses; none where there is no such group.

    These are the angle and the first column that tells the state of the laser. Others are not read,
    so that they may be damaged. Lengths and values are checked by those who use them, as not every
    run needs every column.

    Args:
        file: the opened file.
        given: columns that come from elsewhere.

    Raises:
        InputError: a column is there and cannot be read.
    """
    if GROUP not in file:
        return {}
    group = item_at(file, GROUP)
    if not isinstance(group, h5py.Group):
        raise InputError(f"{file.filename}: {GROUP} is a dataset, expected a group of columns")
    states = [] if set(STATES) & set(given) else [name for name in STATES if name in group][:1]
    columns = {
        name: _column(file, name)
        for name in ("angle", *states)
        if name in group and name not in given
    }
    if states == ["laser_on"] and "delay" in group:
        # states do not need it: where it cannot be read, delays are unknown
        with suppress(InputError):
            columns["delay"] = _column(file, "delay")
    return columns


def _column(file: h5py.File, name: str) -> Array:
    path = f"{GROUP}/{name}"
    column = item_at(file, path)
    if not isinstance(column, h5py.Dataset):
        raise InputError(
            f"{file.filename}: {path} is a group, expected a column of one value per frame"
        )
    source = f"{file.filename}: {path}"
    if column.size is not None and column.size > MAX_VALUES:
        raise InputError(f"{source} has shape {column.shape}, expected one value for each frame")
    return read_values(column, source)


def copy_group(file: h5py.File, into: h5py.File, warn: Callable[[str], None]) -> None:
    """Copy the group of columns, with what its links lead to.

    A column that is damaged, or a link that leads nowhere, is left out and named in a warning.

    Args:
        file: the run.
        into: the file to copy it into.
        warn: is given each warning.

    Raises:
        InputError: the group cannot be opened.
    """
    if GROUP not in file:
        return
    group = item_at(file, GROUP)
    if _leads_elsewhere(group) or _copied(group, into, GROUP) is not None:
        _copy_members(group, into.create_group(GROUP), f"{file.filename}: {GROUP}", warn)


def _leads_elsewhere(group: h5py.Group, seen: frozenset[Any] = frozenset()) -> bool:
    """Return True if a link in a group, or in a group below it, points to another file."""
    links: list[str] = []

    def note(name: bytes, link: h5py.h5l.LinkInfo) -> None:
        if link.type != h5py.h5l.TYPE_HARD:
            links.append(name.decode(errors="surrogateescape"))

    try:
        group.id.links.visit(note, info=True)
    except FAILURES:  # a name that is not UTF-8, or damage: what can be copied is found one by one
        return True
    found = [item for item in (_member(group, name) for name in links) if item is not None]
    if any(item.file.filename != group.file.filename for item in found):
        return True
    seen |= {group.id}
    return any(
        isinstance(item, h5py.Group) and item.id not in seen and _leads_elsewhere(item, seen)
        for item in found
    )


def _member(group: h5py.Group, name: str) -> h5py.HLObject | None:
    """Return an object of a group; None where it cannot be opened, for whatever reason."""
    try:
        return member(group, name)
    except InputError:
        return None


def _copied(item: h5py.HLObject, into: h5py.Group, name: str) -> str | None:
    """Copy an object; None, or why that cannot be done: then nothing new is there."""
    try:
        with checked(item.file) as safe:
            same = safe[item.name]
            check_lengths(same)
            safe.copy(same, into, name, expand_soft=True)
    except FAILURES as error:
        if name in into:
            del into[name]
        return hdf5_reason(error)
    return None


def _copy_members(
    group: h5py.Group, into: h5py.Group, source: str, warn: Callable[[str], None]
) -> None:
    """Copy what is in a group, and its attributes, one by one."""
    with checked(group.file) as safe:
        attributes = safe[group.name].attrs
        for name in attributes:
            try:
                into.attrs.create(name, attributes[name], dtype=attributes.get_id(name).dtype)
            except FAILURES as error:
                warn(
                    f"{source}: attribute {name} is damaged and left out of the output: "
                    f"{hdf5_reason(error)}"
                )
    for name in group:
        if isinstance(name, bytes):
            shown = name.decode(errors="backslashreplace")
            warn(f"{source}/{shown} is left out of the output: its name is not UTF-8")
            continue
        item = _member(group, name)
        if isinstance(item, h5py.Group) and _leads_elsewhere(item):
            _copy_members(item, into.create_group(name), f"{source}/{name}", warn)
            continue
        place = f"{group.name}/{name}"
        why = (
            (why_broken(group, place) or "it cannot be opened")
            if item is None
            else _copied(item, into, name)
        )
        if why:
            warn(f"{source}/{name} is damaged and left out of the output: {why}")


MAX_VALUES = 1 << 24
"""Values of a column, at most; more are no column of a run."""
MAX_ATTRIBUTE = 60_000
"""Bytes; HDF5 allows 64 kB."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of metadata on its way into a file."""

    values: Array
    """(n_frames,): numbers, or object (str)."""
    units: str | None = None
    """Units of the values; None: no units."""
    attributes: Mapping[str, str] | None = None
    """Further attributes of the dataset; None: none."""


def write_columns(
    file: h5py.File, columns: Mapping[str, Column], group: str = GROUP, description: str = ""
) -> None:
    """Write a group of columns, text as UTF-8 of variable length.

    Raises OSError or RuntimeError where that fails.
    """
    into = file.require_group(group)
    if description:
        into.attrs["description"] = description
    for name, column in columns.items():
        text = column.values.dtype.kind == "O"
        # names that are no Unicode, as those of files can be, are escaped
        values = (
            [value.encode(errors="backslashreplace") for value in column.values.tolist()]
            if text
            else column.values
        )
        dataset = into.create_dataset(
            name, data=values, dtype=h5py.string_dtype() if text else None
        )
        dataset.attrs.update(
            {**(column.attributes or {}), **({"units": column.units} if column.units else {})}
        )


def write_located(file: h5py.File, columns: Columns) -> None:
    """Write columns that the program used, each with its origin as an attribute.

    A column replaces a copied one of the same name unless it was read from there.
    """
    origin = columns.origin if isinstance(columns, LocatedColumns) else {}
    for name, values in columns.items():
        path = f"{GROUP}/{name.replace('/', '_')}"
        if path in file:
            if origin.get(name) == path:
                continue
            del file[path]
        text = values.dtype.kind in "USO"
        file[path] = (
            values.astype(h5py.string_dtype())
            if text
            else values.astype(np.uint8)
            if values.dtype == bool
            else values
        )
        if name in origin:
            # paths that are not valid Unicode are escaped
            file[path].attrs["origin"] = origin[name].encode(errors="backslashreplace").decode()
            file[path].attrs.update(COLUMN_ATTRIBUTES.get(name, {}))


def write_comments(file: h5py.File, comments: Sequence[str]) -> None:
    """Write the comments of a log as an attribute of the group.

    Long comments are cut to the largest size of an attribute.
    """
    if comments:
        text = "\n".join(comments).encode(errors="backslashreplace")
        file.require_group(GROUP).attrs["comments"] = text[:MAX_ATTRIBUTE].decode(errors="ignore")
