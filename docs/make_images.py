"""Make the pictures of the documentation: ``python docs/make_images.py [FOLDER]``.

Each picture is made twice, ``NAME.png`` for light and ``NAME-dark.png`` for dark pages, by default
in ``docs/images``. They show the run of the tutorial and of ``make demo``, with the defaults of
``gpu-spots find`` except where the manual's method is shown. Its plots are made by the code of the
tutorial, and those of the page of ratios by its code. Needs the extra ``docs``.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from gpu_spots import Parameters, SpotsFile, find_spots, open_spots
from gpu_spots.backend import select_backend
from gpu_spots.masks.matched import significance_maps
from gpu_spots.masks.noise_map import NoiseMap
from gpu_spots.masks.seed_levels import Calibration, Thresholds
from gpu_spots.model import Validity
from gpu_spots.spots.table import label_image

DOCS = Path(__file__).parent
FRAME = 6
"""Index of the frame that is shown: laser off, the first at the second angle."""
CROP = slice(300, 600), slice(260, 560)
"""Part that is shown, X and Y: the beamstop, its arm, the liquid ring and some spots."""
SMALL = slice(345, 495), slice(412, 562)
"""Part in which masks are compared, X and Y."""
PIXEL = 361, 455
"""X and Y of a pixel that a spot covers on the frames of one angle."""


@dataclass(frozen=True)
class Theme:
    """Colours of the pictures for one kind of page."""

    suffix: str
    paper: str
    ink: str
    accent: str
    muted: str

    def settings(self) -> Any:
        """Return the settings of matplotlib by name."""
        inked = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
        return {
            "font.family": "DejaVu Sans",
            "font.size": 10,
            "axes.linewidth": 0.8,
            "axes.prop_cycle": cycler(color=[self.accent, self.muted]),
            **dict.fromkeys(
                ("figure.facecolor", "axes.facecolor", "savefig.facecolor"), self.paper
            ),
            **dict.fromkeys(inked, self.ink),
        }


THEMES = (
    Theme("", paper="#ffffff", ink="#1b1b1f", accent="#c2410c", muted="#64748b"),
    Theme("-dark", paper="#1e2129", ink="#e3e3e8", accent="#fb923c", muted="#94a3b8"),
)


def main(folder: Path) -> None:
    """Simulate the run, find its spots, and draw each picture for each theme."""
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary, chdir(temporary):
        simulate("laser__mccd.h5")
        for parameters, output in (
            (Parameters(sync="blocks"), "laser__spots.h5"),
            (Parameters.manual(sync="blocks"), "manual__spots.h5"),
        ):
            find_spots("laser__mccd.h5", parameters, output=output).close()
        simulate("drift__mccd.h5", "--drift", "3", "--size", "512", "--seed", "1")
        few = ("--dark", "--angles", "30", "--size", "512", "--spots", "100")
        simulate("ccd__mccd.h5", *few)
        simulate("counter__mccd.h5", "--preset", "pilatus", *few)
        for theme in THEMES:
            with mpl.rc_context(theme.settings()):
                for name, figure in pictures(theme):
                    save(figure, folder / f"{name}{theme.suffix}.png")
                    print(f"{name}{theme.suffix}.png")


def simulate(run: str, *options: str) -> None:
    """Simulate a run in the working folder."""
    command = [sys.executable, "-m", "gpu_spots", "simulate", run, *options]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


def pictures(theme: Theme) -> Iterator[tuple[str, Figure]]:
    """Yield names and figures."""
    draw: dict[str, tuple[str, Callable[..., Figure]]] = {
        "tutorial": ("laser__spots.h5", frame_and_mask),
        "masks": ("manual__spots.h5", masks),
        "pixel": ("manual__spots.h5", one_pixel),
    }
    for name, (spots, picture) in draw.items():
        with open_spots(spots) as results, h5py.File("laser__mccd.h5") as file:
            yield name, picture(file["frames"], results, theme)
    yield "drift", drift(theme)
    yield "finder", finder(theme)
    yield "noise", noise(theme)
    yield from plots_of("tutorial.md")
    yield from plots_of("ratios.md")


def plots_of(name: str) -> Iterator[tuple[str, Figure]]:
    """Run the Python blocks of a page, and yield each figure that one of them saves."""
    page = (DOCS / name).read_text()
    names: dict[str, Any] = {}
    for code in re.findall(r"(?<!-->\n)^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        with open(os.devnull, "w") as nowhere:
            names["print"] = lambda *words, file=nowhere: print(*words, file=file)
            exec(code, names)
        saved = re.search(r'savefig\("(\w+)\.png"\)', code)
        if saved:
            yield saved[1], names["figure"]


def frame_and_mask(frames: h5py.Dataset, results: SpotsFile, theme: Theme) -> Figure:
    """Draw a frame, its background, the noise of the background, and its mask."""
    figure, axes = plt.subplots(
        2, 2, figsize=(9.6, 8.2), sharex=True, sharey=True, layout="constrained"
    )
    frame, background, deviation = frames[FRAME][CROP], results.avg[CROP], results.std[CROP]
    low, high = float(np.percentile(background, 4)), float(np.percentile(frame, 99.6))
    counts = LogNorm(low, high, clip=True)
    noise = Normalize(0, float(np.percentile(deviation, 99.8)), clip=True)
    scales = {
        "counts, log scale": (counts, [600, 1000, 2000]),
        "counts, log scale as in a": (counts, [600, 1000, 2000]),
        "counts, linear scale": (noise, [0, 5, 10]),
    }
    images = (frame, background, deviation)
    titles = (f"a   frames[{FRAME}]", "b   stats/avg", "c   stats/std")
    for axis, image, title, (label, (norm, ticks)) in zip(
        axes.flat, images, titles, scales.items(), strict=False
    ):
        shown = show(axis, image, title, CROP, norm=norm, cmap="magma")
        bar = figure.colorbar(shown, cax=axis.inset_axes((1.025, 0, 0.035, 1)), label=label)
        bar.ax.minorticks_off()
        bar.set_ticks(ticks, labels=[str(tick) for tick in ticks])
    show_mask(axes[1, 1], results.mask(FRAME), f"d   masks_filtered[{FRAME}]", CROP, theme)
    label_axes(axes)
    return figure


def masks(frames: h5py.Dataset, results: SpotsFile, theme: Theme) -> Figure:
    """Draw the masks of a frame from the raw one to the synced one, and the labels."""
    figure, axes = plt.subplots(
        2, 2, figsize=(8, 8.2), sharex=True, sharey=True, layout="constrained"
    )
    show_mask(axes[0, 0], results.mask(FRAME, "raw"), f"a   masks_raw[{FRAME}]", SMALL, theme)
    show_mask(axes[0, 1], results.mask(FRAME), f"b   masks_filtered[{FRAME}]", SMALL, theme)
    show_mask(axes[1, 0], results.mask(FRAME, "synced"), "c   masks_synced[1]", SMALL, theme)
    labels = results.labels(FRAME)[SMALL]
    colours: list[Any] = [theme.paper]
    colours += [plt.get_cmap("tab20")(index % 20) for index in range(labels.max())]
    show(axes[1, 1], labels, "d   masks/labels[1]", SMALL, cmap=ListedColormap(colours))
    for label in np.unique(labels[labels > 0]):
        X, Y = np.argwhere(labels == label).max(axis=0)
        place = (SMALL[1].start + Y + 2, SMALL[0].start + X + 2)
        axes[1, 1].annotate(str(label), place, fontsize=8, va="top", annotation_clip=True)
    label_axes(axes)
    return figure


def one_pixel(frames: h5py.Dataset, results: SpotsFile, theme: Theme) -> Figure:
    """Draw the values of one pixel on all frames, with its average and its threshold."""
    values = frames[:, PIXEL[0], PIXEL[1]]
    dropped = np.zeros(len(values), bool)
    dropped[np.argsort(values, kind="stable")[-int(results.info["n_removed"]) :]] = True
    figure, axis = plt.subplots(figsize=(8, 3.6), layout="constrained")
    index = np.arange(len(values))
    axis.plot(index[~dropped], values[~dropped], "o", ms=4, label="in the background sample")
    axis.plot(index[dropped], values[dropped], "o", ms=4, mfc="none", label="dropped")
    axis.axhline(results.avg[PIXEL], color=theme.ink, lw=1, label="stats/avg")
    axis.axhline(results.threshold[PIXEL], color=theme.ink, lw=1, ls="dashed")
    axis.plot([], [], color=theme.ink, lw=1, ls="dashed", label="stats/threshold")
    axis.set(xlabel="frame", ylabel="counts")
    axis.set_title(f"values of the pixel X {PIXEL[0]}, Y {PIXEL[1]}", loc="left", fontsize=11)
    axis.legend(frameon=False, labelcolor=theme.ink)
    return figure


def drift(theme: Theme) -> Figure:
    """Draw the levels of a run that drifts, and a mask of it without and with scaling."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.7), layout="constrained")
    for axis, title, how in ((axes[1], "b", "none"), (axes[2], "c", "level")):
        parameters = Parameters.manual(sync="blocks", normalise=how)
        with find_spots(
            "drift__mccd.h5", parameters, output=f"{how}__spots.h5", force=True
        ) as found:
            whole = slice(0, found.avg.shape[0]), slice(0, found.avg.shape[1])
            with h5py.File(f"{how}__spots.h5") as file:
                level = file["frame_level"][:]
            brightest = int(level.argmax())
            text = f"{title}   masks_filtered[{brightest}], {how}"
            show_mask(axis, found.mask(brightest), text, whole, theme)
        axis.set(xlabel="Y (column)", ylabel="X (row)" if how == "none" else "")
    axes[0].plot(level, "o-", ms=3, lw=1)
    axes[0].set(xlabel="frame", ylabel="counts")
    axes[0].set_title("a   frame_level", loc="left", fontsize=11)
    return figure


