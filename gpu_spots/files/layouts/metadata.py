"""Angle and laser state of each frame: where layouts other than LaueUtil's have them, and what the user gives in their place."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import h5py
import numpy as np

from gpu_spots.errors import InputError
from gpu_spots.files import lauecollect
from gpu_spots.files.hdf5.tree import (
    absolute,
    attribute_of,
    broken_links_below,
    datasets_below,
    groups_in,
    item_at,
    member,
    text_of,
)
from gpu_spots.files.hdf5.virtual import read_values
from gpu_spots.files.layouts.recognise import Layout
from gpu_spots.files.table import read_table
from gpu_spots.inputs import Inputs
from gpu_spots.masks.grouping import Columns, LocatedColumns
from gpu_spots.model import Array

ANGLES = ("rotation_angle", "angle", "angles", "omega", "phi", "rotation", "rot", "kappa", "chi")
"""Names of datasets of angles; the first two are official (NXxlaue, LaueUtil), and taken even where
another varies too.
"""
OFFICIAL = 3
STATES = ("laser_on", "laser_state", "laser", "pump_on")
"""Names of datasets of laser states."""
WORDS = frozenset({"0", "1", "0.0", "1.0", "true", "false", "on", "off"})
"""How a state may be written."""
PLACES = ("goniometer", "sample", "positioners", "transformations", "measurement")
"""Groups in which a name is looked for first."""
DEPTH = 5
"""Groups in groups in which it is looked for."""
Located = Sequence[tuple[str, h5py.Dataset]]
"""Paths and datasets."""


def read_metadata(
    file: h5py.File, layout: Layout, n_frames: int, options: Inputs
) -> LocatedColumns:
    """The run's columns: those the user gives, else those of the group lauecollect, else what is found by its name.

    Raises `InputError` where what the user names is not there or has not one value a frame, or
    where lauecollect is damaged. What is only found by its name and does not fit is left out;
    `LocatedColumns.missing` says why.
    """
    given = _given(file, n_frames, options)
    columns = dict(read_columns := lauecollect.read_columns(file, given))
    origin = {name: f"{lauecollect.GROUP}/{name}" for name in read_columns}
    missing: dict[str, str] = {}
    if lauecollect.GROUP not in file and layout.kind != "LaueUtil":
        datasets = list(_datasets(file, layout))
        for name, find in (("angle", _find_angles), ("laser_on", _find_states)):
            place, found = find(file, layout, n_frames, datasets)
            if found is None:
                missing[name] = (
                    _broken(file, layout, ANGLES if name == "angle" else STATES) or place
                )
            else:
                columns[name], origin[name] = found, place
    if (
        "laser_on" in given or "delay" in given or "file" in given
    ):  # what tells the state is all of it the user's
        for name in ("laser_on", "delay", "file"):
            columns.pop(name, None)
    columns.update({name: values for name, (_, values) in given.items()})
    origin.update({name: place for name, (place, _) in given.items()})
    return LocatedColumns(
        columns, {name: place for name, place in origin.items() if name in columns}, missing
    )


def given_to_frames_in_memory(columns: Columns, n_frames: int, options: Inputs) -> Columns:
    """Columns with those of a table in their place. Raises `InputError`."""
    table = _of_table(n_frames, options)
    origin = {name: place for name, (place, _) in table.items()}
    return (
        LocatedColumns(
            {**columns, **{name: values for name, (_, values) in table.items()}}, origin, {}
        )
        if table
        else columns
    )


def _given(file: h5py.File, n_frames: int, options: Inputs) -> Mapping[str, tuple[str, Array]]:
    """Column to where it comes from and its values."""
    given = dict(_of_table(n_frames, options))
    for name, path in (("angle", options.angles_path), ("laser_on", options.laser_path)):
        if path is not None:
            given[name] = absolute(path), _one_a_frame(file, path, n_frames)
    return given


def _of_table(n_frames: int, options: Inputs) -> dict[str, tuple[str, Array]]:
    if options.table is None:
        return {}
    columns = read_table(options.table)
    n_rows = len(next(iter(columns.values())))
    if n_rows != n_frames:
        raise InputError(
            f"{options.table}: has {n_rows} rows below the column names, "
            f"expected one for each of the {n_frames} frames"
        )
    return {name: (f"{options.table}: {name}", values) for name, values in columns.items()}


def _one_a_frame(file: h5py.File, path: str, n_frames: int) -> Array:
    item = item_at(file, path)
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


def _find_angles(
    file: h5py.File, layout: Layout, n_frames: int, datasets: Located
) -> tuple[str, Array | None]:
    """The place and the values of the angles; or why there are none, and None."""
    axis = _first_axis(file, layout)
    fitting: dict[str, tuple[str, Array]] = {}
    others = []
    for path, dataset in _called(
        file, layout, datasets, ANGLES, lambda path, dataset: _turns(path, dataset, axis)
    ):
        if dataset.dtype.kind not in "iuf" or dataset.ndim != 1:
            continue
        if dataset.shape != (n_frames,):
            others.append(f"{path} {dataset.shape}")
        else:  # of one name, the best place
            fitting.setdefault(
                path.rpartition("/")[2].lower(),
                (path, read_values(dataset, f"{file.filename}: {path}")),
            )
    varying = [found for found in fitting.values() if len(np.unique(_rounded(found[1]))) > 1]
    if varying:
        (first, values), *rest = varying
        is_official = first == axis or first.rpartition("/")[2].lower() in ANGLES[:OFFICIAL]
        if is_official or all(
            np.array_equal(_rounded(values), _rounded(other)) for _, other in rest
        ):
            return first, values
        return (
            f"several datasets could be the angles: {', '.join(path for path, _ in varying)}",
            None,
        )
    if fitting:
        return next(iter(fitting.values()))
    if others:
        return f"no angles for {n_frames} frames, found {', '.join(others[:3])}", None
    return (
        f"no angles found (looked for {', '.join(ANGLES[:5])} and others, one value per frame)",
        None,
    )


def _find_states(
    file: h5py.File, layout: Layout, n_frames: int, datasets: Located
) -> tuple[str, Array | None]:
    """The place and the values of the laser states; or why there are none, and None."""
    for path, dataset in _called(file, layout, datasets, STATES):
        if dataset.shape == (n_frames,) and dataset.dtype.kind in "iufbSO":
            values = read_values(dataset, f"{file.filename}: {path}")
            texts = {
                value.decode(errors="replace") if isinstance(value, bytes) else str(value)
                for value in values.tolist()
            }
            if {text.strip().lower() for text in texts} <= WORDS:  # laser may as well be an energy
                return path, values
    return f"no laser states found (looked for {', '.join(STATES)}, one value per frame)", None


def _datasets(file: h5py.File, layout: Layout) -> Iterator[tuple[str, h5py.Dataset]]:
    """The datasets that metadata may be in: in NeXus those of the entry, as others are other measurements; else all of the file."""
    top = layout.parts[0].path.split("/")[1] if layout.is_nexus else ""
    group = file[top] if top else file
    if isinstance(group, h5py.Group):
        yield from datasets_below(group, absolute(top), DEPTH)


def _called(
    file: h5py.File,
    layout: Layout,
    datasets: Located,
    names: tuple[str, ...],
    also: Callable[[str, h5py.Dataset], bool] = lambda *_: False,
) -> list[tuple[str, h5py.Dataset]]:
    """Datasets that have one of these names, the best first: the axis of the NXdata group, by name, then by where such things belong."""
    axis = _first_axis(file, layout)

    def rank(one: tuple[str, h5py.Dataset]) -> tuple[Any, ...]:
        path = one[0]
        folder, name = path.split("/")[-2:]
        place = next((i for i, word in enumerate(PLACES) if folder.startswith(word)), len(PLACES))
        return (
            path != axis,
            names.index(name.lower()) if name.lower() in names else len(names),
            place,
            path.count("/"),
            path,
        )

    return sorted(
        (one for one in datasets if one[0].rpartition("/")[2].lower() in names or also(*one)),
        key=rank,
    )


def _broken(file: h5py.File, layout: Layout, names: tuple[str, ...]) -> str | None:
    """A link that leads nowhere in the place of a dataset with one of these names, in words."""
    top = layout.parts[0].path.split("/")[1] if layout.is_nexus else ""
    group = file[top] if top else file
    links = (
        broken_links_below(group, absolute(top), DEPTH, names)
        if isinstance(group, h5py.Group)
        else ()
    )
    return next((why for _, why in links), None)


def _first_axis(file: h5py.File, layout: Layout) -> str | None:
    """The dataset that NXdata names for the frames' axis, in their own group or in another of their entry that shows them."""
    own, top = layout.parts[0].path.rpartition("/")[0], layout.parts[0].path.split("/")[1]
    entry = file[top]
    shown = [(own, file[own or "/"])]
    if isinstance(entry, h5py.Group):
        shown += [(f"/{top}/{name}", group) for name, group in groups_in(entry)]
    for place, group in shown:
        axes = attribute_of(group, "axes")
        first = (
            axes
            if isinstance(axes, str | bytes)
            else axes[0]
            if isinstance(axes, np.ndarray) and axes.size
            else None
        )
        name = first.decode(errors="replace") if isinstance(first, bytes) else first
        if not isinstance(name, str) or name in ("", "."):
            continue
        signal = member(group, text_of(group, "signal") or ".")
        if place == own or (signal is not None and signal.id == layout.parts[0].dataset.id):
            return f"{place}/{name}"
    return None


def _turns(path: str, dataset: h5py.Dataset, axis: str | None) -> bool:
    """Whether it is an angle under another name: the frames' axis, or a motor of a BLISS scan, in degrees."""
    may_turn = path == axis or path.split("/")[-2] in ("positioners", "measurement")
    return may_turn and text_of(dataset, "units").lower() in ("deg", "degree", "degrees")


def _rounded(angles: Array) -> Array:
    """To what counts as one angle."""
    return np.round(angles.astype(np.float64), 3)
