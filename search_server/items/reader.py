"""Use case: walk through the items of a collection, and hand out their pictures.

What kind of file some bytes are, by the bytes alone.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from search_server.images.presentation import illustrate
from search_server.milvus.search_store import SearchStore
from search_server.types.items import StoredItem
from sentinel_core.calls import Deadline
from sentinel_core.errors import NotFound
from sentinel_core.image_formats import image_format
from sentinel_store.collections import CollectionInfo
from sentinel_store.images.image_store import ObjectStore
from sentinel_store.items import Row
from sentinel_store.milvus import schema

_CHUNK_BYTES = 1024 * 1024
# What a message needs for an item besides its strings and vector: names, tags, a presigned URL.
_ITEM_OVERHEAD_BYTES = 2_000


@dataclass(frozen=True, slots=True)
class ImageChunk:
    """A piece of a picture; the first one says what the whole is, in bytes and kind."""

    data: bytes
    media_type: str = ""
    total_bytes: int = 0


class Reader:
    """Reads items. Stateless; any number of calls run at once."""

    def __init__(self, store: SearchStore, objects: ObjectStore, *, max_page_bytes: int) -> None:
        """Remember where items are; a page ends early before it is over `max_page_bytes`."""
        self._store = store
        self._objects = objects
        self._max_page_bytes = max_page_bytes

    async def page(
        self,
        info: CollectionInfo,
        expression: str,
        *,
        last_id: str,
        size: int,
        deadline: Deadline,
        output_fields: Sequence[str] = (),
        include_vectors: bool = False,
        include_thumbnails: bool = False,
    ) -> tuple[list[StoredItem], bool]:
        """Return up to `size` items after `last_id`, by id, and whether more follow.

        Raises:
            InvalidArgument: An output field is not declared.
            Unavailable: Milvus or the object store cannot be read.
        """
        schema.check_names(output_fields, info.fields, "output_fields")
        rows = await self._store.page(
            info, expression, last_id, size + 1, deadline, include_vectors=include_vectors
        )
        items = [StoredItem(row) for row in rows[:size]]
        await illustrate(
            items,
            self._objects,
            output_fields=output_fields,
            include_thumbnails=include_thumbnails,
        )
        fitting = self._fitting(items)
        return items[:fitting], fitting < len(rows)

    def _fitting(self, items: Sequence[StoredItem]) -> int:
        """Return how many items fit in a message, at least one."""
        total = 0
        for place, item in enumerate(items):
            total += _bytes_of(item.row) + len(item.thumbnail)
            if total > self._max_page_bytes and place:
                return place
        return len(items)

    async def image(
        self, info: CollectionInfo, item_id: str, deadline: Deadline
    ) -> AsyncIterator[ImageChunk]:
        """Yield the picture of an item in pieces of at most 1 MiB, read as they are taken.

        Raises:
            NotFound: There is no such item, it is no picture, or its bytes are gone.
            Unavailable: Milvus or the object store cannot be read.
        """
        rows = await self._store.get(info, [item_id], deadline)
        if not rows:
            raise NotFound(
                "ITEM_NOT_FOUND", f"no item {item_id[:200]!r} in {info.name!r}", id=item_id
            )
        if not rows[0].image:
            raise NotFound("IMAGE_NOT_FOUND", "the item has no picture, only text or a vector")
        image = await self._objects.find_image(rows[0].image)
        if image is None:
            raise _gone()
        for start in range(0, image.size, _CHUNK_BYTES):
            end = min(start + _CHUNK_BYTES, image.size)
            data = await self._objects.read_image(image, start, end)
            if data is None:
                raise _gone()
            yield ImageChunk(data) if start else ImageChunk(data, _media_type(data), image.size)


def _bytes_of(row: Row) -> int:
    vector = row.vector.nbytes if row.vector is not None else 0
    fields = sum(len(name) + _value_bytes(value) for name, value in row.fields.items())
    return _ITEM_OVERHEAD_BYTES + 4 * len(row.text) + vector + fields


def _value_bytes(value: object) -> int:
    """Return what a field takes in a message, at most: a character is up to 4 bytes."""
    if isinstance(value, str):
        return 16 + 4 * len(value)
    if isinstance(value, list):
        return sum(_value_bytes(element) for element in value)
    return 16


def _gone() -> NotFound:
    return NotFound(
        "IMAGE_NOT_FOUND",
        "the picture is gone from the object store; delete the item and store it anew",
    )


def _media_type(head: bytes) -> str:
    known = image_format(head)
    return known.media_type if known is not None else "application/octet-stream"
