"""Spots files of one run."""

from collections.abc import Iterator
from pathlib import Path

import h5py
import pytest

from factories.spots_files import laser_run
from helpers import command


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Spots files of one run, without and with synchronized masks."""
    folder = tmp_path_factory.mktemp("spots")
    run = laser_run(folder)
    assert command(run, "-o", folder / "none.h5", "--quiet").status == 0
    assert (
        command(
            run,
            "-o",
            folder / "pairs.h5",
            "--quiet",
            "-S",
            "pairs",
            "-n",
            30,
            "-c",
            2.5,
            "-s",
            "2,1",
        ).status
        == 0
    )
    assert (
        command(
            run, "-o", folder / "kruskal.h5", "--quiet", "-m", "kruskal", "-S", "blocks", "-A", 0.01
        ).status
        == 0
    )
    return {name: folder / f"{name}.h5" for name in ("none", "pairs", "kruskal")} | {"run": run}


@pytest.fixture
def pairs(paths: dict[str, Path]) -> Iterator[h5py.File]:
    """The one with pairs, by plain h5py."""
    with h5py.File(paths["pairs"]) as file:
        yield file
