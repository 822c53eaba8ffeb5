"""The whole command with the defaults of ``gpu-spots find`` beside the manual's, on the same files.

    python benchmarks/clip_matched.py [--frames 180] [--size 2048] [--threads 2] [--repeats 5]
    [--runs dark laser] [--folder DIR]

These are ``-m clip --finder matched --normalise level``. Simulates a dark run, and a laser run with
blocks of 6 frames (``-S blocks``), stored as gzip. Programs run in turn, in processes of their own.
Prints the median of the wall times of each, with their least and largest, the ratio of medians, the
peak memory, and the seconds of each stage.
"""

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sysconfig
import tempfile
from importlib.metadata import version
from pathlib import Path

from whole_program import measured

from cpu_fallback import CpuBackend

SCRIPTS = Path(sysconfig.get_path("scripts"))
PAIRS = 3
"""Off/on pairs at an angle of the laser run."""
SETTINGS = {
    "manual": [],
    "clip": ["-m", "clip"],
    "matched": ["--finder", "matched"],
    "clip, matched": ["-m", "clip", "--finder", "matched"],
    "clip, matched, level": ["-m", "clip", "--finder", "matched", "--normalise", "level"],
}


def simulate(name: str, path: Path, n_frames: int, size: int) -> None:
    """Write a run of that kind."""
    kind = (
        ["--dark", "--angles", str(n_frames)]
        if name == "dark"
        else ["--angles", str(max(3, n_frames // (2 * PAIRS))), "--pairs", str(PAIRS)]
    )
    command = [str(SCRIPTS / "gpu-spots"), "simulate", str(path), "--size", str(size), *kind]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def compare(source: Path, more: list[str], settings: list[str], threads: int, repeats: int) -> None:
    """Print a row for each of the settings; the first one is the reference."""
    target = source.with_suffix(".spots.h5")
    runs: dict[str, list[tuple[float, float, str]]] = {name: [] for name in settings}
    for _ in range(repeats):
        for name in settings:
            arguments = [str(SCRIPTS / "lu_hdf2spots"), str(source), "-o", str(target)]
            arguments += [*SETTINGS[name], *more, "-a", "0", "--threads", str(threads), "--force"]
            runs[name].append(measured(arguments))
    reference = statistics.median(run[0] for run in runs[settings[0]])
    for name, found in runs.items():
        walls = [run[0] for run in found]
        wall, peak = statistics.median(walls), max(run[1] for run in found)
        stages = next(
            (line for line in reversed(found[-1][2].splitlines()) if "background" in line), ""
        )
        print(
            f"  {name:22}{wall:7.2f} s ({min(walls):.2f} to {max(walls):.2f})"
            f"{wall / reference:7.2f} x{peak:7.2f} GiB   {stages.strip()}",
            flush=True,
        )


def main() -> None:
    """Simulate, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=180)
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--runs", nargs="+", choices=["dark", "laser"], default=["dark", "laser"])
    parser.add_argument(
        "--settings", nargs="+", choices=list(SETTINGS), default=["manual", "clip, matched, level"]
    )
    parser.add_argument("--folder", help="where the files go for as long as it takes")
    options = parser.parse_args()
    libraries = ", ".join(
        f"{name} {version(name)}" for name in ("numpy", "h5py", "deflate", "isal")
    )
    device = CpuBackend(1).device.split(",")[0]
    print(f"{device}, {os.cpu_count()} cores; Python {platform.python_version()}, {libraries}")
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        for name in options.runs:
            source = folder / f"{name}__mccd.h5"
            simulate(name, source, options.frames, options.size)
            more = ["-S", "blocks"] if name == "laser" else []
            print(
                f"\n{name}, {options.frames} frames of {options.size} x {options.size} uint16, "
                f"{source.stat().st_size / 1e6:.0f} MB, {options.threads} threads"
            )
            compare(source, more, options.settings, options.threads, options.repeats)
            source.unlink()
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
