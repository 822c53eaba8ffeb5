"""What can go wrong, as one short line that names the file, dataset or option, the value found and what was expected."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

_options: Mapping[str, str] = {}
"""Command-line options by the names of parameters; empty where the caller is Python code."""


def given(name: str, value: object = None) -> str:
    """Return how the caller gives a parameter: as an option of the command line, or in Python.

    Examples:
        >>> given("force", True)
        'force=True'
        >>> given("scratch")
        'scratch'
    """
    return _options.get(name) or (name if value is None else f"{name}={value!r}")


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
    """Base of every error that is the user's to mend; its text is one line and needs no traceback."""


class ParameterError(GpuSpotsError):
    """A parameter is outside its range: ``name`` is the parameter, ``problem`` the value found and the range."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"{name}: {problem}")
        self.name = name
        self.problem = problem

    def __reduce__(self) -> tuple[type["ParameterError"], tuple[str, str]]:
        """Let process pools pass it on: by default an exception is made again from its text alone."""
        return type(self), (self.name, self.problem)


class InputError(GpuSpotsError):
    """The input file, its frames or its metadata cannot be used."""


class OutputError(GpuSpotsError):
    """The output cannot be written, or would overwrite something."""


class BackendError(GpuSpotsError):
    """The computing backend asked for cannot be used on this machine."""


class OutOfDeviceMemory(BackendError):
    """The backend's own memory, a GPU's, is exhausted; half of the work at a time may still fit."""
