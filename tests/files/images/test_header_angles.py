"""Angles that image headers have, where nothing else gives them."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from fabio.cbfimage import CbfImage

from factories.image_runs import log_line, log_text, marccd
from helpers import command, series

ANGLES = np.repeat(np.arange(10) * 2.5 - 10, 2)


def write_marccd(folder: Path, compressed: bool = False, **headers: np.ndarray) -> str:
    """20 images; ``headers``: offset of a header field to its value on each, millidegrees."""
    for i, frame in enumerate(series()):
        header: dict[str, Any] = {name: int(values[i]) for name, values in headers.items()}
        content = marccd(frame, **header)
        path = folder / f"a_{i:03}.mccd{'.gz' * compressed}"
        path.write_bytes(gzip.compress(content) if compressed else content)
    return str(folder / "a_*")


def write_cbf(folder: Path, line: str) -> str:
    for i, frame in enumerate(series()):
        text = f"# Exposure_time 0.1 s\r\n# {line.format(ANGLES[i])}"
        header = {
            "_array_data.header_convention": "PILATUS_1.2",
            "_array_data.header_contents": text,
        }
        CbfImage(data=frame.astype("i4"), header=header).write(str(folder / f"a_{i:03}.cbf"))
    return str(folder / "a_*.cbf")


def gpu_spots(*arguments: object) -> tuple[str, str]:
    ended = command(*arguments, name="gpu-spots")
    assert ended.status == 0, ended
    return ended.stdout, ended.stderr


MILLI = np.round(ANGLES * 1000)
RUNS: dict[str, tuple[Callable[[Path], str], str]] = {
    "omega": (lambda folder: write_marccd(folder, at1696=MILLI, at1728=MILLI + 100), "start_omega"),
    "phi, compressed": (
        lambda folder: write_marccd(folder, True, at1696=0 * MILLI + 7, at1708=MILLI),
        "start_phi",
    ),
    "both, the same": (
        lambda folder: write_marccd(folder, at1696=MILLI, at1708=MILLI),
        "start_omega",
    ),
    "CBF, Omega": (lambda folder: write_cbf(folder, "Omega {:.4f} deg."), "start_omega"),
    "CBF, Phi": (lambda folder: write_cbf(folder, "Phi {:.4f} deg."), "start_phi"),
    "CBF, Start_angle": (
        lambda folder: write_cbf(folder, "Start_angle {:.4f} deg."),
        "start_angle",
    ),
}


@pytest.mark.parametrize("kind", RUNS)
def test_the_angle_that_varies_is_used_and_named(kind: str, tmp_path: Path) -> None:
    write, field = RUNS[kind]
    images = write(tmp_path)
    stdout, _ = gpu_spots("info", images)
    assert f"10 different, -10 to 12.5 degrees (image headers, field {field})" in stdout
    assert (
        json.loads(gpu_spots("info", images, "--json")[0])["angles"]["from"]
        == f"image headers, field {field}"
    )
    words = (
        f"angles are taken from the image headers, field {field}: 10 different, -10 to 12.5 degrees"
    )
    _, stderr = gpu_spots(
        "find", images, "--quiet", "-o", tmp_path / "s.h5"
    )  # ANGLES are 10 by default
    assert words in stderr
    assert "as well" not in stderr
    with h5py.File(tmp_path / "s.h5") as file:
        np.testing.assert_array_equal(file["lauecollect/angle"], ANGLES)
        assert file["lauecollect/angle"].attrs["origin"] == f"image headers, field {field}"
    _, stderr = gpu_spots("convert", images, "--quiet", "-o", tmp_path / "c.h5")
    assert words in stderr
    with h5py.File(tmp_path / "c.h5") as file:
        np.testing.assert_array_equal(file["lauecollect/angle"], ANGLES)
        np.testing.assert_array_equal(file[f"headers/{field}"], ANGLES)


def test_if_several_vary_the_others_are_named(tmp_path: Path) -> None:
    images = write_marccd(tmp_path, at1696=MILLI, at1708=MILLI * 2)
    _, stderr = gpu_spots("find", images, "--quiet", "-o", tmp_path / "s.h5")
    assert (
        "field start_omega: 10 different, -10 to 12.5 degrees; start_phi varies as well; use "
        "--table, " in stderr
    )


@pytest.mark.parametrize("given", ["table", "step", "names", "log"])
def test_anything_that_is_given_comes_first(given: str, tmp_path: Path) -> None:
    images = write_marccd(tmp_path, at1696=MILLI)
    (tmp_path / "t.csv").write_text("angle\n" + "".join(f"{i}\n" for i in range(20)))
    lines = [log_line("old", f"a_{i:03}.mccd", i, 0, 1) for i in range(20)]
    (tmp_path / "x.log").write_text(log_text("old", lines))
    options = {
        "table": (images, "--table", tmp_path / "t.csv"), "step": (images, "--angle-step", 1),
        "names": (images, "--name-pattern", "a_{angle}.mccd"),
        "log": (tmp_path / "x.log",),
    }  # fmt: skip
    _, stderr = gpu_spots("find", *options[given], "--quiet", "-o", tmp_path / "s.h5")
    assert "headers" not in stderr
    with h5py.File(tmp_path / "s.h5") as file:
        np.testing.assert_array_equal(file["lauecollect/angle"], np.arange(20))


def test_angles_that_do_not_vary_or_are_not_on_all_images_are_not_used(tmp_path: Path) -> None:
    images = write_marccd(tmp_path, at1696=0 * MILLI + 5000)
    stdout, _ = gpu_spots("info", images)
    assert "none: lauecollect/angle is missing" in stdout
    for i in range(20):
        (tmp_path / f"a_{i:03}.mccd").unlink()
    images = write_cbf(tmp_path, "Omega {:.4f} deg.")
    CbfImage(data=series()[3].astype("i4")).write(str(tmp_path / "a_003.cbf"))
    stdout, _ = gpu_spots("info", images)
    assert "none: lauecollect/angle is missing" in stdout
