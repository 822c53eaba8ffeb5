"""The command export: formats, options, errors, and outputs that are complete or absent."""

import errno
import os
import signal
import time
from pathlib import Path

import click
import h5py
import numpy as np
import pytest

from factories.exports import spots_of_run
from gpu_spots.cli.export import export as command_export
from gpu_spots.export.format import Format
from gpu_spots.export.formats import FORMATS
from helpers import assert_refused, command, listing, started

NAMES = list(FORMATS)
RUN = "{folder}/run__mccd.h5"


@pytest.mark.parametrize("name", NAMES)
def test_every_format_is_written_beside_the_spots(spots: Path, name: str) -> None:
    if name == "parquet":
        pytest.importorskip("pyarrow", reason="needs the extra export: pyarrow")
    before = listing(spots.parent)
    ended = command("export", name, spots, name="gpu-spots")
    assert (ended.status, ended.stdout) == (0, "")
    output = spots.with_name("run" + FORMATS[name].ending)
    assert ended.lines[-1].startswith(f"{output}: ")
    after = listing(spots.parent)
    assert before.items() <= after.items()
    new = {path.split("/")[0] for path in after.keys() - before.keys()}
    assert new == {output.name}
    # an existing output is left alone, and replaced if that is wanted
    again = command("export", name, spots, "--quiet", name="gpu-spots")
    assert_refused(again, 1, str(output), "already exists; use --force to overwrite it")
    assert listing(spots.parent) == after
    forced = command("export", name, spots, "--quiet", "--force", name="gpu-spots")
    assert (forced.status, forced.stderr) == (0, "")
    assert listing(spots.parent).keys() == after.keys()


@pytest.mark.parametrize("name", NAMES)
def test_formats_describe_themselves(name: str) -> None:
    one = FORMATS[name]
    texts = (one.title, one.reader, one.ending, one.written, one.left_out)
    assert all(text and not text.endswith(".") for text in texts)
    assert type(one).write is not Format.write
    assert name == one.name


def test_endings_differ() -> None:
    assert len({one.ending for one in FORMATS.values()}) == len(FORMATS)


def test_help_lists_the_formats() -> None:
    ended = command("export", "--help", name="gpu-spots")
    assert ended.status == 0
    assert all(f"  {name} " in ended.stdout for name in NAMES)


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("xds", "{spots}"), 2, ("'xds' is not one of csv, parquet, refl")),
        (
            ("csv", "{spots}", "--one-per-angle", "off"),
            2,
            "cannot be used with csv; it is for refl",
        ),
        (("refl", "{spots}", "--one-per-angle", "0"), 2, "'0' is not off, on or a number of at"),
        (("refl", "{spots}", "--one-per-angle", "both"), 2, "'both' is not off, on or a number"),
        (("csv", "{spots}", "--frames-from", "x.h5"), 2, "cannot be used with csv; it is for laue"),
        (("csv", "{folder}/no.h5"), 1, "no.h5: cannot be opened: No such file or directory"),
        (("csv", "."), 1, ".: is a folder, expected an HDF5 file"),
        (("csv", "{folder}/run__mccd.h5"), 1, "run__mccd.h5: not a spots file, it has no dataset"),
        (("csv", "{spots}", "-o", "{spots}"), 1, "the output is the input file"),
        (("csv", "{spots}", "-o", RUN, "--force"), 1, "run__mccd.h5: the output is the input file"),
        (("cleaned", "{spots}", "-o", RUN, "--force"), 1, "the output is the input file"),
        (("csv", "{spots}", "-o", "{folder}/no/a.csv"), 1, "is missing; name another output"),
        (("csv", "{spots}", "-o", "{folder}"), 1, "is a folder"),
        (("34id", "{spots}", "-o", "{folder}/no/a"), 1, "is missing; name another output with -o"),
        (("34id", "{spots}", "-o", "{spots}"), 1, "expected a new folder"),
        (("34id", "{spots}", "-o", "{folder}", "--force"), 1, "which is not of an earlier export"),
        (("cleaned", "{spots}", "--frames-from", "{folder}/a.h5"), 1, "a.h5: cannot be opened: No"),
        (
            ("cleaned", "{spots}", "--frames-from", RUN, "--force", "-o", RUN),
            1,
            "the output is the input file",
        ),
    ],
)
def test_errors_are_one_line_and_nothing_is_written(
    spots: Path, arguments: tuple[str, ...], status: int, words: str
) -> None:
    before = listing(spots.parent)
    given = [text.format(spots=spots, folder=spots.parent) for text in arguments]
    ended = command("export", *given, "--quiet", name="gpu-spots")
    assert_refused(ended, status, words)
    assert listing(spots.parent) == before


