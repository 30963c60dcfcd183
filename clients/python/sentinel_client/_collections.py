"""The calls of CollectionService: create, list, alias, reindex and delete collections."""
# ruff: noqa: ASYNC109 - a timeout becomes a gRPC deadline, which asyncio.timeout could not send

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import Unpack

from sentinel.search.v1 import collection_service_pb2 as collection_pb
from sentinel.search.v1 import item_service_pb2 as item_pb
from sentinel_client import _field_messages, _messages, _rpcs
from sentinel_client._connection import Attempts, ServiceCalls
from sentinel_client._errors import AlreadyExists, NotFound, ResultTruncated, SentinelError
from sentinel_client._filters import Filter
from sentinel_client._types import (
    Collection,
    CollectionOptions,
    DeletionPreview,
    FieldSchema,
    ModelVersion,
    ReindexProgress,
    VectorStorage,
)


class CollectionCalls(ServiceCalls):
    """The part of the client that manages collections."""

    async def create_collection(
        self,
        name: str,
        fields: Iterable[FieldSchema] = (),
        *,
        timeout: float | None = None,
        **options: Unpack[CollectionOptions],
    ) -> Collection:
        """Create an empty collection. `CollectionOptions` lists the other arguments."""
        request = collection_pb.CreateCollectionRequest(
            collection=_messages.collection_to_proto(name, fields, options)
        )
        response = await self._connection.unary(_rpcs.CREATE_COLLECTION, request, timeout)
        return _messages.collection_from_proto(response.collection)

    async def get_collection(self, name: str, *, timeout: float | None = None) -> Collection:
        """Return the description of one collection."""
        request = collection_pb.GetCollectionRequest(name=name)
        response = await self._connection.unary(_rpcs.GET_COLLECTION, request, timeout)
        return _messages.collection_from_proto(response.collection)

    async def get_or_create_collection(
        self,
        name: str,
        fields: Iterable[FieldSchema] = (),
        *,
        timeout: float | None = None,
        **options: Unpack[CollectionOptions],
    ) -> Collection:
        """Return the collection; create it if it does not exist.

        An existing collection is not changed.
        """
        try:
            return await self.get_collection(name, timeout=timeout)
        except NotFound:
            pass
        try:
            return await self.create_collection(name, fields, timeout=timeout, **options)
        except AlreadyExists:  # another caller created it meanwhile
            return await self.get_collection(name, timeout=timeout)

    async def list_collections(self, *, timeout: float | None = None) -> list[Collection]:
        """Return all collections, sorted by name."""
        collections: list[Collection] = []
        request = collection_pb.ListCollectionsRequest()
        while True:
            response = await self._connection.unary(_rpcs.LIST_COLLECTIONS, request, timeout)
            collections.extend(map(_messages.collection_from_proto, response.collections))
            if not response.next_page_token:
                return collections
            request.page_token = response.next_page_token

    async def preview_deletion(
        self, collection: str, *, filter: Filter | None = None, timeout: float | None = None
    ) -> DeletionPreview:
        """Return what `delete_items` with this filter would delete; nothing is deleted.

        Without a filter: what `delete_collection` would delete. It fails where that would fail.
        """
        if filter is None:
            request = collection_pb.PreviewDeletionRequest(name=collection)
            found = await self._connection.unary(_rpcs.PREVIEW_DELETION, request, timeout)
            return DeletionPreview(found.item_count, found.confirmation_token)
        deletion = item_pb.DeleteItemsRequest(
            collection=collection, filter=_field_messages.filter_to_proto(filter), dry_run=True
        )
        counted = await self._connection.unary(_rpcs.DELETE_ITEMS, deletion, timeout)
        return DeletionPreview(counted.deleted_count, counted.confirmation_token)

    async def delete_collection(
        self, name: str, *, confirmation_token: str = "", timeout: float | None = None
    ) -> None:
        """Delete a collection and its items permanently.

        Args:
            name: Its own name, not an alias.
            confirmation_token: That of `preview_deletion`. A gateway in protected mode needs it.
                If it is given, the call fails once the preview is no longer true.
            timeout: Seconds for the whole call.

        Raises:
            FailedPrecondition: CONFIRMATION_NEEDED or CONFIRMATION_OUTDATED: look at a new preview.
        """
        request = collection_pb.DeleteCollectionRequest(
            name=name, confirmation_token=confirmation_token
        )
        await self._connection.unary(_rpcs.DELETE_COLLECTION, request, timeout)

    async def set_alias(self, alias: str, collection: str, *, timeout: float | None = None) -> None:
        """Point `alias` at a collection, for all callers at once. Replaces an existing alias."""
        request = collection_pb.SetAliasRequest(alias=alias, collection=collection)
        await self._connection.unary(_rpcs.SET_ALIAS, request, timeout)

    async def delete_alias(self, alias: str, *, timeout: float | None = None) -> None:
        """Delete an alias if it exists; its collection stays."""
        request = collection_pb.DeleteAliasRequest(alias=alias)
        await self._connection.unary(_rpcs.DELETE_ALIAS, request, timeout)

    async def reindex(
        self,
        source: str,
        target: str,
        *,
        alias: str = "",
        model: ModelVersion | None = None,
        dimensions: int = 0,
        storage: VectorStorage | None = None,
        added_fields: Iterable[FieldSchema] = (),
        timeout: float = math.inf,
    ) -> AsyncGenerator[ReindexProgress, None]:
        """Embed every item of `source` again into `target`; yield the progress.

        The source stays available for searches and writes. A new call continues where an earlier
        one stopped. This call reconnects itself to a gateway that is unavailable for a moment.
        Closing the iterator stops the work.

        Args:
            source: A collection, or an alias.
            target: Name of the collection to create or to continue.
            alias: Alias to point at the target when it is complete. The own name of `source` is
                allowed, too: from then on it means the target, and so do its aliases.
            model: One of the workers' models. None: the one that `source` does not use; with
                `dimensions` or `storage`, the one that it uses.
            dimensions: Length of the new vectors; 0: the model's own, or those of `source` if the
                model stays.
            storage: How Milvus holds the new vectors; None: as those of `source`.
            added_fields: Fields that `target` has beside those of `source`. If nothing else
                changes, the vectors are copied and nothing is embedded.
            timeout: Seconds for the whole call.

        Raises:
            ResultTruncated: The server ended the stream before all items were embedded.
        """
        request = collection_pb.ReindexCollectionRequest(
            source=source,
            target=target,
            alias=alias,
            model_version=_messages.model_to_proto(model),
            dimensions=dimensions,
            storage=_messages.storage_to_proto(storage),
            added_fields=map(_messages.field_schema_to_proto, added_fields),
        )
        async with aclosing(self._reindex(request, timeout)) as reports:
            async for report in reports:
                yield report

    async def _reindex(
        self, request: collection_pb.ReindexCollectionRequest, timeout: float
    ) -> AsyncGenerator[ReindexProgress, None]:
        """Call again whenever the stream breaks, as long as it makes progress."""
        end = time.monotonic() + timeout

        def fresh() -> Attempts:
            return Attempts(self._config.retry, timeout=end - time.monotonic(), retry=True)

        attempts, report = fresh(), ReindexProgress(0, 0)
        while not report.done:
            stream = self._connection.stream(
                _rpcs.REINDEX_COLLECTION, request, end - time.monotonic()
            )
            try:
                async with aclosing(stream):
                    async for message in stream:
                        report = _messages.reindex_progress_from_proto(message)
                        yield report
                        # The call made progress: count attempts from 1 again.
                        attempts = fresh()
            except SentinelError as error:
                await attempts.pause_or_raise(error)
            else:
                if not report.done:
                    raise ResultTruncated(
                        "RESULT_TRUNCATED",
                        "the server stopped before the end; call again to continue",
                    )
