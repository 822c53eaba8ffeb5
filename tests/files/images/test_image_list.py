"""Images of a run: their choice, order and metadata."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from factories.image_runs import marccd, write_scan
from gpu_spots.errors import GpuSpotsError, InputError, ParameterError
from gpu_spots.files.images.image_list import ImageList, ImageRequest, default_output, list_images
from helpers import assert_refused, command, series


def images(folder: Path, *names: str) -> list[str]:
    """Empty files: only names matter here."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return [str(folder / name) for name in names]


def values(found: ImageList, name: str) -> list[Any]:
    return found.columns[name].values.tolist()


def listed(*sources: str, **options: Any) -> ImageList:
    return list_images(ImageRequest(sources=sources, **options))


# ------------------------------------------------------------------------------- names and patterns


def test_images_keep_their_order(tmp_path: Path) -> None:
    found = listed(*images(tmp_path, "b.mccd", "a.mccd", "c.mccd"))
    assert values(found, "file") == ["b.mccd", "a.mccd", "c.mccd"]
    assert [path.name for path in found.paths] == values(found, "file")


def test_a_pattern_sorts_by_numbers(tmp_path: Path) -> None:
    images(tmp_path, "x_10.mccd", "x_9.mccd", "x_2_11.mccd", "x_2_1.mccd", "y.txt")
    assert values(listed(str(tmp_path / "*.mccd")), "file") == [
        "x_2_1.mccd",
        "x_2_11.mccd",
        "x_9.mccd",
        "x_10.mccd",
    ]


def test_a_name_with_magic_in_it_is_a_name(tmp_path: Path) -> None:
    (name,) = images(tmp_path, "x[1].mccd")
    assert values(listed(name), "file") == ["x[1].mccd"]


@pytest.mark.parametrize(
    ("pattern", "names", "expected"),
    [
        (
            "{base}_{angle}_{laser}_{repeat}.mccd",
            ["hs_2_-12.500_off_01.mccd", "hs_2_-12.500_ON_01.mccd", "hs_2_3_0_2.mccd"],
            {
                "base": ["hs_2"] * 3,
                "angle": [-12.5, -12.5, 3],
                "laser_on": [0, 1, 0],
                "repeat": [1, 1, 2],
            },
        ),
        ("*_{angle}.*", ["q_5_1.25.mccd", "q_x_7.mccd"], {"angle": [1.25, 7]}),
        ("{angle}.mccd", ["+1.5.mccd", "2.mccd.gz"], {"angle": [1.5, 2]}),
        (
            "{angle}_{delay}.mccd",
            ["1_off.mccd", "1_100ps.mccd"],
            {"angle": [1, 1], "delay": ["off", "100ps"]},
        ),
        ("run{number}({angle})+.mccd", ["run7(3)+.mccd"], {"number": [7], "angle": [3]}),
        ("{angle}.mccd.gz", ["1.mccd.gz"], {"angle": [1]}),
    ],
)
def test_names_tell(
    pattern: str, names: list[str], expected: dict[str, list[Any]], tmp_path: Path
) -> None:
    found = listed(*images(tmp_path, *names), name_pattern=pattern)
    assert {name: values(found, name) for name in found.columns} == {"file": names, **expected}
    if "angle" in expected:
        assert found.columns["angle"].units == "degrees"


def test_repeats_put_pairs_together(tmp_path: Path) -> None:
    names = [
        f"x_{angle}_{state}_{repeat}.mccd"
        for angle in (0, 10, 5)
        for state in ("off", "on")
        for repeat in (1, 2, 10)
    ]
    found = listed(*images(tmp_path, *names), name_pattern="x_{angle}_{laser}_{repeat}.mccd")
    assert (
        values(found, "angle") == [0] * 6 + [10] * 6 + [5] * 6
    )  # in the order of their first images
    assert values(found, "laser_on") == [0, 1] * 9
    assert values(found, "repeat") == [1, 1, 2, 2, 10, 10] * 3
    assert [path.name for path in found.paths] == values(found, "file")
    assert values(found, "file")[:3] == ["x_0_off_1.mccd", "x_0_on_1.mccd", "x_0_off_2.mccd"]


