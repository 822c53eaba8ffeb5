"""ImageD11's tables of peaks and sparse pixels, as text, by h5py, and by ImageD11."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from factories.exports import edited, export, read_by, spots_of_run
from gpu_spots.errors import InputError, OutputError
from gpu_spots.export import imaged11
from gpu_spots.files.output.spots_file import SpotsFile

READ_COLUMNS = """
columns = it.columnfile(path)
found = {name: columns[name] for name in columns.titles}
"""


def expected(spots: Path) -> dict[str, np.ndarray]:
    """ImageD11's columns, by plain h5py."""
    with h5py.File(spots) as file:
        table = {name: values[...] for name, values in file["spots"].items()}
        angle = file["lauecollect/angle"][:]
    X, Y = table["XY"].T
    x0, x1, y0, y1 = table["box"].T
    n_pixels = np.diff(table["pixel_list_BE"])[:, 0]
    return {
        "sc": X,
        "fc": Y,
        "omega": angle[table["frame"]],
        "Number_of_pixels": n_pixels,
        "avg_intensity": table["I"] / n_pixels,
        "s_raw": X,
        "f_raw": Y,
        "sum_intensity": table["I"],
        "IMax_s": X,
        "IMax_f": Y,
        "Min_s": x0,
        "Max_s": x1 - 1,
        "Min_f": y0,
        "Max_f": y1 - 1,
        "spot3d_id": np.arange(len(X)),
        "frame": table["frame"],
        "label": table["label"],
        "mask": table["mask"],
        "overload": table["overload"],
        "laser_on": table["frame"] % 2,
    }


def test_flt_is_text_with_titles(spots: Path) -> None:
    path, notes = export("imaged11", spots)
    assert path == spots.with_name("run.flt")
    table = expected(spots)
    heading, *lines = path.read_text().splitlines()
    assert heading == "#  " + "  ".join(table)
    assert len(lines) == len(table["sc"])
    first = lines[0].split("  ")
    assert first[:4] == [
        f"{table['sc'][0]:.4f}",
        f"{table['fc'][0]:.4f}",
        "0.0000",
        str(table["Number_of_pixels"][0]),
    ]
    assert len(notes) == 1
    assert "no spots/centroid" in notes[0]


def test_imaged11_reads_the_text(spots: Path) -> None:
    path = export("imaged11", spots)[0]
    found, table = read_by("ImageD11.columnfile", READ_COLUMNS, path), expected(spots)
    assert found.keys() == table.keys()
    for name, values in table.items():
        np.testing.assert_allclose(found[name], values, rtol=0, atol=5.1e-5, err_msg=name)


def test_imaged11_reads_the_hdf5_file_and_maps_it(spots: Path) -> None:
    path = export("imaged11-h5", spots)[0]
    assert path == spots.with_name("run__peaks.h5")
    program = f"""
{READ_COLUMNS}
mapped = it.mmap_h5colf(path)
found |= {{f"mapped_{{name}}": mapped[name] for name in mapped.titles}}
"""
    found, table = read_by("ImageD11.columnfile", program, path), expected(spots)
    for name, values in table.items():
        assert np.array_equal(found[name], values), name
        assert np.array_equal(found[f"mapped_{name}"], values), name


def test_hdf5_columns_have_the_types_of_imaged11(spots: Path) -> None:
    with h5py.File(export("imaged11-h5", spots)[0]) as file:
        assert list(file) == ["peaks"]
        assert file["peaks"].attrs["ImageD11_type"] == "peaks"
        types = {name: values.dtype for name, values in file["peaks"].items()}
        assert all(dataset.chunks is None for dataset in file["peaks"].values())
    whole = ("Number_of_pixels", "IMax_s", "Min_f", "Max_s", "spot3d_id", "frame", "laser_on")
    assert all(types[name] == np.int64 for name in whole)
    assert all(types[name] == np.float64 for name in ("sc", "fc", "omega", "sum_intensity"))


