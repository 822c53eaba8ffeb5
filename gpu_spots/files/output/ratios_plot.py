"""Plot of on/off ratios and of their null tests, with matplotlib."""

from pathlib import Path
from typing import Any

import numpy as np

from gpu_spots.errors import OutputError
from gpu_spots.files.output.new_file import check_output, complete_or_absent
from gpu_spots.packages import install_command
from gpu_spots.spots.ratios import RatioResult
from gpu_spots.spots.ratios.wilson import mean_lines

WILSON_BINS = 12
"""Points of the photo-Wilson plot, for each delay."""


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

    fits = found.figures.get("photo-Wilson", [])
    figure = Figure(figsize=(15 if fits else 10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right, *others = figure.subplots(1, 3 if fits else 2)
    columns = found.ratios
    known = (columns["I_off"] > 0) & np.isfinite(columns["sigma_R"])
    for delay in np.unique(columns["delay"][known]).tolist():
        same = known & (
            np.isnan(columns["delay"]) if np.isnan(delay) else columns["delay"] == delay
        )
        left.errorbar(
            columns["I_off"][same],
            columns["R"][same],
            columns["sigma_R"][same],
            fmt=".",
            alpha=0.5,
            label="delay unknown" if np.isnan(delay) else f"delay {delay:g} s",
        )
    left.axhline(1, color="gray", linestyle="dashed")
    left.set(xscale="log", xlabel="laser-off intensity, counts", ylabel="on/off ratio")
    if known.any():
        low, high = np.percentile(columns["R"][known], [2, 98])
        left.set_ylim(low - 0.05, high + 0.05)
        left.legend(fontsize="small")
    edges = np.linspace(-6, 6, 49)
    for name, label in (("on_off", "on/off"), ("off_off", "off/off"), ("on_on", "on/on")):
        pulls = found.null[name]
        pulls = pulls[np.isfinite(pulls)]
        if len(pulls):
            right.hist(np.clip(pulls, -6, 6), edges, density=True, histtype="step", label=label)
    right.plot(edges, np.exp(-(edges**2) / 2) / np.sqrt(2 * np.pi), "k:", label="width 1")
    right.set(
        xlabel="difference of intensities / sigma",
        ylabel="density",
        title=found.verdict.partition(":")[0],
    )
    right.legend(fontsize="small")
    for axes in others:
        _draw_wilson(axes, found, fits)
    with complete_or_absent(path) as part:
        figure.savefig(part, format=path.suffix.removeprefix("."), dpi=150)


def _draw_wilson(axes: Any, found: RatioResult, fits: list[dict[str, Any]]) -> None:
    """Draw the mean of ln R in bins of s^2, and the fitted lines, for each delay."""
    columns = found.ratios
    for number, fit in enumerate(fits):
        delay, colour = fit["delay"], f"C{number}"
        same = np.isnan(columns["delay"]) if np.isnan(delay) else columns["delay"] == delay
        s, R, sigma = (columns[name][same] for name in ("s", "R", "sigma_R"))
        x, y, error = mean_lines(s, R, sigma, WILSON_BINS)
        axes.errorbar(x, y, error, fmt="o", color=colour)
        ends = np.array([0.0, float(x.max())])
        words = f"$\\Delta B$ = {fit['delta_B']:.3f} $\\pm$ {fit['sigma_delta_B']:.3f} $\\AA^2$"
        axes.plot(ends, fit["ln_scale"] + fit["slope"] * ends, color=colour, label=words)
    axes.axhline(0, color="gray", linestyle="dashed")
    axes.set(xlabel=r"$(\sin\theta / \lambda)^2$, $\AA^{-2}$", ylabel="ln R", title="photo-Wilson")
    axes.legend(fontsize="small")
