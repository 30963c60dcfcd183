"""The calls of SearchService: search, page through results, search in batches."""
# ruff: noqa: ASYNC109 - a timeout becomes a gRPC deadline, which asyncio.timeout could not send

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any, Unpack

from sentinel.search.v1 import search_service_pb2 as search_pb
from sentinel_client import _messages, _rpcs, _search_messages
from sentinel_client._connection import ServiceCalls
from sentinel_client._errors import (
    Internal,
    InvalidArgument,
    ResultTruncated,
    SentinelError,
    from_status,
)
from sentinel_client._processes import in_thread
from sentinel_client._query import Q, Term
from sentinel_client._requests import gather_bounded, load_image, split
from sentinel_client._search_types import (
    Hit,
    Notice,
    SearchOptions,
    SearchPage,
    SearchResult,
    SearchTimings,
)
from sentinel_client._types import ImageUri

# The contract's limit for one BatchSearch, and how many of these requests run at once.
_MAX_SEARCHES = 64
_MAX_PAGE = 1_000
_BATCHES_IN_FLIGHT = 2


class SearchCalls(ServiceCalls):
    """The part of the client that searches.

    A query is a text or a `Q`. Pass `image`, `vector` or `item_id` instead of a query.
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
        """Return the nearest items, best first. `SearchOptions` lists the other arguments.

        Raises:
            ResultTruncated: The server's stream ended early, so hits may be missing.
        """
        header, hits, summary = search_pb.SearchHeader(), list[Hit](), None
        async for event in self._events(query, collection, options, limit=limit, timeout=timeout):
            if event.HasField("header"):
                header = event.header
            hits.extend(map(_search_messages.hit_from_proto, event.chunk.hits))
            if event.HasField("summary"):
                summary = event.summary
        if summary is None:
            raise _truncated()
        return _search_messages.result_from_proto(header, hits, summary)

    async def stream_search(
        self,
        query: str | Q | None = None,
        *,
        collection: str,
        limit: int = 20,
        chunk_size: int | None = None,
        timeout: float | None = None,
        on_timings: Callable[[SearchTimings], None] | None = None,
        on_notices: Callable[[tuple[Notice, ...]], None] | None = None,
        **options: Unpack[SearchOptions],
    ) -> AsyncGenerator[Hit, None]:
        """Yield the nearest items, best first, as they arrive; for results of up to 10,000 hits.

        The server sends `chunk_size` hits at once, 1 to 1,000; the default is 32.
        Closing the iterator (`aclose`, or a `break` in the synchronous client) ends the search.
        `on_timings` and `on_notices` are called after the last hit.

        Raises:
            ResultTruncated: The server's stream ended early, so hits may be missing.
        """
        complete = False
        events = self._events(
            query, collection, options, limit=limit, chunk_size=chunk_size, timeout=timeout
        )
        async for event in events:
            for hit in event.chunk.hits:
                yield _search_messages.hit_from_proto(hit)
            if event.HasField("summary"):
                complete = True
                if on_timings is not None:
                    on_timings(_search_messages.timings_from_proto(event.summary))
                if on_notices is not None:
                    on_notices(_search_messages.notices_from_proto(event.summary))
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
        """Return one page of hits; pass its `next_page_token` to get the next."""
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
        """Yield all pages, each with its own `timeout`; 10,000 hits at most."""
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

        Any number of queries are embedded and searched together. A bad query fails alone: the
        list has its error. `timeout` is for each request of up to 64 queries; there are further
        ones while large hits do not fit into one response.
        """
        if isinstance(queries, str | Q):
            raise TypeError("give a list of queries, not one")
        limit = min(limit, _MAX_PAGE)
        searches = [await _page_request(query, collection, options, limit) for query in queries]
        found: dict[int, SearchPage | SentinelError] = {}
        left: dict[int, search_pb.SearchPageRequest] = {}
        for index, search in enumerate(searches):
            if isinstance(search, SentinelError):
                found[index] = search
            else:
                left[index] = search
        while left:
            pages = await self._search_together(list(left.values()), timeout)
            for index, page in zip(list(left), pages, strict=True):
                found[index] = so_far = _continued(found.get(index), page)
                if isinstance(so_far, SentinelError) or _is_whole(so_far, limit):
                    del left[index]
                else:
                    left[index].page_token = so_far.next_page_token
                    left[index].page_size = limit - len(so_far)
        return [found[index] for index in range(len(searches))]

    async def _search_together(
        self, searches: list[search_pb.SearchPageRequest], timeout: float | None
    ) -> list[SearchPage | SentinelError]:
        """Return one page, or its error, for each search."""

        async def send(batch: list[search_pb.SearchPageRequest]) -> search_pb.BatchSearchResponse:
            request = search_pb.BatchSearchRequest(searches=batch)
            response = await self._connection.unary(_rpcs.BATCH_SEARCH, request, timeout)
            if len(response.results) != len(batch):
                raise Internal(
                    "INTERNAL", f"{len(response.results)} results for {len(batch)} queries"
                )
            return response

        batches = split(
            searches,
            lambda search: search.ByteSize(),
            max_items=_MAX_SEARCHES,
            max_bytes=self._config.upsert_max_bytes,
        )
        answers = await gather_bounded(send, list(batches), _BATCHES_IN_FLIGHT)
        return [_outcome(result) for answer in answers for result in answer.results]

    async def _page(
        self, request: search_pb.SearchPageRequest, timeout: float | None
    ) -> SearchPage:
        response = await self._connection.unary(_rpcs.SEARCH_PAGE, request, timeout)
        return _search_messages.page_from_proto(response)

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
        stream = self._connection.stream(_rpcs.SEARCH, request, timeout)
        # Close it now, not at garbage collection, to end the call.
        async with aclosing(stream):
            async for event in stream:
                yield event


