"""Prove and time ``gpu-spots batch`` with a simulated beamtime of dark and laser runs.

Three runs are bad: one is cut off, one has no angles, and one needs more memory than a run may use.
The steps, in this order, or those of --steps:

- ``single``: a loop of single commands, whose results are the standard of comparison;
- ``jobs_1``, ``jobs_2``: a batch with one and with two workers, and the same command again;
- ``interrupt``: a worker is killed in mid-run, then Ctrl-C; the same command again;
- ``scheduler``: a Dask scheduler with two workers is killed in mid-run; the same command again;
- ``disk``: the results are on a file system that is too small, then on a larger one (needs root).

Each step ends with a check: every good run is done, with the results of its single command to the
bit; every bad one is named with its reason; and no unfinished file is left.

Usage: python benchmarks/beamtime.py [--runs 24] [--size 512] [--angles 10] [--folder DIR]
       [--steps single,jobs_2]
Runs that are in DIR already are not simulated again. --only-simulate ends before any step.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

PROGRAM = (sys.executable, "-m", "gpu_spots")
LASER = ("-S", "blocks")
LIMIT = "200MB"
"""Memory of a run; the large run needs more for a single frame row of all its frames."""
BAD = {
    "day_1/corrupt": "is cut off",
    "day_1/large": "of memory",
    "day_1/no_angles": "lauecollect/angle",
}
"""Words of the errors of the bad runs."""
LOST = "gpu-spots: the connection to the scheduler was lost; repeat the command"
PATIENCE = 1200.0
"""Seconds until a step that does not end is an error."""


@dataclass(frozen=True)
class Beamtime:
    """The runs, and the folder of all results."""

    folder: Path
    good: Sequence[str]
    """Names of the good runs."""
    n_bytes: int
    """Bytes of the frames of the good runs."""

    @property
    def runs(self) -> Path:
        """Folder of the runs."""
        return self.folder / "runs"

    def single(self, name: str) -> Path:
        """Return the results of the single command for a run."""
        return self.folder / f"single/{name.replace('/', '_')}__spots.h5"

    def batch(self, out: Path, *words: object) -> list[str]:
        """Return the command line of a batch."""
        options = ("--laser-options", " ".join(LASER), "--backend", "cpu", "--memory-limit", LIMIT)
        return [*PROGRAM, *map(str, ("batch", self.runs, "-o", out, *options, *words))]

    def check(self, out: Path) -> None:
        """Exit with an error if the results are not those that they must be."""
        for name in self.good:
            record = json.loads((out / f"batch/{name}.json").read_text())
            expect(record["state"] == "done", f"{name} is done: {record.get('error')}")
            same_results(out / f"{name}__spots.h5", self.single(name))
        for name, words in BAD.items():
            record = json.loads((out / f"batch/{name}.json").read_text())
            error = record.get("error", "")
            expect(record["state"] == "failed" and words in error, f"{name} is named: {error}")
        rest = [*out.rglob("*.part"), *out.rglob("*.claim")]
        expect(not rest, f"no unfinished file is left: {rest}")
        rows = len((out / "runs.csv").read_text().splitlines()) - 1
        expect(rows == len(self.good) + len(BAD), f"runs.csv has {rows} rows")


def expect(is_so: object, text: str) -> None:
    """Exit if something is not as expected."""
    if not is_so:
        raise SystemExit(f"expected: {text}")


def same_results(found: Path, expected: Path) -> None:
    """Exit with an error unless all datasets of two files are equal to the bit."""
    with h5py.File(found) as one, h5py.File(expected) as other:
        names: list[list[str]] = [[], []]
        for list_of, file in zip(names, (one, other), strict=True):
            file.visit(list_of.append)
        expect(names[0] == names[1], f"{found} has the datasets of {expected}")
        for name in names[0]:
            if isinstance(one[name], h5py.Dataset):
                a, b = np.asarray(one[name][()]), np.asarray(other[name][()])
                is_equal = a.dtype == b.dtype and a.shape == b.shape
                is_equal &= (
                    a.tolist() == b.tolist() if a.dtype.hasobject else a.tobytes() == b.tobytes()
                )
                expect(is_equal, f"{name} of {found} is that of {expected}")


def make_beamtime(folder: Path, n_runs: int, size: int, n_angles: int) -> Beamtime:
    """Write the runs that are not there yet."""
    n_bytes = 0
    names = []
    for i in range(n_runs - len(BAD)):
        kind = "laser" if i % 2 else "dark"
        names.append(f"day_{1 + i // 8}/{kind}_{1 + i // 2:02}")
        path = folder / f"runs/{names[-1]}__mccd.h5"
        path.parent.mkdir(parents=True, exist_ok=True)
        frames = ["--pairs", 3] if i % 2 else ["--dark", "--frames-per-angle", 6]
        if not path.exists():
            words = ["--size", size, "--angles", n_angles, "--seed", i, *frames]
            run([*PROGRAM, "simulate", path, *words])
        with h5py.File(path) as file:
            n_bytes += file["frames"].size * file["frames"].dtype.itemsize
    corrupt, large, no_angles = (folder / f"runs/{name}__mccd.h5" for name in sorted(BAD))
    whole = folder / f"runs/{names[0]}__mccd.h5"
    corrupt.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    shutil.copyfile(whole, no_angles)
    with h5py.File(no_angles, "a") as file:
        del file["lauecollect/angle"]
    with h5py.File(large, "w") as file:
        chunk = (1, 8192, 8192)
        file.create_dataset("frames", (20, 8192, 8192), "u2", chunks=chunk, compression="gzip")
        file["lauecollect/angle"] = np.arange(20.0)
    return Beamtime(folder, names, n_bytes)


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


@contextmanager
def started(words: Sequence[object]) -> Iterator[subprocess.Popen[str]]:
    """Start a command that hears Ctrl-C, also in the background of a shell."""
    with subprocess.Popen(
        [str(word) for word in words],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as running:
        try:
            yield running
        finally:
            running.kill()


def until(condition: Callable[[], Any]) -> Any:
    """Wait for something that is not false, and return it."""
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        expect(time.monotonic() < end, "the step goes on")
        time.sleep(0.02)
    return found


def in_mid_run(out: Path, n_done: int) -> dict[str, Any]:
    """Wait until some runs are done and one is being written; return the claim of that run."""
    until(lambda: sum('"state": "done"' in text for text in records(out)) >= n_done)
    while True:
        part = until(lambda: list(out.rglob("*__spots.h5.part")))[0]
        name = str(part.relative_to(out)).removesuffix("__spots.h5.part")
        with suppress(OSError, ValueError):  # the run is done meanwhile
            claim: dict[str, Any] = json.loads((out / f"batch/{name}.claim").read_text())
            return {**claim, "name": name}


def records(out: Path) -> list[str]:
    """Return the texts of all records."""
    found = []
    for path in out.glob("batch/**/*.json"):
        with suppress(OSError):
            found.append(path.read_text())
    return found


def told(name: str, seconds: float, n_bytes: int | None = None) -> None:
    """Print the time of a command."""
    rate = "" if n_bytes is None else f" {n_bytes / seconds / 1e6:7.0f} MB/s"
    load = os.getloadavg()[0]
    print(f"{name:<44} {seconds:7.1f} s{rate:<13} (load {load:.1f})", flush=True)


def single(of: Beamtime) -> None:
    """Process the good runs in a loop of single commands."""
    total = 0.0
    for name in of.good:
        output = of.single(name)
        output.parent.mkdir(exist_ok=True)
        sync = LASER if "laser" in name else ()
        options = (*sync, "--backend", "cpu", "-o", output, "--quiet", "--force")
        total += run([*PROGRAM, "find", of.runs / f"{name}__mccd.h5", *options])
    told("a loop of gpu-spots find", total, of.n_bytes)


def jobs(of: Beamtime, number: int) -> None:
    """Process all runs with so many workers, then again, then without the bad runs."""
    out = of.folder / f"jobs_{number}"
    words = of.batch(out, "--jobs", number)
    told(f"batch, {number} at a time", run(words, 1), of.n_bytes)
    told("  again: the bad runs are tried again", run(words, 1))
    without = [part for name in BAD for part in ("--exclude", f"{Path(name).name}*")]
    told("  again, without the bad runs: nothing is done", run([*words, *without]))
    of.check(out)


def jobs_1(of: Beamtime) -> None:
    """Process all runs with one worker."""
    jobs(of, 1)


def jobs_2(of: Beamtime) -> None:
    """Process all runs with two workers."""
    jobs(of, 2)


def interrupt(of: Beamtime) -> None:
    """Kill a worker in mid-run, interrupt the batch, and go on."""
    out = of.folder / "interrupt"
    words = of.batch(out, "--jobs", 2)
    with started(words) as running:
        killed = in_mid_run(out, 1)
        os.kill(killed["pid"], signal.SIGKILL)
        record = out / f"batch/{killed['name']}.json"
        until(lambda: '"state": "done"' in record.read_text())
        in_mid_run(out, len(of.good) // 2)
        running.send_signal(signal.SIGINT)
        said = running.communicate()[1].splitlines()
    expect(running.returncode == -signal.SIGINT, f"the status is that of Ctrl-C: {said}")
    expect(said[-1].endswith("the same command goes on with the others"), said[-1])
    expect(json.loads(record.read_text())["attempts"] == 2, "the run was tried twice")
    print(f"worker killed during {killed['name']}, which another one has done; {said[-1]}")
    told("  again", run(words, 1))
    of.check(out)


@contextmanager
def cluster(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a Dask scheduler and two workers; yield the scheduler."""
    file = folder / "scheduler.json"
    file.unlink(missing_ok=True)
    begun = []

    def start(name: str, *words: str) -> None:
        program = [sys.executable, "-m", f"distributed.cli.dask_{name}", *words]
        common = ["--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", str(file)]
        begun.append(
            subprocess.Popen([*program, *common], stderr=subprocess.DEVNULL, cwd=folder, text=True)
        )

    try:
        start("scheduler", "--port", "0")
        until(file.exists)
        for _ in range(2):
            start("worker", "--nthreads", "1")
        yield begun[0]
    finally:
        for process in begun[::-1]:
            process.terminate()
            process.wait()


