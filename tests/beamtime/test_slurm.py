"""Slurm: the script of a job, mistakes, and a batch on a real controller where there is one."""

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from gpu_spots.beamtime.record import Records
from helpers import Ended, command, process, series, write_run

JOB = tuple(
    word
    for option in ("cores=1", "memory=1GB", "walltime=00:10:00", "interface=lo")
    for word in ("--slurm-option", option)
)


def has_slurm() -> bool:
    """Return whether jobs can be submitted here."""
    if shutil.which("sinfo") is None or shutil.which("sbatch") is None:
        return False
    found = subprocess.run(["sinfo", "-h", "-t", "idle"], capture_output=True, check=False)
    return found.returncode == 0 and bool(found.stdout.strip())


def told(*words: object) -> Ended:
    return command("batch", "--slurm", *words, name="gpu-spots")


def test_the_script_of_a_job_is_printed(tmp_path: Path) -> None:
    ended = told(
        *("--print-job", "-o", tmp_path / "out", "--backend", "gpu", *JOB),
        *("--slurm-option", "queue=gpu", "--slurm-option", "job_extra_directives=--gres=gpu:1"),
        *("--slurm-option", "job_script_prologue=export HDF5_USE_FILE_LOCKING=FALSE"),
    )
    assert (ended.status, ended.stderr) == (0, "")
    lines = ended.stdout.splitlines()
    for line in (
        "#SBATCH -p gpu",
        "#SBATCH --cpus-per-task=1",
        "#SBATCH --gres=gpu:1",
        "#SBATCH -t 00:10:00",
        "export HDF5_USE_FILE_LOCKING=FALSE",
    ):
        assert line in lines
    assert "--nthreads 1 --resources GPU=1" in lines[-1]
    assert not (tmp_path / "out").exists()


# dask-jobqueue leaves half an object, which complains when it is deleted
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--print-job",), "--slurm: You must specify how much cores and memory"),
        (("--print-job", "--slurm-option", "cores"), "--slurm-option: 'cores' is not NAME=VALUE"),
        (("--print-job", "--slurm-option", "quee=1", *JOB), "unexpected keyword argument 'quee'"),
    ],
)
def test_settings_that_are_wrong_are_one_line(
    tmp_path: Path, words: tuple[str, ...], text: str
) -> None:
    ended = told("-o", tmp_path / "out", *words)
    assert (ended.status, ended.stdout) == (1, "")
    assert len(ended.lines) == 1
    assert text in ended.stderr


def test_without_slurm_it_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    run = write_run(tmp_path / "a.h5")
    ended = told(run, "-o", tmp_path / "out", *JOB, "--quiet")
    assert ended.status == 1
    assert ended.lines[-1].endswith("there is no command sbatch; use a computer that submits jobs")


@pytest.mark.skipif(not has_slurm(), reason="there is no Slurm controller with an idle node")
def test_a_batch_in_slurm_jobs(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    for i in (1, 2, 3):
        write_run(tmp_path / f"runs/{i}.h5", frames=series(seed=i))
    logs = f"log_directory={tmp_path / 'logs'}"
    ended = process(
        *(
            "batch",
            tmp_path / "runs",
            "-o",
            tmp_path / "out",
            "--slurm",
            *JOB,
            "--manual",
            "--backend",
            "cpu",
        ),
        *("--slurm-option", logs, "--jobs", 1),
        name="gpu-spots",
    )
    assert ended.status == 0, ended
    assert ended.lines[0] == "3 runs; computing on Slurm jobs: 1"
    records = Records(tmp_path / "out").all()
    assert [record["state"] for record in records.values()] == ["done"] * 3
    assert all("1 thread" in record["figures"]["device"] for record in records.values())
    end = time.monotonic() + 30
    while subprocess.run(["squeue", "-h"], capture_output=True, check=True).stdout.strip():
        assert time.monotonic() < end
        time.sleep(0.2)
