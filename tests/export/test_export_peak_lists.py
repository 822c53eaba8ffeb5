"""Peak lists with one file per frame: LaueTools and 34-ID."""

import re
from pathlib import Path

import h5py
import numpy as np
import pytest

from factories.exports import export, read_by, spots_of_run
from gpu_spots.errors import InputError
from gpu_spots.export import lauetools
from gpu_spots.files.output.spots_file import SpotsFile


def frame_of(spots: Path, frame: int) -> dict[str, np.ndarray]:
    """The spots of a frame with their largest values, by plain h5py."""
    with h5py.File(spots) as file, h5py.File(spots.with_name("run__mccd.h5")) as run:
        begin, end = file["frame2spotsBE"][frame]
        table = {name: values[begin:end] for name, values in file["spots"].items()}
        X, Y = table["XY"].T
        table["peak"] = run["frames"][frame][X, Y].astype(float)
        table["background"] = file["stats/avg"][:][X, Y].astype(float)
    return table


def test_lauetools_file_as_its_description_says(spots: Path) -> None:
    path, notes = export("lauetools", spots)
    assert path == spots.with_name("run__lauetools")
    assert sorted(item.name for item in path.iterdir()) == [
        f"run_{i:04}_LT_0.dat" for i in range(20)
    ]
    lines = (path / "run_0003_LT_0.dat").read_text().splitlines()
    table = frame_of(spots, 3)
    n_spots = len(table["I"])
    assert n_spots > 1
    assert lines[0] == (
        "peak_X peak_Y peak_Itot peak_Isub peak_fwaxmaj peak_fwaxmin peak_inclination "
        "Xdev Ydev peak_bkg Ipixmax"
    )
    number = r"-?\d+\.\d\d"
    row = re.compile(rf"({number}   ){{6}}-?\d+\.\d\d\d   ({number}   ){{3}}\d+")
    assert all(row.fullmatch(line) for line in lines[1 : n_spots + 1])
    assert lines[n_spots + 1].startswith("# File created at ")
    assert lines[n_spots + 2].startswith("# From: run_0003, frame 3 of ")
    assert lines[n_spots + 3 :] == [f"# Comments: nb of peaks {n_spots}"]
    assert len(notes) == 2
    assert "no spots/centroid" in notes[0]
    assert "axes are half of the boxes" in notes[1]


def test_lauetools_reads_its_files(spots: Path) -> None:
    path = export("lauetools", spots)[0] / "run_0003_LT_0.dat"
    program = """
data, names = it.read_Peaklist(path, output_columnsname=True)
found = dict(zip(names, numpy.atleast_2d(data).T))
found["n"] = it.read_Peaklist(path, returnnbpeaks=True)[1]
"""
    found, table = read_by("LaueTools.IOLaueTools", program, path), frame_of(spots, 3)
    amplitude = table["peak"] - table["background"]
    order = np.argsort(-amplitude, kind="stable")
    X, Y = table["XY"][order].T
    assert found["n"] == len(order)
    assert np.array_equal(found["peak_X"], Y + 1)
    assert np.array_equal(found["peak_Y"], X + 1)
    np.testing.assert_allclose(found["peak_Isub"], amplitude[order], atol=0.00501)
    np.testing.assert_allclose(found["peak_Itot"], table["peak"][order], atol=0.00501)
    np.testing.assert_allclose(found["peak_bkg"], table["background"][order], atol=0.00501)
    assert np.array_equal(found["Ipixmax"], table["peak"][order])
    assert (np.diff(found["peak_Isub"]) <= 0).all()
    x0, x1, y0, y1 = table["box"][order].T
    np.testing.assert_allclose(found["peak_fwaxmaj"], np.maximum(x1 - x0, y1 - y0) / 2)


