"""Filters, compiled and run by a real Milvus, against what they mean in plain Python."""

from __future__ import annotations

import asyncio
import operator as operators
import uuid
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime
from typing import Any, TypeVar

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from search_server.milvus import filters
from search_server.milvus.areas import region_of
from search_server.milvus.search_store import SearchStore
from search_server.types.queries import (
    Comparison,
    Filter,
    GeoBounds,
    GeoCircle,
    GeoComparison,
    Group,
    Junction,
    Operator,
)
from search_server.types.searches import Selection
from sentinel_core.calls import Deadline
from sentinel_core.errors import InvalidArgument
from sentinel_store.collections import CollectionInfo, IndexKind, VectorIndex
from sentinel_store.items import Row
from sentinel_store.values import (
    Consistency,
    Fields,
    FieldType,
    FieldValue,
    GeoPoint,
    ModelRef,
)
from tests import milvus_server
from tests.search_server.milvus.test_areas import contains

T = TypeVar("T")
FIELDS = {
    "name": FieldType.STRING,
    "year": FieldType.INT64,
    "ratio": FieldType.DOUBLE,
    "ok": FieldType.BOOL,
    "tags": FieldType.STRING_LIST,
    "taken_at": FieldType.TIMESTAMP,
    "place": FieldType.GEO,
}
UNINDEXED = {"tags", "place"}
NAMES = [
    "", "a", "ab", "abc", "b", "Zürich", "日本", "日本語", 'say "hi"', "back\\slash", "100%_x",
    "tab\there", "new\nline", "cr\rhere", "\U0010ffff", "\ud7ff", "\x01", "' or 1 == 1 or '",
]  # fmt: skip
YEARS = [0, 1, -1, 2020, 2**53 + 1, 2**62 + 1, 2**63 - 1, -(2**63) + 2]
RATIOS = [0.0, 0.5, -2.25, 5.0, 1e16, 1e300, 1 / 3, -1e-9]
TAGS = ["x", "y", 'q"uote', "back\\slash"]
TIMES = [
    datetime(1, 1, 1, tzinfo=UTC), datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC),
    datetime(1970, 1, 1, tzinfo=UTC), datetime(2021, 7, 4, 12, 0, 0, 1, UTC),
    datetime(2021, 7, 4, 12, 0, 0, 2, UTC), datetime(9999, 12, 31, 23, 59, 59, 999_999, UTC),
]  # fmt: skip
PLACES = [
    GeoPoint(0.0, 0.0), GeoPoint(90.0, 0.0), GeoPoint(-90.0, 180.0), GeoPoint(-17.7, 178.1),
    GeoPoint(-13.8, -171.8), GeoPoint(48.208_49, 16.373_12), GeoPoint(48.2, 180.0),
    GeoPoint(1e-7, -1e-7),
]  # fmt: skip
AREAS: list[GeoBounds | GeoCircle] = [
    GeoBounds(-20.0, 170.0, -10.0, -170.0), GeoBounds(-90.0, -180.0, 90.0, 180.0),
    GeoBounds(48.208_49, 16.373_12, 48.208_49, 16.373_12), GeoBounds(0.0, -180.0, 90.0, -170.0),
    GeoCircle(GeoPoint(48.0, 16.0), 50_000.0), GeoCircle(GeoPoint(-89.0, 10.0), 300_000.0),
    GeoCircle(GeoPoint(-16.0, 179.9), 1_200_000.0), GeoCircle(GeoPoint(0.0, 0.0), 0.5),
    GeoCircle(GeoPoint(48.0, 16.0), 15_000_000.0), GeoCircle(GeoPoint(48.0, 16.0), 20_100_000.0),
]  # fmt: skip
COMPARE: dict[Operator, Callable[[Any, Any], bool]] = {
    Operator.EQUAL: operators.eq,
    Operator.NOT_EQUAL: operators.ne,
    Operator.LESS: operators.lt,
    Operator.LESS_OR_EQUAL: operators.le,
    Operator.GREATER: operators.gt,
    Operator.GREATER_OR_EQUAL: operators.ge,
    Operator.PREFIX: str.startswith,
    Operator.LIST_CONTAINS: operators.contains,
    Operator.CONTAINS: operators.contains,
}


