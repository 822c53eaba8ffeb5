"""A naive reference of the behaviour contract: background, masks, spots and output datasets.

It is written from the contract alone and shares no code with the program. Everything that decides a
result is a plain loop over Python integers, fractions or IEEE double precision numbers, so that it
can be checked by reading. It is the truth the tests hold every backend against, with equality.
"""

import math
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from once import once
from reference_background import Background, float_background, integer_background
from reference_kruskal import kruskal_keep
from reference_properties import Below, Noise, properties

DEFAULT_N = 25
ALLOWED_DTYPES = ("uint8", "uint16", "uint32", "int16", "int32", "float32", "float64")


def _fail(message: str) -> NoReturn:
    raise ValueError(message)


# ---------------------------------------------------------------------------------- grouping frames


def angle_key(angle: float) -> int:
    """Give the integer that two equal angles share: the angle in units of 0.001 degrees."""
    if not math.isfinite(angle):
        _fail(f"angle {angle} is not finite")
    return round(angle * 1000)


def group_by_first_seen(keys: Iterable[Hashable]) -> list[list[int]]:
    """Group positions by key, in the order of their first position; positions ascend."""
    groups: dict[Hashable, list[int]] = {}
    for position, key in enumerate(keys):
        groups.setdefault(key, []).append(position)
    return list(groups.values())


def make_blocks(angles: Sequence[float]) -> list[list[int]]:
    """List the blocks: all frames of one angle, even if the angle occurs again later."""
    return group_by_first_seen(angle_key(float(angle)) for angle in angles)


def make_pairs(angles: Sequence[float], laser: Sequence[bool]) -> list[list[int]]:
    """List the masks of `sync="pairs"`: opposite neighbours in a block, and lone frames."""
    masks: list[list[int]] = []
    for block in make_blocks(angles):
        open_mask: list[int] | None = (
            None  # the mask of the frame just before in this block, when that frame has no partner
        )
        for frame in block:
            if open_mask is not None and bool(laser[open_mask[0]]) != bool(laser[frame]):
                open_mask.append(frame)
                open_mask = None
            else:
                open_mask = [frame]
                masks.append(open_mask)
    return sorted(masks, key=lambda mask: mask[0])


# ---------------------------------------------------------------------------------- masks and spots


def filter_mask(
    raw: NDArray[np.bool_], erosions: int, dilations: int, connectivity: int
) -> NDArray[np.bool_]:
    """Erode, then dilate; outside of the frame is False, and 0 means none."""
    structure = ndimage.generate_binary_structure(2, connectivity)
    mask = raw
    for _ in range(erosions):
        mask = ndimage.binary_erosion(mask, structure, border_value=0)
    for _ in range(dilations):
        mask = ndimage.binary_dilation(mask, structure, border_value=0)
    return mask


def find_components(mask: NDArray[np.bool_], connectivity: int) -> list[list[int]]:
    """List the connected components as ascending flat indices, by their first pixel."""
    n_x, n_y = mask.shape
    steps = [(-1, 0), (1, 0), (0, -1), (0, 1)]
    if connectivity == 2:
        steps += [(-1, -1), (-1, 1), (1, -1), (1, 1)]
    todo = {int(index) for index in np.flatnonzero(mask)}
    components: list[list[int]] = []
    for first in sorted(todo):
        if first not in todo:
            continue
        todo.remove(first)
        component = [first]
        for index in component:  # grows while it is walked
            x, y = divmod(index, n_y)
            for step_x, step_y in steps:
                if 0 <= x + step_x < n_x and 0 <= y + step_y < n_y:
                    neighbour = (x + step_x) * n_y + (y + step_y)
                    if neighbour in todo:
                        todo.remove(neighbour)
                        component.append(neighbour)
        components.append(sorted(component))
    return components


def scale_frames(
    frames: NDArray[Any], valid: NDArray[np.bool_], factors: Sequence[int]
) -> NDArray[Any]:
    """Multiply each frame by its factor / 65536, rounding halves up.

    The result is limited to the type. Invalid values stay as they are.
    """
    result = frames.copy()
    integer = frames.dtype.kind in "iu"
    limits: Any = np.iinfo(frames.dtype) if integer else np.finfo(frames.dtype)
    lowest, highest = (
        (int(limits.min), int(limits.max)) if integer else (float(limits.min), float(limits.max))
    )
    for frame, factor in enumerate(factors):
        for x, y in np.argwhere(valid[frame]):
            value = frames[frame, x, y].item()
            product = (value * factor + 2**15) // 2**16 if integer else value * (factor / 65536.0)
            result[frame, x, y] = min(max(product, lowest), highest)
    return result