async def _page_request(
    query: str | Q, collection: str, options: Mapping[str, Any], limit: int
) -> search_pb.SearchPageRequest | SentinelError:
    """Return one search of a batch, or the error of a query that cannot be sent."""
    try:
        params = await _search_params(query, collection, options)
    except OSError as error:
        return InvalidArgument("FILE_UNREADABLE", f"cannot read the image of a query: {error}")
    except UnicodeEncodeError as error:
        return InvalidArgument("NOT_UNICODE", f"the query is not valid Unicode: {error.reason}")
    return search_pb.SearchPageRequest(params=params, page_size=limit)


async def _search_params(
    query: str | Q | None, collection: str, options: Mapping[str, Any]
) -> search_pb.SearchParams:
    rest = dict(options)
    instead = {name: rest.pop(name, None) for name in ("image", "vector", "item_id")}
    if not isinstance(query, Q):
        query = Q(query, **instead)
    elif any(value is not None for value in instead.values()):
        raise TypeError("give a Q or one of image, vector and item_id, not both")
    terms = [(term, await _load_image(term)) for term in query.terms]
    return _messages.search_params(collection, _messages.query_to_proto(terms), **rest)


async def _load_image(term: Term) -> bytes | ImageUri | None:
    if term.image is None or isinstance(term.image, bytes | ImageUri):
        return term.image
    return await in_thread(partial(load_image, term.image))


def _continued(
    before: SearchPage | SentinelError | None, page: SearchPage | SentinelError
) -> SearchPage | SentinelError:
    """Return `page` with the hits of the pages before it."""
    if not isinstance(before, SearchPage) or isinstance(page, SentinelError):
        return page
    return replace(before, hits=before.hits + page.hits, next_page_token=page.next_page_token)


def _is_whole(page: SearchPage, limit: int) -> bool:
    return len(page) >= limit or not page.next_page_token


def _outcome(result: search_pb.BatchSearchResult) -> SearchPage | SentinelError:
    if result.WhichOneof("outcome") == "error":
        return from_status(result.error)
    return _search_messages.page_from_proto(result.page)


def _truncated() -> ResultTruncated:
    return ResultTruncated(
        "RESULT_TRUNCATED", "the stream of hits ended before its summary; search again"
    )
