"""Miller indices of ratios from tables of several kinds, and the files of LaueUtil made of them."""

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import gpu_spots
from factories.exports import export, spots_of_run
from gpu_spots import Geometry, GpuSpotsError, UnitCell, open_spots
from gpu_spots.errors import InputError
from gpu_spots.files.hkl_table import read_hkl
from gpu_spots.spots.ratios import Rejected, wilson
from helpers import assert_refused, command, listing

GEOMETRY = Geometry(60.0, (0.1, 0.1), (12.0, 20.0), (1.0, 1.1))
ON_COMMAND_LINE = ("--distance", 60, "--pixel-size", 0.1, "--beam-centre", "12,20")


@pytest.fixture(scope="module")
def _blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return spots_of_run(tmp_path_factory.mktemp("hkl"), "-S", "blocks")


@pytest.fixture
def spots(_blocks: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(_blocks, tmp_path))


def indexed(spots: Path) -> dict[str, np.ndarray]:
    """Columns of the table of spots, with indices that follow from mask and label."""
    with open_spots(spots) as results:
        columns = dict(results.spot_columns())
        columns["angle"] = results.per_frame()["angle"][columns["frame"]]
    columns["spot"] = np.arange(len(columns["I"]))
    columns["h"], columns["k"] = columns["label"], -1 - columns["mask"].astype(int)
    columns["l"] = 2 * columns["label"]
    if "centroid_X" in columns:
        for name in "XY":
            centre = columns[f"centroid_{name}"]
            columns[name] = np.where(np.isfinite(centre), centre, columns[name])
    return columns


