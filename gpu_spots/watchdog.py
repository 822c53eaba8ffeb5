"""Watchdog process, which ends the program if a library hangs.

It then removes the unfinished output.

HDF5 can loop for ever in a damaged file. Some of its calls keep Python's interpreter lock
meanwhile, so no Python code of the program runs any more: neither a signal handler nor another
thread. See docs/decisions/watchdog.md.
"""

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import inf
from pathlib import Path

from gpu_spots.files.output import locks

SIGNALS = {
    signal.SIGINT: "interrupted",
    signal.SIGTERM: "terminated",
    signal.SIGHUP: "terminated, as its terminal was closed",
}
"""Requests to end, and their names in messages."""
GRACE = 3.0
"""Seconds from a request to end until the watchdog ends the program."""
LAST_WORD = 1.0
"""Seconds from the second request, by the watchdog, until SIGKILL; and for a killed process to
release its locks.
"""
STALL = 20.0
"""Seconds without progress until a line says what is being read."""

_reports: int | None = None
"""Write end of the pipe to the watchdog; None: there is none."""
_outputs: list[Path] = []
"""Complete outputs of the innermost block of `outputs`."""


@contextmanager
def watched(name: str, say: Callable[[str], None]) -> Iterator[None]:
    """Run a watchdog while the block runs, if this process has only one thread so far.

    Args:
        name: the program's name, for messages.
        say: prints a line on stderr.
    """
    global _reports
    if threading.active_count() > 1 or threading.current_thread() is not threading.main_thread():
        yield
        return
    program = os.getpid()
    reports, _reports = os.pipe()
    signals, wakeup = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(_reports)
            os.close(wakeup)
            _Watchdog(name, say, program, reports, signals).run()
        finally:
            os._exit(0)
    os.close(reports)
    os.close(signals)
    for descriptor in (_reports, wakeup):
        os.set_blocking(descriptor, False)
    # Python's C handler writes the number of each signal there, without the interpreter lock
    before = signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        _report("end")
        os.close(_reports)
        os.close(wakeup)
        _reports = None
        os.waitpid(child, 0)


@contextmanager
def outputs() -> Iterator[list[Path]]:
    """Provide the list of the outputs that become complete while the block runs."""
    global _outputs
    before, _outputs = _outputs, []
    try:
        yield _outputs
    finally:
        _outputs = before


def unfinished(path: Path, descriptor: int) -> None:
    """Tell the watchdog about a temporary file of this process."""
    state = os.fstat(descriptor)
    _report(f"file {state.st_dev} {state.st_ino} {path.absolute()}")


def removed() -> None:
    """Tell the watchdog that the temporary file is gone."""
    _report("removed")


def complete(*output: Path) -> None:
    """Tell the watchdog that the temporary file has become the output, and note the output."""
    _outputs.extend(output)
    _report("complete")


def reading(subject: str) -> None:
    """Tell the watchdog what is read from now on: a file, and an object in it."""
    _report(f"reading {subject}")


def progress() -> None:
    """Tell the watchdog that the program makes progress."""
    _report("progress")


def allow(seconds: float) -> None:
    """Tell the watchdog how long the program may take to end, in place of `GRACE`."""
    _report(f"allow {seconds}")


def _report(message: str) -> None:
    if _reports is not None:
        # the watchdog may have been killed; the program works without it
        with suppress(OSError):
            os.write(_reports, os.fsencode(message) + b"\0")


@dataclass(slots=True)
class _Unfinished:
    """Temporary file of the program."""

    device: int
    inode: int
    path: Path


