"""Logs of Lauecollect: both generations, and what people and crashes make of them."""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from factories.image_runs import NEW_HEADER, OLD_HEADER, log_line, log_text
from gpu_spots.errors import InputError
from gpu_spots.files.images.lauecollect_log import Log, read_log


def read(tmp_path: Path, text: str | bytes) -> Log:
    path = tmp_path / "scan.log"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_log(path)


def table(*lines: str) -> str:
    return "\n".join(line.replace("|", "\t") for line in lines) + "\n"


def values(log: Log, name: str) -> list[Any]:
    return log.columns[name].values.tolist()


def test_an_old_log(tmp_path: Path) -> None:
    lines = [
        log_line("old", f"f{i}.mccd", angle, on, 1)
        for i, (angle, on) in enumerate([(0, 0), (0, 1), (10, 0), (10, 1), (5, 0)])
    ]
    log = read(tmp_path, log_text("old", lines))
    assert values(log, "file") == [f"f{i}.mccd" for i in range(5)]
    assert (values(log, "angle"), log.columns["angle"].units) == ([0, 0, 10, 10, 5], "deg")
    assert log.columns["angle"].values.dtype == np.float64
    assert values(log, "laser_on") == [0, 1, 0, 1, 0]
    assert log.columns["laser_on"].values.dtype == np.uint8
    assert values(log, "delay") == ["-", "100ps", "-", "100ps", "-"]
    assert (values(log, "delay_2"), log.columns["delay_2"].units) == ([1e-10] * 5, "s")
    assert log.columns["x-ray"].units == "Vs"
    assert (log.columns["sdev(act.delay)"].units, values(log, "sdev(act.delay)")) == (
        "s",
        ["-"] * 5,
    )
    assert np.isnan(log.columns["nom.delay"].values).tolist() == [True, False, True, False, True]
    # a pulse energy, which is there where the laser is off too
    assert values(log, "laser") == [1e-8, 3e-5, 1e-8, 3e-5, 1e-8]
    assert values(log, "repeat") == [1] * 5
    assert values(log, "comment") == [""] * 5
    assert values(log, "date time")[0] == "05-Oct-10 11:22:33.123"
    assert values(log, "timestamp")[0] == "2010-10-05T11:22:33.123"
    assert log.comments == ["Data collection log file", "description: a test"]
    assert log.lines == [4, 5, 6, 7, 8]
    assert (log.bad, log.repeated) == ([], [])


def test_a_new_log(tmp_path: Path) -> None:
    log = read(
        tmp_path, log_text("new", [log_line("new", f"f{on}.mccd", 1.5, on, 1) for on in (0, 1)])
    )
    assert values(log, "laser_on") == [0, 1]
    assert log.columns["laser_on"].values.dtype == np.uint8
    assert (log.columns["laser_on"].attributes, "Laser_on" in log.columns) == (
        {"heading": "Laser_on"},
        False,
    )
    assert values(log, "Repeat") == [1, 1]
    assert log.columns["Repeat"].values.dtype == np.int64
    assert np.isnan(values(log, "delay")[0])
    assert values(log, "delay")[1] == 1e-9
    assert (values(log, "laser"), log.columns["laser"].units) == ([0, 0], "J")
    assert values(log, "timestamp") == ["2021-03-05T12:11:10.500000"] * 2
    assert values(log, "started") == ["2021-03-05 12:11:10.100"] * 2


@pytest.mark.parametrize("header", [OLD_HEADER, NEW_HEADER], ids=["old", "new"])
def test_the_order_of_columns_does_not_matter(header: tuple[str, ...], tmp_path: Path) -> None:
    generation = "old" if header is OLD_HEADER else "new"
    row = log_line(generation, "f.mccd", 2.5, 1, 3).split("\t")
    straight = read(tmp_path, log_text(generation, ["\t".join(row)]))
    back = read(
        tmp_path, "#" + "\t".join(reversed(header)) + "\n" + "\t".join(reversed(row)) + "\n"
    )
    for name in set(straight.columns) - {"delay", "delay_2"}:
        assert repr(values(back, name)) == repr(values(straight, name)), name


