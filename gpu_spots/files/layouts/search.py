"""Datasets of frames in an open file, and the searches for them that the layouts share."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import h5py

from gpu_spots.errors import InputError, given
from gpu_spots.files.hdf5.tree import absolute, allow_open_files, item_at, member, names_in
from gpu_spots.files.hdf5.virtual import require_regular_sources

DEPTH = 12
"""Levels of groups that are searched for frames."""
NUMBERED = re.compile(r"data_(\d+)$")
"""Names of the datasets that DECTRIS numbers."""


@dataclass(frozen=True, slots=True)
class Part:
    """Dataset of frames, (n, n_X, n_Y)."""

    path: str
    """Path in the opened file; it may be a link."""
    dataset: h5py.Dataset
    """Dataset that the path leads to."""


Parts = tuple[Part, ...]
"""Datasets of one stack of frames, in order."""


def frames_at(file: h5py.File, pattern: str) -> Iterator[Parts]:
    """Yield the stacks at paths that match a pattern.

    Args:
        file: the opened file.
        pattern: path without a leading slash, with a regular expression for each name.

    Raises:
        InputError: a link at such a path leads nowhere. Links are skipped where the pattern
            matches every name.
    """
    yield from _below(file, file, "", pattern.split("/"))


def _below(file: h5py.File, group: h5py.Group, place: str, names: Sequence[str]) -> Iterator[Parts]:
    for name in names_in(group):
        if not re.fullmatch(names[0], name):
            continue
        path = f"{place}/{name}"
        item = member(group, name)
        if item is None and ".*" in names[0]:
            continue
        item = item_at(file, path) if item is None else item
        if len(names) > 1 and isinstance(item, h5py.Group):
            yield from _below(file, item, path, names[1:])
        elif len(names) == 1 and is_stack(item):
            yield (Part(path, item),)


def numbered_frames(file: h5py.File, place: str, group: h5py.Group) -> Iterator[Parts]:
    """Yield the datasets data_000001, data_000002, ... of a group as one stack, in order.

    Raises `InputError` if a number is missing: frames would be taken for others.
    """
    numbers = sorted(
        (int(found[1]), name) for name in names_in(group) if (found := NUMBERED.match(name))
    )
    if not numbers:
        return
    for (before, name), (number, after) in pairwise(numbers):
        if number != before + 1:
            raise InputError(
                f"{file.filename}: {place} has {name} and {after}, the datasets between them are "
                f"missing; name each dataset to use with {given('frames_path')}"
            )
    allow_open_files(len(numbers), f"{file.filename}: {place}")
    yield tuple(frames_required(file, f"{place}/{name}") for _, name in numbers)


def frames_required(file: h5py.File, path: str) -> Part:
    """Return the dataset at a path. Raises `InputError` if there is none."""
    item = item_at(file, path)
    if not isinstance(item, h5py.Dataset):
        kind = "group" if isinstance(item, h5py.Group) else "type"
        raise InputError(f"{file.filename}: {path} is a {kind}, expected the dataset of the frames")
    require_regular_sources(item)
    return Part(absolute(path), item)


def is_stack(item: h5py.HLObject) -> bool:
    """Return whether an object can be a stack of frames: a 3-D dataset of numbers."""
    if not isinstance(item, h5py.Dataset) or item.dtype.kind not in "uif":
        return False
    require_regular_sources(item)
    return item.ndim == 3
