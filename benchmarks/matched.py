"""Recall, false spots and speed of the matched finder, on simulated frames with known spots.

``python benchmarks/matched.py`` prints recall by the strength of spots, and false spots per frame,
for photon counters, CCDs, blocks of frames, and neighbours. ``--method METHOD`` runs the whole
program with a background method; without it the background is the true one. ``--time`` measures
milliseconds per frame of 2048 x 2048 pixels, beside the masks of ``--finder threshold``.
"""

import argparse
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

import gpu_spots
from gpu_spots.backend import select_backend
from gpu_spots.masks.matched import significance_maps
from gpu_spots.masks.noise_map import NoiseMap
from gpu_spots.masks.seed_levels import Calibration, Thresholds
from gpu_spots.model import Background, Components, FixedPointMean, Morphology, Validity

SIZE = 512
"""Rows and columns of a frame."""
MARGIN = 12
"""Spots keep so far from the edge."""
REACH = 9
"""Pixels that a spot extends to each side."""
N_ZINGERS = 2
"""Zingers of a frame of a CCD."""
TOLERANCE = 3.0
"""A spot is found where one is found within so many pixels."""
COUNTS = (5, 8, 12, 20, 50, math.inf)
"""Limits of the strengths of spots on photon counters, counts."""
RATIOS = (3, 5, 7, 10, 15, 30, math.inf)
"""Limits of the strengths of spots on CCDs, in units of the noise that an ideal filter sees."""


@dataclass(frozen=True)
class Spot:
    """A true spot."""

    x: float
    y: float
    width: float
    """Sigma of its Gaussian, pixels."""
    photons: float
    strength: float
    """Quantity on the axis of recall: photons, or signal over noise. NaN: a hidden spot, which need
    not be found.
    """


@dataclass
class Series:
    """Frames with their truth."""

    name: str
    frames: NDArray[Any]
    background: NDArray[np.float64]
    """(n_X, n_Y) float64, counts."""
    noise: NDArray[np.float64]
    gain: float
    read_variance: float
    valid: NDArray[np.bool_]
    spots: list[list[Spot]]
    """Spots of each frame."""
    limits: Sequence[float]
    size: int = 1
    """Frames of a block; all blocks follow each other."""
    columns: dict[str, Any] = field(default_factory=dict)


def light(spot: Spot) -> tuple[slice, slice, NDArray[np.float64]]:
    """Return where a spot is, and the share of its photons in each pixel."""
    edges = np.arange(-REACH, REACH + 2) - 0.5
    x0, y0 = round(spot.x), round(spot.y)

    def along(centre: float) -> NDArray[np.float64]:
        scaled = (edges - centre) / (spot.width * math.sqrt(2))
        return np.diff([0.5 * math.erf(each) for each in scaled])

    rows, columns = slice(x0 - REACH, x0 + REACH + 1), slice(y0 - REACH, y0 + REACH + 1)
    return rows, columns, np.outer(along(spot.x - x0), along(spot.y - y0))


def scattered(
    rng: np.random.Generator,
    n: int,
    photons: tuple[float, float],
    strength: Callable[[float, float], float],
    apart: float = 14.0,
) -> list[Spot]:
    """Return spots at random places that are some pixels apart."""
    spots: list[Spot] = []
    while len(spots) < n:
        x, y = rng.uniform(MARGIN, SIZE - MARGIN, 2)
        if all(math.hypot(x - other.x, y - other.y) > apart for other in spots):
            width = rng.uniform(0.6, 1.5)
            total = math.exp(rng.uniform(*np.log(photons)))
            spots.append(Spot(x, y, width, total, strength(total, width)))
    return spots


def photon_counter(level: float, seed: int, n_frames: int) -> Series:
    """Return frames of a photon counter, int32, with gaps between modules (-1) and hot pixels."""
    rng = np.random.default_rng([seed, int(level * 1000)])
    x, y = np.mgrid[:SIZE, :SIZE]
    background = level * (1.2 - 0.4 * np.hypot(x - 256, y - 256) / 362)
    valid = rng.random((SIZE, SIZE)) > 4e-4
    valid[240:257] = valid[:, 300:307] = False
    hot = background.copy()
    hot[tuple(rng.integers(5, SIZE - 5, (2, 25)))] += 40
    frames = np.empty((n_frames, SIZE, SIZE), np.int32)
    spots = []
    for frame in frames:
        of_frame = scattered(rng, 100, (5, 500), lambda photons, _: photons)
        expected = hot.copy()
        seen = []
        for spot in of_frame:
            rows, columns, share = light(spot)
            expected[rows, columns] += spot.photons * share
            is_seen = share[valid[rows, columns]].sum() > 0.9
            seen.append(spot if is_seen else replace(spot, strength=math.nan))
        frame[:] = np.where(valid, rng.poisson(expected), -1)
        spots.append(seen)
    return Series(
        f"photon counter, {level:g} counts", frames, hot, np.sqrt(hot), 1.0, 0.0, valid, spots,
        COUNTS
    )  # fmt: skip


