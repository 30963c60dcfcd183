"""Call one embedder worker, and track its health and load.

The gateway's only file that calls another gRPC server of ours.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import grpc
import numpy as np
from google.rpc import status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sentinel.common.v1 import content_pb2
from sentinel.embedding.v1 import embedding_service_pb2 as pb
from sentinel.embedding.v1 import embedding_service_pb2_grpc as pb_grpc
from sentinel_core.calls import REQUEST_ID_KEY, current_call
from sentinel_core.errors import DeadlineExceeded, Internal, SentinelError, Unavailable
from sentinel_core.status import from_status
from sentinel_store.items import Content, Kind
from sentinel_store.values import FloatArray, ModelRef

logger = logging.getLogger(__name__)

_SERVICE = "sentinel.embedding.v1.EmbeddingService"
# A worker that does not answer a health check within this time gets no work.
_HEALTH_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class EmbeddedItem:
    """The embedding of one content, or its error.

    Attributes:
        vector: float32 `[dimensions]`, L2-normalised; None if `error` is set.
        thumbnail: WebP; empty for text, or if no thumbnail was requested.
        error: Why this content could not be embedded; the others are not affected.
    """

    vector: FloatArray | None
    thumbnail: bytes = b""
    error: SentinelError | None = None


@dataclass(frozen=True, slots=True)
class Embedded:
    """A worker's answer: one item per content, in order, and its seconds by stage."""

    items: list[EmbeddedItem]
    fingerprint: str
    queue_s: float
    inference_s: float


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that a worker serves, and what the worker accepts."""

    model: ModelRef
    dimensions: int
    max_contents: int
    max_queue_items: int


class Worker:
    """One worker. Use inside one event loop; the pool owns and closes it.

    Attributes:
        served: The model it served at the last health check; None before the first one.
        items_in_flight: Contents sent and not answered yet.
    """

    def __init__(self, address: str, max_message_bytes: int) -> None:
        self.address = address
        self.healthy = False
        self.served: ServedModel | None = None
        self.items_in_flight = 0
        self._calls = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._retired = False
        self._channel = grpc.aio.insecure_channel(address, options=_options(max_message_bytes))
        self._stub = pb_grpc.EmbeddingServiceStub(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)

    @property
    def fingerprint(self) -> str | None:
        return self.served.model.fingerprint if self.served else None

    async def check(self) -> None:
        """Check the worker's health; if it has just become healthy, ask which model it serves."""
        if self._retired:
            return
        try:
            with self._load(0):
                answer = await self._health.Check(
                    health_pb2.HealthCheckRequest(service=_SERVICE), timeout=_HEALTH_TIMEOUT_S
                )
                serving = answer.status == health_pb2.HealthCheckResponse.SERVING
                if serving and not self.healthy:
                    self.served = await self._get_model()
        except grpc.aio.AioRpcError:
            serving = False
        self._set_healthy(serving)

    async def _get_model(self) -> ServedModel:
        answer = await self._stub.GetModel(pb.GetModelRequest(), timeout=_HEALTH_TIMEOUT_S)
        version, limits = answer.model.version, answer.model.limits
        return ServedModel(
            ModelRef(version.model, version.revision, version.fingerprint),
            answer.model.dimensions,
            max(1, limits.max_contents_per_request),
            limits.max_queue_items,
        )

    def _set_healthy(self, healthy: bool) -> None:
        if healthy != self.healthy:
            logger.info("worker changed", extra={"worker": self.address, "healthy": healthy})
        self.healthy = healthy

    async def embed(
        self,
        contents: Sequence[Content],
        *,
        bulk: bool,
        thumbnail_side: int,
        timeout_s: float,
    ) -> Embedded:
        """Embed a batch on this worker.

        Raises:
            SentinelError: The worker's own error. Unavailable also marks it unhealthy until a
                health check succeeds.
        """
        request = pb.EmbedRequest(
            contents=[_to_message(content) for content in contents],
            options=pb.EmbedOptions(
                priority=pb.PRIORITY_BULK if bulk else pb.PRIORITY_INTERACTIVE,
                thumbnail_side=thumbnail_side,
            ),
        )
        call = current_call.get()
        metadata = ((REQUEST_ID_KEY, call.request_id),) if call else ()
        with self._load(len(contents)):
            try:
                answer = await self._stub.Embed(request, timeout=timeout_s, metadata=metadata)
            except grpc.aio.AioRpcError as error:
                raise self._converted(error) from error
        if len(answer.results) != len(contents):
            raise Internal("MODEL_FAILED", f"worker {self.address} answered a wrong-sized batch")
        return Embedded(
            items=[_from_message(result) for result in answer.results],
            fingerprint=answer.model_version.fingerprint,
            queue_s=answer.timings.queue.ToNanoseconds() / 1e9,
            inference_s=answer.timings.inference.ToNanoseconds() / 1e9,
        )

    @contextmanager
    def _load(self, items: int) -> Iterator[None]:
        self.items_in_flight += items
        self._calls += 1
        self._idle.clear()
        try:
            yield
        finally:
            self.items_in_flight -= items
            self._calls -= 1
            if not self._calls:
                self._idle.set()

    def _converted(self, error: grpc.aio.AioRpcError) -> SentinelError:
        for key, value in error.trailing_metadata() or ():
            if key == "grpc-status-details-bin" and isinstance(value, bytes):
                converted = from_status(status_pb2.Status.FromString(value))
                if isinstance(converted, Unavailable):
                    self._set_healthy(False)
                return converted
        code, where = error.code(), f"worker {self.address}"
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineExceeded("OUT_OF_TIME", f"{where} did not answer in time", stage="embed")
        if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
            self._set_healthy(False)
            return Unavailable("WORKER_LOST", f"{where} went away; retry")
        logger.error("worker failed", extra={"worker": self.address, "error": repr(error)})
        return Internal("MODEL_FAILED", f"{where} failed with {code.name}")

    async def retire(self) -> None:
        """Close the channel once the calls in flight have ended; start no new ones."""
        self._retired = True
        try:
            await self._idle.wait()
        finally:
            await self.close()

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()


def _to_message(content: Content) -> content_pb2.Content:
    if content.kind is Kind.TEXT:
        return content_pb2.Content(text=content.text)
    image = content_pb2.Image(data=content.data)
    if content.crop is not None:
        image.crop.left, image.crop.top = content.crop.left, content.crop.top
        image.crop.right, image.crop.bottom = content.crop.right, content.crop.bottom
    return content_pb2.Content(image=image)


def _from_message(result: pb.EmbedResult) -> EmbeddedItem:
    if result.WhichOneof("outcome") == "error":
        return EmbeddedItem(vector=None, error=from_status(result.error))
    vector = np.frombuffer(result.vector.data, dtype="<f4").astype(np.float32, copy=False)
    return EmbeddedItem(vector=vector, thumbnail=result.image.thumbnail)


def _options(max_message_bytes: int) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        # The pool fails over at once; a hidden retry on the dead worker would only use up the
        # caller's time.
        ("grpc.enable_retries", 0),
        # Reconnect soon after a worker restart; the default backs off to two minutes.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 2_000),
    ]
