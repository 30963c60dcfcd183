from __future__ import annotations

import functools
from datetime import datetime, timedelta, timezone

import numpy as np
import pytest

from sentinel_client import F, Filter, InvalidArgument
from sentinel_client._field_messages import filter_to_proto
from tests.client.fake_gateway import as_dict

VIENNA = timezone(timedelta(hours=2))


@pytest.mark.parametrize(
    ("condition", "operator", "values"),
    [
        (F("a") == "x", "EQUAL", [{"string_value": "x"}]),
        (F("a") != 1, "NOT_EQUAL", [{"int_value": "1"}]),
        (F("a") < 1.5, "LESS", [{"double_value": 1.5}]),
        (F("a") <= 2, "LESS_OR_EQUAL", [{"int_value": "2"}]),
        (F("a") > 2, "GREATER", [{"int_value": "2"}]),
        (F("a") >= 2**62, "GREATER_OR_EQUAL", [{"int_value": str(2**62)}]),
        (F("a") == True, "EQUAL", [{"bool_value": True}]),  # noqa: E712
        (F("a").isin(["x", "y"]), "IN", [{"string_value": "x"}, {"string_value": "y"}]),
        (F("a").notin([1]), "NOT_IN", [{"int_value": "1"}]),
        (F("a").startswith("p"), "PREFIX", [{"string_value": "p"}]),
        (F("a").contains("t"), "CONTAINS", [{"string_value": "t"}]),
        (
            F("a") >= datetime(2021, 7, 4, 12, 0, 0, 250_000, tzinfo=VIENNA),
            "GREATER_OR_EQUAL",
            [{"timestamp_value": "2021-07-04T10:00:00.250Z"}],
        ),
        (F("a") == np.int32(7), "EQUAL", [{"int_value": "7"}]),
    ],
)
def test_each_operator_becomes_a_typed_comparison(
    condition: Filter, operator: str, values: list[object]
) -> None:
    assert as_dict(filter_to_proto(condition)) == {
        "comparison": {"field": "a", "operator": f"OPERATOR_{operator}", "values": values}
    }


def test_exists_takes_no_value() -> None:
    assert as_dict(filter_to_proto(F("a").exists())) == {
        "comparison": {"field": "a", "operator": "OPERATOR_EXISTS"}
    }


def test_areas_are_sent_as_numbers() -> None:
    bounds = {"south": -18.5, "west": 177.0, "north": -16.0, "east": -178.0}
    assert as_dict(filter_to_proto(F("p").within(-18.5, 177, -16, -178))) == {
        "geo": {"field": "p", "bounds": bounds}
    }
    circle = {"center": {"latitude": 48.2, "longitude": 16.37}, "radius_meters": 5000.0}
    assert as_dict(filter_to_proto(F("p").near(48.2, 16.37, 5_000))) == {
        "geo": {"field": "p", "circle": circle}
    }


def test_a_time_without_a_zone_is_refused_with_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"\.astimezone\(\) if it is local time"):
        filter_to_proto(F("a") < datetime(2021, 7, 4))


def test_and_or_not_become_groups_that_do_not_nest_needlessly() -> None:
    a, b, c = (F(name).exists() for name in "abc")
    many = as_dict(filter_to_proto(a & b & c))
    assert [part["comparison"]["field"] for part in many["all_of"]["filters"]] == ["a", "b", "c"]
    mixed = as_dict(filter_to_proto((a | b) & ~c))
    assert [next(iter(part)) for part in mixed["all_of"]["filters"]] == ["any_of", "none_of"]
    assert as_dict(filter_to_proto(~(a | b))) == as_dict(filter_to_proto(~~~(a | b)))


@pytest.mark.parametrize("levels", [32, 10_000])
def test_filters_that_nest_too_deep_are_refused_as_a_server_would(levels: int) -> None:
    def nested(inner: Filter, level: int) -> Filter:
        return inner & (F("a") == level) if level % 2 else inner | (F("a") == level)

    deepest = functools.reduce(nested, range(31), F("a").exists())  # with 31 groups, 32 levels
    assert filter_to_proto(deepest).WhichOneof("kind") == "any_of"
    with pytest.raises(InvalidArgument, match="at most 32 deep") as caught:
        filter_to_proto(functools.reduce(nested, range(levels), F("a").exists()))
    assert caught.value.reason == "FILTER_INVALID"


def test_not_not_is_the_filter_itself() -> None:
    a = F("a") == 1
    assert ~~a == a


def test_python_and_or_and_chained_comparisons_are_refused() -> None:
    with pytest.raises(TypeError, match="&"):
        _ = (F("a") == 1) and (F("b") == 2)
    with pytest.raises(TypeError, match="&"):
        _ = 1 < F("a") < 3


def test_a_forgotten_parenthesis_is_refused() -> None:
    with pytest.raises(TypeError):
        _ = F("a") == 1 & F("b") == 2  # type: ignore[operator]
    with pytest.raises(TypeError, match="parentheses"):
        _ = (F("a") == 1) & True  # type: ignore[operator]


def test_values_of_unknown_types_are_refused() -> None:
    with pytest.raises(TypeError, match="str, int, float, bool"):
        filter_to_proto(F("a") == object())  # type: ignore[arg-type]


def test_isin_refuses_one_string_and_no_values() -> None:
    with pytest.raises(TypeError):
        F("a").isin("xyz")
    with pytest.raises(ValueError, match="at least one"):
        F("a").isin([])
