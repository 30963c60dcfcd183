"""The items of an `ingest`, read no faster than they are sent, as batches of a bounded size."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from sentinel.search.v1 import item_service_pb2 as item_pb
from sentinel_client._config import ClientConfig
from sentinel_client._errors import SentinelError
from sentinel_client._outgoing import largest_item, message_or_failure
from sentinel_client._types import Item

# What is sent of an item, or why it cannot be.
Outgoing: TypeAlias = item_pb.Item | SentinelError


@dataclass
class Batch:
    """Items that are sent together.

    Attributes:
        items: The caller's items.
        messages: What is sent of them.
        unsent: By place in `items`: those that cannot be sent.
        size: Bytes of the messages.
        attempt: How often it has been sent, this time included.
    """

    items: list[Item] = field(default_factory=list)
    messages: list[item_pb.Item] = field(default_factory=list)
    unsent: dict[int, SentinelError] = field(default_factory=dict)
    size: int = 0
    attempt: int = 1

    def add(self, item: Item, outgoing: Outgoing) -> None:
        """Put one more item in."""
        if isinstance(outgoing, SentinelError):
            self.unsent[len(self.items)] = outgoing
        else:
            self.messages.append(outgoing)
        self.size += _bytes(outgoing)
        self.items.append(item)

    @property
    def sent_places(self) -> list[int]:
        """Return the place in `items` of each message."""
        return [place for place in range(len(self.items)) if place not in self.unsent]

    def again(self, sent: Collection[int]) -> Batch:
        """Return the next attempt for some of the messages."""
        places = self.sent_places
        messages = [self.messages[one] for one in sent]
        return Batch(
            [self.items[places[one]] for one in sent],
            messages,
            size=sum(map(_bytes, messages)),
            attempt=self.attempt + 1,
        )


def _bytes(outgoing: Outgoing) -> int:
    return 0 if isinstance(outgoing, SentinelError) else outgoing.ByteSize()


class Feed:
    """Cuts items into batches, as large as the server likes them."""

    def __init__(self, config: ClientConfig) -> None:
        self._max_items = 1  # which every server takes, until this one has said how many it likes
        self._without_advice = config.upsert_max_items
        self._max_bytes = config.upsert_max_bytes
        self._largest = largest_item(config)
        self._failure: Exception | None = None

    def advise(self, max_items: int) -> None:
        """Take the server's word for the size of the next batches; 0 leaves it to us."""
        self._max_items = max_items or self._without_advice

    async def batches(
        self, items: Iterable[Item] | AsyncIterable[Item]
    ) -> AsyncGenerator[Batch, None]:
        """Yield batches; whatever blocks runs in a thread."""
        batch, failure = Batch(), None
        try:
            async for item, outgoing in self._outgoing(items):
                size = batch.size + _bytes(outgoing)
                if batch.items and (len(batch.items) >= self._max_items or size > self._max_bytes):
                    yield batch
                    batch = Batch()
                batch.add(item, outgoing)
        except Exception as error:
            failure = error  # what came before it is sent first
        if batch.items:
            yield batch
        if failure is not None:
            raise failure

    async def _outgoing(
        self, items: Iterable[Item] | AsyncIterable[Item]
    ) -> AsyncGenerator[tuple[Item, Outgoing], None]:
        if isinstance(items, AsyncIterable):
            async for item in items:
                yield item, await asyncio.to_thread(message_or_failure, item, self._largest)
            return
        iterator = iter(items)
        while pulled := await asyncio.to_thread(self._pull, iterator):
            for pair in pulled:
                yield pair

    def _pull(self, iterator: Iterator[Item]) -> list[tuple[Item, Outgoing]]:
        """Return about a batch of items in one go, since each visit to a thread costs."""
        if self._failure is not None:
            raise self._failure
        pulled: list[tuple[Item, Outgoing]] = []
        size = 0
        try:
            for item in iterator:
                pulled.append((item, message_or_failure(item, self._largest)))
                size += _bytes(pulled[-1][1])
                if len(pulled) >= self._max_items or size >= self._max_bytes:
                    break
        except Exception as error:
            if not pulled:
                raise
            self._failure = error  # what came before it is sent first
        return pulled
