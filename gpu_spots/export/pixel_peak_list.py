"""PixelPeakList of the APS beamline 34-ID: a folder with one text file per frame."""

import numpy as np

from gpu_spots import __version__
from gpu_spots.export.folder import FolderFormat
from gpu_spots.export.format import Source, Target, formatted, rows_of_text
from gpu_spots.files.output.new_file import new_binary_file
from gpu_spots.model import Array


class PixelPeakList(FolderFormat):
    """Peaks of single frames with zero-based positions, as peaksearch writes them."""

    name = "34id"
    title = "APS 34-ID PixelPeakList"
    reader = "pixels2qs, LaueGo"
    ending = "__34id"
    file_ending = "_peaks.txt"
    written = "position, amplitude and intensity of each spot, one text file per frame"
    left_out = (
        "labels, angles, tilt and chi squared (0); half widths are half of the box "
        "unless the file has `spots/moments`"
    )
    options = ("frames_from",)

    def write(self, source: Source, target: Target) -> None:
        """Write the files; see `Format.write`."""
        X, Y = source.positions.T
        half_X, half_Y = _half_widths(source)
        zeros = np.zeros(source.results.n_spots)
        columns: list[tuple[Array, str]] = [
            (Y, "13.3f"),
            (X, "13.3f"),
            (source.amplitudes(), "16.4f"),
            (source.columns["I"], "16.5f"),
            (half_Y, "11.3f"),
            (half_X, "11.3f"),
            (zeros, "11.4f"),
            (zeros, ".5g"),
        ]
        names = self.frame_names(source)
        for frame, (begin, end) in enumerate(source.results.frame_ranges.tolist()):
            texts = [formatted(values[begin:end], form) for values, form in columns]
            texts[-1] = [f"   {text}" for text in texts[-1]]
            head = "".join(f"${line}\n" for line in _head(source, names[frame], end - begin))
            path = target.path / f"{names[frame]}{self.file_ending}"
            with new_binary_file(path, target.name) as file:
                file.write(f"{head}{rows_of_text(texts, '')}".encode(errors="backslashreplace"))


def _head(source: Source, image: str, n_peaks: int) -> list[str]:
    """Return the lines before the peaks, without their first character."""
    n_X, n_Y = source.frame_shape()
    entries = (
        ("inputImage", image, "name of the frame"),
        ("xdim", n_Y, "columns (Y)"),
        ("ydim", n_X, "rows (X)"),
        ("xDimDet", n_Y, ""),
        ("yDimDet", n_X, ""),
        ("startx", 0, ""),
        ("endx", n_Y - 1, ""),
        ("groupx", 1, ""),
        ("starty", 0, ""),
        ("endy", n_X - 1, ""),
        ("groupy", 1, ""),
        ("programName", f"gpu_spots {__version__}", ""),
        ("Npeaks", n_peaks, "number of peaks"),
    )
    lines = [
        f"{key}\t\t{value}" + (f"\t\t// {comment}" if comment else "")
        for key, value, comment in entries
    ]
    return ["filetype\t\tPixelPeakList", *lines, f"peakList\t8 {n_peaks}"]


def _half_widths(source: Source) -> tuple[Array, Array]:
    """Return half widths at half maximum along X and Y, pixels."""
    table = source.columns
    if "moments_XX" in table:
        to_half_width = 2.354820045 / 2
        return (
            to_half_width * np.sqrt(np.fmax(table["moments_XX"], 0)),
            to_half_width * np.sqrt(np.fmax(table["moments_YY"], 0)),
        )
    source.notes.append("half widths are half of the boxes: the file has no spots/moments")
    return (
        (table["X_end"] - table["X_begin"]) / 2,
        (table["Y_end"] - table["Y_begin"]) / 2,
    )