def spot_intensity(
    values: list[Any],
    backgrounds: list[Background],
    integer: bool,
    fixed_m: int | None,
    factor: int | None,
) -> float:
    """Integrate one spot from the values and backgrounds of its pixels, in ascending order.

    With a factor the background is that of frames times factor / 65536, and is divided by it.
    """
    if not integer:
        intensity = 0.0
        for value, background in zip(values, backgrounds, strict=True):
            below = background.avg if factor is None else background.avg * (65536.0 / factor)
            intensity = intensity + (value - below)
        return intensity
    totals = [int(background.total) for background in backgrounds]
    if fixed_m is not None:
        scale, level = fixed_m, sum(totals)
    else:
        scale, level = (
            2**32,
            sum(
                total * 2**32 // background.m
                for total, background in zip(totals, backgrounds, strict=True)
            ),
        )
    if factor is None:
        return float(scale * sum(values) - level) / float(scale)
    return float(factor * scale * sum(values) - 2**16 * level) / float(factor * scale)


# ------------------------------------------------------------------------------------------ the run


def check_options(
    frames: NDArray[Any],
    method: str,
    n: int,
    alpha: float,
    cutoff: float,
    erosions: int,
    dilations: int,
    structure: tuple[int, int],
    sync: str,
) -> None:
    """Raise ValueError for anything outside of the ranges of the contract."""
    if frames.ndim != 3 or 0 in frames.shape:
        _fail(f"frames must be (n_frames, n_X, n_Y), none of them 0; found {frames.shape}")
    if frames.dtype.name not in ALLOWED_DTYPES:
        _fail(f"frames must be one of {ALLOWED_DTYPES}; found {frames.dtype.name}")
    if method not in ("n_removed", "kruskal"):
        _fail(f"method must be n_removed or kruskal; found {method}")
    if sync not in ("none", "pairs", "blocks"):
        _fail(f"sync must be none, pairs or blocks; found {sync}")
    if n != int(n) or not 0 <= n <= 99:
        _fail(f"n must be an integer from 0 to 99; found {n}")
    if not 0 < alpha < 1:
        _fail(f"alpha must be between 0 and 1; found {alpha}")
    if not (math.isfinite(cutoff) and cutoff >= 0):
        _fail(f"cutoff must be finite and not negative; found {cutoff}")
    if erosions < 0 or dilations < 0:
        _fail(f"erosions and dilations must not be negative; found {erosions} and {dilations}")
    if structure[0] != 2 or structure[1] not in (1, 2):
        _fail(f"structure must be (2, 1) or (2, 2); found {structure}")


def check_laser_dataset(
    angles: Sequence[float] | NDArray[Any] | None,
    laser: Sequence[bool] | NDArray[Any] | None,
    n_frames: int,
) -> tuple[list[float], list[bool]]:
    """Raise ValueError unless every frame has an angle and a state, and both states occur."""
    if laser is None or len({bool(state) for state in laser}) != 2:
        _fail("a laser dataset, with frames of both laser states, is needed")
    if angles is None:
        _fail("angles are needed")
    if len(laser) != n_frames or len(angles) != n_frames:
        _fail(
            f"{n_frames} angles and laser states are needed; found {len(angles)} and {len(laser)}"
        )
    return [float(angle) for angle in angles], [bool(state) for state in laser]


def find_valid(
    frames: NDArray[Any],
    valid_pixels: NDArray[np.bool_] | None,
    low: float | None,
    high: float | None,
) -> NDArray[np.bool_]:
    """Mark the valid values of the whole stack. Excluded pixels are never valid."""
    integer = frames.dtype.kind in "iu"
    exact = frames.astype(np.int64 if integer else np.float64)
    valid = np.ones(frames.shape, dtype=bool) if integer else np.isfinite(exact)
    if low is not None:
        valid &= exact >= low
    if high is not None:
        valid &= exact <= high
    if valid_pixels is not None:
        valid &= np.asarray(valid_pixels, dtype=bool)[np.newaxis]
    return valid


