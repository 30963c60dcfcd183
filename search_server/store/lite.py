"""What the embedded Milvus leaves to its user: when to flush.

Milvus Lite searches rows that are not flushed yet in plain Python, at about 40 ms per 1,000 rows,
and flushes by itself only after 128 MiB. They are durable either way, in its write-ahead log.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from sentinel_core.errors import SentinelError

logger = logging.getLogger(__name__)

_MAX_PENDING_ROWS = 512
_QUIET_S = 0.5
_LOOK_EVERY_S = 0.1


class LiteFlusher:
    """Flushes a collection after 512 new rows, or half a second after the last of them."""

    def __init__(self, flush: Callable[[str], Awaitable[None]]) -> None:
        self._flush = flush
        self._pending: dict[str, int] = {}
        self._last_write: dict[str, float] = {}

    def note(self, collection: str, row_count: int) -> None:
        """Record that rows were written."""
        self._pending[collection] = self._pending.get(collection, 0) + row_count
        self._last_write[collection] = time.monotonic()

    def forget(self, collection: str) -> None:
        """Forget a collection that is dropped."""
        self._pending.pop(collection, None)

    async def run(self) -> None:
        """Flush what is due, for ever."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            for collection in self._due():
                # Forgotten first, so that rows written during the flush are counted anew.
                self.forget(collection)
                try:
                    await self._flush(collection)
                except SentinelError as error:  # it only costs speed, until the next write
                    logger.warning("flush failed", extra={"reason": error.reason})

    def _due(self) -> list[str]:
        now = time.monotonic()
        return [
            collection
            for collection, rows in self._pending.items()
            if rows >= _MAX_PENDING_ROWS or now - self._last_write[collection] >= _QUIET_S
        ]
