"""Tables of all runs in a folder of results: runs.csv, runs.parquet and index.html."""

import csv
import io
from collections.abc import Callable, Sequence
from typing import Any

from gpu_spots.beamtime.page import index_page
from gpu_spots.beamtime.record import Record, Records, replacing, write_text

Value = Callable[[Record], Any]


def _figure(name: str) -> Value:
    return lambda record: record.get("figures", {}).get(name)


def _first(record: Record, ending: str) -> str:
    return next((path for path in record.get("outputs", {}) if path.endswith(ending)), "")


COLUMNS: dict[str, Value] = {
    "run": lambda record: record["name"],
    "state": lambda record: record.get("state", ""),
    "kind": lambda record: record.get("kind", ""),
    "frames": _figure("frames"),
    "rows": _figure("rows"),
    "columns": _figure("columns"),
    "spots": _figure("spots"),
    "spots_per_frame": _figure("spots_per_frame"),
    "level": _figure("level"),
    "drift_percent": _figure("drift"),
    "response": _figure("response"),
    "warnings": lambda record: len(record.get("warnings", [])),
    "error": lambda record: record.get("error", ""),
    "first_warning": lambda record: next(iter(record.get("warnings", [])), ""),
    "seconds": lambda record: record.get("seconds"),
    "MB_per_s": lambda record: _rate(record),
    "host": lambda record: record.get("host", ""),
    "device": _figure("device"),
    "attempts": lambda record: record.get("attempts"),
    "finished": lambda record: record.get("finished", ""),
    "source": lambda record: " ".join(record.get("source", [])),
    "spots_file": lambda record: _first(record, "__spots.h5"),
    "report": lambda record: _first(record, "__report.html"),
    "version": lambda record: record.get("version", ""),
}
"""Columns of the tables; each function returns the value for a record, None where it is unknown."""
NUMBERS = (
    *("frames", "rows", "columns", "spots", "spots_per_frame", "level", "drift_percent"),
    *("warnings", "seconds", "MB_per_s", "attempts"),
)
"""Columns of numbers."""


def rows(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Return one row per record, by the names of the columns."""
    return [{name: value(record) for name, value in COLUMNS.items()} for record in records]


def write_tables(records: Records) -> None:
    """Write the tables of all runs that have a record. Raises `OutputError`."""
    found = list(records.all().values())
    table = rows(found)
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: "" if v is None else v for name, v in row.items()} for row in table)
    write_text(records.out / "runs.csv", text.getvalue())
    has_parquet = _write_parquet(records, table)
    title = records.out.absolute().name
    page = index_page(title, found, table, parquet=has_parquet)
    write_text(records.out / "index.html", page)


def _write_parquet(records: Records, table: Sequence[dict[str, Any]]) -> bool:
    """Write runs.parquet; return False where pyarrow is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        return False
    types = {name: pyarrow.float64() if name in NUMBERS else pyarrow.string() for name in COLUMNS}
    columns = [pyarrow.array([row[name] for row in table], kind) for name, kind in types.items()]
    whole = pyarrow.table(columns, names=list(types))
    with replacing(records.out / "runs.parquet") as part:
        pyarrow.parquet.write_table(whole, part)
    return True


def _rate(record: Record) -> float | None:
    """Return how fast the frames were processed, MB/s of uncompressed frames."""
    seconds, n_bytes = record.get("seconds"), record.get("raw_bytes")
    return round(n_bytes / seconds / 1e6, 1) if seconds and n_bytes else None
