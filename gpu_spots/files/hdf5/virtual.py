"""Datasets whose values are elsewhere: virtual datasets, and those in external raw files.

HDF5 gives zeros, and no error, for what is missing there. So everything is looked for before it is
read, through any number of virtual datasets and links. Virtual datasets that are whole datasets one
after the other are then read from those by all threads, which HDF5 cannot do.
"""

import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from gpu_spots.errors import InputError
from gpu_spots.files.hdf5.chunk_map import ChunkMap, hdf5_reason, require_filters, why_not_direct
from gpu_spots.files.hdf5.heaps import read_checked
from gpu_spots.files.hdf5.links import require_followable, source_file, why_not_hdf5
from gpu_spots.files.hdf5.selection import (
    MAX_CELLS,
    UNLIMITED,
    Hyperslab,
    Product,
    first_uncovered,
    products,
    size_of,
    whole,
)
from gpu_spots.files.hdf5.tree import FAILURES, allow_open_files, is_hard, why_broken
from gpu_spots.files.paths import require_regular_file
from gpu_spots.model import Array

SAME_FILE = "."
"""Name of the file itself in the mapping of a virtual dataset."""
NUMBER = "%b"
"""Stands for 0, 1, 2, ... in the names of sources."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Origin of the values of a dataset: files and types."""

    files: tuple[Path, ...]
    """Files besides its own."""
    types: dict[np.dtype[Any], str]
    """The types, in native byte order, of the datasets that are stored, each with one that has it.
    """


def require_complete(dataset: h5py.Dataset, source: str) -> Origin:
    """Check that every value of a dataset is stored somewhere, so that it can be read.

    Loads the plugins of the filters by which it, or any source of it, is compressed. A dataset that
    is neither virtual nor in external files is only checked for its filters.

    Args:
        dataset: the dataset that is about to be read.
        source: what messages call it.

    Raises:
        InputError: a file or a dataset is missing, which is named with the first frame that needs
            it; nothing is mapped to some frame; the dataset refers to itself; or a filter is not
            installed.
    """
    search = _Search()
    try:
        search.check(dataset.id, dataset.file, source)
    except _Incomplete as error:
        raise InputError(f"{source}: {error}") from None
    except FAILURES as error:
        raise InputError(f"{source}: cannot be read: {hdf5_reason(error)}") from error
    types = {dtype.newbyteorder("="): name for dtype, name in search.types.items()}
    return Origin(tuple(search.files), types)


def read_values(dataset: h5py.Dataset, source: str) -> Array:
    """Return all values of a dataset.

    Raises `InputError` where it cannot be read, or as `require_complete`.
    """
    require_complete(dataset, source)
    try:
        return np.asarray(read_checked(dataset))
    except FAILURES as error:
        raise InputError(f"{source} cannot be read: {hdf5_reason(error)}") from error


def require_regular_sources(dataset: h5py.Dataset) -> None:
    """Raise `InputError` if a source file of a virtual dataset is a named pipe or a device.

    To be called before its shape is asked for: HDF5 opens the sources of a mapping without limit
    then.
    """
    if not dataset.is_virtual:
        return
    for name in {_named(mapped.file_name) for mapped in dataset.virtual_sources()} - {SAME_FILE}:
        try:
            source_file(dataset, name)
        except InputError as error:
            raise InputError(
                f"{dataset.file.filename}: {dataset.name}: its source file {error}"
            ) from None


class _Incomplete(Exception):
    """Error: some values of a dataset are not stored.

    It has the number of the frame (None: all frames) and the reason.
    """

    def __init__(self, frame: int | None, why: str) -> None:
        where = "cannot be read" if frame is None else f"frame {frame} cannot be read"
        super().__init__(f"{where}: {why}")


class _Mapping(NamedTuple):
    """Mapping of a virtual dataset to one source."""

    file: str
    dataset: str
    target: list[Product]
    """Part of the virtual dataset that the source fills."""
    source: list[Product] | None
    """Part of the source that is used; None: all of it."""

    @property
    def frame(self) -> int:
        """First frame of the source."""
        return self.target[0][0].start


