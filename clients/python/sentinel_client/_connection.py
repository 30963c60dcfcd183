"""The channel to the gateway. Each call gets a deadline, a request id, retries and our errors."""
# ruff: noqa: ASYNC109 - a timeout becomes a gRPC deadline, which asyncio.timeout could not send

from __future__ import annotations

import asyncio
import math
import random
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import grpc

from sentinel_client import _processes
from sentinel_client._access import Credential, Stamp, Tls, check_safe, resolve_tls
from sentinel_client._config import ClientConfig, RetryPolicy
from sentinel_client._errors import (
    ConnectionFailed,
    DeadlineExceeded,
    SentinelError,
    from_rpc_error,
)
from sentinel_client._hedging import Hedges, Started
from sentinel_client._names import suggest_for_calls
from sentinel_client._proxy import is_on_loopback
from sentinel_client._retry_budget import RetryBudget
from sentinel_client._rpcs import RequestT, ResponseT, Rpc

_REQUEST_ID_KEY = "x-request-id"
_MAX_RESPONSE_KEY = "x-max-response-bytes"
_LOOK_EVERY_S = 1.0
_LONGEST_CALL_S = 86_400.0
_IDLE_MS = 120_000
# Round robin spreads calls over all addresses of a name; the default uses one address.
_SERVICE_CONFIG = '{"loadBalancingConfig": [{"round_robin": {}}]}'


