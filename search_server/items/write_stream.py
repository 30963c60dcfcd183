"""Store a stream of batches: acknowledge each in order, once it is durable.

Several batches run at once, so that one is written while the next is embedded. A batch waits for
an earlier one only if both name the same item. The result equals storing them one after another.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from search_server.collections.catalog import Catalog
from search_server.embedders.pool import Capacity, EmbedderPool
from search_server.items.writer import ItemWriter
from search_server.settings import GatewaySettings
from search_server.types.items import ItemOutcome, UnreadableItem
from sentinel_core.calls import Deadline, next_or_stop
from sentinel_core.errors import SentinelError, Unavailable, first_error
from sentinel_store.collections import CollectionInfo
from sentinel_store.items import Item

# Enough for the largest batches a model runs, and for one write to Milvus to be worth it.
_BATCH_ITEMS = 64
# Per worker: one on the device, one being decoded, one being looked up, one being written.
_BATCHES_PER_WORKER = 4
# Health checks are this often or more often, and workers come and go with them.
_ADVICE_INTERVAL_S = 1.0

# The outcomes of a batch, or the error that failed it.
_Result = list[ItemOutcome] | Exception


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch as the caller sent it.

    Attributes:
        size: Bytes on the wire.
        release: Gives back the memory that it holds; called when it is acknowledged. If it never
            is, the end of the call gives the memory back.
    """

    sequence: int
    items: list[Item | UnreadableItem]
    size: int
    release: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Advice:
    """How the caller should send; `draining` means: stop, this process is shutting down."""

    batch_items: int
    batches_in_flight: int
    draining: bool = False


@dataclass(frozen=True, slots=True)
class Ack:
    """A durable batch and the outcomes of its items, in order."""

    sequence: int
    outcomes: list[ItemOutcome]


