"""Filters as Python expressions: `(F("year") >= 2020) & ~F("tags").contains("draft")`.

Values are sent as typed messages, not as part of a string, so no value can change the filter.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class GeoPoint:
    """A place on Earth, in degrees of WGS 84.

    Attributes:
        latitude: Degrees north of the equator, -90 to 90.
        longitude: Degrees east of Greenwich, -180 to 180.
    """

    latitude: float
    longitude: float


# A datetime has a time zone; the gateway keeps it to the microsecond and sends it back in UTC.
FieldValue: TypeAlias = str | int | float | bool | list[str] | datetime | GeoPoint
Scalar: TypeAlias = str | int | float | bool | datetime


class Filter:
    """A condition on the fields of an item. Create it with `F`, combine with `&`, `|` and `~`."""

    __slots__ = ()

    def __and__(self, other: Filter) -> Filter:
        return _join("all_of", self, other)

    def __or__(self, other: Filter) -> Filter:
        return _join("any_of", self, other)

    def __invert__(self) -> Filter:
        if isinstance(self, Group):
            if self.kind == "any_of":
                return Group("none_of", self.filters)
            if self.kind == "none_of":
                return self.filters[0] if len(self.filters) == 1 else Group("any_of", self.filters)
        return Group("none_of", (self,))

    def __bool__(self) -> bool:
        # `a and b` would silently drop `a`; `1 < F("x") < 3` contains such an `and`.
        raise TypeError("combine filters with &, | and ~, each comparison in parentheses")


@dataclass(frozen=True, slots=True)
class Comparison(Filter):
    """A comparison of one field with values; `operator` is the contract's name."""

    field: str
    operator: str
    values: tuple[Scalar, ...] = ()


@dataclass(frozen=True, slots=True)
class Within(Filter):
    """A place between two latitudes and two longitudes, in degrees."""

    field: str
    south: float
    west: float
    north: float
    east: float


@dataclass(frozen=True, slots=True)
class Near(Filter):
    """A place at most `meters` from a point."""

    field: str
    center: GeoPoint
    meters: float


@dataclass(frozen=True, slots=True)
class Group(Filter):
    """Several filters; `kind` is the contract's name: all_of, any_of or none_of."""

    kind: str
    filters: tuple[Filter, ...]


class F:
    """A declared field to compare: `F("year") >= 2020`.

    An item without the field matches `!=` and `notin`, and no other comparison.
    """

    __slots__ = ("_name",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, name: str) -> None:
        self._name = name

    def __eq__(self, value: Scalar) -> Filter:  # type: ignore[override]
        return self._compare("EQUAL", value)

    def __ne__(self, value: Scalar) -> Filter:  # type: ignore[override]
        return self._compare("NOT_EQUAL", value)

    def __lt__(self, value: Scalar) -> Filter:
        return self._compare("LESS", value)

    def __le__(self, value: Scalar) -> Filter:
        return self._compare("LESS_OR_EQUAL", value)

    def __gt__(self, value: Scalar) -> Filter:
        return self._compare("GREATER", value)

    def __ge__(self, value: Scalar) -> Filter:
        return self._compare("GREATER_OR_EQUAL", value)

    def isin(self, values: Iterable[Scalar]) -> Filter:
        """Match items whose field equals any of `values`."""
        return self._compare("IN", *_several(values))

    def notin(self, values: Iterable[Scalar]) -> Filter:
        """Match items whose field equals none of `values` or is missing."""
        return self._compare("NOT_IN", *_several(values))

    def startswith(self, prefix: str) -> Filter:
        """Match items whose string begins with `prefix`."""
        return self._compare("PREFIX", prefix)

    def exists(self) -> Filter:
        """Match items that have the field."""
        return self._compare("EXISTS")

    def contains(self, value: str) -> Filter:
        """Match items whose string contains the text `value`, or whose list has it as an element.

        Upper and lower case differ.
        """
        return self._compare("CONTAINS", value)

    def within(self, south: float, west: float, north: float, east: float) -> Filter:
        """Match items whose place lies between two latitudes and two longitudes, in degrees.

        With `east` less than `west`, the area crosses the 180th meridian.
        """
        return Within(self._name, south, west, north, east)

    def near(self, latitude: float, longitude: float, meters: float) -> Filter:
        """Match items whose place is at most `meters` from a point, to 2 % of the distance."""
        return Near(self._name, GeoPoint(latitude, longitude), meters)

    def _compare(self, operator: str, *values: Scalar) -> Filter:
        return Comparison(self._name, operator, values)

    def __repr__(self) -> str:
        return f"F({self._name!r})"


def _several(values: Iterable[Scalar]) -> tuple[Scalar, ...]:
    if isinstance(values, str):
        raise TypeError("give a list of values, not one string")
    listed = tuple(values)
    if not listed:
        raise ValueError("give at least one value")
    return listed


def _join(kind: str, left: Filter, right: Filter) -> Filter:
    """Join into one flat group, because the contract allows only 32 levels of nesting."""
    if not isinstance(right, Filter):
        raise TypeError(f"{right!r} is not a filter; put each comparison in parentheses")
    parts: list[Filter] = []
    for part in (left, right):
        if isinstance(part, Group) and part.kind == kind:
            parts.extend(part.filters)
        else:
            parts.append(part)
    return Group(kind, tuple(parts))
