"""The page of all runs, index.html: one table with pictures, which can be sorted and filtered."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any
from urllib.parse import quote

from gpu_spots import __version__
from gpu_spots.beamtime.record import Record
from gpu_spots.errors import GpuSpotsError
from gpu_spots.packages import install_command

SHOWN = {
    "run": "links to the report, or to the spots file; with the error of a run that failed",
    "state": "",
    "kind": "laser: at least one frame is laser-on",
    "frames": "",
    "spots": "on all frames",
    "spots_per_frame": "median",
    "level": "median background level of the frames, counts",
    "drift_percent": "highest less lowest background level, percent of the median",
    "response": "verdict of the on/off ratios",
    "warnings": "number of warnings",
    "seconds": "",
    "host": "",
    "finished": "UTC",
}
"""Columns of the page, with their meanings."""


def index_page(
    title: str, records: Sequence[Record], rows: Sequence[dict[str, Any]], *, parquet: bool
) -> str:
    """Return the page, complete in itself.

    Args:
        title: name of the folder of the results.
        records: records of the runs.
        rows: rows of the table of runs, in the same order.
        parquet: whether there is a file runs.parquet.

    Raises:
        GpuSpotsError: Jinja2 is not installed.
    """
    try:
        from jinja2 import Environment
    except ImportError:
        raise GpuSpotsError(
            f"index.html: needs Jinja2; install it with {install_command('cluster')}"
        ) from None
    source = files("gpu_spots.beamtime").joinpath("index.html.j2").read_text(encoding="utf-8")
    states = Counter(record.get("state") for record in records)
    counts = [f"{states[name]} {name}" for name in ("done", "failed", "running") if states[name]]
    runs = f"{len(records)} run{'s' * (len(records) != 1)}"
    return (
        Environment(autoescape=True)
        .from_string(source)
        .render(
            title=title,
            counts=f"{runs}: {', '.join(counts)}" if counts else "no runs",
            written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            version=__version__,
            parquet=parquet,
            columns=[
                {
                    "heading": name.replace("_", " "),
                    "help": text,
                    "css": "number" * any(isinstance(row[name], int | float) for row in rows),
                }
                for name, text in SHOWN.items()
            ],
            rows=[
                {
                    "name": record["name"],
                    "picture": record.get("figures", {}).get("picture", ""),
                    "cells": [_cell(name, row, record) for name in SHOWN],
                }
                for record, row in zip(records, rows, strict=True)
            ],
        )
    )


def _cell(name: str, row: dict[str, Any], record: Record) -> dict[str, str]:
    value = row[name]
    cell = {"text": _text(value), "sort": "" if value is None else str(value), "css": ""}
    if isinstance(value, int | float):
        cell["css"] = "number"
    elif name == "state":
        cell["css"] = str(value)
    elif name == "response" and value:
        verdict = str(value).partition(":")[0]
        cell |= {"text": verdict, "title": value}
        cell["css"] = "seen" if verdict == "response seen" else ""
    elif name == "finished":
        cell["text"] = str(value)[:16].replace("T", " ")
        cell["css"] = "nowrap"
    if name == "run":
        cell |= {
            "css": "run",
            "link": quote(row["report"] or row["spots_file"]),
            "error": row["error"],
        }
    elif name == "warnings" and value:
        cell["title"] = "\n".join(record["warnings"])
    return cell


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}" if abs(value) < 1e5 else f"{value:.0f}"
    return "" if value is None else str(value)
