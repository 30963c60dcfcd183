"""Rows of finished shards into Milvus, each once, whatever was there and however often it is tried.

Two ways. *Upsert* writes rows as a gateway does, on any Milvus. *Import* has a server read files,
which loads it less than writes do; but an import only ever adds rows. So ids that are there are
looked up first, and their rows left out if they are unchanged, or upserted if they are not. A
restart first waits for imports that still run, and then finds their rows like any others.

Others may write beside an import. What a gateway stores under an id after its look-up wins: the
row is left out of the import, or, if that has begun, both are replaced by the gateway's. From when
an import's rows are there until then, some seconds, a count shows such an id twice; a search does
not.
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import fsspec
from fsspec.implementations.local import LocalFileSystem

from bulk_indexer import row_files
from bulk_indexer.errors import BulkError
from bulk_indexer.run_folder import RunFolder, shard_file
from bulk_indexer.stored_rows import StoredRows, deadline, patiently
from sentinel_core.errors import SentinelError
from sentinel_store.collections import CollectionInfo
from sentinel_store.items import Row
from sentinel_store.milvus.bulk_import import MilvusImports
from sentinel_store.milvus.store import MilvusStore

logger = logging.getLogger(__name__)

# About 300 MB of 768-dimensional vectors: one Milvus segment, and a file that it reads in seconds.
_ROWS_PER_IMPORT = 100_000
_POLL_S = 1.0


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


class UpsertDelivery:
    """Upserts each shard as it comes."""

    def __init__(self, store: MilvusStore, folder: RunFolder, info: CollectionInfo) -> None:
        self._stored = StoredRows(store, info)
        self._folder = folder
        self.delivered = Delivered()

    async def add(self, shard: int) -> None:
        rows = await asyncio.to_thread(_rows_of, self._folder, shard)
        found = await self._stored.sort(rows)
        await self._stored.upsert([*found.new, *found.changed])
        await asyncio.to_thread(_mark, self._folder, [shard])
        self.delivered.stored += len(found.new) + len(found.changed)
        self.delivered.unchanged += len(found.unchanged)

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
        self._stored = StoredRows(store, info)
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
        found = await self._stored.sort(rows)
        await self._stored.upsert(found.changed)
        # A run before this one may have imported them and ended before it looked for doubles.
        await self._stored.make_single(found.unchanged, {})
        for row in found.new:
            self._new.setdefault(row.id, row)  # an equal one of another shard was there first
        self._shards.append(shard)
        self.delivered.stored += len(found.changed)
        self.delivered.unchanged += len(found.unchanged)
        if len(self._new) >= self._rows_per_import:
            await self.finish()

    async def finish(self) -> None:
        # Hours may have passed since their shards were taken.
        there = await self._stored.find(self._new.values())
        new = [row for row in self._new.values() if row.id not in there]
        self.delivered.unchanged += len(self._new) - len(new)
        if new:
            await self._import(new)
            self.delivered.stored += len(new)
        await asyncio.to_thread(_mark, self._folder, self._shards)
        self._new, self._shards = {}, []

    async def _wait_for_others(self) -> None:
        """Wait for imports that a run before this one started; their rows are to be found then."""
        while running := await patiently(self._running):
            logger.info("waiting for imports that still run", extra={"imports": len(running)})
            await asyncio.sleep(_POLL_S)
        await self._show()

    async def _running(self) -> list[int]:
        return await self._imports.running(self._info.name, deadline())

    async def _import(self, rows: Sequence[Row]) -> None:
        path = f"{self._root}/{self._info.name}-{uuid.uuid4().hex}.parquet"
        await asyncio.to_thread(self._write, path, rows)
        try:
            # Tried once: a second attempt after a lost answer would import the rows twice.
            number = await self._imports.start(self._info.name, self._in_bucket(path), deadline())
        except SentinelError as error:
            raise BulkError(f"Milvus cannot import {path}: {error.message}") from error
        # Milvus takes the rows of an import for as old as its start, and shows of two rows with
        # one id the later: what others wrote before can only be read now, while it runs.
        theirs = await self._stored.find(rows, include_vectors=True)
        while not (state := await patiently(lambda: self._imports.state(number, deadline()))).done:
            if state.failure:
                raise BulkError(f"Milvus cannot import {path}: {state.failure}")
            await asyncio.sleep(_POLL_S)
        await self._show()
        doubled = await self._stored.make_single(rows, theirs)
        logger.info(
            "imported", extra={"rows": len(rows), "import": number, "written_meanwhile": doubled}
        )
        with suppress(OSError):
            await asyncio.to_thread(self._fs.rm_file, path)

    async def _show(self) -> None:
        async def show() -> None:
            await self._imports.show(self._info.name, deadline())

        await patiently(show)

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


def _rows_of(folder: RunFolder, shard: int) -> list[Row]:
    return row_files.decode(folder.read(shard_file("rows", shard)))


def _mark(folder: RunFolder, shards: Sequence[int]) -> None:
    for shard in shards:
        folder.write(shard_file("delivered", shard), json.dumps({"shard": shard}).encode())
