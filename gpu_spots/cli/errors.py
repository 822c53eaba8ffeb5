"""Errors as one line on stderr, exit statuses, and signals.

The exit status is 0 for success, 2 for wrong usage, and 1 for any other error. A signal ends the
program by that signal.
"""

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import click

from gpu_spots import watchdog
from gpu_spots.cli.terminal import open_standard_streams, say
from gpu_spots.errors import GpuSpotsError, ParameterError, in_options
from gpu_spots.watchdog import SIGNALS

OPTIONS = {
    "Parameters.manual": "--manual",
    "alpha": "-A/--alpha",
    "angle_step": "--angle-step",
    "angles": "-a/--angles",
    "angles_path": "--angles-path",
    "beam_centre": "--beam-centre",
    "by": "--by",
    "cell": "--cell",
    "cutoff": "-c/--cutoff",
    "device": "--device",
    "distance": "--distance",
    "erosions": "-e/--erosions",
    "file_mask": "--no-file-mask",
    "finder": "--finder",
    "folder": "-p/--path",
    "force": "--force",
    "frames_from": "--frames-from",
    "frames_path": "--frames",
    "hkl": "--hkl",
    "keep": "--keep",
    "laser": "--laser",
    "laser_path": "--laser-path",
    "mask": "--mask",
    "mask_good": "--mask-good",
    "memory_limit": "--memory-limit",
    "method": "-m/--method",
    "n": "-n/--n",
    "name_pattern": "--name-pattern",
    "normalise": "--normalise",
    "one_per_angle": "--one-per-angle",
    "out": "-o",
    "output": "-o",
    "pattern": "--pattern",
    "pixel_size": "--pixel-size",
    "reject": "--reject",
    "saturation": "--saturation",
    "scale": "--scale",
    "scheduler": "--scheduler",
    "scratch": "--scratch",
    "significance": "--significance",
    "skip_bad": "--skip-bad",
    "sync": "-S/--sync",
    "table": "--table",
    "valid_range": "--valid-range",
    "wavelength": "--wavelength",
}
"""Options by the names of the parameters in messages."""
debug_option = click.option(
    "--debug", is_flag=True, expose_value=False, help="Show the traceback of an error"
)
"""The option that `_OneLine.main` looks for, as errors end there."""
AGAIN = 0.05
"""Seconds until a request that was lost is made again."""


class Stopped(BaseException):
    """The process was asked to end.

    Like KeyboardInterrupt, nothing but a clean-up should catch it.
    """

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(SIGNALS[number])
        self.number = number
        self.outcome: str | None = None
        """Results of the command so far; None: its complete outputs are named."""

    def __reduce__(self) -> tuple[type["Stopped"], tuple[signal.Signals]]:
        """Let it be pickled."""
        return type(self), (self.number,)


class _OneLine(click.Command):
    """A command whose errors are one line.

    ``--debug`` anywhere on the command line shows the traceback too.
    """

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        """Return the option --help, with a text like those of the other options."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.help = "Show this message and exit"
        return option

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> Any:
        """Run; ends in SystemExit, or as a program that was asked to end, by that signal."""
        arguments = list(sys.argv[1:] if args is None else args)
        name = prog_name or Path(sys.argv[0]).name
        extra.pop("standalone_mode", None)
        is_program = args is None
        if is_program:
            open_standard_streams()
        with ExitStack() as opened:
            if is_program:
                opened.enter_context(watchdog.watched(name, say))
            opened.enter_context(in_options(OPTIONS))
            outputs = opened.enter_context(watchdog.outputs())
            requests = opened.enter_context(_stoppable(for_good=is_program))
            try:
                status = super().main(
                    arguments, prog_name=prog_name, standalone_mode=False, **extra
                )
                requests.over = True
                # without standalone mode click returns the status of --help and --version
                status = status if isinstance(status, int) else 0
            except BaseException as error:
                requests.over = True
                # a request may have come up as another error, out of an import for one
                status = _end(requests.heard or error, name, outputs, debug="--debug" in arguments)
        if is_program and requests.heard and status:
            _die_of(requests.heard.number)
        sys.exit(status)


class OneLineCommand(_OneLine):
    """A command."""


class OneLineGroup(_OneLine, click.Group):
    """A group of commands."""


@contextmanager
def naming_options() -> Iterator[None]:
    """Turn a `ParameterError` into click's error, which names the option of the running command."""
    try:
        yield
    except ParameterError as error:
        context = click.get_current_context()
        if error.name == "sources":
            raise click.UsageError(error.problem, context) from error
        options = {option.name: "/".join(option.opts) for option in context.command.params}
        hint = options.get(error.name, error.name)
        raise click.BadParameter(error.problem, param_hint=hint) from error