class Connection:
    """A channel that opens with its first call and belongs to that call's event loop."""

    def __init__(self, address: str, config: ClientConfig) -> None:
        self.address = address
        self._config = config
        self._tls = resolve_tls(config.tls)
        self._tls_stamp: Stamp = ()
        self._tls_seen_at = 0.0
        self._retired: set[asyncio.Task[None]] = set()
        self._credential = Credential(config.api_key)
        check_safe(address, self._tls, self._credential)
        if self._tls is not None:
            self._tls.credentials()  # to tell at once that a file cannot be read
        self._channel: grpc.aio.Channel | None = None
        self._called_at = time.monotonic()
        self._loop: asyncio.AbstractEventLoop | None = None  # of the channel
        self._closed = False
        self._callables: dict[str, Any] = {}
        self._budget = RetryBudget()
        self._hedges = Hedges(config.hedging, self._budget) if config.hedging else None

    def timeout(self, rpc: Rpc[Any, Any], given: float | None) -> float:
        """Return the timeout of a call in seconds: `given`, else the default for its kind."""
        if given is not None:
            return given
        seconds: float = getattr(self._config.timeouts, rpc.timeout_kind)
        return seconds

    async def unary(
        self, rpc: Rpc[RequestT, ResponseT], request: RequestT, timeout: float | None
    ) -> ResponseT:
        """Return the response; raise the SentinelError of the last attempt."""
        attempts = self._attempts(rpc, timeout)
        while True:
            try:
                response = await self._response(rpc, request, attempts)
            except grpc.aio.AioRpcError as error:
                await attempts.pause_or_raise(self.convert(error, attempts))
            except asyncio.CancelledError:
                self._raise_if_closed()
                raise
            else:
                return response

    async def stream(
        self, rpc: Rpc[RequestT, ResponseT], request: RequestT, timeout: float | None
    ) -> AsyncGenerator[ResponseT, None]:
        """Yield the messages of a response stream; closing the iterator cancels the call.

        After the first message, a failure is raised and not retried, because the caller may have
        used that message.
        """
        attempts = self._attempts(rpc, timeout)
        started = False
        while True:
            call = None
            try:
                call, first = await self._first_message(rpc, request, attempts)
                if first is grpc.aio.EOF:
                    return
                started = True
                yield first
                async for message in call:
                    yield message
            except grpc.aio.AioRpcError as error:
                if started:
                    raise self.convert(error, attempts) from error
                await attempts.pause_or_raise(self.convert(error, attempts))
            except asyncio.CancelledError:
                self._raise_if_closed()
                raise
            else:
                return
            finally:
                if call is not None:
                    call.cancel()  # has no effect on a call that has ended

    async def _response(
        self, rpc: Rpc[RequestT, ResponseT], request: RequestT, attempts: Attempts
    ) -> ResponseT:
        """Make one attempt of a call, or several at once if it is slow; return its response."""
        call = self._callable(rpc, "unary_unary")
        if self._hedges is None or not rpc.hedgeable:
            response: ResponseT = await call(request, **self._options(rpc, attempts))
            return response

        def start() -> Started:
            started = call(request, **self._options(rpc, attempts))
            return started, started

        _, response = await self._hedges.first(rpc.path, start, is_final=self._is_final(attempts))
        return response

    async def _first_message(
        self, rpc: Rpc[RequestT, ResponseT], request: RequestT, attempts: Attempts
    ) -> tuple[Any, Any]:
        """Make one attempt, or several if it is slow; return its call and the first message.

        The message is EOF if there is none. Iterate over the call to get the others.
        """
        open_call = self._callable(rpc, "unary_stream")

        def start() -> Started:
            call = open_call(request, **self._options(rpc, attempts))
            return call, _next_message(call)

        if self._hedges is not None and rpc.hedgeable:
            return await self._hedges.first(rpc.path, start, is_final=self._is_final(attempts))
        call, message = start()
        try:
            return call, await message
        except BaseException:
            call.cancel()  # has no effect on a call that has ended
            raise

    def _is_final(self, attempts: Attempts) -> Callable[[BaseException], bool]:
        """Return what tells whether an error of one attempt would be that of all others, too."""

        def is_final(error: BaseException) -> bool:
            if not isinstance(error, grpc.aio.AioRpcError):
                return True
            return not self.convert(error, attempts).retryable

        return is_final

    def open_duplex(
        self, rpc: Rpc[RequestT, ResponseT], attempts: Attempts
    ) -> grpc.aio.StreamStreamCall[RequestT, ResponseT]:
        """Return a new bidirectional call; the caller must end it."""
        call: grpc.aio.StreamStreamCall[RequestT, ResponseT]
        call = self._callable(rpc, "stream_stream")(**self._options(rpc, attempts))
        return call

    def convert(self, error: grpc.aio.AioRpcError, attempts: Attempts) -> SentinelError:
        return from_rpc_error(
            error,
            address=self.address,
            request_id=attempts.request_id,
            remaining=attempts.remaining(),
        )

    async def close(self) -> None:
        """Close the channel and cancel all calls in flight."""
        inherited = _processes.forked_while_open()  # the channel of another process
        if self._channel is not None and not inherited and not self._loop_ended():
            self._check_loop()
            self._closed = True
            await self._channel.close()
            for task in self._retired:
                task.cancel()
            await asyncio.gather(*self._retired, return_exceptions=True)
        self._closed = True
        self._channel = None
        self._callables.clear()
        _processes.closed(self)

    def _attempts(self, rpc: Rpc[Any, Any], timeout: float | None) -> Attempts:
        seconds = self.timeout(rpc, timeout)
        self._budget.note_call()
        return Attempts(
            self._config.retry,
            timeout=seconds,
            retry=rpc.repeatable,
            budget=self._budget,
        )

    def _options(self, rpc: Rpc[Any, Any], attempts: Attempts) -> dict[str, Any]:
        """Return what each call sends besides its messages: the key, too."""
        options = attempts.call_options()
        options["metadata"] += self._credential.metadata()
        if rpc.large_responses:
            options["metadata"] += ((_MAX_RESPONSE_KEY, str(self._config.max_message_bytes)),)
        return options

    def _callable(self, rpc: Rpc[Any, Any], kind: str) -> Any:
        if self._closed:
            raise RuntimeError("the client is closed")
        _processes.check_fork()
        if self._channel is None:
            self._loop = asyncio.get_running_loop()
            self._channel = self._open()
            _processes.opened(self)
        self._check_loop()
        self._leave_rested_channel()
        self._follow_certificates()
        if rpc.path not in self._callables:
            self._callables[rpc.path] = getattr(self._channel, kind)(
                rpc.path,
                request_serializer=rpc.request.SerializeToString,
                response_deserializer=rpc.response.FromString,
            )
        return self._callables[rpc.path]

    def _open(self) -> grpc.aio.Channel:
        stamp = self._tls.stamp() if self._tls is not None else ()
        channel = _open(self.address, self._config, self._tls)
        self._tls_stamp, self._tls_seen_at = stamp, time.monotonic()
        return channel

    def _leave_rested_channel(self) -> None:
        """Continue on a new channel if this one has ended its idle connection.

        A channel of gRPC does that only once (github.com/grpc/grpc/issues/38454).
        """
        now, channel = time.monotonic(), self._channel
        has_rested = now - self._called_at >= _IDLE_MS / 1000
        self._called_at = now
        if not has_rested or channel is None:
            return
        if channel.get_state() is grpc.ChannelConnectivity.IDLE:
            self._replace(channel)

    def _follow_certificates(self) -> None:
        """Continue on a new channel if the files of TLS have changed; calls end on the old one."""
        now = time.monotonic()
        if self._tls is None or now - self._tls_seen_at < _LOOK_EVERY_S:
            return
        self._tls_seen_at = now
        stamp, old = self._tls.stamp(), self._channel
        if stamp and stamp != self._tls_stamp and old is not None:
            self._replace(old)

    def _replace(self, old: grpc.aio.Channel) -> None:
        """Open another channel for the next calls; those of now end on the old one."""
        try:
            self._channel = self._open()
        except ValueError:  # files of TLS are half replaced: the next look finds the rest
            return
        self._callables.clear()
        task = asyncio.ensure_future(old.close(_LONGEST_CALL_S))
        self._retired.add(task)
        task.add_done_callback(self._retired.discard)

    def _loop_ended(self) -> bool:
        return self._loop is None or self._loop.is_closed()

    def _check_loop(self) -> None:
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError(
                "this client belongs to another event loop, that of its first call: create a "
                "client in each loop, with `async with` inside asyncio.run"
            )

    def _raise_if_closed(self) -> None:
        """Raise RuntimeError if a call was cancelled by `close` and not by its caller."""
        task = asyncio.current_task()
        if self._closed and (task is None or not task.cancelling()):
            raise RuntimeError("the client was closed during the call") from None


