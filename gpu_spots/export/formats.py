"""All formats in their order, and the export of a spots file to one of them."""

from contextlib import nullcontext
from pathlib import Path

from gpu_spots.errors import OutputError, ParameterError
from gpu_spots.export.cleaned import Cleaned
from gpu_spots.export.csv import Csv
from gpu_spots.export.cxi import Cxi
from gpu_spots.export.format import ExportOptions, Format, Source, Target
from gpu_spots.export.imaged11 import ImageD11Columns, ImageD11Flt, ImageD11Sparse
from gpu_spots.export.lauetools import LaueTools
from gpu_spots.export.parquet import Parquet
from gpu_spots.export.pixel_peak_list import PixelPeakList
from gpu_spots.export.refl import Refl
from gpu_spots.files.output.frames_of_spots import recorded_inputs
from gpu_spots.files.output.new_file import check_output, complete_or_absent
from gpu_spots.files.output.spots_file import open_spots
from gpu_spots.protocols import Observer

FORMATS: dict[str, Format] = {
    one.name: one
    for one in (
        Csv(),
        Parquet(),
        Refl(),
        LaueTools(),
        ImageD11Flt(),
        ImageD11Columns(),
        ImageD11Sparse(),
        Cxi(),
        PixelPeakList(),
        Cleaned(),
    )
}
"""Formats by name, in the order of the help and of the documentation."""


def export_spots(
    spots: Path,
    format_name: str,
    output: Path | None,
    options: ExportOptions,
    observer: Observer,
    *,
    workers: int = 1,
    force: bool = False,
) -> tuple[Path, int, list[str]]:
    """Write a spots file in the format of another program.

    Args:
        spots: Spots file.
        format_name: One of `FORMATS`.
        output: File or folder to write. None: beside the spots file, with its name.
        options: Options of the format.
        observer: Is told of the progress.
        workers: Number of threads that read and compress frames.
        force: Whether an existing output is replaced.

    Returns:
        The output, the number of spots in the spots file, and lines for the user: what the file
        lacks, and what was left out.

    Raises:
        ParameterError: The format is unknown, or has no such option.
        InputError: The spots file or its frames cannot be read.
        OutputError: The output exists, cannot be written, or the format cannot hold the spots.
    """
    if format_name not in FORMATS:
        raise ParameterError("format", f"{format_name!r} is not one of {', '.join(FORMATS)}")
    chosen = FORMATS[format_name]
    for name in ExportOptions.__dataclass_fields__:
        if getattr(options, name) is not None and name not in chosen.options:
            users = [one.name for one in FORMATS.values() if name in one.options]
            shown = "distance" if name == "geometry" else name
            raise ParameterError(
                shown, f"cannot be used with {format_name}; it is for {', '.join(users)}"
            )
    output = output or default_output(spots, chosen)
    with open_spots(spots) as results:
        sources = [spots, *recorded_inputs(results)]
        sources += [options.frames_from] if options.frames_from else []
        chosen.check_output(output, sources, force)
        second = chosen.second_output(output, options)
        if second == output:
            raise OutputError(
                f"{output}: two outputs have the same name; name the table with another ending, "
                f"such as {output.stem}.refl"
            )
        if second is not None:
            check_output(second, sources, force)
        with (
            chosen.opened(output) as path,
            complete_or_absent(second) if second else nullcontext() as beside,
        ):
            source = Source(results, output, options, observer, workers)
            chosen.write(source, Target(path, str(output), beside))
        n_spots = results.n_spots
    return output, n_spots, source.notes


def default_output(spots: Path, chosen: Format) -> Path:
    """Return the name of the output: ``NAME`` of ``NAME__spots.h5`` and the format's ending."""
    stem = spots.name.removesuffix(spots.suffix).removesuffix("__spots")
    return spots.parent / (stem + chosen.ending)
