"""Connect to one embedder worker: options, TLS, our key, and an end that waits for calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc

from sentinel_core.access.followed_file import FollowedFile
from sentinel_core.calls import MAX_RESPONSE_BYTES
from sentinel_core.tls import FileTls


@dataclass(frozen=True, slots=True)
class WorkerAccess:
    """How this gateway proves itself to workers, and how they prove themselves to it.

    Attributes:
        tls: Our certificate and the workers' CA; None: connections without TLS.
        key: Sent with each call; None: none.
    """

    tls: FileTls | None = None
    key: FollowedFile[str] | None = None

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Return what a call sends."""
        return () if self.key is None else (("authorization", f"Bearer {self.key.value()}"),)

    def channel(
        self, address: str, host: str, options: list[tuple[str, int | str]]
    ) -> grpc.aio.Channel:
        """Return a channel; `host` is the name in the worker's certificate."""
        if self.tls is None:
            return grpc.aio.insecure_channel(address, options=options)
        options = [*options, ("grpc.ssl_target_name_override", host)]
        return grpc.aio.secure_channel(address, self.tls.channel_credentials(), options=options)


class Connection:
    """Two connections to one worker: health checks must not wait behind large messages.

    Attributes:
        embedding: The stub of the service, which knows its messages.
        health: The stub of health checks.
        idle: Set while no call is in flight.
    """

    def __init__(
        self,
        stub: Callable[[grpc.aio.Channel], Any],
        address: str,
        host: str,
        max_message_bytes: int,
        access: WorkerAccess,
    ) -> None:
        """Connect when it is used; `host` is the name in the worker's certificate."""
        options = _options(max_message_bytes)
        self._access = access
        self._tls_version = access.tls.version if access.tls else 0
        self._channels = [access.channel(address, host, options) for _ in range(2)]
        self.embedding = stub(self._channels[0])
        self.health = health_pb2_grpc.HealthStub(self._channels[1])
        self._calls = 0
        self.idle = asyncio.Event()
        self.idle.set()

    @property
    def is_outdated(self) -> bool:
        """Whether our certificates have been replaced since."""
        return self._access.tls is not None and self._access.tls.version != self._tls_version

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Return what each call sends."""
        return self._access.metadata()

    @property
    def is_open(self) -> bool:
        """Whether the connection of the last health check still is."""
        return self._channels[1].get_state() is grpc.ChannelConnectivity.READY

    @contextmanager
    def used(self) -> Iterator[None]:
        """Count a call until the block ends."""
        self._calls += 1
        self.idle.clear()
        try:
            yield
        finally:
            self._calls -= 1
            if not self._calls:
                self.idle.set()

    async def close_when_idle(self) -> None:
        """Close once no call is in flight."""
        try:
            await self.idle.wait()
        finally:
            await self.close()

    async def close(self) -> None:
        """Close now; calls in flight fail."""
        for channel in self._channels:
            await channel.close()


def _options(max_message_bytes: int) -> list[tuple[str, int | str]]:
    return [
        ("grpc.max_receive_message_length", max(max_message_bytes, MAX_RESPONSE_BYTES)),
        ("grpc.max_send_message_length", max_message_bytes),
        # So a call on a connection that has gone silent is lost within 15 s. Workers allow it.
        ("grpc.keepalive_time_ms", 10_000),
        ("grpc.keepalive_timeout_ms", 5_000),
        ("grpc.http2.ping_timeout_ms", 5_000),  # else a minute, whatever the line above says
        # The pool fails over at once; a hidden retry on the dead worker would only use up the
        # caller's time.
        ("grpc.enable_retries", 0),
        # Every channel has its own connection: closing one and opening another starts anew.
        ("grpc.use_local_subchannel_pool", 1),
        # Reconnect soon after a worker restart; the default backs off to two minutes.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 2_000),
    ]
