"""The Python interface: find_spots on arrays and files, Parameters, and what it loads."""

import pickle
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import gpu_spots
from gpu_spots import GpuSpotsError, Parameters, errors, find_spots, open_spots
from gpu_spots.cli.errors import Stopped
from gpu_spots.errors import (
    BackendError,
    InputError,
    OutOfDeviceMemory,
    OutputError,
    ParameterError,
)
from gpu_spots.model import MAX_FRAMES
from helpers import assert_same, datasets
from reference import reference_run


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    rng = np.random.default_rng(11)
    frames = rng.normal(200, 5, (20, 40, 50))
    for frame in frames:
        x, y = rng.integers(4, 36), rng.integers(4, 46)
        frame[x - 2 : x + 3, y - 2 : y + 3] += 300
    return frames.astype(np.uint16)


ANY_ANGLES = Parameters.manual(angles=0)


def test_arrays_to_memory(frames: np.ndarray) -> None:
    expected = reference_run(frames)
    with find_spots(frames, ANY_ANGLES) as found:
        for name in ("avg", "std", "iqr", "max", "arg", "threshold"):
            assert np.array_equal(getattr(found, name), expected[f"stats/{name}"])
        assert found.n_frames == 20
        assert found.n_spots == len(expected["spots/I"])
        for frame in range(20):
            assert np.array_equal(found.mask(frame, "raw"), expected["masks_raw"][frame])
            assert np.array_equal(found.mask(frame), expected["masks_filtered"][frame])
            assert np.array_equal(found.labels(frame), expected["masks/labels"][frame])
            mine = expected["spots/frame"] == frame
            assert np.array_equal(found.spots(frame)["I"], expected["spots/I"][mine])
        begin, end = expected["spots/pixel_list_BE"][3]
        pixels = expected["spots/pixel_list"][begin:end]
        assert np.array_equal(found.pixels(3), np.stack([pixels // 50, pixels % 50], axis=1))


def test_two_results_can_be_open_at_once(frames: np.ndarray) -> None:
    with find_spots(frames, ANY_ANGLES) as one, find_spots(frames[:10], ANY_ANGLES) as other:
        assert (one.n_frames, other.n_frames) == (20, 10)


def test_file_memory_and_output_agree(frames: np.ndarray, tmp_path: Path) -> None:
    source, output = tmp_path / "run.h5", tmp_path / "run__spots.h5"
    columns = {
        "angle": np.repeat(np.arange(10.0), 2),
        "laser_on": np.arange(20) % 2,
        "comment": np.array(["a", "ü"] * 10),
    }
    with h5py.File(source, "w") as file:
        file["frames"] = frames
        for name, values in columns.items():
            file[f"lauecollect/{name}"] = (
                values.astype(h5py.string_dtype()) if values.dtype.kind == "U" else values
            )
    parameters = Parameters.manual(sync="pairs")
    find_spots(source, parameters, output=output).close()
    with (
        h5py.File(output) as written,
        find_spots(source, parameters) as of_file,
        find_spots(frames, parameters, columns=columns) as of_array,
    ):
        expected = datasets(written)
        assert_same(datasets(of_file._file), expected)
        assert_same(datasets(of_array._file), expected)
        assert of_array.columns.keys() == columns.keys()
        assert np.array_equal(of_array.mask(3, "synced"), expected["masks_synced"][1])
        assert np.array_equal(of_array.labels(3), expected["masks/labels"][1])


def test_invalid_pixels_are_in_no_mask(frames: np.ndarray) -> None:
    valid = np.ones((40, 50), bool)
    valid[10:30] = False
    with find_spots(frames, ANY_ANGLES, valid_pixels=valid) as found:
        assert not any(
            found.mask(i, kind)[~valid].any() for i in range(20) for kind in ("raw", "filtered")
        )
        assert not found.avg[~valid].any()
        assert (found.threshold[~valid] == 65536).all()


def test_output_is_not_overwritten_unasked(frames: np.ndarray, tmp_path: Path) -> None:
    output = tmp_path / "spots.h5"
    output.write_text("precious")
    with pytest.raises(OutputError, match="already exists; use force=True to overwrite it"):
        find_spots(frames, ANY_ANGLES, output=output)
    assert output.read_text() == "precious"
    find_spots(frames, ANY_ANGLES, output=output, force=True).close()
    with open_spots(output) as found:
        assert found.n_frames == 20


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"frames": np.zeros((3, 4))}, "expected three dimensions"),
        ({"frames": np.zeros((0, 4, 4))}, "expected at least one frame"),
        (
            {"frames": np.zeros((3, 4, 4), int)},
            r"int64, expected one of .*; frames.astype\(numpy.int32\) converts it",
        ),
        (
            {"frames": np.ma.masked_less(np.zeros((3, 4, 4)), 1)},
            "masked array, expected a plain array; .*valid_pixels",
        ),
        (
            {"frames": np.zeros((5, 4, 4)), "saturation": 10**400},
            "saturation: .*is not a finite number",
        ),
        (
            {"frames": np.zeros((5, 4, 4)), "valid_range": (0, 10**400)},
            "valid_range: .*is not finite",
        ),
        ({"frames": np.zeros((3, 4, 4), complex)}, "complex128, expected one of"),
        (
            {"frames": np.zeros((1, 4, 4))},
            "leaves 1 of 1 frame for the background, expected at least 2",
        ),
        ({"frames": np.zeros((MAX_FRAMES + 1, 1, 1), np.uint8)}, f"expected at most {MAX_FRAMES}"),
        (
            {"frames": np.zeros((5, 4, 4)), "valid_pixels": np.ones((4, 5))},
            r"\(4, 5\), expected that of a frame, \(4, 4\)",
        ),
        ({"frames": "nowhere.h5"}, "nowhere.h5: cannot be opened"),
        ({"frames": "nowhere.h5", "columns": {}}, "only for frames in memory"),
        (
            {"frames": np.zeros((5, 4, 4)), "parameters": Parameters.manual()},
            r"lauecollect/angle is missing, .* angles=0",
        ),
        ({"frames": np.zeros((5, 4, 4)), "parameters": {"n": 3}}, "is not Parameters"),
        ({"frames": np.zeros((5, 4, 4)), "threads": 0}, "threads: 0 is not an integer >= 1"),
        ({"frames": np.zeros((5, 4, 4)), "threads": 1.5}, "threads: 1.5 is not an integer >= 1"),
        ({"frames": np.zeros((5, 4, 4)), "threads": "2"}, "threads: '2' is not an integer >= 1"),
        ({"frames": np.zeros((5, 4, 4)), "backend": "abacus"}, "backend: 'abacus'"),
        ({"frames": np.zeros((5, 4, 4)), "compression": "zip"}, "compression: 'zip' is not one of"),
    ],
)
def test_mistakes_are_named(call: dict[str, Any], message: str) -> None:
    with pytest.raises(GpuSpotsError, match=message):
        find_spots(**{"parameters": ANY_ANGLES, **call})


