"""One entry of a dataset: where its content is, and what is known of it before it is read."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sentinel_store.values import FieldType

# What is known of every file, under the names that `sentinel index` gives it; so that either of
# them finds the other's items unchanged.
FILE_FIELDS: Mapping[str, FieldType] = {
    "path": FieldType.STRING,
    "file_name": FieldType.STRING,
    "folder": FieldType.STRING,
    "size_bytes": FieldType.INT64,
    "modified_at": FieldType.INT64,
}
_COLUMNS = ("place", "uri", "text", "id", "fields", "error")
_SCHEMA = pa.schema([(name, pa.string()) for name in _COLUMNS])


@dataclass(frozen=True, slots=True)
class Entry:
    """One item as the dataset names it.

    Attributes:
        place: Where it is named: its own URI, or the manifest and the line.
        uri: Image items: an absolute path or a URI.
        text: Text items: the text.
        id: Given id; empty: the SHA-256 of the content.
        fields: Raw values of declared fields, of the types that JSON has.
        error: What is wrong with the entry itself; nothing is read then.
    """

    place: str
    uri: str = ""
    text: str = ""
    id: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""


def file_facts(uri: str) -> dict[str, Any]:
    """Return the fields that a file's path alone tells."""
    path = PurePosixPath(uri.split("://", 1)[-1] if "://" in uri else uri)
    return {"path": uri, "file_name": path.name, "folder": os.path.dirname(uri)}


def to_parquet(entries: Sequence[Entry]) -> bytes:
    """Return entries as one Parquet file."""
    table = pa.table(
        [
            [entry.place for entry in entries],
            [entry.uri for entry in entries],
            [entry.text for entry in entries],
            [entry.id for entry in entries],
            # Dates, decimals and the like of a Parquet manifest become strings.
            [json.dumps(dict(entry.fields), default=str) for entry in entries],
            [entry.error for entry in entries],
        ],
        schema=_SCHEMA,
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())


def from_parquet(data: bytes) -> list[Entry]:
    """Return what `to_parquet` wrote."""
    table = pq.read_table(pa.BufferReader(data))
    return [Entry(**{**row, "fields": json.loads(row["fields"])}) for row in table.to_pylist()]
