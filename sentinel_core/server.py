"""A grpc.aio server with health, reflection, metrics and the interceptor; starts and drains.

Startup: open the ports, NOT_SERVING, then `set_serving(True)` when the owner is ready.
Shutdown (`stop`): NOT_SERVING, pause, refuse new calls, finish the calls in flight, close.

The health name `liveness` is SERVING all that time: the process answers, whatever it waits for.
So nobody restarts a gateway because Milvus is down.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from sentinel_core.interceptors import CallInterceptor, DrainGate
from sentinel_core.metrics import MetricsServer, ServerMetrics
from sentinel_core.settings import ServerSettings

logger = logging.getLogger(__name__)

LIVENESS = "liveness"
_Status = health_pb2.HealthCheckResponse
# Calls that are still open after the drain are cancelled and get this long to clean up.
_CLOSE_GRACE_S = 0.5


@dataclass(frozen=True, slots=True)
class Service:
    """One gRPC service: its full name, the generated `add_…_to_server`, and its servicer."""

    name: str
    register: Callable[[Any, grpc.aio.Server], None]
    servicer: object


class GrpcServer:
    """Owns the gRPC port and the metrics port of one process. Use inside one event loop.

    It adds health and reflection to `services`. It calls `on_drain` when it begins to refuse calls,
    so that the owner ends calls that never end.
    """

    def __init__(
        self,
        settings: ServerSettings,
        metrics: ServerMetrics,
        services: list[Service],
        *,
        on_drain: Callable[[], None] | None = None,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._gate = DrainGate()
        self._on_drain = on_drain
        self._health = health.aio.HealthServicer()
        self._names = ["", *(service.name for service in services)]
        self._serving: bool | None = None
        self._stopping = False
        self._server = grpc.aio.server(
            interceptors=[CallInterceptor(metrics, self._gate)],
            options=_options(settings.max_message_bytes),
        )
        for service in services:
            service.register(service.servicer, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            [name for name in self._names if name] + [health.SERVICE_NAME, reflection.SERVICE_NAME],
            self._server,
        )
        self.address = ""
        self.metrics_address = ""
        self._metrics_server: MetricsServer | None = None

    async def start(self) -> None:
        """Open both ports, still NOT_SERVING, and write the address file.

        Raises OSError if a port is taken.
        """
        settings = self._settings
        await self._health.set(LIVENESS, _Status.SERVING)
        await self.set_serving(False)
        try:
            port = self._server.add_insecure_port(f"{settings.host}:{settings.port}")
        except RuntimeError as error:
            raise OSError(f"cannot listen on {settings.host}:{settings.port}: {error}") from error
        self.address = f"{settings.host}:{port}"
        self._metrics_server = MetricsServer(
            self._metrics.registry, settings.host, settings.metrics_port
        )
        self.metrics_address = self._metrics_server.address
        await self._server.start()
        if settings.address_file is not None:
            # Renamed into place, so that a reader never sees half of it.
            temporary = settings.address_file.with_suffix(".tmp")
            temporary.write_text(f"{self.address} {self.metrics_address}\n")
            temporary.replace(settings.address_file)
        logger.info("listening", extra={"address": self.address, "metrics": self.metrics_address})

    async def set_serving(self, serving: bool) -> None:
        """Set the health status of all services."""
        if serving == self._serving or self._stopping:
            return
        status = _Status.SERVING if serving else _Status.NOT_SERVING
        for name in self._names:
            await self._health.set(name, status)
        if self._serving is not None:
            logger.info("health changed", extra={"serving": serving})
        self._serving = serving

    async def stop(self) -> None:
        """Finish the calls in flight within the drain time, then close both ports."""
        # Not `enter_graceful_shutdown`: it also ends `liveness`, but a draining process is alive.
        await self.set_serving(False)
        self._stopping = True
        await asyncio.sleep(self._settings.drain_pause_seconds)
        self._gate.close()
        if self._on_drain is not None:
            self._on_drain()
        left = await self._gate.wait_idle(self._settings.drain_seconds)
        if left:
            logger.warning("cancelling calls that outlived the drain", extra={"calls": left})
        # Even with none left: a call that is being refused must get its answer.
        await self._server.stop(_CLOSE_GRACE_S)
        if self._metrics_server is not None:
            await asyncio.to_thread(self._metrics_server.close)


def _options(max_message_bytes: int) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        # Clients ping every 30 s (sentinel_client, search_server); the default would answer
        # such pings with GOAWAY.
        ("grpc.http2.min_ping_interval_without_data_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # Or a second process could bind the same port and take half of the calls.
        ("grpc.so_reuseport", 0),
    ]
