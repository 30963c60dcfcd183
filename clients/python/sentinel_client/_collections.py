"""Managing collections: the calls of CollectionService."""
# ruff: noqa: ASYNC109 - a timeout becomes a gRPC deadline, which asyncio.timeout could not send

from __future__ import annotations

from collections.abc import Iterable

from sentinel.search.v1 import collection_service_pb2 as collection_pb
from sentinel_client import _convert, _rpcs
from sentinel_client._calls import Calls
from sentinel_client._errors import AlreadyExists, NotFound
from sentinel_client._types import Collection, FieldSchema, ModelVersion


class CollectionCalls(Calls):
    """The part of the client that manages collections."""

    async def create_collection(
        self,
        name: str,
        fields: Iterable[FieldSchema] = (),
        *,
        model: ModelVersion | None = None,
        timeout: float | None = None,
    ) -> Collection:
        """Make an empty collection in the space of `model`; None takes the workers' model."""
        request = collection_pb.CreateCollectionRequest()
        request.collection.name = name
        request.collection.fields.extend(map(_convert.field_schema_to_proto, fields))
        if model is not None:
            request.collection.model_version.model = model.model
            request.collection.model_version.revision = model.revision
            request.collection.model_version.fingerprint = model.fingerprint
        response = await self._write(_rpcs.CREATE_COLLECTION, request, timeout)
        return _convert.collection_from_proto(response.collection)

    async def get_collection(self, name: str, *, timeout: float | None = None) -> Collection:
        """Describe one collection."""
        request = collection_pb.GetCollectionRequest(name=name)
        response = await self._read(_rpcs.GET_COLLECTION, request, timeout)
        return _convert.collection_from_proto(response.collection)

    async def get_or_create_collection(
        self, name: str, fields: Iterable[FieldSchema] = (), *, timeout: float | None = None
    ) -> Collection:
        """Describe the collection, made with `fields` if it is missing; its own are kept."""
        try:
            return await self.get_collection(name, timeout=timeout)
        except NotFound:
            pass
        try:
            return await self.create_collection(name, fields, timeout=timeout)
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
