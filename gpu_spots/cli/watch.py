"""``gpu-spots watch``: process runs as they become complete."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpu_spots import watchdog
from gpu_spots.cli.batch import GRACE, in_line
from gpu_spots.cli.completion import file_names
from gpu_spots.cli.errors import Stopped
from gpu_spots.cli.run_options import (
    Command,
    RunsCommand,
    check_computers,
    run_options,
    take_computers,
    take_processing,
    take_search,
    with_backend,
)
from gpu_spots.cli.terminal import say
from gpu_spots.errors import GpuSpotsError

if TYPE_CHECKING:
    from gpu_spots.beamtime.record import Record

MANY = 1_000_000
"""More runs than a beamtime has."""


def _seconds(name: str, default: float | None, text: str) -> Callable[[Command], Command]:
    """Return a decorator that adds an option for a time."""
    return click.option(
        name,
        metavar="SECONDS",
        type=click.FloatRange(0.01),
        default=default,
        show_default=default is not None,
        help=text,
    )


@click.command("watch", cls=RunsCommand)
@click.argument("sources", metavar="FOLDER...", nargs=-1, shell_complete=file_names)
@_seconds(
    "--settle",
    20.0,
    "Time without a change after which a run is complete; longer than the time between images",
)
@_seconds("--every", 2.0, "Time between two looks at the folders")
@_seconds(
    "--preview",
    None,
    "Find the spots of growing runs too, at most this often; results are NAME__preview.h5",
)
@run_options
def watch(
    sources: tuple[str, ...],
    settle: float,
    every: float,
    preview: float | None,
    out: Path,
    quiet: bool,
    **options: Any,
) -> None:
    """Process runs in folders as they become complete, until Ctrl-C.

    A run is complete when its files have not changed for some time, and its log names all images
    that are there. Runs that are done already are skipped; one that changes afterwards is processed
    again. The folders may be on network drives.
    """
    context = click.get_current_context()
    if not sources:
        raise click.UsageError("Missing argument 'FOLDER...'.", context)
    from gpu_spots.beamtime.computers import require_cluster

    require_cluster()
    from gpu_spots.beamtime.runs import find_runs
    from gpu_spots.beamtime.session import Batch
    from gpu_spots.beamtime.watch import Watch, run_watch
    from gpu_spots.cli.words import input_files

    processing = take_processing(context, options)
    check_computers(options)
    search = take_search(options, out, processing)
    for source in sources:
        if not Path(source).is_dir():
            raise GpuSpotsError(f"{source}: not a directory, expected a folder to watch")
    computers = take_computers(options, processing, MANY)
    batch = Batch(
        [],
        with_backend(processing, computers),
        out,
        input_files,
        threads=computers.threads,
        memory=computers.memory,
        resources=computers.resources,
    )
    watchdog.complete()  # each run has an output of its own
    watchdog.allow(GRACE)
    events = Events(quiet)
    if not quiet:
        events.note(f"watching; computing on {computers.words}; Ctrl-C ends")
    try:
        run_watch(
            Watch(lambda: find_runs(sources, search), batch, every, settle, preview),
            computers.connect,
            events,
        )
    except Stopped as stopped:
        stopped.outcome = f"{events.n_done} runs were processed; the same command goes on"
        raise


class Events:
    """Printer of one line per event, with the time."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self.n_done = 0

    def event(self, run: str, message: str) -> None:
        """Say what has happened to a run."""
        watchdog.progress()
        if not self._quiet:
            self.note(f"{run}: {message}")

    def finished(self, record: "Record", n_bytes: int) -> None:
        """Say the result of a run."""
        watchdog.progress()
        self.n_done += record["state"] == "done"
        if not self._quiet or record["state"] != "done":
            self.note(in_line(record))

    def note(self, message: str) -> None:
        """Say it."""
        say(f"{time.strftime('%H:%M:%S')} {message}")