class _Search:
    """Search through the sources of a dataset, and theirs."""

    def __init__(self) -> None:
        self.files: dict[Path, None] = {}
        self.types: dict[np.dtype[Any], str] = {}
        self._open: list[tuple[Any, ...]] = []
        """The virtual datasets that are being looked through, each a source of the one before."""
        self._complete: set[tuple[Any, ...]] = set()

    def check(self, dataset: h5py.h5d.DatasetID, file: h5py.File, name: str) -> bool:
        """Raise `_Incomplete` if values are missing; return whether any are in other datasets."""
        created = dataset.get_create_plist()
        if created.get_layout() == h5py.h5d.VIRTUAL:
            self._check_virtual(h5py.Dataset(dataset), file)
            return True
        if created.get_nfilters():
            require_filters(dataset, name)
        dtype = dataset.dtype
        if dtype not in self.types:
            self.types[dtype] = name
        if created.get_external_count():
            self.files |= dict.fromkeys(_external_files(h5py.Dataset(dataset)))
            return True
        return False

    def _check_virtual(self, dataset: h5py.Dataset, file: h5py.File) -> None:
        key = _identity(dataset.id, file)
        if key in self._open:
            raise _Incomplete(None, "the virtual dataset refers to itself")
        if key in self._complete:
            return
        self._open.append(key)
        covered: list[Product] = []
        by_file: dict[str, dict[str, list[_Mapping]]] = {}
        for mapping in _mappings(dataset):
            by_file.setdefault(mapping.file, {}).setdefault(mapping.dataset, []).append(mapping)
        for by_dataset in by_file.values():
            with self._opened(dataset, file, next(iter(by_dataset.values()))[0]) as other:
                source_file = _SourceFile(
                    other, other.filename, h5py.h5o.get_info(other.id).fileno, {}
                )
                for mapped in by_dataset.values():
                    covered += self._check_source(source_file, mapped)
        try:
            hole = first_uncovered(dataset.shape, covered)
        except ValueError as error:
            raise _Incomplete(None, f"its mapping is too large to be checked: {error}") from None
        if hole is not None:
            rest = (
                f"; it begins at {', '.join(map(str, hole[1:]))} in the frame"
                if any(hole[1:])
                else ""
            )
            raise _Incomplete(
                hole[0], f"no source is mapped to {'a part of ' * bool(rest)}it{rest}"
            )
        self._open.pop()
        self._complete.add(key)

    @contextmanager
    def _opened(
        self, dataset: h5py.Dataset, file: h5py.File, mapping: _Mapping
    ) -> Iterator[h5py.File]:
        """Open the file of a source of a dataset, which is in ``file``."""
        if mapping.file == SAME_FILE:
            yield file
            return
        words = f"its source file {mapping.file} (dataset {mapping.dataset})"
        try:
            path = source_file(dataset, mapping.file)
        except InputError as error:
            raise _Incomplete(mapping.frame, f"its source file {error}") from None
        if path is None or not h5py.is_hdf5(path):
            raise _Incomplete(mapping.frame, f"{words} {why_not_hdf5(path)}")
        try:
            other = h5py.File(path, "r")
        except OSError as error:
            raise _Incomplete(
                mapping.frame, f"{words} cannot be opened: {hdf5_reason(error)}"
            ) from error
        self.files[path] = None
        with other:
            yield other

    def _check_source(self, file: "_SourceFile", mapped: Sequence[_Mapping]) -> list[Product]:
        """Check the dataset of some mappings. Return the covered parts of the virtual dataset."""
        frame, path = mapped[0].frame, mapped[0].dataset
        name = f"{file.name}: {path}"
        try:
            dataset = file.open(path)
        except (*FAILURES, InputError) as error:
            known = str(error) if isinstance(error, InputError) else "the dataset is missing"
            raise _Incomplete(
                frame, f"its source {name}: {why_broken(file.file, path) or known}"
            ) from None
        if not isinstance(dataset, h5py.h5d.DatasetID):
            raise _Incomplete(frame, f"its source {name} is a group, expected a dataset")
        owner = file.file
        if h5py.h5o.get_info(dataset).fileno != file.number:  # through an external link
            owner = h5py.Dataset(dataset).file
            self.files[Path(owner.filename)] = None
        try:
            is_elsewhere = self.check(dataset, owner, name)
        except _Incomplete as error:
            raise _Incomplete(frame, f"its source {name}: {error}") from None
        is_written = is_elsewhere or dataset.get_space_status() == h5py.h5d.SPACE_STATUS_ALLOCATED
        covered = []
        shape = dataset.shape
        for mapping in mapped:
            target, taken = _fitted(mapping, shape, f"its source {name}")
            covered += target
            if not is_written:
                _check_written(h5py.Dataset(dataset), mapping, target, taken, f"its source {name}")
        return covered


