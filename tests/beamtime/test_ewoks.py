"""The task for workflows of Ewoks."""

import threading
import tomllib
from pathlib import Path
from typing import Any

import pytest

from gpu_spots import open_spots
from gpu_spots.beamtime.record import Records
from helpers import ROOT, assert_equal_results, command, series, write_run

pytest.importorskip("ewokscore", reason="needs the extra ewoks: ewokscore")
from ewokscore.task_discovery import discover_tasks_from_modules

from gpu_spots.ewoks import FindSpots


def test_the_entry_point_lists_the_task() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (module,) = project["entry-points"]["ewoks.tasks.class"]
    (task,) = discover_tasks_from_modules(module, task_type="class")
    assert task["task_identifier"] == "gpu_spots.ewoks.FindSpots"
    assert task["required_input_names"] == ["folder", "run"]


def test_the_workflow_of_the_docs_finds_the_spots_of_a_run(tmp_path: Path) -> None:
    run, out = write_run(tmp_path / "laser_01__mccd.h5"), tmp_path / "out"
    page = (ROOT / "docs/beamtime.md").read_text().partition("### In an Ewoks workflow")[2]
    code = page.partition("```python\n")[2].partition("```")[0]
    code = code.replace("/data/march/day1", str(tmp_path)).replace("/scratch/me/results", str(out))
    names: dict[str, Any] = {}
    exec(code, names)
    found = names["found"]
    assert found["spots_file"] == str(out / "laser_01__spots.h5")
    assert found["ratios_file"] == str(out / "laser_01__ratios.h5")
    words = ("-S", "blocks", "--significance", 6, "-o", tmp_path / "single.h5", "--quiet")
    assert command("find", run, *words, name="gpu-spots").status == 0
    assert_equal_results(Path(found["spots_file"]), tmp_path / "single.h5")
    with open_spots(found["spots_file"]) as results:
        assert found["n_spots"] == results.n_spots > 0


def test_a_run_that_fails_ends_the_workflow_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_text("text")
    task = FindSpots(inputs={"run": str(tmp_path / "a.h5"), "folder": str(tmp_path / "out")})
    with pytest.raises(RuntimeError, match=r"a\.h5: is not an HDF5 file$"):
        task.execute()


def test_a_task_that_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    run = write_run(tmp_path / "slow.h5", frames=series(30, (192, 192)))
    out = tmp_path / "out"
    inputs = {"run": str(run), "folder": str(out), "options": "--manual -d 400 --backend cpu"}
    task = FindSpots(inputs=inputs)

    def cancel() -> None:
        while not Records(out).path("slow", ".log").exists():
            threading.Event().wait(0.01)
        task.cancel()

    canceller = threading.Thread(target=cancel)
    canceller.start()
    with pytest.raises(RuntimeError) as failed:
        task.execute()
    canceller.join()
    assert str(failed.value.__cause__) == f"{run}: was cancelled"
    assert not list(out.rglob("*.part"))
    assert not list(out.rglob("*__spots.h5"))
