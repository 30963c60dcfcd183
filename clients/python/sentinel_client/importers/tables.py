"""Import CSV, JSON Lines and Parquet tables that have one row per item.

`Columns` says what the columns hold. Types of undeclared fields come from the Parquet schema, or
from the first 1,000 rows of a text file. A row that does not fit is broken; the next one is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any, TypeAlias

from sentinel_client._types import FieldSchema, FieldType
from sentinel_client.importers.columns import (
    Columns,
    FieldColumn,
    common_type,
    field_columns,
    guess,
    row_item,
)
from sentinel_client.importers.csv_rows import csv_header, read_csv
from sentinel_client.importers.dataset import (
    BrokenEntry,
    Dataset,
    ImportEntry,
    LayoutError,
    searchable,
    unreadable,
)
from sentinel_client.importers.rows import (
    RowError,
    TableRow,
    read_json_lines,
    read_parquet,
)

_SAMPLE_ROWS = 1_000
# Small, since rows are large when the images are in the table.
_PARQUET_BATCH_ROWS = 64

_Read: TypeAlias = Callable[[IO[bytes]], Iterator[TableRow | RowError]]


def csv_table(file: Path, columns: Columns, *, delimiter: str | None = None) -> Dataset:
    """Return the rows of a CSV file in UTF-8 whose first line names the columns.

    The delimiter None is a tab in .tsv files, else a comma. Between tabs, quotes are text.
    """
    separator = delimiter or ("\t" if file.suffix.lower() == ".tsv" else ",")
    read = partial(read_csv, delimiter=separator, allow_short=True, strip=True)
    with file.open("rb") as data:
        try:
            names = csv_header(data, separator)
        except ValueError as error:
            raise LayoutError(f"{file}: {error}") from None
    sample = [{name: guess(cell) for name, cell in row.items()} for row in _sample(file, read)]
    return _dataset([file], columns, names, partial(common_type, sample), read)


def json_lines_table(file: Path, columns: Columns) -> Dataset:
    """Return the rows of a file with one JSON object per line."""
    sample = _sample(file, read_json_lines)
    names = list(dict.fromkeys(name for row in sample for name in row))
    return _dataset([file], columns, names, partial(common_type, sample), read_json_lines)


def parquet_table(files: Sequence[Path], columns: Columns) -> Dataset:
    """Return the rows of Parquet files of one schema.

    The image column holds paths, URLs, encoded images, or structs with `bytes` and `path` as
    Hugging Face writes them.
    """
    try:
        from pyarrow import ArrowInvalid  # noqa: PLC0415 - an extra
        from pyarrow.parquet import ParquetFile  # noqa: PLC0415
    except ImportError:
        raise LayoutError(
            "Parquet needs pyarrow: pip install 'sentinel-retrieval-client[import]'"
        ) from None
    try:
        with ParquetFile(files[0]) as first:
            schema = first.schema_arrow
    except ArrowInvalid as error:
        raise LayoutError(f"{files[0]} is not a Parquet file: {error}") from None

    repeated = {name for name in schema.names if schema.names.count(name) > 1}
    if repeated:
        names = ", ".join(sorted(repeated))
        raise LayoutError(f"{files[0]} has two columns {names}: rename one")

    def infer(column: str) -> FieldType | None:
        return _field_type(schema.field(column).type)

    special = [name for name in (columns.image, columns.text, columns.id) if name is not None]
    fields = field_columns(columns.candidates(schema.names), infer)
    used = {*special, *(column for column, _ in fields)}

    def read(data: IO[bytes]) -> Iterator[TableRow | RowError]:
        for row in read_parquet(data, used, first_number=0, batch_rows=_PARQUET_BATCH_ROWS):
            if columns.image and isinstance(row, TableRow) and columns.image in row.cells:
                image = _unwrapped(row.cells[columns.image])
                yield TableRow(row.number, {**row.cells, columns.image: image})
            else:
                yield row

    return _dataset(files, columns, schema.names, infer, read, total=_row_count(files))


def _sample(file: Path, read: _Read) -> list[Mapping[str, Any]]:
    with file.open("rb") as data:
        rows = islice(read(data), _SAMPLE_ROWS)
        return [row.cells for row in rows if isinstance(row, TableRow)]


def _dataset(
    files: Sequence[Path],
    columns: Columns,
    names: Sequence[str],
    infer: Callable[[str], FieldType | None],
    read: _Read,
    *,
    total: int | None = None,
) -> Dataset:
    """Return the rows of tables with the columns `names`; `infer` returns a column's type."""
    columns.check(names, files[0])
    candidates = columns.candidates(names)
    fields = field_columns(candidates, infer)
    kept = {column for column, _ in fields}
    paths = [file.absolute() for file in files]
    dataset = Dataset(
        name=paths[0].name,
        fields=_declared(columns, tuple(schema for _, schema in fields)),
        entries=partial(_entries, paths, columns, fields, read),
        total=total,
        left_out=tuple(one.column for one in candidates if one.column not in kept),
    )
    return searchable(dataset, columns.full_text)


def _declared(columns: Columns, fields: tuple[FieldSchema, ...]) -> tuple[FieldSchema, ...]:
    """Return the fields, and the path of local images."""
    names = [schema.name for schema in fields]
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise LayoutError(
            f"two columns would be the field {', '.join(sorted(repeated))}; "
            "give them different names with FIELD=COLUMN"
        )
    if columns.image is None or "path" in names:
        return fields
    return (FieldSchema("path", FieldType.STRING), *fields)


def _entries(
    paths: Sequence[Path], columns: Columns, fields: Sequence[FieldColumn], read: _Read
) -> Iterator[ImportEntry]:
    for path in paths:
        try:
            with path.open("rb") as data:
                for row in read(data):
                    if isinstance(row, TableRow):
                        yield row_item(path, row, columns, fields)
                    else:
                        yield BrokenEntry(f"{path}#{row.number}", "ROW_INVALID", row.message)
        except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
            yield unreadable(str(path), error)


def _field_type(kind: Any) -> FieldType | None:
    """Return the field type of an Arrow type; None if no field can hold it."""
    from pyarrow import types  # noqa: PLC0415 - an extra

    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_list(kind) or types.is_large_list(kind):
        return FieldType.STRING_LIST if _field_type(kind.value_type) is FieldType.STRING else None
    if types.is_struct(kind):
        parts = {kind.field(at).name: kind.field(at).type for at in range(kind.num_fields)}
        is_place = parts.keys() in ({"latitude", "longitude"}, {"lat", "lon"})
        return FieldType.GEO if is_place and all(map(types.is_floating, parts.values())) else None
    kinds = (
        (types.is_string, FieldType.STRING),
        (types.is_large_string, FieldType.STRING),
        (types.is_boolean, FieldType.BOOL),
        (types.is_integer, FieldType.INT64),
        (types.is_floating, FieldType.DOUBLE),
        (types.is_timestamp, FieldType.TIMESTAMP),
    )
    return next((field_type for is_it, field_type in kinds if is_it(kind)), None)


def _row_count(files: Sequence[Path]) -> int | None:
    """Return the number of rows; None if a file cannot be read, which reading reports later."""
    from pyarrow.parquet import read_metadata  # noqa: PLC0415 - an extra

    try:
        return sum(int(read_metadata(file).num_rows) for file in files)
    except (OSError, ValueError):
        return None


def _unwrapped(cell: Any) -> Any:
    """Return the image or its path out of a struct."""
    return cell.get("bytes") or cell.get("path") if isinstance(cell, dict) else cell
