"""CXI peak lists and cleaned frames, by plain h5py."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from factories.exports import edited, export, spots_of_run
from factories.image_runs import write_scan
from gpu_spots import GpuSpotsError, open_spots
from gpu_spots.errors import InputError
from gpu_spots.files.frames import open_run
from gpu_spots.files.output.spots_file import SpotsFile
from helpers import command, write_run


def test_cxi_peaks_are_rows_of_zero_padded_lists(spots: Path) -> None:
    path, notes = export("cxi", spots)
    assert path == spots.with_name("run__peaks.cxi")
    with h5py.File(path) as file, h5py.File(spots) as source:
        group = file["entry_1/result_1"]
        counts = np.diff(source["frame2spotsBE"])[:, 0]
        assert np.array_equal(group["nPeaks"], counts)
        assert group["nPeaks"].dtype.kind == "i"
        assert len(set(counts.tolist())) > 1
        wanted = {
            "peakXPosRaw": source["spots/XY"][:, 1],
            "peakYPosRaw": source["spots/XY"][:, 0],
            "peakTotalIntensity": source["spots/I"][:].astype(np.float32),
            "peakNPixels": np.diff(source["spots/pixel_list_BE"])[:, 0],
        }
        assert set(group) == {"nPeaks", *wanted}
        for name, values in wanted.items():
            assert group[name].shape == (20, counts.max())
            assert group[name].dtype == np.float32
            for row, count, (begin, end) in zip(
                group[name], counts, source["frame2spotsBE"], strict=True
            ):
                assert np.array_equal(row[:count], values[begin:end])
                assert not row[count:].any()
        assert file.attrs["default"] == "entry_1"
        assert file["entry_1"].attrs["default"] == "result_1"
        assert group.attrs["signal"] == "nPeaks"
        # the frames are linked, as CrystFEL needs them in the same file
        with h5py.File(spots.with_name("run__mccd.h5")) as run:
            assert np.array_equal(file["entry_1/data_1/data"], run["frames"])
    assert len(notes) == 1


def test_cxi_has_maxima_and_ratios_if_they_are_known(
    spots: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with h5py.File(spots) as file:
        n_spots = len(file["spots/I"])
    new = {"max": np.arange(n_spots), "snr": np.arange(n_spots) / 8}
    plain = SpotsFile.spot_columns
    monkeypatch.setattr(SpotsFile, "spot_columns", lambda self, *_: {**plain(self), **new})
    with h5py.File(export("cxi", spots)[0]) as file:
        group = file["entry_1/result_1"]
        place = np.arange(group["peakSNR"].shape[1]) < group["nPeaks"][:][:, None]
        assert np.array_equal(group["peakSNR"][:][place], new["snr"])
        assert np.array_equal(group["peakMaximumValue"][:][place], new["max"])


def test_cxi_without_the_frames_says_so(tmp_path: Path) -> None:
    spots = spots_of_run(tmp_path)
    (tmp_path / "run__mccd.h5").unlink()
    path, notes = export("cxi", spots)
    assert "no link to the frames: the file of the frames is not found" in notes
    with h5py.File(path) as file:
        assert "data" not in file["entry_1/data_1"]


def test_cxi_of_a_run_without_spots(tmp_path: Path) -> None:
    with h5py.File(export("cxi", spots_of_run(tmp_path, "-c", 1000, "-S", "none"))[0]) as file:
        assert file["entry_1/result_1/peakXPosRaw"].shape == (20, 1)
        assert not file["entry_1/result_1/nPeaks"][:].any()


@pytest.mark.parametrize(
    "options",
    [
        ("-S", "blocks"),
        ("-S", "blocks", "--normalise", "level"),
        ("-m", "clip", "--normalise", "level"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("keep", ["pixels", "labels"])
def test_cleaned_frames_sum_up_to_the_intensities(
    tmp_path: Path, options: tuple[str, ...], keep: str
) -> None:
    spots = spots_of_run(tmp_path, *options, "--keep", "pixels,labels")
    with open_spots(spots) as results:
        table = results.spots()
        pixels = [results.pixels(i) for i in range(results.n_spots)]
        inside = np.zeros((20, 24, 40), bool)
        for frame, where in zip(table["frame"], pixels, strict=True):
            inside[(frame, *where.T)] = True
    if keep == "labels":
        edited(spots, spots_pixel_list=None, spots_pixel_list_BE=None)
    path, notes = export("cleaned", spots)
    assert path == spots.with_name("run__cleaned.h5")
    with h5py.File(path) as file:
        cleaned = file["entry/data/data"][:]
        assert file["entry/data"].attrs["signal"] == "data"
        assert np.array_equal(file["entry/data/angle"], np.arange(20) // 2 * 1.5)
    assert cleaned.dtype == np.float32
    assert not cleaned[~inside].any()
    sums = [
        cleaned[(frame, *where.T)].sum(dtype=float)
        for frame, where in zip(table["frame"], pixels, strict=True)
    ]
    np.testing.assert_allclose(sums, table["I"], rtol=1e-5, atol=0.01)
    assert notes == []


def test_cleaned_frames_are_a_run(spots: Path) -> None:
    """The file of cleaned frames is recognised as NeXus."""
    with open_run(export("cleaned", spots)[0]) as stack:
        assert stack.shape == (20, 24, 40)
        assert stack.dtype == np.float32


def test_cleaned_frames_of_invalid_and_empty_places_are_zero(tmp_path: Path) -> None:
    def with_nan(file: h5py.File) -> None:
        frames = file["frames"][:].astype(np.float32)
        frames[:, 2, 3] = np.nan
        del file["frames"]
        file["frames"] = frames

    spots = spots_of_run(tmp_path, "-S", "none", edit=with_nan)
    with h5py.File(export("cleaned", spots)[0]) as file:
        cleaned = file["entry/data/data"][:]
    assert np.isfinite(cleaned).all()
    assert cleaned.any()


def _info(spots: Path, **values: Any) -> None:
    with h5py.File(spots, "r+") as file:
        file["info"].attrs.update(values)


def test_a_run_that_was_moved_is_found_beside_its_spots(spots: Path) -> None:
    _info(spots, input_file="/elsewhere/run__mccd.h5")
    export("cleaned", spots)


def test_the_frames_can_be_given(spots: Path) -> None:
    run = spots.with_name("run__mccd.h5")
    _info(spots, input_file="/elsewhere/run__mccd.h5")
    first = export("cleaned", spots, spots.with_name("a.h5"))[0]
    other = run.rename(spots.with_name("other.h5"))
    second = export("cleaned", spots, spots.with_name("b.h5"), frames_from=other)[0]
    with h5py.File(first) as a, h5py.File(second) as b:
        assert np.array_equal(a["entry/data/data"], b["entry/data/data"])


@pytest.mark.parametrize(
    ("info", "words"),
    [
        ({"input_file": "/elsewhere/other.h5"}, "no file /elsewhere/other.h5, nor /.*/other.h5"),
        ({"input_file": ""}, "the file of the frames is not recorded in info"),
    ],
)
def test_frames_that_are_not_found_are_an_error(
    spots: Path, info: dict[str, str], words: str
) -> None:
    _info(spots, **info)
    with pytest.raises(InputError, match=f"{words}.*; .*give it with frames_from"):
        export("cleaned", spots)


def test_images_are_cleaned_as_the_file_made_of_them(tmp_path: Path) -> None:
    """They are found as recorded, in the folder of the spots file, and where the user says."""
    source = write_run(tmp_path / "source.h5")
    with h5py.File(source) as file:
        frames, angle = file["frames"][:], file["lauecollect/angle"][:]
        on = file["lauecollect/laser_on"][:]
    scan = write_scan(tmp_path / "scan", frames, angle, on)
    spots = tmp_path / "run__spots.h5"
    assert command(scan.log, "-o", spots, "--quiet", "-S", "pairs").status == 0
    path, notes = export("cleaned", spots, tmp_path / "a.h5")
    run = tmp_path / "run.h5"
    assert command("convert", scan.log, "-o", run, "--quiet", name="gpu-spots").status == 0
    export("cleaned", spots, tmp_path / "b.h5", frames_from=run)
    moved = (tmp_path / "scan").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"no image .*; give their folder with frames_from"):
        export("cleaned", spots, tmp_path / "c.h5")
    export("cleaned", spots, tmp_path / "c.h5", frames_from=moved / "xray_images")
    (moved / "xray_images").rename(tmp_path / "xray_images")
    export("cleaned", spots, tmp_path / "d.h5")
    with h5py.File(path) as file:
        expected = file["entry/data/data"][:]
    assert expected.any()
    assert notes == []
    for name in "bcd":
        with h5py.File(tmp_path / f"{name}.h5") as file:
            assert np.array_equal(file["entry/data/data"], expected)
    (tmp_path / "xray_images" / scan.names[3]).unlink()
    with pytest.raises(InputError, match=scan.names[3]):
        export("cleaned", spots, tmp_path / "e.h5")
    assert not (tmp_path / "e.h5").exists()


def test_links_to_images_are_told(spots: Path) -> None:
    with h5py.File(spots, "r+") as file:
        del file["info"].attrs["layout"]
    assert "no link to the frames: the frames are images" in export("cxi", spots)[1][-1]


def test_frames_of_another_run_are_an_error(spots: Path) -> None:
    other = write_run(spots.with_name("other.h5"), frames=np.ones((20, 24, 41), np.uint16))
    words = r"other.h5: frames have shape \(20, 24, 41\), expected \(20, 24, 40\) as in "
    with pytest.raises(GpuSpotsError, match=words):
        export("cleaned", spots, frames_from=other)
    assert not spots.with_name("run__cleaned.h5").exists()
