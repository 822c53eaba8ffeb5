"""Figures of a finished run for the table of all runs, and a small picture of it."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from gpu_spots.files.output.ratios_file import verdict_of
from gpu_spots.files.output.spots_file import SpotsFile, open_spots
from gpu_spots.pictures import binned, contrast_of, data_uri, grey_levels, png

PICTURE = 128
"""Largest side of a picture, pixels."""


def figures(spots: Path, ratios: Path | None) -> dict[str, Any]:
    """Return the figures of a spots file, as JSON can hold them.

    Args:
        spots: Spots file.
        ratios: Ratios file of the run; None: there is none.

    Returns:
        ``frames``, ``rows``, ``columns``, ``spots``, ``spots_per_frame`` (median), ``level``
        (median, counts), ``drift`` (highest less lowest level, percent of the median), ``response``
        (verdict of the ratios, empty without them), ``device``, and ``picture``, the maximum of
        all frames as a data URI. What is not known is None.

    Raises:
        InputError: A file cannot be read.
    """
    with open_spots(spots) as results:
        n_frames, n_rows, n_columns = results.shape
        counts = np.diff(results.frame_ranges, axis=1)
        levels = results.per_frame()["level"]
        levels = levels[np.isfinite(levels)]
        level = float(np.median(levels)) if len(levels) else math.nan
        drift = 100 * float(np.ptp(levels)) / level if level > 0 else math.nan
        return {
            "frames": n_frames,
            "rows": n_rows,
            "columns": n_columns,
            "spots": results.n_spots,
            "spots_per_frame": float(np.median(counts)),
            "level": round(level, 2) if math.isfinite(level) else None,
            "drift": round(drift, 2) if math.isfinite(drift) else None,
            "response": "" if ratios is None else verdict_of(ratios),
            "device": str(results.info.get("device", "")),
            "picture": _picture(results),
        }


def _picture(results: SpotsFile) -> str:
    """Return the maximum of all frames as a small PNG picture, a data URI."""
    image = results.max
    image = binned(image, -(-max(image.shape) // PICTURE))[0]
    return data_uri(png(grey_levels(image, contrast_of(image, scale="sqrt")), "inverted"))
