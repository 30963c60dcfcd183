"""Have workers embed the contents of items.

Images that are stored by reference are read here, just before that, and a few at once: a large
batch of them would not fit into the memory.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from search_server.embedders.pool import EmbedderPool
from search_server.image_uris.originals import Originals
from search_server.types.embeddings import EmbeddedItem, EmbedOptions
from sentinel_core.calls import Deadline
from sentinel_core.errors import ResourceExhausted, SentinelError
from sentinel_core.memory import MemoryBudget
from sentinel_core.metrics import ServerMetrics
from sentinel_store.collections import CollectionInfo
from sentinel_store.items import Content
from sentinel_store.prepared_item import PreparedItem


class ItemEmbedder:
    """Embeds items, and reads originals. Stateless; any number of calls run at once."""

    def __init__(
        self,
        pool: EmbedderPool,
        originals: Originals,
        memory: MemoryBudget,
        metrics: ServerMetrics,
        *,
        thumbnail_side: int,
    ) -> None:
        """Keep the collaborators; `memory` has room for the originals that are read."""
        self._pool = pool
        self._originals = originals
        self._memory = memory
        self._metrics = metrics
        self._thumbnail_side = thumbnail_side

    async def embed(
        self,
        info: CollectionInfo,
        items: Sequence[PreparedItem],
        deadline: Deadline,
        *,
        retry_full_queues: bool,
    ) -> dict[str, EmbeddedItem]:
        """Return the results by id, for the items that a worker has to see.

        With `retry_full_queues` it waits for workers whose queues are full instead of failing.
        """
        sent = [item for item in items if not item.original]
        embedded = await self._embed(info, sent, deadline, retry_full_queues)
        for part in self._windows([item for item in items if item.original]):
            async with self._held(part, deadline) as (read, failed):
                embedded |= {one: EmbeddedItem(None, error=error) for one, error in failed.items()}
                embedded |= await self._embed(info, read, deadline, retry_full_queues)
        return embedded

    async def check_originals(
        self, items: Sequence[PreparedItem], deadline: Deadline
    ) -> dict[str, SentinelError]:
        """Read the originals of those items that are stored by reference; return errors by id."""
        errors: dict[str, SentinelError] = {}
        for part in self._windows([item for item in items if item.reference]):
            async with self._held(part, deadline) as (_, failed):
                errors |= failed
        return errors

    def _windows(self, items: Sequence[PreparedItem]) -> Iterator[Sequence[PreparedItem]]:
        """Yield as many items at a time as may have their originals in memory."""
        if not items:
            return
        at_once = self._originals.at_once(self._memory)
        for start in range(0, len(items), at_once):
            yield items[start : start + at_once]

    @asynccontextmanager
    async def _held(
        self, items: Sequence[PreparedItem], deadline: Deadline
    ) -> AsyncIterator[tuple[list[PreparedItem], dict[str, SentinelError]]]:
        """Yield the items with their originals' bytes, and the errors of the others by id.

        Memory is held for the bytes until the block ends.
        """
        wanted = [(item.original, item.image) for item in items]
        read: list[PreparedItem] = []
        failed: dict[str, SentinelError] = {}
        async with self._originals.held(wanted, self._memory, deadline) as found:
            for item, data in zip(items, found, strict=True):
                if isinstance(data, SentinelError):
                    failed[item.id] = data.at(f"{item.path}.content.image.uri")
                elif item.content is not None:
                    content = replace(item.content, data=data)
                    read.append(replace(item, content=content))
            yield read, failed

    async def _embed(
        self,
        info: CollectionInfo,
        items: Sequence[PreparedItem],
        deadline: Deadline,
        retry_full_queues: bool,
    ) -> dict[str, EmbeddedItem]:
        ids, contents = list[str](), list[Content]()
        for item in items:
            if item.to_embed is not None:
                ids.append(item.id)
                contents.append(item.to_embed)
        if not contents:
            return {}
        self._metrics.batch_size.labels("embed").observe(len(contents))
        with self._metrics.stage("embed"):
            while True:
                try:
                    answer = await self._pool.embed(
                        contents,
                        fingerprint=info.model.fingerprint,
                        deadline=deadline,
                        options=EmbedOptions(
                            bulk=True,
                            thumbnail_side=self._thumbnail_side,
                            dimensions=info.requested_dimensions,
                        ),
                    )
                except ResourceExhausted as error:
                    wait_s = error.retry_after_s
                    if not retry_full_queues or wait_s is None or wait_s >= deadline.remaining():
                        raise
                    # Not all batches that wait at once.
                    await asyncio.sleep(wait_s * random.uniform(1.0, 1.25))
                else:
                    return dict(zip(ids, answer.items, strict=True))