def table(path: Path, columns: dict[str, np.ndarray], *names: str) -> Path:
    lines = [",".join(names)]
    rows = zip(*(columns[name].tolist() for name in names), strict=True)
    lines += [",".join(map(str, row)) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


def with_hkl(found: gpu_spots.spots.ratios.RatioResult) -> np.ndarray:
    return np.stack([found.ratios[name] for name in "hkl"], axis=1)


@pytest.mark.parametrize(
    "keys",
    [
        ("spot",),
        ("frame", "label"),
        ("mask", "label"),
        ("frame", "X", "Y"),
        ("angle", "X", "Y"),
    ],
)
def test_every_key_finds_the_spots(spots: Path, keys: tuple[str, ...]) -> None:
    hkl = table(spots.with_name("hkl.csv"), indexed(spots), *keys, "h", "k", "l")
    found = gpu_spots.ratios(spots, hkl=hkl)
    plain = gpu_spots.ratios(spots)
    expected = np.stack(
        [
            plain.ratios["label"],
            -1 - plain.ratios["mask"],
            2 * plain.ratios["label"],
        ],
        axis=1,
    )
    assert len(expected) > 5
    assert np.array_equal(with_hkl(found), expected)
    assert np.isnan(found.ratios["wavelength"]).all()
    for name, values in plain.ratios.items():
        np.testing.assert_array_equal(found.ratios[name], values)


def packed(value: Any) -> bytes:
    """Msgpack of what a reflection table is made of, in its long forms."""
    if isinstance(value, dict):
        parts = [packed(part) for pair in value.items() for part in pair]
        return b"\xdf" + struct.pack(">I", len(value)) + b"".join(parts)
    if isinstance(value, list):
        return b"\xdd" + struct.pack(">I", len(value)) + b"".join(map(packed, value))
    if isinstance(value, str):
        return b"\xda" + struct.pack(">H", len(value)) + value.encode()
    if isinstance(value, bytes):
        return b"\xc6" + struct.pack(">I", len(value)) + value
    return b"\xcf" + struct.pack(">Q", value)


def reflections(path: Path, columns: dict[str, np.ndarray]) -> Path:
    """A reflection table as an indexing program leaves it; it keeps other columns."""
    hkl = np.stack([columns[name] for name in "hkl"], axis=1).astype("<i4")
    n = len(hkl)
    data = {
        "Wavelength": ["double", [n, np.full(n, 1.05, "<f8").tobytes()]],
        "frame": ["int", [n, columns["frame"].astype("<i4").tobytes()]],
        "label": ["int", [n, columns["label"].astype("<i4").tobytes()]],
        "miller_index": ["cctbx::miller::index<>", [n, hkl.tobytes()]],
        "s1": ["vec3<double>", [n, np.zeros((n, 3)).tobytes()]],
    }
    whole = {"identifiers": {0: "x"}, "nrows": n, "data": data}
    path.write_bytes(packed(["dials::af::reflection_table", 1, whole]))
    return path


def test_an_indexed_table_of_dials_is_read(spots: Path) -> None:
    columns = indexed(spots)
    some = np.flatnonzero(columns["frame"] % 2 == 0)  # one frame of each mask is enough
    columns = {name: values[some] for name, values in columns.items()}
    columns["h"][0] = columns["k"][0] = columns["l"][0] = 0  # not indexed
    path = reflections(spots.with_name("indexed.refl"), columns)
    found = gpu_spots.ratios(spots, hkl=path)
    is_known = found.ratios["h"] != 0
    assert is_known.sum() == len(is_known) - 1
    assert np.array_equal(with_hkl(found)[is_known, 0], found.ratios["label"][is_known])
    assert (found.ratios["wavelength"][is_known] == 1.05).all()
    assert any(f"{is_known.sum()} of {len(is_known)} reflections have" in n for n in found.notes)


def fits(folder: Path, columns: dict[str, np.ndarray], title: str) -> Path:
    """Files as LaueTools writes them: two grains, of which the second is on the last frame only."""
    folder.mkdir()
    for frame in np.unique(columns["frame"]).tolist():
        lines = ["#Strain and Orientation Refinement", "#Number of indexed spots: 9", title]
        for row in np.flatnonzero(columns["frame"] == frame).tolist():
            h, k, l, X, Y = (float(columns[name][row]) for name in ("h", "k", "l", "X", "Y"))  # noqa: E741
            numbers = {"h": h, "k": k, "l": l, "Xexp": Y + 1, "Yexp": X + 1}
            numbers |= {"Energy": 12.398419843 / 1.05, "energy(keV)": 12.398419843 / 1.05}
            lines.append(
                " ".join(f"{numbers.get(name, 7.0):f}" for name in title.lstrip("#").split())
            )
        lines += ["#UB matrix in q= (UB) B0 G*", "#[[-0.2 0.1 0.9]", "#pixelsize", "#0.0734", ""]
        grain = "_g0" if frame % 2 else ""
        (folder / f"run_{frame:04}_LT_0{grain}.fit").write_text("\n".join(lines))
    return folder


@pytest.mark.parametrize(
    "title",
    [
        "##spot_index intensity h k l 2theta Chi Xexp Yexp Energy GrainIndex PixDev",
        "##spot_index Intensity h k l pixDev energy(keV) Xexp Yexp 2theta_exp chi_exp Xtheo Ytheo",
        "#spot_index Itot h k l Xtheo Ytheo Xexp Yexp XdevCalib chi_theo Energy PeakAmplitude Imax",
    ],
)
def test_files_of_lauetools_are_read(spots: Path, title: str) -> None:
    folder = fits(spots.with_name("fit"), indexed(spots), title)
    found = gpu_spots.ratios(spots, hkl=folder)
    assert np.array_equal(found.ratios["h"], found.ratios["label"])
    np.testing.assert_allclose(found.ratios["wavelength"], 1.05, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        (None, "", "has no .fit files"),
        ("other_0001_LT_0.fit", "##spot_index h k l Xexp Yexp\n", "belongs to no frame of the run"),
        ("run_0001_LT_0.fit", "#nothing\n", "has no line that begins with #spot_index"),
        (
            "run_0001.fit",
            "##spot_index h k l Xexp\n0 1 1 1 5\n",
            "line 2 has not h, k, l, Xexp and",
        ),
        ("run_0001.fit", "##spot_index h k l Xexp Yexp\n0 1 1 1\n", "line 2 has not h, k, l"),
    ],
)
def test_folders_that_cannot_be_used(spots: Path, name: str | None, text: str, words: str) -> None:
    folder = spots.with_name("fit")
    folder.mkdir()
    if name:
        (folder / name).write_text(text)
    assert_refused(command("ratios", spots, "--hkl", folder, name="gpu-spots"), 1, words)


