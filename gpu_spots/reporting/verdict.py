"""Verdict on a run: what is wrong with it, and what helps.

Everything is computed from the spots file, so that files of any version get the same verdict.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpu_spots.background.clip import lower_part
from gpu_spots.background.levels import LARGE_SCATTER, SAMPLE_PIXELS, SIGNIFICANT
from gpu_spots.background.methods import METHODS
from gpu_spots.background.static_spots import (
    LARGE_COVER,
    LARGE_MATCHED_COVER,
    REGION,
    persistent_spots,
)
from gpu_spots.columns import Flag
from gpu_spots.parameters import SURFACE_METHODS, Parameters
from gpu_spots.reporting.facts import Facts, Floats

LEVELS = ("problem", "check", "note")
"""Importance of a finding: results are wrong; look at it; good to know."""
SMALL_CHANGE = 0.005
"""Relative scatter of the levels from which on it is worth a note that drift is corrected."""
LOW_THRESHOLD = 1.0
"""Smallest threshold, in standard deviations of a pixel above its background."""
CLOSE = 2
"""Places of a spot that differ by at most twice this are one place, pixels."""
FEWEST_ANGLES = 4
"""Smallest number of angles of which spots can stay at one place."""
MOST_ANGLES = 0.5
"""Share of the angles from which on a spot stays at one place."""
EMPTY = 0.5
"""Level of a frame, of the run's, below which it is empty; its inverse is too bright."""
CLEAR = 200.0
"""Smallest I / sigma of spots whose maxima are no noise."""
MANY_SATURATED, MANY_EDGES, MANY_OVERLAPS = 0.001, 0.1, 0.25
"""Shares of the spots from which on they are worth a look."""
LARGEST_WIDTH, FEWEST_PULLS = 1.4, 100
"""Largest width of a null test whose errors are about right, and pulls to know it from."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with a run, or good to know."""

    level: str
    """One of `LEVELS`."""
    title: str
    """A few words."""
    text: str
    """Sentences with what is found, what is expected, and what helps."""
    section: str
    """Section of the report that shows it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Faults of a run."""

    is_ok: bool
    """True if no finding is a problem or has to be checked."""
    sentence: str
    """The verdict in one line."""
    findings: list[Finding]
    """Problems first."""


def verdict(facts: Facts) -> Verdict:
    """Return the verdict on a run."""
    found = sorted(_findings(facts), key=lambda one: LEVELS.index(one.level))
    counts = f"{_count(facts.n_spots, 'spot')} on {_count(facts.n_frames, 'frame')}"
    serious = [one for one in found if one.level != "note"]
    if not serious:
        return Verdict(True, f"OK: no problem found; {counts}", found)
    titles = "; ".join(one.title for one in serious)
    return Verdict(False, f"Look: {titles}; {counts}", found)


def _findings(facts: Facts) -> Iterator[Finding]:
    for check in (_spots, _drift, _outlying, _angles, _dropped, _background, _threshold, _cover):
        yield from check(facts)
    for check in (_saturated, _staying, _laser, _ratios, _edges, _overlaps, _noise, _truth):
        yield from check(facts)


def _spots(facts: Facts) -> Iterator[Finding]:
    counts = facts.n_spots_of_frame
    if not facts.n_spots:
        text = (
            "No spot was found on any frame. Look at the pictures of the frames, and decrease "
            f"{_strictness(facts)}."
        )
        yield Finding("problem", "no spots", text, "frames")
        return
    empty = int((counts == 0).sum())
    if empty:
        text = (
            f"Frames without spots: {empty} of {facts.n_frames} ({_list(counts == 0)}). "
            "Look whether the beam or the shutter was off."
        )
        level = "check" if empty > 0.02 * facts.n_frames else "note"
        yield Finding(level, "frames without spots", text, "frames")
    median = float(np.median(counts[counts > 0]))
    many = counts > np.maximum(5 * median, median + 20)
    if many.any():
        text = (
            f"Frames with more than 5 times the median of {median:g} spots: {many.sum()} "
            f"({_list(many)}). Most of their spots may be false."
        )
        yield Finding("check", "frames with too many spots", text, "frames")


