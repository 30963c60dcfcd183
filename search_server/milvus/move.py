"""Move all collections to another Milvus while they are searched and written.

    1  copy all rows; then compare all of them, and copy those that differ
    2  copy what was written meanwhile, again and again, until that is little
    3  hold writes; copy the rest, names and descriptions; count both sides
    4  record the new place, use it, let the writes go on

Searches go on all the time, writes wait during 3 and 4. A failure before the record changes nothing
but the other Milvus, and the next run continues there. After the record, the other Milvus has
everything that was ever acknowledged.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from search_server.milvus.search_store import SearchStore
from sentinel_core.calls import Deadline
from sentinel_core.errors import FailedPrecondition, Internal, NotFound
from sentinel_store.collections import CollectionInfo, IndexKind
from sentinel_store.items import Row
from sentinel_store.milvus import indexes, schema
from sentinel_store.milvus.connection import MilvusConnection
from sentinel_store.milvus.movable import MovableConnection, Written

_CALL_TIMEOUT_S = 120.0
# Of a read: on Milvus Lite, each costs as much as there are rows. And of a write.
_PAGE_ROWS, _WRITE_ROWS = 1_000, 200
# Rows that are copied while writes wait.
_FEW_ROWS = 500
# A caller who writes faster than rows are copied is held in the end.
_MOST_ROUNDS = 10
_OURS = "sentinel."


@dataclass(slots=True)
class Progress:
    """How far a move is: rows looked at in this step, and in all."""

    doing: str
    done: int = 0
    total: int = 0


class Move:
    """One run.

    Args:
        source: What the gateway uses.
        target: The other Milvus; after the move, `source` has its connection.
        tell: Called often with the progress.
    """

    def __init__(
        self, source: SearchStore, target: SearchStore, tell: Callable[[Progress], None]
    ) -> None:
        self._source = source
        self._target = target
        self._tell = tell
        self._seen: set[str] = set()  # ids of collections that the source has had

    async def run(self, record: Callable[[], None]) -> tuple[dict[str, int], MilvusConnection]:
        """Move; return the number of rows by collection, and the connection to the old Milvus.

        Args:
            record: Makes the next start of this gateway use the other Milvus.

        Raises:
            FailedPrecondition: The other Milvus has collections of others, or lacks what ours
                need.
            Unavailable: One of the two does not answer.
        """
        connection, other = self._source.connection, self._target.connection
        assert isinstance(connection, MovableConnection)
        assert isinstance(other, MovableConnection)
        await self._check_target()
        with connection.noting_writes() as written:
            for doing in ("copying", "comparing"):
                await self._all_rows(doing)
            for _ in range(_MOST_ROUNDS):
                taken = written.take()
                await self._rows_of(taken)
                if taken.count <= _FEW_ROWS:
                    break
            async with connection.writes_held():
                self._tell(Progress("moving"))
                infos = await self._descriptions()
                await self._rows_of(written.take())
                await self._names(infos)
                counts = await self._counts(infos)
                return counts, await connection.move(other.current, record)

    async def _check_target(self) -> None:
        """Raise FailedPrecondition if the other Milvus has what is not of this library.

        Or if it is the same one by another URI: copying its rows onto themselves would undo writes.
        """
        ours = {info.name: info.id for info in await _collections(self._source)}
        theirs = await _collections(self._target)
        for info in theirs:
            if ours.get(info.name) != info.id:
                raise _of_others(info.name)
        if not theirs:
            return
        name, mark = theirs[0].name, uuid.uuid4().hex
        await self._target.set_property(name, schema.MOVE, mark, _deadline())
        if (await self._source.properties(name, _deadline())).get(schema.MOVE) == mark:
            await self._source.set_property(name, schema.MOVE, "", _deadline())
            raise FailedPrecondition(
                "COLLECTION_EXISTS", "the library is on that Milvus already, by another URI"
            )

    async def _all_rows(self, doing: str) -> None:
        """Make all rows of the target equal to those of the source."""
        infos = await self._descriptions()
        progress = Progress(doing)
        for info in infos:
            async with self._unless_dropped(info):
                progress.total += await self._source.count(info, "", _deadline())
        self._tell(progress)
        for info in infos:
            async with self._unless_dropped(info):
                await self._collection(info, progress)

    @asynccontextmanager
    async def _unless_dropped(self, info: CollectionInfo) -> AsyncIterator[None]:
        """End the block silently if the source has dropped the collection meanwhile."""
        try:
            yield
        except NotFound:
            now = await self._source.describe_collection(info.name, _deadline(), follow=False)
            if now is not None and now.id == info.id:
                raise

    async def _collection(self, info: CollectionInfo, progress: Progress) -> None:
        """Go through both sides in the order of the ids; copy what differs, delete what is gone."""
        theirs = _rows(self._target, info)
        other = await anext(theirs, None)
        async for page in _pages(self._source, info):
            changed, gone = list[Row](), list[str]()
            for row in page:
                while other is not None and _key(other) < _key(row):
                    gone.append(other.id)
                    other = await anext(theirs, None)
                if other is None or other.id != row.id:
                    changed.append(row)
                    continue
                if not _is_same(row, other):
                    changed.append(row)
                other = await anext(theirs, None)
            await self._write(info, changed, gone)
            progress.done += len(page)
            self._tell(progress)
        gone = [] if other is None else [other.id, *[row.id async for row in theirs]]
        await self._write(info, [], gone)

    async def _rows_of(self, written: Written) -> None:
        """Copy rows that were written, and delete those that were deleted."""
        infos = {info.name: info for info in await self._descriptions()}
        progress = Progress("following", total=written.count)
        for name in (written.deleted_from | set(written.ids)) & set(infos):
            info = infos[name]
            async with self._unless_dropped(info):
                for part in _parts(written.ids.get(name, ())):
                    rows = await self._source.get(info, part, _deadline(), include_vectors=True)
                    await self._write(info, rows, set(part) - {row.id for row in rows})
                    progress.done += len(part)
                    self._tell(progress)
                if name in written.deleted_from:
                    await self._delete_gone(info)

    async def _delete_gone(self, info: CollectionInfo) -> None:
        """Delete the rows that the source does not have."""
        async for page in _pages(self._target, info, vectors=False):
            ids = [row.id for row in page]
            there = await self._source.get(info, ids, _deadline())
            await self._write(info, [], set(ids) - {row.id for row in there})

    async def _write(self, info: CollectionInfo, rows: Sequence[Row], gone: Iterable[str]) -> None:
        for start in range(0, len(rows), _WRITE_ROWS):
            some = rows[start : start + _WRITE_ROWS]
            await self._target.upsert(info, some, _deadline())
        for part in _parts(gone):
            await self._target.delete(info, schema.with_ids(part), _deadline())

    async def _descriptions(self) -> list[CollectionInfo]:
        """Create and drop collections as the source has them; return those of the source."""
        infos = await _collections(self._source)
        self._seen.update(info.id for info in infos)
        theirs = {info.name: info.id for info in await _collections(self._target)}
        wanted = {info.name: info.id for info in infos}
        for name, id_ in theirs.items():
            if wanted.get(name) == id_:
                continue
            if id_ not in self._seen:
                raise _of_others(name)
            await self._target.drop_collection(name, _deadline())  # dropped, or made anew
        for info in infos:
            if theirs.get(info.name) == info.id:
                continue
            async with self._unless_dropped(info):
                count = await self._source.count(info, "", _deadline())
                new = _for_server(info, count, is_lite=self._target.is_lite)
                await self._target.create_collection(new, _deadline(), keep_id=True)
        return infos

    async def _names(self, infos: Sequence[CollectionInfo]) -> None:
        """Copy the names of collections, and how far reindexes are."""
        for info in infos:
            found = await self._source.properties(info.name, _deadline())
            theirs = await self._target.properties(info.name, _deadline())
            for key in found.keys() | theirs.keys():
                # That which describes how it was created never changes.
                if not key.startswith(_OURS) or key == schema.COLLECTION:
                    continue
                if found.get(key, "") != theirs.get(key, ""):
                    await self._target.set_property(info.name, key, found.get(key, ""), _deadline())
        ours = {
            alias: info.name
            for info in infos
            for alias in await self._source.aliases.own(info.name, _deadline())
        }
        for info in infos:
            for alias in await self._target.aliases.own(info.name, _deadline()):
                if alias not in ours:
                    await self._target.aliases.remove(alias, _deadline())
        for alias, name in ours.items():
            await self._target.aliases.point(alias, name, _deadline())

    async def _counts(self, infos: Sequence[CollectionInfo]) -> dict[str, int]:
        """Count both sides; return the counts."""
        counts = {}
        for info in infos:
            ours, theirs = [
                await store.count(info, "", _deadline()) for store in (self._source, self._target)
            ]
            if ours != theirs:
                raise Internal(
                    "INTERNAL",
                    f"collection {info.name!r} has {ours} rows here, {theirs} there: run it again",
                )
            counts[info.name] = ours
        return counts


def _of_others(name: str) -> FailedPrecondition:
    return FailedPrecondition(
        "COLLECTION_EXISTS",
        f"that Milvus has a collection {name!r} of another library: delete it there, or use "
        "another Milvus or database",
        collection=name,
    )


def _for_server(info: CollectionInfo, count: int, *, is_lite: bool) -> CollectionInfo:
    """Return the description for the other Milvus: the one index of Lite is slow on a server."""
    if is_lite or info.index.kind is not IndexKind.FLAT:
        return info
    expected = max(count, info.expected_item_count)
    index = indexes.choose_index(None, expected, is_lite=False, storage=info.storage)
    return replace(info, index=index)


async def _collections(store: SearchStore) -> list[CollectionInfo]:
    """Return the descriptions of Sentinel's collections, also of those that have moved."""
    found = []
    for name in await store.list_collections(_deadline()):
        info = await store.describe_collection(name, _deadline(), foreign_ok=True, follow=False)
        if info is not None:
            found.append(info)
    return found


async def _pages(
    store: SearchStore, info: CollectionInfo, *, vectors: bool = True
) -> AsyncIterator[Sequence[Row]]:
    last = ""
    while rows := await store.page(
        info, "", last, _PAGE_ROWS, _deadline(), include_vectors=vectors
    ):
        yield rows
        last = rows[-1].id


async def _rows(store: SearchStore, info: CollectionInfo) -> AsyncIterator[Row]:
    async for page in _pages(store, info):
        for row in page:
            yield row


def _parts(ids: Iterable[str]) -> Iterator[list[str]]:
    every = sorted(ids)
    for start in range(0, len(every), _PAGE_ROWS):
        yield every[start : start + _PAGE_ROWS]


def _key(row: Row) -> bytes:
    """Return what Milvus sorts by."""
    return row.id.encode()


def _is_same(one: Row, other: Row) -> bool:
    if one.vector is None or other.vector is None or one.vector.tobytes() != other.vector.tobytes():
        return False
    return replace(one, vector=None) == replace(other, vector=None)


def _deadline() -> Deadline:
    return Deadline.within(_CALL_TIMEOUT_S)
