"""Bad pixels, and what a stack says of its detector."""

from pathlib import Path
from typing import Any

import numpy as np

from factories.layouts_data import (
    SHAPE,
)
from gpu_spots.files.frames import open_run
from gpu_spots.inputs import Inputs


def bad_pixels(seed: int = 3) -> np.ndarray:
    """(24, 40) bool: a scatter of bad pixels and a dark corner."""
    bad = np.random.default_rng(seed).random(SHAPE) < 0.1
    bad[:5, :6] = True
    return bad


def limits_of(path: Path, **options: Any) -> tuple[Any, Any, Any]:
    """Low, high and saturation."""
    with open_run(path, Inputs(**options)) as stack:
        return stack.validity.low, stack.validity.high, stack.saturation
