"""Output of the program, line by line.

Text from a file cannot control the terminal, and a lost stderr does not stop a run.
"""

import os
import sys
from contextlib import suppress

import click


def one_line(text: str) -> str:
    r"""Return the text with every character that is not printable as its escape sequence.

    File names, dataset names, links and log entries may hold newlines, terminal sequences, marks
    that reverse the direction of writing, or bytes that are not text.

    Examples:
        >>> one_line("run\x1b[2J\n.h5")
        'run\\x1b[2J\\n.h5'
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else _escaped(character) for character in text
    )


def say(message: str) -> None:
    """Print one line on stderr. A stderr that is closed, full or a broken pipe is not an error."""
    Stderr().write(f"{one_line(message)}\n")


def show(line: str) -> None:
    """Print one line on stdout. Raises `OSError` where it cannot be written."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    click.echo(one_line(line).encode(encoding, "backslashreplace").decode(encoding))


class Stderr:
    """Text file on stderr that ignores failures to write, also for rich and click."""

    encoding = "utf-8"

    def write(self, text: str) -> int:
        """Write what stderr takes."""
        try:
            if sys.stderr is not None:
                encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
                sys.stderr.write(text.encode(encoding, "backslashreplace").decode(encoding))
                sys.stderr.flush()
        except (OSError, ValueError):
            _give_up_stderr()
        return len(text)

    def flush(self) -> None:
        """Do nothing: each write is flushed."""

    def isatty(self) -> bool:
        """Return whether stderr is a terminal."""
        return sys.stderr is not None and sys.stderr.isatty()

    def fileno(self) -> int:
        """Return the file descriptor of stderr, by which rich asks for the terminal's size."""
        if sys.stderr is None:
            raise OSError("stderr is closed")
        return sys.stderr.fileno()


def open_standard_streams() -> None:
    """Open closed standard descriptors on the null device.

    Otherwise a file of the run would get their numbers.
    """
    with suppress(OSError):
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(descriptor)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _give_up_stderr() -> None:
    """Close stderr.

    Otherwise Python would write the rest once more at its end, and fail with another exit status.
    """
    # the old stream still holds text: it must neither be flushed nor reported when it is deleted
    if sys.stderr is not None:
        _given_up.append(sys.stderr)
    sys.stderr = None


_given_up: list[object] = []
