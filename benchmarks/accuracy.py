"""Accuracy of spot finding: this program and others on the same simulated frames.

    python benchmarks/accuracy.py STORE [--peers FOLDER] [--quick] [--scenes ccd pilatus ...]
        [--programs matched om ...] [--jobs 2] [--page docs/results.md] [--overview OUT.png]

Each program has several settings. On a run of 24 frames of 512 x 512 with a seed for tuning, the
most promising of them are selected, and on a second run the best: the setting with the highest
recall above 5 sigma among those with at most 0.1 false spots a frame (or the one with the fewest).
The tables show what this setting does on other runs, whose seeds are for published figures only:
four of them, or one with --quick. All programs are scored by the rule of ``gpu-spots score``, which
needs centres only. ``gpu-spots find`` and ``lu_hdf2spots`` are measured as they are, too.

Results are kept in the folder STORE. A result is made again only if the frames, the score, or the
code or version of the program have changed; so an interrupted command can be repeated, and a
change of this program costs only its own rows. --page renews the tables of the results page, and
shows what is known.

Other programs run in environments of their own in FOLDER; those that are missing are left out:

    for p in om:ondamonitor id11:ImageD11 sep:sep photutils:photutils pyfai:pyFAI; do
        python3 -m venv FOLDER/${p%:*}; FOLDER/${p%:*}/bin/pip install ${p#*:} "numpy<3"
    done
    FOLDER/om/bin/pip install "numpy<2"
"""

import argparse
import ast
import datetime
import functools
import hashlib
import inspect
import itertools
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import accuracy_peers
import numpy as np
from accuracy_tables import EDGES, Store, combined, draw, renewed, tables
from numpy.typing import NDArray

import gpu_spots
from gpu_spots import Parameters, find_spots
from gpu_spots.errors import ParameterError
from gpu_spots.files.output.simulated_run import read_found
from gpu_spots.parameters import MANUAL_DEFAULTS
from gpu_spots.simulate import score as scorer
from gpu_spots.simulate.design import (
    PRESETS,
    PUBLISHED_SEEDS,
    TUNING_SEEDS,
    SpotDesign,
    make_design,
)
from gpu_spots.simulate.run import SimulatedRun, simulate_run
from gpu_spots.simulate.score import Found, Score

SIZE = 512
"""Pixels of a frame along X and Y."""
N_FRAMES = 24
"""Frames of a run."""
SPOTS = 50
"""Spots of a frame, unless the scene says otherwise."""
TUNING = TUNING_SEEDS[100:102]
"""Seeds of the two runs on which settings are chosen."""
PUBLISHED = PUBLISHED_SEEDS[:4]
"""Seeds of the runs in the tables."""
ASKED_FROM = 5.0
"""Settings are chosen by the recall of spots at or above this signal-to-noise."""
FALSE_LIMIT = 0.1
"""False spots a frame that a chosen setting may have."""
FINALISTS = 3
"""Settings that the second run for tuning tries: so many within the limit, so many near it."""

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
the usual number. ``laser``: 4 angles with 3 off/on pairs each; our programs join the frames of an
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
    f"{'--streaks ' if streaks else ''}--significance {level:g}": {
        "method": "clip",
        "finder": "matched",
        "significance": level,
        "streaks": streaks,
    }
    for streaks in (False, True)
    for level in (5.0, 5.5, 6.0, 7.0)
}
"""Settings of ``--finder matched``."""
SURFACE: dict[str, dict[str, Any]] = {
    f"--normalise surface {name}": changes | {"normalise": "surface"}
    for name, changes in MATCHED.items()
    if not changes["streaks"]
}
"""Further settings, tried where the background changes."""
OURS: dict[str, dict[str, dict[str, Any]]] = {
    "lu_hdf2spots": {"defaults": dict(MANUAL_DEFAULTS)},
    "n_removed, threshold": MANUAL,
    "clip, threshold": CLIP,
    "gpu-spots find": {"defaults": {name: getattr(Parameters(), name) for name in MANUAL_DEFAULTS}},
    "matched": MATCHED | SURFACE,
}
"""Programs of ours and their settings."""
PEERS = tuple(accuracy_peers.PROGRAMS)
"""Other programs, by the folders of their environments."""
PATIENCE = 3600
"""Seconds of the clock that another program may take for all settings on one run."""

