"""Read the rows of CSV, JSON Lines and Parquet files one by one, in bounded memory.

`sentinel import` and the bulk indexer share these readers. A row that cannot be read becomes a
`RowError`, and the next row is read. pyarrow does this for Parquet only (docs/adr/0017).
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any

_NOT_UTF8 = "not UTF-8"


@dataclass(frozen=True, slots=True)
class TableRow:
    """One row of a table: its number in the file, and its cells by column."""

    number: int
    cells: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RowError:
    """A row that cannot be read."""

    number: int
    message: str


def csv_header(file: IO[bytes], delimiter: str = ",") -> list[str]:
    """Return the column names of a CSV file; raise ValueError if its first line is not CSV."""
    return _open_csv(file, delimiter)[0]


def read_csv(
    file: IO[bytes], delimiter: str = ",", *, allow_short: bool = False, strip: bool = False
) -> Iterator[TableRow | RowError]:
    """Yield the rows of a CSV file in UTF-8, numbered by line. Empty lines are skipped.

    Args:
        file: Its first line names the columns; if that is not CSV, ValueError is raised.
        delimiter: Separates the cells.
        allow_short: Accept rows with fewer cells than columns; the last columns are left out.
        strip: Remove white space around cells.
    """
    header, lines = _open_csv(file, delimiter)
    while True:
        number = lines.line_num + 1
        try:
            cells = next(lines)
        except StopIteration:
            return
        except csv.Error as error:
            yield RowError(number, f"not CSV: {error}")
            continue
        number = lines.line_num
        if not cells:
            continue
        if len(cells) > len(header) or (len(cells) < len(header) and not allow_short):
            message = f"the row has {len(cells)} columns, the header {len(header)}"
            yield RowError(number, message)
        elif not _is_unicode(cells):
            yield RowError(number, _NOT_UTF8)
        else:
            values = map(str.strip, cells) if strip else cells
            yield TableRow(number, dict(zip(header, values, strict=False)))


def _open_csv(file: IO[bytes], delimiter: str) -> tuple[list[str], Any]:
    """Return the column names, and a reader of the lines below them."""
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    lines = csv.reader(text, delimiter=delimiter)
    try:
        names = next(lines, [])
    except csv.Error as error:
        raise ValueError(f"the header is not CSV: {error}") from error
    return [name.encode(errors="surrogateescape").decode(errors="replace") for name in names], lines


def read_json_lines(file: IO[bytes]) -> Iterator[TableRow | RowError]:
    """Yield the objects of a JSON Lines file, numbered by line. Empty lines are skipped."""
    for number, line in read_lines(file):
        try:
            cells = None if line is None else json.loads(line)
        except (ValueError, RecursionError) as error:
            yield RowError(number, f"not JSON: {error}")
            continue
        if line is None or (isinstance(cells, dict) and not _is_unicode(cells.values())):
            yield RowError(number, _NOT_UTF8)
        elif isinstance(cells, dict):
            yield TableRow(number, cells)
        else:
            yield RowError(number, "not a JSON object")


def read_lines(file: IO[bytes]) -> Iterator[tuple[int, str | None]]:
    """Yield the lines that are not empty, with their numbers; None: the line is not UTF-8."""
    for number, line in enumerate(file, 1):
        try:
            text = line.decode("utf-8-sig").rstrip("\r\n")
        except UnicodeDecodeError:
            yield number, None
        else:
            if text.strip():
                yield number, text


def read_parquet(
    file: IO[bytes], columns: Collection[str], *, first_number: int, batch_rows: int
) -> Iterator[TableRow | RowError]:
    """Yield the rows of a Parquet file, with those of `columns` that it has. Needs pyarrow.

    At most `batch_rows` rows are in memory. The rows of a damaged row group are one `RowError`.
    If the file is not Parquet, ValueError is raised.
    """
    from pyarrow.parquet import ParquetFile  # noqa: PLC0415 - an extra

    table = ParquetFile(file)
    names = [name for name in table.schema_arrow.names if name in columns]
    first = first_number
    for group in range(table.metadata.num_row_groups):
        end = first + table.metadata.row_group(group).num_rows
        number = first
        try:
            for batch in table.iter_batches(batch_rows, row_groups=[group], columns=names):
                for cells in batch.to_pylist():
                    yield TableRow(number, cells)
                    number += 1
        except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
            yield RowError(number, f"rows {number} to {end - 1} cannot be read: {error}")
        first = end


def is_empty(cell: object) -> bool:
    """Return whether a cell holds no value. pandas writes NaN for a missing one."""
    return cell is None or cell == "" or (isinstance(cell, float) and math.isnan(cell))


def _is_unicode(cells: Iterable[object]) -> bool:
    try:
        "".join(cell for cell in cells if isinstance(cell, str)).encode()
    except UnicodeEncodeError:
        return False
    return True
