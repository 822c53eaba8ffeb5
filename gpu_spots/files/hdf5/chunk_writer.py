"""Compressed writing of images to an HDF5 file.

Threads compress strips of rows. One thread passes them to HDF5, which does not compress.
"""

from typing import Any

import h5py
import numpy as np

from gpu_spots.files.hdf5.chunk_map import GZIP, SHUFFLE, filters
from gpu_spots.files.hdf5.codecs import compress, shuffle
from gpu_spots.model import Array


class ImageWriter:
    """Writer of the images of a dataset (n, n_X, n_Y) or (n_X, n_Y), in chunks of whole rows.

    `compress` may be called from any number of threads at once; `store` only from the one thread
    that writes the file.
    """

    why_not_direct: str | None
    """Reason why images must be written through h5py; None: this writer can. `compress` and `store`
    are for those only.
    """

    def __init__(self, dataset: h5py.Dataset) -> None:
        """Prepare to write to a dataset; nothing is written yet."""
        self.dataset = dataset
        self.dtype: np.dtype[Any] = dataset.dtype
        self._shape: tuple[int, int] = dataset.shape[-2:]
        self.why_not_direct = _why_not_direct(dataset)
        self._shuffled = SHUFFLE in filters(dataset)
        self._strip: int = dataset.chunks[-2] if dataset.chunks else self._shape[0]

    def compress(self, image: Array) -> list[bytes]:
        """Return the chunks of an image (n_X, n_Y) of the dataset's type; see `compress_image`.

        Raises ValueError for any other.
        """
        if image.shape != self._shape or image.dtype != self.dtype:
            raise ValueError(
                f"image is {image.dtype} {image.shape}, expected {self.dtype} {self._shape}"
            )
        return compress_image(image, self._strip, shuffled=self._shuffled)

    def store(self, index: int | None, strips: list[bytes]) -> None:
        """Write what `compress` made of image ``index``, None for the dataset's one.

        Raises OSError or RuntimeError where that fails.
        """
        leading = () if index is None else (index,)
        for i, strip in enumerate(strips):
            self.dataset.id.write_direct_chunk((*leading, i * self._strip, 0), strip)


def compress_image(image: Array, strip: int, *, shuffled: bool = False) -> list[bytes]:
    """Return an image (n_X, n_Y) as zlib streams of ``strip`` rows each. Thread-safe.

    The bytes may be shuffled first.

    The last is filled up with zeros: in HDF5 every chunk is whole, also where it reaches over the
    edge of a dataset.
    """
    image = np.ascontiguousarray(image)
    n_rows, n_columns = image.shape
    strips = []
    for begin in range(0, n_rows, strip):
        rows = image[begin : begin + strip]
        if len(rows) < strip:
            rows = np.concatenate((rows, np.zeros((strip - len(rows), n_columns), image.dtype)))
        strips.append(compress(shuffle(rows) if shuffled else rows))
    return strips


def _why_not_direct(dataset: h5py.Dataset) -> str | None:
    if filters(dataset) not in ((GZIP,), (SHUFFLE, GZIP)):
        return "not compressed by gzip, with or without shuffle"
    if (
        dataset.chunks[-1] != dataset.shape[-1]
        or dataset.chunks[:-2] != (1,) * (dataset.ndim - 2)
        or dataset.ndim not in (2, 3)
    ):
        return f"chunks {dataset.chunks} of {dataset.shape}, which are not whole rows of one image"
    return None if dataset.dtype.isnative else "not in native byte order"
