"""Sections of a report. Each function returns one, or None if the run has nothing of it."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_spots import pictures
from gpu_spots.errors import InputError
from gpu_spots.model import Array
from gpu_spots.reporting.facts import Facts
from gpu_spots.reporting.parts import (
    MOST_BOXES,
    MOST_FRAMES,
    Chart,
    Mark,
    Picture,
    Section,
    Series,
    Table,
    boxes,
    circles,
    fewer_greys,
    histogram,
    map_picture,
    sampled,
    scatter,
)
from gpu_spots.reporting.ratio_sections import ratios
from gpu_spots.reporting.verdict import pixel_threshold, static_places, staying_places

CUTOUT = 20
"""Smallest distance from the middle of a cutout to its edges, pixels."""
LARGEST_CUTOUT = 40
"""Largest such distance."""
CELLS = 64
"""Cells of the map of places along the longer side of the frame."""


def sections(facts: Facts) -> list[Section]:
    """Return the sections of a report in their order."""
    makers = (warnings, frames, background, noise, spots, places, cutouts, ratios, truth, options)
    return [section for maker in makers if (section := maker(facts)) is not None]


def warnings(facts: Facts) -> Section | None:
    """Return the warnings that were printed when the spots were found."""
    if not facts.warnings:
        return None
    return Section("warnings", "Warnings of the search", facts.warnings)


def frames(facts: Facts) -> Section:
    """Return curves over the frames, and pictures of two of them."""
    text = [f"No pictures of the frames: {facts.without_frames}"] if facts.without_frames else []
    found = list(_readable(_frame_pictures(facts), text))
    return Section(
        "frames",
        "Frames",
        text,
        list(_frame_charts(facts)),
        found,
        numbers={"per_frame": {**facts.frames, "n_spots": facts.n_spots_of_frame}},
    )


def _frame_charts(facts: Facts) -> Iterator[Chart]:
    counts = facts.n_spots_of_frame.astype(np.float64)
    yield _over_frames(facts, "spots_per_frame", "Spots per frame", "spots", counts)
    angle, block = (facts.frames.get(name, np.zeros(0)) for name in ("angle", "block"))
    if facts.n_spots:
        total = np.bincount(facts.spots["frame"], facts.spots["I"], facts.n_frames)
        title = "Intensity of all spots of a frame"
        yield _over_frames(facts, "intensity_per_frame", title, "counts", total)
    level = facts.frames.get("level")
    if level is not None and np.isfinite(level).any():
        title = "Level of the frames: their background"
        yield _over_frames(facts, "frame_level", title, "counts", level)
    scale = facts.frames.get("scale")
    if scale is not None and not (scale == 1).all():
        title = "Scale factor of each frame"
        yield _over_frames(facts, "frame_scale", title, "factor", scale)
    known = np.flatnonzero(block >= 0)
    if len(known) and len(np.unique(block[known])) > 1:
        n = np.bincount(block[known])
        some = n > 0
        angles = np.bincount(block[known], angle[known])[some] / n[some]
        mean = np.bincount(block[known], counts[known])[some] / n[some]
        order = np.argsort(angles, kind="stable")
        yield Chart(
            "spots_per_angle",
            "Spots per angle",
            "angle, degrees",
            "mean spots per frame",
            angles[order],
            [Series("spots", mean[order])],
        )


def _over_frames(facts: Facts, name: str, title: str, unit: str, values: Array) -> Chart:
    """Return a chart over the frames, with and without laser apart."""
    x, caption = np.arange(facts.n_frames, dtype=np.float64), ""
    states = facts.frames.get("laser_on", np.full(facts.n_frames, -1))
    if facts.is_laser_run:
        groups = (("laser off", 0), ("laser on", 1), ("laser unknown", -1))
        parts = [(label, np.where(states == state, values, np.nan)) for label, state in groups]
    else:
        parts = [(title.partition(":")[0].lower(), values.astype(np.float64))]
    step = math.ceil(facts.n_frames / MOST_FRAMES)
    if step > 1:
        starts = np.arange(0, facts.n_frames, step)
        x = x[starts]
        caption = f"Each point is the mean of {step} frames."
        means = []
        for label, part in parts:
            n = np.add.reduceat(np.isfinite(part).astype(np.float64), starts)
            with np.errstate(invalid="ignore"):
                means.append((label, np.add.reduceat(np.nan_to_num(part), starts) / n))
        parts = means
    series = [
        Series(label, part, colour=number)
        for number, (label, part) in enumerate(parts)
        if np.isfinite(part).any()
    ]
    return Chart(name, title, "frame", unit, x, series, caption)


def _readable(makers: Iterable[Callable[[], Picture]], text: list[str]) -> Iterator[Picture]:
    """Yield pictures. ``text`` gets the reason if a frame cannot be read."""
    for make in makers:
        try:
            yield make()
        except InputError as error:
            reason = f"A picture is missing: {str(error).partition('; ')[0]}"
            if reason not in text:
                text.append(reason)


def _frame_pictures(facts: Facts) -> Iterator[Callable[[], Picture]]:
    """Yield functions that return the pictures of two frames."""
    if facts.stack is None:
        return
    counts = facts.n_spots_of_frame
    median = int(np.argsort(counts, kind="stable")[len(counts) // 2])
    most = int(counts.argmax())
    for index, what in {most: "most spots", median: "median number of spots"}.items():
        yield partial(_frame_picture, facts, index, what)


def _frame_picture(facts: Facts, index: int, what: str) -> Picture:
    begin, end = facts.results.frame_ranges[index]
    own = np.arange(begin, end)
    strongest = own[np.argsort(-facts.spots["I"][own], kind="stable")][:MOST_BOXES]
    caption = f"{_frame_words(facts, index)}; {end - begin} spots."
    if end - begin > MOST_BOXES:
        caption += f" The {MOST_BOXES} strongest are marked."
    return map_picture(
        f"Frame {index}: {what}",
        facts.frame(index),
        facts.valid,
        facts.lit,
        percentiles=(1, 99.9),
        how="max",
        saturation=facts.saturation,
        marks=[Mark("spots", boxes(facts.spots["box"][strongest]))],
        caption=caption,
    )


def _frame_words(facts: Facts, index: int) -> str:
    """Return angle and laser state of a frame in words."""
    words = []
    angle = facts.frames.get("angle", np.full(facts.n_frames, np.nan))[index]
    if np.isfinite(angle):
        words.append(f"angle {angle:g}°")
    laser = int(facts.frames.get("laser_on", np.full(facts.n_frames, -1))[index])
    if laser >= 0:
        words.append("laser on" if laser else "laser off")
    return ", ".join(words) or "no metadata"


def background(facts: Facts) -> Section:
    """Return the maps of the background."""
    valid = facts.valid
    n_masked = int((~valid).sum())
    static = static_places(facts)
    marks = [Mark("static spots", circles(static, 0.012 * max(valid.shape)), 1)]
    text = ["No pixel is masked."]
    if n_masked:
        text = [f"{n_masked} of {valid.size} pixels are masked; they are blue in the pictures."]
    threshold = pixel_threshold(facts)
    if math.isfinite(threshold):
        text.append(
            f"The threshold is {threshold:.2f} standard deviations of a pixel above its background."
        )
    return Section(
        "background",
        "Background",
        text,
        pictures=[
            map_picture(
                "Average of the background",
                facts.avg,
                valid,
                facts.lit,
                marks=marks if len(static) else (),
                caption="It should be smooth. A spot that is left here is not found at its place.",
            ),
            map_picture(
                "Standard deviation of the background",
                facts.std,
                valid,
                facts.lit,
                caption="It should look like the average. Bright dots are remains of spots.",
            ),
        ],
        numbers={
            "masked_pixels": n_masked,
            "static_spots": static,
            "threshold_in_sigma": threshold,
            "median_average": _median(facts.avg, valid),
            "median_deviation": _median(facts.std, valid),
        },
    )


def noise(facts: Facts) -> Section | None:
    """Return the noise of a value against its background."""
    points, model = facts.results.noise_points, facts.noise_model
    if not model or points is None or not len(points["level"]):
        return None
    order = np.argsort(points["level"], kind="stable")
    level, variance = points["level"][order], points["variance"][order]
    chart = Chart(
        "noise",
        "Variance of a pixel by its background",
        "background, counts",
        "variance, counts^2",
        level,
        [
            Series("pixels", variance, "points"),
            Series("fit", model["offset"] + model["gain"] * level, "line", 1),
        ],
        "Points far above the line are pixels with more than counting noise, as by drift.",
    )
    text = (
        f"Variance = {model['offset']:.4g} + {model['gain']:.4g} x background, counts^2. "
        f"Neighbouring pixels make the noise of a sum of 3 x 3 pixels {model['correlation']:.3f} "
        "times as large (variance)."
    )
    return Section("noise", "Noise", [text], [chart], numbers=dict(model))


def spots(facts: Facts) -> Section | None:
    """Return the distributions of the spots, and their largest values."""
    if not facts.n_spots:
        return None
    charts = []
    wanted: list[tuple[str, str, str, Array | None]] = [
        ("intensities", "Intensity", "I, counts", facts.spots["I"]),
        ("snr", "Intensity in standard errors", "I / sigma", facts.spots.get("snr")),
        ("n_pixels", "Size", "pixels of a spot", facts.n_pixels),
    ]
    for name, title, label, values in wanted:
        if values is None:
            continue
        edges, counts = histogram(values, log=True)
        if len(edges):
            series = [Series("spots", counts, "steps")]
            charts.append(Chart(name, title, label, "spots", edges, series, x_log=True))
    if "max" in facts.spots:
        charts.append(_peakogram(facts))
    overload = facts.spots.get("overload")
    numbers: dict[str, Any] = {"n_spots": facts.n_spots}
    numbers |= {
        name: _three(facts.spots[name])
        for name in ("I", "sigma", "snr", "n_pixels", "max", "n_maxima")
        if name in facts.spots
    }
    text = []
    if overload is not None:
        n = int((overload > 0).sum())
        numbers["saturated"] = n
        text.append(f"{n} of {facts.n_spots} spots have saturated pixels.")
    return Section("spots", "Spots", text, charts, numbers=numbers)


def _peakogram(facts: Facts) -> Chart:
    """Return the largest value of spots by their distance from the middle of the frame."""
    chosen = sampled(facts.n_spots)
    middle = (np.array(facts.shape[1:]) - 1) / 2
    radius = np.hypot(*(facts.positions[chosen] - middle).T)
    largest = facts.spots["max"][chosen].astype(np.float64)
    saturation = facts.saturation
    full = np.zeros(len(chosen), bool)
    if "overload" in facts.spots:
        full = facts.spots["overload"][chosen] > 0
    groups = [("spots", largest, ~full)] + ([("saturated", largest, full)] if full.any() else [])
    x, series = scatter(radius, groups)
    caption = "Saturated spots are at the upper end."
    if len(chosen) < facts.n_spots:
        caption += f" {len(chosen)} of {facts.n_spots} spots are shown."
    if saturation is not None and largest.max(initial=0) > 0.2 * saturation:
        series.append(Series("saturation", np.full(len(x), saturation), "dashes", 2))
    return Chart(
        "peakogram",
        "Largest value of a spot by its distance from the middle of the frame",
        "distance, pixels",
        "largest value, counts",
        x,
        series,
        caption,
        y_log=True,
    )


def places(facts: Facts) -> Section | None:
    """Return where on the frame spots are."""
    if not facts.n_spots:
        return None
    found = staying_places(facts)
    tables = []
    if found:
        rows = [[str(x), str(y), str(number)] for x, y, number in found[:20]]
        tables.append(Table("Places with a spot at most angles", ["X", "Y", "angles"], rows))
    centres = np.array([one[:2] for one in found])
    path = circles(centres, 0.012 * max(facts.shape[1:]))
    marks = [Mark("places with a spot at most angles", path, 1)] if found else []
    return Section(
        "places",
        "Places of the spots",
        pictures=[_pattern(facts, marks), _density(facts)],
        tables=tables,
        numbers={"staying_places": found},
    )


def _pattern(facts: Facts, marks: list[Mark]) -> Picture:
    """Return the spots of all frames as dots, coloured by angle or frame."""
    n_rows, n_columns = facts.shape[1:]
    factor = max(1, math.ceil(max(n_rows, n_columns) / 480))
    shape = -(-n_rows // factor), -(-n_columns // factor)
    levels = np.zeros(shape, np.uint8)
    angle = facts.frames.get("angle", np.full(facts.n_frames, np.nan))
    key = angle if np.isfinite(angle).all() else np.arange(facts.n_frames, dtype=np.float64)
    low, high = float(key.min()), float(key.max())
    part = (key - low) / max(high - low, 1e-9)
    colour = np.rint(60 + part * (pictures.N_LEVELS - 61)).astype(np.uint8)
    X, Y = (facts.spots["XY"] // factor).T
    levels[X.clip(0, shape[0] - 1), Y.clip(0, shape[1] - 1)] = colour[facts.spots["frame"]]
    what, unit = ("angle", "°") if np.isfinite(angle).all() else ("frame", "")
    return Picture(
        "Spots of all frames",
        pictures.data_uri(pictures.png(levels, "heat", small=True)),
        (0, 0, n_rows, n_columns),
        (factor * shape[0], factor * shape[1]),
        f"dark to light: {what} {low:g} to {high:g}{unit}",
        marks,
        "Spots of the crystal move with the angle. A line or ring that stays at one place at all "
        "angles is not from the crystal, but for example from ice or the sample holder.",
    )


def _density(facts: Facts) -> Picture:
    """Return the number of spots in cells of the frame."""
    size = math.ceil(max(facts.shape[1:]) / CELLS)
    shape = tuple(-(-n // size) for n in facts.shape[1:])
    X, Y = (facts.spots["XY"] // size).T
    flat = X.clip(0, shape[0] - 1).astype(np.int64) * shape[1] + Y.clip(0, shape[1] - 1)
    counts = np.bincount(flat, minlength=shape[0] * shape[1]).reshape(shape)
    contrast = pictures.Contrast(0, max(float(np.percentile(counts, 99.5)), 1), "sqrt")
    levels = pictures.grey_levels(counts, contrast)
    return Picture(
        "Number of spots",
        pictures.data_uri(pictures.png(levels, "heat", small=True)),
        (0, 0, *facts.shape[1:]),
        (size * shape[0], size * shape[1]),
        f"0 to {contrast.high:g} spots in {size} x {size} pixels, square-root scale",
        caption="Hot cells are hot pixels, edges of masks, or the sample holder.",
    )


def cutouts(facts: Facts) -> Section | None:
    """Return pictures of single spots: the strongest, the weakest, and special ones."""
    if facts.stack is None or not facts.n_spots:
        return None
    text = ["Lines are the outlines of the spots. Each picture has a contrast of its own."]
    makers = (partial(_cutout, facts, row, what) for row, what in chosen_spots(facts))
    found = list(_readable(makers, text))
    return Section("cutouts", "Single spots", text, pictures=found)


def chosen_spots(facts: Facts) -> list[tuple[int, str]]:
    """Return rows of typical and special spots, and what they are; none twice."""
    order = np.argsort(-facts.spots["I"], kind="stable")
    # one of the frames on which a spot is
    keys = np.stack([facts.spots["mask"], facts.spots["label"]])[:, order]
    by_intensity = order[np.sort(np.unique(keys, axis=1, return_index=True)[1])]
    n, middle = len(by_intensity), len(by_intensity) // 2
    wanted = [(row, "strongest") for row in by_intensity[:3].tolist()]
    wanted += [(row, "median") for row in by_intensity[max(middle - 1, 0) : middle + 2].tolist()]
    wanted += [(row, "weakest") for row in by_intensity[max(n - 3, 0) :].tolist()]
    strong = by_intensity[: max(n // 4, 1)]  # the noise of weak spots has any shape
    for name, what, number in (("n_maxima", "most maxima", 2), ("overload", "saturated", 1)):
        column = facts.spots.get(name)
        if column is not None and column[strong].max() > (name == "n_maxima"):
            order = np.argsort(-column[strong], kind="stable")[:number]
            wanted += [(int(strong[one]), what) for one in order]
    if "fwhm" in facts.spots:
        major, minor = facts.spots["fwhm"][strong].T
        with np.errstate(all="ignore"):
            ratio = np.where((minor > 0) & np.isfinite(major), major / minor, 0)
        wanted.append((int(strong[ratio.argmax()]), "most elongated"))
    chosen: dict[int, str] = {}
    for row, what in wanted:
        chosen.setdefault(row, what)
    return list(chosen.items())


def _cutout(facts: Facts, row: int, what: str) -> Picture:
    x, end, y, last = facts.spots["box"][row].tolist()
    half = min(max(CUTOUT, math.ceil(0.75 * max(end - x, last - y))), LARGEST_CUTOUT)
    X, Y = (x + end) // 2, (y + last) // 2
    n_rows, n_columns = facts.shape[1:]
    rows = slice(max(X - half, 0), min(X + half, n_rows))
    columns = slice(max(Y - half, 0), min(Y + half, n_columns))
    index = int(facts.spots["frame"][row])
    image, valid = facts.frame(index)[rows, columns], facts.valid[rows, columns]
    contrast = pictures.contrast_of(image, valid, (2, 99.9))
    levels = fewer_greys(pictures.grey_levels(image, contrast, valid, facts.saturation))
    sigma = facts.spots.get("sigma")
    error = "" if sigma is None else f" ± {sigma[row]:.3g}"
    labels = _labels(facts, index, rows, columns)
    marks = [Mark("outlines", pictures.outline_path(labels, rows.start, columns.start))]
    return Picture(
        f"{what[0].upper()}{what[1:]}",
        pictures.data_uri(pictures.png(levels, small=True)),
        (rows.start, columns.start, *image.shape),
        (image.shape[0], image.shape[1]),
        f"{contrast.low:.0f} to {contrast.high:.0f} counts",
        marks if labels.any() else (),
        f"frame {index}, X {facts.spots['XY'][row, 0]}, Y {facts.spots['XY'][row, 1]}: "
        f"I = {facts.spots['I'][row]:.4g}{error}",
        is_small=True,
    )


def _labels(facts: Facts, index: int, rows: slice, columns: slice) -> NDArray[np.int32]:
    """Return the labels of the spots of a frame in a part of it; 0 where unknown."""
    labels = np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.int32)
    if "pixel_list_BE" not in facts.spots:
        return labels
    begin, end = facts.results.frame_ranges[index]
    box = facts.spots["box"][begin:end]
    inside = (box[:, 0] < rows.stop) & (box[:, 1] > rows.start)
    inside &= (box[:, 2] < columns.stop) & (box[:, 3] > columns.start)
    for number, one in enumerate((np.flatnonzero(inside) + begin).tolist(), 1):
        place = facts.results.pixels(one) - (rows.start, columns.start)
        row, column = place[((place >= 0) & (place < labels.shape)).all(axis=1)].T
        labels[row, column] = number
    return labels


def truth(facts: Facts) -> Section | None:
    """Return the comparison of a simulated run with its truth."""
    if facts.score is None:
        return None
    score = facts.score
    rows = [
        [
            f"{part.low:g} to {part.high:g}" if math.isfinite(part.high) else f"above {part.low:g}",
            str(part.true),
            f"{100 * part.recall:.1f} %" if part.true else "-",
            _number(part.position_error, ".2f"),
            _number(100 * part.intensity_bias, "+.1f"),
            _number(100 * part.intensity_scatter, ".1f"),
            _number(part.pull_width, ".2f"),
        ]
        for part in score.bins
    ]
    head = [
        "S/N of a true spot",
        "true",
        "found",
        "position error, pixels",
        "bias of I, %",
        "scatter of I, %",
        "width of the pulls",
    ]
    known = [part for part in score.bins if part.true]
    chart = Chart(
        "recall",
        "True spots that are found",
        "S/N (lower end of the bin)",
        "found, %",
        np.array([max(part.low, 0.5) for part in known]),
        [Series("found", np.array([100 * part.recall for part in known]))],
        x_log=True,
    )
    clear = score.clear
    text = (
        f"{clear.found} of {clear.true} true spots above {clear.low:g} sigma are found. "
        f"{score.n_false} of {score.n_found} spots are at no true spot "
        f"({score.n_false / score.n_frames:.2f} per frame)."
    )
    return Section(
        "truth",
        "Comparison with the true spots",
        [text],
        [chart] if len(known) > 1 else [],
        tables=[Table("By signal-to-noise of the true spot", head, rows)],
        numbers=asdict(score),
    )


def options(facts: Facts) -> Section:
    """Return how the spots were found, and the metadata of the frames."""
    hidden = {"warnings", "command_line"}
    rows = [
        [name, f"{value:.6g}" if isinstance(value, float | np.floating) else facts.text(name)]
        for name, value in sorted(facts.info.items())
        if name not in hidden
    ]
    columns = []
    for name, values in sorted(facts.results.columns.items()):
        array = np.asarray(values)
        first, last = (str(array.ravel()[i])[:60] if array.size else "" for i in (0, -1))
        kind = "text" if array.dtype.kind in "SUO" else str(array.dtype)
        columns.append([name, f"{kind} {array.shape}", first, last])
    tables = [Table("Options, input and program", ["name", "value"], rows)]
    if columns:
        head = ["name", "type and shape", "first", "last"]
        tables.append(Table("Metadata of the frames", head, columns))
    return Section("options", "How the spots were found", tables=tables, numbers=facts.info)


def _median(image: Array, valid: NDArray[np.bool_]) -> float:
    return float(np.median(image[valid])) if valid.any() else math.nan


def _three(values: Array) -> dict[str, float]:
    """Return smallest, median and largest of some values; NaN are left out."""
    known = np.asarray(values, np.float64)
    known = known[np.isfinite(known)]
    if not len(known):
        return {}
    return {
        "min": float(known.min()),
        "median": float(np.median(known)),
        "max": float(known.max()),
    }


def _number(value: float, form: str) -> str:
    return "-" if math.isnan(value) else f"{value:{form}}"
