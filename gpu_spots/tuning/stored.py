"""Options, method and background of a run, restored from its spots file.

The file has averages and deviations as float32. Where frames are integers, the exact sums behind
them follow from these (`exact_sums`), so that masks are those of the run to the bit. The background
of ``-m clip`` is no quotient of integers: there, a threshold may differ by one count in one pixel
of 100 000.
"""

from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_spots.background.methods import METHODS, Method
from gpu_spots.errors import InputError
from gpu_spots.files.output.spots_file import SpotsFile
from gpu_spots.masks.grouping import Groups
from gpu_spots.model import FACTOR_BITS, Array, Background, FixedPointMean, Validity
from gpu_spots.noise_model import NoiseModel
from gpu_spots.parameters import Parameters
from gpu_spots.tuning.cutoffs import exact_sums, is_clipped

OF_OLD_FILES = {"finder": "threshold", "normalise": "none", "significance": 5.5, "streaks": False}
"""Values of options that older versions did not have."""


def parameters_of(results: SpotsFile) -> Parameters:
    """Return the options of a spots file. Raises `InputError` if they are missing."""
    info = {**OF_OLD_FILES, **results.info}
    names = [field.name for field in fields(Parameters)]
    if missing := [name for name in names if name not in info]:
        raise InputError(f"{results.name}: info has no {missing[0]}; the file is damaged")
    return Parameters(**{name: _plain(info[name]) for name in names})


def method_of(results: SpotsFile, parameters: Parameters) -> Method:
    """Return the background method of a spots file."""
    known = results.per_frame()
    columns = {}
    if np.isfinite(known["angle"]).all():
        columns["angle"] = known["angle"]
    if (known["laser_on"] >= 0).all():
        columns["laser_on"] = known["laser_on"]
    return METHODS[parameters.method].for_run(parameters, columns, results.n_frames, results.name)


def groups_of(results: SpotsFile) -> Groups:
    """Return which frames share a mask."""
    of_frame = results.per_frame()["mask"].astype(np.int64)
    return Groups(of_frame, int(of_frame.max()) + 1, 0)


def factors_of(results: SpotsFile, parameters: Parameters) -> NDArray[np.int64] | None:
    """Return the factors of the frames, (n_frames,) int64, 2^-16; None: frames are not scaled."""
    if parameters.normalise == "none":
        return None
    scale = results.per_frame()["scale"]
    # frames without beam were left out: they are as they were read
    scale = np.where(np.isnan(scale), 1.0, scale)
    return np.rint(scale * 2.0**FACTOR_BITS).astype(np.int64)


def left_out_of(results: SpotsFile) -> NDArray[np.bool_] | None:
    """Return the frames without beam, (n_frames,) bool; None: there are none."""
    left_out = np.isnan(results.per_frame()["scale"])
    return left_out if left_out.any() else None


def values_of(results: SpotsFile) -> Validity:
    """Return which values of the frames are valid, in any pixel."""
    info = results.info
    low, high = (_plain(info.get(name)) for name in ("valid_low", "valid_high"))
    return Validity(None, low, high)


def background_of(
    results: SpotsFile, method: Method, dtype: np.dtype[Any], values: Validity
) -> Background:
    """Return the background of a spots file.

    Args:
        results: The spots file.
        method: Its background method.
        dtype: Type of the frames.
        values: Which values of the frames that masks are made from are valid.
    """
    threshold, avg = results.threshold, results.avg
    masked = _masked(threshold, avg, dtype)
    sampled = method.n_sampled(results.n_frames)
    n_used = results.n_used
    return Background(
        avg=avg,
        std=results.std,
        iqr=np.zeros_like(avg),
        max=results.max.astype(dtype, copy=False),
        arg=results.arg,
        threshold=threshold,
        n_used=n_used,
        dropped=None,
        gaps=dtype.kind == "f" or values.low is not None or values.high is not None,
        mean=_mean(results, method, sampled, n_used, dtype, masked),
        validity=Validity(~masked if masked.any() else None, values.low, values.high),
        noise=results.noise,
        noise_model=_noise_model(results),
        n_sampled=sampled,
        constant_part=results.constant_part,
    )


def _masked(threshold: Array, avg: Array, dtype: np.dtype[Any]) -> NDArray[np.bool_]:
    """Pixels that no value can stand out in, because they have no background."""
    if dtype.kind == "f":
        return np.isnan(threshold)
    masked: NDArray[np.bool_] = (threshold > np.iinfo(dtype).max) & (avg == 0)
    return masked


def _mean(
    results: SpotsFile,
    method: Method,
    sampled: int,
    n_used: NDArray[np.int32] | None,
    dtype: np.dtype[Any],
    masked: NDArray[np.bool_],
) -> FixedPointMean | NDArray[np.float64]:
    avg = results.avg.astype(np.float64)
    if dtype.kind == "f":
        return avg
    if is_clipped(method):
        whole = np.floor(avg)
        low = np.floor((avg - whole) * 2.0**32).astype(np.uint32)
        return FixedPointMean(2**32, whole.astype(np.int64), low)
    kept = np.full(avg.shape, sampled) if n_used is None else n_used.astype(np.int64)
    total, _ = exact_sums(avg, results.std, np.where(masked, 0, kept))
    if n_used is None:
        return FixedPointMean(sampled, total >> 32, (total & 0xFFFFFFFF).astype(np.uint32))
    m = np.maximum(kept, 1)
    whole, rest = np.divmod(total, m)
    return FixedPointMean(2**32, whole, ((rest << 32) // m).astype(np.uint32))


def _noise_model(results: SpotsFile) -> NoiseModel | None:
    known, points = results.noise_model, results.noise_points
    if known is None or points is None:
        return None
    fields: dict[str, Any] = {**known, **points}
    return NoiseModel(**fields)


def _plain(value: Any) -> Any:
    """Return an attribute as a value of Python."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, np.ndarray):
        return tuple(value.tolist())
    return value.item() if isinstance(value, np.generic) else value
