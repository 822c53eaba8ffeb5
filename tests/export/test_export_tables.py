"""CSV, Parquet and pandas tables of the spots."""

import builtins
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from factories.exports import Silent, edited, export, spots_of_run
from gpu_spots import GpuSpotsError, open_spots
from gpu_spots.columns import SPOT_COLUMNS
from gpu_spots.export.format import ExportOptions, Source
from gpu_spots.files.output.spots_file import SpotsFile
from helpers import replaced

COLUMNS = [
    "I",
    "X",
    "Y",
    "X_begin",
    "X_end",
    "Y_begin",
    "Y_end",
    "frame",
    "label",
    "mask",
    "n_pixels",
    "overload",
    "angle",
    "laser_on",
]

COMPONENTS = {
    "XY": ("X", "Y"),
    "box": ("X_begin", "X_end", "Y_begin", "Y_end"),
    "centroid": ("centroid_X", "centroid_Y"),
    "centroid_sigma": ("centroid_sigma_X", "centroid_sigma_Y"),
    "moments": ("moments_XX", "moments_YY", "moments_XY"),
    "fwhm": ("fwhm_major", "fwhm_minor"),
}
"""Names that the formats use, where a spots file has these datasets."""


def expected(spots: Path) -> dict[str, np.ndarray]:
    """Columns of the table, by plain h5py."""
    with h5py.File(spots) as file:
        group = {name: values[...] for name, values in file["spots"].items()}
        frame = group["frame"]
        table = {name: group[name] for name in ("I", "frame", "label", "mask", "overload")}
        table |= zip(("X", "Y"), group["XY"].T, strict=True)
        table |= zip(("X_begin", "X_end", "Y_begin", "Y_end"), group["box"].T, strict=True)
        table["n_pixels"] = np.diff(group["pixel_list_BE"])[:, 0]
        table["angle"] = file["lauecollect/angle"][:][frame]
        table["laser_on"] = file["lauecollect/laser_on"][:][frame]
    return {name: table[name] for name in COLUMNS}


def test_csv_is_text_with_exact_numbers(spots: Path) -> None:
    path, notes = export("csv", spots)
    assert path == spots.with_name("run__spots.csv")
    assert notes == []
    table = expected(spots)
    lines = path.read_bytes().decode("ascii").split("\n")
    assert lines[0] == ",".join(COLUMNS)
    assert lines[-1] == ""
    rows = zip(*(values.tolist() for values in table.values()), strict=True)
    assert lines[1:-1] == [",".join(map(repr, row)) for row in rows]
    assert len(lines) > 20


def test_csv_is_read_by_pandas(spots: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="needs the extra export: pandas")
    found = pandas.read_csv(export("csv", spots)[0])
    table = expected(spots)
    assert list(found) == COLUMNS
    for name, values in table.items():  # pandas rounds the last digit of some numbers
        np.testing.assert_allclose(found[name], values, rtol=1e-15 if name == "I" else 0)


