"""Spots that other programs find; ``accuracy.py`` runs this file in their environments.

    PEERS/om/bin/python benchmarks/accuracy_peers.py om FOLDER SETTING ...

FOLDER has runs, ``run_0.npz`` and so on, with ``frames`` (n_frames, n_X, n_Y), ``good`` (n_X, n_Y)
bool and ``beam`` (2,), the place of the direct beam. For each run R and setting K, FOLDER gets
``found_R_K.npz`` with the ``seconds`` of one core that the search took, and ``frame`` (n,), ``XY``
(n, 2) and, where they are in counts, ``I`` (n,); or with ``given_up``, the reason. It needs NumPy
and the program, and nothing of ours.

Programs look at single frames. Each is given the choice of the frame as it is, of the frame less
the median of the run in each pixel, or of that over the pixel's standard deviation (from the 16th
percentile), wherever it can use it. Where a program describes spots by numbers that tell zingers
from spots, those are used, with several limits.
"""

import logging
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PATIENCE = 40.0
"""Seconds of one core that a setting may take; the 24 frames of a run take 0.1 to 6 s."""
CROWD = 400
"""Spots of the first frame with which a setting is given up; 25 to 50 of them are true."""
BRIGHT = 50.0
"""Counts per pixel from which on a frame is not sparse."""

Spots = tuple[NDArray[Any], NDArray[Any] | None]
"""Centres, (n, 2), and intensities, (n,) counts, or None."""
Finder = Callable[..., Spots]
"""Function of an image, and options by name, that returns its spots."""
Settings = dict[str, tuple[str, dict[str, Any]]]
"""Kinds of images and options of the finder, by the name of the setting."""


class Run:
    """The frames, and the images that are made of them."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as file:
            self.frames, self.good, self.beam = file["frames"], file["good"], file["beam"]
        ordered = np.sort(self.frames, axis=0)
        n = len(ordered)
        self.median = ordered[n // 2].astype(np.float32)
        low = ordered[int(0.1587 * n)].astype(np.float32)
        least = 0.5 if is_sparse(self.frames, self.good) else 1e-3
        self.sigma = np.maximum(self.median - low, least)

    def image(self, index: int, kind: str) -> NDArray[np.float32]:
        """Return a frame as float32, (n_X, n_Y): ``frame``, ``less median`` or ``in sigmas``."""
        image = self.frames[index].astype(np.float32)
        if kind != "frame":
            image -= self.median
        if kind == "in sigmas":
            image /= self.sigma
        image[~self.good] = 0
        return np.ascontiguousarray(image)


def is_sparse(frames: NDArray[Any], good: NDArray[np.bool_]) -> bool:
    """Return whether most pixels have few counts, as on a photon counter."""
    return bool(np.median(frames[0][good]) < BRIGHT)


def once(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function of an image and options, which keeps what it returned."""
    kept: dict[Any, Any] = {}

    def keeping(image: NDArray[Any], *options: float) -> Any:
        key = (hash(image.tobytes()), *options)
        if key not in kept:
            kept[key] = function(image, *options)
        return kept[key]

    return keeping


def om_settings(_: bool) -> Settings:
    """Return the settings of OnDA's peakfinder8."""
    return {
        f"{kind}, snr {snr:g}, {pixels} pixels": (
            kind,
            {"lowest": 0.0 if kind == "frame" else -1000.0, "pixels": pixels, "snr": snr},
        )
        for kind in ("frame", "less median")
        for pixels in (1, 2, 3, 4)
        for snr in (2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0)
    }


def om(run: Run) -> Finder:
    """Return OnDA's peakfinder8."""
    algorithms = import_module("om.algorithms.crystallography")
    n_X, n_Y = run.good.shape
    X, Y = np.ogrid[:n_X, :n_Y]
    radius = np.hypot(X - run.beam[0], Y - run.beam[1]).astype(np.float32)
    layout = {"asic_nx": n_Y, "asic_ny": n_X, "nasics_x": 1, "nasics_y": 1}

    def find(image: NDArray[Any], lowest: float, pixels: int, snr: float) -> Spots:
        parameters = {
            "max_num_peaks": 20000,
            "adc_threshold": lowest,
            "minimum_snr": snr,
            "min_pixel_count": pixels,
            "max_pixel_count": 2000,
            "local_bg_radius": 4,
            "min_res": 0,
            "max_res": 5000,
            "bad_pixel_map_filename": None,
            "bad_pixel_map_hdf5_path": None,
        }
        detection = algorithms.Peakfinder8PeakDetection(
            radius_pixel_map=radius, layout_info=layout, crystallography_parameters=parameters
        )
        detection._mask = run.good.astype(np.int8)
        peaks = detection.find_peaks(data=image)
        return np.column_stack([peaks["ss"], peaks["fs"]]), np.asarray(peaks["intensity"])

    return find


