"""Declared fields as Milvus columns, and the checks a value passes before it becomes one.

A row keeps all its fields in one JSON column, which is what callers get back. Beside it, every
declared scalar field has a typed column of its own that filters compare: on Milvus Lite that is
25 to 50 times faster than a path into the JSON, and a server can index it. A field that an item
lacks is stored in its column as a marker value that callers may not use.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from search_server.types.values import Fields, FieldType, FieldValue
from sentinel_core.errors import InvalidArgument

# Python's int64 ends; the least one cannot be written in a Milvus expression, the next is ours.
_INT64_MAX = 2**63 - 1
_ABSENT_INT64 = -_INT64_MAX
# The least finite double, written so that every parser reads it back exactly.
_ABSENT_DOUBLE = -1.7976931348623157e308
_ABSENT_STRING = "\x7fabsent\x7f"
_ABSENT_BOOL = -1

_ABSENT: dict[FieldType, FieldValue] = {
    FieldType.STRING: _ABSENT_STRING,
    FieldType.INT64: _ABSENT_INT64,
    FieldType.DOUBLE: _ABSENT_DOUBLE,
    FieldType.BOOL: _ABSENT_BOOL,
}

# The texts of the full-text fields, which Milvus finds the words of (full_text.py).
FULL_TEXT = "full_text"


def column_of(name: str) -> str:
    """Return the column of a declared field; the prefix keeps clear of our own columns."""
    return f"f_{name}"


def absent_marker(field_type: FieldType) -> FieldValue:
    """Return what stands in the column of an item that lacks the field."""
    return _ABSENT[field_type]


def to_column(value: FieldValue, field_type: FieldType) -> FieldValue:
    """Return a checked value as its column holds it: a bool as 0 or 1, the rest as it is."""
    return int(value) if field_type is FieldType.BOOL and isinstance(value, bool) else value


def columns_of(values: Fields, fields: Mapping[str, FieldType]) -> dict[str, FieldValue]:
    """Return the columns of a row with these checked values."""
    return {
        column_of(name): to_column(values[name], field_type)
        if name in values
        else absent_marker(field_type)
        for name, field_type in fields.items()
        if field_type is not FieldType.STRING_LIST
    }


def full_text_of(values: Fields, names: Sequence[str]) -> dict[str, str]:
    """Return the full-text column of a row with these checked values: a text to a line.

    Args:
        values: The row's fields.
        names: The collection's full-text fields, which are strings; without any, there is no
            such column.
    """
    texts = [str(values[name]) for name in names if name in values]
    return {FULL_TEXT: "\n".join(texts)} if names else {}


def check_names(names: Iterable[str], fields: Mapping[str, FieldType], where: str) -> None:
    """Raise InvalidArgument if a name is not a declared field."""
    for name in names:
        type_of(name, fields, where)


def check_values(values: Fields, fields: Mapping[str, FieldType], where: str) -> None:
    """Check an item's fields in place: declared, of their type, integers widened to doubles.

    Raises:
        InvalidArgument: One is not declared or of another type.
    """
    for name, value in values.items():
        field_type = type_of(name, fields, f"{where}.fields")
        values[name] = checked(value, field_type, name)


def type_of(name: str, fields: Mapping[str, FieldType], where: str) -> FieldType:
    """Return the type of a declared field.

    Raises:
        InvalidArgument: The collection does not declare it.
    """
    if name not in fields:
        declared = ", ".join(sorted(fields)) or "none"
        raise InvalidArgument(
            "FIELD_UNKNOWN",
            f"the collection does not declare field {name[:200]!r}; it declares: {declared}",
            field=where,
            name=name[:200],
        )
    return fields[name]


def checked(value: FieldValue, field_type: FieldType, name: str) -> FieldValue:
    """Return `value` as `field_type` stores it.

    Raises:
        InvalidArgument: It is of another type.
    """
    match field_type, value:
        case FieldType.BOOL, bool():
            return value
        case ((FieldType.INT64 | FieldType.DOUBLE), bool()):
            pass  # a bool is an int to Python, not to us
        case FieldType.INT64, int() if value > _ABSENT_INT64:
            return value
        case FieldType.DOUBLE, int() | float() if value != _ABSENT_DOUBLE:
            return float(value)
        case FieldType.STRING, str() if value != _ABSENT_STRING:
            return value
        case FieldType.STRING_LIST, list():
            return value
    raise InvalidArgument(
        "FIELD_TYPE",
        f"field {name!r} is a {field_type}, which a {type(value).__name__} of this value is not",
        field=f"fields[{name}]",
        name=name,
    )
