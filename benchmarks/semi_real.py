"""Recall of spots in a series with known truth, made from a real Laue frame.

    python benchmarks/semi_real.py [GE.jp2] [--frames 60] [--size 1000] [--set structure=2,1]
    [--picture OUT.png]

GE.jp2 (default ../shared/data/ge.jp2) is a white-beam Laue frame of germanium, 2018 x 2016 pixels,
from https://github.com/BM32ESRF/laueimproc, MIT licence, Copyright (c) 2023 Robin RICHARD; a
picture made from it needs that credit. It is not part of this project: where it is missing the
script says so and does nothing. Needs imagecodecs, and matplotlib for the picture.

The frame is taken apart and put together again:

- background: the median of every 4 x 4 pixels, a median filter of 13 x 13 of those, and linear
  interpolation between them;
- spots: components of at least 4 pixels 10 sigma above the background, grown to where they end,
  each cut out as a small image;
- noise: what is left, away from the spots. Its variance follows ``gain * (counts - zero)``, which
  is fitted, and neighbouring pixels are correlated (0.39), as the light spreads in the screen: the
  autocorrelation is measured out to 3 pixels.

On each frame of the series every spot is at a new random place, with its intensity multiplied by a
random factor (log-normal), on the same background; no two spots touch. Noise is drawn for the sum,
with the variance of the fit and the correlation of the frame.

The score is that of ``gpu-spots score``. S/N is what it is there, that of the spot integrated on
one frame: its intensity I over the noise of the A pixels that hold 86 % of it, as the 2-sigma
ellipse of a Gaussian does. Here the correlation of the noise enters too: ``I / sqrt(F * gain * (I +
A * (B - zero)))``, with B the background and F the variance of the sum of those pixels over that of
as many independent ones, 2.5 to 4.5. Beside it, as the frame's own spots were counted: the spots
that have 4 pixels or more above 10 sigma.
"""

import argparse
import ast
import math
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gpu_spots import Parameters, find_spots
from gpu_spots.errors import GpuSpotsError
from gpu_spots.files.output.simulated_run import read_found
from gpu_spots.files.output.spots_file import SpotsFile, open_spots
from gpu_spots.simulate.score import CLEAR, FAINTEST, Score, match, score
from gpu_spots.simulate.truth import Schedule, Truth, lone_spots, steady

Image = NDArray[np.float32]

DEFAULT = Path(__file__).parents[2] / "shared" / "data" / "ge.jp2"
BORDER = 12
"""Pixels at the edge of the frame where spots are neither taken from nor put, and noise is not
measured.
"""
GAP = 4
"""Pixels between two spots, at least."""
MEDIAN_SCALE, SCALE_SPREAD = 0.25, 1.5
"""Of the log-normal factors: the median, and sigma of the natural logarithm. A real frame shows
only spots that are clear; this adds weak ones."""
LAGS = 3
"""Pixels out to which the noise is correlated."""
HELD = 1 - math.exp(-2)
"""Part of a Gaussian's intensity that is inside its 2-sigma ellipse."""
SHOWN, FIRST, CROP = 12, (0.3, 0.6), 600
"""The picture: the frame, where the part that is shown begins (of its rows and columns), and its
size in pixels: chosen so that, with the default options, every outcome is in it."""


@dataclass(frozen=True, slots=True)
class Spot:
    """A spot that was cut out."""

    image: Image
    """(h, w) float32, counts above the background; 0 outside of the spot."""
    peak: tuple[int, int]
    """X and Y of its highest pixel in ``image``."""
    intensity: float
    """Sum, counts."""
    area: int
    """The fewest pixels that hold the part `HELD` of the intensity."""
    factor: float
    """Variance of the noise of their sum over that of as many independent pixels."""
    fourth: float
    """Its fourth highest pixel, counts."""

    @property
    def radius(self) -> float:
        """Return the radius of the circle around ``peak`` that holds ``image``, pixels."""
        corners = [
            (x - self.peak[0], y - self.peak[1])
            for x in (0, self.image.shape[0])
            for y in (0, self.image.shape[1])
        ]
        return max(math.hypot(*corner) for corner in corners)


