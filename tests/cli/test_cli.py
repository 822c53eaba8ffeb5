"""Names, messages and options of the command, where all is well."""

import contextlib
import os
import pty
import re
from importlib.util import find_spec
from pathlib import Path

import h5py
import numpy as np
import pytest

from helpers import (
    Ended,
    assert_equal_results,
    command,
    datasets_of,
    listing,
    process,
    replaced,
    started,
    write_run,
)

# -------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("name", "output"),
    [
        ("x__mccd.h5", "x__spots.h5"),
        ("scan.h5", "scan__spots.h5"),
        ("scan", "scan__spots.h5"),
        ("scan 1.5 keV__mccd.h5", "scan 1.5 keV__spots.h5"),
        ("scan.2.h5", "scan.2__spots.h5"),
        ("a__mccd.b__mccd.h5", "a__mccd.b__spots.h5"),
        ("mccd.h5", "mccd__spots.h5"),
        ("Röntgen_Löß_結晶__mccd.h5", "Röntgen_Löß_結晶__spots.h5"),
        ("-n.h5", "-n__spots.h5"),
        ("100%__mccd.h5", "100%__spots.h5"),
        (".hidden__mccd.h5", ".hidden__spots.h5"),
        ("run.hdf5", "run__spots.h5"),
    ],
)
def test_the_output_is_named_after_the_input_and_beside_it(
    tmp_path: Path, name: str, output: str
) -> None:
    path = write_run(tmp_path / name)
    ended = command(path)
    assert ended.status == 0
    assert set(listing(tmp_path)) == {name, output}
    assert ended.lines[-1].startswith(f"{tmp_path / output}: ")


def test_names_that_are_no_text_are_names(tmp_path: Path) -> None:
    name = os.fsdecode(b"scan\xff__mccd.h5")
    try:
        path = write_run(tmp_path / name)
    except OSError:
        pytest.skip("this file system takes text only")
    assert command(path, "--quiet").status == 0
    assert set(listing(tmp_path)) == {name, os.fsdecode(b"scan\xff__spots.h5")}
    assert process(path, "--force").status == 0


def test_relative_names_are_relative_to_where_one_is(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.parent)
    (run.parent / "results").mkdir()
    assert command(run.name, "-o", "results/x.h5", "--quiet").status == 0
    assert command(run.name, "--quiet").status == 0
    assert {"results/x.h5", "run__spots.h5"} < set(listing(run.parent))


# ----------------------------------------------------------------------------------------- messages


def test_progress_and_summary_go_to_stderr(run: Path) -> None:
    ended = command(run, "--threads", 2)
    assert (ended.status, ended.stdout) == (0, "")
    first, *stages, spots, noise, times, output = ended.lines
    assert first.startswith(f"{run}: /frames: 20 frames of 24 x 40, uint16; computing on ")
    assert "2 threads" in first
    assert stages == [
        "levels, 20 frames...",
        "background, 24 rows...",
        "masks and spots, 20 frames...",
    ]
    with h5py.File(run.parent / "run__spots.h5") as file:
        n_spots, per_frame = len(file["spots/I"]), np.diff(file["frame2spotsBE"], axis=1)
    assert n_spots > 0
    least, median, most = per_frame.min(), np.median(per_frame), per_frame.max()
    spread = f"min {least}, median {median:g}, max {most}"
    assert spots == f"{n_spots} spots on 20 frames (per frame: {spread})"
    assert noise.startswith("noise: variance = ")
    assert re.fullmatch(r"\d+\.\d s \(\d+ MB/s\): (\w[\w ]* \d+\.\d s(, )?)+", times)
    assert {
        name for name in ("read", "background", "masks and spots", "write") if f"{name} " in times
    } == {
        "read",
        "background",
        "masks and spots",
        "write",
    }
    size = (run.parent / "run__spots.h5").stat().st_size
    assert output == f"{run.parent / 'run__spots.h5'}: {size / 1e6:.1f} MB"


@pytest.mark.parametrize("sync", ["pairs", "blocks"])
def test_stages_of_a_run_whose_masks_are_synchronized(run: Path, sync: str) -> None:
    stages = [line for line in command(run, "-S", sync).lines if line.endswith("...")]
    n_masks = 10
    totals = [
        "levels, 20 frames",
        "background, 24 rows",
        "masks, 20 frames",
        f"labels, {n_masks} masks",
        "spots, 20 frames",
    ]
    assert stages == [f"{stage}..." for stage in totals]


def test_quiet_says_nothing(run: Path) -> None:
    assert process(run, "--quiet") == Ended(0, "", "")


def test_warnings_are_one_line_each_also_with_quiet(tmp_path: Path) -> None:
    states = np.tile([0, 1], 10)
    states[4:6] = 0
    path = write_run(tmp_path / "x__mccd.h5", replaced(lauecollect_laser_on=states))
    ended = command(path, "-S", "pairs", "--quiet")
    assert (ended.status, ended.stdout) == (0, "")
    (line,) = ended.lines
    assert line.startswith("warning: 2 of 20 frames have no off/on partner")


