"""New HDF5 files, on a full disk too."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from gpu_spots.errors import OutputError
from gpu_spots.files.output.new_file import NewFile, new_file
from helpers import FullDisk, datasets


def test_a_new_file_is_as_hdf5_makes_it_itself(tmp_path: Path) -> None:
    def fill(file: h5py.File) -> None:
        random = np.random.default_rng(1)
        for i in range(30):
            file.create_dataset(
                f"a/{i}",
                data=random.integers(0, 9, (50, 60)),
                chunks=(7, 60),
                compression="gzip",
                track_times=False,
            )
            file[f"a/{i}"].attrs["units"] = "counts"
        del file["a/3"]
        file["a/4"][...] = random.integers(0, 1000, (50, 60))

    with new_file(tmp_path / "ours.h5", "ours.h5") as file:
        fill(file)
    with h5py.File(tmp_path / "its.h5", "w", libver=("earliest", "v110")) as file:
        fill(file)
    assert (tmp_path / "ours.h5").stat().st_size == (tmp_path / "its.h5").stat().st_size
    with h5py.File(tmp_path / "ours.h5") as ours, h5py.File(tmp_path / "its.h5") as its:
        found, expected = datasets(ours), datasets(its)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[path], expected[path]) for path in expected)


def test_what_was_written_is_read_back_before_it_is_closed(tmp_path: Path) -> None:
    with new_file(tmp_path / "x.h5", "x.h5") as file:
        dataset = file.create_dataset("a", (200, 1000), np.int32, chunks=(10, 1000))
        dataset[...] = np.arange(200_000).reshape(200, 1000)
        file.flush()
        assert np.array_equal(file["a"][...], np.arange(200_000).reshape(200, 1000))
        assert not file.create_dataset("b", (20, 20), np.int32)[...].any()


@pytest.mark.parametrize("room", [0, 100, 3000, 50_000])
def test_a_file_on_a_full_disk_works_on_and_then_tells(
    tmp_path: Path, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = FullDisk(monkeypatch, room)
    file = NewFile(tmp_path / "x.h5", "x.h5")
    values = np.random.default_rng(1).integers(0, 2**31, (40, 1000))
    for i in range(5):
        file.create_dataset(f"a{i}", data=values + i, chunks=(3, 1000), compression="gzip")
    file.flush()
    # nothing seems amiss, so that HDF5 does not trip over it
    assert all(np.array_equal(file[f"a{i}"][...], values + i) for i in range(5))
    assert disk.refused
    with pytest.raises(OutputError, match=r"x\.h5: cannot be written: No space left on device"):
        file.check()
    file.close()
    with pytest.raises(OutputError, match="No space left on device"):
        file.check()


def test_a_file_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    with (
        pytest.raises(
            OutputError, match=r"shown\.h5: cannot be written: No such file or directory"
        ),
        new_file(tmp_path / "no/x.h5", "shown.h5"),
    ):
        pass
