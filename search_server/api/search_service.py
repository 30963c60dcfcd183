"""SearchService: messages in, use case, messages out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc

from search_server.api import common_messages, search_messages
from search_server.api.page_tokens import PageTokens, page_size
from search_server.search import message_size
from search_server.search.batch_search import BatchSearcher, Entry, Page
from search_server.search.position import Position
from search_server.search.searcher import Searcher
from search_server.types.items import Search
from search_server.types.queries import MAX_HITS
from sentinel.search.v1 import search_service_pb2 as pb
from sentinel.search.v1 import search_service_pb2_grpc as pb_grpc
from sentinel_core.calls import Deadline, check_count, note_items
from sentinel_core.errors import InvalidArgument, SentinelError
from sentinel_core.status import to_status

_DEFAULT_LIMIT = 20
_DEFAULT_CHUNK = 32
_MAX_CHUNK = 1_000
_MAX_PAGE = 1_000
_MAX_SEARCHES = 64

Context = grpc.aio.ServicerContext[Any, Any]


class SearchService(pb_grpc.SearchServiceServicer):
    """Streams and pages of ranked hits."""

    def __init__(self, searcher: Searcher, tokens: PageTokens, timeout_s: float) -> None:
        self._searcher = searcher
        self._batches = BatchSearcher(searcher)
        self._tokens = tokens
        self._timeout_s = timeout_s

    async def Search(
        self, request: pb.SearchRequest, context: Context
    ) -> AsyncIterator[pb.SearchResponse]:
        limit = _in_range(request, "limit", _DEFAULT_LIMIT, MAX_HITS)
        chunk_size = _in_range(request, "chunk_size", _DEFAULT_CHUNK, _MAX_CHUNK)
        deadline = Deadline.after(context.time_remaining(), default_s=self._timeout_s)
        search = await self._searcher.prepare(search_messages.spec_from(request.params), deadline)
        # The header goes with the first hits: until its first message a stream can be retried by
        # anybody. The summary goes with the last ones, since a message costs more than its hits.
        response = pb.SearchResponse(header=_header(search))
        sent = 0
        async with (
            aclosing(self._searcher.hits(search, limit, deadline)) as hits,
            aclosing(message_size.packed(hits, chunk_size)) as chunks,
        ):
            async for chunk, more in chunks:
                sent += len(chunk)
                search_messages.add_hits(response.chunk, chunk)
                if more and sent < limit:
                    yield response
                    response = pb.SearchResponse()
        response.summary.CopyFrom(search_messages.summary_to(sent, self._searcher.finish(search)))
        yield response

    async def SearchPage(
        self, request: pb.SearchPageRequest, context: Context
    ) -> pb.SearchPageResponse:
        asked = self._asked(request)
        deadline = Deadline.after(context.time_remaining(), default_s=self._timeout_s)
        search = await self._searcher.prepare(asked.spec, deadline)
        page = await self._searcher.page(search, asked.size, asked.position, deadline)
        return self._page(request, Page(search, *page))

    async def BatchSearch(
        self, request: pb.BatchSearchRequest, context: Context
    ) -> pb.BatchSearchResponse:
        note_items(len(request.searches))
        check_count(len(request.searches), _MAX_SEARCHES, "searches")
        deadline = Deadline.after(context.time_remaining(), default_s=self._timeout_s)
        entries: list[Entry | SentinelError] = []
        for search in request.searches:
            try:
                entries.append(self._asked(search))
            except SentinelError as error:
                entries.append(error)
        response = pb.BatchSearchResponse()
        pages = await self._batches.pages(entries, deadline)
        for place, (search, page) in enumerate(zip(request.searches, pages, strict=True)):
            if isinstance(page, SentinelError):
                field = f"searches[{place}].{page.field}" if page.field else f"searches[{place}]"
                response.results.add(error=to_status(page.at(field)))
            else:
                response.results.add(page=self._page(search, page))
        return response

    def _asked(self, request: pb.SearchPageRequest) -> Entry:
        return Entry(
            spec=search_messages.spec_from(request.params),
            size=page_size(request.page_size, _DEFAULT_LIMIT, _MAX_PAGE),
            position=Position.unpack(self._tokens.read(request.page_token, _identity(request))),
        )

    def _page(self, request: pb.SearchPageRequest, page: Page) -> pb.SearchPageResponse:
        response = pb.SearchPageResponse()
        search_messages.add_hits(response, page.hits)
        if page.following is not None:
            token = self._tokens.make(page.following.pack(), _identity(request))
            response.next_page_token = token
        timings = self._searcher.finish(page.search)
        response.summary.CopyFrom(search_messages.summary_to(len(page.hits), timings))
        return response


def _identity(request: pb.SearchPageRequest) -> bytes:
    """Return what a page token belongs to, in whichever call it comes."""
    return b"SearchPage\0" + request.params.SerializeToString(deterministic=True)


def _header(search: Search) -> pb.SearchHeader:
    return pb.SearchHeader(
        collection=search.collection.name,
        model_version=common_messages.model_to(search.collection.model),
    )


def _in_range(request: pb.SearchRequest, name: str, default: int, most: int) -> int:
    if not request.HasField(name):
        return default
    value: int = getattr(request, name)
    if not 1 <= value <= most:
        raise InvalidArgument(
            "PARAMETER_OUT_OF_RANGE", f"{name} is {value}; it must be 1 to {most}", field=name
        )
    return value
