"""Searching: the calls of SearchService."""
# ruff: noqa: ASYNC109 - a timeout becomes a gRPC deadline, which asyncio.timeout could not send

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Unpack

from sentinel.search.v1 import search_service_pb2 as search_pb
from sentinel_client import _convert, _rpcs
from sentinel_client._calls import Calls
from sentinel_client._errors import ResultTruncated
from sentinel_client._images import read_image
from sentinel_client._types import Hit, SearchOptions, SearchPage, SearchResult


class SearchCalls(Calls):
    """The part of the client that searches."""

    async def search(
        self,
        text: str | None = None,
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
        async for event in self._events(text, collection, limit, timeout, options):
            kind = event.WhichOneof("event")
            if kind == "header":
                header = event.header
            elif kind == "chunk":
                hits.extend(map(_convert.hit_from_proto, event.chunk.hits))
            elif kind == "summary":
                summary = event.summary
        if summary is None:
            raise _truncated()
        return SearchResult(
            hits=tuple(hits),
            timings=_convert.timings_from_proto(summary),
            collection=header.collection,
            model=_convert.model_from_proto(header.model_version),
        )

    async def stream_search(
        self,
        text: str | None = None,
        *,
        collection: str,
        limit: int = 20,
        timeout: float | None = None,
        **options: Unpack[SearchOptions],
    ) -> AsyncGenerator[Hit, None]:
        """Yield the nearest items, best first, as they come; for long results.

        Closing the iterator (`aclose`, or a `break` in the synchronous client) ends the search.

        Raises:
            ResultTruncated: The server's stream broke off, so hits may be missing.
        """
        complete = False
        async for event in self._events(text, collection, limit, timeout, options):
            for hit in event.chunk.hits:
                yield _convert.hit_from_proto(hit)
            complete = complete or event.HasField("summary")
        if not complete:
            raise _truncated()

    async def search_page(
        self,
        text: str | None = None,
        *,
        collection: str,
        page_size: int = 20,
        page_token: str = "",
        timeout: float | None = None,
        **options: Unpack[SearchOptions],
    ) -> SearchPage:
        """Return one page of hits; repeat with its `next_page_token` for the next."""
        request = search_pb.SearchPageRequest(
            params=await _search_params(text, collection, options),
            page_size=page_size,
            page_token=page_token,
        )
        response = await self._connection.unary(
            _rpcs.SEARCH_PAGE, request, self._config.timeouts.search if timeout is None else timeout
        )
        return SearchPage(
            hits=tuple(map(_convert.hit_from_proto, response.hits)),
            next_page_token=response.next_page_token,
            timings=_convert.timings_from_proto(response.summary),
        )

    async def _events(
        self,
        text: str | None,
        collection: str,
        limit: int,
        timeout: float | None,
        options: SearchOptions,
    ) -> AsyncGenerator[search_pb.SearchResponse, None]:
        request = search_pb.SearchRequest(
            params=await _search_params(text, collection, options), limit=limit
        )
        seconds = self._config.timeouts.search if timeout is None else timeout
        stream = self._connection.stream(_rpcs.SEARCH, request, seconds)
        # Closed here and now, not when the garbage collector finds it: that ends the call.
        async with aclosing(stream):
            async for event in stream:
                yield event


async def _search_params(
    text: str | None, collection: str, options: SearchOptions
) -> search_pb.SearchParams:
    given = options.get("image")
    image = None if given is None else await read_image(given)
    arguments: dict[str, Any] = {**options, "collection": collection, "text": text, "image": image}
    return _convert.search_params(**arguments)


def _truncated() -> ResultTruncated:
    return ResultTruncated(
        "RESULT_TRUNCATED", "the stream of hits ended before its summary; search again"
    )