def test_a_run_without_a_valid_value_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="all pixels are masked"):
        find_spots(np.full((8, 5, 6), np.nan), ANY_ANGLES).close()


def test_warnings_point_at_the_caller(frames: np.ndarray) -> None:
    with pytest.warns(UserWarning, match="no values are removed") as caught:
        find_spots(frames, Parameters.manual(angles=0, n=1)).close()
    assert {warning.filename for warning in caught} == {__file__}


def test_a_frame_index_out_of_range_is_an_index_error(frames: np.ndarray) -> None:
    with find_spots(frames, ANY_ANGLES) as found:
        assert np.array_equal(found.mask(-1), found.mask(19))
        for wrong in (20, -21):
            with pytest.raises(IndexError):
                found.mask(wrong)
        with pytest.raises(KeyError, match="masks_synced"):
            found.mask(0, "synced")


def test_open_spots_refuses_other_files(tmp_path: Path) -> None:
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["frames"] = 1
    with pytest.raises(InputError, match=r"other\.h5: not a spots file"):
        open_spots(other)


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        ("method", ["x", "", None]),
        ("n", [-1, 100, 2.5, True, "3"]),
        ("alpha", [0, 1, -0.1, float("nan"), "x"]),
        ("cutoff", [-1, float("nan"), float("inf"), None, True]),
        ("erosions", [-1, 0.5]),
        ("dilations", [-1, 1.0]),
        ("structure", [(2, 3), (3, 1), (2,), "x", (1, 1), 2]),
        ("angles", [-1, 1.5]),
        ("sync", ["both"]),
        ("normalise", ["yes"]),
    ],
)
def test_parameters_out_of_range_are_named(field: str, bad: list[Any]) -> None:
    for value in bad:
        with pytest.raises(ParameterError, match=f"^{field}: ") as caught:
            Parameters.manual(**{field: value})
        assert caught.value.name == field


def test_parameters_take_numpys_numbers_and_lists() -> None:
    given: dict[str, Any] = {"n": np.int64(10), "cutoff": np.float32(2.5), "structure": [2, 1]}
    parameters = Parameters.manual(**given)
    assert parameters == Parameters.manual(n=10, cutoff=2.5, structure=(2, 1))
    assert type(parameters.n) is int


def test_n_of_zero_means_the_manuals_25() -> None:
    assert Parameters.manual(n=0).percent_removed == 25


@pytest.mark.parametrize(
    "error",
    [
        *(
            kind("x: is wrong")
            for kind in (GpuSpotsError, InputError, OutputError, BackendError, OutOfDeviceMemory)
        ),
        ParameterError("n", "3 is wrong"),
        Stopped(signal.SIGINT),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_come_through_a_process_pool(error: BaseException) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


def test_every_error_is_tested_to_be_pickled() -> None:
    kinds = {
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    }
    assert kinds == {
        GpuSpotsError,
        InputError,
        OutputError,
        BackendError,
        OutOfDeviceMemory,
        ParameterError,
    }


@pytest.mark.parametrize("name", ["cutoff", "alpha"])
def test_numbers_that_no_float_can_hold_are_refused(name: str) -> None:
    given: dict[str, Any] = {name: 10**400}
    with pytest.raises(ParameterError, match=name):
        Parameters.manual(**given)


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, gpu_spots; print(*({'numpy', 'scipy', 'h5py', 'click', 'cupy', 'rich'} & "
        "set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == ""


def test_every_public_name_is_there() -> None:
    assert all(getattr(gpu_spots, name) for name in gpu_spots.__all__)
    with pytest.raises(AttributeError):
        _ = gpu_spots.nothing


def test_huge_float_values_are_no_error_and_no_numpy_warning() -> None:
    frames = np.full((6, 3, 3), 1e308)
    frames[::2, 1, 1] = -1e308
    with warnings.catch_warnings(action="error"), find_spots(frames, ANY_ANGLES) as found:
        assert found.n_spots == 0
