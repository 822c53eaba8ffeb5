"""Gain of --normalise surface where the background changes its shape, and its cost where not.

    python benchmarks/surface.py [--size 512] [--spots 80] [--seeds 1000 1001 1002 1003]

Each run is one of ``gpu-spots simulate``: the preset ``hard``; the same with a steady background;
and the defaults of a CCD and of a photon counter. Spots are searched with the defaults of
``gpu-spots find`` and a -S for each run, and compared with the true ones by the rule of ``gpu-spots
score``. Prints the table of docs/results.md.
"""

import argparse
import math
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpu_spots import Parameters, find_spots
from gpu_spots.files.output.simulated_run import read_found
from gpu_spots.simulate.design import Design, make_design
from gpu_spots.simulate.run import simulate_run
from gpu_spots.simulate.score import Score, score

STEADY = {"background_change": 0.0, "drift": 0.0, "beam_jumps": 0, "bias_drift": 0.0}
RUNS: Mapping[str, tuple[str, Mapping[str, Any], str]] = {
    "`hard`": ("hard", {}, "none"),
    "`hard`, `-S pairs`": ("hard", {}, "pairs"),
    "`hard`, `-S blocks`": ("hard", {}, "blocks"),
    "`hard`, steady background": ("hard", STEADY, "none"),
    "`marccd`": ("marccd", {}, "none"),
    "`marccd`, drift of 3 %": ("marccd", {"drift": 3.0}, "none"),
    "`eiger`": ("eiger", {}, "none"),
}
"""Names of the runs: preset, options of it, and the value of -S."""
EDGES = (5.0, 10.0, 30.0, 100.0, math.inf)
"""Edges of the bins of signal-to-noise."""


def scores(design: Design, folder: Path, sync: str) -> dict[str, Score]:
    """Return the score of each normalisation on one run."""
    simulated = simulate_run(design)
    frames = np.stack(list(simulated.frames()))
    schedule = simulated.truth.schedule
    columns = {"angle": schedule.angle, "laser_on": schedule.laser_on.astype(int)}
    found = {}
    for normalise in ("level", "surface"):
        output = folder / "spots.h5"
        with warnings.catch_warnings(action="ignore"):  # that the shape changes is the point
            parameters = Parameters(normalise=normalise, sync=sync)
            find_spots(frames, parameters, columns=columns, output=output, force=True).close()
        found[normalise] = score(simulated.truth, read_found(output), EDGES)
    return found


def main() -> None:
    """Parse, simulate, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--spots", type=int, default=80)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1000, 1001, 1002, 1003])
    parser.add_argument("--runs", nargs="+", choices=tuple(RUNS), default=tuple(RUNS))
    options = parser.parse_args()
    print("| run | normalise | 5-10 | 10-30 | 30-100 | > 100 | I, 10-30 | false per frame |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name in options.runs:
            preset, changes, sync = RUNS[name]
            runs = []
            for seed in options.seeds:
                size = options.size, options.size
                chosen = {"size": size, "spots": options.spots, "seed": seed, **changes}
                runs.append(scores(make_design(chosen, preset), Path(folder), sync))
            for normalise in runs[0]:
                print(row(name, normalise, [run[normalise] for run in runs]), flush=True)


def row(name: str, normalise: str, runs: Sequence[Score]) -> str:
    """Return one line of the table."""
    cells = []
    for bins in zip(*(run.bins for run in runs), strict=True):
        true = sum(one.true for one in bins)
        cells.append(f"{100 * sum(one.found for one in bins) / true:.1f} %" if true else "-")
    weak = [run.bins[1] for run in runs if run.bins[1].found]
    bias = float(np.mean([one.intensity_bias for one in weak]))
    scatter = float(np.mean([one.intensity_scatter for one in weak]))
    false = sum(run.n_false for run in runs) / sum(run.n_frames for run in runs)
    cells += [f"{100 * bias:+.0f} ± {100 * scatter:.0f} %", f"{false:.2f}"]
    return f"| {name} | {normalise} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