def test_the_exported_table_has_what_the_way_back_needs(spots: Path) -> None:
    path, _ = export("refl", spots)
    with pytest.raises(InputError, match="has no column miller_index, expected the table that"):
        read_hkl(path)


def test_spots_with_different_indices_are_unknown(spots: Path) -> None:
    columns = indexed(spots)
    columns["h"] = columns["h"].copy()
    columns["h"][0] += 1
    hkl = table(spots.with_name("hkl.csv"), columns, "frame", "label", "h", "k", "l")
    found = gpu_spots.ratios(spots, hkl=hkl)
    assert (~with_hkl(found).any(axis=1)).sum() == 1
    assert any("1 spots have different Miller indices" in note for note in found.notes)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("frame,label,h,k\n0,1,1,1\n", "has no column l"),
        ("h,k,l\n1,1,1\n", "nothing says which spot a row is about"),
        ("frame,label,h,k,l\n0,1,1,1,x\n", "column l has 'x', expected numbers only"),
        ("frame,label,h,k,l\n0,1,1,1,0.5\n", "expected whole numbers"),
        ("frame,label,h,k,l\n0,1,1,1,99999\n", "expected whole numbers up to 32767"),
        ("frame,label,h,k,l\n0.5,1,1,1,1\n", "column frame has other values"),
        ("frame,x,y,h,k,l\n0,nan,1,1,1,1\n", "column x has other values, expected finite"),
        ("spot,h,k,l\n100000,1,1,1\n", "expected rows of the table of spots"),
        ("frame,label,h,k,l\n100,1,1,1,1\n", "none of its 1 indexed rows belongs to a spot"),
        ("frame,label,h,k,l\n0,1,0,0,0\n", "none of its 0 indexed rows belongs to a spot"),
        ("frame,x,y,h,k,l\n0,500,500,1,1,1\n", "none of its 1 indexed rows belongs to a spot"),
        ("", "has no table"),
    ],
)
def test_tables_that_cannot_be_used(spots: Path, text: str, words: str) -> None:
    hkl = spots.with_name("hkl.csv")
    hkl.write_text(text)
    before = listing(spots.parent)
    ended = command("ratios", spots, "--hkl", hkl, name="gpu-spots")
    assert_refused(ended, 1, "hkl.csv", words)
    assert listing(spots.parent) == before


@pytest.mark.parametrize("damage", ["cut", "kind", "text", "missing", "deep", "length"])
def test_reflection_tables_that_cannot_be_used(spots: Path, damage: str) -> None:
    path = reflections(spots.with_name("indexed.refl"), indexed(spots))
    content = path.read_bytes()
    changed = {
        "cut": content[:-7],
        "kind": packed(["dials::af::other", 1, {}]),
        "text": b"#  sc  fc\n1 2\n",
        "missing": b"",
        "deep": b"\x91" * 1000,
        "length": content.replace(b"nrows" + b"\xcf" + bytes(7), b"nrows" + b"\xcf\x01" + bytes(6)),
    }
    assert changed[damage] != content
    path.write_bytes(changed[damage])
    ended = command("ratios", spots, "--hkl", path, name="gpu-spots")
    assert_refused(ended, 1, "indexed.refl: is damaged, or not a DIALS reflection table")


