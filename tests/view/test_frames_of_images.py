"""Frames of runs of images, in the viewer and in the report."""

import gzip
import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fabio
import h5py
import numpy as np
import pytest

import gpu_spots
from factories.image_runs import marccd, write_scan
from factories.tuned_runs import columns, spotty
from factories.view_pages import Asker, viewed_run
from gpu_spots.errors import InputError
from helpers import assert_equal_results, command


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a Lauecollect log and images in ``scan``, TIFF in ``tif``, and spots files."""
    folder, known = tmp_path_factory.mktemp("images"), columns()
    scan = write_scan(folder / "scan", spotty(), known["angle"], known["laser_on"])
    (folder / "tif").mkdir()
    for i, frame in enumerate(spotty()):
        fabio.tifimage.TifImage(data=frame).write(str(folder / "tif" / f"a_{i}.tif"))
    images = (folder / "tif" / f"a_{i}.tif" for i in range(40))  # not in the order of a shell
    steps = ("--angle-step", 1.5, "--frames-per-angle", 4, "--laser", "off,on")
    find("-o", folder / "scan__spots.h5", scan.log)
    find("-o", folder / "tif__spots.h5", *images, *steps)
    return folder


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    """TIFF images that may be changed, and their spots file."""
    shutil.copytree(made / "tif", tmp_path / "tif")
    return Path(shutil.copy(made / "tif__spots.h5", tmp_path / "run__spots.h5"))


def find(*arguments: object) -> None:
    words = ["find", *map(str, arguments), "--quiet", "-S", "pairs"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["gpu-spots", *words])  # it is recorded in the results
        ended = command(*words, name="gpu-spots")
    assert ended.status == 0, ended.stderr


@pytest.fixture(params=["scan", "tif"])
def spots(request: pytest.FixtureRequest, made: Path) -> Path:
    return made / f"{request.param}__spots.h5"


@pytest.fixture
def ask(spots: Path) -> Iterator[Asker]:
    with viewed_run(spots) as viewed:
        yield Asker(viewed)


def answer(ask: Asker, path: str, **values: Any) -> dict[str, Any]:
    found = ask(f"/api/{path}", **values)
    assert found.status_code == 200, found.text
    values = found.json()
    assert isinstance(values, dict)
    return values


def test_the_viewer_shows_and_tunes(ask: Asker, tmp_path: Path, spots: Path) -> None:
    about = answer(ask, "run")
    assert (about["why_no_frames"], about["why_no_tuning"]) == ("", "")
    for frame in (3, 12):
        value = answer(ask, "pixel", frame=frame, X=11, Y=13)["value"]
        assert value == spotty()[frame, 11, 13]
    tuned = answer(ask, "tuned", frame=3)
    assert (tuned["same_as_stored"], tuned["is_stored"]) == (True, True)
    words = shlex.split(tuned["command"])
    assert len(words) < 30  # a pattern in the place of 40 names
    again = tmp_path / "again__spots.h5"
    ended = command(*words[1:-1], again, "--quiet", name="gpu-spots")
    assert ended.status == 0, ended.stderr
    assert_equal_results(again, spots)


def test_the_report_has_pictures(spots: Path, tmp_path: Path) -> None:
    page = gpu_spots.report(spots, tmp_path / "a.html")
    numbers = json.loads(page.with_suffix(".json").read_text())
    assert "cutouts" in numbers["sections"]
    assert numbers["sections"]["frames"]["text"] == []
    assert page.read_text().count("<image") > 10


def test_images_elsewhere_are_given_as_a_folder(made: Path, tmp_path: Path) -> None:
    moved = made.rename(tmp_path / "moved")
    try:
        spots = Path(shutil.copy(moved / "scan__spots.h5", tmp_path / "run__spots.h5"))
        folder = moved / "scan" / "xray_images"
        with viewed_run(spots) as viewed:
            why = viewed.run()["why_no_frames"]
        assert "no image" in why
        assert why.endswith("give their folder with frames_from")
        page = tmp_path / "a.html"
        ended = command("report", spots, "-o", page, "--frames-from", folder, name="gpu-spots")
        assert ended.status == 0, ended.stderr
        assert "No pictures" not in page.read_text()
        with viewed_run(spots, folder) as viewed:
            assert f"-p {folder}" in viewed.tuned(3, {})["command"]
    finally:
        moved.rename(made)


def changed(path: Path, kind: str) -> None:
    """Change an image, so that its frame is another one."""
    frame = spotty()[30]
    if kind == "missing":
        path.unlink()
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "format":
        path.write_bytes(marccd(frame))
    else:
        values = {"values": frame, "shape": frame[:-1].copy(), "type": frame.astype(np.int32)}
        fabio.tifimage.TifImage(data=values[kind]).write(str(path))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", "cannot be opened: No such file"),
        ("empty", "is empty"),
        ("format", "is not frame 3 of .*, found other values at the maxima"),
        ("values", "is not frame 3 of .*, found other values at the maxima"),
        ("shape", r"is not frame 3 of .*, found shape \(59, 84\)"),
        ("type", r"is not frame 3 of .*, found shape .* int32"),
    ],
)
def test_a_changed_image_is_one_line(copied: Path, kind: str, words: str) -> None:
    """The other frames are shown."""
    changed(copied.parent / "tif" / "a_3.tif", kind)
    with viewed_run(copied, copied.parent / "tif") as viewed:
        ask = Asker(viewed)
        found = ask("/api/contrast", of="frame", frame=3)
        assert found.status_code == 409
        assert re.search(f"^{copied.parent}/tif/a_3.tif: {words}[^\n]*$", found.json()["error"])
        answer(ask, "contrast", of="frame", frame=4)


def test_maxima_of_scaled_frames_are_not_those_of_the_images(made: Path, tmp_path: Path) -> None:
    spots = tmp_path / "run__spots.h5"
    find("-o", spots, made / "scan" / "scan.log", "-m", "n_removed", "--normalise", "level")
    with viewed_run(spots) as viewed:
        for frame in range(40):
            assert viewed.pixel(frame, 11, 13)["value"] == spotty()[frame, 11, 13]


def test_a_report_without_some_images(copied: Path) -> None:
    """A missing image costs its pictures only."""
    with gpu_spots.open_spots(copied) as results:
        most = int(np.diff(results.frame_ranges, axis=1)[:, 0].argmax())
    gone = copied.parent / "tif" / f"a_{most}.tif"
    gone.unlink()
    page = gpu_spots.report(copied, frames_from=gone.parent)
    sections = json.loads(page.with_suffix(".json").read_text())["sections"]
    assert sections["frames"]["text"] == [
        f"A picture is missing: {gone}: cannot be opened: No such file or directory"
    ]
    assert page.read_text().count("<image") > 5


def test_images_may_be_compressed_meanwhile(copied: Path) -> None:
    image = copied.parent / "tif" / "a_3.tif"
    image.with_name("a_3.tif.gz").write_bytes(gzip.compress(image.read_bytes(), 1))
    image.unlink()
    with viewed_run(copied, image.parent) as viewed:
        assert viewed.pixel(3, 11, 13)["value"] == spotty()[3, 11, 13]


def test_images_of_one_name_are_not_mixed_up(copied: Path) -> None:
    """Names are recorded without their folders."""
    with h5py.File(copied, "r+") as file:
        names = file["lauecollect/file"][:]
        names[7] = names[2]
        file["lauecollect/file"][:] = names
    with pytest.raises(InputError, match=r"a_2.tif is the name of several images; .* convert"):
        gpu_spots.report(copied, frames_from=copied.parent / "tif")
