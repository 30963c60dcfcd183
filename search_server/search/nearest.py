"""Fetch the nearest rows of a search as ranked hits, as few or as many as the caller takes.

A few hits from the top are one Milvus search that returns their rows. More hits, or a later page,
take two steps: one Milvus search for the ranking alone (ids and scores), without what was
delivered before (paging.py). Then the rows, a few hundred at a time, as the caller takes them. Why
not Milvus's search iterator, range search or offset: docs/adr/0008.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile

from search_server.milvus.row_memory import RowMemory
from search_server.milvus.search_store import SearchStore
from search_server.milvus.vector_search import ROWS_PER_CALL
from search_server.search.paging import START, Position
from search_server.types.queries import LEAST_SCORE
from search_server.types.searches import Hit, ScoredId, Search, SearchTimings, Selection
from sentinel_core.metrics import ServerMetrics, Stage
from sentinel_store.items import Row

# The most hits of one Milvus search.
_MAX_LIMIT = 16_384
# Extra rows in a later page's ranking, for items that were inserted above it since the last page.
_INSERTED = 32


class NearestHits:
    """Fetches hits. Stateless; any number of searches run at once."""

    def __init__(self, store: SearchStore, row_memory: RowMemory, metrics: ServerMetrics) -> None:
        self._store = store
        self._row_memory = row_memory
        self._metrics = metrics

    async def blocks(
        self, search: Search, count: int, after: Position = START
    ) -> AsyncGenerator[list[Hit], None]:
        """Yield up to `count` hits that follow `after`, in blocks of at most 500.

        A block is fetched when the caller takes it, and has its memory until the next one. Hits
        replace items that are deleted meanwhile, so there are fewer than `count` only if no more
        exist.

        Raises:
            SentinelError: Milvus does not answer, or there is no memory for the rows.
        """
        collection, deadline = search.selection.collection, search.selection.deadline
        if count <= self._row_memory.at_once(collection) and not after.rank:
            async with self._row_memory.share(collection, count, deadline) as share:
                top = await self._top(search, count)
                self._row_memory.fetched(share)
                if top is not None:
                    yield top
                    return
        delivered, position = after.rank, after
        end = delivered + count
        while delivered < end:
            ranking, more = await self._following(search, end - delivered, position)
            taken = 0
            while taken < len(ranking):
                part = ranking[taken : taken + self._row_memory.at_once(collection)]
                taken += len(part)
                async with self._row_memory.share(collection, len(part), deadline) as share:
                    block = await self.with_rows(search, part, delivered)
                    self._row_memory.fetched(share)
                    delivered += len(block)
                    if block:
                        yield block
            if not more:
                return
            position = position.advanced(ranking)

    async def _top(self, search: Search, count: int) -> list[Hit] | None:
        """Return the first `count` hits; None if the index missed some that exist."""
        vectors = self._store.vectors
        with self.stage(search, "milvus_search"):
            [found] = await vectors.search(
                search.selection,
                [search.vector],
                limit=count,
                include_vectors=search.spec.include_vectors,
            )
            self._row_memory.note(search.selection.collection, [row for row, _ in found])
            complete = len(found) == count or await vectors.found_all(search.selection, len(found))
        if not complete:
            return None
        return at_least(rank(found), search.spec.min_score)

    async def _following(
        self, search: Search, count: int, position: Position
    ) -> tuple[list[ScoredId], bool]:
        """Return the next `count` ids and scores after `position`, and whether more may follow."""
        least = search.spec.min_score
        limit = position.rank + count + (_INSERTED if position.rank else 0)
        while True:
            limit = min(limit, _MAX_LIMIT)
            with self.stage(search, "milvus_search"):
                found = await self._store.vectors.rank(search.selection, search.vector, limit=limit)
            reached_end = len(found) < limit or found[-1][1] < least
            following = [one for one in position.remaining(found) if one[1] >= least]
            if reached_end or len(following) >= count or limit == _MAX_LIMIT:
                more = len(following) > count or not (reached_end or limit == _MAX_LIMIT)
                return following[:count], more
            limit *= 2  # more items were inserted than the extra rows hold

    async def with_rows(
        self, search: Search, ranking: Sequence[ScoredId], delivered: int
    ) -> list[Hit]:
        """Return at most 500 ranked ids as hits with their rows, from rank `delivered` + 1 on.

        Leaves out items that are deleted meanwhile.
        """
        with self.stage(search, "milvus_rows"):
            rows = await self._rows(search, [item_id for item_id, _ in ranking])
        return rank([(rows[one], score) for one, score in ranking if one in rows], delivered)

    async def first_hits(
        self, searches: Sequence[Search], count: int
    ) -> AsyncGenerator[list[list[Hit] | None], None]:
        """Yield the first `count` hits of each search, in order, for some searches at a time.

        All of them are one Milvus search. Holds some 500 rows, however many the searches find.
        None: the index missed hits, or a hit was deleted between two steps.

        Args:
            searches: Equal in everything but the vector and the query's own items.
            count: Below 500.

        Raises:
            SentinelError: Milvus does not answer.
        """
        collection, deadline = searches[0].selection.collection, searches[0].selection.deadline
        rows_at_once = min(ROWS_PER_CALL, len(searches) * count)
        async with self._row_memory.share(collection, rows_at_once, deadline):
            # Each search leaves out its own items, which one expression cannot express. So Milvus
            # finds them, too.
            selection = searches[0].selection
            shared = replace(selection, expression=selection.filter_expression)
            limit = count + max(len(search.spec.query.item_ids) for search in searches)
            with self._metrics.stage("milvus_search") as searching:
                rankings, rows = await self._nearest(shared, searches, limit)
                fewest = min(map(len, rankings))
                complete = fewest == limit or await self._store.vectors.found_all(shared, fewest)
            own_rankings = [
                _without_own_items(search, ranking)[:count]
                for search, ranking in zip(searches, rankings, strict=True)
            ]
            at_once = len(searches) if rows else max(1, ROWS_PER_CALL // count)
            for first in range(0, len(searches), at_once):
                part = own_rankings[first : first + at_once]
                rows_of_part, seconds = rows, searching.seconds
                if not rows and any(part):
                    ids = list(dict.fromkeys(item_id for ranking in part for item_id, _ in ranking))
                    with self._metrics.stage("milvus_rows") as reading:
                        rows_of_part = await self._rows(searches[0], ids)
                    seconds += reading.seconds
                hits: list[list[Hit] | None] = []
                for search, ranking in zip(searches[first : first + at_once], part, strict=True):
                    search.timings.vector_search = seconds
                    whole = complete or len(ranking) == count
                    hits.append(_hits(search, ranking, rows_of_part) if whole else None)
                yield hits

    async def _nearest(
        self, shared: Selection, searches: Sequence[Search], limit: int
    ) -> tuple[list[list[ScoredId]], dict[str, Row]]:
        """Return the ranking of each search; also their rows, if they are few."""
        vectors = [search.vector for search in searches]
        if len(searches) * limit > ROWS_PER_CALL:
            return await self._store.vectors.nearest_ids(shared, vectors, limit=limit), {}
        found = await self._store.vectors.search(
            shared, vectors, limit=limit, include_vectors=searches[0].spec.include_vectors
        )
        self._row_memory.note(shared.collection, [row for hits in found for row, _ in hits])
        rankings = [[(row.id, score) for row, score in hits] for hits in found]
        return rankings, {row.id: row for hits in found for row, _ in hits}

    async def _rows(self, search: Search, ids: Sequence[str]) -> dict[str, Row]:
        found = await self._store.get(
            search.selection.collection,
            ids,
            search.selection.deadline,
            include_vectors=search.spec.include_vectors,
            consistency=search.selection.consistency,
        )
        self._row_memory.note(search.selection.collection, found)
        return {row.id: row for row in found}

    def stage(self, search: Search, name: str) -> Stage:
        """Return a `with` block that is stage `name`, and a part of the search's time in Milvus."""
        return _MilvusStage(self._metrics, name, search.timings)


