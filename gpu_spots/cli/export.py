"""``gpu-spots export``: a spots file in the formats of other programs."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gpu_spots.cli.errors import OneLineCommand, debug_option
from gpu_spots.cli.geometry_options import geometry_options
from gpu_spots.cli.output_options import (
    force_option,
    frames_from_option,
    output_option,
    quiet_option,
    spots_argument,
    threads_option,
)
from gpu_spots.cli.terminal import say
from gpu_spots.errors import ParameterError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from gpu_spots.export.format import Format


def _formats() -> "dict[str, Format]":
    # here, as the formats need NumPy, which loads slowly
    from gpu_spots.export.formats import FORMATS

    return FORMATS


def _format_name(ctx: click.Context, param: click.Parameter, value: str) -> str:
    """Return the name of a format. Raises `click.BadParameter` for any other."""
    if value not in _formats():
        raise click.BadParameter(f"{value!r} is not one of {', '.join(_formats())}.", ctx, param)
    return value


def _complete(_: click.Context, __: click.Parameter, incomplete: str) -> "list[CompletionItem]":
    """Return the names of formats that begin with the text before the cursor."""
    from click.shell_completion import CompletionItem

    return [
        CompletionItem(name, help=one.title)
        for name, one in _formats().items()
        if name.startswith(incomplete)
    ]


class ExportCommand(OneLineCommand):
    """Command whose help lists the formats."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of formats."""
        with formatter.section("Formats"):
            formatter.write_dl(
                [(one.name, f"{one.title}: {one.reader}") for one in _formats().values()]
            )


@click.command("export", cls=ExportCommand)
@click.argument("format_name", metavar="FORMAT", callback=_format_name, shell_complete=_complete)
@spots_argument
@output_option(
    "Output file, or folder for a format with one file per frame  "
    "[default: RUN and the ending of the format]"
)
@click.option(
    "--one-per-angle",
    metavar="off|on|N",
    help="refl: keep one frame of each angle: the first without or with laser, or the N-th one",
)
@frames_from_option
@geometry_options
@threads_option
@force_option
@quiet_option
@debug_option
def export(
    format_name: str,
    spots: Path,
    output: Path | None,
    one_per_angle: str | None,
    frames_from: Path | None,
    distance: float | None,
    pixel_size: str | None,
    beam_centre: str | None,
    wavelength: str | None,
    threads: int | None,
    force: bool,
    quiet: bool,
) -> None:
    """Write the spots of a run in the format of another program.

    The names and positions of pixels are those of that program. What its format cannot hold is
    left out.
    """
    # here, so that --help and wrong usage answer at once
    from gpu_spots.cli.progress import observer
    from gpu_spots.export.format import ExportOptions
    from gpu_spots.export.formats import export_spots
    from gpu_spots.geometry import geometry_of
    from gpu_spots.memory.workers import default_workers

    try:
        geometry = geometry_of(distance, pixel_size, beam_centre, wavelength)
        with observer(quiet) as watching:
            written, n_spots, notes = export_spots(
                spots,
                format_name,
                output,
                ExportOptions(one_per_angle, frames_from, geometry),
                watching,
                workers=threads or default_workers(),
                force=force,
            )
    except ParameterError as error:
        option = next((o for o in export.params if o.name == error.name), None)
        hint = "/".join(option.opts) if option else error.name
        raise click.BadParameter(error.problem, param_hint=hint) from error
    if not quiet:
        for note in notes:
            say(f"note: {note}")
        say(f"{written}: {n_spots} spots{_size(written)}")


def _size(path: Path) -> str:
    """Return the size of a file, or the number of files of a folder, in words."""
    if path.is_dir():
        return f", {len(list(path.iterdir()))} files"
    return f", {path.stat().st_size / 1e6:.1f} MB"
