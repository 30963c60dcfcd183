"""Whether the gateway can answer: its health status, and in the log why it cannot."""

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
# While the same thing is missing it is said again this often, for whoever reads the log's end.
_REMIND_S = 30.0


async def watch(server: GrpcServer, pool: EmbedderPool, store: MilvusStore) -> None:
    """Keep the health status true, for ever: SERVING while Milvus answers and a worker is up."""
    said, said_at = "", 0.0
    while True:
        missing = await _what_is_missing(pool, store)
        await server.set_serving(missing is None)
        if missing is None:
            said = ""
        elif missing.message != said or time.monotonic() - said_at > _REMIND_S:
            said, said_at = missing.message, time.monotonic()
            logger.warning("not serving", extra={"reason": missing.reason, "why": said})
        await asyncio.sleep(_INTERVAL_S)


async def _what_is_missing(pool: EmbedderPool, store: MilvusStore) -> SentinelError | None:
    try:
        await store.ping(Deadline.after(None, default_s=_PING_TIMEOUT_S))
        pool.model()  # raises when no worker is up
    except SentinelError as error:
        return error
    return None
