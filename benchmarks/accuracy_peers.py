"""Spots that other programs find; ``accuracy.py`` runs this file in their environments.

    PEERS/om/bin/python benchmarks/accuracy_peers.py om RUN.npz OUT.npz

RUN.npz has ``frames`` (n_frames, n_X, n_Y), ``good`` (n_X, n_Y) bool and ``beam`` (2,), the place
of the direct beam. OUT.npz has ``settings`` (their names), ``version``, and for setting k
``frame_k``, ``XY_k`` (n, 2) and, where they are in counts, ``I_k``. It needs NumPy and the program,
and nothing of ours.

Programs look at single frames. Each is given the choice of the frame as it is, of the frame less
the median of the run in each pixel, or of that over the pixel's standard deviation (from the 16th
percentile), wherever it can use it.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from importlib import import_module
from importlib.metadata import version
from io import StringIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

Spots = tuple[NDArray[Any], NDArray[Any] | None]
"""Centres, (n, 2), and intensities, (n,) counts, or None."""
Finder = Callable[[NDArray[Any]], Spots]
"""Function that returns the spots of an image."""


class Run:
    """The frames, and the images that are made of them."""

    def __init__(self, path: str) -> None:
        with np.load(path) as file:
            self.frames, self.good, self.beam = file["frames"], file["good"], file["beam"]
        ordered = np.sort(self.frames, axis=0)
        n = len(ordered)
        self.median = ordered[n // 2].astype(np.float32)
        low = ordered[int(0.1587 * n)].astype(np.float32)
        # hot pixels must not tell what kind of detector it is
        self.sparse = bool(np.median(self.median[self.good]) < 50)
        self.sigma = np.maximum(self.median - low, 0.5 if self.sparse else 1e-3)

    def image(self, index: int, kind: str) -> NDArray[np.float32]:
        """Return a frame as float32, (n_X, n_Y): ``frame``, ``less median`` or ``in sigmas``."""
        image = self.frames[index].astype(np.float32)
        if kind != "frame":
            image -= self.median
        if kind == "in sigmas":
            image /= self.sigma
        image[~self.good] = 0
        return np.ascontiguousarray(image)


def om(run: Run) -> Iterator[tuple[str, str, Finder]]:
    """Yield the variants of peakfinder8 of OnDA."""
    algorithms = import_module("om.algorithms.crystallography")
    n_X, n_Y = run.good.shape
    X, Y = np.ogrid[:n_X, :n_Y]
    radius = np.hypot(X - run.beam[0], Y - run.beam[1]).astype(np.float32)
    layout = {"asic_nx": n_Y, "asic_ny": n_X, "nasics_x": 1, "nasics_y": 1}
    for kind in ("frame", "less median"):
        for pixels in (1, 3):
            for snr in (2.5, 3.0, 3.5, 4.0, 5.0, 6.0):
                parameters = {
                    "max_num_peaks": 20000,
                    "adc_threshold": 0.0 if kind == "frame" else -1000.0,
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
                    radius_pixel_map=radius,
                    layout_info=layout,
                    crystallography_parameters=parameters,
                )
                detection._mask = run.good.astype(np.int8)

                def find(image: NDArray[Any], detection: Any = detection) -> Spots:
                    peaks = detection.find_peaks(data=image)
                    XY = np.column_stack([peaks["ss"], peaks["fs"]])
                    return XY, np.asarray(peaks["intensity"])

                yield f"{kind}, snr {snr:g}, {pixels} pixels", kind, find


def id11(run: Run) -> Iterator[tuple[str, str, Finder]]:
    """Return the spots of ImageD11: connected pixels and their moments."""
    c = import_module("ImageD11.cImageD11")
    in_counts = (1, 2, 3, 5, 8) if run.sparse else (20, 30, 50, 80)
    levels = {"less median": in_counts, "in sigmas": (2.5, 3.0, 3.5, 4.0, 5.0, 6.0)}
    for kind, thresholds in levels.items():
        for pixels in (1, 3, 5):
            for level in thresholds:

                def find(
                    image: NDArray[Any],
                    level: float = level,
                    pixels: int = pixels,
                    kind: str = kind,
                ) -> Spots:
                    labels = np.zeros(image.shape, np.int32)
                    n = c.connectedpixels(image, labels, float(level), 0)
                    if not n:
                        return np.zeros((0, 2)), np.zeros(0)
                    blobs = c.blobproperties(image, labels, n, 0.0)
                    c.blob_moments(blobs)
                    keep = blobs[:, c.s_1] >= pixels
                    total = blobs[keep, c.s_I]
                    XY = blobs[keep][:, [c.s_sI, c.s_fI]] / total[:, None]
                    return XY, total if kind == "less median" else None

                yield f"{kind}, threshold {level:g}, {pixels} pixels", kind, find


def sep(run: Run) -> Iterator[tuple[str, str, Finder]]:
    """Source Extractor's detection, with a Gaussian filter or none."""
    module = import_module("sep")
    module.set_extract_pixstack(300_000)
    x = np.arange(-3, 4)
    # the filter lowers the noise; far lower thresholds take minutes for sources that are noise
    levels = {0.0: (3.0, 4.0), 1.0: (1.4, 1.7, 2.0, 2.5), 2.0: (0.8, 1.0, 1.4)}
    for sigma, thresholds in levels.items():
        kernel = np.exp(-np.add.outer(x**2, x**2) / (2 * sigma**2)) if sigma else None
        for pixels in (1, 4):
            for level in thresholds:

                def find(
                    image: NDArray[Any],
                    kernel: Any = kernel,
                    pixels: int = pixels,
                    level: float = level,
                ) -> Spots:
                    try:
                        found = module.extract(
                            image, level, err=1.0, mask=~run.good, minarea=pixels,
                            filter_kernel=kernel, filter_type="conv",
                        )  # fmt: skip
                    except Exception:  # too many sources: far too low a threshold
                        return np.zeros((0, 2)), None
                    return np.column_stack([found["y"], found["x"]]), None

                name = f"in sigmas, filter {sigma:g}, threshold {level:g}, {pixels} pixels"
                yield name, "in sigmas", find


