"""Ends what gRPC itself would keep for ever: unread answers, half-sent messages, floods.

A few times a second it looks at all connections, and drops or ends:

* the connection of a call whose time is over and whose caller does not read the answer;
* streams whose messages have arrived in part and do not go on, or together hold too much;
* connections above the limit, the newest first.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter

from prometheus_client import Counter, Gauge

from sentinel_core.calls import Call
from sentinel_core.connections import Connection, ConnectionFinder, peer_address
from sentinel_core.errors import DeadlineExceeded, ResourceExhausted
from sentinel_core.metrics import ServerMetrics
from sentinel_core.receiving import Inflow

logger = logging.getLogger(__name__)

_INTERVAL_S = 1.0
# While streams wait for messages: until the next look, half-sent ones grow unseen.
_STREAM_INTERVAL_S = 0.25
# Half-sent bytes that need no attention: what a stream may send before it is read.
_NEGLIGIBLE_BYTES = 128 * 1024
_STALL_S = 30.0
# Logs, connections to others, image decoders.
_OTHER_FILES = 512
_RETRY_AFTER_S = 1.0


@dataclass(slots=True)
class _HalfSent:
    """What has come over a connection but is not part of a whole message yet.

    Attributes:
        received: Bytes that the system had counted at the last look.
        expected: Bytes that whole messages and headers explain, at the last look.
        unfinished: The rest, in bytes.
        grew_at: When bytes came last.
    """

    received: int
    expected: float
    unfinished: float
    grew_at: float


class ConnectionGuard:
    """Looks after the connections of one port. Use inside one event loop."""

    def __init__(
        self,
        calls: Sequence[set[Call]],
        inflow: Inflow,
        *,
        most: int,
        metrics: ServerMetrics,
    ) -> None:
        """Watch the open `calls`, and the streams of `inflow`; allow `most` connections."""
        self._calls = calls
        self._inflow = inflow
        self._most = most
        self._half_sent: dict[str, _HalfSent] = {}
        self._connections = Gauge(
            f"sentinel_{metrics.process}_connections",
            "Connections to the gRPC port.",
            registry=metrics.registry,
        )
        self._dropped = Counter(
            f"sentinel_{metrics.process}_connections_dropped_total",
            "Connections that this process has dropped, by cause: unread or too_many.",
            ["cause"],
            registry=metrics.registry,
        )
        for cause in ("unread", "too_many"):
            self._dropped.labels(cause)

    async def run(self, port: int) -> None:
        """Look for ever."""
        _allow_files(self._most + _OTHER_FILES)
        finder = ConnectionFinder(port)
        with ThreadPoolExecutor(1, "connections") as thread:  # never behind other work
            await self._look(finder, thread)

    async def _look(self, finder: ConnectionFinder, thread: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_STREAM_INTERVAL_S if self._inflow.waiting() else _INTERVAL_S)
            try:
                connections = await loop.run_in_executor(thread, finder.find)
            except OSError as error:  # no file descriptor is free, just when this is needed most
                logger.warning("connections cannot be listed", extra={"why": str(error)})
                continue
            self._connections.set(len(connections))
            self._drop(connections[self._most :], "too_many")
            now = perf_counter()
            overdue = {
                peer_address(call.peer)
                for calls in self._calls
                for call in calls
                if call.answer_by < now
            }
            if overdue:
                self._drop([one for one in connections if one.peer in overdue], "unread")
            self._check_streams(connections, now)

    def _drop(self, connections: list[Connection], cause: str) -> None:
        for connection in connections:
            connection.drop()
            self._dropped.labels(cause).inc()
        if connections:
            logger.warning("connections dropped", extra={"cause": cause, "count": len(connections)})

    def _check_streams(self, connections: list[Connection], now: float) -> None:
        by_peer = {one.peer: one for one in connections}
        self._inflow.forget(lambda peer: peer_address(peer) not in by_peer)
        half_sent: dict[str, _HalfSent] = {}
        for peer in self._inflow.waiting():
            connection = by_peer.get(peer_address(peer))
            if connection is not None:
                half_sent[peer] = self._measured(peer, connection, now)
        self._half_sent = half_sent
        for peer, state in half_sent.items():
            if state.unfinished > _NEGLIGIBLE_BYTES and now - state.grew_at > _STALL_S:
                self._inflow.end_streams(
                    peer,
                    DeadlineExceeded(
                        "STREAM_STALLED",
                        f"a message has come in part, and nothing more for {_STALL_S:.0f} s; open "
                        "a new stream and send it again",
                    ),
                )
        if sum(state.unfinished for state in half_sent.values()) > self._inflow.stream_bytes:
            self._inflow.end_streams(
                max(half_sent, key=lambda peer: half_sent[peer].unfinished),
                ResourceExhausted(
                    "MEMORY_EXHAUSTED",
                    "streams are sending more large messages than this process has memory for; "
                    "retry later, or send smaller messages",
                    retry_after_s=_RETRY_AFTER_S,
                ),
            )

    def _measured(self, peer: str, connection: Connection, now: float) -> _HalfSent:
        received, expected = connection.received(), self._inflow.expected(peer)
        last = self._half_sent.get(peer)
        if last is None:
            return _HalfSent(received, expected, max(0.0, received - expected), now)
        came = received - last.received
        unfinished = max(0.0, last.unfinished + came - (expected - last.expected))
        return _HalfSent(received, expected, unfinished, now if came else last.grew_at)


def _allow_files(wanted: int) -> None:
    """Raise the limit of open files to `wanted`, or as far as the system allows.

    Many systems begin with 1024, so that programs which use `select` work. None of ours does.
    """
    if sys.platform == "win32":
        return
    import resource  # noqa: PLC0415 - Windows has none

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