def test_repeated_columns_are_numbered(tmp_path: Path) -> None:
    log = read(tmp_path, table("#file|x|x[s]|x|x_2|x", "a|1|2|3|4|5"))
    assert {name: values(log, name)[0] for name in log.columns} == {
        "file": "a",
        "x": 1,
        "x_2": 2,
        "x_3": 3,
        "x_2_2": 4,
        "x_4": 5,
    }


def test_the_state_of_the_laser_is_never_its_energy(tmp_path: Path) -> None:
    log = read(tmp_path, table("#file|laser|delay", "a|1|-", "b|0|1ns"))
    assert "laser_on" not in log.columns
    assert values(log, "laser") == [1, 0]


@pytest.mark.parametrize("words", [("0", "1"), ("off", "on"), ("OFF", "On"), ("False", "True")])
def test_states_in_words(words: tuple[str, str], tmp_path: Path) -> None:
    assert values(
        read(tmp_path, table("#file|Laser_On", f"a|{words[0]}", f"b|{words[1]}")), "laser_on"
    ) == [0, 1]


def test_a_state_that_is_none_stays_as_it_is(tmp_path: Path) -> None:
    assert values(read(tmp_path, table("#file|laser_on", "a|1", "b|-")), "laser_on") == ["1", "-"]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (("1", "02"), np.array([1, 2])),
        (("1", "2.5"), np.array([1, 2.5])),
        (("1", "-"), np.array([1, np.nan])),
        (("", "1e-3"), np.array([np.nan, 1e-3])),
        (("nan", "-"), np.array([np.nan, np.nan])),
        (("-", ""), np.array(["-", ""], object)),
        (("1", "100ps"), np.array(["1", "100ps"], object)),
        (("1_0", "2"), np.array(["1_0", "2"], object)),
        (("99999999999999999999", "1"), np.array([1e20, 1])),
        (("+1", "-1"), np.array([1, -1])),
    ],
    ids=str,
)
def test_numbers_are_numbers_and_the_rest_is_text(
    texts: tuple[str, str], expected: np.ndarray, tmp_path: Path
) -> None:
    found = read(tmp_path, table("#file|x", f"a|{texts[0]}", f"b|{texts[1]}")).columns["x"].values
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_names_of_files_stay_text(tmp_path: Path) -> None:
    assert values(read(tmp_path, table("#file|comment", "001|2")), "file") == ["001"]
    assert values(read(tmp_path, table("#file|comment", "001|2")), "comment") == ["2"]


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_every_end_of_line(ending: str, tmp_path: Path) -> None:
    text = table("# hello", "#file|angle[deg]|comment", "a|1|x", "b|2|").replace("\n", ending)
    log = read(tmp_path, text)
    assert (values(log, "file"), values(log, "angle"), values(log, "comment")) == (
        ["a", "b"],
        [1, 2],
        ["x", ""],
    )


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
def test_degree_signs(encoding: str, tmp_path: Path) -> None:
    log = read(tmp_path, table("#file|angle[°]", "a|1").encode(encoding))
    assert log.columns["angle"].units == "°"


def test_names_that_hdf5_does_not_take(tmp_path: Path) -> None:
    assert list(read(tmp_path, table("#file|I0/I1|.||x", "a|1|2|3|4")).columns) == [
        "file",
        "I0_I1",
        "unnamed",
        "unnamed_2",
        "x",
    ]


def test_comments_headers_again_and_deleted_lines_anywhere(tmp_path: Path) -> None:
    log = read(
        tmp_path,
        table(
            "# one",
            "#file|angle",
            "a|1",
            "#b|2",
            "",
            "# beam lost",
            "c|3",
            "#file|angle",
            "d|4",
            "#angle|file|new",
            "5|e|x",
        ),
    )
    assert (values(log, "file"), values(log, "angle")) == (["a", "c", "d", "e"], [1, 3, 4, 5])
    assert values(log, "new") == ["", "", "", "x"]
    assert log.comments == ["one", "b\t2", "beam lost"]


