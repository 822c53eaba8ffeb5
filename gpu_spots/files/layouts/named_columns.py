"""Search for angles and laser states by the names of datasets, which the layouts share."""

from collections.abc import Callable, Sequence
from typing import Any

import h5py
import numpy as np

from gpu_spots.files.hdf5.tree import (
    absolute,
    attribute_of,
    broken_links_below,
    datasets_below,
    groups_in,
    member,
    text_of,
)
from gpu_spots.files.hdf5.virtual import read_values
from gpu_spots.files.layouts.layout import OFFICIAL_ANGLES, FrameDatasets
from gpu_spots.model import Array, LocatedColumns

STATE_TEXTS = frozenset({"0", "1", "0.0", "1.0", "true", "false", "on", "off"})
"""Texts that a laser state may be."""
GROUPS = ("goniometer", "sample", "positioners", "transformations", "measurement")
"""First parts of the names of groups whose datasets are preferred, the best first."""
DEPTH = 5
"""Levels of groups that are searched."""
Located = Sequence[tuple[str, h5py.Dataset]]
"""Paths and datasets."""


def find_columns(frames: FrameDatasets) -> LocatedColumns:
    """Return ``angle`` and ``laser_on`` as far as they are found.

    `LocatedColumns.missing` gives the reason for a column that is not found. It is empty for
    layouts that have columns in ``lauecollect`` only.
    """
    columns: dict[str, Array] = {}
    origin: dict[str, str] = {}
    missing: dict[str, str] = {}
    root = frames.layout.columns_root(frames.parts[0].path)
    if root is None:
        return LocatedColumns(columns, origin, missing)
    group = frames.file[root] if root else frames.file
    below = (group, absolute(root), DEPTH) if isinstance(group, h5py.Group) else None
    datasets = list(datasets_below(*below)) if below else []
    for column, names, find in (
        ("angle", frames.layout.angles, _find_angles),
        ("laser_on", frames.layout.laser_states, _find_states),
    ):
        place, values = find(frames, datasets)
        if values is None:
            broken = broken_links_below(*below, names) if below else ()
            missing[column] = next((why for _, why in broken), place)
        else:
            columns[column], origin[column] = values, place
    return LocatedColumns(columns, origin, missing)


def _find_angles(frames: FrameDatasets, datasets: Located) -> tuple[str, Array | None]:
    """Return path and values of the angles, or the reason why there are none, and None."""
    names, n_frames = frames.layout.angles, frames.n_frames
    axis = _first_axis(frames)
    fitting: dict[str, tuple[str, Array]] = {}
    others = []
    for path, dataset in _called(
        datasets, names, axis, lambda path, dataset: _turns(path, dataset, axis)
    ):
        if dataset.dtype.kind not in "iuf" or dataset.ndim != 1:
            continue
        if dataset.shape != (n_frames,):
            others.append(f"{path} {dataset.shape}")
        else:  # only the best of those with the same name
            values = read_values(dataset, f"{frames.file.filename}: {path}")
            fitting.setdefault(_name(path), (path, values))
    varying = [found for found in fitting.values() if len(np.unique(_rounded(found[1]))) > 1]
    if varying:
        (first, values), *rest = varying
        is_official = first == axis or _name(first) in OFFICIAL_ANGLES
        if is_official or all(
            np.array_equal(_rounded(values), _rounded(other)) for _, other in rest
        ):
            return first, values
        paths = ", ".join(path for path, _ in varying)
        return f"several datasets could be the angles: {paths}", None
    if fitting:
        return next(iter(fitting.values()))
    if others:
        return f"no angles for {n_frames} frames, found {', '.join(others[:3])}", None
    return (
        f"no angles found (looked for {', '.join(names[:5])} and others, one value per frame)",
        None,
    )


def _find_states(frames: FrameDatasets, datasets: Located) -> tuple[str, Array | None]:
    """Return path and values of the laser states, or the reason why there are none, and None."""
    names = frames.layout.laser_states
    for path, dataset in _called(datasets, names, _first_axis(frames)):
        if dataset.shape == (frames.n_frames,) and dataset.dtype.kind in "iufbSO":
            values = read_values(dataset, f"{frames.file.filename}: {path}")
            texts = {
                value.decode(errors="replace") if isinstance(value, bytes) else str(value)
                for value in values.tolist()
            }
            # a dataset called laser may also contain energies
            if {text.strip().lower() for text in texts} <= STATE_TEXTS:
                return path, values
    return f"no laser states found (looked for {', '.join(names)}, one value per frame)", None


def _called(
    datasets: Located,
    names: Sequence[str],
    axis: str | None,
    also: Callable[[str, h5py.Dataset], bool] = lambda *_: False,
) -> list[tuple[str, h5py.Dataset]]:
    """Return datasets that have one of the names, or for which ``also`` is true, the best first.

    The axis of the frames comes first. The others are sorted by name, then by group.
    """

    def rank(one: tuple[str, h5py.Dataset]) -> tuple[Any, ...]:
        path, name = one[0], _name(one[0])
        folder = path.split("/")[-2]
        place = next((i for i, word in enumerate(GROUPS) if folder.startswith(word)), len(GROUPS))
        return (
            path != axis,
            names.index(name) if name in names else len(names),
            place,
            path.count("/"),
            path,
        )

    return sorted((one for one in datasets if _name(one[0]) in names or also(*one)), key=rank)


def _name(path: str) -> str:
    """Return the last name of a path, lower case."""
    return path.rpartition("/")[2].lower()


def _first_axis(frames: FrameDatasets) -> str | None:
    """Return the path of the axis along which the frames follow each other, as NXdata gives it.

    It is in the group of the frames, or in another group of the entry that shows the frames.
    """
    file, own, top = frames.file, frames.group, frames.entry
    entry = file[top]
    shown = [(own, file[own or "/"])]
    if isinstance(entry, h5py.Group):
        shown += [(f"/{top}/{name}", group) for name, group in groups_in(entry)]
    for place, group in shown:
        axes = attribute_of(group, "axes")
        if isinstance(axes, np.ndarray):
            axes = axes[0] if axes.size else None
        name = axes.decode(errors="replace") if isinstance(axes, bytes) else axes
        if not isinstance(name, str) or name in ("", "."):
            continue
        signal = member(group, text_of(group, "signal") or ".")
        if place == own or (signal is not None and signal.id == frames.parts[0].dataset.id):
            return f"{place}/{name}"
    return None


def _turns(path: str, dataset: h5py.Dataset, axis: str | None) -> bool:
    """Return whether a dataset with another name is an angle.

    It is the axis of the frames, or a motor of a BLISS scan, in degrees.
    """
    may_turn = path == axis or path.split("/")[-2] in ("positioners", "measurement")
    return may_turn and text_of(dataset, "units").lower() in ("deg", "degree", "degrees")


def _rounded(angles: Array) -> Array:
    """Return angles rounded such that equal values are one angle."""
    return np.round(angles.astype(np.float64), 3)
