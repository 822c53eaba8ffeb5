"""Commands ``gpu-spots find`` and ``lu_hdf2spots``: find the spots of a run.

They differ in their defaults, and ``gpu-spots find`` refuses options without effect. In the help,
the options of the manual come first.
"""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from gpu_spots import __version__
from gpu_spots.cli.completion import file_names, one_of
from gpu_spots.cli.device_options import DEVICE_OPTIONS, device_options
from gpu_spots.cli.errors import OneLineCommand, debug_option, naming_options
from gpu_spots.cli.headings import named_options, taken, write_options
from gpu_spots.cli.image_options import IMAGE_OPTIONS, image_options, take_images
from gpu_spots.cli.input_options import input_options, take_inputs
from gpu_spots.cli.output_options import PATH, quiet_option
from gpu_spots.cli.plan_options import plan_in_words, plan_options
from gpu_spots.cli.terminal import say, show
from gpu_spots.errors import ParameterError
from gpu_spots.parameters import (
    FINDERS,
    MANUAL_DEFAULTS,
    METHOD_NAMES,
    NORMALISATIONS,
    SYNCS,
    Parameters,
)

DEFAULTS = Parameters()
OURS = {
    "Input": ("frames_path", "angles_path", "laser_path", "table"),
    "Images and metadata": tuple(name for name in IMAGE_OPTIONS if name != "table"),
    "Background and masks": (
        "manual",
        "normalise",
        "finder",
        "significance",
        "streaks",
        "mask",
        "mask_good",
        "no_file_mask",
        "reject",
        "valid_range",
        "saturation",
    ),
    "Output": ("keep", "report", "force", "quiet", "debug", "version"),
    "Computing": (*DEVICE_OPTIONS, "memory_limit", "scratch", "batch", "dry_run"),
}
"""Options that the manual does not have, by their headings in the help."""
CONTEXT: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class FindCommand(OneLineCommand):
    """Command whose help shows the options of the manual first, then ours under their headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of the manual's options, and one list for each heading of ours."""
        options = named_options(self, ctx)
        ours = taken(options, OURS)
        # click appends --help; the manual begins with it
        manual = sorted(options.values(), key=lambda option: "--help" not in option.opts)
        write_options(formatter, ctx, {"Options": manual})
        with formatter.section("Options that are not in the manual of lu_hdf2spots"):
            write_options(formatter, ctx, ours)


def _structure(_: click.Context, __: click.Parameter, value: str) -> Any:
    """Return the numbers, or the text if it is not a list of numbers, which is refused later."""
    try:
        return tuple(int(part) for part in value.split(","))
    except ValueError:
        return value


def _manual(context: click.Context, _: click.Parameter, value: bool) -> bool:
    """Let the manual's values be the defaults of the options that are processed after this one."""
    if value:
        context.default_map = dict(MANUAL_DEFAULTS)
    return value


