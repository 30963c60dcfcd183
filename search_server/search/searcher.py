"""Use case: from a query to ranked hits.

`prepare` finds the query's vector (embedding it when it has to); `hits` and `page` fetch what
they deliver, with what a client needs to show it. Knows no protobuf.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from time import perf_counter

import numpy as np

from search_server.collections.catalog import Collections
from search_server.images.presentation import illustrate
from search_server.milvus import filters, vector_search
from search_server.milvus.search_store import SearchStore
from search_server.search import message_size
from search_server.search.nearest import FirstPages, Retrieval
from search_server.search.position import START, Position
from search_server.search.query_vectors import Asked, QueryVectors
from search_server.search.reranking import Reranker, is_reranked
from search_server.types.items import Hit, Search, SearchTimings
from search_server.types.queries import MAX_HITS, SearchSpec
from sentinel_core.calls import Deadline
from sentinel_core.errors import SentinelError
from sentinel_core.metrics import ServerMetrics
from sentinel_store.images.image_store import ObjectStore
from sentinel_store.milvus import schema

# Thumbnails held in memory at once, beyond those of the message that is being filled.
_SHOWN_AT_ONCE = 64


class Searcher:
    """Answers queries. Stateless; any number of searches run at once."""

    def __init__(
        self,
        collections: Collections,
        queries: QueryVectors,
        store: SearchStore,
        objects: ObjectStore,
        metrics: ServerMetrics,
    ) -> None:
        self._collections = collections
        self._queries = queries
        self._store = store
        self._objects = objects
        self._metrics = metrics
        self._retrieval = Retrieval(store, metrics)
        self._first_pages = FirstPages(store, metrics)
        self._reranker = Reranker(store, self._retrieval)

    async def prepare(self, spec: SearchSpec, deadline: Deadline) -> Search:
        """Check `spec` against its collection and find the query's vector.

        Raises:
            SentinelError: Unknown collection, field or item; a query that cannot be embedded.
        """
        [search] = await self.prepare_all([spec], deadline)
        if isinstance(search, SentinelError):
            raise search
        return search

    async def prepare_all(
        self, specs: Sequence[SearchSpec], deadline: Deadline
    ) -> list[Search | SentinelError]:
        """Do so for each of `specs`, looking for all vectors at once; each fails alone."""
        searches = [await self._checked(spec, deadline) for spec in specs]
        ready = [
            (place, search) for place, search in enumerate(searches) if isinstance(search, Search)
        ]
        asked = [Asked(search.spec.query, search.collection) for _, search in ready]
        found = await self._queries.find(asked, deadline)
        for (place, search), vector in zip(ready, found, strict=True):
            if isinstance(vector, SentinelError):
                searches[place] = vector
            else:
                search.vector, search.timings = vector.vector, vector.timings
        return searches

    async def _checked(self, spec: SearchSpec, deadline: Deadline) -> Search | SentinelError:
        """Return a search that lacks its vector only."""
        started = perf_counter()
        try:
            collection = await self._collections.get(spec.collection, deadline)
            schema.check_names(spec.output_fields, collection.fields, "params.output_fields")
            vector_search.check_index_params(spec.index_params)
            await self._reranker.check(spec, collection, deadline)
            filtered = filters.compile_filter(spec.filter, collection.fields)
        except SentinelError as error:
            return error
        expression = filtered
        for item_id in spec.query.item_ids:
            expression = schema.excluding(expression, item_id)
        unknown = np.empty(0, np.float32)
        return Search(spec, collection, unknown, expression, filtered, started=started)

    async def hits(
        self, search: Search, limit: int, deadline: Deadline, after: Position = START
    ) -> AsyncGenerator[Sequence[Hit], None]:
        """Yield up to `limit` hits that follow `after`, some at a time, ready to be shown.

        They are fetched as they are taken: memory holds some hundred of them, and a caller that
        stops ends the fetching.
        """
        source = self._reranker if is_reranked(search.spec) else self._retrieval
        async with aclosing(source.blocks(search, limit, deadline, after)) as blocks:
            async for block in blocks:
                async for part in self._shown(search, block):
                    yield part

    async def page(
        self,
        search: Search,
        size: int,
        position: Position,
        deadline: Deadline,
        *,
        max_bytes: int = message_size.MAX_BYTES,
        top: Sequence[Hit] | None = None,
    ) -> tuple[list[Hit], Position | None]:
        """Return the page after `position`, and the position after it; None on the last page.

        Args:
            search: What is searched.
            size: Most hits of the page.
            position: Where it begins.
            deadline: For all of it.
            max_bytes: Most bytes of the page; one hit may have more.
            top: For a first page: its hits and one more, where they are known already.
        """
        # One more than the page holds tells whether another follows.
        wanted = min(size + 1, MAX_HITS - position.rank)
        source = (
            self.hits(search, wanted, deadline, position)
            if top is None
            else self._shown(search, top)
        )
        async with aclosing(source) as hits:
            page, more = await message_size.filled(hits, size, max_bytes)
        if not more:
            return page, None
        return page, position.advanced([(hit.row.id, hit.score) for hit in page])

    def tops(
        self, searches: Sequence[Search], size: int, deadline: Deadline
    ) -> AsyncGenerator[list[list[Hit] | None], None]:
        """Yield what `page` takes as `top` for each of several searches, some of them at a time.

        Args:
            searches: Equal in all that Milvus is told but the vector and the query's own items.
            size: Hits of a page, below 500.
            deadline: For all of it.
        """
        return self._first_pages.tops(searches, size + 1, deadline)

    async def _shown(
        self, search: Search, block: Sequence[Hit]
    ) -> AsyncGenerator[Sequence[Hit], None]:
        """Yield a block's hits with image URIs and, when asked for, thumbnails."""
        for start in range(0, len(block), _SHOWN_AT_ONCE):
            part = block[start : start + _SHOWN_AT_ONCE]
            await illustrate(
                part,
                self._objects,
                output_fields=search.spec.output_fields,
                include_thumbnails=search.spec.include_thumbnails,
            )
            yield part

    def finish(self, search: Search) -> SearchTimings:
        """Close the clock of a search and return where its time went."""
        search.timings.total = perf_counter() - search.started
        self._metrics.stage_duration.labels("total").observe(search.timings.total)
        return search.timings