def noise(theme: Theme) -> Figure:
    """Draw the noise model of a CCD and of a photon counter: variance against background."""
    figure, axes = plt.subplots(1, 2, figsize=(9.6, 3.9), layout="constrained")
    for axis, title, name in (
        (axes[0], "a   CCD", "ccd"),
        (axes[1], "b   photon counter", "counter"),
    ):
        parameters = Parameters(method="clip", angles=0)
        with find_spots(
            f"{name}__mccd.h5", parameters, output=f"{name}__spots.h5", force=True
        ) as results:
            model = results.noise_model
        assert model is not None
        with h5py.File(f"{name}__spots.h5") as file:
            level, variance = file["noise/level"][:], file["noise/variance"][:]
        ends = np.array([0.0, 1.05 * level.max()])
        axis.plot(ends, model["offset"] + model["gain"] * ends, lw=1.2)
        axis.plot(level, variance, "o", ms=3.5)
        axis.set(xlabel="background, counts", ylabel="variance, counts^2")
        axis.set_title(title, loc="left", fontsize=11)
        words = f"gain {model['gain']:.3f}\noffset {model['offset']:.2f}"
        axis.text(0.05, 0.95, words, transform=axis.transAxes, va="top")
    return figure


def finder(theme: Theme) -> Figure:
    """Draw what the matched finder makes of a frame: a smoothed map, seeds, and spots."""
    rng, shape = np.random.default_rng(11), (72, 96)
    x, y = np.mgrid[: shape[0], : shape[1]]
    mean, expected = np.full(shape, 40.0), np.full(shape, 40.0)
    weak = [(12, 14, 150), (12, 44, 150), (14, 76, 190), (58, 16, 190), (60, 80, 220)]
    pair = [(36, 30, 1500), (38, 35, 900), (36, 66, 700), (31, 69, 700), (33, 73, 250)]
    for row, column, photons in [*weak, *pair]:
        distance = (x - row) ** 2 + (y - column) ** 2
        expected += photons / (2 * np.pi * 1.2**2) * np.exp(-distance / (2 * 1.2**2))
    frame = rng.poisson(expected).astype(np.uint16)
    frame[60, 48] = 150  # a zinger
    noise = NoiseMap(
        mean, np.sqrt(mean).astype(np.float32), 1.0, 0.0, Validity(), False, frame.dtype
    )
    backend = select_backend("cpu")
    prepared = backend.prepare_significance(significance_maps(noise, streaks=False, workers=1))
    found = backend.significance(frame[None], prepared, None)
    levels = Thresholds(noise, 5.5, streaks=False).levels(1, Calibration(1, (0.0,) * 3, (1.0,) * 3))
    masks = backend.matched_masks(found, prepared, [backend.prepare_seeds(levels)])
    raw = backend.fetch([masks.raw])[0][0]
    significance = (backend.smoothed_maps(found, prepared)[0, 1] - 1024.0) / 70
    labels = label_image(masks.spots, 0, shape)

    figure, axes = plt.subplots(
        2, 2, figsize=(9.6, 7.2), sharex=True, sharey=True, layout="constrained"
    )
    whole = slice(0, shape[0]), slice(0, shape[1])
    counts = show(axes[0, 0], frame, "a   frame", whole, cmap="magma", vmin=20, vmax=110)
    figure.colorbar(counts, ax=axes[0, 0], label="counts", shrink=0.85)
    smooth = show(axes[0, 1], significance, "b   map M1", whole, cmap="magma", vmin=-3, vmax=15)
    figure.colorbar(smooth, ax=axes[0, 1], label="standard deviations", shrink=0.85)
    show_mask(axes[1, 0], raw, "c   masks_raw: seeds", whole, theme)
    colours: list[Any] = [theme.paper]
    colours += [plt.get_cmap("tab20")(index % 20) for index in range(labels.max())]
    show(axes[1, 1], labels, "d   masks/labels: spots", whole, cmap=ListedColormap(colours))
    label_axes(axes)
    return figure


