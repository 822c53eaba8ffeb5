"""Emulation of a device: the same results, and the same refusals."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emulator.arrays import DeviceArray
from emulator.emulated import EmulatedKernel, EmulatedToolkit, EmulationError, load

pytestmark = pytest.mark.emulated

SOURCE = """
typedef unsigned short u16; typedef unsigned u32; typedef long long i64;
extern "C" __global__ void __launch_bounds__(256)
mix(const u16* __restrict__ values, int n, i64* __restrict__ result) {
  __shared__ u32 all[256];
  u32* other = reinterpret_cast<u32*>(emulator::S.dynamic);
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  u32 value = i < n ? values[i] : 0u;
  all[threadIdx.x] = value;
  other[threadIdx.x] = value * FACTOR;
  __syncthreads();
  u32 sum = all[blockDim.x - 1 - threadIdx.x] + other[(threadIdx.x + 1) % blockDim.x];
  for (int k = 16; k; k >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, k);
  u32 odd = __ballot_sync(0xffffffffu, value & 1);
  if (i < n) result[i] = (i64)sum << 32 | odd;
}
extern "C" __global__ void ends_early(int n) { if (threadIdx.x < n) __syncthreads(); }
extern "C" __global__ void two_places(int n) {
  if (threadIdx.x < n)
    __syncthreads();
  else
    __syncthreads();
}
extern "C" __global__ void lonely_lane(int n) {
  if (threadIdx.x < n) __ballot_sync(0xffffffffu, 1);
}
extern "C" __global__ void not_named(int n) { __shfl_sync(0x0000000fu, n, 0); }
extern "C" __global__ void reads_before_it_is_written(u32* result) {
  __shared__ u32 value;
  if (threadIdx.x == 0) value = 7;
  result[blockIdx.x * blockDim.x + threadIdx.x] = value;
}
"""


@pytest.fixture(scope="module")
def folder(pytestconfig: pytest.Config) -> Path:
    return Path(pytestconfig.cache.mkdir("emulator"))


@pytest.fixture
def kernel(folder: Path) -> Callable[[str], EmulatedKernel]:
    return lambda name: EmulatedKernel(load(f"#define FACTOR 3\n{SOURCE}", folder), name)


def test_barriers_shuffles_ballots_and_shared_memory(
    kernel: Callable[[str], EmulatedKernel],
) -> None:
    values = np.random.default_rng(1).integers(0, 999, 1000).astype(np.uint16)
    result = DeviceArray(np.zeros(1000, np.int64))
    kernel("mix")((4,), (256,), (DeviceArray(values), np.int32(1000), result), shared_mem=1024)
    padded = np.zeros(1024, np.uint32)
    padded[:1000] = values
    blocks = padded.reshape(4, 256)
    sums = np.repeat((blocks[:, ::-1] + 3 * np.roll(blocks, -1, 1)).reshape(4, 8, 32).sum(2), 32)
    odd = np.repeat(((padded.reshape(32, 32) & 1) << np.arange(32)).sum(1), 32)
    assert np.array_equal(result.values, (sums.astype(np.int64) << 32 | odd)[:1000])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ends_early", "ended while others wait|barrier after some threads have ended"),
        ("two_places", "different barriers"),
        ("lonely_lane", "wait for ever"),
        ("not_named", "whose mask leaves it out"),
    ],
)
def test_what_diverges_is_reported(
    kernel: Callable[[str], EmulatedKernel], name: str, said: str
) -> None:
    with pytest.raises(EmulationError, match=said):
        kernel(name)((2,), (64,), (np.int32(10),))
    # and the next launch is none the worse
    test_barriers_shuffles_ballots_and_shared_memory(kernel)


def test_a_missing_barrier_shows(kernel: Callable[[str], EmulatedKernel]) -> None:
    """Every other block runs its threads in reverse order.

    Shared memory begins as 0xA5.
    """
    result = DeviceArray(np.zeros(4, np.uint32))
    kernel("reads_before_it_is_written")((2,), (2,), (result,))
    assert result.values.tolist() == [7, 7, 7, 0xA5A5A5A5]


@pytest.mark.parametrize(
    ("grid", "block", "shared", "said"),
    [
        ((0,), (64,), 0, "grid"),
        ((1, 65536), (64,), 0, "grid"),
        ((1,), (0,), 0, "block"),
        ((1,), (2048,), 0, "block"),
        ((1,), (64, 32), 0, "more than 1024 threads"),
        ((1,), (64,), 50000, "shared memory"),
    ],
)
def test_launches_that_a_device_refuses(
    kernel: Callable[[str], EmulatedKernel], grid: Any, block: Any, shared: int, said: str
) -> None:
    with pytest.raises(EmulationError, match=said):
        kernel("ends_early")(grid, block, (np.int32(0),), shared_mem=shared)


@pytest.mark.parametrize(
    "args",
    [
        (DeviceArray(np.zeros(9, np.uint16)), 9, DeviceArray(np.zeros(9, np.int64))),
        (DeviceArray(np.zeros(9, np.uint16)), np.int64(9), DeviceArray(np.zeros(9, np.int64))),
        (DeviceArray(np.zeros(9, np.int16)), np.int32(9), DeviceArray(np.zeros(9, np.int64))),
        (np.zeros(9, np.uint16), np.int32(9), DeviceArray(np.zeros(9, np.int64))),
        (
            DeviceArray(np.zeros(18, np.uint16)[::2]),
            np.int32(9),
            DeviceArray(np.zeros(9, np.int64)),
        ),
        (DeviceArray(np.zeros(9, np.uint16)), np.int32(9)),
    ],
    ids=["python number", "wide scalar", "array type", "host array", "strides", "too few"],
)
def test_arguments_that_a_kernel_would_misread(
    kernel: Callable[[str], EmulatedKernel], args: tuple[Any, ...]
) -> None:
    with pytest.raises(EmulationError, match=r"argument"):
        kernel("mix")((1,), (32,), args, shared_mem=128)


@pytest.mark.parametrize(
    "use",
    [
        np.asarray,
        bool,
        int,
        list,
        lambda array: np.add(array, 1),
        lambda array: EmulatedToolkit(Path()).xp.argsort(np.zeros(3)),
    ],
)
def test_nothing_crosses_between_host_and_device_unasked(
    use: Callable[[DeviceArray], object],
) -> None:
    with pytest.raises(
        TypeError, match=r"only to_host may|only to_device may|__array_ufunc__=None"
    ):
        use(DeviceArray(np.zeros(3)))


@pytest.mark.parametrize(
    "use",
    [
        lambda xp, array: xp.cumsum(array),
        lambda xp, array: xp.take(array, array),
        lambda xp, array: array.astype(np.int64),
        lambda xp, array: array.sum(),
        lambda xp, array: array + 1,
        lambda xp, array: array >> array,
        lambda xp, array: ~array,
        lambda xp, array: array[array],
        lambda xp, array: array.__setitem__(slice(None), 0),
    ],
)
def test_nothing_is_computed_by_cupys_own_kernels(
    use: Callable[[Any, DeviceArray], object],
) -> None:
    """Kernels are loaded at the start, not when they are first launched.

    The device may then be full, and some libraries ignore that.
    """
    with pytest.raises((TypeError, AttributeError)):
        use(EmulatedToolkit(Path()).xp, DeviceArray(np.arange(3)))


def test_arrays_compute_as_numpys_do(folder: Path) -> None:
    toolkit = EmulatedToolkit(folder)
    values = np.array([3, -1, 4, -1], np.int32)
    array = toolkit.to_device(values)
    values[:] = 0
    assert toolkit.to_host(toolkit.xp.argsort(array, kind="stable")).tolist() == [1, 3, 0, 2]
    assert toolkit.to_host(array[1:].view(np.uint32).reshape(3, 1)).tolist() == [
        [2**32 - 1],
        [4],
        [2**32 - 1],
    ]
