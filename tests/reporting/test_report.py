"""Reports: what is on the page and in its numbers, what is escaped, and what is refused."""

import base64
import json
import shutil
import struct
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import gpu_spots
from factories.reports import HOSTILE
from gpu_spots.errors import GpuSpotsError
from gpu_spots.reporting import write
from gpu_spots.reporting.parts import for_json, histogram, plain, range_without_outliers
from helpers import assert_refused, command, listing

SpotsFiles = Callable[[str], Path]


class Page(HTMLParser):
    """Elements of a page with their attributes, and its text by element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "input", "br", "img", "link"):
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in set(self._open):
            self.texts[tag] = self.texts.get(tag, "") + data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def report_on(spots: Path, folder: Path) -> tuple[Page, dict[str, Any], str]:
    """Return the page, its numbers, and its text."""
    path = gpu_spots.report(spots, folder / "report.html")
    text = path.read_text()
    return Page(text), json.loads((folder / "report.json").read_text()), text


@pytest.fixture(scope="module")
def sound(
    spots_file: SpotsFiles, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Page, dict[str, Any], str]:
    return report_on(spots_file("sound"), tmp_path_factory.mktemp("sound"))


def test_everything_is_on_the_page(sound: tuple[Page, dict[str, Any], str]) -> None:
    """All sections of a simulated laser run, with charts, pictures and tables."""
    page, numbers, text = sound
    names = [attributes["id"] for attributes in page.all("section")]
    sections = [
        "frames",
        "background",
        "noise",
        "spots",
        "places",
        "cutouts",
        "ratios",
        "truth",
        "options",
    ]
    assert names == ["verdict", *sections]
    assert list(numbers["sections"]) == sections
    charts = {chart["name"] for part in numbers["sections"].values() for chart in part["charts"]}
    assert charts == {
        "spots_per_frame", "intensity_per_frame", "frame_level", "spots_per_angle", "noise",
        "intensities", "snr", "n_pixels", "peakogram", "pulls", "eta_by_intensity",
        "eta_by_radius", "eta_by_angle", "odd_even", "pair_scales", "recall",
    }  # fmt: skip
    assert len(page.all("image")) == 2 + 2 + 2 + 12
    assert text.index('id="verdict"') < text.index('class="facts"') < text.index('id="frames"')
    assert "gpu_spots" in page.texts["footer"]
    assert "MIT License" in page.texts["footer"]


def test_the_page_needs_nothing_else(sound: tuple[Page, dict[str, Any], str]) -> None:
    """No address but data URIs and places in the page, and a policy that allows no others."""
    page, _, _ = sound
    for tag, attributes in page.elements:
        for name in ("src", "href", "data-src", "action"):
            address = attributes.get(name)
            assert address is None or address.startswith(("data:image/png;base64,", "#")), tag
    policy = page.all("meta")[1]["content"]
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe-inline" not in policy.partition("script-src")[2]


def test_numbers_are_those_of_the_file(
    spots_file: SpotsFiles, sound: tuple[Page, dict[str, Any], str]
) -> None:
    _, numbers, _ = sound
    with gpu_spots.open_spots(spots_file("sound")) as results:
        counts = np.diff(results.frame_ranges, axis=1)[:, 0]
        frames = numbers["sections"]["frames"]
        assert frames["numbers"]["per_frame"]["n_spots"] == counts.tolist()
        chart = next(one for one in frames["charts"] if one["name"] == "spots_per_frame")
        off, on = (one["y"] for one in chart["series"])
        assert off[::2] == counts[::2].tolist()
        assert on[1::2] == counts[1::2].tolist()
        assert set(off[1::2]) == set(on[::2]) == {None}
        spots = numbers["sections"]["spots"]
        assert spots["numbers"]["n_spots"] == results.n_spots
        assert spots["numbers"]["I"]["max"] == results.spots()["I"].max()
        intensities = spots["charts"][0]["series"][0]["y"]
        assert sum(intensities[:-1]) == (results.spots()["I"] > 0).sum()
        ratios = results.ratios()
        assert numbers["sections"]["ratios"]["numbers"]["verdict"] == ratios.verdict
        assert numbers["sections"]["options"]["numbers"]["cutoff"] == 3.0
        scatter = ratios.ratios["chi2"] / (ratios.ratios["n_pairs"] - 1)
        table = numbers["sections"]["ratios"]["tables"][-1]
        assert table["head"][-1] == "chi2"
        assert table["rows"][0][-1] == f"{np.nanmax(scatter):.5g}"
        assert numbers["ok"] is True


def test_pictures_have_the_size_and_the_marks_of_the_frame(
    spots_file: SpotsFiles, sound: tuple[Page, dict[str, Any], str]
) -> None:
    page, _, text = sound
    address = page.all("image")[0]["href"]
    assert address is not None
    picture = base64.b64decode(address.partition(",")[2])
    assert struct.unpack(">II", picture[16:24]) == (256, 256)
    with gpu_spots.open_spots(spots_file("sound")) as results:
        most = int(results.per_frame()["n_spots"].argmax())
        boxes = results.spots(most)["box"]
        assert f"Frame {most}: most spots" in text
        x, end, y, last = boxes[0]
        marks = page.all("path")[0]["d"]
        assert marks is not None
        assert marks.count("M") == len(boxes)
        assert f"M{y - 1} {x - 1}h{last - y + 2}v{end - x + 2}" in marks


def test_a_dark_run_has_no_ratios(spots_file: SpotsFiles, tmp_path: Path) -> None:
    _, numbers, text = report_on(spots_file("dark"), tmp_path)
    assert "ratios" not in numbers["sections"]
    series = numbers["sections"]["frames"]["charts"][0]["series"]
    assert [one["label"] for one in series] == ["spots per frame"]
    assert "On/off" not in text


def test_a_report_needs_no_frames(spots_file: SpotsFiles, tmp_path: Path) -> None:
    spots = Path(shutil.copy(spots_file("sound"), tmp_path))
    with h5py.File(spots, "r+") as file:
        file["info"].attrs["input_file"] = str(tmp_path / "gone.h5")
    page, numbers, _ = report_on(spots, tmp_path)
    assert "No pictures of the frames: " in numbers["sections"]["frames"]["text"][0]
    assert not {"cutouts", "truth"} & set(numbers["sections"])
    assert len(page.all("image")) == 4
    again = tmp_path / "again.html"
    run = spots_file("sound").with_name("laser__mccd.h5")
    gpu_spots.report(spots, again, frames_from=run)
    assert len(Page(again.read_text()).all("image")) == 18


def test_a_file_of_an_earlier_version(spots_file: SpotsFiles, tmp_path: Path) -> None:
    """Without the properties of spots, the columns of frames and the noise."""
    spots = Path(shutil.copy(spots_file("sound"), tmp_path))
    with h5py.File(spots, "r+") as file:
        for name in ("per_frame", "noise", "entry", "stats/noise", "spots/overload"):
            del file[name]
        for record in gpu_spots.columns.SPOT_COLUMNS:
            if record.is_new:
                del file[record.path]
    _, numbers, _ = report_on(spots, tmp_path)
    titles = {one["title"] for one in numbers["findings"]}
    assert {"angles are unknown", "noise is unknown", "saturation is unknown"} <= titles
    charts = [one["name"] for one in numbers["sections"]["spots"]["charts"]]
    assert charts == ["intensities", "n_pixels"]


def test_a_run_without_spots(tmp_path: Path) -> None:
    frames = np.random.default_rng(3).poisson(100, (20, 40, 64)).astype(np.uint16)
    parameters = gpu_spots.Parameters.manual(angles=0, cutoff=60)
    gpu_spots.find_spots(frames, parameters, output=tmp_path / "no__spots.h5").close()
    _, numbers, _ = report_on(tmp_path / "no__spots.h5", tmp_path)
    assert list(numbers["sections"]) == ["frames", "background", "noise", "options"]
    assert numbers["verdict"] == "Look: no spots; 0 spots on 20 frames"


def test_names_from_files_are_escaped(spots_file: SpotsFiles, tmp_path: Path) -> None:
    """Whatever text a file has, the page has the same elements, and shows the text."""
    hostile = tmp_path / "<img src=x onerror=window.hacked=1>__spots.h5"
    shutil.copy(spots_file("sound"), hostile)
    names = ("frames_path", "command_line", "version", "start_time", "method", "finder")
    with h5py.File(hostile, "r+") as file:
        for name in names:
            file["info"].attrs[name] = HOSTILE
        file["info"].attrs["warnings"] = f"first {HOSTILE}\nsecond"
        file["info"].attrs[HOSTILE] = 1
        group = file["lauecollect"]
        group.create_dataset("<script>window.hacked=1", data=np.array([HOSTILE.encode()] * 48))
    page, numbers, text = report_on(hostile, tmp_path)
    assert len(page.all("script")) == 3
    assert not page.all("img")
    assert all(not name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert numbers["command"] == HOSTILE
    assert page.texts["table"].count(HOSTILE) >= len(names)
    assert f"first {HOSTILE}" in page.texts["section"]
    assert hostile.name in page.texts["title"]
    assert "window.hacked" not in text.partition('id="charts"')[2]


def test_json_in_a_script_cannot_end_it() -> None:
    text = write.for_script([{"name": "</script><!--", "y": [1.5, None]}])
    assert not set("<>&") & set(text)
    assert json.loads(text) == [{"name": "</script><!--", "y": [1.5, None]}]


def test_text_that_is_no_unicode(spots_file: SpotsFiles, tmp_path: Path) -> None:
    spots = Path(shutil.copy(spots_file("dark"), tmp_path))
    with h5py.File(spots, "r+") as file:
        file["info"].attrs["device"] = np.bytes_(b"GPU \xff")
    _, numbers, text = report_on(spots, tmp_path)
    assert "GPU \ufffd" in text
    assert numbers["sections"]["options"]["numbers"]["device"].startswith("GPU ")


def test_find_writes_the_report_too(spots_file: SpotsFiles, tmp_path: Path) -> None:
    run = Path(shutil.copy(spots_file("dark").with_name("dark__mccd.h5"), tmp_path))
    ended = command(run, "--report")
    assert ended.status == 0
    page = tmp_path / "dark__report.html"
    assert f"{page}: OK: no problem found; " in ended.stderr.splitlines()[-1]
    assert page.with_suffix(".json").is_file()
    before = listing(tmp_path)
    ended = command(run, "--report", "-o", tmp_path / "dark__spots2.h5", "--quiet")
    assert ended.status == 0
    (tmp_path / "dark__spots.h5").unlink()
    ended = command(run, "--report", "--quiet")
    assert_refused(ended, 1, f"{page}: already exists; use --force to overwrite it")
    assert not (tmp_path / "dark__spots.h5").exists()
    assert len(before) == 4


def test_the_command_prints_the_verdict(spots_file: SpotsFiles, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    ended = command("report", spots_file("n_too_small"), "-o", page, name="gpu-spots")
    assert ended.status == 0
    lines = ended.stdout.splitlines()
    assert lines[0].startswith("Look: -n is too small; ")
    assert lines[1].startswith("problem: -n is too small: -n 5 drops ")
    assert ended.stderr.startswith(f"{page}: ")


def test_outputs_are_not_overwritten(spots_file: SpotsFiles, tmp_path: Path) -> None:
    spots = spots_file("dark")
    (tmp_path / "report.json").write_text("mine")
    arguments = ("report", spots, "-o", tmp_path / "report.html")
    before = listing(tmp_path)
    ended = command(*arguments, name="gpu-spots")
    assert_refused(ended, 1, f"{tmp_path / 'report.json'}: already exists; use --force")
    for output, words in (
        (spots, "the output is the input file"),
        (tmp_path / "report.json", "is the name of the numbers"),
        (tmp_path / "none" / "report.html", "is missing"),
    ):
        ended = command("report", spots, "-o", output, "--force", name="gpu-spots")
        assert_refused(ended, 1, words)
    assert listing(tmp_path) == before
    assert command(*arguments, "--force", name="gpu-spots").status == 0


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "No such file"), (b"text", "not an HDF5 file"), ("truncated", "")],
)
def test_what_is_no_spots_file_is_refused(
    spots_file: SpotsFiles, tmp_path: Path, content: bytes | str | None, words: str
) -> None:
    spots = tmp_path / "bad__spots.h5"
    if content == "truncated":
        spots.write_bytes(spots_file("dark").read_bytes()[:100_000])
    elif isinstance(content, bytes):
        spots.write_bytes(content)
    before = listing(tmp_path)
    assert_refused(command("report", spots, name="gpu-spots"), 1, str(spots), words)
    assert listing(tmp_path) == before


def test_the_working_folder_is_no_spots_file() -> None:
    ended = command("report", ".", name="gpu-spots")
    assert_refused(ended, 1, ".: is a folder, expected an HDF5 file")


def test_frames_of_another_run_are_refused(spots_file: SpotsFiles, tmp_path: Path) -> None:
    other = spots_file("dark").with_name("dark__mccd.h5")
    arguments = ("report", spots_file("sound"), "-o", tmp_path / "a.html", "--frames-from", other)
    ended = command(*arguments, name="gpu-spots")
    assert_refused(ended, 1, str(other), "--frames-from")
    assert not list(tmp_path.iterdir())


def test_without_jinja2(
    spots_file: SpotsFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(GpuSpotsError, match=r"needs Jinja2, .* use pip install jinja2"):
        gpu_spots.report(spots_file("dark"), tmp_path / "report.html")


def test_numbers_that_json_cannot_hold() -> None:
    nested = {"a": np.array([1.0, np.nan]), "b": (np.int32(3), b"\xff", "\udc80"), "c": np.inf}
    found = for_json(nested)
    assert found == {"a": [1.0, None], "b": [3, "\\xff", "\\udc80"], "c": None}
    assert json.dumps(found, allow_nan=False)
    values = np.array([0.123456, -3, np.nan, np.inf, 0])
    assert plain(values) == [0.12346, -3, None, None, 0]
    assert plain(values, positive=True) == [0.12346, None, None, None, None]


@pytest.mark.parametrize("values", [np.array([5]), np.arange(1, 2000), np.full(7, 1e-9)])
@pytest.mark.parametrize("log", [False, True])
def test_histograms_count_every_value(values: np.ndarray, log: bool) -> None:
    edges, counts = histogram(values, log=log)
    assert counts[:-1].sum() == len(values)
    assert (np.diff(edges) > 0).all()


def test_extreme_values_do_not_stretch_a_chart() -> None:
    even = np.linspace(-1, 1, 201)
    assert range_without_outliers(even) == (None, "")
    shown, text = range_without_outliers(np.append(even, [50, -7]))
    assert shown is not None
    assert -3 < shown[0] < -1
    assert 1 < shown[1] < 3
    assert text == "2 points are outside of the chart; all are -7 to 50. "
    assert range_without_outliers(np.zeros(0)) == (None, "")
