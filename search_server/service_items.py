"""ItemService: messages in, use case, messages out."""

from __future__ import annotations

from typing import Any

import grpc

from search_server import wire, wire_fields
from search_server.collections import Collections
from search_server.ingest import Ingest
from search_server.store import filters
from sentinel.search.v1 import item_service_pb2 as pb
from sentinel.search.v1 import item_service_pb2_grpc as pb_grpc
from sentinel_core.calls import note_items
from sentinel_core.deadlines import Deadline
from sentinel_core.errors import InvalidArgument

_MAX_IDS = 1_000

Context = grpc.aio.ServicerContext[Any, Any]


class ItemService(pb_grpc.ItemServiceServicer):
    """Writes, reads and deletes items."""

    def __init__(
        self,
        ingest: Ingest,
        collections: Collections,
        *,
        read_timeout_s: float,
        write_timeout_s: float,
        max_items: int,
    ) -> None:
        self._ingest = ingest
        self._collections = collections
        self._read_timeout_s = read_timeout_s
        self._write_timeout_s = write_timeout_s
        self._max_items = max_items

    async def UpsertItems(
        self, request: pb.UpsertItemsRequest, context: Context
    ) -> pb.UpsertItemsResponse:
        _check_count(len(request.items), self._max_items, "items")
        deadline = Deadline.after(context.time_remaining(), default_s=self._write_timeout_s)
        info = await self._collections.get(request.collection, deadline)
        items = [wire.item_from(item, place) for place, item in enumerate(request.items)]
        outcomes = await self._ingest.upsert(info, items, deadline)
        results = [wire.item_result_to(outcome) for outcome in outcomes]
        for result, item in zip(results, request.items, strict=True):
            result.id = result.id or item.id  # of an item that could not even be read
        return pb.UpsertItemsResponse(results=results)

    async def GetItems(self, request: pb.GetItemsRequest, context: Context) -> pb.GetItemsResponse:
        _check_count(len(request.ids), _MAX_IDS, "ids")
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

    async def DeleteItems(
        self, request: pb.DeleteItemsRequest, context: Context
    ) -> pb.DeleteItemsResponse:
        deadline = Deadline.after(context.time_remaining(), default_s=self._write_timeout_s)
        info = await self._collections.get(request.collection, deadline)
        match request.WhichOneof("selector"):
            case "ids":
                _check_count(len(request.ids.ids), _MAX_IDS, "ids")
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


def _check_count(count: int, most: int, field: str) -> None:
    note_items(count)
    if count == 0:
        raise InvalidArgument("BATCH_EMPTY", f"{field} is empty", field=field)
    if count > most:
        raise InvalidArgument(
            "BATCH_TOO_LARGE",
            f"{count} {field} in one request, at most {most}; split it",
            field=field,
            limit=most,
        )
