"""Errors of convert and find: bad images, wrong options, full disks, interrupts."""

import gzip
import importlib
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from factories.image_runs import Scan, marccd, write_scan
from helpers import FullDisk, assert_refused, command, listing, series, started, write_run

ANGLES = np.repeat([0, 2, 4, 6, 8, 1, 3, 5, 7, 9], 2)


@pytest.fixture
def scan(tmp_path: Path) -> Scan:
    """A laser run of 20 frames at 10 angles."""
    return write_scan(tmp_path, series(), ANGLES, np.tile([0, 1], 10))


def convert(*arguments: object) -> Any:
    return command("convert", *arguments, name="gpu-spots")


def find(*arguments: object) -> Any:
    return command("find", *arguments, "--quiet", name="gpu-spots")


# ------------------------------------------------------------------------------------------- damage


def folder_for(path: Path) -> None:
    path.unlink()
    path.mkdir()


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, "1 of 20 images are missing"),
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "cut off": (
        lambda path: path.write_bytes(path.read_bytes()[:5000]),
        "is cut off: 5000 bytes, expected 6016",
    ),
    "text": (lambda path: path.write_bytes(b"hello" * 2000), "according to fabio"),
    "other size": (
        lambda path: path.write_bytes(marccd(series(1, (24, 41))[0])),
        "is 24 x 41 pixels of uint16, expected 24 x 40",
    ),
    "other type": (
        lambda path: path.write_bytes(marccd(series(1)[0].astype("u4"))),
        "is 24 x 40 pixels of uint32, expected 24 x 40",
    ),
    "folder": (folder_for, "is a folder"),
}


@pytest.mark.parametrize("frame", [0, 7, 19])
@pytest.mark.parametrize(("spoil", "words"), BAD.values(), ids=BAD)
def test_a_bad_frame_is_named_or_left_out(
    spoil: Callable[[Path], object], words: str, frame: int, scan: Scan
) -> None:
    bad = scan.paths[frame]
    spoil(bad)
    before = listing(scan.log.parent)
    for run in (convert, find):
        ended = run(scan.log, "--quiet") if run is convert else run(scan.log)
        named = (
            scan.names[1] if frame == 0 and words.startswith("is 24") else bad.name
        )  # the first says what is expected
        words_here = "expected 24 x 4" if frame == 0 and words.startswith("is 24") else words
        assert_refused(ended, 1, named, words_here)
        assert listing(scan.log.parent) == before
    kept = np.delete(np.arange(20), frame)
    for run, output in ((convert, "scan__mccd.h5"), (find, "scan__spots.h5")):
        ended = (
            run(scan.log, "--skip-bad", "--quiet")
            if run is convert
            else run(scan.log, "--skip-bad")
        )
        assert ended.status == 0, ended
        assert ended.lines[0] == f"warning: {scan.log}: 1 of 20 frames are left out:"
        assert ended.lines[1].startswith(f"warning:   {bad.name}: ")
        with h5py.File(scan.log.with_name(output)) as file:
            assert file["skipped/file"].asstr()[...].tolist() == [bad.name]
            assert file["skipped/reason"].asstr()[0] in ended.lines[1]
            np.testing.assert_array_equal(file["lauecollect/angle"], ANGLES[kept])
            if run is convert:
                np.testing.assert_array_equal(file["frames"], series()[kept])


def test_an_output_that_exists_is_refused_before_images_are_looked_at(scan: Scan) -> None:
    for run, output in ((convert, "scan__mccd.h5"), (find, "scan__spots.h5")):
        scan.log.with_name(output).write_text("precious")
        ended = run(scan.log, "--skip-bad", "-p", scan.folder)
        assert_refused(ended, 1, f"{output}: already exists; use --force to overwrite it")


def test_the_size_of_most_images_is_the_right_one(tmp_path: Path) -> None:
    scan = write_scan(tmp_path, series(6), [0, 0, 1, 1, 2, 2], [0, 1] * 3)
    for path in scan.paths[:2]:
        path.write_bytes(marccd(series(1, (12, 20))[0]))
    ended = convert(scan.log, "--skip-bad")
    assert "2 of 6 frames are left out" in ended.stderr
    assert (
        "is 12 x 20 pixels of uint16, expected 24 x 40 pixels of uint16 as most images"
        in ended.stderr
    )
    with h5py.File(tmp_path / "scan__mccd.h5") as file:
        np.testing.assert_array_equal(file["frames"], series(6)[2:])


def test_a_run_with_nothing_good_in_it_is_refused(scan: Scan) -> None:
    for path in scan.paths:
        path.write_bytes(b"")
    ended = convert(scan.log, "--skip-bad", "--quiet")
    assert ended.status == 1
    assert (
        ended.lines[-1] == f"gpu-spots: {scan.log}: all images are left out, expected at least one"
    )
    for path in scan.paths:
        path.unlink()
    assert convert(scan.log, "--skip-bad", "--quiet").lines[-1] == ended.lines[-1]


