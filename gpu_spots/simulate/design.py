"""Designs of simulated runs: options with their ranges and descriptions, in groups.

The command line makes its options from the fields of these classes, so each default, range and
help text is written here only.
"""

import math
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any

from gpu_spots.errors import ParameterError

LARGEST = {"uint16": 2**16 - 1, "int32": 2**31 - 1, "uint32": 2**32 - 1}
"""Types of the frames that can be simulated, and their largest values."""
KINDS = ("gaussian", "flat", "split", "streak", "moffat", "cutouts")
"""Shapes of single spots; the column ``profile`` of the truth is an index into this."""
PROFILES = (*KINDS, "mixed")
"""Shapes that can be asked for; mixed: each spot has one of those that need no image."""
TUNING_SEEDS = range(1000)
"""Seeds for choosing settings, for tests and for examples."""
PUBLISHED_SEEDS = range(1000, 2000)
"""Seeds of the runs behind published figures. Nothing is tuned on them."""
MAX_FRAMES = 1_000_000
"""Frames of a simulated run, at most."""


def _option(
    default: Any, text: str, low: float = 0, high: float = math.inf, choices: Any = None
) -> Any:
    """Return a field of a design: its default, its help text, and its range or its choices."""
    return field(default=default, metadata={"text": text, "range": (low, high), "choices": choices})


@dataclass(frozen=True, slots=True)
class DetectorDesign:
    """Detector. The defaults are those of a round MarCCD."""

    dtype: str = _option("uint16", "Type of the frames", choices=tuple(LARGEST))
    round_detector: bool = _option(
        True, "Pixels outside of the largest circle in the frame have no counts"
    )
    bias: float = _option(10.0, "Counts of a pixel without light", 0, 10000)
    read_noise: float = _option(2.5, "Read noise, counts rms", 0, 1000)
    correlation: float = _option(
        0.0,
        "Correlation of the shot noise between neighbouring pixels, as by a phosphor: "
        "sigma of the kernel, pixels; the variance of each pixel stays",
        0,
        3,
    )
    saturation: int | None = _option(
        None, "Largest count, at which pixels saturate  [default: the maximum of the type]", 1
    )
    modules: tuple[int, int] | None = _option(
        None, "Rows and columns of a detector module  [default: one module]", 8, 16384
    )
    gaps: tuple[int, int] = _option((0, 0), "Rows and columns of the gaps between modules", 0, 1000)
    gap_value: int = _option(0, "Value of the pixels in gaps; -1 is the largest unsigned one", -1)
    dead_value: int = _option(0, "Value of the dead pixels; -1 is the largest unsigned one", -2)


@dataclass(frozen=True, slots=True)
class BeamDesign:
    """Beam, crystal and background, and what changes of them during a run."""

    beam_jumps: int = _option(0, "Sudden changes of the beam's intensity during the run")
    jump: float = _option(10.0, "Size of these changes, percent rms", 0, 80)
    background_change: float = _option(
        0.0,
        "Change of the shape of the background during the run: a gradient across the frame, "
        "percent rms of the background at its edge",
        0,
        50,
    )
    rings: int = _option(0, "Sharp powder rings in the background", 0, 100)
    ring_strength: float = _option(30.0, "Height of the rings, percent of the background", 0, 1000)
    slips: int = _option(0, "Sudden slips of the crystal during the run: all spots move")
    slip: float = _option(3.0, "Size of a slip, pixels", 0, 100)