def pixel_sample(
    values: list[Any], valid: list[bool], n: int, blocks: list[list[int]] | None, alpha: float
) -> list[Any]:
    """List the background sample of one pixel in ascending order; empty for a masked pixel.

    With blocks the frames are chosen by the Kruskal-Wallis test, and `n` plays no part. A block
    without a valid value in this pixel does not take part.
    """
    if blocks is None:
        ordered = sorted(value for value, good in zip(values, valid, strict=True) if good)
        kept = ordered[: len(ordered) - len(ordered) * n // 100]
    else:
        groups = [[values[frame] for frame in block if valid[frame]] for block in blocks]
        groups = [group for group in groups if group]
        kept = sorted(
            value for position in kruskal_keep(groups, alpha) for value in groups[position]
        )
    return kept if len(kept) >= 2 else []


@once
def reference_run(
    frames: NDArray[Any],
    *,
    method: str = "n_removed",
    n: int = 25,
    alpha: float = 0.05,
    cutoff: float = 3.0,
    erosions: int = 1,
    dilations: int = 2,
    structure: tuple[int, int] = (2, 2),
    sync: str = "none",
    angles: Sequence[float] | NDArray[Any] | None = None,
    laser: Sequence[bool] | NDArray[Any] | None = None,
    valid_pixels: NDArray[np.bool_] | None = None,
    low: float | None = None,
    high: float | None = None,
    factors: Sequence[int] | None = None,
    saturation: float | None = None,
    noise: Noise | None = None,
) -> dict[str, NDArray[Any]]:
    """Compute every dataset that an output file must hold, keyed by its path.

    `factors` are whole numbers of 1/65536, one per frame: background and masks are then those of
    the frames times their factors, and spots are measured in the frames' own counts.

    `angles` are degrees and `laser` says whether it was on, both per frame. Values outside of `low`
    to `high` (inclusive), all values of pixels that `valid_pixels` leaves out, NaN and infinity are
    invalid. Values from `saturation` on are saturated; by default the largest of the frames' type
    is, and no float. With `noise`, of which `n_used` is filled in here, errors are computed, too.
    """
    frames = np.asarray(frames)
    check_options(frames, method, n, alpha, cutoff, erosions, dilations, structure, sync)
    percent = int(n) or DEFAULT_N
    n_frames, n_x, n_y = frames.shape
    if method == "n_removed" and n_frames - n_frames * percent // 100 < 2:
        _fail(
            f"at least 2 frames must be left in the background sample; {n_frames} frames with n = "
            f"{percent} leave fewer"
        )
    angle_list: list[float] = []
    laser_list: list[bool] = []
    if method == "kruskal" or sync != "none":
        angle_list, laser_list = check_laser_dataset(angles, laser, n_frames)
    blocks = make_blocks(angle_list)
    if method == "kruskal":
        if len(blocks) < 2:
            _fail(f"kruskal needs at least 2 blocks; found {len(blocks)}")
        for number, block in enumerate(blocks):
            if len(block) < 2:
                _fail(f"kruskal needs blocks of at least 2 frames; block {number} has {len(block)}")
    if sync == "pairs":
        groups = make_pairs(angle_list, laser_list)
    elif sync == "blocks":
        groups = blocks
    else:
        groups = [[frame] for frame in range(n_frames)]
    with np.errstate(all="ignore"):
        valid = find_valid(frames, valid_pixels, low, high)
        counts = valid.sum(axis=0)
        varies = method == "kruskal" or bool(np.any((counts > 0) & (counts < n_frames)))
        own, frames = frames, frames if factors is None else scale_frames(frames, valid, factors)
        result, backgrounds = _all_stats(
            frames, valid, percent, blocks if method == "kruskal" else None, alpha, cutoff
        )
        if varies:
            used = [0 if background is None else background.m for background in backgrounds]
            result["stats/n_used"] = np.array(used, dtype=np.int32).reshape(n_x, n_y)
        masks = _all_masks(
            frames, valid, backgrounds, erosions, dilations, structure[1], groups, sync != "none"
        )
        result |= masks
        labelled = masks["masks_synced" if sync != "none" else "masks_filtered"].astype(bool)
        result |= _all_spots(
            own, labelled, groups, backgrounds, varies, structure[1], factors or []
        )
        if own.dtype.kind != "f" and saturation is None:
            saturation = int(np.iinfo(own.dtype).max)
        if saturation is not None:
            result |= _all_overloads(own, result, saturation)
        below = [_below(each, integer=own.dtype.kind != "f", varies=varies) for each in backgrounds]
        if noise is not None:
            noise = noise._replace(n_used=[each.m if each else 0 for each in backgrounds])
        gone = np.array([~valid[group].all(axis=0) for group in groups])
        result |= properties(own, result, below, factors or [], (), noise, (), gone)
    return result


def _below(background: Background | None, *, integer: bool, varies: bool) -> Below | None:
    """Give the background under a pixel: total / m, or a multiple of 2^-32 where m varies."""
    if background is None:
        return None
    if not integer:
        return Below(None, background.avg)
    exact = int(background.total), background.m
    if varies:
        exact = exact[0] * 2**32 // background.m, 2**32
    return Below(exact, float(exact[0]) / float(exact[1]))


def _all_overloads(
    frames: NDArray[Any], result: dict[str, NDArray[Any]], saturation: float
) -> dict[str, NDArray[Any]]:
    """Number of saturated pixels of each spot."""
    overload = []
    for frame, (begin, end) in zip(
        result["spots/frame"], result["spots/pixel_list_BE"], strict=True
    ):
        values = [
            frames[frame].ravel()[pixel].item() for pixel in result["spots/pixel_list"][begin:end]
        ]
        overload.append(sum(value >= saturation for value in values))
    return {"spots/overload": np.array(overload, dtype=np.int32)}


def _all_stats(
    frames: NDArray[Any],
    valid: NDArray[np.bool_],
    percent: int,
    blocks: list[list[int]] | None,
    alpha: float,
    cutoff: float,
) -> tuple[dict[str, NDArray[Any]], list[Background | None]]:
    """Compute the stats maps and the background of every pixel; None if masked.

    Pixels are in raster order.
    """
    _, n_x, n_y = frames.shape
    dtype = frames.dtype.newbyteorder("=")
    integer = dtype.kind in "iu"
    type_min, type_max = (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)) if integer else (0, 0)
    avg, std, iqr = (np.zeros((n_x, n_y), dtype=np.float64) for _ in range(3))
    maximum = np.zeros((n_x, n_y), dtype=dtype)
    arg = np.zeros((n_x, n_y), dtype=np.int32)
    if integer:
        threshold = np.full(
            (n_x, n_y), type_max + 1, dtype=np.int64 if dtype.itemsize == 4 else np.int32
        )
    else:
        threshold = np.full((n_x, n_y), np.nan, dtype=np.float64)
    backgrounds: list[Background | None] = []
    for x in range(n_x):
        for y in range(n_y):
            values = frames[
                :, x, y
            ].tolist()  # Python ints, or Python floats (float32 to float64 is exact)
            good = valid[:, x, y].tolist()
            kept = pixel_sample(values, good, percent, blocks, alpha)
            if not kept:
                backgrounds.append(None)
                continue
            background = (
                integer_background(kept, cutoff, type_min, type_max)
                if integer
                else float_background(kept, cutoff)
            )
            backgrounds.append(background)
            avg[x, y], std[x, y], iqr[x, y] = background.avg, background.std, background.iqr
            threshold[x, y] = background.threshold
            best = -1
            for frame in range(len(values)):
                if good[frame] and (best < 0 or values[frame] > values[best]):
                    best = frame
            maximum[x, y], arg[x, y] = frames[best, x, y], best
    stats = {
        "stats/avg": avg.astype(np.float32),
        "stats/std": std.astype(np.float32),
        "stats/iqr": iqr.astype(np.float32),
        "stats/max": maximum,
        "stats/arg": arg,
        "stats/threshold": threshold,
    }
    return stats, backgrounds


