"""Check and convert what several services share: contents, vectors, fields, filters, names.

Names of collections and aliases are local to a tenant. Only this room knows local names. Below it
there are stored names, which begin with the tenant. So no cache, shared call or page token can mix
two tenants.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, cast

import grpc
import numpy as np
from google.protobuf import timestamp_pb2
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message import Message

from search_server.types.queries import (
    Comparison,
    Filter,
    GeoBounds,
    GeoCircle,
    GeoComparison,
    Group,
    Junction,
    Operator,
)
from sentinel.common.v1 import content_pb2
from sentinel.search.v1 import filter_pb2, search_service_pb2
from sentinel_core.access.scopes import Scope, is_of_a_tenant
from sentinel_core.calls import current_caller
from sentinel_core.errors import InvalidArgument
from sentinel_store.collections import MAX_FIELDS, check_collection_name
from sentinel_store.items import Content, Crop, Kind
from sentinel_store.prepared_item import check_id_length
from sentinel_store.values import (
    Consistency,
    Fields,
    FieldValue,
    FloatArray,
    GeoPoint,
    ModelRef,
)

Context = grpc.aio.ServicerContext[Any, Any]

_Ours = TypeVar("_Ours", bound=enum.Enum)
_Number = TypeVar("_Number", bound=float | None)

_MAX_FILTER_DEPTH = 32
_MAX_FILTER_VALUES = 1_000
# What an area counts as: so many comparisons it becomes, about.
_BOUNDS_VALUES, _CIRCLE_VALUES = 4, 50
_MAX_FILTER_BYTES = 1024 * 1024
# Half of Earth's circumference, and a little more.
_MAX_RADIUS_M = 20_100_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# More than any kind of index has.
_MAX_INDEX_PARAMS = 16


def enum_table(wire: EnumTypeWrapper, prefix: str, ours: type[_Ours]) -> dict[Any, _Ours]:
    """Map the values of a contract's enum to the members of ours; only the prefix differs."""
    return {wire.Value(f"{prefix}_{member.name}"): member for member in ours}


_OPERATORS = enum_table(filter_pb2.Comparison.Operator, "OPERATOR", Operator)
_CONSISTENCIES = enum_table(search_service_pb2.Consistency, "CONSISTENCY", Consistency)
CONSISTENCIES_TO_WIRE = {ours: theirs for theirs, ours in _CONSISTENCIES.items()}


def filter_from(message: filter_pb2.Filter, where: str) -> Filter:
    """Read a filter; the search checks whether its fields exist."""
    try:
        _check_filter_size(message)
        return _filter_from(message, 1)
    except InvalidArgument as error:
        raise error.at(where) from error


def _check_filter_size(message: filter_pb2.Filter) -> None:
    """Raise InvalidArgument for a large filter, before anything of it is converted."""
    if message.ByteSize() > _MAX_FILTER_BYTES:
        raise _bad_filter(f"the filter has more than {_MAX_FILTER_BYTES} bytes; make it smaller")
    values, left = 0, [message]
    while left:
        inner = left.pop()
        kind = inner.WhichOneof("kind")
        if kind == "comparison":
            values += max(1, len(inner.comparison.values))
        elif kind == "geo":
            values += _CIRCLE_VALUES if inner.geo.HasField("circle") else _BOUNDS_VALUES
        elif kind is not None:
            left.extend(getattr(inner, kind).filters)
        # Each filter that is left compares something, or is wrong.
        if values + len(left) > _MAX_FILTER_VALUES:
            raise _bad_filter(
                f"the filter compares more than {_MAX_FILTER_VALUES} values; split the call"
            )


def _filter_from(message: filter_pb2.Filter, depth: int) -> Filter:
    kind = message.WhichOneof("kind")
    if kind is None:
        raise _bad_filter("a filter sets one of comparison, geo, all_of, any_of or none_of")
    if depth > _MAX_FILTER_DEPTH:
        raise _bad_filter(f"filters nest at most {_MAX_FILTER_DEPTH} deep")
    if kind == "comparison":
        comparison = message.comparison
        operator = _OPERATORS.get(comparison.operator)
        if operator is None:
            raise _bad_filter(f"comparison of {comparison.field!r} needs an operator")
        values = tuple(value_from(value, comparison.field, "filter") for value in comparison.values)
        return Comparison(comparison.field, operator, values)
    if kind == "geo":
        return GeoComparison(message.geo.field, _area_from(message.geo))
    filters = getattr(message, kind).filters
    if not filters:
        raise _bad_filter(f"{kind} needs at least one filter")
    return Group(Junction(kind), tuple(_filter_from(inner, depth + 1) for inner in filters))


