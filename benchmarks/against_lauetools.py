"""Spots on real Laue frames, compared with the peak lists of LaueTools.

    python benchmarks/against_lauetools.py [--folder FOLDER] [--frames 30] [--picture OUT.png]
        [--lists]

The frames and the lists are in the wheels ``lauetools==3.0.98`` (Ge_blanc_0000.mccd, germanium on a
MarCCD, 97 peaks; AH12_CMT_r14_0200.tif, HgCdTe on an sCMOS, 324 peaks; MIT licence, BM32 of ESRF)
and ``lauetoolsnn==3.0.77`` (GaN on silicon and ZnCu3(OH)6Cl2, without lists). The wheels are
downloaded with pip to FOLDER, if they are not there, and nothing of them is installed.

A single frame has no background in time. So a run is made: the first frame is the real one, the
others have its smooth background and noise, both as in ``real_frame.py``, but no spots. What is
found on the first frame is compared with the list: each peak belongs to one spot at most, the
nearest first, within 3 pixels. Peaks and spots of one list only are described by their height over
the noise, and shown in the picture. The smooth background does not follow the edge of a round
detector, so both lists leave out what is within 12 pixels of it.
"""

import argparse
import subprocess
import sys
import tempfile
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from real_frame import BORDER, Parts, noise_kernel, take_apart
from scipy import ndimage

from gpu_spots import Parameters, find_spots
from gpu_spots.files.images.image import read_image
from gpu_spots.parameters import MANUAL_DEFAULTS
from gpu_spots.simulate.score import match

FRAMES = (
    ("lauetools==3.0.98", "LaueTools/LaueImages/Ge_blanc_0000.mccd", "Ge_blanc_0000_LT_5.dat"),
    (
        "lauetools==3.0.98",
        "LaueTools/LaueImages/AH12_CMT_r14_0200.tif",
        "AH12_CMT_r14_0200_LT_0.dat",
    ),
    ("lauetoolsnn==3.0.77", "lauetoolsnn/examples/GaN_Si/nw1_0000.tif", ""),
    ("lauetoolsnn==3.0.77", "lauetoolsnn/examples/ZnCUOCl/HS17O_1_C_0000.tif", ""),
)
"""Wheel, frame, and list of peaks beside it."""
SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {name: getattr(Parameters(), name) for name in MANUAL_DEFAULTS},
    "clip, threshold, -s 2,1 -c 5": {"method": "clip", "structure": (2, 1), "cutoff": 5.0},
    "n_removed, threshold": {},
}
"""Settings of this program that are compared."""
SHOWN, HALF = 8, 12
"""Spots of each kind in the picture, and half the size of their windows, pixels."""


@dataclass(frozen=True)
class Agreement:
    """Spots and peaks of a frame, brought together."""

    theirs: NDArray[np.float64]
    """(t, 2) float64, pixels: X (row) and Y (column) of the peaks of LaueTools."""
    ours: NDArray[np.float64]
    """(n, 2) float64, pixels: of our spots."""
    of_theirs: NDArray[np.int64]
    """(t,) int64: our spot of each peak; -1: none."""
    distance: NDArray[np.float64]
    """(t,) float64, pixels; NaN: none."""

    @property
    def only_theirs(self) -> NDArray[np.float64]:
        """Peaks without a spot."""
        return self.theirs[self.of_theirs < 0]

    @property
    def only_ours(self) -> NDArray[np.float64]:
        """Spots without a peak."""
        return np.delete(self.ours, self.of_theirs[self.of_theirs >= 0], axis=0)


