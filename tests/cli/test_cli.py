"""The command line where all is well: help, names, progress, options, and every layout of input that it must read."""

import contextlib
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import h5py
import numpy as np
import pytest

from gpu_spots import __version__
from gpu_spots.cli.find import OURS, find
from gpu_spots.parameters import Parameters
from helpers import (
    Ended,
    assert_refused,
    command,
    datasets,
    listing,
    process,
    replaced,
    series,
    started,
    write_run,
)

MANUAL = [
    # short, long, name of the value, default; as in the manual's help
    ("-h", "--help", "", None),
    ("-o", "--output", "FO", "file__spots.h5"),
    ("-m", "--method", "METHOD", "n_removed"),
    ("-n", "--n", "N", "25"),
    ("-A", "--alpha", "ALPHA", "0.05"),
    ("-c", "--cutoff", "CUTOFF", "3.0"),
    ("-e", "--erosions", "N_EROSIONS", "1"),
    ("-d", "--dilations", "N_DILATIONS", "2"),
    ("-s", "--structure", "STRUCTURE", "2,2"),
    ("-a", "--angles", "ANGLES", "10"),
    ("-S", "--sync", "SYNC", "none"),
    ("-C", "--compression", "COMPRESSION", "gzip"),
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A sound run in a folder of its own."""
    return write_run(tmp_path / "run__mccd.h5")


def results(path: Path) -> dict[str, np.ndarray]:
    """Every dataset of a file."""
    with h5py.File(path) as file:
        return datasets(file)


def assert_equal_results(found: Path, expected: Path) -> None:
    """Two spots files hold the same datasets."""
    left, right = results(found), results(expected)
    assert left.keys() == right.keys()
    for path, values in left.items():
        assert values.dtype == right[path].dtype, path
        assert np.array_equal(values, right[path]), path


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Gives the results of that run for some options."""
    folder = tmp_path_factory.mktemp("sound")
    run = write_run(folder / "run__mccd.h5")

    @cache
    def output(*options: str) -> Path:
        path = folder / f"{' '.join(options)}.h5"
        assert command(run, *options, "-o", path, "--quiet").status == 0
        return path

    return output


# --------------------------------------------------------------------------------------------- help


def help_of(*arguments: object, name: str = "lu_hdf2spots") -> tuple[str, str]:
    """The manual's options and ours, as the help shows them, each on one line."""
    ended = command(*arguments, "--help", name=name)
    assert (ended.status, ended.stderr) == (0, "")
    text = re.sub(r"\n {10,}", " ", ended.stdout)
    manual, ours = re.split(r"^Options that are not in the manual.*:$", text, flags=re.MULTILINE)
    return manual, ours


@pytest.mark.parametrize(
    ("short", "long", "value", "default"), MANUAL, ids=[option[0] for option in MANUAL]
)
def test_help_lists_every_option_of_the_manual_with_its_default(
    short: str, long: str, value: str, default: str | None
) -> None:
    manual, ours = help_of()
    names = f"{short}, {long}" if long else short
    (line,) = re.findall(
        rf"^  {names} {value}\b.*$" if value else rf"^  {names} .*$", manual, re.MULTILINE
    )
    assert default is None or f"[default: {default}]" in line
    assert not re.search(rf"^ +{short}\b", ours, re.MULTILINE)


def test_help_has_no_option_twice_and_ours_come_last() -> None:
    manual, ours = help_of()
    names = r"^  (-\w, --[\w-]+|--?[\w-]+)"
    assert sorted(re.findall(names, manual, re.MULTILINE)) == sorted(
        f"{short}, {long}" if long else short for short, long, *_ in MANUAL
    )
    listed = re.findall(names.replace("^  ", "^    "), ours, re.MULTILINE)
    assert {
        "--frames",
        "--backend",
        "--threads",
        "--force",
        "--quiet",
        "--debug",
        "--version",
    } <= set(listed)
    assert len(listed) == len(set(listed))


def test_our_options_have_headings_and_one_style() -> None:
    """A capitalised phrase without a full stop."""
    _, ours = help_of()
    assert re.findall(r"^  ([A-Z].*):$", ours, re.MULTILINE) == list(OURS)
    texts = re.findall(r"^    -.*?  +(\w.*)$", ours, re.MULTILINE)
    assert len(texts) == sum(map(len, OURS.values()))
    for text in texts:
        assert text[0].isupper(), text
        assert not text.partition("  [default")[0].endswith("."), text


def test_help_names_the_allowed_values() -> None:
    manual, _ = help_of()
    assert "allowed values: n_removed, kruskal" in manual
    assert "allowed values: none, pairs, blocks" in manual


def test_find_and_lu_hdf2spots_are_one_command(run: Path) -> None:
    assert help_of() == tuple(
        text.replace("gpu-spots find", "lu_hdf2spots") for text in help_of("find", name="gpu-spots")
    )
    one, other = run.parent / "one.h5", run.parent / "other.h5"
    assert command(run, "-o", one, "-S", "pairs", "--quiet").status == 0
    assert command("find", run, "-o", other, "-S", "pairs", "--quiet", name="gpu-spots").status == 0
    assert_equal_results(one, other)


def test_defaults_of_the_command_are_those_of_the_parameters() -> None:
    context = find.make_context("lu_hdf2spots", ["x.h5"])
    assert (
        Parameters(**{name: context.params[name] for name in Parameters.__dataclass_fields__})
        == Parameters()
    )


def test_the_group_lists_its_commands() -> None:
    ended = command("--help", name="gpu-spots")
    assert (ended.status, ended.stderr) == (0, "")
    for name in ("find", "simulate", "score"):
        assert re.search(rf"^  {name}  ", ended.stdout, re.MULTILINE)


@pytest.mark.parametrize("arguments", [("--version",), ("find", "--version")], ids=" ".join)
def test_version(arguments: tuple[str, ...]) -> None:
    assert command(*arguments, name="gpu-spots") == Ended(
        0, f"gpu-spots, version {__version__}\n", ""
    )


def test_the_module_is_the_program(run: Path) -> None:
    arguments = [sys.executable, "-m", "gpu_spots", "find", str(run)]
    ended = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (0, "")
    assert (run.parent / "run__spots.h5").exists()
    asked = subprocess.run(
        [*arguments[:3], "--nonsense"], capture_output=True, text=True, timeout=60
    )
    assert (asked.returncode, asked.stdout) == (2, "")
    assert asked.stderr.startswith("gpu-spots: ")


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
    first, *stages, spots, times, output = ended.lines
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
    """What a process shows on a terminal; it ends with status 0."""
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
    assert "spots/I" in results(output)


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
    assert len(results(tmp_path / "1.h5")["spots/I"]) > 500
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
    masks = results(run.parent / "run__spots.h5")["masks_filtered"]
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


# ------------------------------------------------------------------------------------------- inputs


def stored(frames: np.ndarray, **options: object) -> Callable[[h5py.File], object]:
    return replaced(frames=lambda file: file.create_dataset("frames", data=frames, **options))


LAYOUTS = {
    "contiguous": stored(series()),
    "a chunk a frame": stored(series(), chunks=(1, 24, 40)),
    "several frames a chunk": stored(series(), chunks=(7, 24, 40)),
    "chunks that cut frames": stored(series(), chunks=(3, 10, 16)),
    "gzip": stored(series(), chunks=(1, 24, 40), compression="gzip"),
    "gzip and shuffle": stored(series(), chunks=(4, 24, 40), compression="gzip", shuffle=True),
    "lzf": stored(series(), chunks=(2, 24, 40), compression="lzf"),
    "checksums": stored(series(), chunks=(2, 24, 40), fletcher32=True, compression="gzip"),
    "big-endian": stored(series().astype(">u2")),
    "big-endian gzip": stored(
        series().astype(">u2"), chunks=(1, 24, 40), compression="gzip", shuffle=True
    ),
    "resizable": stored(series(), maxshape=(None, 24, 40)),
    "soft link": replaced(frames=h5py.SoftLink("/elsewhere"), elsewhere=series()),
}


@pytest.mark.parametrize("edit", LAYOUTS.values(), ids=LAYOUTS)
def test_every_layout_of_frames_gives_the_same(
    sound: Callable[..., Path], tmp_path: Path, edit: Callable[[h5py.File], object]
) -> None:
    path = write_run(tmp_path / "x__mccd.h5", edit)
    assert command(path, "-S", "pairs", "--quiet").status == 0
    assert_equal_results(tmp_path / "x__spots.h5", sound("-S", "pairs"))
    assert results(tmp_path / "x__spots.h5")["stats/max"].dtype.isnative


def test_frames_in_a_file_that_is_linked(sound: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    data = tmp_path / "elsewhere" / "data.h5"
    with h5py.File(data, "w") as file:
        file["images"] = series()
    path = write_run(
        tmp_path / "x__mccd.h5", replaced(frames=h5py.ExternalLink("elsewhere/data.h5", "/images"))
    )
    assert command(path, "-S", "pairs", "--quiet").status == 0
    assert_equal_results(tmp_path / "x__spots.h5", sound("-S", "pairs"))
    with h5py.File(tmp_path / "x__spots.h5") as file:
        assert (file["info"].attrs["input_file"], file["info"].attrs["frames_path"]) == (
            str(path),
            "/frames",
        )
    before = listing(tmp_path)
    for output in (path, data):
        assert_refused(
            command(path, "-o", output, "--force", "--quiet"), 1, str(output), "is the input file"
        )
    assert listing(tmp_path) == before


def test_metadata_in_a_file_that_is_linked_is_copied(
    sound: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    with h5py.File(tmp_path / "log.h5", "w") as file:
        file["angles"] = np.arange(20) // 2 * 1.5
    path = write_run(
        tmp_path / "x__mccd.h5",
        replaced(
            lauecollect_angle=h5py.ExternalLink("log.h5", "/angles"),
            states=np.arange(20) % 2,
            lauecollect_laser_on=h5py.SoftLink("/states"),
        ),
    )
    # in another folder a copy of the links would lead nowhere
    assert (
        command(path, "-S", "pairs", "-o", tmp_path / "elsewhere" / "x.h5", "--quiet").status == 0
    )
    assert_equal_results(tmp_path / "elsewhere" / "x.h5", sound("-S", "pairs"))


def test_frames_of_several_files_joined_to_one_stack(
    sound: Callable[..., Path], tmp_path: Path
) -> None:
    stack = h5py.VirtualLayout((20, 24, 40), np.uint16)
    for i in range(2):
        with h5py.File(tmp_path / f"data_{i}.h5", "w") as file:
            file["images"] = series()[10 * i : 10 * i + 10]
        stack[10 * i : 10 * i + 10] = h5py.VirtualSource(
            tmp_path / f"data_{i}.h5", "images", (10, 24, 40)
        )
    path = write_run(
        tmp_path / "x__mccd.h5",
        replaced(frames=lambda file: file.create_virtual_dataset("frames", stack)),
    )
    assert command(path, "--quiet").status == 0
    assert_equal_results(tmp_path / "x__spots.h5", sound())
    data = (tmp_path / "data_1.h5").read_bytes()
    assert_refused(
        command(path, "-o", tmp_path / "data_1.h5", "--force", "--quiet"),
        1,
        "data_1.h5",
        "is the input file",
    )
    assert (tmp_path / "data_1.h5").read_bytes() == data
    (tmp_path / "data_1.h5").unlink()
    assert_refused(
        command(path, "--quiet", "--force"), 1, "x__mccd.h5", "frame 10", "data_1.h5", "is missing"
    )


@pytest.mark.parametrize("libver", ["earliest", "v108", "v110", "latest"])
def test_files_of_old_and_new_hdf5(sound: Callable[..., Path], tmp_path: Path, libver: str) -> None:
    path = tmp_path / "x__mccd.h5"
    with h5py.File(path, "w", libver=libver) as file:
        file["frames"] = series()
        for name, values in (("angle", np.arange(20) // 2 * 1.5), ("laser_on", np.arange(20) % 2)):
            file[f"lauecollect/{name}"] = values
        file["lauecollect/file"] = ["a_off.mccd", "a_on.mccd"] * 10
    assert command(path, "-S", "pairs", "--quiet").status == 0
    found, expected = results(tmp_path / "x__spots.h5"), results(sound("-S", "pairs"))
    assert np.array_equal(found["spots/I"], expected["spots/I"])
    assert found["lauecollect/file"][1] == b"a_on.mccd"


@pytest.mark.parametrize("place", ["images", "entry/deep/er/images"])
def test_the_only_stack_is_found_wherever_it_is(
    sound: Callable[..., Path], tmp_path: Path, place: str
) -> None:
    def move(file: h5py.File) -> None:
        file.move("frames", place)
        file["one_image"] = np.zeros((24, 40))
        file["one_frame"] = np.zeros((1, 24, 40))
        file["text"] = np.full((2, 2, 2), b"x")
        file["flags"] = np.zeros((2, 2, 2), bool)
        file["complex"] = np.zeros((2, 2, 2), complex)

    path = write_run(tmp_path / "x__mccd.h5", move)
    assert command(path, "--quiet").status == 0
    assert_equal_results(tmp_path / "x__spots.h5", sound())
    with h5py.File(tmp_path / "x__spots.h5") as file:
        assert file["info"].attrs["frames_path"] == f"/{place}"


def test_frames_names_the_stack_to_take(sound: Callable[..., Path], tmp_path: Path) -> None:
    def add(file: h5py.File) -> None:
        file["other/images"] = file["frames"][...]
        file["frames"][...] = 7

    path = write_run(tmp_path / "x__mccd.h5", add)
    assert command(path, "--frames", "other/images", "--quiet").status == 0
    assert_equal_results(tmp_path / "x__spots.h5", sound())
    with h5py.File(tmp_path / "x__spots.h5") as file:
        assert file["info"].attrs["frames_path"] == "/other/images"


def test_the_default_place_is_taken_before_others(tmp_path: Path) -> None:
    path = write_run(
        tmp_path / "x__mccd.h5",
        lambda file: file.create_dataset("other", data=np.zeros((20, 4, 5), "u2")),
    )
    assert command(path, "--quiet").status == 0


NAMES = [f"scan_{45 + i // 2}.000_{state}_1.mccd" for i, state in enumerate(["off", "on"] * 10)]
STRINGS = {
    "vlen": NAMES,
    "vlen ASCII": np.array([name.encode() for name in NAMES], h5py.string_dtype("ascii")),
    "fixed": np.array([name.encode() for name in NAMES]),
    "fixed UTF-8": np.array([name.encode() for name in NAMES], h5py.string_dtype("utf-8", 40)),
}


@pytest.mark.parametrize("names", STRINGS.values(), ids=STRINGS)
def test_text_of_every_kind_is_read(
    sound: Callable[..., Path], tmp_path: Path, names: object
) -> None:
    path = write_run(
        tmp_path / "x__mccd.h5", replaced(lauecollect_laser_on=None, lauecollect_file=names)
    )
    assert command(path, "-S", "pairs", "--quiet").status == 0
    found, expected = results(tmp_path / "x__spots.h5"), results(sound("-S", "pairs"))
    assert np.array_equal(found["masks_synced"], expected["masks_synced"])
    assert found["lauecollect/file"].tolist() == [name.encode() for name in NAMES]


@pytest.mark.parametrize(
    "angles",
    [
        np.arange(20) // 2 * 1.5,
        np.arange(20) // 2 * np.float32(1.5),
        np.arange(20) // 2,
        [f"{i // 2 * 1.5:.3f}" for i in range(20)],
    ],
    ids=["float64", "float32", "int64", "text"],
)
def test_angles_of_every_type_are_read(tmp_path: Path, angles: object) -> None:
    path = write_run(tmp_path / "x__mccd.h5", replaced(lauecollect_angle=angles))
    assert command(path, "-S", "blocks", "--quiet").status == 0
    assert len(results(tmp_path / "x__spots.h5")["masks/counts"]) == 10


def test_a_run_without_metadata_is_read_where_none_is_asked_for(tmp_path: Path) -> None:
    path = write_run(tmp_path / "x__mccd.h5", replaced(lauecollect=None))
    assert command(path, "-a", 0, "--quiet").status == 0
    assert "lauecollect" not in {name.split("/")[0] for name in results(tmp_path / "x__spots.h5")}


def test_the_input_is_not_changed(run: Path) -> None:
    before, state = run.read_bytes(), run.stat()
    run.chmod(0o444)
    assert command(run, "-S", "pairs", "--quiet").status == 0
    assert run.read_bytes() == before
    assert run.stat().st_mtime_ns == state.st_mtime_ns


def test_an_input_may_be_read_by_others_at_the_same_time(run: Path) -> None:
    with h5py.File(run):
        assert process(run, "--quiet").status == 0
