"""gpu-spots tune: the table, JSON, the command, and errors in one line."""

import json
import shlex
from pathlib import Path

import h5py
import numpy as np
import pytest

from factories.tuned_runs import run_and_spots
from gpu_spots import open_spots
from helpers import ROOT, Ended, assert_refused, command, listing


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run and its spots file, in blocks."""
    return run_and_spots(tmp_path_factory.mktemp("tune"), "-S", "blocks")


def tune(*arguments: object) -> Ended:
    return command("tune", *arguments, "--backend", "cpu", "--threads", "2", name="gpu-spots")


def test_a_run_and_its_spots_file_give_the_same(made: tuple[Path, Path]) -> None:
    run, spots = made
    before = listing(run.parent)
    chosen = ("--values", "4.5:5.5:0.5", "--only", "0,9", "--json", "--quiet")
    of_spots, of_run = tune(spots, *chosen), tune(run, "-S", "blocks", *chosen)
    assert of_spots.status == 0
    assert not of_spots.lines
    left, right = json.loads(of_spots.stdout), json.loads(of_run.stdout)
    assert left["tried"] == right["tried"]
    assert [one["value"] for one in left["tried"]] == [4.5, 5.0, 5.5]
    assert left["option"] == "significance"
    assert left["frames"] == [0, 9]
    counts = [one["spots"] for one in left["tried"]]
    assert counts == sorted(counts, reverse=True)
    with open_spots(spots) as results:
        n_spots = np.diff(results.frame_ranges[[0, 9]], axis=1).sum()
    assert counts[-1] == n_spots  # 5.5 is the default
    assert listing(run.parent) == before  # nothing was written


@pytest.mark.parametrize("finder", ["matched", "threshold"])
def test_the_printed_command_finds_as_many(
    made: tuple[Path, Path], finder: str, tmp_path: Path
) -> None:
    """The command is run as it is printed, but for the place of its output."""
    _, spots = made
    ended = tune(spots, "--finder", finder, "--values", "5,4", "--only", "4", "--most-false", 100)
    lines = ended.stdout.splitlines()
    assert lines[0] == "1 frame: 4"
    words = shlex.split(lines[-1])
    assert words[:2] == ["gpu-spots", "find"]
    option = {"matched": "--significance", "threshold": "-c"}[finder]
    assert words[words.index(option) + 1] == "4"
    marked = next(line for line in lines if line.endswith("<-"))
    words[words.index("-o") + 1] = str(tmp_path / "again.h5")
    assert command(*words[1:], "--quiet", name="gpu-spots").status == 0
    with open_spots(tmp_path / "again.h5") as results:
        assert int(marked.split()[1]) == len(results.spots(4)["I"])


def test_a_table_for_people(made: tuple[Path, Path]) -> None:
    ended = tune(made[1], "--n-frames", 2, "--values", "5:6:0.5", "--quiet")
    lines = ended.stdout.splitlines()
    assert lines[0] == "2 frames: 0, 36"
    assert lines[1].split() == ["significance", "spots", "false", "false,", "%"]
    assert [float(line.split()[0]) for line in lines[2:5]] == [5.0, 5.5, 6.0]
    assert lines[5].startswith("recommended: ")


def test_the_table_of_the_documentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands of the page print the lines of the page."""
    page = (ROOT / "docs/tune.md").read_text()
    commands, _, rest = page.partition("```sh\n")[2].partition("```")
    shown = rest.partition("```text\n")[2].partition("```")[0]
    monkeypatch.chdir(tmp_path)
    for line in commands.splitlines():
        ended = command(*shlex.split(line)[1:], name="gpu-spots")
        assert ended.status == 0, ended.stderr
    assert ended.stdout.replace(f"{tmp_path}/", "") == shown


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("--values", "5:4:1"), 2, ("--values", "LOW:HIGH:STEP")),
        (("--values", "1:9:0.001"), 2, ("at most 200 values",)),
        (("--values", "nan"), 2, ("significance", "3 to 12")),
        (("--values", "2"), 2, ("significance", "3 to 12")),
        (("--values", "a"), 2, ("'a' is not LOW:HIGH:STEP",)),
        (("--only", "40"), 1, ("found frame 40, expected 0 to 39",)),
        (("--only", "x"), 2, ("'x' is not a list of frames",)),
        (("--only", "1", "--n-frames", "2"), 2, ("choose one",)),
        (("-S", "pairs"), 2, ("-S/--sync cannot be used with a spots file",)),
        (("--mask", "m.npy"), 2, ("--mask cannot be used with a spots file",)),
        (("--frames-from", "none.h5"), 1, ("none.h5",)),
    ],
)
def test_errors(
    made: tuple[Path, Path], arguments: tuple[str, ...], status: int, words: tuple[str, ...]
) -> None:
    assert_refused(tune(made[1], *arguments, "--quiet"), status, *words)


def test_files_that_cannot_be_tuned(made: tuple[Path, Path], tmp_path: Path) -> None:
    run, spots = made
    assert_refused(tune(tmp_path / "none.h5"), 1, "none.h5")
    assert_refused(tune(run, "--frames-from", run, "--quiet"), 2, "only be used with a spots file")
    cut = tmp_path / "cut__spots.h5"
    cut.write_bytes(spots.read_bytes()[:-20_000])
    assert_refused(tune(cut, "--quiet"), 1, "cut__spots.h5")
    alone = tmp_path / "alone__spots.h5"
    alone.write_bytes(spots.read_bytes())
    with h5py.File(alone, "r+") as file:
        file["info"].attrs["input_file"] = "/gone/run__mccd.h5"
    assert_refused(tune(alone, "--quiet"), 1, "alone__spots.h5", "--frames-from")
    with h5py.File(alone, "r+") as file:
        del file["info"].attrs["cutoff"]
    assert_refused(tune(alone, "--frames-from", run, "--quiet"), 1, "info has no cutoff")