def _all_masks(
    frames: NDArray[Any],
    valid: NDArray[np.bool_],
    backgrounds: list[Background | None],
    erosions: int,
    dilations: int,
    connectivity: int,
    groups: list[list[int]],
    synced: bool,
) -> dict[str, NDArray[np.uint8]]:
    """Compute raw, filtered and (where asked for) synced masks, as 0 and 1."""
    n_frames, n_x, n_y = frames.shape
    raw = np.zeros(frames.shape, dtype=bool)
    usable = valid.copy()  # valid on that frame, and not masked
    for x in range(n_x):
        for y in range(n_y):
            background = backgrounds[x * n_y + y]
            if background is None:
                usable[:, x, y] = False
                continue
            values, good = frames[:, x, y].tolist(), valid[:, x, y].tolist()
            raw[:, x, y] = [
                good[frame] and values[frame] >= background.threshold for frame in range(n_frames)
            ]
    filtered = np.array(
        [
            filter_mask(raw[frame], erosions, dilations, connectivity) & usable[frame]
            for frame in range(n_frames)
        ]
    )
    result = {"masks_raw": raw.astype(np.uint8), "masks_filtered": filtered.astype(np.uint8)}
    if synced:
        merged = [filtered[group].any(axis=0) & usable[group].all(axis=0) for group in groups]
        result["masks_synced"] = np.array(merged).astype(np.uint8)
    return result


