"""Store any number of items over `IngestItems` streams until every item has its result.

    items ──read──▶ ready ──send──▶ in flight ──receive──▶ acks ──▶ the caller
                      ▲                 │
                      └── lost stream ──┴── failed for a temporary reason (after a pause)

Four coroutines share one state. Each notifies the others after a change. All run on one event
loop, so the state cannot change between a check and a wait.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import grpc

from sentinel.search.v1 import item_service_pb2 as item_pb
from sentinel_client import _messages, _rpcs
from sentinel_client._config import MIB, ClientConfig
from sentinel_client._connection import Attempts, Connection, backoff
from sentinel_client._errors import (
    ConnectionFailed,
    DeadlineExceeded,
    Internal,
    SentinelError,
    Unavailable,
)
from sentinel_client._processes import in_thread
from sentinel_client._requests import item_message, max_item_bytes
from sentinel_client._types import IngestAck, Item

# An item with its message, or with the error of an item that cannot be sent.
Outgoing: TypeAlias = tuple[Item, item_pb.Item | SentinelError]

# Stop sending while a slow caller has this many acknowledgements to read, or as many bytes of items
# in them: they hold the caller's images.
_MAX_UNREAD_ACKS = 64
_MAX_UNREAD_BYTES = 64 * MIB
# The reason of a stream that sent nothing for too long: a new stream is welcome.
_STALLED = "STREAM_STALLED"
_HIDDEN_STATUS = "Internal error from Core"


class _Change:
    """Wakes all waiting coroutines after a change of the state."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify(self, *_: object) -> None:
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self) -> None:
        await self._event.wait()


@dataclass
class Batch:
    """Items that are sent together; `attempt` counts from 1."""

    outgoing: list[Outgoing] = field(default_factory=list)
    size: int = 0
    attempt: int = 1

    @property
    def messages(self) -> list[item_pb.Item]:
        """The messages to send, in order; items that cannot be sent have none."""
        return [one for _, one in self.outgoing if not isinstance(one, SentinelError)]


@dataclass
class _Stream:
    """One stream: how many batches the server takes at once, and whether the stream must end."""

    max_in_flight: int = 0  # until the first message, which is the server's advice
    draining: bool = False
    closed: bool = False


@dataclass
class _State:
    """Where the batches are."""

    ready: deque[Batch] = field(default_factory=deque)
    in_flight: dict[int, Batch] = field(default_factory=dict)  # by sequence number
    pausing: int = 0  # batches that wait before their next attempt
    acks: deque[tuple[IngestAck, int]] = field(default_factory=deque)  # with bytes of its items
    unread_bytes: int = 0
    exhausted: bool = False
    acknowledged: int = 0

    @property
    def reader_is_behind(self) -> bool:
        """Whether the caller has so much to read that no more should be sent."""
        return len(self.acks) >= _MAX_UNREAD_ACKS or self.unread_bytes >= _MAX_UNREAD_BYTES

    @property
    def finished(self) -> bool:
        """Whether nothing is left to send or to acknowledge."""
        return self.exhausted and not (self.ready or self.in_flight or self.pausing)