class _SourceFile(NamedTuple):
    """The file of some sources."""

    file: h5py.File
    name: str
    number: int
    """Number of the file in HDF5."""
    groups: dict[str, h5py.Group]
    """Groups that have been opened, by path."""

    def open(self, path: str) -> Any:
        """Return what is at a path. Raises `InputError` for a link to a named pipe or the like."""
        folder, _, name = path.rpartition("/")
        if folder not in self.groups:
            require_followable(self.file, f"/{folder}")
            self.groups[folder] = self.file[f"/{folder}"]
        group = self.groups[folder]
        if not is_hard(group, name):
            require_followable(group, name)
        return h5py.h5o.open(group.id, name.encode(errors="surrogateescape"))


def _identity(dataset: h5py.h5d.DatasetID, file: h5py.File) -> tuple[Any, ...]:
    """Return a value that is equal for a dataset opened twice, by any name of its file."""
    address = h5py.h5o.get_info(dataset).addr
    try:
        status = os.stat(file.filename)
    except OSError:  # in memory
        return file.filename, address
    return status.st_dev, status.st_ino, address


def _mappings(dataset: h5py.Dataset) -> Iterator[_Mapping]:
    """Return the mappings of a virtual dataset; a pattern of names gives one for each name."""
    for mapped in dataset.virtual_sources():
        target, source = products(mapped.vspace), products(mapped.src_space)
        mapping = _Mapping(
            mapped.file_name,
            mapped.dset_name,
            [whole(dataset.shape)] if target is None else target,
            source,
        )
        if not mapping.target or mapping.source == []:
            continue
        if _has_number(mapping.file) or _has_number(mapping.dataset):
            yield from _numbered(dataset, mapping)
        else:
            yield mapping._replace(file=_named(mapping.file), dataset=_named(mapping.dataset))


def _numbered(dataset: h5py.Dataset, mapping: _Mapping) -> Iterator[_Mapping]:
    """Yield a mapping for each number of a pattern, as many as the dataset needs."""
    frames, *rest = mapping.target[0]
    if (
        frames.n != UNLIMITED
        or frames.block == UNLIMITED
        or any(runs.is_unlimited for runs in rest)
    ):
        raise _Incomplete(
            None, f"the pattern {mapping.file}: {mapping.dataset} is not mapped frame by frame"
        )
    number = 0
    while frames.start + number * frames.stride < len(dataset):
        target = [(Hyperslab(frames.start + number * frames.stride, 1, 1, frames.block), *rest)]
        yield _Mapping(
            _named(mapping.file, number), _named(mapping.dataset, number), target, mapping.source
        )
        number += 1
    # HDF5 ends the dataset where the first file is missing
    folder, pattern = os.path.split(mapping.file)
    if _has_number(pattern):
        name = re.escape(pattern.replace("%%", "%")).replace(re.escape(NUMBER), r"(\d+)", 1)
        place = Path(dataset.file.filename).parent / _named(folder)
        later = [
            int(found[1])
            for path in (place.iterdir() if place.is_dir() else ())
            if (found := re.fullmatch(name, path.name))
        ]
        if any(one >= number for one in later):
            missing, there = _named(mapping.file, number), _named(mapping.file, max(later))
            raise _Incomplete(
                len(dataset), f"its source file {missing} is missing, and {there} is there"
            )


