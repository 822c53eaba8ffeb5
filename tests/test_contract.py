"""The whole pipeline against the naive reference, to the bit."""

from typing import Any

import numpy as np
import pytest

from factories.frames import frames_of
from gpu_spots.backend import Backend
from gpu_spots.model import FRAME_DTYPES, Validity
from gpu_spots.parameters import Parameters
from helpers import assert_same, run
from reference import reference_run

pytestmark = [pytest.mark.on_two_devices, pytest.mark.sanitize]


@pytest.mark.parametrize("dtype", FRAME_DTYPES, ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"n": 10, "cutoff": 2.5, "erosions": 0, "dilations": 1, "structure": (2, 1)},
        {"n": 40, "cutoff": 2.0, "erosions": 1, "dilations": 0, "structure": (2, 2)},
        {"n": 1, "cutoff": 0.0, "erosions": 2, "dilations": 3, "structure": (2, 1)},
    ],
    ids=lambda options: (
        ",".join(f"{key[0]}={value}" for key, value in options.items()) or "defaults"
    ),
)
def test_dark_run_equals_reference(
    backend: Backend, dtype: np.dtype, options: dict[str, Any]
) -> None:
    frames = frames_of(dtype, (31, 13, 71), seed=dtype.num)
    assert_same(
        run(frames, Parameters.manual(angles=0, **options), backend),
        reference_run(frames, **options),
    )


@pytest.mark.parametrize("sync", ["pairs", "blocks"])
@pytest.mark.parametrize(
    "dtype", [np.dtype("uint16"), np.dtype("int32"), np.dtype("float32")], ids=str
)
def test_laser_run_equals_reference(backend: Backend, dtype: np.dtype, sync: str) -> None:
    frames = frames_of(dtype, (24, 19, 65), seed=5)
    angles = np.repeat([3.0, 1.0, 2.0, 1.0], 6)
    laser = np.tile([False, True, True, False, False, True], 4)
    found = run(
        frames,
        Parameters.manual(angles=0, sync=sync),
        backend,
        {"angle": angles, "laser_on": laser.astype(int)},
    )
    assert_same(found, reference_run(frames, sync=sync, angles=angles, laser=laser))


@pytest.mark.parametrize("sync", ["none", "pairs", "blocks"])
@pytest.mark.parametrize(
    "dtype", [np.dtype("uint16"), np.dtype("int32"), np.dtype("float64")], ids=str
)
def test_invalid_values_equal_reference(backend: Backend, dtype: np.dtype, sync: str) -> None:
    rng = np.random.default_rng(8)
    frames = frames_of(dtype, (20, 19, 40), seed=8)
    low, high = np.quantile(frames, [0.005, 0.998]).tolist()
    if dtype.kind == "f":
        frames[rng.random(frames.shape) < 0.01] = np.nan
        frames[:, 3, 4] = np.inf
        frames[1:, 5, 6] = np.nan
    else:
        low, high = round(low), round(high)
    valid = rng.random(frames.shape[1:]) < 0.97
    angles, laser = np.repeat([1.0, 2.0], 10), np.arange(20) % 2 == 1
    found = run(
        frames,
        Parameters.manual(angles=0, sync=sync),
        backend,
        {"angle": angles, "laser_on": laser.astype(int)},
        Validity(valid, low, high),
    )
    expected = reference_run(
        frames, sync=sync, angles=angles, laser=laser, valid_pixels=valid, low=low, high=high
    )
    assert "stats/n_used" in expected
    assert_same(found, expected)


@pytest.mark.parametrize("sync", ["none", "blocks"])
@pytest.mark.parametrize(
    ("dtype", "saturation"),
    [("uint16", 170), ("int32", 60000), ("float32", 21.5), ("uint8", None), ("float64", None)],
)
def test_saturated_pixels_are_counted(
    backend: Backend, dtype: str, saturation: float | None, sync: str
) -> None:
    frames = frames_of(np.dtype(dtype), (20, 23, 38), seed=3)
    if dtype == "uint8":
        frames[frames > 130] = 255
    angles, laser = np.repeat([1.0, 2.0], 10), np.arange(20) % 2 == 1
    columns = {"angle": angles, "laser_on": laser.astype(int)}
    found = run(
        frames, Parameters.manual(angles=0, sync=sync), backend, columns, saturation=saturation
    )
    expected = reference_run(frames, sync=sync, angles=angles, laser=laser, saturation=saturation)
    assert ("spots/overload" in expected) == (dtype != "float64")
    if dtype != "float64":
        assert expected["spots/overload"].any()
    assert ("spots/overload" in found) == ("spots/overload" in expected)
    assert_same(found, expected)


@pytest.mark.parametrize("blocks", ["equal", "unequal", "interlaced"])
@pytest.mark.parametrize("structure", [(2, 1), (2, 2)], ids=str)
@pytest.mark.parametrize("alpha", [0.05, 0.2])
@pytest.mark.parametrize("sync", ["none", "pairs", "blocks"])
def test_kruskal_run_equals_reference(
    backend: Backend, sync: str, alpha: float, structure: tuple[int, int], blocks: str
) -> None:
    frames = frames_of(np.dtype("uint16"), (24, 14, 19), seed=11)
    angles = {
        "equal": np.repeat(np.arange(4.0), 6),
        "unequal": np.repeat(np.arange(4.0), [3, 9, 2, 10]),
        "interlaced": np.arange(24) % 4 / 2,
    }
    for frame, angle in zip(frames, angles[blocks], strict=True):
        frame[3 + 2 * int(angle) : 7 + 2 * int(angle), 5:9] += 60
    laser = np.arange(24) // 4 % 2 == 1
    options: dict[str, Any] = {
        "method": "kruskal",
        "alpha": alpha,
        "structure": structure,
        "sync": sync,
        "cutoff": 2.0,
    }
    found = run(
        frames,
        Parameters.manual(angles=0, **options),
        backend,
        {"angle": angles[blocks], "laser_on": laser.astype(int)},
    )
    expected = reference_run(frames, **options, angles=angles[blocks], laser=laser)
    assert expected["stats/n_used"].min() < 24
    assert_same(found, expected)


@pytest.mark.parametrize("dtype", [np.dtype("int32"), np.dtype("float32")], ids=str)
def test_normalised_kruskal_run_with_invalid_values_equals_reference(
    backend: Backend, dtype: np.dtype
) -> None:
    frames = frames_of(dtype, (16, 11, 13), seed=2) + dtype.type(100000)
    angles, laser = np.repeat(np.arange(4.0), 4), np.arange(16) % 2 == 1
    low = float(np.quantile(frames, 0.01))
    low = low if dtype.kind == "f" else int(low)
    columns = {"angle": angles, "laser_on": laser.astype(int)}
    parameters = Parameters.manual(
        angles=0, method="kruskal", normalise="level", sync="blocks", cutoff=1.0, erosions=0
    )
    found = run(frames, parameters, backend, columns, Validity(low=low))
    factors = np.rint(found["per_frame/scale"] * 65536).astype(int).tolist()
    options: dict[str, Any] = {"method": "kruskal", "sync": "blocks", "cutoff": 1.0, "erosions": 0}
    assert_same(
        found,
        reference_run(frames, **options, angles=angles, laser=laser, low=low, factors=factors),
    )