def test_numbers_of_angles(tmp_path: Path) -> None:
    names = [
        f"e074a_{state}{repeat}_{number:03d}.mccd"
        for number in (11, 12, 14)
        for state in ("off", "on")
        for repeat in (1, 2)
    ]
    found = listed(
        *images(tmp_path, *names),
        name_pattern="{base}_{laser}{repeat}_{angle_number}.mccd",
        angle_start=-90,
        angle_step=0.1,
    )
    assert values(found, "angle") == [-90] * 4 + [-89.9] * 4 + [-89.7] * 4
    assert values(found, "laser_on") == [0, 1] * 6


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("x.mccd", "has no field"),
        ("*.mccd", "has no field"),
        ("{}.mccd", "{} is not a field"),
        ("{2theta}.mccd", "{2theta} is not a field"),
        ("{a b}.mccd", "{a b} is not a field"),
        ("{angle}_{angle}.mccd", "has {angle} twice"),
        ("{angle_number}.mccd", "has {angle_number}, which needs angle_step"),
    ],
)
def test_patterns_of_no_use_are_refused(pattern: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=re.escape(words)) as refused:
        listed(*images(tmp_path, "1.mccd"), name_pattern=pattern)
    assert refused.value.name == "name_pattern"


@pytest.mark.parametrize(
    "name", ["x_1.mccd", "x_1_off", "x_one_off.mccd", "x_1_maybe.mccd", "x_1_off.mccd.zip"]
)
def test_a_name_that_is_not_like_the_pattern_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(
        InputError,
        match=re.escape(
            f"{name}: the name does not match name_pattern, expected 'x_{{angle}}_{{laser}}.mccd'"
        ),
    ):
        listed(*images(tmp_path, "x_2_on.mccd", name), name_pattern="x_{angle}_{laser}.mccd")


# -------------------------------------------------------------------------------------------- given


@pytest.mark.parametrize(
    ("options", "angles", "states"),
    [
        ({"angle_start": -1, "angle_step": 0.1}, [-1, -0.9, -0.8, -0.7, -0.6, -0.5, -0.4], None),
        ({"angle_step": -2}, [0, -2, -4, -6, -8, -10, -12], None),
        ({"angle_step": 1, "laser": ("off", "on")}, [0, 0, 1, 1, 2, 2, 3], [0, 1, 0, 1, 0, 1, 0]),
        (
            {"angle_step": 1, "laser": ("on", "off", "on"), "frames_per_angle": 6},
            [0, 0, 0, 0, 0, 0, 1],
            [1, 0, 1, 1, 0, 1, 1],
        ),
        ({"angle_step": 1, "frames_per_angle": 4}, [0, 0, 0, 0, 1, 1, 1], None),
        ({"laser": ("off",)}, None, [0] * 7),
    ],
)
def test_angles_and_states_as_given(
    options: dict[str, Any], angles: list[float] | None, states: list[int] | None, tmp_path: Path
) -> None:
    found = listed(*images(tmp_path, *(f"{i}.tif" for i in range(7))), **options)
    assert (values(found, "angle") if "angle" in found.columns else None) == angles
    assert (values(found, "laser_on") if "laser_on" in found.columns else None) == states


