"""Accuracy of spot finding: this program and others on the same simulated frames.

    python benchmarks/accuracy.py [--quick] [--peers FOLDER | --defaults] [--scenes ccd pilatus ...]
        [--programs matched om ...] [--json FILE] [--plots FOLDER] [--overview OUT.png]

Each program has several settings. On two runs of 24 frames of 512 x 512 with seeds for tuning, the
setting with the highest recall above 5 sigma is chosen among those with at most 0.1 false spots a
frame (or the one with the fewest). The tables show what the chosen setting does on other runs,
whose seeds are for published figures only. All programs are scored by the rule of ``gpu-spots
score``, which needs centres only. With --defaults, ``gpu-spots find`` and ``gpu-spots find
--manual`` are compared as they are. Results that FILE has from a run before are kept and shown, so
programs and scenes can be measured one after the other.

Other programs run in environments of their own in FOLDER; those that are missing are left out:

    for p in om:ondamonitor id11:ImageD11 sep:sep photutils:photutils pyfai:pyFAI; do
        python3 -m venv FOLDER/${p%:*}; FOLDER/${p%:*}/bin/pip install ${p#*:} "numpy<3"
    done
    FOLDER/om/bin/pip install "numpy<2"

Without --quick frames have 1024 x 1024 pixels, runs 60 frames and there are three of them; the
tuning runs have spots of the same size.
"""

import argparse
import itertools
import json
import math
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_spots import Parameters, __version__, find_spots
from gpu_spots.errors import ParameterError
from gpu_spots.files.output.score_plot import write_plot
from gpu_spots.files.output.simulated_run import read_found
from gpu_spots.parameters import MANUAL_DEFAULTS
from gpu_spots.simulate.design import (
    PRESETS,
    PUBLISHED_SEEDS,
    TUNING_SEEDS,
    SpotDesign,
    make_design,
)
from gpu_spots.simulate.run import SimulatedRun, simulate_run
from gpu_spots.simulate.score import Bin, Found, Purity, Score, score

EDGES = (3.0, 5.0, 7.0, 10.0, 15.0, 30.0, 100.0, math.inf)
"""Edges of the bins of signal-to-noise."""
ASKED_FROM = 5.0
"""Settings are chosen by the recall of spots at or above this signal-to-noise."""
ERRORS_FROM = 7.0
"""Errors of intensities are shown from this signal-to-noise on."""
SHOWN_TO = 30.0
"""Signal-to-noise up to which the overview shows the recall."""
ENOUGH = 20
"""Spots of a bin whose errors are shown, at least."""
TUNING = TUNING_SEEDS[100:102]
"""Seeds of the runs on which settings are chosen."""
FALSE_LIMIT = 0.1
"""False spots a frame that a chosen setting may have."""

