"""Layouts of free-electron lasers: CXI, and the plain files that CrystFEL reads."""

from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from gpu_spots.errors import InputError
from gpu_spots.files.hdf5.chunk_map import hdf5_reason
from gpu_spots.files.hdf5.tree import FAILURES, groups_in, member
from gpu_spots.files.hdf5.virtual import require_complete
from gpu_spots.files.layouts.detector import DetectorFacts, MaskBits, has_mask, read_mask_values
from gpu_spots.files.layouts.layout import FrameDatasets, Layout
from gpu_spots.files.layouts.nexus import Nexus

CXI_MASK = MaskBits(
    0x0001 | 0x0004 | 0x0008 | 0x0010 | 0x0040 | 0x0080 | 0x0100 | 0x0200 | 0x0400 | 0x1000,
    r".*/entry_\d+/(.*/)?(mask|mask_shared)",
)
"""Bad: invalid, hot, dead, shadowed, to be ignored, bad, out of resolution limits, missing, noisy,
failed correction.

Not saturated (0x2), in a peak (0x20, 0x2000), corrected (0x800, 0x4000): such pixels can be used.
"""


class Cxi(Nexus):
    """Mask next to the frames; no range of valid values."""

    def detector(
        self, frames: FrameDatasets, dtype: np.dtype[Any], *, with_mask: bool, with_bounds: bool
    ) -> DetectorFacts:
        """Return the mask."""
        paths = (
            f"{group}/{name}"
            for group in (frames.group, *_detectors(frames))
            for name in ("mask", "mask_shared")
        )
        path = next((path for path in paths if has_mask(frames.file, path, with_mask)), "")
        return DetectorFacts(self._good(frames, path) if path and with_mask else None, path)

    def _good(self, frames: FrameDatasets, path: str) -> NDArray[np.bool_]:
        """Read a mask, (n_X, n_Y) bool. Of one mask per frame, a pixel must be good in all."""
        item = frames.file[path]
        if not (
            isinstance(item, h5py.Dataset)
            and item.shape == (frames.n_frames, *frames.shape)
            and item.dtype.kind in "iu"
        ):
            return self.mask_bits.good(read_mask_values(frames.file, path, frames.shape))
        source = f"{frames.file.filename}: the mask {path}"
        require_complete(item, source)
        good = np.ones(frames.shape, bool)
        try:
            for values in item:
                good &= self.mask_bits.good(values)
        except FAILURES as error:
            raise InputError(f"{source} cannot be read: {hdf5_reason(error)}") from error
        return good


def _detectors(frames: FrameDatasets) -> Iterator[str]:
    """Yield the paths of the groups of detectors whose data are the frames."""
    for name, instrument in groups_in(frames.file[frames.entry]):
        if name.startswith("instrument"):
            for inner, detector in groups_in(instrument):
                data = member(detector, "data")
                if data is not None and data.id == frames.parts[0].dataset.id:
                    yield f"/{frames.entry}/{name}/{inner}"


CXI = Cxi(
    name="CXI",
    title="CXI",
    frames="`/entry_1/data_1/data`, `/entry_1/instrument_1/detector_1/data`",
    paths=(r"entry_\d+/data_\d+/data", r"entry_\d+/instrument_\d+/detector_\d+/data"),
    mask_bits=CXI_MASK,
)
CRYSTFEL = Layout(
    name="CrystFEL",
    title="CrystFEL, SwissFEL",
    frames="`/data/data`, `/data/DETECTOR/data`",
    paths=("data/data", "data/.*/data"),
)