def show(axis: Axes, image: NDArray[Any], title: str, part: tuple[slice, slice], **how: Any) -> Any:
    """Draw part of an image; X increases downwards and Y to the right, as in the array."""
    rows, columns = part
    extent = (columns.start - 0.5, columns.stop - 0.5, rows.stop - 0.5, rows.start - 0.5)
    axis.set_title(title, loc="left", fontsize=11)
    axis.tick_params(length=3)
    axis.locator_params(nbins=4)
    return axis.imshow(image, extent=extent, interpolation="nearest", **how)


def show_mask(
    axis: Axes, mask: NDArray[Any], title: str, part: tuple[slice, slice], theme: Theme
) -> None:
    """Draw part of a mask: pixels of spots in the colour of the text."""
    colours = ListedColormap([theme.paper, theme.ink])
    show(axis, mask[part], title, part, cmap=colours, norm=BoundaryNorm([-0.5, 0.5, 1.5], 2))


def label_axes(axes: NDArray[Any]) -> None:
    """Write X at the left and Y at the bottom of a grid of images."""
    for axis in axes[:, 0]:
        axis.set_ylabel("X (row)")
    for axis in axes[-1]:
        axis.set_xlabel("Y (column)")


def save(figure: Figure, path: Path) -> None:
    """Write a figure with 256 colours, which are enough for the maps and halve the file."""
    figure.savefig(path, dpi=130, bbox_inches="tight", pad_inches=0.12, metadata={"Software": None})
    image = Image.open(path).convert("RGB")
    image.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    plt.close(figure)


if __name__ == "__main__":
    mpl.use("agg")
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS / "images")
