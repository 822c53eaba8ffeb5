"""Picture of one frame of ``semi_real.py``: its true and its found spots, background and mask."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpu_spots.files.output.spots_file import SpotsFile
from gpu_spots.simulate.score import CLEAR, FAINTEST, match
from gpu_spots.simulate.truth import Truth

SHOWN, FIRST, CROP = 12, (0.3, 0.6), 600
"""Frame of the picture, begin of the part that is shown as a part of its rows and columns, and size
of it in pixels. With the default options, every outcome is in this part."""


def draw(frames: NDArray[np.uint16], truth: Truth, results: SpotsFile, path: Path) -> None:
    """Draw part of a frame with true and found spots, its background, and its mask."""
    import matplotlib as mpl
    import PIL.Image
    from matplotlib import pyplot as plt
    from matplotlib.colors import LogNorm

    shown = min(SHOWN, len(frames) - 1)
    begins = [
        min(int(first * n), max(0, n - CROP))
        for first, n in zip(FIRST, frames.shape[1:], strict=True)
    ]
    crop = tuple(
        slice(begin, min(begin + CROP, n))
        for begin, n in zip(begins, frames.shape[1:], strict=True)
    )
    found, false = outcome(truth, results, shown)
    true = truth.spots.XY[truth.spots.block == shown]
    snr = truth.spots.snr[truth.spots.block == shown]
    kinds = (
        ("found", true[found], "o", "#1b9ae0", "-"),
        (f"missed, S/N above {CLEAR:g}", true[~found & (snr >= CLEAR)], "o", "#e8590c", "-"),
        (
            f"missed, S/N 3 to {CLEAR:g}",
            true[~found & (snr >= 3) & (snr < CLEAR)],
            "o",
            "#e8590c",
            ":",
        ),
        ("false", false, "s", "#c2185b", "-"),
    )

    mpl.rcParams.update({"font.size": 10, "font.family": "DejaVu Sans", "axes.linewidth": 0.8})
    figure, axes = plt.subplots(1, 3, figsize=(13.6, 5.6))
    figure.subplots_adjust(left=0.045, right=0.988, top=0.94, bottom=0.235, wspace=0.05)
    extent = (crop[1].start - 0.5, crop[1].stop - 0.5, crop[0].stop - 0.5, crop[0].start - 0.5)
    part, background, mask = frames[shown][crop], results.avg[crop], results.mask(shown)[crop]
    darkest, brightest = float(background.min()) - 25, float(background.max()) + 120
    norm = LogNorm(darkest, brightest, clip=True)
    # a pixel of the picture is about a pixel of the frame: antialiasing would fade the smallest
    # spots
    greys = plt.get_cmap("gray", 100)  # which keeps the file small
    image = axes[0].imshow(part, norm=norm, cmap=greys, extent=extent, interpolation="nearest")
    axes[1].imshow(background, norm=norm, cmap=greys, extent=extent, interpolation="nearest")
    axes[2].imshow(mask, cmap="gray_r", extent=extent, interpolation="nearest")
    titles = (
        f"a   frame {shown} and what became of its spots",
        "b   stats/avg",
        f"c   masks_filtered[{shown}]",
    )
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, loc="left", fontsize=11)
        axis.set_xlabel("Y (column)")
        axis.tick_params(length=3, labelleft=axis is axes[0])
        axis.locator_params(nbins=6)
        axis.set_autoscale_on(False)
    axes[0].set_ylabel("X (row)")

    handles = []
    for name, places, marker, colour, line in kinds:
        x, y = places.T
        inside = (
            (x >= crop[0].start) & (x < crop[0].stop) & (y >= crop[1].start) & (y < crop[1].stop)
        )
        look = {
            "s": 130,
            "marker": marker,
            "facecolor": "none",
            "edgecolor": colour,
            "linewidth": 1.4,
            "linestyle": line,
        }
        for axis in (axes[0], axes[2]):
            handle = axis.scatter(
                y[inside], x[inside], label=f"{name} ({np.count_nonzero(inside)})", **look
            )
        handles.append(handle)
    figure.legend(
        handles=handles,
        handletextpad=0.3,
        loc="lower left",
        bbox_to_anchor=(0.04, 0),
        ncols=2,
        frameon=False,
        columnspacing=1.5,
    )
    middle = axes[1].get_position()
    bar = figure.colorbar(
        image, cax=figure.add_axes((middle.x0, 0.105, middle.width, 0.03)), orientation="horizontal"
    )
    bar.set_label("counts in a and b, logarithmic scale", labelpad=2)
    bar.ax.minorticks_off()
    ticks = [tick for tick in range(1000, 2000, 50) if darkest < tick < brightest]
    bar.set_ticks(ticks, labels=[str(tick) for tick in ticks])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=115, metadata={"Software": None})
    plt.close(figure)
    PIL.Image.open(path).convert("RGB").save(path, optimize=True)


def outcome(
    truth: Truth, results: SpotsFile, shown: int
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Return whether each true spot of a frame was found, and X and Y of the false ones.

    The rule is that of the score.
    """
    here = truth.spots.block == shown
    true, visible = truth.spots.XY[here], truth.spots.snr_matched[here] >= FAINTEST
    spots = results.spots(shown)
    pixels = [results.pixel_list[begin:end] for begin, end in spots["pixel_list_BE"].tolist()]
    n_Y = results.avg.shape[1]
    centres = [[(p // n_Y).mean(), (p % n_Y).mean()] for p in pixels]
    places = np.array(centres).reshape(-1, 2)
    mine, _, near = match(true[visible], truth.spots.sigma[here][visible, 0], places)
    is_found = np.zeros(len(true), bool)
    is_found[visible] = mine >= 0
    false = ~near
    false[mine[mine >= 0]] = False
    return is_found, spots["XY"][false].astype(np.int64)
