"""Converted runs of images.

The converted file and the images give the same results, to the bit.
"""

import bz2
import gzip
import shutil
import subprocess
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from gpu_spots.packages import install_command

pytest.importorskip("fabio", reason=f"fabio is not installed: {install_command('images')}")

from fabio.cbfimage import CbfImage
from fabio.edfimage import EdfImage
from fabio.tifimage import TifImage

import gpu_spots
from factories.image_runs import Scan, marccd, write_scan
from gpu_spots import GpuSpotsError, ImageRequest, Parameters, find_spots
from gpu_spots.files.images.image import HEADER_FIELDS
from gpu_spots.files.images.image_stack import open_images
from helpers import Notes, command, datasets, process, series, write_run

ORDER = [0, 4, 8, 12, 16, 2, 6, 10, 14, 18]
"""Interlaced: every second angle first, then those between."""
ANGLES = np.repeat(ORDER, 2) / 2
LASER = np.tile([0, 1], 10)


@pytest.fixture
def scan(tmp_path: Path) -> Scan:
    """A laser run of 20 frames at 10 angles."""
    return write_scan(tmp_path, series(), ANGLES, LASER)


def convert(*arguments: object) -> Any:
    return command("convert", *arguments, name="gpu-spots")


def find(*arguments: object) -> Any:
    return command("find", *arguments, "--quiet", name="gpu-spots")


def assert_same_spots(found: Path, expected: Path, *, but: tuple[str, ...] = ()) -> None:
    """Check that every dataset and attribute is the same, except those of ``info``."""
    with h5py.File(found) as one, h5py.File(expected) as two:
        first, second = (
            {k: v for k, v in datasets(file).items() if not k.startswith(but)}
            if but
            else datasets(file)
            for file in (one, two)
        )
        assert set(first) == set(second)
        for path, values in first.items():
            assert values.dtype == second[path].dtype, path
            assert np.array_equal(values, second[path], equal_nan=values.dtype.kind == "f"), path
            assert dict(one[path].attrs) == dict(two[path].attrs), path
        if not but:
            assert dict(one["lauecollect"].attrs) == dict(two["lauecollect"].attrs)


# --------------------------------------------------------------------------------- the same results


@pytest.mark.parametrize(
    "options", [(), ("-S", "pairs"), ("-S", "blocks", "-m", "kruskal")], ids=" ".join
)
@pytest.mark.parametrize("generation", ["old", "new"])
def test_every_way_gives_the_same_bits(
    generation: str, options: tuple[str, ...], tmp_path: Path
) -> None:
    scan = write_scan(tmp_path / "scan", series(), ANGLES, LASER, generation)
    ended = convert("-o", tmp_path / "scan__mccd.h5", "-p", f"{scan.folder}/", scan.log)
    assert (ended.status, ended.stdout) == (0, "")
    assert ended.lines[-1].startswith(
        f"{tmp_path / 'scan__mccd.h5'}: 20 frames of 24 x 40, uint16, 10 angles, 10 off/on pairs, "
    )
    two, one, direct = tmp_path / "two.h5", tmp_path / "one.h5", tmp_path / "direct.h5"
    assert find(tmp_path / "scan__mccd.h5", "-o", two, *options).status == 0
    assert find("--log", scan.log, "-p", scan.folder, "-o", one, *options).status == 0
    assert_same_spots(one, two)
    # and so does LaueUtil's layout, with no images
    run = write_run(tmp_path / "direct__mccd.h5")
    with h5py.File(run, "r+") as file:
        del file["lauecollect/angle"]
        file["lauecollect/angle"] = ANGLES
    assert find(run, "-o", direct, *options).status == 0
    assert_same_spots(one, direct, but=("lauecollect", "per_frame/delay"))
    with h5py.File(one) as file:
        assert file["spots/I"].shape[0] > 0
        assert file["info"].attrs["input_file"] == str(scan.log)
        assert file["info"].attrs["frames_path"] == str(scan.folder)
        assert file["info"].attrs["saturation"] == 65535


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress], ids=["gz", "bz2"])
def test_compressed_images_of_a_log(
    pack: Callable[[bytes], bytes], scan: Scan, tmp_path: Path
) -> None:
    assert convert(scan.log, "-o", tmp_path / "plain.h5").status == 0
    for path in scan.paths:
        path.with_name(f"{path.name}.{'gz' if pack is gzip.compress else 'bz2'}").write_bytes(
            pack(path.read_bytes())
        )
        path.unlink()
    assert convert(scan.log, "-o", tmp_path / "packed.h5").status == 0
    with h5py.File(tmp_path / "plain.h5") as plain, h5py.File(tmp_path / "packed.h5") as packed:
        np.testing.assert_array_equal(packed["frames"], series())
        assert datasets(packed).keys() == datasets(plain).keys()
        assert packed["lauecollect/file"].asstr()[...].tolist() == scan.names
        assert {Path(name).stem for name in packed["headers/file"].asstr()[...]} == set(scan.names)