def test_files_of_laueutil(spots: Path) -> None:
    """Every line against the formats, written here again by plain loops."""
    columns = indexed(spots)
    columns["wavelength"] = np.full(len(columns["h"]), 1.05)
    hkl = table(spots.with_name("hkl.csv"), columns, "frame", "label", "h", "k", "l", "wavelength")
    ended = command(
        "ratios", spots, "--hkl", hkl, "--laueutil", spots.with_name("R"), *ON_COMMAND_LINE,
        "--wavelength", "1,1.1", name="gpu-spots",
    )  # fmt: skip
    assert ended.status == 0, ended
    found = gpu_spots.ratios(spots, hkl=hkl, geometry=GEOMETRY)
    ratio, pairs = found.ratios, found.pairs
    with h5py.File(spots) as file:
        XY = file["spots/XY"][:]
    lines = spots.with_name("R.txt").read_text().splitlines()
    assert lines.pop(0) == (
        " fr1 fr2    h    k    l     phi   sin_t  lambda      int1      int2     ratio"
        " X_fr1 Y_fr1 X_fr2 Y_fr2"
    )
    expected, n_bad = [], 0
    for j, r in enumerate(pairs["ratio"]):
        off, on = pairs["I_off"][j], pairs["I_on"][j]
        if pairs["rejected"][j] != Rejected.USED or not (off > 0 and on > 0):
            n_bad += 1
            continue
        first, second = XY[pairs["spot_off"][j]], XY[pairs["spot_on"][j]]
        away = np.hypot((ratio["X"][r] - 12) * 0.1, (ratio["Y"][r] - 20) * 0.1)
        sint = np.sin(np.arctan(away / 60) / 2)
        expected.append(
            f"{pairs['frame_off'][j]:4d}{pairs['frame_on'][j]:4d}{ratio['h'][r]:5d}"
            f"{ratio['k'][r]:5d}{ratio['l'][r]:5d}{ratio['angle'][r]:8.3f}{sint:8.5f}{1.05:8.5f}"
            f"{off:10.3f}{on:10.3f}{on / off:10.3f}"
            f"{first[0]:6d}{first[1]:6d}{second[0]:6d}{second[1]:6d}"
        )
    assert lines == expected
    assert len(lines) > 5
    single = np.isfinite(ratio["std_R"])
    assert spots.with_name("R.hkl").read_text().splitlines() == [
        f"{h:5d}{k:5d}{l:5d}{R:15.7f}{std:15.7f}    1"
        for h, k, l, R, std in zip(  # noqa: E741
            *(ratio[name][single] for name in ("h", "k", "l", "mean_R", "std_R")), strict=True
        )
    ]
    head, *rows = spots.with_name("R.m91").read_text().splitlines()
    assert head.split() == ["h", "k", "l", "Ioff", "sig(Ioff)", "Ion", "sig(Ion)", "eta",
                            "sig(eta)", "bn"]  # fmt: skip
    values = np.array([row.split() for row in rows], float)
    good = np.isfinite(ratio["sigma_R"])
    np.testing.assert_allclose(values[:, 3], ratio["I_off"][good], atol=6e-4)
    np.testing.assert_allclose(values[:, 7], ratio["eta"][good], atol=6e-7)
    assert {len(row) for row in rows} == {len(head)}
    with h5py.File(spots.with_name("R.h5")) as file:
        group = file["I_pairs"]
        assert group["hkl"].dtype == np.int16
        assert group["XY1"].shape == (len(lines), 2)
        np.testing.assert_array_equal(group["R"], group["I2"][:] / group["I1"][:])
        assert "delay" not in group


def test_delays_are_nanoseconds_in_the_files_of_laueutil(spots: Path) -> None:
    hkl = table(spots.with_name("hkl.csv"), indexed(spots), "spot", "h", "k", "l")
    with h5py.File(spots, "r+") as file:
        on = file["per_frame/laser_on"][:] == 1
        file["per_frame/delay"][...] = np.where(on, 2.5e-8, 0)
    found = gpu_spots.ratios(spots, hkl=hkl, laueutil=spots.with_name("R"))
    head, first, *_ = spots.with_name("R.txt").read_text().splitlines()
    assert "     phi   delay   sin_t" in head
    assert first[31:55] == "  25.000 0.00000 0.00000"
    assert any("sin(theta) or wavelengths are unknown, and 0 in R.txt" in n for n in found.notes)


