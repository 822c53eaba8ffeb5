"""Records of the datasets of the spots file, and what the writer does with them."""

from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from gpu_spots.columns import (
    AXES,
    DATASETS,
    FRAME_COLUMNS,
    FRAMES_TYPE,
    MASK_COLUMNS,
    MASKS,
    NOISE_COLUMNS,
    PIXEL_COLUMNS,
    SPOT_COLUMNS,
    STATS,
    SURFACE,
)
from gpu_spots.files.output.spots_file import SpotsFile
from gpu_spots.files.output.spots_writer import SpotsWriter, memory_file
from gpu_spots.model import Background
from gpu_spots.parameters import STACK_NAMES


def test_no_path_is_there_twice() -> None:
    images = (*STATS, *MASKS)
    tables = (*MASK_COLUMNS, *SPOT_COLUMNS, *PIXEL_COLUMNS, *FRAME_COLUMNS, *NOISE_COLUMNS, *AXES)
    paths = [record.path for record in (*images, *tables, SURFACE)]
    assert len(paths) == len(set(paths)) == len(DATASETS)
    links = [record.link for record in DATASETS.values() if record.link]
    assert not set(links) & set(paths)


def test_every_stack_has_a_dataset() -> None:
    assert {record.stack for record in DATASETS.values()} - {None} == set(STACK_NAMES)


def test_maps_are_fields_of_the_background() -> None:
    assert {record.name for record in STATS} <= {field.name for field in fields(Background)}


@pytest.mark.parametrize("record", STATS, ids=lambda record: record.name)
def test_properties_of_maps_say_type_and_unit(record: Any) -> None:
    text = getattr(SpotsFile, record.name).__doc__
    assert f"({', '.join(record.shape)})" in text
    assert all(dtype in text for dtype in record.dtypes)
    assert record.unit is None or record.unit in text


@pytest.mark.parametrize(
    ("path", "dtype", "shape"),
    [
        ("spots/I", "float64", (7,)),
        ("spots/box", "int32", (0, 4)),
        ("stats/threshold", "int64", (3, 5)),
        ("stats/max", "uint16", (3, 5)),
        ("stats/max", ">f4", (3, 5)),
    ],
)
def test_what_matches_is_accepted(path: str, dtype: str, shape: tuple[int, ...]) -> None:
    DATASETS[path].check(dtype, shape)


@pytest.mark.parametrize(
    ("path", "dtype", "shape", "message"),
    [
        ("spots/I", "float32", (7,), "spots/I: type float32, expected float64"),
        ("masks/labels", "int32", (2, 3, 5), "type int32, expected uint16 or uint32"),
        ("stats/max", "int64", (3, 5), f"type int64, expected {FRAMES_TYPE}"),
        ("spots/box", "int32", (7, 2), "spots/box: shape (7, 2), expected (n_spots, 4)"),
        ("spots/frame", "int32", (7, 1), "shape (7, 1), expected (n_spots)"),
    ],
)
def test_what_does_not_match_is_refused(
    path: str, dtype: str, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(TypeError) as raised:
        DATASETS[path].check(dtype, shape)
    assert message in str(raised.value)


def test_the_writer_refuses_what_does_not_match_its_record() -> None:
    with memory_file() as file:
        writer = SpotsWriter(file, "memory", (4, 3, 5), {})
        with pytest.raises(TypeError, match="spots/frame: type int64"):
            writer.write_spots({"spots/frame": np.arange(4)})
        with pytest.raises(KeyError, match="spots/unknown"):
            writer.write_spots({"spots/unknown": np.zeros(4)})
        assert list(file["spots"]) == ["pixel_list"]


def test_the_writer_leaves_out_what_is_not_kept() -> None:
    with memory_file() as file:
        writer = SpotsWriter(file, "memory", (4, 3, 5), {}, frozenset({"raw"}))
        writer.write_spots(
            {"spots/I": np.ones(2), "spots/pixel_list_BE": np.zeros((2, 2), np.int64)}
        )
        assert list(file["spots"]) == ["I"]
