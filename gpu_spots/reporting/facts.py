"""Facts of a run: its spots file, its frames, its ratios, and its truth if it is simulated."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_spots.errors import InputError
from gpu_spots.files.output.frames_of_spots import open_frames
from gpu_spots.files.output.simulated_run import is_simulated, read_found, read_truth
from gpu_spots.files.output.spots_file import SpotsFile, open_spots
from gpu_spots.model import Array
from gpu_spots.protocols import Stack
from gpu_spots.simulate.score import Score, score
from gpu_spots.spots.ratios import RatioResult

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Facts:
    """Contents of a report. Columns of frames and of spots are empty dicts if unknown."""

    name: str
    """Path of the spots file."""
    results: SpotsFile
    """The spots file, open."""
    info: dict[str, Any]
    """Options, and how the file was made; see docs/file-format.md."""
    shape: tuple[int, int, int]
    """Frames, rows (X), columns (Y)."""
    spots: dict[str, Array]
    """Columns of the table of spots: see `SpotsFile.spots`."""
    frames: dict[str, Array]
    """Columns with one row per frame: see `SpotsFile.per_frame`."""
    n_spots_of_frame: NDArray[np.int64]
    """(n_frames,) int64: number of spots of each frame."""
    avg: NDArray[np.float32]
    """(n_X, n_Y) float32, counts: background."""
    std: NDArray[np.float32]
    """(n_X, n_Y) float32, counts: its standard deviation."""
    valid: NDArray[np.bool_]
    """(n_X, n_Y) bool: pixels that can be in a spot."""
    noise_model: dict[str, float]
    """Gain, offset, correlation and their errors; empty: unknown."""
    stack: Stack | None
    """Frames of the run; None: not found."""
    without_frames: str
    """Why there are no frames."""
    ratios: RatioResult | None
    """On/off ratios; None: the run has none."""
    without_ratios: str
    """Why there are no ratios."""
    score: Score | None
    """Comparison with the true spots; None: not simulated, or not possible."""
    without_score: str
    """Why a simulated run has no comparison."""

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        return self.shape[0]

    @property
    def n_spots(self) -> int:
        """Number of spots on all frames."""
        return len(self.spots["I"])

    @property
    def lit(self) -> NDArray[np.bool_]:
        """(n_X, n_Y) bool: pixels with counts that change, unlike dead corners and gaps."""
        lit = self.valid & (self.std > 0)
        return lit if lit.any() else self.valid

    @property
    def positions(self) -> Floats:
        """(n_spots, 2) float64, pixels: centroid of each spot, or its most intense pixel."""
        brightest = self.spots["XY"].astype(np.float64)
        centroid = self.spots.get("centroid")
        if centroid is None:
            return brightest
        return np.where(np.isfinite(centroid).all(axis=1, keepdims=True), centroid, brightest)

    @property
    def n_pixels(self) -> NDArray[np.int64] | None:
        """(n_spots,) int64: number of pixels of each spot; None: unknown."""
        if "n_pixels" in self.spots:
            return self.spots["n_pixels"].astype(np.int64)
        if "pixel_list_BE" in self.spots:
            return np.diff(self.spots["pixel_list_BE"], axis=1)[:, 0].astype(np.int64)
        return None

    @property
    def saturation(self) -> float | None:
        """Smallest saturated value, counts; None: unknown."""
        value = self.info.get("saturation")
        return None if value is None else float(value)

    @property
    def is_laser_run(self) -> bool:
        """True if the laser is on on some frames and off on others."""
        states = self.frames.get("laser_on", np.zeros(0))
        return bool((states == 0).any() and (states == 1).any())

    @property
    def warnings(self) -> list[str]:
        """Warnings that were printed when the spots were found."""
        return [line for line in self.text("warnings").splitlines() if line]

    def text(self, name: str) -> str:
        """Return an attribute of ``info`` as text; empty: absent."""
        value = self.info.get(name, "")
        if isinstance(value, np.ndarray):
            return ",".join(map(str, value.tolist()))
        return value.decode(errors="replace") if isinstance(value, bytes) else str(value)

    def frame(self, index: int) -> Array:
        """Return a frame, (n_X, n_Y), counts. Raises `InputError` if it cannot be read."""
        assert self.stack is not None
        found = np.empty((1, *self.shape[1:]), self.stack.dtype)
        self.stack.read(index, index + 1, found)
        return found[0]


@contextmanager
def open_facts(spots: Path, frames_from: Path | None) -> Iterator[Facts]:
    """Open a spots file, and its frames if they are found.

    Args:
        spots: Spots file.
        frames_from: HDF5 file with the frames of the run, or folder of its images. None: as the
            spots file names them.

    Raises:
        InputError: The spots file or the frames that were given cannot be read.
    """
    with open_spots(spots) as results, ExitStack() as opened:
        stack, why = None, ""
        try:
            stack = opened.enter_context(open_frames(results, frames_from))
        except InputError as error:
            if frames_from is not None:
                raise
            why = str(error).partition("; ")[0]  # without the remedy, which is for the command
        yield _facts(results, stack, why)


def _facts(results: SpotsFile, stack: Stack | None, without_frames: str) -> Facts:
    ratios, without_ratios = None, ""
    try:
        frames = results.per_frame()
    except InputError:  # a file of an earlier version
        frames = {}
    if frames:
        try:
            ratios = results.ratios()
        except InputError as error:
            without_ratios = str(error).removeprefix(f"{results.name}: ")
    found, without_score = _score(results, stack)
    return Facts(
        name=results.name,
        results=results,
        info=results.info,
        shape=results.shape,
        spots=results.spots(),
        frames=frames,
        n_spots_of_frame=np.diff(results.frame_ranges, axis=1)[:, 0].astype(np.int64),
        avg=results.avg,
        std=results.std,
        valid=results.valid,
        noise_model=results.noise_model or {},
        stack=stack,
        without_frames=without_frames,
        ratios=ratios,
        without_ratios=without_ratios,
        score=found,
        without_score=without_score,
    )


def _score(results: SpotsFile, stack: Stack | None) -> tuple[Score | None, str]:
    """Return the comparison with the true spots of a simulated run, or why there is none."""
    if stack is None or stack.provenance.layout == "images":
        return None, ""
    run = Path(stack.provenance.input_file)
    if not is_simulated(run):
        return None, ""
    try:
        return score(read_truth(run), read_found(Path(results.name))), ""
    except (InputError, ValueError) as error:  # no list of pixels, or a part of the run only
        return None, str(error)
