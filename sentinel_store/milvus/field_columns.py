"""How fields are stored: each value in the JSON column, and typed columns for filters.

    STRING, INT64, DOUBLE, BOOL  one column `f_NAME` of their type; a bool is 0 or 1
    TIMESTAMP                    an INT64 column `f_NAME`: microseconds since 1970, UTC
    GEO                          two DOUBLE columns in degrees, `lat_NAME` and `lon_NAME`
    STRING_LIST                  no column: filters read the JSON

The prefixes keep the columns apart from each other's and from our own. If an item lacks a field,
its columns hold a marker value that callers may not use.

The JSON has the exact values: a timestamp as the number of its column, a place as `[latitude,
longitude]`. What they mean is known from the declared types.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from operator import attrgetter
from typing import Any, TypeAlias

from pymilvus import DataType

from sentinel_core.errors import InvalidArgument
from sentinel_store.values import Fields, FieldType, FieldValue, GeoPoint

ColumnValue: TypeAlias = str | int | float

_TEXT_LENGTH = 65_535
# The least int64 cannot be written in a Milvus expression; the next one is our marker.
_ABSENT_INT64 = -(2**63 - 1)
# The least finite double, written so that every parser reads it back exactly.
_ABSENT_DOUBLE = -1.7976931348623157e308
_MAX_DOUBLE = -_ABSENT_DOUBLE
_ABSENT_STRING = "\x7fabsent\x7f"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
# The least values of the two kinds of numbers are the markers.
_MEANINGS = {
    FieldType.STRING: "a text",
    FieldType.INT64: "a whole number above -2^63 + 1 and below 2^63",
    FieldType.DOUBLE: "a finite number",
    FieldType.BOOL: "true or false",
    FieldType.STRING_LIST: "a list of texts",
    FieldType.TIMESTAMP: "a point in time with a time zone, of the years 1 to 9999",
    FieldType.GEO: "a place: a latitude of -90 to 90 and a longitude of -180 to 180 degrees",
}
_MAX_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Column:
    """One Milvus column of a field.

    Attributes:
        parameters: Further arguments of `add_field`.
        absent: What it holds if an item lacks the field.
        value_of: Returns what it holds of a checked value.
    """

    name: str
    type: DataType
    parameters: Mapping[str, int]
    absent: ColumnValue
    value_of: Callable[[Any], ColumnValue]

    def value(self, fields: Fields, name: str) -> ColumnValue:
        """Return what the column holds for an item with these fields; `name` is the field's."""
        return self.value_of(fields[name]) if name in fields else self.absent


def to_microseconds(moment: datetime) -> int:
    """Return the whole microseconds since 1970 of an aware `moment`."""
    return (moment - _EPOCH) // _MICROSECOND


_ONE_COLUMN: dict[
    FieldType, tuple[DataType, dict[str, int], ColumnValue, Callable[[Any], ColumnValue]]
] = {
    FieldType.STRING: (DataType.VARCHAR, {"max_length": _TEXT_LENGTH}, _ABSENT_STRING, str),
    FieldType.INT64: (DataType.INT64, {}, _ABSENT_INT64, int),
    FieldType.DOUBLE: (DataType.DOUBLE, {}, _ABSENT_DOUBLE, float),
    FieldType.BOOL: (DataType.INT8, {}, -1, int),
    FieldType.TIMESTAMP: (DataType.INT64, {}, _ABSENT_INT64, to_microseconds),
}


@lru_cache(maxsize=4096)  # it is asked for every row
def columns_of(name: str, field_type: FieldType) -> tuple[Column, ...]:
    """Return the columns of a declared field."""
    if field_type is FieldType.GEO:
        parts = zip(geo_columns_of(name), ("latitude", "longitude"), strict=True)
        return tuple(
            Column(column, DataType.DOUBLE, {}, _ABSENT_DOUBLE, attrgetter(part))
            for column, part in parts
        )
    if field_type not in _ONE_COLUMN:
        return ()
    return (Column(column_of(name), *_ONE_COLUMN[field_type]),)


def column_of(name: str) -> str:
    """Return the column of a declared field that has one."""
    return f"f_{name}"


def geo_columns_of(name: str) -> tuple[str, str]:
    """Return the columns of a GEO field: latitude and longitude."""
    return f"lat_{name}", f"lon_{name}"


def absent_marker(field_type: FieldType) -> ColumnValue:
    """Return the value of a field's columns whose item lacks the field."""
    return columns_of("", field_type)[0].absent


def to_column(value: FieldValue, field_type: FieldType) -> ColumnValue:
    """Return a checked value as the only column of its field holds it."""
    return columns_of("", field_type)[0].value_of(value)


def from_microseconds(count: int) -> datetime:
    """Return the moment of so many microseconds since 1970, in UTC."""
    return _EPOCH + timedelta(microseconds=count)


def to_json(fields: Fields) -> dict[str, Any]:
    """Return an item's fields as the JSON column holds them."""
    return {name: _to_json(value) for name, value in fields.items()}


def _to_json(value: FieldValue) -> object:
    match value:
        case datetime():
            return to_microseconds(value)
        case GeoPoint():
            return [value.latitude, value.longitude]
    return value


def from_json(stored: dict[str, Any], types: Mapping[str, FieldType]) -> Fields:
    """Return an item's fields from the JSON column of a collection with these declared types."""
    fields: Fields = stored
    for name, field_type in types.items():
        if name not in stored:
            continue
        if field_type is FieldType.TIMESTAMP:
            fields[name] = from_microseconds(stored[name])
        elif field_type is FieldType.GEO:
            latitude, longitude = stored[name]
            fields[name] = GeoPoint(float(latitude), float(longitude))
    return fields


def checked_value(value: FieldValue, field_type: FieldType, name: str, path: str) -> FieldValue:
    """Return `value` as `field_type` stores it; raise InvalidArgument if it has another type.

    An integer of a DOUBLE field becomes a float, and a point in time is converted to UTC. `path` is
    that of the value in the request.
    """
    stored: FieldValue | None = None
    match field_type, value:
        case ((FieldType.INT64 | FieldType.DOUBLE), bool()):
            pass  # in Python a bool is an int
        case FieldType.DOUBLE, int() | float() if _ABSENT_DOUBLE < value <= _MAX_DOUBLE:
            stored = float(value)  # not NaN, which compares false
        case FieldType.INT64, int() if _ABSENT_INT64 < value < 2**63:
            stored = value
        case FieldType.STRING, str() if value != _ABSENT_STRING:
            stored = value
        case (FieldType.BOOL, bool()) | (FieldType.STRING_LIST, list()):
            stored = value
        case FieldType.TIMESTAMP, datetime():
            stored = _in_utc(value)
        case FieldType.GEO, GeoPoint() if value.is_on_earth:
            stored = value
    if stored is not None:
        return stored
    raise InvalidArgument(
        "FIELD_TYPE",
        f"field {name!r} takes {_MEANINGS[field_type]} ({field_type}), not {_shown(value)}",
        field=path,
        name=name,
    )


def _in_utc(moment: datetime) -> datetime | None:
    """Return a moment in UTC; None if it has no time zone, or if it is in no year there."""
    try:
        return None if moment.utcoffset() is None else moment.astimezone(UTC)
    except OverflowError:
        return None


def _shown(value: FieldValue) -> str:
    """Return a value as it is written in messages."""
    written = str(value) if isinstance(value, datetime | GeoPoint) else repr(value)
    return written if len(written) <= _MAX_SHOWN else f"{written[:_MAX_SHOWN]}…"
