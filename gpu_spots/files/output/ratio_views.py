"""Pictures of ratios for viewers of NeXus files: histograms of pulls, and pulls by place."""

from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from gpu_spots.columns import DatasetRecord
from gpu_spots.files.output.nexus import ORIENTATION, add_scatter, colours, mark_root, new_view

LARGEST, STEP = 10.0, 0.25
"""Largest pull in the histograms, and width of a bin; the outermost bins have all beyond."""
BEYOND = f"the outermost bins have all beyond {LARGEST:g}"


def _histogram(name: str, of_what: str, absent: str | None = None) -> DatasetRecord:
    return DatasetRecord(
        path=f"entry/pulls/{name}",
        dtypes=("int32",),
        shape=("n_bins",),
        description=f"number of reflections by {of_what}; {BEYOND}",
        label=f"reflections, {name.replace('_', '/')}",
        absent=absent,
    )


PULL = DatasetRecord(
    path="entry/pulls/pull",
    dtypes=("float64",),
    shape=("n_bins",),
    description="middle of each bin, in units of the standard error",
    label="change in units of its standard error",
)
"""Axis of the histograms."""
RATIO_VIEWS = (
    PULL,
    *(_histogram(name, f"null/{name}") for name in ("on_off", "off_off", "on_on")),
)
"""Histograms in a ratios file."""
MERGED_VIEWS = (PULL, _histogram("merged", "eta / sigma_R"))
"""Histogram in a file of merged ratios."""


def add_ratio_views(file: h5py.File) -> None:
    """Mark what viewers show of a ratios file that has all other datasets."""
    mark_root(file, {}, "on/off ratios", "pulls")
    pulls = {record.name: file[f"null/{record.name}"][()] for record in RATIO_VIEWS[1:]}
    _add_pulls(file, RATIO_VIEWS, pulls, "laser on/off against null tests off/off and on/on")
    title = f"changes in units of their standard errors; {ORIENTATION}"
    add_scatter(file, "places", "/null/on_off", ("/ratios/Y", "/ratios/X"), title)


def add_merged_views(file: h5py.File) -> None:
    """Mark what viewers show of a file of merged ratios that has all other datasets."""
    mark_root(file, {}, "merged on/off ratios", "pulls")
    with np.errstate(all="ignore"):
        pulls = file["merged/eta"][()] / file["merged/sigma_R"][()]
    _add_pulls(file, MERGED_VIEWS, {"merged": pulls}, "changes of the merged reflections")


def _add_pulls(
    file: h5py.File,
    records: tuple[DatasetRecord, ...],
    pulls: Mapping[str, NDArray[np.float64]],
    title: str,
) -> None:
    """Add an NXdata group of histograms, one per record after the first one, which is the axis."""
    edges = np.arange(-LARGEST, LARGEST + STEP / 2, STEP)
    values: dict[str, NDArray[Any]] = {PULL.name: (edges[:-1] + edges[1:]) / 2}
    for name, of_all in pulls.items():
        kept = np.clip(of_all[~np.isnan(of_all)], edges[0], edges[-1])
        values[name] = np.histogram(kept, edges)[0].astype(np.int32)
    signal, *others = pulls
    attributes: dict[str, object] = {"axes": [PULL.name], f"{PULL.name}_indices": 0, **colours()}
    if others:
        attributes["auxiliary_signals"] = others
    group = new_view(file, "pulls", signal, title, attributes)
    for record in records:
        group.create_dataset(record.name, data=values[record.name]).attrs.update(record.attributes)
