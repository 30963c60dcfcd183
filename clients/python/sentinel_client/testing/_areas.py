"""Check the areas of a filter, and compare places with them by exact distance."""

from __future__ import annotations

import math
from collections.abc import Callable

from sentinel.search.v1 import filter_pb2
from sentinel_client._filters import GeoPoint

_EARTH_RADIUS_M = 6_371_008.8  # mean
_MAX_RADIUS_M = 20_100_000


def is_on_earth(latitude: float, longitude: float) -> bool:
    """Tell whether degrees are in range; NaN is not."""
    return -90 <= latitude <= 90 and -180 <= longitude <= 180


def what_is_wrong(area: filter_pb2.GeoComparison) -> str:
    """Return what is wrong with an area; empty for a good one."""
    match area.WhichOneof("area"):
        case "bounds":
            bounds = area.bounds
            corners = is_on_earth(bounds.south, bounds.west) and is_on_earth(
                bounds.north, bounds.east
            )
            good = corners and bounds.south <= bounds.north
            return "" if good else f"bounds of {area.field!r} are south <= north, in degrees"
        case "circle":
            if not area.circle.HasField("center"):
                return f"a circle around {area.field!r} needs a center"
            center = area.circle.center
            if not is_on_earth(center.latitude, center.longitude):
                return f"the center of a circle around {area.field!r} is not on Earth"
            good = 0 < area.circle.radius_meters <= _MAX_RADIUS_M
            return "" if good else f"a radius is above 0 and at most {_MAX_RADIUS_M:,} meters"
    return f"the area of {area.field!r} needs bounds or a circle"


def contains(area: filter_pb2.GeoComparison) -> Callable[[GeoPoint], bool]:
    """Return a function that says whether a place is in the area."""
    if area.WhichOneof("area") == "bounds":
        return lambda place: _in_bounds(place, area.bounds)
    center, radius = area.circle.center, area.circle.radius_meters
    return lambda place: _distance_m(place, center.latitude, center.longitude) <= radius


def _in_bounds(place: GeoPoint, bounds: filter_pb2.GeoBounds) -> bool:
    if not bounds.south <= place.latitude <= bounds.north:
        return False
    # The two numbers of the 180th meridian mean the same places.
    longitudes = (-180.0, 180.0) if abs(place.longitude) == 180 else (place.longitude,)
    if bounds.west > bounds.east:
        return any(one >= bounds.west or one <= bounds.east for one in longitudes)
    return any(bounds.west <= one <= bounds.east for one in longitudes)


def _distance_m(place: GeoPoint, latitude: float, longitude: float) -> float:
    """Return the distance along the surface of a sphere, by the haversine formula."""
    here, there = math.radians(place.latitude), math.radians(latitude)
    across = math.sin(math.radians(longitude - place.longitude) / 2) ** 2
    half = math.sin((there - here) / 2) ** 2 + math.cos(here) * math.cos(there) * across
    return 2 * _EARTH_RADIUS_M * math.asin(math.sqrt(min(1.0, half)))