def _area_from(message: filter_pb2.GeoComparison) -> GeoBounds | GeoCircle:
    match message.WhichOneof("area"):
        case "bounds":
            area = message.bounds
            corners = [GeoPoint(area.south, area.west), GeoPoint(area.north, area.east)]
            if not all(corner.is_on_earth for corner in corners) or area.south > area.north:
                raise _bad_filter(
                    f"bounds of {message.field!r} are south <= north, -90 to 90, and west and "
                    "east, -180 to 180"
                )
            return GeoBounds(area.south, area.west, area.north, area.east)
        case "circle":
            if not message.circle.HasField("center"):
                raise _bad_filter(f"a circle around {message.field!r} needs a center")
            center = _point_from(message.circle.center)
            radius = message.circle.radius_meters
            if not center.is_on_earth:
                raise _bad_filter(
                    f"the center of a circle around {message.field!r} is a latitude of -90 to 90 "
                    "and a longitude of -180 to 180 degrees"
                )
            if not 0 < radius <= _MAX_RADIUS_M:
                raise _bad_filter(
                    f"a radius is above 0 and at most {_MAX_RADIUS_M:,} meters, not {radius:g}"
                )
            return GeoCircle(center, radius)
    raise _bad_filter(f"the area of {message.field!r} needs bounds or a circle")


def _point_from(message: filter_pb2.GeoPoint) -> GeoPoint:
    return GeoPoint(message.latitude, message.longitude)


def _bad_filter(message: str) -> InvalidArgument:
    return InvalidArgument("FILTER_INVALID", message, field="filter")


def value_from(value: filter_pb2.FieldValue, name: str, where: str) -> FieldValue:
    """Read one typed value."""
    match value.WhichOneof("kind"):
        case "string_value" | "int_value" | "bool_value" as kind:
            plain: FieldValue = getattr(value, kind)
            return plain
        case "double_value" if math.isfinite(value.double_value):
            return value.double_value
        case "list_value":
            return list(value.list_value.values)
        case "geo_value":
            return _point_from(value.geo_value)
        case "timestamp_value":
            if (moment := _moment_from(value.timestamp_value)) is not None:
                return moment
            needs = "a point in time of the years 1 to 9999"
        case _:
            needs = "a value, and a finite one"
    raise InvalidArgument("FIELD_TYPE", f"field {name!r} needs {needs}", field=where, name=name)


