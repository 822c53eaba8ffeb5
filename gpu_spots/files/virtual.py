"""Virtual datasets that are whole datasets one after the other: those are read themselves, by all threads, which HDF5 cannot."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from gpu_spots.files.layout import other_files, why_not_direct
from gpu_spots.files.tree import FAILURES, allow_open_files


def sources_in_order(dataset: h5py.Dataset, source: str, opened: ExitStack) -> list[h5py.Dataset]:
    """The datasets (n, n_X, n_Y) that make up a virtual one, in order; else only the dataset itself.

    They are taken where each is mapped as a whole, none is missing and none overlaps another, and all can be read directly; then their
    frames are those of the virtual dataset.

    Args:
        dataset: (n, n_X, n_Y).
        source: what messages call it.
        opened: closes the files of the sources.

    Raises:
        InputError: a file that should hold frames is missing, or nothing should hold some of them.
    """
    if not dataset.is_virtual:
        return [dataset]
    list(other_files(dataset, source))  # so that what is missing is named
    spans = sorted(filter(None, (_span(mapped, dataset.shape) for mapped in dataset.virtual_sources())))
    begins, ends = [begin for begin, *_ in spans], [end for _, end, *_ in spans]
    if len(spans) != len(dataset.virtual_sources()) or [*begins, len(dataset)] != [0, *ends]:
        return [dataset]
    allow_open_files(len(spans), source)
    found = [_open(dataset, name, path, opened) for *_, name, path in spans]
    whole = [
        item
        for item, begin, end in zip(found, begins, ends, strict=True)
        if item is not None
        and item.shape == (end - begin, *dataset.shape[1:])
        and item.dtype.newbyteorder("=") == dataset.dtype.newbyteorder("=")
        and why_not_direct(item) is None
    ]
    return whole if len(whole) == len(spans) else [dataset]


def _span(mapped: Any, shape: tuple[int, int, int]) -> tuple[int, int, str, str] | None:
    """First frame, the one after the last, file and dataset of a source that is mapped as whole frames, from its first on; else None."""
    try:
        (begin, *low), (last, *high) = mapped.vspace.get_select_bounds()
        n_frames = last + 1 - begin
        n_values = np.prod((n_frames, *shape[1:]), dtype=object)
        of_source = mapped.src_space
        whole_source = of_source.get_select_type() == h5py.h5s.SEL_ALL or (
            of_source.get_select_bounds() == ((0, 0, 0), (n_frames - 1, shape[1] - 1, shape[2] - 1))
            and of_source.get_select_npoints() == n_values
        )
    except FAILURES:  # unlimited
        return None
    whole_frames = (*low, *high) == (0, 0, shape[1] - 1, shape[2] - 1) and mapped.vspace.get_select_npoints() == n_values
    is_pattern = "%" in mapped.file_name
    return (begin, last + 1, mapped.file_name, mapped.dset_name) if whole_source and whole_frames and not is_pattern else None


def _open(dataset: h5py.Dataset, name: str, path: str, opened: ExitStack) -> h5py.Dataset | None:
    """A source, where HDF5 looks for it."""
    folder = Path(dataset.file.filename).parent
    places = (folder / name, folder / Path(name).name, Path(name))
    try:
        if name == ".":
            item = dataset.file[path]
        else:
            file = next((place for place in places if place.exists()), None)
            item = None if file is None else opened.enter_context(h5py.File(file, "r"))[path]
    except FAILURES:
        return None
    return item if isinstance(item, h5py.Dataset) else None
