"""Where a file has its frames: the layouts that are recognised, in the order in which they are looked for.

A stack is one dataset, or several that follow each other: in other files, as a DECTRIS master has
them, or named one by one.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import h5py

from gpu_spots.errors import InputError, given
from gpu_spots.files.hdf5.chunk_map import hdf5_reason
from gpu_spots.files.hdf5.tree import (
    FAILURES,
    absolute,
    allow_open_files,
    broken_links_below,
    datasets_below,
    groups_in,
    item_at,
    member,
    names_in,
    text_of,
)
from gpu_spots.files.hdf5.virtual import require_regular_sources

LAUEUTIL = "frames"
DEPTH = 12
"""Groups in groups that are searched for frames."""
PART = re.compile(r"data_(\d+)$")
"""DECTRIS numbers the datasets of a run."""
BLISS_SCAN = re.compile(r"\d+\.\d+$")
NEXUS_KINDS = ("NXdata", "DECTRIS", "CXI", "BLISS", "Lima")
"""Layouts that have masks and ranges of valid values where NeXus has them."""


@dataclass(frozen=True, slots=True)
class Part:
    """A dataset of frames, (n, n_X, n_Y)."""

    path: str
    """Where the opened file has it; it may be a link."""
    dataset: h5py.Dataset
    """What is there."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the frames are, and what kind of file it is."""

    kind: str
    """LaueUtil, NXdata, DECTRIS, CXI, BLISS, Lima, CrystFEL, LaueProc, or HDF5 for anything else.
    """
    parts: tuple[Part, ...]
    """The datasets of the frames, in order."""

    @property
    def path(self) -> str:
        """The path of the frames, in words where there are several."""
        first, last = self.parts[0].path, self.parts[-1].path
        return first if len(self.parts) == 1 else f"{first} ... {last}"

    @property
    def is_nexus(self) -> bool:
        """Whether masks and valid ranges are looked for where NeXus has them."""
        return self.kind in NEXUS_KINDS


def recognise(file: h5py.File, paths: Sequence[str] = ()) -> Layout:
    """Find the frames.

    Args:
        file: the opened file.
        paths: datasets to take, in order, or groups that hold one stack; empty: those of the first
            layout that fits.

    Raises:
        InputError: there are none, there are several stacks (they are listed), or a link leads
            nowhere (the missing file is named).
    """
    if paths:
        parts = tuple(part for path in paths for part in _named(file, path))
        return Layout(_kind(file, parts), parts)
    for find in FINDERS:
        try:
            stacks = _different(find(file))
        except FAILURES as error:
            raise InputError(
                f"{file.filename}: cannot be searched for frames: {hdf5_reason(error)}"
            ) from error
        if len(stacks) == 1:
            return Layout(_kind(file, stacks[0]), stacks[0])
        if stacks:
            raise InputError(
                f"{file.filename}: several datasets could be the frames: {_listed(stacks)}; "
                f"choose one with {given('frames_path')}"
            )
    raise InputError(
        f"{file.filename}: no /{LAUEUTIL} and no 3-D numeric dataset of at least 2 frames; "
        f"{_what_else(file)}"
    )


Stack = tuple[Part, ...]


def _laueutil(file: h5py.File) -> Iterator[Stack]:
    if LAUEUTIL in file:  # or a link that leads nowhere
        yield (_dataset(file, LAUEUTIL),)


def _nexus_default(file: h5py.File) -> Iterator[Stack]:
    """The signal of the group that ``default`` leads to; where nothing says which, those of all entries."""
    if _is_bliss(file):  # its default is what was plotted last
        return
    place, group = "", file
    while default := text_of(group, "default"):
        if default.strip("/.") == "" or place.count("/") > DEPTH:
            break
        place = default.rstrip("/") if default.startswith("/") else f"{place}/{default.strip('/')}"
        group = item_at(file, place)
        if not isinstance(group, h5py.Group):
            return
    if place and (text_of(group, "NX_class") == "NXdata" or "signal" in group.attrs):
        yield from _signal(file, place, group)
        return
    for name, entry in [(place, group)] if place else groups_in(file):
        entry_place = absolute(name)
        if text_of(entry, "NX_class") == "NXentry":
            for inner, data in groups_in(entry):
                if text_of(data, "NX_class") == "NXdata":
                    yield from _signal(file, f"{entry_place}/{inner}", data)


