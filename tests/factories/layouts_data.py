"""Writers of files in the layouts of beamlines. All hold the same laser run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from helpers import series

N_FRAMES = 20
SHAPE = (24, 40)
ANGLES = np.arange(N_FRAMES) // 2 * 1.5
STATES = np.arange(N_FRAMES) % 2

Edit = Callable[[h5py.File], object]


def frames_of(dtype: str = "uint16", seed: int = 1) -> np.ndarray:
    """The frames that every writer stores if it is given no others."""
    return series(N_FRAMES, SHAPE, dtype, seed)


def group(parent: h5py.Group, path: str, nx_class: str, **attributes: Any) -> h5py.Group:
    """A group with its NeXus class."""
    made = parent.require_group(path)
    made.attrs["NX_class"] = nx_class
    made.attrs.update(attributes)
    return made


def stored(parent: h5py.Group, name: str, frames: np.ndarray, **options: Any) -> h5py.Dataset:
    """Frames as detectors store them: one a chunk, compressed."""
    return parent.create_dataset(
        name, data=frames, **{"chunks": (1, *frames.shape[1:]), "compression": "gzip", **options}
    )


def write_nxdata(path: Path, frames: np.ndarray | None = None, edit: Edit | None = None) -> Path:
    """Write NXdata with ``default`` and ``signal``.

    Frames are in the detector, the signal is a link, angles are the axis.
    """
    with h5py.File(path, "w") as file:
        file.attrs["default"] = "scan"
        entry = group(file, "scan", "NXentry", default="plot")
        detector = group(group(entry, "instrument", "NXinstrument"), "ccd", "NXdetector")
        stored(detector, "image", frames_of() if frames is None else frames)
        plot = group(entry, "plot", "NXdata", signal="counts", axes=["phi_of_crystal", ".", "."])
        plot["counts"] = detector["image"]
        plot["phi_of_crystal"] = ANGLES
        plot["phi_of_crystal"].attrs["units"] = "deg"
        group(entry, "sample", "NXsample")["laser_on"] = STATES
        file["scan/other"] = np.zeros((N_FRAMES, 3, 5), "f4")
        if edit:
            edit(file)
    return path


def write_nexus(
    path: Path,
    frames: np.ndarray | None = None,
    edit: Edit | None = None,
    detector: dict[str, Any] | None = None,
) -> Path:
    """Write /entry/data/data, /entry/instrument/detector and /entry/sample/rotation_angle.

    Most beamlines do so, without ``default``.
    """
    with h5py.File(path, "w") as file:
        entry = group(file, "entry", "NXentry")
        stored(
            group(entry, "data", "NXdata", signal="data"),
            "data",
            frames_of() if frames is None else frames,
        )
        sample = group(entry, "sample", "NXsample")
        sample["rotation_angle"], sample["laser_on"] = ANGLES, STATES.astype(bool)
        facts = group(group(entry, "instrument", "NXinstrument"), "detector", "NXdetector")
        for name, value in (detector or {}).items():
            facts[name] = value
        if edit:
            edit(file)
    return path


def write_virtual(path: Path, frames: np.ndarray | None = None, edit: Edit | None = None) -> Path:
    """NXdata whose signal is a virtual dataset over two files."""
    frames = frames_of() if frames is None else frames
    layout = h5py.VirtualLayout(frames.shape, frames.dtype)
    for number, (begin, end) in enumerate(((0, 12), (12, N_FRAMES))):
        part = path.with_name(f"{path.stem}_part{number}.h5")
        with h5py.File(part, "w") as file:
            source = h5py.VirtualSource(stored(file, "x", frames[begin:end]))
            layout[begin:end] = h5py.VirtualSource(part.name, "x", source.shape)
    with h5py.File(path, "w") as file:
        entry = group(file, "entry", "NXentry", default="data")
        group(entry, "data", "NXdata", signal="data").create_virtual_dataset("data", layout)
        group(entry, "sample", "NXsample")["rotation_angle"] = ANGLES
        entry["sample/laser_on"] = STATES
        if edit:
            edit(file)
    return path


def write_dectris(
    path: Path,
    frames: np.ndarray | None = None,
    edit: Edit | None = None,
    detector: dict[str, Any] | None = None,
    per_file: int = 7,
) -> Path:
    """A DECTRIS master: external links to data files in order, a goniometer, and a detector."""
    frames = frames_of() if frames is None else frames
    stem = path.stem.removesuffix("_master")
    with h5py.File(path, "w") as master:
        entry = group(master, "entry", "NXentry", default="data")
        data = group(entry, "data", "NXdata", signal="data_000001")
        for number, begin in enumerate(range(0, len(frames), per_file), 1):
            part = path.with_name(f"{stem}_data_{number:06}.h5")
            with h5py.File(part, "w") as file:
                stored(
                    group(group(file, "entry", "NXentry"), "data", "NXdata"),
                    "data",
                    frames[begin : begin + per_file],
                )
            data[f"data_{number:06}"] = h5py.ExternalLink(part.name, "/entry/data/data")
        goniometer = group(group(entry, "sample", "NXsample"), "goniometer", "NXtransformations")
        goniometer["omega"], goniometer["omega_end"] = ANGLES, ANGLES + 0.1
        goniometer["phi"], goniometer["chi"] = np.full(N_FRAMES, 3.0), np.zeros(N_FRAMES)
        goniometer["omega_increment"] = 1.5
        facts = group(group(entry, "instrument", "NXinstrument"), "detector", "NXdetector")
        special = group(facts, "detectorSpecific", "NXcollection")
        special["nimages"] = N_FRAMES
        group(special, "detectorModule_000", "NXcollection")["pixel_mask"] = np.ones(
            (3, 3), np.uint32
        )
        for name, value in {"description": "Dectris EIGER2 Si 4M", **(detector or {})}.items():
            facts[name] = value
        if edit:
            edit(master)
    return path


def write_cxi(
    path: Path,
    frames: np.ndarray | None = None,
    edit: Edit | None = None,
    mask: np.ndarray | None = None,
) -> Path:
    """CXI: frames with the detector, data_1 is a link to it, the mask beside them."""
    with h5py.File(path, "w") as file:
        file["cxi_version"] = 160
        detector = file.create_group("entry_1/instrument_1/detector_1")
        stored(detector, "data", frames_of() if frames is None else frames)
        file.create_group("entry_1/data_1")["data"] = h5py.SoftLink(
            "/entry_1/instrument_1/detector_1/data"
        )
        if mask is not None:
            detector["mask"] = mask
        file["entry_1/sample_1/goniometer_1/omega"] = ANGLES
        file["entry_1/sample_1/laser_on"] = STATES
        if edit:
            edit(file)
    return path


def write_bliss(
    path: Path,
    frames: np.ndarray | None = None,
    edit: Edit | None = None,
    scans: tuple[str, ...] = ("1.1",),
) -> Path:
    """ESRF BLISS: one group a scan; the detector's images are in a Lima file of their own."""
    frames = frames_of() if frames is None else frames
    with h5py.File(path, "w") as file:
        file.attrs["creator"] = "blissdata"
        for scan in scans:
            lima = path.with_name(f"lima_{scan}.h5")
            write_lima(lima, frames)
            entry = group(file, scan, "NXentry")
            detector = group(group(entry, "instrument", "NXinstrument"), "eiger", "NXdetector")
            detector["data"] = h5py.ExternalLink(lima.name, "/entry_0000/measurement/data")
            measured = group(entry, "measurement", "NXcollection")
            measured["eiger"] = h5py.SoftLink(f"/{scan}/instrument/eiger/data")
            measured["diode"], measured["rot"] = np.arange(N_FRAMES) * 0.5, ANGLES + 0.0001
            measured["laser_on"] = STATES
            positioners = group(entry, "instrument/positioners", "NXcollection")
            positioners["diffrz"], positioners["omega"] = ANGLES, 12.0
            positioners["diffrz"].attrs["units"] = "deg"
        file["0.1/measurement/diode"] = np.zeros(3)
        file.attrs["default"] = scans[-1]
        if edit:
            edit(file)
    return path