@pytest.mark.parametrize("name", ["csv", "refl", "imaged11", "lauetools", "34id"])
def test_a_full_disk_is_one_line_and_nothing_is_left(
    spots: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that takes no more bytes; HDF5 files have tests of their own."""
    opened = Path.open

    class Full:
        def __init__(self, path: Path) -> None:
            self.file = opened(path, "wb")

        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, data: bytes) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def full(path: Path, mode: str = "r", **options: object) -> object:
        return Full(path) if mode == "wb" else opened(path, mode, **options)  # type: ignore[call-overload]

    before = listing(spots.parent)
    monkeypatch.setattr(Path, "open", full)
    ended = command("export", name, spots, "--quiet", name="gpu-spots")
    monkeypatch.undo()
    assert_refused(ended, 1, "run", "cannot be written: No space left on device")
    assert listing(spots.parent) == before


@pytest.mark.parametrize("name", ["csv", "lauetools", "imaged11-sparse", "cxi", "cleaned"])
def test_ctrl_c_leaves_nothing(spots: Path, name: str) -> None:
    """The command waits where it has begun to write, until it is stopped."""
    before = listing(spots.parent)
    prelude = (
        "from gpu_spots.export import formats; import time; "
        f"one = type(formats.FORMATS[{name!r}]); write = one.write\n"
        "def slow(self, source, target):\n"
        "    write(self, source, target); print('written', flush=True); time.sleep(60)\n"
        "one.write = slow"
    )
    with started("export", name, spots, "--quiet", name="gpu-spots", prelude=prelude) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "written\n"
        assert listing(spots.parent) != before
        running.send_signal(signal.SIGINT)
        _, stderr = running.communicate(timeout=60)
    assert running.returncode == -signal.SIGINT
    assert stderr == "gpu-spots: interrupted; nothing was written\n"
    assert listing(spots.parent) == before


def test_a_killed_run_leaves_a_folder_that_the_next_one_replaces(spots: Path) -> None:
    prelude = (
        "from gpu_spots.export import formats; import time; "
        "one = type(formats.FORMATS['34id']); write = one.write\n"
        "def slow(self, source, target):\n"
        "    write(self, source, target); print('written', flush=True); time.sleep(60)\n"
        "one.write = slow"
    )
    with started("export", "34id", spots, "--quiet", name="gpu-spots", prelude=prelude) as running:
        assert running.stdout is not None
        running.stdout.readline()
        waiting = command("export", "34id", spots, "--quiet", name="gpu-spots")
        assert_refused(waiting, 1, "another run is writing it")
        running.kill()
        running.communicate(timeout=60)
    deadline = time.monotonic() + 20
    while running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    part = spots.with_name("run__34id.part")
    assert part.is_dir()
    assert not spots.with_name("run__34id").exists()
    assert command("export", "34id", spots, "--quiet", name="gpu-spots").status == 0
    assert not part.exists()
    assert len(list(spots.with_name("run__34id").iterdir())) == 20


def test_a_file_behind_the_run_is_not_overwritten(spots: Path) -> None:
    """The run is a virtual dataset whose source is the output."""
    run, source = spots.with_name("run__mccd.h5"), spots.with_name("source.h5")
    run.rename(source)
    with h5py.File(source) as file:
        layout = h5py.VirtualLayout(file["frames"].shape, file["frames"].dtype)
        layout[...] = h5py.VirtualSource(file["frames"])
    with h5py.File(run, "w") as file:
        file.create_virtual_dataset("frames", layout)
    before = listing(spots.parent)
    arguments = ("cleaned", spots, "-o", source, "--force", "--quiet")
    ended = command("export", *arguments, name="gpu-spots")
    assert_refused(ended, 1, "source.h5: the output is the input file")
    assert listing(spots.parent) == before


def test_a_file_of_the_first_version_is_exported(spots: Path) -> None:
    """Without the columns that came later: overload, and the levels of the frames."""
    with h5py.File(spots, "r+") as file:
        for path in ("spots/overload", "frame_level", "info"):
            del file[path]
        file.create_group("info")
    ended = command("export", "csv", spots, name="gpu-spots")
    assert ended.status == 0
    assert "overload" not in spots.with_name("run__spots.csv").read_text()
    assert command("export", "refl", spots, "--quiet", name="gpu-spots").status == 0
    ended = command("export", "cleaned", spots, "--quiet", name="gpu-spots")
    assert_refused(ended, 1, "is not recorded in info; give it with --frames-from")


def test_a_run_without_spots_can_be_exported(tmp_path: Path) -> None:
    spots = spots_of_run(tmp_path, "-c", 1000, "-S", "none")
    for name in NAMES:
        if name == "parquet":
            pytest.importorskip("pyarrow", reason="needs the extra export: pyarrow")
        ended = command("export", name, spots, name="gpu-spots")
        assert ended.status == 0, ended
        assert ": 0 spots, " in ended.lines[-1]


def test_intensities_of_any_sign_are_exported(spots: Path) -> None:
    with h5py.File(spots, "r+") as file:
        values = np.linspace(-5, 5, len(file["spots/I"]))
        values[0] = 0
        del file["spots/I"]
        file["spots/I"] = values
    for name in NAMES:
        assert name == "parquet" or command("export", name, spots, name="gpu-spots").status == 0


def test_the_shell_completes_names_of_formats() -> None:
    format_name = command_export.params[0]
    context = click.Context(command_export)
    found = [item.value for item in format_name.shell_complete(context, "im")]
    assert found == ["imaged11", "imaged11-h5", "imaged11-sparse"]


@pytest.mark.parametrize("name", NAMES)
def test_properties_of_spots_are_exported(whole_spots: Path, name: str) -> None:
    """Every format works with files that lack properties."""
    with h5py.File(whole_spots, "r+") as file:
        for column in ("centroid", "centroid_sigma", "moments", "fwhm", "orientation"):
            file[f"spots/{column}"][0] = np.nan
        file["spots/moments"][1, 0] = -2.0
    ended = command("export", name, whole_spots, name="gpu-spots")
    assert ended.status == 0, ended.stderr
    assert "the file has no spots/" not in ended.stderr
