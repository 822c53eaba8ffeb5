"""Verdicts on prepared runs: a sound one, and runs with one fault each."""

import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from gpu_spots import Parameters, find_spots, open_spots
from gpu_spots.columns import Flag
from gpu_spots.reporting.facts import open_facts
from gpu_spots.reporting.verdict import Verdict, verdict

SpotsFiles = Callable[[str], Path]


def verdict_on(path: Path) -> Verdict:
    with open_facts(path, None) as facts:
        return verdict(facts)


@pytest.mark.parametrize("name", ["sound", "dark", "sound_defaults"])
def test_a_sound_run_is_ok(spots_file: SpotsFiles, name: str) -> None:
    found = verdict_on(spots_file(name))
    assert found.is_ok
    assert found.sentence.startswith("OK: no problem found; ")
    assert {one.level for one in found.findings} <= {"note"}


@pytest.mark.parametrize(
    ("name", "titles", "words"),
    [
        (
            "drift",
            ["the beam drifts"],
            ["The level of the frames changes by", "counts rms", "--normalise level"],
        ),
        (
            "static",
            ["static spots"],
            ["Found 3 spots in the background, expected none: X ", "other angles"],
        ),
        (
            "saturated",
            ["saturated spots"],
            ["Spots with saturated pixels, of at least 1800 counts: ", "Attenuate the beam"],
        ),
        (
            "few_angles",
            ["too few angles", "-n is too small"],
            ["has 3 different angles, expected at least 10", "Add frames at other angles"],
        ),
        (
            "n_too_large",
            ["-n is too large"],
            ["-n 80 drops 38 of 48 values", "48 % of the pixels", "Decrease -n"],
        ),
        (
            "n_too_small",
            ["-n is too small"],
            [
                "-n 5 drops 2 values of each pixel, the largest",
                "up to 4 frames have the same angle",
                "-n 9",
            ],
        ),
    ],
)
def test_the_verdict_names_the_fault(
    spots_file: SpotsFiles, name: str, titles: list[str], words: list[str]
) -> None:
    """The first line has its name, and the finding has numbers and a remedy."""
    found = verdict_on(spots_file(name))
    assert not found.is_ok
    assert found.sentence.startswith("Look: ")
    for title in titles:
        assert title in found.sentence
    text = " ".join(one.text for one in found.findings if one.title in titles)
    for word in words:
        assert word in text


def test_faults_do_not_cause_others(spots_file: SpotsFiles) -> None:
    """A run with one fault has no finding of another."""
    expected = {
        "drift": "the beam drifts",
        "static": "static spots",
        "saturated": "saturated spots",
        "n_too_small": "-n is too small",
        "static_defaults": "static spots",
    }
    for name, title in expected.items():
        serious = [
            one.title for one in verdict_on(spots_file(name)).findings if one.level != "note"
        ]
        assert serious == [title], name


def test_frames_without_spots_and_of_another_exposure(
    spots_file: SpotsFiles, tmp_path: Path
) -> None:
    path = Path(shutil.copy(spots_file("sound"), tmp_path))
    with h5py.File(path, "r+") as file:
        file["frame2spotsBE"][10] = file["frame2spotsBE"][10, 0]
        file["per_frame/level"][10] = 3.0
    text = {one.title: one.text for one in verdict_on(path).findings}
    assert text["frames without spots"].startswith("Frames without spots: 1 of 48 (10).")
    assert "counts: 1 (10). Look whether" in text["frames of another exposure"]


def test_a_run_without_spots(tmp_path: Path) -> None:
    frames = np.random.default_rng(3).poisson(100, (20, 64, 64)).astype(np.uint16)
    find_spots(
        frames, Parameters.manual(angles=0, cutoff=60), output=tmp_path / "none__spots.h5"
    ).close()
    found = verdict_on(tmp_path / "none__spots.h5")
    assert found.sentence == "Look: no spots; 0 spots on 20 frames"
    titles = {one.title: one.level for one in found.findings}
    assert titles == {"no spots": "problem", "angles are unknown": "note"}


