"""Tell the balancers of clients how busy a server is: a load report at the end of each call.

The report is ORCA's, which `weighted_round_robin` reads in gRPC and Envoy. The weight of a server
is its calls per second over its utilization, and failed calls count as utilization (gRPC proposal
A58). Our utilization is the work in progress, as a part of the most that is admitted. So all
servers get queues of about the same length: who is twice as fast gets twice the calls.
"""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Callable, Iterable
from typing import Protocol

LOAD_REPORT_KEY = "endpoint-load-metrics-bin"
# Three fields of xds.data.orca.v3.OrcaLoadReport, each as its tag and a double: rps_fractional (6),
# eps (7), application_utilization (9).
_REPORT = struct.Struct("<BdBdBd")
_RPS, _EPS, _UTILIZATION = 0x31, 0x39, 0x49
# Clients compute their weights once a second.
_RENEW_S = 0.1
_MEMORY_S = 1.0
# Of these the server is the cause, or its load.
_FAILURES = {
    "DATA_LOSS",
    "DEADLINE_EXCEEDED",
    "INTERNAL",
    "RESOURCE_EXHAUSTED",
    "UNAVAILABLE",
    "UNKNOWN",
}


class Work(Protocol):
    """Work of one kind that a server admits up to a limit."""

    def busy_seconds(self) -> float:
        """Return the seconds that the limit was used so far; half of it for 2 s is 1 s."""


class LoadReport:
    """Averages the load of a server over about a second. Use inside one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._works: list[tuple[Work, _Rate]] = []
        self._ok, self._failed = 0, 0
        self._ok_rate, self._failure_rate = _Rate(), _Rate()
        self._renewed_at = clock()
        self._report = self._encoded()

    def watch(self, works: Iterable[Work]) -> None:
        """Count these works; the fullest one is the utilization."""
        self._works += [(work, _Rate(work.busy_seconds())) for work in works]

    def note(self, code: str) -> None:
        """Count a call that has ended, by the name of its code."""
        if code in _FAILURES:
            self._failed += 1
        elif code != "CANCELLED":
            self._ok += 1

    def report(self) -> bytes:
        """Return the serialized report; it is renewed ten times a second at most."""
        now = self._clock()
        seconds = now - self._renewed_at
        if seconds >= _RENEW_S:
            self._renewed_at = now
            self._ok_rate.add(self._ok, seconds)
            self._failure_rate.add(self._failed, seconds)
            for work, rate in self._works:
                rate.add(work.busy_seconds(), seconds)
            self._report = self._encoded()
        return self._report

    def _encoded(self) -> bytes:
        utilization = max((rate.per_second for _, rate in self._works), default=0.0)
        return _REPORT.pack(
            *(_RPS, self._ok_rate.per_second),
            *(_EPS, self._failure_rate.per_second),
            *(_UTILIZATION, utilization),
        )


class _Rate:
    """How fast a growing total grows, averaged."""

    __slots__ = ("_total", "per_second")

    def __init__(self, total: float = 0.0) -> None:
        self._total = total
        self.per_second = 0.0

    def add(self, total: float, seconds: float) -> None:
        kept = math.exp(-seconds / _MEMORY_S)
        self.per_second = kept * self.per_second + (1 - kept) * (total - self._total) / seconds
        self._total = total