def test_a_header_without_its_mark(tmp_path: Path) -> None:
    assert values(read(tmp_path, table("file|angle", "a|1")), "angle") == [1]


def test_the_last_line_of_a_repeated_image_counts(tmp_path: Path) -> None:
    log = read(tmp_path, table("#file|angle", "a|1", "b|2", "a|3", "c|4"))
    assert (values(log, "file"), values(log, "angle"), log.repeated) == (
        ["b", "a", "c"],
        [2, 3, 4],
        ["a"],
    )


def test_comments_may_be_missing_and_may_hold_tabs(tmp_path: Path) -> None:
    log = read(tmp_path, table("#file|angle|comment", "a|1", "b|2|see|page 3", "c|3|", "d|4||"))
    assert values(log, "comment") == ["", "see page 3", "", ""]
    assert not log.bad


def test_lines_that_are_cut_off_are_bad(tmp_path: Path) -> None:
    log = read(
        tmp_path, table("#date time|file|angle|x", "t|a|1|2", "t|b", "t", "t|-|1|2", "t|c|1|2|3")
    )
    assert values(log, "file") == ["a"]
    assert [(bad.number, bad.file, bad.reason) for bad in log.bad] == [
        (3, "b", "it has 2 values, expected 4 as in the header"),
        (4, "", "it has 1 values, expected 4 as in the header"),
        (5, "-", "it names no file"),
        (6, "c", "it has 5 values, expected 4 as in the header"),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is not a Lauecollect log: no line with TABs names a column 'file'"),
        ("# only words\n", "is not a Lauecollect log"),
        ("file,angle\na,1\n", "line 1 comes before the header"),
        (table("#date time|angle", "t|1"), "line 2 comes before the header"),
        (table("#file|angle"), "has no frames"),
        (table("#file|angle|x", "a|1"), "has no frames; line 2: it has 2 values, expected 3"),
        (table("#file|angle[mrad]", "a|1"), "column angle is in mrad, expected degrees"),
        ("#file\0\tangle\n", "is not a text file, expected a Lauecollect log"),
    ],
)
def test_what_is_no_log_is_refused(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        read(tmp_path, text)
    assert words in str(refused.value)
    assert "scan.log" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_logs_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.log: cannot be opened: No such file"):
        read_log(tmp_path / "none.log")
    with pytest.raises(InputError, match="is a folder, expected a Lauecollect log"):
        read_log(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("05-Oct-10 11:22:33.123", "2010-10-05T11:22:33.123"),
        ("5-JAN-2021 01:02:03", "2021-01-05T01:02:03.000"),
        ("2021-03-05 12:11:10.5+0600", "2021-03-05T12:11:10.500000+06:00"),
        ("31-Feb-10 11:22:33", ""),
        ("31-Xyz-10 11:22:33", ""),
        ("yesterday", ""),
    ],
)
def test_dates(text: str, expected: str, tmp_path: Path) -> None:
    log = read(tmp_path, table("#date time|file", f"{text}|a", "01-Jan-20 00:00:00.000|b"))
    assert values(log, "date time")[0] == text
    assert values(log, "timestamp") == [expected, "2020-01-01T00:00:00.000"]


def test_without_a_date_there_is_no_timestamp(tmp_path: Path) -> None:
    assert "timestamp" not in read(tmp_path, table("#date time|file", "soon|a")).columns


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200
)
@given(
    st.text(alphabet=st.sampled_from("#\t\n\r file[]angle0123.-eE:/\x1c\u2028"), max_size=200)
    | st.binary(max_size=100)
)
def test_any_text_gives_a_log_or_one_line(tmp_path: Path, text: str | bytes) -> None:
    with contextlib.suppress(InputError):
        log = read(tmp_path, text)
        assert {len(column.values) for column in log.columns.values()} == {len(log.lines)}
