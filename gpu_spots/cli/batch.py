"""``gpu-spots batch``: process all runs of a beamtime, on this computer or on a cluster."""

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

import click

from gpu_spots import watchdog
from gpu_spots.cli.errors import Stopped
from gpu_spots.cli.run_options import (
    SOURCES,
    RunsCommand,
    check_computers,
    run_options,
    slurm_jobs,
    take_computers,
    take_processing,
    take_search,
    with_backend,
)
from gpu_spots.cli.terminal import Stderr, one_line, say, show
from gpu_spots.errors import GpuSpotsError

if TYPE_CHECKING:
    from gpu_spots.beamtime.record import Record
    from gpu_spots.beamtime.runner import Runner
    from gpu_spots.beamtime.runs import Run
    from gpu_spots.beamtime.session import Batch
    from gpu_spots.beamtime.task import Processing

RATE = 60e6
"""Bytes of frames per second and core, for the estimate before a run has been processed."""
GRACE = 30.0
"""Seconds that a batch may take to end: its workers end their runs first."""
IN_MESSAGES = 3
"""Number of runs that a message names."""


@click.command("batch", cls=RunsCommand)
@SOURCES
@click.option(
    "--dry-run", is_flag=True, help="Print runs, sizes, plan and estimated time, and exit"
)
@click.option("--print-job", is_flag=True, help="Print the script of a Slurm job, and exit")
@click.option("--force", is_flag=True, help="Process all runs again, overwrite results")
@run_options
def batch(
    sources: tuple[str, ...],
    dry_run: bool,
    out: Path,
    force: bool,
    quiet: bool,
    print_job: bool,
    **options: Any,
) -> None:
    """Find the spots of many runs, on this computer or on a cluster.

    A run is an HDF5 file, or a Lauecollect log with its images. Folders are searched for runs. A
    list is a CSV or YAML file with options for each run.

    Runs that are done, with the same input and options, are skipped, so the same command goes on
    after an interruption. The exit status is 1 if a run failed.
    """
    from gpu_spots.beamtime.computers import require_cluster

    require_cluster()
    context = click.get_current_context()
    processing = take_processing(context, options)
    check_computers(options)
    if print_job:
        _print_job(options, processing)
        return
    if not sources:
        raise click.UsageError("Missing argument 'FOLDER | RUN... | LIST'.", context)
    from gpu_spots.beamtime.lists import take_runs
    from gpu_spots.beamtime.record import Records
    from gpu_spots.beamtime.session import Batch, name_of_batch, run_batch, sort_out
    from gpu_spots.cli.words import check_words, input_files, words_of

    found = take_runs(sources, take_search(options, out, processing), check_words, words_of)
    for note in found.notes:
        say(f"note: {note}")
    runs = found.runs
    whole = Batch(runs, processing, out, input_files, force=force)
    if dry_run:
        _dry_run(whole, sort_out, name_of_batch(), take_computers(options, processing, len(runs)))
        return
    n_pending = len(sort_out(whole, "")[0])
    computers = take_computers(options, processing, n_pending) if n_pending else None
    if computers is not None:
        if not quiet:
            say(f"{len(runs)} run{'s' * (len(runs) != 1)}; computing on {computers.words}")
        whole = replace(
            whole,
            processing=with_backend(processing, computers),
            threads=computers.threads,
            memory=computers.memory,
            resources=computers.resources,
        )
    begin = time.monotonic()
    watchdog.complete()  # each run has an output of its own: ended early, the batch has some
    watchdog.allow(GRACE)
    with progress(quiet) as observer:
        try:
            results = run_batch(whole, computers.connect if computers else _no_cluster, observer)
        except (Stopped, KeyboardInterrupt) as asked:
            # where a library heard it first, it is an interrupt
            stopped = asked if isinstance(asked, Stopped) else Stopped(signal.SIGINT)
            done = sum(one.get("state") == "done" for one in Records(out).all().values())
            stopped.outcome = f"{done} runs are done; the same command goes on with the others"
            raise stopped from None
    _end(results, out, time.monotonic() - begin, quiet)


