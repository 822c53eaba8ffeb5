"""Layout of HDF5 files: a record that tells where such files have frames, angles and masks."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from gpu_spots.files.layouts.detector import (
    DetectorFacts,
    MaskBits,
    attribute_bounds,
    mask_beside,
)
from gpu_spots.files.layouts.search import Parts, frames_at

OFFICIAL_ANGLES = ("rotation_angle", "angle", "angles")
"""Names of angles that are used even if another dataset varies too: those of NXxlaue and LaueUtil.
"""
ANGLES = (*OFFICIAL_ANGLES, "omega", "phi", "rotation", "rot", "kappa", "chi")
"""Names of datasets of angles, lower case, the best first."""
LASER_STATES = ("laser_on", "laser_state", "laser", "pump_on")
"""Names of datasets of laser states, lower case, the best first."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Description of a layout.

    For a layout in which only the paths and names are special, a record of this class is enough.
    Otherwise a subclass overrides the methods in which its files differ.
    """

    name: str
    """Attribute ``layout`` of a spots file."""
    title: str
    """Name in ``gpu-spots info`` and in the documentation; the same for the same ``name``."""
    frames: str = ""
    """Paths of the frames, for the documentation; empty: not listed there."""
    paths: tuple[str, ...] = ()
    """Paths of the frames, searched in this order, without a leading slash; each name in a path is
    a regular expression.
    """
    other_paths: tuple[str, ...] = ()
    """Further paths of frames, not searched; regular expressions of whole paths, for `owns`."""
    angles: tuple[str, ...] = ANGLES
    """Names of datasets of angles, lower case, the best first."""
    laser_states: tuple[str, ...] = LASER_STATES
    """Names of datasets of laser states, lower case, the best first."""
    mask_bits: MaskBits | None = None
    """Meaning of the values of pixel masks; None: the files do not tell."""

    def stacks(self, file: h5py.File) -> Iterator[Parts]:
        """Yield every stack of frames that a file has in this layout. May raise `InputError`."""
        for path in self.paths:
            yield from frames_at(file, path)

    def owns(self, parts: Parts) -> bool:
        """Return whether a stack is in this layout, judged by the path of its first dataset."""
        path = parts[0].path
        return any(
            re.fullmatch(f"/{pattern}", path) for pattern in (*self.paths, *self.other_paths)
        )

    def columns_root(self, path: str) -> str | None:
        """Return the group that is searched for angles and laser states.

        Args:
            path: path of the frames.

        Returns:
            Name of a group of the file; empty: the whole file; None: only ``lauecollect`` has them.
        """
        return ""

    def detector(
        self, frames: "FrameDatasets", dtype: np.dtype[Any], *, with_mask: bool, with_bounds: bool
    ) -> DetectorFacts:
        """Return what the file tells about the detector.

        By default: the attributes that ``gpu-spots convert`` writes, and no mask.

        Args:
            frames: datasets of the frames.
            dtype: type of the frames.
            with_mask: read the mask.
            with_bounds: read the range of valid values and the saturation.

        Raises:
            InputError: a mask or a bound cannot be read, or does not fit the frames.
        """
        bounds = attribute_bounds(frames.parts[0].dataset) if with_bounds else {}
        return DetectorFacts(
            unused_mask=mask_beside(frames.file, frames.group, frames.shape), **bounds
        )


@dataclass(frozen=True, slots=True)
class FrameDatasets:
    """Datasets of the frames in an open file, and the layout of the file."""

    file: h5py.File
    layout: Layout
    parts: Parts

    @property
    def path(self) -> str:
        """Path of the frames; for several datasets, the first and the last path."""
        first, last = self.parts[0].path, self.parts[-1].path
        return first if len(self.parts) == 1 else f"{first} ... {last}"

    @property
    def group(self) -> str:
        """Path of the group of the first dataset; empty: the root."""
        return self.parts[0].path.rpartition("/")[0]

    @property
    def entry(self) -> str:
        """First name in the path of the first dataset: in NeXus, the entry."""
        return self.parts[0].path.split("/")[1]

    @property
    def n_frames(self) -> int:
        """Number of frames in all datasets."""
        return sum(len(part.dataset) for part in self.parts)

    @property
    def shape(self) -> tuple[int, int]:
        """n_X and n_Y."""
        n_x, n_y = self.parts[0].dataset.shape[1:]
        return n_x, n_y