def ccd(
    level: float, seed: int, n_frames: int, drift: float = 0.0, gain: float = 0.07, size: int = 1,
    photons: tuple[float, float] | None = None,
) -> Series:  # fmt: skip
    """Return frames of a CCD, uint16, with bias, sloping background, zingers and drift, %."""
    rng = np.random.default_rng([seed, int(level), int(drift * 10), size])
    x, _ = np.mgrid[:SIZE, :SIZE]
    background = level * (1 + 0.2 * np.sin(x / 60))
    bias, read_variance = 10.0, 6.0
    noise = np.sqrt(gain * background + read_variance)
    frames = np.empty((n_frames, SIZE, SIZE), np.uint16)
    valid = np.ones((SIZE, SIZE), bool)
    spots: list[list[Spot]] = []

    def strength(total: float, width: float) -> float:
        area = 4 * math.pi * width * width
        return total / math.sqrt(total + area * (level / gain + read_variance / gain / gain))

    weakest = 2.0 * math.sqrt(12 * (level / gain + read_variance / gain / gain))
    scales = 1 + drift / 100 * rng.standard_normal(n_frames)
    for i, frame in enumerate(frames):
        if i % size == 0:
            block = scattered(rng, 60, photons or (weakest, 40 * weakest), strength)
        expected = background / gain * scales[i]
        for spot in block:
            rows, columns, share = light(spot)
            expected[rows, columns] += spot.photons * share * scales[i]
        values = gain * rng.poisson(expected) + rng.normal(bias, math.sqrt(read_variance), x.shape)
        values[tuple(rng.integers(0, SIZE, (2, N_ZINGERS)))] += rng.uniform(200, 5000, N_ZINGERS)
        frame[:] = np.clip(np.rint(values), 0, 65535)
        spots.append(block)
    name = f"CCD, {level:g} counts" + f", drift {drift:g} %" * (drift > 0)
    metadata: dict[str, Any] = {}
    if size > 1:
        name += f", blocks of {size}"
        metadata = {
            "angle": np.arange(n_frames) // size * 1.0,
            "laser_on": np.arange(n_frames) % 2,
        }
    return Series(
        name, frames, background + bias, noise, gain, read_variance, valid, spots, RATIOS, size,
        metadata
    )  # fmt: skip


