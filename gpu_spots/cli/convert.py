"""Command ``gpu-spots convert``: write images and their metadata as one HDF5 file."""

from pathlib import Path
from typing import Any

import click

from gpu_spots.cli.completion import file_names
from gpu_spots.cli.errors import OneLineCommand, debug_option, naming_options
from gpu_spots.cli.image_options import image_options, image_request
from gpu_spots.cli.input_options import TABLE
from gpu_spots.cli.output_options import PATH, quiet_option
from gpu_spots.cli.terminal import say
from gpu_spots.errors import InputError


@click.command(cls=OneLineCommand)
@click.argument("sources", metavar="scan.log | IMAGES...", nargs=-1, shell_complete=file_names)
@click.option(
    "-o",
    "--output",
    metavar="FO",
    type=PATH,
    help="Output file (HDF5)  [default: scan__mccd.h5]",
)
@TABLE
@image_options
@click.option(
    "--threads",
    metavar="N",
    type=click.IntRange(1, 10_000),
    help="Threads that read and compress  [default: one per core]",
)
@click.option("--force", is_flag=True, help="Overwrite an existing output file")
@quiet_option
@debug_option
def convert(
    sources: tuple[str, ...],
    output: Path | None,
    threads: int | None,
    force: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Write a run of images as one HDF5 file for find.

    Give a Lauecollect log, which lists the images and their metadata. Or give the images (MarCCD,
    TIFF, CBF, EDF, ...; also compressed by gzip or bzip2) or, in quotes, a pattern of their names.
    Angles and laser states of such images come from a table (--table), from the names
    (--name-pattern), or from --angle-step and --laser.
    """
    with naming_options():
        _run(image_request(sources, options), output, threads, force, quiet)


def _run(
    images: dict[str, Any], output: Path | None, threads: int | None, force: bool, quiet: bool
) -> None:
    # here, so that --help and wrong usage answer at once
    from gpu_spots.cli.progress import observer
    from gpu_spots.files.images.image_list import ImageRequest, default_output
    from gpu_spots.files.images.image_stack import open_images
    from gpu_spots.files.output.converted import write_converted
    from gpu_spots.files.output.new_file import check_output
    from gpu_spots.memory.workers import default_workers

    request = ImageRequest(**images)
    output = output or default_output(request, "mccd")
    workers = threads or default_workers()
    check_output(output, request.named, force)  # before anything is read
    with observer(quiet) as watching:
        stack = open_images(request, watching, workers)
        known = _known(stack, watching)
        write_converted(stack, output, watching, workers, force=force)
    if not quiet:
        n_frames, n_rows, n_columns = stack.shape
        say(
            f"{output}: {n_frames} frame{'s' * (n_frames != 1)} of {n_rows} x {n_columns}, "
            f"{stack.dtype}, {known}, "
            f"{output.stat().st_size / 1e6:.1f} MB"
        )


def _known(stack: Any, observer: Any) -> str:
    """Return angles and laser states in words, and warn of metadata that find would refuse."""
    from gpu_spots.masks import grouping

    n_frames = stack.shape[0]
    keys = states = None
    try:
        if "angle" in stack.columns:
            keys = grouping.angle_keys(stack.columns, n_frames, stack.source)
        states = grouping.laser_states(stack.columns, n_frames, stack.source)
    except InputError as error:
        observer.warn(str(error))
    n_angles = 0 if keys is None else grouping.blocks(keys).n_masks
    angles = f"{n_angles or 'no'} angle{'s' * (n_angles != 1)}"
    if states is None:
        return f"{angles}, laser states unknown"
    if not grouping.is_laser_run(states):
        return f"{angles}, laser {'on' if states.any() else 'off'}"
    if keys is None:
        return f"{angles}, laser on for {states.sum()} of {n_frames} frames"
    paired = grouping.pairs(keys, states)
    alone = f" and {paired.n_unpaired} frames without a partner" if paired.n_unpaired else ""
    n_pairs = paired.n_masks - paired.n_unpaired
    return f"{angles}, {n_pairs} off/on pair{'s' * (n_pairs != 1)}{alone}"
