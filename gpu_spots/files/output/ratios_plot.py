"""Plot of on/off ratios and of their null tests, with matplotlib."""

from pathlib import Path

from gpu_spots.files.output.new_plot import new_plot
from gpu_spots.plots import RATIOS_HEIGHT, RATIOS_WIDTH, RATIOS_WIDTH_WITH_FIT, ratios
from gpu_spots.spots.ratios import RatioResult


def write_plot(path: Path, found: RatioResult, *, force: bool = False) -> None:
    """Draw ratios by intensity, and the pulls of on/off and of the null tests.

    Args:
        path: A name that ends in ``.png`` or ``.svg``.
        found: Ratios.
        force: Whether an existing file is replaced.

    Raises:
        OutputError: The file exists or cannot be written, or matplotlib is not installed.
    """
    width = RATIOS_WIDTH_WITH_FIT if found.figures.get("photo-Wilson") else RATIOS_WIDTH
    with new_plot(path, width, RATIOS_HEIGHT, force=force) as figure:
        ratios(found, figure=figure)
