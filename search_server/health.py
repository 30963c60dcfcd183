"""Set the gateway's health status, and log why it is not serving."""

from __future__ import annotations

import asyncio
import logging
import time

from search_server.embedders.pool import EmbedderPool
from sentinel_core.calls import Deadline
from sentinel_core.errors import SentinelError
from sentinel_core.server import GrpcServer
from sentinel_store.milvus.store import MilvusStore

logger = logging.getLogger(__name__)

_INTERVAL_S = 0.5
_PING_TIMEOUT_S = 2.0
# Log the same reason again after this time, for readers of the log's end.
_REMIND_S = 30.0


async def watch(server: GrpcServer, pool: EmbedderPool, store: MilvusStore) -> None:
    """Update the health status for ever: SERVING while Milvus answers and a worker is up."""
    logged, logged_at = "", 0.0
    while True:
        problem = await _find_problem(pool, store)
        await server.set_serving(problem is None)
        if problem is None:
            logged = ""
        elif problem.message != logged or time.monotonic() - logged_at > _REMIND_S:
            logged, logged_at = problem.message, time.monotonic()
            logger.warning("not serving", extra={"reason": problem.reason, "why": logged})
        await asyncio.sleep(_INTERVAL_S)


async def _find_problem(pool: EmbedderPool, store: MilvusStore) -> SentinelError | None:
    try:
        await store.list_collections(Deadline.within(_PING_TIMEOUT_S))
        pool.model()  # raises when no worker is up
    except SentinelError as error:
        return error
    return None