@dataclass(frozen=True, slots=True)
class Parts:
    """A real frame, taken apart."""

    background: Image
    """(n_X, n_Y) float32, counts."""
    spots: list[Spot]
    """The spots."""
    gain: float
    """Variance of the noise, counts^2, for each count above ``zero``."""
    zero: float
    """Counts where there would be no noise."""
    correlation: Image
    """Return the mean product of pixels over the variance, by their distance.

    The result is (2 * LAGS + 1, 2 * LAGS + 1) float32, equal in all four quadrants.
    """

    def variance(self, counts: Image | np.float32) -> Image:
        """Return the variance of the noise of each pixel, counts^2."""
        return np.asarray(self.gain * np.maximum(counts - self.zero, 1), np.float32)


def main() -> int:
    """Make the series, find its spots, and print what came back."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("image", type=Path, nargs="?", default=DEFAULT, metavar="GE.jp2")
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument(
        "--size", type=int, help="use only the middle SIZE x SIZE pixels; default: all"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--white", action="store_true", help="draw noise without correlation, for comparison"
    )
    parser.add_argument(
        "--set",
        nargs="+",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="search once more with changes of the manual's defaults, e.g., cutoff=4 structure=2,1",
    )
    parser.add_argument(
        "--picture",
        type=Path,
        metavar="OUT.png",
        help="draw a part of a frame, its background and its mask",
    )
    arguments = parser.parse_args()
    try:
        searches = {
            " ".join(changes) or "manual": parameters(changes) for changes in [[], *arguments.set]
        }
    except (GpuSpotsError, TypeError) as error:
        parser.error(f"--set: {error}")
    if not arguments.image.exists():
        print(f"{arguments.image} is not here: skipped", file=sys.stderr)
        return 0
    try:
        frame = read(arguments.image)
    except ImportError:
        print("imagecodecs is needed to read JPEG 2000: pip install imagecodecs", file=sys.stderr)
        return 1

    parts = take_apart(frame)
    begun = time.perf_counter()
    if arguments.white:
        parts = replace(
            parts,
            correlation=np.pad(np.ones((1, 1), np.float32), LAGS),
            spots=[replace(spot, factor=1.0) for spot in parts.spots],
        )
    frames, truth, in_sigmas = series(
        parts, arguments.frames, arguments.size, np.random.default_rng(arguments.seed)
    )
    describe(frames, parts, truth, time.perf_counter() - begun)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "semi_real__spots.h5"
        for name, chosen in searches.items():
            print(f"\n{name}: ", end="")
            search(frames, truth, in_sigmas, chosen, output)
            if arguments.picture and name == "defaults":
                with open_spots(output) as results:
                    draw(frames, truth, results, arguments.picture)
    return 0


def read(path: Path) -> NDArray[np.uint16]:
    """(n_X, n_Y) uint16, counts. Raises ImportError without imagecodecs."""
    from imagecodecs import jpeg2k_decode

    return np.asarray(jpeg2k_decode(path.read_bytes()), np.uint16)


def take_apart(frame: NDArray[np.uint16]) -> Parts:
    """Background, spots and noise of a real frame."""
    background = smooth(frame)
    left = frame - background
    # the noise of the whole frame says where spots are, what is away from them says how noise
    # depends on the counts
    sigma = 1.4826 * np.median(abs(left))
    quiet = ~ndimage.binary_dilation(left > 7 * sigma, iterations=BORDER)
    quiet[:BORDER], quiet[-BORDER:], quiet[:, :BORDER], quiet[:, -BORDER:] = (
        False,
        False,
        False,
        False,
    )
    gain, zero = noise_line(background[quiet], left[quiet])
    in_sigmas = left / np.sqrt(gain * np.maximum(background - zero, 1))
    correlation = autocorrelation(in_sigmas.clip(-5, 5), quiet)
    return Parts(background, cut_out(left, in_sigmas, correlation), gain, zero, correlation)


def smooth(frame: NDArray[np.uint16], bin_: int = 4, window: int = 13) -> Image:
    """The background, (n_X, n_Y) float32, counts."""
    n_x, n_y = frame.shape
    padded = np.pad(frame, ((0, -n_x % bin_), (0, -n_y % bin_)), mode="edge")
    blocks = padded.reshape(padded.shape[0] // bin_, bin_, padded.shape[1] // bin_, bin_)
    small = ndimage.median_filter(
        np.median(blocks, axis=(1, 3)).astype(np.float32), window, mode="nearest"
    )
    return ndimage.zoom(small, bin_, order=1, mode="nearest", grid_mode=True)[:n_x, :n_y]


def noise_line(background: Image, left: Image) -> tuple[float, float]:
    """Return gain and zero of the line that the variance follows.

    It is fitted in steps of 10 counts, without values beyond 5 sigma.
    """
    step = (background // 10).astype(np.int64)
    level, variance, weight = [], [], []
    for k in np.unique(step):
        values = left[step == k]
        if len(values) > 5000:
            values = values[abs(values - np.median(values)) < 5 * values.std()]
            level.append(10 * k + 5)
            variance.append(values.var())
            weight.append(math.sqrt(len(values)))
    gain, offset = np.polyfit(level, variance, 1, w=weight)
    return float(gain), float(-offset / gain)


def autocorrelation(noise: Image, quiet: NDArray[np.bool_]) -> Image:
    """Return the mean product of pixels over the variance, by their distance.

    The result is (2 * LAGS + 1, 2 * LAGS + 1) float32, equal in all four quadrants.
    """
    n_x, n_y = noise.shape
    noise = np.where(quiet, noise, 0)
    quadrant = np.zeros((LAGS + 1, LAGS + 1), np.float32)
    for dx in range(LAGS + 1):
        for dy in range(LAGS + 1):
            for turned in (noise, noise[:, ::-1]):
                product = turned[: n_x - dx, : n_y - dy] * turned[dx:, dy:]
                quadrant[dx, dy] += product.sum() / np.count_nonzero(product)
    quadrant /= quadrant[0, 0]
    right = np.concatenate([quadrant[:, :0:-1], quadrant], axis=1)
    return np.concatenate([right[:0:-1], right])


def cut_out(left: Image, in_sigmas: Image, correlation: Image) -> list[Spot]:
    """Return spots: components of 4 pixels and more above 10 sigma.

    They include all pixels around them that are clearly above the noise.
    """
    eight = np.ones((3, 3))
    labels, _ = ndimage.label(in_sigmas > 10, eight)
    large = np.bincount(labels.ravel()) >= 4
    large[0] = False
    # the mean of nine correlated pixels has half of the noise
    regions, _ = ndimage.label((ndimage.uniform_filter(in_sigmas, 3) > 1.5) | large[labels], eight)
    chosen = np.zeros(regions.max() + 1, bool)
    chosen[regions[large[labels]]] = True
    chosen[0] = False
    found = []
    for number, box in enumerate(ndimage.find_objects(regions), 1):
        inside = all(
            side.start >= BORDER and side.stop <= n - BORDER
            for side, n in zip(box, left.shape, strict=True)
        )
        if chosen[number] and inside:
            image = np.where(regions[box] == number, left[box], 0).astype(np.float32)
            ordered = np.sort(image, axis=None)[::-1]
            area = int(np.searchsorted(np.cumsum(ordered), HELD * image.sum())) + 1
            counted = (image >= ordered[area - 1]).astype(np.float32)
            factor = float(
                (counted * ndimage.convolve(counted, correlation, mode="constant")).sum()
                / counted.sum()
            )
            peak = np.unravel_index(image.argmax(), image.shape)
            found.append(
                Spot(
                    image,
                    (int(peak[0]), int(peak[1])),
                    float(image.sum()),
                    area,
                    factor,
                    float(ordered[3]),
                )
            )
    return found


def series(
    parts: Parts, n_frames: int, size: int | None, rng: np.random.Generator
) -> tuple[NDArray[np.uint16], Truth, NDArray[np.float64]]:
    """Return frames, (n_frames, n_X, n_Y) uint16, counts, and the spots on them.

    The third result is the fourth highest pixel of each spot in sigmas of the noise.
    """
    background = parts.background
    if size is not None:
        middle = tuple(slice(max(0, (n - size) // 2), (n + size) // 2) for n in background.shape)
        background = background[middle]
    # as many spots on a pixel as on the real frame
    n_spots = round(len(parts.spots) * background.size / parts.background.size)
    kernel = noise_kernel(parts.correlation)
    frames = np.empty((n_frames, *background.shape), np.uint16)
    rows = []
    for i, frame in enumerate(frames):
        picture = background.copy()
        chosen = [parts.spots[k] for k in rng.choice(len(parts.spots), n_spots, replace=False)]
        for spot, (x, y) in place(chosen, background.shape, rng):
            scale = MEDIAN_SCALE * math.exp(SCALE_SPREAD * rng.standard_normal())
            begin_x, begin_y = x - spot.peak[0], y - spot.peak[1]
            picture[
                begin_x : begin_x + spot.image.shape[0], begin_y : begin_y + spot.image.shape[1]
            ] += scale * spot.image
            intensity = scale * spot.intensity
            variance = float(parts.variance(background[x, y]))
            sigma = math.sqrt(spot.factor * (parts.gain * intensity + spot.area * variance))
            rows.append(
                (x, y, i, intensity, intensity / sigma, scale * spot.fourth / math.sqrt(variance))
            )
        noise = rng.standard_normal(background.shape, np.float32)
        noise = ndimage.convolve(noise, kernel, mode="wrap")
        frame[...] = np.clip(np.rint(picture + noise * np.sqrt(parts.variance(picture))), 0, 65535)
    x, y, number, intensity, snr, in_sigmas = np.array(rows).T
    nothing, each = np.zeros(len(rows)), np.arange(n_frames, dtype=np.int32)
    spots = lone_spots(
        np.stack([x, y], axis=1),
        number.astype(np.int32),
        number,
        intensity,
        nothing,
        np.zeros((len(rows), 2)),
        nothing,
        snr,
    )
    schedule = Schedule(
        each, each.astype(np.float64), np.zeros(n_frames, np.int32), np.ones(n_frames, np.int32)
    )
    return frames, Truth(background.shape, schedule, spots, steady(schedule)), in_sigmas


def noise_kernel(correlation: Image) -> Image:
    """Return the kernel that gives white noise this correlation.

    It is the square root, in frequencies, of the autocorrelation.
    """
    n = 32
    whole = np.zeros((n, n))
    whole[: len(correlation), : len(correlation)] = correlation
    whole = np.roll(whole, (-LAGS, -LAGS), (0, 1))
    kernel = np.fft.ifft2(np.sqrt(np.maximum(np.fft.fft2(whole).real, 0))).real
    kernel = np.roll(kernel, (LAGS, LAGS), (0, 1))[: 2 * LAGS + 1, : 2 * LAGS + 1]
    return np.asarray(kernel / np.sqrt((kernel**2).sum()), np.float32)


def place(
    spots: list[Spot], shape: tuple[int, int], rng: np.random.Generator
) -> list[tuple[Spot, tuple[int, int]]]:
    """Yield each spot with X and Y of a random place for its peak, the largest spots first.

    Their circles do not overlap, and are inside the frame.
    """
    spots = sorted(spots, key=lambda spot: -spot.radius)
    radius = np.array([spot.radius for spot in spots])
    places = np.zeros((len(spots), 2), np.int64)
    for i, reach in enumerate(radius):
        margin = BORDER + math.ceil(reach)
        for _ in range(10000):
            places[i] = rng.integers(margin, np.array(shape) - margin)
            if (np.hypot(*(places[:i] - places[i]).T) > radius[:i] + reach + GAP).all():
                break
        else:
            sys.exit(f"{len(spots)} spots do not fit on {shape[0]} x {shape[1]} pixels")
    return [(spot, (int(x), int(y))) for spot, (x, y) in zip(spots, places, strict=True)]


def describe(frames: NDArray[np.uint16], parts: Parts, truth: Truth, seconds: float) -> None:
    """Print a description of the series."""
    n_frames, n_x, n_y = frames.shape
    level = np.float32(np.median(parts.background))
    near = ", ".join(f"{value:.2f}" for value in parts.correlation[LAGS, LAGS + 1 :])
    areas = "/".join(
        f"{area:.0f}"
        for area in np.percentile(
            [np.count_nonzero(spot.image) for spot in parts.spots], [10, 50, 90]
        )
    )
    clear = int((truth.spots.snr >= CLEAR).sum())
    noise = math.sqrt(parts.variance(level))
    print(
        f"frames       {n_frames} of {n_x} x {n_y} uint16, {frames.nbytes / 1e6:.0f} MB, made in "
        f"{seconds:.0f} s"
    )
    print(
        f"noise        variance {parts.gain:.3f} * (counts - {parts.zero:.0f}): {noise:.1f} at "
        f"{level:.0f}"
    )
    print(f"correlation  {near} of pixels 1, 2, 3 apart")
    print(
        f"spots        {len(parts.spots)} cut out ({areas} pixels), {len(truth.spots)} put in, "
        f"{clear} above {CLEAR:g} sigma"
    )
    packages = ("gpu_spots", "numpy", "scipy", "imagecodecs")
    print("versions     " + ", ".join(f"{name} {installed(name)}" for name in packages))


def installed(name: str) -> str:
    """The version of a package."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "?"


