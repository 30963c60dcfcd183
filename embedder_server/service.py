"""The EmbeddingService of the contract: checks, hands over to the engine, answers."""

from __future__ import annotations

from typing import Any

import grpc

from embedder_server import wire
from embedder_server.engine import Engine
from embedder_server.settings import EmbedderSettings
from sentinel.embedding.v1 import embedding_service_pb2 as pb
from sentinel.embedding.v1 import embedding_service_pb2_grpc as pb_grpc
from sentinel_core.calls import note_items
from sentinel_core.deadlines import Deadline
from sentinel_core.errors import Unavailable
from sentinel_core.server import Service

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["EmbeddingService"].full_name

_Context = grpc.aio.ServicerContext[Any, Any]


class EmbeddingServicer(pb_grpc.EmbeddingServiceServicer):
    """Answers UNAVAILABLE until `engine` is set."""

    def __init__(self, settings: EmbedderSettings) -> None:
        self._settings = settings
        self.engine: Engine | None = None

    def service(self) -> Service:
        """Return what a server needs to register this."""
        return Service(SERVICE_NAME, pb_grpc.add_EmbeddingServiceServicer_to_server, self)

    async def Embed(self, request: pb.EmbedRequest, context: _Context) -> pb.EmbedResponse:
        note_items(len(request.contents))
        engine = self._ready()
        wire.check_model(request.options.model, engine.info)
        wire.check_batch(request, self._settings.max_contents_per_request)
        options = wire.options_from(request.options)
        deadline = Deadline.after(
            context.time_remaining(), default_s=self._settings.max_call_seconds
        )
        outcome = await engine.embed(wire.contents_from(request), options, deadline)
        return wire.embed_response(outcome, engine.info)

    async def GetModel(self, request: pb.GetModelRequest, context: _Context) -> pb.GetModelResponse:
        engine = self._ready()
        wire.check_model(request.model, engine.info)
        return wire.model_response(engine.info, self._settings)

    def _ready(self) -> Engine:
        if self.engine is None:
            raise Unavailable("LOADING", "this worker is loading its model; retry soon")
        return self.engine
