"""Section of a report on the on/off ratios and their null tests."""

import math
from collections.abc import Iterator

import numpy as np

from gpu_spots.model import Array
from gpu_spots.reporting.facts import Facts
from gpu_spots.reporting.parts import (
    Chart,
    Floats,
    Section,
    Series,
    Table,
    range_without_outliers,
    sampled,
    scatter,
)
from gpu_spots.spots.ratios import RatioResult

PULLS = (("on_off", "on/off"), ("off_off", "off/off"), ("on_on", "on/on"))
"""Names of the tests whose pulls are drawn, and their labels."""
RANGE = 6.0
"""Largest pull in the histogram."""
WORST = 10
"""Reflections in the table of the worst."""


def ratios(facts: Facts) -> Section | None:
    """Return the section on the ratios; None for a run without laser."""
    if not facts.is_laser_run:
        return None
    found = facts.ratios
    if found is None:
        return Section("ratios", "On/off ratios", [f"There are no ratios: {facts.without_ratios}"])
    return Section(
        "ratios",
        "On/off ratios",
        [f"{found.verdict[0].upper()}{found.verdict[1:]}.", *found.notes],
        list(_charts(facts, found)),
        tables=list(_tables(found)),
        numbers={"verdict": found.verdict, "notes": found.notes, **found.figures},
    )


def _charts(facts: Facts, found: RatioResult) -> Iterator[Chart]:
    yield _pulls(found)
    columns = found.ratios
    known = np.flatnonzero(np.isfinite(columns["R"]) & np.isfinite(columns["sigma_R"]))
    if not len(known):
        return
    chosen = known[sampled(len(known))]
    eta, every = columns["eta"][chosen], np.ones(len(chosen), bool)
    note = "" if len(chosen) == len(known) else f"{len(chosen)} of {len(known)} reflections. "
    shown, outside = range_without_outliers(eta)
    note += outside
    x, series = scatter(columns["I_off"][chosen], [("reflections", eta, every)])
    sigma = columns["sigma_R"][chosen][np.argsort(columns["I_off"][chosen], kind="stable")]
    band = 3 * _running_median(sigma, x)
    series += [Series(f"{sign} 3 sigma", s * band, "line", 1) for sign, s in (("+", 1), ("-", -1))]
    yield Chart(
        "eta_by_intensity",
        "Change of the spots by their intensity",
        "laser-off intensity, counts",
        "on/off - 1",
        x,
        series,
        note + "Without a response, 99.7 % of the points are between the lines.",
        x_log=True,
        y_range=shown,
    )
    middle = (np.array(facts.shape[1:]) - 1) / 2
    place = np.stack([columns["X"][chosen], columns["Y"][chosen]], axis=1)
    for name, title, label, values in (
        (
            "eta_by_radius",
            "Change of the spots by their distance from the middle of the frame",
            "distance, pixels",
            np.hypot(*(place - middle).T),
        ),
        (
            "eta_by_angle",
            "Change of the spots by angle",
            "angle, degrees",
            columns["angle"][chosen],
        ),
    ):
        x, series = scatter(values, [("reflections", eta, every)])
        mean = _running_median(series[0].y, x)
        series.append(Series("running median", mean, "line", 1))
        caption = note
        if name == "eta_by_radius":
            caption += "A trend with the distance may be a change of temperature."
        yield Chart(name, title, label, "on/off - 1", x, series, caption, y_range=shown)
    halves = _odd_even(found)
    if halves is not None:
        yield halves
    scale = found.frame_pairs["scale"]
    if np.isfinite(scale).any():
        yield Chart(
            "pair_scales",
            "Median ratio of the strong spots of each pair of frames",
            "laser-off frame",
            "on/off",
            *_ordered(found.frame_pairs["frame_off"], scale),
            "It shows changes of the beam between two frames, and a response of all spots.",
        )


def _ordered(x: Array, y: Array) -> tuple[Floats, list[Series]]:
    order = np.argsort(x, kind="stable")
    return x[order].astype(np.float64), [Series("pairs", y[order].astype(np.float64))]


