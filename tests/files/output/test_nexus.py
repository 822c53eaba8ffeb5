"""Picture that a viewer shows first, by the rules of NeXus."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from factories.image_runs import write_scan
from factories.spots_files import N, X, Y, laser_run
from gpu_spots import open_spots
from gpu_spots.files.output.nexus import add_title, link_between
from helpers import command, series

ANGLES, LASER = np.repeat(np.arange(10.0), 2), np.tile([0, 1], 10)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write one file of each kind, with spots of a run and of images."""
    folder = tmp_path_factory.mktemp("files")
    scan = write_scan(folder, series(), ANGLES, LASER)
    found = {
        "simulated": folder / "simulated__mccd.h5",
        "converted": folder / "converted__mccd.h5",
        "spots": folder / "spots.h5",
        "pairs": folder / "pairs.h5",
        "matched": folder / "matched.h5",
        "few": folder / "few.h5",
        "of_images": folder / "of_images.h5",
        "ratios": folder / "ratios.h5",
    }
    options = ("--size", "64", "--angles", 3, "--pairs", 2)
    gpu_spots("simulate", found["simulated"], *options)
    gpu_spots("convert", scan.log, "-o", found["converted"])
    run = found["run"] = laser_run(folder)
    gpu_spots("find", run, "-o", found["spots"])
    gpu_spots("find", run, "-o", found["pairs"], "-S", "pairs", "--manual")
    gpu_spots("find", run, "-o", found["matched"], "-S", "pairs")
    gpu_spots("find", run, "-o", found["few"], "--manual", "--keep", "raw", "--normalise", "level")
    gpu_spots("find", scan.log, "-o", found["of_images"])
    gpu_spots("ratios", found["pairs"], "-o", found["ratios"])
    return found


def gpu_spots(*arguments: object) -> Any:
    """Run a command that has to succeed."""
    ended = command(*arguments, name="gpu-spots")
    assert ended.status == 0, ended
    return ended


def default_view(file: h5py.File) -> h5py.Group:
    """Return the NXdata group that a viewer shows first.

    It follows ``default`` from the root.
    """
    assert file.attrs["NX_class"] == "NXroot"
    entry = file[file.attrs["default"]]
    assert entry.attrs["NX_class"] == "NXentry"
    return entry[entry.attrs["default"]]


def title_of(group: h5py.Group) -> str:
    """Return the title of a picture: a field, as h5web and NexPy take no attribute."""
    assert "title" not in group.attrs
    title: str = group["title"].asstr()[()]
    return title


def check_view(group: h5py.Group) -> None:
    """A group is a complete NXdata: its axes are as long as the dimensions of its signals."""
    assert group.attrs["NX_class"] == "NXdata"
    assert (
        "row X = 0 belongs at the top" in title_of(group) or group[group.attrs["signal"]].ndim == 1
    )
    signals = [group.attrs["signal"], *group.attrs.get("auxiliary_signals", [])]
    for name in signals:
        signal, axes = group[name], group.attrs["axes"]
        assert signal.shape == tuple(len(group[axis]) for axis in axes), name
        for index, axis in enumerate(axes):
            assert group.attrs[f"{axis}_indices"] == index
            np.testing.assert_array_equal(group[axis], np.arange(signal.shape[index]))
        if signal.ndim > 1 and signal.file == group.file:
            assert signal.attrs["interpretation"] == "image"
            assert list(axes[-2:]) == ["X", "Y"]
            assert "row" in group["X"].attrs["long_name"]


KINDS = ("simulated", "converted", "spots", "pairs", "matched", "few", "of_images")


@pytest.mark.parametrize("kind", KINDS)
def test_every_view_is_complete(files: dict[str, Path], kind: str) -> None:
    with h5py.File(files[kind]) as file:
        default = default_view(file)
        views = [view for view in file["entry"].values() if view.attrs.get("NX_class") == "NXdata"]
        assert default in views
        for view in views:
            check_view(view)


def test_the_first_picture(files: dict[str, Path]) -> None:
    with h5py.File(files["spots"]) as file:
        view = default_view(file)
        assert view[view.attrs["signal"]] == file["stats/avg"]
        assert list(view.attrs["auxiliary_signals"]) == ["std", "noise", "iqr", "max"]
    for kind in ("simulated", "converted"):
        with h5py.File(files[kind]) as file:
            view = default_view(file)
            assert view[view.attrs["signal"]] == file["frames"]
            np.testing.assert_array_equal(view["angle"], file["lauecollect/angle"])
            assert view.attrs["angle_indices"] == 0


