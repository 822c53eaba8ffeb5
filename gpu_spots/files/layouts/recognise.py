"""Search for the frames of a file: the list of layouts, and the choice of one of them."""

from collections.abc import Iterable, Sequence

import h5py

from gpu_spots.errors import InputError, given
from gpu_spots.files.hdf5.chunk_map import hdf5_reason
from gpu_spots.files.hdf5.tree import (
    FAILURES,
    absolute,
    broken_links_below,
    datasets_below,
    groups_in,
    item_at,
)
from gpu_spots.files.layouts.bliss_lima import BLISS, LIMA
from gpu_spots.files.layouts.cxi_crystfel import CRYSTFEL, CXI
from gpu_spots.files.layouts.dectris import DECTRIS, EIGER_DATA
from gpu_spots.files.layouts.generic import GENERIC
from gpu_spots.files.layouts.laueutil import LAUEPROC, LAUEUTIL
from gpu_spots.files.layouts.layout import FrameDatasets, Layout
from gpu_spots.files.layouts.nexus import NEXUS, NEXUS_UNMARKED, is_marked, signal_of
from gpu_spots.files.layouts.search import (
    DEPTH,
    Part,
    Parts,
    frames_required,
    is_stack,
    numbered_frames,
)

LAYOUTS: tuple[Layout, ...] = (
    LAUEUTIL,
    NEXUS,
    DECTRIS,
    CXI,
    BLISS,
    LIMA,
    EIGER_DATA,
    NEXUS_UNMARKED,
    CRYSTFEL,
    LAUEPROC,
    GENERIC,
)
"""Layouts in the order in which frames are searched for."""


def recognise(file: h5py.File, paths: Sequence[str] = ()) -> FrameDatasets:
    """Find the frames of a file.

    Args:
        file: the opened file.
        paths: datasets of the frames, in order, or groups that contain one stack; empty: the stack
            of the first layout that matches.

    Raises:
        InputError: there are no frames, there are several stacks (they are listed), or a link leads
            nowhere (the missing file is named).
    """
    if paths:
        parts = tuple(part for path in paths for part in _given_frames(file, path))
        return FrameDatasets(file, _layout_of(file, parts), parts)
    for layout in LAYOUTS:
        try:
            stacks = _different(layout.stacks(file))
        except FAILURES as error:
            raise InputError(
                f"{file.filename}: cannot be searched for frames: {hdf5_reason(error)}"
            ) from error
        if len(stacks) == 1:
            return FrameDatasets(file, _layout_of(file, stacks[0]), stacks[0])
        if stacks:
            raise InputError(
                f"{file.filename}: several datasets could be the frames: {_listed(stacks)}; "
                f"choose one with {given('frames_path')}"
            )
    raise InputError(
        f"{file.filename}: no /{LAUEUTIL.paths[0]} and no 3-D numeric dataset of at least 2 "
        f"frames; {_what_else(file)}"
    )


def _layout_of(file: h5py.File, parts: Parts) -> Layout:
    """Return the layout of a stack: the first one with such paths, else by its NeXus classes.

    It does not depend on how the stack was found, so it is the same if the user gives its path.
    """
    for layout in LAYOUTS:
        if layout.owns(parts):
            return layout
    return NEXUS if is_marked(file, parts) else GENERIC


def _given_frames(file: h5py.File, path: str) -> Parts:
    """Return the stack at a path that the user gives: a dataset, or a group that contains one."""
    place = absolute(path)
    item = item_at(file, path, "frames_path")
    if not isinstance(item, h5py.Group) or place == "/":
        return (frames_required(file, path),)
    stacks = _in_group(file, place, item)
    if len(stacks) > 1:
        raise InputError(
            f"{file.filename}: {path} is a group with several datasets that could be the "
            f"frames: {_listed(stacks)}; choose one of them"
        )
    if not stacks:
        raise InputError(f"{file.filename}: {path} is a group, expected the dataset of the frames")
    return stacks[0]


def _in_group(file: h5py.File, place: str, group: h5py.Group) -> list[Parts]:
    """Return the stacks that a group, or the groups in it, show as NeXus.

    Otherwise return all stacks below it.
    """
    inner = [(f"{place}/{name}", found) for name, found in groups_in(group)]
    for level in [(place, group)], inner:
        stacks = _different(
            stack
            for path, one in level
            for show in (signal_of, numbered_frames)
            for stack in show(file, path, one)
        )
        if stacks:
            return stacks
    return [
        (Part(path, found),)
        for path, found in datasets_below(group, place, DEPTH)
        if is_stack(found)
    ]


def _different(stacks: Iterable[Parts]) -> list[Parts]:
    """Return each stack once, with the first of the paths that lead to it."""
    last_first = reversed(list(stacks))
    found = {tuple(part.dataset.id for part in stack): stack for stack in last_first}
    return list(found.values())[::-1]


def _listed(stacks: Sequence[Parts]) -> str:
    """Return paths, shapes and types of up to 8 stacks."""

    def one(stack: Parts) -> str:
        first = stack[0]
        path = first.path if len(stack) == 1 else first.path.rpartition("/")[0]
        n_frames = sum(len(part.dataset) for part in stack)
        return f"{path} {(n_frames, *first.dataset.shape[1:])} {first.dataset.dtype}"

    shown = [one(stack) for stack in stacks[:8]]
    return ", ".join(shown) + (f" and {len(stacks) - 8} more" if len(stacks) > 8 else "")


def _what_else(file: h5py.File) -> str:
    """Return what a file without frames has instead, and what to do."""
    broken = [why for _, why in broken_links_below(file, "", DEPTH)]
    if broken:
        return broken[0] + f" (and {len(broken) - 1} more broken links)" * (len(broken) > 1)
    others = [
        found
        for found in datasets_below(file, "", DEPTH)
        if (found[1].ndim or 0) >= 2 and found[1].dtype.kind in "uif"
    ]
    others = sorted(others, key=lambda found: -found[1].size)[:3]
    listed = ", ".join(f"{path} {dataset.shape} {dataset.dtype}" for path, dataset in others)
    largest = f"; the largest datasets: {listed}" if listed else ""
    return f"name the dataset with {given('frames_path')}{largest}"
