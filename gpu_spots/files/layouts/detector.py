"""What a file says of its detector: which pixels are bad, which values count, and at which value it saturates (NeXus, DECTRIS, CXI)."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from gpu_spots.errors import InputError, given
from gpu_spots.files.hdf5.chunk_map import hdf5_reason
from gpu_spots.files.hdf5.tree import (
    FAILURES,
    attribute_of,
    groups_in,
    item_at,
    member,
    members,
    text_of,
    why_broken,
)
from gpu_spots.files.hdf5.virtual import read_values, require_complete
from gpu_spots.files.layouts.recognise import Layout
from gpu_spots.model import Array

NEXUS_BAD = 0xFFFF
"""Bits of an NXmx pixel mask that mean a pixel is not to be used; the bits above are for notes."""
CXI_BAD = 0x0001 | 0x0004 | 0x0008 | 0x0010 | 0x0040 | 0x0080 | 0x0100 | 0x0200 | 0x0400 | 0x1000
"""Bits of a CXI mask: invalid, hot, dead, shadowed, to be ignored, bad, out of resolution limits,
missing, noisy, failed correction.

Not saturated (0x2), in a peak (0x20, 0x2000), corrected (0x800, 0x4000): such pixels can be used.
"""
EIGER_DATA = re.compile(r"(.+)_data_\d{6}\.h5")
"""Names of EIGER data files; the first part is that of the master file."""
MAKERS = ("eiger", "pilatus", "dectris", "jungfrau", "mythen", "selun")
"""Detectors that mark pixels without a value by a value of their own."""


@dataclass(frozen=True, slots=True)
class DetectorFacts:
    """What the file says. Where it says nothing, the fields are None or empty."""

    mask: NDArray[np.bool_] | None = None
    """(n_X, n_Y) bool: True where a pixel is good."""
    mask_path: str = ""
    """Where the mask is."""
    low: float | None = None
    """Smallest value that counts, counts."""
    low_from: str = ""
    """What says so."""
    high: float | None = None
    """Largest value that counts, counts."""
    high_from: str = ""
    """What says so."""
    saturation: float | None = None
    """Smallest saturated value, counts."""
    saturation_from: str = ""
    """What says so."""
    unused_mask: str = ""
    """A dataset that may be a mask, and does not say what marks a good pixel."""
    note: str = ""
    """What the user should know of the range of valid values."""


def detector_facts(
    file: h5py.File,
    layout: Layout,
    shape: tuple[int, int],
    dtype: np.dtype[Any],
    *,
    with_mask: bool,
    with_bounds: bool,
) -> DetectorFacts:
    """What the file says of the detector that took the frames.

    Args:
        file: the opened file.
        layout: where the frames are.
        shape: n_X and n_Y.
        dtype: type of the frames.
        with_mask: whether its mask is asked for.
        with_bounds: whether the values that count are asked for.

    Raises:
        InputError: a mask or a bound cannot be read, or does not fit the frames.
    """
    if not layout.is_nexus:
        own = _of_converted(layout.parts[0].dataset) if with_bounds else {}
        return DetectorFacts(unused_mask=_beside(file, layout, shape) or "", **own)
    if layout.kind == "CXI":
        place = _cxi_mask(file, layout, with_mask)
        mask = (
            _cxi_good(
                file, place, shape, len_frames=sum(len(part.dataset) for part in layout.parts)
            )
            if place and with_mask
            else None
        )
        return DetectorFacts(mask, place or "")
    place, detector = _detector(file, layout, shape)
    bounds: dict[str, Any] = {}
    if with_bounds and detector is not None:
        bounds = _bounds(place, detector, dtype, _is_counting(file, layout, place, detector))
    elif with_bounds and layout.kind == "DECTRIS":
        bounds = _sentinels(dtype, "")
    elif with_bounds and dtype.kind == "u" and is_eiger_data(layout):
        bounds = _eiger_data(Path(layout.parts[0].dataset.file.filename), dtype)
    names = ("pixel_mask", "detectorSpecific/pixel_mask") if detector is not None else ()
    mask_place = next(
        (f"{place}/{name}" for name in names if _is_there(file, f"{place}/{name}", with_mask)), ""
    )
    mask = _nexus_good(file, mask_place, shape) if mask_place and with_mask else None
    unused = "" if mask_place else _beside(file, layout, shape) or ""
    return DetectorFacts(mask, mask_place, unused_mask=unused, **bounds)


def _of_converted(frames: h5py.Dataset) -> dict[str, Any]:
    """The fields of `DetectorFacts` for a run that was converted from images, whose headers said so."""
    found: dict[str, Any] = {}
    for field, name in (("saturation", "saturation"), ("low", "valid_min")):
        value = np.asarray(attribute_of(frames, name))
        if value.size == 1 and value.dtype.kind in "iuf" and np.isfinite(value).all():
            found |= {field: value.item(), f"{field}_from": f"attribute {name} of {frames.name}"}
    return found


def good_of_nexus(values: Array) -> NDArray[np.bool_]:
    """Good pixels of an NXmx pixel mask."""
    return (values.astype(np.int64) & NEXUS_BAD) == 0


def good_of_cxi(values: Array) -> NDArray[np.bool_]:
    """Good pixels of a CXI mask."""
    return (values.astype(np.int64) & CXI_BAD) == 0


def _detector(
    file: h5py.File, layout: Layout, shape: tuple[int, int]
) -> tuple[str, h5py.Group | None]:
    """The group of the detector that took the frames: the one that has them, else the only one, else the only one whose mask fits."""
    top = layout.parts[0].path.split("/")[1]
    found = list(_detectors(file, top))
    frames = layout.parts[0].dataset.id
    for place, group in found:
        if any(item.id == frames for _, item in members(group, skip_damaged=True)) or layout.parts[
            0
        ].path.startswith(f"{place}/"):
            return place, group
    if len(found) > 1:
        named = [
            (place, group)
            for place, group in found
            if place.rpartition("/")[2] in layout.parts[0].path.split("/")
        ]
        fitting = named or [(place, group) for place, group in found if _mask_shape(group) == shape]
        if len(fitting) != 1:
            return "", None
        found = fitting
    return found[0] if found else ("", None)


def _detectors(file: h5py.File, top: str) -> Iterator[tuple[str, h5py.Group]]:
    """Path and group of each detector of an entry."""
    entry = file[top]
    if not isinstance(entry, h5py.Group):
        return
    for name, instrument in groups_in(entry):
        if name == "instrument" or text_of(instrument, "NX_class") == "NXinstrument":
            for inner, group in groups_in(instrument):
                known = {
                    "pixel_mask",
                    "saturation_value",
                    "detectorSpecific",
                    "detector_information",
                }
                if (
                    text_of(group, "NX_class") == "NXdetector"
                    or inner == "detector"
                    or known & set(group)
                ):
                    yield f"/{top}/{name}/{inner}", group


def _mask_shape(detector: h5py.Group) -> tuple[int, ...] | None:
    item = member(detector, "pixel_mask") or member(detector, "detectorSpecific/pixel_mask")
    return item.shape if isinstance(item, h5py.Dataset) else None


def _is_there(file: h5py.File, path: str, wanted: bool) -> bool:
    """Whether a mask is there.

    Raises `InputError` where it is wanted and a link to it leads nowhere: to do without it is to be
    chosen.
    """
    if wanted and (why := why_broken(file, path)):
        raise InputError(f"{file.filename}: the mask {path} is missing: {why}; {ignore_mask()}")
    return isinstance(member(file, path), h5py.Dataset)


def _nexus_good(file: h5py.File, path: str, shape: tuple[int, int]) -> NDArray[np.bool_]:
    values = _image(file, path)
    values = values[0] if values.ndim == 3 and len(values) == 1 else values
    _check_mask(file, path, values, shape)
    return good_of_nexus(values)


def _cxi_mask(file: h5py.File, layout: Layout, wanted: bool) -> str | None:
    """The mask beside the frames, or beside what the frames are a link to."""
    place = layout.parts[0].path.rpartition("/")[0]
    places = [
        place,
        *(f"/{top}/{name}/{inner}" for top, name, inner in _cxi_detectors(file, layout)),
    ]
    paths = (f"{place}/{name}" for place in places for name in ("mask", "mask_shared"))
    return next((path for path in paths if _is_there(file, path, wanted)), None)


def _cxi_detectors(file: h5py.File, layout: Layout) -> Iterator[tuple[str, str, str]]:
    top = layout.parts[0].path.split("/")[1]
    for name, instrument in groups_in(file[top]):
        if name.startswith("instrument"):
            for inner, detector in groups_in(instrument):
                data = member(detector, "data")
                if data is not None and data.id == layout.parts[0].dataset.id:
                    yield top, name, inner


def _cxi_good(
    file: h5py.File, path: str, shape: tuple[int, int], len_frames: int
) -> NDArray[np.bool_]:
    """A mask for each frame masks a pixel that is bad on any of them."""
    item = file[path]
    if (
        isinstance(item, h5py.Dataset)
        and item.shape == (len_frames, *shape)
        and item.dtype.kind in "iu"
    ):
        source = f"{file.filename}: the mask {path}"
        require_complete(item, source)
        good = np.ones(shape, bool)
        try:
            for index in range(len_frames):
                good &= good_of_cxi(item[index])
        except FAILURES as error:
            raise InputError(f"{source} cannot be read: {hdf5_reason(error)}") from error
        return good
    values = _image(file, path)
    _check_mask(file, path, values, shape)
    return good_of_cxi(values)


def _image(file: h5py.File, path: str) -> Array:
    item = item_at(file, path)
    if not isinstance(item, h5py.Dataset):
        raise InputError(f"{file.filename}: the mask {path} is a group, expected a dataset")
    return read_values(item, f"{file.filename}: the mask {path}")


def _check_mask(file: h5py.File, path: str, values: Array, shape: tuple[int, int]) -> None:
    if values.dtype.kind not in "iub":
        raise InputError(
            f"{file.filename}: the mask {path} is {values.dtype}, expected integers; "
            f"{ignore_mask()}"
        )
    if values.shape != shape:
        raise InputError(
            f"{file.filename}: the mask {path} has shape {values.shape}, "
            f"expected that of a frame, {shape}; {ignore_mask()}"
        )


def _beside(file: h5py.File, layout: Layout, shape: tuple[int, int]) -> str | None:
    """An image beside the frames that is called a mask.

    Which of its values is good, nobody says.
    """
    place = layout.parts[0].path.rpartition("/")[0]
    group = file[place or "/"]
    for name, item in members(group, skip_damaged=True) if isinstance(group, h5py.Group) else ():
        if (
            "mask" in name.lower()
            and isinstance(item, h5py.Dataset)
            and item.shape == shape
            and item.dtype.kind in "iub"
        ):
            return f"{place}/{name}"
    return None


def _is_counting(file: h5py.File, layout: Layout, place: str, detector: h5py.Group) -> str:
    """The detector's make where it is known to mark pixels without a value, in lower case; empty where it is not.

    A CCD does not: its largest value is saturation.
    """
    words = place.rpartition("/")[2].lower()
    for name in (
        "description",
        "type",
        "model",
        "name",
        "local_name",
        "detector_information/model",
        "detector_information/type",
    ):
        item = member(detector, name)
        if isinstance(item, h5py.Dataset) and item.shape in ((), (1,)) and item.dtype.kind in "SO":
            words += f" {_text(item).lower()}"
    make = next((make for make in MAKERS if make in words), "")
    if make:
        return make
    if "detectorSpecific" in detector or layout.kind == "DECTRIS":
        return "dectris"
    return "pixel" if any(word in words.split() for word in ("pixel", "hpc")) else ""


def _text(item: h5py.Dataset) -> str:
    value = read_values(item, f"{item.file.filename}: {item.name}").reshape(-1)[0]
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _bounds(place: str, detector: h5py.Group, dtype: np.dtype[Any], make: str) -> dict[str, Any]:
    """The fields of `DetectorFacts` that bound the values."""
    found: dict[str, Any] = _sentinels(dtype, make) if make else {}
    for name in ("saturation_value", "countrate_correction_count_cutoff"):
        for path in (name, f"detectorSpecific/{name}"):
            value = _number(place, detector, path)
            # 0 and -1 stand for unknown
            if value is None or value <= 0:
                continue
            if value < found.get("saturation", np.inf):
                found |= {"saturation": value, "saturation_from": f"{place}/{path}"}
            if value < found.get("high", np.inf):
                found |= {"high": value, "high_from": f"{place}/{path}"}
    low = _number(place, detector, "underload_value")
    if low is not None and low > found.get("low", -np.inf):
        found |= {"low": low, "low_from": f"{place}/underload_value"}
    return found


def _sentinels(dtype: np.dtype[Any], make: str) -> dict[str, Any]:
    """Bounds that leave out the values which stand for none: the largest two of an unsigned type, -1 and -2 of a Pilatus, the smallest."""
    if dtype.kind == "u":
        largest = int(np.iinfo(dtype).max)
        return {
            "high": largest - 2,
            "high_from": f"{largest - 1} and {largest} mark pixels without a value",
        }
    if dtype.kind == "i" and make in ("pilatus", "eiger"):
        return {"low": 0, "low_from": "-1 and -2 mark pixels without a value"}
    if dtype.kind == "i":
        smallest = int(np.iinfo(dtype).min)
        return {"low": smallest + 1, "low_from": f"{smallest} marks pixels without a value"}
    return {}


def is_eiger_data(layout: Layout) -> bool:
    """Return whether the frames are those of an EIGER data file, which was opened without its master file."""
    frames = layout.parts[0].dataset
    is_named_so = EIGER_DATA.fullmatch(Path(frames.file.filename).name) is not None
    return layout.path == "/entry/data/data" and (is_named_so or "image_nr_low" in frames.attrs)


def _eiger_data(path: Path, dtype: np.dtype[Any]) -> dict[str, Any]:
    """The fields of `DetectorFacts` that bound the values of an EIGER data file."""
    largest = int(np.iinfo(dtype).max)
    named = EIGER_DATA.fullmatch(path.name)
    master = path.with_name(f"{named[1]}_master.h5") if named else path
    remedy = (
        f"give {master} instead" if named and master.exists() else "give the master file instead"
    )
    return {
        "high": largest - 1,
        "high_from": f"{largest} marks pixels without a value in EIGER data files",
        "note": "is an EIGER data file without its master file, which has the pixel mask and the "
        f"angles; {remedy} if you have it; the value {largest} counts as invalid, use "
        f"{given('valid_range')} to change this",
    }


def _number(place: str, detector: h5py.Group, name: str) -> float | int | None:
    """A number; None where there is none, or NaN. Raises `InputError` for anything else."""
    item = member(detector, name)
    if item is None and (why := why_broken(detector.file, f"{place}/{name}")):
        raise InputError(
            f"{detector.file.filename}: {place}/{name} is missing: {why}; {_ignore_number()}"
        )
    if not isinstance(item, h5py.Dataset) or item.shape is None:
        return None
    values = read_values(item, f"{detector.file.filename}: {place}/{name}").reshape(-1)
    if values.dtype.kind not in "iuf" or values.size != 1:
        raise InputError(
            f"{detector.file.filename}: {place}/{name} is "
            f"{'text' if item.dtype.kind in 'SO' else item.dtype} {item.shape}, "
            f"expected one number; {_ignore_number()}"
        )
    value = values[0].item()
    return None if isinstance(value, float) and not np.isfinite(value) else value


def ignore_mask() -> str:
    """Return the remedy for a mask in the file that cannot be used."""
    return f"use {given('file_mask', False)} to ignore it"


def _ignore_number() -> str:
    return f"use both {given('valid_range')} and {given('saturation')} to ignore it"
