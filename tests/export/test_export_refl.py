"""DIALS reflection tables: bytes, columns, one frame per angle, and a reader of others."""

import json
import struct
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from factories.exports import edited, export, read_by, spots_of_run
from factories.image_runs import write_scan
from gpu_spots.errors import InputError, OutputError
from gpu_spots.export import refl
from gpu_spots.files.output.spots_file import SpotsFile
from gpu_spots.geometry import Geometry
from helpers import assert_refused, command, replaced

ELEMENTS = {
    "bool": ("?", 1),
    "int": ("<i4", 1),
    "std::size_t": ("<u8", 1),
    "double": ("<f8", 1),
    "int6": ("<i4", 6),
    "vec3<double>": ("<f8", 3),
}
"""Elements of DIALS' types of columns."""


def unpacked(data: bytes) -> Any:
    """Return what msgpack data mean, by the description of that format."""

    def text(at: int, length: int) -> tuple[str, int]:
        return data[at : at + length].decode(), at + length

    def item(at: int) -> tuple[Any, int]:
        head, at = data[at], at + 1
        if head < 0x80:
            return head, at
        if head < 0x90:
            return pairs(at, head & 0x0F)
        if head < 0xA0:
            return items(at, head & 0x0F)
        if head < 0xC0:
            return text(at, head & 0x1F)
        width = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD9: 1, 0xDE: 2}
        number = int.from_bytes(data[at : at + width[head]], "big")
        at += width[head]
        if head in (0xC4, 0xC5, 0xC6):
            return data[at : at + number], at + number
        if head == 0xD9:
            return text(at, number)
        return pairs(at, number) if head == 0xDE else (number, at)

    def items(at: int, n: int) -> tuple[list[Any], int]:
        found = []
        for _ in range(n):
            value, at = item(at)
            found.append(value)
        return found, at

    def pairs(at: int, n: int) -> tuple[dict[Any, Any], int]:
        flat, at = items(at, 2 * n)
        return dict(zip(flat[::2], flat[1::2], strict=True)), at

    value, end = item(0)
    assert end == len(data)
    return value


def columns_of(path: Path, identifiers: dict[int, str] | None = None) -> dict[str, np.ndarray]:
    """Columns of a reflection table, after a check of everything around them."""
    identifiers = {} if identifiers is None else identifiers
    kind, version, table = unpacked(path.read_bytes())
    assert (kind, version) == ("dials::af::reflection_table", 1)
    assert list(table) == ["identifiers", "nrows", "data"]
    assert table["identifiers"] == identifiers
    assert list(table["data"]) == sorted(table["data"])
    columns = {}
    for name, (type_name, (n_rows, values)) in table["data"].items():
        dtype, width = ELEMENTS[type_name]
        assert n_rows == table["nrows"]
        array = np.frombuffer(values, dtype)
        columns[name] = array.reshape(n_rows, width) if width > 1 else array
        assert len(columns[name]) == n_rows
    return columns


