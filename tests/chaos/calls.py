"""Calls of the suite's clients: how long each took, how it ended, and how late its machine was."""

# ruff: noqa: ASYNC109 - a call's timeout, which is measured here and set elsewhere

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Awaitable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sentinel_client import (
    DeadlineExceeded,
    Internal,
    ResourceExhausted,
    SentinelError,
    Unavailable,
)
from tests import processes

T = TypeVar("T")

_BEAT_S = 0.02
_PROBE_EVERY_S, _PROBE_TIMEOUT_S = 0.2, 0.4
# How much later than its deadline a call may end.
LATE_S = 0.2
# How calls may fail while faults last. A reindex may also find another run's traces.
_PASSING = (Unavailable, DeadlineExceeded, ResourceExhausted)
_MAY_CONFLICT = {"reindex", "drop"}


class Lag:
    """How late this process's event loop runs. A call cannot end earlier than the loop notices."""

    def __init__(self) -> None:
        self._beats: deque[tuple[float, float]] = deque(maxlen=5_000)

    async def run(self) -> None:
        """Measure for ever."""
        while True:
            before = time.monotonic()
            await asyncio.sleep(_BEAT_S)
            now = time.monotonic()
            self._beats.append((now, now - before - _BEAT_S))

    def since(self, start: float) -> float:
        """Return the longest delay since a time, in seconds; the one that still lasts included."""
        ended = [late for at, late in self._beats if at >= start]
        running = time.monotonic() - self._beats[-1][0] - _BEAT_S if self._beats else 0.0
        return max([*ended, running, 0.0])


@dataclass(frozen=True, slots=True)
class Done(Generic[T]):
    """A call that has ended; times are `time.monotonic`'s."""

    kind: str
    via: str
    start: float
    end: float
    result: T | None
    error: SentinelError | None

    def __str__(self) -> str:
        return f"{self.kind} via {self.via}, {self.end - self.start:.2f} s: {self.error}"


@dataclass
class Calls:
    """Measures calls, and keeps what the invariants need of them.

    Attributes:
        violations: What must not happen, in words.
        failed_searches: Of this round.
        counts: Calls by kind, and failures by kind and reason.
        most_late_s: The worst deadline, without the event loop's own delay.
    """

    lag: Lag
    violations: list[str] = field(default_factory=list)
    failed_searches: list[Done[object]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    most_late_s: float = 0.0
    most_lag_s: float = 0.0

    async def make(
        self,
        kind: str,
        via: str,
        timeout: float,
        work: Awaitable[T],
        *,
        available: bool = False,
        tolerated: str = "",
    ) -> Done[T]:
        """Await a call that has this timeout.

        `available` is for searches that must not fail while enough of the system is healthy;
        `tolerated` is a reason for which it may fail.
        """
        start = time.monotonic()
        result: T | None = None
        failure: SentinelError | None = None
        try:
            result = await work
        except SentinelError as error:
            failure = error
        except Exception as error:
            self.violations.append(f"{kind} via {via} raised {error!r}, which is no SentinelError")
            failure = SentinelError("RAISED", repr(error))
        done = Done(kind, via, start, time.monotonic(), result, failure)
        self.counts[kind] += 1
        self._check_time(done, timeout)
        if failure is not None:
            self.counts[f"{kind} failed: {failure.reason}"] += 1
            passes = isinstance(failure, _PASSING) and failure.reason != "UNKNOWN"
            if failure.reason == tolerated:
                return done
            if not passes and (kind not in _MAY_CONFLICT or isinstance(failure, Internal)):
                self.violations.append(f"an error that does not pass: {done}")
            if available:
                self.failed_searches.append(Done(kind, via, start, done.end, None, failure))
        return done

    def _check_time(self, done: Done[T], timeout: float) -> None:
        over = done.end - done.start - timeout
        if over <= 0:
            return
        lag = self.lag.since(done.start + timeout)
        self.most_late_s = max(self.most_late_s, over - lag)
        self.most_lag_s = max(self.most_lag_s, lag)
        if over - lag > LATE_S:
            self.violations.append(
                f"{over:.3f} s after its deadline of {timeout} s (of that {lag:.3f} s are this "
                f"machine's): {done}"
            )


class Balancer:
    """Knows which gateways answer their health checks, as a load balancer does."""

    def __init__(self, addresses: dict[str, str]) -> None:
        self._addresses = addresses
        self.healthy = set(addresses)

    async def run(self) -> None:
        """Check for ever."""
        await asyncio.gather(*(self._watch(name) for name in self._addresses))

    async def _watch(self, name: str) -> None:
        from grpc import aio

        async with aio.insecure_channel(
            self._addresses[name],
            options=[("grpc.max_reconnect_backoff_ms", 300), ("grpc.enable_retries", 0)],
        ) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            while True:
                try:
                    answer = await stub.Check(
                        health_pb2.HealthCheckRequest(), timeout=_PROBE_TIMEOUT_S
                    )
                    healthy = answer.status == health_pb2.HealthCheckResponse.SERVING
                except grpc.RpcError:
                    healthy = False
                (self.healthy.add if healthy else self.healthy.discard)(name)
                await asyncio.sleep(_PROBE_EVERY_S)


def sizes(server: processes.Server) -> tuple[int, int, int]:
    """Return a process's memory in bytes, threads and open files."""
    root = Path("/proc") / str(server.process.pid)
    fields = dict(
        line.split(":", 1) for line in (root / "status").read_text().splitlines() if ":" in line
    )
    memory = int(fields["VmRSS"].split()[0]) * 1024
    return memory, int(fields["Threads"]), len(list((root / "fd").iterdir()))
