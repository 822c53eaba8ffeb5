"""Chunks of HDF5 filter 32008 (bitshuffle with LZ4) decoded on the device.

No run uses this yet: see docs/decisions/decode-on-the-device.md.
"""

from typing import Any

import numpy as np

from gpu_spots.cuda.toolkit import Toolkit, blocks_for, frame_stride
from gpu_spots.cuda.validity import bits_of
from gpu_spots.model import Array

HEADER = 12
"""Bytes before the first block of a chunk."""
WARP = 32
MAX_BLOCK = 48 << 10
"""Bytes of the largest block that can be decoded: the shared memory of a thread block."""
DAMAGE = {
    1: "it ends early",
    2: "it holds another number of bytes than its shape",
    3: "its blocks have another size than the others'",
    4: "damaged compressed data (literals outside of the block)",
    5: "damaged compressed data (a match outside of the block)",
    6: "a block that decompresses to the wrong number of bytes",
}
"""Reasons why a chunk is damaged, by the numbers that `decode_chunks` returns."""


def block_bytes(chunk: bytes) -> int:
    """Return the bytes of a decoded block, as the header of a stored chunk has it.

    It is the same in all chunks of a dataset. Raises ValueError if the chunk has no header.
    """
    if len(chunk) < HEADER:
        raise ValueError(f"chunk of {len(chunk)} bytes, expected at least {HEADER}")
    return int.from_bytes(chunk[8:HEADER], "big")


def can_decode(n_block_bytes: int, itemsize: int) -> bool:
    """Return whether `decode_chunks` supports such blocks of values of ``itemsize`` bytes."""
    if itemsize not in (1, 2, 4, 8):
        return False
    return 0 < n_block_bytes <= MAX_BLOCK and n_block_bytes % (8 * itemsize) == 0


def decode_chunks(
    toolkit: Toolkit,
    stored: Any,
    offsets: Array,
    n_block_bytes: int,
    into: Any,
) -> Any:
    """Decode chunks on the device; nothing is waited for.

    Args:
        toolkit: the device; call this inside of `Toolkit.call`.
        stored: (b,) uint8 on the device, the chunks as they are in the file.
        offsets: (k + 1,) int64 on the host; chunk i is ``stored[offsets[i] : offsets[i + 1]]``.
        n_block_bytes: bytes of a decoded block, see `block_bytes`; chunks with another number count
            as damaged.
        into: (k, ...) on the device, contiguous inside of each of the k; chunk i is decoded to
            ``into[i]``. Values of 1, 2, 4 or 8 bytes, little-endian, as the chunks have them.

    Returns:
        (k,) int32 on the device: 0, or what is wrong with a chunk, a key of `DAMAGE`. The values of
        a damaged chunk are undefined.

    Raises:
        ValueError: the sizes do not fit, or `can_decode` says no.
    """
    n_chunks, size = len(into), into.dtype.itemsize
    if not can_decode(n_block_bytes, size):
        expected = f"expected a multiple of {8 * size}, at most {MAX_BLOCK}"
        raise ValueError(f"blocks of {n_block_bytes} bytes, {expected}")
    if offsets.shape != (n_chunks + 1,):
        raise ValueError(f"offsets of shape {offsets.shape}, expected {(n_chunks + 1,)}")
    if offsets[0] < 0 or offsets[-1] > stored.size or (np.diff(offsets) < 0).any():
        raise ValueError(f"offsets are not ascending or not within 0 to {stored.size}")
    xp = toolkit.xp
    if not n_chunks:
        return xp.zeros(0, np.int32)
    n_values = int(np.prod(into.shape[1:], dtype=np.int64))
    block_values = n_block_bytes // size
    whole, more = divmod(n_values, block_values)
    n_blocks = whole + (more >= 8)  # fewer than 8 values are stored as they are, behind the blocks
    # one element at least, as kernels are given no empty array
    begins = xp.empty((n_chunks, max(1, n_blocks)), np.int64)
    damage = xp.empty(n_chunks, np.int32)
    sizes = (
        np.int64(n_values),
        np.int32(block_values),
        np.int64(n_blocks),
        np.int64(frame_stride(into)),
    )
    find = toolkit.kernel("bitshuffle", "find_blocks", SIZE=size)
    decode = toolkit.kernel("bitshuffle", "decode_blocks", SIZE=size)
    positions = toolkit.to_device(np.ascontiguousarray(offsets, np.int64))
    find(
        blocks_for(n_chunks, WARP),
        (WARP,),
        (stored, positions, np.int64(n_chunks), *sizes, begins, damage, bits_of(into)),
    )
    if n_blocks:
        decode(
            (n_chunks * n_blocks,),
            (WARP,),
            (stored, begins, *sizes, damage, bits_of(into)),
            shared_mem=n_block_bytes,
        )
    return damage


def first_damage(damage: Array) -> tuple[int, str] | None:
    """Return the number of the first damaged chunk and its damage, or None if there is none.

    ``damage``: the result of `decode_chunks`, on the host.
    """
    damaged = np.flatnonzero(damage)
    return (int(damaged[0]), DAMAGE[int(damage[damaged[0]])]) if len(damaged) else None