def _signal(file: h5py.File, place: str, group: h5py.Group) -> Iterator[Stack]:
    """The stack that an NXdata group shows.

    What DECTRIS numbers is one stack, even where the signal is only the first of it.
    """
    name = text_of(group, "signal") or next(
        (key for key, item in _datasets(group) if "signal" in item.attrs), ""
    )
    if PART.match(name) or (not name and any(PART.match(key) for key in names_in(group))):
        yield from _numbered(file, place, group)
    elif name and name in group:
        item = item_at(file, f"{place}/{name}")
        if _is_stack(item):
            yield (Part(f"{place}/{name}", item),)


def _dectris(file: h5py.File) -> Iterator[Stack]:
    for name, entry in groups_in(file):
        group = member(entry, "data")
        if isinstance(group, h5py.Group):
            yield from _numbered(file, f"/{name}/data", group)


def _numbered(file: h5py.File, place: str, group: h5py.Group) -> Iterator[Stack]:
    """data_000001, data_000002, ... in order.

    Raises `InputError` where one is missing: frames would be taken for others.
    """
    numbers = sorted(
        (int(found[1]), name) for name in names_in(group) if (found := PART.match(name))
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
    yield tuple(_dataset(file, f"{place}/{name}") for _, name in numbers)


def _cxi(file: h5py.File) -> Iterator[Stack]:
    yield from _at(file, r"entry_\d+/data_\d+/data")
    yield from _at(file, r"entry_\d+/instrument_\d+/detector_\d+/data")


def _bliss(file: h5py.File) -> Iterator[Stack]:
    yield from _at(file, rf"{BLISS_SCAN.pattern[:-1]}/measurement/.*")
    yield from _at(file, rf"{BLISS_SCAN.pattern[:-1]}/instrument/.*/(data|image)")


def _lima(file: h5py.File) -> Iterator[Stack]:
    yield from _at(file, r"entry_\d+/measurement/data")
    yield from _at(file, r"entry_\d+/instrument/.*/data")


def _nexus_usual(file: h5py.File) -> Iterator[Stack]:
    """Where NeXus files without markings have frames."""
    yield from _at(file, r"entry\d*/data/data")
    yield from _at(file, r"entry\d*/instrument/.*/data")


def _crystfel(file: h5py.File) -> Iterator[Stack]:
    yield from _at(file, "data/data")
    yield from _at(file, "data/.*/data")


def _laueproc(file: h5py.File) -> Iterator[Stack]:
    yield from _at(file, "Data3D/Images")


def _any(file: h5py.File) -> Iterator[Stack]:
    """Every 3-D numeric dataset of at least 2 frames."""
    for path, dataset in datasets_below(file, "", DEPTH):
        if _is_stack(dataset) and dataset.shape[0] >= 2:
            yield (Part(path, dataset),)


FINDERS: tuple[Callable[[h5py.File], Iterator[Stack]], ...] = (
    _laueutil,
    _nexus_default,
    _dectris,
    _cxi,
    _bliss,
    _lima,
    _nexus_usual,
    _crystfel,
    _laueproc,
    _any,
)


def _kind(file: h5py.File, parts: Stack) -> str:
    """What a stack is called, by its path."""
    path = parts[0].path
    patterns = {
        "LaueUtil": f"/{LAUEUTIL}",
        "DECTRIS": r"/.*/data_\d+",
        "CXI": r"/entry_\d+/(data_\d+|instrument_\d+/detector_\d+)/data",
        "BLISS": r"/\d+\.\d+/(measurement|instrument)/.*",
        "Lima": r"/entry_\d+/(measurement|instrument|plot)/.*",
        "CrystFEL": r"/data/(.*/)?data",
        "LaueProc": "/Data3D/Images",
    }
    named = next((kind for kind, pattern in patterns.items() if re.fullmatch(pattern, path)), None)
    if named is not None:
        return named
    entry = file[path.split("/")[1]]
    is_nexus = text_of(entry, "NX_class") == "NXentry" or re.fullmatch(
        r"/entry\d*/(data/data|instrument/.*/data)", path
    )
    return (
        "NXdata" if is_nexus or text_of(parts[0].dataset.parent, "NX_class") == "NXdata" else "HDF5"
    )


def _is_bliss(file: h5py.File) -> bool:
    return any(BLISS_SCAN.match(name) for name in names_in(file))


def _named(file: h5py.File, path: str) -> Stack:
    """The stack that the user names: a dataset, or a group that has one."""
    place = absolute(path)
    item = item_at(file, path)
    if isinstance(item, h5py.Group) and place != "/":
        stacks = _in_group(file, place, item)
        if len(stacks) > 1:
            raise InputError(
                f"{file.filename}: {path} is a group with several datasets that could be the "
                f"frames: {_listed(stacks)}; choose one of them"
            )
        if not stacks:
            raise InputError(
                f"{file.filename}: {path} is a group, expected the dataset of the frames"
            )
        return stacks[0]
    return (_dataset(file, path),)


def _in_group(file: h5py.File, place: str, group: h5py.Group) -> list[Stack]:
    """The stacks of a group: what it shows, or the groups in it show, else every dataset that could be one."""
    inner = [(f"{place}/{name}", found) for name, found in groups_in(group)]
    for level in [(place, group)], inner:
        stacks = _different(
            stack
            for path, one in level
            for show in (_signal, _numbered)
            for stack in show(file, path, one)
        )
        if stacks:
            return stacks
    return [
        (Part(path, found),)
        for path, found in datasets_below(group, place, DEPTH)
        if _is_stack(found)
    ]


def _dataset(file: h5py.File, path: str) -> Part:
    item = item_at(file, path)
    if not isinstance(item, h5py.Dataset):
        kind = "group" if isinstance(item, h5py.Group) else "type"
        raise InputError(f"{file.filename}: {path} is a {kind}, expected the dataset of the frames")
    require_regular_sources(item)
    return Part(absolute(path), item)


def _at(file: h5py.File, pattern: str) -> Iterator[Stack]:
    """Stacks whose path is ``pattern``, with a regular expression for each name; a link among them that leads nowhere is an error."""
    yield from _below(file, file, "", pattern.split("/"))


def _below(file: h5py.File, group: h5py.Group, place: str, names: Sequence[str]) -> Iterator[Stack]:
    for name in names_in(group):
        if not re.fullmatch(names[0], name):
            continue
        path = f"{place}/{name}"
        item = member(group, name)
        if item is None and ".*" in names[0]:  # nobody asked for this one in particular
            continue
        item = item_at(file, path) if item is None else item
        if len(names) > 1 and isinstance(item, h5py.Group):
            yield from _below(file, item, path, names[1:])
        elif len(names) == 1 and _is_stack(item):
            yield (Part(path, item),)


def _datasets(group: h5py.Group) -> Iterator[tuple[str, h5py.Dataset]]:
    for name in names_in(group):
        item = member(group, name)
        if isinstance(item, h5py.Dataset):
            yield name, item


def _is_stack(item: h5py.HLObject) -> bool:
    if not isinstance(item, h5py.Dataset) or item.dtype.kind not in "uif":
        return False
    require_regular_sources(item)
    return item.ndim == 3


def _different(stacks: Iterator[Stack]) -> list[Stack]:
    """Each stack once, though several paths may lead to it."""
    return list(
        {
            tuple(part.dataset.id for part in stack): stack for stack in reversed(list(stacks))
        }.values()
    )[::-1]


def _listed(stacks: Sequence[Stack]) -> str:
    def one(stack: Stack) -> str:
        path = stack[0].path if len(stack) == 1 else stack[0].path.rpartition("/")[0]
        return f"{path} {(sum(len(part.dataset) for part in stack), *stack[0].dataset.shape[1:])} {stack[0].dataset.dtype}"

    shown = [one(stack) for stack in stacks[:8]]
    return ", ".join(shown) + (f" and {len(stacks) - 8} more" if len(stacks) > 8 else "")


def _what_else(file: h5py.File) -> str:
    """What the file has instead of frames, and what to do."""
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
