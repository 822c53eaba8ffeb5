"""Errors of one short line: file, dataset or option, value found and value expected."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

_options: Mapping[str, str] = {}
"""Options of the command line by parameter name; empty where the caller is Python code. Threads
share it: a worker's message names the options of the command that started it.
"""


def given(name: str, value: object = None) -> str:
    """Return a parameter as the caller writes it: an option on the command line, else Python.

    With a value, an option is shown in its short form, and a switch without its value.

    Examples:
        >>> given("force", True), given("angles", 0), given("scratch")
        ('force=True', 'angles=0', 'scratch')
        >>> with in_options({"force": "--force", "angles": "-a/--angles"}):
        ...     given("force", True), given("angles", 0), given("angles")
        ('--force', '-a 0', '-a/--angles')
    """
    option = _options.get(name)
    if option is None:
        return name if value is None else f"{name}={value!r}"
    if value is None:
        return option
    short = option.partition("/")[0]
    return short if isinstance(value, bool) else f"{short} {value}"


def one_of(first: str, *others: str) -> str:
    """Return a choice of parameters as the caller writes them.

    Examples:
        >>> one_of("table", "name_pattern", "laser")
        'table, name_pattern or laser'
    """
    *names, last = map(given, (first, *others))
    return f"{', '.join(names)} or {last}" if names else last


@contextmanager
def in_options(options: Mapping[str, str]) -> Iterator[None]:
    """Let messages name these command-line options in the place of parameters."""
    global _options
    before, _options = _options, options
    try:
        yield
    finally:
        _options = before


class GpuSpotsError(Exception):
    """Base class of all errors that the user can correct; the text is one line."""


class ParameterError(GpuSpotsError):
    """A parameter is out of range.

    ``name`` is the parameter; ``problem`` gives the value found and the range.
    """

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"{name}: {problem}")
        self.name = name
        self.problem = problem

    def __reduce__(self) -> tuple[type["ParameterError"], tuple[str, str]]:
        """Let process pools pass the error on. By default it is made again from its text alone."""
        return type(self), (self.name, self.problem)


class InputError(GpuSpotsError):
    """The input file, its frames or its metadata cannot be used."""


class OutputError(GpuSpotsError):
    """The output cannot be written, or would overwrite something."""


class BackendError(GpuSpotsError):
    """The requested backend cannot be used on this machine."""


class OutOfDeviceMemory(BackendError):
    """The backend's own memory, a GPU's, is exhausted; half of the work at a time may still fit."""