def photutils(run: Run) -> Iterator[tuple[str, str, Finder]]:
    """DAOFIND of photutils."""
    detection = import_module("photutils.detection")
    for fwhm in (2.5, 4.0):
        for level in (2.0, 2.5, 3.0, 4.0, 5.0):
            finder = detection.DAOStarFinder(threshold=level, fwhm=fwhm, roundlo=-2, roundhi=2)

            def find(image: NDArray[Any], finder: Any = finder) -> Spots:
                table = finder(image, mask=~run.good)
                if table is None:
                    return np.zeros((0, 2)), None
                names = table.colnames
                x, y = (
                    ("x_centroid", "y_centroid")
                    if "x_centroid" in names
                    else ("xcentroid", "ycentroid")
                )
                return np.column_stack([table[y], table[x]]), None

            yield f"in sigmas, FWHM {fwhm:g}, threshold {level:g}", "in sigmas", find


def pyfai(run: Run) -> Iterator[tuple[str, str, Finder]]:
    """Return the blobs of pyFAI: maxima of differences of Gaussians."""
    blobs = import_module("pyFAI.blob_detection").BlobDetection
    done: dict[int, Any] = {}
    for level in (0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0):

        def find(image: NDArray[Any], level: float = level) -> Spots:
            key = hash(image.tobytes())
            if key not in done:
                search = blobs(image, init_sigma=1.0, dest_sigma=2.0, mask=~run.good)
                with redirect_stdout(StringIO()):
                    search.process(1)
                done[key] = search.keypoints
            points = done[key]
            points = points[points["I"] >= level]
            return np.column_stack([points["y"], points["x"]]), None

        yield f"in sigmas, blobs above {level:g}", "in sigmas", find


PROGRAMS = {
    "om": ("ondamonitor", om),
    "id11": ("ImageD11", id11),
    "sep": ("sep", sep),
    "photutils": ("photutils", photutils),
    "pyfai": ("pyFAI", pyfai),
}
"""Programs by name: package that has the version, and settings that are tried."""


def main() -> None:
    """Read the run, find, write the spots of each setting."""
    name, source, target = sys.argv[1:4]
    wanted = sys.argv[4:]
    package, settings = PROGRAMS[name]
    run = Run(source)
    names: list[str] = []
    columns: dict[str, Any] = {}
    for setting, kind, find in settings(run):
        if wanted and setting not in wanted:
            continue
        spots = [find(run.image(index, kind)) for index in range(len(run.frames))]
        k = len(names)
        names.append(setting)
        columns[f"frame_{k}"] = np.repeat(np.arange(len(spots)), [len(XY) for XY, _ in spots])
        columns[f"XY_{k}"] = np.concatenate([XY for XY, _ in spots]).astype(np.float64)
        intensities = [counts for _, counts in spots if counts is not None]
        if len(intensities) == len(spots):
            columns[f"I_{k}"] = np.concatenate(intensities)
    np.savez(target, settings=names, version=f"{package} {version(package)}", **columns)


if __name__ == "__main__":
    main()
