"""Open the collection that rows go to, create it if it is missing, and choose the delivery."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Self

from bulk_indexer.delivery import Delivery, ImportDelivery, UpsertDelivery
from bulk_indexer.run_folder import BulkError, RunFolder
from bulk_indexer.settings import BulkSettings
from bulk_indexer.stored_rows import deadline
from sentinel_store.collections import CollectionInfo, check_declaration
from sentinel_store.milvus import indexes
from sentinel_store.milvus.bulk_import import MilvusImports
from sentinel_store.milvus.store import MilvusStore
from sentinel_store.settings import StoreSettings
from sentinel_store.values import ModelRef


class Target:
    """The Milvus of the settings, or none for `--deliver files`.

    Use as a context manager, in one event loop.
    """

    def __init__(self, settings: BulkSettings, storage: StoreSettings) -> None:
        self._settings = settings
        self._store: MilvusStore | None = None
        self._imports: MilvusImports | None = None
        self._is_new = False
        uri, token = storage.milvus_uri, storage.milvus_token.get_secret_value()
        if settings.deliver == "import":
            if "://" not in uri:
                raise BulkError("Milvus Lite imports no files; use --deliver upsert")
            self._imports = MilvusImports(uri, token)
        if settings.deliver != "files":
            self._store = MilvusStore(uri, token, storage.milvus_threads)

    async def __aenter__(self) -> Self:
        if self._store is not None:
            self._flushes = asyncio.create_task(self._store.run())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self._store is not None:
            self._flushes.cancel()
            with suppress(asyncio.CancelledError):
                await self._flushes
            await self._store.close()
        if self._imports is not None:
            await self._imports.close()

    async def collection(
        self, model: Callable[[], Awaitable[tuple[ModelRef, int]]]
    ) -> CollectionInfo:
        """Return the collection; for a missing one, what it will be.

        Args:
            model: Returns the run's model and its dimensions; called after Milvus has answered.

        Raises:
            BulkError: The collection has another model.
            SentinelError: The name is invalid, or Milvus refuses or does not answer.
        """
        name = self._settings.collection
        declared = self._settings.declared_fields()
        check_declaration(name, declared)
        existing = None
        if self._store is not None:
            existing = await self._store.describe_collection(name, deadline())
        ours, dimensions = await model()
        if existing is None:
            self._is_new = True
            return CollectionInfo(name, ours, dimensions, declared)
        if existing.model.fingerprint != ours.fingerprint:
            raise BulkError(
                f"collection {name!r} has model {existing.model.model} "
                f"{existing.model.fingerprint[:12]}, this run has {ours.model} "
                f"{ours.fingerprint[:12]}; choose the same --model or another --collection"
            )
        return existing

    async def delivery(self, info: CollectionInfo, folder: RunFolder, entries: int) -> Delivery:
        """Create the collection if it is missing, and return the delivery to it.

        Args:
            info: As `collection` returned it.
            folder: Holds the finished shards.
            entries: Size of the whole dataset; the index of a new collection is chosen for it.

        Raises:
            SentinelError: Milvus refuses or does not answer.
        """
        if self._store is None:
            return Delivery()
        if self._is_new:
            index = indexes.chosen(None, entries, is_lite=self._store.is_lite)
            info = replace(info, index=index, expected_item_count=entries)
            await self._store.create_collection(info, deadline())
        if self._imports is None:
            return UpsertDelivery(self._store, folder, info)
        return ImportDelivery(
            self._store, self._imports, folder, info, target=self._settings.import_uri
        )
