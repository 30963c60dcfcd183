"""The hits of a search, in rank order, as few or as many as are asked for.

A few from the top are one Milvus search that brings their rows along. More, or a later page, are
two steps: one Milvus search for the ranking alone (ids and scores), of which what was delivered
already is dropped (cursor.py), then the rows of that, some hundred at a time, as the caller takes
them. Why not Milvus's search iterator, range search or offset: docs/adr/0008.


Pure functions over ranked hits.

First pages of searches that are alike, by one Milvus search for all of them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import takewhile
from time import perf_counter

from search_server.milvus.search_store import SearchStore
from search_server.milvus.vector_search import ROWS_PER_CALL
from search_server.search.position import START, Position, Scored
from search_server.types.items import Hit, Search
from sentinel_core.calls import Deadline
from sentinel_core.metrics import ServerMetrics
from sentinel_store.items import Row

# The most hits of one Milvus search.
_DEEPEST = 16_384
# Room in a later page's ranking for items that were inserted above it since the page before.
_INSERTED = 32


class Retrieval:
    """Fetches hits. Stateless; any number of searches run at once."""

    def __init__(self, store: SearchStore, metrics: ServerMetrics) -> None:
        self._store = store
        self._metrics = metrics

    async def blocks(
        self, search: Search, count: int, deadline: Deadline, after: Position = START
    ) -> AsyncGenerator[list[Hit], None]:
        """Yield up to `count` hits that follow `after`, in blocks of at most 500.

        A block is fetched when it is asked for. Items that are deleted meanwhile are left out and
        others take their places, so there are fewer than `count` hits only where no more exist.

        Raises:
            SentinelError: Milvus does not answer.
        """
        if count <= ROWS_PER_CALL and not after.rank:
            top = await self._top(search, count, deadline)
            if top is not None:
                yield top
                return
        delivered, position = after.rank, after
        end = delivered + count
        while delivered < end:
            following, more = await self._following(search, end - delivered, deadline, position)
            for start in range(0, len(following), ROWS_PER_CALL):
                part = following[start : start + ROWS_PER_CALL]
                block = await self.with_rows(search, part, delivered, deadline)
                delivered += len(block)
                if block:
                    yield block
            if not more:
                return
            position = position.advanced(following)

    async def _top(self, search: Search, count: int, deadline: Deadline) -> list[Hit] | None:
        """Return the first `count` hits; None where the index missed some that exist."""
        with self.stage(search, "milvus_search"):
            [found] = await self._store.vectors.search(
                search.collection,
                [search.vector],
                limit=count,
                expression=search.expression,
                include_vectors=search.spec.include_vectors,
                options=search.options,
                deadline=deadline,
            )
            complete = len(found) == count or await self._store.vectors.is_all(
                search.collection, len(found), search.expression, search.options, deadline
            )
        if not complete:
            return None
        return at_least(rank(found), search.spec.min_score)

    async def _following(
        self, search: Search, count: int, deadline: Deadline, position: Position
    ) -> tuple[list[Scored], bool]:
        """Return the next `count` ids and scores after `position`, and whether more may follow."""
        least = -1.0 if search.spec.min_score is None else search.spec.min_score
        limit = position.rank + count + (_INSERTED if position.rank else 0)
        while True:
            limit = min(limit, _DEEPEST)
            with self.stage(search, "milvus_search"):
                found = await self._store.vectors.rank(
                    search.collection,
                    search.vector,
                    limit=limit,
                    expression=search.expression,
                    options=search.options,
                    deadline=deadline,
                )
            reached_end = len(found) < limit or found[-1][1] < least
            following = [one for one in position.remaining(found) if one[1] >= least]
            if reached_end or len(following) >= count or limit == _DEEPEST:
                more = len(following) > count or not (reached_end or limit == _DEEPEST)
                return following[:count], more
            limit *= 2  # more was inserted than there is room for

    async def with_rows(
        self, search: Search, part: Sequence[Scored], delivered: int, deadline: Deadline
    ) -> list[Hit]:
        """Return at most 500 ranked ids as hits, from rank `delivered` + 1 on, with their rows.

        Those that are gone meanwhile are left out.
        """
        with self.stage(search, "milvus_rows"):
            rows = await self._rows(search, [item_id for item_id, _ in part], deadline)
        found = [(rows[item_id], score) for item_id, score in part if item_id in rows]
        return rank(found, delivered)

    async def _rows(self, search: Search, ids: Sequence[str], deadline: Deadline) -> dict[str, Row]:
        rows = await self._store.get(
            search.collection,
            ids,
            deadline,
            include_vectors=search.spec.include_vectors,
            consistency=search.options.consistency,
        )
        return {row.id: row for row in rows}

    @contextmanager
    def stage(self, search: Search, name: str) -> Iterator[None]:
        """Observe a `with` block as stage `name`, and as a part of the search's time in Milvus."""
        start = perf_counter()
        with self._metrics.stage(name):
            yield
        so_far = search.timings.vector_search or 0.0
        search.timings.vector_search = so_far + perf_counter() - start


def rank(found: Sequence[tuple[Row, float]], offset: int = 0) -> list[Hit]:
    """Return hits numbered from `offset` + 1, in the order found."""
    return [Hit(row, offset + place, score) for place, (row, score) in enumerate(found, 1)]


def at_least(hits: Sequence[Hit], min_score: float | None) -> list[Hit]:
    """Return the leading hits that score `min_score` or more; all of them for None."""
    if min_score is None:
        return list(hits)
    return list(takewhile(lambda hit: hit.score >= min_score, hits))


class FirstPages:
    """Fetches the tops of rankings. Stateless; any number of calls run at once."""

    def __init__(self, store: SearchStore, metrics: ServerMetrics) -> None:
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
    return at_least(rank(found), search.spec.min_score)
