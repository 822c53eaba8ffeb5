"""Messages name options on the command line and parameters in Python."""

import re
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from gpu_spots import ImageRequest, Parameters, find_spots
from gpu_spots.cli import gpu_spots
from gpu_spots.cli.errors import OPTIONS
from gpu_spots.cli.find import find
from gpu_spots.errors import GpuSpotsError, given, in_options, one_of
from helpers import command

FRAMES = np.random.default_rng(3).normal(1000, 10, (12, 24, 20)).astype(np.uint16)
ANGLES = np.arange(12.0) // 2
Edit = Callable[[h5py.File], Any]


def add_mask(file: h5py.File) -> None:
    """Add a pixel mask of the wrong shape, where NeXus has it."""
    entry = file.create_group("entry")
    entry.attrs["NX_class"] = "NXentry"
    file.move("frames", "entry/data/data")
    detector = entry.create_group("instrument/detector")
    detector.attrs["NX_class"] = "NXdetector"
    detector["pixel_mask"] = np.zeros((3, 4), np.uint32)


def add_stack(file: h5py.File) -> None:
    """Put two stacks in the place of /frames."""
    file.move("frames", "a")
    file["b"] = file["a"][...]


def no_counts(file: h5py.File) -> None:
    """Set all frames to 0."""
    file["frames"][...] = 0


def nothing(_: h5py.File) -> None:
    """Change nothing."""


CASES: dict[str, tuple[Edit, dict[str, Any], tuple[str, ...], str, str]] = {
    "angles": (nothing, {}, (), "use angles=0", "use -a 0"),
    "laser": (
        nothing,
        {"sync": "pairs", "angles": 0},
        ("-S", "pairs", "-a", "0"),
        "sync='pairs' needs",
        "-S pairs needs",
    ),
    "kruskal": (
        nothing,
        {"method": "kruskal", "angles": 0},
        ("-m", "kruskal", "-a", "0"),
        "method='kruskal' needs",
        "-m kruskal needs",
    ),
    "percentage": (
        nothing,
        {"n": 99, "angles": 0},
        ("-n", "99", "-a", "0"),
        "n=99 leaves",
        "-n 99 leaves",
    ),
    "level": (
        no_counts,
        {"normalise": "level", "angles": 0},
        ("--normalise", "level", "-a", "0"),
        "use normalise='none'",
        "use --normalise none",
    ),
    "stacks": (add_stack, {"angles": 0}, ("-a", "0"), "with frames_path", "with --frames"),
    "mask": (add_mask, {"angles": 0}, ("-a", "0"), "use file_mask=False", "use --no-file-mask"),
}


def run_file(folder: Path, edit: Edit) -> Path:
    with h5py.File(folder / "run__mccd.h5", "w") as file:
        file["frames"] = FRAMES
        file["lauecollect/angle"] = ANGLES
        edit(file)
    return folder / "run__mccd.h5"


@pytest.mark.parametrize("case", CASES)
def test_errors_speak_the_callers_language(case: str, tmp_path: Path) -> None:
    edit, parameters, options, in_python, on_command_line = CASES[case]
    path = run_file(tmp_path, edit)
    with pytest.raises(GpuSpotsError) as refused:
        find_spots(path, Parameters.manual(**parameters))
    assert in_python in str(refused.value)
    assert not re.search(r"(^| )--?[a-zA-Z]", str(refused.value))
    ended = command(path, *options, "--quiet")
    assert ended.status == 1
    assert on_command_line in ended.stderr
    assert in_python not in ended.stderr


def test_warnings_speak_the_callers_language(tmp_path: Path) -> None:
    """Drift of the beam, a spot that never moves, and a percentage that drops no value."""

    def edit(file: h5py.File) -> None:
        x, y = np.indices(FRAMES.shape[1:])
        spot = 500 * np.exp(-((x - 12) ** 2 + (y - 10) ** 2) / 4)
        file["frames"][...] = FRAMES + spot + np.arange(12)[:, None, None] * 60

    path = run_file(tmp_path, edit)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        find_spots(path, Parameters.manual(n=1, angles=0)).close()
    words = "\n".join(str(warning.message) for warning in caught)
    assert "n=1: 1 % of 12 frames" in words
    assert "use normalise='level'" in words
    assert not re.search(r"(^| )--?[a-zA-Z]", words)
    stderr = command(path, "-n", "1", "-a", "0").stderr
    assert "-n 1: 1 % of 12 frames" in stderr
    assert "use --normalise level" in stderr


def test_images_that_are_missing(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("file,angle\na.tif,1\nb.tif,2\n")
    with pytest.raises(GpuSpotsError, match=r"use folder to .*, or skip_bad=True to"):
        find_spots(ImageRequest(table=tmp_path / "t.csv"))
    ended = command("--table", tmp_path / "t.csv")
    assert "use -p/--path to name another folder, or --skip-bad to skip them" in ended.stderr


def test_every_option_in_messages_exists() -> None:
    """Every option in messages sets the parameter of that name."""
    options = {
        option.name: "/".join(option.opts)
        for command in (
            *(gpu_spots.commands[name] for name in ("batch", "merge", "ratios", "export")),
            find,
        )  # those of find are meant if both have one
        for option in command.params
    }
    options["file_mask"] = options.pop("no_file_mask")
    options["output"] = options["out"] = "-o"
    options["Parameters.manual"] = options.pop("manual")
    assert {name: options[name] for name in OPTIONS} == OPTIONS


def test_threads_name_options_as_their_command_does() -> None:
    def word(_: int) -> str:
        return given("normalise", "level")

    with ThreadPoolExecutor(2) as pool:
        with in_options(OPTIONS):
            assert set(pool.map(word, range(4))) == {"--normalise level"}
        assert set(pool.map(word, range(4))) == {"normalise='level'"}


def test_a_switch_has_no_value_and_an_option_its_short_form() -> None:
    assert given("file_mask", False) == "file_mask=False"
    assert one_of("angles_path", "table") == "angles_path or table"
    with in_options(OPTIONS):
        assert given("file_mask", False) == "--no-file-mask"
        assert given("angles", 0) == "-a 0"
        assert given("angles") == "-a/--angles"
        assert one_of("table", "name_pattern", "laser") == "--table, --name-pattern or --laser"
