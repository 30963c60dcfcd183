"""The HTTP port that serves `/metrics` and `/livez`, `/readyz` for probes, on the event loop.

With TLS and a CA for clients, `/metrics` needs a client's certificate; probes have none. Needs no
thread per connection: a thousand silent ones cost a thousand sockets for a few seconds, and the
newest always gets a place.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from sentinel_core.tls import FileTls

# Connections at once; a further one takes the place of the oldest.
_MOST_CONNECTIONS = 64
_MAX_HEAD_BYTES = 16 * 1024
# From connecting to the end of the request, and again for reading the answer.
_LONGEST_S = 5.0
_HANDSHAKE_S = 2.0  # connections are counted after it


class MetricsServer:
    """Serves one registry until it is closed; use inside one event loop."""

    def __init__(
        self,
        registry: CollectorRegistry,
        is_ready: Callable[[], bool],
        tls: FileTls | None = None,
        *,
        certificate_needed: bool = False,
    ) -> None:
        """Serve `registry`, over TLS if `tls` is given.

        `is_ready` decides `/readyz`. With `certificate_needed`, only clients with a valid
        certificate get the metrics.
        """
        self._registry = registry
        self._is_ready = is_ready
        self._tls = tls
        self._certificate_needed = certificate_needed
        self._socket: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.StreamWriter, None] = {}  # oldest first
        self._tasks: set[asyncio.Task[Any]] = set()
        # One at a time, since encoding takes milliseconds of CPU; and never behind other work.
        self._encoder = ThreadPoolExecutor(1, "metrics")

    async def start(self, host: str, port: int) -> str:
        """Listen; port 0 picks a free one. Return the address as `host:port`.

        Raises OSError if the port is taken.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=_MOST_CONNECTIONS)
        await self.renew()
        return f"{host}:{self._socket.getsockname()[1]}"

    async def renew(self) -> None:
        """Give new connections the certificates of this moment; open ones stay."""
        assert self._socket is not None  # started
        old = self._server
        self._server = await asyncio.start_server(
            self._serve,
            sock=self._socket.dup(),  # no connection is refused in between
            limit=_MAX_HEAD_BYTES,
            ssl=self._tls.server_context() if self._tls else None,
            ssl_handshake_timeout=_HANDSHAKE_S if self._tls else None,
        )
        if old is not None:
            old.close()

    async def close(self) -> None:
        """Stop listening and drop the connections."""
        if self._server is not None:
            self._server.close()
        if self._socket is not None:
            self._socket.close()
        for writer in list(self._open):
            writer.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._encoder.shutdown()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # a coroutine runs in one
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if len(self._open) >= _MOST_CONNECTIONS:
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.transport.abort()
        self._open[writer] = None
        try:
            # Whoever leaves, is slow or speaks no HTTP gets no answer.
            with suppress(OSError, TimeoutError, EOFError, asyncio.LimitOverrunError):
                await self._exchange(reader, writer)
        finally:
            self._open.pop(writer, None)
            writer.transport.abort()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(_LONGEST_S):
            head = await reader.readuntil(b"\r\n\r\n")
        known = bool(writer.get_extra_info("peercert")) or not self._certificate_needed
        status, kind, body = await self._answer(head.decode("latin-1"), known)
        writer.write(
            f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {kind}\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
        )
        if not head.startswith(b"HEAD"):
            writer.write(body)
        async with asyncio.timeout(_LONGEST_S):
            await writer.drain()
            writer.close()
            await writer.wait_closed()

    async def _answer(self, head: str, known: bool) -> tuple[HTTPStatus, str, bytes]:
        """Return status, media type and body for a request's head from a client with access."""
        request_line, *lines = head.split("\r\n")
        method, path, *_ = [*request_line.split(" "), "", ""]
        if method not in ("GET", "HEAD"):
            return HTTPStatus.METHOD_NOT_ALLOWED, "text/plain", b"use GET\n"
        path = path.partition("?")[0]
        if path == "/livez":
            return HTTPStatus.OK, "text/plain", b"ok\n"
        if path == "/readyz":
            ready = self._is_ready()
            status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
            return status, "text/plain", b"ok\n" if ready else b"not serving\n"
        if path not in ("/", "/metrics"):
            return HTTPStatus.NOT_FOUND, "text/plain", b"the metrics are at /metrics\n"
        if not known:
            return HTTPStatus.FORBIDDEN, "text/plain", b"show a client certificate\n"
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines)
        }
        encode, kind = choose_encoder(headers.get("accept", ""))
        loop = asyncio.get_running_loop()
        body = await loop.run_in_executor(self._encoder, encode, self._registry)
        return HTTPStatus.OK, kind, body
