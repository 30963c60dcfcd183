"""Call one embedder worker, and track its health and load.

The gateway's only file that calls another gRPC server of ours.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
from google.rpc import status_pb2
from grpc_health.v1 import health_pb2

from search_server.embedders.connection import Connection, WorkerAccess
from search_server.embedders.load import CallSize, Load
from search_server.types.embeddings import (
    Embedded,
    EmbeddedItem,
    EmbedOptions,
    ImageInfo,
    WorkerTimings,
)
from sentinel.common.v1 import content_pb2
from sentinel.embedding.v1 import embedding_service_pb2 as pb
from sentinel.embedding.v1 import embedding_service_pb2_grpc as pb_grpc
from sentinel_core.calls import REQUEST_ID_KEY, current_call
from sentinel_core.errors import (
    DeadlineExceeded,
    Internal,
    PermissionDenied,
    SentinelError,
    Unauthenticated,
    Unavailable,
)
from sentinel_core.responses import MAX_RESPONSE_KEY
from sentinel_core.status import from_status
from sentinel_core.vectors import Role
from sentinel_store.items import Content, Kind
from sentinel_store.values import ModelRef

logger = logging.getLogger(__name__)

_SERVICE = "sentinel.embedding.v1.EmbeddingService"
_DETAILS_KEY = "grpc-status-details-bin"
# A worker that does not answer a health check within this time gets no work.
_HEALTH_TIMEOUT_S = 2.0
# A check that ends so much later was not awaited: this process was stopped or overloaded.
_OWN_DELAY_S = 0.5
# How long a worker may finish calls after it said NOT_SERVING. It drains within that time.
_NOT_SERVING_GRACE_S = 20.0
_ROLES = {Role.QUERY: pb.ROLE_QUERY, Role.DOCUMENT: pb.ROLE_DOCUMENT}

if TYPE_CHECKING:  # generic only in its type stubs
    _EmbedRpc = grpc.aio.UnaryUnaryCall[Any, Any]


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that a worker serves, and what the worker accepts.

    Attributes:
        details: All that the worker says about it.
    """

    model: ModelRef
    dimensions: int
    max_contents: int
    max_queue_items: int
    details: pb.Model


class WorkerState(enum.StrEnum):
    """What a worker answered to the last health check.

    GONE: nothing accepts connections. SILENT: no answer in time.
    """

    UNKNOWN = "unknown"
    SERVING = "serving"
    NOT_SERVING = "not_serving"
    SILENT = "silent"
    GONE = "gone"


_STATE_BY_CODE = {
    grpc.StatusCode.DEADLINE_EXCEEDED: WorkerState.SILENT,
    grpc.StatusCode.UNAVAILABLE: WorkerState.GONE,
}


class WorkerLost(Exception):
    """A worker was lost during a call, and did not say why.

    Attributes:
        error: For the caller, if no other worker takes over.
        planned: Whether it had said before that it takes no calls, as it does before it stops.
        survived: Whether the process still runs, or stops as planned; see `Worker.find_out`.
        ended: Whether the process has ended.
        on_trial: The kinds of the contents that were tried alone on it at that moment.
    """

    def __init__(self, error: Unavailable, *, planned: bool, on_trial: frozenset[Kind]) -> None:
        super().__init__(error.message)
        self.error = error
        self.planned = planned
        self.survived = self.ended = False
        self.on_trial = on_trial


