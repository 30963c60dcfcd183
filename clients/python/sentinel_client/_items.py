"""Storing, reading and deleting items: the calls of ItemService."""
# ruff: noqa: ASYNC109 - a timeout becomes a gRPC deadline, which asyncio.timeout could not send

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Sequence
from contextlib import aclosing

from sentinel.search.v1 import item_service_pb2 as item_pb
from sentinel_client import _convert, _rpcs
from sentinel_client._batches import cut, gather_bounded
from sentinel_client._calls import Calls
from sentinel_client._errors import Internal, ResultTruncated, SentinelError
from sentinel_client._filters import Filter
from sentinel_client._ingest import IngestJob
from sentinel_client._outgoing import largest_item, message_or_failure, size_of
from sentinel_client._types import (
    DownloadedImage,
    FoundItems,
    IngestAck,
    Item,
    ItemResult,
    Outcome,
)

# What the contract takes in one request.
_MAX_IDS = 1_000
_READS_IN_FLIGHT = 4


class ItemCalls(Calls):
    """The part of the client that stores, reads and deletes items."""

    async def upsert(
        self, items: Iterable[Item], *, collection: str, timeout: float | None = None
    ) -> list[ItemResult]:
        """Store items; return one result for each, in order.

        Items are sent in requests of a bounded size, several in flight, each with its own
        `timeout`. One bad item fails alone: look at `outcome`. When a request fails the call
        raises, although other requests may be stored; repeating the whole call is safe.
        """
        config = self._config
        limits = {"max_items": config.upsert_max_items, "max_bytes": config.upsert_max_bytes}
        batches = await asyncio.to_thread(lambda: list(cut(items, size_of, **limits)))
        seconds = config.timeouts.upsert if timeout is None else timeout

        async def send(batch: list[Item]) -> list[ItemResult]:
            return await self._upsert_batch(batch, collection, seconds)

        results = await gather_bounded(send, batches, config.upsert_in_flight)
        return [result for batch in results for result in batch]

    async def ingest(
        self,
        items: Iterable[Item] | AsyncIterable[Item],
        *,
        collection: str,
        timeout: float | None = None,
    ) -> AsyncGenerator[IngestAck, None]:
        """Store any number of items over one stream; yield what became of them, run by run.

            for ack in client.ingest(pictures(), collection="photos"):
                for item, error in ack.failed_items:
                    print(item.image, error)

        The server says how much it takes at once, and `items` is read no faster: a generator may
        go on for ever. A plain iterable is read in a worker thread. A batch leaves when it is full
        or `items` ends. A lost or draining gateway is reconnected to, and what it had not
        acknowledged is sent again, which changes nothing that is stored; an item that fails for a
        passing reason is, too, and comes in a later run then. Closing the iterator ends the call;
        what was yielded stays stored.

        Args:
            items: What to store. An error that it raises is raised here after everything before
                it is decided.
            collection: Where.
            timeout: Most seconds to wait for the next acknowledgement; None takes that of an
                `upsert`. The whole has no time limit.

        Raises:
            SentinelError: The stream failed for good. Items without an acknowledgement may or may
                not be stored; calling again with all of them is safe.
        """
        seconds = self._config.timeouts.upsert if timeout is None else timeout
        job = IngestJob(self._connection, self._config, collection, patience=seconds)
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
        timeout: float | None = None,
    ) -> AsyncGenerator[Item, None]:
        """Yield all items, or those that match, by id; image bytes are not sent.

        They are read by pages of `page_size`, at most 1,000, each with its own `timeout`.
        """
        request = item_pb.ListItemsRequest(
            collection=collection,
            page_size=page_size,
            filter=None if filter is None else _convert.filter_to_proto(filter),
            output_fields=output_fields,
            include_vectors=include_vectors,
            include_thumbnails=include_thumbnails,
        )
        while True:
            response = await self._read(_rpcs.LIST_ITEMS, request, timeout)
            for item in response.items:
                yield _convert.item_from_proto(item)
            if not response.next_page_token:
                return
            request.page_token = response.next_page_token

    async def download_image(
        self, item_id: str, *, collection: str, timeout: float | None = None
    ) -> DownloadedImage:
        """Return the stored picture of an item.

        Raises:
            NotFound: There is no such item, or it has no picture.
            ResultTruncated: The stream broke off.
        """
        seconds = self._config.timeouts.read if timeout is None else timeout
        request = item_pb.DownloadImageRequest(collection=collection, id=item_id)
        stream = self._connection.stream(_rpcs.DOWNLOAD_IMAGE, request, seconds)
        media_type, total, data = "", 0, bytearray()
        async with aclosing(stream):
            async for message in stream:
                if message.media_type:
                    media_type, total = message.media_type, message.total_bytes
                data += message.data
        if not data or len(data) != total:
            raise ResultTruncated(
                "RESULT_TRUNCATED", f"{len(data)} of {total} bytes came; download it again"
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
        """Return the items of these ids, any number of them; image bytes are not sent."""

        async def get(part: Sequence[str]) -> item_pb.GetItemsResponse:
            request = item_pb.GetItemsRequest(
                collection=collection,
                ids=part,
                output_fields=output_fields,
                include_vectors=include_vectors,
                include_thumbnails=include_thumbnails,
            )
            return await self._read(_rpcs.GET_ITEMS, request, timeout)

        answers = await gather_bounded(get, _pages_of(ids), _READS_IN_FLIGHT)
        return FoundItems(
            tuple(_convert.item_from_proto(item) for answer in answers for item in answer.items),
            tuple(missing for answer in answers for missing in answer.missing_ids),
        )

    async def delete_items(
        self,
        ids: Sequence[str] | None = None,
        *,
        collection: str,
        filter: Filter | None = None,
        dry_run: bool = False,
        timeout: float | None = None,
    ) -> int:
        """Remove items by ids (any number) or by filter; return how many there were.

        Raises:
            TypeError: Not exactly one of `ids` and `filter` is given; never "all".
        """
        if (ids is None) == (filter is None):
            raise TypeError("give exactly one of ids and filter")
        request = item_pb.DeleteItemsRequest(collection=collection, dry_run=dry_run)
        if filter is not None:
            request.filter.CopyFrom(_convert.filter_to_proto(filter))
            return int((await self._write(_rpcs.DELETE_ITEMS, request, timeout)).deleted_count)
        deleted = 0
        for part in _pages_of(ids or ()):
            request.ids.ids[:] = part
            deleted += (await self._write(_rpcs.DELETE_ITEMS, request, timeout)).deleted_count
        return deleted

    async def _upsert_batch(
        self, batch: list[Item], collection: str, timeout: float
    ) -> list[ItemResult]:
        """Send one request; a file that cannot be read fails alone, like a bad image."""
        most = largest_item(self._config)
        request = item_pb.UpsertItemsRequest(collection=collection)
        results: list[ItemResult | None] = []
        for item in batch:
            message = await asyncio.to_thread(message_or_failure, item, most)
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
            answers = map(_convert.item_result_from_proto, response.results)
            return [next(answers) if result is None else result for result in results]
        return [result for result in results if result is not None]


def _pages_of(ids: Sequence[str]) -> list[Sequence[str]]:
    return [ids[start : start + _MAX_IDS] for start in range(0, len(ids), _MAX_IDS)]
