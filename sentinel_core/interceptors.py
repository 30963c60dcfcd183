"""The one interceptor around every call of ours: log, measure, refuse while draining, set status.

One wrapper per method, made once: three nested context managers per call would cost a tenth of a
call of one millisecond. From the outside in: observe, so that refusals count too; turn exceptions
into a status; count the call in (`DrainGate`); check that the bytes were a message.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from time import perf_counter
from typing import TYPE_CHECKING, Any, cast

import grpc
from google.protobuf.message import DecodeError
from prometheus_client import Histogram

from sentinel_core.calls import REQUEST_ID_KEY, Call, current_call
from sentinel_core.errors import InvalidArgument, SentinelError, Unavailable, hide
from sentinel_core.metrics import ServerMetrics
from sentinel_core.status import to_status

logger = logging.getLogger(__name__)
access_logger = logging.getLogger("sentinel.access")

# Health checks and reflection are always answered and never logged.
_OUR_METHODS = "/sentinel."
_OUR_FAULT = {"INTERNAL", "UNKNOWN", "DATA_LOSS"}
# Stands for a request whose bytes are not a message. grpc itself would answer INTERNAL and log
# a traceback, as if the fault were ours.
_MALFORMED = object()

if TYPE_CHECKING:  # generic only in its type stubs
    _Handler = grpc.RpcMethodHandler[Any, Any]
    _Context = grpc.aio.ServicerContext[Any, Any]


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Observes every call of our own services, sets its status, and counts it in.

    A call with a response stream lasts until the stream ends, so an error during iteration is
    handled like an error of a unary handler.
    """

    def __init__(self, metrics: ServerMetrics, gate: DrainGate) -> None:
        self._observer = Observer(metrics)
        self._gate = gate
        # Handlers are registered before the server starts and stay.
        self._wrapped: dict[str, _Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler | None:
        method: str = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is not None:
            return wrapped
        handler = await continuation(handler_call_details)
        if handler is None or not method.startswith(_OUR_METHODS):
            return handler
        wrapped = self._wrapped[method] = self._wrap(method, handler)
        return wrapped

    def _wrap(self, method: str, handler: Any) -> _Handler:
        shape = "stream" if handler.request_streaming else "unary"
        shape += "_stream" if handler.response_streaming else "_unary"
        make = getattr(grpc, f"{shape}_rpc_method_handler")
        around = self._stream if handler.response_streaming else self._unary
        check = _each_checked if handler.request_streaming else _checked
        wrapped = make(
            around(method, getattr(handler, shape), check),
            request_deserializer=_or_malformed(handler.request_deserializer),
            response_serializer=handler.response_serializer,
        )
        return cast("_Handler", wrapped)

    def _unary(self, method: str, inner: Any, check: Callable[[Any], Any]) -> Any:
        observer, gate = self._observer, self._gate

        async def unary(request: Any, context: Any) -> Any:
            call = observer.begin(method, context)
            try:
                try:
                    with gate:
                        response = await inner(check(request), context)
                except Exception as error:
                    await _abort(call, context, error)
                    raise
            except BaseException as error:
                observer.end(call, context, error)
                raise
            observer.end(call, context, None)
            return response

        return unary

    def _stream(self, method: str, inner: Any, check: Callable[[Any], Any]) -> Any:
        observer, gate = self._observer, self._gate

        async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
            call = observer.begin(method, context)
            try:
                try:
                    with gate:
                        # Closed here, not by the garbage collector: its work ends before `end`.
                        async with aclosing(inner(check(request), context)) as responses:
                            async for response in responses:
                                yield response
                except Exception as error:
                    await _abort(call, context, error)
                    raise
            except BaseException as error:
                observer.end(call, context, error)
                raise
            observer.end(call, context, None)

        return stream


async def _abort(call: Call, context: _Context, error: Exception) -> None:
    """Raise gRPC's AbortError with the status of `error`; return if the status is already set."""
    if isinstance(error, grpc.aio.AbortError):
        return
    if not isinstance(error, SentinelError):
        error = hide(error, "call failed", logger, method=call.method)
    call.reason = error.reason
    status = to_status(error)
    trailers: list[tuple[str, str | bytes]] = [
        ("grpc-status-details-bin", status.SerializeToString())
    ]
    if error.retry_after_s is not None:
        # gRPC's own retry policy waits this long before its next attempt.
        trailers.append(("grpc-retry-pushback-ms", str(int(error.retry_after_s * 1000))))
    await context.abort(error.code, status.message, trailing_metadata=tuple(trailers))


def _or_malformed(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    """Return a deserializer that returns `_MALFORMED` where `deserialize` fails."""
    if deserialize is None:
        return None

    def read(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError:
            return _MALFORMED

    return read


def _checked(request: Any) -> Any:
    """Return `request`; raise InvalidArgument if its bytes were not a message."""
    if request is _MALFORMED:
        raise InvalidArgument(
            "REQUEST_MALFORMED",
            "the request is not a message of this method, or is nested more than 100 deep; "
            "compare the client's stubs with the server's protos",
        )
    return request


async def _each_checked(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _checked(request)


class DrainGate:
    """Counts the calls in flight, each in a `with` block; once closed, entering raises DRAINING."""

    def __init__(self) -> None:
        self._in_flight = 0
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    def __enter__(self) -> None:
        if self._draining:
            raise Unavailable("DRAINING", "this process is shutting down; retry on another one")
        self._in_flight += 1
        self._idle.clear()

    def __exit__(self, *_: object) -> None:
        self._in_flight -= 1
        if self._in_flight == 0:
            self._idle.set()

    def close(self) -> None:
        """Refuse new calls from now on."""
        self._draining = True

    async def wait_idle(self, timeout_s: float) -> int:
        """Wait until no call is in flight; return how many are left at the timeout."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            pass
        return self._in_flight


class Observer:
    """Writes one access line and one duration per call, at its end; opens its `Call`."""

    def __init__(self, metrics: ServerMetrics) -> None:
        self._in_flight = metrics.requests_in_flight
        self._durations = metrics.request_duration
        self._errors = metrics.errors
        # Looking a child up by its labels costs as much as observing it. Bounded: methods x codes.
        self._children: dict[tuple[str, str], Histogram] = {}

    def begin(self, method: str, context: _Context) -> Call:
        """Open a call; `end` must follow.

        Reads everything that `end` needs from the context now: when a caller leaves a stream that
        waits for it to read, the stream is closed only after gRPC has freed the call. Asking a
        freed call for its peer ends the process (grpcio 1.85.1: a null pointer in
        `grpc_call_get_peer`).
        """
        request_id = ""
        for key, value in context.invocation_metadata() or ():
            if key == REQUEST_ID_KEY and isinstance(value, str):
                request_id = value[:128]
        call = Call(method, request_id) if request_id else Call(method)
        call.started_at = perf_counter()
        left = context.time_remaining()
        if left is not None:
            call.ends_at = call.started_at + left
        call.peer = context.peer()
        current_call.set(call)
        self._in_flight.inc()
        return call

    def end(self, call: Call, context: _Context, error: BaseException | None) -> None:
        """Count and log a call; `error` is how it ended."""
        now = perf_counter()
        seconds = now - call.started_at
        self._in_flight.dec()
        code = "OK" if error is None else _code(call, context, error, now)
        self._duration(call.method, code).observe(seconds)
        if error is not None:
            self._errors.labels(call.method, call.reason or code).inc()
        level = logging.ERROR if code in _OUR_FAULT else logging.INFO
        if access_logger.isEnabledFor(level):
            fields = {
                "method": call.method,
                "code": code,
                "reason": call.reason,
                "ms": round(seconds * 1000, 2),
                "items": call.items,
                "request_id": call.request_id,
                "peer": call.peer,
            }
            # After gRPC has taken the answer or status that the caller waits for.
            asyncio.get_running_loop().call_soon(_write_line, level, fields)

    def _duration(self, method: str, code: str) -> Histogram:
        child = self._children.get((method, code))
        if child is None:
            child = self._children[method, code] = self._durations.labels(method, code)
        return child


def _write_line(level: int, fields: dict[str, Any]) -> None:
    # Not `logger.log`: it walks the stack for a line number that is always the same.
    name = access_logger.name
    record = access_logger.makeRecord(name, level, "", 0, "call", (), None, extra=fields)
    access_logger.handle(record)


def _code(call: Call, context: _Context, error: BaseException, now: float) -> str:
    """Return how a call ended; `context.code()` knows only what abort() set."""
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        # An expired deadline and a caller who left both arrive as a cancellation.
        return "DEADLINE_EXCEEDED" if now >= call.ends_at else "CANCELLED"
    status: Any = context.code()
    return status.name if isinstance(status, grpc.StatusCode) else "UNKNOWN"
