"""Searching: the calls of SearchService."""
# ruff: noqa: ASYNC109 - a timeout becomes a gRPC deadline, which asyncio.timeout could not send

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from typing import Any, Unpack

from sentinel.search.v1 import search_service_pb2 as search_pb
from sentinel_client import _convert_search as convert
from sentinel_client import _rpcs
from sentinel_client._batches import cut, gather_bounded
from sentinel_client._calls import Calls
from sentinel_client._convert import model_from_proto
from sentinel_client._errors import Internal, ResultTruncated, SentinelError, from_status
from sentinel_client._images import read_image
from sentinel_client._query import Q
from sentinel_client._search_types import (
    Hit,
    SearchOptions,
    SearchPage,
    SearchResult,
    SearchTimings,
)

# What the contract takes in one BatchSearch, and how many of those are on their way at once.
_MAX_SEARCHES = 64
_BATCHES_IN_FLIGHT = 2


class SearchCalls(Calls):
    """The part of the client that searches.

    Everywhere, a query is words or a `Q`; `image`, `vector` and `item_id` may stand instead.
    """

    async def search(
        self,
        query: str | Q | None = None,
        *,
        collection: str,
        limit: int = 20,
        timeout: float | None = None,
        **options: Unpack[SearchOptions],
    ) -> SearchResult:
        """Return the nearest items, best first, all at once. `SearchOptions` has the rest.

        Raises:
            ResultTruncated: The server's stream broke off, so hits may be missing.
        """
        header, hits, summary = search_pb.SearchHeader(), list[Hit](), None
        async for event in self._events(query, collection, options, limit=limit, timeout=timeout):
            if event.HasField("header"):
                header = event.header
            hits.extend(map(convert.hit_from_proto, event.chunk.hits))
            if event.HasField("summary"):
                summary = event.summary
        if summary is None:
            raise _truncated()
        return SearchResult(
            hits=tuple(hits),
            timings=convert.timings_from_proto(summary),
            collection=header.collection,
            model=model_from_proto(header.model_version),
        )

    async def stream_search(
        self,
        query: str | Q | None = None,
        *,
        collection: str,
        limit: int = 20,
        chunk_size: int | None = None,
        timeout: float | None = None,
        on_timings: Callable[[SearchTimings], None] | None = None,
        **options: Unpack[SearchOptions],
    ) -> AsyncGenerator[Hit, None]:
        """Yield the nearest items, best first, as they come; for long results, up to 10,000.

        The server sends `chunk_size` hits at once, 1 to 1,000; None takes its default, 32.
        Closing the iterator (`aclose`, or a `break` in the synchronous client) ends the search.
        `on_timings` is called after the last hit.

        Raises:
            ResultTruncated: The server's stream broke off, so hits may be missing.
        """
        complete = False
        events = self._events(
            query, collection, options, limit=limit, chunk_size=chunk_size, timeout=timeout
        )
        async for event in events:
            for hit in event.chunk.hits:
                yield convert.hit_from_proto(hit)
            if event.HasField("summary"):
                complete = True
                if on_timings is not None:
                    on_timings(convert.timings_from_proto(event.summary))
        if not complete:
            raise _truncated()

    async def search_page(
        self,
        query: str | Q | None = None,
        *,
        collection: str,
        page_size: int = 20,
        page_token: str = "",
        timeout: float | None = None,
        **options: Unpack[SearchOptions],
    ) -> SearchPage:
        """Return one page of hits; repeat with its `next_page_token` for the next."""
        request = search_pb.SearchPageRequest(
            params=await _search_params(query, collection, options),
            page_size=page_size,
            page_token=page_token,
        )
        return await self._page(request, timeout)

    async def pages(
        self,
        query: str | Q | None = None,
        *,
        collection: str,
        page_size: int = 20,
        timeout: float | None = None,
        **options: Unpack[SearchOptions],
    ) -> AsyncGenerator[SearchPage, None]:
        """Yield page after page, each with its own `timeout`, to the last; 10,000 hits at most."""
        request = search_pb.SearchPageRequest(
            params=await _search_params(query, collection, options), page_size=page_size
        )
        while True:
            page = await self._page(request, timeout)
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def batch_search(
        self,
        queries: Iterable[str | Q],
        *,
        collection: str,
        limit: int = 20,
        timeout: float | None = None,
        **options: Unpack[SearchOptions],
    ) -> list[SearchPage | SentinelError]:
        """Return the nearest items for each of many queries, in order; `limit` is 1,000 at most.

        Queries are embedded and searched together, any number of them. A bad one fails alone: its
        place holds the error. `timeout` is for each request of up to 64 queries.
        """
        if isinstance(queries, str | Q):
            raise TypeError("give a list of queries, not one")
        searches = [
            search_pb.SearchPageRequest(
                params=await _search_params(query, collection, options), page_size=limit
            )
            for query in queries
        ]
        seconds = self._config.timeouts.search if timeout is None else timeout

        async def ask(batch: list[search_pb.SearchPageRequest]) -> search_pb.BatchSearchResponse:
            request = search_pb.BatchSearchRequest(searches=batch)
            response = await self._connection.unary(_rpcs.BATCH_SEARCH, request, seconds)
            if len(response.results) != len(batch):
                raise Internal(
                    "INTERNAL", f"{len(response.results)} results for {len(batch)} queries"
                )
            return response

        batches = cut(
            searches,
            lambda search: search.ByteSize(),
            max_items=_MAX_SEARCHES,
            max_bytes=self._config.upsert_max_bytes,
        )
        answers = await gather_bounded(ask, list(batches), _BATCHES_IN_FLIGHT)
        return [_outcome(result) for answer in answers for result in answer.results]

    async def _page(
        self, request: search_pb.SearchPageRequest, timeout: float | None
    ) -> SearchPage:
        seconds = self._config.timeouts.search if timeout is None else timeout
        response = await self._connection.unary(_rpcs.SEARCH_PAGE, request, seconds)
        return convert.page_from_proto(response)

    async def _events(
        self,
        query: str | Q | None,
        collection: str,
        options: SearchOptions,
        *,
        limit: int,
        chunk_size: int | None = None,
        timeout: float | None,
    ) -> AsyncGenerator[search_pb.SearchResponse, None]:
        params = await _search_params(query, collection, options)
        request = search_pb.SearchRequest(params=params, limit=limit, chunk_size=chunk_size)
        seconds = self._config.timeouts.search if timeout is None else timeout
        stream = self._connection.stream(_rpcs.SEARCH, request, seconds)
        # Closed here and now, not when the garbage collector finds it: that ends the call.
        async with aclosing(stream):
            async for event in stream:
                yield event


async def _search_params(
    query: str | Q | None, collection: str, options: Mapping[str, Any]
) -> search_pb.SearchParams:
    rest = dict(options)
    instead = {name: rest.pop(name, None) for name in ("image", "vector", "item_id")}
    if not isinstance(query, Q):
        query = Q(query, **instead)
    elif any(value is not None for value in instead.values()):
        raise TypeError("give a Q or one of image, vector and item_id, not both")
    terms = [
        (term, None if term.image is None else await read_image(term.image)) for term in query.terms
    ]
    return convert.search_params(collection, convert.query_to_proto(terms), **rest)


def _outcome(result: search_pb.BatchSearchResult) -> SearchPage | SentinelError:
    if result.WhichOneof("outcome") == "error":
        return from_status(result.error)
    return convert.page_from_proto(result.page)


def _truncated() -> ResultTruncated:
    return ResultTruncated(
        "RESULT_TRUNCATED", "the stream of hits ended before its summary; search again"
    )