class Worker:
    """One worker. Use inside one event loop; the pool owns and closes it.

    Attributes:
        state: What it answered to the last health check; also set by calls that fail.
        served: The model it served at the last health check; None before the first one.
        load: The calls of this gateway to it.
    """

    def __init__(
        self, address: str, max_message_bytes: int, access: WorkerAccess, host: str
    ) -> None:
        """Keep the address; `host` is the name in the worker's certificate."""
        self.address = address
        self._host = host
        self._access = access
        self.state = WorkerState.UNKNOWN
        self.served: ServedModel | None = None
        self.load = Load()
        self._max_message_bytes = max_message_bytes
        self._connection = self._connect()
        self._left: set[asyncio.Task[None]] = set()  # closing connections whose calls end first
        self._calls: set[_EmbedRpc] = set()
        self._abandoned: set[_EmbedRpc] = set()
        self._checking: asyncio.Task[None] | None = None
        self._failures = 0
        self._state_since = time.monotonic()
        self._said_stop = False
        self._refusal = ""  # the last one that was logged
        self._on_trial = frozenset[Kind]()

    @property
    def healthy(self) -> bool:
        return self.state is WorkerState.SERVING

    @property
    def fingerprint(self) -> str | None:
        return self.served.model.fingerprint if self.served else None

    @property
    def may_serve_any_model(self) -> bool:
        """Whether it has not told its model yet; it may be starting, or down for a moment."""
        return self.served is None

    @property
    def is_in_use(self) -> bool:
        """Whether somebody waits for a call or a health check."""
        is_checking = self._checking is not None and not self._checking.done()
        return self.load.items > 0 or is_checking

    @property
    def strands_calls(self) -> bool:
        """Whether calls in flight should go to another worker.

        A worker that says it is not serving finishes its calls before it stops; one whose device
        stalls does not.
        """
        if self.state is WorkerState.NOT_SERVING:
            return time.monotonic() - self._state_since > _NOT_SERVING_GRACE_S
        return self.state in (WorkerState.SILENT, WorkerState.GONE)

    async def check(self) -> None:
        """Check the worker's health; if it may be another process now, ask which model it serves.

        Callers at the same time share one check.
        """
        if self._checking is None or self._checking.done():
            self._checking = asyncio.create_task(self._check())
        await asyncio.shield(self._checking)

    async def _check(self) -> None:
        if self._connection.is_outdated:
            self._reconnect()
        while True:
            failures, start = self._failures, time.monotonic()
            state = await self._ask_health()
            took_s = time.monotonic() - start
            if state is WorkerState.SILENT and took_s > _HEALTH_TIMEOUT_S + _OWN_DELAY_S:
                continue  # this process did not run for a while: that says nothing about the worker
            if failures == self._failures:
                break
            # A call has failed meanwhile, so the answer may be older than that.
        self._set_state(state)
        if state is WorkerState.SILENT:
            # Nobody may read the connection that has what was sent.
            self._reconnect()

    async def _ask_health(self) -> WorkerState:
        state = await self._ask_health_once()
        # It may have been a connection of a process that has ended since: a new one tells.
        return await self._ask_health_once() if state is WorkerState.GONE else state

    async def _ask_health_once(self) -> WorkerState:
        connection = self._connection
        same_process = self.healthy and connection.is_open
        try:
            answer = await connection.health.Check(
                health_pb2.HealthCheckRequest(service=_SERVICE), timeout=_HEALTH_TIMEOUT_S
            )
            if answer.status != health_pb2.HealthCheckResponse.SERVING:
                return WorkerState.NOT_SERVING
            if not same_process:
                self.served = await _get_model(connection)
        except grpc.aio.AioRpcError as error:
            for key, value in error.trailing_metadata() or ():
                if key == _DETAILS_KEY and isinstance(value, bytes):
                    self._note_refusal(from_status(status_pb2.Status.FromString(value)))
                    return WorkerState.NOT_SERVING
            return _STATE_BY_CODE.get(error.code(), WorkerState.UNKNOWN)
        return WorkerState.SERVING

    def _note_refusal(self, error: SentinelError) -> None:
        """Log that a worker does not accept our key, once."""
        if not isinstance(error, Unauthenticated | PermissionDenied):
            return
        if error.reason != self._refusal:
            logger.error(
                "worker refuses this gateway",
                extra={"worker": self.address, "reason": error.reason, "why": error.message},
            )
        self._refusal = error.reason

    def _set_state(self, state: WorkerState) -> None:
        if state is not self.state:
            if self.healthy:  # now, since the calls that notice it later have ended by then
                self._on_trial = frozenset(self.load.trials)
            logger.info("worker changed", extra={"worker": self.address, "state": state})
            self.state, self._state_since = state, time.monotonic()
            if state in (WorkerState.SERVING, WorkerState.NOT_SERVING):
                self._said_stop = state is WorkerState.NOT_SERVING

    def _reconnect(self) -> None:
        """Continue on new connections; close the old ones once their calls have ended."""
        task = asyncio.create_task(self._connection.close_when_idle())
        self._left.add(task)
        task.add_done_callback(self._left.discard)
        self._connection = self._connect()

    def _connect(self) -> Connection:
        return Connection(
            pb_grpc.EmbeddingServiceStub,
            self.address,
            self._host,
            self._max_message_bytes,
            self._access,
        )

    async def embed(
        self,
        contents: Sequence[Content],
        options: EmbedOptions,
        *,
        timeout_s: float,
    ) -> Embedded:
        """Embed a batch on this worker.

        Raises:
            WorkerLost: The worker was lost meanwhile, or its calls were abandoned.
            SentinelError: The worker's own error. Unavailable also marks it unhealthy until a
                health check succeeds.
        """
        request = pb.EmbedRequest(
            contents=[_to_message(content) for content in contents],
            options=_options_to(options),
        )
        with self.load.call(call_size(contents, bulk=options.bulk)):
            answer = await self._send(request, timeout_s)
            if len(answer.results) != len(contents):
                raise Internal(
                    "MODEL_FAILED", f"worker {self.address} answered a wrong-sized batch"
                )
        return Embedded(
            items=[_from_message(result) for result in answer.results],
            fingerprint=answer.model_version.fingerprint,
            timings=_timings_from(answer.timings),
        )

    async def _send(self, request: pb.EmbedRequest, timeout_s: float) -> pb.EmbedResponse:
        caller = current_call.get()
        # It receives as much as it sends: many thumbnails are more than the default.
        receives = (MAX_RESPONSE_KEY, str(self._max_message_bytes))
        metadata = (receives, *self._connection.metadata())
        if caller:
            metadata += ((REQUEST_ID_KEY, caller.request_id),)
        connection = self._connection
        with connection.used():
            call = connection.embedding.Embed(request, timeout=timeout_s, metadata=metadata)
            self._calls.add(call)
            try:
                answer: pb.EmbedResponse = await call
                return answer
            except grpc.aio.AioRpcError as error:
                raise self._converted(error) from error
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if call not in self._abandoned or (task is not None and task.cancelling()):
                    raise  # by the caller
                raise self._lost("does not answer") from None
            finally:
                self._calls.discard(call)
                self._abandoned.discard(call)

    def abandon_calls(self) -> None:
        """End the calls in flight with WorkerLost; another worker can take over."""
        for call in self._calls - self._abandoned:
            self._abandoned.add(call)
            call.cancel()

    def _converted(self, error: grpc.aio.AioRpcError) -> SentinelError | WorkerLost:
        for key, value in error.trailing_metadata() or ():
            if key == _DETAILS_KEY and isinstance(value, bytes):
                converted = from_status(status_pb2.Status.FromString(value))
                if isinstance(converted, Unauthenticated | PermissionDenied):
                    # The gateway's own key: no fault of its caller, who must not hear of it.
                    self._note_refusal(converted)
                    self._fail(WorkerState.NOT_SERVING)
                    return Unavailable("WORKER_LOST", f"worker {self.address} refuses this gateway")
                if isinstance(converted, Unavailable):
                    self._fail(WorkerState.NOT_SERVING)
                return converted
        code, where = error.code(), f"worker {self.address}"
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineExceeded("OUT_OF_TIME", f"{where} did not answer in time", stage="embed")
        if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
            return self._lost("went away")
        logger.error("worker failed", extra={"worker": self.address, "error": repr(error)})
        return Internal("MODEL_FAILED", f"{where} failed with {code.name}")

    def _lost(self, how: str) -> WorkerLost:
        if self.healthy:
            self._fail(WorkerState.UNKNOWN)
        error = Unavailable("WORKER_LOST", f"worker {self.address} {how}; retry")
        return WorkerLost(error, planned=self._said_stop, on_trial=self._on_trial)

    async def find_out(self, lost: WorkerLost) -> None:
        """Find out what became of this worker: set `survived` and `ended` of `lost`.

        Both stay False if the worker hangs, or the network does.
        """
        if lost.planned:
            lost.survived = True
        elif self.state is not WorkerState.SILENT:
            await self.check()
            lost.survived = self.state in (WorkerState.SERVING, WorkerState.NOT_SERVING)
            lost.ended = self.state is WorkerState.GONE

    def _fail(self, state: WorkerState) -> None:
        self._failures += 1
        self._set_state(state)

    def forget_model(self) -> None:
        """Give it no work before a health check has asked for its model again."""
        self._fail(WorkerState.UNKNOWN)

    async def close(self) -> None:
        """Close the connections; calls in flight fail, and no more are taken."""
        self._set_state(WorkerState.GONE)
        tasks = [*self._left, *([self._checking] if self._checking else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._connection.close()


async def _get_model(connection: Connection) -> ServedModel:
    answer = await connection.embedding.GetModel(
        pb.GetModelRequest(), timeout=_HEALTH_TIMEOUT_S, metadata=connection.metadata()
    )
    version, limits = answer.model.version, answer.model.limits
    return ServedModel(
        ModelRef(version.model, version.revision, version.fingerprint),
        answer.model.dimensions,
        max(1, limits.max_contents_per_request),
        limits.max_queue_items,
        answer.model,
    )


def call_size(contents: Sequence[Content], *, bulk: bool) -> CallSize:
    """Return what a call with these contents asks of a worker."""
    has_image = any(content.kind is Kind.IMAGE for content in contents)
    return CallSize.of(len(contents), Kind.IMAGE if has_image else Kind.TEXT, bulk=bulk)


def _to_message(content: Content) -> content_pb2.Content:
    if content.kind is Kind.TEXT:
        return content_pb2.Content(text=content.text)
    image = content_pb2.Image(data=content.data, text=content.beside)
    if content.crop is not None:
        image.crop.left, image.crop.top = content.crop.left, content.crop.top
        image.crop.right, image.crop.bottom = content.crop.right, content.crop.bottom
    return content_pb2.Content(image=image)


def _options_to(options: EmbedOptions) -> pb.EmbedOptions:
    return pb.EmbedOptions(
        priority=pb.PRIORITY_BULK if options.bulk else pb.PRIORITY_INTERACTIVE,
        thumbnail_side=options.thumbnail_side,
        normalize=options.normalize,
        dimensions=options.dimensions,
        truncate=options.truncate,
        role=_ROLES[options.role],
    )


def _from_message(result: pb.EmbedResult) -> EmbeddedItem:
    vector, error, thumbnail, image = None, None, b"", None
    if result.WhichOneof("outcome") == "error":
        error = from_status(result.error)
    else:
        vector = np.frombuffer(result.vector.data, dtype="<f4").astype(np.float32, copy=False)
    if result.HasField("image"):
        seen = result.image
        thumbnail = seen.thumbnail
        image = ImageInfo(seen.width, seen.height, seen.media_type)
    return EmbeddedItem(vector, thumbnail, error, result.token_count, result.truncated, image)


def _timings_from(timings: pb.StageTimings) -> WorkerTimings:
    return WorkerTimings(
        decode=timings.decode.ToNanoseconds() / 1e9,
        preprocess=timings.preprocess.ToNanoseconds() / 1e9,
        queue=timings.queue.ToNanoseconds() / 1e9,
        inference=timings.inference.ToNanoseconds() / 1e9,
        batch_size=timings.batch_size,
    )
