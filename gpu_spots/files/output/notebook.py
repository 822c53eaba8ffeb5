"""Summary of a spots file for notebooks, as HTML with small pictures."""

import math
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from gpu_spots import pictures
from gpu_spots.model import Array

if TYPE_CHECKING:
    from gpu_spots.files.output.spots_file import SpotsFile

SIDE = 200
"""Largest side of a picture, pixels."""


def summary(results: "SpotsFile") -> str:
    """Return a table about a spots file, and pictures of its background and of all frames.

    Raises `InputError` for a damaged file.
    """
    n_frames, n_rows, n_columns = results.shape
    counts, info = np.diff(results.frame_ranges, axis=1)[:, 0], results.info
    rows = [
        ("frames", f"{n_frames} of {n_rows} x {n_columns} (X x Y)"),
        ("spots", str(results.n_spots)),
    ]
    if n_frames:
        three = f"min {counts.min()}, median {np.median(counts):g}, max {counts.max()}"
        rows.append(("per frame", three))
    names = ("method", "n", "cutoff", "erosions", "dilations", "sync", "finder")
    options = ", ".join(f"{name} {info[name]}" for name in names if name in info)
    rows.append(("options", options))
    rows.append(("input", str(info.get("input_file", "")) or "frames in memory"))
    cells = "".join(
        f"<tr><th style='text-align:left'>{name}</th>"
        f"<td style='text-align:left'>{escape(text)}</td></tr>"
        for name, text in rows
    )
    valid = results.valid
    lit = valid & (results.std > 0)
    shown = (("stats/avg: background", results.avg), ("stats/max: all frames", results.max))
    figures = "".join(_picture(title, image, valid, lit) for title, image in shown)
    return (
        f"<div><strong>{escape(results.name)}</strong><table>{cells}</table>"
        f"<div style='display:flex;gap:1em'>{figures}</div></div>"
    )


def _picture(title: str, image: Array, valid: Array, lit: Array) -> str:
    factor = max(1, math.ceil(max(image.shape) / SIDE))
    small, good = pictures.binned(image, factor, "max", valid)
    contrast = pictures.contrast_of(small, pictures.binned(lit, factor)[0], scale="log")
    address = pictures.data_uri(pictures.png(pictures.grey_levels(small, contrast, good)))
    return (
        f"<figure style='margin:0'><img src='{address}' alt='{title}' "
        f"style='max-width:{SIDE}px;image-rendering:pixelated'>"
        f"<figcaption>{title}</figcaption></figure>"
    )