def test_columns_are_those_of_find_spots(spots: Path) -> None:
    path, notes = export("refl", spots)
    assert path == spots.with_name("run__strong.refl")
    found = columns_of(path)
    with h5py.File(spots) as file:
        table = {name: values[...] for name, values in file["spots"].items()}
    n_spots, frame, (X, Y) = len(table["I"]), table["frame"], table["XY"].T
    assert np.array_equal(
        found["xyzobs.px.value"], np.stack([Y + 0.5, X + 0.5, frame + 0.5], axis=1)
    )
    assert np.array_equal(found["xyzobs.px.variance"], np.full((n_spots, 3), 1 / 12))
    x0, x1, y0, y1 = table["box"].T
    assert np.array_equal(found["bbox"], np.stack([y0, y1, x0, x1, frame, frame + 1], axis=1))
    assert np.array_equal(found["intensity.sum.value"], table["I"])
    assert np.array_equal(found["intensity.sum.variance"], abs(table["I"]))
    assert np.array_equal(found["n_signal"], np.diff(table["pixel_list_BE"])[:, 0])
    assert (found["flags"] == 32).all()
    assert not found["id"].any()
    assert not found["panel"].any()
    for name in ("frame", "label", "mask"):
        assert np.array_equal(found[name], table[name])
    assert np.array_equal(found["laser_on"], frame % 2)
    assert np.array_equal(found["angle"], frame // 2 * 1.5)
    assert "angles repeat" in notes[0]
    assert "no spots/centroid" in notes[1]
    assert "no spots/sigma" in notes[2]


def test_the_bytes_of_a_small_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes are as in the description of the format, except values of the columns."""
    columns = {
        "id": ("int", np.array([0, 0])),
        "intensity.sum.value": ("double", np.array([1.5, -2.0])),
    }
    monkeypatch.setattr(refl, "_columns", lambda *_: columns)
    frames = np.zeros((20, 24, 40), np.uint16)
    frames[3, 5:9, 6:10] = frames[4, 5:9, 6:10] = 300
    spots = spots_of_run(tmp_path, "-S", "none", edit=replaced(frames=frames))
    expected = (
        b"\x93\xbbdials::af::reflection_table\x01\x83"
        b"\xabidentifiers\x80"
        b"\xa5nrows\x02"
        b"\xa4data\x82"
        b"\xa2id\x92\xa3int\x92\x02\xc4\x08" + bytes(8) + b"\xb3intensity.sum.value\x92\xa6double"
        b"\x92\x02\xc4\x10" + struct.pack("<dd", 1.5, -2.0)
    )
    assert export("refl", spots)[0].read_bytes() == expected


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (0, b"\x00"),
        (127, b"\x7f"),
        (128, b"\xcc\x80"),
        (256, b"\xcd\x01\x00"),
        (65536, b"\xce\x00\x01\x00\x00"),
        (2**32, b"\xcf\x00\x00\x00\x01\x00\x00\x00\x00"),
    ],
)
def test_integers_have_their_shortest_form(value: int, data: bytes) -> None:
    assert refl._integer(value) == data


def test_a_program_of_others_reads_the_table(spots: Path) -> None:
    """Msgpack as DIALS has it, by reciprocalspaceship; and packed again, it has the same bytes."""
    path, _ = export("refl", spots)
    found = read_by(
        "reciprocalspaceship.io.dials",
        """
import msgpack
it.print_refl_info(path)
pack = it._get_refl_pack(path)
for name in pack["data"]:
    found |= it.get_msgpack_data(pack["data"], name)
with open(path, "rb") as file:
    data = file.read()
found["same"] = msgpack.packb(msgpack.unpackb(data, strict_map_key=False)) == data
found["nrows"] = pack["nrows"]
""",
        path,
    )
    with h5py.File(spots) as file:
        intensity, (X, Y) = file["spots/I"][:], file["spots/XY"][:].T
        frame = file["spots/frame"][:]
    assert found["nrows"] == len(intensity)
    assert found["same"]
    assert np.array_equal(found["intensity.sum.value"], intensity)
    assert np.array_equal(found["xyzobs.px.value.0"], Y + 0.5)
    assert np.array_equal(found["xyzobs.px.value.1"], X + 0.5)
    assert np.array_equal(found["xyzobs.px.value.2"], frame + 0.5)


@pytest.mark.parametrize(("choice", "frames"), [("off", 0), ("on", 1), ("1", 0), ("2", 1)])
def test_one_frame_of_each_angle(spots: Path, choice: str, frames: int) -> None:
    path, notes = export("refl", spots, one_per_angle=choice)
    found = columns_of(path)
    with h5py.File(spots) as file:
        is_chosen = file["spots/frame"][:] % 2 == frames
        intensity = file["spots/I"][is_chosen]
    assert np.array_equal(found["intensity.sum.value"], intensity)
    assert np.array_equal(found["xyzobs.px.value"][:, 2], found["frame"] // 2 + 0.5)
    assert set(found["frame"] % 2) == {frames}
    expected = "10 of 20 frames, angles 0 to 13.5 degrees, step 1.5; column frame has"
    assert expected in notes[0]


def test_images_are_in_the_order_of_the_angles(tmp_path: Path) -> None:
    """An angle that comes back later is one angle; those without such a frame are left out."""
    angles = np.array([9, 3, 6, 3, 0, 0, *range(20, 34)], float)
    laser = np.array([0, 1, 0, 0, 1, 0, *([0] * 13), 1])
    spots = spots_of_run(
        tmp_path, edit=replaced(lauecollect_angle=angles, lauecollect_laser_on=laser)
    )
    path, notes = export("refl", spots, one_per_angle="off")
    found = columns_of(path)
    order = [5, 3, 2, 0, *range(6, 19)]
    by_image = dict(zip(found["xyzobs.px.value"][:, 2] - 0.5, found["frame"], strict=True))
    assert by_image == {i: frame for i, frame in enumerate(order) if i in by_image}
    assert len(by_image) > 10
    assert "17 of 20 frames, angles 0 to 32 degrees; " in notes[0]
    assert "steps between the angles differ (1 to 11 degrees)" in notes[1]
    assert notes[2] == "1 angle without such a frame is left out"


@pytest.mark.parametrize(
    ("edits", "choice", "words"),
    [
        ({"lauecollect_angle": None}, "off", "lauecollect/angle is missing"),
        ({"lauecollect_angle": np.full(20, np.nan)}, "off", "angle is 'nan' at frame 0"),
        ({"lauecollect_laser_on": None}, "on", "laser states are unknown"),
        ({"lauecollect_laser_on": np.zeros(20, int)}, "on", "no frame is left by one_per_angle"),
        ({}, "3", "no frame is left"),
    ],
)
def test_a_choice_that_the_run_does_not_have_is_an_error(
    spots: Path, edits: dict[str, Any], choice: str, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        export("refl", edited(spots, **edits), one_per_angle=choice)
    assert sorted(path.name for path in spots.parent.iterdir()) == [
        "run__mccd.h5",
        "run__spots.h5",
    ]


def test_centroids_errors_and_overloads_are_used(
    spots: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Columns that newer spots files have, with names as the table gives them."""
    rng = np.random.default_rng(3)
    with h5py.File(spots) as file:
        n_spots = len(file["spots/I"])
    new = {
        name: rng.random(n_spots)
        for name in ("centroid_X", "centroid_Y", "centroid_sigma_X", "centroid_sigma_Y", "sigma")
    }
    new["flags"] = rng.integers(0, 9, n_spots, np.uint32)
    new["overload"] = rng.integers(0, 2, n_spots, np.int32)
    plain = SpotsFile.spot_columns
    monkeypatch.setattr(SpotsFile, "spot_columns", lambda self, *_: {**plain(self), **new})
    path, notes = export("refl", spots, one_per_angle="off")
    found = columns_of(path)
    rows = np.isin(new["sigma"], found["sigma"])
    assert rows.sum() == len(found["id"])
    mine = {name: values[rows] for name, values in new.items()}
    assert np.array_equal(found["xyzobs.px.value"][:, 0], mine["centroid_Y"] + 0.5)
    assert np.array_equal(found["xyzobs.px.value"][:, 1], mine["centroid_X"] + 0.5)
    assert np.array_equal(found["xyzobs.px.variance"][:, 0], 1 / 12 + mine["centroid_sigma_Y"] ** 2)
    assert np.array_equal(found["xyzobs.px.variance"][:, 1], 1 / 12 + mine["centroid_sigma_X"] ** 2)
    assert np.array_equal(found["intensity.sum.variance"], mine["sigma"] ** 2)
    assert np.array_equal(found["flags"], 32 + 1024 * (mine["overload"] > 0))
    assert np.array_equal(found["spots.flags"], mine["flags"])
    assert len(notes) == 1


def test_a_table_without_rows(tmp_path: Path) -> None:
    spots = spots_of_run(tmp_path, "-c", 1000, "-S", "none")
    found = columns_of(export("refl", spots)[0])
    assert found["xyzobs.px.value"].shape == (0, 3)


def test_a_column_that_is_too_large_is_an_error(
    spots: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refl, "LARGEST", 100)
    with pytest.raises(OutputError, match=r"column X has \d+ bytes, expected at most 100"):
        export("refl", spots)
    assert not spots.with_name("run__strong.refl").exists()


GEOMETRY = Geometry(120.0, (0.1, 0.2), (11.5, 19.0), (1.02, 1.08))
ON_COMMAND_LINE = ("--distance", 120, "--pixel-size", "0.1,0.2", "--beam-centre", "11.5,19")


def experiment_of(path: Path) -> Any:
    """The experiment list, and its single experiment with its models in the place of indices."""
    whole = json.loads(path.read_text())
    assert whole["__id__"] == "ExperimentList"
    (one,) = whole["experiment"]
    return {name: whole[name][at] if at == 0 else at for name, at in one.items()}


def test_an_experiment_is_written_beside_the_table(spots: Path) -> None:
    path, notes = export("refl", spots, one_per_angle="off", geometry=GEOMETRY)
    one = experiment_of(spots.with_name("run__strong.expt"))
    columns = columns_of(path, {0: one["identifier"]})
    assert uuid.UUID(one["identifier"])
    assert one["scan"]["image_range"] == [1, 10]
    assert one["scan"]["oscillation"] == [0.0, 1.5]
    assert one["beam"]["wavelength_range"] == [1.02, 1.08]
    assert one["imageset"]["single_file_indices"] == list(range(0, 20, 2))
    assert one["imageset"]["template"] == str(spots.with_name("run__mccd.h5"))
    assert any("rotation_axis 1,0,0" in note for note in notes)
    # a place on the panel, as dxtbx computes it, has the scattering angle of the geometry
    (panel,) = one["detector"]["panels"]
    assert panel["image_size"] == [40, 24]
    fast, slow, origin = (np.array(panel[n]) for n in ("fast_axis", "slow_axis", "origin"))
    px = columns["xyzobs.px.value"][:, :2] * panel["pixel_size"]
    lab = origin + px[:, :1] * fast + px[:, 1:] * slow
    beam = -np.array(one["beam"]["direction"])
    angle = np.arccos(lab @ beam / np.linalg.norm(lab, axis=1))
    expected = GEOMETRY.sin_theta(columns["xyzobs.px.value"][:, 1] - 0.5, px[:, 0] / 0.2 - 0.5)
    np.testing.assert_allclose(np.sin(angle / 2), expected, rtol=1e-9)
    assert len(expected) > 10
    # the same file again, from the command line
    before = spots.with_name("run__strong.expt").read_bytes()
    given = (*ON_COMMAND_LINE, "--wavelength", "1.02,1.08", "--one-per-angle", "off", "--force")
    assert command("export", "refl", spots, *given, name="gpu-spots").status == 0
    assert spots.with_name("run__strong.expt").read_bytes() == before


def test_the_experiment_of_images_has_their_template(tmp_path: Path) -> None:
    frames = np.random.default_rng(1).poisson(50, (6, 24, 40)).astype(np.uint16)
    scan = write_scan(tmp_path, frames, np.arange(6), np.zeros(6, int))
    paths = []
    for number, path in enumerate(scan.paths, 1):
        paths.append(path.rename(path.with_name(f"still_{number:03}.mccd")))
    spots = tmp_path / "still__spots.h5"
    given = ("--angle-step", 1, "-o", spots, "--quiet", "-a", 0)
    assert command(*paths, *given).status == 0
    export("refl", spots, geometry=replace(GEOMETRY, wavelength=(1.0, 1.0)))
    one = experiment_of(tmp_path / "still__strong.expt")
    assert one["imageset"]["template"] == str(tmp_path / "xray_images/still_###.mccd")
    assert one["beam"]["wavelength"] == 1.0
    names = [path.name for path in paths]
    names[0] = paths[0].rename(paths[0].with_name("first.mccd")).name
    edited(spots, lauecollect_file=names)
    _, notes = export("refl", spots, tmp_path / "b.refl", geometry=GEOMETRY)
    template = str(tmp_path / "b_images/image_####.mccd")
    assert experiment_of(tmp_path / "b.expt")["imageset"]["template"] == template
    assert any(f"link them as {template}, from 1" in note for note in notes)
    edited(spots, lauecollect_file=["no.mccd", *names[1:]])
    with pytest.raises(InputError, match="its frames are not found"):
        export("refl", spots, tmp_path / "c.refl", geometry=GEOMETRY)
    assert not (tmp_path / "c.refl").exists()
    assert not (tmp_path / "c.expt").exists()


def test_frames_that_are_no_scan_have_no_experiment(spots: Path) -> None:
    before = sorted(spots.parent.iterdir())
    with pytest.raises(InputError, match=r"found steps of 0 to 1.5 degrees, expected a scan"):
        export("refl", spots, geometry=GEOMETRY)
    edited(spots, lauecollect_angle=None)
    with pytest.raises(InputError, match="angles are unknown"):
        export("refl", spots, geometry=GEOMETRY)
    assert sorted(spots.parent.iterdir()) == before


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (ON_COMMAND_LINE, "--wavelength: is missing; a geometry needs it with --distance"),
        ((*ON_COMMAND_LINE, "--wavelength", "x"), "'x', expected one or two in Angstrom"),
        ((*ON_COMMAND_LINE, "--wavelength", "1.1,1"), "1.1,1.0: the smaller one comes first"),
        ((*ON_COMMAND_LINE, "--wavelength", "0"), "0.0 is not above 0"),
        ((*ON_COMMAND_LINE, "--wavelength", "nan"), "'nan', expected one or two"),
        (("--beam-centre", "5", "--distance", 1), "--pixel-size: is missing"),
    ],
)
def test_a_geometry_that_is_not_whole_is_refused(
    spots: Path, given: tuple[object, ...], words: str
) -> None:
    ended = command("export", "refl", spots, "--quiet", *given, name="gpu-spots")
    assert_refused(ended, 2, words)
    assert not spots.with_name("run__strong.refl").exists()


def test_a_geometry_is_for_refl_only(spots: Path) -> None:
    given = (*ON_COMMAND_LINE, "--wavelength", "1")
    ended = command("export", "csv", spots, "--quiet", *given, name="gpu-spots")
    assert_refused(ended, 2, "--distance: cannot be used with csv; it is for refl")


def test_table_and_experiment_have_different_names(spots: Path) -> None:
    with pytest.raises(OutputError, match=r"x.expt: two outputs have the same name; .*x.refl"):
        export("refl", spots, spots.with_name("x.expt"), one_per_angle="off", geometry=GEOMETRY)


def test_an_experiment_that_exists_is_kept(spots: Path) -> None:
    other = spots.with_name("run__strong.expt")
    other.write_text("mine")
    with pytest.raises(OutputError, match=r"run__strong.expt: already exists"):
        export("refl", spots, one_per_angle="off", geometry=GEOMETRY)
    assert other.read_text() == "mine"
    assert not spots.with_name("run__strong.refl").exists()
