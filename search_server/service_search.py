"""SearchService: messages in, use case, messages out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc

from search_server import wire
from search_server.paging import make_page_token, page_size, read_page_token
from search_server.search import Searcher
from search_server.types import MAX_HITS
from sentinel.search.v1 import search_service_pb2 as pb
from sentinel.search.v1 import search_service_pb2_grpc as pb_grpc
from sentinel_core.deadlines import Deadline
from sentinel_core.errors import InvalidArgument

_DEFAULT_LIMIT = 20
_DEFAULT_CHUNK = 32
_MAX_CHUNK = 1_000
_MAX_PAGE = 1_000

Context = grpc.aio.ServicerContext[Any, Any]


class SearchService(pb_grpc.SearchServiceServicer):
    """Streams and pages of ranked hits."""

    def __init__(self, searcher: Searcher, timeout_s: float) -> None:
        self._searcher = searcher
        self._timeout_s = timeout_s

    async def Search(
        self, request: pb.SearchRequest, context: Context
    ) -> AsyncIterator[pb.SearchResponse]:
        limit = _in_range(request, "limit", _DEFAULT_LIMIT, MAX_HITS)
        chunk_size = _in_range(request, "chunk_size", _DEFAULT_CHUNK, _MAX_CHUNK)
        deadline = Deadline.after(context.time_remaining(), default_s=self._timeout_s)
        search = await self._searcher.prepare(wire.spec_from(request.params), deadline)
        # Nothing is sent before the hits are there: until its first message a stream can be
        # retried by anybody.
        hits = await self._searcher.run(search, limit, deadline)
        yield pb.SearchResponse(
            header=pb.SearchHeader(
                collection=search.collection.name,
                model_version=wire.model_to(search.collection.model),
            )
        )
        async for chunk in self._searcher.chunks(search, hits, chunk_size):
            yield pb.SearchResponse(chunk=pb.HitChunk(hits=wire.hits_to(chunk)))
        timings = self._searcher.finish(search)
        yield pb.SearchResponse(summary=wire.summary_to(len(hits), timings))

    async def SearchPage(
        self, request: pb.SearchPageRequest, context: Context
    ) -> pb.SearchPageResponse:
        size = page_size(request.page_size, _DEFAULT_LIMIT, _MAX_PAGE)
        identity = request.params.SerializeToString(deterministic=True)
        position = read_page_token(request.page_token, identity)
        deadline = Deadline.after(context.time_remaining(), default_s=self._timeout_s)
        search = await self._searcher.prepare(wire.spec_from(request.params), deadline)
        page, following = await self._searcher.page(search, size, position, deadline)
        response = pb.SearchPageResponse()
        async for chunk in self._searcher.chunks(search, page, size):
            response.hits.extend(wire.hits_to(chunk))
        if following is not None:
            response.next_page_token = make_page_token(following, identity)
        timings = self._searcher.finish(search)
        response.summary.CopyFrom(wire.summary_to(len(page), timings))
        return response


def _in_range(request: pb.SearchRequest, name: str, default: int, most: int) -> int:
    if not request.HasField(name):
        return default
    value: int = getattr(request, name)
    if not 1 <= value <= most:
        raise InvalidArgument(
            "PARAMETER_OUT_OF_RANGE", f"{name} is {value}; it must be 1 to {most}", field=name
        )
    return value