@pytest.mark.parametrize(
    ("kind", "axes"),
    [
        ("spots", {"labels": "frame", "masks_raw": "frame", "masks_filtered": "frame"}),
        ("pairs", {"labels": "mask", "masks_raw": "frame", "masks_synced": "mask"}),
        ("matched", {"labels": "mask", "masks_raw": "mask", "masks_synced": "mask"}),
        ("few", {"masks_raw": "frame"}),
    ],
)
def test_images_are_of_frames_or_of_masks(
    files: dict[str, Path], kind: str, axes: dict[str, str]
) -> None:
    with h5py.File(files[kind]) as file:
        entry = file["entry"]
        assert {name: entry[name].attrs["axes"][0] for name in axes} == axes
        assert (
            entry["spots_of_masks"][entry["spots_of_masks"].attrs["signal"]]
            == (file["masks/counts"])
        )
        assert ("labels" in entry) == ("masks/labels" in file)


@pytest.mark.parametrize("kind", KINDS)
def test_silx_takes_every_view(files: dict[str, Path], kind: str) -> None:
    nxdata = pytest.importorskip("silx.io.nxdata", reason="silx is not installed")
    with h5py.File(files[kind]) as file:
        default = nxdata.get_default(file)
        assert default.group == default_view(file)
        assert default.plot_style.signal_scale_type == "log"
        assert default.title == title_of(default.group)
        for view in file["entry"].values():
            if view.attrs.get("NX_class") == "NXdata":
                found = nxdata.NXdata(view)
                assert found.is_valid, (view.name, found.issues)
                assert found.axes_names is not None
                assert found.is_curve or found.is_image or found.is_stack
                is_counts = view == default.group or view.name == "/entry/frames"
                assert found.plot_style.signal_scale_type == ("log" if is_counts else "linear")


def test_ratios_open_on_the_pulls_of_all_tests(files: dict[str, Path]) -> None:
    nxdata = pytest.importorskip("silx.io.nxdata", reason="silx is not installed")
    with h5py.File(files["ratios"]) as file:
        view = default_view(file)
        assert view.name == "/entry/pulls"
        assert title_of(view) == "laser on/off against null tests off/off and on/on"
        names = [view.attrs["signal"], *view.attrs["auxiliary_signals"]]
        assert names == ["on_off", "off_off", "on_on"]
        edges = np.append(view["pull"][()] - 0.125, 10)
        assert (edges[0], len(edges)) == (-10, 81)
        for name in names:
            pulls = file[f"null/{name}"][()]
            inside = [np.sum((low <= pulls) & (pulls < low + 0.25)) for low in edges[:-1]]
            inside[0] += np.sum(pulls < -10)
            inside[-1] += np.sum(pulls >= 10)
            np.testing.assert_array_equal(view[name], inside)
        assert view["on_off"][()].sum() == np.isfinite(file["null/on_off"]).sum() > 0
        curves, places = nxdata.get_default(file), nxdata.NXdata(file["entry/places"])
        assert curves.is_valid, curves.issues
        assert curves.is_curve
        assert places.is_valid, places.issues
        assert places.is_scatter
        assert places.axes_names == ["Y (pixel)", "X (pixel)"]
        assert file["entry/places/X"] == file["ratios/X"]


def test_merged_ratios_open_on_their_changes(files: dict[str, Path]) -> None:
    merged = files["ratios"].with_name("merged.h5")
    other = shutil.copy(files["ratios"], files["ratios"].with_name("other.h5"))
    with h5py.File(other, "r+") as file:
        file["info"].attrs["spots_file"] = "other"
    gpu_spots("merge", files["ratios"], other, "-o", merged)
    with h5py.File(merged) as file:
        view = default_view(file)
        assert title_of(view) == "changes of the merged reflections"
        pulls = file["merged/eta"][()] / file["merged/sigma_R"][()]
        assert view["merged"][()].sum() == np.isfinite(pulls).sum() > 0
        low = view["pull"][40] - 0.125
        assert view["merged"][40] == np.sum((low <= pulls) & (pulls < low + 0.25))


def test_cleaned_frames_have_logarithmic_colours(files: dict[str, Path]) -> None:
    cleaned = files["pairs"].with_name("cleaned.h5")
    gpu_spots("export", "cleaned", files["pairs"], "-o", cleaned)
    with h5py.File(cleaned) as file:
        view = default_view(file)
        assert json.loads(view.attrs["SILX_style"]) == {"signal_scale_type": "log"}
        assert title_of(view) == "frames less the background; row X = 0 belongs at the top"


