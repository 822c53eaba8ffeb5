"""Options of the commands for many runs: the runs, their processing, and the computers."""

import itertools
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from gpu_spots.cli.completion import file_names
from gpu_spots.cli.errors import OneLineCommand, debug_option
from gpu_spots.cli.export import export
from gpu_spots.cli.headings import named_options, taken, write_options
from gpu_spots.cli.output_options import quiet_option
from gpu_spots.cli.words import check_words, find_options, option_words, without_effect
from gpu_spots.errors import GpuSpotsError

if TYPE_CHECKING:
    from gpu_spots.beamtime.cluster import SlurmJobs
    from gpu_spots.beamtime.computers import Computers
    from gpu_spots.beamtime.runs import Search
    from gpu_spots.beamtime.task import Processing

Command = TypeVar("Command", bound=Callable[..., Any])

BY_THE_BATCH = ("log", "device")
"""Options of find that the batch gives to each run, from its own options."""
PASSED = {name: one for name, one in find_options().items() if name not in BY_THE_BATCH}
"""Options of find that are given to all runs."""
SECTIONS = {
    "Runs": ("pattern", "exclude"),
    "Results": ("out", "ratios", "export", "report", "force", "quiet", "debug"),
    "Options of each run": ("dark_options", "laser_options"),
    "Computers": ("jobs", "device", "scheduler", "slurm", "slurm_option", "print_job"),
}
"""Own options by the headings of the help."""


class RunsCommand(OneLineCommand):
    """Command whose help shows its own options under headings, then those of find."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one list of options for each heading."""
        own = {
            name: option for name, option in named_options(self, ctx).items() if name not in PASSED
        }
        sections = taken(own, SECTIONS)
        sections["Runs"] += own.values()
        write_options(formatter, ctx, sections)
        write_options(formatter, ctx, {"Options of gpu-spots find, for all runs": PASSED.values()})


def _passed(option: click.Option) -> click.Option:
    """Return an option of find that takes any text, which the command of each run reads."""
    if option.is_flag:
        return click.Option([str(option.name), *option.opts], is_flag=True, help=option.help)
    return click.Option(
        [str(option.name), *option.opts],
        type=str,
        multiple=option.multiple,
        metavar=option.metavar,
        help=option.help,
        shell_complete=option._custom_shell_complete,
    )


