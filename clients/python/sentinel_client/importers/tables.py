"""Tables with a row for each item: CSV, JSON Lines and Parquet.

Columns are named by `Columns`. Types of fields that are not declared are found out from the first
1,000 rows, or are those of Parquet. A row that does not fit is broken, and the next one is read.
"""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from sentinel_client._types import FieldSchema, FieldType
from sentinel_client.importers._columns import Columns, guess, infer, row_item, schemas
from sentinel_client.importers._entries import BrokenEntry, Dataset, Entry, LayoutError

_SAMPLE_ROWS = 1_000

# A row's number and cells, or what is wrong with it.
Row: TypeAlias = tuple[int, Mapping[str, object]] | BrokenEntry


def csv_table(file: Path, columns: Columns, *, delimiter: str | None = None) -> Dataset:
    """Return a CSV file whose first line names the columns. Blocking: it reads a sample.

    Args:
        file: In UTF-8. A .tsv is separated by tabs.
        columns: What is in which column.
        delimiter: What stands between cells; None: by the file's name.

    Raises:
        LayoutError: It lacks a column that is named.
        OSError: It cannot be read.
    """
    file = file.absolute()
    between = delimiter or ("\t" if file.suffix.lower() == ".tsv" else ",")

    def rows() -> Iterator[Row]:
        return _csv_rows(file, between)

    with file.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
        names = next(csv.reader(lines, delimiter=between), [])

    def looks_like(row: Mapping[str, object]) -> dict[str, object]:
        return {name: guess(str(cell)) for name, cell in row.items() if cell is not None}

    return _dataset(file, columns, names, rows, looks_like)


def json_lines_table(file: Path, columns: Columns) -> Dataset:
    """Return a file with a JSON object in each line. Blocking: it reads a sample.

    Raises:
        LayoutError: No line of the sample has a column that is named.
        OSError: The file cannot be read.
    """
    file = file.absolute()

    def rows() -> Iterator[Row]:
        return _json_rows(file)

    sample = itertools.islice(rows(), _SAMPLE_ROWS)
    names = dict.fromkeys(
        name for row in sample if not isinstance(row, BrokenEntry) for name in row[1]
    )
    return _dataset(file, columns, list(names), rows, dict)


def _dataset(
    file: Path,
    columns: Columns,
    names: Sequence[str],
    rows: Callable[[], Iterator[Row]],
    looks_like: Callable[[Mapping[str, object]], Mapping[str, object]],
) -> Dataset:
    columns.check(names, file)
    candidates = columns.candidates(names)
    sample = [
        looks_like(row[1])
        for row in itertools.islice(rows(), _SAMPLE_ROWS)
        if not isinstance(row, BrokenEntry)
    ]
    fields = infer(candidates, sample)
    taken = {column.column for column in fields}

    def entries() -> Iterator[Entry]:
        for row in rows():
            if isinstance(row, BrokenEntry):
                yield row
            else:
                yield row_item(file, row[0], row[1], columns, fields)

    return Dataset(
        name=file.name,
        fields=table_fields(columns, schemas(fields)),
        entries=entries,
        left_out=tuple(one.column for one in candidates if one.column not in taken),
    )


def table_fields(columns: Columns, fields: tuple[FieldSchema, ...]) -> tuple[FieldSchema, ...]:
    """Return what a collection should declare: the fields, and the path of local pictures.

    Raises:
        LayoutError: Two columns would be one field.
    """
    names = [schema.name for schema in fields]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise LayoutError(
            f"two columns would be the field {', '.join(sorted(twice))}; "
            "name them apart with FIELD=COLUMN"
        )
    if columns.image is None or "path" in names:
        return fields
    return (FieldSchema("path", FieldType.STRING), *fields)


def _csv_rows(file: Path, delimiter: str) -> Iterator[Row]:
    try:
        with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
            reader = csv.DictReader(lines, delimiter=delimiter, restkey="", restval=None)
            while True:
                number = reader.line_num + 1
                try:
                    row = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    yield _broken(file, number, str(error))
                    continue
                yield _csv_row(file, reader.line_num, row)
    except OSError as error:
        yield BrokenEntry(str(file), "FILE_UNREADABLE", f"cannot be read: {error.strerror}")


def _csv_row(file: Path, number: int, row: dict[str, str | None]) -> Row:
    if "" in row:
        return _broken(file, number, "more cells than there are columns")
    cells = {name: None if cell is None else cell.strip() for name, cell in row.items()}
    try:
        "".join(cell or "" for cell in cells.values()).encode()
    except UnicodeEncodeError:
        return _broken(file, number, "not UTF-8")
    return number, cells


def _json_rows(file: Path) -> Iterator[Row]:
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    yield _broken(file, number, f"no JSON: {error}")
                    continue
                if isinstance(row, dict):
                    yield number, row
                else:
                    yield _broken(file, number, "no JSON object")
    except OSError as error:
        yield BrokenEntry(str(file), "FILE_UNREADABLE", f"cannot be read: {error.strerror}")


def _broken(file: Path, number: int, message: str) -> BrokenEntry:
    return BrokenEntry(f"{file}#{number}", "ROW_INVALID", message)
