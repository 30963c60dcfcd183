"""Store the rows of finished shards in Milvus, each once, however often a run is repeated.

*Upsert* writes rows as a gateway does, to any Milvus. *Import* lets a server read files, which is
less work for it; but an import only adds rows. So stored ids are looked up first: unchanged rows
are left out, and changed rows are upserted. A restart waits for running imports, and then finds
their rows like any others.

Others may write during an import. A row that a gateway stores after the look-up wins: the run's row
is left out of the import, or, if the import has begun, both are replaced by the gateway's. For
some seconds after an import's rows appear, a count includes such an id twice; a search does not.
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import fsspec
from fsspec.implementations.local import LocalFileSystem

from bulk_indexer import row_files
from bulk_indexer.run_folder import BulkError, RunFolder, shard_file
from bulk_indexer.stored_rows import StoredRows, deadline, with_retries
from sentinel_core.errors import SentinelError
from sentinel_store.collections import CollectionInfo
from sentinel_store.items import Row
from sentinel_store.milvus.bulk_import import MilvusImports
from sentinel_store.milvus.store import MilvusStore

logger = logging.getLogger(__name__)

# About 300 MB of 768-dimensional vectors: one Milvus segment, in a file that it reads in seconds.
_ROWS_PER_IMPORT = 100_000
_POLL_S = 1.0


@dataclass(slots=True)
class Delivered:
    """Numbers of rows: new or changed, and already stored."""

    stored: int = 0
    unchanged: int = 0


class Delivery:
    """Takes finished shards and marks each `delivered` once its rows are durable in Milvus.

    This base class leaves the rows in the run folder. Methods of subclasses raise BulkError if
    Milvus refuses or cannot be reached.
    """

    def __init__(self) -> None:
        self.delivered = Delivered()

    async def add(self, shard: int) -> None:
        """Take one shard's rows."""

    async def finish(self) -> None:
        """Return when all rows are delivered."""


class UpsertDelivery(Delivery):
    """Upserts each shard immediately."""

    def __init__(self, store: MilvusStore, folder: RunFolder, info: CollectionInfo) -> None:
        super().__init__()
        self._stored = StoredRows(store, info)
        self._folder = folder
        self._info = info

    async def add(self, shard: int) -> None:
        rows = await asyncio.to_thread(_rows_of, self._folder, shard, self._info)
        comparison = await self._stored.compare(rows)
        changed = [*comparison.new, *comparison.changed]
        await self._stored.upsert(changed)
        await asyncio.to_thread(_mark, self._folder, [shard])
        self.delivered.stored += len(changed)
        self.delivered.unchanged += len(comparison.unchanged)


class ImportDelivery(Delivery):
    """Collects new rows, `rows_per_import` or more, in a file, and has the server import it.

    `target` is a folder in Milvus's own bucket. The store is for look-ups and changed rows.
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
        super().__init__()
        self._stored = StoredRows(store, info)
        self._imports = imports
        self._folder = folder
        self._info = info
        self._fs, self._root = fsspec.core.url_to_fs(target)
        self._rows_per_import = rows_per_import
        self._started = False
        self._shards: list[int] = []
        self._new: dict[str, Row] = {}

    async def add(self, shard: int) -> None:
        if not self._started:
            await self._wait_for_earlier_imports()
            self._started = True
        rows = await asyncio.to_thread(_rows_of, self._folder, shard, self._info)
        comparison = await self._stored.compare(rows)
        await self._stored.upsert(comparison.changed)
        # An earlier run may have imported them and ended before it removed duplicates.
        await self._stored.remove_duplicates(comparison.unchanged, {})
        for row in comparison.new:
            self._new.setdefault(row.id, row)  # of equal rows in two shards the first stays
        self._shards.append(shard)
        self.delivered.stored += len(comparison.changed)
        self.delivered.unchanged += len(comparison.unchanged)
        if len(self._new) >= self._rows_per_import:
            await self.finish()

    async def finish(self) -> None:
        # Look again: hours may have passed since these shards were added.
        stored = await self._stored.find(self._new.values())
        new = [row for row in self._new.values() if row.id not in stored]
        self.delivered.unchanged += len(self._new) - len(new)
        if new:
            await self._import(new)
            self.delivered.stored += len(new)
        await asyncio.to_thread(_mark, self._folder, self._shards)
        self._new, self._shards = {}, []

    async def _wait_for_earlier_imports(self) -> None:
        """Wait for imports of an earlier run, so that their rows are found."""
        while running := await with_retries(
            lambda: self._imports.running(self._info.name, deadline())
        ):
            logger.info("waiting for running imports", extra={"imports": len(running)})
            await asyncio.sleep(_POLL_S)
        await self._show()

    async def _import(self, rows: Sequence[Row]) -> None:
        path = f"{self._root}/{self._info.name}-{uuid.uuid4().hex}.parquet"
        await asyncio.to_thread(self._write, path, rows)
        try:
            # No retry: a second attempt after a lost answer would import the rows twice.
            number = await self._imports.start(self._info.name, self._in_bucket(path), deadline())
        except SentinelError as error:
            raise BulkError(f"Milvus cannot import {path}: {error.message}") from error
        # Milvus dates imported rows to the import's start, and of two rows with one id it returns
        # the later. So rows that others wrote before can only be read now, while it runs.
        theirs = await self._stored.find(rows, include_vectors=True)
        while True:
            state = await with_retries(lambda: self._imports.state(number, deadline()))
            if state.done:
                break
            if state.failure:
                raise BulkError(f"Milvus cannot import {path}: {state.failure}")
            await asyncio.sleep(_POLL_S)
        await self._show()
        doubled = await self._stored.remove_duplicates(rows, theirs)
        logger.info(
            "imported", extra={"rows": len(rows), "import": number, "written_meanwhile": doubled}
        )
        with suppress(OSError):
            await asyncio.to_thread(self._fs.rm_file, path)

    async def _show(self) -> None:
        await with_retries(lambda: self._imports.show(self._info.name, deadline()))

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


def _rows_of(folder: RunFolder, shard: int, info: CollectionInfo) -> list[Row]:
    return row_files.decode(folder.read(shard_file("rows", shard)), info)


def _mark(folder: RunFolder, shards: Sequence[int]) -> None:
    for shard in shards:
        folder.write(shard_file("delivered", shard), json.dumps({"shard": shard}).encode())
