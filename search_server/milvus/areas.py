"""Areas on Earth as plain comparisons of two columns, which every Milvus understands.

An area becomes rectangles between two latitudes and two longitudes. For a circle they are nested:
the widest has the least height, and so on to the narrowest, which reaches its most northern and
southern points. Together they cover a circle with 98 % of the radius and lie in one with 102 %; the
steps of their outline go back and forth between the two. About 13 rectangles are enough.

A circle is a spherical cap. At latitude `lat` it reaches `width` east and west of the meridian of
its center:

    sin²(width / 2) = (sin²(radius / 2) - sin²((lat - center) / 2)) / (cos lat · cos center)

Toward the most northern and southern points of the cap the width shrinks. If the cap holds a pole,
it is 180° there. So for every width, the latitudes where the cap is at least as wide are one
interval. That is true up to a quarter of the globe's circumference; a larger cap is what a smaller
one around the opposite point leaves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from search_server.types.queries import GeoBounds, GeoCircle

_EARTH_RADIUS_M = 6_371_008.8  # mean
# Degrees in double precision are too coarse for the tolerance of a smaller one.
_LEAST_RADIUS_M = 0.001
_MOST_STEPS = 64
# The contract promises 2 %.
_TOLERANCE = 0.0195
_QUARTER = math.pi / 2


@dataclass(frozen=True, slots=True)
class Rectangle:
    """An area in degrees, its border included; `west` is at most `east`."""

    south: float
    west: float
    north: float
    east: float


@dataclass(frozen=True, slots=True)
class Region:
    """The union of rectangles, or with `outside` all places that are in none of them."""

    rectangles: tuple[Rectangle, ...]
    outside: bool = False


def region_of(area: GeoBounds | GeoCircle) -> Region:
    """Return an area, whose numbers are in range, as rectangles."""
    if isinstance(area, GeoBounds):
        return Region(tuple(_between(area.south, area.west, area.north, area.east)))
    radius = max(area.radius_m, _LEAST_RADIUS_M) / _EARTH_RADIUS_M
    latitude, longitude = math.radians(area.center.latitude), area.center.longitude
    if radius <= _QUARTER:
        return Region(_circle(latitude, longitude, radius, radius * _TOLERANCE))
    opposite = longitude - 180 if longitude > 0 else longitude + 180
    left = math.pi - radius
    tolerance = min(left, radius * _TOLERANCE) if left > 0 else 0.0
    rectangles = _circle(-latitude, opposite, left, tolerance) if left > 0 else ()
    return Region(rectangles, outside=True)


def _between(south: float, west: float, north: float, east: float) -> list[Rectangle]:
    """Return the rectangles of an area that may cross the 180th meridian."""
    if west > east:
        return [Rectangle(south, west, north, 180.0), Rectangle(south, -180.0, north, east)]
    parts = [Rectangle(south, west, north, east)]
    # The two numbers of that meridian mean the same places.
    if east == 180 and west > -180:
        parts.append(Rectangle(south, -180.0, north, -180.0))
    if west == -180 and east < 180:
        parts.append(Rectangle(south, 180.0, north, 180.0))
    return parts


def _circle(
    latitude: float, longitude: float, radius: float, tolerance: float
) -> tuple[Rectangle, ...]:
    """Return rectangles between the circles of `radius` minus and plus `tolerance`.

    `latitude`, `radius` and `tolerance` are in radians, `longitude` is in degrees.
    """
    cap = _Cap(abs(latitude), radius - tolerance)  # what must be covered
    limit = _Cap(abs(latitude), radius + tolerance)  # what must not be left
    rectangles: list[Rectangle] = []
    width = cap.widest
    for _ in range(_MOST_STEPS):
        low, high = limit.latitudes(width)
        south, north = math.degrees(low), math.degrees(high)
        if latitude < 0:
            south, north = -north, -south
        rectangles += _around(south, north, longitude, math.degrees(width))
        left = [cap.width(low)] if low > cap.south else []
        if high < cap.north:
            left.append(cap.width(high))
        if not left:
            break
        width = max(left)
    return tuple(rectangles)


def _around(south: float, north: float, longitude: float, width: float) -> list[Rectangle]:
    """Return the rectangles `width` degrees east and west of a meridian."""
    if width >= 180:
        return [Rectangle(south, -180.0, north, 180.0)]
    west, east = longitude - width, longitude + width
    return _between(
        south, west + 360 if west < -180 else west, north, east - 360 if east > 180 else east
    )


@dataclass(frozen=True, slots=True)
class _Cap:
    """The part of a sphere within `radius` of a point on the northern half; all in radians."""

    latitude: float
    radius: float

    @property
    def south(self) -> float:
        """Its least latitude; one beyond the pole if it holds the South Pole."""
        return self.latitude - self.radius

    @property
    def north(self) -> float:
        """Its greatest latitude."""
        return min(self.latitude + self.radius, _QUARTER)

    @property
    def widest(self) -> float:
        """How far it reaches east and west at most."""
        if self.latitude + self.radius >= _QUARTER:
            return math.pi
        return math.asin(min(1.0, math.sin(self.radius) / math.cos(self.latitude)))

    def width(self, latitude: float) -> float:
        """Return how far it reaches east and west at a latitude."""
        above = math.sin(self.radius / 2) ** 2 - math.sin((latitude - self.latitude) / 2) ** 2
        if above <= 0:
            return 0.0
        below = math.cos(latitude) * math.cos(self.latitude)
        return math.pi if above >= below else 2 * math.asin(math.sqrt(above / below))

    def latitudes(self, width: float) -> tuple[float, float]:
        """Return between which latitudes it reaches at least `width` east and west."""
        # Along the meridian at that distance, it reaches `height` to both sides of `middle`.
        cosine = math.cos(self.latitude)
        middle = math.atan2(math.sin(self.latitude), cosine * math.cos(width))
        left = math.sin(self.radius) ** 2 - (cosine * math.sin(width)) ** 2
        height = math.atan2(math.sqrt(max(0.0, left)), math.cos(self.radius))
        return max(middle - height, -_QUARTER), min(middle + height, _QUARTER)
