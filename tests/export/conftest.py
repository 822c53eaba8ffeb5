"""Spots files that tests of the formats share; who changes one, copies it first."""

import shutil
from pathlib import Path

import h5py
import pytest

from factories.exports import spots_of_run
from gpu_spots.columns import SPOT_COLUMNS


def _more_spots(file: h5py.File) -> None:
    """Make spots of other shapes, so that frames have different numbers of spots."""
    frames = file["frames"][:]
    frames[2:4, 17:20, 4:9] += 90
    frames[8:10, 1:6, 33:37] += 200
    frames[14:16, 17:22, 33:36] += 140
    frames[14:15, 1:6, 1:5] += 110
    file["frames"][...] = frames


@pytest.fixture(scope="session")
def _laser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return spots_of_run(tmp_path_factory.mktemp("laser"), edit=_more_spots)


@pytest.fixture
def spots(whole_spots: Path) -> Path:
    """Return the spots file of a laser run without properties, as of an earlier version."""
    with h5py.File(whole_spots, "r+") as file:
        for name in ("I_prf", "sigma_prf", *(r.name for r in SPOT_COLUMNS if r.is_new)):
            if name in file["spots"]:
                del file["spots"][name]
    return whole_spots


@pytest.fixture
def whole_spots(_laser: Path, tmp_path: Path) -> Path:
    """Return the spots file of a laser run without properties, as of an earlier version."""
    for path in _laser.parent.iterdir():
        shutil.copy(path, tmp_path)
    copy = tmp_path / _laser.name
    with h5py.File(copy, "r+") as file:
        file["info"].attrs["input_file"] = str(tmp_path / "run__mccd.h5")
    return copy
