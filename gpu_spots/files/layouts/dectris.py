"""DECTRIS: master files with numbered datasets, and EIGER data files without their master file."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from gpu_spots.errors import given
from gpu_spots.files.hdf5.tree import groups_in, member
from gpu_spots.files.layouts.detector import Bounds
from gpu_spots.files.layouts.layout import FrameDatasets
from gpu_spots.files.layouts.nexus import NEXUS, Nexus, sentinels
from gpu_spots.files.layouts.search import Parts, numbered_frames

DATA_FILE = re.compile(r"(.+)_data_\d{6}\.h5")
"""Names of EIGER data files; the first part is that of the master file."""


class Dectris(Nexus):
    """Links to the frames of data files; every detector is a photon counter."""

    def stacks(self, file: h5py.File) -> Iterator[Parts]:
        """Yield the numbered datasets of each entry. Raises `InputError` if a number is missing."""
        for name, entry in groups_in(file):
            group = member(entry, "data")
            if isinstance(group, h5py.Group):
                yield from numbered_frames(file, f"/{name}/data", group)

    def sentinels(self, frames: FrameDatasets, dtype: np.dtype[Any], make: str | None) -> Bounds:
        """Return the bounds of a photon counter, also if the file does not describe it."""
        return sentinels(dtype, make or "dectris")


class EigerData(Nexus):
    """Frames of a data file, which was opened without its master file."""

    def owns(self, parts: Parts) -> bool:
        """Return whether the name of the file or an attribute of the frames tells it."""
        frames = parts[0].dataset
        return [part.path for part in parts] == ["/entry/data/data"] and (
            DATA_FILE.fullmatch(Path(frames.file.filename).name) is not None
            or "image_nr_low" in frames.attrs
        )

    def sentinels(self, frames: FrameDatasets, dtype: np.dtype[Any], make: str | None) -> Bounds:
        """Return bounds that exclude the largest value, unless the file describes the detector."""
        if make is not None or dtype.kind != "u":
            return super().sentinels(frames, dtype, make)
        path = Path(frames.parts[0].dataset.file.filename)
        largest = int(np.iinfo(dtype).max)
        named = DATA_FILE.fullmatch(path.name)
        master = path.with_name(f"{named[1]}_master.h5") if named else path
        better = master if named and master.exists() else "the master file"
        return {
            "high": largest - 1,
            "high_from": f"{largest} marks pixels without a value in EIGER data files",
            "note": "is an EIGER data file without its master file, which has the pixel mask and "
            "the "
            f"angles; give {better} instead if you have it; the value {largest} counts as invalid, "
            "use "
            f"{given('valid_range')} to change this",
        }


DECTRIS = Dectris(
    name="DECTRIS",
    title="DECTRIS master file",
    frames="`/entry/data/data_000001`, `data_000002`, ...",
    other_paths=(r".*/data_\d+",),
)
EIGER_DATA = EigerData(name=NEXUS.name, title=NEXUS.title)