def _drift(facts: Facts) -> Iterator[Finding]:
    level, scale = _levels_and_scales(facts)
    if len(level) < 2 or not facts.valid.any():
        return
    run, scatter = float(np.median(level)), float(np.std(level))
    surface = facts.results.surface
    if surface is not None:
        change = 100 * surface.shape_change(*facts.shape[1:])
        text = (
            f"The level of the frames changes by {100 * scatter / run:.1f} % rms, and the shape of "
            f"their background by {change:.2f} % rms. The background was scaled by a surface for "
            "each frame."
        )
        yield Finding("note", "drift and shape are corrected", text, "frames")
        return
    if not run >= 1:
        return
    percent = f"{100 * scatter / run:.1f} %"
    if not (scale == 1).all():
        if scatter < SMALL_CHANGE * run:
            return
        method = METHODS.get(facts.text("method"))
        if method is None or method.scales_frames:
            what, factors = "The frames were", scale
        else:  # the scale of a frame is that of its background, the other way round
            what, factors = "The background was", 1 / scale
        text = (
            f"The level of the frames changes by {percent} rms. {what} scaled by "
            f"{factors.min():.3f} to {factors.max():.3f}."
        )
        yield Finding("note", "drift is corrected", text, "frames")
        return
    # the deviation of a pixel has the drift in it, and lacks the values that are dropped
    _, width = lower_part(_share_kept(facts))
    whole = float(np.median(facts.std[facts.valid])) / width
    noise = math.sqrt(max(whole**2 - scatter**2, 0.0))
    certain = SIGNIFICANT * whole / math.sqrt(min(int(facts.lit.sum()), SAMPLE_PIXELS))
    if scatter > max(min(noise, LARGE_SCATTER * run), certain):
        text = (
            f"The level of the frames changes by {scatter:.3g} counts rms ({percent}), expected "
            f"less than the noise of a pixel, {min(noise or whole, scatter):.3g} counts. Drift "
            "hides weak spots, and makes false ones. Find the spots again with --normalise level."
        )
        yield Finding("problem", "the beam drifts", text, "frames")
    elif scatter > max(0.3 * noise, certain):
        text = (
            f"The level of the frames changes by {scatter:.3g} counts rms ({percent}), less than "
            f"the noise of a pixel, {noise:.3g} counts. Weak spots may gain from "
            f"--normalise level."
        )
        yield Finding("note", "small drift", text, "frames")


def _levels_and_scales(facts: Facts) -> tuple[Floats, Floats]:
    """Return level and scale of the frames that have both, without those that were left out."""
    level, scale = (facts.frames.get(name, np.zeros(0)) for name in ("level", "scale"))
    known = np.isfinite(level) & np.isfinite(scale)
    return level[known], scale[known]


def _outlying(facts: Facts) -> Iterator[Finding]:
    level = facts.frames.get("level", np.zeros(0))
    used, _ = _levels_and_scales(facts)
    if not len(used):
        return
    run = float(np.median(used))
    if not run >= 1:
        return
    out = ~((level >= EMPTY * run) & (level <= run / EMPTY)) & np.isfinite(facts.frames["scale"])
    if out.any() and out.sum() < 0.2 * len(out):
        text = (
            f"Frames with less than half or more than twice the level of the run, {run:.4g} "
            f"counts: {out.sum()} ({_list(out)}). Look whether the beam or the shutter was off, "
            "and leave them out."
        )
        yield Finding("check", "frames of another exposure", text, "frames")


def static_places(facts: Facts) -> NDArray[np.int64]:
    """Return X and Y of spots that are in the background, (n, 2) int64, the highest first."""
    if not facts.valid.any():
        return np.zeros((0, 2), np.int64)
    n_used = facts.results.n_used
    n = facts.n_frames - int(facts.info.get("n_removed", 0))
    n = n if n_used is None else int(np.median(n_used[facts.valid]))
    return persistent_spots(facts.avg, facts.std, facts.results.max, n, facts.valid)