def _number(
    short: str, long: str, metavar: str, text: str
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that adds an option for a number of `Parameters`."""
    default = getattr(DEFAULTS, long[2:])
    return click.option(
        short, long, metavar=metavar, type=type(default), default=default, show_default=True,
        help=text,
    )  # fmt: skip


@click.command("find", cls=FindCommand, context_settings=CONTEXT, options_metavar="[options]")
@click.argument("sources", metavar="file__mccd.h5 | IMAGES...", nargs=-1, shell_complete=file_names)
@click.option(
    "-o",
    "--output",
    metavar="FO",
    type=PATH,
    help="output file (HDF5) name  [default: file__spots.h5]",
)
@click.option(
    "-m",
    "--method",
    metavar="METHOD",
    default=DEFAULTS.method,
    show_default=True,
    shell_complete=one_of(METHOD_NAMES),
    help=f"method used to estimate background level (allowed values: {', '.join(METHOD_NAMES)})",
)
@_number(
    "-n", "--n", "N",
    "percent of extreme values to skip while calculating average, standard deviation and IQR; "
    "0 means 25",
)  # fmt: skip
@_number("-A", "--alpha", "ALPHA", "alpha-value to use during Kruskal-Wallis test")
@_number("-c", "--cutoff", "CUTOFF", "cutoff used during mask definition")
@_number("-e", "--erosions", "N_EROSIONS", "number of erosions")
@_number("-d", "--dilations", "N_DILATIONS", "number of dilations")
@click.option(
    "-s", "--structure", metavar="STRUCTURE", callback=_structure, default="2,2", show_default=True,
    shell_complete=one_of(("2,1", "2,2")),
    help="rank,connectivity of the structuring element: 2,1 (cross) or 2,2 (square); see "
         "scipy.ndimage.generate_binary_structure",
)  # fmt: skip
@click.option(
    "-a", "--angles", metavar="ANGLES", type=int, default=DEFAULTS.angles, show_default=True,
    help="check for minimum number of angle values present in lauecollect/angle; 0: no check",
)  # fmt: skip
@click.option(
    "-S",
    "--sync",
    "sync",
    metavar="SYNC",
    default=DEFAULTS.sync,
    show_default=True,
    shell_complete=one_of(SYNCS),
    help=f"synchronize masks (allowed values: {', '.join(SYNCS)})",
)
@click.option(
    "-C",
    "--compression",
    metavar="COMPRESSION",
    default="gzip",
    show_default=True,
    help="compression algorithm",
)
@click.option(
    "--finder", metavar="HOW", default=DEFAULTS.finder, show_default=True,
    shell_complete=one_of(FINDERS),
    help=f"Method that finds spots (allowed values: {', '.join(FINDERS)})",
)  # fmt: skip
@click.option(
    "--significance", metavar="T", type=float, default=DEFAULTS.significance, show_default=True,
    help="Standard deviations above the background from which on --finder matched finds a spot",
)  # fmt: skip
@click.option(
    "--streaks", is_flag=True, help="Let --finder matched look for lines as well as round spots"
)
@click.option(
    "--manual", is_flag=True, is_eager=True, expose_value=False, callback=_manual,
    help="Use the defaults of the manual, as lu_hdf2spots does: "
    "-m {method} --finder {finder} --normalise {normalise}".format(**MANUAL_DEFAULTS),
)  # fmt: skip
@input_options
@image_options
@click.option(
    "--normalise", metavar="HOW", default=DEFAULTS.normalise, show_default=True,
    shell_complete=one_of(NORMALISATIONS),
    help="Scale the background of each frame, against drift of the beam: to a common level, or to "
    "a surface, for backgrounds that change their shape "
    f"(allowed values: {', '.join(NORMALISATIONS)})",
)  # fmt: skip
@device_options
@plan_options
@click.option(
    "--report",
    is_flag=True,
    help="Write a report too, RUN__report.html beside the output; see gpu-spots report",
)
@click.option("--force", is_flag=True, help="Overwrite an existing output file")
@quiet_option
@debug_option
@click.version_option(__version__, help="Show the version and exit")
def find(
    sources: tuple[str, ...],
    output: Path | None,
    **options: Any,
) -> None:
    """Find the spots of a Laue diffraction run.

    Calculates the background of each pixel from all frames, and its noise. Finds the spots by the
    significance of smoothed frames, or of the sums of pairs and blocks (-S), and integrates them on
    every frame. Writes statistics, masks, labels and the table of spots to the output.

    --manual gives the defaults of lu_hdf2spots, which finds spots by a threshold for each pixel.
    """
    _find(sources, output, options, Parameters.__dataclass_fields__)


def _lu_hdf2spots(sources: tuple[str, ...], output: Path | None, **options: Any) -> None:
    """Find the spots of a run with the defaults of the manual.

    Options of the manual that have no effect are accepted.
    """
    _find(sources, output, options, ("significance", "streaks"))


lu_hdf2spots = FindCommand(
    "lu_hdf2spots",
    callback=_lu_hdf2spots,
    params=[option for option in find.params if option.name != "manual"],
    help="""Find the spots of a Laue diffraction run.

    Calculates the background of each pixel from all frames, marks the pixels significantly above
    it, cleans these masks by erosions and dilations, and labels and integrates the spots. Writes
    statistics, masks, labels and the table of spots to the output.
    """,
    context_settings={**CONTEXT, "default_map": MANUAL_DEFAULTS},
    options_metavar="[options]",
)


def _find(
    sources: tuple[str, ...],
    output: Path | None,
    options: dict[str, Any],
    must_be_used: Iterable[str],
) -> None:
    """Make the parameters from the options, and run."""
    images, inputs, parameters = take_request(sources, options, must_be_used)
    with naming_options():
        _run(sources, images, inputs, output, parameters, **options)


def take_request(
    sources: tuple[str, ...],
    options: dict[str, Any],
    must_be_used: Iterable[str] = Parameters.__dataclass_fields__,
) -> tuple[dict[str, Any] | None, Any, Parameters]:
    """Take what is to be computed out of the options of the running command.

    Args:
        sources: arguments of the command.
        options: values of its options, by name.
        must_be_used: parameters that are refused if they are given and have no effect.

    Returns:
        Arguments of an `ImageRequest`, or None for an HDF5 file; `Inputs`; and `Parameters`.

    Raises:
        click.UsageError: a value is not allowed, or options do not go together.
    """
    context = click.get_current_context()
    with naming_options():
        images = take_images(sources, options)
        inputs = take_inputs(options, images is None)
        parameters = Parameters(
            **{field.name: options.pop(field.name) for field in fields(Parameters)}
        )
    try:
        parameters.check_used(
            name
            for name in must_be_used
            if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        )
    except ParameterError as error:
        (names,) = (option.opts for option in context.command.params if option.name == error.name)
        raise click.UsageError(f"{'/'.join(names)} {error.problem}", context) from error
    return images, inputs, parameters


def _run(
    sources: tuple[str, ...],
    images: dict[str, Any] | None,
    inputs: Any,
    output: Path | None,
    parameters: Parameters,
    *,
    compression: str,
    backend: str,
    threads: int | None,
    device: tuple[int, ...] | None,
    device_memory_limit: int | None,
    memory_limit: int | None,
    batch: int | None,
    scratch: Path | None,
    keep: frozenset[str],
    report: bool,
    force: bool,
    quiet: bool,
    dry_run: bool,
) -> None:
    # here, so that --help and wrong usage answer at once
    from gpu_spots.backend import choose_backend
    from gpu_spots.cli.allocator import keep_freed_memory
    from gpu_spots.cli.progress import observer
    from gpu_spots.files.images import image_list
    from gpu_spots.files.opening import open_stack
    from gpu_spots.files.output.new_file import check_output
    from gpu_spots.memory.plan import ResourceLimits
    from gpu_spots.resources import Resources
    from gpu_spots.run import (
        Output,
        default_output,
        expected_size,
        find_to_file,
        plan_to_file,
        spool_for,
    )

    keep_freed_memory()
    frames: Path | image_list.ImageRequest
    if images is None:
        frames = Path(sources[0])
        output = output or default_output(frames)
    else:
        frames = image_list.ImageRequest(**images)
        output = output or image_list.default_output(frames, "spots")
        check_output(output, frames.named, force or dry_run)  # before images are looked at
    if report:
        from gpu_spots.reporting.write import check_report, write_report
        from gpu_spots.reporting.write import default_output as report_output

        page = report_output(output)
        check_report(page, [], force=force or dry_run)
    results = Output(output, compression, keep, force)
    chosen, note = choose_backend(backend, threads, device, device_memory_limit)
    resources = Resources(chosen, ResourceLimits(memory_limit, batch), spool_for(output, scratch))
    with ExitStack() as opened:
        with observer(quiet or images is None) as watching:
            stack = opened.enter_context(open_stack(frames, inputs, watching, chosen.workers))
        if not quiet:
            shape = " x ".join(map(str, stack.shape[1:]))
            counted = f"{stack.shape[0]} frame{'s' * (stack.shape[0] != 1)}"
            say(
                f"{stack.source}: {counted} of {shape}, {stack.dtype}; computing on "
                f"{chosen.device}{'; ' * bool(note)}{note or ''}"
            )
        if dry_run:
            plan = plan_to_file(stack, parameters, resources, results)
            size = expected_size(stack, parameters, keep)
            must_force = output.exists() and not force
            for line in plan_in_words(plan, output, size, must_force):
                show(line)
            return
        with observer(quiet) as watching:
            summary = find_to_file(stack, parameters, resources, results, watching)
    verdict = write_report(output, page, force=force) if report else None
    if quiet:
        return
    least, median, most = summary.spots_per_frame
    seconds = sum(summary.seconds.values())
    stages = ", ".join(f"{name} {time:.1f} s" for name, time in summary.seconds.items())
    per_frame = f"min {least}, median {median:g}, max {most}"
    say(f"{summary.n_spots} spots on {summary.n_frames} frames (per frame: {per_frame})")
    if summary.scales:
        least_scale, most_scale = summary.scales
        if summary.method.scales_frames:
            say(f"frames were scaled by {least_scale:.3f} to {most_scale:.3f}")
        else:  # the scale of a frame is that of its background, the other way round
            say(f"the background was scaled by {1 / most_scale:.3f} to {1 / least_scale:.3f}")
    if summary.shape_change is not None:
        say(f"the shape of the background changes by {100 * summary.shape_change:.2f} % rms")
    if summary.outcome:
        say(summary.outcome.summary)
    if summary.noise:
        say(summary.noise.words())
    say(f"{seconds:.1f} s ({summary.n_bytes / seconds / 1e6:.0f} MB/s): {stages}")
    say(f"{output}: {output.stat().st_size / 1e6:.1f} MB")
    if verdict:
        say(f"{page}: {verdict.sentence}")
