"""Read items: by id, page by page, and their images."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from search_server.image_uris.originals import Originals
from search_server.images.presentation import present
from search_server.milvus import filters
from search_server.milvus.item_order import next_items
from search_server.milvus.row_memory import RowMemory
from search_server.milvus.search_store import SearchStore
from search_server.types.items import (
    ItemOrder,
    ItemPage,
    ItemPosition,
    Projection,
    StoredItem,
)
from search_server.types.message_sizes import message_bytes
from search_server.types.queries import Filter
from sentinel_core.calls import Deadline
from sentinel_core.errors import NotFound, SentinelError
from sentinel_core.image_formats import image_format
from sentinel_core.memory import MemoryBudget
from sentinel_store.collections import CollectionInfo
from sentinel_store.images.image_store import ImageStore
from sentinel_store.milvus import schema

_CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ImageChunk:
    """Part of an image; the first part has the media type and the size of the whole in bytes."""

    data: bytes
    media_type: str = ""
    total_bytes: int = 0


class ItemReader:
    """Reads items. Stateless; any number of calls run at once.

    Methods raise InvalidArgument for a filter or an output field that does not fit the collection,
    Unavailable if Milvus or the object store cannot be read, and ResourceExhausted if there is no
    memory for the rows.
    """

    def __init__(
        self,
        store: SearchStore,
        images: ImageStore,
        originals: Originals,
        row_memory: RowMemory,
        memory: MemoryBudget,
    ) -> None:
        self._store = store
        self._images = images
        self._originals = originals
        self._row_memory = row_memory
        self._memory = memory

    async def get(
        self,
        info: CollectionInfo,
        ids: Sequence[str],
        deadline: Deadline,
        projection: Projection,
        *,
        max_bytes: int,
    ) -> tuple[list[StoredItem], list[str]]:
        """Return the items that exist, in the order of `ids`, each once.

        If all of them have more than `max_bytes`, return the first ones, at least one, and the ids
        of the others.
        """
        schema.check_names(projection.output_fields, info.fields, "output_fields")
        async with self._row_memory.share(info, len(ids), deadline):
            rows = await self._store.get(
                info, ids, deadline, include_vectors=projection.include_vectors
            )
            self._row_memory.note(info, rows)
            by_id = {row.id: row for row in rows}
            found = [by_id[item_id] for item_id in dict.fromkeys(ids) if item_id in by_id]
            items = [StoredItem(row) for row in found]
            await present(items, self._images, projection)
        fitting = _fitting(items, max_bytes)
        return items[:fitting], [item.row.id for item in items[fitting:]]

    async def page(
        self,
        info: CollectionInfo,
        filter_: Filter | None,
        *,
        last_id: str,
        size: int,
        max_bytes: int,
        deadline: Deadline,
        projection: Projection,
    ) -> ItemPage:
        """Return up to `size` items after `last_id`, by id; the next page begins after an id.

        They are fewer if they have more than `max_bytes`, but at least one.
        """
        expression = filters.compile_filter(filter_, info.fields)
        schema.check_names(projection.output_fields, info.fields, "output_fields")
        async with self._row_memory.share(info, size + 1, deadline):
            rows = await self._store.page(
                info,
                expression,
                last_id,
                size + 1,
                deadline,
                include_vectors=projection.include_vectors,
            )
            self._row_memory.note(info, rows)
            items = [StoredItem(row) for row in rows[:size]]
            await present(items, self._images, projection)
        fitting = _fitting(items, max_bytes)
        return ItemPage(items[:fitting], items[fitting - 1].row.id if fitting < len(rows) else None)

    async def ordered_page(
        self,
        info: CollectionInfo,
        filter_: Filter | None,
        order: ItemOrder,
        *,
        after: ItemPosition | None,
        size: int,
        max_bytes: int,
        deadline: Deadline,
        projection: Projection,
    ) -> ItemPage:
        """Return up to `size` items after a position, in the order of a field; see `page`.

        An item that is deleted meanwhile is left out, so that there may be fewer.
        """
        expression = filters.compile_filter(filter_, info.fields)
        schema.check_names(projection.output_fields, info.fields, "output_fields")
        positions = await next_items(
            self._store,
            info,
            expression,
            order=order,
            after=after,
            count=size + 1,
            deadline=deadline,
        )
        more = len(positions) > size
        positions = positions[:size]
        ids = [position.id for position in positions]
        items, unread = await self.get(info, ids, deadline, projection, max_bytes=max_bytes)
        if unread:
            last = positions[ids.index(items[-1].row.id)]
            return ItemPage(items, last)
        return ItemPage(items, positions[-1] if more else None)

    async def image(
        self, info: CollectionInfo, item_id: str, deadline: Deadline
    ) -> AsyncIterator[ImageChunk]:
        """Yield the image of an item in parts of at most 1 MiB; each part is read on demand.

        The original of an image by reference is read at once, since no part of it may leave before
        all of it is found to be the same; the share of the memory for it waits for the caller.

        Raises:
            NotFound: The item does not exist, has no image, or its image bytes are missing.
        """
        rows = await self._store.get(info, [item_id], deadline)
        if not rows:
            raise NotFound(
                "ITEM_NOT_FOUND", f"no item {item_id[:200]!r} in {info.name!r}", id=item_id
            )
        if not rows[0].image:
            raise NotFound("IMAGE_NOT_FOUND", "the item has no image, only text or a vector")
        if rows[0].reference:
            wanted = [(rows[0].reference, rows[0].image)]
            async with self._originals.held(wanted, self._memory, deadline) as [whole]:
                if isinstance(whole, SentinelError):
                    raise whole
                for start in range(0, len(whole), _CHUNK_BYTES):
                    part = whole[start : start + _CHUNK_BYTES]
                    yield _chunk(part, start, len(whole))
            return
        image = await self._images.find_image(rows[0].image)
        if image is None:
            raise _missing()
        for start in range(0, image.size, _CHUNK_BYTES):
            end = min(start + _CHUNK_BYTES, image.size)
            data = await self._images.read_image(image, start, end)
            if data is None:
                raise _missing()
            yield _chunk(data, start, image.size)


def _fitting(items: Sequence[StoredItem], max_bytes: int) -> int:
    """Return how many of the items have `max_bytes` together, at least one."""
    total = 0
    for position, item in enumerate(items):
        total += message_bytes(item)
        if total > max_bytes and position:
            return position
    return len(items)


def _chunk(data: bytes, start: int, total: int) -> ImageChunk:
    return ImageChunk(data) if start else ImageChunk(data, _media_type(data), total)


def _missing() -> NotFound:
    return NotFound(
        "IMAGE_NOT_FOUND",
        "the image bytes are missing in the object store; delete the item and store it again",
    )


def _media_type(head: bytes) -> str:
    known = image_format(head)
    return known.media_type if known is not None else "application/octet-stream"