class Attempts:
    """The attempts of one call, within its deadline and, if there is one, the retry budget.

    Clock, sleep and chance are for tests.

    The retry policy of gRPC's service config cannot replace this. It ignores RetryInfo, makes at
    most 5 attempts, does not repeat requests above its buffer of 256 KiB, and waits until the
    deadline instead of raising the last error when no attempt fits into the remaining time.

    Attributes:
        request_id: Sent as `x-request-id` with every attempt, so that logs show one call.
    """

    def __init__(
        self,
        policy: RetryPolicy,
        *,
        timeout: float,
        retry: bool,
        budget: RetryBudget | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._policy = policy
        self._retry = retry
        self._budget = budget
        self._clock, self._sleep, self._chance = clock, sleep, chance
        self._deadline = clock() + timeout
        self._made = 0
        self._last: SentinelError | None = None
        self.request_id = uuid.uuid4().hex

    def remaining(self) -> float | None:
        """Return the seconds left for the next attempt; None for a call without a deadline."""
        if math.isinf(self._deadline):
            return None
        return max(0.0, self._deadline - self._clock())

    def call_options(self) -> dict[str, Any]:
        """Return the deadline and the request id of the next attempt, for grpc.aio."""
        return {"timeout": self.remaining(), "metadata": ((_REQUEST_ID_KEY, self.request_id),)}

    async def pause_or_raise(self, error: SentinelError, *, temporary: bool = False) -> None:
        """Wait until the next attempt should start; raise `error` if there is none.

        DEADLINE_EXCEEDED has the failure of the attempt before as its cause.

        Args:
            error: Of the last attempt.
            temporary: Repeat this call even if its error is not `retryable` for every call.
        """
        try:
            self._made += 1
            if isinstance(error, DeadlineExceeded) and not temporary:
                raise error from self._last
            if (
                not (self._retry and (error.retryable or temporary))
                or self._made >= self._policy.max_attempts
            ):
                raise error
            seconds = backoff(self._policy, self._made, error.retry_after, self._chance)
            left = self.remaining()
            if left is not None and seconds >= left:
                raise error  # says more than "time ran out"
            if self._budget is not None and _adds_load(error) and not self._budget.take():
                error.add_note("not repeated: servers have refused many calls of this client")
                raise error
            self._last = error
            await self._sleep(seconds)
        finally:
            # Its traceback has this frame. The cycle would keep the call, and so the connection of
            # a closed client, until Python next looks for cycles.
            del error


def _adds_load(error: SentinelError) -> bool:
    """Tell whether a retry is additional load: not for a server that was not there or is leaving.

    Then another one gets the call, for the first time.
    """
    return not isinstance(error, ConnectionFailed) and error.reason != "DRAINING"


def backoff(
    policy: RetryPolicy,
    made: int,
    retry_after: float | None,
    chance: Callable[[], float] = random.random,
) -> float:
    """Return the seconds to wait after `made` failed attempts, 1 or more."""
    pause = min(policy.max_backoff, policy.initial_backoff * policy.multiplier ** (made - 1))
    if retry_after is not None:
        # Never shorter than the server asks for. The jitter keeps its callers from returning
        # all at once.
        return retry_after + chance() * min(pause, retry_after)
    return pause * (0.5 + chance() / 2)


class ServiceCalls:
    """Base of the classes that each add the calls of one service to the client."""

    _config: ClientConfig
    _connection: Connection

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        suggest_for_calls(cls)


async def _next_message(call: Any) -> Any:
    return await anext(aiter(call), grpc.aio.EOF)


def _open(address: str, config: ClientConfig, tls: Tls | None) -> grpc.aio.Channel:
    options: list[tuple[str, Any]] = [
        ("grpc.max_send_message_length", config.max_message_bytes),
        ("grpc.max_receive_message_length", config.max_message_bytes),
        ("grpc.service_config", _SERVICE_CONFIG),
        ("grpc.keepalive_time_ms", int(config.keepalive * 1000)),
        ("grpc.keepalive_timeout_ms", int(config.keepalive_timeout * 1000)),
        # Else a minute, whatever the line above says (grpcio 1.85.1).
        ("grpc.http2.ping_timeout_ms", int(config.keepalive_timeout * 1000)),
        # Also ping between calls, to notice a dead connection before the next call needs it.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        # Servers end what is idle for five minutes, with a note of gRPC on our standard error. gRPC
        # takes up to twice this time.
        ("grpc.client_idle_timeout_ms", _IDLE_MS),
        # Reconnect within the time of our retries; the defaults grow from 1 s to 2 min.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 3_000),
    ]
    if is_on_loopback(address):
        options.append(("grpc.enable_http_proxy", 0))
    if tls is not None:
        if tls.server_name:
            options.append(("grpc.ssl_target_name_override", tls.server_name))
        return grpc.aio.secure_channel(address, tls.credentials(), options=options)
    return grpc.aio.insecure_channel(address, options=options)