Search = Callable[
    [Sequence["Frames"], Sequence[str]], Iterator[tuple["Frames", str, Found | None, float]]
]
"""Function of runs and settings; it yields run, setting, what was found (or None), and seconds."""


@dataclass(frozen=True)
class Frames:
    """A simulated run, in the form in which every program gets it."""

    run: SimulatedRun
    frames: NDArray[Any]
    """(n_frames, n_X, n_Y), counts."""
    good: NDArray[np.bool_]
    """(n_X, n_Y) bool: pixels that count."""
    seed: int
    digest: str
    """Digest of the frames and of the truth."""

    @property
    def drifts(self) -> bool:
        """True: the beam changes from frame to frame."""
        return self.run.design.drift > 0


def main() -> None:
    """Parse, measure what is missing, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store", type=Path, metavar="STORE", help="folder of results")
    parser.add_argument("--quick", action="store_true", help="one published run of four")
    parser.add_argument("--peers", type=Path, metavar="FOLDER")
    parser.add_argument("--scenes", nargs="*", choices=SCENES, default=list(SCENES))
    parser.add_argument("--programs", nargs="+", choices=[*OURS, *PEERS], default=[*OURS, *PEERS])
    parser.add_argument("--jobs", type=int, default=2, help="scenes at a time")
    parser.add_argument("--page", type=Path, metavar="PAGE.md", help="renew the tables of a page")
    parser.add_argument("--overview", type=Path, metavar="OUT.png", help="draw the recall")
    options = parser.parse_args()
    options.store.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        jobs = [pool.submit(measure, scene, options) for scene in options.scenes]
        for job in as_completed(jobs):
            print(f"{time.perf_counter() - begun:6.0f} s  {job.result()}", file=sys.stderr)
    seeds = PUBLISHED[:1] if options.quick else PUBLISHED
    results = {scene: Store(options.store, scene).results(seeds) for scene in SCENES}
    made = tables({scene: {name: known[name] for name in (*OURS, *PEERS) if name in known}
                   for scene, known in results.items() if known})  # fmt: skip
    for name, lines in made.items():
        print(f"\n## {name}\n", *lines, sep="\n")
    if options.page:
        options.page.write_text(renewed(options.page.read_text(), made))
    if options.overview:
        draw(results, [*OURS, *PEERS], list(OURS), options.overview)


def measure(scene: str, options: argparse.Namespace) -> str:
    """Measure what is missing or old of a scene; return what was done."""
    store = Store(options.store, scene)
    tuning = [simulated(scene, seed) for seed in TUNING]
    published = [simulated(scene, seed) for seed in (PUBLISHED[: 1 if options.quick else None])]
    done = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.programs:
            search: Search
            settings: Mapping[str, Any]
            if name in OURS:
                code, version = our_code(), gpu_spots.__version__
                settings = {
                    key: made
                    for key, made in OURS[name].items()
                    if _known(made) and (tuning[0].drifts or key not in SURFACE)
                }
                search = functools.partial(ours, name, Path(folder))
            else:
                python = options.peers and options.peers / name / "bin/python"
                if not python or not python.exists():
                    continue
                code, version = their_code(name, python)
                sparse = accuracy_peers.is_sparse(tuning[0].frames, tuning[0].good)
                settings = accuracy_peers.PROGRAMS[name][1](sparse)
                if tuning[0].drifts:
                    code = digest_of(code, python_code(inspect.getsource(levelled)))
                search = functools.partial(theirs, name, python, Path(folder))
            measured = functools.partial(scores, store, name, code, version, settings, search)
            best = chosen(list(settings), tuning, measured, scene)
            if best is None:
                done.append(f"{name}: no setting came to an end")
                continue
            measured(published, [best])
            store.choose(name, best, version, datetime.date.today().isoformat())
    done.append(f"{store.n_added} results new")
    return f"{scene}: {', '.join(done)}"


def scores(
    store: Store,
    name: str,
    code: str,
    version: str,
    known: Mapping[str, Any],
    search: Search,
    runs: Sequence[Frames],
    settings: Sequence[str],
) -> dict[str, Score]:
    """Return the scores of settings on runs, from the store or measured; less those given up."""
    common = code, python_code(inspect.getsource(scorer))
    keys = {
        (setting, one.seed): digest_of(*common, one.digest, repr(known[setting]))
        for setting in settings
        for one in runs
    }
    missing = [key for key, value in keys.items() if not store.has(name, *key, value)]
    seeds = {seed for _, seed in missing}
    wanted = [setting for setting in settings if any(setting == key for key, _ in missing)]
    for one, setting, found, seconds in search([one for one in runs if one.seed in seeds], wanted):
        made = None if found is None else scorer.score(one.run.truth, found, EDGES)
        store.add(
            program=name, setting=setting, seed=one.seed, key=keys[setting, one.seed],
            version=version, seconds=round(seconds, 3), score=made and asdict(made),
        )  # fmt: skip
    results = {
        setting: [store.score(name, setting, one.seed) for one in runs] for setting in settings
    }
    return {
        setting: combined([one for one in made if one is not None])
        for setting, made in results.items()
        if None not in made
    }


def chosen(
    settings: Sequence[str],
    tuning: Sequence[Frames],
    measured: Callable[[Sequence[Frames], Sequence[str]], dict[str, Score]],
    scene: str,
) -> str | None:
    """Return the best setting: of those with few false spots, the one that finds most."""
    if len(settings) == 1:
        return settings[0]
    tried = measured(tuning[:1], settings)
    finalists = list(
        dict.fromkeys([*_best(tried, scene, 1), *_best(tried, scene, 3), *_fewest(tried)])
    )
    again = measured(tuning[1:], finalists[: 2 * FINALISTS])
    both = {setting: combined([tried[setting], made]) for setting, made in again.items()}
    return next(iter([*_best(both, scene, 1), *_fewest(both)]), None)


def _best(tried: Mapping[str, Score], scene: str, times: float) -> list[str]:
    """Return those that find most, of those with so many times the false spots allowed."""
    few = [name for name, one in tried.items() if one.n_false <= times * FALSE_LIMIT * one.n_frames]
    return sorted(few, key=lambda name: _gain(tried[name], scene), reverse=True)[:FINALISTS]


def _fewest(tried: Mapping[str, Score]) -> list[str]:
    return sorted(tried, key=lambda name: tried[name].n_false)[:FINALISTS]


def _gain(one: Score, scene: str) -> float:
    if scene.startswith("pairs"):
        return one.n_resolved
    return sum(part.found for part in one.bins if part.low >= ASKED_FROM)


def _known(changes: Mapping[str, Any]) -> bool:
    """Return whether this version has these parameters and values."""
    try:
        Parameters.manual(**changes)
    except (TypeError, ParameterError):
        return False
    return True


def simulated(scene: str, seed: int) -> Frames:
    """Return a run of a scene."""
    preset, changes = SCENES[scene]
    options: dict[str, Any] = {
        "size": (SIZE, SIZE), "laser": False, "angles": N_FRAMES, "repeats": 1, "spots": 1.0,
        "seed": seed,
    } | changes  # fmt: skip
    if options["laser"]:
        options |= {"angles": N_FRAMES // 6, "repeats": 3}
    options["area"] = PRESETS[preset].get("area", SpotDesign().area)
    for name in ("spots", "neighbours"):
        options[name] = round(SPOTS * options.get(name, 0))
    run = simulate_run(make_design(options, preset))
    good = run.detector.inside.copy()
    good[tuple(run.detector.dead.T)] = False
    frames = np.stack(list(run.frames()))
    truth = [
        getattr(part, field.name)
        for part in (run.truth.schedule, run.truth.conditions, run.truth.spots)
        for field in fields(part)
    ]
    return Frames(run, frames, good, seed, digest_of(frames, good, *truth))


def ours(
    name: str, folder: Path, runs: Sequence[Frames], settings: Sequence[str]
) -> Iterator[tuple[Frames, str, Found | None, float]]:
    """Yield what this program finds in each run with each setting."""
    output = folder / "spots.h5"
    for one, setting in itertools.product(runs, settings):
        schedule, laser = one.run.truth.schedule, one.run.design.laser
        columns = {"angle": schedule.angle, "laser_on": schedule.laser_on.astype(int)}
        parameters = replace(
            Parameters.manual(angles=0, normalise="level" if one.drifts else "none"),
            sync="blocks" if laser else "none",
            **OURS[name][setting],
        )
        begun = time.process_time()
        with warnings.catch_warnings(action="ignore"):  # the tables say what comes of it
            find_spots(
                one.frames, parameters, columns=columns if laser else None,
                valid_pixels=one.good, output=output, compression="lzf", force=True,
            ).close()  # fmt: skip
        yield one, setting, read_found(output), time.process_time() - begun


def levelled(frames: NDArray[Any], good: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return frames scaled to one level, as ours are where the beam drifts."""
    level = np.median(frames[:, good], axis=1)
    scaled = frames * (level.mean() / level)[:, None, None]
    return scaled.astype(np.float32)


