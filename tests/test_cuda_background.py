"""The step from moments to the threshold on the device: the host's, to the bit."""

from pathlib import Path

import numpy as np
import pytest

from emulator.emulated import COMPILER, EmulatedToolkit
from gpu_spots.background import BackgroundMaps
from gpu_spots.cuda.background import background
from gpu_spots.cuda.planes import plane_moments
from gpu_spots.model import Validity
from test_cuda_moments import KINDS, SHORT, frames_of

pytestmark = pytest.mark.skipif(COMPILER is None, reason="g++ is not installed")


@pytest.mark.parametrize("cutoff", [0.0, 0.1, 1.0, 3.0, 1e5, 1e308])
@pytest.mark.parametrize("dtype", SHORT, ids=str)
def test_maps_equal_the_hosts(kernel_folder: Path, dtype: np.dtype, cutoff: float) -> None:
    toolkit, shape = EmulatedToolkit(kernel_folder), (7, 61)
    for kind in KINDS:
        frames = frames_of(dtype, (33, *shape), kind)
        if kind == "noise":
            frames[:, 3] = np.arange(61) % 4  # constant pixels
        for validity in (Validity(), Validity(np.arange(61)[None] % 7 > np.arange(7)[:, None] - 3, low=1)):
            moments = plane_moments(toolkit, toolkit.to_device(frames), 25, validity)
            found = background(toolkit, moments, cutoff)
            maps = BackgroundMaps(shape, dtype, cutoff, varies=False)
            maps.fill(0, moments.to_host(toolkit, shape))
            expected = maps.finish(validity)
            for name in ("avg", "std", "iqr", "threshold"):
                ours, theirs = toolkit.to_host(getattr(found, name)).reshape(shape), getattr(expected, name)
                assert ours.dtype == theirs.dtype
                assert np.array_equal(ours.view(np.uint32), theirs.view(np.uint32)), (kind, name)
