"""Where rows go: the collection, made when missing, and the way into it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Self

from bulk_indexer.delivery import Delivery, ImportDelivery, NoDelivery, UpsertDelivery
from bulk_indexer.errors import BulkError
from bulk_indexer.run_folder import RunFolder
from bulk_indexer.settings import BulkSettings
from sentinel_core.calls import Deadline
from sentinel_store.collections import CollectionInfo, check_declaration
from sentinel_store.milvus import indexes
from sentinel_store.milvus.bulk_import import MilvusImports
from sentinel_store.milvus.store import MilvusStore
from sentinel_store.settings import StoreSettings
from sentinel_store.values import ModelRef

_TIMEOUT_S = 60.0


class Target:
    """Milvus as the settings name it, or no Milvus at all. Use as a context, in one event loop."""

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
        """Return the collection; of a missing one, what it will be.

        Args:
            model: Tells the run's model and its dimensions; asked once Milvus has answered.

        Raises:
            BulkError: It is of another model.
            SentinelError: The name is none, or Milvus refuses or does not answer.
        """
        name = self._settings.collection
        declared = self._settings.declared_fields()
        check_declaration(name, declared)
        there = None
        if self._store is not None:
            there = await self._store.describe_collection(name, _deadline())
        ours, dimensions = await model()
        if there is None:
            self._is_new = True
            return CollectionInfo(name, ours, dimensions, declared)
        if there.model.fingerprint != ours.fingerprint:
            raise BulkError(
                f"collection {name!r} is of model {there.model.model} "
                f"{there.model.fingerprint[:12]}, this run of {ours.model} "
                f"{ours.fingerprint[:12]}; choose the same --model or another --collection"
            )
        return there

    async def delivery(self, info: CollectionInfo, folder: RunFolder, entries: int) -> Delivery:
        """Return the way into the collection, which is made now if it was missing.

        Args:
            info: What `collection` returned.
            folder: Where finished shards are.
            entries: Of the whole dataset; a new collection's index is chosen for as many.

        Raises:
            SentinelError: Milvus refuses or does not answer.
        """
        if self._store is None:
            return NoDelivery()
        if self._is_new:
            index = indexes.chosen(None, entries, is_lite=self._store.is_lite)
            info = replace(info, index=index, expected_item_count=entries)
            await self._store.create_collection(info, _deadline())
        if self._imports is None:
            return UpsertDelivery(self._store, folder, info)
        return ImportDelivery(
            self._store, self._imports, folder, info, target=self._settings.import_uri
        )


def _deadline() -> Deadline:
    return Deadline.after(None, default_s=_TIMEOUT_S)
