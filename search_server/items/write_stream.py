"""Use case: batches in, acknowledgements out, in order and each only once its batch is durable.

Several batches are in work at once, so that one is written while the next is embedded. A batch
waits for an earlier one only where both name the same item; what is stored at the end is what
storing them one after the other would have left.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from search_server.collections.catalog import Collections
from search_server.embedders.pool import Capacity, EmbedderPool
from search_server.items.writer import Ingest
from search_server.types.items import ItemOutcome, UnreadableItem
from sentinel_core.calls import Deadline, next_or_stop
from sentinel_core.errors import SentinelError, Unavailable, first_error
from sentinel_store.collections import CollectionInfo
from sentinel_store.items import Item

# Enough for the largest batches a model runs, and for one write to Milvus to be worth it.
_BATCH_ITEMS = 64
# Per worker: one at the device, one decoded behind it, one looked up, one written.
_BATCHES_PER_WORKER = 4
# Workers come and go at health checks, a second apart.
_ADVISE_EVERY_S = 1.0

_Stored = list[ItemOutcome] | Exception


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch as it came; `size` is its bytes on the wire."""

    sequence: int
    items: list[Item | UnreadableItem]
    size: int


@dataclass(frozen=True, slots=True)
class Advice:
    """How the caller should send; `draining`: no more, the process is about to stop."""

    batch_items: int
    batches_in_flight: int
    draining: bool = False


@dataclass(frozen=True, slots=True)
class Ack:
    """A durable batch, and what became of its items, in order."""

    sequence: int
    outcomes: list[ItemOutcome]


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """Bounds of one stream.

    Attributes:
        max_items: Most items in a batch.
        max_bytes: With this many bytes of batches in work nothing more is read.
        batch_timeout_s: Longest time that storing one batch may take.
        drain_grace_s: How long batches are still read after the advice to drain.
    """

    max_items: int
    max_bytes: int
    batch_timeout_s: float
    drain_grace_s: float


def advise(capacity: Capacity, max_items: int) -> Advice:
    """Return what keeps these workers busy with half of their queues left to others."""
    items = min(_BATCH_ITEMS, max_items, capacity.max_contents or _BATCH_ITEMS)
    wanted = _BATCHES_PER_WORKER * max(1, capacity.workers)
    room = capacity.max_queue_items // (2 * items) if capacity.workers else wanted
    return Advice(items, max(1, min(wanted, room)))


