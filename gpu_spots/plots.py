"""Plots of results with matplotlib, for notebooks and scripts: background, frames, spots, ratios.

Every function returns a figure, which a notebook shows, and whose method ``savefig`` writes it to a
file. With ``figure``, a function draws into a figure or subfigure that is there. X is the row and
increases downwards, Y is the column. Needs matplotlib: ``pip install matplotlib``.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from gpu_spots.errors import GpuSpotsError
from gpu_spots.model import Array
from gpu_spots.packages import install_command
from gpu_spots.pictures import contrast_of
from gpu_spots.spots.ratios.wilson import mean_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

    from gpu_spots.files.output.spots_file import SpotsFile
    from gpu_spots.spots.ratios import RatioResult

    Drawing = Figure | SubFigure

PULLS = (("on_off", "on/off"), ("off_off", "off/off"), ("on_on", "on/on"))
"""Null tests whose pulls are drawn, and their labels."""
RATIOS_WIDTH, RATIOS_WIDTH_WITH_FIT, RATIOS_HEIGHT = 10, 15, 4
"""Size of the plot of ratios, with and without a photo-Wilson fit, inches."""
WILSON_BINS = 12
"""Points of the photo-Wilson plot, for each delay."""


def background(results: "SpotsFile", *, figure: "Drawing | None" = None) -> "Drawing":
    """Draw the average and the standard deviation of the background.

    Args:
        results: Spots file.
        figure: Figure to draw into. None: a new one.

    Raises:
        GpuSpotsError: matplotlib is not installed, or the file is damaged.

    Examples:
        >>> from gpu_spots import open_spots
        >>> with open_spots("laser__spots.h5") as results:
        ...     figure = background(results)
        >>> [axes.get_title() for axes in figure.axes[:2]]
        ['stats/avg', 'stats/std']
    """
    figure = _figure(figure, 10, 4.2)
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    lit = results.valid & (results.std > 0)
    for axes, name, image in ((left, "stats/avg", results.avg), (right, "stats/std", results.std)):
        _image(figure, axes, image, lit, results.valid, name)
    right.set_ylabel("")
    return figure


def frame(
    results: "SpotsFile",
    index: int,
    image: Array | None = None,
    *,
    figure: "Drawing | None" = None,
) -> "Drawing":
    """Draw a frame, with a circle around each of its spots.

    Args:
        results: Spots file.
        index: Index of the frame; negative indices count from the end.
        image: (n_X, n_Y), counts: the frame. None: it is read from the file that the spots file
            names.
        figure: Figure to draw into. None: a new one.

    Raises:
        GpuSpotsError: matplotlib is not installed, or the frames are not found.
        IndexError: There is no such frame.

    Examples:
        >>> from gpu_spots import open_spots
        >>> with open_spots("laser__spots.h5") as results:
        ...     figure = frame(results, 6)
        >>> print(figure.axes[0].get_title().partition(":")[0])
        frame 6
    """
    spots = results.spots(index)
    index %= results.n_frames
    figure = _figure(figure, 6.2, 5.2)
    if image is None:
        from gpu_spots.files.output.frames_of_spots import open_frames

        with open_frames(results) as stack:
            found = np.empty((1, *stack.shape[1:]), stack.dtype)
            stack.read(index, index + 1, found)
            image = found[0]
    axes = figure.subplots()
    title = f"frame {index}: {len(spots['I'])} spots"
    _image(figure, axes, image, results.valid & (results.std > 0), results.valid, title)
    X, Y = spots["XY"].T
    axes.scatter(Y, X, s=60, facecolors="none", edgecolors="C0", linewidths=0.9, label="spots")
    return figure


def spots_per_frame(results: "SpotsFile", *, figure: "Drawing | None" = None) -> "Drawing":
    """Draw the number of spots of each frame, with and without laser apart.

    Args:
        results: Spots file.
        figure: Figure to draw into. None: a new one.

    Raises:
        GpuSpotsError: matplotlib is not installed, or the file is damaged.

    Examples:
        >>> from gpu_spots import open_spots
        >>> with open_spots("laser__spots.h5") as results:
        ...     figure = spots_per_frame(results)
        >>> [line.get_label() for line in figure.axes[0].lines]
        ['laser off', 'laser on']
    """
    figure = _figure(figure, 8, 3.2)
    axes = figure.subplots()
    counts, columns = np.diff(results.frame_ranges, axis=1)[:, 0], results.per_frame()
    index, states = np.arange(len(counts)), columns["laser_on"]
    for state, label in ((0, "laser off"), (1, "laser on"), (-1, "spots")):
        here = states == state
        if here.any():
            axes.plot(index[here], counts[here], "o-", ms=3, lw=1, label=label)
    axes.set(xlabel="frame", ylabel="spots")
    if (states >= 0).any():
        axes.legend(fontsize="small")
    return figure


def noise(results: "SpotsFile", *, figure: "Drawing | None" = None) -> "Drawing":
    """Draw the variance of pixels against their background, and the noise model.

    Args:
        results: Spots file.
        figure: Figure to draw into. None: a new one.

    Raises:
        GpuSpotsError: matplotlib is not installed, or the file has no noise model.

    Examples:
        >>> from gpu_spots import open_spots
        >>> with open_spots("laser__spots.h5") as results:
        ...     figure = noise(results)
        >>> print(figure.axes[0].get_ylabel())
        variance, counts²
    """
    points, model = results.noise_points, results.noise_model
    if points is None or model is None:
        raise GpuSpotsError(
            f"{results.name}: has no noise model, it is from an older version; find the spots again"
        )
    figure = _figure(figure, 5.5, 3.6)
    axes = figure.subplots()
    axes.plot(points["level"], points["variance"], "o", ms=4, label="pixels")
    ends = np.array([0, points["level"].max(initial=1)])
    gain, offset = model["gain"], model["offset"]
    axes.plot(ends, offset + gain * ends, label=f"{offset:.3g} + {gain:.3g} x background")
    axes.set(xlabel="background, counts", ylabel="variance, counts²")
    axes.legend(fontsize="small")
    return figure


def ratios(found: "RatioResult", *, figure: "Drawing | None" = None) -> "Drawing":
    """Draw ratios by intensity, and the pulls of on/off and of the null tests.

    With a photo-Wilson fit, a third panel shows it.

    Args:
        found: Ratios.
        figure: Figure to draw into. None: a new one.

    Raises:
        GpuSpotsError: matplotlib is not installed.

    Examples:
        >>> from gpu_spots import open_spots
        >>> with open_spots("laser__spots.h5") as results:
        ...     figure = ratios(results.ratios())
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['on/off ratio', 'density']
    """
    fits = found.figures.get("photo-Wilson", [])
    figure = _figure(figure, RATIOS_WIDTH_WITH_FIT if fits else RATIOS_WIDTH, RATIOS_HEIGHT)
    left, right, *others = figure.subplots(1, 3 if fits else 2)
    columns = found.ratios
    known = (columns["I_off"] > 0) & np.isfinite(columns["sigma_R"])
    for delay in np.unique(columns["delay"][known]).tolist():
        same = known & _has_delay(columns, delay)
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
    for name, label in PULLS:
        pulls = found.null[name]
        pulls = pulls[np.isfinite(pulls)]
        if len(pulls):
            right.hist(np.clip(pulls, -6, 6), edges, density=True, histtype="step", label=label)
    gauss = np.exp(-(edges**2) / 2) / np.sqrt(2 * np.pi)
    right.plot(edges, gauss, color="gray", linestyle="dotted", label="width 1")
    right.set(
        xlabel="difference of intensities / sigma",
        ylabel="density",
        title=found.verdict.partition(":")[0],
    )
    right.legend(fontsize="small")
    for axes in others:
        _draw_wilson(axes, found, fits)
    return figure


def _draw_wilson(axes: "Axes", found: "RatioResult", fits: list[dict[str, Any]]) -> None:
    """Draw the mean of ln R in bins of s^2, and the fitted lines, for each delay."""
    columns = found.ratios
    for number, fit in enumerate(fits):
        delay, colour = fit["delay"], f"C{number}"
        same = _has_delay(columns, delay)
        s, R, sigma = (columns[name][same] for name in ("s", "R", "sigma_R"))
        x, y, error = mean_lines(s, R, sigma, WILSON_BINS)
        axes.errorbar(x, y, error, fmt="o", color=colour)
        ends = np.array([0.0, float(x.max())])
        words = f"$\\Delta B$ = {fit['delta_B']:.3f} $\\pm$ {fit['sigma_delta_B']:.3f} $\\AA^2$"
        axes.plot(ends, fit["ln_scale"] + fit["slope"] * ends, color=colour, label=words)
    axes.axhline(0, color="gray", linestyle="dashed")
    axes.set(xlabel=r"$(\sin\theta / \lambda)^2$, $\AA^{-2}$", ylabel="ln R", title="photo-Wilson")
    axes.legend(fontsize="small")


def _has_delay(columns: dict[str, Array], delay: float) -> Array:
    """Return which ratios have a delay, (n_ratios,) bool; NaN: it is unknown."""
    delays = columns["delay"]
    return np.isnan(delays) if np.isnan(delay) else delays == delay


def _figure(figure: "Drawing | None", width: float, height: float) -> Any:
    """Return a figure, or a new one of some size in inches. Raises `GpuSpotsError`."""
    if figure is not None:
        return figure
    try:
        from matplotlib import pyplot as plt
    except ImportError as error:
        raise GpuSpotsError(
            f"plots: need matplotlib, which is not installed; use {install_command('plots')}"
        ) from error
    return plt.figure(figsize=(width, height), layout="constrained")


def _image(figure: Any, axes: "Axes", image: Array, lit: Array, valid: Array, title: str) -> None:
    """Draw a frame or map with logarithmic colours; pixels that are not valid are left out."""
    limits = contrast_of(image, lit, (2, 99.9))
    low = max(limits.low, limits.high * 1e-4)
    shown = axes.imshow(
        np.where(valid, np.maximum(image, low), np.nan),
        norm="log",
        vmin=low,
        vmax=limits.high,
        cmap="magma",
        interpolation="nearest",
    )
    figure.colorbar(shown, ax=axes, label="counts")
    axes.set_title(title)
    axes.set(xlabel="Y (column)", ylabel="X (row)")