@dataclass(frozen=True, slots=True)
class SpotDesign:
    """Shapes, intensities and neighbours of spots."""

    profile: str = _option("gaussian", "Shape of the spots", choices=PROFILES)
    area: float = _option(
        120.0,
        "Median area of the spots, pixels in the 2-sigma ellipse on a frame of 2048 pixels; "
        "smaller frames have smaller spots",
        1,
        10000,
    )
    area_spread: float = _option(0.85, "Spread of the areas: sigma of the natural logarithm", 0, 2)
    smallest_area: float = _option(12.0, "Area of the smallest spots, pixels", 1, 10000)
    elongation: tuple[float, float] = _option(
        (1.2, 2.8), "Smallest and largest ratio of the axes of a spot", 1, 30
    )
    intensity: float = _option(669.0, "Median intensity of the spots, counts", 1e-3, 1e9)
    intensity_spread: float = _option(
        2.1, "Spread of the intensities: sigma of the natural logarithm", 0, 5
    )
    largest_response: float = _option(
        0.1, "Responses to the laser, on/off - 1, are between minus and plus this", 0, 0.9
    )
    neighbours: int = _option(
        0, "Spots on each frame that have a second, equal spot beside them", 0, 1_000_000
    )
    separation: float = _option(
        4.0, "Distance of these two, in sigmas of the spot in that direction", 0, 100
    )
    static_spots: int = _option(
        0, "Spots that are at the same place on all frames of the run", 0, 1_000_000
    )


@dataclass(frozen=True, slots=True)
class FaultDesign:
    """Faults of pixels and electronics."""

    flickering_pixels: int = _option(
        0, "Pixels that are bright on about a third of the frames", 0, 1_000_000
    )
    bias_drift: float = _option(0.0, "Slow change of the bias, counts rms", 0, 1000)


@dataclass(frozen=True, slots=True)
class Design:
    """Design of a simulated run.

    Raises `ParameterError`, which names the field, the value found and the range.
    """

    laser: bool = True
    """Off/on pairs at each angle; False: a dark run."""
    size: tuple[int, int] = _option(
        (1024, 1024), "Rows (X) and columns (Y) of a frame, 32 to 16384 each", 32, 16384
    )
    angles: int = _option(10, "Number of angles; each has its own spots", 1, MAX_FRAMES)
    repeats: int = _option(
        3, "Pairs at each angle and delay of a laser run, frames at each angle of a dark one", 1
    )
    delays: tuple[str, ...] = ("100ps",)
    """Delays of the laser-on frames of a laser run; each has responses of its own."""
    spots: int = _option(
        200,
        "Spots on each frame, of which slightly less than half are strong enough to be found",
        0,
        1_000_000,
    )
    background: float = _option(
        1000.0, "Background at the liquid ring, counts above the bias", 0, 60000
    )
    drift: float = _option(
        0.0,
        "Change of the beam from frame to frame, percent rms, most of it slow; about 0.9 in real "
        "runs",
        0,
        20,
    )
    jitter: float = _option(
        2.0,
        "Change of the spots from frame to frame that the background does not have, percent rms: "
        "how well the beam hits the crystal",
        0,
        20,
    )
    gain: float = _option(
        0.07,
        "Variance of the shot noise, counts^2 per count: 0.07 as in real MarCCD frames, 1 for a "
        "photon counter",
        0.001,
        100,
    )
    step: float = _option(1.0, "Difference between successive angles, degrees", 0.001, 360)
    on_first: bool = False
    """The laser-on frame of a pair comes first."""
    interlaced: bool = _option(
        False, "Visit the angles in two passes: every second one, then the others"
    )
    hot_pixels: int = _option(12, "Pixels with a large constant signal", 0, 1_000_000)
    dead_pixels: int = _option(12, "Pixels without a signal", 0, 1_000_000)
    zingers: float = _option(5.0, "Single bright pixels on each frame, mean number", 0, 10000)
    seed: int = _option(0, "Seed of the random numbers; equal seeds give equal runs", 0, 2**63 - 1)
    detector: DetectorDesign = DetectorDesign()
    beam: BeamDesign = BeamDesign()
    shape: SpotDesign = SpotDesign()
    faults: FaultDesign = FaultDesign()

    def __post_init__(self) -> None:
        for group in (self, *self.groups):
            for one in fields(group):
                _check(one, getattr(group, one.name))
        if not self.delays or not all(self.delays) or len(set(self.delays)) < len(self.delays):
            raise ParameterError("delays", f"{self.delays!r}, expected different names")
        for name in ("gap_value", "dead_value"):
            if getattr(self.detector, name) < 0 and self.detector.dtype == "uint16":
                raise ParameterError(
                    name, f"{getattr(self.detector, name)!r}, expected 0 or more for uint16 frames"
                )

    @property
    def groups(self) -> tuple[DetectorDesign, BeamDesign, SpotDesign, FaultDesign]:
        """The groups of options."""
        return self.detector, self.beam, self.shape, self.faults

    @property
    def frames_per_angle(self) -> int:
        """Frames of a block."""
        return self.repeats * (2 * len(self.delays) if self.laser else 1)

    @property
    def n_frames(self) -> int:
        """Frames of the run."""
        return self.angles * self.frames_per_angle

    @property
    def saturation(self) -> int:
        """Largest count of a pixel."""
        most = LARGEST[self.detector.dtype]
        return min(most, self.detector.saturation or most)