def deadline() -> Deadline:
    return Deadline.after(None, default_s=30.0)


def matches(filter_: Filter, values: Fields) -> bool:
    """What a filter means."""
    if isinstance(filter_, Group):
        results = [matches(inner, values) for inner in filter_.filters]
        return {
            Junction.ALL: all(results),
            Junction.ANY: any(results),
            Junction.NONE: not any(results),
        }[filter_.junction]
    if isinstance(filter_, GeoComparison):
        place = values.get(filter_.field)
        return isinstance(place, GeoPoint) and lies_in(place, filter_.area)
    operator, value = filter_.operator, values.get(filter_.field)
    if operator is Operator.EXISTS:
        return value is not None
    if value is None:
        return operator in (Operator.NOT_EQUAL, Operator.NOT_IN)
    if operator in (Operator.IN, Operator.NOT_IN):
        return (value in filter_.values) == (operator is Operator.IN)
    return COMPARE[operator](value, filter_.values[0])


def lies_in(place: GeoPoint, area: GeoBounds | GeoCircle) -> bool:
    """Whether a place is in an area; test_areas.py tests the rectangles themselves."""
    return bool(
        contains(region_of(area), np.array([place.latitude]), np.array([place.longitude]))[0]
    )


class Table:
    """One collection of random rows in one Milvus."""

    def __init__(self, uri: str, *, indexed: bool) -> None:
        self.loop = asyncio.new_event_loop()
        self.store = self.loop.run_until_complete(self._make(uri))
        rng = np.random.default_rng(7)
        self.info = CollectionInfo(
            f"t_{uuid.uuid4().hex}",
            ModelRef("m", "r", "f"),
            4,
            FIELDS,
            indexed=tuple(set(FIELDS) - UNINDEXED) if indexed else (),
            # Its default for server and Lite alike; there is nothing near or far here.
            index=VectorIndex(IndexKind.FLAT),
        )
        self.rows: dict[str, Fields] = {}
        # A server builds no index for fewer than 1,024 rows.
        for number in range(1_100 if indexed else 120):
            fields: Fields = {
                "name": str(rng.choice(np.array(NAMES, dtype=object))),
                "year": int(rng.choice(np.array(YEARS, dtype=object))),
                "ratio": float(rng.choice(RATIOS)),
                "ok": bool(rng.integers(2)),
                "tags": [tag for tag in TAGS if rng.integers(2)],
                "taken_at": TIMES[rng.integers(len(TIMES))],
                "place": PLACES[rng.integers(len(PLACES))],
            }
            kept = {name: value for name, value in fields.items() if rng.random() < 0.75}
            self.rows[f"row{number}"] = kept
        self.run(self.store.create_collection(self.info, deadline()))
        new_rows = [
            Row(row_id, "d", "", "", fields, rng.normal(size=4).astype(np.float32))
            for row_id, fields in self.rows.items()
        ]
        self.run(self.store.upsert(self.info, new_rows, deadline()))
        if indexed and not self.store.is_lite:
            milvus_server.wait_for_indexes(uri, self.info.name)
        elif indexed:
            self.run(self.store.flush(self.info.name))

    async def _make(self, uri: str) -> SearchStore:
        return SearchStore(uri, "", 4)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def select(self, filter_: Filter) -> set[str]:
        expression = filters.compile_filter(filter_, FIELDS)
        [found] = self.run(
            self.store.vectors.search(
                Selection(self.info, expression, Consistency.SESSION, deadline()),
                [np.ones(4, np.float32)],
                limit=len(self.rows),
                include_vectors=False,
            )
        )
        return {row.id for row, _ in found}

    def close(self) -> None:
        self.run(self.store.drop_collection(self.info.name, deadline()))
        self.run(self.store.close())
        self.loop.close()


