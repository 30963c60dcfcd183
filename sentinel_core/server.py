"""A grpc.aio server with health, reflection, metrics and the interceptor; starts and drains.

Startup: open the ports, NOT_SERVING, then `set_serving(True)` when the owner is ready.
Shutdown (`stop`): NOT_SERVING, pause, refuse new calls, finish the calls in flight, close.

The health name `liveness` is SERVING as long as the port is open: the process answers, whatever it
waits for. So nobody restarts a gateway because Milvus is down.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from grpc_health.v1 import health_pb2_grpc

from sentinel_core import introspection
from sentinel_core.access.guard import Access, Credentials, Rule
from sentinel_core.call_log import CallLog, Observer
from sentinel_core.calls import MAX_RESPONSE_BYTES
from sentinel_core.connection_guard import ConnectionGuard
from sentinel_core.interceptors import (
    CallInterceptor,
    DrainGate,
    MethodLimits,
)
from sentinel_core.introspection import Health
from sentinel_core.memory import MemoryBudget
from sentinel_core.metrics import ServerMetrics
from sentinel_core.metrics_server import MetricsServer
from sentinel_core.receiving import Receivers
from sentinel_core.runtime import Lifecycle
from sentinel_core.settings import ServerSettings
from sentinel_core.tls import FileTls

logger = logging.getLogger(__name__)

LIVENESS = "liveness"
# Calls that are still open after the drain are cancelled and get this long to clean up.
_CLOSE_GRACE_S = 0.5
_UNREAD_BYTES = 64 * 1024
_MOST_STREAMS = 1000
# Calls that wait to be accepted: grpc.aio accepts one in each round of the event loop.
_MOST_PENDING = 10_000
_HANDSHAKE_MS = 10_000
_IDLE_MS = 300_000
_KEEPALIVE_MS = 60_000
_KEEPALIVE_TIMEOUT_MS = 20_000
_LEAST_PING_MS = 9_000


@dataclass(frozen=True, slots=True)
class Service:
    """One gRPC service: its full name, the generated `add_…_to_server`, its servicer, its limits.

    `limits` has the methods by their names; those that it does not name have the limits of "".
    `rules` says what each method needs of its callers, by name.
    """

    name: str
    register: Callable[[Any, grpc.aio.Server], None]
    servicer: object
    limits: Mapping[str, MethodLimits]
    rules: Mapping[str, Rule]

    def limits_by_path(self) -> dict[str, MethodLimits]:
        """Return the limits of all methods by their paths, such as `/package.Service/Method`."""
        methods = descriptor_pool.Default().FindServiceByName(self.name).methods_by_name
        return {
            f"/{self.name}/{method}": self.limits.get(method, self.limits[""]) for method in methods
        }

    def rules_by_path(self) -> dict[str, Rule]:
        """Return the rules by the methods' paths."""
        return {f"/{self.name}/{method}": rule for method, rule in self.rules.items()}


