"""Ratios from a spots file, and the file they are written to."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from gpu_spots.columns import NOISE_LAGS, DatasetRecord
from gpu_spots.errors import InputError, ParameterError, given
from gpu_spots.files.frames import open_hdf5
from gpu_spots.files.hdf5.heaps import attributes
from gpu_spots.files.hdf5.tree import member
from gpu_spots.files.hkl_table import read_hkl
from gpu_spots.files.output.frames_of_spots import frame_names
from gpu_spots.files.output.new_file import check_output, new_binary_file, new_output, writing
from gpu_spots.files.output.new_file import complete_or_absent as complete
from gpu_spots.files.output.ratio_views import RATIO_VIEWS, add_ratio_views
from gpu_spots.files.output.spots_file import SpotsFile
from gpu_spots.geometry import Geometry, UnitCell
from gpu_spots.model import SpotTable
from gpu_spots.noise_model import correlation_factor
from gpu_spots.spots.frames import seconds
from gpu_spots.spots.ratios import SCALES, FrameStates, RatioResult, SpotRows, ratios
from gpu_spots.spots.ratios.assignment import (
    HklTable,
    SpotPlaces,
    of_reflections,
    of_spots,
    rows_of,
)
from gpu_spots.spots.ratios.wilson import photo_wilson

INTENSITIES = {"I": "sigma", "I_prf": "sigma_prf"}
"""Columns of the intensity that ratios can be made of, and of its error."""
NEEDED = ("sigma", "max", "flags")
"""Columns of the table of spots that older files lack."""


def records(group: str, length: str, *columns: tuple[str, ...]) -> tuple[DatasetRecord, ...]:
    """Return the records of the columns of a group.

    Args:
        group: Name of the group.
        length: Name of the length of all its columns.
        *columns: Name, type and description of each, then its unit ("": none) and the condition
            under which it is absent, if it has them.
    """
    return tuple(
        DatasetRecord(
            path=f"{group}/{name}",
            dtypes=(dtype,),
            shape=(length,),
            description=description,
            unit=more[0] or None if more else None,
            absent=more[1] if len(more) > 1 else None,
        )
        for name, dtype, description, *more in columns
    )


RATIO_COLUMNS = records(
    "ratios",
    "n_ratios",
    ("mask", "int32", "index of the first mask with the reflection"),
    ("label", "int32", "label of the reflection in that mask"),
    ("delay", "float64", "delay of the laser-on frames; NaN if unknown", "s"),
    ("angle", "float64", "angle of the frames", "degree"),
    ("X", "float64", "mean X of the spot on its frames", "pixel"),
    ("Y", "float64", "mean Y of the spot on its frames", "pixel"),
    ("n_pairs", "int32", "number of pairs that are used"),
    ("n_rejected", "int32", "number of pairs that are rejected"),
    ("I_off", "float64", "mean intensity without laser", "counts"),
    ("sigma_I_off", "float64", "standard error of I_off", "counts"),
    (
        "I_on",
        "float64",
        "mean intensity with laser, divided by the scale of each pair (--scale pairs)",
        "counts",
    ),
    ("sigma_I_on", "float64", "standard error of I_on", "counts"),
    ("R", "float64", "sum of I_on divided by sum of I_off; NaN if that is not above 0"),
    (
        "sigma_R",
        "float64",
        "standard error of R: noise of the frames, shared background, run-wide error",
    ),
    ("eta", "float64", "R - 1"),
    ("mean_R", "float64", "plain mean of the pairs' ratios"),
    ("std_R", "float64", "sample standard deviation of the pairs' ratios; NaN for one pair"),
    (
        "chi2",
        "float64",
        "chi squared of the pairs about R, n_pairs - 1 degrees of freedom; NaN for one pair",
    ),
    ("flags", "uint16", "bits of spots/flags that the spot has on any of its frames"),
    *((name, "int32", "Miller index; 0, 0, 0 if unknown", "", "without --hkl") for name in "hkl"),
    ("wavelength", "float64", "wavelength; NaN if unknown", "Angstrom", "without --hkl"),
    (
        "s",
        "float64",
        "sin(theta) / wavelength; NaN if unknown",
        "1/Angstrom",
        "without geometry and --cell",
    ),
)
"""Columns with one row per reflection and delay, by mask, label and delay."""
PAIR_COLUMNS = records(
    "pairs",
    "n_pairs",
    ("ratio", "int32", "row of the reflection in the group ratios"),
    ("frame_off", "int32", "index of the frame without laser"),
    ("frame_on", "int32", "index of the frame with laser"),
    ("I_off", "float64", "intensity without laser", "counts"),
    ("I_on", "float64", "intensity with laser, divided by the scale of the pair", "counts"),
    ("sigma_I_off", "float64", "standard error of I_off", "counts"),
    ("sigma_I_on", "float64", "standard error of I_on", "counts"),
    ("R", "float64", "I_on divided by I_off"),
    ("sigma_R", "float64", "standard error of R, with the run-wide error"),
    (
        "distance",
        "float64",
        "distance of the spot from the same reflection in its first mask; 0 in that mask",
        "pixel",
    ),
    ("rejected", "uint8", "0 used, 1 not a number, 2 saturated, 3 zinger, 4 outlier"),
    ("spot_off", "int64", "row of the spot without laser in the table of spots"),
    ("spot_on", "int64", "row of the spot with laser in the table of spots"),
)
"""Columns with one row per reflection and pair of frames, by reflection, then frame."""
FRAME_PAIR_COLUMNS = records(
    "frame_pairs",
    "n_frame_pairs",
    ("frame_off", "int32", "index of the frame without laser"),
    ("frame_on", "int32", "index of the frame with laser"),
    ("scale", "float64", "median ratio of the strong spots; NaN if there are too few"),
)
"""Columns with one row per pair of frames."""
NULL_COLUMNS = tuple(
    DatasetRecord(path=f"null/{name}", dtypes=("float64",), shape=(length,), description=text)
    for name, length, text in (
        ("on_off", "n_ratios", "I_on - I_off, in units of its standard error if R is 1"),
        ("off_off", "n_off_ratios", "the same from pairs of laser-off frames"),
        ("on_on", "n_on_ratios", "the same from pairs of laser-on frames"),
        ("pairs", "n_pairs", "distance of each pair from its reflection, in sigma; NaN if unknown"),
    )
)
"""Columns of the null tests: pulls, which have a width of 1 if errors are right."""
RATIO_DATASETS = {
    record.path: record
    for record in (
        *RATIO_COLUMNS,
        *PAIR_COLUMNS,
        *FRAME_PAIR_COLUMNS,
        *NULL_COLUMNS,
        *RATIO_VIEWS,
    )
}
"""Records of all datasets of a ratios file by path."""


def ratios_of(
    results: SpotsFile,
    *,
    scale: str = "none",
    intensity: str | None = None,
    keep_saturated: bool = False,
    hkl: Path | None = None,
    geometry: Geometry | None = None,
    cell: UnitCell | None = None,
) -> RatioResult:
    """Return the on/off ratios of the results of a run; see `gpu_spots.ratios`."""
    if scale not in SCALES:
        raise ParameterError("scale", f"{scale!r} is not {' or '.join(SCALES)}")
    if intensity is not None and intensity not in INTENSITIES:
        raise ParameterError("intensity", f"{intensity!r} is not {' or '.join(INTENSITIES)}")
    if cell is not None and hkl is None:
        raise ParameterError("cell", f"needs Miller indices; give them with {given('hkl')}")
    table = None if hkl is None else read_hkl(hkl, frame_names(results))
    frames = _frame_states(results)
    spots, chosen, notes = _spot_rows(results, intensity)
    found = ratios(spots, frames, scale=scale, keep_saturated=keep_saturated)
    found.figures["intensity"] = chosen
    if table is not None:
        notes += _assign(found, table, spots, frames)
    _add_s(found, geometry, cell)
    found.notes[:0] = notes + _drift_notes(results)
    return found


def _assign(found: RatioResult, table: HklTable, spots: SpotRows, frames: FrameStates) -> list[str]:
    """Add Miller indices and wavelengths to ratios; return lines on those that are unknown.

    Raises `InputError` if the table is about no spot of the run.
    """
    places = SpotPlaces(
        spots.frame,
        frames.mask[spots.frame],
        spots.label,
        frames.angle[spots.frame],
        spots.position,
    )
    rows = rows_of(table, places)
    if not (rows >= 0).any():
        raise InputError(
            f"{table.name}: none of its {len(rows)} indexed rows belongs to a spot of the run; is "
            "it a table of this run, with rows X and columns Y from 0?"
        )
    of_all = of_spots(table, places, rows)
    assigned = of_reflections(
        of_all,
        np.tile(found.pairs["ratio"], 2),
        np.concatenate([found.pairs["spot_off"], found.pairs["spot_on"]]),
        len(found.ratios["R"]),
    )
    found.ratios.update(zip("hkl", assigned.hkl.T.astype(np.int32), strict=True))
    found.ratios["wavelength"] = assigned.wavelength
    n_known, n_lost = int(assigned.is_known.sum()), int((rows < 0).sum())
    notes = [f"{n_known} of {len(assigned.hkl)} reflections have Miller indices from {table.name}"]
    if n_lost:
        notes.append(f"{n_lost} of {len(rows)} rows of {table.name} belong to no spot")
    if n_several := of_all.n_conflicts + assigned.n_conflicts:
        notes.append(f"{n_several} spots have different Miller indices, and are taken as unknown")
    return notes


def _add_s(found: RatioResult, geometry: Geometry | None, cell: UnitCell | None) -> None:
    """Add sin(theta)/wavelength and the photo-Wilson fit to ratios, if they can be known."""
    columns = found.ratios
    if geometry is None and cell is None:
        return
    s = np.full(len(columns["R"]), np.nan)
    if geometry is not None:
        sine = geometry.sin_theta(columns["X"], columns["Y"])
        s = sine / geometry.mean_wavelength
    if cell is not None:
        hkl = np.stack([columns[name] for name in "hkl"], axis=1)
        half = np.where(hkl.any(axis=1), cell.inverse_d(hkl) / 2, np.nan)
        if geometry is not None:
            columns["wavelength"] = np.where(np.isfinite(half), sine / half, columns["wavelength"])
        s = np.where(np.isfinite(half), half, s)
    columns["s"] = s
    block = np.unique(columns["angle"], return_inverse=True)[1]
    fits = photo_wilson(s, columns["R"], columns["sigma_R"], block, columns["delay"])
    found.figures["photo-Wilson"] = fits
    if not fits:
        found.notes.append(
            "no photo-Wilson fit: too few reflections have a relative error below 50 %"
        )


def _frame_states(results: SpotsFile) -> FrameStates:
    """Return the metadata of the frames. Raises `InputError` if they allow no ratios."""
    name = results.name
    try:
        columns = results.per_frame()
    except InputError as error:
        raise InputError(
            f"{name}: has no group per_frame, it is from an older version; find the spots again"
        ) from error
    states = columns["laser_on"]
    if (states < 0).all():
        raise InputError(
            f"{name}: laser states are unknown, expected laser-on and laser-off frames; "
            "find the spots again with --laser-path or --table"
        )
    if not ((states == 0).any() and (states == 1).any()):
        kind = "on" if (states == 1).any() else "off"
        raise InputError(
            f"{name}: the laser is {kind} on all frames, expected laser-on and laser-off frames; "
            "a dark run has no ratios"
        )
    if text_of(results.info.get("sync", "")) == "none":
        raise InputError(
            f"{name}: every frame has a mask of its own, expected masks that frames share; "
            "find the spots again with -S blocks or -S pairs"
        )
    if (columns["block"] < 0).all():
        raise InputError(
            f"{name}: angles are unknown, expected one per frame; "
            "find the spots again with --angles-path or --table"
        )
    return FrameStates(
        mask=columns["mask"].astype(np.int64),
        laser_on=states.astype(np.int64),
        angle=columns["angle"],
        block=columns["block"].astype(np.int64),
        delay=_delays(results, columns["delay"], states),
        partner=columns["partner"].astype(np.int64),
    )


def _delays(
    results: SpotsFile, known: NDArray[np.float64], states: NDArray[np.int8]
) -> NDArray[np.float64]:
    """Return the delay of each frame, s, from the metadata where ``per_frame/delay`` lacks it."""
    column = results.columns.get("delay")
    if column is None or column.shape != known.shape:
        return known
    # a run with laser_on takes the laser states from there, and leaves the delays unread
    given = np.array([seconds(value) for value in column.tolist()])
    return np.where(np.isnan(known) & (states == 1), given, known)


def _spot_rows(results: SpotsFile, intensity: str | None) -> tuple[SpotRows, str, list[str]]:
    """Return spots with errors, the column of intensities, and notes on missing columns."""
    name, notes = results.name, []
    try:
        spots = results.spots()
    except InputError as error:
        raise InputError(f"{error}; older files have no ratios, find the spots again") from error
    if missing := [column for column in NEEDED if column not in spots]:
        raise InputError(
            f"{name}: has no spots/{missing[0]}, it is from an older version; find the spots again"
        )
    chosen = intensity or ("I_prf" if "I_prf" in spots else "I")
    if chosen not in spots:
        raise InputError(
            f"{name}: has no spots/{chosen}, expected weighted intensities; use --intensity I"
        )
    if "overload" not in spots:
        notes.append("saturated spots are not excluded: it is unknown which values are saturated")
    X, Y = spots["XY"].T
    model = _noise_model(results)
    sigma, signal = spots[INTENSITIES[chosen]], _signal_variance(spots, model)
    # of a value less the background, the variance is s^2 + s^2 / n: the last term is shared
    with np.errstate(all="ignore"):
        part = np.clip(1 - signal / spots["sigma"] ** 2, 0, 1) / (_n_used(results)[X, Y] + 1)
    shared = np.nan_to_num(sigma**2 * part)
    centroid = spots["centroid"]
    rows = SpotRows(
        frame=spots["frame"].astype(np.int64),
        label=spots["label"].astype(np.int64),
        position=np.where(np.isfinite(centroid).all(axis=1, keepdims=True), centroid, spots["XY"]),
        intensity=spots[chosen],
        sigma=sigma,
        shared=shared,
        flags=spots["flags"].astype(np.int64),
        total=spots["I"],
        largest=spots["max"].astype(np.float64),
        floor=results.avg[X, Y].astype(np.float64),
        noise=results.noise[X, Y].astype(np.float64),
        gain=model["gain"],
    )
    notes.append(
        f"intensities: spots/{chosen}, gain {model['gain']:.3g}, noise variance x "
        f"{model['correlation']:.2f} for 3 x 3 pixels"
    )
    return rows, chosen, notes


def _noise_model(results: SpotsFile) -> dict[str, float]:
    """Return the noise model. Raises `InputError` if it is unknown."""
    model = results.noise_model
    if model is None or not np.isfinite(model["gain"]):
        raise InputError(
            f"{results.name}: the noise of the frames is unknown, so ratios would have no errors; "
            "find the spots again with this version"
        )
    return model


def _signal_variance(spots: SpotTable, model: dict[str, float]) -> NDArray[np.float64]:
    """Return the part of ``sigma**2`` that is from the photons of each spot, (n,), counts^2."""
    variance = model["gain"] * np.maximum(spots["I"], 0)
    lags = [model[name] for name in NOISE_LAGS]
    # older files have no correlations, and their sigmas have no factor for these photons
    if np.isnan(lags).any():
        return variance
    return variance * correlation_factor(spots["n_pixels"], lags)


def _n_used(results: SpotsFile) -> NDArray[np.int64]:
    """Return the number of values in the background of each pixel, (n_X, n_Y)."""
    n_used = results.n_used
    if n_used is None:
        left = results.n_frames - int(results.info.get("n_removed", 0))
        return np.full(results.shape[1:], max(left, 1))
    return np.maximum(n_used, 1).astype(np.int64)


def _drift_notes(results: SpotsFile) -> list[str]:
    """Return a line on a level of the frames that changes and was not taken out."""
    columns = results.per_frame()
    level = columns["level"]
    if not (columns["scale"] == 1).all() or not np.mean(level) > 0:
        return []
    change = float(np.std(level) / np.mean(level))
    if change < 0.002:
        return []
    return [
        f"the background of the frames changes by {100 * change:.1f} % rms, which adds errors to "
        "weak spots; find the spots again with --normalise level"
    ]


def write_ratios(
    found: RatioResult,
    path: Path,
    sources: Sequence[Path],
    options: dict[str, Any],
    *,
    force: bool = False,
) -> None:
    """Write ratios, pairs and null tests as an HDF5 file, which is complete or absent.

    Args:
        found: Ratios.
        path: Output.
        sources: The spots file and other files that are read, which must not be overwritten.
        options: Options, which become attributes of the group ``info``.
        force: Whether an existing output is overwritten.

    Raises:
        OutputError: The output exists, or cannot be written.
    """
    groups = {
        "ratios": found.ratios,
        "pairs": found.pairs,
        "frame_pairs": found.frame_pairs,
        "null": found.null,
    }
    with new_output(path, sources, force=force) as file, writing(file, path):
        for group, columns in groups.items():
            file.create_group(group)
            for name, values in columns.items():
                create(file, RATIO_DATASETS[f"{group}/{name}"], values)
        file["null"].attrs["verdict"] = found.verdict
        for name, value in flat(found.figures):
            file["null"].attrs[name] = value
        info = file.create_group("info")
        info.attrs.update({"spots_file": storable(str(sources[0])), **options})
        info.attrs["notes"] = "\n".join(map(storable, found.notes))
        add_ratio_views(file)


def create(file: h5py.File, record: DatasetRecord, values: NDArray[Any]) -> None:
    """Create a dataset with its attributes. Raises TypeError if it does not match its record."""
    record.check(values.dtype, values.shape)
    options = {"chunks": (min(len(values), 4096),), "fletcher32": True} if len(values) else {}
    dataset = file.create_dataset(record.path, data=values, **options)
    dataset.attrs["description"] = record.description
    if record.unit is not None:
        dataset.attrs["units"] = record.unit


def write_csv(found: RatioResult, path: Path, source: Path, *, force: bool = False) -> None:
    """Write the ratios as text, one line per reflection. Raises `OutputError`."""
    check_output(path, [source], force)
    write_table(found.ratios, path)


def write_table(table: dict[str, NDArray[Any]], path: Path) -> None:
    """Write columns as CSV, numbers with all digits. Raises `OutputError`."""
    columns = [list(map(repr, values.tolist())) for values in table.values()]
    with complete(path) as part, new_binary_file(part, str(path)) as file:
        file.write(f"{','.join(table)}\n".encode())
        file.write("".join(f"{','.join(row)}\n" for row in zip(*columns, strict=True)).encode())


def verdict_of(path: Path) -> str:
    """Return the verdict in a ratios file. Raises `InputError`."""
    with open_hdf5(path) as file:
        found = member(file, "null")
        verdict = None if found is None else attributes(found).get("verdict")
    if verdict is None:
        raise InputError(f"{path}: has no verdict, expected a ratios file")
    return str(verdict)


def as_json(found: RatioResult) -> str:
    """Return verdict, figures and notes as JSON; numbers that are not finite are null."""
    return finite_json({"verdict": found.verdict, **found.figures, "notes": found.notes})


def finite_json(whole: dict[str, Any]) -> str:
    """Return figures as JSON; numbers that are not finite are null."""
    return json.dumps(_finite(whole), indent=2)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def flat(figures: Any, before: str = "") -> Iterable[tuple[str, Any]]:
    """Yield the numbers of nested figures, with names joined by underscores."""
    items = figures.items() if isinstance(figures, dict) else enumerate(figures)
    for name, value in items:
        whole = f"{before}{name}".replace("/", "_").replace(" ", "_")
        if isinstance(value, dict | list):
            yield from flat(value, f"{whole}_")
        else:
            yield whole, value


def storable(text: str) -> str:
    """Return text as an attribute can hold it."""
    return text.encode(errors="backslashreplace").decode()


def text_of(value: Any) -> str:
    """Return an attribute as text."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
