"""Plot of on/off ratios and of their null tests, with matplotlib."""

from pathlib import Path

from gpu_spots.errors import OutputError
from gpu_spots.files.output.new_file import check_output, complete_or_absent
from gpu_spots.packages import install_command
from gpu_spots.plots import RATIOS_HEIGHT, RATIOS_WIDTH, RATIOS_WIDTH_WITH_FIT, ratios
from gpu_spots.spots.ratios import RatioResult


def write_plot(path: Path, found: RatioResult, *, force: bool = False) -> None:
    """Draw ratios by intensity, and the pulls of on/off and of the null tests.

    The file appears under its name when it is complete.

    Args:
        path: A name that ends in ``.png`` or ``.svg``.
        found: Ratios.
        force: Whether an existing file is replaced.

    Raises:
        OutputError: The file exists or cannot be written, or matplotlib is not installed.
    """
    check_output(path, (), force)
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise OutputError(
            f"{path}: plots need matplotlib, which is not installed; use {install_command('plots')}"
        ) from error

    width = RATIOS_WIDTH_WITH_FIT if found.figures.get("photo-Wilson") else RATIOS_WIDTH
    figure = Figure(figsize=(width, RATIOS_HEIGHT), layout="constrained")
    FigureCanvasAgg(figure)
    ratios(found, figure=figure)
    with complete_or_absent(path) as part:
        figure.savefig(part, format=path.suffix.removeprefix("."), dpi=150)
