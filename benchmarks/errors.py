"""Errors of intensities and centroids, compared with the truth of simulated runs.

    python benchmarks/errors.py

Prints one line for each run and range of signal over noise: the share of spots whose true counts
are within 1 and 1.96 sigma of ``I``, mean and standard deviation of (I - truth) / sigma, the same
of the centroid, and the share of a spot that is in its mask. The truth is the noise-free counts on
the pixels of the mask. Spots that are saturated, at the border, or on the mask of another spot are
left out.

For runs with blocks, ``I`` and ``I_prf`` of the same spot on different frames are compared with
each other: the differences, divided by their sigmas, must have a standard deviation of 1. Their
weights follow the same noise, so this is no test of their mean.
"""

import argparse
import warnings
from dataclasses import replace
from typing import Any

import numpy as np

from gpu_spots import Parameters, find_spots
from gpu_spots.columns import Flag
from gpu_spots.simulate.run import Design, SimulatedRun, simulate_run

BINS = ((3, 7), (7, 15), (15, 30), (30, 100), (100, np.inf))
DESIGN = Design(size=(512, 512), spots=100, jitter=0.0, hot_pixels=0, dead_pixels=0, zingers=0.0)
RUNS = {
    "CCD, dark": replace(DESIGN, laser=False, angles=30, repeats=1),
    "CCD, dark, drift of 3 %": replace(DESIGN, laser=False, angles=30, repeats=1, drift=3.0),
    "Poisson, dark, 30 counts": replace(
        DESIGN, laser=False, angles=30, repeats=1, gain=1.0, background=30.0
    ),
    "CCD, blocks": replace(DESIGN, angles=8, repeats=3),
}
SETTINGS = {
    "clip, matched": {"method": "clip", "finder": "matched"},
    "clip, threshold": {"method": "clip", "finder": "threshold"},
    "n_removed, threshold": {"method": "n_removed", "finder": "threshold"},
}
FIRST_SEED = 7001
"""Seeds from here on were used for nothing else."""


def main() -> None:
    """Simulate, find and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=2, help="runs of each kind")
    n_seeds = parser.parse_args().seeds
    print("run | settings | S/N | spots | 68 % | 95 % | mean | sd | X, Y: 68 % | 95 % | in mask")
    for name, design in RUNS.items():
        for setting, options in SETTINGS.items():
            rows = [
                pulls(simulate_run(replace(design, seed=FIRST_SEED + i)), options)
                for i in range(n_seeds)
            ]
            snr, z, centroid, share = (
                np.concatenate(column) for column in zip(*(row[0] for row in rows), strict=True)
            )
            for low, high in BINS:
                some = (snr >= low) & (snr < high)
                if some.sum() < 20:
                    continue
                print(
                    f"{name} | {setting} | {low}-{high} | {some.sum()} | {within(z[some])} | "
                    f"{z[some].mean():.2f} | {z[some].std():.2f} | {within(centroid[some])} | "
                    f"{100 * np.median(share[some]):.0f} %"
                )
            if design.laser:
                for low, high in BINS:
                    print(repeats(name, setting, low, high, [row[1] for row in rows]))


def within(z: np.ndarray) -> str:
    """Return the shares of pulls below 1 and 1.96."""
    return f"{100 * (abs(z) < 1).mean():.0f} | {100 * (abs(z) < 1.96).mean():.0f}"


def pulls(run: SimulatedRun, options: dict[str, Any]) -> tuple[list[np.ndarray], np.ndarray]:
    """Return S/N, pulls of intensity and centroid, and share in the mask of each spot.

    For runs with blocks, also S/N and the differences of I and of I_prf between frames of a spot.
    """
    design, schedule, spots = run.design, run.truth.schedule, run.truth.spots
    frames = np.stack(list(run.frames()))
    sync = "blocks" if design.laser else "none"
    found: list[list[Any]] = [[], [], [], []]
    normalise = "level" if design.drift else "none"
    parameters = Parameters.manual(angles=0, sync=sync, normalise=normalise, **options)
    columns = {"angle": schedule.angle, "laser_on": schedule.laser_on.astype(int)}
    with (
        warnings.catch_warnings(action="ignore"),
        find_spots(frames, parameters, columns=columns) as results,
    ):
        table, pixel_list = results.spots(), results.pixel_list
    bad = Flag.BORDER | Flag.INVALID | Flag.OVERLOADED
    images: dict[int, tuple[Any, list[Any]]] = {}
    for row, frame in enumerate(table["frame"].tolist()):
        block = int(schedule.block[frame])
        if block not in images:
            images = {block: run._spot_images(block, (0.0, 0.0))}
        off, added = images[block]
        scale = float(run.scale[frame] * run.spot_scale[frame])
        begin, end = table["pixel_list_BE"][row]
        x, y = np.divmod(pixel_list[begin:end], design.size[1])
        truth = scale * (off[x, y] + schedule.laser_on[frame] * added[0][x, y]).astype(np.float64)
        here = np.flatnonzero(spots.block == block)
        inside = [i for i in here if ((abs(spots.XY[i] - np.stack([x, y], 1))) <= 0.5).all(1).any()]
        sigma = table["sigma"][row]
        if len(inside) != 1 or table["flags"][row] & bad or not truth.sum() > 3 * sigma:
            continue
        spot = inside[0]
        whole = scale * spots.I[spot] * (1 + schedule.laser_on[frame] * spots.response[spot])
        # other spots nearby, and tails of them
        if not 0.5 < truth.sum() / whole < 1.02:
            continue
        centre = np.array([(truth * x).sum(), (truth * y).sum()]) / truth.sum()
        found[0].append(truth.sum() / sigma)
        found[1].append((table["I"][row] - truth.sum()) / sigma)
        found[2].append((table["centroid"][row] - centre) / table["centroid_sigma"][row])
        found[3].append(truth.sum() / whole)
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
