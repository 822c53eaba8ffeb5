"""``gpu-spots simulate``: write a run with known truth.

Most options are made from the fields of the simulator's design, with their ranges and help texts.
"""

from collections.abc import Callable
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, TextIO, cast

import click

from gpu_spots.cli.errors import OPTIONS, OneLineCommand, debug_option
from gpu_spots.cli.headings import named_options, taken, write_options
from gpu_spots.cli.terminal import Stderr, say
from gpu_spots.errors import ParameterError, in_options
from gpu_spots.simulate.design import GROUPS, MAX_FRAMES, PRESETS, Design, make_design

NAME = "OUT__mccd.h5"
"""The output in the help and in messages."""
SECTIONS = {
    "Run": (
        "preset", "laser", "size", "angles", "pairs", "frames_per_angle", "delays", "step", "order",
        "interlaced", "seed",
    ),
    "Detector": ("gain", *(one.name for one in fields(GROUPS["detector"]))),
    "Beam and background": (
        "background", "drift", "jitter", *(one.name for one in fields(GROUPS["beam"])),
    ),
    "Spots": ("spots", "cutouts", *(one.name for one in fields(GROUPS["shape"]))),
    "Faults of pixels": (
        "hot_pixels", "dead_pixels", "zingers", *(one.name for one in fields(GROUPS["faults"])),
    ),
    "Output": ("compression", "force", "debug"),
}  # fmt: skip
"""Options by the headings of the help."""


class SimulateCommand(OneLineCommand):
    """Command whose help shows the options under headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one list of options for each heading."""
        options = named_options(self, ctx)
        sections = taken(options, SECTIONS)
        sections["Output"] += options.values()  # click's own: --help
        write_options(formatter, ctx, sections)


class Pair(click.ParamType[tuple[Any, Any]]):
    """Two numbers, ``A,B``, or one for both."""

    name = "pair"

    def __init__(self, kind: type[int] | type[float], low: float, high: float, names: str) -> None:
        self.kind, self.low, self.high, self.names = kind, low, high, names

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Any, Any]:
        """Return a pair: ``"512"`` gives (512, 512), ``"512,640"`` gives (512, 640)."""
        parts = value if isinstance(value, tuple) else str(value).split(",")
        try:
            numbers = [self.kind(part) for part in parts if len(str(part)) < 9]
        except ValueError:
            numbers = []
        right = len(numbers) == len(parts) <= 2
        if not right or not all(self.low <= number <= self.high for number in numbers):
            one, two = self.names.split(",")
            self.fail(
                f"{value!r} is not {one} or {one},{two} with numbers from {self.low:g} to "
                f"{self.high:g}.",
                param,
                ctx,
            )
        return numbers[0], numbers[-1]


PAIRS: dict[str, tuple[type[int] | type[float], str]] = {
    "size": (int, "ROWS,COLUMNS"),
    "modules": (int, "ROWS,COLUMNS"),
    "gaps": (int, "ROWS,COLUMNS"),
    "elongation": (float, "LOW,HIGH"),
}
"""Options that are two numbers: their type and what they are called."""
OTHERWISE = ("repeats",)
"""Fields of the design whose options are written below, with other names."""


def _option(one: Field[Any]) -> Any:
    """Return the option of a field of the design."""
    name, text = f"--{one.name.replace('_', '-')}", one.metadata["text"]
    low, high = one.metadata["range"]
    high = None if high == float("inf") else high
    if isinstance(one.default, bool):
        return click.option(
            f"{name}/--no-{name[2:]}" if one.default else name,
            is_flag=True,
            default=one.default,
            show_default=one.default,
            help=text,
        )
    kind: Any
    metavar = None
    if one.name in PAIRS:
        number, names = PAIRS[one.name]
        kind = Pair(number, low, high or 1e9, names)
        metavar = "{}[,{}]".format(*names.split(","))
    elif one.metadata["choices"]:
        kind = click.Choice(one.metadata["choices"])
    elif isinstance(one.default, float):
        kind = click.FloatRange(low, high)
    else:
        kind = click.IntRange(int(low), high and int(high))
    shown = one.default
    if isinstance(shown, tuple):
        shown = ",".join(f"{number:g}" for number in dict.fromkeys(shown))
    return click.option(
        name,
        type=kind,
        metavar=metavar,
        default=shown,
        show_default=one.default is not None and "[default" not in text,
        help=text,
    )


def _design_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for group in (Design, *GROUPS.values()):
        for one in fields(group):
            if "text" in one.metadata and one.name not in (*OTHERWISE, "angles", "spots"):
                command = _option(one)(command)
    return command


def _preset(ctx: click.Context, _: click.Parameter, value: str) -> str:
    """Make the options of the preset the defaults of the others."""
    ctx.default_map = {**(ctx.default_map or {}), **PRESETS[value]}
    return value


