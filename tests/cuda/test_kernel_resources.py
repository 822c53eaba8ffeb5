"""Registers, spills and shared memory of the kernels, as CUDA's compiler reports them.

By default for two architectures, and kernels with surfaces for one; `pytest --all-architectures`
takes minutes for all of them.
"""

import hashlib
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from gpu_spots.background.clip import LEVELLINGS
from gpu_spots.cuda.clip import DEFINES
from gpu_spots.cuda.planes import variant
from gpu_spots.cuda.toolkit import OPTIONS, source_of

NVCC = shutil.which("nvcc")
pytestmark = pytest.mark.skipif(
    NVCC is None, reason="nvcc is not installed: it comes with NVIDIA's CUDA toolkit"
)

ARCHITECTURES = (75, 80, 86, 90, 100, 120)
BY_DEFAULT = (75, 90)
FIRST_OF_NEW = 80
"""Older architectures have other limits."""


class Figures(NamedTuple):
    """Resources of a kernel."""

    registers: int
    spilled: int
    """Bytes that each thread stores in local memory for want of registers."""
    shared: int
    """Bytes of shared memory of a block, those that are asked for at launch not counted."""


def trimmed(n_frames: int, bits: int, *, check: bool = False) -> dict[str, int]:
    return variant(n_frames, np.dtype(f"uint{bits}"), check)


MASKS = {"FRAME": "u16", "LIMIT": "u16", "BOUND": "i64"}
ResourceFigures = tuple[str, Mapping[str, int | str], dict[str, tuple[Figures, Figures]]]
"""Kernel file, its macros, and the most that each kernel may take: before sm_80, and from there on.
"""


def both(*figures: int) -> tuple[Figures, Figures]:
    return Figures(*figures), Figures(*figures)


LIMITS: dict[str, ResourceFigures] = {
    "180 frames": (
        "trimmed",
        trimmed(180, 16),
        {"trimmed": (Figures(128, 332, 0), Figures(128, 24, 0))},
    ),
    "180 frames, invalid values": (
        "trimmed",
        trimmed(180, 16, check=True),
        {"trimmed": (Figures(128, 332, 0), Figures(128, 104, 0))},
    ),
    "2000 frames": ("trimmed", trimmed(2000, 16), {"trimmed": both(168, 0, 1024)}),
    "masks": ("masks", MASKS, {"find_masks": both(40, 0, 0), "clean_masks": both(40, 0, 0)}),
    "components": (
        "components",
        {},
        {
            **{name: both(20, 0, 32) for name in ("count_pixels", "find_roots", "number_roots")},
            **{name: both(33, 0, 32) for name in ("scan", "list_pixels")},
            **{
                name: both(41, 0, 0)
                for name in ("join_pixels", "number_components", "describe_components")
            },
        },
    ),
    "sums": (
        "measure",
        {"FRAME": "u16", "SUM": "i64", "FLOAT": 0, "WIDE": 0},
        {"measure": both(78, 0, 0)},
    ),
    "matched": (
        "matched",
        {"FRAME": "u16", "IS_FLOAT": 0, "BOUND": "i64", "STREAKS": 0},
        {
            "significance": both(32, 0, 4744),
            "add_significance": both(12, 0, 0),
            "of_sum": both(20, 0, 0),
            "smoothed": both(36, 0, 33696),
        },
    ),
    "matched, floats and streaks": (
        "matched",
        {"FRAME": "f32", "IS_FLOAT": 1, "BOUND": "f64", "STREAKS": 1},
        {
            "significance": both(34, 0, 4744),
            "add_significance": both(12, 0, 0),
            "of_sum": both(20, 0, 0),
            "smoothed": both(58, 0, 36136),
        },
    ),
    "clip": (
        "ranked+clip",
        {"FRAME": "u16", "IS_FLOAT": 0, "BIAS": "0u", "ENTRY": 4, "TEAM": 32, **DEFINES},
        {
            "clip": (Figures(64, 0, 64), Figures(64, 12, 64)),
            "clip_blocks": (Figures(64, 52, 64), Figures(64, 68, 64)),
            "kruskal": (Figures(80, 24, 64), Figures(80, 72, 64)),
            "trimmed": (Figures(50, 0, 64), Figures(46, 0, 64)),
        },
    ),
    "basins": (
        "basins",
        {},
        {
            **{name: both(12, 0, 0) for name in ("follow", "gather_owners")},
            **{name: both(22, 0, 0) for name in ("find_heights", "begin_masks", "join_basins")},
            **{name: both(32, 0, 0) for name in ("climb", "find_saddles")},
            "grow": both(38, 4, 0),
        },
    ),
}
LEVELLED = {"ENTRY": 8, "LEVELS": 1, "SURFACE": 1, "LEVELLINGS": LEVELLINGS}
SURFACES: dict[str, ResourceFigures] = {
    "matched, surfaces": (
        "matched",
        {**LIMITS["matched"][1], "SURFACE": 1},
        {**LIMITS["matched"][2], "significance": both(38, 0, 4744)},
    ),
    "clip, surfaces": (
        "ranked+clip",
        {**LIMITS["clip"][1], **LEVELLED},
        {
            "clip": both(64, 12, 64),
            "clip_blocks": (Figures(64, 0, 64), Figures(64, 96, 64)),
            "kruskal": (Figures(80, 4, 64), Figures(80, 76, 64)),
            "trimmed": (Figures(58, 0, 64), Figures(48, 0, 64)),
        },
    ),
}
"""By default only for the newest architecture of `BY_DEFAULT`."""
MORE: dict[str, ResourceFigures] = {
    "250 frames": ("trimmed", trimmed(250, 16, check=True), {"trimmed": both(168, 72, 0)}),
    "500 frames of 8 bits": (
        "trimmed",
        trimmed(500, 8),
        {"trimmed": (Figures(255, 1012, 0), Figures(255, 0, 0))},
    ),
    "2000 frames, invalid values": (
        "trimmed",
        trimmed(2000, 16, check=True),
        {"trimmed": both(168, 402, 1024)},
    ),
}
"""Only with --all-architectures."""


