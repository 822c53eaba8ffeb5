"""Draw damage, run it, tell what each case came to, and make failing cases small."""

import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from fuzz.judge import CLASSES, Verdict, differing, judge
from fuzz.mutations import Edit, damaged, draw
from fuzz.pool import Pool, Worker, writer
from fuzz.seeds import Seed, seed, seeds

CORPUS = Path(__file__).with_name("corpus") / "cases.json"
"""Cases that failed once."""
TRIES = 24
"""Runs to make one failing case smaller."""
HANGING_TRIES = 3
"""The same for a case that hangs."""


@dataclass(frozen=True)
class Case:
    """Damage to a seed."""

    seed: str
    edits: tuple[Edit, ...]
    note: str = ""
    """Sentence for the reader: the fault that was found."""

    def as_json(self) -> dict[str, Any]:
        """Return what `of_json` takes."""
        return {
            "seed": self.seed,
            "edits": [edit.as_json() for edit in self.edits],
            "note": self.note,
        }

    @classmethod
    def of_json(cls, found: dict[str, Any]) -> "Case":
        """Return the case that `as_json` describes."""
        return cls(found["seed"], tuple(map(Edit.of_json, found["edits"])), found.get("note", ""))


@dataclass
class Report:
    """Summary of a campaign."""

    counts: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """Reader to class to number of cases."""
    failures: dict[str, list[tuple[Case, Verdict]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    """Signature to failing cases."""

    def add(self, case: Case, verdict: Verdict) -> None:
        """Count a case."""
        self.counts[seed(case.seed).reader][verdict.kind] += 1
        if verdict.is_failure:
            self.failures[f"{seed(case.seed).reader}: {verdict.signature}"].append((case, verdict))

    def table(self) -> str:
        """Return the classes by reader as text."""
        shown = [kind for kind in CLASSES if any(counts[kind] for counts in self.counts.values())]
        lines = [f"{'reader':<10}" + "".join(f"{kind:>11}" for kind in shown)]
        for reader, counts in sorted(self.counts.items()):
            lines.append(f"{reader:<10}" + "".join(f"{counts[kind]:>11}" for kind in shown))
        return "\n".join(lines)


def kept_cases(path: Path = CORPUS) -> list[Case]:
    """Return the cases of a file."""
    return [Case.of_json(found) for found in json.loads(path.read_text())] if path.exists() else []


def write_cases(path: Path, cases: Sequence[Case]) -> None:
    """Write cases to a file, one a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("[\n" + ",\n".join(json.dumps(case.as_json()) for case in cases) + "\n]\n")


def drawn(number: int, base: int, only: str | None = None) -> Case:
    """Return case ``number`` of campaign ``base``; ``only``: part of the names of its seeds."""
    rng = random.Random(f"{base} {number}")
    names = [name for name in seeds() if only is None or only in name]
    name = names[number % len(names)]
    return Case(name, tuple(draw(seed(name), _contents(), rng)))


@cache
def _contents() -> tuple[bytes, ...]:
    """Contents that splices are taken from."""
    return tuple(one.files[target] for one in seeds().values() for target in one.targets)


class Judge:
    """Runs cases in a pool; the results of each seed without damage are made once."""

    def __init__(self, pool: Pool, *, patient: bool = True) -> None:
        self._pool = pool
        self._patient = patient
        self._baselines: dict[str, dict[str, Any]] = {}

    def __call__(self, case: Case) -> Verdict:
        """Return the class of a case."""
        with self._pool.worker() as worker:
            return self._judged(worker, case)

    def baseline(self, worker: Worker, name: str) -> dict[str, Any]:
        """Return the outcome of a seed without damage."""
        if name not in self._baselines:
            self._baselines[name] = worker.run(writer(seed(name).files), seed(name).commands)
        return self._baselines[name]

    def soundness(self, name: str) -> str:
        """Say whether a seed fails or its independent reading differs; empty if all is well."""
        source = seed(name)
        with self._pool.worker() as worker:
            baseline = self.baseline(worker, name)
            verdict = judge(baseline)
            if verdict.kind != "same":
                return f"{name}: {verdict.kind}: {verdict.detail}"
            if source.oracle is None:
                return ""
            said = worker.run(writer(source.files), [["oracle"]], source.oracle)["results"][0]
            differs = differing(said["digest"] or {}, baseline["results"][-1]["digest"])
            return "" if differs == "nothing" else f"{name}: {differs} {said['trace']}"

    def _judged(self, worker: Worker, case: Case) -> Verdict:
        source = seed(case.seed)
        baseline = self.baseline(worker, case.seed)
        write = writer(damaged(source, case.edits))
        start = worker.run_patiently if self._patient else worker.run
        outcome = start(write, source.commands)
        verdict = judge(outcome, baseline)
        if verdict.kind == "different":
            return self._explained(worker, source, write, outcome, verdict)
        return verdict

    def _explained(
        self,
        worker: Worker,
        source: Seed,
        write: Callable[[Path], None],
        outcome: dict[str, Any],
        verdict: Verdict,
    ) -> Verdict:
        """Compare with what the file itself says."""
        if source.oracle is None:  # a spots file is read as it is: its parts are the values
            return Verdict("explained", verdict.detail)
        said = worker.run(write, [["oracle"]], source.oracle)
        result = said["results"][0] if said["results"] else None
        if result is None or result["digest"] is None:
            why = (
                result["trace"].strip().splitlines()[-1]
                if result
                else f"{said['signal'] or 'no answer'}"
            )
            return Verdict(
                "different", f"independent reading fails ({why}); differs: {verdict.detail}"
            )
        found = next(one["digest"] for one in outcome["results"] if one["digest"])
        if found == result["digest"]:
            return Verdict("explained", verdict.detail)
        return Verdict(
            "different", f"from the independent reading: {differing(found, result['digest'])}"
        )


def run(cases: Sequence[Case], pool: Pool) -> Iterator[tuple[Case, Verdict]]:
    """Run cases; yield each with its class, in order."""
    judged = Judge(pool)
    for name in dict.fromkeys(case.seed for case in cases):
        seed(name)  # here, as capturing what a command prints is not for several threads
    yield from zip(cases, pool.map(judged, cases), strict=True)


def smaller(case: Case, verdict: Verdict, judged: Judge) -> Case:
    """Return a case with fewer damaged bytes that fails in the same way."""
    best, tries = case, 0
    allowed = HANGING_TRIES if verdict.kind == "hang" else TRIES

    def still(edits: Sequence[Edit]) -> bool:
        nonlocal best, tries
        tries += 1
        if tries > allowed:
            return False
        shorter = replace(case, edits=tuple(edits))
        if judged(shorter).signature != verdict.signature:
            return False
        best = shorter
        return True

    for edit in case.edits:
        if len(best.edits) > 1:
            still([one for one in best.edits if one is not edit])
    for index in range(len(best.edits)):
        while True:
            edit = best.edits[index]
            before = damaged(seed(case.seed), best.edits[:index])[edit.file][
                edit.at : edit.at + edit.cut
            ]
            if not any(
                still([*best.edits[:index], shorter, *best.edits[index + 1 :]])
                for shorter in _halves(edit, before)
            ):
                break
    return best


def _halves(edit: Edit, before: bytes) -> Iterator[Edit]:
    """The edit with one half of its bytes left as they were."""
    half = max(len(edit.put), edit.cut) // 2
    if half and len(edit.put) == edit.cut:
        yield replace(edit, cut=half, put=edit.put[:half])
        yield replace(edit, at=edit.at + half, cut=edit.cut - half, put=edit.put[half:])
    elif half and not edit.put and edit.at + edit.cut < edit.at + len(before) + 1:
        yield replace(edit, cut=half)
    elif half and not edit.cut:
        yield replace(edit, put=edit.put[:half])
