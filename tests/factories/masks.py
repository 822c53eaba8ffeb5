"""Masks of a backend."""

from typing import Any

import numpy as np

from gpu_spots.backend import Backend
from gpu_spots.model import Morphology
from helpers import background_of

NO_MORPHOLOGY = Morphology(0, 0, 1)


def masks_of(backend: Backend, images: np.ndarray, morphology: Morphology = NO_MORPHOLOGY) -> Any:
    """Images of 0 and 1 as the backend's masks, cleaned."""
    prepared = backend.prepare(
        background_of(np.ones(images.shape[1:], np.int32), np.dtype("uint8")), morphology, None
    )
    return backend.find_masks(backend.upload(images.astype(np.uint8)), prepared).filtered