def test_lauetools_reads_a_file_with_one_peak(tmp_path: Path) -> None:
    frames = np.random.default_rng(1).poisson(50, (20, 24, 40)).astype(np.uint16)
    frames[3, 5:9, 6:10] = 300

    def only_one(file: h5py.File) -> None:
        file["frames"][...] = frames

    path, notes = export("lauetools", spots_of_run(tmp_path, "-S", "none", edit=only_one))
    assert [item.name for item in path.iterdir()] == ["run_0003_LT_0.dat"]
    assert "19 frames without spots have no file" in notes
    program = "found = dict(zip(['peaks', 'n'], it.read_Peaklist(path, returnnbpeaks=True)))"
    found = read_by("LaueTools.IOLaueTools", program, path / "run_0003_LT_0.dat")
    assert found["n"] == 1
    assert 7 <= found["peaks"][0] <= 10
    assert 6 <= found["peaks"][1] <= 9


def test_shapes_of_the_spots_are_used(spots: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns that newer spots files have, with names as the table gives them."""
    with h5py.File(spots) as file:
        n_spots, frame = len(file["spots/I"]), file["spots/frame"][:]
    rng = np.random.default_rng(5)
    names = [
        "fwhm_major",
        "fwhm_minor",
        "orientation",
        "centroid_X",
        "centroid_Y",
        "moments_XX",
        "moments_YY",
    ]
    new = {name: rng.random(n_spots) for name in names}
    new["max"] = rng.integers(1000, 2000, n_spots).astype(np.uint16)
    plain = SpotsFile.spot_columns
    monkeypatch.setattr(SpotsFile, "spot_columns", lambda self, *_: {**plain(self), **new})
    spots.with_name("run__mccd.h5").unlink()  # the frames are not needed
    path, notes = export("lauetools", spots)
    assert notes == []
    found = np.loadtxt(path / "run_0003_LT_0.dat", skiprows=1, ndmin=2)
    rows = np.flatnonzero(frame == 3)
    rows = rows[np.argsort(-found_amplitude(spots, new["max"], rows), kind="stable")]
    np.testing.assert_allclose(found[:, 0], new["centroid_Y"][rows] + 1, atol=0.00501)
    np.testing.assert_allclose(found[:, 1], new["centroid_X"][rows] + 1, atol=0.00501)
    np.testing.assert_allclose(found[:, 2], new["max"][rows])
    np.testing.assert_allclose(found[:, 4], new["fwhm_major"][rows] * 0.849322, atol=0.00501)
    np.testing.assert_allclose(found[:, 6], new["orientation"][rows], atol=0.000501)

    path, notes = export("34id", spots)
    assert notes == []
    found = np.loadtxt(path / "run_0003_peaks.txt", comments="$", ndmin=2)
    rows = np.flatnonzero(frame == 3)
    np.testing.assert_allclose(found[:, 0], new["centroid_Y"][rows], atol=0.000501)
    np.testing.assert_allclose(
        found[:, 4], 1.17741 * np.sqrt(new["moments_YY"][rows]), atol=0.000501
    )


def found_amplitude(spots: Path, largest: np.ndarray, rows: np.ndarray) -> np.ndarray:
    with h5py.File(spots) as file:
        X, Y = file["spots/XY"][:][rows].T
        return largest[rows] - file["stats/avg"][:][X, Y].astype(float)


def test_files_have_the_names_of_the_images(tmp_path: Path) -> None:
    def named(file: h5py.File) -> None:
        file["lauecollect/file"] = [rf"C:\data\scan/a_{i:03}.mccd" for i in range(20)]

    spots = spots_of_run(tmp_path, edit=named)
    names = {item.name for item in export("lauetools", spots)[0].iterdir()}
    assert names == {f"a_{i:03}_LT_0.dat" for i in range(20)}


@pytest.mark.parametrize("name", ["a/../..", "same.mccd", ".hidden.mccd", "a b.mccd", ""])
def test_names_that_cannot_be_used_are_replaced_by_numbers(tmp_path: Path, name: str) -> None:
    def named(file: h5py.File) -> None:
        file["lauecollect/file"] = [name, *(f"x_{i}.mccd" for i in range(18)), "same.tif"]

    spots = spots_of_run(tmp_path, edit=named)
    names = {item.name for item in export("34id", spots)[0].iterdir()}
    assert names == {f"run_{i:04}_peaks.txt" for i in range(20)}
    assert len(list(tmp_path.iterdir())) == 3


def test_frames_with_more_spots_than_lauetools_reads_are_named(
    spots: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lauetools, "LARGEST", 1)
    assert any("20 frames have more than 0 spots" in note for note in export("lauetools", spots)[1])


def test_amplitudes_need_the_frames(spots: Path) -> None:
    spots.with_name("run__mccd.h5").unlink()
    edited_info(spots, input_file="/nowhere/run__mccd.h5")
    with pytest.raises(InputError, match=r"frames are not found: no file /nowhere/run__mccd\.h5"):
        export("lauetools", spots)
    assert not list(spots.parent.glob("run__lauetools*"))


def edited_info(spots: Path, **values: object) -> Path:
    with h5py.File(spots, "r+") as file:
        file["info"].attrs.update(values)
    return spots


def test_34id_file_as_its_description_says(spots: Path) -> None:
    path, notes = export("34id", spots)
    lines = (path / "run_0003_peaks.txt").read_text().splitlines()
    table = frame_of(spots, 3)
    n_spots = len(table["I"])
    entries = dict(line.removeprefix("$").split("\t\t")[:2] for line in lines if "\t\t" in line)
    assert list(entries)[:2] == ["filetype", "inputImage"]
    assert entries["filetype"] == "PixelPeakList"
    assert entries["inputImage"] == "run_0003"
    assert (entries["xdim"], entries["ydim"]) == ("40", "24")
    assert (entries["startx"], entries["endx"], entries["groupx"]) == ("0", "39", "1")
    assert (entries["starty"], entries["endy"], entries["groupy"]) == ("0", "23", "1")
    assert entries["Npeaks"] == str(n_spots)
    assert lines[-n_spots - 1] == f"$peakList\t8 {n_spots}"
    assert all(len(line) == 2 * 13 + 2 * 16 + 3 * 11 + 4 for line in lines[-n_spots:])
    found = np.array([line.split() for line in lines[-n_spots:]], float)
    X, Y = table["XY"].T
    assert np.array_equal(found[:, 0], Y)
    assert np.array_equal(found[:, 1], X)
    np.testing.assert_allclose(found[:, 2], table["peak"] - table["background"], atol=5.1e-5)
    np.testing.assert_allclose(found[:, 3], table["I"], atol=5.1e-6)
    x0, x1, y0, y1 = table["box"].T
    np.testing.assert_allclose(found[:, 4], (y1 - y0) / 2)
    np.testing.assert_allclose(found[:, 5], (x1 - x0) / 2)
    assert not found[:, 6:].any()
    first = table["XY"][0]
    assert lines[-n_spots].startswith(f"{first[1]:13.3f}{first[0]:13.3f}")
    assert lines[-n_spots].endswith("     0.0000   0")
    assert len(notes) == 2


def test_the_background_of_scaled_frames_is_scaled_back(tmp_path: Path) -> None:
    """The background is in the counts of the frame, like ``spots/I``."""
    spots = spots_of_run(tmp_path, "-S", "none", "--normalise", "level")
    path, _ = export("lauetools", spots)
    found = np.loadtxt(path / "run_0003_LT_0.dat", skiprows=1, ndmin=2)
    with h5py.File(spots) as file:
        scale = file["frame_scale"][3]
    assert scale != 1
    table = frame_of(spots, 3)
    amplitude = np.sort(table["peak"] - table["background"] / scale)[::-1]
    np.testing.assert_allclose(found[:, 3], amplitude, atol=0.00501)
    assert sorted(found[:, 10]) == sorted(table["peak"])
