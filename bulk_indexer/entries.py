"""Define the entries of a dataset, their file in the run folder, and the types of their fields."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sentinel_core.errors import InvalidArgument
from sentinel_store.values import Fields, FieldType, FieldValue, GeoPoint

# Fields of every file. `sentinel index` declares the same, so each of the two commands finds the
# other's items unchanged.
FILE_FIELDS: Mapping[str, FieldType] = {
    "path": FieldType.STRING,
    "file_name": FieldType.STRING,
    "folder": FieldType.STRING,
    "size_bytes": FieldType.INT64,
    "modified_at": FieldType.INT64,
}
_HOW = {
    FieldType.STRING_LIST: " (a JSON list)",
    FieldType.TIMESTAMP: " (ISO 8601)",
    FieldType.GEO: " ('LATITUDE,LONGITUDE' or an object with both)",
}
_BOOLS = {"true": True, "1": True, "false": False, "0": False}
_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("place", "uri", "text", "id", "fields", "error")]
)


@dataclass(frozen=True, slots=True)
class DatasetEntry:
    """One item of a dataset, before its content is read.

    Attributes:
        place: Where the dataset names it: its own URI, or the manifest and the line.
        uri: Image items: an absolute path or a URI.
        text: Text items: the text.
        id: Empty: the SHA-256 of the content.
        fields: Values of declared fields, with JSON types.
        error: What is wrong with the entry; its content is then not read.
    """

    place: str
    uri: str = ""
    text: str = ""
    id: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""


def path_fields(uri: str) -> dict[str, Any]:
    """Return the fields that a file's path determines."""
    path = PurePosixPath(uri.split("://", 1)[-1])
    return {"path": uri, "file_name": path.name, "folder": os.path.dirname(uri)}


def modified_at(details: Mapping[str, Any]) -> int | None:
    """Return when a file was changed, in seconds since 1970; None if fsspec does not say."""
    for name in ("mtime", "LastModified", "last_modified", "updated"):
        match details.get(name):
            case int() | float() as seconds:
                return int(seconds)
            case datetime() as moment:
                return int(moment.timestamp())
    return None


def to_parquet(entries: Sequence[DatasetEntry]) -> bytes:
    """Return entries as one Parquet file."""
    columns = {name: [getattr(entry, name) for entry in entries] for name in _SCHEMA.names}
    # Dates, decimals and the like of a Parquet manifest become strings.
    columns["fields"] = [json.dumps(dict(one), default=str) for one in columns["fields"]]
    table = pa.table(columns, schema=_SCHEMA)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())


def from_parquet(data: bytes) -> list[DatasetEntry]:
    """Return the entries that `to_parquet` wrote."""
    rows = pq.read_table(pa.BufferReader(data)).to_pylist()
    return [DatasetEntry(**{**row, "fields": json.loads(row["fields"])}) for row in rows]


def typed_fields(values: Mapping[str, Any], types: Mapping[str, FieldType]) -> Fields:
    """Convert text to the declared types, since CSV has only text; FIELD_TYPE if it does not fit.

    Other values are returned as they are; the collection's own checks judge them.
    """
    return {name: _typed(name, value, types[name]) for name, value in values.items()}


def _typed(name: str, value: Any, field_type: FieldType) -> FieldValue:
    try:
        match field_type, value:
            case FieldType.INT64, str():
                value = int(value)
            case FieldType.INT64, float() if value.is_integer():
                value = int(value)  # pandas turns an integer column with gaps into floats
            case FieldType.DOUBLE, str():
                value = float(value)
            case FieldType.BOOL, str():
                value = _BOOLS[value.lower()]
            case FieldType.STRING_LIST, str():
                value = [str(word) for word in json.loads(value)]
            case FieldType.TIMESTAMP, str():
                value = _moment(value)
            case FieldType.GEO, str():
                latitude, longitude = map(float, value.split(","))
                value = GeoPoint(latitude, longitude)
            case FieldType.GEO, {"latitude": latitude, "longitude": longitude}:
                value = GeoPoint(float(latitude), float(longitude))
            case FieldType.GEO, {"lat": latitude, "lon": longitude}:
                value = GeoPoint(float(latitude), float(longitude))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise InvalidArgument(
            "FIELD_TYPE",
            f"field {name!r}: {str(value)[:80]!r} is not {field_type}{_HOW.get(field_type, '')}",
            name=name,
        ) from error
    return value  # type: ignore[no-any-return]


def _moment(text: str) -> datetime:
    """Return a point in time; without a zone it is in UTC, as in `sentinel import`."""
    moment = datetime.fromisoformat(text)
    return moment if moment.utcoffset() is not None else moment.replace(tzinfo=UTC)
