"""--where: times in the time zone of this machine, places, texts within strings, ~ for home."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from click.testing import CliRunner

from sentinel.search.v1 import collection_service_pb2 as collection_pb
from sentinel_client import FieldSchema, FieldType, FieldValue, GeoPoint, Item
from sentinel_client.cli import main
from sentinel_client.testing import FakeSentinel
from tests.client.fake_gateway import FakeGateway, as_dict
from tests.client.test_cli import sentinel

TYPES = collection_pb.FieldSchema


@pytest.fixture(autouse=True)
def vienna(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This machine is in Vienna: one or, in summer, two hours ahead of UTC."""
    monkeypatch.setenv("TZ", "Europe/Vienna")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def typed(gateway: FakeGateway) -> FakeGateway:
    gateway.add_collection(
        "photos",
        folder=TYPES.TYPE_STRING,
        tags=TYPES.TYPE_STRING_LIST,
        taken_at=TYPES.TYPE_TIMESTAMP,
        place=TYPES.TYPE_GEO,
    )
    return gateway


def filter_of(gateway: FakeGateway, condition: str) -> dict[str, Any]:
    result = sentinel(gateway, "search", "x", "--where", condition)
    assert result.exit_code == 0, result.output
    return as_dict(gateway.calls["Search"][0].params.filter)


def moment(filter_: dict[str, Any]) -> tuple[str, str]:
    """The operator and the time of a comparison."""
    [value] = filter_["comparison"]["values"]
    return filter_["comparison"]["operator"].removeprefix("OPERATOR_"), value["timestamp_value"]


@pytest.mark.parametrize(
    ("condition", "operator", "value"),
    [
        ("taken_at>=2021-07-04", "GREATER_OR_EQUAL", "2021-07-03T22:00:00Z"),
        ("taken_at>2021-07-04", "GREATER_OR_EQUAL", "2021-07-04T22:00:00Z"),
        ("taken_at<=2021-12", "LESS", "2021-12-31T23:00:00Z"),
        ("taken_at<2021", "LESS", "2020-12-31T23:00:00Z"),
        ("taken_at>2021-07-04T18:30", "GREATER", "2021-07-04T16:30:00Z"),
        ("taken_at=2021-01-04T18:30:00.5", "EQUAL", "2021-01-04T17:30:00.500Z"),
        ("taken_at<=2021-07-04T18:30+09:00", "LESS_OR_EQUAL", "2021-07-04T09:30:00Z"),
        ("taken_at!=2021-07-04T18:30Z", "NOT_EQUAL", "2021-07-04T18:30:00Z"),
    ],
)
def test_times_are_local_unless_they_name_a_zone(
    typed: FakeGateway, condition: str, operator: str, value: str
) -> None:
    assert moment(filter_of(typed, condition)) == (operator, value)


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("2021", "2020-12-31T23:00:00Z", "2021-12-31T23:00:00Z"),
        ("2021-03", "2021-02-28T23:00:00Z", "2021-03-31T22:00:00Z"),  # summer begins
        ("2021-12", "2021-11-30T23:00:00Z", "2021-12-31T23:00:00Z"),
        ("2020-02-29", "2020-02-28T23:00:00Z", "2020-02-29T23:00:00Z"),
    ],
)
def test_equal_to_a_year_month_or_day_is_any_time_in_it(
    typed: FakeGateway, text: str, start: str, end: str
) -> None:
    wanted = [("GREATER_OR_EQUAL", start), ("LESS", end)]
    both = filter_of(typed, f"taken_at={text}")
    assert list(map(moment, both["all_of"]["filters"])) == wanted
    typed.calls.clear()
    [neither] = filter_of(typed, f"taken_at!={text}")["none_of"]["filters"]
    assert list(map(moment, neither["all_of"]["filters"])) == wanted


def test_near_and_within(typed: FakeGateway) -> None:
    near = filter_of(typed, "place ~ 48.2, 16.37, 5 km")
    circle = {"center": {"latitude": 48.2, "longitude": 16.37}, "radius_meters": 5_000.0}
    assert near == {"geo": {"field": "place", "circle": circle}}
    typed.calls.clear()
    within = filter_of(typed, "place~-18,177,-16,-178.5")
    bounds = {"south": -18.0, "west": 177.0, "north": -16.0, "east": -178.5}
    assert within == {"geo": {"field": "place", "bounds": bounds}}


@pytest.mark.parametrize(
    ("condition", "operator", "value"),
    [
        ("folder^=~/Pictures/2021", "PREFIX", "/home/me/Pictures/2021"),
        ("folder=~", "EQUAL", "/home/me"),
        ("folder!=~/a", "NOT_EQUAL", "/home/me/a"),
        ("folder^=~you/a", "PREFIX", "~you/a"),
        ("folder*=~/a", "CONTAINS", "~/a"),
        ("folder *= 2021_", "CONTAINS", "2021_"),
        ("tags*=sea", "CONTAINS", "sea"),
    ],
)
def test_texts_and_the_home_folder(
    typed: FakeGateway,
    monkeypatch: pytest.MonkeyPatch,
    condition: str,
    operator: str,
    value: str,
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    comparison = filter_of(typed, condition)["comparison"]
    assert comparison["operator"] == f"OPERATOR_{operator}"
    assert comparison["values"] == [{"string_value": value}]


@pytest.mark.parametrize(
    ("condition", "complaint"),
    [
        ("taken_at>=soon", "'soon' is not a time such as 2021, 2021-07, 2021-07-04 or"),
        ("taken_at=2021-13", "'2021-13' is not a time"),
        ("taken_at=9999", "'9999' is not a time"),
        ("taken_at^=2021", "^= (begins with) is for strings; taken_at is timestamp"),
        ("place=48,16", "place is a place: write place~48.2,16.37,5km"),
        ("place~48,16", "'48,16' is not a place such as 48.2,16.37,5km or SOUTH,WEST,NORTH,EAST"),
        ("place~48,16,5", "'48,16,5' is not a place"),
        ("place~48,16,5 leagues", "is not a place"),
        ("folder~48,16,5km", "~ (near) is for places; folder is string"),
    ],
)
def test_a_wrong_condition_says_what_to_write(
    typed: FakeGateway, condition: str, complaint: str
) -> None:
    result = sentinel(typed, "search", "x", "--where", condition)
    assert result.exit_code == 2
    assert complaint in result.stderr
    assert not typed.calls["Search"]


def test_json_writes_times_as_iso_8601_and_places_as_objects() -> None:
    fields = [FieldSchema("taken_at", FieldType.TIMESTAMP), FieldSchema("place", FieldType.GEO)]
    values: dict[str, FieldValue] = {
        "taken_at": datetime(2021, 7, 4, 16, 30, 0, 250_000, UTC),
        "place": GeoPoint(48.2, 16.37),
    }
    with FakeSentinel() as client:
        client.create_collection("photos", fields)
        client.upsert([Item(id="a", text="x", fields=values)], collection="photos")
        for command in (["search", "x"], ["items", "list"]):
            shown = CliRunner().invoke(
                main, ["--address", client.address, *command, "--json"], catch_exceptions=False
            )
            assert json.loads(shown.stdout.splitlines()[0])["fields"] == {
                "taken_at": "2021-07-04T16:30:00.250000Z",
                "place": {"latitude": 48.2, "longitude": 16.37},
            }
