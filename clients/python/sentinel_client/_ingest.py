"""Bulk storing: one `IngestItems` stream after another, until every item is decided.

    items ──fill──▶ ready ──send──▶ on the way ──receive──▶ decided ──▶ the caller
                      ▲                  │
                      └── lost stream ───┴── failed for a passing reason (after a pause)

Four coroutines share one state; whoever changes it says so, and the others look again. All of it
runs on one event loop, so nothing changes between a look and a wait.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import grpc

from sentinel.search.v1 import item_service_pb2 as item_pb
from sentinel_client import _convert, _rpcs
from sentinel_client._config import ClientConfig
from sentinel_client._connection import Connection
from sentinel_client._errors import (
    ConnectionFailed,
    DeadlineExceeded,
    Internal,
    SentinelError,
    Unavailable,
)
from sentinel_client._feed import Batch, Feed
from sentinel_client._retry import Attempts, pause
from sentinel_client._types import IngestAck, Item

# Runs that a slow caller may leave lying before nothing more is sent.
_MAX_DECIDED = 64
_HIDDEN = "Internal error from Core"


class _Change:
    """Something that may have changed; wakes everybody who waits."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def tell(self, *_: object) -> None:
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self) -> None:
        await self._event.wait()


@dataclass
class _Stream:
    """One stream: what the server advised, and whether it is to end."""

    in_flight: int = 0  # none before the advice that comes first
    ending: bool = False
    over: bool = False


@dataclass
class _State:
    """Where the batches are."""

    ready: deque[Batch] = field(default_factory=deque)
    on_the_way: dict[int, Batch] = field(default_factory=dict)
    pausing: int = 0
    decided: deque[IngestAck] = field(default_factory=deque)
    exhausted: bool = False
    failure: Exception | None = None  # the caller's iterable raised it
    acknowledged: int = 0

    @property
    def finished(self) -> bool:
        """Whether nothing is left to be sent or acknowledged."""
        return self.exhausted and not (self.ready or self.on_the_way or self.pausing)


