"""Wall time, peak memory and output size of the installed command.

It is compared with the simple program, from file to file.

    python benchmarks/whole_program.py [--frames 180] [--size 2048] [--threads 1 2] [--repeats 3]
    [--folder DIR]

The input is a simulated dark run, written as gzip, shuffled gzip, contiguous and (with hdf5plugin)
bitshuffled LZ4. Programs run in turn, in processes of their own; the figure is the median, the
ratio that of medians. The naive program runs once for each layout: it takes minutes. The files are
in the system's page cache, as those of a run that was just taken are.
"""

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from cpu_fallback import CpuBackend
from gpu_spots.files.output.spots_file import open_spots
from gpu_spots.simulate.run import Design, simulate_run

NAIVE = Path(__file__).with_name("naive.py")
COMMAND = Path(sysconfig.get_path("scripts")) / "lu_hdf2spots"


def layouts() -> dict[str, dict[str, Any]]:
    """Name and options of each way to store the frames."""
    known: dict[str, dict[str, Any]] = {
        "gzip": {"compression": "gzip"},
        "shuffled gzip": {"compression": "gzip", "shuffle": True},
        "contiguous": {},
    }
    if find_spec("hdf5plugin"):
        import hdf5plugin

        known["bitshuffle LZ4"] = {"compression": hdf5plugin.Bitshuffle()}
    return known


def measured(arguments: list[str]) -> tuple[float, float, str]:
    """Wall seconds and peak GiB of a program, and what it said."""
    start = time.perf_counter()
    # modules are compiled once, when a program is installed or first run
    environment = {
        name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
    }
    with subprocess.Popen(
        arguments, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        said = process.stderr.read() if process.stderr else ""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(arguments)}: {said}")
    return time.perf_counter() - start, usage.ru_maxrss / 2**20, said


def compare(source: Path, threads: list[int], repeats: int) -> None:
    """Print a row for the naive program and each number of threads."""
    target = source.with_suffix(".out.h5")
    naive_wall, naive_peak, _ = measured([sys.executable, str(NAIVE), str(source), str(target)])
    print(
        f"  {'naive':12}{naive_wall:8.1f} s{'':10}{naive_peak:7.2f} "
        f"GiB{target.stat().st_size / 1e6:9.1f} MB"
    )
    naive_counts = h5py.File(target)["masks/counts"][...]
    for n in threads:
        arguments = [
            str(COMMAND),
            str(source),
            "-o",
            str(target),
            "-a",
            "0",
            "--threads",
            str(n),
            "--force",
        ]
        runs = [measured(arguments) for _ in range(repeats)]
        wall, peak = statistics.median(run[0] for run in runs), max(run[1] for run in runs)
        size, stages = target.stat().st_size / 1e6, runs[-1][2].splitlines()[-2]
        print(
            f"  {f'{n} threads':12}{wall:8.2f} s{naive_wall / wall:7.1f} x {peak:7.2f} "
            f"GiB{size:9.1f} MB   {stages}"
        )
        with open_spots(target) as spots:
            assert np.array_equal(
                np.bincount(spots.spots()["frame"], minlength=spots.n_frames), naive_counts
            ), "the programs found different spots"


def main() -> None:
    """Parse, simulate, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=180)
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--layouts", nargs="+", choices=layouts(), default=list(layouts()))
    parser.add_argument("--folder", help="where the files go for as long as it takes")
    options = parser.parse_args()
    libraries = ", ".join(
        f"{name} {version(name)}" for name in ("numpy", "scipy", "h5py", "deflate", "isal")
    )
    print(
        f"{CpuBackend(1).device.split(',')[0]}, {os.cpu_count()} cores; Python "
        f"{platform.python_version()}, {libraries}"
    )
    design = Design(
        laser=False, size=(options.size, options.size), angles=options.frames, repeats=1
    )
    shape = (design.n_frames, *design.size)
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        plain = folder / "contiguous.h5"
        with h5py.File(plain, "w") as file:
            dataset = file.create_dataset("frames", shape, np.uint16)
            for i, frame in enumerate(simulate_run(design).frames()):
                dataset[i] = frame
        for name in options.layouts:
            source = folder / f"{name.replace(' ', '_')}.h5"
            if name != "contiguous":
                with h5py.File(plain) as file, h5py.File(source, "w") as target:
                    dataset = target.create_dataset(
                        "frames", shape, np.uint16, chunks=(1, *shape[1:]), **layouts()[name]
                    )
                    for i in range(len(dataset)):
                        dataset[i] = file["frames"][i]
            print(
                f"\n{shape[0]} frames of {shape[1]} x {shape[2]} uint16, {name}, "
                f"{source.stat().st_size / 1e6:.0f} MB"
            )
            compare(source, options.threads, options.repeats)
            if source != plain:
                source.unlink()
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