class IngestJob:
    """One call of `ingest`. Run it once."""

    def __init__(
        self, connection: Connection, config: ClientConfig, collection: str, *, ack_timeout: float
    ) -> None:
        self._connection = connection
        self._policy = config.retry
        self._collection = collection
        self._ack_timeout = ack_timeout
        self._batcher = ItemBatcher(config)
        self._state = _State()
        self._change = _Change()
        self._sequence = 0
        self._last_progress = time.monotonic()

    async def run(
        self, items: Iterable[Item] | AsyncIterable[Item]
    ) -> AsyncGenerator[IngestAck, None]:
        """Yield the acknowledgements, as `ingest` documents."""
        state = self._state
        reading = asyncio.create_task(self._read_items(items))
        sending = asyncio.create_task(self._run_streams())
        sending.add_done_callback(self._change.notify)
        try:
            while True:
                while state.acks:
                    ack, size = state.acks.popleft()
                    yield ack
                    del ack
                    state.unread_bytes -= size
                    self._change.notify()
                if sending.done():
                    break
                await self._change.wait()
            await sending
            await reading  # raises what `items` raised
        finally:
            for task in (reading, sending):
                task.cancel()
            await asyncio.gather(reading, sending, return_exceptions=True)

    async def _read_items(self, items: Iterable[Item] | AsyncIterable[Item]) -> None:
        """Keep one batch ready and no more, because it is held in memory."""
        state = self._state
        try:
            async for batch in self._batcher.batches(items):
                while state.ready or state.reader_is_behind:
                    await self._change.wait()
                if batch.messages:
                    state.ready.append(batch)
                    self._change.notify()
                else:
                    self._finish(batch, {}, item_pb.IngestAck())
        finally:
            state.exhausted = True
            self._change.notify()

    async def _run_streams(self) -> None:
        """Run one stream after another until nothing is left."""
        attempts = self._attempts()
        while await self._has_work():
            before = self._state.acknowledged
            try:
                await self._run_stream(attempts)
            except SentinelError as error:
                if self._state.acknowledged > before:
                    attempts = self._attempts()  # the stream made progress: count from 1 again
                await attempts.pause_or_raise(error, temporary=error.reason == _STALLED)

    async def _has_work(self) -> bool:
        """Wait until something can be sent; return False if nothing is left.

        Servers end streams that send nothing.
        """
        state = self._state
        while not state.finished:
            if (state.ready or state.in_flight) and not state.reader_is_behind:
                return True
            await self._change.wait()
        return False

    def _attempts(self) -> Attempts:
        return Attempts(
            self._policy,
            timeout=float("inf"),
            retry=True,
        )

    async def _run_stream(self, attempts: Attempts) -> None:
        state, stream = self._state, _Stream()
        state.ready.extendleft(reversed(state.in_flight.values()))
        state.in_flight.clear()
        call = self._connection.open_duplex(_rpcs.INGEST_ITEMS, attempts)
        self._last_progress = time.monotonic()
        sending = asyncio.create_task(self._send(call, stream))
        try:
            await self._receive(call, stream)
        except grpc.aio.AioRpcError as error:
            if _hides_the_status(error):
                raise self._ended_early() from error
            raise self._connection.convert(error, attempts) from error
        finally:
            stream.closed = True
            self._change.notify()
            call.cancel()  # has no effect on a call that has ended
            (outcome,) = await asyncio.gather(sending, return_exceptions=True)
            if isinstance(outcome, Exception):
                raise outcome
        if stream.draining and not state.finished:
            raise Unavailable("DRAINING", f"{self._connection.address} is shutting down")
        if not state.finished:
            raise self._ended_early()

    def _ended_early(self) -> ConnectionFailed:
        return ConnectionFailed("UNREACHABLE", f"{self._connection.address} ended the stream early")

    async def _send(self, call: Any, stream: _Stream) -> None:
        """Send ready batches as fast as the server accepts them, then half-close."""
        # Suppressed: the call has ended, and the receiver finds out why.
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            start = item_pb.IngestStart(collection=self._collection)
            await call.write(item_pb.IngestItemsRequest(start=start))
            while (batch := await self._next_batch(stream)) is not None:
                self._sequence += 1
                if not self._state.in_flight:
                    self._last_progress = time.monotonic()
                self._state.in_flight[self._sequence] = batch
                message = item_pb.IngestBatch(sequence=self._sequence, items=batch.messages)
                await call.write(item_pb.IngestItemsRequest(batch=message))
            await call.done_writing()

    async def _next_batch(self, stream: _Stream) -> Batch | None:
        """Wait until a batch may be sent; return None when this stream sends no more."""
        state = self._state
        while not (stream.closed or stream.draining or state.finished):
            room = len(state.in_flight) < stream.max_in_flight and not state.reader_is_behind
            if room and state.ready:
                batch = state.ready.popleft()
                self._change.notify()
                return batch
            await self._change.wait()
        return None

    async def _receive(self, call: Any, stream: _Stream) -> None:
        while True:
            message = await self._read(call)
            if message is grpc.aio.EOF:
                return
            kind = message.WhichOneof("message")
            if kind == "ack":
                self._acknowledge(message.ack)
            elif kind == "advice":
                stream.max_in_flight = max(1, message.advice.suggested_batches_in_flight)
                stream.draining = stream.draining or message.advice.draining
                self._batcher.advise(message.advice.suggested_batch_size)
            self._last_progress = time.monotonic()
            self._change.notify()

    async def _read(self, call: Any) -> Any:
        """Return the next message; the timeout counts only while batches are in flight."""
        # Not wait_for: cancelling a read ends the call.
        reading = asyncio.ensure_future(call.read())
        try:
            while not reading.done():
                left = self._last_progress + self._ack_timeout - time.monotonic()
                if left <= 0 and self._state.in_flight:
                    raise DeadlineExceeded(
                        "OUT_OF_TIME",
                        f"{self._connection.address} acknowledged nothing for "
                        f"{self._ack_timeout:g} s; use a longer timeout",
                    )
                await asyncio.wait({reading}, timeout=left if left > 0 else self._ack_timeout)
            return reading.result()
        finally:
            reading.cancel()

    def _acknowledge(self, ack: item_pb.IngestAck) -> None:
        batch = self._state.in_flight.pop(ack.sequence, None)
        if batch is None or len(ack.failures) != len(ack.failure_places):
            raise Internal(
                "INTERNAL", f"the server's acknowledgement of batch {ack.sequence} is invalid"
            )
        self._state.acknowledged += 1
        errors = {
            index: error
            for index, failure in zip(ack.failure_places, ack.failures, strict=True)
            if (error := _messages.item_result_from_proto(failure).error) is not None
        }
        self._finish(batch, errors, ack)

    def _finish(
        self, batch: Batch, errors: Mapping[int, SentinelError], ack: item_pb.IngestAck
    ) -> None:
        """Yield the results of a batch, but retry items that failed for a temporary reason.

        `errors` are by index in `batch.messages`.
        """
        results: list[tuple[Item, SentinelError | None, str]] = []
        again: list[Outgoing] = []
        pauses: list[float | None] = []
        digests = iter(ack.digests)  # of an older gateway: none
        sent = 0
        for item, message in batch.outgoing:
            if isinstance(message, SentinelError):
                results.append((item, message, ""))
                continue
            error, digest = errors.get(sent), next(digests, "")
            sent += 1
            if error is None or not self._may_retry(batch, error):
                results.append((item, error, digest))
            else:
                again.append((item, message))
                pauses.append(error.retry_after)
        if again:
            size = sum(_bytes(message) for _, message in again)
            self._retry_later(Batch(again, size, attempt=batch.attempt + 1), pauses)
        if results:
            items, outcomes, known = zip(*results, strict=True)
            failures = {index: one for index, one in enumerate(outcomes) if one is not None}
            counts = ack.stored_count, ack.unchanged_count
            done = IngestAck(items, *counts, failures, known, ack.truncated_count)
            self._state.acks.append((done, batch.size))
            self._state.unread_bytes += batch.size
            self._change.notify()

    def _may_retry(self, batch: Batch, error: SentinelError) -> bool:
        return error.retryable and batch.attempt < self._policy.max_attempts

    def _retry_later(self, batch: Batch, pauses: Iterable[float | None]) -> None:
        """Put a batch into `ready` after the longest pause that the server asks for."""
        retry_after = max((one for one in pauses if one is not None), default=None)
        seconds = backoff(self._policy, batch.attempt - 1, retry_after)
        self._state.pausing += 1

        def enqueue() -> None:
            self._state.pausing -= 1
            self._state.ready.append(batch)
            self._change.notify()

        asyncio.get_running_loop().call_later(seconds, enqueue)