def _end(error: BaseException, name: str, outputs: Sequence[Path], *, debug: bool) -> Any:
    """Say what happened in one line; return the exit status."""
    if isinstance(error, SystemExit):
        return error.code
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        for line in error.format_message().splitlines():
            say(line)
        return 2
    if debug:
        for line in "".join(traceback.format_exception(error)).splitlines():
            say(line)
    message, status = _explain(error, outputs)
    say(f"{name}: {message}")
    return status


def _die_of(number: signal.Signals) -> None:
    """End by the signal itself.

    A shell ends its loop only if it sees that Ctrl-C ended the program.
    """
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _explain(error: BaseException, outputs: Sequence[Path]) -> tuple[str, int]:
    if isinstance(error, click.UsageError):
        text = " ".join(error.format_message().split()).removesuffix(".")
        return text + (f" (see {error.ctx.command_path} --help)" if error.ctx else ""), 2
    if isinstance(error, ParameterError):
        return str(error), 2
    if isinstance(error, GpuSpotsError | click.ClickException):
        return str(error), 1
    if isinstance(error, Stopped):
        return f"{error}; {error.outcome or _written(outputs)}", 1
    if isinstance(error, click.Abort | KeyboardInterrupt):
        return f"interrupted; {_written(outputs)}", 1
    if isinstance(error, MemoryError):
        return f"out of memory: {error}" if str(error) else "out of memory", 1
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or ' '.join(str(error).split())}", 1
    return (
        f"internal error: {type(error).__name__}: {' '.join(str(error).split())}; --debug shows "
        "where, please report it",
        1,
    )


def _written(outputs: Sequence[Path]) -> str:
    """Return which outputs are complete."""
    if not outputs:
        return "nothing was written"
    return f"{', '.join(map(str, outputs))} {'is' if len(outputs) == 1 else 'are'} complete"


@dataclass(slots=True)
class _Requests:
    """Requests to end."""

    heard: Stopped | None = None
    """The last one that was raised."""
    over: bool = False
    """The work has ended, one way or the other: they are not heard any more."""
    since: float | None = None
    """Time of the first request; None: there was none."""
    is_program: bool = False
    """A watchdog removes what the program leaves, so it may end at once."""

    def is_late(self) -> bool:
        """Return whether the program should have ended by now."""
        return (
            self.is_program
            and self.since is not None
            and time.monotonic() - self.since > watchdog.GRACE - 0.1
        )


@contextmanager
def _stoppable(*, for_good: bool = False) -> Iterator[_Requests]:
    """Turn signals that ask the process to end into `Stopped` in the main thread.

    So every clean-up runs. Signals that the process ignores stay ignored.

    ``for_good``: they are not heard any more when the block has ended, while Python waits for
    threads that still compute.
    """
    requests = _Requests(is_program=for_good)
    main_thread = threading.main_thread()
    if threading.current_thread() is not main_thread:  # its owner decides about signals
        yield requests
        return
    last = signal.SIGINT

    def stop(number: int, _: FrameType | None) -> None:
        nonlocal last
        if requests.is_late():
            # an earlier request did not end the program, as other threads hang: their work is given
            # up
            _die_of(signal.Signals(number))
        if not requests.over:
            last = signal.Signals(number)
            requests.since = requests.since or time.monotonic()
            requests.heard = Stopped(last)
            raise requests.heard

    def ask_again() -> None:
        if not requests.over and main_thread.ident is not None:
            signal.pthread_kill(main_thread.ident, last)

    def lost(unraisable: Any) -> None:
        """Ask again later: Python drops errors raised in places such as weak references."""
        if unraisable.exc_type is not Stopped:
            hook(unraisable)
            return
        asked = False
        while not asked:
            try:
                timer = threading.Timer(AGAIN, ask_again)
                timer.daemon = True
                timer.start()
                asked = True
            except Stopped:  # on a busy machine the timer may ask before its start returns
                continue

    hook = sys.unraisablehook
    # None: not Python's to handle
    before = {
        number: handler
        for number in SIGNALS
        if (handler := signal.getsignal(number)) not in (None, signal.SIG_IGN)
    }
    try:
        for number in before:
            signal.signal(number, stop)
        sys.unraisablehook = lost
        yield requests
    finally:
        requests.over = True
        sys.unraisablehook = hook
        for number, handler in before.items():
            # Python gives up its own handlers before it ends, and the system's would end it with
            # another status
            signal.signal(number, signal.SIG_IGN if for_good else handler)
