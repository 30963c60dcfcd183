"""Flush Milvus Lite, the embedded Milvus, and keep its writes apart from reads.

*Flushes.* Every search copies the unflushed rows and looks them up in Python, and Lite flushes
by itself only after 128 MiB. Rows are durable either way, in its write-ahead log.

*Writes.* Lite 3.2.2 reads its segments first and its memory second, and a flush moves rows from
memory to a segment. A search, count or lookup that a flush interrupts finds them in neither.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

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
        """Flush collections when they are due, for ever."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            for collection in self._due():
                # Forget it first, so that rows written during the flush count again.
                self.forget(collection)
                try:
                    await self._flush(collection)
                except SentinelError as error:  # searches stay slow until the next write
                    logger.warning("flush failed", extra={"reason": error.reason})

    def _due(self) -> list[str]:
        now = time.monotonic()
        return [
            collection
            for collection, rows in self._pending.items()
            if rows >= _MAX_PENDING_ROWS or now - self._last_write[collection] >= _QUIET_S
        ]


class LiteGate:
    """A lock that many readers share and one writer has alone; use it from threads.

    Nobody waits for ever: a waiting write goes before later reads, and reads that waited for a
    write go before the next write. At most one thread may write.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._reading = 0
        self._reads_waiting = 0
        self._reads_first = 0
        self._is_writing = False
        self._write_waits = False

    @contextmanager
    def reading(self, timeout_s: float) -> Iterator[None]:
        """Wait until no write runs; none starts before the end of the block.

        Raises:
            TimeoutError: It took longer than `timeout_s`.
        """
        with self._changed:
            self._reads_waiting += 1
            try:
                if not self._changed.wait_for(self._may_read, timeout_s):
                    raise TimeoutError
            finally:
                self._reads_waiting -= 1
                self._changed.notify_all()
            self._reads_first = max(0, self._reads_first - 1)
            self._reading += 1
        try:
            yield
        finally:
            with self._changed:
                self._reading -= 1
                self._changed.notify_all()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Wait until no read runs; none starts before the end of the block."""
        with self._changed:
            self._write_waits = True
            self._changed.wait_for(self._may_write)
            self._write_waits, self._is_writing = False, True
        try:
            yield
        finally:
            with self._changed:
                self._is_writing = False
                self._reads_first = self._reads_waiting
                self._changed.notify_all()

    def _may_read(self) -> bool:
        return not self._is_writing and (not self._write_waits or self._reads_first > 0)

    def _may_write(self) -> bool:
        # Some of the reads that go first may have timed out.
        return not self._reading and (not self._reads_first or not self._reads_waiting)