class ItemBatcher:
    """Groups items into batches of the size that the server advises."""

    def __init__(self, config: ClientConfig) -> None:
        self._max_items = 1  # every server takes this; the first advice raises it
        self._default_max_items = config.upsert_max_items
        self._max_bytes = config.upsert_max_bytes
        self._max_item_bytes = max_item_bytes(config)
        self._source_error: Exception | None = None

    def advise(self, max_items: int) -> None:
        """Take the server's advice for the size of the next batches; 0 is no advice."""
        self._max_items = max_items or self._default_max_items

    async def batches(
        self, items: Iterable[Item] | AsyncIterable[Item]
    ) -> AsyncGenerator[Batch, None]:
        """Yield batches, then raise what `items` raised. Blocking work runs in a thread."""
        batch = Batch()
        async for item, message in self._messages(items):
            size = batch.size + _bytes(message)
            full = len(batch.outgoing) >= self._max_items or size > self._max_bytes
            if batch.outgoing and full:
                yield batch
                batch, size = Batch(), _bytes(message)
            batch.outgoing.append((item, message))
            batch.size = size
        if batch.outgoing:
            yield batch
        if self._source_error is not None:
            raise self._source_error

    async def _messages(
        self, items: Iterable[Item] | AsyncIterable[Item]
    ) -> AsyncGenerator[Outgoing, None]:
        if isinstance(items, AsyncIterable):
            try:
                async for item in items:
                    yield item, await in_thread(partial(item_message, item, self._max_item_bytes))
            except Exception as error:
                self._source_error = error
            return
        iterator = iter(items)
        while pulled := await in_thread(partial(self._pull, iterator)):
            for pair in pulled:
                yield pair

    def _pull(self, iterator: Iterator[Item]) -> list[Outgoing]:
        """Read about one batch at a time, because each switch to a thread has a cost."""
        pulled: list[Outgoing] = []
        if self._source_error is not None:
            return pulled
        size = 0
        try:
            for item in iterator:
                pulled.append((item, item_message(item, self._max_item_bytes)))
                size += _bytes(pulled[-1][1])
                if len(pulled) >= self._max_items or size >= self._max_bytes:
                    break
        except Exception as error:
            self._source_error = error
        return pulled


def _bytes(message: item_pb.Item | SentinelError) -> int:
    return 0 if isinstance(message, SentinelError) else message.ByteSize()


def _hides_the_status(error: grpc.aio.AioRpcError) -> bool:
    """Check for a write that failed as the call ended: grpc.aio then loses the call's status.

    https://github.com/grpc/grpc/issues/36066. The next stream shows a permanent failure.
    """
    return error.code() is grpc.StatusCode.INTERNAL and error.details() == _HIDDEN_STATUS