def _has_number(name: str) -> bool:
    return NUMBER in name.replace("%%", "")


def _named(name: str, number: int = 0) -> str:
    """Return a name with its number. In a name, %% stands for %."""
    return "%".join(part.replace(NUMBER, str(number)) for part in name.split("%%"))


def _fitted(
    mapping: _Mapping, shape: tuple[int, ...], words: str
) -> tuple[list[Product], list[Product]]:
    """Return target and source of a mapping, with unlimited selections cut to their size.

    Raises `_Incomplete` where the source is too small.
    """
    target, taken = mapping.target, mapping.source
    if taken is None:
        taken = [whole(shape)]
    elif any(len(product) != len(shape) for product in taken):
        raise _Incomplete(
            mapping.frame, f"{words} has shape {shape}, expected {len(taken[0])} dimensions"
        )
    if any(runs.is_unlimited for product in (*target, *taken) for runs in product):
        target, taken = _limited(mapping, target[0], taken[0], shape)
    for product in taken:
        if any(runs.end > length for runs, length in zip(product, shape, strict=True)):
            needed = tuple(runs.end for runs in product)
            raise _Incomplete(
                mapping.frame, f"{words} has shape {shape}, expected at least {needed}"
            )
    if size_of(target) != size_of(taken):
        raise _Incomplete(
            mapping.frame,
            f"{words} has shape {shape}: {size_of(taken)} values, expected {size_of(target)}",
        )
    return target, taken


def _limited(
    mapping: _Mapping, target: Product, taken: Product, shape: tuple[int, ...]
) -> tuple[list[Product], list[Product]]:
    """Return the part of an unlimited mapping that the source has."""
    to = [i for i, runs in enumerate(target) if runs.is_unlimited]
    from_ = [i for i, runs in enumerate(taken) if runs.is_unlimited]
    if len(to) != 1 or len(from_) != 1:
        raise _Incomplete(
            mapping.frame,
            f"{mapping.file}: {mapping.dataset} is mapped without limit in only one of both "
            "datasets",
        )
    size = taken[from_[0]].size_below(shape[from_[0]])

    def first(product: Product, i: int) -> list[Product]:
        return [(*product[:i], runs, *product[i + 1 :]) for runs in product[i].first(size)]

    return first(target, to[0]), first(taken, from_[0])


def _check_written(
    dataset: h5py.Dataset,
    mapping: _Mapping,
    target: list[Product],
    taken: list[Product],
    words: str,
) -> None:
    """Raise `_Incomplete` if a selected part was never written.

    Compact datasets are always written.
    """
    if dataset.id.get_create_plist().get_layout() == h5py.h5d.COMPACT:
        return
    chunks = ChunkMap.of(dataset)
    if chunks is None:
        raise _Incomplete(mapping.frame, f"{words} was never written")
    for product in taken:
        touched = [_touched(runs, step) for runs, step in zip(product, chunks.chunk, strict=True)]
        holes = np.argwhere(chunks.begin[np.ix_(*touched)] < 0)
        if len(holes):
            at = tuple(
                int(one[i]) * step
                for one, i, step in zip(touched, holes[0], chunks.chunk, strict=True)
            )
            frame = mapping.frame
            if len(taken) == len(target) == 1 and target[0][0].size == product[0].size:
                frame = target[0][0].at(max(product[0].number_of(at[0]), 0))
            raise _Incomplete(
                frame, f"{words}: its chunk at {', '.join(map(str, at))} was never written"
            )


