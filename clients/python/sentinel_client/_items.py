"""Storing, reading and deleting items: the calls of ItemService."""
# ruff: noqa: ASYNC109 - a timeout becomes a gRPC deadline, which asyncio.timeout could not send

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path

from sentinel.search.v1 import item_service_pb2 as item_pb
from sentinel_client import _convert, _rpcs
from sentinel_client._batches import cut, gather_bounded
from sentinel_client._calls import Calls
from sentinel_client._errors import Internal, InvalidArgument
from sentinel_client._filters import Filter
from sentinel_client._images import read_image
from sentinel_client._types import FoundItems, Item, ItemResult, Outcome

# What the contract takes in one request.
_MAX_IDS = 1_000
_READS_IN_FLIGHT = 4
# What an item weighs beside its image: id, fields, framing.
_ITEM_OVERHEAD_BYTES = 1_024


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
        batches = await asyncio.to_thread(lambda: list(cut(items, _size, **limits)))
        seconds = config.timeouts.upsert if timeout is None else timeout

        async def send(batch: list[Item]) -> list[ItemResult]:
            return await self._upsert_batch(batch, collection, seconds)

        results = await gather_bounded(send, batches, config.upsert_in_flight)
        return [result for batch in results for result in batch]

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

        parts = [ids[start : start + _MAX_IDS] for start in range(0, len(ids), _MAX_IDS)]
        answers = await gather_bounded(get, parts, _READS_IN_FLIGHT)
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
        for start in range(0, len(ids or ()), _MAX_IDS):
            request.ids.ids[:] = (ids or ())[start : start + _MAX_IDS]
            deleted += (await self._write(_rpcs.DELETE_ITEMS, request, timeout)).deleted_count
        return deleted

    async def _upsert_batch(
        self, batch: list[Item], collection: str, timeout: float
    ) -> list[ItemResult]:
        """Send one request; a file that cannot be read fails alone, like a bad image."""
        request = item_pb.UpsertItemsRequest(collection=collection)
        results: list[ItemResult | None] = []
        for item in batch:
            try:
                image = None if item.image is None else await read_image(item.image)
            except OSError as error:
                results.append(_unreadable(item, error))
            else:
                request.items.append(_convert.item_to_proto(item, image))
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


def _size(item: Item) -> int:
    size = _ITEM_OVERHEAD_BYTES + len(item.text or "")
    if isinstance(item.image, bytes):
        return size + len(item.image)
    if item.image is not None:
        try:
            return size + Path(item.image).stat().st_size
        except OSError:
            return size  # said when the item is sent
    return size


def _unreadable(item: Item, error: OSError) -> ItemResult:
    message = f"cannot read {item.image!s}: {error.strerror or error}"
    return ItemResult(item.id, Outcome.FAILED, InvalidArgument("FILE_UNREADABLE", message))