def found_by_operations(of: Series, significance: float) -> Components:
    """Return the spots of each frame or block, with the true background."""
    backend = select_backend("cpu")
    noise = NoiseMap(
        of.background, of.noise.astype(np.float32), of.gain, of.read_variance,
        Validity(of.valid), False, of.frames.dtype,
    )  # fmt: skip
    maps = significance_maps(noise, streaks=False, workers=2)
    prepared = backend.prepare_significance(maps)
    found = backend.significance(of.frames, prepared, None)
    n = len(of.frames) // of.size
    if of.size > 1:
        sums = backend.empty_sums(prepared, n, (SIZE, SIZE))
        backend.add_significance(sums, found, np.arange(len(of.frames)) // of.size)
        found = backend.of_sums(sums, [of.size] * n)
    thresholds = Thresholds(noise, significance, streaks=False, workers=2)
    maps_of_some = backend.smoothed_maps(found, prepared)[:: max(1, n // 6)]
    seeds = thresholds.levels(of.size, thresholds.calibrate(maps_of_some, of.size))
    return backend.matched_masks(found, prepared, [seeds] * n).spots


def places(of: Series, method: str | None, significance: float) -> Iterator[NDArray[np.float64]]:
    """Yield the centres of what is found on each frame or block, (n, 2)."""
    if method is None:
        found = found_by_operations(of, significance)
        pixels, begin, first = found.pixels, found.begin, found.first
    else:
        parameters = gpu_spots.Parameters.manual(
            method=method, finder="matched", significance=significance, angles=0,
            sync="blocks" if of.size > 1 else "none",
            normalise="level" if "drift" in of.name else "none",
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run = gpu_spots.find_spots(
                of.frames,
                parameters,
                columns=of.columns or None,
                valid_pixels=of.valid,
                backend="cpu",
            )
        with run:
            labels = [run.labels(i) for i in range(0, len(of.frames), of.size)]
        for image in labels:
            inside = np.flatnonzero(image)
            spot = image.reshape(-1)[inside]
            yield _centres(of, inside, spot)
        return
    for i in range(len(first) - 1):
        inside = pixels[begin[first[i]] : begin[first[i + 1]]]
        length = np.diff(begin[first[i] : first[i + 1] + 1])
        yield _centres(of, inside, np.repeat(np.arange(1, len(length) + 1), length))


def _centres(of: Series, pixels: NDArray[np.int64], spot: NDArray[Any]) -> NDArray[np.float64]:
    """Return centres of the pixels of spots that are numbered from 1, not weighted."""
    x, y = np.divmod(pixels, SIZE)
    n = np.bincount(spot, minlength=1)[1:]
    return np.stack(
        [np.bincount(spot, axis, minlength=1)[1:] / np.maximum(n, 1) for axis in (x, y)], axis=1
    )


@dataclass
class Score:
    """Score of some frames."""

    strength: list[float] = field(default_factory=list)
    hit: list[bool] = field(default_factory=list)
    n_false: int = 0
    n_frames: int = 0

    def add(self, spots: list[Spot], centres: NDArray[np.float64]) -> None:
        """Match what was found on a frame with its spots, one to one, the nearest first."""
        self.n_frames += 1
        true = np.array([(spot.x, spot.y) for spot in spots]).reshape(-1, 2)
        apart = np.hypot(*(true[:, None] - centres[None]).transpose(2, 0, 1))
        matched, used = np.zeros(len(spots), bool), np.zeros(len(centres), bool)
        for flat in np.argsort(apart, axis=None, kind="stable"):
            i, j = np.unravel_index(flat, apart.shape)
            if apart[i, j] > TOLERANCE:
                break
            if not matched[i] and not used[j]:
                matched[i] = used[j] = True
        self.strength += [spot.strength for spot in spots]
        self.hit += matched.tolist()
        self.n_false += int(np.count_nonzero(~(apart < 8).any(axis=0)))

    def words(self, limits: Sequence[float]) -> str:
        """Return recall in percent by strength, and false ones a frame."""
        strength, hit = np.array(self.strength), np.array(self.hit)
        cells = []
        for low, high in pairwise(limits):
            some = (strength >= low) & (strength < high)
            cells.append(f"{100 * hit[some].mean():5.1f}" if some.sum() > 9 else "    -")
        return " ".join(cells) + f" {self.n_false / self.n_frames:7.3f}"


def quality(method: str | None, significance: float, n_frames: int, seeds: Sequence[int]) -> None:
    """Print recall and false spots for all kinds of frames."""
    kinds: list[Callable[[int], Series]] = [
        *(
            lambda seed, level=level: photon_counter(level, seed, n_frames)
            for level in (0.01, 0.05, 0.3, 1, 3, 10)
        ),
        *(lambda seed, level=level: ccd(level, seed, n_frames) for level in (10, 100, 1000, 10000)),
        *(lambda seed, drift=drift: ccd(1000, seed, n_frames, drift) for drift in (1, 3)),
        lambda seed: ccd(1000, seed, n_frames // 6 * 6, size=6),
    ]  # fmt: skip
    for make in kinds:
        score = Score()
        for seed in seeds:
            of = make(seed)
            if method is None and "drift" in of.name:
                break
            for i, centres in enumerate(places(of, method, significance)):
                score.add(of.spots[i * of.size], centres)
        if not score.n_frames:
            continue
        limits = "/".join(f"{limit:g}" for limit in of.limits[:-1])
        print(f"{of.name:32s} [{limits}] {score.words(of.limits)}", flush=True)
    neighbours(significance, seeds[0])


def neighbours(significance: float, seed: int) -> None:
    """Print how often two equal spots are told apart, by their distance in sigma."""
    rng = np.random.default_rng(seed)
    limits = (3, 3.5, 4, 5, 6, 8)
    for level, photons in ((0.05, 60), (0.05, 300), (1, 300), (100, 2000), (1000, 6000)):
        apart, resolved = [], []
        for _ in range(4):
            expected, pairs = np.full((SIZE, SIZE), float(level)), []
            for x in range(24, 490, 30):
                for y in range(24, 490, 30):
                    width, angle = rng.uniform(0.7, 1.3), rng.uniform(0, math.pi)
                    distance = rng.uniform(3, 8) * width
                    step = distance / 2 * np.array([math.cos(angle), math.sin(angle)])
                    centre = np.array([x, y]) + rng.uniform(-0.5, 0.5, 2)
                    pair = [
                        Spot(float(a), float(b), width, photons, 0)
                        for a, b in (centre - step, centre + step)
                    ]
                    for spot in pair:
                        rows, columns, share = light(spot)
                        expected[rows, columns] += photons * share
                    pairs.append((distance / width, pair))
            frames = rng.poisson(expected)[None].astype(np.int32)
            flat = np.full((SIZE, SIZE), float(level))
            of = Series("", frames, flat, np.sqrt(flat), 1.0, 0.0, flat > 0, [[]], COUNTS)
            (centres,) = places(of, None, significance)
            for distance, pair in pairs:
                gaps = [np.hypot(*(centres - (spot.x, spot.y)).T) for spot in pair]
                nearest = [int(gap.argmin()) for gap in gaps]
                apart.append(distance)
                resolved.append(nearest[0] != nearest[1] and all(gap.min() < 1.8 for gap in gaps))
        d, told = np.array(apart), np.array(resolved)
        shares = " ".join(
            f"{100 * told[(d >= a) & (d < b)].mean():5.1f}" for a, b in pairwise(limits)
        )
        print(f"neighbours of {photons} photons on {level:g}  {limits[:-1]} sigma apart: {shares}")


def speed() -> None:
    """Print milliseconds of processor time per frame, one thread."""
    rng, size, n = np.random.default_rng(0), 2048, 8
    mean = 800 + 50 * np.sin(np.arange(size) / 50)[:, None] * np.ones(size)
    frames = rng.normal(mean, np.sqrt(0.07 * mean + 4), (n, size, size))
    a = np.arange(-10, 11)
    for frame in frames:
        for _ in range(115):
            x, y = rng.integers(12, size - 12, 2)
            width, photons = rng.uniform(0.8, 2), math.exp(rng.uniform(4.5, 10))
            shape = np.exp(-(a[:, None] ** 2 + a[None] ** 2) / 2 / width**2)
            frame[x - 10 : x + 11, y - 10 : y + 11] += photons / (6.28 * width**2) * shape
    counts = np.clip(np.rint(frames), 0, 65535).astype(np.uint16)
    noise = NoiseMap(
        mean, np.sqrt(0.07 * mean + 4).astype(np.float32), 0.07, 4.0,
        Validity(), False, np.dtype(np.uint16),
    )  # fmt: skip
    backend = select_backend("cpu", threads=1)

    def took(what: str, function: Callable[[], Any]) -> Any:
        best = math.inf
        for _ in range(3):
            begin = time.thread_time()
            result = function()
            best = min(best, time.thread_time() - begin)
        print(f"{what:40s} {1000 * best / n:8.2f} ms per frame", flush=True)
        return result

    levels = np.full(n, 66000)
    for streaks in (False, True):
        print(f"streaks: {streaks}")
        maps = significance_maps(noise, streaks=streaks, workers=1)
        thresholds = Thresholds(noise, 5.5, streaks=streaks)
        n_maps = 7 if streaks else 3
        seeds = thresholds.levels(1, Calibration(1, (0.0,) * n_maps, (1.0,) * n_maps))
        found = took("significance", partial(backend.significance, counts, maps, None))
        took("significance, with levels", partial(backend.significance, counts, maps, levels))
        took("maps, seeds, spots", partial(backend.matched_masks, found, maps, [seeds] * n))
    background = Background(
        *(np.zeros((size, size), np.float32),) * 3,
        np.zeros((size, size), np.uint16),
        np.zeros((size, size), np.int32),
        (mean + 25).astype(np.int32),
        None, None, False,
        FixedPointMean(1, None, mean.astype(np.uint32)), Validity(),
    )  # fmt: skip
    prepared = backend.prepare(background, Morphology(1, 2, 2), None)
    took("masks of --finder threshold", partial(backend.find_masks, counts, prepared))


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--method", help="background method of the whole program")
    parser.add_argument("--significance", type=float, default=5.5)
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--seed", type=int, nargs="+", default=[2026], help="one run for each")
    parser.add_argument("--time", action="store_true", help="measure speed instead")
    options = parser.parse_args()
    if options.time:
        speed()
    else:
        quality(options.method, options.significance, options.frames, options.seed)


if __name__ == "__main__":
    main()
