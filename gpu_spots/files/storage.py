"""How frames are stored, in words: chunks, filters, files, and whether they can be read without HDF5."""

from typing import Any

import h5py

from gpu_spots.files.frames import FileStack
from gpu_spots.files.images.image_stack import ImageStack

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
"""What filters are called, by the numbers that HDF5 knows them by."""


def storage_of(stack: FileStack | ImageStack) -> dict[str, Any]:
    """What is known of how the frames are stored; of several datasets, chunks and filters are those of the first."""
    frames = {
        "path": stack.path,
        "files": sorted({str(path) for path in stack.files}),
        "shape": list(stack.shape),
        "dtype": str(stack.dtype),
        "megabytes": round(
            stack.dtype.itemsize * stack.shape[0] * stack.shape[1] * stack.shape[2] / 1e6, 3
        ),
    }
    if isinstance(stack, ImageStack):
        return {**frames, "images": stack.format}
    dataset = stack.parts[0].dataset
    return {
        **frames,
        "datasets": [part.path for part in stack.parts],
        "chunks": list(dataset.chunks) if dataset.chunks else None,
        "filters": _filters(dataset),
        "read_through_hdf5": stack.why_not_direct,
    }


def _filters(dataset: h5py.Dataset) -> list[str]:
    created = dataset.id.get_create_plist()
    found = [created.get_filter(i) for i in range(created.get_nfilters())]
    return [
        FILTERS.get(number, name.decode(errors="replace") or str(number))
        + (f" {values[0]}" if number == h5py.h5z.FILTER_DEFLATE else "")
        for number, _, values, name in found
    ]
