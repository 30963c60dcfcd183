"""`--where 'year>=2020'`: one comparison, its value read as the field's declared type."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import reduce

import click

from sentinel_client._filters import F, Filter, Scalar
from sentinel_client._types import Collection, FieldType

_PATTERN = re.compile(r"\s*(\w+)\s*(!=|<=|>=|\^=|=|<|>)\s*(.*?)\s*", re.DOTALL)

_OPERATORS: dict[str, Callable[[F, Scalar], Filter]] = {
    "=": lambda field, value: field == value,
    "!=": lambda field, value: field != value,
    "<": lambda field, value: field < value,
    "<=": lambda field, value: field <= value,
    ">": lambda field, value: field > value,
    ">=": lambda field, value: field >= value,
    "^=": lambda field, value: field.startswith(str(value)),
}
_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def where(conditions: Sequence[str], collection: Collection) -> Filter:
    """Return the filter that all `conditions` make together; there must be at least one.

    Raises:
        click.UsageError: One cannot be read, or names a field that is not declared.
    """
    return reduce(lambda a, b: a & b, [_comparison(one, collection) for one in conditions])


def _comparison(condition: str, collection: Collection) -> Filter:
    match = _PATTERN.fullmatch(condition)
    if match is None:
        raise click.UsageError(
            f"--where {condition!r} is not FIELD OP VALUE with OP one of {' '.join(_OPERATORS)}"
        )
    name, operator, text = match.groups()
    types = {schema.name: schema.type for schema in collection.fields}
    if name not in types:
        raise click.UsageError(
            f"{collection.name} has no field {name!r}; it has {', '.join(types) or 'none'}"
        )
    if types[name] is FieldType.STRING_LIST:
        if operator not in ("=", "!="):
            raise click.UsageError(f"{name} is a list of strings: only = (contains) and != work")
        contains = F(name).contains(text)
        return contains if operator == "=" else ~contains
    if operator == "^=" and types[name] is not FieldType.STRING:
        raise click.UsageError(f"^= (begins with) is for strings; {name} is {types[name].value}")
    try:
        value = _value(text, types[name])
    except (ValueError, KeyError):
        raise click.UsageError(f"{text!r} is not {types[name].value}, as {name} is") from None
    return _OPERATORS[operator](F(name), value)


def _value(text: str, kind: FieldType) -> Scalar:
    if kind is FieldType.INT64:
        try:
            return int(text.replace("_", ""))
        except ValueError:
            # Times are kept as seconds since 1970: `modified_at>=2024-06-01` is meant so.
            return int(datetime.fromisoformat(text).timestamp())
    if kind is FieldType.DOUBLE:
        return float(text)
    if kind is FieldType.BOOL:
        return _TRUTH[text.lower()]
    return text
