"""The one interceptor around every call of ours: log, measure, bound, refuse, set status.

One wrapper per method, made once: nested context managers would cost a tenth of a call of one
millisecond. From the outside in: observe, so that refusals count too; turn exceptions into a
status; limit the time; count the call in (`DrainGate`); find out who calls (`Access`); receive the
request and check what it may touch; send the response.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

import grpc
from prometheus_client import Histogram

from sentinel_core.access import audit
from sentinel_core.access.guard import Access
from sentinel_core.calls import REQUEST_ID_KEY, Call, Deadline, current_call, time_to_answer
from sentinel_core.errors import (
    DeadlineExceeded,
    InvalidArgument,
    SentinelError,
    Unavailable,
    hide,
)
from sentinel_core.memory import MemoryBudget, Share
from sentinel_core.metrics import ServerMetrics
from sentinel_core.receiving import MessageParser, MessageReceiver
from sentinel_core.status import to_status

logger = logging.getLogger(__name__)
access_logger = logging.getLogger("sentinel.access")

_OUR_FAULT = {"INTERNAL", "UNKNOWN", "DATA_LOSS"}
# Handlers keep to the limit of their method themselves, and then know in which stage they were.
_AFTER_HANDLER_S = 0.5
# Who has not read the answer so long after the call's end loses the connection.
_ANSWER_GRACE_S = 15.0
# A call without a message is mostly one that its caller has cancelled; gRPC says so a moment later.
_UNTIL_CANCELLED_S = 0.05
_SENT_COPIES = 2  # a serialized response, and the transport's buffers
# Smaller responses need no share; the count of calls bounds them.
_NEGLIGIBLE_BYTES = 64 * 1024
_SEND_WAIT_S = 5.0
# For one message of a response stream.
_LONGEST_WRITE_S = 60.0

if TYPE_CHECKING:  # generic only in its type stubs
    _Handler = grpc.RpcMethodHandler[Any, Any]
    _Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class MethodLimits:
    """What one call of a method may take.

    Attributes:
        max_bytes: Size of one request message.
        seconds: From the call's begin to its end; receiving and sending count.
    """

    max_bytes: int
    seconds: float


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Observes every call of our own services, bounds it, sets its status, and counts it in.

    gRPC gets every method as one with a request stream: only then does it leave the receiving to
    us. On the wire there is no difference.
    """

    def __init__(
        self,
        observer: Observer,
        gate: DrainGate,
        memory: MemoryBudget,
        receiver: MessageReceiver,
        *,
        limits: Mapping[str, MethodLimits],
        access: Access,
    ) -> None:
        """Wrap the methods that `limits` names, by their paths; leave all others alone."""
        self._observer = observer
        self._gate = gate
        self._memory = memory
        self._receiver = receiver
        self._limits = limits
        self._access = access
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
        if handler is None or method not in self._limits:
            return handler
        wrapped = self._wrapped[method] = self._wrap(method, handler)
        return wrapped

    def _wrap(self, method: str, handler: Any) -> _Handler:
        limits = self._limits[method]
        parser = MessageParser(method, handler.request_deserializer, limits.max_bytes)
        receive = self._each_request if handler.request_streaming else self._request
        shape = "stream" if handler.request_streaming else "unary"
        shape += "_stream" if handler.response_streaming else "_unary"
        call = _Method(
            method,
            limits.seconds,
            partial(receive, parser),
            getattr(handler, shape),
            handler.response_serializer,
        )
        wrapped: _Handler
        if handler.response_streaming:
            wrapped = grpc.stream_stream_rpc_method_handler(self._stream(call))
        else:
            wrapped = grpc.stream_unary_rpc_method_handler(self._unary(call))
        return wrapped

    async def _request(self, parser: MessageParser, call: Call, context: _Context) -> Any:
        data = await self._receiver.first(context, call)
        if data is None:
            await asyncio.sleep(_UNTIL_CANCELLED_S)
            raise InvalidArgument("REQUEST_MALFORMED", "the call has no message; send one")
        return await self._parsed(data, parser, call, in_stream=False)

    async def _parsed(
        self, data: bytes, parser: MessageParser, call: Call, *, in_stream: bool
    ) -> Any:
        request = await parser.parse(data)
        await self._access.authorize(call, request, len(data), in_stream=in_stream)
        return request

    async def _each_request(
        self, parser: MessageParser, call: Call, context: _Context
    ) -> AsyncIterator[Any]:
        return self._requests(parser, call, context)

    async def _requests(
        self, parser: MessageParser, call: Call, context: _Context
    ) -> AsyncIterator[Any]:
        while (data := await self._receiver.next(context, call)) is not None:
            await self._access.identify(call, context)  # it may have been revoked meanwhile
            yield await self._parsed(data, parser, call, in_stream=True)
            _release(call)
            data = None
            await self._access.pace(call)

    def _unary(self, method: _Method) -> Any:
        observer, gate, access = self._observer, self._gate, self._access

        async def unary(_: Any, context: Any) -> bytes:
            call = observer.begin(method.name, method.seconds, context)
            limit = asyncio.timeout(_time_left(call))
            try:
                try:
                    async with limit:
                        with gate:
                            await access.identify(call, context)
                            # No variable keeps the request: its handler may need it only briefly.
                            response = method.serialize(
                                await method.inner(await method.receive(call, context), context)
                            )
                            if len(response) > _NEGLIGIBLE_BYTES:
                                await self._hold(len(response), call, context)
                except Exception as error:
                    await _abort(call, context, _expiry(limit, error))
                    raise
            except BaseException as error:
                observer.end(call, context, error)
                raise
            finally:
                _release_all(call)
            observer.end(call, context, None)
            return response

        return unary

    def _stream(self, method: _Method) -> Any:
        observer, gate, access = self._observer, self._gate, self._access

        async def stream(_: Any, context: Any) -> None:
            call = observer.begin(method.name, method.seconds, context)
            limit = asyncio.timeout(_time_left(call))
            try:
                try:
                    async with limit:
                        with gate:
                            await access.identify(call, context)
                            request = await method.receive(call, context)
                            # Closed here, not by the garbage collector: its work ends before `end`.
                            async with aclosing(method.inner(request, context)) as responses:
                                async for response in responses:
                                    await self._send(method.serialize(response), call, context)
                except Exception as error:
                    await _abort(call, context, _expiry(limit, error))
                    raise
            except BaseException as error:
                observer.end(call, context, error)
                raise
            finally:
                _release_all(call)
            observer.end(call, context, None)

        return stream

    async def _hold(self, size: int, call: Call, context: _Context) -> Share:
        """Take memory for a response, until gRPC has done with the call."""
        self._receiver.note_sent(call, size)
        share = await self._memory.take(size * _SENT_COPIES, Deadline.within(_SEND_WAIT_S))
        # The stubs demand a class, and not a function.
        context.add_done_callback(lambda _: share.release())  # type: ignore[arg-type]
        return share

    async def _send(self, data: bytes, call: Call, context: _Context) -> None:
        try:
            async with asyncio.timeout(_LONGEST_WRITE_S) as limit:
                if len(data) <= _NEGLIGIBLE_BYTES:
                    await context.write(data)
                    return
                share = await self._hold(len(data), call, context)
                await context.write(data)
                share.release()  # else gRPC has the message still
        except grpc.aio.InternalError:
            raise asyncio.CancelledError from None  # its caller has left
        except TimeoutError:
            if not limit.expired():
                raise
            raise DeadlineExceeded(
                "STREAM_STALLED",
                f"the caller has read nothing for {_LONGEST_WRITE_S:.0f} s; read faster, or "
                "request less",
            ) from None


