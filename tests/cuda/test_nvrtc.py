"""Kernels compile with NVRTC, CUDA's run-time compiler. No device is needed."""

import hashlib
import re
import warnings
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from emulator.arrays import FUNCTIONS, ArrayModule, DeviceArray
from gpu_spots.background.clip import block_shifts, start_table
from gpu_spots.background.maps import BackgroundMaps
from gpu_spots.background.methods import Clip, KruskalWallis, Trimmed
from gpu_spots.cuda.backend import GpuBackend
from gpu_spots.cuda.reasons import EXTRA
from gpu_spots.cuda.toolkit import KERNELS, OPTIONS, source_of
from gpu_spots.masks.kernels import kernels
from gpu_spots.masks.matched import significance_maps
from gpu_spots.masks.noise_map import NoiseMap
from gpu_spots.masks.seed_levels import Calibration, Thresholds
from gpu_spots.model import FRAME_DTYPES, Morphology, Validity
from helpers import background_of, means_of, moments_of

ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
OLDEST = ARCHITECTURES[0]
BY_DEFAULT = ARCHITECTURES[-1:]
"""The newest; the oldest is that of `test_every_variant_compiles_and_rounds_as_the_host`. No kernel
asks which one it is compiled for, so it is the same program for those between, which
`pytest --all-architectures` takes too.
"""
AS_CUPY = ("-ftz=true",)
"""Option that CuPy adds behind ours."""
Variant = tuple[str, tuple[tuple[str, int | str], ...]]
"""A kernel file and its macros."""


def _nvrtc() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from cupy.cuda import nvrtc

            nvrtc.getVersion()
    except Exception as error:  # what CuPy raises depends on what is missing
        return f"NVRTC cannot be loaded: {' '.join(str(error).split())[:100]}; {EXTRA} brings it"
    return nvrtc


NVRTC = _nvrtc()
pytestmark = pytest.mark.skipif(isinstance(NVRTC, str), reason=str(NVRTC))


def macros(defines: dict[str, int | str]) -> tuple[tuple[str, int | str], ...]:
    return tuple(sorted(defines.items()))


class Recorder:
    """Toolkit that records kernels and launches none.

    Every array that it returns is 1.
    """

    xp = ArrayModule()
    description = "recorder"

    def __init__(self) -> None:
        self.variants: set[Variant] = set()
        self.names: set[tuple[str, str]] = set()

    def call(self, function: Any) -> Any:
        return function()

    def kernel(self, file: str, name: str, **defines: int | str) -> Any:
        self.variants.add((file, macros(defines)))
        # the last of several files has the kernel
        self.names.add((file.rpartition("+")[2], name))
        return lambda *_, **__: None

    def to_host(self, array: DeviceArray) -> np.ndarray:
        return np.ones_like(array.values)

    @contextmanager
    def host_copy(self, array: DeviceArray) -> Iterator[np.ndarray]:
        yield self.to_host(array)

    @contextmanager
    def host_copies(self, arrays: Sequence[DeviceArray]) -> Iterator[list[np.ndarray]]:
        yield [self.to_host(array) for array in arrays]

    def to_device(self, array: np.ndarray) -> DeviceArray:
        return DeviceArray(np.array(array))

    @contextmanager
    def staging(self, part: DeviceArray) -> Iterator[np.ndarray]:
        yield np.empty(part.shape, part.dtype)


