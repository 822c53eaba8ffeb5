"""``gpu-spots report``: one page about a run, with a verdict, charts and pictures."""

from pathlib import Path

import click

from gpu_spots.cli.errors import OneLineCommand, debug_option
from gpu_spots.cli.output_options import (
    force_option,
    frames_from_option,
    output_option,
    spots_argument,
)
from gpu_spots.cli.terminal import say, show


@click.command("report", cls=OneLineCommand)
@spots_argument
@output_option(
    "Page to write; its numbers get the same name with the ending .json  "
    "[default: RUN__report.html]",
    metavar="OUT.html",
)
@frames_from_option
@force_option
@debug_option
def report(
    spots: Path,
    output: Path | None,
    frames_from: Path | None,
    force: bool,
) -> None:
    """Write a page about a run: a verdict, charts, pictures, and how the spots were found.

    The page is one file that needs no network. It opens in any browser, and can be printed. A file
    with all of its numbers is written beside it. The verdict is printed too.
    """
    # here, so that --help and wrong usage answer at once
    from gpu_spots.reporting.write import default_output, write_report

    path = output or default_output(spots)
    found = write_report(spots, path, frames_from, force=force)
    show(found.sentence)
    for one in found.findings:
        show(f"{one.level}: {one.title}: {one.text}")
    say(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