def _all_spots(
    frames: NDArray[Any],
    labelled: NDArray[np.bool_],
    groups: list[list[int]],
    backgrounds: list[Background | None],
    varies: bool,
    connectivity: int,
    factors: Sequence[int],
) -> dict[str, NDArray[Any]]:
    """Label the masks and measure every component on every frame of its mask."""
    n_frames, n_x, n_y = frames.shape
    components = [find_components(mask, connectivity) for mask in labelled]
    counts = [len(of_mask) for of_mask in components]
    labels = np.zeros(
        (len(groups), n_x * n_y), dtype=np.uint32 if max(counts) > 65535 else np.uint16
    )
    pixel_list: list[int] = []
    begin_end: list[list[tuple[int, int]]] = []
    for mask, of_mask in enumerate(components):
        begin_end.append([])
        for label, pixels in enumerate(of_mask, start=1):
            labels[mask, pixels] = label
            begin_end[mask].append((len(pixel_list), len(pixel_list) + len(pixels)))
            pixel_list += pixels
    integer = frames.dtype.kind in "iu"
    # without n_used all pixels that are not masked have the same m
    fixed_m = (
        None
        if varies
        else next((background.m for background in backgrounds if background is not None), None)
    )
    mask_of = {frame: mask for mask, group in enumerate(groups) for frame in group}
    spots: dict[str, list[Any]] = {
        name: [] for name in ("I", "XY", "box", "frame", "label", "mask", "pixel_list_BE")
    }
    frame_begin_end: list[tuple[int, int]] = []
    for frame in range(n_frames):
        image = frames[frame].ravel().tolist()
        mask = mask_of[frame]
        begin = len(spots["I"])
        for label, pixels in enumerate(components[mask], start=1):
            values = [image[pixel] for pixel in pixels]
            here = [
                background
                for background in (backgrounds[pixel] for pixel in pixels)
                if background is not None
            ]
            peak = pixels[values.index(max(values))]
            rows, columns = [pixel // n_y for pixel in pixels], [pixel % n_y for pixel in pixels]
            spots["I"].append(
                spot_intensity(values, here, integer, fixed_m, factors[frame] if factors else None)
            )
            spots["XY"].append(divmod(peak, n_y))
            spots["box"].append((min(rows), max(rows) + 1, min(columns), max(columns) + 1))
            spots["frame"].append(frame)
            spots["label"].append(label)
            spots["mask"].append(mask)
            spots["pixel_list_BE"].append(begin_end[mask][label - 1])
        frame_begin_end.append((begin, len(spots["I"])))
    return {
        "masks/labels": labels.reshape(len(groups), n_x, n_y),
        "masks/counts": np.array(counts, dtype=np.int32),
        "spots/I": np.array(spots["I"], dtype=np.float64),
        "spots/XY": np.array(spots["XY"], dtype=np.int32).reshape(-1, 2),
        "spots/box": np.array(spots["box"], dtype=np.int32).reshape(-1, 4),
        "spots/frame": np.array(spots["frame"], dtype=np.int32),
        "spots/label": np.array(spots["label"], dtype=np.int32),
        "spots/mask": np.array(spots["mask"], dtype=np.int32),
        "spots/pixel_list": np.array(pixel_list, dtype=np.int64 if n_x * n_y > 2**31 else np.int32),
        "spots/pixel_list_BE": np.array(spots["pixel_list_BE"], dtype=np.int64).reshape(-1, 2),
        "frame2spotsBE": np.array(frame_begin_end, dtype=np.int64).reshape(-1, 2),
    }
