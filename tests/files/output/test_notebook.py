"""Summary of a spots file in notebooks."""

import base64
import io
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from factories.exports import spots_of_run
from factories.reports import HOSTILE
from gpu_spots import Parameters, find_spots, open_spots


@pytest.fixture(scope="module")
def spots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return spots_of_run(tmp_path_factory.mktemp("notebook"))


def test_summary_has_numbers_and_pictures(spots: Path) -> None:
    with open_spots(spots) as results:
        text = results._repr_html_()
        counts, shape = results.per_frame()["n_spots"], results.shape
        assert f"{shape[0]} of {shape[1]} x {shape[2]} (X x Y)" in text
        assert f"<td style='text-align:left'>{results.n_spots}</td>" in text
        assert f"min {counts.min()}, median {np.median(counts):g}, max {counts.max()}" in text
        assert f"cutoff {results.info['cutoff']}" in text
    pictures = re.findall(r"base64,([^']+)'", text)
    assert len(pictures) == 2
    for picture in pictures:
        assert Image.open(io.BytesIO(base64.b64decode(picture))).size == (shape[2], shape[1])


def test_large_frames_have_small_pictures() -> None:
    frames = np.random.default_rng(1).poisson(50, (8, 500, 900)).astype(np.uint16)
    with find_spots(frames, Parameters(angles=0)) as results:
        text = results._repr_html_()
    assert len(text) < 200_000
    assert "frames in memory" in text
    picture = re.findall(r"base64,([^']+)'", text)[0]
    assert Image.open(io.BytesIO(base64.b64decode(picture))).size == (180, 100)


def test_names_are_escaped(spots: Path, tmp_path: Path) -> None:
    hostile = tmp_path / "<img src=x onerror=alert(1)>.h5"
    shutil.copy(spots, hostile)
    with h5py.File(hostile, "r+") as file:
        file["info"].attrs["method"] = HOSTILE
        file["info"].attrs["input_file"] = HOSTILE
    with open_spots(hostile) as results:
        text = results._repr_html_()
    assert "<script" not in text
    assert len(re.findall("<img", text)) == 2
    assert text.count("&lt;script&gt;") == 2


def test_closed_and_damaged_files(spots: Path, tmp_path: Path) -> None:
    with open_spots(spots) as results:
        pass
    assert results._repr_html_() == "<pre>&lt;SpotsFile, closed&gt;</pre>"
    damaged = Path(shutil.copy(spots, tmp_path))
    with h5py.File(damaged, "r+") as file:
        del file["stats/max"]
    with open_spots(damaged) as results:
        shown = results._repr_html_()
        assert re.fullmatch(r"<pre>.*stats/max; give the output of gpu-spots find</pre>", shown)
