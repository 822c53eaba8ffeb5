"""Options of the commands for many runs: which runs, what is done with them, and where."""

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
from gpu_spots.cli.output_options import quiet_option
from gpu_spots.cli.words import check_words, find_options, option_words, without_effect
from gpu_spots.errors import GpuSpotsError

if TYPE_CHECKING:
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
    """Shows the own options under headings, then those of find."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one list of options for each heading."""
        own = {
            str(option.name): option
            for option in self.get_params(ctx)
            if isinstance(option, click.Option) and option.name not in PASSED
        }
        sections = {
            heading: [own.pop(name) for name in names if name in own]
            for heading, names in SECTIONS.items()
        }
        sections["Runs"] += own.values()
        of_find = [option.get_help_record(ctx) for option in PASSED.values()]
        for heading, options in sections.items():
            records = [option.get_help_record(ctx) for option in options]
            with formatter.section(heading):
                formatter.write_dl([record for record in records if record])
        with formatter.section("Options of gpu-spots find, for all runs"):
            formatter.write_dl([record for record in of_find if record])


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
    """Take what is done with each run out of ``options``.

    Raises:
        click.UsageError: an option of find is wrong.
    """
    from gpu_spots.beamtime.task import Processing

    given: list[str] = []
    for name, option in PASSED.items():
        value = options.pop(name)
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
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
    exports = tuple(tuple(shlex.split(text)) for text in options.pop("export"))
    _check_exports(exports)
    report = options.pop("report")
    if report and "report" not in _commands():
        raise click.UsageError("--report: there is no command report", context)
    return Processing(
        options=tuple(common),
        dark=tuple(of_kind["dark"]),
        laser=tuple(of_kind["laser"]),
        resources=tuple(resources),
        ratios=options.pop("ratios"),
        exports=exports,
        report=report,
    )


def _check(words: list[str], kind: str | None) -> None:
    """Raise an error for options that find refuses; without a kind, those of all runs are wrong."""
    try:
        check_words(words)
    except GpuSpotsError as error:
        if kind is None:
            raise click.UsageError(str(error), click.get_current_context()) from error
        raise


def _commands() -> set[str]:
    from gpu_spots.cli import gpu_spots

    return set(gpu_spots.commands)


def _check_exports(exports: Sequence[Sequence[str]]) -> None:
    if not exports:
        return
    from gpu_spots.export.formats import FORMATS

    for one in exports:
        if not one or one[0] not in FORMATS:
            text = " ".join(one)
            raise click.BadParameter(
                f"{text!r} is not one of {', '.join(FORMATS)}.", param_hint="--export"
            )


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


def take_computers(options: dict[str, Any], processing: "Processing", n_runs: int) -> "Computers":
    """Take the cluster out of ``options``.

    Raises:
        GpuSpotsError: it cannot be used.
        click.UsageError: options do not go together.
    """
    from gpu_spots.beamtime.computers import Computers, local_computers

    scheduler, slurm = options.pop("scheduler"), options.pop("slurm")
    slurm_options, device = options.pop("slurm_option"), options.pop("device")
    jobs = options.pop("jobs")
    if scheduler and (slurm or jobs or device):
        other = "--slurm" if slurm else "--jobs" if jobs else "--device"
        raise click.UsageError(
            f"--scheduler cannot be used with {other}", click.get_current_context()
        )
    if slurm_options and not slurm:
        raise click.UsageError("--slurm-option needs --slurm", click.get_current_context())
    if slurm and device:
        raise click.UsageError("--device cannot be used with --slurm", click.get_current_context())
    words = processing.resources
    wants_gpu = _after("--backend", words) == "gpu"
    gpu: dict[str, float] = {"GPU": 1} if wants_gpu else {}
    if scheduler:
        from gpu_spots.beamtime.cluster import connected_client

        return Computers(
            lambda: connected_client(scheduler), f"workers of {scheduler}", None, None, gpu
        )
    if slurm:
        from gpu_spots.beamtime.cluster import SlurmJobs, parse_slurm_options, slurm_client

        found = SlurmJobs(jobs or 1, parse_slurm_options(slurm_options), wants_gpu)
        return Computers(
            lambda: slurm_client(found), f"Slurm jobs: {found.number}", None, None, gpu
        )
    return local_computers(n_runs, jobs, device, _after("--backend", words) or "auto")


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
