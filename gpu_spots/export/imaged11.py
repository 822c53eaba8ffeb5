"""ImageD11: table of peaks as text (.flt) and as HDF5, and sparse pixels."""

from typing import Any

import numpy as np

from gpu_spots.errors import OutputError
from gpu_spots.export.format import (
    Format,
    Source,
    Target,
    exact_text,
    formatted,
    read_frame,
    rows_of_text,
)
from gpu_spots.files.output.new_file import new_binary_file, new_file, uninterrupted
from gpu_spots.model import Array

ROWS = 100_000
"""Rows that are made into text at once."""
SPARSE_OPTIONS: dict[str, Any] = {
    "maxshape": (None,),
    "chunks": (10_000,),
    "compression": "lzf",
    "shuffle": True,
}
"""Storage of sparse pixels, as ImageD11 has it."""
LARGEST_INDEX = 2**16
"""Rows and columns of a frame, at most, whose indices are uint16."""


class ImageD11Flt(Format):
    """Table of peaks as text."""

    name = "imaged11"
    title = "ImageD11 peaks, text"
    reader = "ImageD11"
    ending = ".flt"
    written = (
        "`sc` (X), `fc` (Y), `omega` (angle), intensity, number of pixels, limits of the box; "
        "all other columns under their own names"
    )
    left_out = "detector geometry; widths, unless the file has `spots/moments`"

    def write(self, source: Source, target: Target) -> None:
        """Write the table; see `Format.write`."""
        columns = _columns(source)
        if not source.results.n_spots:
            source.notes.append("no spots: ImageD11 cannot read a .flt file without a peak")
        with new_binary_file(target.path, target.name) as file:
            file.write(f"#  {'  '.join(columns)}\n".encode())
            for begin in range(0, source.results.n_spots, ROWS):
                parts = [_text(n, values[begin : begin + ROWS]) for n, values in columns.items()]
                file.write(rows_of_text(parts, "  ").encode())


class ImageD11Columns(Format):
    """Table of peaks as HDF5: one group with a dataset per column."""

    name = "imaged11-h5"
    title = "ImageD11 peaks, HDF5"
    reader = "ImageD11"
    ending = "__peaks.h5"
    written = "as `imaged11`, with all digits"
    left_out = "as `imaged11`"

    def write(self, source: Source, target: Target) -> None:
        """Write the file; see `Format.write`."""
        columns = _columns(source)
        with new_file(target.path, target.name) as file, uninterrupted():
            group = file.create_group("peaks")
            group.attrs["ImageD11_type"] = "peaks"
            for name, values in columns.items():
                group.create_dataset(name, data=values)  # not compressed: it can be mapped


class ImageD11Sparse(Format):
    """Pixels of the spots with their values, from which ImageD11 makes peaks of its own."""

    name = "imaged11-sparse"
    title = "ImageD11 sparse pixels"
    reader = "ImageD11"
    ending = "__sparse.h5"
    written = "row (X), column (Y) and value of each pixel of a spot, per frame; angles as `omega`"
    left_out = "background, labels, all columns of the spots"
    options = ("frames_from",)

    def write(self, source: Source, target: Target) -> None:
        """Write the file; see `Format.write`."""
        results, shape = source.results, source.frame_shape()
        if max(shape) > LARGEST_INDEX:
            raise OutputError(
                f"{target.name}: frames have {shape[0]} x {shape[1]} pixels, expected at most "
                f"{LARGEST_INDEX} rows and columns in ImageD11's sparse files"
            )
        pixels = source.pixels_by_frame()
        with source.frames() as stack, new_file(target.path, target.name) as file:
            with uninterrupted():
                group = file.create_group("entry")
                datasets = {
                    name: group.create_dataset(name, (0,), dtype, **SPARSE_OPTIONS)
                    for name, dtype in (
                        ("row", np.uint16),
                        ("col", np.uint16),
                        ("intensity", stack.dtype),
                    )
                }
            counts = np.zeros(results.n_frames, np.uint32)
            source.observer.stage("export", results.n_frames, "frames")
            end = 0
            for index in range(results.n_frames):
                flat = pixels.of_frame(index)
                if len(flat):
                    X, Y = np.divmod(flat, shape[1])
                    values = {"row": X, "col": Y, "intensity": read_frame(stack, index)[X, Y]}
                    begin, end = end, end + len(flat)
                    with uninterrupted():
                        for name, dataset in datasets.items():
                            dataset.resize(end, axis=0)
                            dataset[begin:end] = values[name]
                    counts[index] = len(flat)
                file.check()
                source.observer.advance(1)
            with uninterrupted():
                group.create_dataset("nnz", data=counts)
                group.attrs.update(
                    {
                        "itype": "uint16",
                        "nframes": results.n_frames,
                        "shape0": shape[0],
                        "shape1": shape[1],
                        "npx": end,
                    }
                )
                if source.frame_angles is not None:
                    group.create_dataset("omega", data=source.frame_angles)


def _columns(source: Source) -> dict[str, Array]:
    """Return ImageD11's columns of the spots, float64 or int64."""
    table = source.columns
    X, Y = source.positions.T
    n_spots = source.results.n_spots
    angles = source.frame_angles
    if angles is None:
        source.notes.append("omega is NaN: the run has no angles")
        angles = np.full(source.results.n_frames, np.nan)
    columns = {"sc": X, "fc": Y, "omega": angles[table["frame"]]}
    if source.n_pixels is not None:
        columns["Number_of_pixels"] = source.n_pixels
        columns["avg_intensity"] = table["I"] / source.n_pixels
    columns |= {"s_raw": X, "f_raw": Y}
    if "moments_XX" in table:
        # 0 where a moment is not known, or noise makes it negative
        sigs, sigf = (np.sqrt(np.fmax(table[f"moments_{axes}"], 0) + 1) for axes in ("XX", "YY"))
        covariance = np.nan_to_num(table["moments_XY"])
        columns |= {"sigs": sigs, "sigf": sigf, "covsf": covariance / (sigs * sigf)}
    columns["sum_intensity"] = table["I"]
    if "max" in table:
        columns["IMax_int"] = table["max"]
    columns |= {
        "IMax_s": table["X"],
        "IMax_f": table["Y"],
        "Min_s": table["X_begin"],
        "Max_s": table["X_end"] - 1,
        "Min_f": table["Y_begin"],
        "Max_f": table["Y_end"] - 1,
        "spot3d_id": np.arange(n_spots),
    }
    used = ("I", "X", "Y", "n_pixels", "X_begin", "X_end", "Y_begin", "Y_end", "max", "angle")
    columns |= source.extra_columns(used, tuple(columns))
    return {name: _wide(values) for name, values in columns.items()}


def _wide(values: Array) -> Array:
    """Return a column as float64 or int64, the types of ImageD11."""
    return values.astype(np.float64 if values.dtype.kind == "f" else np.int64)


FOUR_DECIMALS = (
    "sc",
    "fc",
    "omega",
    "s_raw",
    "f_raw",
    "sigs",
    "sigf",
    "covsf",
    "sum_intensity",
    "avg_intensity",
    "IMax_int",
)
"""Columns with four decimals, as ImageD11 writes them."""


def _text(name: str, values: Array) -> list[str]:
    return formatted(values, ".4f") if name in FOUR_DECIMALS else exact_text(values)