def _touched(runs: Hyperslab, step: int) -> Any:
    """Return the numbers of the chunks, of ``step`` indices each, that contain some indices."""
    if runs.is_interval:
        return np.arange(runs.start // step, (runs.end - 1) // step + 1)
    if runs.end > MAX_CELLS:
        raise _Incomplete(
            None, f"its mapping is too large to be checked: {runs.n} parts of a source are mapped"
        )
    flags = np.zeros(runs.end, bool)
    runs.mark(flags)
    return np.unique(np.flatnonzero(flags) // step)


def _external_files(dataset: h5py.Dataset) -> Iterator[Path]:
    """Return the raw files of a dataset. Raises `_Incomplete` if one is missing or too short."""
    prefix = os.fsdecode(dataset.id.get_access_plist().get_efile_prefix())
    n_left = math.prod(dataset.shape) * dataset.dtype.itemsize
    for name, begin, size in dataset.external:
        path = Path(prefix, os.fsdecode(name))
        n_bytes = n_left if size == UNLIMITED else min(size, n_left)
        try:
            require_regular_file(path, "a file of raw values")
        except InputError as error:
            raise _Incomplete(None, f"its external file {error}") from None
        if path.stat().st_size < begin + n_bytes:
            raise _Incomplete(
                None,
                f"its external file {path} has {path.stat().st_size} bytes, expected "
                f"{begin + n_bytes}",
            )
        n_left -= n_bytes
        yield path
    if n_left:
        raise _Incomplete(
            None, f"its external files are {n_left} bytes too short for shape {dataset.shape}"
        )


def sources_in_order(
    dataset: h5py.Dataset, dtype: np.dtype[Any], source: str, opened: ExitStack
) -> list[h5py.Dataset]:
    """Return the datasets (n, n_X, n_Y) of a virtual one, in order; else the dataset itself.

    They are taken where each is mapped as a whole, none overlaps another, and all can be read
    directly; then their frames are those of the virtual dataset.

    Args:
        dataset: (n, n_X, n_Y), for which `require_complete` found nothing missing.
        dtype: the type of the frames, in native byte order.
        source: what messages call it.
        opened: closes the files of the sources.
    """
    return _pieces(dataset, dtype, source, opened) or [dataset]


def _pieces(
    dataset: h5py.Dataset, dtype: np.dtype[Any], source: str, opened: ExitStack
) -> list[h5py.Dataset]:
    """Return the datasets that make up a dataset; none if they cannot be read directly.

    There are none either if they are not in order.
    """
    if not dataset.is_virtual:
        return (
            [dataset]
            if dataset.dtype.newbyteorder("=") == dtype and why_not_direct(dataset) is None
            else []
        )
    mappings = sorted(_mappings(dataset), key=lambda mapping: mapping.frame)
    frames = [_whole_frames(mapping, dataset.shape) for mapping in mappings]
    begins, ends = [runs.start for runs in frames if runs], [runs.end for runs in frames if runs]
    if None in frames or [*begins, len(dataset)] != [0, *ends]:
        return []
    allow_open_files(len(mappings), source)
    files: dict[str, h5py.File] = {SAME_FILE: dataset.file}
    found: list[h5py.Dataset] = []
    for mapping, begin, end in zip(mappings, begins, ends, strict=True):
        if mapping.file not in files:
            path = source_file(dataset, mapping.file)
            files[mapping.file] = opened.enter_context(h5py.File(path, "r"))
        item = files[mapping.file][mapping.dataset]
        if item.shape != (end - begin, *dataset.shape[1:]):
            return []
        inner = _pieces(item, dtype, source, opened)
        if not inner:
            return []
        found += inner
    return found


def _whole_frames(mapping: _Mapping, shape: tuple[int, int, int]) -> Hyperslab | None:
    """Return the frames of a mapping of whole consecutive frames.

    None unless they are all frames of the source.
    """
    if len(mapping.target) != 1 or any(runs.is_unlimited for runs in mapping.target[0]):
        return None
    frames, *inside = mapping.target[0]
    is_whole = all(
        runs.is_interval and runs.size == length
        for runs, length in zip(inside, shape[1:], strict=True)
    )
    # that the source is not larger is seen when it is opened
    n_taken = [
        tuple((runs.start, runs.size) if runs.is_interval else None for runs in product)
        for product in mapping.source or []
    ]
    takes_all = mapping.source is None or n_taken == [
        ((0, frames.size), (0, shape[1]), (0, shape[2]))
    ]
    return frames if frames.is_interval and is_whole and takes_all else None