def _no_cluster() -> Any:
    raise AssertionError


def _print_job(options: dict[str, Any], processing: "Processing") -> None:
    from gpu_spots.beamtime.cluster import job_script

    if not options["slurm"]:
        raise click.UsageError("--print-job needs --slurm", click.get_current_context())
    for line in job_script(slurm_jobs(options, processing)).splitlines():
        show(line)


def _end(found: Sequence["Record"], out: Path, seconds: float, quiet: bool) -> None:
    """Say how many runs are done. Raises `GpuSpotsError` if some failed."""
    failed = [record["name"] for record in found if record["state"] != "done"]
    if not quiet:
        new = sum(record["action"] == "processed" and record["state"] == "done" for record in found)
        kept = len(found) - new - len(failed)
        parts = [
            *([f"{new} done"] if new or not kept else []),
            *([f"{kept} skipped as already done"] if kept else []),
            *([f"{len(failed)} failed"] if failed else []),
        ]
        runs = f"{len(found)} run{'s' * (len(found) != 1)}"
        say(f"{runs}: {', '.join(parts)}, in {in_time(seconds)}; {out / 'index.html'}")
    if failed:
        names = ", ".join(failed[:IN_MESSAGES])
        more = f" and {len(failed) - IN_MESSAGES} more" if len(failed) > IN_MESSAGES else ""
        raise GpuSpotsError(
            f"{len(failed)} of {len(found)} runs failed: {names}{more}; see {out / 'runs.csv'}"
        )


def in_time(seconds: float) -> str:
    """Return a duration in words.

    Examples:
        >>> in_time(4.23), in_time(130), in_time(7300)
        ('4.2 s', '2 min 10 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def in_line(record: "Record") -> str:
    """Return the result of a run in one line."""
    name = record["name"]
    if record["state"] != "done":
        return f"{name}: {record['state']}: {record.get('error', '')}"
    if record.get("action") == "skipped":
        return f"{name}: done by another batch"
    figures = record["figures"]
    n_warnings = len(record.get("warnings", []))
    told = f", {n_warnings} warning{'s' * (n_warnings != 1)}" if n_warnings else ""
    return (
        f"{name}: {figures['spots']} spots on {figures['frames']} frames, "
        f"{record['seconds']:.1f} s{told}"
    )


class Lines:
    """Progress as one line per run, for logs."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._n_runs = self._n_over = 0

    def begin(self, n_runs: int, n_done: int, n_bytes: int) -> None:
        """Say how many runs are done already."""
        self._n_runs, self._n_over = n_runs, n_done
        if n_done and not self._quiet:
            self._say(f"{n_done} of {n_runs} runs are done already")

    def finished(self, record: "Record", n_bytes: int) -> None:
        """Say the result of a run."""
        watchdog.progress()
        self._n_over += 1
        if not self._quiet or record["state"] != "done":
            width = len(str(self._n_runs))
            self._say(f"[{self._n_over:{width}}/{self._n_runs}] {in_line(record)}")

    def tick(self) -> None:
        """Tell the watchdog that the program works."""
        watchdog.progress()

    def note(self, message: str) -> None:
        """Say it."""
        self._say(f"note: {message}")

    def _say(self, line: str) -> None:
        say(line)


@contextmanager
def progress(quiet: bool) -> Iterator[Lines]:
    """Show the progress of a batch: a bar and lines on a terminal, lines elsewhere."""
    if quiet or not Stderr().isatty():
        yield Lines(quiet)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=Console(file=cast(TextIO, Stderr())),
        redirect_stdout=False,
        redirect_stderr=False,
    )

    class Bar(Lines):
        def begin(self, n_runs: int, n_done: int, n_bytes: int) -> None:
            super().begin(n_runs, n_done, n_bytes)
            self.task = bar.add_task(self._label(), total=n_bytes or None)

        def finished(self, record: "Record", n_bytes: int) -> None:
            super().finished(record, n_bytes)
            bar.update(self.task, advance=n_bytes, description=self._label())

        def _label(self) -> str:
            return f"runs {self._n_over}/{self._n_runs}"

        def _say(self, line: str) -> None:
            bar.console.print(one_line(line), markup=False, highlight=False, soft_wrap=True)

    with bar:
        yield Bar(quiet)


