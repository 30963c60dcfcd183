"""ItemService: convert requests, call the writer or the reader, convert the results."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing
from functools import partial

from search_server.api import common_messages, item_messages
from search_server.api.admission import GatewayAdmission
from search_server.api.common_messages import Context, stored_name
from search_server.api.confirmations import Confirmations
from search_server.api.page_tokens import PageTokens, page_size
from search_server.collections.catalog import Catalog
from search_server.embedders.pool import EmbedderPool
from search_server.items.reader import ItemReader
from search_server.items.write_stream import Ack, Advice, Batch, WriteStream
from search_server.items.writer import ItemWriter
from search_server.settings import GatewaySettings
from search_server.types.items import (
    ItemIds,
    ItemOrder,
    ItemPosition,
    Outcome,
    Projection,
    Selector,
)
from sentinel.search.v1 import item_service_pb2 as pb
from sentinel.search.v1 import item_service_pb2_grpc as pb_grpc
from sentinel_core.calls import Deadline, check_count, next_or_stop, note_items, take_share
from sentinel_core.errors import InvalidArgument, Unavailable
from sentinel_core.responses import max_response_bytes, room_for_rows
from sentinel_store.prepared_item import check_id_length

_MAX_IDS = 1_000
_DEFAULT_PAGE = 100
_MAX_PAGE = 1_000
_ID_BYTES = 3  # tag and length
_ONE_READ = {"reads": 1}
# It scans the collection, which takes about as long as to store a batch.
_ONE_DELETION = {"items": 64}


class ItemService(pb_grpc.ItemServiceServicer):
    """Writes, reads and deletes items."""

    def __init__(
        self,
        writer: ItemWriter,
        reader: ItemReader,
        catalog: Catalog,
        pool: EmbedderPool,
        tokens: PageTokens,
        *,
        admission: GatewayAdmission,
        confirmations: Confirmations,
        draining: asyncio.Event,
        settings: GatewaySettings,
    ) -> None:
        """Keep the collaborators; setting `draining` ends streams after the batches they read."""
        self._writer = writer
        self._reader = reader
        self._catalog = catalog
        self._pool = pool
        self._tokens = tokens
        self._confirmations = confirmations
        self._reads, self._writes = admission.reads, admission.writes
        self._draining = draining
        self._settings = settings

    async def UpsertItems(
        self, request: pb.UpsertItemsRequest, context: Context
    ) -> pb.UpsertItemsResponse:
        note_items(len(request.items))
        check_count(len(request.items), self._settings.max_items_per_upsert, "items")
        deadline = self._write_deadline(context)
        with self._writes.admit({"items": len(request.items)}):
            info = await self._catalog.get(stored_name(request.collection, "collection"), deadline)
            items = item_messages.items_from(request.items)
            del request  # it has all bytes once more
            outcomes = await self._writer.upsert(info, items, deadline)
        return pb.UpsertItemsResponse(
            results=[item_messages.item_result_to(outcome) for outcome in outcomes]
        )

    async def IngestItems(
        self, request_iterator: AsyncIterator[pb.IngestItemsRequest], context: Context
    ) -> AsyncIterator[pb.IngestItemsResponse]:
        collection = await self._read_start(request_iterator)
        stream = WriteStream(
            self._writer,
            self._catalog,
            self._pool,
            self._settings,
            collection=collection,
            draining=self._draining,
            time_left=context.time_remaining,
        )
        summary = pb.IngestSummary()
        async with aclosing(stream.run(self._batches(request_iterator))) as events:
            async for event in events:
                if isinstance(event, Advice):
                    yield pb.IngestItemsResponse(advice=_advice_to(event))
                    continue
                ack = _ack_to(event)
                summary.stored_count += ack.stored_count
                summary.unchanged_count += ack.unchanged_count
                summary.failed_count += len(ack.failures)
                note_items(summary.stored_count + summary.unchanged_count + summary.failed_count)
                yield pb.IngestItemsResponse(ack=ack)
        yield pb.IngestItemsResponse(summary=summary)

    async def GetItems(self, request: pb.GetItemsRequest, context: Context) -> pb.GetItemsResponse:
        note_items(len(request.ids))
        check_count(len(request.ids), _MAX_IDS, "ids")
        common_messages.check_ids(request.ids, "ids")
        projection = _projection(request)
        deadline = self._read_deadline(context)
        with self._reads.admit(_ONE_READ):
            info = await self._catalog.get(stored_name(request.collection, "collection"), deadline)
            found, unread = await self._reader.get(
                info, request.ids, deadline, projection, max_bytes=_room_beside(request.ids)
            )
        existing = {item.row.id for item in found} | set(unread)
        return pb.GetItemsResponse(
            items=[item_messages.item_to(item) for item in found],
            missing_ids=[one for one in dict.fromkeys(request.ids) if one not in existing],
            unread_ids=unread,
        )

    async def ListItems(
        self, request: pb.ListItemsRequest, context: Context
    ) -> pb.ListItemsResponse:
        size = page_size(request.page_size, _DEFAULT_PAGE, _MAX_PAGE)
        filter_ = None
        if request.HasField("filter"):
            filter_ = common_messages.filter_from(request.filter, "filter")
        projection = _projection(request)
        identity = _list_identity(request)
        collection, position = self._tokens.read_in_collection(request.page_token, identity)
        deadline = self._read_deadline(context)
        with self._reads.admit(_ONE_READ):
            if collection:
                info = await self._catalog.get_own(collection, deadline)
            else:
                name = stored_name(request.collection, "collection")
                info = await self._catalog.get(name, deadline)
            read = partial(self._reader.page, last_id=position.decode())
            if request.HasField("order"):
                read = partial(
                    self._reader.ordered_page,
                    order=ItemOrder(request.order.field, request.order.descending),
                    after=_position_from(position),
                )
            page = await read(
                info,
                filter_,
                size=size,
                max_bytes=room_for_rows(),
                deadline=deadline,
                projection=projection,
            )
        note_items(len(page.items))
        response = pb.ListItemsResponse(items=[item_messages.item_to(one) for one in page.items])
        if page.next_position is not None:
            response.next_page_token = self._tokens.make_in_collection(
                info.name, _position_to(page.next_position), identity
            )
        return response

    async def DownloadImage(
        self, request: pb.DownloadImageRequest, context: Context
    ) -> AsyncIterator[pb.DownloadImageResponse]:
        check_id_length(request.id, "id")
        deadline = self._read_deadline(context)
        with self._reads.admit(_ONE_READ) as admitted:
            info = await self._catalog.get(stored_name(request.collection, "collection"), deadline)
            async for chunk in self._reader.image(info, request.id, deadline):
                admitted.release()  # from here on the reader sets the pace
                yield pb.DownloadImageResponse(
                    data=chunk.data, media_type=chunk.media_type, total_bytes=chunk.total_bytes
                )

    async def DeleteItems(
        self, request: pb.DeleteItemsRequest, context: Context
    ) -> pb.DeleteItemsResponse:
        selector = _selector(request)
        name = stored_name(request.collection, "collection")
        deadline = self._write_deadline(context)
        with self._writes.admit(_ONE_DELETION):
            if request.dry_run:
                info = await self._catalog.get_fresh(name, deadline)
                count = await self._writer.count(info, selector, deadline)
                token = self._confirmations.make(request, info, count)
                return pb.DeleteItemsResponse(deleted_count=count, confirmation_token=token)
            # A token is for one collection. A cached description may be of one that is gone.
            find = self._catalog.get_fresh if request.confirmation_token else self._catalog.get
            info = await find(name, deadline)
            check = partial(self._confirmations.check, request, info)
            count = await self._writer.delete(info, selector, deadline, check)
        if request.HasField("filter"):
            note_items(count)
        return pb.DeleteItemsResponse(deleted_count=count)

    async def _read_start(self, messages: AsyncIterator[pb.IngestItemsRequest]) -> str:
        stop = asyncio.ensure_future(self._draining.wait())
        try:
            read = await next_or_stop(messages, stop)
        finally:
            stop.cancel()
        if read is None and self._draining.is_set():
            raise Unavailable("DRAINING", "this process is shutting down; retry on another one")
        if read is None or read[0].WhichOneof("message") != "start":
            raise _out_of_order("a stream begins with `start`")
        return stored_name(read[0].start.collection, "start.collection")

    async def _batches(
        self, messages: AsyncIterator[pb.IngestItemsRequest]
    ) -> AsyncIterator[Batch]:
        last: int | None = None
        async for message in messages:
            if message.WhichOneof("message") != "batch":
                raise _out_of_order("after `start` a stream has batches only")
            batch = message.batch
            if last is not None and batch.sequence <= last:
                raise _out_of_order(
                    f"batch {batch.sequence} came after batch {last}; sequence numbers rise"
                )
            last = batch.sequence
            check_count(len(batch.items), self._settings.max_items_per_upsert, "batch.items")
            items = item_messages.items_from(batch.items)
            yield Batch(batch.sequence, items, batch.ByteSize(), take_share())

    def _read_deadline(self, context: Context) -> Deadline:
        return Deadline.after(
            context.time_remaining(), default_s=self._settings.search_timeout_seconds
        )

    def _write_deadline(self, context: Context) -> Deadline:
        return Deadline.after(
            context.time_remaining(), default_s=self._settings.write_timeout_seconds
        )


def _projection(request: pb.GetItemsRequest | pb.ListItemsRequest) -> Projection:
    return Projection(
        common_messages.output_fields_from(request.output_fields, "output_fields"),
        request.include_vectors,
        request.include_thumbnails,
    )


def _room_beside(ids: Iterable[str]) -> int:
    """Return the bytes that items may have in a response that may name all `ids` besides."""
    return max_response_bytes() - sum(_ID_BYTES + len(one.encode()) for one in ids)


def _selector(request: pb.DeleteItemsRequest) -> Selector:
    match request.WhichOneof("selector"):
        case "ids":
            note_items(len(request.ids.ids))
            check_count(len(request.ids.ids), _MAX_IDS, "ids")
            common_messages.check_ids(request.ids.ids, "ids.ids")
            return ItemIds(tuple(request.ids.ids))
        case "filter":
            note_items(0)  # until it is known how many match
            return common_messages.filter_from(request.filter, "filter")
        case _:
            raise InvalidArgument(
                "BATCH_EMPTY", "say what to delete: ids or a filter", field="selector"
            )


def _list_identity(request: pb.ListItemsRequest) -> bytes:
    """Return what a page token is bound to: not the page size, which may change between pages."""
    same = pb.ListItemsRequest()
    same.CopyFrom(request)
    same.ClearField("page_token")
    same.ClearField("page_size")
    return b"ListItems" + same.SerializeToString(deterministic=True)


def _position_from(content: bytes) -> ItemPosition | None:
    """Read a position in the order of a field from a page token; None: the first page."""
    return ItemPosition(*json.loads(content)) if content else None


def _position_to(position: str | ItemPosition) -> bytes:
    if isinstance(position, str):
        return position.encode()
    return json.dumps([position.value, position.id]).encode()


def _out_of_order(message: str) -> InvalidArgument:
    return InvalidArgument("STREAM_INVALID", message, field="message")


def _advice_to(advice: Advice) -> pb.IngestAdvice:
    return pb.IngestAdvice(
        suggested_batch_size=advice.batch_items,
        suggested_batches_in_flight=advice.batches_in_flight,
        draining=advice.draining,
    )


def _ack_to(ack: Ack) -> pb.IngestAck:
    message = pb.IngestAck(
        sequence=ack.sequence, digests=[outcome.digest for outcome in ack.outcomes]
    )
    for position, outcome in enumerate(ack.outcomes):
        match outcome.outcome:
            case Outcome.STORED:
                message.stored_count += 1
                message.truncated_count += outcome.truncated
            case Outcome.UNCHANGED:
                message.unchanged_count += 1
            case Outcome.FAILED:
                message.failures.append(item_messages.item_result_to(outcome))
                message.failure_places.append(position)
    return message