def _text(name: str, group: type = Design) -> str:
    return next(one.metadata["text"] for one in fields(group) if one.name == name)


COUNT = click.IntRange(1, MAX_FRAMES)


def _later(
    name: str, kind: str | click.ParamType[Any], shown: str, text: str
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that adds an option whose default depends on other options.

    ``kind``: type, or name of a text.
    """
    metavar, of_type = (kind, None) if isinstance(kind, str) else (None, kind)
    return click.option(name, type=of_type, metavar=metavar, show_default=shown, help=text)


@click.command(cls=SimulateCommand)
@click.argument("output", metavar=NAME, type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    default="marccd",
    show_default=True,
    is_eager=True,
    callback=_preset,
    help="Detector, or a run with all difficulties; other options change parts of it",
)
@click.option(
    "--laser/--dark",
    default=True,
    show_default=True,
    help="Laser-off and laser-on frames in pairs, or a run without laser",
)
@_later("--angles", COUNT, "10, or 60 for a dark run", _text("angles"))
@_later("--pairs", COUNT, "3", "Off/on pairs at each angle and delay of a laser run")
@_later("--frames-per-angle", COUNT, "1", "Frames at each angle of a dark run")
@_later(
    "--delays", "NAME[,NAME...]", "100ps",
    "Delays of a laser run; each has responses of its own",
)  # fmt: skip
@_later(
    "--order", click.Choice(["off-on", "on-off"]), "off-on",
    "Order of the frames in the pairs of a laser run",
)  # fmt: skip
@_later(
    "--spots", click.IntRange(0, 1_000_000), "200, fewer on frames below 347 pixels",
    _text("spots"),
)  # fmt: skip
@click.option(
    "--cutouts",
    type=click.Path(path_type=Path),
    metavar="IMAGE",
    default=None,
    help="Image file whose clear spots are the shapes of --profile cutouts",
)
@_design_options
@click.option(
    "--compression",
    type=click.Choice(["gzip", "lzf", "none"]),
    default="gzip",
    show_default=True,
    help="Compression of the frames",
)
@click.option("--force", is_flag=True, help="Overwrite an existing output file")
@debug_option
def simulate(
    output: Path,
    preset: str,
    laser: bool,
    size: tuple[int, int],
    angles: int | None,
    pairs: int | None,
    frames_per_angle: int | None,
    delays: str | None,
    order: str | None,
    spots: int | None,
    cutouts: Path | None,
    compression: str,
    force: bool,
    **options: Any,
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
    of_laser = {"--pairs": pairs, "--order": order, "--delays": delays}
    for name, value in of_laser.items():
        if not laser and value is not None:
            raise click.BadParameter(
                "can only be used with --laser; use --frames-per-angle for a dark run.",
                param_hint=name,
            )
    if cutouts is not None and options["profile"] != "cutouts":
        raise click.BadParameter("expected --profile cutouts with it.", param_hint="--cutouts")

    # Loaded here, so that --help is quick.
    from gpu_spots.files.images.image import read_image
    from gpu_spots.files.output.simulated_run import write_run
    from gpu_spots.simulate.profiles import cut_spots
    from gpu_spots.simulate.run import simulate_run

    given = options | {
        "laser": laser,
        "size": size,
        "angles": angles or (10 if laser else 60),
        "repeats": (pairs or 3) if laser else (frames_per_angle or 1),
        "spots": min(200, min(size) ** 2 // 600) if spots is None else spots,
        "on_first": order == "on-off",
    }
    if delays is not None:
        given["delays"] = tuple(delays.split(","))
    try:
        design = make_design(given, preset)
    except ParameterError as error:
        option = f"--{error.name.replace('_', '-')}"
        raise click.BadParameter(error.problem, param_hint=option) from error
    if design.n_frames > MAX_FRAMES:
        raise click.UsageError(
            f"the run has {design.n_frames} frames, expected at most {MAX_FRAMES}; decrease "
            "--angles",
            click.get_current_context(),
        )
    shapes = () if cutouts is None else cut_spots(read_image(cutouts).frame)
    run = simulate_run(design, shapes)
    with (
        in_options({**OPTIONS, "output": NAME}),
        click.progressbar(
            length=design.n_frames, label="Simulating", file=cast(TextIO, Stderr())
        ) as bar,
    ):
        write_run(output, run, compression=compression, force=force, progress=lambda: bar.update(1))
    kind = "laser" if laser else "dark"
    per_frame = design.spots + min(design.spots, design.shape.neighbours)
    say(
        f"{output}: {kind} run, {design.n_frames} frames of {size[0]} x {size[1]}, {design.angles} "
        f"angles, {per_frame} spots a frame, "
        f"{output.stat().st_size / 1e6:.1f} MB"
    )


ORDER = ["output", *(name for names in SECTIONS.values() for name in names)]
simulate.params.sort(key=lambda option: ORDER.index(str(option.name)))
