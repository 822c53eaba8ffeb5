"""Recall and errors of spots in a series with known truth, made from a real Laue frame.

    python benchmarks/semi_real.py [GE.jp2] [--frames 60] [--size 1000] [--set structure=2,1]
    [--bias 10] [--picture OUT.png]

GE.jp2 (default ../shared/data/ge.jp2) is a white-beam Laue frame of germanium, 2018 x 2016 pixels,
from https://github.com/BM32ESRF/laueimproc, MIT licence, Copyright (c) 2023 Robin RICHARD; a
picture made from it needs that credit. It is not part of this project: where it is missing the
script says so and does nothing. Needs imagecodecs, and matplotlib for the picture.

``real_frame.py`` takes the frame apart into background, spots and noise. Here it is put together
again.

On each frame of the series every spot is at a new random place, with its intensity multiplied by a
random factor (log-normal), on the same background; no two spots touch. Noise is drawn for the sum,
with the variance of the fit and the correlation of the frame.

The score is that of ``gpu-spots score``. S/N is what it is there, that of the spot integrated on
one frame: its intensity I over the noise of the A pixels that hold 86 % of it, as the 2-sigma
ellipse of a Gaussian does. Here the correlation of the noise enters too: ``I / sqrt(F * gain * (I +
A * (B - zero)))``, with B the background and F the variance of the sum of those pixels over that of
as many independent ones, 2.5 to 4.5. Beside it, as the frame's own spots were counted: the spots
that have 4 pixels or more above 10 sigma.

The errors are those of ``errors.py``, with the same ranges of signal over noise: the share of spots
whose true counts are within 1 and 1.96 sigma of ``I``, mean and standard deviation of (I - truth) /
sigma, the share of coordinates whose true value is within 1 and 1.96 ``centroid_sigma``, the error
in pixels that 68 % of them are below, and the medians of the deviation of I from the whole spot and
of the share of the spot in its mask. The true counts are the noise-free ones on the pixels of the
mask, the true coordinates are their centre of mass.
"""

import argparse
import ast
import math
import sys
import tempfile
import time
import warnings
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from errors import BINS, clear_spot, within
from numpy.typing import NDArray
from real_frame import BORDER, LAGS, Image, Parts, Spot, noise_kernel, read, take_apart
from scipy import ndimage
from semi_real_picture import draw

from gpu_spots import Parameters, find_spots
from gpu_spots.errors import GpuSpotsError
from gpu_spots.files.output.simulated_run import read_found
from gpu_spots.files.output.spots_file import SpotsFile, open_spots
from gpu_spots.simulate.score import CLEAR, Score, score
from gpu_spots.simulate.truth import Schedule, Truth, lone_spots, steady

