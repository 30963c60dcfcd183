"""Answer searches: check the query, find its vector, fetch ranked hits.

`prepare` finds the query's vector and embeds the query if it must. `hits` and `page` fetch hits
with what a client needs to show them. Knows no protobuf.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from time import perf_counter

from search_server.collections.catalog import Catalog
from search_server.collections.match_levels import MatchCalibrator
from search_server.images.presentation import present
from search_server.milvus import filters, vector_search
from search_server.milvus.row_memory import RowMemory
from search_server.milvus.search_store import SearchStore
from search_server.search import paging
from search_server.search.nearest import NearestHits
from search_server.search.paging import START, Position
from search_server.search.query_vectors import QueryVectors
from search_server.search.reranking import Reranker
from search_server.types.items import Projection
from search_server.types.queries import MAX_HITS, SearchSpec
from search_server.types.searches import Hit, Search, SearchTimings, Selection
from sentinel_core.calls import Deadline
from sentinel_core.errors import SentinelError
from sentinel_core.metrics import ServerMetrics
from sentinel_store.collections import CollectionInfo, MatchLevels
from sentinel_store.images.image_store import ImageStore
from sentinel_store.milvus import schema

# Thumbnails held in memory at once, besides those of the message that is being filled.
_SHOWN_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Page:
    """A page of hits, its search, and the position of the next page; None on the last one."""

    search: Search
    hits: list[Hit]
    next_position: Position | None


class Searcher:
    """Answers searches. Stateless; any number of searches run at once."""

    def __init__(
        self,
        catalog: Catalog,
        query_vectors: QueryVectors,
        store: SearchStore,
        images: ImageStore,
        calibrator: MatchCalibrator,
        *,
        row_memory: RowMemory,
        metrics: ServerMetrics,
    ) -> None:
        self._catalog = catalog
        self._query_vectors = query_vectors
        self._images = images
        self._calibrator = calibrator
        self._metrics = metrics
        self._retrieval = NearestHits(store, row_memory, metrics)
        self._reranker = Reranker(store, self._retrieval, row_memory)

    async def prepare(self, spec: SearchSpec, deadline: Deadline) -> Search:
        """Check `spec` against its collection and find the query's vector.

        The deadline is that of the whole search.

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
        """Prepare several searches, and find all vectors at once; each search fails alone."""
        started = perf_counter()
        searches: list[Search | SentinelError] = []
        checked = [(spec, await self._check(spec, deadline)) for spec in specs]
        queries = [
            (spec.query, selection.collection)
            for spec, selection in checked
            if not isinstance(selection, SentinelError)
        ]
        vectors = iter(await self._query_vectors.find(queries, deadline))
        for spec, selection in checked:
            if isinstance(selection, SentinelError):
                searches.append(selection)
                continue
            found = next(vectors)
            if isinstance(found, SentinelError):
                searches.append(found)
            else:
                searches.append(
                    Search(
                        spec,
                        selection,
                        found.vector,
                        found.timings,
                        started,
                        found.notices,
                        self._match_levels(spec, selection.collection),
                    )
                )
        return searches

    def _match_levels(self, spec: SearchSpec, collection: CollectionInfo) -> MatchLevels | None:
        if not spec.query.is_text or spec.hybrid is not None:
            return None
        self._calibrator.note_search(collection)
        return self._calibrator.levels_of(collection)

    async def _check(self, spec: SearchSpec, deadline: Deadline) -> Selection | SentinelError:
        try:
            find = self._catalog.get_own if spec.own_name else self._catalog.get
            collection = await find(spec.collection, deadline)
            schema.check_names(spec.output_fields, collection.fields, "params.output_fields")
            if spec.index_params:
                vector_search.check_index_params(spec.index_params)
            if spec.is_reranked:
                await self._reranker.check(spec, collection, deadline)
            filter_expression = filters.compile_filter(
                spec.filter, collection.fields, "params.filter"
            )
        except SentinelError as error:
            return error
        expression = filter_expression
        for item_id in spec.query.item_ids:
            expression = schema.excluding(expression, item_id)
        return Selection(
            collection,
            expression,
            spec.consistency or collection.consistency,
            deadline,
            spec.index_params,
            filter_expression,
        )

    def hits(
        self, search: Search, limit: int, after: Position = START
    ) -> AsyncGenerator[list[Hit], None]:
        """Yield up to `limit` hits that follow `after`, some at a time, ready to be shown.

        They are fetched as the caller takes them: memory holds a few hundred of them, and a caller
        that stops ends the fetching.
        """
        source = self._reranker if search.spec.is_reranked else self._retrieval
        return self._shown(search, source.blocks(search, limit, after))

    async def page(
        self,
        search: Search,
        size: int,
        position: Position,
        *,
        max_bytes: int,
        first_hits: list[Hit] | None = None,
    ) -> Page:
        """Return the page after `position`.

        Args:
            search: A prepared search.
            size: Most hits of the page.
            position: Where the page begins.
            max_bytes: Most bytes of the page; one hit may have more.
            first_hits: For a first page: its hits and one more, if they are known already. They
                leave the list.
        """
        # One more than the page holds tells whether another follows.
        limit = min(size + 1, MAX_HITS - position.rank)
        source = (
            self.hits(search, limit, position)
            if first_hits is None
            else self._shown(search, _one_block(first_hits))
        )
        async with aclosing(source) as hits:
            page, more = await paging.first_page(hits, size, max_bytes)
        if not more:
            return Page(search, page, None)
        return Page(search, page, position.advanced([(hit.row.id, hit.score) for hit in page]))

    def first_hits(
        self, searches: Sequence[Search], size: int
    ) -> AsyncGenerator[list[list[Hit] | None], None]:
        """Yield what `page` takes as `first_hits`, for some of the searches at a time.

        Args:
            searches: Equal in everything but the vector and the query's own items.
            size: Hits of a page, below 500.
        """
        return self._retrieval.first_hits(searches, size + 1)

    async def _shown(
        self, search: Search, blocks: AsyncGenerator[list[Hit], None]
    ) -> AsyncGenerator[list[Hit], None]:
        """Yield the hits with image URIs, match levels and, if requested, thumbnails.

        They leave their blocks, so that only the caller holds their thumbnails.
        """
        spec = search.spec
        projection = Projection(spec.output_fields, include_thumbnails=spec.include_thumbnails)
        async with aclosing(blocks):
            async for block in blocks:
                while block:
                    part = block[:_SHOWN_AT_ONCE]
                    del block[:_SHOWN_AT_ONCE]
                    await present(part, self._images, projection)
                    if search.match_levels is not None:
                        for hit in part:
                            hit.match = search.match_of(hit.row, hit.score)
                    yield part

    def finish(self, search: Search) -> SearchTimings:
        """Record the total time of a search, and return its times."""
        search.timings.total = perf_counter() - search.started
        self._metrics.observe_stage("total", search.timings.total)
        return search.timings


async def _one_block(hits: list[Hit]) -> AsyncGenerator[list[Hit], None]:
    yield hits
