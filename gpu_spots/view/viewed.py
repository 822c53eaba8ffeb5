"""Contents of the page: a spots file and its frames, as values that JSON can hold."""

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_spots.backend import Backend
from gpu_spots.columns import DATASETS, MATCHED_MASKS, Flag
from gpu_spots.errors import InputError, ParameterError
from gpu_spots.files.output.spots_file import SpotsFile
from gpu_spots.model import Array, Components
from gpu_spots.parameters import Parameters
from gpu_spots.pictures import Contrast, binned, contrast_of, grey_levels, png
from gpu_spots.protocols import Stack
from gpu_spots.spots.table import label_image
from gpu_spots.tuning.frame_cache import FrameCache
from gpu_spots.tuning.tuner import FoundMasks, Tuner, run_of_results

KINDS = ("raw", "filtered", "synced")
"""Kinds of masks."""
MAPS = ("avg", "std", "iqr", "noise", "threshold", "max", "arg", "n_used")
"""Maps of the background."""
OF_FRAME = ("frame", "difference")
"""Pictures of a frame: its values, and its values less the background."""
MOST_LINES = 300_000
"""Largest number of lines of the outlines of a mask that the page draws."""
MOST_COURSE = 400
"""Largest number of frames of the course of a spot."""
MOST_PIXELS = 1 << 24
"""Largest number of pixels of a picture."""
RANKINGS = ("strongest", "weakest", "overloaded", "flagged")
"""Orders in which spots can be gone through."""
TUNED = ("finder", "cutoff", "erosions", "dilations", "structure", "significance", "streaks")
"""Options that can be tuned."""
SMOOTH_MAPS = ("avg", "std", "iqr", "noise", "threshold")
"""Maps whose binned pixels are averages; others are maxima."""

CommandOf = Callable[[Parameters], str]
"""Returns the command line that gives the masks of some options."""


