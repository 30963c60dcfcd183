"""Serve the EmbeddingService: check requests, call the engine, build responses.

Answers the messages of one stream concurrently, and reads no faster than it answers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, Generic, TypeVar

import grpc

from embedder_server.api import messages
from embedder_server.engine.engine import Engine
from embedder_server.settings import EmbedderSettings
from embedder_server.types import Content, EmbedOptions, EmbedResults
from sentinel.common.v1 import content_pb2
from sentinel.embedding.v1 import embedding_service_pb2 as pb
from sentinel.embedding.v1 import embedding_service_pb2_grpc as pb_grpc
from sentinel_core.access.guard import Rule
from sentinel_core.access.scopes import Scope
from sentinel_core.calls import Deadline, check_count, next_or_stop, note_items, together
from sentinel_core.errors import SentinelError, Unavailable, first_error, hide
from sentinel_core.interceptors import MethodLimits
from sentinel_core.responses import max_response_bytes, too_large
from sentinel_core.server import Service
from sentinel_core.settings import LONGEST_STREAM_S, SMALL_REQUEST_BYTES
from sentinel_core.status import to_status
from sentinel_core.vectors import Role, rank

logger = logging.getLogger(__name__)

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["EmbeddingService"].full_name

_STREAM_BYTES = 16  # a sequence number, and the tag and length of an answer

_Context = grpc.aio.ServicerContext[Any, Any]


class EmbeddingService(pb_grpc.EmbeddingServiceServicer):
    """Answers UNAVAILABLE until `serve` is called.

    Attributes:
        draining: Set it to end streams after what they have read.
    """

    def __init__(self, settings: EmbedderSettings) -> None:
        self._settings = settings
        self._engine: Engine | None = None
        self._version = content_pb2.ModelVersion()
        self.draining = asyncio.Event()

    def service(self) -> Service:
        """Return what a server needs to register this servicer."""
        settings = self._settings
        most, seconds = settings.max_message_bytes, settings.max_call_seconds
        limits = {
            "": MethodLimits(most, seconds),
            "EmbedStream": MethodLimits(most, LONGEST_STREAM_S),
            "GetModel": MethodLimits(SMALL_REQUEST_BYTES, seconds),
        }
        rules = {method: Rule(Scope.EMBED) for method in ("Embed", "EmbedStream", "Rank")}
        rules["GetModel"] = Rule(Scope.READ)
        register = pb_grpc.add_EmbeddingServiceServicer_to_server
        return Service(SERVICE_NAME, register, self, limits, rules)

    def serve(self, engine: Engine) -> None:
        """Answer calls with `engine`, which must be started."""
        self._engine = engine
        self._version = messages.model_version(engine.info)

    async def Embed(self, request: pb.EmbedRequest, context: _Context) -> pb.EmbedResponse:
        note_items(len(request.contents))
        return await self._embed(request, context)

    async def _embed(self, request: pb.EmbedRequest, context: _Context) -> pb.EmbedResponse:
        engine = self._ready()
        options = messages.options_from(request, engine.info)
        limit = self._settings.max_contents_per_request
        check_count(len(request.contents), limit, "contents")
        contents = messages.contents_from(request.contents, "contents")
        outcome = await engine.embed(contents, options, self._deadline(context))
        return messages.embed_response(contents, outcome, options.element, self._version)

    async def EmbedStream(
        self, request_iterator: AsyncIterator[pb.EmbedStreamRequest], context: _Context
    ) -> AsyncIterator[pb.EmbedStreamResponse]:
        self._ready()
        items = 0

        async def with_defaults() -> AsyncIterator[pb.EmbedStreamRequest]:
            """Yield the messages; give those without options the options of the first one."""
            nonlocal items
            defaults: pb.EmbedOptions | None = None
            async for message in request_iterator:
                request = message.request
                if defaults is None:
                    defaults = request.options
                elif not request.HasField("options"):
                    request.options.CopyFrom(defaults)
                items += len(request.contents)
                yield message

        pump = StreamPump(
            partial(self._answer, context),
            lambda message: len(message.request.contents),
            self._settings.max_stream_items,
            self.draining,
        )
        async with aclosing(pump.run(with_defaults())) as responses:
            async for response in responses:
                yield response
        note_items(items)
        if self.draining.is_set():
            raise Unavailable(
                "DRAINING",
                "this worker is shutting down and has answered all that it read; send the rest to "
                "another one",
            )

    async def _answer(
        self, context: _Context, message: pb.EmbedStreamRequest
    ) -> pb.EmbedStreamResponse:
        """Return the answer to one message of a stream; an error becomes part of it."""
        try:
            response = await self._embed(message.request, context)
            size, most = response.ByteSize() + _STREAM_BYTES, max_response_bytes()
            if size > most:
                raise too_large(size, most)
        except Exception as error:
            if not isinstance(error, SentinelError):
                error = hide(error, "stream message failed", logger)
            return pb.EmbedStreamResponse(sequence=message.sequence, error=to_status(error))
        return pb.EmbedStreamResponse(sequence=message.sequence, response=response)

    async def Rank(self, request: pb.RankRequest, context: _Context) -> pb.RankResponse:
        note_items(1 + len(request.candidates))
        engine = self._ready()
        messages.check_model(request.model, engine.info)
        top_k = messages.top_k_from(request)
        limit = self._settings.max_contents_per_request - 1  # the query is one of them
        check_count(len(request.candidates), limit, "candidates")
        contents = [
            messages.content_from(request.query, "query"),
            *messages.contents_from(request.candidates, "candidates"),
        ]
        outcome = await _embed_by_role(
            engine, contents, messages.rank_roles_from(request), self._deadline(context)
        )
        query, *candidates = (result.outcome for result in outcome.results)
        if isinstance(query, SentinelError):
            raise messages.located(query, contents[0], "query")
        good, errors = [], []
        for index, candidate in enumerate(candidates):
            if isinstance(candidate, SentinelError):
                errors.append((index, candidate))
            else:
                good.append((index, candidate))
        ranked = rank(query, good, engine.info, top_k)
        return messages.rank_response(contents[1:], ranked, errors, outcome.timings, self._version)

    async def GetModel(self, request: pb.GetModelRequest, context: _Context) -> pb.GetModelResponse:
        engine = self._ready()
        messages.check_model(request.model, engine.info)
        return messages.model_response(engine.info, self._settings)

    def _ready(self) -> Engine:
        if self._engine is None:
            raise Unavailable("LOADING", "this worker is loading its model; retry soon")
        return self._engine

    def _deadline(self, context: _Context) -> Deadline:
        return Deadline.after(context.time_remaining(), default_s=self._settings.max_call_seconds)


async def _embed_by_role(
    engine: Engine, contents: Sequence[Content], roles: tuple[Role, Role], deadline: Deadline
) -> EmbedResults:
    """Embed a query with one role, and the candidates after it with another."""
    of_query, of_candidates = (EmbedOptions(role=role) for role in roles)
    if of_query == of_candidates or not engine.info.asymmetric:
        return await engine.embed(contents, of_query, deadline)
    query, candidates = await together(
        [
            engine.embed(contents[:1], of_query, deadline),
            engine.embed(contents[1:], of_candidates, deadline),
        ]
    )
    return EmbedResults(
        query.results + candidates.results, query.timings.longest(candidates.timings)
    )


_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class StreamPump(Generic[_Request, _Response]):
    """Answers the requests of one stream concurrently, and yields responses as they are ready.

    A message counts from before its work starts until its response is sent, so neither requests
    nor responses accumulate, whichever side is slow. Use it once, in one event loop.

    Args:
        answer: Makes the response to one request. It must not raise: a message's error belongs in
            its response, and any exception ends the stream.
        weigh: Size of a request, in items; counts as at least 1.
        max_items: Most items in work. A larger message is answered alone.
        stopping: Once set, nothing more is read; what was read is answered.
    """

    def __init__(
        self,
        answer: Callable[[_Request], Awaitable[_Response]],
        weigh: Callable[[_Request], int],
        max_items: int,
        stopping: asyncio.Event,
    ) -> None:
        self._answer = answer
        self._weigh = weigh
        self._max_items = max_items
        self._stopping = stopping
        self._items = 0
        self._room = asyncio.Event()
        # Bounded by `max_items`, because each of its elements still counts.
        self._done: asyncio.Queue[tuple[_Response, int] | None] = asyncio.Queue()

    async def run(self, requests: AsyncIterator[_Request]) -> AsyncGenerator[_Response]:
        """Yield a response for every request; end after the last one.

        Raises:
            Exception: What reading, or `answer`, raised, unchanged.
        """
        reader = asyncio.create_task(self._read(requests))
        try:
            while (done := await self._done.get()) is not None:
                response, items = done
                yield response
                # Now the response is sent: gRPC takes the next one only then.
                self._items -= items
                self._room.set()
            await reader
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _read(self, requests: AsyncIterator[_Request]) -> None:
        stop: asyncio.Future[Any] = asyncio.ensure_future(self._stopping.wait())
        try:
            async with asyncio.TaskGroup() as group:
                while (read := await next_or_stop(requests, stop)) is not None:
                    [request] = read
                    items = max(1, self._weigh(request))
                    await self._until_room(items)
                    self._items += items
                    group.create_task(self._work(request, items))
        except BaseExceptionGroup as errors:
            raise first_error(errors) from None
        finally:
            stop.cancel()
            self._done.put_nowait(None)

    async def _until_room(self, items: int) -> None:
        while self._items and self._items + items > self._max_items:
            self._room.clear()
            await self._room.wait()

    async def _work(self, request: _Request, items: int) -> None:
        self._done.put_nowait((await self._answer(request), items))