class IngestStream:
    """One stream, used once, inside one event loop.

    Args:
        ingest: Stores the batches.
        collections: Asked for each batch what the collection is.
        pool: The workers that advice is made from.
        limits: Bounds of the stream.
        collection: Where the items go.
        draining: Set when the process is told to stop.
        time_left: Seconds until the caller's own deadline; None if it has none.
    """

    def __init__(
        self,
        ingest: Ingest,
        collections: Collections,
        pool: EmbedderPool,
        limits: StreamLimits,
        *,
        collection: str,
        draining: asyncio.Event,
        time_left: Callable[[], float | None],
    ) -> None:
        self._ingest = ingest
        self._collections = collections
        self._pool = pool
        self._limits = limits
        self._collection = collection
        self._draining = draining
        self._time_left = time_left
        self._advice = Advice(0, 1)
        self._fingerprint = ""
        self._sizes: deque[int] = deque()  # of the batches in work, oldest first
        self._room = asyncio.Event()
        # Of each item that a batch in work names: set when the last such batch is stored.
        self._writers: dict[str, asyncio.Event] = {}
        self._registered = asyncio.Event()  # the items of the newest batch stand in `_writers`
        self._registered.set()
        self._accepted: asyncio.Queue[tuple[int, asyncio.Task[_Stored]] | None] = asyncio.Queue()
        self._outbox: asyncio.Queue[Advice | Ack | None] = asyncio.Queue()
        self._refusal: SentinelError | None = None

    async def run(self, batches: AsyncIterator[Batch]) -> AsyncGenerator[Advice | Ack]:
        """Yield advice first, then an acknowledgement for each batch; end after the last one.

        Raises:
            SentinelError: The collection cannot be written, reading `batches` raised it, or a
                whole batch failed. Everything acknowledged before is durable.
        """
        work = asyncio.create_task(self._work(batches))
        try:
            while (event := await self._outbox.get()) is not None:
                yield event
                if isinstance(event, Ack):
                    # It has been sent: gRPC asks for the next one only then.
                    self._sizes.popleft()
                    self._room.set()
            await work
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def _work(self, batches: AsyncIterator[Batch]) -> None:
        try:
            await self._collection_now()
            self._tell_advice()
            async with asyncio.TaskGroup() as group:
                advising = group.create_task(self._keep_advising())
                group.create_task(self._read(batches, group))
                await self._acknowledge()
                advising.cancel()
        except BaseExceptionGroup as errors:
            raise first_error(errors) from None
        finally:
            self._outbox.put_nowait(None)

    async def _read(self, batches: AsyncIterator[Batch], group: asyncio.TaskGroup) -> None:
        stop = asyncio.ensure_future(self._time_to_stop())
        try:
            await self._until_room()
            while (read := await next_or_stop(batches, stop)) is not None:
                await self._accept(read[0], group)
                await self._until_room()
            if stop.done():
                self._refusal = Unavailable(
                    "DRAINING",
                    "this gateway shuts down; send what it did not acknowledge to another one",
                )
        except SentinelError as error:
            self._refusal = error  # told once everything accepted before is acknowledged
        finally:
            stop.cancel()
            self._accepted.put_nowait(None)

    async def _time_to_stop(self) -> None:
        await self._draining.wait()
        await asyncio.sleep(self._limits.drain_grace_s)

    async def _until_room(self) -> None:
        while len(self._sizes) >= self._advice.batches_in_flight or (
            sum(self._sizes) >= self._limits.max_bytes
        ):
            self._room.clear()
            await self._room.wait()

    async def _accept(self, batch: Batch, group: asyncio.TaskGroup) -> None:
        info = await self._collection_now()
        before, self._registered = self._registered, asyncio.Event()
        task = group.create_task(self._store(info, batch, before, self._registered))
        self._sizes.append(batch.size)
        self._accepted.put_nowait((batch.sequence, task))

    async def _store(
        self, info: CollectionInfo, batch: Batch, before: asyncio.Event, registered: asyncio.Event
    ) -> _Stored:
        """Store a batch; a failure is returned, to be told in order.

        What waits for a batch that failed waits until the stream has ended.
        """
        try:
            checked = await self._ingest.prepare(info, batch.items, self._deadline())
            await before.wait()  # until the items of every batch before this one are known
            done = asyncio.Event()
            earlier = {self._writers[key] for key in checked.drafts if key in self._writers}
            self._writers.update(dict.fromkeys(checked.drafts, done))
            registered.set()
            for writer in earlier:
                await writer.wait()
            outcomes = await self._ingest.store(info, checked, self._deadline(), patient=True)
        except Exception as error:
            return error
        done.set()
        for key in checked.drafts:
            if self._writers[key] is done:
                del self._writers[key]
        return outcomes

    async def _acknowledge(self) -> None:
        while (accepted := await self._accepted.get()) is not None:
            sequence, task = accepted
            stored = await task
            if isinstance(stored, Exception):
                raise stored
            self._outbox.put_nowait(Ack(sequence, stored))
        if self._refusal is not None:
            raise self._refusal

    async def _keep_advising(self) -> None:
        while not self._draining.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(_ADVISE_EVERY_S):
                    await self._draining.wait()
            self._tell_advice()

    def _tell_advice(self) -> None:
        advice = advise(self._pool.capacity(self._fingerprint), self._limits.max_items)
        advice = replace(advice, draining=self._draining.is_set())
        if advice != self._advice:
            self._advice = advice
            self._outbox.put_nowait(advice)
            self._room.set()  # there may be more of it now

    async def _collection_now(self) -> CollectionInfo:
        """Return what the collection is; a long stream may see an alias move on."""
        info = await self._collections.get(self._collection, self._deadline())
        self._fingerprint = info.model.fingerprint
        return info

    def _deadline(self) -> Deadline:
        return Deadline.after(self._time_left(), default_s=self._limits.batch_timeout_s)
