"""Peak lists in a CXI file, as CrystFEL, OM and Cheetah have them."""

import numpy as np

from gpu_spots.export.format import Format, Source, Target
from gpu_spots.files.output.frames_of_spots import link_to_frames
from gpu_spots.files.output.new_file import new_file, uninterrupted
from gpu_spots.files.output.nexus import new_data_group

ROWS_IN_CHUNK = 1024
"""Rows of a chunk, at most."""
OTHERS = {
    "n_pixels": ("peakNPixels", "number of pixels"),
    "max": ("peakMaximumValue", "largest value of the pixels"),
    "snr": ("peakSNR", "intensity divided by its error"),
}
"""Lists that not every spots file has: name and description, by the column of the table."""


class Cxi(Format):
    """Peak lists with one row per frame, filled with zeros up to the frame with the most spots."""

    name = "cxi"
    title = "CXI peak lists"
    reader = "CrystFEL, OM, Cheetah"
    ending = "__peaks.cxi"
    written = (
        "`nPeaks`, `peakXPosRaw` (Y), `peakYPosRaw` (X), `peakTotalIntensity`, number of pixels, "
        "maximum and signal-to-noise ratio if known; a link to the frames"
    )
    left_out = "boxes, pixels, labels, all other columns"

    def write(self, source: Source, target: Target) -> None:
        """Write the file; see `Format.write`."""
        ranges = source.results.frame_ranges
        counts = (ranges[:, 1] - ranges[:, 0]).astype(np.int32)
        shape = (len(counts), max(int(counts.max(initial=0)), 1))
        place = np.arange(shape[1]) < counts[:, None]
        X, Y = source.positions.T
        lists = {
            "peakXPosRaw": ("fast coordinate (Y), pixel centres at integers", Y),
            "peakYPosRaw": ("slow coordinate (X), pixel centres at integers", X),
            "peakTotalIntensity": ("integrated intensity", source.columns["I"]),
        }
        for column, (name, description) in OTHERS.items():
            if column in source.columns:
                lists[name] = (description, source.columns[column])
        with new_file(target.path, target.name) as file, uninterrupted():
            group = new_data_group(file, "entry_1", "result_1", "nPeaks")
            group.create_dataset("nPeaks", data=counts)
            for name, (description, values) in lists.items():
                table = np.zeros(shape, np.float32)
                table[place] = values
                dataset = group.create_dataset(
                    name,
                    data=table,
                    chunks=(min(ROWS_IN_CHUNK, shape[0]), shape[1]),
                    compression="gzip",
                    shuffle=True,
                )
                dataset.attrs["description"] = description
            data = file["entry_1"].create_group("data_1")
            if why_not := link_to_frames(source.results, data, "data"):
                source.notes.append(f"no link to the frames: {why_not}")
