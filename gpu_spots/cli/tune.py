"""Command ``gpu-spots tune``: spots and expected false spots at several values of an option."""

import json
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import click.core

from gpu_spots.cli.completion import file_names
from gpu_spots.cli.device_options import DEVICE_OPTIONS, device_options
from gpu_spots.cli.errors import OneLineCommand, debug_option, naming_options
from gpu_spots.cli.find import find
from gpu_spots.cli.input_options import NAMES as INPUT_NAMES
from gpu_spots.cli.input_options import as_arguments, input_options, take_inputs
from gpu_spots.cli.output_options import frames_from_option
from gpu_spots.cli.terminal import show
from gpu_spots.parameters import Parameters

if TYPE_CHECKING:
    from gpu_spots.backend import Backend
    from gpu_spots.tuning.sweep import Tried
    from gpu_spots.tuning.tuner import TunableRun

OF_FINDER = ("finder", "cutoff", "erosions", "dilations", "structure", "significance", "streaks")
"""Options of find that can be changed for a run with a known background."""
OF_BACKGROUND = ("method", "n", "alpha", "angles", "sync", "normalise")
"""Options of find that the background and the groups of frames follow from."""
MOST_VALUES = 200
"""Largest number of values."""


def _values(_: click.Context, __: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    """Return ascending values from LOW:HIGH:STEP or a list."""
    if value is None:
        return None
    try:
        if ":" in value:
            low, high, step = (float(part) for part in value.split(":"))
            number = math.floor((high - low) / step + 1e-9) + 1 if step > 0 else 0
            found = [round(low + i * step, 10) for i in range(min(number, MOST_VALUES + 1))]
        else:
            found = [float(part) for part in value.split(",")]
    except (ValueError, OverflowError):
        found = []
    if not 1 <= len(found) <= MOST_VALUES:
        raise click.BadParameter(
            f"{value!r} is not LOW:HIGH:STEP with at most {MOST_VALUES} values, or a list such as "
            "4,5,6"
        )
    return tuple(sorted(set(found)))


def _frames(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """Return indices of frames from a list."""
    try:
        return None if value is None else tuple(int(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a list of frames such as 0,12,40") from None


def _options_of_find(command: Any) -> Any:
    """Add the options of find for the background and the finder."""
    options = {option.name: option for option in find.params}
    for name in reversed((*OF_FINDER, *OF_BACKGROUND)):
        click.decorators._param_memo(command, options[name])
    return command


@click.command("tune", cls=OneLineCommand)
@click.argument(
    "run",
    metavar="RUN__spots.h5|RUN__mccd.h5",
    type=click.Path(path_type=Path),
    shell_complete=file_names,
)
@click.option(
    "--values",
    metavar="LOW:HIGH:STEP|LIST",
    callback=_values,
    help="Values of --significance, or of -c with --finder threshold, that are tried  "
    "[default: 4:8:0.5, or 2:6:0.5]",
)
@click.option(
    "--n-frames",
    type=click.IntRange(1, 1000),
    default=5,
    show_default=True,
    help="Number of frames, spread over the run",
)
@click.option(
    "--only",
    metavar="LIST",
    callback=_frames,
    help="Indices of the frames, such as 0,12,40, in the place of --n-frames",
)
@click.option(
    "--most-false",
    metavar="PERCENT",
    type=click.FloatRange(0, 100),
    default=1.0,
    show_default=True,
    help="Largest percentage of false spots that is recommended",
)
@frames_from_option
@_options_of_find
@input_options
@device_options
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON")
@click.option("--quiet", is_flag=True, help="Print no progress")
@debug_option
def tune(
    run: Path,
    values: tuple[float, ...] | None,
    n_frames: int,
    only: tuple[int, ...] | None,
    most_false: float,
    frames_from: Path | None,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Try values of the cutoff or of the significance on some frames of a run.

    Prints the number of spots at each value, and how many of them are expected to be false: as many
    as are found in frames that have the same noise, but no spots. Recommends the smallest value
    with few false spots, and prints the command.

    With a spots file, the background is the one stored there, and the answer takes seconds. With a
    run, the background is calculated first, from all frames, with the options of find.
    """
    context = click.get_current_context()
    given = {
        name
        for name in (*OF_FINDER, *OF_BACKGROUND, *INPUT_NAMES)
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    }
    # here, so that --help and wrong usage answer at once
    from gpu_spots.backend import choose_backend
    from gpu_spots.cli.find_command import find_command, output_beside
    from gpu_spots.cli.progress import observer
    from gpu_spots.errors import InputError
    from gpu_spots.tuning.sweep import (
        DEFAULT_VALUES,
        OPTION_OF_FINDER,
        chosen_frames,
        recommended,
        sweep,
        with_value,
    )
    from gpu_spots.tuning.tuner import Tuner

    if only is not None and context.get_parameter_source("n_frames") is (
        click.core.ParameterSource.COMMANDLINE
    ):
        raise click.UsageError("--only cannot be used with --n-frames; choose one", context)
    device = {name: options.pop(name) for name in DEVICE_OPTIONS}
    with naming_options(), ExitStack() as opened:
        backend, _ = choose_backend(**{_ARGUMENT.get(key, key): v for key, v in device.items()})
        tunable, parameters, sources, words = opened.enter_context(
            _tunable(run, frames_from, options, given, backend, quiet=quiet)
        )
        tried_values = DEFAULT_VALUES[parameters.finder] if values is None else values
        frames = list(only) if only is not None else chosen_frames(tunable.groups, n_frames)
        total = len(tunable.groups.mask_of_frame)
        for frame in frames:
            if not 0 <= frame < total:
                raise InputError(f"{run}: --only: found frame {frame}, expected 0 to {total - 1}")
        for value in tried_values:
            with_value(parameters, value)  # before frames are read
        with observer(quiet) as watching:
            watching.stage("masks", len(frames) * len(tried_values), "masks")
            tuner = Tuner(tunable, backend)
            tried = sweep(tuner, parameters, frames, tried_values, watching.advance)
    good, why = recommended(tried, most_false / 100)
    option = OPTION_OF_FINDER[parameters.finder]
    command = None
    if good is not None:
        command = find_command(
            sources, words, with_value(parameters, good.value), output_beside(str(run))
        )
    if as_json:
        found = {
            "file": str(run),
            "finder": parameters.finder,
            "option": option,
            "frames": frames,
            "tried": [
                {"value": one.value, "spots": one.n_spots, "false": one.n_false} for one in tried
            ],
            "recommended": None if good is None else good.value,
            "reason": why,
            "command": command,
        }
        for line in json.dumps(found, indent=2).splitlines():
            show(line)
        return
    for line in _table(tried, option, frames, good):
        show(line)
    show(f"recommended: {'none' if good is None else f'--{option} {good.value:g}'}; {why}")
    if command is not None:
        show(command)


_ARGUMENT = {"backend": "name"}


@contextmanager
def _tunable(
    path: Path,
    frames_from: Path | None,
    options: dict[str, Any],
    given: set[str],
    backend: "Backend",
    *,
    quiet: bool,
) -> "Iterator[tuple[TunableRun, Parameters, list[str], list[str]]]":
    """Yield the run, the options, names of the run's files, and words of options of the input."""
    from gpu_spots.cli.find_command import recorded_inputs
    from gpu_spots.files.frames import open_hdf5
    from gpu_spots.files.output.frames_of_spots import open_frames
    from gpu_spots.files.output.spots_file import SpotsFile
    from gpu_spots.files.output.spots_summary import is_spots_file
    from gpu_spots.tuning.tuner import run_of_results

    with ExitStack() as opened:
        file = opened.enter_context(open_hdf5(path))
        if not options["frames_path"] and is_spots_file(file):
            for name in (*OF_BACKGROUND, *INPUT_NAMES):
                if name in given:
                    raise click.UsageError(
                        f"{_option(name)} cannot be used with a spots file, whose background is "
                        "known; give the run itself",
                        click.get_current_context(),
                    )
            results = SpotsFile(file)
            stack = opened.enter_context(open_frames(results, frames_from))
            run = run_of_results(results, stack)
            parameters = _changed(run.parameters, options, given)
            yield run, parameters, *recorded_inputs(results.info, stack)
            return
        file.close()
        if frames_from is not None:
            raise click.UsageError(
                "--frames-from can only be used with a spots file", click.get_current_context()
            )
        words = as_arguments(tune, options, INPUT_NAMES)
        inputs = take_inputs(options)
        parameters = Parameters(**{field.name: options[field.name] for field in fields(Parameters)})
        run = _learnt(path, inputs, parameters, backend, opened, quiet=quiet)
        yield run, parameters, [str(path)], words


def _learnt(
    path: Path,
    inputs: Any,
    parameters: Parameters,
    backend: "Backend",
    opened: ExitStack,
    *,
    quiet: bool,
) -> "TunableRun":
    """Return a run whose background is calculated."""
    from gpu_spots.cli.allocator import keep_freed_memory
    from gpu_spots.cli.progress import observer
    from gpu_spots.files.opening import open_stack
    from gpu_spots.memory.workers import Stopwatch
    from gpu_spots.pipeline import groups_of, learn_background
    from gpu_spots.resources import Resources
    from gpu_spots.tuning.frame_cache import FrameCache
    from gpu_spots.tuning.tuner import TunableRun

    keep_freed_memory()
    with observer(quiet) as watching:
        stack = opened.enter_context(open_stack(path, inputs, watching, backend.workers))
        with ExitStack() as reading:
            source, method, background, _ = learn_background(
                stack, parameters, Resources(backend), watching, Stopwatch(), reading
            )
            factors = source.factors
    return TunableRun(
        name=str(path),
        frames=FrameCache(stack),
        parameters=parameters,
        method=method,
        background=background,
        groups=groups_of(stack, parameters),
        values=stack.validity,
        factors=factors,
    )


def _changed(parameters: Parameters, options: dict[str, Any], given: set[str]) -> Parameters:
    """Return options of a spots file with those that were given."""
    values = {field.name: getattr(parameters, field.name) for field in fields(Parameters)}
    return Parameters(**{**values, **{name: options[name] for name in OF_FINDER if name in given}})


def _option(name: str) -> str:
    (found,) = (option for option in tune.params if option.name == name)
    return "/".join(found.opts)


def _table(
    tried: "list[Tried]", option: str, frames: list[int], good: "Tried | None"
) -> Iterator[str]:
    """Yield the lines of the table."""
    n = len(frames)
    shown = ", ".join(map(str, frames[:8])) + ", ..." * (n > 8)
    yield f"{n} frame{'s' * (n != 1)}: {shown}"
    yield f"{option:>12}  {'spots':>8}  {'false':>8}  {'false, %':>8}"
    for one in tried:
        share = f"{100 * one.share:.1f}" if one.n_spots else "-"
        mark = "  <-" if one is good else ""
        yield f"{one.value:12g}  {one.n_spots:8d}  {one.n_false:8d}  {share:>8}{mark}"
