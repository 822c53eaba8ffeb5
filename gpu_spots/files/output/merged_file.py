"""Ratios files that are read to be merged, and the file of the merged ratios."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from gpu_spots.errors import InputError, ParameterError, given
from gpu_spots.files.frames import open_hdf5
from gpu_spots.files.hdf5.heaps import read_checked
from gpu_spots.files.output.new_file import check_output, new_output, writing
from gpu_spots.files.output.ratio_views import MERGED_VIEWS, add_merged_views
from gpu_spots.files.output.ratios_file import (
    RATIO_COLUMNS,
    create,
    finite_json,
    flat,
    records,
    storable,
    text_of,
    write_table,
)
from gpu_spots.spots.ratios.merging import BY, MergeResult, RunRatios, merge_runs

MERGED_COLUMNS = records(
    "merged",
    "n_merged",
    *((name, "int32", "Miller index", "", "by position") for name in "hkl"),
    ("angle", "float64", "angle of the frames", "degree", "by hkl"),
    ("X", "float64", "X of the spot in the first run with it", "pixel", "by hkl"),
    ("Y", "float64", "Y of the spot in the first run with it", "pixel", "by hkl"),
    ("delay", "float64", "delay of the laser-on frames; NaN if unknown", "s"),
    ("n_runs", "int32", "number of runs with the reflection"),
    ("n_ratios", "int32", "number of ratios that are merged"),
    ("n_pairs", "int32", "number of pairs in these ratios"),
    ("R", "float64", "mean of the ratios, weighted by 1/sigma_R^2"),
    ("sigma_R", "float64", "standard error of R from those of the ratios"),
    ("sigma_ext", "float64", "standard error of R from the scatter of the ratios; NaN for one"),
    ("eta", "float64", "R - 1"),
    ("chi2", "float64", "chi squared of the ratios about R, n_ratios - 1 degrees of freedom"),
    (
        "distance",
        "float64",
        "largest distance from the first run with the spot; NaN by hkl",
        "pixel",
    ),
    ("flags", "uint16", "bits of spots/flags that the spot has in any of the runs"),
)
"""Columns with one row per merged reflection and delay."""
MEMBER_COLUMNS = records(
    "members",
    "n_members",
    ("merged", "int32", "row in the group merged"),
    ("run", "int32", "index of the run, in the order of info/runs"),
    ("ratio", "int32", "row in the group ratios of the run"),
    ("R", "float64", "ratio in the run"),
    ("sigma_R", "float64", "standard error of it"),
    ("distance", "float64", "distance from the first run with the spot; NaN by hkl", "pixel"),
)
"""Columns with one row per ratio of a run."""
COMPARISON_COLUMNS = records(
    "comparison",
    "n_comparisons",
    ("run_1", "int32", "index of a run"),
    ("run_2", "int32", "index of a later run"),
    ("n", "int32", "number of reflections in both"),
    ("correlation", "float64", "weighted correlation of eta; NaN for fewer than 3 reflections"),
    ("slope", "float64", "slope of eta of the second run on that of the first"),
    ("chi2", "float64", "chi squared of the differences, n degrees of freedom"),
    ("scale", "float64", "median of R of the second run divided by R of the first"),
)
"""Columns with one row per two runs."""
MERGED_DATASETS = {
    record.path: record
    for record in (*MERGED_COLUMNS, *MEMBER_COLUMNS, *COMPARISON_COLUMNS, *MERGED_VIEWS)
}
"""Records of all datasets of a file of merged ratios by path."""


def merged_of(paths: Sequence[Path], by: str | None = None) -> MergeResult:
    """Return the merged ratios of some ratios files; see `gpu_spots.merge_ratios`."""
    if by is not None and by not in BY:
        raise ParameterError("by", f"{by!r} is not {' or '.join(BY)}")
    if len(paths) < 2:
        raise ParameterError("files", f"found {len(paths)}, expected at least two ratios files")
    read = [_read(path) for path in paths]
    _check_same(paths, [info for _, info in read])
    runs = [run for run, _ in read]
    without = [run.name for run in runs if "h" not in run.columns]
    if by == "hkl" and without:
        raise InputError(
            f"{without[0]}: has no Miller indices, expected them to merge by hkl; make the ratios "
            f"with {given('hkl')}, or use {given('by', 'position')}"
        )
    if by is None and 0 < len(without) < len(runs):
        raise InputError(
            f"{without[0]}: has no Miller indices, and other runs have them; make its ratios with "
            f"{given('hkl')}, or use {given('by', 'position')}"
        )
    return merge_runs(runs, by or ("position" if without else "hkl"))


def _read(path: Path) -> tuple[RunRatios, dict[str, str]]:
    """Return the ratios of a file, and its options. Raises `InputError` if it is no ratios file."""
    with open_hdf5(path) as file:
        if isinstance(file.get("merged"), h5py.Group):
            raise InputError(
                f"{path}: is a file of merged ratios, expected the ratios of a run; merge all runs "
                "at once"
            )
        if not isinstance(file.get("ratios"), h5py.Group):
            raise InputError(
                f"{path}: not a ratios file, it has no group ratios; make one with gpu-spots ratios"
            )
        columns, length = {}, None
        for record in RATIO_COLUMNS:
            if record.optional and record.path not in file:
                continue
            item = file.get(record.path)
            if not isinstance(item, h5py.Dataset):
                raise InputError(f"{path}: not a ratios file, it has no dataset {record.path}")
            values = np.asarray(read_checked(item))
            length = len(values) if length is None and values.ndim else length
            if values.shape != (length,) or str(values.dtype) not in record.dtypes:
                raise InputError(
                    f"{path}: {record.path} is {values.dtype} of shape {values.shape}, expected "
                    f"{record.dtypes[0]} of shape ({length},); the file is damaged"
                )
            columns[record.name] = values
        attributes = file["info"].attrs if isinstance(file.get("info"), h5py.Group) else {}
        info = {name: text_of(attributes.get(name, "")) for name in ("spots_file", "scale")}
    return RunRatios(str(path), columns), info


def _check_same(paths: Sequence[Path], infos: Sequence[dict[str, str]]) -> None:
    """Raise `InputError` for a run that is given twice, and for ratios of different kinds."""
    for i, (path, info) in enumerate(zip(paths, infos, strict=True)):
        for other, known in zip(paths[:i], infos[:i], strict=True):
            if os.path.samefile(path, other):
                raise InputError(f"{path}: is given twice, expected each run once")
            if info["spots_file"] and info["spots_file"] == known["spots_file"]:
                raise InputError(
                    f"{path}: is of the same run as {other} ({info['spots_file']}), expected "
                    "different runs; leave one out"
                )
            if info["scale"] != known["scale"]:
                raise InputError(
                    f"{path}: was made with {given('scale', info['scale'])}, and {other} with "
                    f"{given('scale', known['scale'])}, expected the same; make one of them again"
                )


def write_merged(
    found: MergeResult, path: Path, sources: Sequence[Path], *, force: bool = False
) -> None:
    """Write merged ratios as an HDF5 file, which is complete or absent. Raises `OutputError`."""
    groups = {"merged": found.merged, "members": found.members, "comparison": found.comparison}
    with new_output(path, sources, force=force) as file, writing(file, path):
        for group, columns in groups.items():
            file.create_group(group)
            for name, values in columns.items():
                create(file, MERGED_DATASETS[f"{group}/{name}"], values)
        info = file.create_group("info")
        info.attrs["runs"] = [storable(name) for name in found.runs]
        for name, value in flat(found.figures):
            info.attrs[name] = value
        info.attrs["notes"] = "\n".join(map(storable, found.notes))
        add_merged_views(file)


def write_merged_csv(
    found: MergeResult, path: Path, sources: Sequence[Path], *, force: bool = False
) -> None:
    """Write merged ratios as text, one line per reflection. Raises `OutputError`."""
    check_output(path, sources, force)
    write_table(found.merged, path)


def merged_json(found: MergeResult) -> str:
    """Return figures, comparisons and notes as JSON; numbers that are not finite are null."""
    rows = zip(*(values.tolist() for values in found.comparison.values()), strict=True)
    comparison: list[dict[str, Any]] = [
        dict(zip(found.comparison, row, strict=True)) for row in rows
    ]
    whole = {"runs": found.runs, **found.figures, "comparison": comparison, "notes": found.notes}
    return finite_json(whole)
