"""Cleaned frames: frames less the background, and zero outside of the spots, as HDF5."""

import numpy as np
from numpy.typing import NDArray

from gpu_spots.export.format import Format, Source, Target, read_frame
from gpu_spots.files.hdf5.chunk_writer import ImageWriter
from gpu_spots.files.output.new_file import new_file, uninterrupted
from gpu_spots.files.output.nexus import ORIENTATION, add_title, colours, new_data_group
from gpu_spots.files.output.spots_writer import STRIP
from gpu_spots.memory.workers import in_order

PATH = "entry/data/data"
"""Dataset of the frames."""


class Cleaned(Format):
    """A stack of float32 frames in NeXus layout."""

    name = "cleaned"
    title = "cleaned frames"
    reader = "LaueMatching, silx, any reader of HDF5"
    ending = "__cleaned.h5"
    written = f"`{PATH}`: frames less `stats/avg`, 0 outside of the spots; angles"
    left_out = "all columns of the spots, laser states"
    options = ("frames_from",)

    def write(self, source: Source, target: Target) -> None:
        """Write the file; see `Format.write`."""
        results, (n_X, n_Y) = source.results, source.frame_shape()
        average = results.avg.astype(np.float64).ravel()
        pixels = source.pixels_by_frame()
        with source.frames() as stack, new_file(target.path, target.name) as file:
            with uninterrupted():
                axes = ["angle" if source.frame_angles is not None else ".", ".", "."]
                attributes = {"axes": axes, **colours(logarithmic=True)}
                group = new_data_group(file, "entry", "data", "data", **attributes)
                add_title(group, f"frames less the background; {ORIENTATION}")
                if source.frame_angles is not None:
                    group.create_dataset("angle", data=source.frame_angles)
                    group["angle"].attrs["units"] = "degrees"
                data = group.create_dataset(
                    "data",
                    (results.n_frames, n_X, n_Y),
                    np.float32,
                    chunks=(1, min(STRIP, n_X), n_Y),
                    compression="gzip",
                    shuffle=True,
                )
                data.attrs.update(
                    {
                        "units": "counts",
                        "interpretation": "image",
                        "description": "frames less the background, 0 outside of the spots: "
                        "frame, X, Y",
                    }
                )
                writer = ImageWriter(data)

            def clean(index: int) -> list[bytes]:
                cleaned: NDArray[np.float32] = np.zeros(n_X * n_Y, np.float32)
                flat = pixels.of_frame(index)
                if len(flat):
                    frame = read_frame(stack, index).ravel()
                    place = np.divmod(flat, n_Y)
                    cleaned[flat] = frame[flat] - results.background_on(
                        index, *place, average[flat]
                    )
                return writer.compress(cleaned.reshape(n_X, n_Y))

            source.observer.stage("export", results.n_frames, "frames")
            for index, strips in enumerate(
                in_order(clean, range(results.n_frames), source.workers)
            ):
                with uninterrupted():
                    writer.store(index, strips)
                file.check()
                source.observer.advance(1)