@pytest.mark.parametrize(("kind", "ending", "dtype"), [
    (EdfImage, "edf", "u2"), (EdfImage, "edf", "f4"), (TifImage, "tif", "u2"),
    (TifImage, "tif", "i4"), (CbfImage, "cbf", "i4"),
])  # fmt: skip
def test_other_formats_give_the_same_bits(
    kind: type, ending: str, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = series(dtype=dtype)
    for frame, angle, on in zip(frames, ANGLES, LASER, strict=True):
        kind(data=frame).write(str(tmp_path / f"run_{angle:.3f}_{'on' if on else 'off'}.{ending}"))
    monkeypatch.chdir(tmp_path)
    given = (f"run_*.{ending}", "--name-pattern", f"{{base}}_{{angle}}_{{laser}}.{ending}")
    assert convert(*given, "--quiet") == convert(*given, "--quiet", "--force")
    assert find("run__mccd.h5", "-o", "two.h5", "-S", "pairs").status == 0
    assert find(*given, "-S", "pairs").status == 0
    assert_same_spots(tmp_path / "run__spots.h5", tmp_path / "two.h5")
    with h5py.File("run__mccd.h5") as file:
        assert file["frames"].dtype == dtype
        assert file["headers/format"].asstr()[0] == ending
        np.testing.assert_array_equal(sorted(file["frames"][...].tolist()), sorted(frames.tolist()))
        np.testing.assert_array_equal(file["lauecollect/angle"], np.sort(ANGLES))


def test_gaps_of_a_counting_detector_are_in_no_mask(tmp_path: Path) -> None:
    frames = series(dtype="i4")
    frames[:, 5:7] = -1
    frames[:, 9, 9] = -2
    for i, frame in enumerate(frames):
        CbfImage(data=frame).write(str(tmp_path / f"run_{i:03d}.cbf"))
    assert find(tmp_path / "run_*.cbf", "-a", 0).status == 0
    with h5py.File(tmp_path / "run__spots.h5") as file:
        assert not file["stats/avg"][5:7].any()
        assert not file["masks_filtered"][:, 5:7].any()
        assert file["stats/threshold"][9, 9] == 2**31
    assert convert(tmp_path / "run_*.cbf").status == 0
    with h5py.File(tmp_path / "run__mccd.h5") as file:
        assert file["frames"].attrs["valid_min"] == 0
    assert find(tmp_path / "run__mccd.h5", "-a", 0, "-o", tmp_path / "two.h5").status == 0
    assert_same_spots(tmp_path / "run__spots.h5", tmp_path / "two.h5")


@pytest.mark.parametrize(
    "options",
    [
        ("--reject", "border:2", "--reject", "disc:10,20,4", "--valid-range", ",190"),
        ("--saturation", "150", "--normalise", "level"),
        ("--mask", "mask.npy", "--mask-good", "1", "-S", "blocks"),
        ("--batch", "3", "--memory-limit", "22MB", "-S", "pairs"),
    ],
    ids=" ".join,
)
def test_other_options_do_the_same_both_ways(
    options: tuple[str, ...], scan: Scan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(scan.log.parent)
    np.save("mask.npy", np.random.default_rng(4).random((24, 40)) < 0.9)
    assert convert(scan.log).status == 0
    assert find("scan__mccd.h5", "-o", "two.h5", *options).status == 0
    assert find("scan.log", "-o", "one.h5", *options).status == 0
    assert find("scan.log", "-o", "without.h5").status == 0
    assert_same_spots(Path("one.h5"), Path("two.h5"))
    with h5py.File("one.h5") as one, h5py.File("without.h5") as without:
        assert not all(
            np.array_equal(values, without[path])
            for path, values in datasets(one).items()
            if path in without
        )


def test_angles_and_states_as_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i, frame in enumerate(series()):
        (tmp_path / f"run_{i}.mccd").write_bytes(marccd(frame))
    monkeypatch.chdir(tmp_path)
    assert (
        find(
            "run_*.mccd",
            "--angle-start",
            -5,
            "--angle-step",
            0.5,
            "--laser",
            "off,on",
            "-S",
            "pairs",
        ).status
        == 0
    )
    with h5py.File("run__spots.h5") as file:
        np.testing.assert_array_equal(file["lauecollect/angle"], np.arange(20) // 2 * 0.5 - 5)
        np.testing.assert_array_equal(file["lauecollect/laser_on"], LASER)
        assert len(file["masks_synced"]) == 10


def test_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i, frame in enumerate(series()):
        (tmp_path / f"run_{i}.mccd").write_bytes(marccd(frame))
    rows = [
        f"run_{i}.mccd,{angle},{'on' if on else 'off'}"
        for i, (angle, on) in enumerate(zip(ANGLES, LASER, strict=True))
    ]
    (tmp_path / "t.csv").write_text("\n".join(["file,angle,laser_on", *reversed(rows)]) + "\n")
    monkeypatch.chdir(tmp_path)
    assert find("run_*.mccd", "--table", "t.csv", "-S", "pairs").status == 0
    with h5py.File("run__spots.h5") as file:
        np.testing.assert_array_equal(file["lauecollect/angle"], ANGLES)
        np.testing.assert_array_equal(file["lauecollect/laser_on"], LASER)
    assert find("--table", "t.csv", "-S", "pairs").status == 0  # in its own order
    with h5py.File("t__spots.h5") as file:
        np.testing.assert_array_equal(file["lauecollect/angle"], ANGLES[::-1])


def test_a_log_alone_is_a_log_for_find_too(scan: Scan) -> None:
    assert find(scan.log).status == 0
    assert scan.log.with_name("scan__spots.h5").exists()


def test_the_number_of_threads_changes_nothing(scan: Scan, tmp_path: Path) -> None:
    for threads in (1, 3):
        assert convert(scan.log, "-o", tmp_path / f"{threads}.h5", "--threads", threads).status == 0
    with h5py.File(tmp_path / "1.h5") as one, h5py.File(tmp_path / "3.h5") as three:
        for path, values in datasets(one).items():
            assert np.array_equal(values, three[path], equal_nan=values.dtype.kind == "f"), path


def test_rows_of_the_stack(scan: Scan) -> None:
    stack = open_images(ImageRequest(log=scan.log), Notes(), 2)
    assert (stack.rows_apart, stack.is_decoded) == (1, True)
    into = np.zeros((7, 4, 40), np.uint16)
    stack.read_rows(3, 10, 20, 24, into)
    np.testing.assert_array_equal(into, series()[3:10, 20:24])
    scan.paths[5].write_bytes(marccd(series(1, (24, 41))[0]))
    with pytest.raises(
        GpuSpotsError, match=f"{scan.names[5]}: is 24 x 41 pixels of uint16, expected 24 x 40"
    ):
        stack.read_rows(3, 10, 20, 24, into)
    scan.paths[5].write_bytes(gzip.compress(marccd(series()[5])))
    stack.read_rows(3, 10, 20, 24, into)
    np.testing.assert_array_equal(into, series()[3:10, 20:24])
    scan.paths[7].rename(scan.paths[7].with_name(f"{scan.names[7]}.gz"))
    packed = open_images(ImageRequest(log=scan.log), Notes(), 2)
    assert (packed.rows_apart, packed.is_decoded) == (None, False)


def test_from_python(scan: Scan, tmp_path: Path) -> None:
    assert find(scan.log, "-S", "pairs", "-o", tmp_path / "one.h5").status == 0
    names: dict[str, Any] = {"log": str(scan.log), "folder": str(scan.folder)}
    request, parameters = ImageRequest(**names), Parameters(sync="pairs")
    find_spots(request, parameters, output=tmp_path / "two.h5").close()
    assert_same_spots(tmp_path / "two.h5", tmp_path / "one.h5")
    assert gpu_spots.convert(request) == scan.log.with_name("scan__mccd.h5")
    with (
        find_spots(scan.log.with_name("scan__mccd.h5"), parameters) as two,
        find_spots(request, parameters) as one,
    ):
        for name, values in two.spots().items():
            np.testing.assert_array_equal(one.spots()[name], values)
        np.testing.assert_array_equal(one.columns["angle"], ANGLES)
    with pytest.raises(GpuSpotsError, match="already exists"):
        gpu_spots.convert(request, scan.log.with_name("scan__mccd.h5"))
    scan.paths[5].unlink()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with find_spots(replace(request, skip_bad=True), Parameters(angles=0)) as found:
            assert found.n_frames == 19
    assert [str(warning.message) for warning in warned] == [
        f"{scan.log}: 1 of 20 frames are left out:", f"  {scan.names[5]}: is missing"
    ]  # fmt: skip
    assert all(warning.filename == __file__ for warning in warned)


def test_requests_in_python_take_names_in_every_way(scan: Scan, tmp_path: Path) -> None:
    ways: list[Any] = [
        str(scan.folder / "*.mccd"),
        (str(scan.folder / "*.mccd"),),
        sorted(scan.paths),
    ]
    for i, sources in enumerate(ways):
        laser: Any = "off,on"
        request = ImageRequest(sources, laser=laser, angle_step=1)
        gpu_spots.convert(request, tmp_path / f"{i}.h5", threads=1)
        with h5py.File(tmp_path / f"{i}.h5") as file:
            np.testing.assert_array_equal(file["lauecollect/laser_on"], LASER)
    others: dict[str, Any] = {"columns": {"angle": ANGLES}, "table": "t.csv"}
    for name, value in others.items():
        with pytest.raises(GpuSpotsError, match=f"{name}: cannot be used with images"):
            find_spots(ImageRequest(ways[2]), **{name: value})


# ------------------------------------------------------------------------------------ what is in it


def test_what_is_in_the_file(tmp_path: Path) -> None:
    frames = series(4, (300, 50))
    scan = write_scan(tmp_path, frames, [0, 0, 1, 1], [0, 1, 0, 1])
    for i, path in enumerate(scan.paths):
        path.write_bytes(
            marccd(
                frames[i],
                at1680=1000 + i,
                at1128=60000,
                at1708=1000 * i,
                at1668=0 if i == 2 else 500_000,
            )
        )
    assert convert(scan.log).status == 0
    with h5py.File(tmp_path / "scan__mccd.h5") as file:
        stack = file["frames"]
        np.testing.assert_array_equal(stack, frames)
        assert (stack.dtype, stack.chunks, stack.compression, stack.shuffle) == (
            "uint16",
            (1, 128, 50),
            "gzip",
            True,
        )
        assert {name: stack.attrs[name] for name in stack.attrs if name != "description"} == {
            "units": "counts",
            "saturation": 60000,
            "interpretation": "image",
        }
        headers = file["headers"]
        np.testing.assert_array_equal(headers["exposure_time"], [1, 1.001, 1.002, 1.003])
        np.testing.assert_array_equal(headers["start_phi"], [0, 1, 2, 3])
        np.testing.assert_array_equal(headers["beam_x"], [500, 500, np.nan, 500])
        assert not {"start_omega", "end_omega", "end_phi"} & set(headers)  # 0 on all frames
        assert headers["acquired"].asstr()[0] == "2005-04-16T21:33:17"
        for name, item in headers.items():
            assert len(item) == 4
            assert item.attrs.get("units") == HEADER_FIELDS.get(name, (None, ""))[0]
            assert item.attrs["description"]
        assert (
            file["lauecollect"].attrs["comments"] == "Data collection log file\ndescription: a test"
        )
        assert file["lauecollect/file"].asstr()[...].tolist() == scan.names
        assert file["lauecollect/angle"].attrs["units"] == "deg"
        assert file["lauecollect/delay_2"].attrs["heading"] == "delay[s]"
        assert "skipped" not in file


def test_viewers_find_the_frames(scan: Scan) -> None:
    assert convert(scan.log).status == 0
    with h5py.File(scan.log.with_name("scan__mccd.h5")) as file:
        entry = file[file.attrs["default"]]
        data = entry[entry.attrs["default"]]
        assert [item.attrs["NX_class"] for item in (file, entry, data)] == [
            "NXroot",
            "NXentry",
            "NXdata",
        ]
        signal = data[data.attrs["signal"]]
        assert signal == file["frames"]
        for axis, length in zip(data.attrs["axes"], signal.shape, strict=True):
            assert data[axis].shape == (length,)
        assert data.attrs["angle_indices"] == 0
        np.testing.assert_array_equal(data["angle"], ANGLES)


@pytest.mark.skipif(not shutil.which("h5dump"), reason="h5dump is not installed")
def test_h5dump_reads_the_frames(scan: Scan, tmp_path: Path) -> None:
    assert convert(scan.log, "-o", tmp_path / "out.h5").status == 0
    dump = [
        "h5dump",
        "-d",
        "/frames",
        "-b",
        "LE",
        "-o",
        str(tmp_path / "frames.bin"),
        str(tmp_path / "out.h5"),
    ]
    subprocess.run(dump, check=True, capture_output=True)
    np.testing.assert_array_equal(
        np.fromfile(tmp_path / "frames.bin", "<u2").reshape(series().shape), series()
    )


@pytest.mark.parametrize("name", ["müll_1.mccd", "x\udcff_1.mccd"])
def test_names_in_any_encoding(name: str, tmp_path: Path) -> None:
    try:
        (tmp_path / name).write_bytes(marccd(series()[0]))
    except (OSError, UnicodeEncodeError):
        pytest.skip("this file system has no such names")
    assert (
        process("convert", tmp_path / name, "-o", tmp_path / "out.h5", name="gpu-spots").status == 0
    )
    with h5py.File(tmp_path / "out.h5") as file:
        assert (
            file["lauecollect/file"].asstr()[0] == name.encode(errors="backslashreplace").decode()
        )


def test_comments_longer_than_an_attribute_are_cut(tmp_path: Path) -> None:
    scan = write_scan(tmp_path, series(2), [0, 1], [0, 0])
    scan.log.write_text("# " + "ä" * 70_000 + "\n" + scan.log.read_text())
    assert convert(scan.log).status == 0
    with h5py.File(tmp_path / "scan__mccd.h5") as file:
        assert file["lauecollect"].attrs["comments"] == "ä" * 30_000


def test_metadata_of_no_use_is_warned_of(tmp_path: Path) -> None:
    scan = write_scan(tmp_path, series(4), [0, 1, 2, 3], [0, 1, 0, 1])
    scan.log.write_text(scan.log.read_text().replace("\t2.000\t", "\t-\t"))
    ended = convert(scan.log)
    assert ended.status == 0
    assert (
        ended.lines[0]
        == f"warning: {scan.log}: lauecollect/angle is 'nan' at frame 2, expected degrees"
    )


@pytest.mark.parametrize(
    ("angles", "laser", "words"),
    [
        ([0, 0, 1, 1], [0, 0, 0, 0], "2 angles, laser off"),
        ([0, 0, 1, 1], [1, 1, 1, 1], "2 angles, laser on"),
        ([0, 0, 0, 1], [0, 1, 0, 1], "2 angles, 1 off/on pair and 2 frames without a partner"),
        ([0, 0, 0, 0], [0, 1, 1, 0], "1 angle, 2 off/on pairs"),
    ],
)
def test_the_summary_says_what_the_metadata_tells(
    angles: list[float], laser: list[int], words: str, tmp_path: Path
) -> None:
    scan = write_scan(tmp_path, series(4), angles, laser)
    assert f"4 frames of 24 x 40, uint16, {words}, " in convert(scan.log).lines[-1]