@dataclass(frozen=True, slots=True)
class _Method:
    """A method as its servicer implements it, and how its requests are received."""

    name: str
    seconds: float
    receive: Callable[[Call, _Context], Awaitable[Any]]
    inner: Callable[[Any, _Context], Any]
    serialize: Callable[[Any], bytes]


def _time_left(call: Call) -> float:
    left = call.ends_at - perf_counter()
    return left - time_to_answer(left) / 2  # the handler's own limit comes first


def _expiry(limit: asyncio.Timeout, error: Exception) -> Exception:
    """Return `error`, or what it means if the call's time is over."""
    if isinstance(error, TimeoutError) and limit.expired():
        return DeadlineExceeded(
            "OUT_OF_TIME",
            "no time left for the call; use a longer deadline, request less, or read faster",
            stage="call",
        )
    return error


def _release(call: Call) -> None:
    if call.share is not None:
        call.share.release()
        call.share = None


def _release_all(call: Call) -> None:
    _release(call)
    while call.taken:
        call.taken.pop().release()
    if call.slot is not None:
        call.slot.release()


async def _abort(call: Call, context: _Context, error: Exception) -> None:
    """Raise gRPC's AbortError with the status of `error`; return if the status is already set."""
    if isinstance(error, grpc.aio.AbortError):
        return
    if not isinstance(error, SentinelError):
        error = hide(error, "call failed", logger, method=call.method)
    # Else a cycle through gRPC's AbortError keeps the frames, with a request of maybe 60 MB, until
    # the garbage collector looks at old objects.
    error.__traceback__ = error.__context__ = error.__cause__ = None
    call.reason = error.reason
    call.answer_by = perf_counter() + _ANSWER_GRACE_S
    status = to_status(error)
    trailers: list[tuple[str, str | bytes]] = [
        ("grpc-status-details-bin", status.SerializeToString())
    ]
    if error.retry_after_s is not None:
        # gRPC's own retry policy waits this long before its next attempt.
        trailers.append(("grpc-retry-pushback-ms", str(int(error.retry_after_s * 1000))))
    try:
        await context.abort(error.code, status.message, trailing_metadata=tuple(trailers))
    except grpc.aio.InternalError:
        raise asyncio.CancelledError from None  # its caller has left


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
    """Opens a `Call` for each call, and closes it.

    Attributes:
        open_calls: Those that gRPC has not done with; their handlers may have ended.
    """

    def __init__(self) -> None:
        self.open_calls: set[Call] = set()

    def begin(self, method: str, seconds: float, context: _Context) -> Call:
        """Open a call that may take `seconds`; `end` must follow.

        Reads everything that `end` needs from the context now: when a caller leaves a stream that
        waits for it to read, the stream is closed only after gRPC has freed the call. Asking a
        freed call for its peer ends the process (grpcio 1.85.1: a null pointer in
        `grpc_call_get_peer`).
        """
        request_id, header_bytes = "", 0
        for key, value in context.invocation_metadata() or ():
            header_bytes += len(key) + len(value)
            if key == REQUEST_ID_KEY and isinstance(value, str):
                request_id = value[:128]
        call = Call(method, request_id) if request_id else Call(method)
        call.header_bytes = header_bytes
        call.started_at = perf_counter()
        left = context.time_remaining()
        most = seconds + _AFTER_HANDLER_S
        call.ends_at = call.started_at + (most if left is None else min(left, most))
        call.answer_by = call.ends_at + _ANSWER_GRACE_S
        call.peer = context.peer()
        self.open_calls.add(call)
        # The stubs demand a class, and not a function.
        context.add_done_callback(lambda _: self.open_calls.discard(call))  # type: ignore[arg-type]
        current_call.set(call)
        return call

    def end(self, call: Call, context: _Context, error: BaseException | None) -> None:
        """Close a call; `error` is how its handler ended."""


class CallLog(Observer):
    """Writes one access line and one duration per call, at its end."""

    def __init__(self, metrics: ServerMetrics) -> None:
        super().__init__()
        self._in_flight = metrics.requests_in_flight
        self._durations = metrics.request_duration
        self._errors = metrics.errors
        # Looking a child up by its labels costs as much as observing it. Bounded: methods x codes.
        self._children: dict[tuple[str, str], Histogram] = {}

    def begin(self, method: str, seconds: float, context: _Context) -> Call:
        self._in_flight.inc()
        return super().begin(method, seconds, context)

    def end(self, call: Call, context: _Context, error: BaseException | None) -> None:
        now = perf_counter()
        seconds = now - call.started_at
        self._in_flight.dec()
        code = "OK" if error is None else _code(call, context, error, now)
        self._duration(call.method, code).observe(seconds)
        if error is not None:
            self._errors.labels(call.method, call.reason or code).inc()
        audit.note(call, code)
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
                "who": call.caller.id,
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