class Viewed:
    """A spots file and its frames. Several threads may ask; nothing is written."""

    def __init__(
        self,
        results: SpotsFile,
        stack: Stack | None,
        why_no_frames: str,
        backend: Backend,
        command_of: CommandOf,
    ) -> None:
        """Prepare the answers.

        Args:
            results: The spots file.
            stack: Its frames. None: they are not available.
            why_no_frames: The reason, if they are not.
            backend: Backend that computes masks while options are tuned.
            command_of: Returns the command line for some options.
        """
        self._results, self._why = results, why_no_frames
        self._backend, self._command_of = backend, command_of
        self._n_frames, self._n_x, self._n_y = results.shape
        self._kinds = [kind for kind in KINDS if _has_mask(results, kind)]
        self._per_frame = results.per_frame()
        self._info = results.info
        self._saturation = self._info.get("saturation")
        self._maps: dict[str, Array] = {}
        self._lock = threading.Lock()
        self._frames: FrameCache | None = None
        self._tuner: Tuner | None = None
        self._why_no_tuning = why_no_frames
        if stack is not None:
            self._frames = FrameCache(stack)
            try:
                run = replace(run_of_results(results, stack), frames=self._frames)
                self._tuner = Tuner(run, backend)
            except (InputError, ParameterError) as error:
                self._why_no_tuning = str(error)

    def run(self) -> dict[str, Any]:
        """Return what is known of the run and of each frame."""
        known, ranges = self._per_frame, self._results.frame_ranges
        maps = [name for name in MAPS if name != "n_used" or self._results.n_used is not None]
        parameters = None if self._tuner is None else asdict(self._tuner.run.parameters)
        return {
            "file": self._results.name,
            "n_frames": self._n_frames,
            "n_X": self._n_x,
            "n_Y": self._n_y,
            "n_spots": self._results.n_spots,
            "kinds": self._kinds,
            "maps": maps,
            "descriptions": {
                **{name: DATASETS[f"stats/{name}"].description for name in maps},
                **{kind: self._words_of(f"masks_{kind}") for kind in self._kinds},
            },
            "why_no_frames": self._why,
            "why_no_tuning": self._why_no_tuning,
            "parameters": parameters,
            "flags": {flag.name.lower().replace("_", " "): int(flag) for flag in Flag if flag.name},
            "info": {name: _as_text(value) for name, value in sorted(self._info.items())},
            "frames": {
                "n_spots": np.diff(ranges, axis=1)[:, 0].tolist(),
                **{
                    name: _plain(known[name])
                    for name in ("angle", "laser_on", "delay", "block", "mask", "partner", "level")
                },
            },
        }

    def picture(
        self,
        of: str,
        frame: int,
        region: tuple[int, int, int, int],
        bin_factor: int,
        contrast: Contrast,
        palette: str,
    ) -> bytes:
        """Return part of a frame or map as a PNG file.

        Args:
            of: One of `OF_FRAME` or `MAPS`.
            frame: Index of the frame; not used for maps.
            region: X begin, X end, Y begin, Y end; ends exclusive.
            bin_factor: Side of the squares of pixels that are combined.
            contrast: Limits of the grey levels.
            palette: Colours of the grey levels.

        Raises:
            ParameterError: There is no such picture or region.
            InputError: The frame cannot be read.
        """
        if not 1 <= bin_factor <= max(self._n_x, self._n_y):
            raise ParameterError("bin", f"{bin_factor} is not from 1 to the size of the frame")
        x0, x1, y0, y1 = region
        inside = 0 <= x0 < x1 <= self._n_x and 0 <= y0 < y1 <= self._n_y
        if not inside or (x1 - x0) * (y1 - y0) > MOST_PIXELS * bin_factor * bin_factor:
            raise ParameterError("region", f"{region} is not inside of the frame")
        part = np.s_[x0:x1, y0:y1]
        image = self._image(of, frame, part)
        valid = None if self._valid is None else self._valid[part]
        how = "mean" if of in SMOOTH_MAPS else "max"
        small, valid = binned(image, bin_factor, how, valid)
        saturation = self._saturation if of == "frame" else None
        return png(grey_levels(small, contrast, valid, saturation), palette)

    def contrast(self, of: str, frame: int) -> dict[str, float]:
        """Return limits that suit a picture: ``low`` and ``high``, counts."""
        image = self._image(of, frame, np.s_[:, :])
        found = contrast_of(image, self._valid, (1.0, 99.9))
        return {"low": found.low, "high": found.high}

    def masks(self, frame: int, kind: str) -> dict[str, Any]:
        """Return the outlines of a mask, or of its spots if it is the mask that they come from."""
        if kind not in self._kinds:
            raise ParameterError("kind", f"{kind!r} is not one of {', '.join(self._kinds)}")
        mask = self._results.mask(frame, kind)
        if kind == self._final_kind:
            try:
                return _lines(self._results.labels(frame), int(mask.sum()))
            except KeyError:  # labels are not kept
                pass
        return _lines(mask, int(mask.sum()))

    def spots(self, frame: int) -> dict[str, Any]:
        """Return the spots of a frame: columns, and the row of the first one."""
        table = self._results.spots(frame)
        names = ("XY", "box", "I", "sigma", "snr", "flags", "label", "overload", "n_pixels")
        return {
            "first": int(self._results.frame_ranges[self._index(frame), 0]),
            **{name: _plain(table[name]) for name in names if name in table},
        }

    def spot(self, row: int) -> dict[str, Any]:
        """Return all properties of a spot, and its course over the frames of its block."""
        if not 0 <= row < self._results.n_spots:
            raise ParameterError("row", f"{row} is not from 0 to {self._results.n_spots - 1}")
        frame = int(np.searchsorted(self._results.frame_ranges[:, 1], row, side="right"))
        table = self._results.spots(frame)
        at = row - int(self._results.frame_ranges[frame, 0])
        flags = int(table["flags"][at]) if "flags" in table else 0
        return {
            "row": row,
            "frame": frame,
            "X": int(table["XY"][at, 0]),
            "Y": int(table["XY"][at, 1]),
            "box": table["box"][at].tolist(),
            "flags": [flag.name.lower().replace("_", " ") for flag in Flag(flags) if flag.name],
            "properties": [
                {
                    "name": name,
                    "value": _plain(values[at : at + 1])[0],
                    "unit": DATASETS[f"spots/{name}"].unit,
                    "description": DATASETS[f"spots/{name}"].description,
                }
                for name, values in table.items()
                if name not in ("pixel_list_BE", "frame")
            ],
            "course": self._course_or_why(row, frame, int(table["label"][at])),
        }

    def ranked(self, by: str, rank: int) -> dict[str, Any]:
        """Return the spot at a place of a ranking, and how many places there are."""
        if by not in RANKINGS:
            raise ParameterError("by", f"{by!r} is not one of {', '.join(RANKINGS)}")
        order = self._rankings[by]
        if not len(order):
            return {"total": 0, "rank": 0, "row": None}
        rank %= len(order)
        row = int(order[rank])
        frame = int(np.searchsorted(self._results.frame_ranges[:, 1], row, side="right"))
        X, Y = self._results.spot_column("XY", row, row + 1)[0].tolist()
        return {"total": len(order), "rank": rank, "row": row, "frame": frame, "X": X, "Y": Y}

    def pixel(self, frame: int, X: int, Y: int) -> dict[str, Any]:
        """Return the values at a pixel."""
        if not (0 <= X < self._n_x and 0 <= Y < self._n_y):
            raise ParameterError("pixel", f"X {X} Y {Y} is outside of the frame")
        found = {name: self._map(name)[X, Y].item() for name in ("avg", "noise", "threshold")}
        if self._frames is not None:
            found["value"] = self._frames[self._index(frame)][X, Y].item()
        return {name: _finite(value) for name, value in found.items()}

    def tuned(self, frame: int, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Return the masks of a frame with other options of the finder.

        Args:
            frame: Index of the frame.
            changes: Options by the names of `TUNED`.

        Returns:
            Numbers of spots, outlines, and the command line that gives these masks.

        Raises:
            InputError: Frames are not available.
            ParameterError: An option is out of range.
        """
        tuner, parameters = self._tuning(changes)
        started = time.perf_counter()
        found = tuner.find(self._index(frame), parameters)
        seconds = time.perf_counter() - started
        stored = self._results.spots(frame)["XY"].astype(np.int64)
        n_kept, n_of_stored = _overlap(found, stored, self._n_y)
        first = self._results.frame_ranges[self._index(frame)]
        return {
            "n_spots": found.n_spots,
            "n_pixels": int(found.final.sum()),
            "stored_spots": int(first[1] - first[0]),
            "lost": len(stored) - n_kept,
            "new": found.n_spots - n_of_stored,
            "boxes": found.spots.box.tolist(),
            "raw": _lines(found.raw, int(found.raw.sum())),
            "final": _lines(_labels(found.spots, found.final.shape), int(found.final.sum())),
            "seconds": seconds,
            "command": self._command_of(parameters),
            "is_stored": parameters == tuner.run.parameters,
            "same_as_stored": self._is_stored(frame, found),
        }

    def false_spots(self, frame: int, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Return the number of spots in the noise, with stored and with other options."""
        tuner, parameters = self._tuning(changes)
        at = self._index(frame)
        return {
            "tuned": tuner.find(at, parameters, noise_only=True).n_spots,
            "stored": tuner.find(at, tuner.run.parameters, noise_only=True).n_spots,
        }

    def warm_up(self) -> None:
        """Prepare what takes seconds: a ranking, and the matched finder."""
        self.ranked("strongest", 0)
        if self._tuner is not None:
            self._tuner.warm_up(self._tuner.run.parameters.significance)

    @cached_property
    def _valid(self) -> NDArray[np.bool_] | None:
        """Pixels that have a background; None: all do."""
        valid = self._results.valid
        return None if valid.all() else valid

    @cached_property
    def _rankings(self) -> dict[str, NDArray[np.int64]]:
        by_intensity = np.argsort(self._results.spot_column("I"), kind="stable")
        flags = self._results.spot_column("flags")
        overloaded = np.flatnonzero(flags & int(Flag.OVERLOADED))
        return {
            "strongest": by_intensity[::-1],
            "weakest": by_intensity,
            "overloaded": overloaded,
            "flagged": np.flatnonzero(flags),
        }

    @cached_property
    def _final_kind(self) -> str:
        return "filtered" if self._info.get("sync") in ("none", b"none") else "synced"

    def _words_of(self, path: str) -> str:
        is_matched = str(self._info.get("finder", "")) == "matched"
        return MATCHED_MASKS[path] if is_matched else DATASETS[path].description

    def _index(self, frame: int) -> int:
        if not 0 <= frame < self._n_frames:
            raise ParameterError("frame", f"{frame} is not from 0 to {self._n_frames - 1}")
        return frame

    def _map(self, name: str) -> Array:
        with self._lock:
            if name not in self._maps:
                self._maps[name] = np.asarray(getattr(self._results, name))
            return self._maps[name]

    def _image(self, of: str, frame: int, part: Any) -> Array:
        """Return part of a frame or of a map."""
        if of in MAPS:
            return self._map(of)[part]
        if of not in OF_FRAME:
            raise ParameterError("of", f"{of!r} is not one of {', '.join((*OF_FRAME, *MAPS))}")
        if self._frames is None:
            raise InputError(self._why)
        image = self._frames[self._index(frame)][part]
        if of == "frame":
            return image
        # the background at the level of the frame, for the eye
        if self._results.surface is not None or self._results.constant_part is not None:
            X, Y = (each[part] for each in np.indices(self._results.shape[1:]))
            average = self._map("avg")[part].astype(np.float64)
            of_frame = self._results.background_on(frame, X, Y, average)
            return image.astype(np.float32) - of_frame.astype(np.float32)
        level = np.float32(1.0 / self._per_frame["scale"][frame])
        return image.astype(np.float32) - level * self._map("avg")[part]

    def _course_or_why(self, row: int, frame: int, label: int) -> dict[str, Any]:
        try:
            return self._course(row, frame, label)
        except InputError as error:  # the properties are shown all the same
            return {"frames": [], "why": str(error)}

    def _course(self, row: int, frame: int, label: int) -> dict[str, Any]:
        """Return the intensities of a spot on the frames of its mask, or of its block."""
        shared = np.flatnonzero(self._per_frame["mask"] == self._per_frame["mask"][frame])
        if self._info.get("sync") not in ("none", b"none"):
            frames = _around(shared, frame)
            rows = self._results.frame_ranges[frames, 0] + label - 1
            return self._points("I", frames, self._I[rows], self._sigma[rows], rows.tolist())
        if self._frames is None:
            return {"frames": [], "why": self._why}
        block = self._per_frame["block"]
        alike = np.flatnonzero(block == block[frame]) if block[frame] >= 0 else shared
        frames = _around(alike, frame)
        try:
            pixels = self._results.pixels(row)
        except KeyError:  # pixels are not kept
            return {"frames": [], "why": "the list of pixels is not in the file (--keep)"}
        at = pixels[:, 0], pixels[:, 1]
        background = self._map("avg")[at].astype(np.float64)
        sums = [
            float(
                self._frames[one][at].astype(np.float64).sum()
                - self._results.background_on(one, *at, background).sum()
            )
            for one in frames.tolist()
        ]
        none = np.full(len(frames), np.nan)
        return self._points("sum less background", frames, np.array(sums), none, [])

    def _points(
        self, what: str, frames: NDArray[np.int64], intensity: Array, sigma: Array, rows: list[int]
    ) -> dict[str, Any]:
        return {
            "what": what,
            "frames": frames.tolist(),
            "I": _plain(intensity),
            "sigma": _plain(sigma),
            "rows": rows,
            "laser_on": self._per_frame["laser_on"][frames].tolist(),
        }

    @cached_property
    def _I(self) -> Array:
        return self._results.spot_column("I")

    @cached_property
    def _sigma(self) -> Array:
        return self._results.spot_column("sigma")

    def _tuning(self, changes: Mapping[str, Any]) -> tuple[Tuner, Parameters]:
        if self._tuner is None:
            raise InputError(self._why_no_tuning)
        if unknown := sorted(changes.keys() - set(TUNED)):
            raise ParameterError(unknown[0], "cannot be tuned")
        return self._tuner, replace(self._tuner.run.parameters, **changes)

    def _is_stored(self, frame: int, found: FoundMasks) -> bool | None:
        """Return whether masks are those of the file; None: these are not kept."""
        if self._final_kind not in self._kinds:
            return None
        return np.array_equal(found.final != 0, self._results.mask(frame, self._final_kind))


def _has_mask(results: SpotsFile, kind: str) -> bool:
    try:
        results.mask(0, kind)
    except KeyError:
        return False
    return True


def _around(frames: NDArray[np.int64], frame: int) -> NDArray[np.int64]:
    """Return at most `MOST_COURSE` of some frames, those nearest to one of them."""
    at = int(np.searchsorted(frames, frame))
    begin = max(0, min(at - MOST_COURSE // 2, len(frames) - MOST_COURSE))
    return frames[begin : begin + MOST_COURSE]


def _lines(labels: Array, n_pixels: int) -> dict[str, Any]:
    """Return the outlines of a mask or of labels, unless they have too many lines to draw.

    Lines are those between pixels of different labels, as from `gpu_spots.pictures.outlines`, but
    of one pixel each: only the few pixels of a mask are looked at.
    """
    n_rows, n_columns = labels.shape
    padded = np.zeros((n_rows + 2, n_columns + 2), labels.dtype)
    padded[1:-1, 1:-1] = labels
    flat, wide = padded.reshape(-1), n_columns + 2
    pixels = np.flatnonzero(flat)
    own = flat[pixels]
    X, Y = np.divmod(pixels, wide)
    sides = [flat[pixels + step] != own for step in (-wide, wide, -1, 1)]
    if sum(map(np.count_nonzero, sides)) > MOST_LINES:
        return {"n_pixels": n_pixels, "along_y": [], "along_x": [], "too_many": True}
    above, below, left, right = (np.flatnonzero(side) for side in sides)
    return {
        "n_pixels": n_pixels,
        "along_y": _units(np.r_[X[above] - 1, X[below]], np.r_[Y[above], Y[below]] - 1),
        "along_x": _units(np.r_[Y[left] - 1, Y[right]], np.r_[X[left], X[right]] - 1),
        "too_many": False,
    }


def _units(at: NDArray[np.int64], begin: NDArray[np.int64]) -> list[int]:
    """Return lines of length 1, flat: place across, begin and end along."""
    found = np.unique(np.stack([at, begin, begin + 1], axis=1), axis=0)
    lines: list[int] = found.reshape(-1).tolist()
    return lines


def _labels(found: Components, shape: tuple[int, ...]) -> Array:
    return label_image(found, 0, (shape[0], shape[1]))


def _overlap(found: FoundMasks, stored: NDArray[np.int64], n_columns: int) -> tuple[int, int]:
    """Return how many stored peaks are in a spot, and how many spots have such a peak."""
    pixels = found.spots.pixels
    order = np.argsort(pixels, kind="stable")
    peaks = stored[:, 0] * n_columns + stored[:, 1]
    at = np.searchsorted(pixels[order], peaks)
    inside = at < len(pixels)
    inside[inside] = pixels[order[at[inside]]] == peaks[inside]
    spot = np.searchsorted(found.spots.begin, order[at[inside]], side="right")
    return int(np.count_nonzero(inside)), len(np.unique(spot))


def _plain(values: Array) -> list[Any]:
    """Return values as lists; None for what is not finite."""
    if values.dtype.kind != "f" or np.isfinite(values).all():
        return values.tolist()
    if values.ndim > 1:
        return [_plain(row) for row in values]
    return [_finite(value) for value in values.tolist()]


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _as_text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    if isinstance(value, np.ndarray):
        return ", ".join(map(_as_text, value.tolist()))
    return str(value)
