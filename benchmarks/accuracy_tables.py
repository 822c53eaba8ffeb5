"""Results, tables and picture of ``accuracy.py``."""

import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from gpu_spots.simulate.score import Bin, Purity, Score

EDGES = (3.0, 5.0, 7.0, 10.0, 15.0, 30.0, 100.0, math.inf)
"""Edges of the bins of signal-to-noise."""
STRONG = 30.0
"""Spots at or above this signal-to-noise share a column."""
ERRORS_FROM = 7.0
"""Errors of intensities are shown from this signal-to-noise on."""
ENOUGH = 20
"""Spots of a bin whose errors are shown, at least."""
SHOWN = {
    "lu_hdf2spots": "`lu_hdf2spots`",
    "gpu-spots find": "`gpu-spots find`",
    "om": "peakfinder8 (OM)",
    "id11": "ImageD11",
    "photutils": "photutils, DAOFIND",
    "pyfai": "pyFAI, blobs",
}
"""Names of programs in the tables, where they differ."""
DEFAULTS = {"lu_hdf2spots": "the manual", "gpu-spots find": "`gpu-spots find`"}
"""The two programs that are compared at their defaults."""
TITLES = {
    "ccd": "CCD",
    "phosphor": "phosphor",
    "shapes": "five shapes",
    "streaks": "streaks",
    "hard": "all difficulties",
    "pilatus": "3 photons per pixel",
    "eiger": "0.3 photons per pixel",
    "laser": "laser run",
}
"""Scenes in the table of defaults."""


@dataclass(frozen=True)
class Result:
    """Result of a program at its best setting, on one or more runs."""

    setting: str
    score: Score
    """Sums over the runs."""
    n_runs: int
    version: str
    date: str
    """Day on which it was measured or found to be up to date."""


class Store:
    """Results of a scene: a file of lines, of which the last of its kind counts.

    A result has a program, a setting, a seed, a key (of all it depends on), and a score, or None
    where the setting was given up. A choice has a program, its best setting, a version and a date.
    """

    def __init__(self, folder: Path, scene: str) -> None:
        self.path = folder / f"{scene.replace(' ', '_')}.jsonl"
        self.n_added = 0
        self._results: dict[tuple[str, str, int], dict[str, Any]] = {}
        self._choices: dict[str, dict[str, Any]] = {}
        for line in self.path.read_text().splitlines() if self.path.exists() else ():
            try:
                self._keep(json.loads(line))
            except json.JSONDecodeError:  # the command was killed as it wrote
                continue

    def _keep(self, row: dict[str, Any]) -> None:
        if "seed" in row:
            self._results[row["program"], row["setting"], row["seed"]] = row
        else:
            self._choices[row["program"]] = row

    def _write(self, row: dict[str, Any]) -> None:
        self._keep(row)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def has(self, program: str, setting: str, seed: int, key: str) -> bool:
        """Return whether the result is known and has this key."""
        return self._results.get((program, setting, seed), {}).get("key") == key

    def add(self, **row: Any) -> None:
        """Add a result."""
        self.n_added += 1
        self._write(row)

    def choose(self, program: str, setting: str, version: str, date: str) -> None:
        """Add a choice."""
        self._write({"program": program, "setting": setting, "version": version, "date": date})

    def score(self, program: str, setting: str, seed: int) -> Score | None:
        """Return a score; None if it is not known, or was given up."""
        made = self._results.get((program, setting, seed), {}).get("score")
        if made is None:
            return None
        parts = {
            "bins": tuple(Bin(**part) for part in made["bins"]),
            "clear": Bin(**made["clear"]),
            "purity": tuple(Purity(**part) for part in made["purity"]),
        }
        return Score(**made | parts)

    def results(self, seeds: Sequence[int]) -> dict[str, Result]:
        """Return the results of all programs at their best settings."""
        made = {}
        for program, row in self._choices.items():
            known = [self.score(program, row["setting"], seed) for seed in seeds]
            scores = [one for one in known if one is not None]
            if scores:
                made[program] = Result(
                    row["setting"], combined(scores), len(scores), row["version"], row["date"]
                )
        return made


