"""Errors of outputs that cannot be written, and of full disks.

Each is one line. Nothing is left, and no other file is touched.
"""

import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from gpu_spots.errors import OutputError
from gpu_spots.files.output import locks
from gpu_spots.files.output.new_file import complete_or_absent
from helpers import Ended, FullDisk, assert_refused, command, listing, process, refuses, write_run


def test_an_output_that_exists_is_refused(run: Path) -> None:
    (run.parent / "run__spots.h5").write_text("precious")
    refuses(run, words=("run__spots.h5", "already exists", "--force"))


@pytest.mark.parametrize("force", [(), ("--force",)], ids=["unforced", "forced"])
@pytest.mark.parametrize("target", ["nowhere", "precious", "folder", "/dev/null"])
def test_a_link_as_output_is_refused_and_left_alone(
    run: Path, target: str, force: tuple[str, ...]
) -> None:
    (run.parent / "precious").write_text("precious")
    (run.parent / "folder").mkdir()
    (run.parent / "run__spots.h5").symlink_to(target)
    refuses(run, *force, words=("run__spots.h5", "is a"))
    assert os.readlink(run.parent / "run__spots.h5") == target


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_appears_under_the_outputs_name_meanwhile_is_left_alone(
    run: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = run.parent / "run__spots.h5"
    fsync = os.fsync

    def appear(descriptor: int) -> None:
        if kind == "file":
            output.write_text("another's")
        else:
            output.symlink_to("precious")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", appear)
    assert_refused(
        command(run, "--quiet"),
        1,
        "run__spots.h5",
        "meanwhile" if kind == "file" else "symbolic link to precious",
        "-o",
    )
    assert set(listing(run.parent)) == {run.name, output.name}
    assert (
        os.readlink(output) == "precious" if kind == "link" else output.read_text() == "another's"
    )


@pytest.mark.parametrize("force", [(), ("--force",)], ids=["unforced", "forced"])
@pytest.mark.parametrize(
    "way", ["same", "relative", "round about", "soft link", "hard link", "input is the link"]
)
def test_the_input_is_never_the_output(
    run: Path, way: str, force: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.parent)
    link = run.parent / "link.h5"
    source, output = run, run
    if way == "relative":
        output = Path(run.name)
    elif way == "round about":
        output = run.parent / ".." / run.parent.name / run.name
    elif way == "hard link":
        os.link(run, link)
        output = link
    elif way != "same":
        link.symlink_to(run)
        source, output = (run, link) if way == "soft link" else (link, run)
    refuses(source, "-o", output, *force, words=(str(output), "is the input file"))


def test_the_input_is_not_taken_for_a_left_over_of_the_output(run: Path) -> None:
    source = run.rename(run.parent / "x.h5.part")
    refuses(source, "-o", run.parent / "x.h5", "--force", words=("x.h5.part", "is the input file"))


def test_a_missing_folder_is_refused(run: Path) -> None:
    refuses(
        run,
        "-o",
        run.parent / "no" / "folder" / "x.h5",
        words=("x.h5", "the folder", "no/folder is missing"),
    )


def test_a_file_in_place_of_a_folder_is_refused(run: Path) -> None:
    refuses(run, "-o", run / "x.h5", words=("x.h5", "the folder", "is missing", run.name))


def test_a_folder_as_output_is_refused(run: Path) -> None:
    refuses(
        run,
        "-o",
        run.parent,
        "--force",
        words=(str(run.parent), "is a folder", "expected the name of a file"),
    )


@pytest.mark.parametrize("device", ["/dev/null", "/dev/full"])
def test_a_device_as_output_is_refused(run: Path, device: str) -> None:
    if not Path(device).exists():
        pytest.skip(f"no {device} here")
    refuses(
        run, "-o", device, "--force", words=(device, "is a device", "expected the name of a file")
    )


def test_a_name_that_is_too_long_is_refused(run: Path) -> None:
    refuses(run, "-o", run.parent / ("x" * 300), words=("x" * 300, "File name too long"))


def test_a_folder_that_cannot_be_written_to_is_refused(run: Path) -> None:
    if os.geteuid() != 0:
        folder = run.parent / "locked"
        folder.mkdir(mode=0o500)
    elif Path("/sys/kernel").is_dir():
        folder = Path("/sys/kernel")  # where root cannot create files either
    else:
        pytest.skip("root may write everywhere here")
    refuses(
        run,
        "-o",
        folder / "x.h5",
        words=(str(folder / "x.h5"), "cannot be written", "Permission denied"),
    )


@pytest.mark.parametrize("kind", ["folder", "pipe", "soft link"])
def test_what_is_in_the_way_is_left_alone(run: Path, kind: str) -> None:
    part, other = run.parent / "run__spots.h5.part", run.parent / "other"
    other.write_text("precious")
    if kind == "folder":
        part.mkdir()
    elif kind == "pipe":
        os.mkfifo(part)
    else:
        part.symlink_to(other)
    before = {**listing(run.parent)}
    assert_refused(command(run, "--quiet"), 1, "run__spots.h5", "run__spots.h5.part already exists")
    assert listing(run.parent) == before


@pytest.mark.parametrize(
    "content", [b"", b"precious", b"\x89HDF\r\n\x1a\n"], ids=["empty", "text", "HDF5"]
)
def test_a_file_of_the_unfinished_name_that_is_not_ours_is_left_alone(
    run: Path, content: bytes
) -> None:
    part = run.parent / "run__spots.h5.part"
    part.write_bytes(content)
    refuses(
        run,
        "--force",
        words=("run__spots.h5.part already exists", "was not left by this program", "-o"),
    )
    assert part.read_bytes() == content


def test_a_left_over_is_removed(run: Path) -> None:
    part = run.parent / "run__spots.h5.part"
    part.write_bytes(b"half done")
    part.chmod(0o1644)
    assert command(run, "--quiet").status == 0
    assert set(listing(run.parent)) == {run.name, "run__spots.h5"}


def test_unfinished_files_are_marked_and_finished_ones_are_not(tmp_path: Path) -> None:
    with complete_or_absent(tmp_path / "x") as part:
        assert part.stat().st_mode & stat.S_ISVTX
    assert not (tmp_path / "x").stat().st_mode & stat.S_ISVTX


def test_a_new_file_that_another_run_removes_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = locks.lock
    removed: list[int] = []

    def removed_and_locked(descriptor: int) -> bool:
        if not removed:
            removed.append(descriptor)
            (tmp_path / "x.part").unlink()
        return lock(descriptor)

    monkeypatch.setattr(locks, "lock", removed_and_locked)
    with complete_or_absent(tmp_path / "x") as part:
        part.write_text("all of it")
        monkeypatch.undo()
        with (
            pytest.raises(OutputError, match="another run is writing it"),
            complete_or_absent(tmp_path / "x"),
        ):
            pass
    assert (tmp_path / "x").read_text() == "all of it"


def test_another_run_to_the_same_output_is_refused(run: Path) -> None:
    output = run.parent / "run__spots.h5"
    with complete_or_absent(output) as part:
        part.write_text("half done")
        before = listing(run.parent)
        assert_refused(command(run, "--quiet"), 1, "run__spots.h5", "another run is writing it")
        assert_refused(process(run, "--quiet"), 1, "run__spots.h5", "another run is writing it")
        assert listing(run.parent) == before
        part.write_text("done")
    assert output.read_text() == "done"


def test_an_output_that_is_taken_away_while_it_is_written_is_an_error(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = run.parent / "run__spots.h5"
    fsync = os.fsync

    def replace_and_sync(descriptor: int) -> None:
        (run.parent / "run__spots.h5.part").unlink(missing_ok=True)
        (run.parent / "run__spots.h5.part").write_text("another's")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", replace_and_sync)
    assert_refused(
        command(run, "--quiet"), 1, "run__spots.h5", "run__spots.h5.part was replaced meanwhile"
    )
    assert not output.exists()
    assert (run.parent / "run__spots.h5.part").read_text() == "another's"


def test_file_systems_without_locks_do(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_lock(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", no_lock)
    assert command(run, "--quiet").status == 0


# --------------------------------------------------------------------------------------- full disks


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Bytes of the output, by compression."""
    run = write_run(tmp_path_factory.mktemp("sizes") / "run__mccd.h5")
    found = {}
    for name in ("gzip", "none"):
        assert command(run, "-C", name, "-S", "pairs", "--quiet", "--force").status == 0
        found[name] = (run.parent / "run__spots.h5").stat().st_size
    return found


@pytest.mark.parametrize("share", [0, 0.003, 0.03, 0.2, 0.5, 0.8, 0.97, 0.999])
@pytest.mark.parametrize("compression", ["gzip", "none"])
def test_a_full_disk_leaves_nothing(
    run: Path,
    compression: str,
    share: float,
    sizes: dict[str, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disk = FullDisk(monkeypatch, int(share * sizes[compression]))
    refuses(
        run,
        "-C",
        compression,
        "-S",
        "pairs",
        words=("run__spots.h5", "cannot be written", "No space left on device"),
    )
    assert disk.refused


def test_a_disk_that_is_full_later_than_said_leaves_nothing(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(_: int) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, "fsync", fsync)
    refuses(run, words=("run__spots.h5", "cannot be written", os.strerror(errno.EDQUOT)))


def limited(size: int, *arguments: object, **options: Any) -> Ended:
    """Run a command whose files may have ``size`` bytes.

    The system refuses more, like a full disk.
    """
    prelude = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))"
    # without coverage, which could not write its file either
    unmeasured = {name: value for name, value in os.environ.items() if "COVERAGE" not in name}
    return process(*arguments, prelude=prelude, env=unmeasured, **options)


@pytest.mark.parametrize("size", [1, 20_000, 280_000])
def test_a_process_that_may_write_no_more_ends_well(run: Path, size: int) -> None:
    before = listing(run.parent)
    ended = limited(size, run, "--quiet")
    assert_refused(
        ended, 1, "lu_hdf2spots: ", "run__spots.h5", "cannot be written", os.strerror(errno.EFBIG)
    )
    assert listing(run.parent) == before


def test_a_full_disk_keeps_the_old_output(run: Path) -> None:
    output = run.parent / "run__spots.h5"
    output.write_text("precious")
    before = listing(run.parent)
    assert_refused(
        limited(20_000, run, "--quiet", "--force"), 1, "run__spots.h5", "cannot be written"
    )
    assert listing(run.parent) == before


def test_a_simulation_on_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    arguments = ("simulate", tmp_path / "x__mccd.h5", "--size", 64, "--angles", 3)
    ended = limited(30_000, *arguments, name="gpu-spots")
    assert (ended.status, ended.stdout) == (1, "")
    assert ended.lines[-1].startswith("gpu-spots: ")
    assert "x__mccd.h5: cannot be written" in ended.lines[-1]
    assert "Traceback" not in ended.stderr
    assert not listing(tmp_path)
