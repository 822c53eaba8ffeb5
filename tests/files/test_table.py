"""Tables of metadata: what is read, and what is refused by name."""

from pathlib import Path

import numpy as np
import pytest

from gpu_spots.errors import InputError
from gpu_spots.files.table import read_table


def read(tmp_path: Path, text: str) -> dict[str, np.ndarray]:
    path = tmp_path / "table.csv"
    path.write_text(text)
    return dict(read_table(path))


@pytest.mark.parametrize("separator", [",", ";", "\t", " ", ", ", "   "])
def test_every_separator_gives_the_same_columns(separator: str, tmp_path: Path) -> None:
    rows = [("angle", "laser_on", "file"), ("1.5", "0", "a.mccd"), ("2", "1", "b.mccd")]
    found = read(tmp_path, "\n".join(separator.join(row) for row in rows) + "\n")
    assert list(found) == ["angle", "laser_on", "file"]
    assert found["angle"].dtype == np.float64
    assert found["laser_on"].dtype == np.int64
    assert found["angle"].tolist() == [1.5, 2.0]
    assert found["laser_on"].tolist() == [0, 1]
    assert found["file"].tolist() == ["a.mccd", "b.mccd"]


def test_names_lose_their_units_and_capitals(tmp_path: Path) -> None:
    assert list(read(tmp_path, "Angle [deg],Laser On, delay (s)\n1,0,-\n")) == [
        "angle",
        "laser_on",
        "delay",
    ]


def test_comments_and_empty_lines_are_skipped(tmp_path: Path) -> None:
    found = read(tmp_path, "# my scan\n\nangle,laser_on\n# half of it\n1,on\n\n2,off\n")
    assert (found["angle"].tolist(), found["laser_on"].tolist()) == ([1, 2], ["on", "off"])


def test_names_in_a_comment_as_numpy_writes_them(tmp_path: Path) -> None:
    np.savetxt(tmp_path / "table.txt", np.array([[1.0, 0], [2.5, 1]]), header="angle laser_on")
    found = read_table(tmp_path / "table.txt")
    assert (found["angle"].tolist(), found["laser_on"].tolist()) == ([1.0, 2.5], [0.0, 1.0])


def test_quotes_and_a_byte_order_mark(tmp_path: Path) -> None:
    found = read(tmp_path, '\ufeffangle,"comment"\n1,"a, b"\n2,\n')
    assert found["comment"].tolist() == ["a, b", ""]


def test_an_empty_number_is_nan(tmp_path: Path) -> None:
    found = read(tmp_path, "angle,x\n1,2\n,3\n")
    assert np.isnan(found["angle"]).tolist() == [False, True]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no table in it"),
        ("# only a comment\n", "has no table in it"),
        ("angle,laser_on\n", "no rows below"),
        ("1,0\n2,1\n", "line 1 has numbers only"),
        ("# my scan\n1,0\n2,1\n", "line 2 has numbers only"),
        ("angle,laser_on\n1,0\n2\n", "line 3 has 1 values, expected 2: angle, laser_on"),
        ("angle,laser_on\n1,0,5\n", "line 2 has 3 values"),
        ("angle,angle\n1,0\n", "two columns are called 'angle'"),
        ("angle,\n1,0\n", "column 2 has no name"),
        ("angle\0\n1\n", "not a text file"),
    ],
)
def test_what_is_no_table_is_refused(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words) as refused:
        read(tmp_path, text)
    assert "table.csv" in str(refused.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(InputError, match="is a folder, expected a table"):
        read_table(tmp_path)
    (tmp_path / "image.csv").write_bytes(bytes(range(256)))
    with pytest.raises(InputError, match="not a text file"):
        read_table(tmp_path / "image.csv")