def id11_settings(sparse: bool) -> Settings:
    """Return the settings of ImageD11."""
    in_counts = (1, 2, 3, 5, 8) if sparse else (15, 20, 30, 50, 80)
    levels = {"less median": in_counts, "in sigmas": (1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0)}
    return {
        f"{kind}, threshold {level:g}, {pixels} pixels": (
            kind,
            {"level": float(level), "pixels": pixels, "in_counts": kind == "less median"},
        )
        for kind, thresholds in levels.items()
        for pixels in (2, 3, 5, 8, 12)
        for level in thresholds
    }


def id11(_: Run) -> Finder:
    """Return ImageD11's search: connected pixels and their moments."""
    c = import_module("ImageD11.cImageD11")

    @once
    def connected(image: NDArray[Any], level: float) -> NDArray[Any]:
        labels = np.zeros(image.shape, np.int32)
        n = c.connectedpixels(image, labels, level, 0)
        if not n:
            return np.zeros((0, max(c.s_1, c.s_I, c.s_sI, c.s_fI) + 1))
        blobs = c.blobproperties(image, labels, n, 0.0)
        c.blob_moments(blobs)
        return np.asarray(blobs)

    def find(image: NDArray[Any], level: float, pixels: int, in_counts: bool) -> Spots:
        blobs = connected(image, level)
        blobs = blobs[blobs[:, c.s_1] >= pixels]
        total = blobs[:, c.s_I]
        XY = blobs[:, [c.s_sI, c.s_fI]] / total[:, None]
        return XY, total if in_counts else None

    return find


def sep_settings(_: bool) -> Settings:
    """Return the settings of sep.

    With a filter, spots are those whose highest pixel is less than a number of times that of the
    filtered frame: a zinger of one pixel is 6, 25 or 56 times as high.
    """
    made: Settings = {}
    for sigma, sizes, thresholds, peaks in (
        (0.0, (3, 4, 6, 10), (2.0, 2.5, 3.0, 4.0, 5.0), (np.inf,)),
        (1.0, (1, 6), (1.2, 1.4, 1.7, 2.0, 2.5, 3.0), (4.0,)),
        (2.0, (1, 6), (0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.4, 1.7, 2.0), (4.0, 8.0, 20.0)),
        (3.0, (1,), (0.4, 0.5, 0.6, 0.7, 0.8, 1.0), (20.0,)),
    ):
        for pixels in sizes:
            for level in thresholds:
                for peak in peaks:
                    name = f"in sigmas, filter {sigma:g}, threshold {level:g}, {pixels} pixels"
                    name += f", peak below {peak:g}" * bool(sigma)
                    options = {"sigma": sigma, "pixels": pixels, "level": level, "peak": peak}
                    made[name] = "in sigmas", options
    return made


def sep(run: Run) -> Finder:
    """Return Source Extractor's detection, with a Gaussian filter or none."""
    module = import_module("sep")
    module.set_extract_pixstack(300_000)
    x = np.arange(-4, 5)

    @once
    def extract(image: NDArray[Any], sigma: float, pixels: int, level: float) -> NDArray[Any]:
        kernel = np.exp(-np.add.outer(x**2, x**2) / (2 * sigma**2)) if sigma else None
        return np.asarray(
            module.extract(
                image, level, err=1.0, mask=~run.good, minarea=pixels, filter_kernel=kernel,
                filter_type="conv",
            )
        )  # fmt: skip

    def find(image: NDArray[Any], sigma: float, pixels: int, level: float, peak: float) -> Spots:
        found = extract(image, sigma, pixels, level)
        found = found[found["peak"] < peak * found["cpeak"]]
        return np.column_stack([found["y"], found["x"]]), None

    return find


def photutils_settings(_: bool) -> Settings:
    """Return the settings of photutils; zingers are sharper than spots."""
    return {
        f"in sigmas, FWHM {fwhm:g}, threshold {level:g}, sharpness below {limit:g}": (
            "in sigmas",
            {"fwhm": fwhm, "level": level, "limit": limit},
        )
        for fwhm in (2.5, 4.0, 6.0, 8.0)
        for limit in (1.0, 1.2, 2.0)
        for level in (3.0, 3.5, 4.0, 4.5, 5.0, 5.5, 6.0, 8.0, 12.0)
    }