def theirs(
    name: str, python: Path, folder: Path, runs: Sequence[Frames], settings: Sequence[str]
) -> Iterator[tuple[Frames, str, Found | None, float]]:
    """Yield what another program finds in each run with each setting; None if it gave up."""
    if not runs:
        return
    with tempfile.TemporaryDirectory(dir=folder) as made:
        for k, one in enumerate(runs):
            source = Path(made, f"run_{k}.npz")
            frames = levelled(one.frames, one.good) if one.drifts else one.frames
            np.savez(source, frames=frames, good=one.good, beam=one.run.detector.beam)
        command = [str(python), accuracy_peers.__file__, name, made, *settings]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
        try:
            subprocess.run(
                command, capture_output=True, check=True, timeout=PATIENCE, env=environment
            )
        except subprocess.CalledProcessError as error:
            last = error.stderr.decode(errors="replace").strip().splitlines()[-1:]
            print(f"{name}: not measured, {' '.join(last)}", file=sys.stderr)
        except subprocess.TimeoutExpired as error:
            print(f"{name}: not measured, {error}", file=sys.stderr)
        for (k, one), (number, setting) in itertools.product(enumerate(runs), enumerate(settings)):
            path = Path(made, f"found_{k}_{number}.npz")
            if not path.exists():
                continue
            with np.load(path) as file:
                if "given_up" in file:
                    yield one, setting, None, 0.0
                    continue
                ends = np.searchsorted(file["frame"], np.arange(len(one.frames) + 1))
                ranges = np.column_stack([ends[:-1], ends[1:]])
                found = Found(one.good.shape, ranges, file["XY"], file.get("I"))
                yield one, setting, found, float(file["seconds"])