def recorded(n_frames: tuple[int, ...], dtypes: tuple[np.dtype, ...]) -> Recorder:
    """Return all kernels that the backend uses."""
    recorder = Recorder()
    backend = GpuBackend(recorder, 1)  # type: ignore[arg-type]
    rng, shape = np.random.default_rng(0), (4, 5)
    valid = np.ones(shape, bool)
    for dtype in dtypes:
        for n in n_frames:
            frames = DeviceArray(np.ones((n, *shape), dtype))
            for validity in (Validity(), Validity(valid, 1, 50)):
                maps = BackgroundMaps(
                    shape,
                    dtype,
                    3.0,
                    varies=False,
                    held=backend.allocate_background(frames.shape, dtype, Trimmed(25)),
                )
                backend.background(frames, Trimmed(25), validity, maps.rows(0, 4))
                of_frame = np.arange(n) % 3
                moments_of(backend, frames, KruskalWallis(of_frame, np.full(4, 3.0)), validity)
                for blocks in (None, of_frame):
                    shifts = block_shifts(0 if blocks is None else 3)
                    clip = Clip(start_table(n, 25), blocks, shifts)
                    for method in (clip, clip.at_levels(np.full(n, 65536))):
                        moments_of(backend, frames, method, validity)
                backend.scaled(frames, np.full(n, 65536), validity)
        lowest = -np.inf if dtype.kind == "f" else np.iinfo(dtype).min
        for threshold in (1, lowest):
            limits = np.full(shape, threshold, np.float64 if dtype.kind == "f" else np.int64)
            background = replace(
                background_of(limits, dtype, means_of(dtype, shape, rng)),
                follows=np.zeros(shape, limits.dtype),
            )
            prepared = backend.prepare(background, Morphology(2, 20, 2), 3)
            levelled = backend.levelled(frames, np.full(len(frames), 65536), Validity(), prepared)
            masks = backend.find_masks(levelled, prepared).filtered
        backend.union(backend.empty_masks(1, shape), masks, np.zeros(len(masks), int))
        backend.without(masks, masks)
        for streaks in (False, True):
            find_matched(backend, frames, streaks=streaks)
        # the one component that is found is the second mask's
        backend.measure(frames[:1], backend.components(masks[:2], 2), np.array([1]), prepared, None)
    return recorder


def find_matched(backend: GpuBackend, frames: DeviceArray, *, streaks: bool) -> None:
    """Use all kernels of the matched finder."""
    n, *_ = frames.shape
    shape, dtype = (frames.shape[1], frames.shape[2]), np.dtype(frames.dtype)
    noise = NoiseMap(
        np.ones(shape), np.ones(shape, np.float32), 1.0, 0.0, Validity(None, 1, 50), True, dtype
    )
    prepared = backend.prepare_significance(significance_maps(noise, streaks=streaks, workers=1))
    found = backend.significance(frames, prepared, np.full(n, 65000))
    sums = backend.empty_sums(prepared, 1, shape)
    backend.add_significance(sums, found, np.zeros(n, np.int64))
    groups = backend.of_sums(sums, [n])
    backend.smoothed_maps(groups, prepared)
    thresholds = Thresholds(noise, 5.5, streaks=streaks)
    n_maps = len(kernels(streaks=streaks))
    levels = thresholds.levels(n, Calibration(n, (0.0,) * n_maps, (1.0,) * n_maps))
    backend.matched_masks(groups, prepared, [backend.prepare_seeds(levels)])


def compiled(variant: Variant, target: str) -> str:
    """Return the PTX for a target; for a real one (sm_90) it is assembled, too.

    Raises an error with the messages of the compiler.
    """
    file, defines = variant
    program = NVRTC.createProgram(source_of(file, **dict(defines)), f"{file}.cu", (), ())
    try:
        NVRTC.compileProgram(program, (f"-arch={target}", *OPTIONS, *AS_CUPY))
        return NVRTC.getPTX(program).decode()
    except NVRTC.NVRTCError:
        raise AssertionError(f"{variant} for {target}:\n{NVRTC.getProgramLog(program)}") from None
    finally:
        NVRTC.destroyProgram(program)


def compile_all(
    config: pytest.Config, jobs: list[tuple[Variant, str]]
) -> Iterator[tuple[Variant, str]]:
    """Name and PTX of each job.

    What has been compiled in an earlier session, and has not changed, is not compiled again.
    """
    assert config.cache is not None
    done = set(config.cache.get("nvrtc/compiled", []))

    def one(job: tuple[Variant, str]) -> tuple[Variant, str, str]:
        variant, target = job
        text = "\0".join(
            [source_of(variant[0], **dict(variant[1])), *OPTIONS, target, str(NVRTC.getVersion())]
        )
        key = hashlib.sha256(text.encode()).hexdigest()
        return variant, key, "" if key in done else compiled(variant, target)

    with ThreadPoolExecutor(2) as pool:
        for variant, key, ptx in pool.map(one, jobs):
            yield variant, ptx
            done.add(key)
    config.cache.set("nvrtc/compiled", sorted(done))


def used() -> set[Variant]:
    """Kernels of 180 frames of uint16 and of float32, and those that read frames of 2 bytes."""
    found = {
        variant
        for name in ("uint16", "float32")
        for variant in recorded((180,), (np.dtype(name),)).variants
    }
    # these are for reading, which is not recorded
    return found | {(file, macros({"SIZE": 2})) for file in ("unshuffle", "bitshuffle")}


