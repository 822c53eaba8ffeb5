"""Errors of input files and metadata: one line on stderr, nothing on stdout or left on disk."""

import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from helpers import (
    assert_refused,
    chunk_offset,
    command,
    listing,
    process,
    refuses,
    replaced,
    series,
    write_run,
)

ANGLES = np.repeat(np.arange(10.0), 2)
STATES = np.tile([0, 1], 10)


# ---------------------------------------------------------------------------------- what is no file


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    refuses(tmp_path / "none__mccd.h5", words=("none__mccd.h5", "No such file"))


def test_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.h5").mkdir()
    refuses(tmp_path / "folder.h5", words=("folder.h5", "is a folder", "expected an HDF5 file"))


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.h5")
    ended = command(tmp_path / "pipe.h5", "--quiet")
    assert_refused(ended, 1, "pipe.h5", "is a named pipe", "expected an HDF5 file")


@pytest.mark.parametrize("name", ["", ".", "..", "/"])
def test_a_folder_without_a_name_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(command(name, "--quiet"), 1, "is a folder")
    assert not listing(tmp_path)


def test_an_unreadable_file_is_refused(run: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    run.chmod(0)
    assert_refused(command(run, "--quiet"), 1, run.name, "Permission denied")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ("is empty", "expected an HDF5 file")),
        (b"just some text\nin lines\n", ("not an HDF5 file",)),
        (bytes(100_000), ("not an HDF5 file",)),
        (b"\x89HDF\r\n\x1a\n", ("cannot be opened",)),
    ],
    ids=["empty", "text", "zeros", "signature"],
)
def test_what_is_not_hdf5_is_refused(
    content: bytes, words: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "x__mccd.h5").write_bytes(content)
    refuses(tmp_path / "x__mccd.h5", words=("x__mccd.h5", *words))


def test_a_file_that_is_being_written_is_refused(run: Path) -> None:
    if "HDF5_USE_FILE_LOCKING" in os.environ:
        pytest.skip("HDF5_USE_FILE_LOCKING decides here")
    with h5py.File(run, "r+", locking=True):
        assert_refused(process(run, "--quiet"), 1, run.name, "another program is writing to it")


@pytest.mark.parametrize("share", [0.02, 0.5, 0.999])
def test_a_truncated_file_is_refused(run: Path, share: float) -> None:
    content = run.read_bytes()
    run.write_bytes(content[: int(len(content) * share)])
    refuses(run, words=(run.name, "is cut off: ", "copy the whole file again"))


