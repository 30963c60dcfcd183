"""The hits of a search, in rank order, as few or as many as are asked for.

A few from the top are one Milvus search that brings their rows along. More, or a later page, are
two steps: one Milvus search for the ranking alone (ids and scores), of which what was delivered
already is dropped (cursor.py), then the rows of that, some hundred at a time, as the caller takes
them. Why not Milvus's search iterator, range search or offset: docs/adr/0008.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter

from search_server import ranking
from search_server.cursor import START, Position, Scored
from search_server.store.milvus import MilvusStore
from search_server.store.vectors import ROWS_PER_CALL
from search_server.types.items import Hit, Row, Search
from sentinel_core.deadlines import Deadline
from sentinel_core.metrics import ServerMetrics

# The most hits of one Milvus search.
_DEEPEST = 16_384
# Room in a later page's ranking for items that were inserted above it since the page before.
_INSERTED = 32


class Retrieval:
    """Fetches hits. Stateless; any number of searches run at once."""

    def __init__(self, store: MilvusStore, metrics: ServerMetrics) -> None:
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
        return ranking.at_least(ranking.rank(found), search.spec.min_score)

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
        return ranking.rank(found, delivered)

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
