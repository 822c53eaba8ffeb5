"""NeXus markings: with them viewers such as silx show the right picture when a file is opened.

Every file has the same form. The attributes ``default`` lead from the root to an entry, and from
there to an NXdata group, which has links to the picture and to its axes.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np

from gpu_spots import __version__
from gpu_spots.columns import AXES, IMAGE_ATTRIBUTES

ENTRY = "entry"
"""Group of the NXdata groups."""
ORIENTATION = "row X = 0 belongs at the top"
"""Intended orientation of pictures. Some viewers draw the first row at the bottom."""


def mark_root(file: h5py.File, lengths: Mapping[str, int], title: str, default: str) -> None:
    """Mark the root of a file, and create its entry with the axes.

    Args:
        file: the file.
        lengths: length of each axis, by its name in ``entry/axes``; empty: there are none.
        title: title of the entry.
        default: name of the NXdata group that is shown first.
    """
    file.attrs.update(
        {
            "NX_class": "NXroot",
            "default": ENTRY,
            "creator": "gpu_spots",
            "creator_version": __version__,
        }
    )
    entry = file.create_group(ENTRY)
    entry.attrs.update({"NX_class": "NXentry", "default": default})
    add_title(entry, title)
    if lengths:
        entry.create_group("axes").attrs["NX_class"] = "NXcollection"
    for record in AXES:
        if record.name in lengths:
            axis = file.create_dataset(
                record.path, data=np.arange(lengths[record.name], dtype=record.dtypes[0])
            )
            axis.attrs.update(record.attributes)


def new_data_group(
    file: h5py.File, entry: str, name: str, signal: str, **attributes: object
) -> h5py.Group:
    """Return a new NXdata group in a new entry, which viewers show first.

    Args:
        file: file without an entry.
        entry: name of the entry.
        name: name of the group.
        signal: name of the dataset in the group that is shown.
        attributes: further attributes of the group.
    """
    file.attrs.update({"NX_class": "NXroot", "default": entry})
    of_entry = file.create_group(entry)
    of_entry.attrs.update({"NX_class": "NXentry", "default": name})
    return _data_group(of_entry, name, signal, attributes)


def new_view(
    file: h5py.File, name: str, signal: str, title: str, attributes: Mapping[str, object]
) -> h5py.Group:
    """Return a new NXdata group in the entry of a file that `mark_root` has marked.

    Args:
        file: the file.
        name: name of the group.
        signal: name of the dataset in the group that is shown.
        title: title of the picture.
        attributes: further attributes of the group.
    """
    group = _data_group(file[ENTRY], name, signal, attributes)
    add_title(group, title)
    return group


def add_view(
    file: h5py.File,
    name: str,
    signal: str | h5py.ExternalLink,
    axes: Sequence[str],
    title: str,
    *,
    others: Sequence[str] = (),
    logarithmic: bool = False,
    coordinates: Mapping[str, str] | None = None,
) -> h5py.Group:
    """Add an NXdata group to the entry of a file.

    Args:
        file: a file that `mark_root` has marked.
        name: name of the group.
        signal: absolute path of the dataset to show, or a link to it in another file, which gets
            the name of the group.
        axes: name of the axis of each dimension.
        title: title of the picture.
        others: absolute paths of datasets of the same shape, which viewers offer beside it.
        logarithmic: colours are logarithmic. On a linear scale a few hot pixels would make all
            others dark.
        coordinates: absolute paths of further coordinates of the first dimension, by name.

    Returns:
        The group.
    """
    is_elsewhere = isinstance(signal, h5py.ExternalLink)
    shown = name if is_elsewhere else _name(signal)
    attributes = {"axes": list(axes), **colours(logarithmic=logarithmic)}
    group = new_view(file, name, shown, title, attributes)
    group[shown] = signal if is_elsewhere else h5py.SoftLink(signal)
    if others:
        group.attrs["auxiliary_signals"] = [_name(other) for other in others]
    for other in others:
        group[_name(other)] = h5py.SoftLink(other)
    for index, axis in enumerate(axes):
        group[axis] = h5py.SoftLink(f"/{ENTRY}/axes/{axis}")
        group.attrs[f"{axis}_indices"] = index
    for coordinate, place in (coordinates or {}).items():
        group[coordinate] = h5py.SoftLink(place)
        group.attrs[f"{coordinate}_indices"] = 0
    return group


def add_scatter(file: h5py.File, name: str, signal: str, axes: tuple[str, str], title: str) -> None:
    """Add an NXdata group of points in a plane, coloured by their values, to the entry of a file.

    Args:
        file: a file that `mark_root` has marked.
        name: name of the group.
        signal: absolute path of the 1-D dataset of the values.
        axes: absolute paths of the horizontal and the vertical coordinate of each.
        title: title of the picture.
    """
    names = [_name(axis) for axis in axes]
    attributes = {"axes": names, **{f"{axis}_indices": 0 for axis in names}}
    group = new_view(file, name, _name(signal), title, attributes | colours())
    for path in (signal, *axes):
        group[_name(path)] = h5py.SoftLink(path)


def colours(*, logarithmic: bool = False) -> dict[str, str]:
    """Return the attribute of an NXdata group that chooses the scale of colours or curves."""
    # silx keeps the scale of the last picture if a group has none
    return {"SILX_style": json.dumps({"signal_scale_type": "log" if logarithmic else "linear"})}


def add_frames(file: h5py.File, title: str, *, has_angles: bool) -> None:
    """Mark a run whose frames are ``/frames``, so that viewers show them first.

    Args:
        file: the run.
        title: title of the entry.
        has_angles: there is one angle for each frame in ``/lauecollect/angle``.
    """
    frames = file["frames"]
    frames.attrs.update(IMAGE_ATTRIBUTES)
    lengths = dict(zip(("frame", "X", "Y"), frames.shape, strict=True))
    mark_root(file, lengths, title, "data")
    group = add_view(
        file,
        "data",
        "/frames",
        list(lengths),
        f"frames; {ORIENTATION}",
        logarithmic=True,
        coordinates={"angle": "/lauecollect/angle"} if has_angles else None,
    )
    group.attrs["description"] = "the frames, for viewers"


def link_between(output: Path, source: Path, dataset: str) -> h5py.ExternalLink:
    """Return a link from one HDF5 file to a dataset of another.

    Args:
        output: path at which the file with the link will be.
        source: the file that the link leads to.
        dataset: path of the dataset in it.

    Returns:
        A link by relative path if the file is in the folder of ``output`` or below it: then both
        can be moved with the folder. Otherwise a link by absolute path, for which HDF5 looks in
        the folder of ``output`` too if nothing is there.
    """
    folder = output.absolute().parent
    relative = Path(os.path.relpath(source.absolute(), folder))
    try:
        is_below = ".." not in relative.parts and os.path.samefile(folder / relative, source)
    except OSError:  # one of them was moved meanwhile
        is_below = False
    return h5py.ExternalLink(relative if is_below else source.absolute(), dataset)


def add_title(group: h5py.Group, title: str) -> None:
    """Add the title of a picture, or of an entry, as a dataset: h5web takes no attribute."""
    # of a fixed length, without a heap; silx takes UTF-8 only
    text = title.encode(errors="surrogateescape")
    group.create_dataset("title", data=text, dtype=h5py.string_dtype("utf-8", max(1, len(text))))


def _data_group(
    entry: h5py.Group, name: str, signal: str, attributes: Mapping[str, object]
) -> h5py.Group:
    group = entry.create_group(name)
    group.attrs.update({"NX_class": "NXdata", "signal": signal, **attributes})
    return group


def _name(path: str) -> str:
    return path.rpartition("/")[2]