CCD = {"intensity": 400.0, "intensity_spread": 1.3}
COUNTER = {"intensity": 25.0, "intensity_spread": 1.2}
PAIRS = {"spots": 0.25, "neighbours": 0.25, "intensity": 2000.0, "intensity_spread": 0.3}
SCENES: dict[str, tuple[str, dict[str, Any]]] = {
    "ccd": ("marccd", CCD),
    "phosphor": ("rayonix", CCD),
    "shapes": ("marccd", CCD | {"profile": "mixed"}),
    "streaks": ("marccd", CCD | {"profile": "streak"}),
    "hard": ("hard", CCD | {"correlation": 0.0, "neighbours": 0, "static_spots": 0}),
    "pilatus": ("pilatus", COUNTER | {"modules": (195, 487), "gaps": (17, 7)}),
    "eiger": ("eiger", COUNTER | {"modules": (250, 300), "gaps": (37, 10)}),
    "laser": ("marccd", CCD | {"laser": True}),
    "pairs 3": ("marccd", PAIRS | {"separation": 3.0}),
    "pairs 4": ("marccd", PAIRS | {"separation": 4.0}),
    "pairs 5": ("marccd", PAIRS | {"separation": 5.0}),
    "pairs 6": ("marccd", PAIRS | {"separation": 6.0}),
}
"""Scenes by name: a preset, and options that change it. ``spots`` and ``neighbours`` are parts of
the usual number. ``laser``: 8 angles with 3 off/on pairs each; our programs join the frames of an
angle (``-S blocks``).
"""
MANUAL: dict[str, dict[str, Any]] = {
    "defaults": {},
    "-c 2": {"cutoff": 2.0},
    "-s 2,1": {"structure": (2, 1)},
    "-s 2,1 -c 4": {"structure": (2, 1), "cutoff": 4.0},
    "-e 0 -d 1 -c 6": {"erosions": 0, "dilations": 1, "cutoff": 6.0},
    "-e 0 -d 1 -c 8": {"erosions": 0, "dilations": 1, "cutoff": 8.0},
    "-e 0 -d 1 -c 10": {"erosions": 0, "dilations": 1, "cutoff": 10.0},
}
"""Settings of the manual's method, as changes of its defaults."""
CLIP: dict[str, dict[str, Any]] = {
    f"-m clip{' -s 2,1' if cross else ''} -c {cutoff:g}": {
        "method": "clip",
        "structure": (2, 1 if cross else 2),
        "cutoff": cutoff,
    }
    for cross in (False, True)
    for cutoff in (1.25, 1.5, 2.0, 2.5, 3.0)
}
"""Settings of ``-m clip`` with the manual's masks."""
MATCHED: dict[str, dict[str, Any]] = {
    f"-m clip{' --streaks' if streaks else ''} --significance {level:g}": {
        "method": "clip",
        "finder": "matched",
        "significance": level,
        "streaks": streaks,
    }
    for streaks in (False, True)
    for level in (5.0, 5.5, 6.0, 7.0)
}
"""Settings of ``--finder matched``."""
PATIENCE = 900
"""Seconds that all settings of another program may take on one run."""
PEERS = ("om", "id11", "sep", "photutils", "pyfai")
"""Other programs, by the folders of their environments."""
OURS = {
    "n_removed, threshold": MANUAL,
    "clip, threshold": CLIP,
    "matched": MATCHED,
    "matched, default": {"default": {"method": "clip", "finder": "matched"}},
}
"""Programs of ours and their settings."""
DEFAULT_SETS: dict[str, dict[str, dict[str, Any]]] = {
    "manual": {"--manual": dict(MANUAL_DEFAULTS)},
    "defaults": {"none": {name: getattr(Parameters(), name) for name in MANUAL_DEFAULTS}},
}
"""The two sets of defaults, each with its options of ``gpu-spots find``."""


@dataclass(frozen=True)
class Frames:
    """A simulated run, in the form in which every program gets it."""

    run: SimulatedRun
    frames: NDArray[Any]
    """(n_frames, n_X, n_Y), counts."""
    good: NDArray[np.bool_]
    """(n_X, n_Y) bool: pixels that count."""


@dataclass(frozen=True)
class Result:
    """Result of a program at one setting, on one or more runs."""

    setting: str
    scores: tuple[Score, ...]
    seconds: float
    """Time of the search, of our programs."""


