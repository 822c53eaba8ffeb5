"""Damaged logs and tables, and absurd patterns of names: a result or one line, quickly."""

import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from factories.damage import mutations
from factories.image_runs import marccd
from gpu_spots.errors import GpuSpotsError, InputError, ParameterError
from gpu_spots.files.images.image_list import ImageRequest, list_images
from gpu_spots.files.images.lauecollect_log import read_log
from gpu_spots.files.images.name_pattern import compile_pattern
from gpu_spots.files.table import read_table
from gpu_spots.masks.grouping import angle_keys


def log_of(lines: int = 9) -> bytes:
    text = "\n".join(
        [
            "# a log",
            "#date time\tfile\tangle[deg]\tlaser_on",
            *(f"-\ta_{i}.mccd\t{i / 10}\t{i % 2}" for i in range(lines)),
        ]
    )
    return text.encode()


TEXTS: dict[str, tuple[bytes, str]] = {
    "a line of a million characters": (
        b"#file\tangle\n" + b"a" * 10**6,
        "line 2 has 1000000 characters, expected at most 100000",
    ),
    "brackets": (
        b"#file\t" + b"[" * 90_000 + b"\n",
        "the name of column 2 is '\\[\\[.*expected at most 200 characters",
    ),
    "blanks in a name": (b"#file\ta" + b" " * 90_000 + b"b\n", "the name of column 2 is"),
    "many columns": (
        b"#file\t" + b"x\t" * 40_000 + b"y\n",
        "has 4000[12] columns, expected at most 2000",
    ),
    "garbage": (
        np.random.default_rng(0).integers(1, 255, 10**6).astype("u1").tobytes(),
        "comes before the header|is not a text|no Laue",
    ),
    "NUL": (b"#file\tangle\n\0" * 99, "is not a text file"),
    "a million lines of one byte": (
        b"x\n" * 10**6,
        "has 1000000 lines, expected a Lauecollect log of at most 262140",
    ),
    "control characters": (b"#file\tangle\na\x1b[2J.mccd\t1\n", "control characters"),
}


@pytest.mark.parametrize(("content", "words"), TEXTS.values(), ids=TEXTS)
def test_absurd_logs_are_refused_quickly(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.log").write_bytes(content)
    begin = time.perf_counter()
    with pytest.raises(InputError, match=words) as refused:
        list_images(ImageRequest(log=tmp_path / "a.log"))
    assert time.perf_counter() - begin < 2
    assert str(refused.value).isprintable()


def test_a_table_with_a_long_field_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"angle,x\n1,{'a' * 200_000}\n")
    with pytest.raises(
        InputError, match=r"a\.csv: line 2 has 200002 characters, expected at most 100000"
    ):
        read_table(tmp_path / "a.csv")
    for heading in ("[" * 5000, "a" * 300, "a\x07"):
        (tmp_path / "a.csv").write_text(f"angle,{heading}\n1,2\n")
        with pytest.raises(InputError, match=r"a\.csv: line 1"):
            read_table(tmp_path / "a.csv")


@pytest.mark.parametrize("digits", [19, 400, 5000, 90_000])
def test_numbers_of_many_digits_are_no_angles(digits: int, tmp_path: Path) -> None:
    number = "9" * digits
    (tmp_path / "a.csv").write_text(f"angle\n{number}\n")
    (tmp_path / "a.log").write_text(f"#file\tangle[deg]\na.mccd\t{number}\n")
    for columns in (
        read_table(tmp_path / "a.csv"),
        {name: c.values for name, c in read_log(tmp_path / "a.log").columns.items()},
    ):
        with pytest.raises(
            InputError, match=r"x: lauecollect/angle is .* at frame 0, expected degrees"
        ):
            angle_keys(columns, 1, "x")


def test_numbers_of_many_digits_in_names(tmp_path: Path) -> None:
    path = tmp_path / f"a_{'9' * 200}.mccd"
    path.write_bytes(marccd(np.ones((24, 33), np.uint16)))
    with pytest.raises(
        InputError, match=r"{angle_number} is 9+ in a name, expected a number of at most 18 digits"
    ):
        list_images(ImageRequest((str(path),), name_pattern="a_{angle_number}.mccd", angle_step=1))
    found = list_images(ImageRequest((str(path),), name_pattern="a_{angle}.mccd"))
    with pytest.raises(InputError, match="expected degrees"):
        angle_keys({"angle": found.columns["angle"].values}, 1, "x")


def test_patterns_of_many_fields_end_quickly() -> None:
    pattern = compile_pattern("".join(f"{{f{i}}}a" for i in range(18)) + "b")
    begin = time.perf_counter()
    assert pattern.match("a" * 250) is None
    assert time.perf_counter() - begin < 5
    for text in ("{a}*" * 100, "{" + "a" * 10**5 + "}", "*" * 10**5):
        with pytest.raises(ParameterError) as refused:
            compile_pattern(text)
        assert len(str(refused.value)) < 500


@given(
    st.lists(
        st.sampled_from(["{a}", "{b}", "{angle}", "{laser}", "{repeat}", "*", "_", "1", ".", "o"]),
        max_size=6,
        unique=True,
    ),
    st.text("a1.-+on_", max_size=9),
)
def test_patterns_match_as_the_regular_expressions_do(parts: list[str], name: str) -> None:
    if not any("{" in part for part in parts):
        return
    fields = {"angle": r"[+-]?\d+(?:\.\d+)?", "laser": r"(?i:on|off|[01])", "repeat": r"\d+"}
    expression = "".join(
        f"(?P<{part[1:-1]}>{fields.get(part[1:-1], '.+?')})"
        if "{" in part
        else ".*"
        if part == "*"
        else re.escape(part)
        for part in parts
    )
    expected = re.fullmatch(expression, name)
    assert compile_pattern("".join(parts)).match(name) == (expected and expected.groupdict())


@pytest.mark.parametrize("seed", range(4))
def test_damaged_logs_and_tables_give_a_result_or_one_line(seed: int, tmp_path: Path) -> None:
    table = b"file,angle [deg],laser_on,x\n" + b"".join(
        b'a_%d.mccd,%d.5,on,"q %d"\n' % (i, i, i) for i in range(9)
    )
    for i in range(9):
        (tmp_path / f"a_{i}.mccd").touch()
    for content, name in ((log_of(), "log"), (table, "table")):
        for changed in mutations(content, seed, 15):
            (tmp_path / "a.txt").write_bytes(changed)
            try:
                request: dict[str, Any] = {name: tmp_path / "a.txt"}
                images = list_images(ImageRequest(**request))
                angle_keys(
                    {key: column.values for key, column in images.columns.items()},
                    len(images.paths),
                    "x",
                )
            except GpuSpotsError as error:
                assert "\n" not in str(error)  # noqa: PT017