def _background(facts: Facts) -> Iterator[Finding]:
    if not facts.valid.any():
        text = "All pixels are masked, so that no spots can be found. Look at the masks."
        yield Finding("problem", "all pixels are masked", text, "background")
        return
    places = static_places(facts)
    if not len(places):
        return
    names = ", ".join(f"X {x} Y {y}" for x, y in places[:5].tolist())
    more = f" and {len(places) - 5} more" * (len(places) > 5)
    text = (
        f"Found {_count(len(places), 'spot')} in the background, expected none: {names}{more}. A "
        "spot that stays at the same place on many frames counts as background, so it is missing "
        "from the results, or too weak. Add frames at other angles."
    )
    if _drops_largest(facts):
        text += " If the spots are absent from some frames, increase -n."
    yield Finding("problem", "static spots", text, "background")


def _frames_at_angles(facts: Facts) -> NDArray[np.int64]:
    """Return the number of frames at each angle; empty: angles are unknown."""
    block = facts.frames.get("block", np.zeros(0, np.int64))
    return np.bincount(block[block >= 0]).astype(np.int64)


def _angles(facts: Facts) -> Iterator[Finding]:
    sizes, expected = _frames_at_angles(facts), Parameters().angles
    if not len(sizes):
        text = (
            "The angles of the frames are unknown, so that it cannot be checked whether spots are "
            "on few frames only. Give them with --angles-path or --table."
        )
        yield Finding("note", "angles are unknown", text, "options")
    elif len(sizes) < expected:
        text = (
            f"The run has {_count(len(sizes), 'different angle')}, expected at least {expected}. "
            f"A spot is on {100 * sizes.max() / facts.n_frames:.0f} % of the frames, and a part of "
            "it becomes background. Add frames at other angles."
        )
        yield Finding("problem", "too few angles", text, "background")


def _dropped(facts: Facts) -> Iterator[Finding]:
    """Yield a finding if spots cannot be dropped from the background."""
    sizes = _frames_at_angles(facts)
    if not _drops_largest(facts) or not len(sizes):
        return
    n_removed, most = int(facts.info.get("n_removed", 0)), int(sizes.max())
    if most > n_removed:
        needed = math.ceil(100 * most / facts.n_frames)
        text = (
            f"-n {int(facts.info['n'])} drops {_count(n_removed, 'value')} of each pixel, the "
            f"largest, but up to {most} frames have the same angle and show the same spots. The "
            "rest of each spot counts as background, and its intensity is too small."
        )
        if needed <= 50:
            text += f" Use -n {needed} or more."
        else:
            text += " Add frames at other angles."
        yield Finding("problem", "-n is too small", text, "background")


def pixel_threshold(facts: Facts) -> float:
    """Return the threshold in standard deviations of a pixel above its background.

    The average and the deviation of the sample are smaller than those of all values, as its largest
    values are dropped; NaN for the matched finder.
    """
    if facts.text("finder") not in ("", "threshold") or "cutoff" not in facts.info:
        return math.nan
    shift, width = lower_part(_share_kept(facts))
    return float(facts.info["cutoff"]) * width - shift


def _threshold(facts: Facts) -> Iterator[Finding]:
    threshold = pixel_threshold(facts)
    if not threshold < LOW_THRESHOLD:
        return
    above = 50 * math.erfc(threshold / math.sqrt(2))
    n, cutoff = int(facts.info.get("n_removed", 0)), float(facts.info["cutoff"])
    text = (
        f"The threshold is only {threshold:.1f} standard deviations above the background, expected "
        f"at least {LOW_THRESHOLD:g}: {above:.0f} % of the pixels without a spot exceed it. "
    )
    if n > 0.4 * facts.n_frames:
        title = "-n is too large"
        text += (
            f"-n {int(facts.info['n'])} drops {n} of {facts.n_frames} values of each "
            f"pixel, which makes the background too low and its deviation too small. Decrease "
            f"-n, or increase -c (now {cutoff:g})."
        )
    else:
        title = "the threshold is low"
        text += f"Increase -c (now {cutoff:g})."
    yield Finding("problem", title, text, "background")


