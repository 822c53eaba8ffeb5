"""Records of runs: tests of being done, reasons, and claims."""

import json
import os
import re
import socket
from pathlib import Path

import pytest

from gpu_spots.beamtime import claim as claims
from gpu_spots.beamtime.claim import ClaimedElsewhere, claimed
from gpu_spots.beamtime.record import Record, Records, fingerprint, natural, reason
from gpu_spots.beamtime.session import Batch, sending
from gpu_spots.beamtime.task import Processing
from gpu_spots.cli.batch import Lines
from gpu_spots.errors import InputError, OutputError


@pytest.fixture
def done(tmp_path: Path) -> tuple[Record, Record]:
    """A record of a run, and what is wanted, which is equal."""
    (tmp_path / "a.h5").write_bytes(b"frames" * 40_000)
    (tmp_path / "a__spots.h5").write_bytes(b"spots")
    wanted = {
        "version": "1",
        "steps": [["find", "-c", "4"], ["ratios"]],
        "input": fingerprint([tmp_path / "a.h5"]),
    }
    record = {"name": "a", "state": "done", "outputs": {"a__spots.h5": 5}, **wanted}
    return json.loads(json.dumps(record)), wanted


def test_a_run_with_the_same_input_and_options_is_done(
    done: tuple[Record, Record], tmp_path: Path
) -> None:
    assert reason(*done, tmp_path) is None
    assert reason(None, done[1], tmp_path) == "new"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"state": "running"}, "was not finished"),
        ({"state": "failed"}, "failed before"),
        ({"version": "0"}, "version changed: 0 to 1"),
        ({"steps": [["find", "-c", "3"]]}, "options changed: now 4 ratios, not 3"),
        ({"steps": [["find", "4", "-c"], ["ratios"]]}, "options changed: their order"),
        ({"outputs": {"a__spots.h5": 6}}, "a__spots.h5 has 5 bytes, expected 6"),
        ({"outputs": {"a__ratios.h5": 6}}, "a__ratios.h5 is missing"),
        ({"input": {}}, "input changed: None to 1 files"),
    ],
)
def test_the_reason_is_named(
    done: tuple[Record, Record], tmp_path: Path, change: Record, why: str
) -> None:
    record, wanted = done
    assert reason({**record, **change}, wanted, tmp_path) == why


def test_a_changed_input_is_seen(done: tuple[Record, Record], tmp_path: Path) -> None:
    record, wanted = done
    path = tmp_path / "a.h5"

    def now(*others: Path) -> str | None:
        return reason(record, {**wanted, "input": fingerprint([path, *others])}, tmp_path)

    state = path.stat()
    content = path.read_bytes()
    assert now() is None
    # as it was written anew with its time kept, as rsync does: only its content tells
    path.write_bytes(content[:-1] + b"!")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert now() == "input changed: its metadata"
    path.write_bytes(content)
    os.utime(path, (0, 86400))
    assert now() == "input changed: modified 1970-01-02T00:00:00+00:00"
    path.write_bytes(content + b"+")
    assert now() == f"input changed: {len(content)} to {len(content) + 1} bytes"
    assert now(tmp_path / "a__spots.h5") == "input changed: 1 to 2 files"
    with pytest.raises(InputError, match=r"b\.h5: cannot be opened"):
        fingerprint([tmp_path / "b.h5"])


def test_records_are_complete_or_absent(tmp_path: Path) -> None:
    records = Records(tmp_path)
    for name in ("day1/run_10", "day1/run_2"):
        records.write({"name": name, "state": "done"})
    assert list(records.all()) == ["day1/run_2", "day1/run_10"]
    records.path("day1/run_2").write_text('{"name": "day1/run_2", "sta')
    assert records.read("day1/run_2") is None
    assert list(records.all()) == ["day1/run_10"]
    assert sorted(["b2", "b10", "a"], key=natural) == ["a", "b2", "b10"]
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        Records(tmp_path / "file").write({"name": "a"})


def test_a_claim_keeps_other_batches_away(tmp_path: Path) -> None:
    path = tmp_path / "batch/a.claim"
    with claimed(path, "one"):
        with pytest.raises(ClaimedElsewhere, match=socket.gethostname()), claimed(path, "two"):
            pass
        assert path.exists()
    assert not path.exists()
    assert list(path.parent.iterdir()) == []


def test_a_claim_that_is_not_renewed_expires(tmp_path: Path) -> None:
    path = tmp_path / "a.claim"
    old = path.stat().st_mtime if path.exists() else 0.0
    with claimed(path, "one") as first:
        os.utime(path, (old, old))
        with claimed(path, "two") as second:
            first.renew()  # it has lost the run
            first.release()
            assert path.exists()
            os.utime(path, (old, old))
            second.renew()
            with pytest.raises(ClaimedElsewhere), claimed(path, "three"):
                pass
    assert not path.exists()


@pytest.mark.parametrize("change", [{"pid": 2**22 + 1}, {"batch": "two"}])
def test_a_claim_of_a_dead_process_or_of_the_same_batch_is_taken_over(
    tmp_path: Path, change: dict[str, object]
) -> None:
    path = tmp_path / "a.claim"
    with claimed(path, "one"):
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
        with claimed(path, "two"):
            assert json.loads(path.read_text())["batch"] == "two"


def test_a_claim_of_another_computer_counts_until_it_expires(tmp_path: Path) -> None:
    path = tmp_path / "a.claim"
    path.write_text(json.dumps({"host": "node7", "system": "x", "pid": 1, "batch": "one"}))
    with pytest.raises(ClaimedElsewhere, match="node7"), claimed(path, "two"):
        pass
    age = path.stat().st_mtime - claims.EXPIRES - 1
    os.utime(path, (age, age))
    with claimed(path, "two"):
        pass
    path.write_text("")  # just being made
    with pytest.raises(ClaimedElsewhere, match="another computer"), claimed(path, "two"):
        pass


def test_a_claim_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"), claimed(tmp_path / "file/a", "one"):
        pass


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "batch").write_text("")
    batch = Batch([], Processing(), tmp_path, lambda _: [])
    problem = f"{tmp_path}/batch: no file can be written there: File exists; choose another"
    with (
        pytest.raises(OutputError, match=re.escape(problem)),
        sending(batch, "one", lambda: pytest.fail("is connected"), Lines(quiet=True)),
    ):
        pass
