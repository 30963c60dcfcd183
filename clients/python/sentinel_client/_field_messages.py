"""Convert field values and filters between the client's types and the contract's messages."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp

from sentinel.search.v1 import filter_pb2
from sentinel_client import _errors
from sentinel_client._filters import Comparison, FieldValue, Filter, GeoPoint, Group, Near, Within

# The servers' limit, checked here too: protobuf cannot serialize a message of 100 levels.
_MAX_FILTER_DEPTH = 32
# bool before int: in Python, True is an int.
_PLAIN_KINDS: tuple[tuple[type, str], ...] = (
    (bool, "bool_value"),
    (int, "int_value"),
    (float, "double_value"),
    (str, "string_value"),
)


def field_value(value: object) -> filter_pb2.FieldValue:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError("a whole number has at most 64 bits")
    for its_type, kind in _PLAIN_KINDS:
        if isinstance(value, its_type):
            plain: dict[str, Any] = {kind: value}
            return filter_pb2.FieldValue(**plain)
    if isinstance(value, list | tuple) and all(isinstance(one, str) for one in value):
        return filter_pb2.FieldValue(list_value=filter_pb2.StringList(values=value))
    if isinstance(value, datetime):
        return filter_pb2.FieldValue(timestamp_value=_timestamp(value))
    if isinstance(value, GeoPoint):
        return filter_pb2.FieldValue(geo_value=_geo_point(value))
    raise TypeError(
        f"a field is a str, int, float, bool, list of str, datetime or GeoPoint, not {value!r}"
    )


def _timestamp(value: datetime) -> Timestamp:
    if value.utcoffset() is None:
        raise ValueError(
            f"{value} has no time zone; use .astimezone() if it is local time, or "
            ".replace(tzinfo=UTC) if it is UTC"
        )
    message = Timestamp()
    message.FromDatetime(value)
    return message


def _geo_point(value: GeoPoint) -> filter_pb2.GeoPoint:
    return filter_pb2.GeoPoint(latitude=value.latitude, longitude=value.longitude)


def fields_from_proto(fields: Mapping[str, filter_pb2.FieldValue]) -> dict[str, FieldValue]:
    """Convert fields; leave out kinds that this client does not know."""
    values: dict[str, FieldValue] = {}
    for name in sorted(fields):
        kind = fields[name].WhichOneof("kind")
        if kind == "list_value":
            values[name] = list(fields[name].list_value.values)
        elif kind == "timestamp_value":
            values[name] = fields[name].timestamp_value.ToDatetime(UTC)
        elif kind == "geo_value":
            point = fields[name].geo_value
            values[name] = GeoPoint(point.latitude, point.longitude)
        elif kind is not None:
            values[name] = getattr(fields[name], kind)
    return values


def filter_to_proto(condition: Filter, depth: int = 1) -> filter_pb2.Filter:
    """Convert a filter that is `depth` levels deep in another."""
    if depth > _MAX_FILTER_DEPTH:
        raise _errors.InvalidArgument(
            "FILTER_INVALID",
            f"filters nest at most {_MAX_FILTER_DEPTH} deep; join alternatives with isin(), or "
            "search several times",
            field="filter",
        )
    if isinstance(condition, Comparison):
        return filter_pb2.Filter(
            comparison=filter_pb2.Comparison(
                field=condition.field,
                operator=f"OPERATOR_{condition.operator}",
                values=[field_value(value) for value in condition.values],
            )
        )
    if isinstance(condition, Within | Near):
        return filter_pb2.Filter(geo=_area_to_proto(condition))
    if isinstance(condition, Group):
        group: dict[str, Any] = {
            condition.kind: filter_pb2.Filters(
                filters=[filter_to_proto(part, depth + 1) for part in condition.filters]
            )
        }
        return filter_pb2.Filter(**group)
    raise TypeError(f"{condition!r} is not a filter; make one with F")


def _area_to_proto(area: Within | Near) -> filter_pb2.GeoComparison:
    if isinstance(area, Near):
        circle = filter_pb2.GeoCircle(center=_geo_point(area.center), radius_meters=area.meters)
        return filter_pb2.GeoComparison(field=area.field, circle=circle)
    bounds = filter_pb2.GeoBounds(
        south=area.south, west=area.west, north=area.north, east=area.east
    )
    return filter_pb2.GeoComparison(field=area.field, bounds=bounds)
