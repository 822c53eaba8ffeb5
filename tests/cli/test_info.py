"""gpu-spots info: what it says is what find does."""

import json
import shlex
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from factories.image_runs import write_scan
from factories.layouts_data import (
    ANGLES,
    SHAPE,
    STATES,
    WRITERS,
    frames_of,
    write_anything,
    write_dectris,
    write_nexus,
)
from gpu_spots.parameters import METHOD_NAMES, Parameters
from helpers import Ended, assert_refused, command, listing, process, write_run

DEFAULTS = Parameters()
METHODS = ", ".join(f"-m {name}" for name in METHOD_NAMES)


def info(path: Path, *options: object) -> Ended:
    return command("info", path, *options, name="gpu-spots")


def as_json(path: Path, *options: object) -> dict[str, Any]:
    ended = info(path, *options, "--json")
    assert (ended.status, ended.stderr) == (0, "")
    return json.loads(ended.stdout)


def lines(ended: Ended) -> dict[str, str]:
    """Label to text."""
    assert (ended.status, ended.stderr) == (0, "")
    return {
        label.strip(): text.strip()
        for label, _, text in (row.partition("  ") for row in ended.stdout.splitlines())
    }


def test_everything_of_a_laser_run(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run__mccd.h5")
    before = listing(tmp_path)
    found = lines(info(path))
    assert listing(tmp_path) == before
    assert found == {
        "file": str(path),
        "layout": "LaueUtil",
        "frames": "/frames",
        "size": "20 frames of 24 x 40 (X x Y), uint16, 0.0 MB",
        "stored": "chunks none, filters none",
        "read": "directly, by all threads",
        "mask": "none",
        "valid values": "all",
        "saturation": "65535 and more (the largest value of uint16)",
        "angles": "10 different, 0 to 13.5 degrees (/lauecollect/angle)",
        "laser": "10 off, 10 on (/lauecollect/laser_on)",
        "blocks": "10, of 2 frames",
        "pairs": "10",
        "find accepts": f"{METHODS}, -S none, -S pairs, -S blocks, -a 10",
        "command": f"gpu-spots find {path} -S blocks",
    }


def test_everything_of_a_detector_file(tmp_path: Path) -> None:
    mask = np.zeros(SHAPE, "u4")
    mask[:2] = 1
    path = write_dectris(
        tmp_path / "run_master.h5", detector={"pixel_mask": mask, "saturation_value": 9000}
    )
    found = lines(info(path, "--reject", "border:1", "--valid-range", "3,"))
    assert found["layout"] == "DECTRIS master file"
    assert (
        found["frames"]
        == "/entry/data/data_000001 ... /entry/data/data_000003  (3 datasets, 4 files)"
    )
    assert found["stored"] == "chunks 1x24x40, filters gzip 4"
    assert (
        found["mask"]
        == "162 pixels of 960 masked (16.88 %): /entry/instrument/detector/pixel_mask (80), "
        "--reject border:1 (124)"
    )
    assert found["valid values"] == "from 3 (--valid-range)"
    assert found["saturation"] == "9000 and more (/entry/instrument/detector/saturation_value)"
    assert found["laser"].startswith("unknown: no laser states found")
    assert found["find refuses"].startswith("-m kruskal, -S pairs, -S blocks: needs a laser run")
    assert found["command"] == f"gpu-spots find {path} --reject border:1 --valid-range 3,"


def test_few_and_no_angles_change_the_command(tmp_path: Path) -> None:
    few = write_anything(
        tmp_path / "few.h5", edit=lambda file: file["run/of/today/angle"].write_direct(ANGLES // 6)
    )
    assert as_json(few)["command"].endswith(" -S blocks -a 3")

    def edit(file: h5py.File) -> None:
        del file["run/of/today/angle"]

    none = as_json(write_anything(tmp_path / "none.h5", edit=edit))
    assert none["command"].endswith("none.h5 -a 0")
    assert "no angles found" in none["angles"]["missing"]
    assert "no angles found" in none["find"]["-a 10"]
    assert (none["blocks"], none["pairs"]) == (None, None)


@pytest.mark.parametrize("layout", WRITERS)
def test_the_command_it_gives_works(layout: str, tmp_path: Path) -> None:
    path = WRITERS[layout][0](tmp_path / "a run_master.h5")
    found = as_json(path, "--reject", "border:2", "--saturation", 190)
    program, *arguments = shlex.split(found["command"])
    assert program == "gpu-spots"
    assert command(*arguments, "--quiet", name="gpu-spots").status == 0
    with h5py.File(tmp_path / "a run_master__spots.h5") as file:
        attributes = file["info"].attrs
        assert attributes["layout"] == found["layout"]
        assert attributes["frames_path"] == found["frames"]["path"]
        assert attributes["masked_pixels"] == found["masked_pixels"] == 960 - 20 * 36
        assert attributes["saturation"] == found["saturation"]["value"] == 190
        if found["pairs"]:
            assert attributes["sync"] == "blocks"
            assert len(file["masks/counts"]) == found["blocks"]["number"]


def test_what_find_cannot_do_it_says_too(tmp_path: Path) -> None:
    """A dark run of two frames, one of which was never written."""

    def edit(file: h5py.File) -> None:
        del file["frames"], file["lauecollect/laser_on"], file["lauecollect/angle"]
        file.create_dataset("frames", (1, *SHAPE), "u2", chunks=(1, *SHAPE))
        file["lauecollect/laser_on"] = ["off"]

    path = write_run(tmp_path / "run__mccd.h5", edit)
    ended = info(path)
    assert ended.stdout.count("problem") == 2
    assert "-n 25 leaves 1 of 1 frame for the background, expected at least 2" in ended.stdout
    assert "never written" in ended.stdout
    assert "command" not in ended.stdout
    assert len(as_json(path)["problems"]) == 2
    assert command(path, "-a", 0, "--quiet").status == 1


def test_a_wrong_state_is_named(tmp_path: Path) -> None:
    def edit(file: h5py.File) -> None:
        file["lauecollect/laser_on"][3] = 7

    assert lines(info(write_run(tmp_path / "run__mccd.h5", edit)))["laser"] == (
        "unknown: lauecollect/laser_on is '7' at frame 3, expected 0, 1, off or on"
    )


def test_frames_that_hdf5_must_read_are_named(tmp_path: Path) -> None:
    def edit(file: h5py.File) -> None:
        del file["frames"]
        file.create_dataset(
            "frames",
            data=frames_of(),
            chunks=(2, 24, 40),
            compression="lzf",
            shuffle=True,
            fletcher32=True,
        )

    found = lines(info(write_run(tmp_path / "run__mccd.h5", edit)))
    assert found["stored"] == "chunks 2x24x40, filters shuffle, lzf, fletcher32"
    assert found["read"].startswith("through HDF5, one chunk at a time (filters shuffle")


def test_unpaired_frames_and_notes_are_shown(tmp_path: Path) -> None:
    def edit(file: h5py.File) -> None:
        file["entry/sample/laser_on"][:2] = [False, False]
        file["entry/data/mask"] = np.ones(SHAPE, "u1")

    found = lines(info(write_nexus(tmp_path / "run.h5", edit=edit)))
    assert found["pairs"] == "9; 2 frames without a partner"
    assert "/entry/data/mask may be a mask and is not used" in found["note"]


def test_it_writes_to_stdout_as_a_process_too(tmp_path: Path) -> None:
    ended = process("info", write_run(tmp_path / "run__mccd.h5"), name="gpu-spots")
    assert (ended.status, ended.stderr) == (0, "")
    assert ended.stdout.splitlines()[-1].startswith("command")


def test_errors_are_as_finds(tmp_path: Path) -> None:
    assert_refused(info(tmp_path / "none.h5"), 1, "none.h5", "No such file")
    (tmp_path / "text.h5").write_text("text")
    assert_refused(info(tmp_path / "text.h5"), 1, "text.h5", "not an HDF5 file")
    assert_refused(command("info", name="gpu-spots"), 2, "Missing argument")
    assert_refused(info(tmp_path / "none.log"), 1, "none.log", "No such file")


def test_images_are_described_too(tmp_path: Path) -> None:
    scan = write_scan(tmp_path, frames_of(), ANGLES, STATES)
    arguments = (scan.log, "-p", scan.folder, "--reject", "border:2")
    found = lines(info(*arguments))
    assert found["layout"] == "images"
    assert found["size"].startswith("20 frames of 24 x 40 (X x Y), uint16")
    assert found["stored"] == "one image per frame, marccd"
    assert found["mask"].startswith("240 pixels of 960 masked")
    assert (found["pairs"], found["laser"][:13]) == ("10", "10 off, 10 on")
    program, *command_line = shlex.split(found["command"])
    assert program == "gpu-spots"
    assert command_line == [
        "find",
        str(scan.log),
        "--reject",
        "border:2",
        "-p",
        str(scan.folder),
        "-S",
        "blocks",
    ]
    assert (
        command(*command_line, "--quiet", "-o", tmp_path / "out.h5", name="gpu-spots").status == 0
    )
    given = lines(info(scan.folder / "*.mccd", "--angle-step", 2, "--laser", "off,on"))
    assert given["angles"] == "10 different, 0 to 18 degrees"
    assert "--laser off,on" in given["command"]


def test_a_spots_file(tmp_path: Path) -> None:
    """The number of spots, and the options of the run, are shown."""
    path = write_run(tmp_path / "run__mccd.h5")
    assert command("find", path, "-S", "blocks", "--quiet", name="gpu-spots").status == 0
    spots = tmp_path / "run__spots.h5"
    with h5py.File(spots) as file:
        counts = np.diff(file["frame2spotsBE"])
        info_attributes = dict(file["info"].attrs)
    found = lines(info(spots))
    assert found["layout"] == "spots file, the output of find"
    assert found["spots"] == f"{counts.sum()} spots on 20 frames"
    assert (
        found["per frame"]
        == f"min {counts.min()}, median {np.median(counts):g}, max {counts.max()}"
    )
    assert found["method"] == DEFAULTS.method
    assert found["options"] == (
        f"finder {DEFAULTS.finder}, sync blocks, n {DEFAULTS.n}, significance "
        f"{DEFAULTS.significance}, streaks False, normalise {DEFAULTS.normalise}"
    )
    assert found["computed"].startswith(f"{info_attributes['start_time']}, ")
    assert found["input"] == f"{path}  /frames"
    assert "dataset    /masks_synced  (10, 24, 40) uint8" in info(spots).stdout
    in_json = as_json(spots)
    assert in_json["spots_per_frame"] == {
        "min": counts.min(),
        "median": np.median(counts),
        "max": counts.max(),
    }
    assert in_json["datasets"]["/spots/I"] == f"({counts.sum()},) float64"
    assert in_json["input_file"] == str(path)
    assert in_json["options"]["normalise"] == "level"
    manual = ("-m", "kruskal", "-s", "2,1", "-o", spots, "--force", "--quiet")
    assert command(path, *manual).status == 0
    assert lines(info(spots))["options"] == (
        "finder threshold, sync none, alpha 0.05, cutoff 3.0, erosions 1, dilations 2, "
        "structure 2,1, normalise none"
    )


def test_the_shape_of_the_background(tmp_path: Path) -> None:
    """The summary of find and info say by how much it changes."""
    frames = np.random.default_rng(1).poisson(100, (8, 64, 66)).astype(np.uint16)
    frames[::2, :, 33:] += 20
    path, spots = tmp_path / "run__mccd.h5", tmp_path / "run__spots.h5"
    write_run(path, frames=frames)
    ended = command("find", path, "--normalise", "surface", "-a", "0", name="gpu-spots")
    before, after = "the shape of the background changes by ", " % rms"
    (line,) = [line for line in ended.lines if line.startswith(before)]
    percent = line.removeprefix(before).removesuffix(after)
    assert 0.5 < float(percent) < 10
    assert lines(info(spots))["background"] == (
        f"its shape changes by {percent} % rms from frame to frame"
    )
    assert as_json(spots)["shape_change"] == pytest.approx(float(percent) / 100, abs=1e-4)


def test_a_damaged_spots_file(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a__spots.h5", "w") as file:
        file["frame2spotsBE"] = np.zeros((3, 3))
    assert_refused(
        info(tmp_path / "a__spots.h5"),
        1,
        "frame2spotsBE is float64 (3, 3), expected integers (n_frames, 2)",
    )


def test_a_spots_file_that_says_nothing_of_itself(tmp_path: Path) -> None:
    """Spots files of other programs lack the attributes."""
    with h5py.File(tmp_path / "a__spots.h5", "w") as file:
        file["frame2spotsBE"] = [[0, 3], [3, 4]]
    found = lines(info(tmp_path / "a__spots.h5"))
    assert (found["spots"], found["per frame"]) == ("4 spots on 2 frames", "min 1, median 2, max 3")
    assert (found["method"], found["options"], found["input"]) == ("unknown",) * 3
    assert_refused(
        command("find", tmp_path / "a__spots.h5", name="gpu-spots"),
        1,
        "a__spots.h5: is a spots file, the results, expected a run; give",
    )


def test_a_spots_file_is_no_run(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run__mccd.h5")
    assert command("find", path, "--quiet", name="gpu-spots").status == 0
    ended = command("find", tmp_path / "run__spots.h5", "--quiet", name="gpu-spots")
    assert_refused(
        ended, 1, f"run__spots.h5: is a spots file, the results of {path}, expected a run; give"
    )
    named = command("info", tmp_path / "run__spots.h5", "--frames", "masks_raw", name="gpu-spots")
    assert lines(named)["frames"] == "/masks_raw"


@pytest.mark.parametrize("name", ["find", "info", "tune"])
@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        ("ratios/R", "a ratios file, the results of run__spots.h5"),
        ("merged/R", "a file of merged ratios, the results"),
    ],
)
def test_a_ratios_file_is_no_run(name: str, dataset: str, words: str, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file[dataset] = [1.0]
        file.create_group("info").attrs["spots_file"] = "run__spots.h5"
    ended = command(name, tmp_path / "a.h5", name="gpu-spots")
    assert_refused(ended, 1, f"a.h5: is {words}, expected a run; give the run itself")


@pytest.mark.parametrize("by", ["name", "attribute"])
def test_an_eiger_data_file_without_its_master(by: str, tmp_path: Path) -> None:
    """The largest value marks gaps, in the middle of modules' spots too."""
    frames = frames_of()
    frames[:, 5:7] = 65535
    frames[0, 0, 0] = 65534
    write_dectris(tmp_path / "run_master.h5", frames, per_file=20)
    path = tmp_path / "run_data_000001.h5"
    if by == "attribute":
        (tmp_path / "run_data_000001.h5").rename(path := tmp_path / "part.h5")
        with h5py.File(path, "a") as file:
            file["entry/data/data"].attrs["image_nr_low"] = 1
    found = lines(info(path))
    assert (
        found["valid values"]
        == "up to 65534 (65535 marks pixels without a value in EIGER data files)"
    )
    assert found["saturation"] == "65534 and more (the largest valid value)"
    expected = (
        f"give {tmp_path / 'run_master.h5'} instead"
        if by == "name"
        else "give the master file instead"
    )
    assert f"{path}: is an EIGER data file without its master file" in found["note"]
    assert expected in found["note"]
    given = lines(info(path, "--valid-range", "none", "--saturation", 60000))
    assert (given["valid values"], given["saturation"], given.get("note")) == (
        "all",
        "60000 and more (--saturation)",
        None,
    )
    ended = command("find", path, "-a", 0, name="gpu-spots")
    assert ended.status == 0
    assert "is an EIGER data file without its master file" in ended.stderr
    with h5py.File(path.with_name(f"{path.stem}__spots.h5")) as file:
        assert file["stats/max"][5:7].max() == 0
        assert not file["masks_raw"][:, 5:7].any()
        assert file["stats/max"][0, 0] == 65534


def test_a_file_of_nexus_is_no_eiger_data_file(tmp_path: Path) -> None:
    path = write_nexus(tmp_path / "run.h5")
    assert lines(info(path))["valid values"] == "all"