def _pulls(found: RatioResult) -> Chart:
    """Return the pulls of on/off and of the null tests, and the Gaussian of width 1."""
    edges = np.linspace(-RANGE, RANGE, 49)
    series = []
    for number, (name, label) in enumerate(PULLS):
        pulls = found.null[name][np.isfinite(found.null[name])]
        if len(pulls):
            counts = np.histogram(np.clip(pulls, -RANGE, RANGE), edges)[0] / len(pulls)
            density = np.append(counts, counts[-1]) / (edges[1] - edges[0])
            width = found.figures[label]["width"]
            series.append(Series(f"{label} (width {width:.2f})", density, "steps", number))
    gauss = np.exp(-(edges**2) / 2) / math.sqrt(2 * math.pi)
    series.append(Series("Gaussian, width 1", gauss, "dashes", 3))
    return Chart(
        "pulls",
        "Differences of intensities in standard errors",
        "difference / sigma",
        "density",
        edges,
        series,
        "off/off and on/on have the width 1 if errors are right. A response makes on/off wider.",
    )


def _odd_even(found: RatioResult) -> Chart | None:
    """Return the ratios from even pairs against those from odd pairs."""
    pairs = found.pairs
    n = len(found.ratios["R"])
    used = pairs["rejected"] == 0
    starts = np.searchsorted(pairs["ratio"], np.arange(n))
    rank = np.arange(len(pairs["ratio"])) - starts[pairs["ratio"]]
    halves = []
    for odd in range(2):
        some = used & (rank % 2 == odd)
        off, on = (
            np.bincount(pairs["ratio"][some], pairs[name][some], n) for name in ("I_off", "I_on")
        )
        with np.errstate(all="ignore"):
            halves.append(np.where(off > 0, on / off - 1, np.nan))
    strong = found.ratios["I_off"] > 10 * found.ratios["sigma_I_off"]
    both = np.flatnonzero(np.isfinite(halves).all(axis=0) & strong)
    if len(both) < 5:
        return None
    both = both[sampled(len(both))]
    x, series = scatter(
        halves[0][both], [("reflections", halves[1][both], np.ones(len(both), bool))]
    )
    shown, outside = range_without_outliers(halves[1][both])
    figures = found.figures["odd/even"]
    return Chart(
        "odd_even",
        "Change of the spots from odd and from even pairs",
        "on/off - 1, odd pairs",
        "on/off - 1, even pairs",
        x,
        [*series, Series("equal", x, "dashes", 3)],
        f"{outside}Correlation {figures['correlation']:.3f}, slope {figures['slope']:.3f}; "
        f"probability without a response {figures['probability']:.1e}. Strong spots are shown.",
        y_range=shown,
    )


def _running_median(values: Floats, x: Floats) -> Floats:
    """Return medians of neighbours, (n,) float64: of equal x, or 25 groups of equal size."""
    borders = np.flatnonzero(np.diff(x)) + 1
    n = len(values)
    result = np.full(n, np.nan)
    groups = np.split(np.arange(n), borders) if len(borders) < n // 5 else ()
    for part in groups or np.array_split(np.arange(n), 25):
        if len(part):
            result[part] = np.median(values[part])
    return result


def _tables(found: RatioResult) -> Iterator[Table]:
    counts = found.figures["counts"]
    rows = [[name, str(number)] for name, number in counts["rejected"].items()]
    rows = [["used", str(counts["pairs"] - sum(counts["rejected"].values()))], *rows]
    yield Table("Pairs of spots", ["reason of rejection", "pairs"], rows)
    tests = [
        [name, str(one["n"]), f"{one['width']:.2f}" if one["n"] else "-", str(one["beyond_3"])]
        for name, one in found.figures.items()
        if isinstance(one, dict) and "beyond_3" in one
    ]
    yield Table("Tests", ["test", "values", "width", "beyond 3 sigma"], tests)
    columns = found.ratios
    with np.errstate(all="ignore"):
        reduced = columns["chi2"] / (columns["n_pairs"] - 1)
    order = np.argsort(-np.nan_to_num(reduced), kind="stable")[:WORST]
    names = ("X", "Y", "angle", "n_pairs", "n_rejected", "I_off", "R", "sigma_R", "chi2")
    columns = {**columns, "chi2": reduced}
    worst = [[f"{columns[name][row]:.5g}" for name in names] for row in order.tolist()]
    yield Table("Reflections with the largest scatter (chi2 per degree of freedom)", names, worst)