def _dry_run(whole: "Batch", sort_out: Any, name: str, computers: Any) -> None:
    """Print the runs, the plan of the largest one, and an estimate of the time."""
    from gpu_spots.beamtime.runner import Runner
    from gpu_spots.memory.amounts import in_words

    pending, done = sort_out(whole, name)
    runner = Runner()
    seen: dict[str, dict[str, Any]] = {}
    try:
        for one in pending:
            run = one.job.run
            runner, seen[run.name] = _inspected(runner, whole, run)
            show(f"{run.name}: {_seen(seen[run.name], run)}; {one.why}")
        for record in done:
            show(f"{record['name']}: done")
        sizes = {name: found["bytes"] for name, found in seen.items() if "bytes" in found}
        if sizes:
            largest = max(sizes, key=sizes.__getitem__)
            job = next(one.job for one in pending if one.job.run.name == largest)
            _show_plan(runner, whole, job.run, seen[largest], computers)
    finally:
        runner.close()
    total = sum(sizes.values())
    show(
        f"{len(pending)} of {len(whole.runs)} runs are to be processed, "
        f"{in_words(total)} of frames; computing on {computers.words}"
    )
    if total and computers.number:
        _show_time(whole, total, computers)


def _inspected(runner: "Runner", whole: "Batch", run: "Run") -> "tuple[Runner, dict[str, Any]]":
    """Open a run in another process; return it, or a new one if it died, and the facts."""
    from gpu_spots.beamtime.runner import Runner, RunnerDied

    words = [*run.source, *whole.processing.options, *run.options]
    try:
        return runner, runner.ask({"ask": "inspection", "words": words}, watchdog.progress)
    except RunnerDied as died:
        runner.close()
        return Runner(), {"error": f"the process that opened it {died}"}


def _show_time(whole: "Batch", n_bytes: int, computers: Any) -> None:
    """Print an estimate of the time: from runs that are done, or from the number of cores."""
    from gpu_spots.beamtime.record import Records

    known = sorted(
        record["raw_bytes"] / record["seconds"]
        for record in Records(whole.out).all().values()
        if record.get("state") == "done" and record.get("seconds")
    )
    of_one = known[len(known) // 2] if known else RATE * (computers.threads or 1)
    rate = of_one * computers.number
    source = f"as fast as {len(known)} runs before" if known else "a rough estimate"
    show(f"time: about {in_time(n_bytes / rate)} ({source}, {rate / 1e6:.0f} MB/s)")


def _seen(found: dict[str, Any], run: "Run") -> str:
    if "error" in found:
        return f"cannot be opened: {found['error']}"
    n_frames, n_rows, n_columns = found["shape"]
    kind = run.kind or found["kind"]
    size = f"{found['bytes'] / 1e6:.0f} MB" if found["bytes"] > 1e6 else f"{found['bytes']} bytes"
    return f"{kind}, {n_frames} frames of {n_rows} x {n_columns}, {found['dtype']}, {size}"


def _show_plan(
    runner: "Runner", whole: "Batch", run: "Run", seen: dict[str, Any], computers: Any
) -> None:
    kind = run.kind or seen["kind"]
    (_, *words), *_ = whole.processing.steps(run, kind)
    limits = [
        *([] if computers.threads is None else ["--threads", str(computers.threads)]),
        *([] if computers.memory is None else ["--memory-limit", f"{computers.memory}B"]),
    ]
    output = whole.out / f"{run.name}__spots.h5"
    while not output.parent.is_dir():  # it is made by the batch
        output = output.parent.with_name(output.name)
    ask = {
        "ask": "plan",
        "words": [*run.source, *words, *limits, *computers.backend, *whole.processing.resources],
        "output": str(output),
    }
    found = runner.ask(ask, watchdog.progress)
    show(f"plan of the largest run, {run.name}:")
    for line in [found["error"]] if "error" in found else found["lines"]:
        if not line.startswith("output:"):
            show(f"  {line}")
