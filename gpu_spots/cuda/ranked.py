"""Statistics of pixels from sorted values (kernels/ranked.cu).

Frames can have any type, and any number.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from gpu_spots.cuda.moments import RankedMoments
from gpu_spots.cuda.toolkit import Toolkit, c_type, frame_stride
from gpu_spots.cuda.validity import (
    bits_of,
    key_bounds,
    pixels_on_device,
    sign_bit,
)
from gpu_spots.model import Validity

SHARED = (48 << 10) - 512
"""Bytes of shared memory that a block may ask for beside its fixed ones."""
WARP, BLOCK = 32, 256
"""Threads that share a pixel: where its values fit into shared memory, and where they do not."""
SCRATCH = 256 << 20
"""Bytes of global memory that all blocks together may use in place of shared memory."""
MOST_BLOCKS = 1024
"""Blocks that share them."""


@dataclass(frozen=True, slots=True)
class Launch:
    """Launch of a kernel of ranked.cu on a band of frames."""

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
        """Choose the launch for a type and a number of frames.

        ``n_blocks``: blocks of frames to test, 0: none. ``beside``: bytes of a team in addition to
        its entries.

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
        """Return the number of blocks: one per few pixels, or as many as the memory allows."""
        if self.team == WARP:
            return -(-n_pixels // self.teams)
        return max(1, min(n_pixels, MOST_BLOCKS, SCRATCH // self.bytes))

    def scratch_bytes(self, n_pixels: int) -> int:
        """Return the bytes of global memory that replace shared memory."""
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
        """Launch the kernel on ``n_pixels`` of the band.

        ``before`` and ``after``: arguments before and after those of the memory.
        """
        dtype = np.dtype(frames.dtype)
        is_float = dtype.kind == "f"
        low, high = validity.bounds(dtype) if is_float else key_bounds(dtype, validity)
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
    """Return trimmed moments of a band (n, n_X, n_Y).

    See ``gpu_spots.cuda.background.moments``.
    """
    dtype, n_pixels = np.dtype(frames.dtype), frames[0].size
    found = RankedMoments.empty(toolkit, dtype, n_pixels)
    Launch.of(dtype, len(frames))(
        toolkit, "trimmed", frames, validity, n_pixels, (np.int32(percent),), found.arguments()
    )
    return found


def _entry_bytes(dtype: np.dtype[Any]) -> int:
    """Return the bytes of a value's key and of 16 bits for its frame."""
    return {1: 4, 2: 4, 4: 8, 8: 16}[dtype.itemsize]