def _cover(facts: Facts) -> Iterator[Finding]:
    n_pixels, n_valid = facts.n_pixels, int(facts.valid.sum())
    if n_pixels is None or not facts.n_spots or n_valid < REGION:
        return
    covered = np.bincount(facts.spots["frame"], n_pixels, facts.n_frames) / n_valid
    if covered.max() > (LARGE_MATCHED_COVER if _is_matched(facts) else LARGE_COVER):
        text = (
            f"Spots cover up to {100 * covered.max():.0f} % of a frame (frame {covered.argmax()}), "
            "expected less than 1 % in a Laue run. Most of them are false. "
            f"{_remedy_for_cover(facts)}, or increase {_strictness(facts)}."
        )
        yield Finding("problem", "spots cover too much of the frames", text, "frames")


def _remedy_for_cover(facts: Facts) -> str:
    """Return what helps against masks that are too large, besides a stricter search."""
    if facts.results.surface is not None:
        return "Look at the pictures of the frames"
    if not _is_matched(facts):
        return "Look for drift"
    method = (
        "" if facts.text("method") in SURFACE_METHODS else f" and -m {' or '.join(SURFACE_METHODS)}"
    )
    return (
        "If the background changes its shape from frame to frame, find the spots again with "
        f"--normalise surface{method}"
    )


def _saturated(facts: Facts) -> Iterator[Finding]:
    overload = facts.spots.get("overload")
    if overload is None:
        text = (
            "It is unknown which values are saturated, so saturated spots are not marked. Give the "
            "value with --saturation."
        )
        yield Finding("note", "saturation is unknown", text, "spots")
        return
    n = int((overload > 0).sum())
    if not n:
        return
    share = n / facts.n_spots
    text = (
        f"Spots with saturated pixels, of at least {facts.saturation:.6g} counts: {n} of "
        f"{facts.n_spots} ({100 * share:.2g} %). Their intensities are too small. Attenuate the "
        "beam, or expose for a shorter time. On/off ratios leave these spots out."
    )
    yield Finding("check" if share > MANY_SATURATED else "note", "saturated spots", text, "spots")


