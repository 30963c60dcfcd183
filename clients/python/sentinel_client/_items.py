"""The calls of ItemService: store, read, download and delete items."""
# ruff: noqa: ASYNC109 - a timeout becomes a gRPC deadline, which asyncio.timeout could not send

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

from sentinel.search.v1 import item_service_pb2 as item_pb
from sentinel_client import _field_messages, _messages, _rpcs
from sentinel_client._connection import ServiceCalls
from sentinel_client._errors import Internal, ResultTruncated, SentinelError
from sentinel_client._filters import Filter
from sentinel_client._ingest import IngestJob
from sentinel_client._processes import in_thread
from sentinel_client._requests import (
    estimate_bytes,
    gather_bounded,
    item_message,
    max_item_bytes,
    split,
)
from sentinel_client._types import (
    DownloadedImage,
    FoundItems,
    IngestAck,
    Item,
    ItemPage,
    ItemResult,
    Outcome,
)

# The contract's limit for one request.
_MAX_IDS = 1_000
_READS_IN_FLIGHT = 4


class ItemCalls(ServiceCalls):
    """The part of the client that stores, reads and deletes items."""

    async def upsert(
        self, items: Iterable[Item], *, collection: str, timeout: float | None = None
    ) -> list[ItemResult]:
        """Store items; return one result for each, in order.

        Items are sent in requests of a bounded size, several in flight, each with its own
        `timeout`. One bad item fails alone: check its `outcome`. If a request fails, the call
        raises, but other requests may be stored. Repeating the whole call is safe.
        """
        config = self._config
        limits = {"max_items": config.upsert_max_items, "max_bytes": config.upsert_max_bytes}
        batches = await in_thread(lambda: list(split(items, estimate_bytes, **limits)))

        async def send(batch: list[Item]) -> list[ItemResult]:
            return await self._upsert_batch(batch, collection, timeout)

        results = await gather_bounded(send, batches, config.upsert_in_flight)
        return [result for batch in results for result in batch]

    async def ingest(
        self,
        items: Iterable[Item] | AsyncIterable[Item],
        *,
        collection: str,
        timeout: float | None = None,
    ) -> AsyncGenerator[IngestAck, None]:
        """Store any number of items over one stream; yield their results in batches.

            for ack in client.ingest(pictures(), collection="photos"):
                for item, error in ack.failed_items:
                    print(item.image, error)

        The server limits how much it accepts at once, and `items` is read no faster, so it may be
        an endless generator. A plain iterable is read in a worker thread. A batch is sent when it
        is full or `items` ends. The client reconnects to a lost or draining gateway and sends
        again what was not acknowledged; this does not change stored items. It also retries items
        that fail for a temporary reason, and yields them in a later batch. Closing the iterator
        ends the call; what was yielded stays stored.

        Args:
            items: What to store. If it raises an error, this call raises it after the results of
                all items before it.
            collection: Where to store them.
            timeout: Most seconds to wait for the next acknowledgement; the default is that of
                `upsert`. The whole call has no time limit.

        Raises:
            SentinelError: The stream failed and retries did not help. Items without an
                acknowledgement may or may not be stored. Repeating the whole call is safe.
        """
        seconds = self._connection.timeout(_rpcs.INGEST_ITEMS, timeout)
        job = IngestJob(self._connection, self._config, collection, ack_timeout=seconds)
        async with aclosing(job.run(items)) as acks:
            async for ack in acks:
                yield ack

    async def list_items(
        self,
        *,
        collection: str,
        filter: Filter | None = None,
        output_fields: Sequence[str] = (),
        include_vectors: bool = False,
        include_thumbnails: bool = False,
        page_size: int = 100,
        order_by: str = "",
        descending: bool = False,
        timeout: float | None = None,
    ) -> AsyncGenerator[Item, None]:
        """Yield all items or those that match, sorted by id; without image bytes.

        They are read in pages of `page_size`, at most 1,000, each with its own `timeout`. With
        `order_by`, the name of a field of times or numbers, they are sorted by it, and
        `descending` yields the largest or latest first; items without the field come last.
        """
        token = ""
        while True:
            page = await self.list_page(
                collection=collection,
                filter=filter,
                order_by=order_by,
                descending=descending,
                output_fields=output_fields,
                include_vectors=include_vectors,
                include_thumbnails=include_thumbnails,
                page_size=page_size,
                page_token=token,
                timeout=timeout,
            )
            for item in page:
                yield item
            if not page.next_page_token:
                return
            token = page.next_page_token

    async def list_page(
        self,
        *,
        collection: str,
        filter: Filter | None = None,
        order_by: str = "",
        descending: bool = False,
        output_fields: Sequence[str] = (),
        include_vectors: bool = False,
        include_thumbnails: bool = False,
        page_size: int = 100,
        page_token: str = "",
        timeout: float | None = None,
    ) -> ItemPage:
        """Return one page of `list_items`; pass its `next_page_token` to get the next."""
        if descending and not order_by:
            raise ValueError("descending needs order_by, the field to sort by")
        request = item_pb.ListItemsRequest(
            collection=collection,
            page_size=page_size,
            page_token=page_token,
            filter=None if filter is None else _field_messages.filter_to_proto(filter),
            output_fields=output_fields,
            include_vectors=include_vectors,
            include_thumbnails=include_thumbnails,
            order=item_pb.ItemOrder(field=order_by, descending=descending) if order_by else None,
        )
        response = await self._connection.unary(_rpcs.LIST_ITEMS, request, timeout)
        items = tuple(map(_messages.item_from_proto, response.items))
        return ItemPage(items, response.next_page_token)

    async def download_image(
        self, item_id: str, *, collection: str, timeout: float | None = None
    ) -> DownloadedImage:
        """Return the stored image of an item.

        Raises:
            NotFound: The item does not exist, or has no image.
            ResultTruncated: The stream ended early.
        """
        request = item_pb.DownloadImageRequest(collection=collection, id=item_id)
        stream = self._connection.stream(_rpcs.DOWNLOAD_IMAGE, request, timeout)
        media_type, total, data = "", 0, bytearray()
        async with aclosing(stream):
            async for message in stream:
                if message.media_type:
                    media_type, total = message.media_type, message.total_bytes
                data += message.data
        if not data or len(data) != total:
            raise ResultTruncated(
                "RESULT_TRUNCATED", f"received {len(data)} of {total} bytes; download it again"
            )
        return DownloadedImage(bytes(data), media_type)

    async def get_items(
        self,
        ids: Sequence[str],
        *,
        collection: str,
        output_fields: Sequence[str] = (),
        include_vectors: bool = False,
        include_thumbnails: bool = False,
        timeout: float | None = None,
    ) -> FoundItems:
        """Return the items with these ids, any number of them; without image bytes.

        They are read in several requests if they are many or large, each with its own `timeout`.
        """

        async def get(part: Sequence[str]) -> list[item_pb.GetItemsResponse]:
            responses = []
            while part:
                request = item_pb.GetItemsRequest(
                    collection=collection,
                    ids=part,
                    output_fields=output_fields,
                    include_vectors=include_vectors,
                    include_thumbnails=include_thumbnails,
                )
                response = await self._connection.unary(_rpcs.GET_ITEMS, request, timeout)
                responses.append(response)
                part = response.unread_ids  # not all items fit into one message
            return responses

        parts = await gather_bounded(get, _pages_of(ids), _READS_IN_FLIGHT)
        answers = [answer for part in parts for answer in part]
        return FoundItems(
            tuple(_messages.item_from_proto(item) for answer in answers for item in answer.items),
            tuple(missing for answer in answers for missing in answer.missing_ids),
        )

    async def delete_items(
        self,
        ids: Sequence[str] | None = None,
        *,
        collection: str,
        filter: Filter | None = None,
        dry_run: bool = False,
        confirmation_token: str = "",
        timeout: float | None = None,
    ) -> int:
        """Delete items by ids (any number) or by filter; return how many existed.

        Args:
            ids: The items to delete.
            collection: A collection, or an alias.
            filter: Delete all items that match.
            dry_run: Only count them.
            confirmation_token: With a filter: that of `preview_deletion`. A gateway in protected
                mode needs it to delete many items. If it is given, the call fails once the preview
                is no longer true.
            timeout: Seconds for each request: for each 1,000 ids, or for the filter.

        Raises:
            TypeError: Not exactly one of `ids` and `filter` is given, or a token without a filter.
            FailedPrecondition: CONFIRMATION_NEEDED or CONFIRMATION_OUTDATED: look at a new preview.
        """
        if (ids is None) == (filter is None):
            raise TypeError("give exactly one of ids and filter")
        if confirmation_token and filter is None:
            raise TypeError("a confirmation token goes with a filter; ids need none")
        selections: list[dict[str, Any]] = [
            {"ids": item_pb.ItemIds(ids=part)} for part in _pages_of(ids or ())
        ]
        if filter is not None:
            selections = [{"filter": _field_messages.filter_to_proto(filter)}]
        deleted = 0
        for selection in selections:
            request = item_pb.DeleteItemsRequest(
                collection=collection,
                dry_run=dry_run,
                confirmation_token=confirmation_token,
                **selection,
            )
            response = await self._connection.unary(_rpcs.DELETE_ITEMS, request, timeout)
            deleted += response.deleted_count
        return deleted

    async def _upsert_batch(
        self, batch: list[Item], collection: str, timeout: float | None
    ) -> list[ItemResult]:
        """Send one request; a file that cannot be read fails alone, like a bad image."""
        max_bytes = max_item_bytes(self._config)
        request = item_pb.UpsertItemsRequest(collection=collection)
        results: list[ItemResult | None] = []
        for item in batch:
            message = await in_thread(partial(item_message, item, max_bytes))
            if isinstance(message, SentinelError):
                results.append(ItemResult(item.id, Outcome.FAILED, message))
            else:
                request.items.append(message)
                results.append(None)
        if request.items:
            response = await self._connection.unary(_rpcs.UPSERT_ITEMS, request, timeout)
            if len(response.results) != len(request.items):
                raise Internal(
                    "INTERNAL",
                    f"{len(response.results)} results for {len(request.items)} items",
                )
            answers = map(_messages.item_result_from_proto, response.results)
            return [next(answers) if result is None else result for result in results]
        return [result for result in results if result is not None]


def _pages_of(ids: Sequence[str]) -> list[Sequence[str]]:
    return [ids[start : start + _MAX_IDS] for start in range(0, len(ids), _MAX_IDS)]
