"""Errors as one line on stderr, and exit statuses: 0 done, 2 wrong usage, 1 anything else."""

import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click

from gpu_spots.errors import GpuSpotsError, ParameterError

SIGNALS = {
    signal.SIGINT: "interrupted",
    signal.SIGTERM: "terminated",
    signal.SIGHUP: "terminated, as its terminal was closed",
}
"""Requests to end, and what to call it when they were heard."""
AGAIN = 0.01
"""Seconds until a request that was lost is made again."""


class Stopped(BaseException):
    """The process was asked to end; the text says how. Like KeyboardInterrupt, nothing but a clean-up should catch it."""


class _OneLine(click.Command):
    """A command whose errors are one line. ``--debug`` anywhere on the command line shows the traceback too."""

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any) -> Any:  # type: ignore[override]
        """Run; always ends in SystemExit."""
        arguments = list(sys.argv[1:] if args is None else args)
        name = prog_name or Path(sys.argv[0]).name
        extra.pop("standalone_mode", None)
        # with the process's own arguments this is the whole program, and nothing is left to stop when it has ended
        with _stoppable(for_good=args is None) as requests:
            try:
                status = super().main(arguments, prog_name=prog_name, standalone_mode=False, **extra)
                requests.over = True
            except BaseException as error:
                requests.over = True
                # a request may have come up as another error, out of an import for one
                _end(requests.heard or error, name, debug="--debug" in arguments)
        # without standalone mode click returns the status of --help and --version
        sys.exit(status if isinstance(status, int) else 0)


class OneLineCommand(_OneLine):
    """A command."""


class OneLineGroup(_OneLine, click.Group):
    """A group of commands."""


def _end(error: BaseException, name: str, debug: bool) -> NoReturn:
    """Say what happened in one line, and exit with its status."""
    if isinstance(error, SystemExit):
        raise error
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
        sys.exit(2)
    if debug:
        traceback.print_exception(error)
    message, status = _explain(error)
    with suppress(OSError):  # nobody may be there to read it
        click.echo(f"{name}: {message}", err=True)
    sys.exit(status)


def _explain(error: BaseException) -> tuple[str, int]:
    if isinstance(error, click.UsageError):
        path = error.ctx.command_path if error.ctx else ""
        return f"{' '.join(error.format_message().split())}{f' (see {path} --help)' if path else ''}", 2
    if isinstance(error, ParameterError):
        return str(error), 2
    if isinstance(error, GpuSpotsError | click.ClickException):
        return str(error), 1
    if isinstance(error, Stopped):
        return f"{error}; nothing was written", 1
    if isinstance(error, click.Abort | KeyboardInterrupt):
        return "interrupted; nothing was written", 1
    if isinstance(error, MemoryError):
        return f"out of memory: {error}" if str(error) else "out of memory", 1
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or ' '.join(str(error).split())}", 1
    return f"internal error: {type(error).__name__}: {' '.join(str(error).split())}; --debug shows where, please report it", 1


@dataclass(slots=True)
class _Requests:
    """Requests to end."""

    heard: Stopped | None = None
    """The last one that was raised."""
    over: bool = False
    """The work has ended, one way or the other: they are not heard any more."""


@contextmanager
def _stoppable(*, for_good: bool = False) -> Iterator[_Requests]:
    """Signals that ask the process to end raise `Stopped` in the main thread, so that every clean-up runs; those it ignores stay ignored.

    ``for_good``: they are not heard any more when the block has ended, while Python waits for threads that still compute.
    """
    requests = _Requests()
    main_thread = threading.main_thread()
    if threading.current_thread() is not main_thread:  # its owner decides about signals
        yield requests
        return
    last = signal.SIGINT

    def stop(number: int, _: FrameType | None) -> None:
        nonlocal last
        if not requests.over:
            last = signal.Signals(number)
            requests.heard = Stopped(SIGNALS[last])
            raise requests.heard

    def ask_again() -> None:
        if not requests.over and main_thread.ident is not None:
            signal.pthread_kill(main_thread.ident, last)

    def lost(unraisable: Any) -> None:
        """Python drops what is raised in some places of its own, in weak references for one: ask again, a little later."""
        if unraisable.exc_type is Stopped:
            timer = threading.Timer(AGAIN, ask_again)
            timer.daemon = True
            timer.start()
        else:
            hook(unraisable)

    hook = sys.unraisablehook
    # None: not Python's to handle
    before = {number: handler for number in SIGNALS if (handler := signal.getsignal(number)) not in (None, signal.SIG_IGN)}
    try:
        for number in before:
            signal.signal(number, stop)
        sys.unraisablehook = lost
        yield requests
    finally:
        requests.over = True
        sys.unraisablehook = hook
        for number, handler in before.items():
            # Python gives up its own handlers before it ends, and the system's would end it with another status
            signal.signal(number, signal.SIG_IGN if for_good else handler)
