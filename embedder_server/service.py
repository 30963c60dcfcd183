"""The EmbeddingService of the contract: checks, hands over to the engine, answers."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc

from embedder_server import ranking, wire, wire_answers
from embedder_server.engine import Engine
from embedder_server.requests import EmbedOptions
from embedder_server.settings import EmbedderSettings
from embedder_server.streams import StreamPump
from sentinel.common.v1 import content_pb2
from sentinel.embedding.v1 import embedding_service_pb2 as pb
from sentinel.embedding.v1 import embedding_service_pb2_grpc as pb_grpc
from sentinel_core.calls import note_items
from sentinel_core.deadlines import Deadline
from sentinel_core.errors import Internal, SentinelError, Unavailable
from sentinel_core.server import Service
from sentinel_core.status import to_status

logger = logging.getLogger(__name__)

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["EmbeddingService"].full_name

_Context = grpc.aio.ServicerContext[Any, Any]


class EmbeddingServicer(pb_grpc.EmbeddingServiceServicer):
    """Answers UNAVAILABLE until it is given an engine.

    Attributes:
        draining: Set it to let streams end after what they have read.
    """

    def __init__(self, settings: EmbedderSettings) -> None:
        self._settings = settings
        self._engine: Engine | None = None
        self._version = content_pb2.ModelVersion()
        self.draining = asyncio.Event()

    def service(self) -> Service:
        """Return what a server needs to register this."""
        return Service(SERVICE_NAME, pb_grpc.add_EmbeddingServiceServicer_to_server, self)

    def serve(self, engine: Engine) -> None:
        """Answer calls with `engine`, which is started."""
        self._engine = engine
        self._version = wire_answers.model_version(engine.info)

    async def Embed(self, request: pb.EmbedRequest, context: _Context) -> pb.EmbedResponse:
        note_items(len(request.contents))
        return await self._embed(request, context)

    async def _embed(self, request: pb.EmbedRequest, context: _Context) -> pb.EmbedResponse:
        engine = self._ready()
        options = wire.options_from(request, engine.info)
        limit = self._settings.max_contents_per_request
        wire.check_count(len(request.contents), limit, "contents")
        contents = wire.contents_from(request.contents, "contents")
        outcome = await engine.embed(contents, options, self._deadline(context))
        return wire_answers.embed_response(outcome, options.element, self._version)

    async def EmbedStream(
        self, request_iterator: AsyncIterator[pb.EmbedStreamRequest], context: _Context
    ) -> AsyncIterator[pb.EmbedStreamResponse]:
        self._ready()
        call = _StreamCall(self, context)
        pump = StreamPump(
            call.answer,
            lambda message: len(message.request.contents),
            self._settings.max_stream_items,
            self.draining,
        )
        async with aclosing(pump.run(call.with_defaults(request_iterator))) as responses:
            async for response in responses:
                yield response
        note_items(call.items)
        if self.draining.is_set():
            raise Unavailable(
                "DRAINING",
                "this worker is shutting down; all that it read is answered, send the rest to "
                "another one",
            )

    async def Rank(self, request: pb.RankRequest, context: _Context) -> pb.RankResponse:
        note_items(1 + len(request.candidates))
        engine = self._ready()
        wire.check_model(request.model, engine.info)
        top_k = wire.top_k_from(request)
        limit = self._settings.max_contents_per_request - 1  # the query is one of them
        wire.check_count(len(request.candidates), limit, "candidates")
        contents = [
            wire.content_from(request.query, "query"),
            *wire.contents_from(request.candidates, "candidates"),
        ]
        outcome = await engine.embed(contents, EmbedOptions(), self._deadline(context))
        query, *candidates = (result.outcome for result in outcome.results)
        if isinstance(query, SentinelError):
            raise wire_answers.located(query, "query")
        good, errors = [], []
        for index, candidate in enumerate(candidates):
            if isinstance(candidate, SentinelError):
                errors.append((index, candidate))
            else:
                good.append((index, candidate))
        ranked = ranking.rank(query, good, engine.info, top_k)
        return wire_answers.rank_response(ranked, errors, outcome.timings, self._version)

    async def GetModel(self, request: pb.GetModelRequest, context: _Context) -> pb.GetModelResponse:
        engine = self._ready()
        wire.check_model(request.model, engine.info)
        return wire_answers.model_response(engine.info, self._settings)

    def _ready(self) -> Engine:
        if self._engine is None:
            raise Unavailable("LOADING", "this worker is loading its model; retry soon")
        return self._engine

    def _deadline(self, context: _Context) -> Deadline:
        return Deadline.after(context.time_remaining(), default_s=self._settings.max_call_seconds)


class _StreamCall:
    """One EmbedStream call: its default options and its messages' answers.

    Attributes:
        items: Contents of all messages so far.
    """

    def __init__(self, servicer: EmbeddingServicer, context: _Context) -> None:
        self._servicer = servicer
        self._context = context
        self.items = 0

    async def with_defaults(
        self, messages: AsyncIterator[pb.EmbedStreamRequest]
    ) -> AsyncIterator[pb.EmbedStreamRequest]:
        """Yield the messages, those without options with those of the first one."""
        defaults: pb.EmbedOptions | None = None
        async for message in messages:
            request = message.request
            if defaults is None:
                defaults = request.options
            elif not request.HasField("options"):
                request.options.CopyFrom(defaults)
            self.items += len(request.contents)
            yield message

    async def answer(self, message: pb.EmbedStreamRequest) -> pb.EmbedStreamResponse:
        """Return the answer to one message; what it fails with stands inside."""
        try:
            response = await self._servicer._embed(message.request, self._context)
        except SentinelError as error:
            return pb.EmbedStreamResponse(sequence=message.sequence, error=to_status(error))
        except Exception as error:
            error_id = uuid.uuid4().hex
            logger.error("stream message failed", exc_info=error, extra={"error_id": error_id})
            hidden = Internal(
                "INTERNAL",
                f"internal error {error_id}; the worker's log has the details",
                error_id=error_id,
            )
            return pb.EmbedStreamResponse(sequence=message.sequence, error=to_status(hidden))
        return pb.EmbedStreamResponse(sequence=message.sequence, response=response)
