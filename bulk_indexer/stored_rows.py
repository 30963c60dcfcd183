"""Compare the rows of a run with those in Milvus, and write them; wait out short outages."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from bulk_indexer.run_folder import BulkError
from sentinel_core.calls import Deadline
from sentinel_core.errors import DeadlineExceeded, SentinelError, Unavailable
from sentinel_store.collections import CollectionInfo
from sentinel_store.items import Row
from sentinel_store.milvus import schema
from sentinel_store.milvus.store import MilvusStore

P = TypeVar("P")
T = TypeVar("T")
# As many as one gateway call carries; with the longest texts a message stays under 64 MiB.
_ROWS_PER_UPSERT = 256
# A strong look-up takes a server about 0.2 s, whatever the number of ids.
_IDS_PER_LOOK_UP = 1024
_CONCURRENT_CALLS = 4
_CALL_TIMEOUT_S = 60.0
_PAUSES_S = (1.0, 5.0, 20.0)


@dataclass(slots=True)
class Comparison:
    """Rows by their state in Milvus."""

    new: list[Row] = field(default_factory=list)
    changed: list[Row] = field(default_factory=list)
    unchanged: list[Row] = field(default_factory=list)


class StoredRows:
    """The rows of one collection.

    Each method raises BulkError if Milvus refuses, or cannot be reached for half a minute.
    """

    def __init__(self, store: MilvusStore, info: CollectionInfo) -> None:
        self._store = store
        self._info = info

    async def find(self, rows: Iterable[Row], *, include_vectors: bool = False) -> dict[str, Row]:
        """Return the stored rows with the ids of `rows`; of two with one id, the later one."""

        async def look_up(part: Sequence[str]) -> list[Row]:
            return await self._store.get(
                self._info, part, deadline(), include_vectors=include_vectors
            )

        ids = [row.id for row in rows]
        found = await _in_parts(look_up, ids, _IDS_PER_LOOK_UP)
        return {row.id: row for part in found for row in part}

    async def compare(self, rows: Sequence[Row]) -> Comparison:
        """Divide `rows` by their state in Milvus."""
        comparison, stored = Comparison(), await self.find(rows)
        for row in rows:
            other = stored.get(row.id)
            if other is None:
                comparison.new.append(row)
            elif is_same(other, row):
                comparison.unchanged.append(row)
            else:
                comparison.changed.append(row)
        return comparison

    async def upsert(self, rows: Sequence[Row]) -> None:
        """Write rows; they replace all stored rows with their ids, even two with one id."""

        async def write(part: Sequence[Row]) -> None:
            await self._store.upsert(self._info, part, deadline())

        await _in_parts(write, rows, _ROWS_PER_UPSERT)

    async def remove_duplicates(self, rows: Iterable[Row], theirs: Mapping[str, Row]) -> int:
        """Leave one row per id of `rows`, which an import has added; return how many had two.

        Rows of other writers stay. Of two rows with one id a read returns the later one. If that
        is not the imported row, it is theirs; otherwise theirs is in `theirs`, or is equal.
        `theirs` has the rows, with vectors, that others wrote under these ids before the import's
        rows appeared.
        """
        imported = {row.id: row for row in rows}
        doubled = [imported[row_id] for row_id in await self._doubled(list(imported))]
        later = await self.find(doubled, include_vectors=True)
        kept = []
        for row in doubled:
            seen = later.get(row.id, row)
            kept.append(theirs.get(row.id, row) if is_same(seen, row) else seen)
        await self.upsert(kept)
        return len(kept)

    async def _doubled(self, ids: Sequence[str]) -> list[str]:
        """Return the ids that two rows have. Only a count finds them."""

        async def doubled_in(part: Sequence[str]) -> list[str]:
            chosen = schema.with_ids(part)
            if await self._store.count(self._info, chosen, deadline()) <= len(part):
                return []
            if len(part) == 1:
                return list(part)
            half = len(part) // 2
            return [*await doubled_in(part[:half]), *await doubled_in(part[half:])]

        found = await _in_parts(doubled_in, ids, _IDS_PER_LOOK_UP)
        return [row_id for part in found for row_id in part]


def is_same(one: Row, other: Row) -> bool:
    """Return whether two rows of one id have equal content and fields."""
    return one.digest == other.digest and one.fields == other.fields


async def with_retries(call: Callable[[], Awaitable[T]]) -> T:
    """Return the result of `call`; call again while Milvus does not answer, then BulkError."""
    for pause in (*_PAUSES_S, None):
        try:
            return await call()
        except SentinelError as error:
            if pause is None or not isinstance(error, Unavailable | DeadlineExceeded):
                raise BulkError(f"{error.message} [{error.reason}]") from error
            await asyncio.sleep(pause)
    raise AssertionError  # the last attempt returns or raises


def deadline() -> Deadline:
    """Return the deadline of one Milvus call that starts now."""
    return Deadline.within(_CALL_TIMEOUT_S)


async def _in_parts(
    call: Callable[[Sequence[P]], Awaitable[T]], values: Sequence[P], size: int
) -> list[T]:
    """Call with `size` values at a time, a few calls at once; return the results in order."""
    slots = asyncio.Semaphore(_CONCURRENT_CALLS)

    async def one(part: Sequence[P]) -> T:
        async with slots:
            return await with_retries(lambda: call(part))

    parts = [values[start : start + size] for start in range(0, len(values), size)]
    return await asyncio.gather(*map(one, parts))
