"""Agreement of on/off ratios with the true ones, on simulated runs with known responses.

    python benchmarks/ratios.py [--seeds 3000-3099] [--response 0.01] [--drift 0] [--json FILE]

Each run has 10 angles with 5 off/on pairs of small frames, and a jitter of 2 %. Its spots are found
with ``-S blocks -m clip --finder matched --normalise level``. Spots of a frame share its jitter, so
the slope of ln R against the true one is that within angles: each angle has a constant of its own.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpu_spots import Parameters, find_spots
from gpu_spots.files.output.simulated_run import write_run
from gpu_spots.simulate.design import Design, SpotDesign
from gpu_spots.simulate.run import simulate_run
from gpu_spots.simulate.truth import TrueSpots
from gpu_spots.spots.ratios import SCALES, RatioResult

Floats = NDArray[np.float64]
BINS = ((7.0, 15.0), (15.0, 30.0), (30.0, 100.0), (100.0, 1e9))
"""Signal-to-noise of a spot on one frame."""
NEAR, APART = 1.0, 4.0
"""Largest distance of a true spot, and smallest one of the next, pixels."""


@dataclass(frozen=True)
class Matches:
    """Ratios of true spots, (n,) each."""

    run: Floats
    """Number of the run and of the angle."""
    snr: Floats
    true: Floats
    """True ratio."""
    R: Floats
    sigma: Floats


def main() -> None:
    """Simulate, find, compare, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", default="3000-3099", help="first and last seed")
    parser.add_argument("--response", type=float, default=0.01, help="largest change of a spot")
    parser.add_argument("--drift", type=float, default=0.0, help="percent rms")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--spots", type=int, default=80)
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    first, last = map(int, options.seeds.split("-"))
    found: dict[str, list[Matches]] = {"none": [], "pairs": []}
    verdicts: dict[str, int] = {}
    figures: dict[str, list[float]] = {}
    for seed in range(first, last + 1):
        design = Design(
            size=(options.size, options.size),
            angles=10,
            repeats=5,
            spots=options.spots,
            drift=options.drift,
            seed=seed,
            shape=SpotDesign(largest_response=options.response),
        )
        for scale, (result, truth) in ratios_of_run(design).items():
            found[scale].append(matched(result, truth, seed))
            if scale == "none":
                words = result.verdict.partition(":")[0]
                verdicts[words] = verdicts.get(words, 0) + 1
                for name in ("off/off", "on/on", "off/off, scaled", "on/on, scaled"):
                    figures.setdefault(name, []).append(result.figures[name]["width"])
                figures.setdefault("noise factor", []).append(result.figures["noise factor"])
        print(f"seed {seed}", file=sys.stderr)
    tables = {scale: table_of(joined(parts)) for scale, parts in found.items()}
    for scale, rows in tables.items():
        print(f"--scale {scale}: S/N, spots, slope, its error, within 1 and 2 sigma")
        for row in rows:
            print("{:>8} {:6} {:7.3f} +- {:.3f} {:6.1%} {:6.1%}".format(*row.values()))
    print("verdicts:", verdicts)
    for name, values in figures.items():
        print(f"{name}: mean {np.mean(values):.3f}, {min(values):.3f} to {max(values):.3f}")
    if options.json:
        whole = {"tables": tables, "verdicts": verdicts, "figures": figures}
        options.json.write_text(json.dumps(whole, indent=1))


def ratios_of_run(design: Design) -> dict[str, tuple[RatioResult, TrueSpots]]:
    """Return the ratios of a simulated run by scale, and its true spots."""
    run = simulate_run(design)
    parameters = Parameters(sync="blocks", method="clip", finder="matched", normalise="level")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.h5"
        write_run(path, run, compression="none")
        with find_spots(path, parameters, backend="cpu", keep=()) as results:
            return {scale: (results.ratios(scale=scale), run.truth.spots) for scale in SCALES}


def matched(result: RatioResult, truth: TrueSpots, seed: int) -> Matches:
    """Return the ratios that belong to one true spot each."""
    rows = []
    for angle in np.unique(truth.angle).tolist():
        known = np.flatnonzero(np.abs(truth.angle - angle) < 1e-3)
        here = np.flatnonzero(np.abs(result.ratios["angle"] - angle) < 1e-3)
        for row in here.tolist():
            place = [result.ratios["X"][row], result.ratios["Y"][row]]
            away = np.hypot(*(truth.XY[known] - place).T)
            if len(away) < 2 or away.min() > NEAR or np.partition(away, 1)[1] < APART:
                continue
            spot = known[away.argmin()]
            R, sigma = result.ratios["R"][row], result.ratios["sigma_R"][row]
            if R > 0 and sigma > 0:
                rows.append(
                    (seed * 1000 + angle, truth.snr[spot], 1 + truth.response[spot], R, sigma)
                )
    return Matches(*np.array(rows, np.float64).reshape(-1, 5).T)


def joined(parts: list[Matches]) -> Matches:
    """Return the matches of all runs."""
    names = Matches.__dataclass_fields__
    return Matches(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def table_of(all_: Matches) -> list[dict[str, float | str]]:
    """Return slope, its error and coverage for each bin."""
    table: list[dict[str, float | str]] = []
    for low, high in BINS:
        chosen = (all_.snr >= low) & (all_.snr < high)
        if chosen.sum() < 10:
            continue
        run = np.unique(all_.run[chosen], return_inverse=True)[1]
        weight = (all_.R / all_.sigma)[chosen] ** 2
        true = _within(np.log(all_.true[chosen]), weight, run)
        seen = _within(np.log(all_.R[chosen]), weight, run)
        square = float((weight * true**2).sum())
        slope = float((weight * true * seen).sum()) / square
        left = seen - slope * true
        error = float(np.sqrt((weight**2 * true**2 * left**2).sum())) / square
        pulls = np.abs(all_.R - all_.true)[chosen] / all_.sigma[chosen]
        table.append(
            {
                "snr": f"{low:g}-{high:g}" if high < 1e6 else f"> {low:g}",
                "spots": int(chosen.sum()),
                "slope": slope,
                "error": error,
                "within_1": float((pulls < 1).mean()),
                "within_2": float((pulls < 2).mean()),
            }
        )
    return table


def _within(values: Floats, weight: Floats, group: NDArray[np.int64]) -> Floats:
    """Return values less the weighted mean of their group."""
    mean = np.bincount(group, weight * values) / np.bincount(group, weight)
    return values - mean[group]


if __name__ == "__main__":
    main()
