from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from sentinel_core.errors import InvalidArgument
from sentinel_store.milvus.field_columns import checked_value
from sentinel_store.milvus.schema import check_names
from sentinel_store.values import FieldType, GeoPoint

A_TIME = "a point in time with a time zone, of the years 1 to 9999"
A_PLACE = "a place: a latitude of -90 to 90 and a longitude of -180 to 180 degrees"


@pytest.mark.parametrize(
    ("value", "field_type", "message"),
    [
        (2**63 - 1, FieldType.INT64, ""),
        ("x", FieldType.INT64, "a whole number above -2^63 + 1 and below 2^63 (int64), not 'x'"),
        (
            2**63,
            FieldType.INT64,
            f"a whole number above -2^63 + 1 and below 2^63 (int64), not {2**63}",
        ),
        (float("inf"), FieldType.DOUBLE, "a finite number (double), not inf"),
        (float("nan"), FieldType.DOUBLE, "a finite number (double), not nan"),
        (10**400, FieldType.DOUBLE, f"a finite number (double), not 1{'0' * 79}…"),
        (True, FieldType.DOUBLE, "a finite number (double), not True"),
        (5, FieldType.STRING, "a text (string), not 5"),
        ("yes", FieldType.BOOL, "true or false (bool), not 'yes'"),
        (1625392800, FieldType.TIMESTAMP, f"{A_TIME} (timestamp), not 1625392800"),
        (
            datetime(2021, 7, 4),
            FieldType.TIMESTAMP,
            f"{A_TIME} (timestamp), not 2021-07-04 00:00:00",
        ),
        (
            datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1))),
            FieldType.TIMESTAMP,
            f"{A_TIME} (timestamp), not 0001-01-01 00:00:00+01:00",
        ),
        (
            datetime(2021, 7, 4, tzinfo=UTC),
            FieldType.INT64,
            "a whole number above -2^63 + 1 and below 2^63 (int64), not 2021-07-04 00:00:00+00:00",
        ),
        (GeoPoint(90.5, 0), FieldType.GEO, f"{A_PLACE} (geo), not 90.5, 0"),
        (GeoPoint(0, float("nan")), FieldType.GEO, f"{A_PLACE} (geo), not 0, nan"),
        (GeoPoint(-90, 180), FieldType.GEO, ""),
        ("x" * 500, FieldType.STRING_LIST, f"a list of texts (string_list), not '{'x' * 79}…"),
    ],
)
def test_a_value_of_another_type_is_told_in_plain_words(
    value: object, field_type: FieldType, message: str
) -> None:
    if not message:
        assert checked_value(value, field_type, "n", "fields[n]") == value  # type: ignore[arg-type]
        return
    with pytest.raises(InvalidArgument) as told:
        checked_value(value, field_type, "n", "fields[n]")  # type: ignore[arg-type]
    assert told.value.message == f"field 'n' takes {message}"


FIELDS = {name: FieldType.STRING for name in ("year", "title", "place")}


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("yaer", "'yaer'; did you mean 'year'? It declares: place, title, year"),
        ("Title", "'Title'; did you mean 'title'? It declares: place, title, year"),
        ("size", "'size'; it declares: place, title, year"),
        ("year" * 9, f"'{'year' * 9}'; it declares: place, title, year"),
    ],
)
def test_a_field_that_is_not_declared_is_told_with_the_closest_one(name: str, told: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        check_names([name], FIELDS, "filter")
    assert refused.value.message == f"the collection does not declare field {told}"