def photutils(run: Run) -> Finder:
    """Return DAOFIND of photutils.

    Each frame is searched once, at the lowest threshold: a higher one leaves the maxima of the
    filtered frame that exceed it.
    """
    detection = import_module("photutils.detection")
    lowest = 2.0

    @once
    def stars(image: NDArray[Any], fwhm: float) -> NDArray[Any]:
        finder = detection.DAOStarFinder(
            lowest, fwhm, sharpness_range=(0.0, 2.0), roundness_range=(-2.0, 2.0)
        )
        table = finder(image, mask=~run.good)
        if table is None:
            return np.zeros((0, 4))
        above = lowest * 10 ** (-0.4 * table["daofind_mag"])
        return np.column_stack(
            [table["y_centroid"], table["x_centroid"], table["sharpness"], above]
        )

    def find(image: NDArray[Any], fwhm: float, level: float, limit: float) -> Spots:
        found = stars(image, fwhm)
        return found[(found[:, 2] < limit) & (found[:, 3] > level), :2], None

    return find


def pyfai_settings(_: bool) -> Settings:
    """Return the settings of pyFAI."""
    return {
        f"in sigmas, blobs above {level:g}": ("in sigmas", {"level": level})
        for level in (0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0)
    }


def pyfai(run: Run) -> Finder:
    """Return pyFAI's blobs, maxima of differences of Gaussians, moved to maxima of the frame."""
    blobs = import_module("pyFAI.blob_detection").BlobDetection
    bilinear = import_module("pyFAI.ext.bilinear").Bilinear
    logging.disable(logging.WARNING)

    @once
    def keypoints(image: NDArray[Any]) -> tuple[Any, Any]:
        search = blobs(image, init_sigma=1.0, dest_sigma=2.0, mask=~run.good)
        with redirect_stdout(StringIO()):
            search.process(1)
        return search.keypoints, bilinear(search.raw)

    def find(image: NDArray[Any], level: float) -> Spots:
        points, refined = keypoints(image)
        XY = [refined.local_maxi((one.y, one.x)) for one in points[points["I"] >= level]]
        return np.unique(np.reshape(XY, (-1, 2)), axis=0), None

    return find


PROGRAMS: dict[str, tuple[str, Callable[[bool], Settings], Callable[[Run], Finder]]] = {
    "om": ("ondamonitor", om_settings, om),
    "id11": ("ImageD11", id11_settings, id11),
    "sep": ("sep", sep_settings, sep),
    "photutils": ("photutils", photutils_settings, photutils),
    "pyfai": ("pyFAI", pyfai_settings, pyfai),
}
"""Programs by name: package that has the version, settings, and the search."""


def search(run: Run, kind: str, find: Finder, options: dict[str, Any]) -> dict[str, Any]:
    """Return the columns of what a setting finds, or why it was given up."""
    begun = time.process_time()
    spots: list[Spots] = []
    try:
        for index in range(len(run.frames)):
            spots.append(find(run.image(index, kind), **options))
            if time.process_time() - begun > PATIENCE:
                return {"given_up": f"{PATIENCE:g} s for {len(spots)} frames"}
            if len(spots[0][0]) > CROWD:
                return {"given_up": f"{len(spots[0][0])} spots on a frame"}
    except Exception as error:  # for instance, more sources than the program has room for
        return {"given_up": f"{type(error).__name__}: {error}"}
    found: dict[str, Any] = {
        "seconds": time.process_time() - begun,
        "frame": np.repeat(np.arange(len(spots)), [len(XY) for XY, _ in spots]),
        "XY": np.concatenate([XY for XY, _ in spots]).astype(np.float64),
    }
    intensities = [counts for _, counts in spots if counts is not None]
    if len(intensities) == len(spots):
        found["I"] = np.concatenate(intensities)
    return found


def main() -> None:
    """Read the runs, find, write the spots of each setting."""
    name, folder, *wanted = sys.argv[1:]
    warnings.simplefilter("ignore")
    _, settings, program = PROGRAMS[name]
    for source in sorted(Path(folder).glob("run_*.npz")):
        run = Run(source)
        known = settings(is_sparse(run.frames, run.good))
        find = program(run)
        for k, setting in enumerate(wanted):
            kind, options = known[setting]
            target = source.with_stem(f"{source.stem.replace('run', 'found')}_{k}")
            np.savez(target, **search(run, kind, find, options))


if __name__ == "__main__":
    main()