@pytest.mark.parametrize(
    ("name", "remedy"), [("sound", "Try --finder matched"), ("sound_defaults", "gpu-spots view")]
)
def test_overlapping_spots_get_a_remedy_that_is_not_in_use(
    spots_file: SpotsFiles, tmp_path: Path, name: str, remedy: str
) -> None:
    spots = Path(shutil.copy(spots_file(name), tmp_path / "run__spots.h5"))
    with h5py.File(spots, "r+") as file:
        file["spots/flags"][...] = np.full_like(file["spots/flags"][...], Flag.SEVERAL_MAXIMA)
        file["spots/sigma"][...] = file["spots/I"][...] / 1000
    found = [one for one in verdict_on(spots).findings if one.title == "overlapping spots"]
    assert len(found) == 1
    assert remedy in found[0].text


def test_frames_without_beam_that_were_left_out(spots_file: SpotsFiles, tmp_path: Path) -> None:
    """They are not counted as drift, and are not to be left out again."""
    path = Path(shutil.copy(spots_file("sound_defaults"), tmp_path))
    with h5py.File(path, "r+") as file:
        level, scale = (file[f"per_frame/{name}"] for name in ("level", "scale"))
        level[...] = np.where(np.arange(len(level)) % 2, 110.0, 100.0)
        scale[...] = np.where(np.arange(len(scale)) % 2, 0.8, 1.25)
        level[10], scale[10] = 0.1, np.nan
    text = {one.title: one.text for one in verdict_on(path).findings}
    assert "frames of another exposure" not in text
    assert text["drift is corrected"] == (
        "The level of the frames changes by 4.5 % rms. The background was scaled by 0.800 to 1.250."
    )


def test_surfaces_are_named(spots_file: SpotsFiles, tmp_path: Path) -> None:
    """A run with surfaces has them in the verdict; without, they are the remedy for large masks."""
    path = Path(shutil.copy(spots_file("sound_defaults"), tmp_path / "run__spots.h5"))
    with h5py.File(path, "r+") as file:
        file["spots/n_pixels"][:] = 65536
        knots = np.ones((len(file["per_frame/level"]), 5, 5))
        knots[::2] += np.linspace(-0.125, 0.125, 5)
        level = file["per_frame/level"]
        level[...] = np.where(np.arange(len(level)) % 2, 110.0, 100.0)
    title = "spots cover too much of the frames"
    text = {one.title: one.text for one in verdict_on(path).findings}
    assert "find the spots again with --normalise surface, or" in text[title]
    with h5py.File(path, "r+") as file:
        file["per_frame/surface"] = knots
        file["per_frame/surface"].attrs["distance"] = 64
    text = {one.title: one.text for one in verdict_on(path).findings}
    assert "--normalise" not in text[title]
    assert "drift is corrected" not in text
    assert text["drift and shape are corrected"].startswith(
        "The level of the frames changes by 4.8 % rms, and the shape of their background by "
    )


@pytest.mark.parametrize(("name", "largest"), [("sound", 0.1), ("sound_defaults", 0.2)])
def test_large_spots_by_finder(
    spots_file: SpotsFiles, tmp_path: Path, name: str, largest: float
) -> None:
    """Masks of the matched finder contain whole spots and may cover more."""
    path = Path(shutil.copy(spots_file(name), tmp_path / "run__spots.h5"))
    with open_spots(path) as results:
        n_valid, n_spots = int(results.valid.sum()), len(results.spots(5)["I"])
        begin = int(results.frame_ranges[5, 0])
    for share, is_named in ((largest - 0.01, False), (largest + 0.01, True)):
        with h5py.File(path, "r+") as file:
            file["spots/n_pixels"][begin : begin + n_spots] = int(share * n_valid / n_spots)
        titles = [one.title for one in verdict_on(path).findings]
        assert ("spots cover too much of the frames" in titles) == is_named
