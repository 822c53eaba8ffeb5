"""Masks, ranges and regions that users give; what does not count is in no mask."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from factories.detectors import bad_pixels, limits_of
from factories.layouts_data import (
    ANGLES,
    N_FRAMES,
    SHAPE,
    STATES,
    frames_of,
    write_anything,
    write_cxi,
    write_dectris,
    write_nexus,
)
from gpu_spots import Parameters, find_spots
from gpu_spots.backend import Backend
from gpu_spots.errors import InputError, ParameterError
from gpu_spots.files.frames import open_run
from gpu_spots.files.opening import open_stack
from gpu_spots.files.pixel_masks import KINDS, read_mask
from gpu_spots.inputs import Inputs, parse_range
from gpu_spots.regions import in_any, region
from gpu_spots.resources import Resources
from gpu_spots.run import Output, find_in_memory
from helpers import Notes, assert_refused, command

# ----------------------------------------------------------------------- nothing bad is in any mask


@pytest.mark.parametrize("sync", ["none", "pairs", "blocks"])
def test_masked_and_sentinel_pixels_are_in_no_mask(
    backend: Backend, sync: str, tmp_path: Path
) -> None:
    """Return frames with pixels that are bad on all frames, and others on some."""
    rng = np.random.default_rng(5)
    frames, bad = frames_of(), bad_pixels()
    frames[:, bad] = rng.integers(0, 60000, (N_FRAMES, int(bad.sum())))
    sentinel = rng.random(frames.shape) < 0.03
    frames[sentinel] = rng.choice([65534, 65535], int(sentinel.sum()))
    detector = {"pixel_mask": bad.astype(np.uint32) << 1}
    path = write_dectris(
        tmp_path / "run_master.h5",
        frames,
        detector=detector,
        edit=lambda f: f.create_dataset("laser", data=STATES),
    )
    options = Inputs(laser_path="laser")
    parameters = Parameters.manual(sync=sync, erosions=0, dilations=0, cutoff=1.0)
    with (
        open_run(path, options) as stack,
        find_in_memory(stack, parameters, Resources(backend), Output(), Notes()) as found,
    ):
        for frame in range(N_FRAMES):
            for kind in ("raw", "filtered") if sync == "none" else ("raw", "filtered", "synced"):
                mask = found.mask(frame, kind)
                assert mask.any()
                assert not mask[bad].any(), kind
                assert not mask[sentinel[frame]].any(), kind
        for name in ("avg", "std", "iqr", "max", "arg"):
            assert not getattr(found, name)[bad].any(), name
        assert found.max.max() < 65534
        inputs = Inputs(
            valid_range=(None, 65533),
            columns={"angle": ANGLES, "laser_on": STATES},
            valid_pixels=~bad,
        )
        with (
            open_stack(np.where(sentinel, 65535, frames), inputs, Notes(), 1) as same,
            find_in_memory(same, parameters, Resources(backend), Output(), Notes()) as expected,
        ):
            for name in ("avg", "std", "iqr", "max", "arg", "threshold"):
                assert np.array_equal(getattr(found, name), getattr(expected, name)), name
            for name, values in expected.spots().items():
                is_float = values.dtype.kind == "f"
                assert np.array_equal(found.spots()[name], values, equal_nan=is_float), name
            assert found.n_spots > 100


def test_rejected_regions_are_in_no_mask(backend: Backend) -> None:
    frames = frames_of()
    regions = (region("rect:3,9,5,20"), region("disc:15,30,4.5"), region("border:2"))
    inputs = Inputs(reject=regions, columns={"angle": ANGLES})
    parameters, rejected = (
        Parameters.manual(erosions=0, dilations=1, cutoff=1.0),
        in_any(regions, SHAPE),
    )
    with (
        open_stack(frames, inputs, Notes(), 1) as stack,
        find_in_memory(stack, parameters, Resources(backend), Output(), Notes()) as found,
    ):
        for frame in range(N_FRAMES):
            assert not found.mask(frame)[rejected].any()
            assert found.mask(frame)[~rejected].any()
        assert not found.avg[rejected].any()
        assert found.avg[~rejected].all()


def test_saturated_pixels_stay_in_spots_and_are_counted(backend: Backend, tmp_path: Path) -> None:
    frames = frames_of()
    x, y = np.argwhere(frames[4] == 200)[5]
    frames[4, x, y] = 900
    path = write_nexus(tmp_path / "run.h5", frames, detector={"saturation_value": 900})
    for options, overloaded in (
        (Inputs(), 1),
        (Inputs(saturation=200), 16),
        (Inputs(saturation=901, valid_range=(0, 999)), 0),
    ):
        with (
            open_run(path, options) as stack,
            find_in_memory(
                stack, Parameters.manual(), Resources(backend), Output(), Notes()
            ) as found,
        ):
            spots = found.spots(4)
            assert found.mask(4)[x, y]
            assert spots["overload"].sum() == overloaded
            assert found.mask(4).sum() > 16


# ------------------------------------------------------------------------------- what the user says


def written(folder: Path, kind: str, values: np.ndarray) -> str:
    """A mask in a file of that kind, as ``--mask`` names it."""
    path = folder / f"mask.{kind}"
    if kind == "h5":
        with h5py.File(path, "w") as file:
            file["some/where"], file["else"] = values, np.zeros((3, 3))
        return f"{path}:some/where"
    if kind == "npy":
        np.save(path, values)
    elif kind == "tif":
        pytest.importorskip("fabio.tifimage").TifImage(data=values).write(str(path))
    else:
        pytest.importorskip("fabio.edfimage").EdfImage(data=values).write(str(path))
    return str(path)


@pytest.mark.parametrize("kind", ["h5", "npy", "tif", "edf"])
@pytest.mark.parametrize("good", [0, 1])
def test_masks_of_every_kind(kind: str, good: int, tmp_path: Path) -> None:
    bad = bad_pixels()
    values = np.where(bad == (good == 0), 3, 0).astype(np.int8 if kind == "edf" else np.uint8)
    text = written(tmp_path, kind, values)
    assert np.array_equal(read_mask(text, good, SHAPE), ~bad)
    path = write_anything(tmp_path / "run.h5")
    assert (
        command(
            path, "--mask", text, "--mask-good", good, "--quiet", "-o", tmp_path / "out.h5"
        ).status
        == 0
    )
    with h5py.File(tmp_path / "out.h5") as file:
        info = file["info"].attrs
        assert (info["mask"], info["mask_good"], info["mask_pixels"], info["masked_pixels"]) == (
            text,
            good,
            bad.sum(),
            bad.sum(),
        )
        assert np.array_equal(file["stats/avg"][...] == 0, bad)
        assert not file["masks_raw"][...][:, bad].any()


def test_a_mask_in_hdf5_needs_no_path_where_only_one_image_fits(tmp_path: Path) -> None:
    written(tmp_path, "h5", bad_pixels().astype("u1"))
    assert np.array_equal(read_mask(str(tmp_path / "mask.h5"), 0, SHAPE), ~bad_pixels())
    with h5py.File(tmp_path / "mask.h5", "a") as file:
        file["another"] = np.zeros(SHAPE)
    with pytest.raises(
        InputError,
        match=r"2 datasets with the shape of a frame, .*/another, /some/where, expected one; name "
        r"the mask as FILE:PATH",
    ):
        read_mask(str(tmp_path / "mask.h5"), 0, SHAPE)


def test_a_file_whose_name_has_a_colon(tmp_path: Path) -> None:
    np.save(tmp_path / "a:b.npy", np.zeros(SHAPE))
    assert read_mask(str(tmp_path / "a:b.npy"), 0, SHAPE).all()


@pytest.mark.parametrize("kind", ["h5", "npy", "tif", "edf"])
def test_what_marks_a_good_pixel_is_asked_for(kind: str, tmp_path: Path) -> None:
    text = written(tmp_path, kind, bad_pixels().astype(np.uint8))
    path = write_anything(tmp_path / "run.h5")
    ended = command(path, "--mask", text, "--quiet")
    assert_refused(
        ended,
        2,
        "--mask-good",
        "has values 0, 1",
        f"{(~bad_pixels()).sum()} of 960 pixels are 0",
        "use --mask-good 0 if 0 marks a good pixel, --mask-good 1 if",
    )


def test_in_masks_of_nexus_and_cxi_it_is_certain(tmp_path: Path) -> None:
    master = write_dectris(
        tmp_path / "run_master.h5", detector={"pixel_mask": bad_pixels().astype("u4") * 0x10002}
    )
    cxi = write_cxi(tmp_path / "run.cxi", mask=bad_pixels().astype("u4") * 0x80)
    for text in (
        f"{master}:/entry/instrument/detector/pixel_mask",
        f"{cxi}:/entry_1/instrument_1/detector_1/mask",
    ):
        assert np.array_equal(read_mask(text, None, SHAPE), ~bad_pixels())


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            np.zeros((40, 24), "u1"),
            ("shape (40, 24)", "expected that of a frame, (24, 40)", "X and Y are exchanged"),
        ),
        (np.zeros((2, 24, 40), "u1"), ("shape (2, 24, 40)",)),
        (np.zeros(SHAPE, "c8"), ("is complex64", "expected numbers")),
    ],
)
def test_a_users_mask_that_does_not_fit_is_refused(
    values: np.ndarray, words: tuple[str, ...], tmp_path: Path
) -> None:
    np.save(tmp_path / "mask.npy", values)
    path = write_anything(tmp_path / "run.h5")
    assert_refused(
        command(path, "--mask", tmp_path / "mask.npy", "--mask-good", 0, "--quiet"),
        1,
        "mask.npy",
        *words,
    )


def test_masks_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    path = write_anything(tmp_path / "run.h5")
    (tmp_path / "text.txt").write_text("some text")
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "objects.npy").read_bytes()[:40])
    (tmp_path / "empty.tif").touch()
    whole = Path(written(tmp_path, "edf", np.zeros(SHAPE, np.int8))).read_bytes()
    (tmp_path / "cut.edf").write_bytes(whole[:-100])
    for mask, words in {
        "none.npy": ("none.npy", "No such file"),
        "text.txt": ("text.txt", "cannot be read as an image", "; a mask is an HDF5 file"),
        "empty.tif": ("empty.tif", "is empty", "; a mask is an HDF5 file"),
        "objects.npy": ("objects.npy", "is a damaged .npy file or not one of numbers"),
        "cut.npy": ("cut.npy", "is a damaged .npy file"),
        "cut.edf": ("cut.edf", "is cut off"),
        "text.txt:/x": ("text.txt", "is not an HDF5 file"),
        "run.h5:/nowhere": ("run.h5", "no dataset '/nowhere'"),
        "run.h5:/run": ("/run is a group", "expected the dataset of the mask"),
        "run.h5": ("run.h5", "has no datasets with the shape of a frame", "FILE:PATH"),
    }.items():
        ended = command(path, "--mask", tmp_path / mask, "--mask-good", 0, "--quiet")
        assert_refused(ended, 1, *words)
        assert (KINDS in ended.stderr) == (mask in ("text.txt", "empty.tif")), mask


def test_a_mask_the_wrong_way_round_is_suspected(tmp_path: Path) -> None:
    np.save(tmp_path / "mask.npy", bad_pixels())
    ended = command(
        write_anything(tmp_path / "run.h5"),
        "--mask",
        tmp_path / "mask.npy",
        "--mask-good",
        1,
        "--quiet",
    )
    assert "warning: the mask" in ended.stderr
    assert "% of the pixels, expected at most 50 %; check --mask-good" in ended.stderr


def test_all_masks_are_combined_and_recorded(tmp_path: Path) -> None:
    own, mine, region_ = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    own[2, 3:9], mine[2, 7:12], region_[1:5, 11:13] = True, True, True
    path = write_dectris(tmp_path / "run_master.h5", detector={"pixel_mask": own.astype("u4")})
    np.save(tmp_path / "mask.npy", mine)
    options = (
        "--mask",
        tmp_path / "mask.npy",
        "--mask-good",
        "0",
        "--reject",
        "rect:1,5,11,13",
        "--reject",
        "disc:20,20,0",
    )
    assert command(path, *options, "-o", tmp_path / "out.h5", "--quiet").status == 0
    region_[20, 20] = True
    with h5py.File(tmp_path / "out.h5") as file:
        info = dict(file["info"].attrs)
        assert np.array_equal(file["stats/avg"][...] == 0, own | mine | region_)
    counts = {
        name: info[name]
        for name in ("file_mask_pixels", "mask_pixels", "reject_pixels", "masked_pixels")
    }
    assert counts == {
        "file_mask_pixels": 6,
        "mask_pixels": 5,
        "reject_pixels": 9,
        "masked_pixels": (own | mine | region_).sum(),
    }
    assert info["file_mask"] == "/entry/instrument/detector/pixel_mask"
    assert list(info["reject"]) == ["rect:1,5,11,13", "disc:20,20,0"]
    assert (info["valid_high"], info["saturation"]) == (65533, 65533)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0,100", (0, 100)),
        ("-1.5,", (-1.5, None)),
        (",7", (None, 7)),
        ("none", (None, None)),
        (",", (None, None)),
        ("1e3,2000", (1000, 2000)),
    ],
)
def test_ranges_as_they_are_written(text: str, expected: tuple[Any, Any]) -> None:
    assert parse_range(text) == expected


def test_a_range_takes_the_place_of_the_files(tmp_path: Path) -> None:
    path = write_nexus(
        tmp_path / "run.h5",
        detector={"description": "EIGER", "saturation_value": 500, "underload_value": 3},
    )
    assert limits_of(path) == (3, 500, 500)
    assert limits_of(path, valid_range=(None, None)) == (None, None, 500)
    assert limits_of(path, valid_range=(10, 400)) == (10, 400, 400)
    assert limits_of(path, saturation=300) == (3, 500, 300)
    assert limits_of(path, saturation=700, valid_range=(None, None)) == (None, None, 700)


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (
            ("--reject", "circle:1,2,3"),
            2,
            ("--reject", "'circle:1,2,3' is not one of rect:X0,X1,Y0,Y1, disc:X,Y,R, border:N"),
        ),
        (
            ("--reject", "rect:1,2,3"),
            2,
            ("'rect:1,2,3' is not rect:X0,X1,Y0,Y1 with whole numbers",),
        ),
        (("--reject", "rect:1,2.5,3,4"), 2, ("whole numbers",)),
        (("--reject", "rect:5,5,0,9"), 2, ("is empty, expected X0 < X1",)),
        (("--reject", "rect:-1,5,0,9"), 2, ("expected coordinates of at least 0",)),
        (("--reject", "disc:1,2,-1"), 2, ("a radius of at least 0",)),
        (("--reject", "disc:1,nan,3"), 2, ("with numbers of pixels",)),
        (("--reject", "border:0"), 2, ("a width of at least 1",)),
        (("--reject", "border"), 2, ("'border' is not border:N",)),
        (
            ("--reject", "rect:24,30,0,9"),
            1,
            ("rect:24,30,0,9", "no pixel in frames of 24 x 40", "X from 0 to 23"),
        ),
        (("--reject", "disc:-9,5,3"), 1, ("no pixel in frames",)),
        (("--valid-range", "5"), 2, ("--valid-range", "'5' is not LOW,HIGH")),
        (("--valid-range", "1,2,3"), 2, ("is not LOW,HIGH",)),
        (("--valid-range", "9,5"), 2, ("9,5 is empty",)),
        (
            ("--valid-range", "70000,"),
            2,
            ("found 70000 as the smallest valid value, expected at most 65535",),
        ),
        (("--saturation", "much"), 2, ("--saturation", "'much' is not a finite number")),
        (("--saturation", "inf"), 2, ("not a finite number",)),
        (
            ("--saturation", "70000"),
            2,
            ("found 70000, expected at most 65535, the largest valid value",),
        ),
        (
            ("--saturation", "300", "--valid-range", ",200"),
            2,
            ("found 300, expected at most 200, the largest valid value",),
        ),
        (("--mask-good", "2"), 2, ("--mask-good",)),
        (("--mask-good", "1"), 2, ("--mask-good", "needs a mask; use --mask to give one")),
    ],
)
def test_what_cannot_be_is_refused(
    options: tuple[str, ...], status: int, words: tuple[str, ...], tmp_path: Path
) -> None:
    path = write_anything(tmp_path / "run.h5")
    assert_refused(command(path, *options, "--quiet"), status, *words)
    assert_refused(command("info", path, *options, name="gpu-spots"), status, *words)


def test_frames_in_memory_take_the_same_options(tmp_path: Path) -> None:
    np.save(tmp_path / "mask.npy", bad_pixels())
    (tmp_path / "table.csv").write_text("angle\n" + "\n".join(map(str, ANGLES)))
    good = ~bad_pixels()
    good[:, 39] = good[0] = good[23] = good[:, 0] = False
    with find_spots(
        frames_of(),
        mask=tmp_path / "mask.npy",
        mask_good=0,
        reject=["border:1"],
        table=tmp_path / "table.csv",
        valid_range=(0, 150),
    ) as found:
        assert np.array_equal(found.avg != 0, good)
        assert found.max.max() <= 150
        assert found.columns["angle"].tolist() == ANGLES.tolist()
        assert (found.info["masked_pixels"], found.info["valid_high"]) == ((~good).sum(), 150)
    with pytest.raises(
        ParameterError, match="angles_path: can only be used with frames in an HDF5 file"
    ):
        find_spots(frames_of(), angles_path="/x")
    with pytest.raises(ParameterError, match="mask_good"):
        find_spots(frames_of(), mask=tmp_path / "mask.npy")
    with pytest.raises(ParameterError, match="mask_good: 2 is not 0 or 1"):
        find_spots(frames_of(), mask=tmp_path / "mask.npy", mask_good=2)
    wrongs: list[Any] = [(1, 2, 3), 5, (np.nan, 3), (None, np.inf)]
    for wrong in wrongs:
        with pytest.raises(ParameterError, match="valid_range"):
            find_spots(frames_of(), valid_range=wrong)
    with find_spots(frames_of(), Parameters.manual(angles=0), reject="border:3") as found:
        assert found.info["masked_pixels"] == 960 - 18 * 34


def test_valid_pixels_are_combined_with_the_files_mask(tmp_path: Path) -> None:
    path = write_dectris(
        tmp_path / "run_master.h5", detector={"pixel_mask": bad_pixels().astype("u4")}
    )
    mine = np.ones(SHAPE, bool)
    mine[7] = False
    with find_spots(path, valid_pixels=mine) as found:
        assert np.array_equal(found.avg != 0, mine & ~bad_pixels())
        assert found.info["masked_pixels"] == (~mine | bad_pixels()).sum()
    with pytest.raises(InputError, match="valid_pixels has shape"):
        find_spots(path, valid_pixels=np.ones((3, 3)))