def scheduler(of: Beamtime) -> None:
    """Kill a scheduler in mid-run, start another one, and go on."""
    out = of.folder / "scheduler"
    words = of.batch(out, "--scheduler", of.folder / "scheduler.json")
    with cluster(of.folder) as process, started(words) as running:
        in_mid_run(out, len(of.good) // 3)
        process.kill()
        begin = time.perf_counter()
        said = running.communicate()[1].splitlines()
        seconds = time.perf_counter() - begin
    expect(running.returncode == 1 and said[-1].startswith(LOST), f"the scheduler is lost: {said}")
    print(f"scheduler killed; after {seconds:.1f} s: {said[-1]}")
    until(lambda: not list(out.rglob("*.part")))  # the workers end their runs
    with cluster(of.folder):
        told("  again, with a new scheduler", run(words, 1))
    of.check(out)


def disk(of: Beamtime) -> None:
    """Fill the file system of the results, make it larger, and go on."""
    out = of.folder / "disk"
    out.mkdir()
    needed = sum(of.single(name).stat().st_size for name in of.good)
    options = ["-o", f"size={needed // 2}"]
    mounted = subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", out], check=False)
    if mounted.returncode:
        print("disk: not tried, because no file system can be mounted; needs root")
        return
    try:
        words = of.batch(out, "--jobs", 2)
        with started(words) as running:
            said = running.communicate()[1].splitlines()
        expect(running.returncode == 1, "the status is 1")
        full = [line for line in said if "No space left on device" in line]
        expect(full and not any("Traceback" in line for line in said), f"a full disk: {said}")
        print(f"disk full: {len(full)} lines, such as {full[0].replace(str(out), 'OUT')}")
        expect(not list(out.rglob("*.part")), "no unfinished file is left")
        run(["mount", "-o", f"remount,size={2 * needed}", out])
        told("  again, with more space", run(words, 1))
        of.check(out)
    finally:
        run(["umount", out])


STEPS = {step.__name__: step for step in (single, jobs_1, jobs_2, interrupt, scheduler, disk)}


def main() -> None:
    """Measure, check and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--runs", type=int, default=24, help="number of runs, three of them bad")
    parser.add_argument("--size", type=int, default=512, help="side of a frame, pixels")
    parser.add_argument("--angles", type=int, default=10, help="angles of a run, 6 frames each")
    parser.add_argument("--folder", type=Path, help="folder for runs and results")
    parser.add_argument("--steps", default=",".join(STEPS), help="steps, separated by commas")
    parser.add_argument("--only-simulate", action="store_true")
    options = parser.parse_args()
    folder = (options.folder or Path(tempfile.mkdtemp(prefix="beamtime_"))).resolve()
    of = make_beamtime(folder, options.runs, options.size, options.angles)
    cores = len(os.sched_getaffinity(0))
    print(f"{options.runs} runs, {len(of.good)} good, {of.n_bytes / 1e9:.2f} GB, {cores} cores")
    for name in () if options.only_simulate else options.steps.split(","):
        STEPS[name](of)
    if options.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
