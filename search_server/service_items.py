"""ItemService: messages in, use case, messages out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc

from search_server import wire, wire_fields
from search_server.collections import Collections
from search_server.counts import check_count
from search_server.ingest import Ingest
from search_server.paging import PageTokens, page_size
from search_server.reading import Reader
from search_server.service_ingest import IngestCalls
from search_server.store import filters
from sentinel.search.v1 import item_service_pb2 as pb
from sentinel.search.v1 import item_service_pb2_grpc as pb_grpc
from sentinel_core.calls import note_items
from sentinel_core.deadlines import Deadline
from sentinel_core.errors import InvalidArgument

_MAX_IDS = 1_000
_DEFAULT_PAGE = 100
_MAX_PAGE = 1_000

Context = grpc.aio.ServicerContext[Any, Any]


class ItemService(pb_grpc.ItemServiceServicer):
    """Writes, reads and deletes items."""

    def __init__(
        self,
        ingest: Ingest,
        collections: Collections,
        reader: Reader,
        streams: IngestCalls,
        tokens: PageTokens,
        *,
        read_timeout_s: float,
        write_timeout_s: float,
        max_items: int,
    ) -> None:
        self._ingest = ingest
        self._collections = collections
        self._reader = reader
        self._streams = streams
        self._tokens = tokens
        self._read_timeout_s = read_timeout_s
        self._write_timeout_s = write_timeout_s
        self._max_items = max_items

    async def UpsertItems(
        self, request: pb.UpsertItemsRequest, context: Context
    ) -> pb.UpsertItemsResponse:
        check_count(len(request.items), self._max_items, "items")
        deadline = Deadline.after(context.time_remaining(), default_s=self._write_timeout_s)
        info = await self._collections.get(request.collection, deadline)
        items = [wire.item_from(item, place) for place, item in enumerate(request.items)]
        outcomes = await self._ingest.upsert(info, items, deadline)
        return pb.UpsertItemsResponse(
            results=[wire.item_result_to(outcome) for outcome in outcomes]
        )

    async def IngestItems(
        self, request_iterator: AsyncIterator[pb.IngestItemsRequest], context: Context
    ) -> AsyncIterator[pb.IngestItemsResponse]:
        async for response in self._streams.serve(request_iterator, context):
            yield response

    async def GetItems(self, request: pb.GetItemsRequest, context: Context) -> pb.GetItemsResponse:
        check_count(len(request.ids), _MAX_IDS, "ids")
        deadline = Deadline.after(context.time_remaining(), default_s=self._read_timeout_s)
        info = await self._collections.get(request.collection, deadline)
        found = await self._ingest.get(
            info,
            request.ids,
            deadline,
            output_fields=request.output_fields,
            include_vectors=request.include_vectors,
            include_thumbnails=request.include_thumbnails,
        )
        there = {item.row.id for item in found}
        missing = [item_id for item_id in dict.fromkeys(request.ids) if item_id not in there]
        return pb.GetItemsResponse(
            items=[wire.item_to(item) for item in found], missing_ids=missing
        )

    async def ListItems(
        self, request: pb.ListItemsRequest, context: Context
    ) -> pb.ListItemsResponse:
        size = page_size(request.page_size, _DEFAULT_PAGE, _MAX_PAGE)
        identity = _list_identity(request)
        last_id = self._tokens.read(request.page_token, identity).decode()
        deadline = Deadline.after(context.time_remaining(), default_s=self._read_timeout_s)
        info = await self._collections.get(request.collection, deadline)
        wanted = wire_fields.filter_from(request.filter) if request.HasField("filter") else None
        items, more = await self._reader.page(
            info,
            filters.compile_filter(wanted, info.fields),
            last_id=last_id,
            size=size,
            deadline=deadline,
            output_fields=request.output_fields,
            include_vectors=request.include_vectors,
            include_thumbnails=request.include_thumbnails,
        )
        note_items(len(items))
        response = pb.ListItemsResponse(items=[wire.item_to(item) for item in items])
        if more:
            response.next_page_token = self._tokens.make(items[-1].row.id.encode(), identity)
        return response

    async def DownloadImage(
        self, request: pb.DownloadImageRequest, context: Context
    ) -> AsyncIterator[pb.DownloadImageResponse]:
        deadline = Deadline.after(context.time_remaining(), default_s=self._read_timeout_s)
        info = await self._collections.get(request.collection, deadline)
        async for chunk in self._reader.image(info, request.id, deadline):
            yield pb.DownloadImageResponse(
                data=chunk.data, media_type=chunk.media_type, total_bytes=chunk.total_bytes
            )

    async def DeleteItems(
        self, request: pb.DeleteItemsRequest, context: Context
    ) -> pb.DeleteItemsResponse:
        deadline = Deadline.after(context.time_remaining(), default_s=self._write_timeout_s)
        info = await self._collections.get(request.collection, deadline)
        match request.WhichOneof("selector"):
            case "ids":
                check_count(len(request.ids.ids), _MAX_IDS, "ids")
                expression = filters.with_ids(request.ids.ids)
            case "filter":
                expression = filters.compile_filter(
                    wire_fields.filter_from(request.filter), info.fields
                )
            case _:
                raise InvalidArgument(
                    "BATCH_EMPTY", "say what to delete: ids or a filter", field="selector"
                )
        count = await self._ingest.delete(info, expression, deadline, dry_run=request.dry_run)
        return pb.DeleteItemsResponse(deleted_count=count)


def _list_identity(request: pb.ListItemsRequest) -> bytes:
    """Return what a page token of this request belongs to: all that chooses and shapes its items.

    How many stand on a page may change from one to the next.
    """
    same = pb.ListItemsRequest()
    same.CopyFrom(request)
    same.ClearField("page_token")
    same.ClearField("page_size")
    return b"ListItems" + same.SerializeToString(deterministic=True)
