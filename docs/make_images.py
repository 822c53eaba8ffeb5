"""Makes the pictures of the documentation: ``python docs/make_images.py [FOLDER]``, by default docs/images. Needs matplotlib (extra docs).

The run is the one of the tutorial and of ``make demo``, so the pictures show what a reader sees.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap, LogNorm, Normalize
from numpy.typing import NDArray
from PIL import Image

from gpu_spots import Parameters, SpotsFile, find_spots

FRAME = 6
"""The frame that is shown: laser off, the first of the second angle."""
ROWS, COLUMNS = slice(300, 600), slice(260, 560)
"""The part that is shown: X (rows), Y (columns). The beamstop, its arm, the liquid ring and some
spots are in it.
"""


def main(folder: Path) -> None:
    """Simulate, find, draw."""
    with tempfile.TemporaryDirectory() as temporary:
        run = Path(temporary) / "laser__mccd.h5"
        subprocess.run(
            [sys.executable, "-m", "gpu_spots", "simulate", str(run)],
            check=True,
            stderr=subprocess.DEVNULL,
        )
        with find_spots(run, Parameters(sync="blocks")) as results, h5py.File(run) as file:
            tutorial(file["frames"][FRAME], results, folder / "tutorial.png")


def tutorial(frame: NDArray[np.uint16], results: SpotsFile, path: Path) -> None:
    """A frame, its background, the noise of that, and its mask: the same part of each."""
    crop = ROWS, COLUMNS
    mpl.rcParams.update({"font.size": 10, "font.family": "DejaVu Sans", "axes.linewidth": 0.8})
    figure, axes = plt.subplots(
        2, 2, figsize=(9.6, 8.2), sharex=True, sharey=True, layout="constrained"
    )

    background, deviation = results.avg[crop], results.std[crop]
    counts = LogNorm(np.percentile(background, 4), np.percentile(frame[crop], 99.6), clip=True)
    panel(
        axes[0, 0],
        frame[crop],
        f"a   frames[{FRAME}]",
        "counts, log scale",
        counts,
        [600, 1000, 2000],
    )
    panel(
        axes[0, 1],
        background,
        "b   stats/avg",
        "counts, log scale as in a",
        counts,
        [600, 1000, 2000],
    )
    noise = Normalize(0, np.percentile(deviation, 99.8), clip=True)
    panel(axes[1, 0], deviation, "c   stats/std", "counts, linear scale", noise, [0, 5, 10])
    mask = results.mask(FRAME)[crop]
    white_black = ListedColormap(["white", "black"])
    panel(
        axes[1, 1],
        mask,
        f"d   masks_filtered[{FRAME}]",
        "",
        BoundaryNorm([-0.5, 0.5, 1.5], 2),
        [0, 1],
        white_black,
    )

    for axis in axes[:, 0]:
        axis.set_ylabel("X (row)")
    for axis in axes[1]:
        axis.set_xlabel("Y (column)")
    path.parent.mkdir(parents=True, exist_ok=True)
    # 256 colours are enough for the maps, and halve the file
    figure.savefig(path, dpi=130, bbox_inches="tight", pad_inches=0.12, metadata={"Software": None})
    Image.open(path).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
        path, optimize=True
    )
    plt.close(figure)


def panel(
    axis: Axes,
    image: NDArray,
    title: str,
    unit: str,
    norm: Normalize,
    ticks: list[int],
    colours: str | ListedColormap = "magma",
) -> None:
    """One image of the crop with its colour bar; X runs down and Y to the right, as the array is indexed."""
    extent = (COLUMNS.start - 0.5, COLUMNS.stop - 0.5, ROWS.stop - 0.5, ROWS.start - 0.5)
    shown = axis.imshow(image, norm=norm, cmap=colours, extent=extent, interpolation="nearest")
    axis.set_title(title, loc="left", fontsize=11)
    axis.set_xticks(range(COLUMNS.start + 40, COLUMNS.stop, 100))
    axis.set_yticks(range(ROWS.start, ROWS.stop, 100))
    axis.tick_params(length=3)
    bar = axis.figure.colorbar(shown, cax=axis.inset_axes((1.025, 0, 0.035, 1)), label=unit)
    bar.ax.minorticks_off()
    bar.set_ticks(ticks, labels=[str(tick) for tick in ticks])


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "images")