def test_wavelengths_follow_from_cell_and_geometry(spots: Path) -> None:
    hkl = table(spots.with_name("hkl.csv"), indexed(spots), "spot", "h", "k", "l")
    cell = UnitCell(10.0, 11.0, 12.0, 90.0, 100.0, 90.0)
    found = gpu_spots.ratios(spots, hkl=hkl, geometry=GEOMETRY, cell=cell)
    half = cell.inverse_d(with_hkl(found)) / 2
    np.testing.assert_allclose(found.ratios["s"], half)
    sine = GEOMETRY.sin_theta(found.ratios["X"], found.ratios["Y"])
    np.testing.assert_allclose(found.ratios["wavelength"], sine / half)
    # 1/d of a monoclinic cell by its textbook formula
    h, k, l = with_hkl(found).T.astype(float)  # noqa: E741
    beta = np.radians(100.0)
    square = (h / 10) ** 2 + (l / 12) ** 2 - 2 * h * l * np.cos(beta) / 120
    square = square / np.sin(beta) ** 2 + (k / 11) ** 2
    np.testing.assert_allclose(2 * half, np.sqrt(square))
    plain = gpu_spots.ratios(spots, geometry=GEOMETRY)
    np.testing.assert_allclose(plain.ratios["s"], sine / 1.05)
    assert "h" not in plain.ratios


def test_photo_wilson_is_printed_stored_and_drawn(
    spots: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the spots of this run have one pair each, and large errors
    monkeypatch.setattr(wilson, "LARGEST_ERROR", 10.0)
    plot = spots.with_name("ratios.png")
    given = (*ON_COMMAND_LINE, "--wavelength", "1,1.1", "--plot", plot)
    ended = command("ratios", spots, *given, name="gpu-spots")
    assert ended.status == 0, ended
    assert "photo-Wilson" in ended.stdout
    assert "delta B = " in ended.stdout
    assert plot.read_bytes().startswith(b"\x89PNG")
    with h5py.File(spots.with_name("run__ratios.h5")) as file:
        assert file["ratios/s"].attrs["units"] == "1/Angstrom"
        assert np.isfinite(file["null"].attrs["photo-Wilson_0_delta_B"])
        assert file["info"].attrs["distance"] == 60
    ended = command("ratios", spots, *given[:-2], "--json", "--force", name="gpu-spots")
    assert json.loads(ended.stdout)["photo-Wilson"][0]["n"] > 5


@pytest.mark.parametrize(
    ("given", "status", "words"),
    [
        (("--laueutil", "R"), 2, "--laueutil: needs Miller indices; give them with --hkl"),
        (("--cell", "10,10,10"), 2, "--cell: needs Miller indices; give them with --hkl"),
        (("--cell", "10,10"), 2, "--cell: '10,10', expected a,b,c or a,b,c,alpha,beta,gamma"),
        (("--cell", "10,10,-1"), 2, "lengths are above 0"),
        (("--cell", "5,5,5,10,10,170"), 2, "these angles make no cell"),
        (("--distance", "60"), 2, "--pixel-size: is missing; a geometry needs it with --distance"),
        (("--hkl", "none.csv"), 1, "none.csv"),
    ],
)
def test_options_that_do_not_go_together(
    spots: Path, given: tuple[str, ...], status: int, words: str
) -> None:
    before = listing(spots.parent)
    ended = command("ratios", spots, *given, name="gpu-spots")
    assert_refused(ended, status, words)
    assert listing(spots.parent) == before


def test_files_of_laueutil_are_not_overwritten(spots: Path) -> None:
    hkl = table(spots.with_name("hkl.csv"), indexed(spots), "spot", "h", "k", "l")
    spots.with_name("R.m91").write_text("mine")
    before = listing(spots.parent)
    for more in ((), ("-o", spots.with_name("R.h5"))):
        ended = command(
            "ratios", spots, "--hkl", hkl, "--laueutil", spots.with_name("R"), *more,
            name="gpu-spots",
        )  # fmt: skip
        assert_refused(ended, 2 if more else 1, "R.h5: two" if more else "R.m91: already exists")
    assert listing(spots.parent) == before
    with pytest.raises(GpuSpotsError, match="two outputs have the same name"):
        gpu_spots.ratios(spots, spots.with_name("R.h5"), hkl=hkl, laueutil=spots.with_name("R"))
