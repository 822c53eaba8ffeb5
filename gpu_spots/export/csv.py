"""CSV: the table of spots as text."""

from gpu_spots.export.format import Format, Source, Target, exact_text, rows_of_text
from gpu_spots.files.output.new_file import new_binary_file

ROWS = 100_000
"""Rows that are made into text at once."""


class Csv(Format):
    """Table with one line of names and one line per spot. Numbers are exact."""

    name = "csv"
    title = "CSV table"
    reader = "pandas, polars, R, spreadsheets"
    ending = "__spots.csv"
    written = "all columns of the spots, angle and laser state of their frames"
    left_out = "pixels, units, options"

    def write(self, source: Source, target: Target) -> None:
        """Write the table; see `Format.write`."""
        table = source.table()
        with new_binary_file(target.path, target.name) as file:
            file.write(f"{','.join(table)}\n".encode())
            for begin in range(0, source.results.n_spots, ROWS):
                parts = [exact_text(values[begin : begin + ROWS]) for values in table.values()]
                file.write(rows_of_text(parts, ",").encode())
