"""Rows as Parquet in exactly the layout of a collection, which Milvus imports as it is."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sentinel_store.collections import CollectionInfo
from sentinel_store.items import Row
from sentinel_store.milvus import schema
from sentinel_store.milvus.schema import FULL_TEXT, column_of
from sentinel_store.values import FieldType

_COLUMN_TYPES = {
    FieldType.STRING: pa.string(),
    FieldType.INT64: pa.int64(),
    FieldType.DOUBLE: pa.float64(),
    FieldType.BOOL: pa.int8(),  # columns.to_column
}
_ROWS_PER_GROUP = 8192


def arrow_schema(info: CollectionInfo) -> pa.Schema:
    """Return the columns of a collection's file, as `rows.to_entity` names them."""
    columns = [
        ("id", pa.string()),
        ("vector", pa.list_(pa.float32())),
        ("digest", pa.string()),
        ("image", pa.string()),
        ("text", pa.string()),
        ("fields", pa.string()),  # JSON
    ]
    for name, field_type in info.fields.items():
        if field_type in _COLUMN_TYPES:
            columns.append((column_of(name), _COLUMN_TYPES[field_type]))
    if info.full_text:
        columns.append((FULL_TEXT, pa.string()))
    return pa.schema(columns)


def encode(new_rows: Sequence[Row], info: CollectionInfo) -> bytes:
    """Return rows, each with its vector, as one Parquet file."""
    buffer = io.BytesIO()
    write(buffer, new_rows, info)
    return buffer.getvalue()


def write(file: Any, new_rows: Iterable[Row], info: CollectionInfo) -> int:
    """Write rows to an open file without holding them all; return how many there were."""
    schema = arrow_schema(info)
    count = 0
    # Vectors do not compress, and a dictionary of them would only be larger.
    with pq.ParquetWriter(file, schema, compression="snappy", use_dictionary=False) as writer:
        for group in _groups(new_rows):
            writer.write_table(_table(group, info, schema))
            count += len(group)
    return count


def decode(data: bytes) -> list[Row]:
    """Return the rows of a file."""
    return list(_rows(pq.read_table(pa.BufferReader(data))))


def _table(group: Sequence[Row], info: CollectionInfo, schema: pa.Schema) -> pa.Table:
    entities = [schema.to_entity(row, info) for row in group]
    arrays = []
    for column in schema:
        values = [entity[column.name] for entity in entities]
        if column.name == "vector":
            arrays.append(_vectors(values, info.dimensions))
        elif column.name == "fields":
            texts = [json.dumps(fields, ensure_ascii=False) for fields in values]
            arrays.append(pa.array(texts, pa.string()))
        else:
            arrays.append(pa.array(values, column.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def _vectors(vectors: Sequence[Any], dimensions: int) -> pa.ListArray:
    flat = np.concatenate(vectors) if vectors else np.empty(0, np.float32)
    offsets = np.arange(len(vectors) + 1, dtype=np.int32) * dimensions
    return pa.ListArray.from_arrays(offsets, pa.array(flat.astype(np.float32, copy=False)))


def _rows(table: pa.Table) -> Iterator[Row]:
    vectors = table.column("vector").combine_chunks()
    flat = vectors.flatten().to_numpy(zero_copy_only=False)
    matrix = flat.reshape(len(table), -1) if len(table) else flat
    for row, vector in zip(table.drop(["vector"]).to_pylist(), matrix, strict=True):
        entity: Mapping[str, Any] = {**row, "fields": json.loads(row["fields"]), "vector": vector}
        yield schema.from_entity(dict(entity))


def _groups(new_rows: Iterable[Row]) -> Iterator[list[Row]]:
    iterator = iter(new_rows)
    while group := list(islice(iterator, _ROWS_PER_GROUP)):
        yield group