@pytest.fixture(scope="module", params=["columns", "indexed columns"])
def table(
    request: pytest.FixtureRequest, milvus_uri: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Table]:
    if milvus_uri.endswith(".db"):  # a gateway of other tests may have that one open
        milvus_uri = str(tmp_path_factory.mktemp("filters") / "milvus.db")
    made = Table(milvus_uri, indexed=request.param == "indexed columns")
    yield made
    made.close()


def comparisons() -> st.SearchStrategy[Filter]:
    def of(field: str, values: list[FieldValue], operators: set[Operator]) -> st.SearchStrategy:
        def build(operator: Operator) -> st.SearchStrategy[Filter]:
            value = st.sampled_from(values)
            if operator is Operator.EXISTS:
                return st.just(Comparison(field, operator))
            many = operator in (Operator.IN, Operator.NOT_IN)
            given_values = st.lists(value, min_size=1, max_size=4 if many else 1)
            return given_values.map(lambda chosen: Comparison(field, operator, tuple(chosen)))

        return st.sampled_from(sorted(operators)).flatmap(build)

    return st.one_of(
        of("name", [*NAMES, "日", "ab\U0010ffff"], filters.OPERATORS_OF[FieldType.STRING]),
        of("year", [*YEARS, 2**53], filters.OPERATORS_OF[FieldType.INT64]),
        of("ratio", [*RATIOS, 0.25], filters.OPERATORS_OF[FieldType.DOUBLE]),
        of("ok", [True, False], filters.OPERATORS_OF[FieldType.BOOL]),
        of("tags", [*TAGS, "absent"], filters.OPERATORS_OF[FieldType.STRING_LIST]),
        of("taken_at", [*TIMES], filters.OPERATORS_OF[FieldType.TIMESTAMP]),
        of("place", [], filters.OPERATORS_OF[FieldType.GEO]),
        st.sampled_from(AREAS).map(lambda area: GeoComparison("place", area)),
    )


def is_supported(filter_: Filter, store: SearchStore) -> bool:
    """Whether this Milvus can do it: version 2.3 finds no text within strings."""
    if isinstance(filter_, Group):
        return all(is_supported(inner, store) for inner in filter_.filters)
    if store.is_lite or not isinstance(filter_, Comparison) or filter_.field != "name":
        return True
    return filter_.operator is not Operator.CONTAINS or filter_.values == ("",)


def trees() -> st.SearchStrategy[Filter]:
    return st.recursive(
        comparisons(),
        lambda inner: st.builds(
            lambda junction, children: Group(junction, tuple(children)),
            st.sampled_from(list(Junction)),
            st.lists(inner, min_size=1, max_size=3),
        ),
        max_leaves=8,
    )