def main() -> None:
    """Parse, choose settings, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="24 frames of 512 x 512, one run")
    programs = parser.add_mutually_exclusive_group()
    programs.add_argument("--peers", type=Path, metavar="FOLDER")
    programs.add_argument("--defaults", action="store_true", help="the two sets of defaults only")
    parser.add_argument("--scenes", nargs="+", choices=SCENES, default=list(SCENES))
    parser.add_argument("--programs", nargs="+", choices=[*OURS, *PEERS], default=[*OURS, *PEERS])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that is known")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw a plot of each scene")
    parser.add_argument(
        "--overview", type=Path, metavar="OUT.png", help="draw the recall of all scenes"
    )
    options = parser.parse_args()
    size, n_frames, n_runs = (512, 24, 1) if options.quick else (1024, 60, 3)
    record: dict[str, Any] = {
        "gpu_spots": __version__, "numpy": np.__version__, "python": sys.version.split()[0],
        "size": size, "frames": n_frames, "tuning_seeds": list(TUNING), "scenes": {},
        "seeds": list(PUBLISHED_SEEDS[:n_runs]),
    }  # fmt: skip
    if options.json and options.json.exists():
        record["scenes"] = json.loads(options.json.read_text())["scenes"]
    begun = time.perf_counter()
    for scene in options.scenes:
        with tempfile.TemporaryDirectory() as folder:
            results, versions = measured(scene, record, options, Path(folder))
        of_scene = record["scenes"].setdefault(scene, {})
        of_scene |= {
            name: asdict(result) | {"version": versions.get(name)}
            for name, result in results.items()
        }
        if options.json:
            options.json.write_text(json.dumps(record, indent=1))
        shown = [*DEFAULT_SETS] if options.defaults else [*OURS, *PEERS]
        results = {name: _read(of_scene[name]) for name in shown if name in of_scene}
        print(f"\n## {scene}\n", flush=True)
        for line in (*table(scene, results), "", *errors(scene, results)):
            print(line, flush=True)
        if options.plots and not scene.startswith("pairs"):
            scores = {name: combined(result.scores) for name, result in results.items()}
            write_plot(options.plots / f"accuracy_{scene}.svg", scores, force=True)
    print(f"\n{time.perf_counter() - begun:.0f} s", file=sys.stderr)
    if options.overview:
        draw(record["scenes"], options.overview)


def measured(
    scene: str, record: Mapping[str, Any], options: argparse.Namespace, folder: Path
) -> tuple[dict[str, Result], dict[str, str]]:
    """Return the results of each program at its best setting, and the versions of others."""
    size = record["size"]
    tuning = [simulated(scene, 512, 24, seed, size // 512) for seed in TUNING]
    published = [simulated(scene, size, record["frames"], seed) for seed in record["seeds"]]
    results: dict[str, Result] = {}
    versions: dict[str, str] = {}
    for name, of_program in (DEFAULT_SETS if options.defaults else OURS).items():
        if name not in options.programs and not options.defaults:
            continue
        settings = {setting: made for setting, made in of_program.items() if _known(made)}
        best = next(iter(settings))
        if len(settings) > 1:
            tried = {
                setting: combined(
                    [score(one.run.truth, ours(one, changes, folder), EDGES) for one in tuning]
                )
                for setting, changes in settings.items()
            }
            best = chosen(tried, scene)
        begun = time.perf_counter()
        found = [ours(one, settings[best], folder) for one in published]
        seconds = (time.perf_counter() - begun) / len(published)
        scores = [
            score(one.run.truth, its, EDGES) for one, its in zip(published, found, strict=True)
        ]
        results[name] = Result(best, tuple(scores), seconds)
    for name in PEERS:
        if name not in options.programs or options.defaults:
            continue
        python = options.peers and options.peers / name / "bin/python"
        if not python or not python.exists():
            print(f"{name}: not measured, no environment", file=sys.stderr)
            continue
        each: dict[str, list[Score]] = {}
        for one in tuning:
            for setting, one_found in theirs(python, name, one, folder, versions):
                each.setdefault(setting, []).append(score(one.run.truth, one_found, EDGES))
        if not each:
            continue
        tried = {setting: combined(scores) for setting, scores in each.items()}
        best = chosen(tried, scene)
        peer_scores = [
            score(one.run.truth, one_found, EDGES)
            for one in published
            for _, one_found in theirs(python, name, one, folder, versions, best)
        ]
        results[name] = Result(best, tuple(peer_scores), math.nan)
    return results, versions


def _known(changes: Mapping[str, Any]) -> bool:
    """Return whether this version has these parameters and values."""
    try:
        Parameters.manual(**changes)
    except (TypeError, ParameterError):
        return False
    return True


def simulated(scene: str, size: int, n_frames: int, seed: int, larger: int = 1) -> Frames:
    """Return a run of a scene, with spots of ``larger`` times the usual area."""
    preset, changes = SCENES[scene]
    usual = 200 * (size / 1024) ** 2
    options: dict[str, Any] = {
        "size": (size, size), "laser": False, "angles": n_frames, "repeats": 1, "spots": 1.0,
        "seed": seed,
    } | changes  # fmt: skip
    if options["laser"]:
        options |= {"angles": n_frames // 6, "repeats": 3}
    options["area"] = larger * PRESETS[preset].get("area", SpotDesign().area)
    for name in ("spots", "neighbours"):
        options[name] = round(usual * options.get(name, 0))
    run = simulate_run(make_design(options, preset))
    good = run.detector.inside.copy()
    good[tuple(run.detector.dead.T)] = False
    return Frames(run, np.stack(list(run.frames())), good)


def ours(one: Frames, changes: Mapping[str, Any], folder: Path) -> Found:
    """Return what this program finds."""
    drifts = one.run.design.drift > 0
    schedule, laser = one.run.truth.schedule, one.run.design.laser
    parameters = replace(
        Parameters.manual(angles=0, normalise="level" if drifts else "none"),
        sync="blocks" if laser else "none",
        **changes,
    )
    columns = {"angle": schedule.angle, "laser_on": schedule.laser_on.astype(int)}
    output = folder / "spots.h5"
    with warnings.catch_warnings(action="ignore"):  # the tables say what comes of it
        find_spots(
            one.frames, parameters, columns=columns if laser else None, valid_pixels=one.good,
            output=output, compression="lzf", force=True,
        ).close()  # fmt: skip
    return read_found(output)


def theirs(
    python: Path,
    name: str,
    one: Frames,
    folder: Path,
    versions: dict[str, str],
    setting: str | None = None,
) -> Iterator[tuple[str, Found]]:
    """Yield what another program finds at each of its settings, or at one."""
    source, target = folder / "run.npz", folder / "found.npz"
    np.savez(source, frames=one.frames, good=one.good, beam=one.run.detector.beam)
    script = Path(__file__).with_name("accuracy_peers.py")
    command = [str(python), str(script), name, str(source), str(target)]
    try:
        subprocess.run(
            [*command, *([setting] if setting else [])],
            capture_output=True,
            check=True,
            timeout=PATIENCE,
        )
    except subprocess.CalledProcessError as error:
        last = error.stderr.decode(errors="replace").strip().splitlines()[-1:]
        print(f"{name}: not measured, {' '.join(last)}", file=sys.stderr)
        return
    except subprocess.TimeoutExpired as error:
        print(f"{name}: not measured, {error}", file=sys.stderr)
        return
    with np.load(target) as file:
        versions[name] = str(file["version"])
        for k, found in enumerate(file["settings"].tolist()):
            ends = np.searchsorted(file[f"frame_{k}"], np.arange(len(one.frames) + 1))
            ranges = np.column_stack([ends[:-1], ends[1:]])
            counts = file.get(f"I_{k}")
            yield found, Found(one.good.shape, ranges, file[f"XY_{k}"], counts)


def chosen(tried: Mapping[str, Score], scene: str) -> str:
    """Return the best setting: of those with few false spots, the one that finds most."""
    few = [name for name, one in tried.items() if one.n_false <= FALSE_LIMIT * one.n_frames]
    if not few:
        return min(tried, key=lambda name: tried[name].n_false)
    return max(few, key=lambda name: _gain(tried[name], scene))


def _gain(one: Score, scene: str) -> float:
    if scene.startswith("pairs"):
        return one.n_resolved
    return sum(part.found for part in one.bins if part.low >= ASKED_FROM)


def combined(scores: Sequence[Score]) -> Score:
    """Return the sums over several runs; errors are means, weighted by the spots found."""
    first = scores[0]
    bins = []
    for parts in zip(*(one.bins for one in scores), strict=True):
        sums = {name: sum(getattr(part, name) for part in parts) for name in ("true", "found")}
        bins.append(replace(parts[0], **sums, **_means(parts)))
    counts = ("n_frames", "n_found", "n_fragments", "n_static", "n_false", "n_pairs", "n_resolved")
    return replace(
        first,
        bins=tuple(bins),
        **{name: sum(getattr(one, name) for one in scores) for name in counts},
    )


def _means(parts: Sequence[Bin]) -> dict[str, float]:
    names = [one.name for one in fields(Bin)[4:]]
    weights = np.array([part.found for part in parts], float)
    means = {}
    for name in names:
        values = np.array([getattr(part, name) for part in parts])
        known = np.isfinite(values) & (weights > 0)
        means[name] = (
            float(np.average(values[known], weights=weights[known])) if known.any() else math.nan
        )
    return means


def _read(result: Mapping[str, Any]) -> Result:
    """Return a result as it was written to a file."""
    scores = [
        Score(
            **one
            | {
                "bins": tuple(Bin(**part) for part in one["bins"]),
                "clear": Bin(**one["clear"]),
                "purity": tuple(Purity(**part) for part in one["purity"]),
            }
        )
        for one in result["scores"]
    ]
    return Result(result["setting"], tuple(scores), result["seconds"])


def draw(scenes: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw the recall by signal-to-noise of all programs, one panel for each scene."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [scene for scene in SCENES if scene in scenes and not scene.startswith("pairs")]
    n_columns = min(4, len(shown))
    n_rows = math.ceil(len(shown) / n_columns)
    figure = Figure(figsize=(3 * n_columns, 2.6 * n_rows + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(n_rows, n_columns, sharey=True, squeeze=False).ravel()
    limits = list(itertools.pairwise([low for low in EDGES if low <= SHOWN_TO]))
    lines: dict[str, Any] = {}
    for panel in panels[len(shown) :]:
        panel.set_axis_off()
    for panel, scene in zip(panels, shown, strict=False):
        for k, name in enumerate([*OURS, *PEERS]):
            if name not in scenes[scene]:
                continue
            bins = combined(_read(scenes[scene][name]).scores).bins
            recall = {part.low: 100 * part.recall for part in bins}
            style = "o-" if name in OURS else "s--"
            heights = [recall.get(low, math.nan) for low, _ in limits]
            (lines[name],) = panel.plot(heights, style, color=f"C{k}", ms=4, lw=1.2)
        panel.set_title(scene, fontsize=10)
        panel.set_xticks(
            range(len(limits)), [f"{low:g}-{high:g}" for low, high in limits], fontsize=8
        )
        panel.set_ylim(-3, 103)
        panel.grid(alpha=0.3)
    for panel in panels[-n_columns:]:
        panel.set_xlabel("signal over noise", fontsize=9)
    for panel in panels[::n_columns]:
        panel.set_ylabel("recall, %")
    figure.legend(lines.values(), lines, loc="outside lower center", ncols=5, fontsize=8)
    figure.savefig(path, dpi=110)


def errors(scene: str, results: Mapping[str, Result]) -> Iterator[str]:
    """Yield the lines of a scene's table of intensities and their errors, by the whole spot."""
    if scene.startswith("pairs"):
        return
    yield "| program | S/N | spots | I | 68 % | 95 % |"
    yield "|---|---|---|---|---|---|"
    for name, result in results.items():
        for part in combined(result.scores).bins:
            if part.low < ERRORS_FROM or part.found < ENOUGH or math.isnan(part.covered_68):
                continue
            limits = f"> {part.low:g}" if math.isinf(part.high) else f"{part.low:g}-{part.high:g}"
            yield (
                f"| {name} | {limits} | {part.found} | {100 * part.intensity_bias:+.1f} ± "
                f"{100 * part.intensity_scatter:.1f} % | {100 * part.covered_68:.0f} | "
                f"{100 * part.covered_95:.0f} |"
            )


