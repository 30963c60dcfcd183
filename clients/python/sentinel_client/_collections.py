"""Managing collections: the calls of CollectionService."""
# ruff: noqa: ASYNC109 - a timeout becomes a gRPC deadline, which asyncio.timeout could not send

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import Unpack

from sentinel.search.v1 import collection_service_pb2 as collection_pb
from sentinel_client import _convert, _rpcs
from sentinel_client._calls import Calls
from sentinel_client._errors import AlreadyExists, NotFound, ResultTruncated, SentinelError
from sentinel_client._retry import Attempts
from sentinel_client._types import (
    Collection,
    CollectionOptions,
    FieldSchema,
    ModelVersion,
    ReindexProgress,
)


class CollectionCalls(Calls):
    """The part of the client that manages collections."""

    async def create_collection(
        self,
        name: str,
        fields: Iterable[FieldSchema] = (),
        *,
        timeout: float | None = None,
        **options: Unpack[CollectionOptions],
    ) -> Collection:
        """Make an empty collection. `CollectionOptions` has the rest."""
        request = collection_pb.CreateCollectionRequest(
            collection=_convert.collection_to_proto(name, fields, options)
        )
        response = await self._write(_rpcs.CREATE_COLLECTION, request, timeout)
        return _convert.collection_from_proto(response.collection)

    async def get_collection(self, name: str, *, timeout: float | None = None) -> Collection:
        """Describe one collection."""
        request = collection_pb.GetCollectionRequest(name=name)
        response = await self._read(_rpcs.GET_COLLECTION, request, timeout)
        return _convert.collection_from_proto(response.collection)

    async def get_or_create_collection(
        self,
        name: str,
        fields: Iterable[FieldSchema] = (),
        *,
        timeout: float | None = None,
        **options: Unpack[CollectionOptions],
    ) -> Collection:
        """Describe the collection, made as `create_collection` would if it is missing.

        One that is there is left as it is.
        """
        try:
            return await self.get_collection(name, timeout=timeout)
        except NotFound:
            pass
        try:
            return await self.create_collection(name, fields, timeout=timeout, **options)
        except AlreadyExists:  # somebody was faster
            return await self.get_collection(name, timeout=timeout)

    async def list_collections(self, *, timeout: float | None = None) -> list[Collection]:
        """Describe every collection, by name."""
        collections: list[Collection] = []
        request = collection_pb.ListCollectionsRequest()
        while True:
            response = await self._read(_rpcs.LIST_COLLECTIONS, request, timeout)
            collections.extend(map(_convert.collection_from_proto, response.collections))
            if not response.next_page_token:
                return collections
            request.page_token = response.next_page_token

    async def delete_collection(self, name: str, *, timeout: float | None = None) -> None:
        """Remove a collection and its items for good."""
        request = collection_pb.DeleteCollectionRequest(name=name)
        await self._write(_rpcs.DELETE_COLLECTION, request, timeout)

    async def set_alias(self, alias: str, collection: str, *, timeout: float | None = None) -> None:
        """Point `alias` at a collection, at once for all callers, wherever it pointed before."""
        request = collection_pb.SetAliasRequest(alias=alias, collection=collection)
        await self._write(_rpcs.SET_ALIAS, request, timeout)

    async def delete_alias(self, alias: str, *, timeout: float | None = None) -> None:
        """Remove an alias, if it is there; the collection stays."""
        request = collection_pb.DeleteAliasRequest(alias=alias)
        await self._write(_rpcs.DELETE_ALIAS, request, timeout)

    async def reindex(
        self,
        source: str,
        target: str,
        *,
        alias: str = "",
        model: ModelVersion | None = None,
        timeout: float = math.inf,
    ) -> AsyncGenerator[ReindexProgress, None]:
        """Embed every item of `source` again, into `target`; yield the progress.

        The source serves and takes writes meanwhile. A call that broke off goes on where it
        stopped when it is made again; for a gateway that is away for a moment, this one does so
        itself. Closing the iterator stops the work until then.

        Args:
            source: A collection, or an alias.
            target: Name of the collection to make or to go on with.
            alias: Alias to point at the target when it is complete.
            model: The workers' model to take; None: the one that is not the source's.
            timeout: Seconds that the whole may take.

        Raises:
            ResultTruncated: The server ended the stream before the work was done.
        """
        request = collection_pb.ReindexCollectionRequest(
            source=source,
            target=target,
            alias=alias,
            model_version=None if model is None else _convert.model_to_proto(model),
        )
        end = time.monotonic() + timeout
        attempts = Attempts(self._config.retry, timeout=timeout, retry=True)
        report = ReindexProgress(0, 0)
        while not report.done:
            stream = self._connection.stream(
                _rpcs.REINDEX_COLLECTION, request, end - time.monotonic()
            )
            try:
                async with aclosing(stream):
                    async for message in stream:
                        report = _convert.reindex_progress_from_proto(message)
                        yield report
                        # It is getting on: the next failure is the first of its kind.
                        attempts = Attempts(
                            self._config.retry, timeout=end - time.monotonic(), retry=True
                        )
            except SentinelError as error:
                await attempts.pause_or_raise(error)
            else:
                if not report.done:
                    raise ResultTruncated(
                        "RESULT_TRUNCATED", "the server stopped before the end; call again to go on"
                    )
