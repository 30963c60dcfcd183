"""What happens around every call, one concern a file, and the one order it happens in."""

from __future__ import annotations

import grpc

from sentinel_core.interceptors.base import CallInterceptor
from sentinel_core.interceptors.drain import DrainGate
from sentinel_core.interceptors.observe import Observer
from sentinel_core.metrics import ServerMetrics


def build(metrics: ServerMetrics, gate: DrainGate) -> list[grpc.aio.ServerInterceptor]:
    """Return the interceptors of a server.

    Observing is outermost, so that refusals are counted too; errors come next, so that what the
    gate raises becomes a status like any other.
    """
    return [CallInterceptor(Observer(metrics), gate)]
