"""Serve SearchService: convert the request, search, convert the hits."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace

from search_server.api import common_messages, search_messages
from search_server.api.admission import cost_of
from search_server.api.common_messages import Context, shown_name
from search_server.api.page_tokens import PageTokens, page_size
from search_server.search.batch_search import BatchSearcher, PageRequest
from search_server.search.paging import START, Chunks, Position
from search_server.search.searcher import Page, Searcher
from search_server.types.queries import MAX_HITS
from search_server.types.searches import Search
from sentinel.search.v1 import search_service_pb2 as pb
from sentinel.search.v1 import search_service_pb2_grpc as pb_grpc
from sentinel_core.access.scopes import Scope
from sentinel_core.admission import Admission
from sentinel_core.calls import Deadline, check_count, current_caller, note_items
from sentinel_core.errors import SentinelError
from sentinel_core.responses import max_response_bytes, room_for_rows, too_large
from sentinel_core.status import to_status

_DEFAULT_LIMIT = 20
_DEFAULT_CHUNK = 32
_MAX_CHUNK = 1_000
_MAX_PAGE = 1_000
_MAX_SEARCHES = 64
_RESULT_BYTES = 8  # tag and length
# Room that every search of a batch has for an error, whatever the pages before it took.
_ERROR_BYTES = 8 * 1024


class SearchService(pb_grpc.SearchServiceServicer):
    """Streams and pages of ranked hits."""

    def __init__(
        self, searcher: Searcher, tokens: PageTokens, admission: Admission, timeout_s: float
    ) -> None:
        self._admission = admission
        self._searcher = searcher
        self._batches = BatchSearcher(searcher)
        self._tokens = tokens
        self._timeout_s = timeout_s

    async def Search(
        self, request: pb.SearchRequest, context: Context
    ) -> AsyncIterator[pb.SearchResponse]:
        limit = common_messages.optional(request, "limit", _DEFAULT_LIMIT, (1, MAX_HITS))
        chunk_size = common_messages.optional(
            request, "chunk_size", _DEFAULT_CHUNK, (1, _MAX_CHUNK)
        )
        spec = search_messages.spec_from(request.params)
        with self._admission.admit(cost_of(spec)) as admitted:
            search = await self._searcher.prepare(spec, self._deadline(context))
            # The header goes with the first hits, since a stream can be retried until its first
            # message. The summary goes with the last hits, since a message costs more than its
            # hits.
            response = pb.SearchResponse()
            _set_header(response.header, search)
            sent = 0
            chunks = Chunks(chunk_size, room_for_rows())
            async with aclosing(self._searcher.hits(search, limit)) as hits:
                async for some in hits:
                    for chunk in chunks.add(some):
                        sent += len(chunk)
                        search_messages.add_hits(response.chunk, chunk)
                        if sent < limit:
                            admitted.release()  # from here on the reader sets the pace
                            yield response
                            response = pb.SearchResponse()
            sent += len(chunks.rest)
            search_messages.add_hits(response.chunk, chunks.rest)
        timings = self._searcher.finish(search)
        search_messages.set_summary(response.summary, sent, timings, search.notices)
        yield response

    async def SearchPage(
        self, request: pb.SearchPageRequest, context: Context
    ) -> pb.SearchPageResponse:
        page = self._page_request_from(request)
        with self._admission.admit(cost_of(page.spec)):
            search = await self._searcher.prepare(page.spec, self._deadline(context))
            found = await self._searcher.page(
                search, page.size, page.position, max_bytes=room_for_rows()
            )
        return self._page_to(request, found)

    async def BatchSearch(
        self, request: pb.BatchSearchRequest, context: Context
    ) -> pb.BatchSearchResponse:
        note_items(len(request.searches))
        check_count(len(request.searches), _MAX_SEARCHES, "searches")
        requests: list[PageRequest | SentinelError] = []
        for search in request.searches:
            try:
                current_caller().check(Scope.SEARCH, search.params.collection)
                requests.append(self._page_request_from(search))
            except SentinelError as error:
                requests.append(error)
        response = pb.BatchSearchResponse()
        specs = (one.spec for one in requests if not isinstance(one, SentinelError))
        with self._admission.admit(cost_of(*specs)):
            room = max_response_bytes() - _ERROR_BYTES * len(requests)
            pages = await self._batches.pages(
                requests, self._deadline(context), max_bytes=min(room, room_for_rows())
            )
        for index, (search, page) in enumerate(zip(request.searches, pages, strict=True)):
            found: pb.SearchPageResponse | SentinelError = (
                self._page_within(room, search, page) if isinstance(page, Page) else page
            )
            if isinstance(found, SentinelError):
                path = f"searches[{index}]"
                moved = found.at(f"{path}.{found.field}" if found.field else path)
                result = pb.BatchSearchResult(error=to_status(moved))
            else:
                result = pb.BatchSearchResult(page=found)
            room -= result.ByteSize() + _RESULT_BYTES
            response.results.append(result)
        return response

    def _page_within(
        self, room: int, request: pb.SearchPageRequest, page: Page
    ) -> pb.SearchPageResponse | SentinelError:
        """Return a page of a batch that has `room` bytes left.

        If it does not fit, the page is empty, and its token asks for what it would have had.
        """
        message = self._page_to(request, page)
        if message.ByteSize() > room:
            del message.hits[:]
            message.summary.hit_count = 0
            message.next_page_token = request.page_token or self._token(request, page, START)
        size = message.ByteSize()
        return message if size <= room else too_large(size, max(0, room))

    def _deadline(self, context: Context) -> Deadline:
        return Deadline.after(context.time_remaining(), default_s=self._timeout_s)

    def _page_request_from(self, request: pb.SearchPageRequest) -> PageRequest:
        spec = search_messages.spec_from(request.params)
        size = page_size(request.page_size, _DEFAULT_LIMIT, _MAX_PAGE)
        collection, position = self._tokens.read_in_collection(
            request.page_token, _token_scope(request)
        )
        if collection:
            spec = replace(spec, collection=collection, own_name=True)
        return PageRequest(spec, size, Position.unpack(position))

    def _page_to(self, request: pb.SearchPageRequest, page: Page) -> pb.SearchPageResponse:
        response = pb.SearchPageResponse()
        search_messages.add_hits(response, page.hits)
        if page.next_position is not None:
            response.next_page_token = self._token(request, page, page.next_position)
        timings = self._searcher.finish(page.search)
        search_messages.set_summary(response.summary, len(page.hits), timings, page.search.notices)
        return response

    def _token(self, request: pb.SearchPageRequest, page: Page, position: Position) -> str:
        collection = page.search.selection.collection.name
        return self._tokens.make_in_collection(collection, position.pack(), _token_scope(request))


def _token_scope(request: pb.SearchPageRequest) -> bytes:
    """Return the request that a page token belongs to, in whichever method it is used."""
    return b"SearchPage\0" + request.params.SerializeToString(deterministic=True)


def _set_header(header: pb.SearchHeader, search: Search) -> None:
    collection = search.selection.collection
    header.collection = shown_name(collection.name)
    common_messages.set_model(header.model_version, collection.model)