def compiled(
    file: str, defines: Mapping[str, int | str], architecture: int, folder: Path
) -> dict[str, Figures]:
    """Return the compiler's report on each kernel of a file."""
    assert NVCC is not None
    source = folder / f"{file}.cu"
    source.write_text(source_of(file, **defines))
    options = (
        f"-arch=sm_{architecture}",
        *OPTIONS,
        "-ftz=true",
        "-Xptxas",
        "-v",
        "-o",
        str(folder / "kernel.cubin"),
    )
    ended = subprocess.run([NVCC, "-cubin", *options, str(source)], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    found = {}
    for part in ended.stderr.split("Compiling entry function '")[1:]:

        def number(pattern: str, text: str = part) -> int:
            match = re.search(pattern, text)
            return int(match[1]) if match else 0

        name = part.split("'")[0]
        found[name] = Figures(
            number(r"Used (\d+) registers"),
            number(r"(\d+) bytes spill stores"),
            number(r"(\d+) bytes smem"),
        )
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        everything = metafunc.config.getoption("--all-architectures")
        chosen = [(case, one) for case in LIMITS for one in BY_DEFAULT]
        chosen += [(case, BY_DEFAULT[-1]) for case in SURFACES]
        if everything:
            chosen = [(case, one) for case in LIMITS | SURFACES | MORE for one in ARCHITECTURES]
        metafunc.parametrize(("case", "architecture"), chosen)


def test_kernels_take_no_more_than_they_did(
    case: str, architecture: int, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """Kernels that have not changed since an earlier session are not compiled again."""
    file, defines, limits = (LIMITS | SURFACES | MORE)[case]
    assert pytestconfig.cache is not None
    text = "\0".join([source_of(file, **defines), *OPTIONS, str(architecture), str(NVCC)])
    key = f"kernel_resources/{hashlib.sha256(text.encode()).hexdigest()}"
    known = pytestconfig.cache.get(key, None)
    found = (
        {name: Figures(*figures) for name, figures in known.items()}
        if known
        else compiled(file, defines, architecture, tmp_path)
    )
    pytestconfig.cache.set(key, found)
    assert set(found) == set(limits)
    most = {
        name: new if architecture >= FIRST_OF_NEW else old for name, (old, new) in limits.items()
    }
    worse = {
        name: f"{found[name]}, at most {most[name]}"
        for name in most
        if any(map(int.__gt__, found[name], most[name]))
    }
    assert not worse, f"sm_{architecture}: {worse}"


def test_three_blocks_of_long_runs_fit() -> None:
    """Three blocks of 128 threads with 168 registers fit the 65536 of a multiprocessor."""
    for n_frames in (1025, 2048):
        macros = trimmed(n_frames, 16)
        assert macros["PIXELS"] * macros["SHARERS"] == 128
        assert macros["RESIDENT"] >= 3
