"""``gpu-spots report``: one page about a run, with a verdict, charts and pictures."""

from pathlib import Path

import click

from gpu_spots.cli.completion import file_names
from gpu_spots.cli.errors import OneLineCommand
from gpu_spots.cli.terminal import say, show


@click.command("report", cls=OneLineCommand)
@click.argument(
    "spots",
    metavar="RUN__spots.h5",
    type=click.Path(path_type=Path),
    shell_complete=file_names,
)
@click.option(
    "-o",
    "--output",
    metavar="OUT.html",
    type=click.Path(path_type=Path),
    help="Page to write; its numbers get the same name with the ending .json  "
    "[default: RUN__report.html]",
)
@click.option(
    "--frames-from",
    metavar="FILE|FOLDER",
    type=click.Path(path_type=Path),
    shell_complete=file_names,
    help="HDF5 file with the frames of the run, or folder of its images  "
    "[default: as RUN__spots.h5 names them]",
)
@click.option("--force", is_flag=True, help="Overwrite existing outputs")
@click.option("--debug", is_flag=True, help="Show the traceback of an error")
def report(
    spots: Path,
    output: Path | None,
    frames_from: Path | None,
    force: bool,
    debug: bool,  # looked for where errors end
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