DEFAULT = Path(__file__).parents[2] / "shared" / "data" / "ge.jp2"
MANUAL = "manual"
"""Name of the search with the manual's defaults."""
Light = list[tuple[NDArray[np.int64], Image]]
"""Pixels with light of spots, and their counts without background and noise, for each frame."""
GAP = 4
"""Pixels between two spots, at least."""
MEDIAN_SCALE, SCALE_SPREAD = 0.25, 1.5
"""Median of the log-normal factors of intensities, and sigma of their natural logarithm. A real
frame shows only spots that are clear; this adds weak ones."""


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
    parser.add_argument(
        "--seed", type=int, nargs="+", default=[0], help="a series for each, with errors of all"
    )
    parser.add_argument(
        "--white", action="store_true", help="draw noise without correlation, for comparison"
    )
    parser.add_argument(
        "--bias",
        type=float,
        help="counts of a pixel without light, in place of those of the frame",
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
            " ".join(changes) or MANUAL: parameters(changes) for changes in [[], *arguments.set]
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
    if arguments.bias is not None:
        background = parts.background - np.float32(parts.zero - arguments.bias)
        parts = replace(parts, background=background, zero=arguments.bias)
    if arguments.white:
        parts = replace(
            parts,
            correlation=np.pad(np.ones((1, 1), np.float32), LAGS),
            spots=[replace(spot, factor=1.0) for spot in parts.spots],
        )
    found: dict[str, list[NDArray[np.float64]]] = {name: [] for name in searches}
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "semi_real__spots.h5"
        for seed in arguments.seed:
            begun = time.perf_counter()
            frames, truth, in_sigmas, light = series(
                parts, arguments.frames, arguments.size, np.random.default_rng(seed)
            )
            describe(frames, parts, truth, time.perf_counter() - begun)
            for name, chosen in searches.items():
                print(f"\n{name}: ", end="")
                search(frames, truth, in_sigmas, chosen, output)
                with open_spots(output) as results:
                    found[name].append(errors(results, truth, light))
                    if arguments.picture and name == MANUAL:
                        draw(frames, truth, results, arguments.picture)
    for name, rows in found.items():
        print(f"\n{name}: errors\n{error_table(np.concatenate(rows))}")
    return 0


def series(
    parts: Parts, n_frames: int, size: int | None, rng: np.random.Generator
) -> tuple[NDArray[np.uint16], Truth, NDArray[np.float64], Light]:
    """Return frames, (n_frames, n_X, n_Y) uint16, counts, and the spots on them.

    The third result is the fourth highest pixel of each spot in sigmas of the noise, the last one
    the noise-free counts of spots.
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
    light: Light = []
    for i, frame in enumerate(frames):
        added = np.zeros_like(background)
        chosen = [parts.spots[k] for k in rng.choice(len(parts.spots), n_spots, replace=False)]
        for spot, (x, y) in place(chosen, background.shape, rng):
            scale = MEDIAN_SCALE * math.exp(SCALE_SPREAD * rng.standard_normal())
            begin_x, begin_y = x - spot.peak[0], y - spot.peak[1]
            added[
                begin_x : begin_x + spot.image.shape[0], begin_y : begin_y + spot.image.shape[1]
            ] += scale * spot.image
            intensity = scale * spot.intensity
            variance = float(parts.variance(background[x, y]))
            sigma = math.sqrt(spot.factor * (parts.gain * intensity + spot.area * variance))
            rows.append(
                (x, y, i, intensity, intensity / sigma, scale * spot.fourth / math.sqrt(variance))
            )
        lit = np.flatnonzero(added)
        light.append((lit, added.ravel()[lit]))
        picture = background + added
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
    return frames, Truth(background.shape, schedule, spots, steady(schedule)), in_sigmas, light


def place(
    spots: list[Spot], shape: tuple[int, int], rng: np.random.Generator
) -> list[tuple[Spot, tuple[int, int]]]:
    """Return each spot with X and Y of a random place for its peak, the largest spots first.

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
    """Return the version of a package."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "?"


def parameters(changes: list[str]) -> Parameters:
    """Return the manual's defaults with changes such as ``["cutoff=4", "structure=2,1"]``.

    Raises GpuSpotsError or TypeError for a wrong name or value.
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


def errors(results: SpotsFile, truth: Truth, light: Light) -> NDArray[np.float64]:
    """Return the errors of spots that are clear, (n, 8).

    S/N, error of the intensity and of X and Y in sigmas, error of X and Y in pixels, intensity over
    the whole spot, and share of the spot in the mask.
    """
    spots, pixel_list, n_y = results.spots(), results.pixel_list, truth.shape[1]
    rows = []
    for frame, (lit, values) in enumerate(light):
        counts = np.zeros(truth.shape).ravel()
        counts[lit] = values
        here = np.flatnonzero(truth.spots.block == frame)
        for row in np.flatnonzero(spots["frame"] == frame).tolist():
            mask = pixel_list[slice(*spots["pixel_list_BE"][row])]
            pixels, true = np.stack(np.divmod(mask, n_y), 1), counts[mask]
            place = clear_spot(spots, row, pixels, truth.spots.XY[here], true.sum())
            if place is None:
                continue
            whole, sigma = truth.spots.I[here[place]], spots["sigma"][row]
            # most of the spot, and no light of another one
            if 0.5 < true.sum() / whole < 1.02:
                center = true @ pixels / true.sum()
                rows.append(
                    (
                        true.sum() / sigma,
                        (spots["I"][row] - true.sum()) / sigma,
                        *((spots["centroid"][row] - center) / spots["centroid_sigma"][row]),
                        *(spots["centroid"][row] - center),
                        spots["I"][row] / whole,
                        true.sum() / whole,
                    )
                )
    return np.reshape(rows, (-1, 8))


def error_table(values: NDArray[np.float64]) -> str:
    """Return a table of `errors` by ranges of signal over noise."""
    lines = ["| S/N | spots | 68 % | 95 % | mean | sd | X, Y: 68 % | 95 % | pixels | I | in mask |"]
    for low, high in BINS:
        some = values[(values[:, 0] >= low) & (values[:, 0] < high)]
        if len(some) >= 20:
            z, ratio = some[:, 1], np.median(some[:, 6:], axis=0)
            error = np.percentile(abs(some[:, 4:6]), 68.27)
            lines.append(
                f"| {low}-{high} | {len(some)} | {within(z)} | {z.mean():.2f} | {z.std():.2f} | "
                f"{within(some[:, 2:4])} | {error:.2f} | {100 * (ratio[0] - 1):+.1f} % | "
                f"{100 * ratio[1]:.1f} % |"
            )
    return "\n".join(lines)


def table(result: Score) -> str:
    """Return the result as text."""
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


if __name__ == "__main__":
    sys.exit(main())
