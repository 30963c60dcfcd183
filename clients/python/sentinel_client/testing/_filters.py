"""Check fields and filters against a collection, and tell which items a filter selects."""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

from google.protobuf.timestamp_pb2 import Timestamp

from sentinel.search.v1 import collection_service_pb2 as collection_pb
from sentinel.search.v1 import filter_pb2
from sentinel.search.v1 import item_service_pb2 as item_pb
from sentinel_client import _field_messages
from sentinel_client._errors import InvalidArgument
from sentinel_client._filters import FieldValue, GeoPoint
from sentinel_client._names import did_you_mean
from sentinel_client._types import FieldType
from sentinel_client.testing import _areas

Declared: TypeAlias = Mapping[str, FieldType]
Fields: TypeAlias = dict[str, FieldValue]
Predicate: TypeAlias = Callable[[Fields], bool]

FIELD_TYPES = {collection_pb.FieldSchema.Type.Value(f"TYPE_{one.name}"): one for one in FieldType}
_MAX_FIELDS_BYTES = 60_000
_MAX_DEPTH = 32
_MAX_VALUES = 1_000
_LEAST_INT64 = -(2**63 - 1)  # the gateway keeps the lowest values for itself
_NUMBERS_TOO = {"LESS", "LESS_OR_EQUAL", "GREATER", "GREATER_OR_EQUAL"}
_SAME = {"EQUAL", "NOT_EQUAL", "EXISTS"}
_OPERATORS_OF = {
    FieldType.STRING: _SAME | _NUMBERS_TOO | {"IN", "NOT_IN", "PREFIX", "CONTAINS"},
    FieldType.INT64: _SAME | _NUMBERS_TOO | {"IN", "NOT_IN"},
    FieldType.DOUBLE: _SAME | _NUMBERS_TOO | {"IN", "NOT_IN"},
    FieldType.BOOL: _SAME,
    FieldType.STRING_LIST: {"LIST_CONTAINS", "CONTAINS", "EXISTS"},
    FieldType.TIMESTAMP: _SAME | _NUMBERS_TOO | {"IN", "NOT_IN"},
    FieldType.GEO: {"EXISTS"},
}
# What an area counts as: so many comparisons it becomes in a gateway, about.
_BOUNDS_VALUES, _CIRCLE_VALUES = 4, 50
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SORTABLE = (FieldType.TIMESTAMP, FieldType.INT64, FieldType.DOUBLE)
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "EQUAL": operator.eq,
    "NOT_EQUAL": operator.ne,
    "LESS": operator.lt,
    "LESS_OR_EQUAL": operator.le,
    "GREATER": operator.gt,
    "GREATER_OR_EQUAL": operator.ge,
    "PREFIX": str.startswith,
    "LIST_CONTAINS": operator.contains,
    "CONTAINS": operator.contains,
}


def check_declared(names: Iterable[str], declared: Declared, path: str) -> None:
    """Raise InvalidArgument if a name is no declared field."""
    for name in names:
        type_of(name, declared, path)


def type_of(name: str, declared: Declared, path: str) -> FieldType:
    """Return the type of a field; raise InvalidArgument if it is not declared."""
    if name not in declared:
        raise InvalidArgument(
            "FIELD_UNKNOWN",
            f"the collection does not declare field {name!r}{did_you_mean(name, declared)}",
            field=path,
            metadata={"name": name},
        )
    return declared[name]


def values_from(fields: Mapping[str, filter_pb2.FieldValue], path: str) -> Fields:
    """Read the fields of an item; `stored_fields` checks them against the collection."""
    if len(fields) > 56:
        raise InvalidArgument(
            "PARAMETER_OUT_OF_RANGE", f"{path}: {len(fields)} elements, at most 56", field=path
        )
    for name, value in fields.items():
        _check_value(value, name, f"{path}[{name}]")
    return _field_messages.fields_from_proto(fields)


