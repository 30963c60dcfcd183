"""ItemService.IngestItems: the messages of a stream, in their order, to the use case and back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc

from search_server import wire
from search_server.collections import Collections
from search_server.embedders.pool import EmbedderPool
from search_server.ingest import Ingest
from search_server.ingest_stream import Ack, Advice, Batch, IngestStream, StreamLimits
from search_server.types.items import Outcome
from sentinel.search.v1 import item_service_pb2 as pb
from sentinel_core.calls import note_items
from sentinel_core.errors import InvalidArgument, Unavailable
from sentinel_core.streams import next_or_stop

Context = grpc.aio.ServicerContext[Any, Any]


class IngestCalls:
    """Serves the streams.

    Attributes:
        draining: Set it to let streams end after what they have read.
    """

    def __init__(
        self, ingest: Ingest, collections: Collections, pool: EmbedderPool, limits: StreamLimits
    ) -> None:
        self._ingest = ingest
        self._collections = collections
        self._pool = pool
        self._limits = limits
        self.draining = asyncio.Event()

    async def serve(
        self, messages: AsyncIterator[pb.IngestItemsRequest], context: Context
    ) -> AsyncIterator[pb.IngestItemsResponse]:
        """Answer one stream."""
        collection = await self._start(messages)
        stream = IngestStream(
            self._ingest,
            self._collections,
            self._pool,
            self._limits,
            collection=collection,
            draining=self.draining,
            time_left=context.time_remaining,
        )
        summary = pb.IngestSummary()
        async with aclosing(stream.run(self._batches(messages))) as events:
            async for event in events:
                if isinstance(event, Advice):
                    yield pb.IngestItemsResponse(advice=_advice_to(event))
                    continue
                ack = _ack_to(event)
                summary.stored_count += ack.stored_count
                summary.unchanged_count += ack.unchanged_count
                summary.failed_count += len(ack.failures)
                note_items(summary.stored_count + summary.unchanged_count + summary.failed_count)
                yield pb.IngestItemsResponse(ack=ack)
        yield pb.IngestItemsResponse(summary=summary)

    async def _start(self, messages: AsyncIterator[pb.IngestItemsRequest]) -> str:
        stop = asyncio.ensure_future(self.draining.wait())
        try:
            read = await next_or_stop(messages, stop)
        finally:
            stop.cancel()
        if read is None and self.draining.is_set():
            raise Unavailable("DRAINING", "this process is shutting down; retry on another one")
        if read is None or read[0].WhichOneof("message") != "start":
            raise _out_of_order("a stream begins with `start`")
        return read[0].start.collection

    async def _batches(
        self, messages: AsyncIterator[pb.IngestItemsRequest]
    ) -> AsyncIterator[Batch]:
        last: int | None = None
        async for message in messages:
            if message.WhichOneof("message") != "batch":
                raise _out_of_order("after `start` a stream has batches only")
            batch = message.batch
            if last is not None and batch.sequence <= last:
                raise _out_of_order(
                    f"batch {batch.sequence} came after batch {last}; sequence numbers rise"
                )
            last = batch.sequence
            _check_count(len(batch.items), self._limits.max_items)
            items = [wire.item_from(item, place) for place, item in enumerate(batch.items)]
            yield Batch(batch.sequence, items, batch.ByteSize())


def _check_count(count: int, most: int) -> None:
    if count == 0:
        raise InvalidArgument("BATCH_EMPTY", "a batch has items", field="batch.items")
    if count > most:
        raise InvalidArgument(
            "BATCH_TOO_LARGE",
            f"{count} items in one batch, at most {most}; split it",
            field="batch.items",
            limit=most,
        )


def _out_of_order(message: str) -> InvalidArgument:
    return InvalidArgument("STREAM_INVALID", message, field="message")


def _advice_to(advice: Advice) -> pb.IngestAdvice:
    return pb.IngestAdvice(
        suggested_batch_size=advice.batch_items,
        suggested_batches_in_flight=advice.batches_in_flight,
        draining=advice.draining,
    )


def _ack_to(ack: Ack) -> pb.IngestAck:
    message = pb.IngestAck(sequence=ack.sequence)
    for place, outcome in enumerate(ack.outcomes):
        match outcome.outcome:
            case Outcome.STORED:
                message.stored_count += 1
            case Outcome.UNCHANGED:
                message.unchanged_count += 1
            case Outcome.FAILED:
                message.failures.append(wire.item_result_to(outcome))
                message.failure_places.append(place)
    return message
