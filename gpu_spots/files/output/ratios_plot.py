"""Plot of on/off ratios and of their null tests, with matplotlib."""

from pathlib import Path

import numpy as np

from gpu_spots.errors import OutputError
from gpu_spots.files.output.new_file import check_output, complete_or_absent
from gpu_spots.packages import install_command
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

    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
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
    with complete_or_absent(path) as part:
        figure.savefig(part, format=path.suffix.removeprefix("."), dpi=150)
