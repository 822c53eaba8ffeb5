"""Parts of benchmarks/first_hour.sh.

`versions`, `compare A B`, `fill MIB DEVICE` and `summary FOLDER`.
"""

import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import distributions
from pathlib import Path

import h5py
import numpy as np

LIBRARIES = (
    "gpu_spots",
    "cupy",
    "numpy",
    "h5py",
    "hdf5plugin",
    "deflate",
    "isal",
    "nvidia-cuda-nvrtc",
    "nvidia-cuda-runtime",
)
QUERY = (
    "nvidia-smi",
    "--query-gpu=index,name,driver_version,memory.total,pcie.link.gen.current,pcie.link.width.current",
    "--format=csv",
)
CHUNK = 256 << 20
"""Bytes of a piece of device memory that is taken; smaller ones at the end."""
WORTH_KEEPING = re.compile(
    r"^\d+ frames of|copy on the device|^Device: |^Not measured|the same to the bit$|sequences of "
    r"LZ4"
)
"""Lines of the logs that belong to their tables."""


def versions() -> None:
    """Print the machine, the device, the driver and the versions of libraries."""
    processor = platform.processor() or platform.machine()
    if (cpu := Path("/proc/cpuinfo")).exists():
        processor = next(
            (
                line.partition(": ")[2]
                for line in cpu.read_text().splitlines()
                if line.startswith("model name")
            ),
            processor,
        )
    print(
        f"{processor}, {os.cpu_count()} cores, {platform.platform()}, Python "
        f"{platform.python_version()}"
    )
    installed = {(found.metadata["Name"] or "").lower(): found.version for found in distributions()}
    print(
        ", ".join(
            f"{name} {version}"
            for name, version in sorted(installed.items())
            if name.startswith(LIBRARIES)
        )
    )
    try:
        print(subprocess.run(QUERY, capture_output=True, text=True, check=True).stdout.strip())
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"nvidia-smi: {error}")


def compare(first: str, second: str) -> None:
    """Exit with an error unless all datasets of two files are the same to the bit."""
    with h5py.File(first) as a, h5py.File(second) as b:
        ours, theirs = _datasets(a), _datasets(b)
        if set(ours) != set(theirs):
            sys.exit(
                f"{first}, {second}: datasets in one file only: {sorted(set(ours) ^ set(theirs))}"
            )
        for path in ours:
            mine, other = a[path], b[path]
            if (mine.shape, mine.dtype) != (other.shape, other.dtype):
                sys.exit(
                    f"{path}: {mine.dtype} {mine.shape} in {first}, {other.dtype} {other.shape} in "
                    f"{second}"
                )
            # frame by frame, as stacks of masks may be larger than the memory
            for i in np.ndindex(mine.shape[:1]):
                if not _same(mine[i], other[i]):
                    sys.exit(f"{path}: different values in {first} and {second}, first at {i}")
        print(f"{len(ours)} datasets of {first} and {second} are the same to the bit")


def _datasets(file: h5py.File) -> list[str]:
    """Return the paths of all datasets but titles: a run of images has no link to its frames."""
    found: list[str] = []

    def visit(path: str, item: h5py.HLObject) -> None:
        if isinstance(item, h5py.Dataset) and path.rpartition("/")[2] != "title":
            found.append(path)

    file.visititems(visit)
    return found


def _same(a: object, b: object) -> bool:
    a, b = np.asarray(a), np.asarray(b)
    return a.tolist() == b.tolist() if a.dtype.hasobject else a.tobytes() == b.tobytes()


def fill(mib: str, device: str) -> None:
    """Take a device's memory but for so many MiB, and hold it until the process is ended."""
    import cupy

    held, wanted, size = [], int(mib) << 20, CHUNK
    with cupy.cuda.Device(int(device)):
        while size >= 1 << 20:
            if cupy.cuda.runtime.memGetInfo()[0] - wanted >= size:
                held.append(cupy.empty(size, cupy.uint8))
            else:
                size //= 2
        left = cupy.cuda.runtime.memGetInfo()[0]
    print(
        f"filled: {sum(array.nbytes for array in held) >> 20} MiB are taken, {left >> 20} MiB are "
        "free",
        flush=True,
    )
    while True:
        time.sleep(1)


def summary(folder: str) -> None:
    """Print the tables of the steps' logs as Markdown, to be pasted into docs/benchmarks.md."""
    logs = Path(folder)
    print("# The first hour on a GPU\n")
    print(f"```\n{(logs / 'versions.txt').read_text().strip()}\n```\n")
    print(
        f"| step | result | seconds |\n|---|---|---|\n{(logs / 'results.txt').read_text().strip()}"
    )
    for log in sorted(
        logs.glob("step-*.log"), key=lambda path: int(re.findall(r"\d+", path.name)[-1])
    ):
        lines = log.read_text(errors="replace").splitlines()
        if not any(line.startswith("|---") for line in lines):
            continue
        print(f"\n## {log.stem.replace('-', ' ').capitalize()}\n")
        for line, after in zip(lines, [*lines[1:], ""], strict=True):
            is_table = line.startswith("|")
            if is_table or WORTH_KEEPING.search(line):
                print(line if is_table and after.startswith("|") else f"{line}\n")


if __name__ == "__main__":
    steps: dict[str, Callable[..., None]] = {
        "versions": versions,
        "compare": compare,
        "fill": fill,
        "summary": summary,
    }
    steps[sys.argv[1]](*sys.argv[2:])
