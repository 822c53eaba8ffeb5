"""Hazards, cases that failed once, a short campaign, and tests of the fuzzer itself."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fuzz.campaign import Case, Judge, drawn, kept_cases, smaller, write_cases
from fuzz.hazards import HAZARDS
from fuzz.judge import Verdict, judge
from fuzz.mutations import Edit, damaged
from fuzz.pool import SECONDS, Pool, Worker, pool, writer
from fuzz.seeds import seed

RANDOM = 40
"""Cases of the campaign."""
SOUND = (
    "shuffle-gzip",
    "NeXus",
    "DECTRIS",
    "CXI",
    "DLS",
    "external",
    "marccd-gz",
    "tiff-lzw",
    "log-new",
    "npy-mask",
)
"""Seeds whose independent reading is tested here; a campaign tests all that it draws."""


@pytest.fixture(scope="module")
def workers() -> Iterator[Pool]:
    with pool(1) as made:
        yield made


@pytest.fixture(scope="module")
def judged(workers: Pool) -> Judge:
    return Judge(workers)


@pytest.mark.parametrize("name", HAZARDS)
def test_hazard(name: str, workers: Pool, judged: Judge) -> None:
    """An error of one line within some seconds; for some also the result of the sound file."""
    hazard = HAZARDS[name]
    with workers.worker() as worker:
        commands: list[tuple[str, ...]] = []

        def prepare(folder: Path) -> None:
            commands[:] = hazard.make(folder)

        outcome = worker.run_patiently(prepare, commands)
        baseline = judged.baseline(worker, hazard.alike) if hazard.alike else None
    verdict = judge(outcome, baseline)
    assert verdict.kind in (("same", "error") if hazard.may_succeed else ("error",)), verdict.detail


@pytest.mark.parametrize("case", kept_cases(), ids=lambda case: f"{case.seed}: {case.note}")
def test_what_failed_once(case: Case, judged: Judge) -> None:
    verdict = judged(case)
    assert not verdict.is_failure, f"{verdict.kind}: {verdict.detail}"


@pytest.mark.parametrize("number", range(RANDOM))
def test_random_damage(number: int, judged: Judge) -> None:
    case = drawn(number, 1)
    verdict = judged(case)
    assert not verdict.is_failure, f"{case.as_json()}: {verdict.kind}: {verdict.detail}"


@pytest.mark.parametrize("name", SOUND)
def test_seed_is_sound_and_read_independently_with_the_same_result(
    name: str, judged: Judge
) -> None:
    assert judged.soundness(name) == ""


# ------------------------------------------------------------------------------------- the fuzzer


def ended(**changes: Any) -> dict[str, Any]:
    """The outcome of a case with one command that wrote the results ``a``."""
    result = {
        "command": ["find", "run.h5"],
        "status": 0,
        "stdout": "",
        "stderr": "",
        "trace": "",
        "digest": {"a": "1"},
    }
    whole = {
        "hung": False,
        "signal": None,
        "memory": 1,
        "stack": "",
        "noise": "",
        "left": [],
        "lost": [],
        "files": ["run.h5"],
    }
    for name, value in changes.items():
        (whole if name in whole else result)[name] = value
    return {**whole, "results": [result]}


GOOD_ERROR = "gpu-spots: run.h5: is damaged\n"


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, "same"),
        ({"digest": {"a": "2"}}, "different"),
        ({"digest": None}, "different"),
        ({"hung": True}, "hang"),
        ({"signal": "SIGSEGV"}, "crash"),
        ({"memory": 1 << 31}, "memory"),
        ({"trace": "Traceback ..."}, "traceback"),
        ({"noise": "libtiff: error"}, "noise"),
        ({"lost": ["run.h5"]}, "leftover"),
        ({"status": 1, "digest": None, "stderr": GOOD_ERROR}, "error"),
        ({"status": 1, "digest": None, "stderr": f"warning: run.h5 is old\n{GOOD_ERROR}"}, "error"),
        ({"status": 1, "digest": None, "stderr": GOOD_ERROR, "left": ["out.h5.part"]}, "leftover"),
        ({"status": 1, "digest": None, "stderr": GOOD_ERROR * 2}, "unclear"),
        ({"status": 1, "digest": None, "stderr": ""}, "unclear"),
        ({"status": 1, "digest": None, "stderr": "gpu-spots: run.h5: \x1b[31m\n"}, "unclear"),
        ({"status": 1, "digest": None, "stderr": "gpu-spots: out of memory: 1 GiB\n"}, "unclear"),
        ({"status": 1, "digest": None, "stderr": "gpu-spots: internal error: run.h5\n"}, "unclear"),
        ({"stdout": "frames /a\x07\n"}, "unclear"),
    ],
)  # fmt: skip
def test_classes(changes: dict[str, Any], kind: str) -> None:
    assert judge(ended(**changes), ended()).kind == kind


def python(worker: Worker, program: str, seconds: float = 2) -> Verdict:
    return judge(worker.run(lambda _: None, [["python", program]], seconds=seconds))


def test_pool_survives_crash_hang_and_greed(workers: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    with workers.worker() as worker:
        assert python(worker, "import os; os.abort()").kind == "crash"
        hang = python(worker, "import time\ntime.sleep(60)")
        assert (hang.kind, "worker.py" in hang.detail) == ("hang", True)
        monkeypatch.setattr("fuzz.judge.MEMORY", 3 << 26)
        assert python(worker, "x = b'1' * (1 << 28)", SECONDS).kind == "memory"
        assert python(worker, "1 / 0").signature.startswith("traceback")
        assert python(worker, "import os; os.write(2, b'library: oops')").kind == "noise"
        run = worker.run(writer(seed("gzip").files), seed("gzip").commands)
        assert judge(run).kind == "same"


def test_changed_frames_and_angles_are_explained(judged: Judge) -> None:
    content = seed("contiguous").files["run.h5"]
    begin, _ = seed("contiguous").raw["run.h5"][0]
    at = content.index(np.float64(1.5).tobytes())
    for where, put in ((begin + 2401, b"\x7f"), (at + 7, b"\x40")):
        assert judged(Case("contiguous", (Edit("run.h5", where, 1, put),))).kind == "explained"


def test_another_result_than_the_file_holds_is_found(
    judged: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result is as if find masked a pixel that the file does not mask."""
    case = Case("npy-mask", (Edit("m.npy", 128 + 500, 1, b"\1"),))
    assert judged(case).kind == "explained"
    mask = seed("npy-mask")
    assert mask.oracle is not None
    without = replace(mask, oracle=replace(mask.oracle, mask=""))
    monkeypatch.setattr("fuzz.campaign.seed", lambda _: without)
    verdict = judged(case)
    assert (verdict.kind, "independent reading" in verdict.detail) == ("different", True)


def test_cases_are_drawn_again_stored_and_made_smaller(tmp_path: Path) -> None:
    cases = [drawn(number, 7) for number in range(30)]
    assert cases == [drawn(number, 7) for number in range(30)]
    assert len({repr(case) for case in cases}) == 30
    write_cases(tmp_path / "cases.json", cases)
    assert kept_cases(tmp_path / "cases.json") == cases
    assert all(damaged(seed(case.seed), case.edits) for case in cases)

    large = Case("gzip", (Edit("run.h5", 4, 64, bytes(range(64))), Edit("run.h5", 900, 1, b"\0")))

    def fails(case: Case) -> Verdict:
        held = any(edit.at <= 20 < edit.at + edit.cut for edit in case.edits)
        return Verdict("crash", "here") if held else Verdict("error")

    small = smaller(large, fails(large), fails)  # type: ignore[arg-type]
    assert small.edits == (Edit("run.h5", 20, 1, b"\x10"),)
