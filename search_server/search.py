"""Use case: from a query to ranked hits.

`prepare` finds the query's vector (embedding it when it has to), `run` searches, `chunks` adds
what a client needs to show the hits. Knows no protobuf.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np

from search_server import ranking
from search_server.collections import Collections
from search_server.embedders.pool import EmbedderPool
from search_server.illustrate import illustrate
from search_server.store import columns, filters
from search_server.store.milvus import MilvusStore
from search_server.store.objects import ObjectStore
from search_server.types import (
    MAX_HITS,
    CollectionInfo,
    FloatArray,
    Hit,
    PagePosition,
    Query,
    SearchSpec,
    SearchTimings,
)
from search_server.vectors import check_vector
from sentinel_core.deadlines import Deadline
from sentinel_core.errors import InvalidArgument, NotFound
from sentinel_core.metrics import ServerMetrics


@dataclass(slots=True)
class Search:
    """One search under way: what is searched, with which vector, and the time it has taken."""

    spec: SearchSpec
    collection: CollectionInfo
    vector: FloatArray
    expression: str
    timings: SearchTimings = field(default_factory=SearchTimings)
    started: float = field(default_factory=perf_counter)


class Searcher:
    """Answers queries. Stateless; any number of searches run at once."""

    def __init__(
        self,
        collections: Collections,
        pool: EmbedderPool,
        store: MilvusStore,
        objects: ObjectStore,
        metrics: ServerMetrics,
    ) -> None:
        self._collections = collections
        self._pool = pool
        self._store = store
        self._objects = objects
        self._metrics = metrics

    async def prepare(self, spec: SearchSpec, deadline: Deadline) -> Search:
        """Check `spec` against its collection and find the query's vector.

        Raises:
            SentinelError: Unknown collection, field or item; a query that cannot be embedded.
        """
        started = perf_counter()
        collection = await self._collections.get(spec.collection, deadline)
        columns.check_names(spec.output_fields, collection.fields, "params.output_fields")
        expression = filters.compile_filter(spec.filter, collection.fields)
        if spec.query.item_id is not None:
            expression = filters.excluding(expression, spec.query.item_id)
        search = Search(spec, collection, np.empty(0, np.float32), expression, started=started)
        search.vector = await self._vector(spec.query, search, deadline)
        return search

    async def run(
        self, search: Search, limit: int, deadline: Deadline, offset: int = 0
    ) -> list[Hit]:
        """Return up to `limit` hits from rank `offset` + 1 on."""
        start = perf_counter()
        with self._metrics.stage("milvus_search"):
            found = await self._store.search(
                search.collection,
                search.vector,
                limit=limit,
                offset=offset,
                expression=search.expression,
                include_vectors=search.spec.include_vectors,
                deadline=deadline,
            )
        search.timings.vector_search = perf_counter() - start
        return ranking.at_least(ranking.rank(found, offset), search.spec.min_score)

    async def page(
        self, search: Search, size: int, position: PagePosition, deadline: Deadline
    ) -> tuple[list[Hit], PagePosition | None]:
        """Return the page after `position`, and the position after it; None on the last page."""
        # From the first hit of the last one's score on, since those may come in another order
        # now. One more than the page holds tells whether another follows.
        tied = len(position.tied)
        wanted = min(size + 1, MAX_HITS - position.rank)
        found = await self.run(search, tied + wanted, deadline, position.rank - tied)
        hits = ranking.after(found, position)
        page = hits[:size]
        return page, ranking.position_after(page, position) if len(hits) > size else None

    async def chunks(
        self, search: Search, hits: Sequence[Hit], size: int
    ) -> AsyncIterator[list[Hit]]:
        """Yield the hits `size` at a time, with image URIs and, when asked for, thumbnails."""
        for start in range(0, len(hits), size):
            chunk = list(hits[start : start + size])
            await illustrate(
                chunk,
                self._objects,
                output_fields=search.spec.output_fields,
                include_thumbnails=search.spec.include_thumbnails,
            )
            yield chunk

    def finish(self, search: Search) -> SearchTimings:
        """Close the clock of a search and return where its time went."""
        search.timings.total = perf_counter() - search.started
        self._metrics.stage_duration.labels("total").observe(search.timings.total)
        return search.timings

    async def _vector(self, query: Query, search: Search, deadline: Deadline) -> FloatArray:
        if query.content is not None:
            return await self._embedded(query, search, deadline)
        if query.vector is not None:
            return check_vector(query.vector, search.collection, "params.query.vector")
        if query.item_id is not None:
            rows = await self._store.get(
                search.collection, [query.item_id], deadline, include_vectors=True
            )
            if rows and rows[0].vector is not None:
                return rows[0].vector
            raise NotFound(
                "ITEM_NOT_FOUND",
                f"no item {query.item_id[:100]!r} in collection {search.collection.name}",
                id=query.item_id,
            )
        raise InvalidArgument(
            "QUERY_MISSING", "set one of content, vector or item_id", field="params.query"
        )

    async def _embedded(self, query: Query, search: Search, deadline: Deadline) -> FloatArray:
        assert query.content is not None
        start = perf_counter()
        with self._metrics.stage("embed"):
            answer = await self._pool.embed(
                [query.content],
                fingerprint=search.collection.model.fingerprint,
                deadline=deadline,
            )
        search.timings.embed = perf_counter() - start
        search.timings.embed_queue = answer.queue_s
        search.timings.embed_inference = answer.inference_s
        item = answer.items[0]
        if item.error is not None:
            item.error.field = "params.query.content"
            raise item.error
        assert item.vector is not None
        return item.vector
