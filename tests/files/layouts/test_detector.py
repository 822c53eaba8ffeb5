"""Masks, ranges and sentinels of the detector, as files describe them."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from factories.detectors import bad_pixels, limits_of
from factories.layouts_data import (
    N_FRAMES,
    SHAPE,
    frames_of,
    write_anything,
    write_bliss,
    write_crystfel,
    write_cxi,
    write_dectris,
    write_lima,
    write_nexus,
)
from gpu_spots import find_spots
from gpu_spots.files.frames import open_run
from gpu_spots.files.layouts.cxi_crystfel import CXI_MASK
from gpu_spots.files.layouts.nexus import NEXUS_MASK
from gpu_spots.inputs import Inputs
from helpers import assert_refused, command, write_run


def good_of(path: Path, **options: Any) -> np.ndarray:
    with open_run(path, Inputs(**options)) as stack:
        return np.ones(SHAPE, bool) if stack.validity.pixels is None else stack.validity.pixels


def test_only_the_low_bits_of_a_nexus_mask_count(tmp_path: Path) -> None:
    values = np.zeros(SHAPE, np.uint32)
    values[0, :16] = 1 << np.arange(16)
    values[1, :16] = (1 << np.arange(16, 32)).astype(np.uint32)
    assert (~NEXUS_MASK.good(values)).sum() == 16
    for name in ("pixel_mask", "detectorSpecific/pixel_mask"):
        path = write_dectris(tmp_path / "run_master.h5", detector={name: values})
        good = good_of(path)
        assert not good[0, :16].any()
        assert good.sum() == good.size - 16


def test_a_mask_of_one_module_layer_is_taken(tmp_path: Path) -> None:
    path = write_nexus(
        tmp_path / "run.h5", detector={"pixel_mask": bad_pixels()[None].astype("u4")}
    )
    assert np.array_equal(good_of(path), ~bad_pixels())


def test_bits_of_a_cxi_mask(tmp_path: Path) -> None:
    values = np.zeros(SHAPE, np.uint32)
    values[0, :16] = 1 << np.arange(16)
    bad_bits = [bit for bit in range(16) if CXI_MASK.bad >> bit & 1]
    assert bad_bits == [0, 2, 3, 4, 6, 7, 8, 9, 10, 12]  # not: saturated, in a peak, corrected
    good = good_of(write_cxi(tmp_path / "run.h5", mask=values))
    assert np.flatnonzero(~good[0]).tolist() == bad_bits
    assert good[1:].all()


def test_a_cxi_mask_for_each_frame_masks_what_is_bad_on_any(tmp_path: Path) -> None:
    values = np.zeros((N_FRAMES, *SHAPE), np.uint16)
    values[3, 5, 6], values[19, 7, 8], values[2, 1, 1] = 1, 4, 2
    good = good_of(write_cxi(tmp_path / "run.h5", mask=values))
    assert np.argwhere(~good).tolist() == [[5, 6], [7, 8]]


def test_the_files_mask_can_be_left_out_of_account(tmp_path: Path) -> None:
    for path in (
        write_dectris(tmp_path / "a_master.h5", detector={"pixel_mask": bad_pixels().astype("u4")}),
        write_cxi(tmp_path / "b.h5", mask=bad_pixels().astype("u4")),
    ):
        assert np.array_equal(good_of(path), ~bad_pixels())
        assert good_of(path, file_mask=False).all()


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (
            np.zeros((24, 41), "u4"),
            ("pixel_mask has shape (24, 41)", "that of a frame, (24, 40)", "--no-file-mask"),
        ),
        (np.zeros((2, 24, 40), "u4"), ("pixel_mask has shape (2, 24, 40)",)),
        (np.zeros(SHAPE, "f4"), ("pixel_mask is float32", "expected integers")),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(
    mask: np.ndarray, words: tuple[str, ...], tmp_path: Path
) -> None:
    path = write_nexus(tmp_path / "run.h5", detector={"pixel_mask": mask})
    assert_refused(command(path, "--quiet"), 1, "run.h5", *words)
    assert command(path, "--no-file-mask", "--quiet").status == 0


def test_a_mask_whose_file_is_missing_is_named(tmp_path: Path) -> None:
    link = h5py.ExternalLink("run_meta.h5", "/mask")
    path = write_dectris(tmp_path / "run_master.h5", detector={"pixel_mask": link})
    assert_refused(
        command(path, "--quiet"),
        1,
        "pixel_mask",
        "the file run_meta.h5, which is missing",
        "--no-file-mask",
    )
    assert command(path, "--quiet", "--no-file-mask").status == 0
    with h5py.File(tmp_path / "run_meta.h5", "w") as file:
        file["mask"] = bad_pixels().astype("u4")
    assert np.array_equal(good_of(path), ~bad_pixels())

    cxi = write_cxi(
        tmp_path / "run.cxi",
        edit=lambda file: file.__setitem__(
            "entry_1/data_1/mask", h5py.ExternalLink("gone.h5", "/m")
        ),
    )
    assert_refused(command(cxi, "--quiet"), 1, "/entry_1/data_1/mask", "gone.h5, which is missing")
    limit = write_nexus(
        tmp_path / "run.nxs", detector={"saturation_value": h5py.ExternalLink("gone.h5", "/m")}
    )
    assert_refused(
        command(limit, "--quiet"),
        1,
        "saturation_value",
        "gone.h5, which is missing",
        "--saturation",
    )


@pytest.mark.parametrize(
    ("dtype", "detector", "expected"),
    [
        ("uint8", {"description": "Dectris EIGER2"}, (None, 253, 253)),
        ("uint16", {"description": "Dectris EIGER2"}, (None, 65533, 65533)),
        ("uint32", {"description": "Dectris EIGER2"}, (None, 2**32 - 3, 2**32 - 3)),
        ("int32", {"description": "PILATUS3 6M"}, (0, None, 2**31 - 1)),
        ("int32", {"description": "PSI Jungfrau 4M"}, (1 - 2**31, None, 2**31 - 1)),
        ("int16", {"description": "Jungfraujoch"}, (1 - 2**15, None, 2**15 - 1)),
        ("float32", {"description": "Dectris EIGER2"}, (None, None, None)),
        ("uint16", {"description": "Rayonix MX340-HS"}, (None, None, 65535)),
        ("uint16", {"type": "CCD"}, (None, None, 65535)),
        ("uint16", {"type": "HPC"}, (None, 65533, 65533)),
        ("uint16", {}, (None, None, 65535)),
        ("uint16", {"saturation_value": 40000}, (None, 40000, 40000)),
        ("uint16", {"saturation_value": 40000.7, "underload_value": 2.5}, (3, 40000, 40000)),
        (
            "uint16",
            {"saturation_value": np.array([40000]), "underload_value": 0},
            (None, 40000, 40000),
        ),
        ("uint16", {"saturation_value": 70000}, (None, None, 65535)),
        ("uint16", {"saturation_value": -1}, (None, None, 65535)),
        ("uint16", {"saturation_value": np.nan}, (None, None, 65535)),
        ("float32", {"saturation_value": 1000.5, "underload_value": -3.5}, (-3.5, 1000.5, 1000.5)),
        (
            "uint16",
            {"description": "EIGER", "detectorSpecific/countrate_correction_count_cutoff": 12345},
            (None, 12345, 12345),
        ),
        (
            "uint16",
            {"saturation_value": 500, "detectorSpecific/countrate_correction_count_cutoff": 12345},
            (None, 500, 500),
        ),
        ("int32", {"description": "PILATUS", "underload_value": -1}, (0, None, 2**31 - 1)),
        (
            "int32",
            {"description": "PILATUS", "underload_value": 5, "saturation_value": 10**6},
            (5, 10**6, 10**6),
        ),
    ],
)
def test_ranges_and_sentinels(
    dtype: str, detector: dict[str, Any], expected: tuple[Any, Any, Any], tmp_path: Path
) -> None:
    found = limits_of(write_nexus(tmp_path / "run.h5", frames_of(dtype), detector=detector))
    assert found == expected
    assert [type(value) for value in found] == [type(value) for value in expected]


def test_a_dectris_master_without_a_description_still_has_sentinels(tmp_path: Path) -> None:
    def edit(file: h5py.File) -> None:
        del file["entry/instrument"]

    assert limits_of(write_dectris(tmp_path / "run_master.h5", edit=edit)) == (None, 65533, 65533)


@pytest.mark.parametrize("write", [write_bliss, write_lima])
def test_an_eiger_is_known_by_its_name_in_bliss_and_lima(write: Any, tmp_path: Path) -> None:
    assert limits_of(write(tmp_path / "run.h5", frames_of("uint32"))) == (
        None,
        2**32 - 3,
        2**32 - 3,
    )


@pytest.mark.parametrize("write", [write_anything, write_crystfel, write_run])
def test_a_plain_stack_has_no_sentinels(write: Any, tmp_path: Path) -> None:
    """The 65535 of a MarCCD is saturation; it stays in its spot."""
    frames = frames_of()
    x, y = np.argwhere(frames[4] == 200)[5]
    frames[4, x, y] = 65535
    path = write(tmp_path / "run.h5", frames=frames)
    assert limits_of(path) == (None, None, 65535)
    with find_spots(path) as found:
        assert found.mask(4)[x, y]
        assert found.spots(4)["overload"].tolist() == [1]


def test_of_several_detectors_the_one_of_the_frames_counts(tmp_path: Path) -> None:
    def edit(file: h5py.File) -> None:
        for name, value, shape in (("other", 100, (3, 3)), ("mine", 200, SHAPE)):
            made = file.create_group(f"entry/instrument/{name}")
            made["saturation_value"], made["pixel_mask"] = value, np.ones(shape, "u4")
        file["entry/instrument/mine/data"] = file["entry/data/data"]

    assert limits_of(write_nexus(tmp_path / "run.h5", edit=edit))[1] == 200


def test_an_impossible_range_is_refused(tmp_path: Path) -> None:
    path = write_nexus(
        tmp_path / "run.h5", detector={"saturation_value": 10, "underload_value": 20}
    )
    assert_refused(
        command(path, "--quiet"),
        1,
        "no value is valid",
        "/saturation_value",
        "/underload_value",
        "--valid-range",
    )
    path = write_nexus(tmp_path / "other.h5", detector={"saturation_value": [10, 20]})
    assert_refused(
        command(path, "--quiet"),
        1,
        "saturation_value is int64 (2,)",
        "expected one number",
        "--valid-range",
    )
    assert command(path, "--quiet", "--valid-range", "none", "--saturation", 10).status == 0


def test_a_mask_of_unknown_meaning_is_not_used_and_named(tmp_path: Path) -> None:
    path = write_crystfel(
        tmp_path / "run.h5",
        edit=lambda file: file.create_dataset("data/mask", data=np.ones(SHAPE, "u1")),
    )
    ended = command(path, "--quiet")
    assert (ended.status, len(ended.lines)) == (0, 1)
    assert all(
        word in ended.stderr
        for word in ("warning: ", "/data/mask may be a mask and is not used", "--mask-good")
    )
    assert command(path, "--quiet", "--force", "--no-file-mask").stderr == ""
    assert (
        command(path, "--quiet", "--force", "--mask", f"{path}:/data/mask", "--mask-good", 1).stderr
        == ""
    )
