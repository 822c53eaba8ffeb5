"""Time a simulated beamtime: ``gpu-spots batch`` with one and with two workers.

It writes runs (dark, laser, a corrupt one, one without angles) to a folder, processes them with
different numbers of workers, each time from the beginning, and then once more without anything to
do. Single runs of ``gpu-spots find`` in a loop are the comparison.

Usage: python benchmarks/beamtime.py [--runs 24] [--size 1024] [--angles 10] [--folder DIR]
Runs that are in DIR already are not simulated again. --only-simulate ends before anything is timed.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import h5py

PROGRAM = (sys.executable, "-m", "gpu_spots")
OPTIONS = ("--laser-options", "-S blocks", "--backend", "cpu")


def make_beamtime(folder: Path, n_runs: int, size: int, n_angles: int) -> int:
    """Write the runs, and return the bytes of their frames; the last two are bad."""
    n_bytes = 0
    for i in range(n_runs - 2):
        is_laser = i % 2
        kind = "laser" if is_laser else "dark"
        path = folder / f"day_{1 + i // 8}/{kind}_{1 + i // 2:02}__mccd.h5"
        path.parent.mkdir(parents=True, exist_ok=True)
        frames = ["--pairs", 3] if is_laser else ["--dark", "--frames-per-angle", 6]
        words = ["--size", size, "--angles", n_angles, "--seed", i, *frames]
        if not path.exists():
            run([*PROGRAM, "simulate", path, *words])
        with h5py.File(path) as file:
            n_bytes += file["frames"].size * file["frames"].dtype.itemsize
    whole = next(folder.rglob("dark_01__mccd.h5"))
    corrupt, no_angles = folder / "day_1/corrupt__mccd.h5", folder / "day_1/no_angles__mccd.h5"
    corrupt.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    shutil.copyfile(whole, no_angles)
    with h5py.File(no_angles, "a") as file:
        del file["lauecollect/angle"]
    return n_bytes


def run(words: Sequence[object], expected: int = 0) -> float:
    """Run a command, and return its seconds."""
    begin = time.perf_counter()
    ended = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - begin
    if ended.returncode != expected:
        raise SystemExit(f"{' '.join(map(str, words))}: {ended.returncode}\n{ended.stderr}")
    return seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=24, help="number of runs, two of them bad")
    parser.add_argument("--size", type=int, default=1024, help="side of a frame, pixels")
    parser.add_argument("--angles", type=int, default=10, help="angles of a run, 6 frames each")
    parser.add_argument("--folder", type=Path, help="folder for runs and results")
    parser.add_argument("--only-simulate", action="store_true")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="beamtime_"))
    runs = folder / "runs"
    n_bytes = make_beamtime(runs, options.runs, options.size, options.angles)
    if options.only_simulate:
        return
    good = sorted(set(runs.rglob("*_[0-9][0-9]__mccd.h5")))
    cores = len(os.sched_getaffinity(0))
    print(f"{options.runs} runs, {len(good)} good, {n_bytes / 1e9:.2f} GB of frames, {cores} cores")

    def rate(name: str, seconds: float) -> None:
        print(f"{name:<34} {seconds:7.1f} s {n_bytes / seconds / 1e6:7.0f} MB/s", flush=True)

    out = folder / "single"
    out.mkdir()
    total = 0.0
    for path in good:
        sync = ["-S", "blocks"] if "laser" in path.name else []
        output = out / f"{path.stem}__spots.h5"
        total += run([*PROGRAM, "find", path, *sync, "--backend", "cpu", "-o", output, "--quiet"])
    rate("a loop of gpu-spots find", total)
    for jobs in (1, 2):
        results = folder / f"jobs_{jobs}"
        words: list[object] = [*PROGRAM, "batch", runs, "-o", results, "--jobs", jobs, *OPTIONS]
        threads = max(1, cores // jobs)
        plural = "s" * (jobs > 1)
        rate(
            f"batch, {jobs} worker{plural} of {threads} thread{'s' * (threads > 1)}", run(words, 1)
        )
        print(f"{'again':<34} {run(words, 1):7.1f} s")
        excluded = ["--exclude", "corrupt*", "--exclude", "no_angles*"]
        print(f"{'again, without the bad runs':<34} {run([*words, *excluded]):7.1f} s")
    if options.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