def test_parquet_is_read_by_pyarrow_with_units_and_options(
    spots: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra export: pyarrow")
    monkeypatch.setattr("gpu_spots.export.parquet.ROWS", 5)
    path, _ = export("parquet", spots)
    found, table = parquet.read_table(path), expected(spots)
    assert found.column_names == COLUMNS
    for name, values in table.items():
        column = found[name].to_numpy()
        assert np.array_equal(column, values)
        if name not in ("n_pixels", "angle", "laser_on"):
            assert column.dtype == values.dtype
    assert found.schema.field("I").metadata[b"units"] == b"counts"
    assert found.schema.field("X").metadata[b"units"] == b"pixel"
    options = json.loads(found.schema.metadata[b"gpu_spots"])
    assert (options["cutoff"], options["sync"]) == (3.0, "pairs")
    # a row group has at least so many rows, and ends with a frame
    file = parquet.ParquetFile(path)
    assert file.num_row_groups > 1
    groups = [file.read_row_group(i)["frame"].to_numpy() for i in range(file.num_row_groups)]
    assert all(len(group) >= 5 for group in groups[:-1])
    assert all(a[-1] < b[0] for a, b in pairwise(groups))


def test_to_dataframe_has_the_columns_of_the_file(spots: Path) -> None:
    pytest.importorskip("pandas", reason="needs the extra export: pandas")
    table = expected(spots)
    with open_spots(spots) as results:
        found, of_frame = results.to_dataframe(), results.to_dataframe(3)
        begin, end = results.frame_ranges[3]
    assert list(found) == COLUMNS[:-2]
    assert all(np.array_equal(found[name], table[name]) for name in found)
    assert np.array_equal(of_frame["I"], table["I"][begin:end])


@pytest.mark.parametrize("name", ["pandas", "pyarrow"])
def test_a_missing_package_is_an_error(
    spots: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = builtins.__import__

    def without(module: str, *rest: Any) -> Any:
        if module.split(".")[0] == name:
            raise ImportError(module)
        return load(module, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with (
        open_spots(spots) as results,
        pytest.raises(GpuSpotsError, match=f"needs {name}; install it with pip install pandas"),
    ):
        results.to_dataframe() if name == "pandas" else export("parquet", spots)
    assert not spots.with_name("run__spots.parquet").exists()


def test_every_column_with_two_dimensions_has_names_for_tables() -> None:
    for record in SPOT_COLUMNS:
        width = record.shape[1] if len(record.shape) == 2 else 0
        assert len(record.components) == width, record.path
        if record.name in COMPONENTS:
            assert record.components == COMPONENTS[record.name]
    names = [name for record in SPOT_COLUMNS for name in record.components or (record.name,)]
    assert len(names) == len(set(names))


def test_columns_that_come_later_are_exported(spots: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new record in the list of columns is enough: no format is edited."""
    new = replace(
        SPOT_COLUMNS[0], path="spots/quality", absent="it is not there", description="quality"
    )
    monkeypatch.setattr("gpu_spots.files.output.spots_file.SPOT_COLUMNS", (*SPOT_COLUMNS, new))
    quality = np.random.default_rng(1).random(len(expected(spots)["I"]))
    edited(spots, spots_quality=quality)
    assert np.array_equal(_column(export("csv", spots)[0], ","), quality)
    assert np.array_equal(_column(export("imaged11", spots)[0], None), quality)
    assert b"quality" in export("refl", spots)[0].read_bytes()


def _column(path: Path, separator: str | None) -> np.ndarray:
    """The column ``quality`` of a text file."""
    heading, *lines = path.read_text().splitlines()
    index = heading.lstrip("# ").split(separator).index("quality")
    return np.array([float(line.split(separator)[index]) for line in lines])


def test_a_run_without_spots_is_a_table_without_rows(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra export: pyarrow")
    spots = spots_of_run(tmp_path, "-c", 1000, "-S", "none")
    path, _ = export("csv", spots)
    (heading,) = path.read_text().splitlines()
    assert set(COLUMNS) < set(heading.split(","))
    assert parquet.read_table(export("parquet", spots)[0]).num_rows == 0


def test_what_is_not_known_is_left_out_or_nan(tmp_path: Path) -> None:
    angles = np.full(20, np.nan)
    angles[3:] = np.arange(17)
    spots = spots_of_run(
        tmp_path,
        *("-a", 0, "-S", "none", "--keep", "raw"),
        edit=replaced(lauecollect_angle=angles, lauecollect_laser_on=None),
    )
    path, notes = export("csv", spots)
    heading, *lines = path.read_text().splitlines()
    names = heading.split(",")
    assert notes == []
    assert "laser_on" not in names
    assert "n_pixels" in names  # though the lists of pixels are not kept
    frame, angle = names.index("frame"), names.index("angle")
    cells = [line.split(",") for line in lines]
    assert {int(row[frame]) for row in cells} == set(range(20))
    assert all((row[angle] == "nan") == (int(row[frame]) < 3) for row in cells)


def test_damaged_laser_states_are_left_out_and_named(spots: Path) -> None:
    edited(spots, lauecollect_laser_on=np.full(20, 7))
    path, notes = export("csv", spots)
    assert "laser_on" not in path.read_text().split("\n")[0]
    assert len(notes) == 1
    assert "laser states are left out: " in notes[0]
    assert "'7' at frame 0" in notes[0]


def test_text_columns_are_str(tmp_path: Path) -> None:
    def texts(file: h5py.File) -> None:
        file["lauecollect/file"] = [f"a_{i}.mccd" for i in range(20)]
        file["lauecollect/comment"] = np.array([b"a", b"\xc3\xa4"] * 10)
        file["lauecollect/broken"] = np.array([b"a", b"\xff"] * 10)

    with open_spots(spots_of_run(tmp_path, edit=texts)) as results:
        columns = results.columns
    assert columns["file"].tolist() == [f"a_{i}.mccd" for i in range(20)]
    assert columns["comment"].tolist() == ["a", "ä"] * 10
    assert columns["broken"].tolist() == ["a", "\\xff"] * 10
    assert columns["angle"].dtype == np.float64


def test_spots_without_a_centroid_are_at_their_most_intense_pixel(
    spots: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = SpotsFile.spot_columns

    def with_centroids(self: SpotsFile, *_: object) -> dict[str, np.ndarray]:
        columns = plain(self)
        centroids = {f"centroid_{name}": columns[name] + 0.25 for name in "XY"}
        centroids["centroid_X"][2] = np.nan
        return {**columns, **centroids}

    monkeypatch.setattr(SpotsFile, "spot_columns", with_centroids)
    with open_spots(spots) as results:
        source = Source(results, Path("out"), ExportOptions(), Silent())
        shift = source.positions - results.spots()["XY"]
    assert (shift[2] == 0).all()
    assert (np.delete(shift, 2, axis=0) == 0.25).all()
    assert source.notes == [
        "spots without a centroid: 1; their positions are those of their most intense pixels"
    ]


def test_the_source_notes_only_what_a_format_asks_for(spots: Path) -> None:
    with open_spots(spots) as results:
        source = Source(results, Path("out"), ExportOptions(), Silent())
        source.table()
        assert source.notes == []
        assert source.positions.tolist() == results.spots()["XY"].tolist()
        assert source.positions is source.positions
        assert len(source.notes) == 1
