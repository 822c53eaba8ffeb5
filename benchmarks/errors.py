"""Errors of intensities and centroids, compared with the truth of simulated runs.

    python benchmarks/errors.py [--seeds 4] [--runs "CCD, dark" ...]
        [--settings "clip, matched" ...] [--columns | --shapes]

Prints one line for each run and range of signal over noise: the share of spots whose true counts
are within 1 and 1.96 sigma of ``I``, mean and standard deviation of (I - truth) / sigma, the share
of coordinates whose true value is within 1 and 1.96 ``centroid_sigma``, their error over the
smallest possible one (the value that 68 % are below), and the share of a spot that is in its mask.
The true counts are the noise-free ones on the pixels of the mask; the true coordinates are those of
the spot. Spots that are saturated, at the border, or on the mask of another spot are left out.

The smallest possible error is the bound of Cramer and Rao for a fit that knows the shape of the
spot, its background and the noise, but not its intensity and place. It is given where noise is not
correlated.

For runs with blocks, ``I`` and ``I_prf`` of the same spot on different frames are compared with
each other: the differences, divided by their sigmas, must have a standard deviation of 1. Their
weights follow the same noise, so this is no test of their mean.

With ``--columns``, the bias of other columns is printed instead: the median of the deviation from
the truth, which has no noise. With ``--shapes``, the bias of ``I`` from the whole intensity of
spots of five shapes, and the share of the spot in its mask and in all masks near it.
"""

import argparse
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from gpu_spots import Parameters, find_spots
from gpu_spots.columns import Flag
from gpu_spots.model import SpotTable
from gpu_spots.simulate.design import KINDS, DetectorDesign, SpotDesign
from gpu_spots.simulate.placing import image_of
from gpu_spots.simulate.run import Design, SimulatedRun, simulate_run

BINS = ((3, 7), (7, 15), (15, 30), (30, 100), (100, np.inf))
DESIGN = Design(size=(512, 512), spots=100, jitter=0.0, hot_pixels=0, dead_pixels=0, zingers=0.0)
RUNS = {
    "CCD, dark": replace(DESIGN, laser=False, angles=30, repeats=1),
    "CCD, dark, drift of 3 %": replace(DESIGN, laser=False, angles=30, repeats=1, drift=3.0),
    "CCD, dark, correlated noise": replace(
        DESIGN, laser=False, angles=30, repeats=1, detector=DetectorDesign(correlation=0.7)
    ),
    "Poisson, dark, 30 counts": replace(
        DESIGN, laser=False, angles=30, repeats=1, gain=1.0, background=30.0
    ),
    "CCD, blocks": replace(DESIGN, angles=8, repeats=3),
    "CCD, blocks, correlated noise": replace(
        DESIGN, angles=8, repeats=3, detector=DetectorDesign(correlation=0.7)
    ),
}
SETTINGS = {
    "clip, matched": {"method": "clip", "finder": "matched"},
    "clip, threshold": {"method": "clip", "finder": "threshold"},
    "n_removed, threshold": {"method": "n_removed", "finder": "threshold"},
}
SHAPES = replace(DESIGN, laser=False, angles=30, repeats=1, shape=SpotDesign(profile="mixed"))
FWHM = 2.3548
"""Full width at half maximum of a Gaussian, in its sigmas."""
FIRST_SEED = 7101
"""Seeds from here on were used for nothing else."""