def whole(variants: Collection[Variant]) -> list[Variant]:
    """Variants without those that are, macro by macro, the first part of another one."""
    return sorted(
        (file, defines)
        for file, defines in variants
        if not any(
            other.startswith(f"{file}+") and set(defines) <= set(more) for other, more in variants
        )
    )


def test_every_kernel_compiles_for_every_architecture(pytestconfig: pytest.Config) -> None:
    variants = used()
    files = {name for file, _ in variants for name in file.split("+")}
    assert files == {path.stem for path in KERNELS.glob("*.cu")}
    assert not [path for path in KERNELS.iterdir() if "__CUDA_ARCH__" in path.read_text()]
    everything = pytestconfig.getoption("--all-architectures")
    jobs = [
        (variant, f"sm_{architecture}")
        for variant in whole(variants)
        for architecture in (ARCHITECTURES if everything else BY_DEFAULT)
    ]
    assert len(list(compile_all(pytestconfig, jobs))) == len(jobs)


def test_every_variant_compiles_and_rounds_as_the_host(pytestconfig: pytest.Config) -> None:
    """All types and sizes compile for the oldest architecture.

    The kernels that most runs use are assembled for it. No multiply-add is fused, and no small
    float32 is taken for 0. Signed types differ from unsigned ones in a constant only.
    """
    often = used()
    variants = recorded((40, 1200, 9000), FRAME_DTYPES).variants
    variants |= {("unshuffle", macros({"SIZE": size})) for size in (2, 4, 8)}
    variants |= {("bitshuffle", macros({"SIZE": size})) for size in (1, 2, 4, 8)}
    without_bias = {
        (file, tuple(macro for macro in defines if macro[0] != "BIAS")): (file, defines)
        for file, defines in [*sorted(variants), *sorted(often)]
    }
    jobs = [
        (variant, f"{'sm' if variant in often else 'compute'}_{OLDEST}")
        for variant in whole(without_bias.values())
    ]
    assert set(whole(often)) <= {variant for variant, _ in jobs}
    for variant, ptx in compile_all(pytestconfig, jobs):
        found = re.findall(r"\S+\.ftz\S*|\bfma\.\S+|\bmad\.rn\S+|\S+\.approx\S*", ptx)
        assert not found, f"{variant}: {set(found)}"


@pytest.mark.parametrize("frame", ["u8", "u16", "i16"])
def test_the_background_takes_correctly_rounded_operations_only(frame: str) -> None:
    """Operations are those of float64, rounded to nearest, whatever CuPy's options are.

    IEEE 754 leaves no choice of a result.
    """
    ptx = compiled(("background", macros({"FRAME": frame})), "compute_75")
    assert set(
        re.findall(
            r"^\s+((?:add|sub|mul|div|sqrt|rcp|neg|abs|fma|mad)\.\S*f(?:32|64))\s",
            ptx,
            re.MULTILINE,
        )
    ) == {*("add.rn.f64", "mul.rn.f64", "div.rn.f64", "sqrt.rn.f64")}
    assert set(re.findall(r"^\s+(cvt\.\S*f32\S*)\s", ptx, re.MULTILINE)) == {"cvt.rn.f32.f64"}
    assert set(re.findall(r"^\s+(cvt\.\S*\.f64\.[us]\d+)\s", ptx, re.MULTILINE)) >= {
        "cvt.rn.f64.u64",
        "cvt.rn.f64.s32",
    }


def test_every_kernel_is_used() -> None:
    """Every kernel in the files is used."""
    used = recorded((40,), (np.dtype("uint16"), np.dtype("float32"))).names | {
        ("unshuffle", "unshuffle")
    }
    used |= {("bitshuffle", name) for name in ("find_blocks", "decode_blocks")}
    pattern = re.compile(
        r'^extern "C" __global__ void\s+(?:__launch_bounds__\(.*\)\s+)?(\w+)\s*\(', re.MULTILINE
    )
    assert used == {
        (path.stem, name)
        for path in KERNELS.glob("*.cu")
        for name in pattern.findall(path.read_text())
    }


def test_cupy_has_what_numpy_stands_in_for() -> None:
    """The emulation lets the backend call these; CuPy must have them under the same names."""
    cupy = pytest.importorskip("cupy")
    assert sorted(name for name in FUNCTIONS if not hasattr(cupy, name)) == []
    assert not [name for name in ("view", "reshape") if not hasattr(cupy.ndarray, name)]
