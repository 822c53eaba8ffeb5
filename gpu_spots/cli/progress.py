"""Progress of a run on stderr: a bar on a terminal, else a line per stage.

With --quiet it is not shown.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO, cast

from gpu_spots import watchdog
from gpu_spots.cli.terminal import Stderr, one_line, say


class Lines:
    """Progress as one line per stage, for logs."""

    def stage(self, name: str, total: int, unit: str) -> None:
        """Say what begins."""
        watchdog.progress()
        say(f"{name}, {total} {unit}...")

    def advance(self, steps: int) -> None:
        """Count the progress for the watchdog; logs need no more."""
        watchdog.progress()

    def warn(self, message: str) -> None:
        """Say it."""
        say(f"warning: {message}")


class WarningsOnly(Lines):
    """Observer that shows warnings only."""

    def stage(self, name: str, total: int, unit: str) -> None:
        """Say nothing."""
        watchdog.progress()


@contextmanager
def observer(quiet: bool) -> Iterator[Lines]:
    """Return the observer for a terminal, for a file, or for --quiet."""
    if quiet:
        yield WarningsOnly()
    elif not Stderr().isatty():
        yield Lines()
    else:
        with _bar() as bar:
            yield bar


@contextmanager
def _bar() -> Iterator[Lines]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        """Progress column: units per second."""

        def render(self, task: Task) -> Text:
            rate = (
                f"{task.completed / task.elapsed:.3g} {task.fields['unit']}/s"
                if task.completed and task.elapsed
                else ""
            )
            return Text(rate, style="progress.data.speed")

    name, rest = (
        TextColumn("{task.description:>16}"),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    progress = Progress(
        *(name, BarColumn(), MofNCompleteColumn(), Rate(), rest),
        console=Console(file=cast(TextIO, Stderr())),
        # Stderr writes to sys.stderr, so rich must not replace that by what writes to the console
        redirect_stdout=False,
        redirect_stderr=False,
    )

    class Bar(Lines):
        def stage(self, name: str, total: int, unit: str) -> None:
            watchdog.progress()
            self.task = progress.add_task(name, total=total, unit=unit)

        def advance(self, steps: int) -> None:
            watchdog.progress()
            progress.advance(self.task, steps)

        def warn(self, message: str) -> None:
            progress.console.print(
                f"warning: {one_line(message)}", markup=False, highlight=False, soft_wrap=True
            )

    with progress:
        yield Bar()
