"""DIALS experiment (.expt) of a run: JSON with beam, detector, goniometer, scan and images."""

import json
import re
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_spots.errors import InputError, given
from gpu_spots.export.format import Source
from gpu_spots.files.output.frames_of_spots import images_of, is_of_images, recorded_run
from gpu_spots.files.output.new_file import new_binary_file
from gpu_spots.geometry import Geometry

Json = dict[str, Any]


def write_experiment(source: Source, frames: NDArray[np.int64], path: Path) -> str:
    """Write the experiment of a sequence of frames as DIALS reads it.

    Args:
        source: Spots file, with a geometry in its options.
        frames: Frames of the sequence, in its order.
        path: File to write.

    Returns:
        The identifier of the experiment. The same spots file and geometry have the same one.

    Raises:
        InputError: The frames are no scan of equal steps.
    """
    geometry = source.options.geometry
    assert geometry is not None
    start, width = _scan(source, frames)
    models: Json = {
        "beam": [_beam(geometry)],
        "detector": [_detector(source, geometry)],
        "goniometer": [
            {
                "__id__": "goniometer",
                "rotation_axis": [1.0, 0.0, 0.0],
                "fixed_rotation": np.eye(3).ravel().tolist(),
                "setting_rotation": np.eye(3).ravel().tolist(),
            }
        ],
        "scan": [
            {
                "image_range": [1, len(frames)],
                "batch_offset": 0,
                "oscillation": [start, width],
                "exposure_time": [0.0] * len(frames),
                "epochs": [0.0] * len(frames),
                "valid_image_ranges": {},
            }
        ],
        "imageset": [_imageset(source, frames)],
    }
    name = json.dumps([source.name, models], sort_keys=True)
    identifier = str(uuid.uuid5(uuid.NAMESPACE_URL, name))
    experiment = {"__id__": "Experiment", "identifier": identifier, **dict.fromkeys(models, 0)}
    whole = {
        "__id__": "ExperimentList",
        "experiment": [experiment],
        **models,
        "crystal": [],
        "profile": [],
        "scaling_model": [],
    }
    with new_binary_file(path, str(source.output.with_suffix(".expt"))) as file:
        file.write((json.dumps(whole, indent=2) + "\n").encode())
    source.notes.append(
        "experiment: the crystal turns about the fast axis of the detector (rotation_axis 1,0,0); "
        "change it in the .expt if your goniometer differs"
    )
    return identifier


def _scan(source: Source, frames: NDArray[np.int64]) -> tuple[float, float]:
    """Return the first angle and the step. Raises `InputError` if the frames are no scan."""
    angles = source.frame_angles
    remedy = f"choose frames with {given('one_per_angle')}, or leave {given('distance')} out"
    if angles is None or not np.isfinite(angles[frames]).all():
        raise InputError(
            f"{source.name}: angles are unknown, expected one per frame for an experiment; {remedy}"
        )
    steps = np.round(np.diff(angles[frames]), 3)
    if len(steps) == 0 or len(np.unique(steps)) > 1 or steps[0] == 0:
        found = "one frame" if len(steps) == 0 else f"steps of {steps.min():g} to {steps.max():g}"
        raise InputError(
            f"{source.name}: found {found} degrees, expected a scan of equal steps for an "
            f"experiment; {remedy}"
        )
    return float(angles[frames[0]]), float(steps[0])


def _beam(geometry: Geometry) -> Json:
    """Return the beam. Its direction is that from the crystal to the source."""
    low, high = geometry.wavelength
    kind: Json = (
        {"__id__": "monochromatic", "wavelength": low}
        if low == high
        else {"__id__": "polychromatic", "wavelength_range": [low, high]}
    )
    return kind | {
        "direction": [0.0, 0.0, 1.0],
        "divergence": 0.0,
        "sigma_divergence": 0.0,
        "polarization_normal": [0.0, 1.0, 0.0],
        "polarization_fraction": 0.999,
        "flux": 0.0,
        "transmission": 1.0,
        "probe": "x-ray",
        "sample_to_source_distance": 0.0,
    }


def _detector(source: Source, geometry: Geometry) -> Json:
    """Return the detector: fast is Y, slow is X, and its millimetres begin at a pixel's corner."""
    n_X, n_Y = source.frame_shape()
    slow, fast = geometry.pixel_size
    X, Y = geometry.beam_centre
    saturation = source.results.info.get("saturation")
    largest = np.iinfo(np.int32).max if saturation is None else float(saturation) - 1
    common = {
        "identifier": "",
        "thickness": 0.0,
        "material": "",
        "mu": 0.0,
        "mask": [],
        "gain": 1.0,
        "pedestal": 0.0,
        "px_mm_strategy": {"type": "SimplePxMmStrategy"},
        "raw_image_offset": [0, 0],
    }
    panel = common | {
        "name": "Panel",
        "type": "SENSOR_UNKNOWN",
        "fast_axis": [1.0, 0.0, 0.0],
        "slow_axis": [0.0, -1.0, 0.0],
        "origin": [-(Y + 0.5) * fast, (X + 0.5) * slow, -geometry.distance],
        "image_size": [n_Y, n_X],
        "pixel_size": [fast, slow],
        "trusted_range": [0.0, float(largest)],
    }
    hierarchy = common | {
        "name": "",
        "type": "",
        "fast_axis": [1.0, 0.0, 0.0],
        "slow_axis": [0.0, 1.0, 0.0],
        "origin": [0.0, 0.0, 0.0],
        "image_size": [0, 0],
        "pixel_size": [0.0, 0.0],
        "trusted_range": [0.0, 0.0],
        "children": [{"panel": 0}],
    }
    return {"panels": [panel], "hierarchy": hierarchy}


def _imageset(source: Source, frames: NDArray[np.int64]) -> Json:
    """Return the images: those of the run, or places in its HDF5 file."""
    common: Json = {
        "__id__": "ImageSequence",
        "mask": None,
        "gain": None,
        "pedestal": None,
        "dx": None,
        "dy": None,
        "params": {"dynamic_shadowing": "Auto", "multi_panel": False},
    }
    if not is_of_images(source.results):
        run = str(recorded_run(source.results).absolute())
        source.notes.append(
            f"experiment: the images are frames of {run}; indexing does not need them, but "
            "dials.image_viewer opens only formats that it knows"
        )
        return common | {"template": run, "single_file_indices": frames.tolist()}
    images = images_of(source.results)
    chosen = [images[frame] for frame in frames.tolist()]
    if missing := [path for path in chosen if not path.is_file()]:
        raise InputError(
            f"{source.results.name}: its frames are not found: no image {missing[0]}; put it back, "
            "or find the spots of the images that are left"
        )
    template = _template(chosen)
    if template is None:
        folder = source.output.absolute().with_suffix("")
        template = str(folder.with_name(f"{folder.name}_images") / f"image_####{chosen[0].suffix}")
        source.notes.append(
            f"experiment: the names of the images have no consecutive numbers; link them as "
            f"{template}, from 1"
        )
    return common | {"template": template}


def _template(images: Sequence[Path]) -> str | None:
    """Return the template of images with consecutive numbers from 1; None: they have none."""
    found = re.fullmatch(r"(.*?)(\d+)(\D*)", images[0].name)
    if found is None or int(found[2]) != 1:
        return None
    before, digits, after = found.groups()
    names = [f"{before}{number:0{len(digits)}}{after}" for number in range(1, len(images) + 1)]
    same = [path.name for path in images] == names and len({path.parent for path in images}) == 1
    return (
        str(images[0].absolute().with_name(f"{before}{'#' * len(digits)}{after}")) if same else None
    )