GROUPS = {
    "detector": DetectorDesign,
    "beam": BeamDesign,
    "shape": SpotDesign,
    "faults": FaultDesign,
}
"""Classes of the groups of options, by their fields in `Design`."""

_COUNTER: dict[str, Any] = {
    "round_detector": False,
    "bias": 0.0,
    "read_noise": 0.0,
    "gain": 1.0,
    "gap_value": -1,
    "smallest_area": 4.0,
    "intensity_spread": 1.6,
}
"""Options that all photon counters share."""
PRESETS: dict[str, dict[str, Any]] = {
    "marccd": {},
    "rayonix": {"round_detector": False, "correlation": 0.7, "hot_pixels": 40},
    "pilatus": _COUNTER
    | {
        "size": (1043, 981),
        "dtype": "int32",
        "saturation": 2**20 - 1,
        "modules": (195, 487),
        "gaps": (17, 7),
        "dead_value": -2,
        "background": 3.0,
        "area": 40.0,
        "intensity": 30.0,
    },
    "eiger": _COUNTER
    | {
        "size": (1065, 1030),
        "dtype": "uint32",
        "saturation": 2**32 - 2,
        "modules": (514, 1030),
        "gaps": (37, 10),
        "dead_value": -1,
        "background": 0.3,
        "area": 60.0,
        "intensity": 20.0,
    },
    "hard": {
        "profile": "mixed",
        "correlation": 0.5,
        "drift": 1.0,
        "beam_jumps": 2,
        "background_change": 2.0,
        "rings": 3,
        "slips": 1,
        "neighbours": 20,
        "static_spots": 10,
        "flickering_pixels": 20,
        "bias_drift": 1.0,
        "zingers": 20.0,
    },
}
"""Options of detectors and of a run with all difficulties, by the names of fields."""


def make_design(options: Mapping[str, Any], preset: str = "marccd") -> Design:
    """Return the design of a preset with options of one's own.

    Args:
        options: values by the names of fields of `Design` and of its groups.
        preset: a name in `PRESETS`.

    Raises:
        ParameterError: a value is outside of its range.

    Examples:
        >>> make_design({"size": (64, 64), "gain": 2.0}, "pilatus").gain
        2.0
    """
    chosen = PRESETS[preset] | dict(options)
    groups = {
        name: group(
            **{one.name: chosen.pop(one.name) for one in fields(group) if one.name in chosen}
        )
        for name, group in GROUPS.items()
    }
    return Design(**chosen, **groups)


def _check(one: Field[Any], value: Any) -> None:
    if "range" not in one.metadata or isinstance(value, bool) or value is None:
        return
    if one.metadata["choices"]:
        if value not in one.metadata["choices"]:
            expected = ", ".join(one.metadata["choices"])
            raise ParameterError(one.name, f"{value!r}, expected one of {expected}")
        return
    low, high = one.metadata["range"]
    for number in value if isinstance(value, tuple) else (value,):
        if not low <= number <= high:  # also catches NaN
            expected = f"{low:g} or more" if math.isinf(high) else f"from {low:g} to {high:g}"
            raise ParameterError(one.name, f"{number!r}, expected a number, {expected}")
