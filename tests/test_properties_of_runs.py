"""Properties of the spots of whole runs against the naive reference, to the bit."""

from typing import Any

import numpy as np
import pytest

from factories.frames import frames_of
from gpu_spots import first_pass, pipeline
from gpu_spots.backend import Backend
from gpu_spots.background.static_spots import static_places
from gpu_spots.columns import Flag
from gpu_spots.files.frames import ArrayStack
from gpu_spots.files.output.spots_writer import SpotsWriter, memory_file
from gpu_spots.model import Background, FixedPointMean, Validity
from gpu_spots.parameters import Parameters
from gpu_spots.resources import Resources
from helpers import Notes, assert_same, datasets
from reference_properties import (
    Below,
    Noise,
    properties,
    weighted_intensities,
    with_mask_errors,
)

pytestmark = [pytest.mark.on_two_devices, pytest.mark.sanitize]

N = 20
ANGLES, LASER = np.repeat([1.0, 2.0, 3.0, 4.0], 5), np.arange(N) % 2


def run(
    frames: np.ndarray, parameters: Parameters, backend: Backend, validity: Validity | None
) -> tuple[dict[str, np.ndarray], Background]:
    """All datasets of a run, and its background."""
    seen: list[Background] = []

    def compute_background(*args: Any) -> Background:
        seen.append(first_pass.compute_background(*args))
        return seen[0]

    columns = {"angle": ANGLES, "laser_on": LASER}
    with memory_file() as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "compute_background", compute_background)
        stack = ArrayStack(frames, columns, validity)
        writer = SpotsWriter(file, "memory", stack.shape, {})
        pipeline.find_spots(stack, parameters, Resources(backend), writer, Notes())
        return datasets(file), seen[0]


def below_of(background: Background) -> list[Below | None]:
    """Background under each pixel, as exact as it is known."""
    valid, mean = background.validity.pixels, background.mean
    good = np.ones(background.avg.size, bool) if valid is None else valid.ravel()
    if not isinstance(mean, FixedPointMean):
        return [
            Below(None, b) if ok else None
            for b, ok in zip(mean.ravel().tolist(), good, strict=True)
        ]
    high = np.zeros(good.size, int) if mean.high is None else mean.high.ravel()
    pairs = zip(high.tolist(), mean.low.ravel().tolist(), good, strict=True)
    return [
        Below(((h << 32) + low, mean.scale), float((h << 32) + low) / mean.scale) if ok else None
        for h, low, ok in pairs
    ]


@pytest.mark.parametrize("sync", ["none", "pairs", "blocks"])
@pytest.mark.parametrize("normalise", ["none", "level"])
@pytest.mark.parametrize("method", ["n_removed", "kruskal", "clip"])
@pytest.mark.parametrize("dtype", ["uint16", "int32", "float32"])
def test_properties_equal_the_reference(
    backend: Backend, dtype: str, method: str, normalise: str, sync: str
) -> None:
    options: dict[str, Any] = {"method": method, "normalise": normalise, "sync": sync}
    frames = frames_of(np.dtype(dtype), (N, 23, 38), seed=9)
    if dtype == "int32":
        frames += 70000 - int(frames.min())
    assert compare(
        frames, Parameters.manual(angles=0, erosions=0, structure=(2, 1), **options), backend
    )


@pytest.mark.parametrize("sync", ["none", "pairs", "blocks"])
@pytest.mark.parametrize(
    ("method", "gaps"), [("n_removed", False), ("clip", False), ("clip", True)]
)
def test_properties_of_matched_spots_equal_the_reference(
    backend: Backend, method: str, sync: str, gaps: bool
) -> None:
    frames = np.random.default_rng(3).poisson(80, (N, 43, 58)).astype(np.uint16)
    spot = np.exp(-((np.arange(9) - 4) ** 2) / 4)
    for frame, image in enumerate(frames):
        # two of them touch
        for x, y in ((3 + frame, 5), (3 + frame, 11), (20, 2 * frame + 5)):
            image[x : x + 9, y : y + 9] += (400 * np.outer(spot, spot)).astype(np.uint16)
            # spots are not symmetric
            image[x + 5 : x + 8, y + 5 : y + 7] += 100
        # a zinger in the third one
        image[26, 2 * frame + 11] += 5000 if frame % 3 == 0 else 0
    # a zinger of several pixels
    frames[7, 35:38, 50:53] += 4000
    options: dict[str, Any] = {"method": method, "normalise": "level", "sync": sync}
    parameters = Parameters(angles=0, finder="matched", **options)
    found = compare(frames, parameters, backend, gaps=gaps)
    assert (found["spots/flags"] & Flag.NEIGHBOUR).any()
    assert (found["spots/flags"] & Flag.ONE_FRAME).any() == (sync == "blocks")


def compare(
    frames: np.ndarray, parameters: Parameters, backend: Backend, *, gaps: bool = False
) -> dict[str, np.ndarray]:
    """Compare the properties of a run with the reference; return all datasets of the run.

    ``gaps``: some values of single frames are invalid.
    """
    rng = np.random.default_rng(7)
    drift = (1 + 0.1 * rng.random(N))[:, None, None]
    frames = (frames * drift).astype(frames.dtype)
    valid = rng.random(frames.shape[1:]) < 0.98
    gone = rng.random(frames.shape) < (0.01 if gaps else 0)
    frames[gone] = 60000 if gaps else 0
    validity = Validity(valid, high=59999 if gaps else None)
    found, background = run(frames, parameters, backend, validity)
    below, model = below_of(background), background.noise_model
    assert background.noise is not None
    assert model is not None
    n_used = found.get("stats/n_used", np.full(frames.shape[1:], N - N // 4))
    noise = Noise(
        [float(value) for value in background.noise.ravel()],
        n_used.ravel().tolist(),
        model.gain,
        model.correlation_lags,
    )
    factors = np.rint(found["per_frame/scale"] * 65536).astype(int).tolist()
    factors = factors if parameters.normalise == "level" else []
    flagged = background.flagged
    expected = properties(
        frames,
        found,
        below,
        factors,
        [(int(x), int(y)) for x, y in static_places(background)],
        noise,
        [] if flagged is None else [(int(x), int(y)) for x, y in np.argwhere(flagged)],
        np.array(
            [gone[found["per_frame/mask"] == i].any(0) for i in range(len(found["masks/counts"]))]
        ),
    )
    weighted = weighted_intensities(frames, found, below, factors, noise)
    mask_errors, asymmetry = weighted.pop("mask_error"), weighted.pop("asymmetry")
    if parameters.finder == "matched" and parameters.sync == "none":
        assert (mask_errors > expected["spots/sigma"] / 4).any()
        with_mask_errors(expected, found["spots/I"], mask_errors)
    if parameters.finder == "matched":
        # with clip, the noise is known too badly here
        assert asymmetry > 0 or parameters.method == "clip"
    else:
        del weighted["spots/centroid"], weighted["spots/centroid_sigma"]
    if parameters.sync == "none":
        del weighted["spots/I_prf"], weighted["spots/sigma_prf"]
    expected |= weighted
    assert ("spots/I_prf" in found) == (parameters.sync != "none")
    assert len(expected["spots/sigma"]) > 20
    assert np.isfinite(expected["spots/sigma"]).all()
    assert_same(found, expected)
    return found
