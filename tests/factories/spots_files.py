"""A run with metadata, and the datasets of its spots file."""

from pathlib import Path

import h5py
import numpy as np

from helpers import write_run

N, X, Y = 20, 24, 40
TABLE = {
    # path: type and shape, where n is spots, p pixels and k masks
    "stats/avg": ("float32", "XY", "counts"),
    "stats/std": ("float32", "XY", "counts"),
    "stats/iqr": ("float32", "XY", "counts"),
    "stats/max": ("uint16", "XY", "counts"),
    "stats/arg": ("int32", "XY", None),
    "stats/threshold": ("int32", "XY", "counts"),
    "masks_raw": ("uint8", "NXY", None),
    "masks_filtered": ("uint8", "NXY", None),
    "masks_synced": ("uint8", "kXY", None),
    "masks/labels": ("uint16", "kXY", None),
    "masks/counts": ("int32", "k", None),
    "spots/I": ("float64", "n", "counts"),
    "spots/XY": ("int32", "n2", "pixel"),
    "spots/box": ("int32", "n4", "pixel"),
    "spots/frame": ("int32", "n", None),
    "spots/label": ("int32", "n", None),
    "spots/mask": ("int32", "n", None),
    "spots/pixel_list": ("int32", "p", None),
    "spots/overload": ("int32", "n", "pixel"),
    "spots/pixel_list_BE": ("int64", "n2", None),
    "frame2spotsBE": ("int64", "N2", None),
}
"""The contract's datasets for 16-bit frames."""


def laser_run(folder: Path) -> Path:
    """A run with attributes and columns of its own in lauecollect."""

    def describe(file: h5py.File) -> None:
        group = file["lauecollect"]
        group.attrs["block_size"] = 2
        group["angle"].attrs["units"] = "deg"
        group["file"] = [f"a_{state}.mccd" for state in ("off", "on")] * 10
        group["comment"] = np.array([b"a", b"\xc3\xa4"] * 10)
        group["motor/phi"] = np.arange(20)
        group["one"] = 3.5

    return write_run(folder / "run__mccd.h5", describe)