class _Watchdog:
    """The other process: it waits for reports, for signals, and for the program's end."""

    def __init__(
        self, name: str, say: Callable[[str], None], program: int, reports: int, signals: int
    ) -> None:
        self._name, self._say, self._program = name, say, program
        self._inputs = {reports: self._read_reports, signals: self._read_signals}
        self._reports = reports
        self._rest = b""
        self._unfinished: _Unfinished | None = None
        self._subject = ""
        self._has_ended = self._is_complete = False
        self._stop: signal.Signals | None = None
        self._grace: float | None = None
        self._deadlines: dict[Callable[[], None], float] = {}

    def run(self) -> None:
        """Watch until the program has ended."""
        for number in (*SIGNALS, signal.SIGQUIT):
            signal.signal(number, signal.SIG_IGN)
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        self._expect_progress()
        while self._reports in self._inputs:
            timeout = min(self._deadlines.values(), default=inf) - time.monotonic()
            ready, _, _ = select.select(
                list(self._inputs), (), (), None if timeout == inf else max(0, timeout)
            )
            for descriptor in ready:
                self._inputs[descriptor](descriptor)
            for action in [
                action
                for action, deadline in self._deadlines.items()
                if deadline <= time.monotonic()
            ]:
                del self._deadlines[action]
                action()
        self._clean_up()

    def _read_signals(self, descriptor: int) -> None:
        numbers = os.read(descriptor, 512)
        if not numbers:
            del self._inputs[descriptor]
        for number in numbers:
            if self._stop is None and number in SIGNALS:
                self._stop = signal.Signals(number)
                self._deadlines.pop(self._say_stalled, None)
                self._after(self._grace or GRACE, self._ask_again)

    def _read_reports(self, descriptor: int) -> None:
        data = os.read(descriptor, 1 << 16)
        if not data:
            del self._inputs[descriptor]
        *messages, self._rest = (self._rest + data).split(b"\0")
        for message in messages:
            kind, _, text = os.fsdecode(message).partition(" ")
            if kind == "file":
                device, inode, path = text.split(" ", 2)
                self._unfinished = _Unfinished(int(device), int(inode), Path(path))
            elif kind in ("removed", "complete"):
                self._unfinished = None
                self._is_complete |= kind == "complete"
            elif kind == "reading":
                self._subject = text
            elif kind == "allow":
                self._grace = float(text)
            elif kind == "end":
                self._has_ended = True
            self._expect_progress()

    def _after(self, seconds: float, action: Callable[[], None]) -> None:
        self._deadlines[action] = time.monotonic() + seconds

    def _expect_progress(self) -> None:
        if self._stop is None and self._subject:
            self._after(STALL, self._say_stalled)

    def _say_stalled(self) -> None:
        self._say(f"{self._name}: no progress for {STALL:g} s, reading {self._subject}")

    def _ask_again(self) -> None:
        """Repeat the signal.

        A main thread that waits for other threads then ends the program by it.
        """
        self._send(self._stop or signal.SIGKILL)
        self._after(LAST_WORD, self._kill)

    def _kill(self) -> None:
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        if os.getppid() == self._program:
            os.kill(self._program, number)

    def _clean_up(self) -> None:
        """Remove what the program has left, and say what happened if it could not."""
        if self._unfinished is not None:
            _remove(self._unfinished)
        if self._has_ended:
            return
        what = f" while reading {self._subject}" if self._subject else ""
        end = (
            f"crashed or was killed{what}" if self._stop is None else f"{SIGNALS[self._stop]}{what}"
        )
        self._say(f"{self._name}: {end}{'' if self._is_complete else '; nothing was written'}")


def _remove(unfinished: _Unfinished) -> None:
    """Remove a temporary file whose process has ended, unless another run has taken its place."""
    try:
        descriptor = os.open(
            unfinished.path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        )
    except OSError:
        return
    try:
        state = os.fstat(descriptor)
        if (state.st_dev, state.st_ino) != (unfinished.device, unfinished.inode):
            return
        end = time.monotonic() + LAST_WORD
        while not locks.lock(descriptor):
            if time.monotonic() > end:
                return
            time.sleep(0.01)
        with suppress(OSError):
            locks.remove(unfinished.path, descriptor)
    finally:
        os.close(descriptor)
