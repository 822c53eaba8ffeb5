"""Output folders that are complete or absent."""

import errno
import os
from pathlib import Path

import pytest

from gpu_spots.errors import OutputError
from gpu_spots.files.output.new_folder import (
    OLD,
    check_output_folder,
    complete_folder_or_absent,
)
from helpers import listing


def is_text(name: str) -> bool:
    return name.endswith(".txt")


def test_a_folder_appears_when_it_is_complete(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with complete_folder_or_absent(output) as part:
        (part / "a.txt").write_text("a")
        assert not output.exists()
    assert [path.name for path in output.iterdir()] == ["a.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    other = tmp_path / "as usual"
    other.mkdir()
    assert output.stat().st_mode == other.stat().st_mode


def test_after_an_error_nothing_is_left(tmp_path: Path) -> None:
    def fail() -> None:
        with complete_folder_or_absent(tmp_path / "out") as part:
            (part / "a.txt").write_text("a")
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    assert not list(tmp_path.iterdir())


def test_an_old_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "old.txt").write_text("old")
    check_output_folder(output, (), True, is_text)
    with complete_folder_or_absent(output) as part:
        (part / "new.txt").write_text("new")
        assert (output / "old.txt").exists()
    assert [path.name for path in output.iterdir()] == ["new.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_if_it_cannot_get_its_name_the_old_folder_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "old.txt").write_text("old")
    rename = Path.rename

    def failing(path: Path, target: Path) -> Path:
        if path.name == "out.part":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    with (
        pytest.raises(OutputError, match="out: cannot be written: Input/output error"),
        complete_folder_or_absent(output) as part,
    ):
        (part / "new.txt").write_text("new")
    assert [path.name for path in output.iterdir()] == ["old.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["out.part", f"out{OLD}"])
def test_folders_of_others_are_never_removed(tmp_path: Path, name: str) -> None:
    output, others = tmp_path / "out", tmp_path / name
    for folder in (output, others):
        folder.mkdir()
        (folder / "b.txt").write_text("b")
    before = listing(tmp_path)
    with (
        pytest.raises(OutputError, match=f"out: cannot be written: .*{name}.*exists.*move it"),
        complete_folder_or_absent(output),
    ):
        pass
    assert listing(tmp_path) == before


def test_a_folder_with_other_files_is_not_replaced(tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "a.txt").write_text("a")
    with pytest.raises(OutputError, match="out: already exists; use force=True to overwrite it"):
        check_output_folder(output, (), False, is_text)
    check_output_folder(output, (), True, is_text)
    with pytest.raises(OutputError, match=r"has a\.txt, which is not of an earlier export"):
        check_output_folder(output, [output / "a.txt"], True, is_text)
    (output / "thesis.pdf").write_text("b")
    with pytest.raises(OutputError, match=r"has thesis\.pdf, which is not of an earlier export"):
        check_output_folder(output, (), True, is_text)


def test_a_link_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "real")
    with pytest.raises(OutputError, match="is a file or a link, expected a new folder"):
        check_output_folder(tmp_path / "out", (), True, is_text)