class GrpcServer:
    """Owns the gRPC port and the metrics port of one process. Use inside one event loop.

    It adds health and reflection to `services`. It calls `on_drain` when it begins to refuse calls,
    so that the owner ends calls that never end. What looks after connections and memory runs in
    `lifecycle`, whose tasks the owner cancels after `stop`.

    With `leaves_at_once` it closes its port as soon as it drains, and its clients leave their
    connections (GOAWAY): those that balance go elsewhere after one refusal. Else it goes on to
    answer health checks, which tell its clients that it drains and has not died.
    """

    def __init__(
        self,
        settings: ServerSettings,
        metrics: ServerMetrics,
        memory: MemoryBudget,
        services: list[Service],
        lifecycle: Lifecycle,
        *,
        credentials: Credentials,
        on_drain: Callable[[], None] | None = None,
        leaves_at_once: bool = False,
    ) -> None:
        self._settings = settings
        self._gate = DrainGate()
        self._on_drain = on_drain
        self._leaves_at_once = leaves_at_once
        self._health = Health()
        self._names = ["", *(service.name for service in services)]
        self._serving: bool | None = None
        self._stopping = False
        receivers = Receivers.within(memory, settings.max_message_bytes)
        ours, standard = CallLog(metrics), Observer()
        limits = {path: one for each in services for path, one in each.limits_by_path().items()}
        rules = {path: one for each in services for path, one in each.rules_by_path().items()}
        access = Access(rules, credentials, is_audited=bool(settings.audit_log))
        open_access = Access(introspection.RULES, credentials, is_audited=False)
        self.options = _options(settings)
        self._server = grpc.aio.server(
            interceptors=[
                CallInterceptor(
                    ours,
                    self._gate,
                    memory,
                    receivers.ours,
                    limits=limits,
                    access=access,
                    largest_response=settings.max_message_bytes,
                ),
                # Always answered, also while draining, and never logged.
                CallInterceptor(
                    standard,
                    DrainGate(),
                    memory,
                    receivers.standard,
                    limits=introspection.LIMITS,
                    access=open_access,
                    largest_response=settings.max_message_bytes,
                ),
            ],
            options=self.options,
        )
        self._register(services, with_reflection=settings.reflection)
        self._guard = ConnectionGuard(
            [ours.open_calls, standard.open_calls],
            receivers.inflow,
            most=settings.max_connections,
            metrics=metrics,
        )
        self._memory = memory
        self._lifecycle = lifecycle
        files = settings.tls()
        self._tls = FileTls(files) if files else None
        self._metrics_server = MetricsServer(
            metrics.registry,
            lambda: bool(self._serving),
            self._tls,
            certificate_needed=settings.tls_client_ca is not None,
        )
        self.address = ""
        self.metrics_address = ""

    def _register(self, services: list[Service], *, with_reflection: bool) -> None:
        for service in services:
            service.register(service.servicer, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if with_reflection:
            introspection.add_reflection([name for name in self._names if name], self._server)

    async def start(self) -> None:
        """Open both ports, still NOT_SERVING, and write the address file.

        Raises OSError if a port is taken.
        """
        settings = self._settings
        self._health.set(LIVENESS, True)
        await self.set_serving(False)
        try:
            port = self._open_port(f"{settings.host}:{settings.port}")
        except RuntimeError as error:
            raise OSError(f"cannot listen on {settings.host}:{settings.port}: {error}") from error
        self.address = f"{settings.host}:{port}"
        self.metrics_address = await self._metrics_server.start(
            settings.host, settings.metrics_port
        )
        await self._server.start()
        self._lifecycle.spawn(self._guard.run(port), "connection guard")
        self._lifecycle.spawn(self._memory.return_freed(), "memory")
        if self._tls is not None:
            self._lifecycle.spawn(self._follow_certificates(self._tls), "certificates")
        if settings.address_file is not None:
            # Renamed into place, so that a reader never sees half of it.
            temporary = settings.address_file.with_suffix(".tmp")
            temporary.write_text(f"{self.address} {self.metrics_address}\n")
            temporary.replace(settings.address_file)
        logger.info("listening", extra={"address": self.address, "metrics": self.metrics_address})

    async def _follow_certificates(self, tls: FileTls) -> None:
        async for _ in tls.changes():  # the gRPC port asks by itself
            await self._metrics_server.renew()

    def _open_port(self, address: str) -> int:
        if self._tls is None:
            return self._server.add_insecure_port(address)
        return self._server.add_secure_port(address, self._tls.server_credentials())

    async def set_serving(self, serving: bool) -> None:
        """Set the health status of all services."""
        if serving == self._serving or self._stopping:
            return
        for name in self._names:
            self._health.set(name, serving)
        if self._serving is not None:
            logger.info("health changed", extra={"serving": serving})
        self._serving = serving

    async def stop(self) -> None:
        """Finish the calls in flight within the drain time, then close both ports."""
        # But `liveness` stays: a draining process is alive.
        await self.set_serving(False)
        self._stopping = True
        await asyncio.sleep(self._settings.drain_pause_seconds)
        self._gate.close()
        if self._on_drain is not None:
            self._on_drain()
        closing = None
        if self._leaves_at_once:
            grace_s = self._settings.drain_seconds + _CLOSE_GRACE_S
            closing = asyncio.create_task(self._server.stop(grace_s))
        left = await self._gate.wait_idle(self._settings.drain_seconds)
        if left:
            logger.warning("cancelling calls that outlived the drain", extra={"calls": left})
        # Even with none left: a call that is being refused must get its answer.
        await self._server.stop(_CLOSE_GRACE_S)
        if closing is not None:
            await closing
        await self._metrics_server.close()


def _options(settings: ServerSettings) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        # For small settings; `CallInterceptor` bounds responses, with a reason.
        ("grpc.max_send_message_length", max(settings.max_message_bytes, MAX_RESPONSE_BYTES)),
        # Identity only: a few compressed kilobytes could become the largest message.
        ("grpc.compression_enabled_algorithms_bitset", 1),
        # A call holds this much before it is read; with probes gRPC would raise it to megabytes.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", _UNREAD_BYTES),
        ("grpc.max_concurrent_streams", _MOST_STREAMS),
        # gRPC cancels further calls without a reason; ours are refused with one.
        ("grpc.server.max_pending_requests", _MOST_PENDING),
        ("grpc.server.max_pending_requests_hard_limit", _MOST_PENDING),
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
        ("grpc.max_connection_idle_ms", _IDLE_MS),
        # gRPC adds up to a tenth, either way, so that clients do not come back all at once.
        ("grpc.max_connection_age_ms", int(settings.max_connection_seconds * 1000)),
        ("grpc.max_connection_age_grace_ms", int(settings.connection_grace_seconds * 1000)),
        # For peers that are gone without a word.
        ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
        ("grpc.http2.ping_timeout_ms", _KEEPALIVE_TIMEOUT_MS),  # else a minute
        # Clients may ping every 10 s, Go's minimum; gRPC would answer such pings with GOAWAY.
        ("grpc.http2.min_ping_interval_without_data_ms", _LEAST_PING_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        # Or a second process could bind the same port and take half of the calls.
        ("grpc.so_reuseport", 0),
    ]
