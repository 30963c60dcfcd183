"""What our script asks for: terms and filters as JSON, turned into a query and a filter."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import reduce
from operator import add, and_
from typing import Any

from sentinel_app.library import Library
from sentinel_app.pictures import query_image
from sentinel_app.uploads import MAX_IMAGE_BYTES
from sentinel_app.web import Refused
from sentinel_client import Box, Collection, F, FieldSchema, FieldType, Filter, Q

# The limits of the contract, and of one message with all images of a search.
_MAX_TERMS = 16
_MAX_IMAGES_BYTES = 3 * MAX_IMAGE_BYTES
_MAX_FILTERS = 32
_MAX_CHARS = 20_000
_OPERATORS = {
    "is": F.__eq__,
    "not": F.__ne__,
    "lt": F.__lt__,
    "le": F.__le__,
    "gt": F.__gt__,
    "ge": F.__ge__,
    "contains": F.contains,
    "starts": F.startswith,
}


async def query_of(library: Library, terms: Any) -> Q | None:
    """Return the weighted sum of the terms; None if there are none.

    Each is `{"kind", "value", "weight", "crop"}`, of the kind text, item or image.
    """
    if not isinstance(terms, list) or len(terms) > _MAX_TERMS:
        raise Refused(400, f"A search has at most {_MAX_TERMS} terms.")
    parts: list[Q] = []
    image_bytes = 0
    for term in terms:
        if not isinstance(term, dict):
            raise Refused(400, "A term is an object.")
        part, size = await _term(library, term)
        image_bytes += size
        if image_bytes > _MAX_IMAGES_BYTES:
            raise Refused(413, "The pictures of this search are too large together.")
        weight = _number(term.get("weight", 1.0))
        parts.append(part if weight == 1.0 else weight * part)
    return reduce(add, parts) if parts else None


async def _term(library: Library, term: Mapping[str, Any]) -> tuple[Q, int]:
    """Return the query of a term, and the bytes of its image."""
    kind, value = term.get("kind"), term.get("value")
    if not isinstance(value, str) or not value.strip() or len(value) > _MAX_CHARS:
        raise Refused(400, "A term has a value.")
    if kind == "text":
        return Q(value.strip()), 0
    if kind == "item":
        return Q(item_id=value), 0
    if kind == "image":
        data = await query_image(library, value)
        return Q(image=data, crop=_box(term.get("crop"))), len(data)
    raise Refused(400, "A term is a text, an item or an image.")


def _box(crop: Any) -> Box | None:
    if crop is None:
        return None
    if not isinstance(crop, list) or len(crop) != 4:
        raise Refused(400, "A crop has four numbers.")
    left, top, right, bottom = map(_number, crop)
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise Refused(400, "A crop lies inside the picture.")
    return Box(left, top, right, bottom)


def filter_of(collection: Collection, filters: Any) -> Filter | None:
    """Return the conjunction of `[field, operator, value]` triples; None if there are none."""
    if not isinstance(filters, list) or len(filters) > _MAX_FILTERS:
        raise Refused(400, f"A search has at most {_MAX_FILTERS} filters.")
    schemas = {schema.name: schema for schema in collection.fields}
    parts = [_comparison(schemas, one) for one in filters]
    return reduce(and_, parts) if parts else None


def _comparison(schemas: Mapping[str, FieldSchema], found: Any) -> Filter:
    if not isinstance(found, list) or len(found) != 3 or not all(isinstance(x, str) for x in found):
        raise Refused(400, "A filter has a field, an operator and a value.")
    name, operator, value = found
    schema = schemas.get(name)
    if schema is None:
        raise Refused(400, f"This collection has no field {name!r}.", "FILTER")
    field = F(name)
    if operator == "known":
        return field.exists()
    if operator == "near" and schema.type is FieldType.GEO:
        latitude, longitude, meters = (_number(part) for part in _parts(value, 3))
        return field.near(latitude, longitude, meters)
    if operator == "within" and schema.type is FieldType.GEO:
        south, west, north, east = (_number(part) for part in _parts(value, 4))
        return field.within(south, west, north, east)
    compare = _OPERATORS.get(operator)
    if compare is None or schema.type is FieldType.GEO:
        raise Refused(400, f"The filter of {name!r} has no operator {operator!r}.", "FILTER")
    return compare(field, _value(schema, value))


def _value(schema: FieldSchema, value: str) -> Any:
    if is_time(schema):
        moment = time_of(value)
        return moment if schema.type is FieldType.TIMESTAMP else int(moment.timestamp())
    if schema.type is FieldType.INT64:
        number = math.floor(_number(value))
        whole = int(value) if value.strip().lstrip("-").isdecimal() else number
        if not -(2**63) <= whole < 2**63:
            raise Refused(400, f"{value[:40]!r} is too large a number.", "FILTER")
        return whole
    if schema.type is FieldType.DOUBLE:
        return _number(value)
    if schema.type is FieldType.BOOL:
        return value == "yes"
    return value


def is_time(schema: FieldSchema) -> bool:
    """Return whether a field holds points in time: as such, or as seconds since 1970."""
    is_seconds = schema.type is FieldType.INT64 and schema.name.endswith("_at")
    return schema.type is FieldType.TIMESTAMP or is_seconds


def time_of(text: str) -> datetime:
    """Return a point in time from ISO 8601; without a time zone it is in UTC."""
    try:
        moment = datetime.fromisoformat(text)
        aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return aware.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise Refused(400, f"{text[:40]!r} is no date.", "FILTER") from error


def _parts(value: str, count: int) -> list[str]:
    parts = value.split(",")
    if len(parts) != count:
        raise Refused(400, f"A place needs {count} numbers.", "FILTER")
    return parts


def _number(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise Refused(400, f"{str(value)[:40]!r} is no number.", "FILTER") from error
    if not math.isfinite(number):
        raise Refused(400, "A number is finite.", "FILTER")
    return number
