"""Read the rows of JSON Lines and Parquet files one by one, in bounded memory; csv_rows.py, of CSV.

`sentinel import` and the bulk indexer share these readers. A row that cannot be read becomes a
`RowError`, and the next row is read. pyarrow does this for Parquet only (docs/adr/0017).
"""

from __future__ import annotations

import codecs
import json
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any

NOT_UTF8 = "not UTF-8"
# Most bytes or characters of one line. The text and the fields of an item are 60,000 bytes each.
MAX_LINE = 4 * 1024 * 1024


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


def read_json_lines(file: IO[bytes]) -> Iterator[TableRow | RowError]:
    """Yield the objects of a JSON Lines file, numbered by line. Empty lines are skipped."""
    for row in read_lines(file):
        if isinstance(row, RowError):
            yield row
            continue
        number, line = row
        try:
            cells = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield RowError(number, f"not JSON: {error}")
            continue
        # A string can be half of a character only as an escape, such as \ud83d.
        if "\\ud" in line.lower() and not is_unicode(cells):
            yield RowError(number, "not Unicode: an escape such as \\ud83d is half of a character")
        elif isinstance(cells, dict):
            yield TableRow(number, cells)
        else:
            yield RowError(number, "not a JSON object")


def read_lines(file: IO[bytes]) -> Iterator[tuple[int, str] | RowError]:
    """Yield the lines that are not empty with their numbers, or what is wrong with a line."""
    number = 0
    while line := file.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE:
            while line and not line.endswith(b"\n"):
                line = file.readline(MAX_LINE)
            yield RowError(number, f"the line is longer than {MAX_LINE:,} bytes")
            continue
        try:
            text = line.decode("utf-8-sig").rstrip("\r\n")
        except UnicodeDecodeError:
            utf_16 = number == 1 and line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
            yield RowError(number, "UTF-16: save the file as UTF-8" if utf_16 else NOT_UTF8)
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
                for cells in _cells(_in_microseconds(batch)):
                    if cells is None:
                        yield RowError(number, NOT_UTF8)
                    else:
                        yield TableRow(number, cells)
                    number += 1
        except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
            yield RowError(number, f"rows {number} to {end - 1} cannot be read: {error}")
        first = end


def _in_microseconds(batch: Any) -> Any:
    """Return a batch with times as Python has them, which are not finer."""
    import pyarrow  # noqa: PLC0415 - an extra

    for at, field in enumerate(batch.schema):
        if pyarrow.types.is_timestamp(field.type) and field.type.unit == "ns":
            exact = pyarrow.timestamp("us", field.type.tz)
            times = batch.column(at).cast(exact, safe=False)
            batch = batch.set_column(at, field.with_type(exact), times)
    return batch


def _cells(batch: Any) -> list[dict[str, Any] | None]:
    """Return the cells of each row of a batch; None for a row with a string that is not UTF-8."""
    try:
        rows: list[dict[str, Any] | None] = batch.to_pylist()
    except UnicodeDecodeError:
        if batch.num_rows == 1:
            return [None]
        return [row for at in range(batch.num_rows) for row in _cells(batch.slice(at, 1))]
    return rows


def is_empty(cell: object) -> bool:
    """Return whether a cell holds no value. pandas writes NaN for a missing one.

    Programs write a missing struct as one whose parts are all missing, too.
    """
    if isinstance(cell, dict) and cell:
        return all(map(_is_missing, cell.values()))
    return cell == "" or _is_missing(cell)


def _is_missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def is_unicode(value: object) -> bool:
    """Return whether all strings in a value of JSON are valid: UTF-8 can hold them."""
    if isinstance(value, str):
        return not any("\ud800" <= character <= "\udfff" for character in value)
    if isinstance(value, dict):
        return all(is_unicode(key) and is_unicode(one) for key, one in value.items())
    return not isinstance(value, list) or all(map(is_unicode, value))
