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

from sentinel_core.access.guard import Access
from sentinel_core.call_log import ANSWER_GRACE_S, Observer, Trailers
from sentinel_core.calls import Call, Deadline, time_to_answer
from sentinel_core.errors import (
    DeadlineExceeded,
    InvalidArgument,
    ResourceExhausted,
    SentinelError,
    Unavailable,
    hide,
)
from sentinel_core.memory import MemoryBudget, Share
from sentinel_core.receiving import MessageParser, MessageReceiver
from sentinel_core.responses import allow_what_it_asks, too_large
from sentinel_core.status import to_status

logger = logging.getLogger(__name__)

# A call without a message is mostly one that its caller has cancelled; gRPC says so a moment later.
_UNTIL_CANCELLED_S = 0.05
_SENT_COPIES = 2  # a serialized response, and the transport's buffers
# Smaller responses need no share; the count of calls bounds them.
_NEGLIGIBLE_BYTES = 64 * 1024
_SEND_WAIT_S = 5.0
# For one message of a response stream.
_LONGEST_WRITE_S = 60.0
_PUSHBACK_KEY = "grpc-retry-pushback-ms"

if TYPE_CHECKING:  # generic only in its type stubs
    _Handler = grpc.RpcMethodHandler[Any, Any]
    _Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class MethodLimits:
    """What one call of a method may take.

    Attributes:
        max_bytes: Size of one request message.
        seconds: From the call's begin to its end; receiving and sending count.
        fills_responses: Whether it fills its responses with rows, up to the size that is allowed.
    """

    max_bytes: int
    seconds: float
    fills_responses: bool = False


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
        largest_response: int,
    ) -> None:
        """Wrap the methods that `limits` names, by their paths; leave all others alone.

        `largest_response` has the bytes of what a caller may ask for.
        """
        self._observer = observer
        self._gate = gate
        self._memory = memory
        self._receiver = receiver
        self._limits = limits
        self._access = access
        self._largest_response = largest_response
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
            limits,
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

    async def _enter(self, method: _Method, call: Call, context: _Context) -> None:
        """Find out who calls, and how large the responses may be."""
        await self._access.identify(call, context)
        if not call.asks_for_bytes:
            return
        more = allow_what_it_asks(call, self._largest_response)
        if more and method.limits.fills_responses:
            call.taken.add(await self._memory.take(more, Deadline.within(_SEND_WAIT_S)))

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
        observer, gate = self._observer, self._gate

        async def unary(_: Any, context: Any) -> bytes:
            call = observer.begin(method.name, method.limits.seconds, context)
            limit = asyncio.timeout(_time_left(call))
            try:
                try:
                    async with limit:
                        with gate:
                            await self._enter(method, call, context)
                            # No variable keeps the request: its handler may need it only briefly.
                            response = method.serialize(
                                await method.inner(await method.receive(call, context), context)
                            )
                            if len(response) > _NEGLIGIBLE_BYTES:
                                await self._hold(len(response), call, context)
                            context.set_trailing_metadata(observer.trailers(call))
                except Exception as error:
                    await _abort(call, context, _expiry(limit, error), observer.trailers(call))
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
        observer, gate = self._observer, self._gate
        # What ends sooner by itself needs no limit for each message.
        send = self._write if method.limits.seconds <= _LONGEST_WRITE_S else self._send

        async def stream(_: Any, context: Any) -> None:
            call = observer.begin(method.name, method.limits.seconds, context)
            limit = asyncio.timeout(_time_left(call))
            try:
                try:
                    async with limit:
                        with gate:
                            await self._enter(method, call, context)
                            request = await method.receive(call, context)
                            # Closed here, not by the garbage collector: its work ends before `end`.
                            async with aclosing(method.inner(request, context)) as responses:
                                async for response in responses:
                                    await send(method.serialize(response), call, context)
                            context.set_trailing_metadata(observer.trailers(call))
                except Exception as error:
                    await _abort(call, context, _expiry(limit, error), observer.trailers(call))
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
        if size > call.max_response_bytes:
            raise too_large(size, call.max_response_bytes)
        self._receiver.note_sent(call, size)
        share = await self._memory.take(size * _SENT_COPIES, Deadline.within(_SEND_WAIT_S))
        # The stubs demand a class, and not a function.
        context.add_done_callback(lambda _: share.release())  # type: ignore[arg-type]
        return share

    async def _write(self, data: bytes, call: Call, context: _Context) -> None:
        try:
            if len(data) <= _NEGLIGIBLE_BYTES:
                await context.write(data)
                return
            share = await self._hold(len(data), call, context)
            await context.write(data)
            share.release()  # else gRPC has the message still
        except grpc.aio.InternalError:
            raise asyncio.CancelledError from None  # its caller has left

    async def _send(self, data: bytes, call: Call, context: _Context) -> None:
        try:
            async with asyncio.timeout(_LONGEST_WRITE_S) as limit:
                await self._write(data, call, context)
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
    limits: MethodLimits
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


async def _abort(call: Call, context: _Context, error: Exception, trailers: Trailers) -> None:
    """Raise gRPC's AbortError with the status of `error`; return if the status is already set."""
    if isinstance(error, grpc.aio.AbortError):
        return
    if not isinstance(error, SentinelError):
        error = hide(error, "call failed", logger, method=call.method)
    # Else a cycle through gRPC's AbortError keeps the frames, with a request of maybe 60 MB, until
    # the garbage collector looks at old objects.
    error.__traceback__ = error.__context__ = error.__cause__ = None
    call.reason = error.reason
    call.answer_by = perf_counter() + ANSWER_GRACE_S
    status = to_status(error)
    trailers += (("grpc-status-details-bin", status.SerializeToString()),)
    if error.retry_after_s is not None:
        # gRPC's own retry policy waits this long before its next attempt.
        trailers += ((_PUSHBACK_KEY, str(int(error.retry_after_s * 1000))),)
    elif isinstance(error, ResourceExhausted):
        trailers += ((_PUSHBACK_KEY, "-1"),)  # no attempt of it: waiting changes nothing
    try:
        await context.abort(error.code, status.message, trailing_metadata=trailers)
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
