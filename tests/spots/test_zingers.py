"""Zingers in the masks of single frames are left out."""

import math
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cpu_fallback import CpuBackend
from gpu_spots import find_spots
from gpu_spots.backend import Backend
from gpu_spots.columns import Flag
from gpu_spots.model import Components, Measurements, PackedImages
from gpu_spots.parameters import Parameters
from gpu_spots.spots.zingers import AWAY, SIGMAS, TIMES, Cleaned, zingers
from helpers import assert_same, run

SHAPE = (60, 70)
CENTRE = (30, 35)
GAIN = 1.5


def series(
    *zingers: tuple[int, int, int], width: float = 2.5, dtype: str = "uint16"
) -> NDArray[Any]:
    """Return 12 frames, of which one has a spot of that width, and zingers: X, Y and height."""
    frames = np.random.default_rng(5).poisson(100.0, (12, *SHAPE)).astype(np.int64)
    x, y = np.ogrid[: SHAPE[0], : SHAPE[1]]
    square = (x - CENTRE[0]) ** 2 + (y - CENTRE[1]) ** 2
    spot = 8000 * np.exp(-square / (2 * width**2)) / (2 * math.pi * width**2)
    frames[7] += np.rint(spot).astype(np.int64)
    for at_x, at_y, height in zingers:
        frames[7, at_x, at_y] += height
    return frames.astype(dtype)


@pytest.mark.parametrize("dtype", ["uint16", "int32", "float32"])
def test_a_zinger_in_a_mask_is_left_out(backend: Backend, dtype: str) -> None:
    x, y = CENTRE[0] - 5, CENTRE[1] + 2
    frames = series((x, y, 9000), dtype=dtype)
    found = run(frames, Parameters(angles=0), backend)
    assert_same(found, run(frames, Parameters(angles=0), CpuBackend(1)))
    without = run(series(dtype=dtype), Parameters(angles=0), CpuBackend(1))
    (row,) = np.flatnonzero(found["spots/frame"] == 7)
    (expected,) = np.flatnonzero(without["spots/frame"] == 7)
    assert found["spots/flags"][row] & Flag.ZINGER
    assert not without["spots/flags"][expected] & Flag.ZINGER
    missing = without["spots/I"][expected] - found["spots/I"][row]
    assert abs(missing) < 5 * without["spots/sigma"][expected]
    assert found["spots/max"][row] == without["spots/max"][expected]
    near = np.abs(found["spots/centroid"][row] - CENTRE)
    assert near.max() < 0.3
    mask = found["masks/labels"][7] == found["spots/label"][row]
    assert found["spots/n_pixels"][row] == mask.sum()
    assert not mask[x, y]
    assert mask[x - 1 : x + 2, y - 1 : y + 2].sum() == 8
    assert np.array_equal(found["masks_filtered"][7] > 0, found["masks/labels"][7] > 0)


@pytest.mark.parametrize(
    ("pixels", "width"),
    [
        pytest.param([], 0.45, id="a spot of one pixel"),
        pytest.param([(-5, 2), (-5, 3)], 2.5, id="two pixels side by side"),
        pytest.param([(-5, 2), (-4, 3)], 2.5, id="two pixels that share a corner"),
        pytest.param([(1, 2)], 2.5, id="near the centre"),
    ],
)
def test_what_is_no_zinger_stays(pixels: list[tuple[int, int]], width: float) -> None:
    frames = series(*((CENTRE[0] + x, CENTRE[1] + y, 9000) for x, y in pixels), width=width)
    found = run(frames, Parameters(angles=0), CpuBackend(1))
    assert not (found["spots/flags"] & Flag.ZINGER).any()
    assert found["spots/max"].max() == frames[7].max()


def test_masks_of_several_frames_keep_them() -> None:
    """The other frames tell there what is a zinger; the mask is theirs as well."""
    columns = {"angle": np.repeat(np.arange(2.0), 6), "laser_on": np.tile([0, 1], 6)}
    frames = series((CENTRE[0] - 5, CENTRE[1], 9000))
    parameters = Parameters(angles=0, sync="blocks")
    with find_spots(frames, parameters, columns=columns, backend="cpu") as results:
        spots = results.spots()
        assert spots["max"].max() == frames.max()
        assert not (spots["flags"] & Flag.ZINGER).any()


def spots_of(labels: NDArray[np.int64]) -> Components:
    """Return labelled images, (k, n_X, n_Y), as spots."""
    pixels: list[int] = []
    begin, box, first = [0], [], [0]
    for image in labels:
        for label in range(1, int(image.max()) + 1):
            x, y = np.nonzero(image == label)
            pixels += (x * image.shape[1] + y).tolist()
            begin.append(len(pixels))
            box.append((x.min(), x.max() + 1, y.min(), y.max() + 1))
        first.append(len(box))
    return Components(
        np.array(pixels, np.int64), np.array(begin, np.int64),
        np.array(box, np.int32).reshape(-1, 4), np.array(first, np.int64),
    )  # fmt: skip