def main() -> None:
    """Simulate, find and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=4, help="runs of each kind")
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    tables = parser.add_mutually_exclusive_group()
    tables.add_argument("--columns", action="store_true", help="bias of other columns")
    tables.add_argument("--shapes", action="store_true", help="bias of I by the shape of the spot")
    arguments = parser.parse_args()
    n_seeds = arguments.seeds
    if arguments.columns:
        print_columns(arguments.runs, n_seeds)
    elif arguments.shapes:
        print_shapes(n_seeds)
    else:
        print_errors(arguments.runs, arguments.settings, n_seeds)


def print_errors(names: list[str], settings: list[str], n_seeds: int) -> None:
    """Print the shares of intensities and centroids within their errors."""
    print(
        "| run | settings | S/N | spots | 68 % | 95 % | mean | sd | X, Y: 68 % | 95 % | bound | "
        "in mask |"
    )
    for name in names:
        design = RUNS[name]
        for setting in settings:
            options = SETTINGS[setting]
            rows = [
                pulls(simulate_run(replace(design, seed=FIRST_SEED + i)), options)
                for i in range(n_seeds)
            ]
            snr, z, centroid, share, bound = (
                np.concatenate(column) for column in zip(*(row[0] for row in rows), strict=True)
            )
            for low, high in BINS:
                some = (snr >= low) & (snr < high)
                if some.sum() < 20:
                    continue
                print(
                    f"| {name} | {setting} | {low}-{high} | {some.sum()} | {within(z[some])} | "
                    f"{z[some].mean():.2f} | {z[some].std():.2f} | {within(centroid[some])} | "
                    f"{np.percentile(bound[some], 68.27):.2f} | "
                    f"{100 * np.median(share[some]):.1f} % |",
                    flush=True,
                )
            if design.laser:
                for low, high in BINS:
                    print(repeats(name, setting, low, high, [row[1] for row in rows]))


def within(z: np.ndarray) -> str:
    """Return the shares of pulls below 1 and 1.96."""
    return f"{100 * (abs(z) < 1).mean():.0f} | {100 * (abs(z) < 1.96).mean():.0f}"


def pulls(run: SimulatedRun, options: dict[str, Any]) -> tuple[list[np.ndarray], np.ndarray]:
    """Return S/N, pulls of intensity and centroid, share in the mask, and error over the bound.

    For runs with blocks, also S/N and the differences of I and of I_prf between frames of a spot.
    """
    design, schedule, spots = run.design, run.truth.schedule, run.truth.spots
    found: list[list[Any]] = [[], [], [], [], []]
    table, pixel_list = spots_of(run, options)
    for row, spot, truth, whole, _ in true_spots(run, table, pixel_list):
        frame, sigma = table["frame"][row], table["sigma"][row]
        scale = float(run.scale[frame] * run.spot_scale[frame])
        error = table["centroid"][row] - spots.XY[spot]
        smallest = smallest_errors(run, spot, scale, bool(schedule.laser_on[frame]))
        found[0].append(truth.sum() / sigma)
        found[1].append((table["I"][row] - truth.sum()) / sigma)
        found[2].append(error / table["centroid_sigma"][row])
        found[3].append(truth.sum() / whole)
        found[4].append(abs(error) / smallest)
    differences = np.zeros((3, 0))
    if design.laser:
        key = np.stack([table["mask"], table["label"], schedule.laser_on[table["frame"]]])
        order = np.lexsort(key)
        first, second = order[:-1], order[1:]
        same = (key[:, first] == key[:, second]).all(0)
        a, b = first[same], second[same]
        differences = np.stack(
            [
                (table["I"][a] + table["I"][b]) / (table["sigma"][a] + table["sigma"][b]),
                *(
                    (table[name][a] - table[name][b]) / np.hypot(table[error][a], table[error][b])
                    for name, error in (("I", "sigma"), ("I_prf", "sigma_prf"))
                ),
            ]
        )
        precision = [
            table["I"][a] / table["sigma"][a],
            table["I_prf"][a] / table["sigma_prf"][a],
        ]
        differences = np.concatenate([differences, precision])
    return [np.array(column) for column in found], differences


def spots_of(run: SimulatedRun, options: dict[str, Any]) -> tuple[SpotTable, np.ndarray]:
    """Return the table of the spots that are found, and the list of their pixels."""
    design, schedule = run.design, run.truth.schedule
    frames = np.stack(list(run.frames()))
    parameters = Parameters.manual(
        angles=0,
        sync="blocks" if design.laser else "none",
        normalise="level" if design.drift else "none",
        **options,
    )
    columns = {"angle": schedule.angle, "laser_on": schedule.laser_on.astype(int)}
    with (
        warnings.catch_warnings(action="ignore"),
        find_spots(frames, parameters, columns=columns) as results,
    ):
        return results.spots(), results.pixel_list


def true_spots(
    run: SimulatedRun, table: SpotTable, pixel_list: np.ndarray
) -> Iterator[tuple[int, int, np.ndarray, float, np.ndarray]]:
    """Yield rows of clear spots: row, true spot, true counts, whole intensity and pixels.

    The true counts are those of each pixel of the mask. Spots that are saturated, at the border,
    beside invalid pixels, or in masks that hold less than half of the spot, are left out.
    """
    design, schedule, spots = run.design, run.truth.schedule, run.truth.spots
    images: dict[int, tuple[Any, list[Any]]] = {}
    for row, frame in enumerate(table["frame"].tolist()):
        block = int(schedule.block[frame])
        if block not in images:
            images = {block: run._spot_images(block, (0.0, 0.0))}
        off, added = images[block]
        scale = float(run.scale[frame] * run.spot_scale[frame])
        begin, end = table["pixel_list_BE"][row]
        pixels = pixel_list[begin:end]
        x, y = np.divmod(pixels, design.size[1])
        truth = scale * (off[x, y] + schedule.laser_on[frame] * added[0][x, y]).astype(np.float64)
        here = np.flatnonzero(spots.block == block)
        place = clear_spot(table, row, np.stack([x, y], 1), spots.XY[here], truth.sum())
        if place is None:
            continue
        spot = int(here[place])
        whole = scale * spots.I[spot] * (1 + schedule.laser_on[frame] * spots.response[spot])
        # other spots nearby, and tails of them
        if 0.5 < truth.sum() / whole < 1.02:
            yield row, spot, truth, whole, pixels


def clear_spot(
    table: SpotTable, row: int, pixels: np.ndarray, XY: np.ndarray, counts: float
) -> int | None:
    """Return the place in XY of the only true spot on a mask; None if the row is not clear.

    Clear rows have one spot, are clean of flags, and have true counts above 3 sigma.
    """
    bad = Flag.BORDER | Flag.INVALID | Flag.OVERLOADED
    inside = [i for i, center in enumerate(XY) if (abs(center - pixels) <= 0.5).all(1).any()]
    if len(inside) != 1 or table["flags"][row] & bad or not counts > 3 * table["sigma"][row]:
        return None
    return inside[0]


def print_columns(names: list[str], n_seeds: int) -> None:
    """Print the bias of columns that have no error, by the range of signal over noise."""
    print("| run | S/N | spots | I | fwhm | moments | background | max | n_maxima > 1 | I_prf |")
    for name in names:
        rows = []
        for i in range(n_seeds):
            run = simulate_run(replace(RUNS[name], seed=FIRST_SEED + i))
            table, pixel_list = spots_of(run, SETTINGS["clip, matched"])
            bias, gain = run.design.detector.bias, run.design.gain
            expected = run.scale[:, None] * run.detector.background.ravel()
            for row, spot, truth, whole, pixels in true_spots(run, table, pixel_list):
                below = expected[table["frame"][row], pixels] + bias
                noise = np.sqrt(gain * (below - bias) + run.design.detector.read_noise**2 + 1 / 12)
                width = FWHM * run.truth.spots.sigma[spot]
                noise_of_max = np.sqrt(noise**2 + gain * truth)[truth.argmax()]
                rows.append(
                    (
                        truth.sum() / table["sigma"][row],
                        table["I"][row] / whole - 1,
                        np.prod(table["fwhm"][row] / width) ** 0.5 - 1,
                        table["moments"][row][:2].sum()
                        / (run.truth.spots.sigma[spot] ** 2).sum() - 1,
                        (table["background"][row] - below.sum()) / noise.sum(),
                        (table["max"][row] - (truth + below).max()) / noise_of_max,
                        table["n_maxima"][row] > 1,
                        table["I_prf"][row] / whole - 1 if "I_prf" in table else np.nan,
                    )
                )  # fmt: skip
        values = np.array(rows)
        for low, high in BINS:
            some = values[(values[:, 0] >= low) & (values[:, 0] < high)]
            if len(some) < 20:
                continue
            # shapes are not known where I is not above 0
            columns = np.nanmedian(some[:, 1:7], axis=0)
            intensity, width, moments, below, largest, several = columns
            several = 100 * some[:, 6].mean()
            prf = some[:, 7][np.isfinite(some[:, 7])]
            weighted = f"{100 * np.median(prf):+.1f} %" if len(prf) else ""
            print(
                f"| {name} | {low}-{high} | {len(some)} | {100 * intensity:+.1f} % | "
                f"{100 * width:+.0f} % | {100 * moments:+.0f} % | {below:+.2f} | {largest:+.1f} | "
                f"{several:.0f} % | {weighted} |",
                flush=True,
            )


def print_shapes(n_seeds: int) -> None:
    """Print the bias of the intensity by the shape of the spot."""
    print("| shape | S/N | spots | I | in its mask | in all masks | masks |")
    rows: list[tuple[Any, ...]] = []
    for i in range(n_seeds):
        run = simulate_run(replace(SHAPES, seed=FIRST_SEED + i))
        table, pixel_list = spots_of(run, SETTINGS["clip, matched"])
        spots, block = run.truth.spots, run.truth.schedule.block
        for frame in range(len(block)):
            light = run._spot_images(int(block[frame]), (0.0, 0.0))[0].ravel()
            here = np.flatnonzero(table["frame"] == frame)
            of_mask = np.array(
                [light[pixel_list[slice(*table["pixel_list_BE"][row])]].sum() for row in here]
            )
            for spot in np.flatnonzero(spots.block == block[frame]):
                away = np.hypot(*(table["centroid"][here] - spots.XY[spot]).T)
                near = np.flatnonzero(away < max(3.0, 2.5 * spots.sigma[spot][0]))
                if not len(near):
                    continue
                best = near[table["I"][here[near]].argmax()]
                whole = spots.I[spot] * spots.fraction[spot]
                scale = run.scale[frame] * run.spot_scale[frame]
                rows.append(
                    (
                        KINDS[spots.profile[spot]],
                        spots.snr_matched[spot],
                        table["I"][here[best]] / (scale * whole) - 1,
                        of_mask[best] / whole,
                        of_mask[near].sum() / whole,
                        len(near),
                    )
                )
    for kind in KINDS:
        for low, high in BINS:
            some = [row[2:] for row in rows if row[0] == kind and low <= row[1] < high]
            if len(some) < 20:
                continue
            intensity, own, every, _ = np.median(some, axis=0)
            print(
                f"| {kind} | {low}-{high} | {len(some)} | {100 * intensity:+.1f} % | "
                f"{100 * own:.1f} % | {100 * every:.1f} % | {np.mean(some, axis=0)[3]:.2f} |"
            )


def smallest_errors(run: SimulatedRun, spot: int, scale: float, laser_on: bool) -> np.ndarray:
    """Return the smallest standard errors of X and Y of a spot, (2,) pixels; NaN: not known."""
    design, spots = run.design, run.truth.spots
    if design.detector.correlation:
        return np.full(2, np.nan)
    (rows, columns), share = image_of(spots, spot, design.size, np.zeros(2), ())
    intensity = scale * spots.I[spot] * (1 + laser_on * spots.response[spot])
    x = np.arange(rows.start, rows.stop)[:, None] - spots.XY[spot, 0]
    y = np.arange(columns.start, columns.stop) - spots.XY[spot, 1]
    turn, sigma = np.radians(spots.orientation[spot]), spots.sigma[spot]
    along = (x * np.cos(turn) + y * np.sin(turn)) / sigma[0] ** 2
    across = (y * np.cos(turn) - x * np.sin(turn)) / sigma[1] ** 2
    counts = intensity * share * run.detector.light[rows, columns]
    slopes = np.stack(
        [
            counts / intensity,
            counts * (along * np.cos(turn) - across * np.sin(turn)),
            counts * (along * np.sin(turn) + across * np.cos(turn)),
        ]
    ).reshape(3, -1)
    light = counts + run.detector.background[rows, columns]
    variance = design.gain * light + design.detector.read_noise**2 + 1 / 12
    information = (slopes / variance.ravel()) @ slopes.T
    return np.asarray(np.sqrt(np.diag(np.linalg.inv(information))[1:]))


def repeats(name: str, setting: str, low: float, high: float, parts: list[np.ndarray]) -> str:
    """Return a line on the differences between frames of the same spot."""
    snr, of_sum, weighted, sum_snr, weighted_snr = np.concatenate(parts, axis=1)
    some = (snr >= low) & (snr < high) & np.isfinite(weighted)
    if some.sum() < 20:
        return f"{name} | {setting} | {low}-{high} | few spots"
    gain = np.median(weighted_snr[some] / sum_snr[some])
    return (
        f"{name} | {setting} | {low}-{high} | {some.sum()} pairs of frames: sd "
        f"{of_sum[some].std():.2f} "
        f"of I, {weighted[some].std():.2f} of I_prf, whose S/N is {gain:.2f} times that of I"
    )


if __name__ == "__main__":
    main()
