"""Server interceptors, one concern a file, and the one order they run in."""

from __future__ import annotations

import grpc

from sentinel_core.interceptors.drain import DrainInterceptor
from sentinel_core.interceptors.errors import ErrorInterceptor
from sentinel_core.interceptors.observe import ObserveInterceptor
from sentinel_core.metrics import ServerMetrics


def build(metrics: ServerMetrics, drain: DrainInterceptor) -> list[grpc.aio.ServerInterceptor]:
    """Return the interceptors, outermost first.

    Observing is outermost, so that refusals are counted too; errors come next, so that what
    draining raises becomes a status like any other.
    """
    return [ObserveInterceptor(metrics), ErrorInterceptor(), drain]
