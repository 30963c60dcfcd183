"""What tenants have stored, for their quotas: collections, items, and about how many bytes.

Milvus counts items exactly. Nobody counts bytes: a random sample of the rows tells how large an
item is. Between two counts this gateway adds what it writes. So tenants may exceed a quota by what
other gateways write in ten seconds.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from search_server.milvus.search_store import SearchStore
from sentinel_core.access.quotas import Limits, Quota, Quotas, refusal
from sentinel_core.access.scopes import Caller
from sentinel_core.calls import Deadline, current_caller, together
from sentinel_core.errors import SentinelError
from sentinel_store.collections import CollectionInfo
from sentinel_store.images.image_store import ImageStore
from sentinel_store.items import Row
from sentinel_store.prepared_item import PreparedItem

_FRESH_S = 10.0
# Before a refusal it counts again, but not all the time.
_LEAST_S = 1.0
_MOST_OF_TIME = 0.1
_SAMPLE = 400
_MOST_TENANTS = 10_000
_DIGEST_SPACE = 16**12
_VALUE_BYTES = 4
_STORED = (Quota.STORED_ITEMS, Quota.STORED_BYTES)


@dataclass(slots=True)
class _Usage:
    """One tenant's items and bytes: as they were counted, and what was added since."""

    counting: asyncio.Lock = field(default_factory=asyncio.Lock)
    stored: dict[Quota, float] = field(default_factory=lambda: dict.fromkeys(_STORED, 0.0))
    counted_at: float = float("-inf")
    counting_took: float = 0.0

    def age(self) -> float:
        return time.monotonic() - self.counted_at

    def may_count_again(self) -> bool:
        return self.age() > max(_LEAST_S, self.counting_took / _MOST_OF_TIME)


class StoredUsage:
    """Knows what tenants have stored. Use inside one event loop."""

    def __init__(self, store: SearchStore, images: ImageStore, quotas: Quotas | None) -> None:
        """Know nothing and refuse nothing without `quotas`."""
        self._store = store
        self._images = images
        self._quotas = quotas
        self._usages: dict[str, _Usage] = {}

    async def check_new_collection(self, deadline: Deadline) -> None:
        """Raise ResourceExhausted if the caller's tenant has as many collections as it may have."""
        caller = current_caller()
        limit = self._limits(caller).get(Quota.COLLECTIONS)
        if limit is None:
            return
        names = await self._store.list_collections(deadline)
        if sum(map(caller.owns, names)) >= limit:
            raise _refusal(Quota.COLLECTIONS, limit)

    async def add(
        self,
        info: CollectionInfo,
        new: Sequence[PreparedItem],
        known_ids: frozenset[str],
        deadline: Deadline,
    ) -> dict[str, SentinelError]:
        """Count items that are about to be stored; return the errors of those that may not be.

        Args:
            info: Where they are stored.
            new: The items, without those whose content is stored already.
            known_ids: Ids that are stored with another content: they only add bytes.
            deadline: Of the call.

        Raises SentinelError if Milvus cannot count.
        """
        caller = current_caller()
        limits = {one: limit for one, limit in self._limits(caller).items() if one in _STORED}
        if not limits or not new:
            return {}
        usage = self._usage(caller)
        if usage.age() > _FRESH_S:
            await self._count(caller, usage, limits, deadline)
        sizes = {item.id: _sizes(item, info, is_new=item.id not in known_ids) for item in new}
        totals = {quota: sum(size[quota] for size in sizes.values()) for quota in limits}
        is_over = any(usage.stored[one] + totals[one] > limit for one, limit in limits.items())
        if is_over and usage.may_count_again():
            await self._count(caller, usage, limits, deadline)
        refused: dict[str, SentinelError] = {}
        for item_id, size in sizes.items():
            over = [one for one, limit in limits.items() if usage.stored[one] + size[one] > limit]
            over = [one for one in over if size[one]]
            if over:
                refused[item_id] = _refusal(over[0], limits[over[0]])
                continue
            for quota in _STORED:
                usage.stored[quota] += size[quota]
        return refused

    def _limits(self, caller: Caller) -> Limits:
        return {} if self._quotas is None else self._quotas.of_tenant(caller)

    def _usage(self, caller: Caller) -> _Usage:
        if len(self._usages) >= _MOST_TENANTS and caller.tenant not in self._usages:
            self._usages.clear()
        return self._usages.setdefault(caller.tenant, _Usage())

    async def _count(
        self, caller: Caller, usage: _Usage, limits: Limits, deadline: Deadline
    ) -> None:
        """Count anew; one caller does it for all that wait."""
        asked_at = time.monotonic()
        async with usage.counting:
            if usage.counted_at > asked_at:
                return
            before = dict(usage.stored)
            started = time.monotonic()
            found = dict.fromkeys(_STORED, 0.0)
            for info in await self._collections(caller, deadline):
                items = await self._store.count(info, "", deadline)
                found[Quota.STORED_ITEMS] += items
                if items and Quota.STORED_BYTES in limits:
                    found[Quota.STORED_BYTES] += items * await self._mean_size(
                        info, items, deadline
                    )
            # What was added meanwhile may not be counted yet.
            usage.stored = {one: found[one] + usage.stored[one] - before[one] for one in _STORED}
            usage.counted_at = time.monotonic()
            usage.counting_took = usage.counted_at - started

    async def _collections(self, caller: Caller, deadline: Deadline) -> list[CollectionInfo]:
        names = filter(caller.owns, await self._store.list_collections(deadline))
        found = [
            await self._store.describe_collection(name, deadline, foreign_ok=True) for name in names
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
        rows = await self._store.page(info, expression, "", 2 * _SAMPLE, deadline)
        images = {row.image for row in rows if row.image}
        found = await together(self._images.find_image(image) for image in images)
        sizes = {one: image.size for one, image in zip(images, found, strict=True) if image}
        vector = _VALUE_BYTES * info.dimensions
        total = sum(_row_bytes(row) + vector + sizes.get(row.image, 0) for row in rows)
        return total / len(rows) if rows else 0.0


def _sizes(item: PreparedItem, info: CollectionInfo, *, is_new: bool) -> dict[Quota, float]:
    data = len(item.content.data) if item.content is not None else 0
    fields = len(json.dumps(item.fields))
    return {
        Quota.STORED_ITEMS: float(is_new),
        Quota.STORED_BYTES: data + fields + _VALUE_BYTES * info.dimensions,
    }


def _row_bytes(row: Row) -> int:
    return len(row.text.encode()) + len(json.dumps(row.fields))


def _refusal(quota: Quota, limit: float) -> SentinelError:
    return refusal(quota, limit, "tenant", None)