def main() -> None:
    """Download, make the runs, search, compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, help="where the wheels are kept; default: nowhere")
    parser.add_argument("--frames", type=int, default=30, help="frames of a run")
    parser.add_argument("--picture", type=Path, metavar="OUT.png")
    parser.add_argument("--lists", action="store_true", help="only the frames with lists")
    options = parser.parse_args()
    shown = []
    print("| frame | settings | both | only LaueTools | only ours | distance, 68 % |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        for wheel, name, answer in FRAMES:
            if options.lists and not answer:
                continue
            frame, peaks = downloaded(wheel, name, answer, options.folder or Path(temporary))
            parts, inside = take_apart(frame), away_from_edges(frame)
            peaks = peaks[at(inside, peaks)]
            frames = run_of(frame, parts, options.frames)
            in_sigmas = (frame - parts.background) / np.sqrt(parts.variance(parts.background))
            for setting, changes in SETTINGS.items():
                spots = spots_of(frames, changes)
                found = agreement(peaks, spots[at(inside, spots)])
                print(f"| {Path(name).name} | {setting} | {line_of(found)} |", flush=True)
                if setting == next(iter(SETTINGS)) and answer:
                    for kind in ("only_theirs", "only_ours"):
                        if not len(places := getattr(found, kind)):
                            continue
                        heights = [height(in_sigmas, place) for place in places]
                        print(f"{kind}: {summary(heights)}", file=sys.stderr)
                        shown.append(
                            (
                                f"{Path(name).stem}, {kind.replace('_', ' ')}",
                                places,
                                heights,
                                in_sigmas,
                            )
                        )
    if options.picture:
        draw(shown, options.picture)


def downloaded(
    wheel: str, name: str, answer: str, folder: Path
) -> tuple[NDArray[np.uint16], NDArray[np.float64]]:
    """Return a frame, (n_X, n_Y) uint16, and its peaks, (t, 2) float64, X and Y."""
    pattern = {"lauetools": "[Ll]aue[Tt]ools"}.get(wheel.split("==")[0], wheel.split("==")[0])
    if not (there := sorted(folder.glob(f"{pattern}-*.whl"))):
        command = [sys.executable, "-m", "pip", "download", wheel, "--no-deps", "--quiet"]
        subprocess.run([*command, "--dest", folder], check=True)
        there = sorted(folder.glob(f"{pattern}-*.whl"))
    with zipfile.ZipFile(there[0]) as file, tempfile.TemporaryDirectory() as temporary:
        frame = np.asarray(read_image(Path(file.extract(name, temporary))).frame, np.uint16)
        if not answer:
            return frame, np.zeros((0, 2))
        text = file.read(str(Path(name).with_name(answer))).decode()
    rows = [line.split() for line in text.splitlines()[1:] if not line.startswith("#")]
    # theirs are column and row, of which the first is 1
    peaks = np.array([[float(row[1]), float(row[0])] for row in rows]) - 1
    return frame, peaks


def run_of(frame: NDArray[np.uint16], parts: Parts, n_frames: int) -> NDArray[np.uint16]:
    """Return the frame, followed by frames of its background with noise."""
    rng = np.random.default_rng(0)
    frames = np.empty((n_frames, *frame.shape), np.uint16)
    frames[0] = frame
    sigma = np.sqrt(parts.variance(parts.background))
    kernel = noise_kernel(parts.correlation)
    for other in frames[1:]:
        noise = rng.standard_normal(frame.shape, np.float32)
        noise = ndimage.convolve(noise, kernel, mode="wrap")
        other[...] = np.clip(np.rint(parts.background + noise * sigma), 0, 65535)
    return frames


def spots_of(frames: NDArray[np.uint16], changes: dict[str, Any]) -> NDArray[np.float64]:
    """Return the centres of the spots on the first frame, (n, 2) float64."""
    with (
        warnings.catch_warnings(action="ignore"),
        find_spots(frames, Parameters.manual(angles=0, **changes)) as results,
    ):
        table = results.spots()
    centres = table["centroid"][table["frame"] == 0]
    return np.asarray(centres[np.isfinite(centres).all(1)])


def away_from_edges(frame: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """Return which pixels are away from the border of the frame and from parts without counts."""
    dark = ndimage.binary_opening(frame == 0, np.ones((7, 7), bool))
    padded = np.pad(dark, 1, constant_values=True)
    return ~ndimage.binary_dilation(padded, iterations=BORDER)[1:-1, 1:-1]


def at(image: NDArray[np.bool_], places: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return the pixels of an image at some places, (n,)."""
    last = np.array(image.shape) - 1
    x, y = np.clip(np.rint(places).astype(int), 0, last).T
    return np.asarray(image[x, y])


def agreement(theirs: NDArray[np.float64], ours: NDArray[np.float64]) -> Agreement:
    """Bring spots and peaks together."""
    mine, distance, _ = match(theirs, np.zeros(len(theirs)), ours)
    return Agreement(theirs, ours, mine, distance)


def line_of(found: Agreement) -> str:
    """Return the cells of a row of the table."""
    if not len(found.theirs):
        return f"- | - | {len(found.ours)} | -"
    both = int((found.of_theirs >= 0).sum())
    near = np.percentile(found.distance[found.of_theirs >= 0], 68) if both else np.nan
    return f"{both} | {len(found.only_theirs)} | {len(found.only_ours)} | {near:.2f} pixels"


def height(in_sigmas: NDArray[np.floating], place: NDArray[np.float64]) -> float:
    """Return the highest pixel near a place, in standard deviations of the noise."""
    x, y = np.rint(place).astype(int)
    return float(in_sigmas[max(0, x - 2) : x + 3, max(0, y - 2) : y + 3].max())


def summary(heights: list[float]) -> str:
    """Return number and quartiles of heights."""
    if not heights:
        return "none"
    low, middle, high = np.percentile(heights, [25, 50, 75])
    return f"{len(heights)}, highest pixel {low:.1f}, {middle:.1f}, {high:.1f} sigma (quartiles)"


def draw(shown: list[tuple[str, Any, list[float], Any]], path: Path) -> None:
    """Draw windows about spots that one side has only, one row of each kind, weak to strong."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.25 * SHOWN, 1.55 * len(shown)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(shown), SHOWN, squeeze=False)
    for row, (title, places, heights, in_sigmas) in zip(axes, shown, strict=True):
        order = np.argsort(heights)
        chosen = (
            order[np.unique(np.linspace(0, len(order) - 1, SHOWN).astype(int))]
            if len(order)
            else []
        )
        for axis in row:
            axis.set_axis_off()
        row[0].set_title(title, fontsize=8, loc="left")
        for axis, k in zip(row, chosen, strict=False):
            x, y = np.rint(places[k]).astype(int)
            window = in_sigmas[max(0, x - HALF) : x + HALF + 1, max(0, y - HALF) : y + HALF + 1]
            axis.imshow(window, vmin=-3, vmax=8, cmap="gray_r", interpolation="nearest")
            axis.plot(min(y, HALF), min(x, HALF), "o", ms=14, mfc="none", mec="tab:red", mew=0.8)
            axis.text(0.5, -0.02, f"{heights[k]:.1f} sigma", fontsize=7, ha="center", va="top",
                      transform=axis.transAxes)  # fmt: skip
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