def write_lima(path: Path, frames: np.ndarray | None = None, edit: Edit | None = None) -> Path:
    """Write a file of Lima: entry_0000, the detector with its model, and measurement.

    The same dataset is in both.
    """
    with h5py.File(path, "w") as file:
        file.attrs["default"] = "/entry_0000/measurement"
        entry = group(file, "entry_0000", "NXentry")
        detector = group(group(entry, "instrument", "NXinstrument"), "eiger1", "NXdetector")
        stored(detector, "data", frames_of() if frames is None else frames)
        detector["detector_information/model"] = "Eiger 4M"
        group(entry, "measurement", "NXcollection")["data"] = detector["data"]
        entry["instrument/goniometer/omega"] = ANGLES
        entry["sample/laser_on"] = STATES
        if edit:
            edit(file)
    return path


def write_crystfel(path: Path, frames: np.ndarray | None = None, edit: Edit | None = None) -> Path:
    """CrystFEL and SwissFEL: /data/data."""
    with h5py.File(path, "w") as file:
        stored(file, "data/data", frames_of() if frames is None else frames)
        file["data/rotation_angle"] = ANGLES
        file["data/laser_on"] = STATES
        if edit:
            edit(file)
    return path


def write_laueproc(path: Path, frames: np.ndarray | None = None, edit: Edit | None = None) -> Path:
    """LaueProc: /Data3D/Images."""
    with h5py.File(path, "w") as file:
        stored(file, "Data3D/Images", frames_of() if frames is None else frames)
        file["Data3D/Angles"] = ANGLES
        file["Data3D/Laser"] = STATES
        if edit:
            edit(file)
    return path


def write_anything(path: Path, frames: np.ndarray | None = None, edit: Edit | None = None) -> Path:
    """A file of one's own: one 3-D dataset somewhere, and the angles."""
    with h5py.File(path, "w") as file:
        stored(file, "run/of/today/images", frames_of() if frames is None else frames)
        file["run/of/today/angle"] = ANGLES
        file["run/of/today/laser_on"] = np.where(STATES, "on", "off").astype("S3")
        if edit:
            edit(file)
    return path


WRITERS: dict[str, tuple[Callable[..., Path], str, str]] = {
    "NXdata": (write_nxdata, "NXdata", "/scan/plot/counts"),
    "NeXus": (write_nexus, "NXdata", "/entry/data/data"),
    "virtual": (write_virtual, "NXdata", "/entry/data/data"),
    "DECTRIS": (write_dectris, "DECTRIS", "/entry/data/data_000001 ... /entry/data/data_000003"),
    "CXI": (write_cxi, "CXI", "/entry_1/data_1/data"),
    "BLISS": (write_bliss, "BLISS", "/1.1/measurement/eiger"),
    "Lima": (write_lima, "Lima", "/entry_0000/measurement/data"),
    "CrystFEL": (write_crystfel, "CrystFEL", "/data/data"),
    "LaueProc": (write_laueproc, "LaueProc", "/Data3D/Images"),
    "anything": (write_anything, "HDF5", "/run/of/today/images"),
}
"""Per layout: the function that writes it, its name, and the path of its frames."""
