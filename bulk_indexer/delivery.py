"""Rows of finished shards into Milvus, each once, whatever was there and however often it is tried.

Two ways. *Upsert* writes rows as a gateway does, on any Milvus. *Import* has a server read files,
which loads it less than writes do; but an import only ever adds rows. So ids that are there are
looked up first, and their rows left out if they are unchanged, or upserted if they are not. A
restart first waits for imports that still run, and then finds their rows like any others.
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from bulk_indexer import row_files
from bulk_indexer.errors import BulkError
from bulk_indexer.run_folder import RunFolder, shard_file
from search_server.store.imports import MilvusImports
from search_server.store.milvus import MilvusStore
from search_server.types import CollectionInfo, Row
from sentinel_core.deadlines import Deadline
from sentinel_core.errors import DeadlineExceeded, SentinelError, Unavailable

logger = logging.getLogger(__name__)

T = TypeVar("T")
# As many as one gateway call carries; with the longest texts a message stays under 64 MiB.
_ROWS_PER_UPSERT = 256
# A strong look-up takes a server about 0.2 s however many ids it is for.
_IDS_PER_LOOK_UP = 1024
_CALLS_AT_ONCE = 4
# About 300 MB of 768-dimensional vectors: one Milvus segment, and a file that it reads in seconds.
_ROWS_PER_IMPORT = 100_000
_CALL_TIMEOUT_S = 60.0
_POLL_S = 1.0
_PAUSES_S = (1.0, 5.0, 20.0)


@dataclass(slots=True)
class Delivered:
    """Rows that were new or changed, and rows that Milvus had already."""

    stored: int = 0
    unchanged: int = 0


class Delivery(Protocol):
    """Takes finished shards; marks each `delivered` once its rows are durable in Milvus."""

    delivered: Delivered

    async def add(self, shard: int) -> None:
        """Take one shard's rows.

        Raises:
            BulkError: Milvus refuses or cannot be reached.
        """
        ...

    async def finish(self) -> None:
        """Return when all that was taken is delivered.

        Raises:
            BulkError: Milvus refuses or cannot be reached.
        """
        ...


class NoDelivery:
    """Leaves the rows where they are, in the run folder."""

    def __init__(self) -> None:
        self.delivered = Delivered()

    async def add(self, shard: int) -> None: ...

    async def finish(self) -> None: ...


@dataclass(slots=True)
class _Sorted:
    """Rows by what Milvus has of them."""

    new: list[Row] = field(default_factory=list)
    changed: list[Row] = field(default_factory=list)
    unchanged: int = 0


class UpsertDelivery:
    """Upserts each shard as it comes."""

    def __init__(self, store: MilvusStore, folder: RunFolder, info: CollectionInfo) -> None:
        self._store = store
        self._folder = folder
        self._info = info
        self.delivered = Delivered()

    async def add(self, shard: int) -> None:
        rows = await asyncio.to_thread(_rows_of, self._folder, shard)
        found = await _sorted(self._store, self._info, rows)
        await _upsert(self._store, self._info, [*found.new, *found.changed])
        await asyncio.to_thread(_mark, self._folder, [shard])
        self.delivered.stored += len(found.new) + len(found.changed)
        self.delivered.unchanged += found.unchanged

    async def finish(self) -> None: ...


class ImportDelivery:
    """Gathers the new rows of several shards in a file and has the server import it.

    Args:
        store: For look-ups and for rows that changed.
        imports: Of the same server.
        folder: The run's.
        info: The collection.
        target: A folder in Milvus's own bucket.
        rows_per_import: Rows that make a file worth importing.
    """

    def __init__(
        self,
        store: MilvusStore,
        imports: MilvusImports,
        folder: RunFolder,
        info: CollectionInfo,
        *,
        target: str,
        rows_per_import: int = _ROWS_PER_IMPORT,
    ) -> None:
        self._store = store
        self._imports = imports
        self._folder = folder
        self._info = info
        self._fs, self._root = fsspec.core.url_to_fs(target)
        self._rows_per_import = rows_per_import
        self._started = False
        self._shards: list[int] = []
        self._new: dict[str, Row] = {}
        self.delivered = Delivered()

    async def add(self, shard: int) -> None:
        if not self._started:
            await self._wait_for_others()
            self._started = True
        rows = await asyncio.to_thread(_rows_of, self._folder, shard)
        found = await _sorted(self._store, self._info, rows)
        await _upsert(self._store, self._info, found.changed)
        for row in found.new:
            self._new.setdefault(row.id, row)  # an equal one of another shard was there first
        self._shards.append(shard)
        self.delivered.stored += len(found.changed)
        self.delivered.unchanged += found.unchanged
        if len(self._new) >= self._rows_per_import:
            await self.finish()

    async def finish(self) -> None:
        if self._new:
            await self._import(list(self._new.values()))
            self.delivered.stored += len(self._new)
        await asyncio.to_thread(_mark, self._folder, self._shards)
        self._new, self._shards = {}, []

    async def _wait_for_others(self) -> None:
        """Wait for imports that a run before this one started; their rows are to be found then."""
        while running := await _patiently(self._running):
            logger.info("waiting for imports that still run", extra={"imports": len(running)})
            await asyncio.sleep(_POLL_S)
        await self._show()

    async def _running(self) -> list[int]:
        return await self._imports.running(self._info.name, _deadline())

    async def _import(self, rows: Sequence[Row]) -> None:
        path = f"{self._root}/{self._info.name}-{uuid.uuid4().hex}.parquet"
        await asyncio.to_thread(self._write, path, rows)
        try:
            # Tried once: a second attempt after a lost answer would import the rows twice.
            number = await self._imports.start(self._info.name, self._in_bucket(path), _deadline())
            while True:
                state = await _patiently(lambda: self._imports.state(number, _deadline()))
                if state.failure:
                    raise BulkError(f"Milvus cannot import {path}: {state.failure}")
                if state.done:
                    break
                await asyncio.sleep(_POLL_S)
        except SentinelError as error:
            raise BulkError(f"Milvus cannot import {path}: {error.message}") from error
        await self._show()
        logger.info("imported", extra={"rows": len(rows), "import": number})
        with suppress(OSError):
            await asyncio.to_thread(self._fs.rm_file, path)

    async def _show(self) -> None:
        async def show() -> None:
            await self._imports.show(self._info.name, _deadline())

        await _patiently(show)

    def _write(self, path: str, rows: Sequence[Row]) -> None:
        try:
            self._fs.makedirs(self._root, exist_ok=True)
            with self._fs.open(path, "wb") as file:
                row_files.write(file, rows, self._info)
        except OSError as error:
            raise BulkError(f"cannot write {path}: {error}") from error

    def _in_bucket(self, path: str) -> str:
        """Return the path as Milvus names it: without the bucket."""
        return path if isinstance(self._fs, LocalFileSystem) else path.split("/", 1)[1]


async def _sorted(store: MilvusStore, info: CollectionInfo, rows: Sequence[Row]) -> _Sorted:
    async def look_up(part: Sequence[Row]) -> list[Row]:
        return await store.get(info, [row.id for row in part], _deadline())

    found = _Sorted()
    there = {
        row.id: row for part in await _in_parts(look_up, rows, _IDS_PER_LOOK_UP) for row in part
    }
    for row in rows:
        other = there.get(row.id)
        if other is None:
            found.new.append(row)
        elif other.digest == row.digest and other.fields == row.fields:
            found.unchanged += 1
        else:
            found.changed.append(row)
    return found


async def _upsert(store: MilvusStore, info: CollectionInfo, rows: Sequence[Row]) -> None:
    async def write(part: Sequence[Row]) -> None:
        await store.upsert(info, part, _deadline())

    await _in_parts(write, rows, _ROWS_PER_UPSERT)


async def _in_parts(
    call: Callable[[Sequence[Row]], Awaitable[T]], rows: Sequence[Row], size: int
) -> list[T]:
    """Call with `size` rows at a time, a few calls at once; return what they return, in order."""
    slots = asyncio.Semaphore(_CALLS_AT_ONCE)

    async def one(part: Sequence[Row]) -> T:
        async with slots:
            return await _patiently(lambda: call(part))

    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    return await asyncio.gather(*map(one, parts))


async def _patiently(call: Callable[[], Awaitable[T]]) -> T:
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


def _rows_of(folder: RunFolder, shard: int) -> list[Row]:
    return row_files.decode(folder.read(shard_file("rows", shard)))


def _mark(folder: RunFolder, shards: Sequence[int]) -> None:
    for shard in shards:
        folder.write(shard_file("delivered", shard), json.dumps({"shard": shard}).encode())


def _deadline() -> Deadline:
    return Deadline.after(None, default_s=_CALL_TIMEOUT_S)