@pytest.mark.parametrize(
    ("options", "name", "words"),
    [
        ({"laser": ()}, "laser", "is not a list of on and off"),
        ({"laser": ("off", "maybe")}, "laser", "'off,maybe' is not a list of on and off"),
        ({"angle_start": 5.0}, "angle_start", "needs angle_step"),
        ({"frames_per_angle": 5}, "frames_per_angle", "needs angle_step"),
        ({"angle_step": float("nan")}, "angle_step", "nan is not a finite number of degrees"),
        (
            {"angle_step": 1.0, "angle_start": float("inf")},
            "angle_start",
            "inf is not a finite number of degrees",
        ),
        ({"folder": Path()}, "folder", "needs a log or a table"),
        ({"log": Path("a.log")}, "log", "lists all images of the run, found x.mccd as well"),
        (
            {"angle_step": 1.0, "frames_per_angle": 2, "name_pattern": "{angle_number}"},
            "frames_per_angle",
            "cannot be used with {angle_number}",
        ),
    ],
)
def test_options_that_do_not_go_together(
    options: dict[str, Any], name: str, words: str, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    images(tmp_path, "x.mccd", "1")
    with pytest.raises(ParameterError, match=re.escape(words)) as refused:
        listed("1" if "name_pattern" in options else "x.mccd", **options)
    assert refused.value.name == name


def test_a_log_and_a_table_do_not_go_together() -> None:
    with pytest.raises(ParameterError, match="cannot be used with a log"):
        ImageRequest(log=Path("a.log"), table=Path("a.csv"))


def test_nothing_is_refused() -> None:
    with pytest.raises(ParameterError, match="images are missing"):
        list_images(ImageRequest())


# ------------------------------------------------------------------------------------------- tables


def test_a_table_by_names(tmp_path: Path) -> None:
    paths = images(tmp_path, "b.tif.gz", "a.tif", "c.tif")
    (tmp_path / "t.csv").write_text(
        "file,angle,laser_on,note\nc.tif,3,off,x\n/data/a.tif,1,on,y\nD:\\data\\b.tif,2,off,z\n"
    )
    found = listed(*paths, table=tmp_path / "t.csv")
    assert values(found, "file") == ["b.tif.gz", "a.tif", "c.tif"]
    assert (values(found, "angle"), values(found, "laser_on"), values(found, "note")) == (
        [2, 1, 3],
        [0, 1, 0],
        ["z", "y", "x"],
    )
    assert found.columns["laser_on"].values.dtype == np.uint8


def test_a_table_by_rows(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text("angle [deg]\tI0/I1\n3\t0.5\n1\t0.25\n")
    found = listed(*images(tmp_path, "b.tif", "a.tif"), table=tmp_path / "t.tsv")
    assert (values(found, "angle"), values(found, "i0_i1")) == ([3, 1], [0.5, 0.25])
    assert found.columns["angle"].units == "degrees"


def test_a_table_names_the_images(tmp_path: Path) -> None:
    images(tmp_path, "images/b.tif", "images/a.tif")
    (tmp_path / "t.csv").write_text("file,angle\na.tif,1\nb.tif,2\n")
    found = listed(table=tmp_path / "t.csv", folder=tmp_path / "images")
    assert [str(path) for path in found.paths] == [
        str(tmp_path / "images" / name) for name in ("a.tif", "b.tif")
    ]
    assert found.inputs == [tmp_path / "t.csv"]


def test_rows_of_other_images_are_warned_of(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("file,angle\na.tif,1\nb.tif,2\nc.tif,3\n")
    found = listed(*images(tmp_path, "c.tif"), table=tmp_path / "t.csv")
    assert values(found, "angle") == [3]
    assert found.warnings == [
        f"{tmp_path / 't.csv'}: 2 of 3 rows match none of the images and are ignored"
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "angle\n1\n",
            "t.csv: has 1 rows and no column 'file', expected one row for each of the 2 images",
        ),
        ("file,angle\na.tif,1\n", "t.csv: has no row for b.tif"),
        ("file,angle\na.tif,1\nx/a.tif,2\nb.tif,3\n", "t.csv: a.tif is listed twice"),
        ("nothing", "has no rows"),
    ],
)
def test_tables_that_do_not_fit_are_refused(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError, match=re.escape(words)):
        listed(*images(tmp_path, "a.tif", "b.tif"), table=tmp_path / "t.csv")


def test_images_of_one_name_need_rows(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("file,angle\na.tif,1\nb.tif,1\n")
    with pytest.raises(InputError, match=r"a\.tif is listed twice, expected once"):
        listed(*images(tmp_path, "x/a.tif", "y/a.tif"), table=tmp_path / "t.csv")


def test_a_table_that_names_no_images_alone_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("angle\n1\n")
    with pytest.raises(InputError, match="column 'file' is missing; add it, or give the images"):
        listed(table=tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("options", "whose"),
    [
        ({"name_pattern": "{angle}.tif"}, "name_pattern gives angle"),
        ({"angle_step": 1.0}, "angle_step gives angle"),
        ({"laser": ("off",)}, "laser gives laser_on"),
    ],
)
def test_what_is_known_twice_is_refused(
    options: dict[str, Any], whose: str, tmp_path: Path
) -> None:
    (tmp_path / "t.csv").write_text("angle,laser_on\n1,0\n")
    with pytest.raises(InputError, match=f"{whose}.*, which is already known; choose one"):
        listed(*images(tmp_path, "1.tif"), table=tmp_path / "t.csv", **options)


# --------------------------------------------------------------------------------------------- logs


@pytest.mark.parametrize("generation", ["old", "new"])
@pytest.mark.parametrize("place", ["given", "xray_images", "beside"])
def test_images_of_a_log(generation: str, place: str, tmp_path: Path) -> None:
    scan = write_scan(tmp_path, series(6), [0, 0, 2, 2, 1, 1], [0, 1] * 3, generation)
    folder = scan.folder
    if place == "beside":
        for path in scan.paths:
            path.rename(tmp_path / path.name)
        folder = tmp_path
    found = list_images(
        ImageRequest(log=scan.log, folder=scan.folder if place == "given" else None)
    )
    assert found.paths == [folder / name for name in scan.names]
    assert (values(found, "angle"), values(found, "laser_on")) == (
        scan.angles.tolist(),
        scan.laser_on.tolist(),
    )
    assert found.inputs == [scan.log]


@pytest.mark.parametrize(
    "where", ["/net/data/2021/", "xray_images/", "D:\\data\\", "../elsewhere/"]
)
def test_a_log_from_another_computer(where: str, tmp_path: Path) -> None:
    images(tmp_path, "xray_images/a.mccd", "xray_images/b.mccd.bz2")
    (tmp_path / "s.log").write_text(f"#file\tangle\n{where}a.mccd\t1\n{where}b.mccd\t2\n")
    found = list_images(ImageRequest(log=tmp_path / "s.log"))
    assert [path.name for path in found.paths] == ["a.mccd", "b.mccd.bz2"]
    assert all(
        path.parent.resolve() == (tmp_path / "xray_images").resolve() for path in found.paths
    )
    assert values(found, "file") == [f"{where}a.mccd", f"{where}b.mccd"]


def test_missing_images_are_counted_and_named(tmp_path: Path) -> None:
    scan = write_scan(tmp_path, series(10), list(range(10)), [0] * 10)
    for path in scan.paths[2:7]:
        path.unlink()
    with pytest.raises(InputError) as refused:
        list_images(ImageRequest(log=scan.log, folder=scan.folder))
    assert str(refused.value) == (
        f"{scan.log}: 5 of 10 images are missing in {scan.folder}: scan_2.000_off_1.mccd, "
        "scan_3.000_off_1.mccd, scan_4.000_off_1.mccd "
        "and 2 more; use folder to name another folder, or skip_bad=True to skip them"
    )
    found = list_images(ImageRequest(log=scan.log, folder=scan.folder, skip_bad=True))
    assert values(found, "angle") == [0, 1, 7, 8, 9]
    assert [(s.file, s.reason) for s in found.skipped] == [
        (name, "is missing") for name in scan.names[2:7]
    ]


def test_angles_as_given_count_the_missing_too(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("file,x\na.tif,0\nb.tif,0\nc.tif,0\n")
    images(tmp_path, "a.tif", "c.tif")
    found = listed(table=tmp_path / "t.csv", angle_step=1.0, skip_bad=True)
    assert values(found, "angle") == [0, 2]


def test_bad_lines_are_refused_or_skipped(tmp_path: Path) -> None:
    images(tmp_path, "a.mccd", "b.mccd")
    (tmp_path / "s.log").write_text("#file\tangle\tx\na.mccd\t1\t2\nb.mcc\n")
    with pytest.raises(
        InputError,
        match=r"s\.log: line 3: it has 1 values, expected 3 as in the header; use skip_bad=True to "
        r"skip it",
    ):
        list_images(ImageRequest(log=tmp_path / "s.log"))
    found = list_images(ImageRequest(log=tmp_path / "s.log", skip_bad=True))
    assert [(s.file, s.reason) for s in found.skipped] == [
        ("b.mcc", "line 3: it has 1 values, expected 3 as in the header")
    ]


def test_a_repeated_line_is_warned_of(tmp_path: Path) -> None:
    images(tmp_path, "a.mccd")
    (tmp_path / "s.log").write_text("#file\tangle\na.mccd\t1\na.mccd\t2\n")
    found = list_images(ImageRequest(log=tmp_path / "s.log"))
    assert (values(found, "angle"), len(found.warnings)) == ([2], 1)
    assert "a.mccd is listed more than once; the last entry is used" in found.warnings[0]


# ------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("sources", "words"),
    [
        (["none.mccd"], "none.mccd: No such file or directory"),
        (["none.mccd", "nor.mccd"], "none.mccd: No such file or directory (and 1 more)"),
        (["*.cbf"], "*.cbf: no file matches this pattern"),
        (["folder"], "folder: is a folder; give its images as a pattern: 'folder/*.mccd'"),
        (["a.mccd", "a.mccd"], "a.mccd: is given twice"),
        ([""], ": is a folder"),
    ],
)
def test_sources_of_no_use_are_refused(
    sources: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images(tmp_path, "a.mccd", "folder/b.mccd")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=re.escape(words)):
        listed(*sources)


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s.log").write_text("#file\tangle\na.mccd\t1\n")
    with pytest.raises(
        InputError, match="nowhere: not a directory, expected the folder of the images"
    ):
        list_images(ImageRequest(log=tmp_path / "s.log", folder=tmp_path / "nowhere"))


# ----------------------------------------------------------------------------------- default output


@pytest.mark.parametrize(
    ("request_options", "expected"),
    [
        ({"log": Path("runs/scan.log")}, "runs/scan__mccd.h5"),
        ({"log": Path("runs/scan.v2.log")}, "runs/scan.v2__mccd.h5"),
        ({"table": Path("t.csv")}, "t__mccd.h5"),
        ({"sources": ("d/a_001.mccd", "d/a_180.mccd")}, "d/a__mccd.h5"),
        ({"sources": ("a_off1_011.mccd", "a_on1_011.mccd")}, "a__mccd.h5"),
        ({"sources": ("scan12_1.000_off.mccd", "scan12_10.000_on.mccd")}, "scan12__mccd.h5"),
        ({"sources": ("img1.tif", "img2.tif", "img10.tif")}, "img__mccd.h5"),
        ({"sources": ("x.mccd.gz",)}, "x__mccd.h5"),
        ({"sources": ("1.tif", "2.tif")}, None),
        ({"sources": ("a.tif", "b.tif")}, None),
    ],
    ids=str,
)
def test_default_outputs(request_options: dict[str, Any], expected: str | None) -> None:
    request = ImageRequest(**request_options)
    if expected is None:
        with pytest.raises(GpuSpotsError, match="begin differently"):
            default_output(request, "mccd")
    else:
        assert default_output(request, "mccd") == Path(expected)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("scan.log", "program.log", "b.mccd"), "give its log: FOLDER/scan.log"),
        (("program.log", "run.h5"), "give a file in it, such as FOLDER/run.h5"),
        (
            ("scan.log", "scan_2.log", "b_1.5.cbf", "c.cbf", "d.tif"),
            "give its images as a pattern: 'FOLDER/*.cbf'",
        ),
        (
            ("a_1.500.mccd.gz", "a_2.500.mccd.gz", "notes.txt"),
            "give its images as a pattern: 'FOLDER/*.mccd.gz'",
        ),
        (("run.h5", "notes.txt"), "give a file in it, such as FOLDER/run.h5"),
        (
            ("notes.txt",),
            "expected images in it, found 1 files of other kinds; give images as a pattern: "
            "'FOLDER/*.mccd'",
        ),
    ],
)
def test_a_folder_is_refused_with_what_to_give_instead(
    names: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    images(tmp_path, *names)
    for log in (path for path in tmp_path.glob("*.log") if path.stem != "program"):
        log.write_text("#date time\tfile\tdelay\n")
    for name in ("find", "info", "convert"):
        ended = command(name, tmp_path, name="gpu-spots")
        assert_refused(
            ended, 1, f"{tmp_path}: is a folder; {words.replace('FOLDER', str(tmp_path))}"
        )


def test_images_without_an_ending_are_known_by_their_content(tmp_path: Path) -> None:
    content = {
        "xray_0001": marccd(np.ones((4, 5), np.uint16)),
        "x.jp2": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(99),
    }
    for name, words in {
        "xray_0001": "layout  images",
        "x.jp2": "x.jp2: is a JPEG 2000 image, which is not supported; convert it to TIFF",
    }.items():
        (tmp_path / name).write_bytes(content[name])
        ended = command("info", tmp_path / name, name="gpu-spots")
        assert words in re.sub(" +", "  ", ended.stdout) + ended.stderr, ended