def random_spots(seed: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return labels and values of frames with spots that touch, and with zingers."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((3, 24, 30), np.int64)
    labels[0, 2:12, 0:9], labels[0, 4:15, 9:20], labels[0, 20:24, 3:30] = 1, 2, 3
    labels[2, 3:18, 5:25] = 1
    values = rng.normal(0, 3, labels.shape)
    values[0, 7, 4], values[0, 9, 14], values[2, 10, 15] = 900, 1400, 400
    for frame in (0, 2):
        for _ in range(12):
            values[frame, rng.integers(24), rng.integers(30)] += rng.choice([30, 100, 5000])
    return labels, values


def one_by_one(
    labels: NDArray[np.int64], values: NDArray[np.float64], variance: float
) -> set[tuple[int, int, int]]:
    """Return mask, X and Y of zingers, by the rule of docs/method.md."""
    found = set()
    for mask, image in enumerate(labels):
        for label in range(1, int(image.max()) + 1):
            here = {(x, y): values[mask, x, y] for x, y in np.argwhere(image == label).tolist()}

            def stands_out(at: tuple[int, int], steps: list[tuple[int, int]]) -> bool:
                near = max(0.0, *(here.get((at[0] + i, at[1] + j), 0.0) for i, j in steps))  # noqa: B023
                return here[at] > TIMES * near + SIGMAS * math.sqrt(variance + GAIN * near)  # noqa: B023

            around = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j]
            alone = {at for at in here if stands_out(at, around)}
            others = {at: max(value, 0.0) for at, value in here.items() if at not in alone}
            total = sum(others.values())
            for at in alone:
                centre = [sum(v * each[k] for each, v in others.items()) / total for k in (0, 1)]
                if max(abs(at[k] - centre[k]) for k in (0, 1)) >= AWAY:
                    found.add((mask, *at))
    return found


@pytest.mark.parametrize("seed", range(20))
def test_rule_and_lists_of_pixels(seed: int) -> None:
    labels, values = random_spots(seed)
    n_columns = labels.shape[2]
    found = spots_of(labels)
    mask_of = np.repeat(np.arange(3), np.diff(found.begin[found.first]))
    above = values.reshape(3, -1)[mask_of, found.pixels]
    removed = zingers(found, n_columns, above, np.full(len(above), 9.0), GAIN)
    expected = one_by_one(labels, values, 9.0)
    assert expected
    cleaned = Cleaned.of(found, removed, n_columns)
    x, y = np.divmod(cleaned.pixels, n_columns)
    assert set(zip(cleaned.masks.tolist(), x.tolist(), y.tolist(), strict=True)) == expected

    images = PackedImages(np.packbits(labels > 0, axis=-1, bitorder="little"), n_columns)
    images.clear(cleaned.masks, cleaned.pixels)
    for at in expected:
        labels[at] = 0
    assert np.array_equal(images[:], labels > 0)
    again = spots_of(labels)
    for one in ("pixels", "begin", "box", "first"):
        assert_equal(getattr(cleaned.found, one), getattr(again, one))
    for k in range(len(cleaned.spots)):
        spot = cleaned.spots[k]
        listed = slice(*again.begin[spot : spot + 2])
        part = slice(*cleaned.changed.begin[k : k + 2])
        assert_equal(cleaned.changed.pixels[part], again.pixels[listed])
        assert_equal(cleaned.changed.box[k], again.box[spot])
    of_mask = np.searchsorted(again.first, cleaned.spots, side="right") - 1
    assert_equal(np.diff(cleaned.changed.first), np.bincount(of_mask, minlength=3))


def assert_equal(a: NDArray[Any], b: NDArray[Any]) -> None:
    assert a.dtype == b.dtype
    assert np.array_equal(a, b)


def test_measurements_of_changed_spots_take_the_place_of_the_others() -> None:
    labels = np.zeros((2, 5, 8), np.int64)
    labels[0, :2, :4], labels[0, 3:, 2:5], labels[1, 1, 2:6] = 1, 2, 1
    found = spots_of(labels)
    cleaned = Cleaned.of(found, np.array([9]), 8)
    assert cleaned.spots.tolist() == [1]

    def sums(n: int, n_pixels: int, start: int) -> Measurements:
        columns: dict[str, Any] = {one.name: np.arange(n) + start for one in fields(Measurements)}
        columns["moments"] = columns["moments_high"] = np.arange(5 * n).reshape(5, n) + start
        columns["overload"], columns["excess"] = None, None
        columns["values"] = np.arange(n_pixels) + start
        return Measurements(**columns)

    merged = cleaned.measured(sums(3, 18, 100), sums(1, 5, 900))
    assert merged.total.tolist() == [100, 900, 102]
    assert merged.moments[1].tolist() == [103, 901, 105]
    assert merged.overload is None
    assert merged.values is not None
    assert merged.values.tolist() == [*range(100, 109), *range(110, 118)]
