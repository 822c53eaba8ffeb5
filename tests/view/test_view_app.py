"""Answers of the viewer: only with the token, and what the spots file and the frames say."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from factories.tuned_runs import spotty
from factories.view_pages import SCRIPT, Asker, run_to_view, viewed_run
from gpu_spots import open_spots
from gpu_spots.columns import Flag
from gpu_spots.files.output.spots_file import SpotsFile
from gpu_spots.view.app import PAGE
from gpu_spots.view.guard import HEADERS
from helpers import listing

PICTURE: dict[str, Any] = {
    "of": "frame",
    "frame": 3,
    "x0": 0,
    "x1": 60,
    "y0": 0,
    "y1": 84,
    "bin": 1,
    "low": 0,
    "high": 200,
    "scale": "linear",
    "palette": "grey",
}


@pytest.fixture(scope="module")
def spots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_to_view(tmp_path_factory.mktemp("view"), "-S", "blocks")


@pytest.fixture(scope="module")
def ask(spots: Path) -> Iterator[Asker]:
    with viewed_run(spots) as viewed:
        yield Asker(viewed)


@pytest.fixture(scope="module")
def results(spots: Path) -> Iterator[SpotsFile]:
    with open_spots(spots) as opened:
        yield opened


# --- who gets an answer ---


@pytest.mark.parametrize("path", ["/", "/main.js", "/api/run", "/api/picture", "/nothing"])
@pytest.mark.parametrize("token", [None, "", "a-toke", "a-token-", "A-TOKEN"])
def test_no_answer_without_the_token(ask: Asker, path: str, token: str | None) -> None:
    answer = ask(path, token)
    assert answer.status_code == 403
    assert answer.text == "wrong or missing token; use the address that gpu-spots view prints\n"


def test_a_token_given_twice_is_refused(ask: Asker) -> None:
    assert ask("/?token=x&token=a-token", None).status_code == 403


@pytest.mark.parametrize("host", ["127.0.0.1:9000", "localhost:8765", "LOCALHOST", "[::1]:80"])
def test_hosts_of_this_machine(ask: Asker, host: str) -> None:
    assert ask("/", host=host).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example:8765", "localhost.evil.example", "", "10.0.0.1"],
)
def test_other_hosts_are_refused(ask: Asker, host: str) -> None:
    """A page of another site whose name leads to this machine."""
    assert ask("/", host=host).status_code == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_only_reading(ask: Asker, method: str) -> None:
    assert ask("/api/run", method=method).status_code == 405


@pytest.mark.parametrize(
    "path",
    [
        "/../view/app.py",
        "/%2e%2e/app.py",
        "/page/index.html",
        "//etc/passwd",
        "/etc/passwd",
        "/index.html%00",
        "/api/../main.js%2f..",
        "/api/run/../../secret",
    ],
)
def test_no_path_leads_to_the_file_system(ask: Asker, path: str) -> None:
    assert ask(path).status_code == 404


@pytest.mark.parametrize("path", ["/", "/main.js", "/api/run", "/api/spot", "/nothing"])
@pytest.mark.parametrize("token", ["a-token", "wrong"])
def test_every_answer_has_the_headers(ask: Asker, path: str, token: str) -> None:
    answer = ask(path, token)
    for name, value in HEADERS.items():
        assert answer.headers.get_list(name) == [value]
    assert "default-src 'none'" in HEADERS["content-security-policy"]
    assert "unsafe" not in HEADERS["content-security-policy"]


def test_files_of_the_page(ask: Asker) -> None:
    for name, kind in PAGE.items():
        answer = ask("/" if name == "index.html" else f"/{name}")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(kind.partition(";")[0])
    page = ask("/").text
    assert "{token}" not in page
    assert page.count("token=a-token") == len(PAGE) - 1
    # what a page must not have under this policy, and no text of a file is in it
    assert "<script>" not in page
    assert " style=" not in page
    assert "http://" not in page
    assert ".innerHTML" not in "".join(ask(f"/{name}").text for name in PAGE if name[-3:] == ".js")


def test_names_from_files_are_values_of_json(ask: Asker) -> None:
    """The page puts them into the document as text."""
    answer = ask("/api/run")
    assert answer.headers["content-type"] == "application/json"
    found = answer.json()
    assert found["file"].endswith(f"{SCRIPT}__spots.h5")
    assert found["info"]["frames_path"] == f"/{SCRIPT}"
    assert found["n_frames"] == 40
    assert answer.text.isascii()


def test_nothing_is_written(spots: Path, ask: Asker) -> None:
    before = listing(spots.parent)
    ask("/api/tuned", frame=1, significance=4.5)
    ask("/api/ranked", by="strongest", rank=0)
    assert listing(spots.parent) == before


# --- what is answered ---


def opened(answer: Any) -> np.ndarray:
    assert answer.headers["content-type"] == "image/png"
    return np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGB"))


def test_a_picture_shows_the_frame(ask: Asker) -> None:
    picture = opened(ask("/api/picture", **PICTURE))
    assert picture.shape == (60, 84, 3)
    frame = spotty()[3]
    expected = np.rint(np.clip(frame / 200, 0, 1) * 255)
    assert np.abs(picture[..., 1] - expected).max() <= 1
    part = opened(
        ask("/api/picture", **PICTURE | {"x0": 5, "x1": 25, "y0": 30, "y1": 61, "bin": 2})
    )
    assert part.shape == (10, 16, 3)
    largest = frame[5:7, 30:32].max()
    assert abs(int(part[0, 0, 0]) - min(255, round(largest / 200 * 255))) <= 1


@pytest.mark.parametrize("of", ["difference", "avg", "std", "noise", "threshold", "max", "n_used"])
def test_pictures_of_everything(ask: Asker, of: str) -> None:
    limits = ask("/api/contrast", of=of, frame=3).json()
    assert limits["low"] < limits["high"]
    assert opened(ask("/api/picture", **PICTURE | {"of": of} | limits)).shape == (60, 84, 3)


def drawn(found: dict[str, Any], shape: tuple[int, int]) -> np.ndarray:
    """Pixels inside of outlines: each line along X changes between inside and outside."""
    edges = np.zeros((shape[0], shape[1] + 1), int)
    for Y, begin, end in np.reshape(found["along_x"], (-1, 3)).tolist():
        edges[begin:end, Y] += 1
    return np.cumsum(edges, axis=1)[:, :-1] % 2 == 1


@pytest.mark.parametrize("kind", ["raw", "filtered", "synced"])
def test_masks_as_outlines(ask: Asker, results: SpotsFile, kind: str) -> None:
    found = ask("/api/masks", frame=9, kind=kind).json()
    mask = results.mask(9, kind)
    assert found["n_pixels"] == mask.sum()
    if kind == "raw":
        assert np.array_equal(drawn(found, mask.shape), mask)


def test_spots_of_a_frame(ask: Asker, results: SpotsFile) -> None:
    found, table = ask("/api/spots", frame=9).json(), results.spots(9)
    assert found["first"] == results.frame_ranges[9, 0]
    assert found["XY"] == table["XY"].tolist()
    assert found["I"] == table["I"].tolist()


def test_a_spot_and_its_course(ask: Asker, results: SpotsFile) -> None:
    row = int(results.frame_ranges[9, 0]) + 1
    found, whole = ask("/api/spot", row=row).json(), results.spots()
    assert (found["frame"], found["X"], found["Y"]) == (9, *whole["XY"][row].tolist())
    properties = {one["name"]: one for one in found["properties"]}
    assert properties["I"]["value"] == whole["I"][row]
    assert properties["I"]["unit"] == "counts"
    course = found["course"]
    assert course["frames"] == [8, 9, 10, 11]  # frames of its angle
    assert course["laser_on"] == [0, 1, 0, 1]
    assert course["I"] == whole["I"][course["rows"]].tolist()
    assert set(whole["label"][course["rows"]]) == {whole["label"][row]}


def test_course_of_frames_with_masks_of_their_own(tmp_path: Path) -> None:
    """Values less background at the pixels of the spot, on all frames of its angle."""
    path = run_to_view(tmp_path, "--normalise", "none")
    with viewed_run(path) as viewed, open_spots(path) as results:
        row = int(np.argmax(results.spots()["I"]))
        found = viewed.spot(row)
        course = found["course"]
        frame = found["frame"]
        assert course["frames"] == list(range(frame // 4 * 4, frame // 4 * 4 + 4))
        X, Y = results.pixels(row).T
        expected = spotty()[course["frames"]][:, X, Y].sum(axis=1) - results.avg[X, Y].sum()
        assert np.allclose(course["I"], expected)
        own = course["I"][course["frames"].index(frame)]
        assert np.isclose(own, results.spots()["I"][row], rtol=1e-5)


def test_rankings(ask: Asker, results: SpotsFile) -> None:
    whole = results.spots()
    order = np.argsort(whole["I"])
    n = len(order)
    for by, rank, row in (
        ("strongest", 0, order[-1]),
        ("strongest", 1, order[-2]),
        ("strongest", -1, order[0]),
        ("weakest", 0, order[0]),
    ):
        found = ask("/api/ranked", by=by, rank=rank).json()
        assert whole["I"][found["row"]] == whole["I"][row]
        assert found["total"] == n
        assert whole["frame"][found["row"]] == found["frame"]
    flagged = ask("/api/ranked", by="flagged", rank=0).json()
    assert flagged["total"] == np.count_nonzero(whole["flags"])
    overloaded = ask("/api/ranked", by="overloaded", rank=0).json()
    assert overloaded["total"] == np.count_nonzero(whole["flags"] & Flag.OVERLOADED)


def test_a_pixel(ask: Asker, results: SpotsFile) -> None:
    found = ask("/api/pixel", frame=3, X=10, Y=20).json()
    assert found["value"] == spotty()[3, 10, 20]
    assert found["avg"] == results.avg[10, 20]


def test_tuned_masks(ask: Asker, results: SpotsFile) -> None:
    stored = ask("/api/tuned", frame=9).json()
    assert stored["is_stored"] is stored["same_as_stored"] is True
    assert (stored["lost"], stored["new"]) == (0, 0)
    assert stored["boxes"] == results.spots(9)["box"].tolist()
    more = ask("/api/tuned", frame=9, significance=3).json()
    assert more["n_spots"] > stored["n_spots"]
    assert more["new"] >= more["n_spots"] - stored["n_spots"] > 0
    assert more["same_as_stored"] is False
    assert "--significance 3 " in more["command"]
    false = ask("/api/false", frame=9, significance=3).json()
    assert false["stored"] <= false["tuned"]
    other = ask("/api/tuned", frame=9, finder="threshold", cutoff=3, erosions=0, dilations=3).json()
    assert "-c 3 -e 0 -d 3" in other["command"]


@pytest.mark.parametrize(
    ("path", "parameters", "words"),
    [
        ("spots", {"frame": 40}, "40 of 40"),
        ("spots", {"frame": "x"}, "'x' is not an integer"),
        ("spots", {"frame": "١"}, "is not an integer"),
        ("spots", {"frame": "9" * 30}, "is not an integer"),
        ("spots", {}, "frame: is missing"),
        ("masks", {"frame": 0, "kind": "../x"}, "kind: '../x' is not one of"),
        ("spot", {"row": -1}, "-1 is not from 0"),
        ("ranked", {"by": "best", "rank": 0}, "'best' is not one of"),
        ("pixel", {"frame": 0, "X": 60, "Y": 0}, "outside of the frame"),
        ("picture", {**PICTURE, "x1": 61}, "not inside of the frame"),
        ("picture", {**PICTURE, "bin": 0}, "bin: 0 is not from 1"),
        ("picture", {**PICTURE, "low": "nan"}, "not a finite number"),
        ("picture", {**PICTURE, "low": 200}, "is not below high"),
        ("picture", {**PICTURE, "of": "info"}, "'info' is not one of"),
        ("picture", {**PICTURE, "palette": "x"}, "'x' is not one of"),
        ("picture", {**PICTURE, "frame": 40}, "40 is not from 0 to 39"),
        ("tuned", {"frame": 0, "significance": 99}, "3 to 12"),
        ("tuned", {"frame": 0, "erosions": 51}, "more than 50"),
        ("tuned", {"frame": 0, "cutoff": "inf"}, "not a finite number"),
        ("tuned", {"frame": 0, "finder": "best"}, "'best' is not one of"),
        ("tuned", {"frame": 0, "connectivity": 3}, "2,3"),
    ],
)
def test_wrong_questions(ask: Asker, path: str, parameters: dict[str, Any], words: str) -> None:
    answer = ask(f"/api/{path}", **parameters)
    assert answer.status_code == 400
    assert words in answer.json()["error"]


def test_what_the_program_did_not_expect_is_one_line(
    ask: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(SpotsFile, "spots", broken)
    answer = ask("/api/spots", frame=0)
    assert answer.status_code == 500
    assert answer.json()["error"] == "internal error: RuntimeError: two lines; please report it"


def test_frames_that_are_gone(spots: Path, tmp_path: Path) -> None:
    """The statistics, masks and spots are shown, and why there is no more."""
    alone = tmp_path / "alone__spots.h5"
    alone.write_bytes(spots.read_bytes())
    with h5py.File(alone, "r+") as file:
        file["info"].attrs["input_file"] = "/gone/run.h5"
    with viewed_run(alone) as viewed:
        ask = Asker(viewed)
        known = ask("/api/run").json()
        assert "/gone/run.h5" in known["why_no_frames"]
        assert known["parameters"] is None
        refused = ask("/api/picture", **PICTURE)
        assert (refused.status_code, "/gone/run.h5" in refused.json()["error"]) == (409, True)
        assert ask("/api/tuned", frame=0).status_code == 409
        assert opened(ask("/api/picture", **PICTURE | {"of": "avg"})).shape == (60, 84, 3)
        assert ask("/api/masks", frame=0, kind="synced").status_code == 200
        assert "value" not in ask("/api/pixel", frame=0, X=1, Y=1).json()


def test_stacks_that_are_not_kept(tmp_path: Path) -> None:
    path = run_to_view(tmp_path, "--keep", "none")
    with viewed_run(path) as viewed:
        ask = Asker(viewed)
        assert ask("/api/run").json()["kinds"] == []
        found = ask("/api/tuned", frame=3).json()
        assert found["same_as_stored"] is None
        assert found["n_spots"] == found["stored_spots"]
        row = ask("/api/ranked", by="strongest", rank=0).json()["row"]
        assert "--keep" in ask("/api/spot", row=row).json()["course"]["why"]
