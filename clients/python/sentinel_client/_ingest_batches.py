"""Read items for `ingest` and group them into batches of a bounded size."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from sentinel.search.v1 import item_service_pb2 as item_pb
from sentinel_client._config import ClientConfig
from sentinel_client._errors import SentinelError
from sentinel_client._requests import item_message, max_item_bytes
from sentinel_client._types import Item

# The message of an item, or the reason why it cannot be sent.
MessageOrError: TypeAlias = item_pb.Item | SentinelError


@dataclass
class Batch:
    """Items that are sent together.

    Attributes:
        items: The caller's items.
        messages: The messages of the items that can be sent, in the same order.
        unsent: Errors of the items that cannot be sent, by index in `items`.
        size: Bytes of the messages.
        attempt: How often the batch has been sent, this time included.
    """

    items: list[Item] = field(default_factory=list)
    messages: list[item_pb.Item] = field(default_factory=list)
    unsent: dict[int, SentinelError] = field(default_factory=dict)
    size: int = 0
    attempt: int = 1

    def add(self, item: Item, message: MessageOrError) -> None:
        """Add one item."""
        if isinstance(message, SentinelError):
            self.unsent[len(self.items)] = message
        else:
            self.messages.append(message)
        self.size += _bytes(message)
        self.items.append(item)

    @property
    def sent_indices(self) -> list[int]:
        """Return the index in `items` of each message."""
        return [index for index in range(len(self.items)) if index not in self.unsent]

    def retry(self, sent: Collection[int]) -> Batch:
        """Return the next attempt for the messages with these indices."""
        indices = self.sent_indices
        messages = [self.messages[one] for one in sent]
        return Batch(
            [self.items[indices[one]] for one in sent],
            messages,
            size=sum(map(_bytes, messages)),
            attempt=self.attempt + 1,
        )


def _bytes(message: MessageOrError) -> int:
    return 0 if isinstance(message, SentinelError) else message.ByteSize()


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
        """Yield batches; blocking work runs in a thread.

        Raises:
            Exception: What `items` raised, after the items before it.
        """
        batch = Batch()
        async for item, message in self._messages(items):
            size = batch.size + _bytes(message)
            if batch.items and (len(batch.items) >= self._max_items or size > self._max_bytes):
                yield batch
                batch = Batch()
            batch.add(item, message)
        if batch.items:
            yield batch
        if self._source_error is not None:
            raise self._source_error

    async def _messages(
        self, items: Iterable[Item] | AsyncIterable[Item]
    ) -> AsyncGenerator[tuple[Item, MessageOrError], None]:
        if isinstance(items, AsyncIterable):
            try:
                async for item in items:
                    yield item, await asyncio.to_thread(item_message, item, self._max_item_bytes)
            except Exception as error:
                self._source_error = error
            return
        iterator = iter(items)
        while pulled := await asyncio.to_thread(self._pull, iterator):
            for pair in pulled:
                yield pair

    def _pull(self, iterator: Iterator[Item]) -> list[tuple[Item, MessageOrError]]:
        """Read about one batch at a time, because each switch to a thread has a cost."""
        pulled: list[tuple[Item, MessageOrError]] = []
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
