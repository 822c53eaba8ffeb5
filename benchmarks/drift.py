"""Cost of drift of the beam: recall and false spots with and without --normalise level.

Both methods of the manual and our defaults are tried on simulated laser runs.

    python benchmarks/drift.py [--size 1024] [--drift 0 1 3 10] [--seeds 0 1]
                               [--methods n_removed kruskal "clip, matched"]

Each run has 10 angles with 3 off/on pairs; drift is the rms change of the beam in percent, four
fifths of its variance slow. Spots are searched with -S blocks, with both methods of the manual and
its other defaults, and with the defaults of ``gpu-spots find``. Found spots are compared with the
true ones by the rule of ``gpu-spots score``. Prints the table of docs/results.md.
"""

import argparse
import math
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gpu_spots import Parameters, find_spots
from gpu_spots.files.output.simulated_run import read_found
from gpu_spots.parameters import METHOD_NAMES
from gpu_spots.simulate.run import Design, simulate_run
from gpu_spots.simulate.score import Score, score

METHODS = ("n_removed", "kruskal", "clip, matched")
"""Methods of the manual, and the defaults of ``gpu-spots find``."""
NORMALISATIONS = ("none", "level")
EDGES = (5.0, 10.0, 30.0, 100.0, math.inf)
"""Edges of the bins of signal-to-noise."""


def scores(design: Design, methods: Sequence[str], folder: Path) -> dict[tuple[str, str], Score]:
    """Return the score of each method and normalisation on one run."""
    simulated = simulate_run(design)
    frames = np.stack(list(simulated.frames()))
    schedule = simulated.truth.schedule
    columns = {"angle": schedule.angle, "laser_on": schedule.laser_on.astype(int)}
    found = {}
    for method in methods:
        for normalise in NORMALISATIONS:
            if method in METHOD_NAMES:
                parameters = Parameters.manual(method=method, normalise=normalise, sync="blocks")
            else:
                parameters = Parameters(normalise=normalise, sync="blocks")
            output = folder / "spots.h5"
            with warnings.catch_warnings(action="ignore"):  # that there is drift is the point
                find_spots(frames, parameters, columns=columns, output=output, force=True).close()
            found[method, normalise] = score(simulated.truth, read_found(output), EDGES)
    return found


def main() -> None:
    """Parse, simulate, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--drift", type=float, nargs="+", default=[0, 1, 3, 10])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    options = parser.parse_args()
    print(
        "| drift | method | normalise | 5-10 | 10-30 | 30-100 | > 100 | above 10 sigma | precision "
        "| false per frame |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for drift in options.drift:
            designs = [
                Design(size=(options.size, options.size), drift=drift, seed=seed)
                for seed in options.seeds
            ]
            runs = [scores(design, options.methods, Path(folder)) for design in designs]
            for method, normalise in runs[0]:
                print(
                    row(drift, method, normalise, [run[method, normalise] for run in runs]),
                    flush=True,
                )


def row(drift: float, method: str, normalise: str, of_runs: list[Score]) -> str:
    """Return one line of the table, over all runs."""
    bins = list(zip(*(one.bins for one in of_runs), strict=True))
    recalls = [
        sum(part.found for part in parts) / max(1, sum(part.true for part in parts))
        for parts in [*bins, [one.clear for one in of_runs]]
    ]
    n_found, n_false = sum(one.n_found for one in of_runs), sum(one.n_false for one in of_runs)
    n_frames = sum(one.n_frames for one in of_runs)
    cells = [f"{drift:g} %", method, normalise, *(f"{100 * recall:.1f} %" for recall in recalls)]
    return (
        f"| {' | '.join(cells)} | {100 * (1 - n_false / max(1, n_found)):.1f} % | "
        f"{n_false / n_frames:.2f} |"
    )


if __name__ == "__main__":
    main()