class IngestJob:
    """One call of `ingest`. Run it once.

    Args:
        connection: An open connection.
        config: Sizes and retries.
        collection: Where the items go.
        patience: Most seconds to wait for an acknowledgement.
    """

    def __init__(
        self, connection: Connection, config: ClientConfig, collection: str, *, patience: float
    ) -> None:
        self._connection = connection
        self._policy = config.retry
        self._collection = collection
        self._patience = patience
        self._feed = Feed(config)
        self._state = _State()
        self._change = _Change()
        self._sequence = 0
        self._last_news = time.monotonic()

    async def run(
        self, items: Iterable[Item] | AsyncIterable[Item]
    ) -> AsyncGenerator[IngestAck, None]:
        """Yield what became of the items, as `ingest` promises."""
        state = self._state
        filling = asyncio.create_task(self._fill(items))
        sending = asyncio.create_task(self._send_all())
        sending.add_done_callback(self._change.tell)
        try:
            while True:
                while state.decided:
                    yield state.decided.popleft()
                    self._change.tell()
                if sending.done():
                    break
                await self._change.wait()
            await sending
            if state.failure is not None:
                raise state.failure
        finally:
            for task in (filling, sending):
                task.cancel()
            await asyncio.gather(filling, sending, return_exceptions=True)

    async def _fill(self, items: Iterable[Item] | AsyncIterable[Item]) -> None:
        """Keep one batch ready, no more: what is read ahead lies in memory."""
        state = self._state
        try:
            async for batch in self._feed.batches(items):
                while state.ready or len(state.decided) >= _MAX_DECIDED:
                    await self._change.wait()
                if batch.messages:
                    state.ready.append(batch)
                    self._change.tell()
                else:
                    self._decide(batch, {})
        except Exception as error:
            state.failure = error
        finally:
            state.exhausted = True
            self._change.tell()

    async def _send_all(self) -> None:
        """Run streams until nothing is left."""
        attempts = self._attempts()
        while not (self._state.ready or self._state.finished):
            await self._change.wait()
        while not self._state.finished:
            before = self._state.acknowledged
            try:
                await self._one_stream(attempts)
            except SentinelError as error:
                if self._state.acknowledged > before:
                    attempts = self._attempts()  # it was getting on until now
                await attempts.pause_or_raise(error)

    def _attempts(self) -> Attempts:
        return Attempts(self._policy, timeout=float("inf"), retry=True)

    async def _one_stream(self, attempts: Attempts) -> None:
        state, stream = self._state, _Stream()
        state.ready.extendleft(reversed(state.on_the_way.values()))
        state.on_the_way.clear()
        call = self._connection.open_duplex(_rpcs.INGEST_ITEMS, attempts)
        self._last_news = time.monotonic()
        sending = asyncio.create_task(self._send(call, stream))
        try:
            await self._receive(call, stream)
        except grpc.aio.AioRpcError as error:
            if _hides_the_status(error):
                raise self._broken_off() from error
            raise self._connection.convert(error, attempts) from error
        finally:
            stream.over = True
            self._change.tell()
            call.cancel()  # does nothing to a call that has ended
            (outcome,) = await asyncio.gather(sending, return_exceptions=True)
            if isinstance(outcome, Exception):
                raise outcome
        if stream.ending and not state.finished:
            raise Unavailable("DRAINING", f"{self._connection.address} is shutting down")
        if not state.finished:
            raise self._broken_off()

    def _broken_off(self) -> ConnectionFailed:
        return ConnectionFailed("UNREACHABLE", f"{self._connection.address} ended the stream early")

    async def _send(self, call: Any, stream: _Stream) -> None:
        """Send what is ready as far as the server takes it, then half-close."""
        # Suppressed: the call ended meanwhile, and whoever receives finds out why.
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            start = item_pb.IngestStart(collection=self._collection)
            await call.write(item_pb.IngestItemsRequest(start=start))
            while (batch := await self._next(stream)) is not None:
                self._sequence += 1
                if not self._state.on_the_way:
                    self._last_news = time.monotonic()
                self._state.on_the_way[self._sequence] = batch
                message = item_pb.IngestBatch(sequence=self._sequence, items=batch.messages)
                await call.write(item_pb.IngestItemsRequest(batch=message))
            await call.done_writing()

    async def _next(self, stream: _Stream) -> Batch | None:
        """Return the next batch when there is room for it; None when there is nothing to say."""
        state = self._state
        while not (stream.over or stream.ending or state.finished):
            room = len(state.on_the_way) < stream.in_flight and len(state.decided) < _MAX_DECIDED
            if room and state.ready:
                batch = state.ready.popleft()
                self._change.tell()
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
                stream.in_flight = max(1, message.advice.suggested_batches_in_flight)
                stream.ending = stream.ending or message.advice.draining
                self._feed.advise(message.advice.suggested_batch_size)
            self._last_news = time.monotonic()
            self._change.tell()

    async def _read(self, call: Any) -> Any:
        """Return the next message; wait as long as nothing is on the way.

        Raises:
            DeadlineExceeded: Something is, and no acknowledgement came in time.
        """
        # Not wait_for: a read that is cancelled ends the call.
        reading = asyncio.ensure_future(call.read())
        try:
            while not reading.done():
                left = self._last_news + self._patience - time.monotonic()
                if left <= 0 and self._state.on_the_way:
                    raise DeadlineExceeded(
                        "OUT_OF_TIME",
                        f"{self._connection.address} acknowledged nothing for "
                        f"{self._patience:g} s; use a longer timeout",
                    )
                await asyncio.wait({reading}, timeout=left if left > 0 else self._patience)
            return reading.result()
        finally:
            reading.cancel()

    def _acknowledge(self, ack: item_pb.IngestAck) -> None:
        batch = self._state.on_the_way.pop(ack.sequence, None)
        if batch is None or len(ack.failures) != len(ack.failure_places):
            raise Internal(
                "INTERNAL", f"the server acknowledged batch {ack.sequence} as it was not sent"
            )
        self._state.acknowledged += 1
        errors = {
            place: error
            for place, failure in zip(ack.failure_places, ack.failures, strict=True)
            if (error := _convert.item_result_from_proto(failure).error) is not None
        }
        again = {place: error for place, error in errors.items() if self._may_retry(batch, error)}
        if again:
            self._send_later(batch, again)
        final = {place: error for place, error in errors.items() if place not in again}
        self._decide(batch, final, again, ack.stored_count, ack.unchanged_count)

    def _may_retry(self, batch: Batch, error: SentinelError) -> bool:
        return error.retryable and batch.attempt < self._policy.max_attempts

    def _send_later(self, batch: Batch, errors: Mapping[int, SentinelError]) -> None:
        """Put these of the batch's messages into `ready` again, after a pause."""
        asked = [one.retry_after for one in errors.values() if one.retry_after is not None]
        seconds = pause(self._policy, batch.attempt, max(asked, default=None))
        again = batch.again(errors)
        self._state.pausing += 1

        def enqueue() -> None:
            self._state.pausing -= 1
            self._state.ready.append(again)
            self._change.tell()

        asyncio.get_running_loop().call_later(seconds, enqueue)

    def _decide(
        self,
        batch: Batch,
        errors: Mapping[int, SentinelError],
        again: Collection[int] = (),
        stored: int = 0,
        unchanged: int = 0,
    ) -> None:
        """Hand on what became of a batch, but for the messages that are sent again."""
        places = batch.sent_places
        later = {places[one] for one in again}
        failed = {**batch.unsent, **{places[one]: error for one, error in errors.items()}}
        kept = [place for place in range(len(batch.items)) if place not in later]
        if kept:
            ack = IngestAck(
                tuple(batch.items[place] for place in kept),
                stored,
                unchanged,
                {new: failed[place] for new, place in enumerate(kept) if place in failed},
            )
            self._state.decided.append(ack)
            self._change.tell()


def _hides_the_status(error: grpc.aio.AioRpcError) -> bool:
    """Whether a write failed as the call ended, which makes grpc.aio lose the call's own status.

    https://github.com/grpc/grpc/issues/36066. The next stream will tell, if it is for good.
    """
    return error.code() is grpc.StatusCode.INTERNAL and error.details() == _HIDDEN