def stored_fields(values: Fields, declared: Declared, path: str) -> Fields:
    """Return an item's fields as they are stored; raise InvalidArgument for a wrong one."""
    stored = {
        name: _typed(value, type_of(name, declared, where), name, where)
        for name, value in values.items()
        for where in (f"{path}[{name}]",)
    }
    if len(json.dumps(stored, default=_as_json).encode()) > _MAX_FIELDS_BYTES:
        raise InvalidArgument(
            "PARAMETER_OUT_OF_RANGE",
            f"the fields are more than {_MAX_FIELDS_BYTES} bytes as JSON",
            field=path,
            metadata={"limit": str(_MAX_FIELDS_BYTES)},
        )
    return stored


def _as_json(value: object) -> Any:
    """Return a time or a place as a gateway stores it."""
    if isinstance(value, GeoPoint):
        return [value.latitude, value.longitude]
    assert isinstance(value, datetime)
    return (value - _EPOCH) // timedelta(microseconds=1)


def _check_value(value: filter_pb2.FieldValue, name: str, path: str) -> None:
    kind = value.WhichOneof("kind")
    bad = kind is None or (kind == "double_value" and not math.isfinite(value.double_value))
    if bad or (kind == "timestamp_value" and not _is_in_years(value.timestamp_value)):
        raise InvalidArgument(
            "FIELD_TYPE",
            f"field {name!r} needs a value, a finite one or one of the years 1 to 9999",
            field=path,
            metadata={"name": name},
        )


def _is_in_years(moment: Timestamp) -> bool:
    try:
        return 0 <= moment.nanos < 10**9 and bool(_EPOCH + timedelta(seconds=moment.seconds))
    except OverflowError:
        return False


def _typed(value: FieldValue, field_type: FieldType, name: str, path: str) -> FieldValue:
    match field_type, value:
        case ((FieldType.INT64 | FieldType.DOUBLE), bool()):
            pass  # in Python a bool is an int
        case FieldType.DOUBLE, int() | float():
            return float(value)
        case FieldType.INT64, int() if _LEAST_INT64 < value < 2**63:
            return value
        case FieldType.GEO, GeoPoint() if _areas.is_on_earth(value.latitude, value.longitude):
            return value
        case (
            (FieldType.BOOL, bool())
            | (FieldType.STRING, str())
            | (FieldType.STRING_LIST, list())
            | (FieldType.TIMESTAMP, datetime())
        ):
            return value
    raise InvalidArgument(
        "FIELD_TYPE",
        f"field {name!r} takes a {field_type.value}, not {value!r:.80}",
        field=path,
        metadata={"name": name},
    )


def check_filter(message: filter_pb2.Filter, path: str, depth: int = 1) -> int:
    """Check a filter without its collection; return how many values it compares.

    `path` is that of the whole filter in the request, for errors.
    """
    kind = message.WhichOneof("kind")
    if kind is None:
        raise _bad("a filter sets one of comparison, geo, all_of, any_of or none_of", path)
    if depth > _MAX_DEPTH:
        raise _bad(f"filters nest at most {_MAX_DEPTH} deep", path)
    if kind == "comparison":
        comparison = message.comparison
        if comparison.operator not in filter_pb2.Comparison.Operator.values()[1:]:
            raise _bad(f"comparison of {comparison.field!r} needs an operator", path)
        for value in comparison.values:
            _check_value(value, comparison.field, path)
        count = max(1, len(comparison.values))
    elif kind == "geo":
        if wrong := _areas.what_is_wrong(message.geo):
            raise _bad(wrong, path)
        count = _CIRCLE_VALUES if message.geo.HasField("circle") else _BOUNDS_VALUES
    else:
        filters = getattr(message, kind).filters
        if not filters:
            raise _bad(f"{kind} needs at least one filter", path)
        count = sum(check_filter(inner, path, depth + 1) for inner in filters)
    if count > _MAX_VALUES:
        raise _bad(f"the filter compares more than {_MAX_VALUES} values; split the call", path)
    return count