def compressed(chunks: tuple[int, int, int], **options: object) -> Callable[[h5py.File], object]:
    return replaced(
        frames=lambda file: file.create_dataset(
            "frames", data=series(), chunks=chunks, compression="gzip", **options
        )
    )


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_corrupt_chunk_is_refused_and_its_frame_is_named(tmp_path: Path, shuffle: bool) -> None:
    path = write_run(tmp_path / "x__mccd.h5", compressed((1, 24, 40), shuffle=shuffle))
    begin, size = chunk_offset(path, 13)
    content = bytearray(path.read_bytes())
    for i in range(begin + size // 2, begin + size // 2 + 8):
        content[i] ^= 0xFF
    path.write_bytes(content)
    refuses(path, words=("x__mccd.h5", "/frames", "frame 13 cannot be read"))


def test_a_corrupt_chunk_of_several_frames_names_them(tmp_path: Path) -> None:
    path = write_run(tmp_path / "x__mccd.h5", compressed((4, 24, 40)))
    begin, size = chunk_offset(path, 2)
    content = bytearray(path.read_bytes())
    content[begin : begin + size] = bytes(size)
    path.write_bytes(content)
    refuses(path, words=("frames 8 to 11 cannot be read",))


def test_a_corrupt_chunk_of_another_filter_is_refused(tmp_path: Path) -> None:
    def lzf(file: h5py.File) -> None:
        file.create_dataset(
            "frames", data=series(), chunks=(1, 24, 40), compression="lzf", fletcher32=True
        )

    path = write_run(tmp_path / "x__mccd.h5", replaced(frames=lzf))
    begin, size = chunk_offset(path, 5)
    content = bytearray(path.read_bytes())
    content[begin + size // 2] ^= 0xFF
    path.write_bytes(content)
    refuses(path, words=("/frames", "frame 5 cannot be read"))


def test_a_frame_that_was_never_written_is_refused(tmp_path: Path) -> None:
    def with_hole(file: h5py.File) -> None:
        frames = file.create_dataset("frames", (20, 24, 40), np.uint16, chunks=(1, 24, 40))
        frames[:17] = series()[:17]

    refuses(
        write_run(tmp_path / "x__mccd.h5", replaced(frames=with_hole)),
        words=("frame 17", "never written"),
    )


@pytest.mark.parametrize("seed", range(25))
def test_a_file_with_wrong_bytes_anywhere_gives_results_or_one_line(run: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    content = np.frombuffer(run.read_bytes(), np.uint8).copy()
    # what is not frames is at the begin and the end
    places = random.choice(np.r_[0:4096, len(content) - 4096 : len(content)], random.integers(1, 6))
    content[places] = random.integers(0, 256, len(places))
    run.write_bytes(content.tobytes())
    before = listing(run.parent)
    ended = command(run, "-S", "pairs", "--quiet")
    if ended.status == 0:
        assert set(listing(run.parent)) == {run.name, "run__spots.h5"}
    else:
        assert_refused(ended, 1)
        assert listing(run.parent) == before


# --------------------------------------------------------------------------------- frames of no use


def shaped(*shape: int, dtype: object = np.uint16) -> Callable[[h5py.File], object]:
    return replaced(frames=np.zeros(shape, dtype))


def created(*arguments: object, **options: object) -> Callable[[h5py.File], object]:
    return replaced(frames=lambda file: file.create_dataset("frames", *arguments, **options))


def linked(path: str, link: object) -> Callable[[h5py.File], object]:
    return replaced(**{path: link})


FRAMES = {
    "2-D": (shaped(24, 40), ("/frames has shape (24, 40)", "expected three dimensions")),
    "4-D": (shaped(20, 4, 5, 1), ("/frames has shape (20, 4, 5, 1)", "expected three dimensions")),
    "0-D": (replaced(frames=np.uint16(3)), ("/frames has shape ()", "expected three dimensions")),
    "null": (
        replaced(frames=h5py.Empty("u2")),
        ("/frames has shape None", "expected three dimensions"),
    ),
    "no frame": (shaped(0, 24, 40), ("(0, 24, 40)", "expected at least one frame")),
    "no row": (shaped(20, 0, 40), ("(20, 0, 40)", "expected at least one frame, row and column")),
    "complex": (
        shaped(20, 4, 5, dtype="c8"),
        ("/frames is complex64", "expected one of uint8, uint16"),
    ),
    "bool": (shaped(20, 4, 5, dtype=bool), ("/frames is", "bool", "expected one of uint8, uint16")),
    "uint64": (shaped(20, 4, 5, dtype="u8"), ("/frames is uint64", "expected one of")),
    "int64": (shaped(20, 4, 5, dtype=">i8"), ("/frames is", "i8", "expected one of")),
    "int8": (shaped(20, 4, 5, dtype="i1"), ("/frames is int8", "expected one of")),
    "float16": (shaped(20, 4, 5, dtype="f2"), ("/frames is float16", "expected one of")),
    "text": (replaced(frames="abc"), ("/frames is text", "expected one of")),
    "compound": (
        shaped(20, 4, 5, dtype=[("a", "u2"), ("b", "f4")]),
        ("/frames is", "'a'", "expected one of"),
    ),
    "enumeration": (
        created((20, 4, 5), h5py.enum_dtype({"DARK": 0}, "u2")),
        ("/frames is an enumeration of uint16", "expected one of"),
    ),
    "vlen": (
        created((20, 4, 5), h5py.vlen_dtype(np.uint16)),
        ("/frames is of variable length", "expected one of"),
    ),
    "group": (
        replaced(frames=lambda file: file.create_group("frames")),
        ("frames is a group", "expected the dataset"),
    ),
    "type": (linked("frames", np.dtype("u2")), ("frames is a type", "expected the dataset")),
    "soft link": (
        linked("frames", h5py.SoftLink("/nowhere")),
        ("'frames'", "a broken link to /nowhere"),
    ),
    "loop": (
        linked("frames", h5py.SoftLink("/frames")),
        ("'frames'", "a broken link to /frames"),
    ),
    "external link": (
        linked("frames", h5py.ExternalLink("gone.h5", "/x")),
        ("'frames'", "/x in the file gone.h5, which is missing"),
    ),
    "none": (replaced(frames=None), ("no /frames", "no 3-D numeric dataset", "--frames")),
}


@pytest.mark.parametrize(("edit", "words"), FRAMES.values(), ids=FRAMES)
def test_frames_of_no_use_are_refused(
    tmp_path: Path, edit: Callable[[h5py.File], object], words: tuple[str, ...]
) -> None:
    refuses(write_run(tmp_path / "x__mccd.h5", edit), "-a", 0, words=("x__mccd.h5", *words))


def test_several_candidates_are_listed(tmp_path: Path) -> None:
    def rename(file: h5py.File) -> None:
        file.move("frames", "entry/images")
        file["other/float"] = np.zeros((3, 4, 5), "f4")

    path = write_run(tmp_path / "x__mccd.h5", rename)
    refuses(
        path,
        words=(
            "several datasets",
            "/entry/images (20, 24, 40) uint16",
            "/other/float (3, 4, 5) float32",
            "--frames",
        ),
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("/entry/none", ("no dataset '/entry/none' (--frames)",)),
        ("lauecollect", ("lauecollect is a group", "expected the dataset")),
        ("/", ("/ is a group", "expected the dataset")),
        ("lauecollect/angle", ("/lauecollect/angle has shape (20,)", "expected three dimensions")),
        ("", ("no dataset ''",)),
    ],
)
def test_a_wrong_path_of_frames_is_refused(run: Path, name: str, words: tuple[str, ...]) -> None:
    refuses(run, "--frames", name, words=(run.name, *words))


def test_a_frame_that_cannot_be_scaled_is_refused(tmp_path: Path) -> None:
    frames = series()
    frames[6] = 0
    path = write_run(tmp_path / "x__mccd.h5", frames=frames)
    refuses(
        path,
        "--normalise",
        "level",
        words=("--normalise level", "frame 6 has a level of 0 counts", "expected"),
    )


@pytest.mark.parametrize(
    ("n_frames", "options", "words"),
    [
        (1, (), ("-n 25", "leaves 1 of 1 frame", "expected at least 2")),
        (2, ("-n", 50), ("-n 50", "leaves 1 of 2 frames", "expected at least 2")),
        (50, ("-n", 99), ("-n 99", "leaves 1 of 50 frames", "expected at least 2")),
    ],
)
def test_too_few_frames_are_refused(
    tmp_path: Path, n_frames: int, options: tuple[object, ...], words: tuple[str, ...]
) -> None:
    refuses(
        write_run(tmp_path / "x__mccd.h5", frames=series(n_frames)), "-a", 0, *options, words=words
    )


def test_two_frames_are_enough_where_both_are_kept(tmp_path: Path) -> None:
    path = write_run(tmp_path / "x__mccd.h5", frames=series(2))
    assert command(path, "-a", 0, "-n", 49, "--quiet").status == 0


# ----------------------------------------------------------------------------------------- metadata


def column(name: str, values: object) -> Callable[[h5py.File], object]:
    return replaced(**{f"lauecollect_{name}": values})


def with_value(values: np.ndarray, frame: int, value: float) -> np.ndarray:
    values = values.copy()
    values[frame] = value
    return values


WAY_OUT = ("-a/--angles", "at least 10", "-a 0")
ANGLE_COLUMNS = {
    "no group": (replaced(lauecollect=None), ("lauecollect/angle is missing", "degrees", *WAY_OUT)),
    "no column": (column("angle", None), ("lauecollect/angle is missing", "degrees", *WAY_OUT)),
    "too few": (
        column("angle", np.round(ANGLES / 3)),
        ("lauecollect/angle has 4 different angles", *WAY_OUT),
    ),
    "one": (column("angle", 0 * ANGLES), ("lauecollect/angle has 1 different angle,", *WAY_OUT)),
    "equal when rounded": (
        column("angle", 5 + ANGLES / 1e5),
        ("lauecollect/angle has 1 different angle,", *WAY_OUT),
    ),
    "short": (
        column("angle", ANGLES[1:]),
        ("lauecollect/angle has shape (19,)", "each of the 20 frames", *WAY_OUT),
    ),
    "2-D": (
        column("angle", ANGLES[:, None]),
        ("lauecollect/angle has shape (20, 1)", "each of the 20 frames", *WAY_OUT),
    ),
    "scalar": (
        column("angle", 3.5),
        ("lauecollect/angle has shape ()", "each of the 20 frames", *WAY_OUT),
    ),
    "null": (column("angle", h5py.Empty("f8")), ("lauecollect/angle has shape ()", *WAY_OUT)),
    "text": (
        column("angle", [f"{a} deg" for a in ANGLES]),
        ("lauecollect/angle is '0.0 deg' at frame 0", "expected degrees", *WAY_OUT),
    ),
    "NaN": (
        column("angle", with_value(ANGLES, 7, np.nan)),
        ("lauecollect/angle is 'nan' at frame 7", "expected degrees", *WAY_OUT),
    ),
    "infinity": (
        column("angle", with_value(ANGLES, 9, -np.inf)),
        ("lauecollect/angle is '-inf' at frame 9", *WAY_OUT),
    ),
    "huge": (
        column("angle", with_value(ANGLES, 3, 1e300)),
        ("lauecollect/angle is '1e+300' at frame 3", *WAY_OUT),
    ),
    "complex": (
        column("angle", ANGLES * 1j),
        ("lauecollect/angle is complex128", "expected degrees", *WAY_OUT),
    ),
    "compound": (
        column("angle", ANGLES.astype([("deg", "f8")])),
        ("lauecollect/angle is", "expected degrees", *WAY_OUT),
    ),
}


@pytest.mark.parametrize(("edit", "words"), ANGLE_COLUMNS.values(), ids=ANGLE_COLUMNS)
def test_angles_that_fail_the_check_are_refused(
    tmp_path: Path, edit: Callable[[h5py.File], object], words: tuple[str, ...]
) -> None:
    path = write_run(tmp_path / "x__mccd.h5", edit)
    refuses(path, words=("x__mccd.h5", *words))
    # and the way out is one
    assert command(path, "-a", 0, "--quiet").status == 0


BROKEN = {
    "dataset": (replaced(lauecollect=ANGLES), ("lauecollect is a dataset", "expected a group")),
    "soft link": (
        linked("lauecollect", h5py.SoftLink("/gone")),
        ("lauecollect", "a broken link to /gone"),
    ),
    "external link": (
        linked("lauecollect", h5py.ExternalLink("gone.h5", "/x")),
        ("lauecollect", "/x in the file gone.h5"),
    ),
    "column is a group": (
        column("angle", lambda file: file.create_group("lauecollect/angle")),
        ("lauecollect/angle is a group", "expected a column"),
    ),
    "column is a soft link": (
        column("angle", h5py.SoftLink("/gone")),
        ("lauecollect/angle", "a broken link to /gone"),
    ),
    "column is an external link": (
        column("laser_on", h5py.ExternalLink("gone.h5", "/x")),
        ("lauecollect/laser_on", "gone.h5"),
    ),
}


@pytest.mark.parametrize(("edit", "words"), BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("options", [(), ("-a", 0)], ids=["checked", "unchecked"])
def test_broken_metadata_is_refused(
    tmp_path: Path,
    edit: Callable[[h5py.File], object],
    words: tuple[str, ...],
    options: tuple[object, ...],
) -> None:
    refuses(write_run(tmp_path / "x__mccd.h5", edit), *options, words=("x__mccd.h5", *words))


def only(name: str, values: object) -> Callable[[h5py.File], object]:
    """The laser's state is in that column alone."""
    return replaced(**{"lauecollect_laser_on": None, f"lauecollect_{name}": values})


NO_LASER = "needs a laser run, with frames of both laser states"
LASER_COLUMNS = {
    "all off": (column("laser_on", STATES * 0), (NO_LASER, "all 20 frames have the laser off")),
    "all on": (column("laser_on", STATES * 0 + 1), (NO_LASER, "all 20 frames have the laser on")),
    "no column": (column("laser_on", None), (NO_LASER, "no laser_on, delay or file column")),
    "no group": (replaced(lauecollect=None), (NO_LASER, "no laser_on, delay or file column")),
    "delays all off": (
        only("delay", ["-", "off", "", "nan"] * 5),
        (NO_LASER, "all 20 frames have the laser off"),
    ),
    "names without": (
        only("file", ["on/carbon_1.mccd"] * 20),
        (NO_LASER, "no laser_on, delay or file column"),
    ),
    "number": (
        column("laser_on", STATES * 2),
        ("lauecollect/laser_on is '2' at frame 1", "expected 0, 1, off or on"),
    ),
    "fraction": (
        column("laser_on", STATES / 2),
        ("lauecollect/laser_on is '0.5' at frame 1", "expected 0, 1, off or on"),
    ),
    "NaN": (
        column("laser_on", with_value(STATES / 1, 4, np.nan)),
        ("lauecollect/laser_on is 'nan' at frame 4",),
    ),
    "word": (
        column("laser_on", ["off", "maybe"] * 10),
        ("lauecollect/laser_on is 'maybe' at frame 1", "expected 0, 1, off or on"),
    ),
    "short": (
        column("laser_on", STATES[:5]),
        ("lauecollect/laser_on has shape (5,)", "each of the 20 frames"),
    ),
    "short delays": (
        only("delay", ["-", "1ns"]),
        ("lauecollect/delay has shape (2,)", "each of the 20 frames"),
    ),
    "short names": (
        only("file", ["a_on.mccd"]),
        ("lauecollect/file has shape (1,)", "each of the 20 frames"),
    ),
    "no angle": (column("angle", None), ("lauecollect/angle is missing",)),
    "short angle": (column("angle", ANGLES[:7]), ("lauecollect/angle has shape (7,)",)),
}


@pytest.mark.parametrize(("edit", "words"), LASER_COLUMNS.values(), ids=LASER_COLUMNS)
@pytest.mark.parametrize("options", [("-S", "pairs"), ("-m", "kruskal")], ids=" ".join)
def test_a_run_that_is_no_laser_run_is_refused_where_one_is_needed(
    tmp_path: Path,
    edit: Callable[[h5py.File], object],
    words: tuple[str, ...],
    options: tuple[str, str],
) -> None:
    line = refuses(
        write_run(tmp_path / "x__mccd.h5", edit), "-a", 0, *options, words=("x__mccd.h5", *words)
    )
    assert NO_LASER not in words or " ".join(options) in line


@pytest.mark.parametrize(
    ("angles", "words"),
    [
        (0 * ANGLES, ("all 20 frames are at one angle", "at least 2")),
        (with_value(ANGLES, 5, 77), ("only frame 4 is at 2 degrees", "at least 2 frames")),
    ],
    ids=["one block", "block of one frame"],
)
def test_blocks_that_cannot_be_compared_are_refused(
    tmp_path: Path, angles: np.ndarray, words: tuple[str, ...]
) -> None:
    refuses(
        write_run(tmp_path / "x__mccd.h5", column("angle", angles)),
        "-a",
        0,
        "-m",
        "kruskal",
        words=("-m kruskal", *words),
    )
