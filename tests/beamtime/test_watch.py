"""Runs that come while a folder is watched: each is processed once, and completely."""

import os
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import pytest

from factories.image_runs import log_line, log_text, marccd
from gpu_spots import open_spots
from gpu_spots.beamtime.record import Record, Records
from gpu_spots.beamtime.runner import Runner
from gpu_spots.beamtime.runs import Found, Run, Search, find_runs
from gpu_spots.beamtime.session import Batch
from gpu_spots.beamtime.task import Processing
from gpu_spots.beamtime.watch import Watch, Watcher, run_watch
from gpu_spots.cli.words import input_files
from gpu_spots.files.growing import copy_frames, is_being_written
from helpers import assert_equal_results, command, series, write_run

FRAMES = series(20, (32, 48))
PAUSE = 0.1


def write_images(folder: Path, pause: float = PAUSE) -> None:
    """Write images, each in two parts, and a log that has a line more after each."""
    images = folder / "xray_images"
    images.mkdir(parents=True)
    lines = []
    for i, frame in enumerate(FRAMES):
        name = f"scan_{i // 2}_{'on' if i % 2 else 'off'}_1.mccd"
        content = marccd(frame)
        with (images / name).open("wb") as file:
            file.write(content[:3000])
            file.flush()
            time.sleep(pause / 2)
            file.write(content[3000:])
        lines.append(log_line("old", name, i // 2, i % 2, 1))
        (folder / "scan.log").write_text(log_text("old", lines))
        time.sleep(pause / 2)


def copy_slowly(source: Path, target: Path) -> None:
    content = source.read_bytes()
    with target.open("wb") as file:
        for i in range(20):
            file.write(content[i * len(content) // 20 : (i + 1) * len(content) // 20])
            file.flush()
            time.sleep(PAUSE)


def append_frames(path: Path, meanwhile: Callable[[int], None] = lambda i: None) -> None:
    """Write a file in the mode SWMR, one frame after the other."""
    n_rows, n_columns = FRAMES.shape[1:]
    with h5py.File(path, "w", libver="latest") as file:
        datasets = {
            name: file.create_dataset(
                name, (0, *shape), dtype, maxshape=(None, *shape), chunks=(1, *shape)
            )
            for name, shape, dtype in (
                ("frames", (n_rows, n_columns), "u2"),
                ("lauecollect/angle", (), "f8"),
                ("lauecollect/laser_on", (), "u1"),
            )
        }
        file.swmr_mode = True
        for i, frame in enumerate(FRAMES):
            for dataset, value in zip(datasets.values(), (frame, i // 2 * 1.5, i % 2), strict=True):
                dataset.resize(i + 1, 0)
                dataset[i] = value
                dataset.flush()
            meanwhile(i + 1)


class Enough(BaseException):
    """End of the wait: the awaited event has happened."""


class Events:
    """Keeps events, and ends the watch after so many runs."""

    def __init__(self, n_runs: int) -> None:
        self.n_runs = n_runs
        self.events: list[tuple[str, str]] = []
        self.records: list[Record] = []

    def event(self, run: str, message: str) -> None:
        self.events.append((run, message))

    def finished(self, record: Record, n_bytes: int) -> None:
        self.records.append(record)
        assert n_bytes > 0
        if len(self.records) == self.n_runs:
            raise Enough

    def note(self, message: str) -> None:
        self.events.append(("", message))


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    folder = tmp_path / "runs"
    folder.mkdir()
    processing = Processing(
        ("--manual", "-d", "1"), laser=("-S", "blocks"), resources=("--backend", "cpu")
    )
    batch = Batch([], processing, tmp_path / "out", input_files, threads=1)
    search = Search(outside=(batch.out,))
    return Watch(lambda: find_runs([folder], search), batch, every=0.1, settle=2.0)


def until_polled(watch: Watch, times: int) -> Watch:
    """Return the same watch, which ends after so many looks at the folder."""
    n = 0

    def search() -> Found:
        nonlocal n
        n += 1
        if n > times:
            raise Enough
        return watch.search()

    return replace(watch, search=search)


def single(run: Path, output: Path) -> Path:
    assert command(run, "-d", 1, "-S", "blocks", "-o", output, "--quiet").status == 0
    return output


def test_each_run_is_processed_once_and_completely(
    watch: Watch, client: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "runs"
    source = write_run(tmp_path / "source.h5", frames=FRAMES)
    writers = [
        threading.Thread(target=write_images, args=(folder / "scan_1",)),
        threading.Thread(target=copy_slowly, args=(source, folder / "copied__mccd.h5")),
        threading.Thread(
            target=append_frames, args=(folder / "swmr.h5", lambda i: time.sleep(PAUSE))
        ),
    ]
    for writer in writers:
        writer.start()
    events = Events(3)
    with pytest.raises(Enough):
        run_watch(replace(watch, preview=0.5), lambda: nullcontext(client), events)
    for writer in writers:
        writer.join()
    names = {"scan_1/scan": "scan_1/scan.log", "copied": "copied__mccd.h5", "swmr": "swmr.h5"}
    assert sorted(record["name"] for record in events.records) == sorted(names)
    out = tmp_path / "out"
    for name, run in names.items():
        output = single(folder / run, tmp_path / f"{Path(name).name}.h5")
        assert_equal_results(out / f"{name}__spots.h5", output)
        told = [text for of, text in events.events if of == name and "growing" not in text]
        # a preview may meet a file while it is written
        told = [text for text in told if not text.startswith("no preview yet: ")]
        assert [text.split(",")[0] for text in told] == ["complete"]
    assert any(text.startswith("growing, ") for _, text in events.events)
    assert not list(out.rglob("*.part"))

    again = Events(1)
    started_again = until_polled(replace(watch, settle=0.1, preview=0.01), 8)
    with pytest.raises(Enough):
        run_watch(started_again, lambda: nullcontext(client), again)
    assert (again.records, again.events) == ([], [])
    assert not list(out.rglob("*__preview.h5"))

    os.utime(folder / "copied__mccd.h5")
    with pytest.raises(Enough):
        run_watch(replace(watch, settle=0.1), lambda: nullcontext(client), again)
    assert [record["name"] for record in again.records] == ["copied"]
    assert again.records[0]["why"].startswith("input changed: modified")


def test_a_run_whose_log_and_images_disagree_waits(watch: Watch, client: Any) -> None:
    folder = watch.batch.out.parent / "runs"
    write_images(folder / "scan", pause=0)
    (folder / "scan/xray_images/scan_10_off_1.mccd").write_bytes(marccd(FRAMES[0]))
    events = Events(1)
    with pytest.raises(Enough):
        run_watch(
            until_polled(replace(watch, every=0.05, settle=0.05), 25),
            lambda: nullcontext(client),
            events,
        )
    assert events.records == []
    assert events.events == [
        ("scan/scan", "not complete: 1 image not in the log, such as scan_10_off_1.mccd")
    ]
    (folder / "scan/xray_images/scan_10_off_1.mccd").unlink()
    with pytest.raises(Enough):
        run_watch(replace(watch, settle=0.1), lambda: nullcontext(client), events)
    assert events.records[0]["figures"]["frames"] == 20


def test_an_open_file_waits_and_a_run_is_taken_once_until_it_changes(watch: Watch) -> None:
    events, runner = Events(0), Runner()
    watcher = Watcher(replace(watch, settle=0.02), events, runner)
    path = watch.batch.out.parent / "runs/a.h5"
    end = time.monotonic() + 60

    def polled(times: int) -> list[str]:
        assert time.monotonic() < end
        found = []
        for _ in range(times):
            found += [one.job.run.name for one in watcher.complete("one")]
            time.sleep(0.01)
        return found

    with h5py.File(path, "w") as file:
        file["frames"] = FRAMES
        file.flush()
        while not events.events:
            assert polled(1) == []
    assert events.events == [("a", "not complete: is still open for writing")]
    while not (found := polled(1)):
        pass
    assert found == ["a"]
    os.utime(path)
    assert polled(9) == []  # it is being processed
    watcher.processed("a")
    assert events.events[1:] == []
    while not (found := polled(1)):
        pass
    assert found == ["a"]
    assert events.events[1:] == [("a", "changed after it was processed; waiting")]
    watcher.processed("a")
    assert polled(9) == []
    watcher.close()


def test_a_growing_run_has_a_preview(watch: Watch) -> None:
    folder = watch.batch.out.parent / "runs"
    write_images(folder, pause=0)
    last = folder / "xray_images/scan_9_on_1.mccd"
    last.write_bytes(last.read_bytes()[:3000])
    events, runner = Events(0), Runner()
    watcher = Watcher(watch, events, runner)
    watcher._make_preview(Run("scan", (str(folder / "scan.log"),)))
    output = watch.batch.out / "scan__preview.h5"
    with open_spots(output) as results:
        n_spots = results.n_spots
    assert events.events == [
        ("scan", f"growing, 19 frames so far, {n_spots} spots; {output}"),
    ]
    (folder / "scan.log").write_text("")
    watcher._make_preview(Run("scan", (str(folder / "scan.log"),)))
    assert events.events[1][1].startswith("no preview yet: ")
    runner.close()


def test_the_frames_of_a_growing_file_are_copied(tmp_path: Path) -> None:
    path, copy = tmp_path / "swmr.h5", tmp_path / "copy.h5"
    found: dict[int, tuple[bool, int]] = {}
    runner = Runner()  # the process that writes does not see its own lock

    def look(n: int) -> None:
        if n in (1, 7):
            growth = runner.ask({"ask": "growth", "source": str(path)})
            copied = runner.ask({"ask": "copy", "source": str(path), "output": str(copy)})
            found[n] = growth["is_written"], copied["frames"]

    append_frames(path, look)
    runner.close()
    assert found == {1: (True, 1), 7: (True, 7)}
    assert not is_being_written(path)
    with h5py.File(copy) as file:
        assert (file["frames"][()] == FRAMES[:7]).all()
        assert file["lauecollect/angle"][()].tolist() == [0, 0, 1.5, 1.5, 3, 3, 4.5]
    assert copy_frames(path, copy) == len(FRAMES)


def test_watch_needs_folders(tmp_path: Path) -> None:
    for words, text in (
        ((tmp_path / "none", "-o", tmp_path / "out"), "none: not a directory, expected a folder"),
        ((tmp_path, "-o", tmp_path / "out", "--settle", 0), "'--settle'"),
    ):
        ended = command("watch", *words, name="gpu-spots")
        assert ended.status in (1, 2)
        assert len(ended.lines) == 1
        assert text in ended.stderr
    assert Records(tmp_path / "out").all() == {}
