"""The accuracy benchmark keeps what it measured, and measures what is missing or old."""

import importlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from gpu_spots.simulate.score import Bin, Found, Score

ROOT = Path(__file__).parents[2]
SCORE = Score(
    n_frames=10,
    bins=(Bin(10.0, 15.0, 100, 50, 0.3), Bin(15.0, 30.0, 40, 40, 0.1)),
    clear=Bin(10.0, math.inf, 140, 90, 0.2),
    n_found=95,
    n_fragments=2,
    n_static=0,
    n_false=1,
    n_merged=None,
    n_pairs=4,
    n_resolved=2,
    purity=(),
    response_spots=0,
    response_correlation=math.nan,
    response_slope=math.nan,
    response_scatter=math.nan,
)
"""A score of a search."""


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the tables of the benchmark."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("accuracy_tables")


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the benchmark, whose score is the one that was found."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    module = importlib.import_module("accuracy")
    monkeypatch.setattr(module.scorer, "score", lambda truth, found, edges: found)
    monkeypatch.setattr(module.inspect, "getsource", lambda part: "score = 1")
    return module


def test_only_missing_and_old_results_are_made(benchmark: ModuleType, tmp_path: Path) -> None:
    runs = [SimpleNamespace(seed=k, digest=f"{k}", run=SimpleNamespace(truth=None)) for k in (1, 2)]
    searched: list[tuple[int, str]] = []

    def search(
        wanted: Sequence[Any], settings: Sequence[str]
    ) -> Iterator[tuple[Any, str, Found | Score | None, float]]:
        for one in wanted:
            for setting in settings:
                searched.append((one.seed, setting))
                yield one, setting, None if setting == "too slow" else SCORE, 1.0

    def measured(code: str, options: dict[str, int]) -> dict[str, Score]:
        searched.clear()
        store = benchmark.Store(tmp_path, "a scene")
        settings = list(options)
        made: dict[str, Score] = benchmark.scores(
            store, "program", code, "1.0", options, search, runs, settings
        )
        return made

    first = measured("code", {"good": 1, "too slow": 2})
    assert searched == [(1, "good"), (1, "too slow"), (2, "good"), (2, "too slow")]
    assert list(first) == ["good"]
    assert (first["good"].n_false, first["good"].bins[0].found) == (2, 100)
    again = measured("code", {"good": 1, "too slow": 2})
    assert not searched
    assert again["good"].n_found == first["good"].n_found
    measured("code", {"good": 1, "too slow": 3})
    assert searched == [(1, "too slow"), (2, "too slow")]
    runs[1].digest = "other frames"
    measured("code", {"good": 1})
    assert searched == [(2, "good")]
    measured("other code", {"good": 1})
    assert searched == [(1, "good"), (2, "good")]


def test_a_line_that_was_cut_off_is_left_out(tables: ModuleType, tmp_path: Path) -> None:
    store = tables.Store(tmp_path, "pairs 3")
    row = {"program": "p", "seed": 1, "score": None, "version": "", "seconds": 0.0}
    store.add(**row, setting="s", key="old")
    store.add(**row, setting="s", key="new")
    store.add(**row, setting="cut", key="new")
    path = tmp_path / "pairs_3.jsonl"
    path.write_text(path.read_text()[:-20])
    again = tables.Store(tmp_path, "pairs 3")
    assert again.has("p", "s", 1, "new")
    assert not again.has("p", "s", 1, "old")
    assert not again.has("p", "cut", 1, "new")


def test_the_best_setting_has_few_false_spots(benchmark: ModuleType) -> None:
    def of(found: int, n_false: int) -> Score:
        return replace(SCORE, bins=(Bin(10.0, 15.0, 100, found),), n_false=n_false)

    results = {"many": of(99, 50), "lucky": of(90, 1), "good": of(80, 0), "weak": of(10, 0)}
    second = results | {"lucky": of(90, 9)}
    best = benchmark.chosen(
        list(results),
        ["first", "second"],
        lambda runs, settings: {
            name: (results if runs == ["first"] else second)[name] for name in settings
        },
        "ccd",
    )
    assert best == "good"


def test_tables_of_a_page_are_renewed(tables: ModuleType) -> None:
    page = "a\n\n<!-- accuracy: ccd -->\n\n| old |\n|---|\n| 1 |\n\n| other |\n"
    renewed = tables.renewed(page, {"ccd": ["| new |", "|---|"], "not there": ["| x |"]})
    assert renewed == "a\n\n<!-- accuracy: ccd -->\n\n| new |\n|---|\n\n| other |\n"
