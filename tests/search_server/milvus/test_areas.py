"""Areas as rectangles, against exact distances on a sphere."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from search_server.milvus.areas import Region, region_of
from search_server.types.queries import GeoBounds, GeoCircle
from sentinel_store.values import GeoPoint

EARTH_RADIUS_M = 6_371_008.8
PLACES = 2_000

latitudes = st.floats(-90, 90) | st.sampled_from([-90.0, -89.9999, 0.0, 89.9999, 90.0])
longitudes = st.floats(-180, 180) | st.sampled_from([-180.0, -179.9999, 0.0, 179.9999, 180.0])
radii = st.floats(0, 7.304).map(lambda power: 10**power)  # one meter to all of Earth


def contains(region: Region, latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
    """Tell of each place whether it is in the region; all arrays are `[places]`."""
    inside = np.zeros(latitude.shape, bool)
    for one in region.rectangles:
        inside |= (
            (one.south <= latitude)
            & (latitude <= one.north)
            & (one.west <= longitude)
            & (longitude <= one.east)
        )
    return np.not_equal(inside, region.outside)


def places_around(
    center: GeoPoint, distances: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return places in random directions and at these distances in meters, `[places]` each."""
    angle, bearing = distances / EARTH_RADIUS_M, rng.uniform(0, 2 * math.pi, distances.shape)
    # The tangents to the north and to the east, and the normal, of the center.
    lat, lon = math.radians(center.latitude), math.radians(center.longitude)
    up = np.array([math.cos(lat) * math.cos(lon), math.cos(lat) * math.sin(lon), math.sin(lat)])
    east = np.array([-math.sin(lon), math.cos(lon), 0.0])
    north = np.cross(up, east)
    ahead = np.outer(np.cos(bearing), north) + np.outer(np.sin(bearing), east)
    x, y, z = (np.outer(np.cos(angle), up) + np.sin(angle)[:, None] * ahead).T
    return np.degrees(np.arctan2(z, np.hypot(x, y))), np.degrees(np.arctan2(y, x))


@settings(max_examples=300, deadline=None)
@given(latitude=latitudes, longitude=longitudes, radius=radii, seed=st.integers(0, 2**32 - 1))
@example(latitude=90.0, longitude=13.0, radius=500_000.0, seed=1)
@example(latitude=0.0, longitude=180.0, radius=10_007_543.4, seed=2)
@example(latitude=-90.0, longitude=0.0, radius=20_000_000.0, seed=3)
@example(latitude=89.0, longitude=-179.9, radius=111_195.0, seed=4)
@example(latitude=45.0, longitude=0.0, radius=20_100_000.0, seed=5)
def test_a_circle_is_exact_to_2_percent_of_its_radius_everywhere(
    latitude: float, longitude: float, radius: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    center = GeoPoint(latitude, longitude)
    region = region_of(GeoCircle(center, radius))
    assert len(region.rectangles) <= 100
    farthest = math.pi * EARTH_RADIUS_M
    near = rng.uniform(0, 0.98 * radius, PLACES)
    near[:2] = 0.0, 0.98 * radius
    assert contains(region, *places_around(center, near[near < farthest], rng)).all()
    if radius * 1.02 < farthest:
        far = rng.uniform(1.02 * radius, min(1.2 * radius, farthest), PLACES)
        assert not contains(region, *places_around(center, far, rng)).any()
        everywhere = rng.uniform(1.02 * radius, farthest, PLACES)
        assert not contains(region, *places_around(center, everywhere, rng)).any()


@pytest.mark.parametrize("radius", [1e-9, 0.001, 0.5])
def test_even_a_tiny_circle_holds_its_center(radius: float) -> None:
    region = region_of(GeoCircle(GeoPoint(48.208_493, 16.373_118), radius))
    latitude, longitude = np.array([48.208_493, 48.208_5]), np.array([16.373_118, 16.373_118])
    assert list(contains(region, latitude, longitude)) == [True, False]


def test_an_ordinary_circle_needs_few_rectangles() -> None:
    region = region_of(GeoCircle(GeoPoint(48.2, 16.37), 5_000))
    assert len(region.rectangles) <= 14


@pytest.mark.parametrize(
    ("bounds", "inside", "outside"),
    [
        (GeoBounds(-20, 170, -10, -170), [(-15, 175), (-15, -175), (-15, 180), (-10, -170)],
         [(-15, 0), (-15, 169.9), (-15, -169.9), (-21, 175)]),
        (GeoBounds(0, 170, 10, 180), [(5, 175), (5, 180), (5, -180)], [(5, -179.9)]),
        (GeoBounds(0, -180, 10, -170), [(5, -175), (5, 180)], [(5, 179.9)]),
        (GeoBounds(-90, -180, 90, 180), [(90, 0), (-90, 180), (0, -180)], []),
        (GeoBounds(1, 2, 1, 2), [(1, 2)], [(1, 2.000001)]),
    ],
)  # fmt: skip
def test_bounds_hold_their_border_also_at_the_180th_meridian(
    bounds: GeoBounds, inside: list[tuple[float, float]], outside: list[tuple[float, float]]
) -> None:
    region = region_of(bounds)
    for wanted, places in ((True, inside), (False, outside)):
        for latitude, longitude in places:
            found = contains(region, np.array([latitude]), np.array([longitude]))
            assert bool(found[0]) is wanted, (latitude, longitude)
