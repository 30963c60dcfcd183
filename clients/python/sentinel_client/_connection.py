"""The channel to the gateway. Each call gets a deadline, a request id, retries and our errors."""
# ruff: noqa: ASYNC109 - a timeout becomes a gRPC deadline, which asyncio.timeout could not send

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import grpc

from sentinel_client._config import ClientConfig
from sentinel_client._errors import SentinelError, from_rpc_error
from sentinel_client._retry import Attempts
from sentinel_client._rpcs import RequestT, ResponseT, Rpc

_REQUEST_ID_KEY = "x-request-id"
# Round robin spreads calls over all addresses of a name; the default uses one address.
_SERVICE_CONFIG = '{"loadBalancingConfig": [{"round_robin": {}}]}'


class Connection:
    """A channel that opens with its first call and belongs to that call's event loop."""

    def __init__(self, address: str, config: ClientConfig) -> None:
        self.address = address
        self._config = config
        self._channel: grpc.aio.Channel | None = None
        self._closed = False
        self._callables: dict[str, Any] = {}

    def timeout(self, rpc: Rpc[Any, Any], given: float | None) -> float:
        """Return the timeout of a call in seconds: `given`, else the default for its kind."""
        if given is not None:
            return given
        seconds: float = getattr(self._config.timeouts, rpc.timeout_kind)
        return seconds

    async def unary(
        self, rpc: Rpc[RequestT, ResponseT], request: RequestT, timeout: float | None
    ) -> ResponseT:
        """Return the response.

        Raises:
            SentinelError: The last attempt failed.
        """
        attempts = self._attempts(rpc, timeout)
        call = self._callable(rpc, "unary_unary")
        while True:
            try:
                response: ResponseT = await call(
                    request, timeout=attempts.remaining(), metadata=_metadata(attempts)
                )
            except grpc.aio.AioRpcError as error:
                await attempts.pause_or_raise(self.convert(error, attempts))
            else:
                return response

    async def stream(
        self, rpc: Rpc[RequestT, ResponseT], request: RequestT, timeout: float | None
    ) -> AsyncGenerator[ResponseT, None]:
        """Yield the messages of a response stream; closing the iterator cancels the call.

        Raises:
            SentinelError: The last attempt failed. There is no retry after the first message,
                because the caller may have used it.
        """
        attempts = self._attempts(rpc, timeout)
        open_call = self._callable(rpc, "unary_stream")
        started = False
        while True:
            call = open_call(request, timeout=attempts.remaining(), metadata=_metadata(attempts))
            try:
                async for message in call:
                    started = True
                    yield message
            except grpc.aio.AioRpcError as error:
                converted = self.convert(error, attempts)
                if started:
                    raise converted from error
                await attempts.pause_or_raise(converted)
            else:
                return
            finally:
                call.cancel()  # has no effect on a call that has ended

    def open_duplex(
        self, rpc: Rpc[RequestT, ResponseT], attempts: Attempts
    ) -> grpc.aio.StreamStreamCall[RequestT, ResponseT]:
        """Return a new bidirectional call; the caller must end it."""
        call: grpc.aio.StreamStreamCall[RequestT, ResponseT] = self._callable(rpc, "stream_stream")(
            timeout=attempts.remaining(), metadata=_metadata(attempts)
        )
        return call

    def convert(self, error: grpc.aio.AioRpcError, attempts: Attempts) -> SentinelError:
        """Convert a gRPC error of one of the `attempts`."""
        return from_rpc_error(error, address=self.address, request_id=attempts.request_id)

    async def close(self) -> None:
        """Close the channel and cancel all calls in flight."""
        self._closed = True
        if self._channel is not None:
            await self._channel.close()
            self._channel = None
            self._callables.clear()

    def _attempts(self, rpc: Rpc[Any, Any], timeout: float | None) -> Attempts:
        seconds = self.timeout(rpc, timeout)
        return Attempts(self._config.retry, timeout=seconds, retry=rpc.repeatable)

    def _callable(self, rpc: Rpc[Any, Any], kind: str) -> Any:
        if self._closed:
            raise RuntimeError("the client is closed")
        if self._channel is None:
            self._channel = _open(self.address, self._config)
        if rpc.path not in self._callables:
            self._callables[rpc.path] = getattr(self._channel, kind)(
                rpc.path,
                request_serializer=rpc.request.SerializeToString,
                response_deserializer=rpc.response.FromString,
            )
        return self._callables[rpc.path]


class ServiceCalls:
    """Base of the classes that each add the calls of one service to the client."""

    _config: ClientConfig
    _connection: Connection


def _metadata(attempts: Attempts) -> tuple[tuple[str, str], ...]:
    return ((_REQUEST_ID_KEY, attempts.request_id),)


def _open(address: str, config: ClientConfig) -> grpc.aio.Channel:
    options: list[tuple[str, Any]] = [
        ("grpc.max_send_message_length", config.max_message_bytes),
        ("grpc.max_receive_message_length", config.max_message_bytes),
        ("grpc.service_config", _SERVICE_CONFIG),
        ("grpc.keepalive_time_ms", int(config.keepalive * 1000)),
        ("grpc.keepalive_timeout_ms", int(config.keepalive_timeout * 1000)),
        # Also ping between calls, to notice a dead connection before the next call needs it.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        # Reconnect within the time of our retries; the defaults grow from 1 s to 2 min.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 3_000),
    ]
    if config.credentials is not None:
        return grpc.aio.secure_channel(address, config.credentials, options=options)
    return grpc.aio.insecure_channel(address, options=options)