def advise(capacity: Capacity, max_items: int) -> Advice:
    """Return the sizes that keep these workers busy and half of their queues free for others."""
    items = min(_BATCH_ITEMS, max_items, capacity.max_contents or _BATCH_ITEMS)
    batches = _BATCHES_PER_WORKER * max(1, capacity.workers)
    if capacity.workers:
        batches = min(batches, capacity.max_queue_items // (2 * items))
    return Advice(items, max(1, batches))


class WriteStream:
    """One stream; use it once, inside one event loop.

    Args:
        collection: Name or alias of the collection to write to; resolved anew for each batch.
        draining: Set when the process begins to shut down.
        time_left: Seconds until the caller's own deadline; None if it has none.
    """

    def __init__(
        self,
        writer: ItemWriter,
        catalog: Catalog,
        pool: EmbedderPool,
        settings: GatewaySettings,
        *,
        collection: str,
        draining: asyncio.Event,
        time_left: Callable[[], float | None],
    ) -> None:
        self._writer = writer
        self._catalog = catalog
        self._pool = pool
        self._settings = settings
        self._collection = collection
        self._draining = draining
        self._time_left = time_left
        self._advice = Advice(0, 1)
        self._fingerprint = ""
        self._running: deque[Batch] = deque()  # oldest first
        self._room = asyncio.Event()
        # By item id: set when the newest running batch with this item is stored.
        self._last_writes: dict[str, asyncio.Event] = {}
        self._registered = asyncio.Event()  # the newest batch's items are in `_last_writes`
        self._registered.set()
        self._accepted: asyncio.Queue[tuple[int, asyncio.Task[_Result]] | None] = asyncio.Queue()
        self._events: asyncio.Queue[Advice | Ack | None] = asyncio.Queue()
        self._read_error: SentinelError | None = None

    async def run(self, batches: AsyncIterator[Batch]) -> AsyncGenerator[Advice | Ack]:
        """Yield advice first, then an acknowledgement for each batch; end after the last one.

        Raises:
            SentinelError: The collection cannot be written, reading `batches` failed, or a whole
                batch failed. Every batch acknowledged before is durable.
        """
        work = asyncio.create_task(self._run(batches))
        try:
            while (event := await self._events.get()) is not None:
                yield event
                if isinstance(event, Ack):
                    # gRPC asks for the next event only after it has sent this one.
                    self._running.popleft().release()
                    self._room.set()
            await work
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def _run(self, batches: AsyncIterator[Batch]) -> None:
        try:
            await self._current_collection()
            self._send_advice()
            async with asyncio.TaskGroup() as group:
                advising = group.create_task(self._update_advice())
                group.create_task(self._read(batches, group))
                await self._acknowledge()
                advising.cancel()
        except BaseExceptionGroup as errors:
            raise first_error(errors) from None
        finally:
            self._events.put_nowait(None)

    async def _read(self, batches: AsyncIterator[Batch], group: asyncio.TaskGroup) -> None:
        stop = asyncio.ensure_future(self._drain_grace_over())
        try:
            await self._wait_for_room()
            while (read := await next_or_stop(batches, stop)) is not None:
                await self._accept(read[0], group)
                await self._wait_for_room()
            if stop.done():
                self._read_error = Unavailable(
                    "DRAINING",
                    "this gateway is shutting down; send the unacknowledged batches to another one",
                )
        except SentinelError as error:
            self._read_error = error  # raised after the accepted batches are acknowledged
        finally:
            stop.cancel()
            self._accepted.put_nowait(None)

    async def _drain_grace_over(self) -> None:
        await self._draining.wait()
        # The rest of the drain is for the batches that were read.
        await asyncio.sleep(self._settings.drain_seconds / 4)

    async def _wait_for_room(self) -> None:
        while len(self._running) >= self._advice.batches_in_flight or (
            sum(batch.size for batch in self._running) >= self._settings.max_message_bytes
        ):
            self._room.clear()
            await self._room.wait()

    async def _accept(self, batch: Batch, group: asyncio.TaskGroup) -> None:
        info = await self._current_collection()
        previous, self._registered = self._registered, asyncio.Event()
        task = group.create_task(self._store(info, batch, previous, self._registered))
        self._running.append(batch)
        self._accepted.put_nowait((batch.sequence, task))

    async def _store(
        self, info: CollectionInfo, batch: Batch, previous: asyncio.Event, registered: asyncio.Event
    ) -> _Result:
        """Store a batch; return a failure, so that `_acknowledge` raises it in order.

        Batches that wait for a failed one wait until the stream ends.
        """
        try:
            prepared = await self._writer.prepare(info, batch.items, self._deadline())
            await previous.wait()  # until the items of all earlier batches are registered
            stored = asyncio.Event()
            ids = prepared.items.keys()
            earlier = {self._last_writes[key] for key in ids if key in self._last_writes}
            self._last_writes.update(dict.fromkeys(ids, stored))
            registered.set()
            for write in earlier:
                await write.wait()
            outcomes = await self._writer.store(
                info, prepared, self._deadline(), retry_full_queues=True
            )
        except Exception as error:
            return error
        stored.set()
        for key in ids:
            if self._last_writes[key] is stored:
                del self._last_writes[key]
        return outcomes

    async def _acknowledge(self) -> None:
        while (accepted := await self._accepted.get()) is not None:
            sequence, task = accepted
            result = await task
            if isinstance(result, Exception):
                raise result
            self._events.put_nowait(Ack(sequence, result))
        if self._read_error is not None:
            raise self._read_error

    async def _update_advice(self) -> None:
        while not self._draining.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(_ADVICE_INTERVAL_S):
                    await self._draining.wait()
            self._send_advice()

    def _send_advice(self) -> None:
        advice = advise(self._pool.capacity(self._fingerprint), self._settings.max_items_per_upsert)
        advice = replace(advice, draining=self._draining.is_set())
        if advice != self._advice:
            self._advice = advice
            self._events.put_nowait(advice)
            self._room.set()  # the limit may be higher now

    async def _current_collection(self) -> CollectionInfo:
        """Resolve the collection; its alias may move during a long stream."""
        info = await self._catalog.get(self._collection, self._deadline())
        self._fingerprint = info.model.fingerprint
        return info

    def _deadline(self) -> Deadline:
        return Deadline.after(self._time_left(), default_s=self._settings.write_timeout_seconds)