def run_options(command: Command) -> Command:
    """Add the options to a command."""
    options = (
        click.option(
            "-o", "--out", metavar="DIR", required=True,
            type=click.Path(path_type=Path, file_okay=False, readable=False),
            help="Folder of the results, which is made; folders below it are those of the runs",
        ),
        click.option(
            "--pattern", metavar="GLOB", multiple=True,
            help="Files that are runs, such as '*__mccd.h5'; may be repeated  "
            "[default: HDF5 files, and Lauecollect logs]",
        ),
        click.option(
            "--exclude", metavar="GLOB", multiple=True,
            help="Files or folders to leave out; may be repeated",
        ),
        click.option(
            "--dark-options", metavar="'OPTIONS'",
            help="Further options of find for runs without laser-on frames",
        ),
        click.option(
            "--laser-options", metavar="'OPTIONS'",
            help="Further options of find for runs with laser-on frames, such as '-S blocks'",
        ),
        click.option("--ratios", is_flag=True, help="Write the on/off ratios of laser runs"),
        click.option(
            "--export", metavar="FORMAT", multiple=True,
            help="Write the spots in a format of gpu-spots export too; may be repeated",
        ),
        click.option("--report", is_flag=True, help="Write a report of each run"),
        click.option(
            "--jobs", metavar="N", type=click.IntRange(1, 10_000),
            help="Runs that are processed at the same time, or Slurm jobs  "
            "[default: one per GPU, or per 2 cores]",
        ),
        click.option(
            "--device", metavar="LIST",
            help="Numbers of the GPUs, such as 0,1; each does runs of its own  [default: all]",
        ),
        click.option(
            "--scheduler", metavar="ADDRESS",
            help="Use the workers of a running Dask scheduler, such as tcp://host:8786, or of a "
            "scheduler file",
        ),
        click.option(
            "--slurm", is_flag=True,
            help="Submit Slurm jobs that process the runs, with the settings of dask-jobqueue",
        ),
        click.option(
            "--slurm-option", metavar="NAME=VALUE", multiple=True,
            help="Setting of dask-jobqueue, such as queue=gpu; may be repeated",
        ),
        quiet_option,
        debug_option,
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    for passed in reversed(PASSED.values()):
        command = _with(command, _passed(passed))
    return command


def _with(command: Command, option: click.Option) -> Command:
    """Add an option to a function that becomes a command."""
    params = command.__dict__.setdefault("__click_params__", [])
    params.append(option)
    return command


def take_processing(context: click.Context, options: dict[str, Any]) -> "Processing":
    """Take the processing of each run out of ``options``.

    Raises:
        click.UsageError: an option of find is wrong.
    """
    from gpu_spots.beamtime.task import Processing

    given: list[str] = []
    for name, option in PASSED.items():
        value = options.pop(name)
        if is_given(context, name):
            given += option_words(option, value)
    common, resources = without_effect(given)
    texts = {name: options.pop(f"{name}_options") for name in ("dark", "laser")}
    of_kind: dict[str, list[str]] = {}
    for name, text in texts.items():
        try:
            of_kind[name] = shlex.split(text or "")
            _check([*common, *resources, *of_kind[name]], name if text else None)
        except (ValueError, GpuSpotsError) as error:
            raise click.BadParameter(str(error), param_hint=f"--{name}-options") from error
    try:
        exports = tuple(tuple(shlex.split(text)) for text in options.pop("export"))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--export") from error
    _check_exports(exports)
    return Processing(
        options=tuple(common),
        dark=tuple(of_kind["dark"]),
        laser=tuple(of_kind["laser"]),
        resources=tuple(resources),
        ratios=options.pop("ratios"),
        exports=exports,
        report=options.pop("report"),
    )


def _check(words: list[str], kind: str | None) -> None:
    """Raise an error for options that find refuses; without a kind, those of all runs are wrong."""
    try:
        check_words(words)
    except GpuSpotsError as error:
        if kind is None:
            raise click.UsageError(str(error), click.get_current_context()) from error
        raise


def _check_exports(exports: Sequence[Sequence[str]]) -> None:
    """Raise `click.BadParameter` for exports that ``gpu-spots export`` would refuse."""
    for name, *words in (one or [""] for one in exports):
        try:
            words = [name, "RUN__spots.h5", *words]
            with export.make_context("export", words, help_option_names=[]) as context:
                given = {one for one in context.params if is_given(context, one)}
        except click.ClickException as error:
            problem = error.format_message().removeprefix("Invalid value for ")
            raise click.BadParameter(problem, param_hint="--export") from error
        if wrong := sorted(given & {"output", "force", "quiet"}):
            raise click.BadParameter(
                f"--{wrong[0]} cannot be used for single runs of a batch", param_hint="--export"
            )


def is_given(context: click.Context, name: str) -> bool:
    """Return whether an option is on the command line."""
    return context.get_parameter_source(name) is ParameterSource.COMMANDLINE


def take_search(options: dict[str, Any], out: Path, processing: "Processing") -> "Search":
    """Take the rules of the search out of ``options``."""
    from gpu_spots.beamtime.runs import Search

    words = {*processing.options, *processing.dark, *processing.laser}
    return Search(
        patterns=options.pop("pattern"),
        exclude=options.pop("exclude"),
        outside=(out,),
        image_folders=bool(words & {"--name-pattern", "--angle-step", "--laser"}),
    )


def check_computers(options: dict[str, Any]) -> None:
    """Raise `click.UsageError` for options of the cluster that do not go together."""
    context = click.get_current_context()
    for name, others in {
        "scheduler": ("slurm", "jobs", "device"),
        "slurm": ("device",),
    }.items():
        for other in others if options[name] else ():
            if options[other]:
                raise click.UsageError(f"--{name} cannot be used with --{other}", context)
    if options["slurm_option"] and not options["slurm"]:
        raise click.UsageError("--slurm-option needs --slurm", context)


def slurm_jobs(options: dict[str, Any], processing: "Processing") -> "SlurmJobs":
    """Return the Slurm jobs that the options ask for. Raises `GpuSpotsError`."""
    from gpu_spots.beamtime.cluster import SlurmJobs, parse_slurm_options

    settings = parse_slurm_options(options["slurm_option"])
    return SlurmJobs(options["jobs"] or 1, settings, _backend(processing) == "gpu")


def take_computers(options: dict[str, Any], processing: "Processing", n_runs: int) -> "Computers":
    """Return the cluster that the options ask for; raises `GpuSpotsError` if it cannot be used."""
    from gpu_spots.beamtime.computers import Computers, local_computers

    scheduler = options["scheduler"]
    backend = _backend(processing)
    gpu: dict[str, float] = {"GPU": 1} if backend == "gpu" else {}
    if scheduler:
        from gpu_spots.beamtime.cluster import connected_client

        return Computers(
            lambda: connected_client(scheduler), f"workers of {scheduler}", None, None, gpu
        )
    if options["slurm"]:
        from gpu_spots.beamtime.cluster import slurm_client

        found = slurm_jobs(options, processing)
        return Computers(
            lambda: slurm_client(found), f"Slurm jobs: {found.number}", None, None, gpu
        )
    threads = _after("--threads", processing.resources)
    return local_computers(
        n_runs, options["jobs"], options["device"], backend, int(threads) if threads else None
    )


def _backend(processing: "Processing") -> str:
    return _after("--backend", processing.resources) or "auto"


def _after(word: str, words: Sequence[str]) -> str | None:
    """Return the last value of an option in words."""
    values = [value for name, value in itertools.pairwise(words) if name == word]
    return values[-1] if values else None


def with_backend(processing: "Processing", computers: "Computers") -> "Processing":
    """Return the processing with the backend of the computers."""
    return replace(processing, resources=(*computers.backend, *processing.resources))


SOURCES = click.argument(
    "sources", metavar="FOLDER | RUN... | LIST", nargs=-1, shell_complete=file_names
)
"""Argument of the commands."""
