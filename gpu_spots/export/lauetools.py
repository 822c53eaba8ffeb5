"""LaueTools peak lists: a folder with one .dat file per frame."""

import time

import numpy as np

from gpu_spots import __version__
from gpu_spots.export.folder import FolderFormat
from gpu_spots.export.format import Source, Target, formatted, rows_of_text
from gpu_spots.files.output.new_file import new_binary_file
from gpu_spots.model import Array

HEADING = (
    "peak_X peak_Y peak_Itot peak_Isub peak_fwaxmaj peak_fwaxmin peak_inclination "
    "Xdev Ydev peak_bkg Ipixmax"
)
"""First line of a file."""
LARGEST = 10_000
"""Lines of a file that LaueTools reads, at most."""


class LaueTools(FolderFormat):
    """Peak lists of single frames, sorted by amplitude."""

    name = "lauetools"
    title = "LaueTools peak lists"
    reader = "LaueTools"
    ending = "__lauetools"
    file_ending = "_LT_0.dat"
    written = "position, amplitude, background and axes of each spot, one `.dat` file per frame"
    left_out = (
        "integrated intensities, labels, angles; axes are half of the box "
        "unless the file has `spots/fwhm`"
    )
    options = ("frames_from",)

    def write(self, source: Source, target: Target) -> None:
        """Write the files; see `Format.write`."""
        X, Y = source.positions.T
        table = source.columns
        peak, amplitude = source.peak_values, source.amplitudes()
        background = peak - amplitude
        major, minor, inclination = _axes(source)
        columns: list[tuple[Array, str]] = [
            (Y + 1, ".02f"),
            (X + 1, ".02f"),
            (peak, ".02f"),
            (amplitude, ".02f"),
            (major, ".02f"),
            (minor, ".02f"),
            (inclination, ".03f"),
            (Y - table["Y"], ".02f"),
            (X - table["X"], ".02f"),
            (background, ".02f"),
            (np.rint(peak).astype(np.int64), "d"),
        ]
        names = self.frame_names(source)
        n_empty = n_long = 0
        for frame, (begin, end) in enumerate(source.results.frame_ranges.tolist()):
            if begin == end:
                n_empty += 1
                continue
            n_long += end - begin >= LARGEST
            order = begin + np.argsort(-amplitude[begin:end], kind="stable")
            rows = rows_of_text([formatted(c[order], form) for c, form in columns], "   ")
            lines = (
                f"{HEADING}\n{rows}"
                f"# File created at {time.asctime()} with gpu_spots {__version__}\n"
                f"# From: {names[frame]}, frame {frame} of {source.name}\n"
                f"# Comments: nb of peaks {end - begin}\n"
            )
            path = target.path / f"{names[frame]}{self.file_ending}"
            with new_binary_file(path, target.name) as file:
                file.write(lines.encode(errors="backslashreplace"))
        if n_empty:
            source.notes.append(f"{n_empty} frames without spots have no file")
        if n_long:
            source.notes.append(
                f"{n_long} frames have more than {LARGEST - 1} spots: LaueTools does not read "
                "all lines of their files"
            )


def _axes(source: Source) -> tuple[Array, Array, Array]:
    """Return full width of the major and the minor axis, pixels, and the inclination, degrees."""
    table = source.columns
    if "fwhm_major" in table:
        to_two_sigma = 2 / 2.354820045
        return (
            np.nan_to_num(table["fwhm_major"]) * to_two_sigma,
            np.nan_to_num(table["fwhm_minor"]) * to_two_sigma,
            np.nan_to_num(table["orientation"]),
        )
    source.notes.append("axes are half of the boxes: the file has no spots/fwhm")
    widths = np.stack(
        [table["X_end"] - table["X_begin"], table["Y_end"] - table["Y_begin"]], axis=1
    )
    return widths.max(axis=1) / 2, widths.min(axis=1) / 2, np.zeros(len(widths))