def table(scene: str, results: Mapping[str, Result]) -> Iterator[str]:
    """Yield the lines of a scene's table."""
    if scene.startswith("pairs"):
        yield "| program | setting | resolved | of | false per frame |"
        yield "|---|---|---|---|---|"
        for name, result in results.items():
            one = combined(result.scores)
            share = 100 * one.n_resolved / max(1, one.n_pairs)
            rate = one.n_false / one.n_frames
            yield f"| {name} | `{result.setting}` | {share:.0f} % | {one.n_pairs} | {rate:.2f} |"
        return
    limits = [
        f"> {low:g}" if math.isinf(high) else f"{low:g}-{high:g}"
        for low, high in itertools.pairwise(EDGES)
    ]
    yield f"| program | setting | {' | '.join(limits)} | false | fragments | position | I |"
    yield "|" + "---|" * (len(limits) + 6)
    for name, result in results.items():
        one = combined(result.scores)
        recalls = " | ".join(f"{100 * part.recall:.0f}" for part in one.bins)
        middle = next(part for part in one.bins if part.low == 10)
        strong = next(part for part in one.bins if part.low == 15)
        intensity = "-"
        if math.isfinite(strong.intensity_bias):
            intensity = (
                f"{100 * strong.intensity_bias:+.0f} ± {100 * strong.intensity_scatter:.0f} %"
            )
        yield (
            f"| {name} | `{result.setting}` | {recalls} | {one.n_false / one.n_frames:.2f} | "
            f"{one.n_fragments / one.n_frames:.2f} | {middle.position_error:.2f} | {intensity} |"
        )


if __name__ == "__main__":
    main()