class _MilvusStage(Stage):
    """A stage whose time is added to what a search has spent in Milvus."""

    __slots__ = ("_timings",)

    def __init__(self, metrics: ServerMetrics, name: str, timings: SearchTimings) -> None:
        super().__init__(metrics, name)
        self._timings = timings

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._timings.vector_search = (self._timings.vector_search or 0.0) + self.seconds


def rank(found: Sequence[tuple[Row, float]], offset: int = 0) -> list[Hit]:
    """Return hits numbered from `offset` + 1, in the given order."""
    return [Hit(row, offset + number, score) for number, (row, score) in enumerate(found, 1)]


def at_least(hits: list[Hit], min_score: float) -> list[Hit]:
    """Return the leading hits that score `min_score` or more."""
    if min_score <= LEAST_SCORE:
        return hits
    return list(takewhile(lambda hit: hit.score >= min_score, hits))


def _without_own_items(search: Search, ranking: Sequence[ScoredId]) -> list[ScoredId]:
    own = set(search.spec.query.item_ids)
    return [scored for scored in ranking if scored[0] not in own]


def _hits(search: Search, ranking: Sequence[ScoredId], rows: Mapping[str, Row]) -> list[Hit] | None:
    if any(item_id not in rows for item_id, _ in ranking):
        return None
    found = [(rows[item_id], score) for item_id, score in ranking]
    return at_least(rank(found), search.spec.min_score)
