"""What tenants have stored, for their quotas: collections, items, and about how many bytes.

Milvus counts items exactly. Nobody counts bytes: a random sample of the rows tells how large an
item is. Counting takes a while, so one task does it for all calls of a tenant. Between two counts
this gateway adds what it writes. So tenants may exceed a quota by what other gateways write in ten
seconds.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from search_server.milvus.search_store import SearchStore
from sentinel_core.access.quotas import Limits, Quota, Quotas, refusal
from sentinel_core.access.scopes import Caller
from sentinel_core.calls import Deadline, current_caller, together
from sentinel_core.errors import NotFound, SentinelError
from sentinel_store.collections import CollectionInfo
from sentinel_store.images.image_store import ImageStore
from sentinel_store.items import Row
from sentinel_store.milvus import errors
from sentinel_store.milvus.field_columns import to_json
from sentinel_store.milvus.vector_columns import bytes_stored
from sentinel_store.prepared_item import PreparedItem

logger = logging.getLogger(__name__)

_FRESH_S = 10.0
# Before a refusal it counts again, but not all the time.
_LEAST_S = 1.0
_MOST_OF_TIME = 0.1
_LONGEST_COUNT_S = 120.0
# About so many rows, and never more than the other number.
_SAMPLE, _MOST_ROWS = 400, 500
_MOST_TENANTS = 10_000
_DIGEST_SPACE = 16**12
_STORED = (Quota.STORED_ITEMS, Quota.STORED_BYTES)


Sizes = dict[Quota, float]


@dataclass(slots=True)
class _Usage:
    """One tenant's items and bytes.

    Attributes:
        counted: As they were counted.
        added: What was stored since the last count began.
        pending: What is being stored.
    """

    counted: Sizes = field(default_factory=lambda: dict.fromkeys(_STORED, 0.0))
    added: Sizes = field(default_factory=lambda: dict.fromkeys(_STORED, 0.0))
    pending: Sizes = field(default_factory=lambda: dict.fromkeys(_STORED, 0.0))
    counted_at: float = float("-inf")
    counting: asyncio.Task[None] | None = None
    counting_took: float = 0.0

    def age(self) -> float:
        return time.monotonic() - self.counted_at

    def may_count_again(self) -> bool:
        return self.age() > max(_LEAST_S, self.counting_took / _MOST_OF_TIME)

    def total(self, quota: Quota) -> float:
        return self.counted[quota] + self.added[quota] + self.pending[quota]


class StoredUsage:
    """Knows what tenants have stored. Use inside one event loop."""

    def __init__(self, store: SearchStore, images: ImageStore, quotas: Quotas | None) -> None:
        """Know nothing and refuse nothing without `quotas`."""
        self._store = store
        self._images = images
        self._quotas = quotas
        self._usages: dict[str, _Usage] = {}

    async def check_new_collection(self, name: str, deadline: Deadline) -> None:
        """Raise ResourceExhausted if the caller's tenant has as many collections as it may have.

        But not if `name` exists: that is another error.
        """
        caller = current_caller()
        limit = self._limits(caller).get(Quota.COLLECTIONS)
        if limit is None:
            return
        names = await self._store.list_collections(deadline)
        if name not in names and sum(map(caller.owns, names)) >= limit:
            raise _refusal(Quota.COLLECTIONS, limit)

    @asynccontextmanager
    async def adding(
        self,
        info: CollectionInfo,
        new: Sequence[PreparedItem],
        known_ids: frozenset[str],
        deadline: Deadline,
    ) -> AsyncIterator[dict[str, SentinelError]]:
        """Count items that the block stores; it gets the errors of those that it must not store.

        Args:
            info: Where they are stored.
            new: The items, without those whose content is stored already.
            known_ids: Ids that are stored with another content: they only add bytes.
            deadline: Of the call.

        Raises SentinelError if Milvus cannot count in time.
        """
        caller = current_caller()
        limits = {one: limit for one, limit in self._limits(caller).items() if one in _STORED}
        if not limits or not new:
            yield {}
            return
        usage = self._usage(caller)
        sizes = {item.id: _sizes(item, info, is_new=item.id not in known_ids) for item in new}
        await self._prepare(caller, usage, limits, sizes.values(), deadline)
        refused: dict[str, SentinelError] = {}
        taken = dict.fromkeys(_STORED, 0.0)
        for item_id, size in sizes.items():
            over = [
                one
                for one, limit in limits.items()
                if size[one] and usage.total(one) + size[one] > limit
            ]
            if over:
                refused[item_id] = _refusal(over[0], limits[over[0]])
                continue
            _add(usage.pending, size)
            _add(taken, size)
        try:
            yield refused
            _add(usage.added, taken)
        finally:
            _add(usage.pending, taken, -1.0)

    async def _prepare(
        self,
        caller: Caller,
        usage: _Usage,
        limits: Limits,
        sizes: Iterable[Sizes],
        deadline: Deadline,
    ) -> None:
        """Have the usage counted: before the first write, before a refusal, and now and then."""
        if usage.age() == float("inf"):
            await self._counted(caller, usage, limits, deadline)
        elif usage.age() > _FRESH_S:
            self._count_soon(caller, usage, limits)
        sizes = list(sizes)
        for quota, limit in limits.items():
            wanted = sum(size[quota] for size in sizes)
            if usage.total(quota) + wanted > limit and usage.may_count_again():
                await self._counted(caller, usage, limits, deadline)

    async def _counted(
        self, caller: Caller, usage: _Usage, limits: Limits, deadline: Deadline
    ) -> None:
        """Wait for a count. It goes on if this caller has no more time."""
        task = self._count_soon(caller, usage, limits)
        try:
            async with asyncio.timeout(deadline.for_next_hop("quotas")):
                await asyncio.shield(task)
        except TimeoutError as error:
            raise errors.out_of_time() from error

    def _count_soon(self, caller: Caller, usage: _Usage, limits: Limits) -> asyncio.Task[None]:
        if usage.counting is None or usage.counting.done():
            usage.counting = asyncio.create_task(self._count(caller, usage, limits))
            usage.counting.add_done_callback(_read_error)
        return usage.counting

    def _limits(self, caller: Caller) -> Limits:
        return {} if self._quotas is None else self._quotas.of_tenant(caller)

    def _usage(self, caller: Caller) -> _Usage:
        if len(self._usages) >= _MOST_TENANTS and caller.tenant not in self._usages:
            self._usages.clear()
        return self._usages.setdefault(caller.tenant, _Usage())

    async def _count(self, caller: Caller, usage: _Usage, limits: Limits) -> None:
        deadline = Deadline.within(_LONGEST_COUNT_S)
        before, started = dict(usage.added), time.monotonic()
        found = dict.fromkeys(_STORED, 0.0)
        for info in await self._collections(caller, deadline):
            with suppress(NotFound):  # somebody has deleted it just now
                items = await self._store.count(info, "", deadline)
                if items and Quota.STORED_BYTES in limits:
                    size = await self._mean_size(info, items, deadline)
                    found[Quota.STORED_BYTES] += items * size
                found[Quota.STORED_ITEMS] += items
        usage.counted = found
        _add(usage.added, before, -1.0)
        usage.counted_at = time.monotonic()
        usage.counting_took = usage.counted_at - started

    async def _collections(self, caller: Caller, deadline: Deadline) -> list[CollectionInfo]:
        names = filter(caller.owns, await self._store.list_collections(deadline))
        found = [
            await self._store.describe_collection(name, deadline, foreign_ok=True, follow=False)
            for name in names
        ]
        return [info for info in found if info is not None]

    async def _mean_size(self, info: CollectionInfo, items: int, deadline: Deadline) -> float:
        """Return the mean bytes of a collection's items, of a random sample.

        Digests are spread evenly, whatever the items are. So a random range of them is one.
        """
        expression = ""
        if items > _SAMPLE:
            width = int(_DIGEST_SPACE * _SAMPLE / items)
            first = random.randrange(_DIGEST_SPACE - width)
            expression = f'digest >= "{first:012x}" and digest < "{first + width:012x}"'
        rows = await self._store.page(info, expression, "", _MOST_ROWS, deadline)
        # Of an image by reference, the thumbnail is all that is stored.
        images = {(row.image, bool(row.reference)) for row in rows if row.image}
        found = await together(
            self._images.find_thumbnail(digest) if by_reference else self._images.find_image(digest)
            for digest, by_reference in images
        )
        sizes = {one: file.size for one, file in zip(images, found, strict=True) if file}
        vector = bytes_stored(info.dimensions, info.storage)
        total = sum(
            _row_bytes(row) + vector + sizes.get((row.image, bool(row.reference)), 0)
            for row in rows
        )
        return total / len(rows) if rows else 0.0


def _sizes(item: PreparedItem, info: CollectionInfo, *, is_new: bool) -> Sizes:
    # The next count adds the thumbnail of an image by reference.
    data = 0 if item.content is None or item.original else len(item.content.data)
    fields = len(json.dumps(to_json(item.fields)))
    return {
        Quota.STORED_ITEMS: float(is_new),
        Quota.STORED_BYTES: data + fields + bytes_stored(info.dimensions, info.storage),
    }


def _row_bytes(row: Row) -> int:
    texts = len(row.text.encode()) + len(row.reference.encode())
    return texts + len(json.dumps(to_json(row.fields)))


def _add(sizes: Sizes, more: Mapping[Quota, float], factor: float = 1.0) -> None:
    for quota, size in more.items():
        sizes[quota] += factor * size


def _read_error(counting: asyncio.Task[None]) -> None:
    """Log why nothing was counted; who waits gets the error, too."""
    if not counting.cancelled() and (error := counting.exception()) is not None:
        logger.warning("what a tenant has stored was not counted", extra={"why": str(error)})


def _refusal(quota: Quota, limit: float) -> SentinelError:
    return refusal(quota, limit, "tenant", None)
