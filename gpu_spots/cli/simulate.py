"""``gpu-spots simulate``: write a run with known truth."""

from pathlib import Path
from typing import TextIO, cast

import click

from gpu_spots.cli.terminal import Stderr, say

MOST_FRAMES = 1_000_000
"""Largest number of frames of a simulated run."""


def _frame_size(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, int]:
    """``"512"`` gives (512, 512), ``"512,640"`` gives (512, 640)."""
    parts = value.split(",")
    sizes = [int(part) if part.strip().isdecimal() and len(part) < 9 else 0 for part in parts]
    if len(sizes) > 2 or not all(32 <= size <= 16384 for size in sizes):
        raise click.BadParameter(
            f"{value!r} is not ROWS or ROWS,COLUMNS with numbers from 32 to 16384.", ctx, param
        )
    return sizes[0], sizes[-1]


@click.command()
@click.argument("output", metavar="OUT__mccd.h5", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--laser/--dark",
    default=True,
    show_default=True,
    help="Laser-off and laser-on frames in pairs, or a run without laser",
)
@click.option(
    "--size",
    callback=_frame_size,
    metavar="ROWS[,COLUMNS]",
    default="1024",
    show_default=True,
    help="Size of a frame, 32 to 16384 each",
)
@click.option(
    "--angles",
    type=click.IntRange(1, MOST_FRAMES),
    default=None,
    show_default="10, or 60 for a dark run",
    help="Number of angles; each has its own spots",
)
@click.option(
    "--pairs",
    type=click.IntRange(1, MOST_FRAMES),
    default=None,
    show_default="3",
    help="Off/on pairs at each angle of a laser run",
)
@click.option(
    "--frames-per-angle",
    type=click.IntRange(1, MOST_FRAMES),
    default=None,
    show_default="1",
    help="Frames at each angle of a dark run",
)
@click.option(
    "--spots",
    type=click.IntRange(0, 1_000_000),
    default=None,
    show_default="200, fewer on frames below 347 pixels",
    help="Spots on each frame, of which slightly less than half are strong enough to be found",
)
@click.option(
    "--background",
    type=click.FloatRange(0, 60000),
    default=1000.0,
    show_default=True,
    help="Background at the liquid ring, counts above the bias",
)
@click.option(
    "--drift",
    type=click.FloatRange(0, 20),
    default=0.0,
    show_default=True,
    help="Change of the beam from frame to frame, percent rms, most of it slow; about 0.9 in real runs",
)
@click.option(
    "--step",
    type=click.FloatRange(0.001, 360),
    default=1.0,
    show_default=True,
    help="Difference between successive angles, degrees",
)
@click.option(
    "--order",
    type=click.Choice(["off-on", "on-off"]),
    default=None,
    show_default="off-on",
    help="Order of the frames in the pairs of a laser run",
)
@click.option(
    "--interlaced",
    is_flag=True,
    help="Visit the angles in two passes: every second one, then the others",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=0,
    show_default=True,
    help="Seed of the random numbers; equal seeds give equal runs",
)
@click.option(
    "--compression",
    type=click.Choice(["gzip", "lzf", "none"]),
    default="gzip",
    show_default=True,
    help="Compression of the frames",
)
@click.option("--force", is_flag=True, help="Overwrite an existing output file")
def simulate(
    output: Path,
    laser: bool,
    size: tuple[int, int],
    angles: int | None,
    pairs: int | None,
    frames_per_angle: int | None,
    spots: int | None,
    background: float,
    drift: float,
    step: float,
    order: str | None,
    interlaced: bool,
    seed: int,
    compression: str,
    force: bool,
) -> None:
    """Write a Laue run whose spots are known, to try the program on and to score it.

    The file is one that find reads, with the truth beside the frames. By default: a laser run of 60
    frames of 1024 x 1024 pixels, 10 angles with 3 off/on pairs each.
    """
    if laser and frames_per_angle is not None:
        raise click.BadParameter(
            "can only be used with --dark; use --pairs for a laser run.",
            param_hint="--frames-per-angle",
        )
    if not laser and (pairs is not None or order is not None):
        raise click.BadParameter(
            "can only be used with --laser; use --frames-per-angle for a dark run.",
            param_hint="--order" if pairs is None else "--pairs",
        )

    # Loaded here, so that --help is quick.
    from gpu_spots.files.output.simulated_run import write_run
    from gpu_spots.simulate.run import Design, simulate_run

    design = Design(
        laser=laser,
        size=size,
        angles=angles or (10 if laser else 60),
        repeats=(pairs or 3) if laser else (frames_per_angle or 1),
        spots=min(200, min(size) ** 2 // 600) if spots is None else spots,
        background=background,
        drift=drift,
        step=step,
        on_first=order == "on-off",
        interlaced=interlaced,
        seed=seed,
    )
    if design.n_frames > MOST_FRAMES:
        raise click.UsageError(
            f"the run has {design.n_frames} frames, expected at most {MOST_FRAMES}; decrease --angles",
            click.get_current_context(),
        )
    with click.progressbar(
        length=design.n_frames, label="Simulating", file=cast(TextIO, Stderr())
    ) as bar:
        write_run(
            output,
            simulate_run(design),
            compression=compression,
            force=force,
            progress=lambda: bar.update(1),
        )
    kind = "laser" if laser else "dark"
    say(
        f"{output}: {kind} run, {design.n_frames} frames of {size[0]} x {size[1]}, {design.angles} angles, {design.spots} spots a frame, "
        f"{output.stat().st_size / 1e6:.1f} MB"
    )
