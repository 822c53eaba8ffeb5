"""Scaling and unshuffling by the CUDA kernels, run on the CPU.

They are compared with the CPU backend and HDF5's own filter, to the bit.
"""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from cpu_fallback import CpuBackend
from emulator.emulated import EmulatedToolkit
from factories.moments import KINDS, band_of, frames_of
from gpu_spots.cuda.scale import scaled
from gpu_spots.cuda.shuffle import unshuffle
from gpu_spots.model import FRAME_DTYPES, Validity

pytestmark = pytest.mark.emulated

FACTORS = np.array([65536, 1, 0, 65535, 65537, 30000, 131072, 99999, 65536 * 300, 2**31])


@pytest.fixture(scope="module")
def toolkit(kernel_folder: Path) -> EmulatedToolkit:
    return EmulatedToolkit(kernel_folder)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", FRAME_DTYPES, ids=str)
def test_scaled_frames_equal_the_cpus(toolkit: EmulatedToolkit, dtype: np.dtype, kind: str) -> None:
    frames = frames_of(dtype, (len(FACTORS), 3, 101), kind)
    if dtype.kind == "f":
        frames[:, 1, 5:8] = [np.nan, np.inf, -np.inf]
    pixels = np.random.default_rng(3).random((3, 101)) < 0.5
    for validity in (
        Validity(),
        Validity(pixels),
        Validity(low=2),
        Validity(None, -3.5, 70),
        Validity(high=-1),
        Validity(low=10**12),
    ):
        expected = CpuBackend(1).scaled(frames, FACTORS, validity)
        for on_device in (band_of(toolkit, frames), toolkit.to_device(frames)):
            found = toolkit.to_host(scaled(toolkit, on_device, FACTORS, validity))
            assert found.dtype == dtype
            bits = f"u{dtype.itemsize}"
            # to the bit, the sign of zero and NaN included
            assert np.array_equal(found.view(bits), expected.view(bits))


def shuffled(values: np.ndarray) -> bytes:
    """The bytes of one chunk as HDF5's shuffle filter leaves them."""
    with h5py.File("memory", "w", driver="core", backing_store=False) as file:
        dataset = file.create_dataset("x", data=values, chunks=values.shape, shuffle=True)
        return dataset.id.read_direct_chunk((0,) * values.ndim)[1]


@pytest.mark.parametrize("shape", [(1, 1), (1, 31), (7, 37), (16, 32)])
@pytest.mark.parametrize(
    "dtype", ["uint8", "int16", "uint16", "float32", "int32", "float64", "uint64"]
)
def test_unshuffled_chunks_are_what_they_were(
    toolkit: EmulatedToolkit, dtype: str, shape: tuple[int, int]
) -> None:
    bits = np.random.default_rng(1).integers(
        0, 256, (4, *shape, np.dtype(dtype).itemsize), dtype=np.uint8
    )
    frames = bits.view(dtype)[..., 0]
    chunks = np.stack([np.frombuffer(shuffled(frame), np.uint8) for frame in frames])
    stack: Any = toolkit.to_device(np.zeros((5, shape[0] + 2, shape[1]), dtype))
    unshuffle(toolkit, toolkit.to_device(chunks), stack[1:, 1:-1])
    expected = np.zeros(stack.shape, dtype)
    expected[1:, 1:-1] = frames
    assert toolkit.to_host(stack).tobytes() == expected.tobytes()


def test_more_chunks_than_a_launch_takes(toolkit: EmulatedToolkit) -> None:
    values = np.arange(65537 + 2, dtype=np.uint32).reshape(-1, 1, 1)
    found = toolkit.xp.empty(values.shape, values.dtype)
    unshuffle(toolkit, toolkit.to_device(values.view(np.uint8)[:, 0]), found)
    assert np.array_equal(toolkit.to_host(found), values)


def test_chunks_of_another_size_are_refused(toolkit: EmulatedToolkit) -> None:
    with pytest.raises(ValueError, match=r"chunks of shape \(2, 24\), expected \(2, 30\)"):
        unshuffle(
            toolkit,
            toolkit.to_device(np.zeros((2, 24), np.uint8)),
            toolkit.xp.empty((2, 3, 5), np.uint16),
        )
