"""Find the next items in the order of a field. Milvus cannot sort, only compare.

So this reads ids and values of all items on one side of a bound that leaves few of them, and sorts
those. A sample finds the bound: the items whose digest, a SHA-256, lies in a random small range. A
page of 100 of 100,000 items takes about five queries, whose answers have some hundreds of ids. It
counts nothing: to count 20,000 items takes Milvus Lite as long as three of these queries.

Items with equal values are sorted by id, which Milvus can do. So it does not matter how many have
one value. Items without the field come last, by id.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from search_server.types.items import ItemOrder, ItemPosition
from sentinel_core.calls import Deadline
from sentinel_core.errors import InvalidArgument
from sentinel_store.collections import CollectionInfo
from sentinel_store.milvus import schema
from sentinel_store.milvus.field_columns import columns_of
from sentinel_store.milvus.store import MilvusStore
from sentinel_store.values import FieldType

_SORTABLE = (FieldType.TIMESTAMP, FieldType.INT64, FieldType.DOUBLE)
# So many ids and values are read at once and sorted, or as many as six times what is needed.
_FEW = 600
# A bound should leave three times what is needed, and is never lower than this value of the sample.
_ENOUGH, _LEAST_RANK = 3, 4
# A sample is every 64th item; if that is too many, every 1,024th, and so on.
_FIRST_SHARE, _SMALLER = 64, 16
_MOST_SAMPLED = 2_000
_DIGEST_DIGITS = 12
_DIGEST_SPACE = 16**_DIGEST_DIGITS


async def next_items(
    store: MilvusStore,
    info: CollectionInfo,
    expression: str,
    *,
    order: ItemOrder,
    after: ItemPosition | None,
    count: int,
    deadline: Deadline,
) -> list[ItemPosition]:
    """Return where the next `count` items are that match `expression`; fewer if there are no more.

    Raises InvalidArgument if the collection cannot be sorted by this field.
    """
    field_type = schema.type_of(order.field, info.fields, "order.field")
    if field_type not in _SORTABLE:
        raise InvalidArgument(
            "FIELD_TYPE",
            f"field {order.field!r} is a {field_type}; items are sorted by fields of type "
            f"{', '.join(_SORTABLE)}",
            field="order.field",
            name=order.field,
        )
    column = columns_of(order.field, field_type)[0]
    has_value = schema.both(expression, f"{column.name} != {schema.literal(column.absent)}")
    values = _Values(store, info, has_value, column.name, order.descending, deadline)
    found: list[ItemPosition] = []
    if after is None:
        found = await values.first(count)
    elif after.value is not None:
        found = await values.equal(after.value, after.id, count)
        found += await values.beyond(after.value, count - len(found))
    left = count - len(found)
    if left:
        lacks_value = schema.both(expression, f"{column.name} == {schema.literal(column.absent)}")
        last_id = after.id if after is not None and after.value is None else ""
        ids = await store.ids(info, lacks_value, last_id, left, deadline)
        found += [ItemPosition(None, item_id) for item_id in ids]
    return found


@dataclass(frozen=True, slots=True)
class _Values:
    """The items that match an expression and have a value in a column."""

    store: MilvusStore
    info: CollectionInfo
    expression: str
    column: str
    descending: bool
    deadline: Deadline

    async def equal(self, value: float, last_id: str, count: int) -> list[ItemPosition]:
        """Return the first items of this very value whose id is after `last_id`."""
        those = schema.both(self.expression, f"{self.column} == {schema.literal(value)}")
        ids = await self.store.ids(self.info, those, last_id, count, self.deadline)
        return [ItemPosition(value, item_id) for item_id in ids]

    async def beyond(self, value: float, count: int) -> list[ItemPosition]:
        """Return the first items whose value comes after `value`."""
        if not count:
            return []
        word = "<" if self.descending else ">"
        those = schema.both(self.expression, f"{self.column} {word} {schema.literal(value)}")
        rest = _Values(self.store, self.info, those, self.column, self.descending, self.deadline)
        return await rest.first(count)

    async def first(self, count: int) -> list[ItemPosition]:
        """Return the first items."""
        most = max(_FEW, 2 * _ENOUGH * count)
        those, bound = self.expression, None
        while True:
            read = await self._read(those, most + 1)
            if len(read) <= most:
                break
            found_bound = await self._bound(those, count)
            if found_bound is None:
                continue  # read again
            bound = found_bound
            word = ">" if self.descending else "<"
            those = schema.both(self.expression, f"{self.column} {word} {schema.literal(bound)}")
        sign = -1 if self.descending else 1
        read.sort(key=lambda one: (sign * one[1], one[0]))
        found = [ItemPosition(value, item_id) for item_id, value in read[:count]]
        if bound is not None and len(found) < count:
            found += await self.equal(bound, "", count - len(found))
            found += await self.beyond(bound, count - len(found))
        return found

    async def _read(self, those: str, limit: int) -> list[tuple[str, float]]:
        return await self.store.values(self.info, those, self.column, limit, self.deadline)

    async def _bound(self, those: str, count: int) -> float | None:
        """Return a value that only few of many items come before, but more than `count`.

        None if all of them were deleted meanwhile.
        """
        share = _FIRST_SHARE
        while True:
            width = _DIGEST_SPACE // share
            start = random.randrange(_DIGEST_SPACE - width)
            low, high = (f"{edge:0{_DIGEST_DIGITS}x}" for edge in (start, start + width))
            some = schema.both(those, f'digest >= "{low}" and digest < "{high}"')
            sample = await self._read(some, _MOST_SAMPLED)
            if len(sample) < _MOST_SAMPLED or share * _SMALLER >= _DIGEST_SPACE:
                break
            share *= _SMALLER
        if len(sample) < _LEAST_RANK:  # many items have one digest
            sample = await self._read(those, _MOST_SAMPLED)
        rank = max(_LEAST_RANK, math.ceil(_ENOUGH * count / share))
        values = sorted((value for _, value in sample), reverse=self.descending)
        return values[min(rank, len(values)) - 1] if values else None
