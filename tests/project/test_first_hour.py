"""benchmarks/first_hour.sh on a stand-in for a device.

All steps run, and the first failure ends it.
"""

import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from gpu_spots.cuda.reasons import NO_CUPY

pytest.importorskip("cupy", reason=NO_CUPY)

from emulator.stand_in import environment
from helpers import ROOT

SCRIPT = ROOT / "benchmarks" / "first_hour.sh"
TINY = {
    **{"FRAMES": "3", "SIZES": "64", "RUN_FRAMES": "12", "RUN_SIZE": "128", "DECODE_FRAMES": "2"},
    **{"REPEATS": "1", "RUNS": "1", "COPY_MIB": "1"},
}
A_FEW = " ".join(
    [
        "-k 'no_pixel_no_component or no_chunks_decoded or more_than_2_to_31' --assert=plain",
        *(
            f"--ignore={path}"
            for path in (ROOT / "tests").iterdir()
            if path.is_dir()
            if path.name != "cuda"
        ),
        *(
            f"--ignore-glob='*/test_{names}*'"
            for names in ("[d-f]", "[h-z]", "cuda_ba", "cuda_[c-z]")
        ),
    ]
)
"""Some test for each step that has tests, without the time to collect all files."""
STEPS = tuple(range(1, 11))


def first_hour(
    tmp_path: Path, kernels: Path, *steps: int, **variables: str
) -> subprocess.CompletedProcess[str]:
    variables = {
        **environment(tmp_path, kernels),
        **TINY,
        "PYTHON": sys.executable,
        "OUT": str(tmp_path / "logs"),
        "PYTEST_ADDOPTS": A_FEW,
        **variables,
    }
    return subprocess.run([SCRIPT, *map(str, steps)], env=variables, capture_output=True, text=True)


@pytest.mark.emulated
def test_all_steps_run_through(kernel_folder: Path, tmp_path: Path) -> None:
    ended = first_hour(tmp_path, kernel_folder, *STEPS)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    results = (tmp_path / "logs" / "results.txt").read_text()
    assert results.count("passed") + results.count("4 sanitizer | left out") == len(STEPS)
    summary = (tmp_path / "logs" / "summary.md").read_text()
    for part in (
        "stand-in",
        "share of copy bandwidth",
        "CuPy's functions",
        "| gzip, gpu |",
        "| decoding |",
        "the same to the bit",
    ):
        assert part in summary, part
    with tarfile.open(tmp_path / "logs.tar.gz") as tar:
        names = {Path(name).name for name in tar.getnames()}
    assert {
        "summary.md",
        "versions.txt",
        "results.txt",
        "nvidia-smi.txt",
        "step-6-command.log",
    } <= names


@pytest.mark.emulated
def test_the_first_failure_ends_it(kernel_folder: Path, tmp_path: Path) -> None:
    """There is no device 7; what follows is not run, and a tar of the logs is there."""
    ended = first_hour(tmp_path, kernel_folder, 1, 10, DEVICE="7")
    assert ended.returncode == 1
    assert "Step 1 failed. Send us" in ended.stdout
    assert "first_hour.sh 1 10" in ended.stdout
    assert not (tmp_path / "logs" / "step-10-decode.log").exists()
    assert (tmp_path / "logs.tar.gz").exists()


@pytest.mark.emulated
def test_a_step_has_a_limit(kernel_folder: Path, tmp_path: Path) -> None:
    ended = first_hour(tmp_path, kernel_folder, 5, LIMIT="1", FRAMES="200", SIZES="256")
    assert ended.returncode == 1
    assert "FAILED: more than 1 s" in ended.stdout


def test_tests_that_are_left_out_for_want_of_a_device_are_a_failure(tmp_path: Path) -> None:
    """This machine has no device: all tests of the step are left out."""
    ended = first_hour(tmp_path, tmp_path, 2, LD_LIBRARY_PATH="", PYTHONPATH="")
    assert ended.returncode == 1
    assert "tests were left out" in ended.stdout


def test_no_such_step(tmp_path: Path) -> None:
    for step in ("0", "11", "devices"):
        ended = subprocess.run([SCRIPT, step], capture_output=True, text=True)
        assert (ended.returncode, ended.stdout) == (2, "")
        assert f"{step}: no such step" in ended.stderr


FILE: dict[str, Any] = {"x/y": np.array([[1.0, np.nan], [3.0, 4.0]]), "text": "words", "number": 3}
OTHERS = {
    "x/y: different values": FILE | {"x/y": np.array([[1.0, np.nan], [3.0, 4.5]])},
    "x/y: float64": FILE | {"x/y": FILE["x/y"].astype(np.float32)},
    "text: different values": FILE | {"text": "word"},
    "number: different values": FILE | {"number": 4},
    "datasets in one file only: ['z']": FILE | {"z": 1},
}


@pytest.mark.parametrize("expected", ["", *OTHERS])
def test_files_that_differ_are_told_apart(expected: str, tmp_path: Path) -> None:
    for name, values in {"a.h5": FILE, "b.h5": OTHERS.get(expected, FILE)}.items():
        with h5py.File(tmp_path / name, "w") as file:
            for path, value in values.items():
                file[path] = value
    command: list[str | Path] = [
        sys.executable,
        SCRIPT.with_suffix(".py"),
        "compare",
        tmp_path / "a.h5",
        tmp_path / "b.h5",
    ]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert (ended.returncode == 0) == (not expected)
    assert expected in ended.stderr