def on_terminal(*arguments: object, term: str = "xterm-256color") -> str:
    """Return the output of a process on a terminal; it ends with status 0."""
    keyboard, screen = pty.openpty()
    with started(
        *arguments, stdout=screen, stderr=screen, env={**os.environ, "TERM": term, "COLUMNS": "100"}
    ) as running:
        os.close(screen)
        seen = b""
        with contextlib.suppress(OSError):  # how Linux says that nobody writes any more
            while more := os.read(keyboard, 65536):
                seen += more
        assert running.wait(timeout=60) == 0
    os.close(keyboard)
    return seen.decode()


def test_a_terminal_gets_a_bar(run: Path) -> None:
    shown = on_terminal(run)
    assert "━" in shown
    for stage, unit in (
        ("levels", "frames"),
        ("background", "rows"),
        ("masks and spots", "frames"),
    ):
        assert re.search(rf"{stage} .*(20/20|24/24).* {unit}/s.*0:00:0", shown), stage
    assert "..." not in shown
    assert "20 spots on 20 frames" in shown


def test_a_quiet_run_shows_nothing_on_a_terminal(run: Path) -> None:
    assert on_terminal(run, "--quiet") == ""


# ------------------------------------------------------------------------------------------ options


def test_force_replaces_the_output(run: Path) -> None:
    output = run.parent / "run__spots.h5"
    output.write_text("old")
    assert command(run, "--quiet", "--force").status == 0
    assert set(listing(run.parent)) == {run.name, output.name}
    assert "spots/I" in datasets_of(output)


def test_a_new_output_has_the_permissions_of_any_new_file(run: Path) -> None:
    (run.parent / "other").write_text("")
    assert command(run, "--quiet").status == 0
    assert (run.parent / "run__spots.h5").stat().st_mode == (run.parent / "other").stat().st_mode


def test_n_of_zero_is_the_manuals_25(run: Path) -> None:
    for n in (0, 25, 26):
        assert command(run, "-n", n, "-o", run.parent / f"{n}.h5", "--quiet").status == 0
    assert_equal_results(run.parent / "0.h5", run.parent / "25.h5")
    with h5py.File(run.parent / "0.h5") as file:
        assert (file["info"].attrs["n"], file["info"].attrs["n_removed"]) == (25, 5)


def test_threads_change_no_result(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    frames = random.poisson(40, (30, 301, 499)).astype(np.uint16)
    for frame in frames:
        for x, y in zip(random.integers(0, 290, 30), random.integers(0, 490, 30), strict=True):
            frame[x : x + 4, y : y + 5] += 300
    path = write_run(tmp_path / "x__mccd.h5", frames=frames)
    for threads in (1, 3):
        ended = command(
            path, "--threads", threads, "-S", "blocks", "-o", tmp_path / f"{threads}.h5", "--quiet"
        )
        assert ended.status == 0
    assert len(datasets_of(tmp_path / "1.h5")["spots/I"]) > 500
    assert_equal_results(tmp_path / "1.h5", tmp_path / "3.h5")


@pytest.mark.parametrize(
    "options",
    [(), ("-S", "pairs"), ("-m", "kruskal", "-S", "blocks")],
    ids=["dark", "pairs", "kruskal"],
)
def test_options_that_say_the_same_give_the_same(run: Path, options: tuple[str, ...]) -> None:
    assert (
        command(
            run,
            *options,
            "-o",
            run.parent / "short.h5",
            "-n",
            20,
            "-c",
            2.5,
            "-e",
            0,
            "-d",
            1,
            "-s",
            "2,1",
            "--quiet",
        ).status
        == 0
    )
    long = (
        "--n=20",
        "--cutoff=2.5",
        "--erosions=0",
        "--dilations=1",
        "--structure=2,1",
        f"--output={run.parent / 'long.h5'}",
    )
    assert command(*options, *long, "--quiet", run).status == 0
    assert_equal_results(run.parent / "short.h5", run.parent / "long.h5")


@pytest.mark.parametrize("option", ["-e", "-d"])
def test_any_number_of_steps_ends(run: Path, option: str) -> None:
    assert command(run, option, 10**30, "--quiet").status == 0
    masks = datasets_of(run.parent / "run__spots.h5")["masks_filtered"]
    assert not masks.any() if option == "-e" else masks.reshape(20, -1).all(axis=1).any()


@pytest.mark.parametrize(
    "name", ["gzip", "lzf", "none", "bitshuffle", "blosc", "blosc2", "bzip2", "lz4", "zstd"]
)
def test_compression_changes_no_value(run: Path, name: str) -> None:
    if name not in ("gzip", "lzf", "none") and not find_spec("hdf5plugin"):
        pytest.skip("hdf5plugin is not installed")
    assert command(run, "-o", run.parent / "plain.h5", "--quiet").status == 0
    assert command(run, "-C", name, "--quiet").status == 0
    output = run.parent / "run__spots.h5"
    with h5py.File(output) as file:
        created = file["masks_raw"].id.get_create_plist()
        filters = [created.get_filter(i)[3].decode() for i in range(created.get_nfilters())]
        assert file["info"].attrs["compression"] == name
    assert len(filters) == (name != "none")
    assert (
        not filters or {"gzip": "deflate", "lzf": "lzf"}.get(name, name[:4]) in filters[0].lower()
    )
    assert_equal_results(output, run.parent / "plain.h5")
