"""Set the gateway's health status; say in log and metric what is wrong.

Some problems end service, others only part of it: without the object store, searches still work.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

from prometheus_client import Gauge

from search_server.embedders.pool import EmbedderPool
from sentinel_core.calls import Deadline
from sentinel_core.errors import SentinelError
from sentinel_core.metrics import ServerMetrics
from sentinel_core.server import GrpcServer
from sentinel_store.images.image_store import ImageStore
from sentinel_store.milvus.store import MilvusStore

logger = logging.getLogger(__name__)

_INTERVAL_S = 0.5
_PING_TIMEOUT_S = 2.0
# Log the same reason again after this time, for readers of the log's end.
_REMIND_S = 30.0


class Problems:
    """What is wrong now, by its reason: the gauge `sentinel_gateway_problem`, and log lines.

    A problem is logged when it begins, every 30 s while it lasts, and when it is over.
    """

    def __init__(self, metrics: ServerMetrics) -> None:
        self._gauge = Gauge(
            f"sentinel_{metrics.process}_problem",
            "1 while the gateway has a problem, by error reason; the log says what to do.",
            ["reason"],
            registry=metrics.registry,
        )
        self._reasons: set[str] = set()
        self._logged_at: dict[str, float] = {}  # by message

    def update(self, fatal: SentinelError | None, others: Sequence[SentinelError] = ()) -> None:
        """Tell what is wrong now: at most one problem that ends service, and others."""
        now = time.monotonic()
        found = [("not serving", fatal)] if fatal is not None else []
        found += [("degraded", problem) for problem in others]
        for what, problem in found:
            if now - self._logged_at.get(problem.message, -_REMIND_S) >= _REMIND_S:
                self._logged_at[problem.message] = now
                logger.warning(what, extra={"reason": problem.reason, "why": problem.message})
        reasons = {problem.reason for _, problem in found}
        for reason in reasons | self._reasons:
            self._gauge.labels(reason).set(reason in reasons)
        for reason in self._reasons - reasons:
            logger.info("a problem is over", extra={"reason": reason})
        self._reasons = reasons
        if not reasons:
            self._logged_at.clear()


async def watch(
    server: GrpcServer,
    metrics: ServerMetrics,
    pool: EmbedderPool,
    store: MilvusStore,
    images: ImageStore,
) -> None:
    """Update the health status for ever: SERVING while Milvus answers and a worker is up."""
    problems = Problems(metrics)
    while True:
        fatal, others = await _look(pool, store)
        if images.problem is not None:
            others.append(images.problem)
        problems.update(fatal, others)
        await server.set_serving(fatal is None)
        await asyncio.sleep(_INTERVAL_S)


async def _look(
    pool: EmbedderPool, store: MilvusStore
) -> tuple[SentinelError | None, list[SentinelError]]:
    """Return the problem that ends service, and those that end part of it."""
    try:
        writes = await store.check(Deadline.within(_PING_TIMEOUT_S))
        pool.model()  # raises when no worker is up
    except SentinelError as error:
        return error, []
    return None, [] if writes is None else [writes]
