"""First pages of many searches: one call of Milvus, few rows held, no search's own items."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from search_server.milvus.vector_search import ROWS_PER_CALL
from search_server.search.batch_search import BatchSearcher, PageRequest
from search_server.search.nearest import NearestHits
from search_server.search.paging import START
from search_server.search.searcher import Page
from search_server.types.queries import Query, SearchSpec, Term
from search_server.types.searches import Hit, Search
from sentinel_store.collections import CollectionInfo
from sentinel_store.milvus import schema
from sentinel_store.values import ModelRef
from tests.search_server.search.test_nearest import (
    Table,
    check_order,
    deadline,
    search_of,
    table_in,
)

SEARCHES = 64
ZERO = np.zeros(2, np.float32)


@pytest.fixture(scope="module")
def table(milvus_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Table]:
    made = table_in(milvus_uri, tmp_path_factory.mktemp("first_pages"), 3_000)
    yield made
    made.close()


@pytest.fixture
def calls(table: Table, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What pymilvus itself is asked for."""
    connection, made = table.store.connection.current, []
    reads = connection._reads
    client = connection._client if reads is None else reads

    def noting(name: str) -> Callable[..., Any]:
        call = getattr(client, name)

        def noted(*arguments: Any, **options: Any) -> Any:
            made.append(name)
            return call(*arguments, **options)

        return noted

    for name in ("search", "query"):
        monkeypatch.setattr(client, name, noting(name))
    return made


def searches(table: Table, count: int, *, by_item: bool) -> list[Search]:
    """Searches by vectors of the table, or by its items, which are not among their own hits."""
    made = []
    for number in range(count):
        row_id = f"row{number * 7}"
        term = Term(item_id=row_id) if by_item else Term(vector=table.vectors[row_id])
        spec = SearchSpec(table.info.name, Query((term,)))
        expression = schema.excluding("", row_id) if by_item else ""
        made.append(search_of(spec, table.info, table.vectors[row_id], expression))
    return made


def tops(table: Table, asked: Sequence[Search], count: int) -> list[list[list[Hit] | None]]:
    async def collect() -> list[list[list[Hit] | None]]:
        source = NearestHits(table.store, table.row_memory, table.metrics).first_hits(asked, count)
        async with aclosing(source) as parts:
            return [part async for part in parts]

    return table.run(collect())


@pytest.mark.parametrize("by_item", [False, True], ids=["by vector", "by item"])
@pytest.mark.parametrize("count", [6, 16])
def test_searches_that_are_alike_are_one_call_of_milvus(
    table: Table, calls: list[str], count: int, by_item: bool
) -> None:
    """Not only one stage of the metrics: with few rows nothing else, with more some reads."""
    tops(table, searches(table, SEARCHES, by_item=by_item), count)
    assert calls.count("search") == 1
    assert calls.count("query") == (0 if SEARCHES * (count + by_item) <= ROWS_PER_CALL else 3)


@pytest.mark.parametrize("by_item", [False, True], ids=["by vector", "by item"])
def test_each_search_has_what_it_finds_alone(table: Table, by_item: bool) -> None:
    asked = searches(table, SEARCHES, by_item=by_item)
    found = [top for part in tops(table, asked, 40) for top in part]
    for search, hits in zip(asked, found, strict=True):
        assert hits is not None
        assert len(hits) == 40
        cosines = {
            row_id: float(vector.astype(np.float64) @ search.vector)
            for row_id, vector in table.vectors.items()
            if row_id not in search.spec.query.item_ids
        }
        check_order(hits, cosines)


def test_few_rows_are_held_however_many_are_asked_for(table: Table) -> None:
    asked = searches(table, SEARCHES, by_item=False)
    parts = tops(table, asked, 400)
    assert sum(map(len, parts)) == SEARCHES
    assert max(sum(len(hits or []) for hits in part) for part in parts) <= ROWS_PER_CALL


class _Searcher:
    """Notes how many rows of large pages are being read at once."""

    def __init__(self) -> None:
        self.held, self.most = 0, 0

    async def prepare_all(self, specs: Sequence[SearchSpec], _: object) -> list[Search]:
        info = CollectionInfo("c", ModelRef("m", "r", "f"), 2, {})
        return [search_of(spec, replace(info, name=spec.collection), ZERO) for spec in specs]

    async def page(self, search: Search, size: int, *_: object, **__: object) -> Page:
        self.held += size
        self.most = max(self.most, self.held)
        await asyncio.sleep(0.001)
        self.held -= size
        return Page(search, [], None)


async def test_a_batch_of_different_large_pages_goes_in_turns() -> None:
    searcher = _Searcher()
    spec = SearchSpec("c", Query((Term(item_id="x"),)))
    entries = [
        PageRequest(replace(spec, collection=f"c{n}"), 1_000, START) for n in range(SEARCHES)
    ]
    pages = await BatchSearcher(searcher).pages(entries, deadline(), max_bytes=10**6)  # type: ignore[arg-type]
    assert len(pages) == SEARCHES
    assert searcher.most <= 4 * 1_000
