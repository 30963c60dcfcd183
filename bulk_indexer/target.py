"""Open the collection that rows go to, create it if it is missing, and choose the delivery."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace

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


@asynccontextmanager
async def open_target(settings: BulkSettings, storage: StoreSettings) -> AsyncIterator[Target]:
    """Connect to the Milvus of the settings, or to none for `--deliver files`."""
    uri, token = storage.milvus_uri, storage.milvus_token.get_secret_value()
    if settings.deliver == "import" and "://" not in uri:
        raise BulkError("Milvus Lite imports no files; use --deliver upsert")
    store, imports = None, None
    async with AsyncExitStack() as stack:
        if settings.deliver == "import":
            imports = MilvusImports(uri, token, storage.milvus_tls())
            stack.push_async_callback(imports.close)
        if settings.deliver != "files":
            store = MilvusStore(
                uri,
                token,
                storage.milvus_threads,
                tls=storage.milvus_tls(),
                lite_fsync=storage.lite_fsync,
            )
            stack.push_async_callback(store.close)
            flushing = asyncio.create_task(store.run())
            stack.push_async_callback(_cancel, flushing)
        yield Target(settings, store, imports)


class Target:
    """A collection in an open Milvus. Use in one event loop."""

    def __init__(
        self, settings: BulkSettings, store: MilvusStore | None, imports: MilvusImports | None
    ) -> None:
        self._settings = settings
        self._store = store
        self._imports = imports
        self._is_new = False

    async def collection(
        self, model: Callable[[], Awaitable[tuple[ModelRef, int]]]
    ) -> CollectionInfo:
        """Return the collection; for a missing one, what it will be.

        `model` returns the run's model and its dimensions. It is called after Milvus has answered.
        Raises BulkError if the collection has another model.
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

        The index of a new collection is chosen for `entries`, the size of the whole dataset.
        """
        if self._store is None:
            return Delivery()
        if self._is_new:
            index = indexes.choose_index(None, entries, is_lite=self._store.is_lite)
            info = replace(info, index=index, expected_item_count=entries)
            await self._store.create_collection(info, deadline())
        if self._imports is None:
            return UpsertDelivery(self._store, folder, info)
        return ImportDelivery(
            self._store, self._imports, folder, info, target=self._settings.import_uri
        )


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
