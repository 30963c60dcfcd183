"""Write and read rows as Parquet in a collection's exact layout, which Milvus can import."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sentinel_core.vectors import Element
from sentinel_store.collections import CollectionInfo
from sentinel_store.items import Row
from sentinel_store.milvus import field_columns, schema

# By Milvus's names.
_COLUMN_TYPES = {
    "VARCHAR": pa.string(),
    "INT64": pa.int64(),
    "DOUBLE": pa.float64(),
    "INT8": pa.int8(),
}
_ROWS_PER_GROUP = 8192


def encode(rows: Sequence[Row], info: CollectionInfo) -> bytes:
    """Return rows, each with its vector, as one Parquet file."""
    buffer = io.BytesIO()
    write(buffer, rows, info)
    return buffer.getvalue()


def write(file: IO[bytes], rows: Iterable[Row], info: CollectionInfo) -> int:
    """Write rows to an open file, one group in memory at a time; return the number of rows."""
    columns = _columns(info)
    remaining = iter(rows)
    count = 0
    # Vectors do not compress, and a dictionary of them would only be larger.
    with pq.ParquetWriter(file, columns, compression="snappy", use_dictionary=False) as writer:
        while group := list(islice(remaining, _ROWS_PER_GROUP)):
            writer.write_table(_table(group, info, columns))
            count += len(group)
    return count


def decode(data: bytes, info: CollectionInfo) -> list[Row]:
    """Return the rows of a file of this collection."""
    table = pq.read_table(pa.BufferReader(data))
    vectors = table.column("vector").combine_chunks().flatten().to_numpy(zero_copy_only=False)
    matrix = vectors.reshape(len(table), -1) if len(table) else vectors
    entities = table.drop(["vector"]).to_pylist()
    return [
        schema.from_entity(
            {**entity, "fields": json.loads(entity["fields"]), "vector": vector}, info
        )
        for entity, vector in zip(entities, matrix, strict=True)
    ]


def _columns(info: CollectionInfo) -> pa.Schema:
    """Return the columns of a collection's file, with the names of `schema.to_entity`."""
    columns = [
        ("id", pa.string()),
        ("vector", pa.list_(_vector_element(info))),
        ("digest", pa.string()),
        ("image", pa.string()),
        ("text", pa.string()),
        ("fields", pa.string()),  # JSON
    ]
    for name, field_type in info.fields.items():
        typed = field_columns.columns_of(name, field_type)
        columns += [(column.name, _COLUMN_TYPES[column.type.name]) for column in typed]
    if info.full_text:
        columns.append((schema.FULL_TEXT, pa.string()))
    return pa.schema(columns)


def _table(group: Sequence[Row], info: CollectionInfo, columns: pa.Schema) -> pa.Table:
    entities = [schema.to_entity(row, info) for row in group]
    arrays = []
    for column in columns:
        values = [entity[column.name] for entity in entities]
        if column.name == "vector":
            arrays.append(_vectors(values, column.type.value_type))
        elif column.name == "fields":
            texts = [json.dumps(fields, ensure_ascii=False) for fields in values]
            arrays.append(pa.array(texts, pa.string()))
        else:
            arrays.append(pa.array(values, column.type))
    return pa.Table.from_arrays(arrays, schema=columns)


def _vector_element(info: CollectionInfo) -> pa.DataType:
    """Return the type of a vector's elements in a file; 16-bit elements are two bytes."""
    match info.storage.column:
        case Element.FLOAT32:
            return pa.float32()
        case Element.INT8:
            return pa.int8()
    return pa.uint8()


def _vectors(vectors: Sequence[Any], element: pa.DataType) -> pa.ListArray:
    """Return a list array `[rows]` of vectors, built without a Python list."""
    flat = np.concatenate(vectors).view(element.to_pandas_dtype())
    offsets = np.arange(len(vectors) + 1, dtype=np.int32) * (len(flat) // len(vectors))
    return pa.ListArray.from_arrays(offsets, pa.array(flat))