def staying_places(facts: Facts) -> list[tuple[int, int, int]]:
    """Return X, Y and number of angles of places with a spot at most angles, most angles first."""
    block = facts.frames.get("block", np.full(facts.n_frames, -1))
    n_angles = len(_frames_at_angles(facts))
    if n_angles < FEWEST_ANGLES or not facts.n_spots:
        return []
    angle = block[facts.spots["frame"]].astype(np.int64)
    known = angle >= 0
    best: dict[tuple[int, int], tuple[int, int, int]] = {}
    for shift in (0, CLOSE):  # a place at the edge of a cell is inside of one of the other grid
        X, Y = ((facts.spots["XY"][known] + shift) // (2 * CLOSE)).astype(np.int64).T
        width = int(Y.max(initial=0)) + 1
        cell, first = np.unique((X * width + Y) * n_angles + angle[known], return_index=True)
        place, number = np.unique(cell // n_angles, return_counts=True)
        for one in np.flatnonzero(number >= MOST_ANGLES * n_angles).tolist():
            row = first[np.searchsorted(cell, place[one] * n_angles)]
            x, y = facts.spots["XY"][known][row].tolist()
            key = x // (4 * CLOSE), y // (4 * CLOSE)
            best[key] = max(best.get(key, (0, 0, 0)), (int(number[one]), x, y))
    return [(x, y, number) for number, x, y in sorted(best.values(), reverse=True)]


def _staying(facts: Facts) -> Iterator[Finding]:
    places = staying_places(facts)
    if places:
        n_angles = len(_frames_at_angles(facts))
        names = ", ".join(f"X {x} Y {y}: {number}" for x, y, number in places[:5])
        text = (
            f"Places with a spot at half of the {n_angles} angles or more: {len(places)} ({names}"
            f"{', ...' * (len(places) > 5)}). Spots of the crystal move with the angle, so these "
            "are hot pixels, or from the sample holder. Mask them with --reject."
        )
        yield Finding("check", "spots that stay at one place", text, "places")


def _laser(facts: Facts) -> Iterator[Finding]:
    if not facts.is_laser_run:
        return
    if facts.text("sync") == "none":
        text = (
            "Laser-off and laser-on frames have masks of their own, so their spots cannot be "
            "compared. Find the spots again with -S blocks."
        )
        yield Finding("check", "no on/off ratios", text, "ratios")
    alone = facts.frames["partner"] < 0
    if alone.any():
        text = (
            f"Frames without an off/on partner at their angle: {alone.sum()} of {facts.n_frames} "
            f"({_list(alone)})."
        )
        level = "check" if alone.mean() > 0.05 else "note"
        yield Finding(level, "frames without a partner", text, "ratios")


def _ratios(facts: Facts) -> Iterator[Finding]:
    if facts.ratios is None:
        return
    words = facts.ratios.verdict
    yield Finding("note", "laser", f"{words[0].upper()}{words[1:]}.", "ratios")
    for name in ("off/off", "pairs about their reflection"):
        width, n = (facts.ratios.figures[name][key] for key in ("width", "n"))
        if n >= FEWEST_PULLS and width > LARGEST_WIDTH:
            text = (
                f"The null test {name} has a width of {width:.2f}, expected about 1: the errors of "
                "the ratios are too small."
            )
            yield Finding("check", "errors of the ratios are too small", text, "ratios")


def _edges(facts: Facts) -> Iterator[Finding]:
    flags = facts.spots.get("flags", np.zeros(0, np.uint16))
    cut = (flags & int(Flag.BORDER | Flag.INVALID)) > 0
    if cut.any() and cut.mean() > MANY_EDGES:
        text = (
            f"{100 * cut.mean():.0f} % of the spots touch the border or a masked pixel: a part of "
            "their intensity is missing."
        )
        yield Finding("note", "cut spots", text, "places")


def _overlaps(facts: Facts) -> Iterator[Finding]:
    flags, snr = (facts.spots.get(name) for name in ("flags", "snr"))
    if flags is None or snr is None:
        return
    strong = flags[snr > CLEAR]  # the noise of weak spots has maxima too
    several = (strong & int(Flag.SEVERAL_MAXIMA)) > 0
    if len(strong) >= 20 and several.mean() > MANY_OVERLAPS:
        remedy = (
            "Look at them with gpu-spots view."
            if _is_matched(facts)
            else "Try --finder matched, which separates spots."
        )
        text = (
            f"{100 * several.mean():.0f} % of the {len(strong)} spots with I above {CLEAR:g} sigma "
            f"have several maxima: they may be several spots, or streaks. {remedy}"
        )
        yield Finding("check", "overlapping spots", text, "spots")


def _noise(facts: Facts) -> Iterator[Finding]:
    gain = facts.noise_model.get("gain", math.nan)
    if not gain > 0:
        text = "The noise of the frames is unknown, so that intensities have no errors."
        yield Finding("check" if facts.noise_model else "note", "noise is unknown", text, "noise")


def _truth(facts: Facts) -> Iterator[Finding]:
    if facts.without_score:
        text = f"The spots cannot be compared with the true ones: {facts.without_score}."
        yield Finding("note", "no comparison with the truth", text, "truth")
    if facts.score is None:
        return
    clear, rate = facts.score.clear, facts.score.n_false / facts.score.n_frames
    text = (
        f"The run is simulated: {clear.found} of {clear.true} true spots above {clear.low:g} sigma "
        f"are found, and {rate:.2f} false spots per frame."
    )
    yield Finding("note", "simulated run", text, "truth")


def _strictness(facts: Facts) -> str:
    """Return the option that decides how many spots are found."""
    return "--significance" if _is_matched(facts) else "-c"


def _is_matched(facts: Facts) -> bool:
    return facts.text("finder") == "matched"


def _drops_largest(facts: Facts) -> bool:
    """Return whether the background drops the same number of largest values of each pixel."""
    method = METHODS.get(facts.text("method"))
    return method is not None and not method.varies


def _share_kept(facts: Facts) -> float:
    """Return the share of the values of a pixel that its background is made of."""
    return 1 - int(facts.info.get("n_removed", 0)) / max(facts.n_frames, 1)


def _list(which: NDArray[np.bool_]) -> str:
    """Return the first indices that are True, in words."""
    found = np.flatnonzero(which)
    return ", ".join(map(str, found[:8].tolist())) + ", ..." * (len(found) > 8)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