def combined(scores: Sequence[Score]) -> Score:
    """Return the sums over several runs; errors are means, weighted by the spots found."""
    first = scores[0]
    counts = ("n_frames", "n_found", "n_fragments", "n_static", "n_false", "n_pairs", "n_resolved")
    return replace(
        first,
        bins=tuple(_sum(parts) for parts in zip(*(one.bins for one in scores), strict=True)),
        **{name: sum(getattr(one, name) for one in scores) for name in counts},
    )


def _sum(parts: Sequence[Bin]) -> Bin:
    sums: dict[str, Any] = {
        name: sum(getattr(part, name) for part in parts) for name in ("true", "found")
    }
    weights = np.array([part.found for part in parts], float)
    for name in [one.name for one in fields(Bin)[4:]]:
        values = np.array([getattr(part, name) for part in parts])
        known = np.isfinite(values) & (weights > 0)
        sums[name] = (
            float(np.average(values[known], weights=weights[known])) if known.any() else math.nan
        )
    return replace(parts[0], **sums)


def tables(results: Mapping[str, Mapping[str, Result]]) -> dict[str, list[str]]:
    """Return the lines of each table, by the name that its heading on the page has."""
    made = {
        scene: list(_scene(known))
        for scene, known in results.items()
        if not scene.startswith("pairs")
    }
    pairs = {scene: known for scene, known in results.items() if scene.startswith("pairs")}
    if pairs:
        made["pairs"] = list(_pairs(pairs))
    made["defaults"] = list(_defaults(results))
    made["intensities"] = list(_intensities(results))
    made["programs"] = list(_programs(results))
    return made


def renewed(page: str, made: Mapping[str, Sequence[str]]) -> str:
    """Return a page whose tables are those that were made.

    The table of a name is the one after the comment ``<!-- accuracy: NAME -->``.
    """
    for name, lines in made.items():
        before, mark, after = page.partition(f"<!-- accuracy: {name} -->\n\n")
        if mark:
            rest = re.sub(r"\A(?:\|.*\n)*", "", after)
            page = before + mark + "".join(f"{line}\n" for line in lines) + rest
    return page


def _columns(with_setting: bool) -> Iterator[str]:
    """Yield the head of a table of recall."""
    lows = [low for low in EDGES if low <= STRONG]
    limits = [f"{low:g}-{high:g}" for low, high in itertools.pairwise(lows)] + [f"> {STRONG:g}"]
    names = [*limits, "false", "fragments", "position", "I"]
    first = ["program", "setting"] if with_setting else ["scene", "defaults of"]
    yield f"| {' | '.join([*first, *names])} |"
    yield "|" + "---|" * (len(names) + 2)


def _numbers(one: Score) -> str:
    """Return recall in percent, false spots, fragments, error of the position, intensity."""
    weak = [part for part in one.bins if part.low < STRONG]
    strong = _sum([part for part in one.bins if part.low >= STRONG])
    cells = [f"{100 * part.recall:.0f}" if part.true else "" for part in (*weak, strong)]
    cells += [f"{one.n_false / one.n_frames:.2f}", f"{one.n_fragments / one.n_frames:.2f}"]
    middle = next(part for part in one.bins if part.low == 10)
    above = next(part for part in one.bins if part.low == 15)
    cells.append(f"{middle.position_error:.2f}" if middle.found >= ENOUGH else "")
    cells.append(_intensity(above) or "-")
    return " | ".join(cells)


def _intensity(part: Bin, decimals: int = 0) -> str:
    """Return bias and scatter of the intensity in percent; nothing where they are not known."""
    if part.found < ENOUGH or not math.isfinite(part.intensity_bias):
        return ""
    bias, scatter = 100 * part.intensity_bias, 100 * part.intensity_scatter
    return f"{bias:+.{decimals}f} ± {scatter:.0f} %"


def _scene(known: Mapping[str, Result]) -> Iterator[str]:
    """Yield the lines of a scene's table."""
    yield from _columns(True)
    for name, result in known.items():
        yield f"| {SHOWN.get(name, name)} | `{result.setting}` | {_numbers(result.score)} |"


