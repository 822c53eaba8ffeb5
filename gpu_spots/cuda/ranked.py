"""Statistics of pixels whose values are sorted on the device: frames of every type and number (kernels/ranked.cu)."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from gpu_spots.cuda.toolkit import Toolkit, c_type, fetched, frame_stride
from gpu_spots.cuda.validity import (
    bits_of,
    float_bounds,
    integer_bounds,
    pixels_on_device,
    sign_bit,
)
from gpu_spots.model import Array, FloatMoments, IntegerMoments, Validity

SHARED = (48 << 10) - 512
"""Bytes of shared memory that a block may ask for beside its fixed ones."""
WARP, BLOCK = 32, 256
"""Threads that share a pixel: where its values fit into shared memory, and where they do not."""
SCRATCH = 256 << 20
"""Bytes of global memory that all blocks together may use in place of shared memory."""
MOST_BLOCKS = 1024
"""Blocks that share them."""


@dataclass(frozen=True, slots=True)
class RankedMoments:
    """What the kernels leave on the device: flat arrays of the band's pixels, zeros where masked."""

    maps: dict[str, Any]
    """By the names of ``IntegerMoments`` or ``FloatMoments``; kruskal's have ``dropped`` too."""
    gaps: Any
    """(1,) int32: 1 if a pixel that is not masked is invalid on some frames and valid on others."""

    @classmethod
    def empty(cls, toolkit: Toolkit, dtype: np.dtype[Any], n_pixels: int) -> "RankedMoments":
        """Room for the moments of frames of that type."""
        types: dict[str, Any] = {"kept": np.int32, "max": dtype, "arg": np.int32}
        if dtype.kind == "f":
            types |= dict.fromkeys(("average", "deviation", "iqr"), np.float64)
        else:
            types |= {
                "total": np.int64,
                "iqr4": np.int64,
                "scatter_low": np.uint64,
                "scatter_high": np.uint64,
            }
        return cls(
            {name: toolkit.xp.empty(n_pixels, kind) for name, kind in types.items()},
            toolkit.xp.zeros(1, np.int32),
        )

    def arguments(self) -> tuple[Any, ...]:
        """In the kernels' order."""
        names = (
            ["average", "deviation", "iqr"]
            if "average" in self.maps
            else ["total", "iqr4", "scatter_low", "scatter_high"]
        )
        largest = self.maps["max"]
        return (
            self.maps["kept"],
            largest if "average" in self.maps else bits_of(largest),
            self.maps["arg"],
            self.gaps,
            *(self.maps[name] for name in names),
        )

    def to_host(self, toolkit: Toolkit, shape: tuple[int, ...]) -> IntegerMoments | FloatMoments:
        """As the contract has it."""
        return self._moments(fetched(toolkit, [*self.maps.values(), self.gaps]), shape)

    @contextmanager
    def lent(
        self, toolkit: Toolkit, shape: tuple[int, ...]
    ) -> Iterator[IntegerMoments | FloatMoments]:
        """The same, which lasts as long as the block."""
        with toolkit.lend_all([*self.maps.values(), self.gaps]) as on_host:
            yield self._moments(on_host, shape)

    def _moments(
        self, on_host: list[Array], shape: tuple[int, ...]
    ) -> IntegerMoments | FloatMoments:
        *maps, gaps = on_host
        fields: dict[str, Any] = {
            name: values.reshape(shape) for name, values in zip(self.maps, maps, strict=True)
        }
        if "average" in fields:
            return FloatMoments(**fields, gaps=bool(gaps[0]))
        if not fields["scatter_high"].any():
            fields["scatter_high"] = None
        return IntegerMoments(**fields, gaps=bool(gaps[0]))


