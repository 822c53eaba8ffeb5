"""Correlation factor and gain of the noise, compared with the truth of simulated runs.

    python benchmarks/correlation.py [--seeds 3]

Prints one line per kind of run: the true factor, the mean of those found with ``-m clip``, the
largest relative error, and the gain found over the true one. Runs with drift use ``--normalise
level``.
"""

import argparse
import warnings
from typing import Any

import numpy as np

from gpu_spots import Parameters, find_spots
from gpu_spots.simulate.design import make_design
from gpu_spots.simulate.run import SimulatedRun, simulate_run
from gpu_spots.simulate.truth import noise_kernel

FIRST_SEED = 7101
"""Seeds from here on were used for nothing else."""
DARK: dict[str, Any] = {"laser": False, "repeats": 1, "angles": 24}
LASER: dict[str, Any] = {"angles": 6, "repeats": 2}
SIZES = {256: 40, 512: 100, 1024: 200}
"""Spots on each frame, by the side of the frames."""


def designs() -> dict[str, tuple[str, dict[str, Any]]]:
    """Return preset and options of each kind of run."""
    found = {}
    for side, spots in SIZES.items():
        of_size = {"size": (side, side), "spots": spots}
        for drift in (0.0, 1.0, 3.0):
            moving = of_size | {"drift": drift}
            found[f"CCD, dark, {side}, drift {drift:g} %"] = "marccd", DARK | moving
        found[f"CCD, laser, {side}, drift 3 %"] = "marccd", LASER | of_size | {"drift": 3.0}
    of_size = {"size": (512, 512), "spots": 100}
    crowded = {"size": (256, 256), "spots": 75}
    for drift in (0.0, 3.0):
        words = f"drift {drift:g} %"
        for name, preset, options in (
            ("CCD, dark, 75 spots, 256", "marccd", crowded),
            ("phosphor, 512", "rayonix", of_size),
            ("photon counter, 3 photons, 512", "pilatus", of_size),
            ("photon counter, 0.3 photons, 512", "eiger", of_size),
            ("photon counter, 0.03 photons, 512", "eiger", of_size | {"background": 0.03}),
        ):
            found[f"{name}, {words}"] = preset, DARK | options | {"drift": drift}
    for n_frames in (8, 12, 30):
        few = DARK | of_size | {"spots": 0, "angles": n_frames}
        found[f"CCD, no spots, {n_frames} frames"] = "marccd", few
    found["all difficulties, 512"] = "hard", DARK | of_size
    return found


def true_factor(run: SimulatedRun) -> float:
    """Return the mean of the factors of all pixels: only the noise of light is correlated."""
    design = run.design
    sums = np.convolve(noise_kernel(design.detector.correlation), np.ones(3))
    shot = design.gain * run.detector.background[run.detector.inside].astype(np.float64)
    shot = shot[shot > 0]
    read = design.detector.read_noise**2
    read += 1 / 12 if read else 0.0
    along = float((sums**2).sum()) / 3
    return 1 + (along * along - 1) * float((shot / (shot + read)).mean())


def main() -> None:
    """Simulate, find and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3, help="runs of each kind")
    n_seeds = parser.parse_args().seeds
    print("run | true factor | found | largest error | gain, found / true")
    for name, (preset, options) in designs().items():
        truth, factors, gains = 0.0, [], []
        for seed in range(FIRST_SEED, FIRST_SEED + n_seeds):
            design = make_design(options | {"seed": seed}, preset)
            run = simulate_run(design)
            frames = np.stack(list(run.frames()))
            normalise = "level" if design.drift else "none"
            parameters = Parameters(angles=0, method="clip", normalise=normalise)
            with (
                warnings.catch_warnings(action="ignore"),
                find_spots(
                    frames, parameters, columns={"angle": run.truth.schedule.angle}
                ) as results,
            ):
                model = results.noise_model
            assert model is not None
            truth = true_factor(run)
            factors.append(model["correlation"] / truth)
            gains.append(model["gain"] / design.gain)
        worst = max(abs(factor - 1) for factor in factors)
        print(
            f"{name} | {truth:.2f} | {truth * np.mean(factors):.3f} | {100 * worst:.1f} % | "
            f"{np.mean(gains):.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
