"""NeXus: groups with classes, of which the layouts of DECTRIS, BLISS, Lima and CXI are variants."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from gpu_spots.errors import InputError, given
from gpu_spots.files.hdf5.tree import (
    absolute,
    groups_in,
    item_at,
    member,
    members,
    names_in,
    text_of,
    why_broken,
)
from gpu_spots.files.hdf5.virtual import read_values
from gpu_spots.files.layouts.detector import (
    Bounds,
    DetectorFacts,
    MaskBits,
    has_mask,
    mask_beside,
    read_mask_values,
)
from gpu_spots.files.layouts.layout import FrameDatasets, Layout
from gpu_spots.files.layouts.search import (
    DEPTH,
    NUMBERED,
    Part,
    Parts,
    is_stack,
    numbered_frames,
)

BLISS_SCAN = r"\d+\.\d+"
"""Names of the scans of a BLISS file."""
NEXUS_MASK = MaskBits(0xFFFF, r"(.*/)?pixel_mask")
"""Mask of NXmx; the bits above are notes."""
PHOTON_COUNTERS = ("eiger", "pilatus", "dectris", "jungfrau", "mythen", "selun")
"""Detectors that mark pixels without a value by a value of their own."""


@dataclass(frozen=True, kw_only=True)
class Nexus(Layout):
    """Layout with all data of the frames in their entry, and a group for the detector."""

    mask_bits: MaskBits = NEXUS_MASK

    def columns_root(self, path: str) -> str:
        """Return the entry of the frames, as other entries are other measurements."""
        return path.split("/")[1]

    def detector(
        self, frames: FrameDatasets, dtype: np.dtype[Any], *, with_mask: bool, with_bounds: bool
    ) -> DetectorFacts:
        """Return what the group of the detector tells."""
        file = frames.file
        place, group = _detector(frames)
        bounds: Bounds = {}
        if with_bounds:
            make = None if group is None else _make(place, group)
            bounds = self.sentinels(frames, dtype, make)
            if group is not None:
                bounds = _declared_bounds(place, group, bounds)
        names = ("pixel_mask", "detectorSpecific/pixel_mask") if group is not None else ()
        paths = (f"{place}/{name}" for name in names)
        path = next((path for path in paths if has_mask(file, path, with_mask)), "")
        mask = None
        if path and with_mask:
            values = read_mask_values(file, path, frames.shape, one_layer=True)
            mask = self.mask_bits.good(values)
        unused = "" if path else mask_beside(file, frames.group, frames.shape)
        return DetectorFacts(mask, path, unused_mask=unused, **bounds)

    def sentinels(self, frames: FrameDatasets, dtype: np.dtype[Any], make: str | None) -> Bounds:
        """Return bounds that exclude the values which mark pixels without a value.

        Args:
            frames: datasets of the frames.
            dtype: type of the frames.
            make: kind of photon counter; empty: another detector, such as a CCD, whose largest
                value is saturation; None: the file does not describe the detector.
        """
        return sentinels(dtype, make) if make else {}


class NexusDefault(Nexus):
    """The attributes ``default`` and ``signal`` lead to the frames."""

    def stacks(self, file: h5py.File) -> Iterator[Parts]:
        """Yield the signal of the group that ``default`` leads to, otherwise those of all entries.

        The ``default`` of a BLISS file is what was plotted last, and is not used.
        """
        if any(re.fullmatch(BLISS_SCAN, name) for name in names_in(file)):
            return
        place, group = "", file
        while default := text_of(group, "default"):
            if default.strip("/.") == "" or place.count("/") > DEPTH:
                break
            place = (
                default.rstrip("/") if default.startswith("/") else f"{place}/{default.strip('/')}"
            )
            group = item_at(file, place)
            if not isinstance(group, h5py.Group):
                return
        if place and (text_of(group, "NX_class") == "NXdata" or "signal" in group.attrs):
            yield from signal_of(file, place, group)
            return
        for name, entry in [(place, group)] if place else groups_in(file):
            if text_of(entry, "NX_class") == "NXentry":
                for inner, data in groups_in(entry):
                    if text_of(data, "NX_class") == "NXdata":
                        yield from signal_of(file, f"{absolute(name)}/{inner}", data)


def signal_of(file: h5py.File, place: str, group: h5py.Group) -> Iterator[Parts]:
    """Yield the stack that an NXdata group shows.

    Numbered datasets are one stack, even if the signal is only the first of them.
    """
    name = text_of(group, "signal") or next(
        (
            key
            for key, item in members(group)
            if isinstance(item, h5py.Dataset) and "signal" in item.attrs
        ),
        "",
    )
    if NUMBERED.match(name) or (not name and any(NUMBERED.match(key) for key in names_in(group))):
        yield from numbered_frames(file, place, group)
    elif name and name in group:
        item = item_at(file, f"{place}/{name}")
        if is_stack(item):
            yield (Part(f"{place}/{name}", item),)


def is_marked(file: h5py.File, parts: Parts) -> bool:
    """Return whether NeXus classes mark the entry or the group of a stack."""
    entry = file[parts[0].path.split("/")[1]]
    return (
        text_of(entry, "NX_class") == "NXentry"
        or text_of(parts[0].dataset.parent, "NX_class") == "NXdata"
    )


def _detector(frames: FrameDatasets) -> tuple[str, h5py.Group | None]:
    """Return path and group of the detector that took the frames; empty and None if unknown.

    It is the one that has the frames, otherwise the only one, or the only one whose mask fits.
    """
    found = list(_detectors(frames.file, frames.entry))
    path, dataset = frames.parts[0].path, frames.parts[0].dataset
    for place, group in found:
        has_frames = any(item.id == dataset.id for _, item in members(group, skip_damaged=True))
        if has_frames or path.startswith(f"{place}/"):
            return place, group
    if len(found) > 1:
        names = path.split("/")
        named = [(place, group) for place, group in found if place.rpartition("/")[2] in names]
        found = named or [one for one in found if _mask_shape(one[1]) == frames.shape]
    return found[0] if len(found) == 1 else ("", None)


def _detectors(file: h5py.File, entry_name: str) -> Iterator[tuple[str, h5py.Group]]:
    """Yield path and group of each detector of an entry."""
    known = {"pixel_mask", "saturation_value", "detectorSpecific", "detector_information"}
    entry = file[entry_name]
    for name, instrument in groups_in(entry) if isinstance(entry, h5py.Group) else ():
        if name != "instrument" and text_of(instrument, "NX_class") != "NXinstrument":
            continue
        for inner, group in groups_in(instrument):
            if (
                text_of(group, "NX_class") == "NXdetector"
                or inner == "detector"
                or known & set(group)
            ):
                yield f"/{entry_name}/{name}/{inner}", group


def _mask_shape(detector: h5py.Group) -> tuple[int, ...] | None:
    item = member(detector, "pixel_mask") or member(detector, "detectorSpecific/pixel_mask")
    return item.shape if isinstance(item, h5py.Dataset) else None


def _make(place: str, detector: h5py.Group) -> str:
    """Return the kind of photon counter, lower case; empty for any other detector."""
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
    make = next((make for make in PHOTON_COUNTERS if make in words), "")
    if make:
        return make
    if "detectorSpecific" in detector:
        return "dectris"
    return "pixel" if any(word in words.split() for word in ("pixel", "hpc")) else ""


def _text(item: h5py.Dataset) -> str:
    value = read_values(item, f"{item.file.filename}: {item.name}").reshape(-1)[0]
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def sentinels(dtype: np.dtype[Any], make: str) -> Bounds:
    """Return bounds that exclude the values with which a photon counter marks pixels without one.

    These are the two largest of an unsigned type, -1 and -2 of a Pilatus or an Eiger, and the
    smallest of another signed type.
    """
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


def _declared_bounds(place: str, detector: h5py.Group, bounds: Bounds) -> Bounds:
    """Return bounds narrowed by the values that the group of the detector has."""
    found = dict(bounds)
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


def _number(place: str, detector: h5py.Group, name: str) -> float | int | None:
    """Return a number; None if there is none, or NaN. Raises `InputError` for anything else."""
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


def _ignore_number() -> str:
    return f"use both {given('valid_range')} and {given('saturation')} to ignore it"


NEXUS = NexusDefault(
    name="NXdata",
    title="NeXus",
    frames="the dataset given by `default` and `signal`",
)
NEXUS_UNMARKED = Nexus(
    name=NEXUS.name,
    title=NEXUS.title,
    frames="without attributes: `/entry/data/data`, `/entry/instrument/DETECTOR/data`",
    paths=(r"entry\d*/data/data", r"entry\d*/instrument/.*/data"),
)
