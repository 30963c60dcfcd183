"""Rows of a run beside those that Milvus has of them. Milvus may be away for half a minute."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from bulk_indexer.errors import BulkError
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
# A strong look-up takes a server about 0.2 s however many ids it is for.
_IDS_PER_LOOK_UP = 1024
_CALLS_AT_ONCE = 4
_CALL_TIMEOUT_S = 60.0
_PAUSES_S = (1.0, 5.0, 20.0)


@dataclass(slots=True)
class Sorted:
    """Rows by what Milvus has of them."""

    new: list[Row] = field(default_factory=list)
    changed: list[Row] = field(default_factory=list)
    unchanged: list[Row] = field(default_factory=list)


class StoredRows:
    """The rows of one collection.

    Each method raises BulkError where Milvus refuses, or cannot be reached for too long.
    """

    def __init__(self, store: MilvusStore, info: CollectionInfo) -> None:
        self._store = store
        self._info = info

    async def find(self, rows: Iterable[Row], *, include_vectors: bool = False) -> dict[str, Row]:
        """Return what Milvus has under the ids of `rows`; of two with one id, the later one."""

        async def look_up(part: Sequence[str]) -> list[Row]:
            return await self._store.get(
                self._info, part, deadline(), include_vectors=include_vectors
            )

        ids = [row.id for row in rows]
        found = await _in_parts(look_up, ids, _IDS_PER_LOOK_UP)
        return {row.id: row for part in found for row in part}

    async def sort(self, rows: Sequence[Row]) -> Sorted:
        """Return `rows` by what Milvus has of them."""
        made, there = Sorted(), await self.find(rows)
        for row in rows:
            other = there.get(row.id)
            if other is None:
                made.new.append(row)
            elif is_same(other, row):
                made.unchanged.append(row)
            else:
                made.changed.append(row)
        return made

    async def upsert(self, rows: Sequence[Row]) -> None:
        """Write rows; whatever Milvus has under their ids, one or two rows each, is gone then."""

        async def write(part: Sequence[Row]) -> None:
            await self._store.upsert(self._info, part, deadline())

        await _in_parts(write, rows, _ROWS_PER_UPSERT)

    async def make_single(self, rows: Iterable[Row], theirs: Mapping[str, Row]) -> int:
        """Leave one row for each id of `rows`, which an import has added; return how many had two.

        What somebody else has written stays. Of two rows a read shows the later: if that is not
        the imported one, it is theirs; if it is, theirs is in `theirs`, or the same.

        Args:
            rows: As they were imported.
            theirs: What others had written under their ids before the imported rows were there,
                with vectors.
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
        """Return those of some different ids that two rows have: only a count tells."""

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
    """Tell whether two rows of one id have the same content."""
    return one.digest == other.digest and one.fields == other.fields


async def _in_parts(
    call: Callable[[Sequence[P]], Awaitable[T]], whole: Sequence[P], size: int
) -> list[T]:
    """Call with `size` of `whole` at a time, a few calls at once; return the answers in order."""
    slots = asyncio.Semaphore(_CALLS_AT_ONCE)

    async def one(part: Sequence[P]) -> T:
        async with slots:
            return await patiently(lambda: call(part))

    parts = [whole[start : start + size] for start in range(0, len(whole), size)]
    return await asyncio.gather(*map(one, parts))


async def patiently(call: Callable[[], Awaitable[T]]) -> T:
    """Return what `call` returns; it is tried again while Milvus does not answer.

    Raises:
        BulkError: It never did, or it refuses.
    """
    for pause in (*_PAUSES_S, None):
        try:
            return await call()
        except SentinelError as error:
            passing = isinstance(error, Unavailable | DeadlineExceeded)
            if pause is None or not passing:
                raise BulkError(f"{error.message} [{error.reason}]") from error
            await asyncio.sleep(pause)
    raise AssertionError  # the last round returns or raises


def deadline() -> Deadline:
    """Return the deadline of one call of Milvus."""
    return Deadline.after(None, default_s=_CALL_TIMEOUT_S)
