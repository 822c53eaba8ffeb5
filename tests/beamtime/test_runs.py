"""Search for runs: in folders, and in lists."""

from pathlib import Path

import pytest

from factories.image_runs import Scan, write_scan
from gpu_spots.beamtime.lists import read_list, take_runs
from gpu_spots.beamtime.runs import Run, Search, companions, find_runs
from gpu_spots.cli.words import check_words, words_of
from gpu_spots.errors import InputError
from gpu_spots.files.images.lauecollect_log import is_log
from helpers import series


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def scan_in(folder: Path) -> Scan:
    return write_scan(folder, series(4), [0, 0, 1, 1], [0, 1, 0, 1])


def names(folder: Path, search: Search | None = None) -> list[str]:
    return [run.name for run in find_runs([folder], search or Search()).runs]


def test_hdf5_files_are_runs_and_results_are_not(tmp_path: Path) -> None:
    touch(
        tmp_path, "day2/a__mccd.h5", "day1/b.nxs", "day1/b__spots.h5", "x__ratios.h5", "notes.txt"
    )
    touch(tmp_path, ".cache/c.h5", "a__cleaned.h5")
    assert names(tmp_path) == ["day1/b", "day2/a"]


def test_data_files_belong_to_their_master_file(tmp_path: Path) -> None:
    data = [f"scan_1_data_{i:06}.h5" for i in (1, 2, 3)]
    touch(tmp_path, "scan_1_master.h5", *data, "scan_2_data_000001.h5")
    found = find_runs([tmp_path], Search())
    assert [run.name for run in found.runs] == ["scan_1"]
    assert companions(tmp_path / "scan_1_master.h5") == [tmp_path / name for name in data]
    assert "1 DECTRIS data files without their master file" in found.notes[0]


def test_a_log_with_its_images_is_a_run(tmp_path: Path) -> None:
    scan = scan_in(tmp_path / "scan_3")
    (tmp_path / "program.log").write_text("started\nended\n")
    assert is_log(scan.log)
    assert not is_log(tmp_path / "program.log")
    found = find_runs([tmp_path], Search())
    assert [run.source for run in found.runs] == [(str(scan.log),)]
    assert not found.notes  # its images are no run of their own


def test_a_converted_run_is_not_done_twice(tmp_path: Path) -> None:
    scan = scan_in(tmp_path)
    touch(tmp_path, f"{scan.log.stem}__mccd.h5")
    found = find_runs([tmp_path], Search())
    assert [Path(run.source[0]).name for run in found.runs] == [f"{scan.log.stem}__mccd.h5"]
    assert str(scan.log) in found.notes[0]


def test_images_without_a_log_need_options(tmp_path: Path) -> None:
    touch(tmp_path, "scan/a_1.mccd", "scan/a_2.mccd", "scan/b_1.tif")
    found = find_runs([tmp_path], Search())
    assert found.runs == []
    assert f"{tmp_path}/scan: images without a log were left out" in found.notes[0]
    (run,) = find_runs([tmp_path], Search(image_folders=True)).runs
    assert run == Run("scan", (f"{tmp_path}/scan/*.mccd",))


def test_patterns_choose_and_exclude(tmp_path: Path) -> None:
    touch(tmp_path, "a__mccd.h5", "flat.h5", "test/c__mccd.h5", "out/old.h5")
    search = Search(patterns=("*__mccd.h5",), exclude=("test",), outside=(tmp_path / "out",))
    assert names(tmp_path, search) == ["a"]
    assert names(tmp_path, Search(exclude=("test/*",), outside=(tmp_path / "out",))) == [
        "a",
        "flat",
    ]


def test_runs_of_the_same_name_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "one/a.h5", "two/a.h5")
    sources = [tmp_path / "one/a.h5", tmp_path / "two/a.h5"]
    with pytest.raises(InputError, match="both are called a; give the folder that has both"):
        find_runs(sources, Search())
    with pytest.raises(InputError, match="is given twice"):
        find_runs([sources[0], sources[0]], Search())
    with pytest.raises(InputError, match="No such file"):
        find_runs([tmp_path / "three"], Search())


def test_a_list_gives_options_for_each_run(tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_text(
        "# beamtime 7\n"
        "run, kind, cutoff, no-file-mask, options\n"
        'a.h5, dark, 4.5, true, "-d 3 -e 0"\n'
        "\n"
        "sub/b.log,,,false,\n"
    )
    first, second = read_list(tmp_path / "runs.csv", words_of)
    assert first.kind == "dark"
    assert first.options == ("-d", "3", "-e", "0", "-c", "4.5", "--no-file-mask")
    assert second == Run("b", (str(tmp_path / "sub/b.log"),))
    (tmp_path / "runs.yaml").write_text(
        "runs:\n"
        "- a.h5\n"
        "- run: b.h5\n  name: day1/b\n"
        "  options: {structure: [2, 1], reject: ['border:4', 'disc:1,2,3']}\n"
    )
    first, second = read_list(tmp_path / "runs.yaml", words_of)
    assert first == Run("a", (str(tmp_path / "a.h5"),))
    options = ("-s", "2,1", "--reject", "border:4", "--reject", "disc:1,2,3")
    assert second == Run("day1/b", (str(tmp_path / "b.h5"),), options)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no runs"),
        ("file\na.h5\n", "line 1 names no column 'run'"),
        ("run,kind\na.h5\n", "line 2 has 1 values, expected 2: run, kind"),
        ("run,kind\na.h5,light\n", "line 2: kind is 'light', expected dark or laser"),
        ("run,cutof\na.h5,3\n", "line 2: cutof: is not an option of gpu-spots find"),
        ("run,cutoff\na.h5,three\n", "run a: .*'three' is not a valid float"),
        ("run,erosions\na.h5,-1\n", "run a: .*-1 is not an integer >= 0"),
        ("run,options\na.h5,-o x.h5\n", "run a: .*cannot be used for single runs of a batch"),
        ("run,name\na.h5,../x\n", "line 2: name is '../x'"),
        ("run,streaks\na.h5,perhaps\n", "'perhaps' is not true or false"),
        ("run\na.h5\nb/a.h5\n", "both are called a"),
    ],
)
def test_mistakes_in_a_list_are_named(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        take_runs([path], Search(), check_words, words_of)


def test_yaml_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "runs.yml"
    for text, words in (("a: [", "is not YAML"), ("runs: 7\n", "has no list of runs")):
        path.write_text(text)
        with pytest.raises(InputError, match=words):
            read_list(path, words_of)