def predicate(message: filter_pb2.Filter, declared: Declared, path: str) -> Predicate:
    """Return what tells whether the fields of an item match; check the filter's fields.

    `path` is that of the whole filter in the request, for errors.
    """
    kind = message.WhichOneof("kind")
    if kind == "comparison":
        return _comparison(message.comparison, declared, path)
    if kind == "geo":
        return _in_area(message.geo, declared, path)
    inner = [predicate(one, declared, path) for one in getattr(message, str(kind)).filters]
    if kind == "all_of":
        return lambda fields: all(matches(fields) for matches in inner)
    if kind == "any_of":
        return lambda fields: any(matches(fields) for matches in inner)
    return lambda fields: not any(matches(fields) for matches in inner)


def _in_area(area: filter_pb2.GeoComparison, declared: Declared, path: str) -> Predicate:
    name = area.field
    field_type = type_of(name, declared, path)
    if field_type is not FieldType.GEO:
        raise InvalidArgument(
            "FIELD_TYPE",
            f"field {name!r} is a {field_type.value}; an area needs a geo field",
            field=path,
            metadata={"name": name},
        )
    contains = _areas.contains(area)

    def matches(fields: Fields) -> bool:
        place = fields.get(name)
        return isinstance(place, GeoPoint) and contains(place)

    return matches


def _comparison(comparison: filter_pb2.Comparison, declared: Declared, path: str) -> Predicate:
    name = comparison.field
    field_type = type_of(name, declared, path)
    kind = filter_pb2.Comparison.Operator.Name(comparison.operator).removeprefix("OPERATOR_")
    if kind not in _OPERATORS_OF[field_type]:
        raise InvalidArgument(
            "FIELD_TYPE",
            f"field {name!r} is a {field_type.value}, which does not support {kind}",
            field=path,
            metadata={"name": name},
        )
    count = len(comparison.values)
    if (kind in ("IN", "NOT_IN") and not count) or (
        kind not in ("IN", "NOT_IN") and count != (kind != "EXISTS")
    ):
        raise _bad(f"{kind} on {name!r} takes another number of values than {count}", path)
    element = FieldType.STRING if field_type is FieldType.STRING_LIST else field_type
    read = _field_messages.fields_from_proto(
        {str(at): one for at, one in enumerate(comparison.values)}
    )
    values = [_typed(value, element, name, path) for value in read.values()]

    def matches(fields: Fields) -> bool:
        value = fields.get(name)
        if kind == "EXISTS" or value is None:
            return (value is not None) == (kind not in ("NOT_EQUAL", "NOT_IN"))
        if kind in ("IN", "NOT_IN"):
            return (value in values) == (kind == "IN")
        return _COMPARE[kind](value, values[0])

    return matches


def place_in(
    order: item_pb.ItemOrder, declared: Declared
) -> Callable[[str, Fields], tuple[bool, float, str]]:
    """Return what tells where an item is among others; an empty order is that of the ids."""
    if order == item_pb.ItemOrder():
        # Python sorts by code points, which is the order of the bytes of UTF-8.
        return lambda item_id, fields: (False, 0, item_id)
    name = order.field
    field_type = type_of(name, declared, "order.field")
    if field_type not in _SORTABLE:
        raise InvalidArgument(
            "FIELD_TYPE",
            f"field {name!r} is a {field_type.value}; items are sorted by times and numbers",
            field="order.field",
            metadata={"name": name},
        )
    sign = -1 if order.descending else 1

    def place(item_id: str, fields: Fields) -> tuple[bool, float, str]:
        value: Any = fields.get(name)
        if value is None:
            return True, 0, item_id
        return False, sign * (_as_json(value) if isinstance(value, datetime) else value), item_id

    return place


def _bad(message: str, path: str) -> InvalidArgument:
    return InvalidArgument("FILTER_INVALID", message, field=path)
