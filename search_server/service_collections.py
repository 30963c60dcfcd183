"""CollectionService: messages in, use case, messages out."""

from __future__ import annotations

from typing import Any

import grpc

from search_server import wire, wire_fields
from search_server.collections import Collections
from search_server.paging import make_token, page_size, read_token
from search_server.types import CollectionInfo
from sentinel.search.v1 import collection_service_pb2 as pb
from sentinel.search.v1 import collection_service_pb2_grpc as pb_grpc
from sentinel_core.deadlines import Deadline

_DEFAULT_PAGE = 100
_MAX_PAGE = 1_000

Context = grpc.aio.ServicerContext[Any, Any]


class CollectionService(pb_grpc.CollectionServiceServicer):
    """Creates, describes and deletes collections."""

    def __init__(self, collections: Collections, timeout_s: float) -> None:
        self._collections = collections
        self._timeout_s = timeout_s

    async def CreateCollection(
        self, request: pb.CreateCollectionRequest, context: Context
    ) -> pb.CreateCollectionResponse:
        asked = request.collection
        info = await self._collections.create(
            asked.name,
            wire_fields.schema_from(asked.fields),
            wire.model_from(asked.model_version),
            self._deadline(context),
        )
        return pb.CreateCollectionResponse(collection=wire.collection_to(info, 0))

    async def GetCollection(
        self, request: pb.GetCollectionRequest, context: Context
    ) -> pb.GetCollectionResponse:
        deadline = self._deadline(context)
        info = await self._collections.get(request.name, deadline)
        return pb.GetCollectionResponse(collection=await self._described(info, deadline))

    async def ListCollections(
        self, request: pb.ListCollectionsRequest, context: Context
    ) -> pb.ListCollectionsResponse:
        size = page_size(request.page_size, _DEFAULT_PAGE, _MAX_PAGE)
        last_name = read_token(request.page_token, b"collections")
        deadline = self._deadline(context)
        infos, more = await self._collections.list_after(last_name, size, deadline)
        response = pb.ListCollectionsResponse(
            collections=[await self._described(info, deadline) for info in infos]
        )
        if more:
            response.next_page_token = make_token(infos[-1].name, b"collections")
        return response

    async def DeleteCollection(
        self, request: pb.DeleteCollectionRequest, context: Context
    ) -> pb.DeleteCollectionResponse:
        await self._collections.delete(request.name, self._deadline(context))
        return pb.DeleteCollectionResponse()

    async def _described(self, info: CollectionInfo, deadline: Deadline) -> pb.Collection:
        return wire.collection_to(info, await self._collections.count(info, deadline))

    def _deadline(self, context: Context) -> Deadline:
        return Deadline.after(context.time_remaining(), default_s=self._timeout_s)
