"""Compile typed filters to Milvus expressions, and check their fields and values.

Every declared scalar field has a Milvus column. An absent value is stored there as a marker that
callers may not use (sentinel_store/milvus/schema.py). Milvus versions disagree about null, about
missing JSON keys under `not`, about the escaping of LIKE and about `exists`. They agree on `==`,
`!=`, `<`, `in`, `and`, `or` over plain columns. So expressions use nothing else: negation is pushed
down to the comparisons, a prefix is a range of code points, and an area is a union of rectangles.

Only a text within a string needs LIKE. Milvus 2.3 has it for prefixes alone and refuses others
(`milvus/errors.py` says so); Lite and newer servers take a backslash before `%`, `_` and itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from search_server.milvus.areas import Rectangle, region_of
from search_server.types.items import ItemIds, Selector
from search_server.types.queries import (
    Comparison,
    Filter,
    GeoComparison,
    Group,
    Junction,
    Operator,
)
from sentinel_core.errors import InvalidArgument
from sentinel_store.milvus import field_columns, schema
from sentinel_store.values import FieldType, FieldValue

_ORDERED = {Operator.LESS, Operator.LESS_OR_EQUAL, Operator.GREATER, Operator.GREATER_OR_EQUAL}
_EQUALITY = {Operator.EQUAL, Operator.NOT_EQUAL, Operator.IN, Operator.NOT_IN}
OPERATORS_OF: dict[FieldType, set[Operator]] = {
    FieldType.STRING: _EQUALITY | _ORDERED | {Operator.PREFIX, Operator.CONTAINS, Operator.EXISTS},
    FieldType.INT64: _EQUALITY | _ORDERED | {Operator.EXISTS},
    FieldType.DOUBLE: _EQUALITY | _ORDERED | {Operator.EXISTS},
    FieldType.BOOL: {Operator.EQUAL, Operator.NOT_EQUAL, Operator.EXISTS},
    FieldType.STRING_LIST: {Operator.LIST_CONTAINS, Operator.CONTAINS, Operator.EXISTS},
    FieldType.TIMESTAMP: _EQUALITY | _ORDERED | {Operator.EXISTS},
    FieldType.GEO: {Operator.EXISTS},
}
_OPPOSITES = {
    Operator.EQUAL: Operator.NOT_EQUAL,
    Operator.LESS: Operator.GREATER_OR_EQUAL,
    Operator.LESS_OR_EQUAL: Operator.GREATER,
    Operator.GREATER: Operator.LESS_OR_EQUAL,
    Operator.GREATER_OR_EQUAL: Operator.LESS,
    Operator.IN: Operator.NOT_IN,
}
_OPPOSITES |= {opposite: operator for operator, opposite in _OPPOSITES.items()}

_PATH = "filter"  # `compile_filter` knows the whole one
_LAST_CHAR = chr(0x10FFFF)
_WILDCARDS = str.maketrans({"\\": "\\\\", "%": "\\%", "_": "\\_"})
_BEFORE_SURROGATES, _AFTER_SURROGATES = chr(0xD7FF), chr(0xE000)


def compile_filter(
    filter_: Filter | None, fields: Mapping[str, FieldType], path: str = "filter"
) -> str:
    """Return the Milvus expression of `filter_`; empty for None.

    `path` is that of the filter in the request.

    Raises:
        InvalidArgument: A field is not declared, its type does not allow the operator or the
            value.
    """
    if filter_ is None:
        return ""
    try:
        return _compile(filter_, fields, negated=False)
    except InvalidArgument as error:
        raise error.at(path) from error


def compile_selector(selector: Selector, fields: Mapping[str, FieldType]) -> str:
    """Return the Milvus expression of ids or of a filter; errors as `compile_filter`."""
    if isinstance(selector, ItemIds):
        return schema.with_ids(selector.ids)
    return compile_filter(selector, fields)


def _compile(filter_: Filter, fields: Mapping[str, FieldType], *, negated: bool) -> str:
    if isinstance(filter_, Group):
        # De Morgan: none of (a, b) is (not a) and (not b); not all of them, (not a) or (not b).
        none = filter_.junction is Junction.NONE
        inner_negated = negated != none
        joined_by_and = (filter_.junction is Junction.ALL or none) != negated
        word = " and " if joined_by_and else " or "
        parts = (_compile(inner, fields, negated=inner_negated) for inner in filter_.filters)
        return f"({word.join(parts)})"
    if isinstance(filter_, GeoComparison):
        return _within(filter_, fields, negated=negated)
    values = _checked_values(filter_, fields)
    return _comparison(filter_, values, fields, negated=negated)


def _checked_values(comparison: Comparison, fields: Mapping[str, FieldType]) -> list[FieldValue]:
    name, operator = comparison.field, comparison.operator
    field_type = schema.type_of(name, fields, _PATH)
    if operator not in OPERATORS_OF[field_type]:
        raise InvalidArgument(
            "FIELD_TYPE",
            f"field {name!r} is a {field_type}, which does not support operator {operator}",
            field=_PATH,
            name=name,
        )
    count = len(comparison.values)
    if operator in (Operator.IN, Operator.NOT_IN):
        valid, takes = count > 0, "at least one value"
    else:
        wanted = 0 if operator is Operator.EXISTS else 1
        valid, takes = count == wanted, f"{wanted} value(s)"
    if not valid:
        raise InvalidArgument(
            "FILTER_INVALID", f"{operator} on {name!r} takes {takes}, not {count}", field=_PATH
        )
    element_type = FieldType.STRING if field_type is FieldType.STRING_LIST else field_type
    return [
        field_columns.checked_value(value, element_type, name, _PATH) for value in comparison.values
    ]


def _comparison(
    comparison: Comparison,
    values: Sequence[FieldValue],
    fields: Mapping[str, FieldType],
    *,
    negated: bool,
) -> str:
    field_type = fields[comparison.field]
    if field_type is FieldType.STRING_LIST:
        return _list_comparison(comparison, values, negated=negated)
    operator = comparison.operator
    column = field_columns.columns_of(comparison.field, field_type)[0]
    marker = schema.literal(column.absent)
    absent, present = f"{column.name} == {marker}", f"{column.name} != {marker}"
    is_any = operator in (Operator.PREFIX, Operator.CONTAINS) and not values[0]
    if operator is Operator.EXISTS or is_any:
        return absent if negated else present
    stored = [column.value_of(value) for value in values]
    if operator is Operator.PREFIX:
        matching = _prefix(column.name, str(stored[0]), negated=negated)
    elif operator is Operator.CONTAINS:
        matching = _containing(column.name, str(stored[0]), negated=negated)
    else:
        operator = _OPPOSITES[operator] if negated else operator
        matching = _plain(column.name, operator, stored)
    # An absent field matches NOT_EQUAL and NOT_IN, and the negation of any other operator.
    if (comparison.operator in (Operator.NOT_EQUAL, Operator.NOT_IN)) != negated:
        return f"({absent} or {matching})"
    return f"({present} and {matching})"


def _list_comparison(comparison: Comparison, values: Sequence[FieldValue], *, negated: bool) -> str:
    """Compile a list comparison on the JSON of all fields: lists have no column."""
    path = f'fields["{comparison.field}"]'  # declared, hence an identifier
    if comparison.operator is Operator.EXISTS:
        return f"(not (exists {path}))" if negated else f"(exists {path})"
    contains = f"(json_contains({path}, {schema.literal(str(values[0]))}))"
    if negated:
        return f"((not (exists {path})) or (not {contains}))"
    return f"((exists {path}) and {contains})"


def _within(comparison: GeoComparison, fields: Mapping[str, FieldType], *, negated: bool) -> str:
    """Compile whether a place is in an area."""
    name = comparison.field
    field_type = schema.type_of(name, fields, _PATH)
    if field_type is not FieldType.GEO:
        raise InvalidArgument(
            "FIELD_TYPE",
            f"field {name!r} is a {field_type}; an area needs a {FieldType.GEO} field",
            field=_PATH,
            name=name,
        )
    latitude, longitude = field_columns.geo_columns_of(name)
    region = region_of(comparison.area)
    inside = negated == region.outside
    parts = [_rectangle(one, latitude, longitude, inside=inside) for one in region.rectangles]
    # The marker of an absent place is far below the South Pole, outside all rectangles.
    if region.outside:
        parts.append(f"{latitude} < -90.0" if negated else f"{latitude} >= -90.0")
    return f"({(' or ' if inside else ' and ').join(parts)})"


def _rectangle(one: Rectangle, latitude: str, longitude: str, *, inside: bool) -> str:
    """Compile whether a place is in a rectangle, or outside."""
    bounds = [(latitude, ">=", one.south), (latitude, "<=", one.north)]
    if (one.west, one.east) != (-180.0, 180.0):
        bounds += [(longitude, ">=", one.west), (longitude, "<=", one.east)]
    if inside:
        word, opposites = " and ", {">=": ">=", "<=": "<="}
    else:
        word, opposites = " or ", {">=": "<", "<=": ">"}
    terms = [f"{column} {opposites[sign]} {bound!r}" for column, sign, bound in bounds]
    return f"({word.join(terms)})"


def _containing(column: str, text: str, *, negated: bool) -> str:
    escaped = text.translate(_WILDCARDS)
    matching = f"{column} like {schema.literal(f'%{escaped}%')}"
    return f"(not ({matching}))" if negated else f"({matching})"


def _plain(column: str, operator: Operator, values: Sequence[str | int | float]) -> str:
    if operator in (Operator.IN, Operator.NOT_IN):
        return f"{column} {operator} {schema.literals(values)}"
    return f"{column} {operator} {schema.literal(values[0])}"


def _prefix(column: str, prefix: str, *, negated: bool) -> str:
    end = _successor(prefix)
    if negated:
        above = f" or {column} >= {schema.literal(end)}" if end else ""
        return f"({column} < {schema.literal(prefix)}{above})"
    below = f" and {column} < {schema.literal(end)}" if end else ""
    return f"({column} >= {schema.literal(prefix)}{below})"


def _successor(prefix: str) -> str:
    """Return the least string above all that begin with `prefix`; empty if there is none."""
    head = prefix.rstrip(_LAST_CHAR)
    if not head:
        return ""
    last = head[-1]
    after = _AFTER_SURROGATES if last == _BEFORE_SURROGATES else chr(ord(last) + 1)
    return head[:-1] + after
