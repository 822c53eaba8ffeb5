"""Parquet: the table of spots, compressed, with units and options."""

import json
from typing import Any

import numpy as np

from gpu_spots.columns import SPOT_COLUMNS
from gpu_spots.errors import GpuSpotsError
from gpu_spots.export.format import Format, Source, Target
from gpu_spots.files.output.new_file import new_binary_file
from gpu_spots.packages import install_command

ROWS = 100_000
"""Rows of a row group, at least; it ends with the last spot of a frame."""


class Parquet(Format):
    """Table in row groups of whole frames, with units, descriptions and the options of the run."""

    name = "parquet"
    title = "Parquet table"
    reader = "pandas, polars, pyarrow, DuckDB"
    ending = "__spots.parquet"
    written = "all columns of the spots with their units, angle and laser state; options of the run"
    left_out = "pixels"

    def write(self, source: Source, target: Target) -> None:
        """Write the table; see `Format.write`. Raises `GpuSpotsError` without pyarrow."""
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError:
            raise GpuSpotsError(
                f"parquet: needs pyarrow; install it with {install_command('export')}"
            ) from None
        table = source.table()
        schema = pyarrow.schema(
            [
                pyarrow.field(name, pyarrow.from_numpy_dtype(values.dtype), metadata=_facts(name))
                for name, values in table.items()
            ],
            metadata={"gpu_spots": json.dumps(source.results.info, default=_plain)},
        )
        with (
            new_binary_file(target.path, target.name) as file,
            parquet.ParquetWriter(file, schema) as writer,
        ):
            for begin, end in _row_groups(source.results.frame_ranges):
                columns = [np.ascontiguousarray(values[begin:end]) for values in table.values()]
                writer.write_table(
                    pyarrow.table(columns, schema=schema), row_group_size=end - begin
                )


def _facts(name: str) -> dict[str, str] | None:
    """Return unit and description of a column; None: it has no record."""
    for record in SPOT_COLUMNS:
        if name == record.name or name in record.components:
            unit = {"units": record.unit} if record.unit else {}
            return {"description": record.description, **unit}
    return None


def _plain(value: Any) -> Any:
    """Return an attribute as JSON can hold it."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)


def _row_groups(frame_ranges: Any) -> list[tuple[int, int]]:
    """Return begin and end of each row group."""
    groups, begin = [], 0
    for end in frame_ranges[:, 1].tolist():
        if end - begin >= ROWS:
            groups.append((begin, end))
            begin = end
    last = int(frame_ranges[-1, 1])
    return [*groups, (begin, last)] if last > begin else groups