def _pairs(scenes: Mapping[str, Mapping[str, Result]]) -> Iterator[str]:
    """Yield the lines of the table of neighbours, in percent of those resolved."""
    yield f"| program | {' | '.join(scene.split()[1] for scene in scenes)} | false | settings |"
    yield "|" + "---|" * (len(scenes) + 3)
    for name in dict.fromkeys(itertools.chain(*scenes.values())):
        known = [results.get(name) for results in scenes.values()]
        cells = [
            f"{100 * one.score.n_resolved / max(1, one.score.n_pairs):.0f}" if one else ""
            for one in known
        ]
        there = [one for one in known if one]
        rate = sum(one.score.n_false for one in there) / sum(one.score.n_frames for one in there)
        settings = ", ".join(dict.fromkeys(f"`{one.setting}`" for one in there))
        yield f"| {SHOWN.get(name, name)} | {' | '.join(cells)} | {rate:.2f} | {settings} |"


def _defaults(results: Mapping[str, Mapping[str, Result]]) -> Iterator[str]:
    """Yield the lines of the table of the two sets of defaults."""
    yield from _columns(False)
    for scene, title in TITLES.items():
        known = results.get(scene, {})
        for name, shown in DEFAULTS.items():
            if name in known:
                yield f"| {title} | {shown} | {_numbers(known[name].score)} |"
                title = ""


def _intensities(results: Mapping[str, Mapping[str, Result]]) -> Iterator[str]:
    """Yield the lines of the table of our intensities, against those of whole spots."""
    limits = [
        f"> {low:g}" if math.isinf(high) else f"{low:g}-{high:g}"
        for low, high in itertools.pairwise(EDGES)
        if low >= ERRORS_FROM
    ]
    yield f"| frames | S/N {' | '.join(limits)} |"
    yield "|" + "---|" * (len(limits) + 1)
    for scene in TITLES:
        if "gpu-spots find" in results.get(scene, {}):
            bins = results[scene]["gpu-spots find"].score.bins
            cells = [_intensity(part, 1) for part in bins if part.low >= ERRORS_FROM]
            yield f"| `{scene}` | {' | '.join(cells)} |"


def _programs(results: Mapping[str, Mapping[str, Result]]) -> Iterator[str]:
    """Yield the lines of the table of versions and dates."""
    yield "| program | version | runs of a scene | measured |"
    yield "|---|---|---|---|"
    for name in dict.fromkeys(itertools.chain(*results.values())):
        there = [known[name] for known in results.values() if name in known]
        dates = sorted({one.date for one in there})
        runs = sorted({one.n_runs for one in there})
        versions = sorted({one.version for one in there})
        yield (
            f"| {SHOWN.get(name, name)} | {', '.join(versions)} | "
            f"{' to '.join(map(str, runs[:: max(1, len(runs) - 1)]))} | "
            f"{' to '.join(dates[:: max(1, len(dates) - 1)])} |"
        )


def draw(
    scenes: Mapping[str, Mapping[str, Result]],
    programs: Sequence[str],
    ours: Sequence[str],
    path: Path,
) -> None:
    """Draw the recall by signal-to-noise of all programs, one panel for each scene."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [scene for scene, known in scenes.items() if known and scene in TITLES]
    n_columns = min(4, len(shown))
    n_rows = math.ceil(len(shown) / n_columns)
    figure = Figure(figsize=(3 * n_columns, 2.6 * n_rows + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(n_rows, n_columns, sharey=True, squeeze=False).ravel()
    limits = list(itertools.pairwise([low for low in EDGES if low <= STRONG]))
    lines: dict[str, Any] = {}
    for panel in panels[len(shown) :]:
        panel.set_axis_off()
    for panel, scene in zip(panels, shown, strict=False):
        for k, name in enumerate(programs):
            if name not in scenes[scene]:
                continue
            recall = {part.low: 100 * part.recall for part in scenes[scene][name].score.bins}
            style = "o-" if name in ours else "s--"
            heights = [recall.get(low, math.nan) for low, _ in limits]
            label = SHOWN.get(name, name).strip("`")
            (lines[label],) = panel.plot(heights, style, color=f"C{k}", ms=4, lw=1.2)
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