def _moment_from(message: timestamp_pb2.Timestamp) -> datetime | None:
    """Return a point in time, to the microsecond; None if a datetime cannot be that."""
    if not 0 <= message.nanos < 1_000_000_000:
        return None
    try:
        return _EPOCH + timedelta(seconds=message.seconds, microseconds=message.nanos // 1_000)
    except OverflowError:
        return None


def _set_value(message: filter_pb2.FieldValue, value: FieldValue) -> None:
    match value:
        case bool():  # before int: a bool is one
            message.bool_value = value
        case int():
            message.int_value = value
        case float():
            message.double_value = value
        case str():
            message.string_value = value
        case list():
            message.list_value.values[:] = value
            message.list_value.SetInParent()  # an empty one, too
        case datetime():
            message.timestamp_value.FromDatetime(value)
        case GeoPoint():
            message.geo_value.latitude = value.latitude
            message.geo_value.longitude = value.longitude
            message.geo_value.SetInParent()


def fields_from(fields: Mapping[str, filter_pb2.FieldValue], where: str) -> Fields:
    """Read the fields of an item; `where` is their path in the request."""
    _check_most(len(fields), MAX_FIELDS, where)
    return {name: value_from(value, name, f"{where}[{name}]") for name, value in fields.items()}


def set_fields(messages: MutableMapping[str, filter_pb2.FieldValue], fields: Fields) -> None:
    """Fill the map of an item's or a hit's fields."""
    for name, value in fields.items():
        _set_value(messages[name], value)


def output_fields_from(names: Sequence[str], where: str) -> tuple[str, ...]:
    """Read the names of fields to return; the search checks whether they exist."""
    if not names:
        return ()
    _check_most(len(names), MAX_FIELDS, where)
    return tuple(names)


def index_params_from(params: Mapping[str, int], where: str) -> dict[str, int]:
    """Read parameters of a vector index; their kind of index checks them."""
    if not params:
        return {}
    _check_most(len(params), _MAX_INDEX_PARAMS, where)
    return dict(params)


def check_ids(ids: Iterable[str], field: str) -> None:
    """Raise InvalidArgument if an id is longer than that of any item; `field` names the list."""
    for index, item_id in enumerate(ids):
        check_id_length(item_id, f"{field}[{index}]")


def _check_most(count: int, most: int, field: str) -> None:
    if count > most:
        raise out_of_range(f"{count} elements; send at most {most}", field)


def consistency_from(message: search_service_pb2.Consistency, where: str) -> Consistency | None:
    """Read how fresh a read must be; None if the request does not set it."""
    if message == search_service_pb2.CONSISTENCY_UNSPECIFIED:
        return None
    if message not in _CONSISTENCIES:
        raise out_of_range(f"there is no consistency {message}", where)
    return _CONSISTENCIES[message]


def vector_to(vector: FloatArray) -> content_pb2.Vector:
    return content_pb2.Vector(
        data=vector.astype("<f4", copy=False).tobytes(),
        element_type=content_pb2.ELEMENT_TYPE_FLOAT32,
        dimensions=len(vector),
    )


def model_from(version: content_pb2.ModelVersion) -> ModelRef | None:
    if not version.model and not version.fingerprint:
        return None
    return ModelRef(version.model, version.revision, version.fingerprint)


def set_model(version: content_pb2.ModelVersion, model: ModelRef) -> None:
    version.model = model.model
    version.revision = model.revision
    version.fingerprint = model.fingerprint


def whole_content_from(content: content_pb2.Content, where: str) -> Content:
    """Read a text or an image to store; a stored image has no crop and no text beside it."""
    if content.image.HasField("crop"):
        raise InvalidArgument(
            "CROP_INVALID",
            "images are stored as a whole; send the part as an image, or crop in queries",
            field=f"{where}.image.crop",
        )
    if content.image.text:
        raise InvalidArgument(
            "MODALITY_UNSUPPORTED",
            "an item is one text or one image; keep the text in a field, or send it as an item of "
            "its own",
            field=f"{where}.image.text",
            modality="image_with_text",
        )
    return content_from(content, where)


def content_from(content: content_pb2.Content, where: str) -> Content:
    """Read a text or an image."""
    match content.WhichOneof("kind"):
        case "text":
            if not content.text.strip():
                raise InvalidArgument(
                    "TEXT_EMPTY", "the text is empty or blank", field=f"{where}.text"
                )
            return Content(Kind.TEXT, content.text.encode())
        case "image":
            return _image_from(content.image, f"{where}.image")
        case _:
            raise InvalidArgument("CONTENT_MISSING", "set a text or an image", field=where)


def _image_from(image: content_pb2.Image, where: str) -> Content:
    crop = None
    if image.HasField("crop"):
        box = image.crop
        crop = Crop(box.left, box.top, box.right, box.bottom)
    if image.text and not image.text.strip():
        raise InvalidArgument("TEXT_EMPTY", "the text is blank", field=f"{where}.text")
    if image.uri:
        return Content(Kind.IMAGE, b"", crop, image.uri, image.text)
    if not image.data:
        source = image.WhichOneof("source") or "data"
        raise InvalidArgument(
            "IMAGE_EMPTY", "the image has neither bytes nor a URI", field=f"{where}.{source}"
        )
    return Content(Kind.IMAGE, image.data, crop, beside=image.text)


def vector_from(vector: content_pb2.Vector, where: str) -> FloatArray:
    """Read a vector; the caller checks its elements against the collection."""
    known = (content_pb2.ELEMENT_TYPE_UNSPECIFIED, content_pb2.ELEMENT_TYPE_FLOAT32)
    if vector.element_type not in known:
        raise InvalidArgument("VECTOR_INVALID", "element_type must be FLOAT32", field=where)
    if len(vector.data) != 4 * vector.dimensions:
        raise InvalidArgument(
            "VECTOR_INVALID",
            f"{vector.dimensions} dimensions need {4 * vector.dimensions} bytes, not "
            f"{len(vector.data)}",
            field=where,
        )
    return np.frombuffer(vector.data, dtype="<f4").astype(np.float32, copy=False)


def optional(
    message: Message, name: str, default: _Number, allowed: tuple[float, float], parent: str = ""
) -> _Number:
    """Return the number in an optional field, or `default` if the message does not set it.

    Raises InvalidArgument for a number outside `allowed`, the least and the greatest. `parent` is
    the path of the message in the request, with a dot at its end.
    """
    if not message.HasField(name):
        return default
    value = getattr(message, name)
    check_range(value, *allowed, f"{parent}{name}")
    return cast(_Number, value)


def check_range(value: float, least: float, most: float, field: str) -> None:
    """Raise InvalidArgument unless a field's value is `least` to `most`."""
    if not least <= value <= most:  # NaN fails it too
        raise out_of_range(f"it is {value}; use {least:g} to {most:g}", field)


def out_of_range(message: str, field: str) -> InvalidArgument:
    """Return the error of a field whose value is not allowed."""
    return InvalidArgument("PARAMETER_OUT_OF_RANGE", f"{field}: {message}", field=field)


def stored_name(name: str, field: str) -> str:
    """Return the stored name of what the current caller calls `name`.

    Raises InvalidArgument for a name that no caller may use; others are checked further down.
    """
    caller = current_caller()
    if caller.tenant:
        check_collection_name(name, field)
        return caller.prefix + name
    if is_of_a_tenant(name):
        raise InvalidArgument(
            "NAME_INVALID", "names that begin like tenant_x__ are kept for tenants", field=field
        )
    return name


def shown_name(name: str) -> str:
    """Return what the current caller calls its collection or alias with this stored name."""
    return name.removeprefix(current_caller().prefix)


def is_listed(name: str) -> bool:
    """Tell whether the current caller may read the collection with this stored name."""
    caller = current_caller()
    return caller.owns(name) and caller.may(Scope.READ, shown_name(name))