def test_centroids_and_moments_are_used(spots: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with h5py.File(spots) as file:
        n_spots = len(file["spots/I"])
    rng = np.random.default_rng(4)
    names = ("centroid_X", "centroid_Y", "moments_XX", "moments_YY", "moments_XY")
    new = {name: rng.random(n_spots) for name in names}
    new["max"] = rng.integers(0, 999, n_spots, np.uint16)
    plain = SpotsFile.spot_columns
    monkeypatch.setattr(SpotsFile, "spot_columns", lambda self, *_: {**plain(self), **new})
    path, notes = export("imaged11-h5", spots)
    with h5py.File(path) as file:
        found = {name: values[...] for name, values in file["peaks"].items()}
    assert np.array_equal(found["sc"], new["centroid_X"])
    assert np.array_equal(found["f_raw"], new["centroid_Y"])
    sigs, sigf = np.sqrt(new["moments_XX"] + 1), np.sqrt(new["moments_YY"] + 1)
    assert np.array_equal(found["sigs"], sigs)
    assert np.array_equal(found["sigf"], sigf)
    assert np.array_equal(found["covsf"], new["moments_XY"] / (sigs * sigf))
    assert np.array_equal(found["IMax_int"], new["max"])
    assert np.array_equal(found["IMax_s"], expected(spots)["IMax_s"])
    assert notes == []


def test_a_run_without_angles_has_no_omega(spots: Path) -> None:
    path, notes = export("imaged11-h5", edited(spots, lauecollect_angle=None))
    with h5py.File(path) as file:
        assert np.isnan(file["peaks/omega"][:]).all()
    assert "omega is NaN: the run has no angles" in notes


def test_a_text_file_without_spots_is_written_with_a_warning(tmp_path: Path) -> None:
    path, notes = export("imaged11", spots_of_run(tmp_path, "-c", 1000, "-S", "none"))
    assert path.read_text().count("\n") == 1
    assert "no spots: ImageD11 cannot read a .flt file without a peak" in notes


def dense(spots: Path) -> tuple[np.ndarray, np.ndarray]:
    """The frames, and which pixels are of spots."""
    with h5py.File(spots) as file, h5py.File(spots.with_name("run__mccd.h5")) as run:
        labels = file["masks/labels"][:][file["frame2mask"][:]]
        return run["frames"][:], labels > 0


def test_sparse_pixels_are_those_of_the_spots(spots: Path) -> None:
    path, notes = export("imaged11-sparse", spots)
    frames, is_spot = dense(spots)
    with h5py.File(path) as file:
        group = file["entry"]
        assert dict(group.attrs) == {
            "itype": "uint16",
            "nframes": 20,
            "shape0": 24,
            "shape1": 40,
            "npx": is_spot.sum(),
        }
        frame, row, col = np.nonzero(is_spot)
        assert np.array_equal(group["row"], row)
        assert np.array_equal(group["col"], col)
        assert np.array_equal(group["intensity"], frames[is_spot])
        assert np.array_equal(group["nnz"], np.bincount(frame, minlength=20))
        types = {name: group[name].dtype.name for name in ("row", "col", "intensity", "nnz")}
        angles = group["omega"][:]
    expected_types = {"row": "uint16", "col": "uint16", "intensity": "uint16", "nnz": "uint32"}
    assert types == expected_types
    assert np.array_equal(angles, np.arange(20) // 2 * 1.5)
    assert notes == []


def test_imaged11_reads_and_labels_sparse_pixels(spots: Path) -> None:
    path = export("imaged11-sparse", spots)[0]
    program = """
scan = it.SparseScan(path, "entry", omeganames=["omega"])
found["dense"], found["omega"] = scan.to_dense(), scan.motors["omega"]
scan.cplabel()
found["n"] = scan.nlabels
"""
    found = read_by("ImageD11.sparseframe", program, path)
    frames, is_spot = dense(spots)
    assert np.array_equal(found["dense"], frames * is_spot)
    assert np.array_equal(found["omega"], np.arange(20) // 2 * 1.5)
    with h5py.File(spots) as file:
        assert np.array_equal(found["n"], np.diff(file["frame2spotsBE"])[:, 0])


@pytest.mark.parametrize("kept", ["labels", "pixels"])
def test_labels_or_lists_of_pixels_are_enough(tmp_path: Path, kept: str) -> None:
    spots = spots_of_run(tmp_path, "-S", "pairs", "--keep", kept)
    with h5py.File(export("imaged11-sparse", spots)[0]) as file:
        assert file["entry"].attrs["npx"] > 300


def test_a_file_without_pixels_is_an_error(tmp_path: Path) -> None:
    spots = spots_of_run(tmp_path, "--keep", "raw")
    with pytest.raises(InputError, match=r"no spots/pixel_list and no masks/labels.*--keep"):
        export("imaged11-sparse", spots)


def test_frames_that_are_too_large_are_an_error(
    spots: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imaged11, "LARGEST_INDEX", 30)
    with pytest.raises(OutputError, match="frames have 24 x 40 pixels, expected at most 30 rows"):
        export("imaged11-sparse", spots)