def test_an_image_that_changes_meanwhile_is_an_error(
    scan: Scan, monkeypatch: pytest.MonkeyPatch
) -> None:
    image_stack: Any = importlib.import_module("gpu_spots.files.images.image_stack")

    def and_change(read: Callable[..., Any]) -> Callable[..., Any]:
        def read_and_change(path: Path, *rest: Any) -> Any:
            found = read(path, *rest)
            if path == scan.paths[4]:
                os.utime(path, ns=(0, 1))
            return found

        return read_and_change

    monkeypatch.setattr(image_stack, "read_image", and_change(image_stack.read_image))
    monkeypatch.setattr(image_stack, "read_rows", and_change(image_stack.read_rows))
    for run in (convert, find):
        before = set(listing(scan.log.parent))
        ended = run(scan.log) if run is find else run(scan.log, "--quiet")
        assert_refused(ended, 1, scan.names[4], "was changed while it was being read")
        assert set(listing(scan.log.parent)) == before
        os.utime(scan.paths[4], ns=(0, 2))


# ------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("name", ["convert", "find"])
@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ((), 2, ("see gpu-spots", "--help")),
        (
            ("scan.log", "scan.log"),
            2,
            ("scan.log is a log, which lists its images; give the log alone, or images",),
        ),
        (("xray_images/*.mccd", "scan.log"), 2, ("scan.log is a log",)),
        (("scan.log", "-o", "scan.log"), 1, ("scan.log: the output is the input file",)),
        (("none.log",), 1, ("none.log: cannot be opened: No such file",)),
        (("--log", "scan.log", "-p", "nowhere"), 1, ("nowhere: not a directory",)),
        (("--log", "xray_images/*.mccd"), 1, ("xray_images/*.mccd: cannot be opened",)),
        (("none.mccd", "nor.mccd"), 1, ("none.mccd: No such file", "(and 1 more)")),
        (("none*.mccd",), 1, ("none*.mccd: no file matches this pattern",)),
        (
            ("xray_images/*.mccd", "--table", "none.csv"),
            1,
            ("none.csv: cannot be opened: No such file",),
        ),
        (
            ("xray_images/*.mccd", "--name-pattern", "{angle}.mccd"),
            1,
            ("the name does not match --name-pattern, expected '{angle}.mccd'",),
        ),
        (("xray_images/*.mccd", "--name-pattern", "x.mccd"), 2, ("--name-pattern", "has no field")),
        (
            ("xray_images/*.mccd", "--laser", "of,on"),
            2,
            ("--laser", "'of,on' is not a list of on and off"),
        ),
        (("xray_images/*.mccd", "--angle-start", "1"), 2, ("--angle-start", "needs --angle-step")),
        (
            ("xray_images/*.mccd", "--angle-step", "x"),
            2,
            ("--angle-step", "'x' is not a valid float"),
        ),
        (
            ("xray_images/*.mccd", "--angle-step", "nan"),
            2,
            ("--angle-step", "nan is not a finite number"),
        ),
        (
            ("xray_images/*.mccd", "--frames-per-angle", "0"),
            2,
            ("--frames-per-angle", "0 is not in the range"),
        ),
        (("xray_images/*.mccd", "-p", "xray_images"), 2, ("-p/--path", "needs a log or a table")),
        (("xray_images/*.mccd", "--log", "scan.log"), 2, ("--log", "lists all images")),
        (("--table", "scan.log", "--log", "scan.log"), 2, ("--table", "cannot be used with a log")),
        (
            ("scan.log", "--angle-step", "1"),
            1,
            ("scan.log: --angle-step gives angle, which is already known",),
        ),
        (
            ("scan.log", "--laser", "off"),
            1,
            ("scan.log: --laser gives laser_on, which is already known",),
        ),
        (
            ("xray_images/*.mccd", "-o", "xray_images"),
            1,
            ("xray_images: is a folder, expected the name of a file",),
        ),
        (("scan.log", "-o", "scan.log", "--force"), 1, ("scan.log: the output is the input file",)),
        (
            ("scan.log", "-o", "xray_images/scan_3.000_on_1.mccd", "--force"),
            1,
            ("scan_3.000_on_1.mccd: the output is the input file",),
        ),
        (("scan.log", "-o", "no/folder/x.h5"), 1, ("x.h5: the folder no/folder is missing",)),
        (("xray_images/*.mccd", "--threads", "0"), 2, ("--threads",)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_errors_are_one_line(
    name: str,
    arguments: tuple[str, ...],
    status: int,
    words: tuple[str, ...],
    scan: Scan,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(scan.log.parent)
    before = listing(scan.log.parent)
    assert_refused(command(name, *arguments, "--quiet", name="gpu-spots"), status, *words)
    assert listing(scan.log.parent) == before


def test_an_output_that_exists_stays(scan: Scan) -> None:
    output = scan.log.with_name("scan__mccd.h5")
    output.write_text("precious")
    assert_refused(
        convert(scan.log, "--quiet"),
        1,
        "scan__mccd.h5: already exists; use --force to overwrite it",
    )
    assert output.read_text() == "precious"
    scan.paths[3].write_bytes(b"")
    assert_refused(convert(scan.log, "--quiet", "--force"), 1, scan.names[3])
    assert output.read_text() == "precious"
    scan.paths[3].write_bytes(marccd(series()[3]))
    assert convert(scan.log, "--quiet", "--force").status == 0
    assert h5py.is_hdf5(output)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("run__mccd.h5", "other.h5"),
            ("other.h5 is one argument too many", "expected one HDF5 file or images"),
        ),
        (
            ("run__mccd.h5", "--laser", "off"),
            ("--laser", "can only be used with images, run__mccd.h5 is an HDF5 file"),
        ),
        (("run__mccd.h5", "--skip-bad"), ("--skip-bad", "can only be used with images")),
        (("run", "--log", "x.log"), ("--log", "can only be used with images, run is an HDF5 file")),
    ],
)
def test_images_and_hdf5_do_not_go_together(
    arguments: tuple[str, ...],
    words: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copy(write_run(tmp_path / "run__mccd.h5"), tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    assert_refused(find(*arguments), 2, *words)
    assert_refused(
        convert("run__mccd.h5", "--quiet"),
        1,
        "run__mccd.h5: is an HDF5 file, expected an image; gpu-spots find reads HDF5",
    )


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("*.h5",), 1, ("*.h5: cannot be opened: No such file",)),  # patterns are for images
        (("run",), 0, ()),
        (("run", "--table", "t.csv"), 0, ()),
        (
            ("a.mccd", "-a", "0"),
            1,
            ("a.mccd: found 1 frame, expected at least 2",),
        ),
        (("a.mccd.gz", "-a", "0"), 1, ("a.mccd.gz: found 1 frame",)),
        (("text", "-a", "0"), 1, ("text: is not an HDF5 file",)),
        (("pipe.mccd", "-a", "0"), 1, ("pipe.mccd: is a named pipe, expected an image",)),
    ],
)
def test_one_source_is_taken_for_what_it_is(
    arguments: tuple[str, ...],
    status: int,
    words: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_run(tmp_path / "run__mccd.h5").rename(tmp_path / "run")
    (tmp_path / "a.mccd").write_bytes(marccd(series(1)[0]))
    (tmp_path / "a.mccd.gz").write_bytes(gzip.compress(marccd(series(1)[0])))
    (tmp_path / "t.csv").write_text("angle\n" + "".join(f"{i}\n" for i in range(20)))
    (tmp_path / "text").write_text("hello")
    os.mkfifo(tmp_path / "pipe.mccd")
    monkeypatch.chdir(tmp_path)
    ended = find(*arguments)
    if status == 0:
        assert ended.status == 0, ended
    else:
        assert_refused(ended, status, *words)


def test_what_images_lack_is_said_with_the_options_that_give_it(scan: Scan) -> None:
    images = scan.folder / "*.mccd"
    assert_refused(
        find(images),
        1,
        "lauecollect/angle is missing",
        "use --table, --name-pattern or --angle-step",
        "expected at least 10 different angles (-a/--angles)",
    )
    assert_refused(
        find(images, "-a", 0, "-S", "pairs"),
        1,
        "lauecollect/angle is missing",
        "use --table, --name-pattern or --angle-step",
    )
    for i, path in enumerate(scan.paths):
        path.rename(path.with_name(f"{i}.mccd"))
    assert_refused(
        find(images, "-S", "pairs", "--angle-step", 1, "-o", scan.folder / "x.h5"),
        1,
        "-S pairs needs a laser run",
        "use --table, --name-pattern or --laser",
    )


@pytest.mark.parametrize("share", [0, 0.01, 0.1, 0.5, 0.9, 0.999])
def test_a_full_disk_leaves_nothing(
    scan: Scan, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert convert(scan.log, "--quiet").status == 0
    size = scan.log.with_name("scan__mccd.h5").stat().st_size
    scan.log.with_name("scan__mccd.h5").unlink()
    before = listing(scan.log.parent)
    disk = FullDisk(monkeypatch, int(share * size))
    assert_refused(
        convert(scan.log, "--quiet"), 1, "scan__mccd.h5: cannot be written: No space left on device"
    )
    assert disk.refused
    assert listing(scan.log.parent) == before


@pytest.mark.parametrize(
    ("number", "message"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")]
)
def test_an_interrupt_leaves_nothing(tmp_path: Path, number: signal.Signals, message: str) -> None:
    scan = write_scan(
        tmp_path,
        np.random.default_rng(0).integers(0, 60000, (60, 512, 512)).astype("u2"),
        list(range(60)),
        [0] * 60,
    )
    before = listing(tmp_path)
    with started("convert", scan.log, "--threads", 1, name="gpu-spots") as running:
        assert running.stderr is not None
        assert running.stderr.readline() == "convert, 60 frames...\n"
        running.send_signal(number)
        stdout, stderr = running.communicate(timeout=60)
    assert (running.returncode, stdout, stderr) == (
        -number,
        "",
        f"gpu-spots: {message}; nothing was written\n",
    )
    assert listing(tmp_path) == before