@settings(
    max_examples=150,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(filter_=trees())
@pytest.mark.slow
def test_milvus_selects_what_the_filter_means(table: Table, filter_: Filter) -> None:
    assume(is_supported(filter_, table.store))
    expected = {row_id for row_id, fields in table.rows.items() if matches(filter_, fields)}
    assert table.select(filter_) == expected


@pytest.mark.parametrize("operator", sorted(filters.OPERATORS_OF[FieldType.STRING]))
@pytest.mark.parametrize("value", NAMES)
def test_no_string_can_change_the_expression(table: Table, operator: Operator, value: str) -> None:
    comparison = Comparison("name", operator, () if operator is Operator.EXISTS else (value,))
    if not is_supported(comparison, table.store):
        with pytest.raises(InvalidArgument, match="no text within strings") as caught:
            table.select(comparison)
        assert caught.value.reason == "FILTER_INVALID"
        return
    for filter_ in (comparison, Group(Junction.NONE, (comparison,))):
        expected = {row_id for row_id, fields in table.rows.items() if matches(filter_, fields)}
        assert table.select(filter_) == expected


@pytest.mark.parametrize("value", ["%", "_x", "\\", "k\\s", "\n", "00%_", ".", "本"])
def test_a_text_within_strings_is_found_as_it_is(table: Table, value: str) -> None:
    within = Comparison("name", Operator.CONTAINS, (value,))
    if not is_supported(within, table.store):
        pytest.skip("Milvus 2.3 refuses it; see above")
    by_tag = Comparison("tags", Operator.CONTAINS, ("x",))  # Lite reads those row by row
    for filter_ in (
        within,
        Group(Junction.NONE, (within,)),
        Group(Junction.ALL, (within, by_tag)),
        Group(Junction.NONE, (within, by_tag)),
    ):
        expected = {row_id for row_id, fields in table.rows.items() if matches(filter_, fields)}
        assert table.select(filter_) == expected


@pytest.mark.parametrize("area", AREAS, ids=str)
def test_areas_select_places(table: Table, area: GeoBounds | GeoCircle) -> None:
    within = GeoComparison("place", area)
    for filter_ in (within, Group(Junction.NONE, (within,))):
        expected = {row_id for row_id, fields in table.rows.items() if matches(filter_, fields)}
        assert table.select(filter_) == expected


@pytest.mark.parametrize("operator", sorted(filters.OPERATORS_OF[FieldType.TIMESTAMP]))
def test_times_compare_to_the_microsecond(table: Table, operator: Operator) -> None:
    for moment in TIMES:
        comparison = Comparison(
            "taken_at", operator, () if operator is Operator.EXISTS else (moment,)
        )
        for filter_ in (comparison, Group(Junction.NONE, (comparison,))):
            expected = {row for row, fields in table.rows.items() if matches(filter_, fields)}
            assert table.select(filter_) == expected


def test_rows_come_back_with_the_very_values(table: Table) -> None:
    for start in range(0, len(table.rows), 500):
        ids = list(table.rows)[start : start + 500]
        rows = table.run(table.store.get(table.info, ids, deadline()))
        assert {row.id: row.fields for row in rows} == {one: table.rows[one] for one in ids}


def test_filters_as_deep_as_allowed_run(table: Table) -> None:
    filter_: Filter = Comparison("year", Operator.EQUAL, (2020,))
    for _ in range(31):
        filter_ = Group(Junction.NONE, (filter_,))
    expected = {row_id for row_id, fields in table.rows.items() if matches(filter_, fields)}
    assert table.select(filter_) == expected


def test_filters_as_large_as_allowed_run(table: Table) -> None:
    filter_ = Comparison("year", Operator.IN, tuple(range(1000)))
    expected = {row_id for row_id, fields in table.rows.items() if matches(filter_, fields)}
    assert table.select(filter_) == expected


@pytest.mark.parametrize(
    ("filter_", "reason"),
    [
        (Comparison("nope", Operator.EQUAL, (1,)), "FIELD_UNKNOWN"),
        (Comparison("name", Operator.EQUAL, (1,)), "FIELD_TYPE"),
        (Comparison("year", Operator.EQUAL, (True,)), "FIELD_TYPE"),
        (Comparison("year", Operator.EQUAL, (-(2**63),)), "FIELD_TYPE"),
        (Comparison("year", Operator.PREFIX, (1,)), "FIELD_TYPE"),
        (Comparison("tags", Operator.EQUAL, ("x",)), "FIELD_TYPE"),
        (Comparison("name", Operator.EQUAL, ()), "FILTER_INVALID"),
        (Comparison("name", Operator.EQUAL, ("a", "b")), "FILTER_INVALID"),
        (Comparison("name", Operator.IN, ()), "FILTER_INVALID"),
        (Comparison("name", Operator.EXISTS, ("a",)), "FILTER_INVALID"),
        (Comparison("taken_at", Operator.GREATER, (1,)), "FIELD_TYPE"),
        (Comparison("year", Operator.GREATER, (TIMES[0],)), "FIELD_TYPE"),
        (Comparison("year", Operator.CONTAINS, (1,)), "FIELD_TYPE"),
        (Comparison("place", Operator.EQUAL, (PLACES[0],)), "FIELD_TYPE"),
        (GeoComparison("name", AREAS[0]), "FIELD_TYPE"),
        (GeoComparison("nope", AREAS[0]), "FIELD_UNKNOWN"),
    ],
)
def test_a_filter_that_means_nothing_is_refused(filter_: Filter, reason: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        filters.compile_filter(filter_, FIELDS)
    assert caught.value.reason == reason
