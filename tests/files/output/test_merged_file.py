"""The command gpu-spots merge, its output, and files that cannot be merged."""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

import gpu_spots
from factories.exports import spots_of_run
from gpu_spots import GpuSpotsError
from gpu_spots.files.output.merged_file import MERGED_DATASETS
from helpers import Ended, assert_refused, command, listing


@pytest.fixture(scope="module")
def _two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the ratios of two runs of the same crystal."""
    folder = tmp_path_factory.mktemp("merge")
    spots = spots_of_run(folder, "-S", "blocks")
    first = folder / "a__ratios.h5"
    gpu_spots.ratios(spots, first)
    second = Path(shutil.copy(first, folder / "b__ratios.h5"))
    rng = np.random.default_rng(5)
    with h5py.File(second, "r+") as file:
        R, sigma = file["ratios/R"][:], file["ratios/sigma_R"][:]
        file["ratios/R"][...] = R + sigma * rng.standard_normal(len(R))
        file["ratios/X"][...] += 0.5
        file["info"].attrs["spots_file"] = "other__spots.h5"
    return folder


@pytest.fixture
def two(_two: Path, tmp_path: Path) -> list[Path]:
    names = ("a__ratios.h5", "b__ratios.h5")
    return [Path(shutil.copy(_two / name, tmp_path)) for name in names]


def merge(*arguments: object) -> Ended:
    return command("merge", *arguments, name="gpu-spots")


def test_output_has_all_datasets_with_their_facts(two: list[Path]) -> None:
    ended = merge(*two)
    assert ended.status == 0, ended
    output = two[0].with_name("merged__ratios.h5")
    assert f"{output}: 20 merged ratios" in ended.stderr
    assert "20 reflections of 2 runs, by position; 20 are in several runs" in ended.stdout
    with h5py.File(output) as file:
        for path, record in MERGED_DATASETS.items():
            if record.absent == "by position":
                assert path not in file
                continue
            assert file[path].dtype in record.dtypes
            assert file[path].attrs["description"] == record.description
            assert file[path].attrs.get("units") == record.unit
        assert file["info"].attrs["runs"].tolist() == list(map(str, two))
        np.testing.assert_allclose(file["merged/distance"], 0.5)
        assert file["merged/n_runs"][:].tolist() == [2] * 20


def test_csv_and_json_have_the_same_numbers(two: list[Path]) -> None:
    table = two[0].with_name("merged.csv")
    ended = merge(*two, "--csv", table, "--json", "-o", two[0].with_name("c.h5"))
    figures = json.loads(ended.stdout)
    found = gpu_spots.merge_ratios(two)
    assert figures["chi2"] == found.figures["chi2"]
    assert figures["comparison"][0]["n"] == 20
    header, *rows = table.read_text().splitlines()
    assert header.split(",") == list(found.merged)
    at = header.split(",").index("R")
    assert [float(row.split(",")[at]) for row in rows] == found.merged["R"].tolist()


def test_hkl_is_the_default_where_all_files_have_it(two: list[Path]) -> None:
    for path in two:
        with h5py.File(path, "r+") as file:
            for number, name in enumerate("hkl"):
                index = np.arange(20, dtype=np.int32) // (number + 1) + 1
                file[f"ratios/{name}"] = index
    found = gpu_spots.merge_ratios(two, two[0].with_name("c.h5"))
    assert found.figures["by"] == "hkl"
    with h5py.File(two[0].with_name("c.h5")) as file:
        assert "X" not in file["merged"]
        assert file["merged/h"].dtype == np.int32
    assert gpu_spots.merge_ratios(two, by="position").figures["by"] == "position"
    with h5py.File(two[1], "r+") as file:
        del file["ratios/h"]
    ended = merge(*two)
    assert_refused(ended, 1, "b__ratios.h5: has no Miller indices, and other runs have them")
    assert_refused(merge(*two, "--by", "hkl"), 1, "use --by position")


def _scaled(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["info"].attrs["scale"] = "pairs"


def _same_run(path: Path) -> None:
    with h5py.File(path, "r+") as file, h5py.File(path.with_name("a__ratios.h5")) as other:
        file["info"].attrs["spots_file"] = other["info"].attrs["spots_file"]


def _text(path: Path) -> None:
    path.write_text("R,sigma\n1,2\n")


def _no_ratios(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["ratios"]


def _no_sigma(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["ratios/sigma_R"]


def _short(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["ratios/sigma_R"]
        file["ratios/sigma_R"] = np.ones(3)


def _merged(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.create_group("merged")


def _cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _missing(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (_scaled, "was made with --scale pairs, and "),
        (_same_run, "is of the same run as "),
        (_text, "not an HDF5 file"),
        (_no_ratios, "not a ratios file, it has no group ratios; make one with gpu-spots ratios"),
        (_no_sigma, "not a ratios file, it has no dataset ratios/sigma_R"),
        (_short, r"ratios/sigma_R is float64 of shape (3,), expected float64 of shape (20,)"),
        (_merged, "is a file of merged ratios"),
        (_cut, "b__ratios.h5"),
        (_missing, "b__ratios.h5"),
    ],
)
def test_files_that_cannot_be_merged(two: list[Path], edit: object, words: str) -> None:
    assert callable(edit)
    edit(two[1])
    before = listing(two[0].parent)
    assert_refused(merge(*two), 1, "b__ratios.h5", words)
    assert listing(two[0].parent) == before


def test_wrong_usage_is_one_line(two: list[Path]) -> None:
    before = listing(two[0].parent)
    assert_refused(merge(two[0]), 2, "expected at least two ratios files, found 1")
    assert_refused(merge(two[0], two[0]), 1, "is given twice")
    assert_refused(merge(*two, "-o", two[1], "--force"), 1, "the output is the input file")
    table = two[0].with_name("x.csv")
    assert_refused(merge(*two, "-o", table, "--csv", table), 2, "two outputs have the same name")
    assert listing(two[0].parent) == before
    with pytest.raises(GpuSpotsError, match="by: 'x' is not hkl or position"):
        gpu_spots.merge_ratios(two, by="x")


def test_existing_outputs_are_kept(two: list[Path]) -> None:
    assert merge(*two).status == 0
    assert_refused(merge(*two), 1, "merged__ratios.h5: already exists; use --force")
    assert merge(*two, "--force").status == 0
