"""The filters of --where: `FIELD OP VALUE`, read as the field's declared type.

path^=~/Pictures       begins with; ~ is the home folder
folder*=2021           contains this text; of a list: has this element
taken_at>=2021-07-04   from that day on; `taken_at=2021-07` is any time in that month
place~48.2,16.37,5km   at most 5 km from there; of four numbers: SOUTH,WEST,NORTH,EAST
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import reduce
from typing import TypeAlias

import click

from sentinel_client import Collection, F, FieldType, Filter
from sentinel_client._filters import Scalar

HELP = (
    "Only items whose field matches, for example 'taken_at>=2021-07', 'folder^=~/Pictures' or "
    "'place~48.2,16.37,5km'; OP is = != < <= > >= ^= (begins with) *= (contains) ~ (near). A date "
    "or time without a zone is in your time zone. Repeatable."
)

_CONDITION = re.compile(r"\s*(\w+)\s*(!=|<=|>=|\^=|\*=|=|<|>|~)\s*(.*?)\s*", re.DOTALL)
_OPERATORS: dict[str, Callable[[F, Scalar], Filter]] = {
    "=": lambda field, value: field == value,
    "!=": lambda field, value: field != value,
    "<": lambda field, value: field < value,
    "<=": lambda field, value: field <= value,
    ">": lambda field, value: field > value,
    ">=": lambda field, value: field >= value,
    "^=": lambda field, value: field.startswith(str(value)),
    "*=": lambda field, value: field.contains(str(value)),
}
_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_DAYS = re.compile(r"(\d{4})(?:-(\d\d))?(?:-(\d\d))?")
_RADIUS = re.compile(r"([0-9.]+)\s*(m|km|mi)")
_METERS = {"m": 1.0, "km": 1_000.0, "mi": 1_609.344}

# From the first moment to the one after the last.
_Period: TypeAlias = tuple[datetime, datetime]


def parse_filter(conditions: Sequence[str], collection: Collection) -> Filter:
    """Join one or more conditions such as `year>=2020`; raise UsageError for a wrong one."""
    return reduce(lambda a, b: a & b, [_condition(one, collection) for one in conditions])


def _condition(condition: str, collection: Collection) -> Filter:
    match = _CONDITION.fullmatch(condition)
    if match is None:
        operators = " ".join((*_OPERATORS, "~"))
        raise click.UsageError(
            f"--where {condition!r} is not FIELD OP VALUE with OP one of {operators}"
        )
    name, operator, text = match.groups()
    _check_written(name, operator, text)
    types = {schema.name: schema.type for schema in collection.fields}
    if name not in types:
        raise click.UsageError(
            f"{collection.name} has no field {name!r}; it has {', '.join(types) or 'none'}"
        )
    kind = types[name]
    _check_operator(name, operator, kind)
    try:
        if kind is FieldType.GEO:
            return _area(F(name), text)
        if kind is FieldType.TIMESTAMP:
            return _in_time(F(name), operator, text)
        if kind is FieldType.STRING_LIST:
            contains = F(name).contains(text)
            return ~contains if operator == "!=" else contains
        return _OPERATORS[operator](F(name), _value(text, kind, is_path=operator != "*="))
    except (ValueError, KeyError, OverflowError):
        raise click.UsageError(f"{name}: {text!r} is not {_MEANINGS[kind]}") from None


_MEANINGS = {
    **{kind: kind.value for kind in FieldType},
    FieldType.TIMESTAMP: "a time such as 2021, 2021-07, 2021-07-04 or 2021-07-04T18:30+02:00",
    FieldType.GEO: "a place such as 48.2,16.37,5km or SOUTH,WEST,NORTH,EAST",
}


def _check_written(name: str, operator: str, text: str) -> None:
    """Raise UsageError for a condition of another language, which would find nothing here."""
    if operator == "=" and text.startswith("="):
        raise click.UsageError(f"--where: write {name}={text[1:].strip()}, with one =")
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        raise click.UsageError(
            f"--where: write {name}{operator}{text[1:-1]}, without quotes around the value"
        )


def _check_operator(name: str, operator: str, kind: FieldType) -> None:
    """Raise UsageError if the type of a field does not have an operator."""
    if kind is FieldType.STRING_LIST and operator not in ("=", "!=", "*="):
        raise click.UsageError(f"{name} is a list of strings: only = *= (contains) and != work")
    if (kind is FieldType.GEO) != (operator == "~"):
        raise click.UsageError(
            f"{name} is a place: write {name}~48.2,16.37,5km"
            if kind is FieldType.GEO
            else f"~ (near) is for places; {name} is {kind.value}"
        )
    is_text = kind in (FieldType.STRING, FieldType.STRING_LIST)
    if operator in ("^=", "*=") and not is_text:
        meaning = "begins with" if operator == "^=" else "contains"
        raise click.UsageError(f"{operator} ({meaning}) is for strings; {name} is {kind.value}")


def _area(field: F, text: str) -> Filter:
    parts = [one.strip() for one in text.split(",")]
    if len(parts) == 4:
        south, west, north, east = map(float, parts)
        return field.within(south, west, north, east)
    latitude, longitude, radius = parts
    match = _RADIUS.fullmatch(radius)
    if match is None:
        raise ValueError(text)
    return field.near(float(latitude), float(longitude), float(match[1]) * _METERS[match[2]])


def _in_time(field: F, operator: str, text: str) -> Filter:
    """Compare with a moment, or with all of a year, a month or a day."""
    period = _period(text)
    if period is None:
        # Without a zone: that of this machine, as it was then.
        return _OPERATORS[operator](field, datetime.fromisoformat(text).astimezone())
    start, end = period
    within = (field >= start) & (field < end)
    return {
        "=": within,
        "!=": ~within,
        "<": field < start,
        "<=": field < end,
        ">": field >= end,
        ">=": field >= start,
    }[operator]


def _period(text: str) -> _Period | None:
    """Return the year, the month or the day that a text names; None: it is something else."""
    match = _DAYS.fullmatch(text)
    if match is None:
        return None
    year, month, day = (int(part or 0) for part in match.groups())
    start = datetime(year, month or 1, day or 1)
    if day:
        end = start + timedelta(days=1)
    elif month:
        end = (start + timedelta(days=31)).replace(day=1)
    else:
        end = start.replace(year=year + 1)
    return start.astimezone(), end.astimezone()


def _value(text: str, kind: FieldType, *, is_path: bool) -> Scalar:
    if kind is FieldType.INT64:
        try:
            number = int(text.replace("_", ""))
        except ValueError:
            # Times are stored as seconds since 1970, for `modified_at>=2024-06-01`.
            return int(datetime.fromisoformat(text).timestamp())
        if not -(2**63) <= number < 2**63:
            raise ValueError(text)
        return number
    if kind is FieldType.DOUBLE:
        return float(text)
    if kind is FieldType.BOOL:
        return _BOOLEANS[text.lower()]
    # The shell expands it at the beginning of a word only.
    is_home = is_path and (text == "~" or text.startswith("~/"))
    return os.path.expanduser("~") + text[1:] if is_home else text
