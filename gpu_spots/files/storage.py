"""Storage of frames in words: chunks, filters, files, and whether they are read without HDF5."""

from collections.abc import Mapping, Sequence
from typing import Any

import h5py

from gpu_spots.files.layouts.search import Part
from gpu_spots.protocols import Stack

FILTERS = {
    h5py.h5z.FILTER_DEFLATE: "gzip",
    h5py.h5z.FILTER_SHUFFLE: "shuffle",
    h5py.h5z.FILTER_FLETCHER32: "fletcher32",
    h5py.h5z.FILTER_SZIP: "szip",
    h5py.h5z.FILTER_NBIT: "nbit",
    h5py.h5z.FILTER_SCALEOFFSET: "scaleoffset",
    307: "bzip2",
    32000: "lzf",
    32001: "blosc",
    32004: "lz4",
    32008: "bitshuffle",
    32015: "zstd",
    32026: "blosc2",
}
"""Names of filters by their numbers in HDF5."""


def storage_of(stack: Stack) -> dict[str, Any]:
    """Return where and how the frames of a stack are stored: the key ``frames`` of `describe`."""
    return {
        "path": stack.provenance.frames_path,
        "files": sorted({str(path) for path in stack.files}),
        "shape": list(stack.shape),
        "dtype": str(stack.dtype),
        "megabytes": round(
            stack.dtype.itemsize * stack.shape[0] * stack.shape[1] * stack.shape[2] / 1e6, 3
        ),
        **stack.storage(),
    }


def storage_of_datasets(parts: Sequence[Part], why_not_direct: str | None) -> Mapping[str, Any]:
    """Return how datasets of frames are stored: chunks and filters are those of the first.

    ``why_not_direct`` is why HDF5 reads them; None: all chunks are read directly.
    """
    dataset = parts[0].dataset
    return {
        "datasets": [part.path for part in parts],
        "chunks": list(dataset.chunks) if dataset.chunks else None,
        "filters": _filters(dataset),
        "read_through_hdf5": why_not_direct,
    }


def _filters(dataset: h5py.Dataset) -> list[str]:
    created = dataset.id.get_create_plist()
    found = [created.get_filter(i) for i in range(created.get_nfilters())]
    return [
        FILTERS.get(number, name.decode(errors="replace") or str(number))
        + (f" {values[0]}" if number == h5py.h5z.FILTER_DEFLATE else "")
        for number, _, values, name in found
    ]