@dataclass(frozen=True, slots=True)
class Launch:
    """How a kernel of ranked.cu works on a band of frames."""

    size: int
    """Entries that are sorted: the power of two that is not below the number of frames."""
    team: int
    """Threads a pixel."""
    teams: int
    """Pixels a block has at a time."""
    bytes: int
    """Memory of a team."""
    entry: int
    """Bytes of an entry."""

    @classmethod
    def of(
        cls,
        dtype: np.dtype[Any],
        n_frames: int,
        n_blocks: int = 0,
        beside: int = 0,
        entry: int | None = None,
    ) -> "Launch":
        """``n_blocks``: blocks of frames to test, 0: none; ``beside``: bytes of a team beside its entries.

        ``entry``: bytes of an entry, None: as few as there can be.
        """
        entry = entry or _entry_bytes(dtype)
        size = max(2, 1 << (n_frames - 1).bit_length())
        needed = size * entry + beside
        if n_blocks:
            # the sum and size of each block; values before each group of equals, and the group of
            # each entry
            needed += 8 * n_blocks + 2 * (n_frames + 1) + 2 * n_frames
        needed = -(-needed // 16) * 16
        if needed > SHARED:
            return cls(size, BLOCK, 1, needed, entry)
        teams = 8
        while teams * needed > SHARED:
            teams //= 2
        return cls(size, WARP, teams, needed, entry)

    def blocks(self, n_pixels: int) -> int:
        """Blocks of the grid: with shared memory one for every few pixels, else as many as there is memory for."""
        if self.team == WARP:
            return -(-n_pixels // self.teams)
        return max(1, min(n_pixels, MOST_BLOCKS, SCRATCH // self.bytes))

    def scratch_bytes(self, n_pixels: int) -> int:
        """Global memory that stands in for shared memory."""
        return 0 if self.team == WARP else self.blocks(n_pixels) * self.bytes

    def __call__(
        self,
        toolkit: Toolkit,
        name: str,
        frames: Any,
        validity: Validity,
        n_pixels: int,
        before: Any,
        after: Any,
        defines: Mapping[str, int | str] = MappingProxyType({}),
        file: str = "ranked",
    ) -> None:
        """Launch the kernel on ``n_pixels`` of the band; ``before`` and ``after`` are its arguments around those of the memory."""
        dtype = np.dtype(frames.dtype)
        is_float = dtype.kind == "f"
        low, high = float_bounds(validity) if is_float else integer_bounds(dtype, validity)[:2]
        bound = np.float64 if is_float else np.uint32
        kernel = toolkit.kernel(
            file,
            name,
            FRAME=c_type(dtype if is_float else np.dtype(f"u{dtype.itemsize}")),
            IS_FLOAT=int(is_float),
            BIAS=f"{sign_bit(dtype)}u",
            ENTRY=self.entry,
            TEAM=self.team,
            **defines,
        )
        in_global = self.team != WARP
        kernel(
            (self.blocks(n_pixels),),
            (self.team, self.teams),
            (
                frames if is_float else bits_of(frames),
                np.int64(frame_stride(frames)),
                np.int32(len(frames)),
                np.int32(self.size),
                np.int32(n_pixels),
                pixels_on_device(toolkit, validity),
                bound(low),
                bound(high),
                *before,
                toolkit.xp.empty(self.scratch_bytes(n_pixels), np.uint8) if in_global else None,
                np.int32(self.bytes),
                *after,
            ),
            shared_mem=0 if in_global else self.teams * self.bytes,
        )


def ranked_moments(
    toolkit: Toolkit, frames: Any, percent: int, validity: Validity
) -> RankedMoments:
    """Trimmed moments of a band (n, n_X, n_Y); see ``gpu_spots.backend.Backend.moments``."""
    dtype, n_pixels = np.dtype(frames.dtype), frames[0].size
    found = RankedMoments.empty(toolkit, dtype, n_pixels)
    Launch.of(dtype, len(frames))(
        toolkit, "trimmed", frames, validity, n_pixels, (np.int32(percent),), found.arguments()
    )
    return found


def _entry_bytes(dtype: np.dtype[Any]) -> int:
    """A value's key and 16 bits for its frame."""
    return {1: 4, 2: 4, 4: 8, 8: 16}[dtype.itemsize]
