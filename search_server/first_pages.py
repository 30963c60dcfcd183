"""First pages of searches that are alike, by one Milvus search for all of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace
from time import perf_counter

from search_server import ranking
from search_server.cursor import Scored
from search_server.store.milvus import MilvusStore
from search_server.store.vectors import ROWS_PER_CALL
from search_server.types.items import Hit, Row, Search
from sentinel_core.deadlines import Deadline
from sentinel_core.metrics import ServerMetrics


class FirstPages:
    """Fetches the tops of rankings. Stateless; any number of calls run at once."""

    def __init__(self, store: MilvusStore, metrics: ServerMetrics) -> None:
        self._store = store
        self._metrics = metrics

    async def tops(
        self, searches: Sequence[Search], count: int, deadline: Deadline
    ) -> AsyncGenerator[list[list[Hit] | None], None]:
        """Yield the first `count` hits of each search, in order, some searches at a time.

        However many they are, some 500 rows are held. None stands for hits that the index missed
        some of, or that one was deleted from between two steps.

        Args:
            searches: Equal in all that Milvus is told but the vector and the query's own items.
            count: Below 500.
            deadline: For all of it.

        Raises:
            SentinelError: Milvus does not answer.
        """
        # Each leaves out items of its own, which one expression cannot: Milvus finds them, too.
        limit = count + max(len(search.spec.query.item_ids) for search in searches)
        start = perf_counter()
        with self._metrics.stage("milvus_search"):
            rankings, rows = await self._nearest(searches, limit, deadline)
            least, one = min(map(len, rankings)), searches[0]
            complete = least == limit or await self._store.vectors.is_all(
                one.collection, least, one.filter, one.options, deadline
            )
        searched = perf_counter() - start
        kept = [
            _kept(search, found, count) for search, found in zip(searches, rankings, strict=True)
        ]
        at_once = len(searches) if rows else max(1, ROWS_PER_CALL // count)
        for place in range(0, len(searches), at_once):
            part = kept[place : place + at_once]
            start = perf_counter()
            rows_of_part = rows or await self._rows(one, part, deadline)
            seconds = searched + perf_counter() - start
            tops: list[list[Hit] | None] = []
            for search, found in zip(searches[place : place + at_once], part, strict=True):
                search.timings.vector_search = seconds
                whole = complete or len(found) == count
                tops.append(_hits(search, found, rows_of_part) if whole else None)
            yield tops

    async def _nearest(
        self, searches: Sequence[Search], limit: int, deadline: Deadline
    ) -> tuple[list[list[Scored]], dict[str, Row]]:
        """Return the ranking of each search; and their rows, where they are few."""
        one, vectors = searches[0], [search.vector for search in searches]
        if len(searches) * limit > ROWS_PER_CALL:
            rankings = await self._store.vectors.nearest(
                one.collection,
                vectors,
                limit=limit,
                expression=one.filter,
                options=one.options,
                deadline=deadline,
            )
            return rankings, {}
        found = await self._store.vectors.search(
            one.collection,
            vectors,
            limit=limit,
            expression=one.filter,
            include_vectors=one.spec.include_vectors,
            options=one.options,
            deadline=deadline,
        )
        rankings = [[(row.id, score) for row, score in hits] for hits in found]
        return rankings, {row.id: row for hits in found for row, _ in hits}

    async def _rows(
        self, one: Search, rankings: Sequence[Sequence[Scored]], deadline: Deadline
    ) -> dict[str, Row]:
        """Return the rows of some rankings, each once, though several have it."""
        ids = list(dict.fromkeys(item_id for ranked in rankings for item_id, _ in ranked))
        if not ids:
            return {}
        with self._metrics.stage("milvus_rows"):
            rows = await self._store.get(
                one.collection,
                ids,
                deadline,
                include_vectors=one.spec.include_vectors,
                consistency=one.options.consistency,
            )
        return {row.id: row for row in rows}


def _kept(search: Search, ranked: Sequence[Scored], count: int) -> list[Scored]:
    own = set(search.spec.query.item_ids)
    return [scored for scored in ranked if scored[0] not in own][:count]


def _hits(search: Search, ranked: Sequence[Scored], rows: Mapping[str, Row]) -> list[Hit] | None:
    if any(item_id not in rows for item_id, _ in ranked):
        return None
    # A row of its own for each hit: it is cut to the fields that its search asks for.
    found = [(replace(rows[item_id]), score) for item_id, score in ranked]
    return ranking.at_least(ranking.rank(found), search.spec.min_score)
