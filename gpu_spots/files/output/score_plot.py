"""Plots of scores, with matplotlib."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path

from gpu_spots.errors import OutputError
from gpu_spots.files.output.new_file import check_output, complete_or_absent
from gpu_spots.packages import install_command
from gpu_spots.simulate.score import Bin, Score

PANELS: tuple[tuple[str, Callable[[Bin], float]], ...] = (
    ("recall, %", lambda part: 100 * part.recall),
    ("position error, pixels", lambda part: part.position_error),
    ("bias of the intensity, %", lambda part: 100 * part.intensity_bias),
    ("scatter of the intensity, %", lambda part: 100 * part.intensity_scatter),
    ("width of the pulls", lambda part: part.pull_width),
)
"""Quantities that are drawn by signal-to-noise: label of the axis, and value of a bin."""


def write_plot(path: Path, scores: Mapping[str, Score], *, force: bool = False) -> None:
    """Draw scores by signal-to-noise, one line each.

    The file appears under its name when it is complete.

    Args:
        path: a name that ends in ``.png`` or ``.svg``.
        scores: by their names in the legend, all with the same bins.
        force: replace a file that exists.

    Raises:
        OutputError: the file exists or cannot be written, or matplotlib is not installed.
    """
    check_output(path, (), force)
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise OutputError(
            f"{path}: plots need matplotlib, which is not installed; use {install_command('plots')}"
        ) from error

    panels = [
        (label, value)
        for label, value in PANELS
        if any(math.isfinite(value(part)) for one in scores.values() for part in one.bins)
    ]
    figure = Figure(figsize=(4 * max(len(panels), 1), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, max(len(panels), 1), squeeze=False)[0]
    for axis, (label, value) in zip(axes, panels, strict=False):
        for name, one in scores.items():
            places = range(len(one.bins))
            rate = one.n_false / one.n_frames
            text = f"{name} ({rate:.2f} false per frame)"
            axis.plot(places, [value(part) for part in one.bins], "o-", label=text)
        bins = next(iter(scores.values())).bins
        names = [
            f"> {part.low:g}" if math.isinf(part.high) else f"{part.low:g}-{part.high:g}"
            for part in bins
        ]
        axis.set_xticks(range(len(bins)), names, rotation=45)
        axis.set_xlabel("S/N of a spot on one frame")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize="small")
    with complete_or_absent(path) as part:
        figure.savefig(part, format=path.suffix.removeprefix("."), dpi=150)
