"""Files of plots, drawn with matplotlib."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from gpu_spots.errors import OutputError
from gpu_spots.files.output.new_file import check_output, complete_or_absent
from gpu_spots.packages import install_command

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def check_plot(path: Path, *, force: bool = False) -> None:
    """Raise `OutputError` if the file exists, or if matplotlib is not installed."""
    check_output(path, (), force)
    if find_spec("matplotlib") is None:
        raise OutputError(
            f"{path}: plots need matplotlib, which is not installed; use {install_command('plots')}"
        )


@contextmanager
def new_plot(path: Path, width: float, height: float, *, force: bool = False) -> Iterator["Figure"]:
    """Provide an empty figure, which becomes a file when the block ends well.

    Args:
        path: A name that ends in ``.png`` or ``.svg``.
        width: Width of the figure, inches.
        height: Height of the figure, inches.
        force: Whether an existing file is replaced.

    Raises:
        OutputError: The file exists or cannot be written, or matplotlib is not installed.
    """
    check_plot(path, force=force)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    yield figure
    with complete_or_absent(path) as part:
        figure.savefig(part, format=path.suffix.removeprefix("."), dpi=150)