@functools.cache
def our_code() -> str:
    """Return a digest of the code of this program, less comments and docstrings."""
    root = Path(gpu_spots.__file__).parent
    parts: list[Any] = [python_code(inspect.getsource(ours))]
    for path in sorted(root.rglob("*")):
        if path.suffix == ".py" and "simulate" not in path.parts:
            parts.append(python_code(path.read_text()))
        elif path.suffix in {".c", ".h", ".cu", ".cuh", ".pyx"}:
            parts.append(path.read_text())
    return digest_of(*parts)


@functools.cache
def their_code(name: str, python: Path) -> tuple[str, str]:
    """Return a digest of what another program does, and its version."""
    package, _, program = accuracy_peers.PROGRAMS[name]
    asked = f"from importlib.metadata import version; print(version({package!r}))"
    answer = subprocess.run([str(python), "-c", asked], capture_output=True, check=True, text=True)
    version = f"{package} {answer.stdout.strip()}"
    parts = [python_code(inspect.getsource(part)) for part in (accuracy_peers.Run, program)]
    return digest_of(version, *parts), version


def python_code(source: str) -> str:
    """Return a form of Python code that comments, docstrings and layout do not change."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [  # type: ignore[attr-defined]
                one
                for one in body
                if not (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant))
            ]
    return ast.dump(tree)


def digest_of(*parts: Any) -> str:
    """Return a digest of texts and arrays."""
    made = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            made.update(part.encode())
        else:
            array = np.ascontiguousarray(part)
            made.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
    return made.hexdigest()[:16]


if __name__ == "__main__":
    main()