def parameters(changes: list[str]) -> Parameters:
    """``["cutoff=4", "structure=2,1"]`` and the manual's defaults for all else.

    Raises GpuSpotsError or TypeError for what does not fit.
    """
    values: dict[str, Any] = {"angles": 0}
    for name, _, value in (change.partition("=") for change in changes):
        try:
            values[name] = ast.literal_eval(value)
        except (SyntaxError, ValueError):
            values[name] = value
    return Parameters.manual(**values)


def search(
    frames: NDArray[np.uint16],
    truth: Truth,
    in_sigmas: NDArray[np.float64],
    chosen: Parameters,
    output: Path,
) -> None:
    """Find the spots and print the table; warnings become lines of it."""
    begun = time.perf_counter()
    with warnings.catch_warnings(record=True) as noticed:
        warnings.simplefilter("always")
        find_spots(frames, chosen, output=output, compression="lzf", force=True).close()
    print(f"{time.perf_counter() - begun:.1f} s")
    for warning in noticed:
        print(f"warning: {warning.message}")
    found = read_found(output)
    print(table(score(truth, found)))
    by_pixels = score(
        replace(truth, spots=replace(truth.spots, snr_matched=in_sigmas)), found
    ).clear
    share = f"{by_pixels.found / by_pixels.true:.1%}" if by_pixels.true else "-"
    print(
        f"with 4 pixels or more above {CLEAR:g} sigma: {by_pixels.true} put in, {by_pixels.found} "
        f"found, {share}"
    )


def table(result: Score) -> str:
    """The result as text."""
    lines = [f"{'S/N':>10} {'put in':>8} {'found':>8}"]
    for part in (*result.bins, result.clear):
        label = f"> {part.low:g}" if math.isinf(part.high) else f"{part.low:g} - {part.high:g}"
        share = f"{part.found / part.true:8.1%}" if part.true else f"{'-':>8}"
        lines.append(f"{label:>10} {part.true:>8} {part.found:>8} {share}")
    lines.append(
        f"spots found {result.n_found}; at no true spot {result.n_false}, "
        f"{result.n_false / result.n_frames:.2f} a frame"
    )
    return "\n".join(lines)


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


if __name__ == "__main__":
    sys.exit(main())
