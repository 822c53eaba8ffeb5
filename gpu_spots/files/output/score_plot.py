"""Plots of scores, with matplotlib."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path

from gpu_spots.files.output.new_plot import new_plot
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

    Args:
        path: A name that ends in ``.png`` or ``.svg``.
        scores: Scores by their names in the legend, all with the same bins.
        force: Whether an existing file is replaced.

    Raises:
        OutputError: The file exists or cannot be written, or matplotlib is not installed.
    """
    panels = [
        (label, value)
        for label, value in PANELS
        if any(math.isfinite(value(part)) for one in scores.values() for part in one.bins)
    ]
    n_panels = max(len(panels), 1)
    with new_plot(path, 4 * n_panels, 3.6, force=force) as figure:
        axes = figure.subplots(1, n_panels, squeeze=False)[0]
        for axis, (label, value) in zip(axes, panels, strict=False):
            for name, one in scores.items():
                rate = one.n_false / one.n_frames
                text = f"{name} ({rate:.2f} false per frame)"
                axis.plot([value(part) for part in one.bins], "o-", label=text)
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