# ------------------------------------------------------------------------------ link to the frames


def linked(path: Path) -> np.ndarray:
    with h5py.File(path) as file:
        return file["entry/frames/frames"][...]


def test_both_files_can_be_moved(files: dict[str, Path], tmp_path: Path) -> None:
    for name in ("run", "spots"):
        shutil.copy(files[name], tmp_path)
    moved = tmp_path / files["spots"].name
    with h5py.File(moved) as file:
        link = file["entry/frames"].get("frames", getlink=True)
        assert link.filename == files["run"].name
        assert file["entry/frames/frames"].file.filename == str(tmp_path / files["run"].name)
        check_view(file["entry/frames"])
    with h5py.File(files["run"]) as run:
        np.testing.assert_array_equal(linked(moved), run["frames"])


def test_frames_in_another_folder(tmp_path: Path) -> None:
    """The link has the absolute path; if the file is gone, HDF5 looks beside the spots file."""
    (tmp_path / "raw").mkdir()
    (tmp_path / "done").mkdir()
    run, spots = laser_run(tmp_path / "raw"), tmp_path / "done/spots.h5"
    gpu_spots("find", run, "-o", spots)
    frames = linked(spots)
    assert frames.shape == (N, X, Y)
    with h5py.File(spots) as file:
        link = file["entry/frames"].get("frames", getlink=True)
        assert link.filename == str(run)
    run.rename(spots.with_name(run.name))
    np.testing.assert_array_equal(linked(spots), frames)


def test_the_path_of_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    source, other = tmp_path / "a/b/run.h5", tmp_path / "run.h5"
    source.touch()
    other.touch()
    monkeypatch.chdir(tmp_path / "a")

    def path(output: Path, run: Path) -> str:
        return link_between(output, run, "/frames").filename

    assert path(Path("spots.h5"), Path("b/run.h5")) == "b/run.h5"
    assert path(Path("b/spots.h5"), source) == "run.h5"
    assert path(Path("b/spots.h5"), Path("../run.h5")) == str(tmp_path / "a/../run.h5")
    # here .. leads out of the folder that the link stands for
    (tmp_path / "link").symlink_to(tmp_path / "a/b", target_is_directory=True)
    assert path(tmp_path / "spots.h5", tmp_path / "link/../run.h5") != "run.h5"


def test_no_link_without_a_dataset_of_all_frames(files: dict[str, Path]) -> None:
    with h5py.File(files["of_images"]) as file:
        assert "frames" not in file["entry"]


def test_a_broken_link_breaks_nothing_else(files: dict[str, Path], tmp_path: Path) -> None:
    spots, copy = tmp_path / "spots.h5", tmp_path / "copy.h5"
    shutil.copy(files["spots"], spots)
    before = json.loads(gpu_spots("info", files["spots"], "--json").stdout)
    assert json.loads(gpu_spots("info", spots, "--json").stdout) == before | {"file": str(spots)}
    with h5py.File(spots) as file, h5py.File(copy, "w") as into:
        with pytest.raises(KeyError):
            file["entry/frames/frames"]
        for name in file:
            file.copy(name, into)
    if shutil.which("h5repack"):
        subprocess.run(["h5repack", spots, tmp_path / "packed.h5"], check=True)
    for path in tmp_path.glob("*.h5"):
        with open_spots(path) as results, open_spots(files["spots"]) as expected:
            np.testing.assert_array_equal(results.avg, expected.avg)
            assert results.spots().keys() == expected.spots().keys()


def test_a_link_to_a_pipe_does_not_stop_info(files: dict[str, Path], tmp_path: Path) -> None:
    spots = tmp_path / "spots.h5"
    shutil.copy(files["spots"], spots)
    os.mkfifo(tmp_path / files["run"].name)
    gpu_spots("info", spots)


@pytest.mark.parametrize("frames_are_there", [True, False])
def test_a_spots_file_is_no_run(
    files: dict[str, Path], tmp_path: Path, frames_are_there: bool
) -> None:
    shutil.copy(files["spots"], tmp_path)
    if frames_are_there:
        shutil.copy(files["run"], tmp_path)
    ended = command("find", tmp_path / "spots.h5", "-o", tmp_path / "x.h5", name="gpu-spots")
    assert ended.status != 0
    assert "is a spots file, the results of" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize("title", ["run 1", "Kühlung bei 100 K, µs", "a file\udcff", ""])
def test_titles_of_any_text(tmp_path: Path, title: str) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        add_title(file, title)
        text = file["title"].asstr(errors="surrogateescape")
        assert text[()] == title
