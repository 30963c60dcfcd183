"""Parquet tables; needs pyarrow, which the extra `import` installs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sentinel_client._types import FieldType
from sentinel_client.importers._columns import Column, Columns, row_item, schemas
from sentinel_client.importers._entries import BrokenEntry, Dataset, Entry, LayoutError
from sentinel_client.importers.tables import table_fields

# Rows in memory at once; with the pictures in the table, they are large.
_BATCH_ROWS = 64


def parquet_table(files: Sequence[Path], columns: Columns) -> Dataset:
    """Return the rows of Parquet files of one schema. Blocking: it reads their footers.

    The column of pictures holds paths, URLs, the encoded pictures, or structs with `bytes` and
    `path` as Hugging Face writes them.

    Raises:
        LayoutError: pyarrow is not installed, the first file is no Parquet, or it lacks a column.
        OSError: The first file cannot be read.
    """
    try:
        from pyarrow import ArrowInvalid  # noqa: PLC0415 - an extra
        from pyarrow.parquet import ParquetFile  # noqa: PLC0415
    except ImportError:
        raise LayoutError(
            "Parquet needs pyarrow: pip install '.[import]' in Sentinel's folder"
        ) from None
    paths = [file.absolute() for file in files]
    try:
        with ParquetFile(paths[0]) as first:
            schema = first.schema_arrow
    except ArrowInvalid as error:
        raise LayoutError(f"{paths[0]} is no Parquet file: {error}") from None
    columns.check(schema.names, paths[0])
    candidates = columns.candidates(schema.names)
    fields = [
        Column(one.column, one.field, kind)
        for one in candidates
        if (kind := one.type or _field_type(schema.field(one.column).type)) is not None
    ]
    taken = {one.column for one in fields}
    return Dataset(
        name=paths[0].name,
        fields=table_fields(columns, schemas(fields)),
        entries=lambda: _entries(paths, columns, fields),
        total=_row_count(paths),
        left_out=tuple(one.column for one in candidates if one.column not in taken),
    )


def _field_type(kind: Any) -> FieldType | None:
    from pyarrow import types  # noqa: PLC0415

    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_list(kind) or types.is_large_list(kind):
        return FieldType.STRING_LIST if _field_type(kind.value_type) is FieldType.STRING else None
    checks = {
        FieldType.STRING: (types.is_string, types.is_large_string),
        FieldType.BOOL: (types.is_boolean,),
        FieldType.INT64: (types.is_integer,),
        FieldType.DOUBLE: (types.is_floating,),
    }
    return next(
        (found for found, any_of in checks.items() if any(check(kind) for check in any_of)), None
    )


def _row_count(paths: Sequence[Path]) -> int | None:
    from pyarrow.parquet import ParquetFile  # noqa: PLC0415

    total = 0
    for path in paths:
        try:
            with ParquetFile(path) as file:
                total += file.metadata.num_rows
        except (OSError, ValueError):  # said when its turn comes
            return None
    return total


def _entries(paths: Sequence[Path], columns: Columns, fields: list[Column]) -> Iterator[Entry]:
    wanted = [columns.image, columns.text, columns.id, *(one.column for one in fields)]
    names = list(dict.fromkeys(name for name in wanted if name is not None))
    for path in paths:
        try:
            yield from _file_entries(path, names, columns, fields)
        except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
            yield BrokenEntry(str(path), "FILE_UNREADABLE", f"cannot be read: {error}")


def _file_entries(
    path: Path, names: list[str], columns: Columns, fields: list[Column]
) -> Iterator[Entry]:
    from pyarrow.parquet import ParquetFile  # noqa: PLC0415

    with ParquetFile(path) as file:
        first = 0
        for group in range(file.metadata.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            try:
                batches = file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=names)
                number = first
                for batch in batches:
                    for row in batch.to_pylist():
                        if columns.image is not None:
                            row[columns.image] = _picture(row[columns.image])
                        yield row_item(path, number, row, columns, fields)
                        number += 1
            except (OSError, ValueError) as error:
                # One damaged group costs its own rows.
                message = f"rows {number} to {first + count - 1} cannot be read: {error}"
                yield BrokenEntry(f"{path}#{number}", "ROW_INVALID", message)
            first += count


def _picture(cell: Any) -> Any:
    if isinstance(cell, dict):
        return cell.get("bytes") or cell.get("path")
    return cell
