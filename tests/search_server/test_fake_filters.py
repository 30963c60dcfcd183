"""The fake selects and sorts the same items as a gateway; see test_fake_sentinel.py."""

from __future__ import annotations

from datetime import timedelta, timezone

import pytest

from sentinel_client import F, Filter
from tests.search_server.fake_pair import COUNT, START, Pair, search

FILTERS: list[Filter] = [
    F("year") == 2003,
    F("year") != 2003,
    F("year") > 2004,
    F("year") <= 2001,
    F("ratio") < 1,
    F("ratio").isin([0.5, 1.5]),
    F("year").notin([2001, 2002]),
    F("public") == True,  # noqa: E712
    F("public") != True,  # noqa: E712
    F("title").startswith("d"),
    F("title") >= "n",
    F("tags").contains("dog"),
    ~F("tags").contains("dog"),
    F("title").exists() & ~F("tags").exists(),
    (F("year") > 2003) | (F("public") == False),  # noqa: E712
    ~((F("year") > 2003) & (F("ratio") == 1.0)),
    ~((F("year") > 2003) | ~F("title").startswith("d")),
    F("title").contains("ch ni"),
    ~F("title").contains("o"),
    F("taken_at") == START + timedelta(hours=3),
    F("taken_at") != START + timedelta(hours=3),
    ~(F("taken_at") >= START.astimezone(timezone(timedelta(hours=9))) + timedelta(hours=6)),
    F("taken_at").notin([START, START + timedelta(hours=5)]),
    F("taken_at").exists(),
    F("place").within(-45, 170, 45, -180),
    ~F("place").within(-90, -10, 90, 180),
    F("place").near(80, -3.5, 5_000_000),
    ~F("place").near(-90, 0, 9_000_000),
    ~F("place").exists(),
]


@pytest.mark.parametrize("number", range(len(FILTERS)))
def test_filters_select_the_same_items(pair: Pair, number: int) -> None:
    listed = pair.same(
        lambda client, pair: client.list_items(
            collection=pair.collection, filter=FILTERS[number], page_size=7
        )
    )
    assert 0 < len(listed) < COUNT + 3
    pair.same(search(filter=FILTERS[number], limit=50))
    pair.same(
        lambda client, pair: client.delete_items(
            collection=pair.collection, filter=FILTERS[number], dry_run=True
        )
    )


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("field", ["taken_at", "year", "ratio"])
def test_items_are_listed_in_the_same_order(pair: Pair, field: str, descending: bool) -> None:
    listed = pair.same(
        lambda client, pair: client.list_items(
            collection=pair.collection, order_by=field, descending=descending, page_size=7
        )
    )
    assert len(listed) == COUNT + 3
