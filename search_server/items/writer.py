"""Store and delete items.

The order of the steps makes an upsert safe: image bytes first, rows second, the answer last. After
a crash between two steps there may be image bytes that no row names; a retry uses them.
Of an image that is stored by reference, only the thumbnail is stored; the row has its location.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from search_server.collections.usage import StoredUsage
from search_server.image_uris.fetcher import Fetcher
from search_server.items.dual_write import DualWrite, check_writable, vector_only_error
from search_server.items.item_embedder import ItemEmbedder
from search_server.milvus import filters
from search_server.milvus.search_store import SearchStore
from search_server.types.embeddings import placed
from search_server.types.items import ItemOutcome, Outcome, Selector, UnreadableItem
from sentinel_core.calls import Deadline
from sentinel_core.errors import InvalidArgument, SentinelError
from sentinel_core.metrics import ServerMetrics
from sentinel_store.collections import CollectionInfo, keeps_vectors
from sentinel_store.images.image_store import ImageStore
from sentinel_store.items import Item, Row
from sentinel_store.prepared_item import PreparedItem, prepare_item
from sentinel_store.values import FloatArray


@dataclass(frozen=True, slots=True)
class PreparedBatch:
    """A batch whose items were fetched and checked; nothing is looked up or embedded yet.

    Attributes:
        size: How many items the batch has.
        items: The items to store, by id; the last of equal ids.
        ids: The id of each item to store, by its position in the batch.
        failed: The errors of the other items, by position, each with the item's id.
    """

    size: int
    items: dict[str, PreparedItem]
    ids: dict[int, str]
    failed: dict[int, UnreadableItem]


@dataclass(frozen=True, slots=True)
class _StoredBefore:
    """What Milvus already has of a batch.

    Attributes:
        ids: Of items that are stored, whatever their content.
        unchanged: Ids of items that are stored exactly as they are.
        vectors: By id, the vectors of items whose content is stored, but with other fields, or by
            another reference.
        moved: Ids of those among `vectors` whose image has another reference, or none any more.
    """

    ids: frozenset[str] = frozenset()
    unchanged: frozenset[str] = frozenset()
    vectors: Mapping[str, FloatArray | None] = field(default_factory=dict)
    moved: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class _Written:
    """What happened to a batch in one collection: ids of items, and errors by id.

    Attributes:
        truncated: Of texts of which the model read only the beginning.
    """

    unchanged: frozenset[str] = frozenset()
    truncated: frozenset[str] = frozenset()
    failed: dict[str, SentinelError] = field(default_factory=dict)


class ItemWriter:
    """Writes and deletes items. Stateless; any number of calls run at once."""

    def __init__(
        self,
        embedder: ItemEmbedder,
        fetcher: Fetcher,
        store: SearchStore,
        images: ImageStore,
        metrics: ServerMetrics,
        *,
        dual_write: DualWrite,
        usage: StoredUsage,
        on_write: Callable[[CollectionInfo], None],
        max_image_bytes: int,
    ) -> None:
        self._embedder = embedder
        self._fetcher = fetcher
        self._store = store
        self._images = images
        self._metrics = metrics
        self._dual_write = dual_write
        self._usage = usage
        self._on_write = on_write
        self._max_image_bytes = max_image_bytes

    async def upsert(
        self, info: CollectionInfo, items: Sequence[Item | UnreadableItem], deadline: Deadline
    ) -> list[ItemOutcome]:
        """Store a batch; return one outcome per item, in order.

        Raises:
            SentinelError: The whole batch failed and nothing of it is acknowledged; retry.
        """
        return await self.store(info, await self.prepare(info, items, deadline), deadline)

    async def prepare(
        self, info: CollectionInfo, items: Sequence[Item | UnreadableItem], deadline: Deadline
    ) -> PreparedBatch:
        """Fetch images that are named by URI, check every item and hash its content.

        Images that are stored by reference are not read yet.
        """
        fetched = await self._fetcher.fetch_items(items, deadline)
        return await asyncio.to_thread(self._prepared, info, fetched)

    def _prepared(
        self, info: CollectionInfo, items: Sequence[Item | UnreadableItem]
    ) -> PreparedBatch:
        batch = PreparedBatch(len(items), {}, {}, {})
        for position, item in enumerate(items):
            if isinstance(item, UnreadableItem):
                batch.failed[position] = item
                continue
            try:
                prepared = prepare_item(
                    item, info, f"items[{position}]", max_image_bytes=self._max_image_bytes
                )
            except SentinelError as error:
                batch.failed[position] = UnreadableItem(item.id, error)
                continue
            batch.items[prepared.id] = prepared
            batch.ids[position] = prepared.id
        return batch

    async def store(
        self,
        info: CollectionInfo,
        batch: PreparedBatch,
        deadline: Deadline,
        *,
        retry_full_queues: bool = False,
    ) -> list[ItemOutcome]:
        """Store a prepared batch; return one outcome per item, in order. Errors as `upsert`.

        During a reindex, an item counts as stored once it is in both collections. With
        `retry_full_queues` it waits for workers whose queues are full instead of failing.
        """
        check_writable(info)
        failed: dict[str, SentinelError] = {}
        if target := await self._dual_write.next_target(info, {info.name}, deadline):
            failed = _vector_only_errors(info, target, batch.items)
        items = {key: item for key, item in batch.items.items() if key not in failed}
        written = await self._write(info, items, deadline, retry_full_queues)
        failed |= written.failed
        batch.items.update(items)
        reached = {info.name}
        # During a reindex, also write to the target.
        while target := await self._dual_write.next_target(info, reached, deadline):
            items = {key: item for key, item in batch.items.items() if key not in failed}
            async with self._dual_write.unless_deleted(target, deadline):
                failed |= await self._write_to_other(
                    info, target, items, deadline, retry_full_queues
                )
            reached.add(target.name)
        outcomes = {
            position: ItemOutcome(item.id, Outcome.FAILED, item.error)
            for position, item in batch.failed.items()
        }
        for position, item_id in batch.ids.items():
            error, item = failed.get(item_id), batch.items[item_id]
            if error is not None:
                outcomes[position] = ItemOutcome(item_id, Outcome.FAILED, _placed(error, item))
            else:
                kind = Outcome.UNCHANGED if item_id in written.unchanged else Outcome.STORED
                outcomes[position] = ItemOutcome(
                    item_id, kind, digest=item.digest, truncated=item_id in written.truncated
                )
        for outcome in outcomes.values():
            label = outcome.error.reason.lower() if outcome.error else str(outcome.outcome)
            self._metrics.items.labels("upsert", label).inc()
        return [outcomes[position] for position in range(batch.size)]

    async def _write_to_other(
        self,
        info: CollectionInfo,
        other: CollectionInfo,
        items: Mapping[str, PreparedItem],
        deadline: Deadline,
        retry_full_queues: bool,
    ) -> dict[str, SentinelError]:
        """Store items of `info` in the other collection of a reindex; return the errors by id."""
        # The one that the alias has left may lack fields.
        kept = {
            item_id: replace(
                item, fields={k: v for k, v in item.fields.items() if k in other.fields}
            )
            for item_id, item in items.items()
        }
        if keeps_vectors(info, other):
            return (await self._write(other, kept, deadline, retry_full_queues)).failed
        failed = _vector_only_errors(info, other, kept)
        # Without the callers' vectors, which belong to the other model.
        contents = [
            Item(item_id, item.content, fields=item.fields)
            for item_id, item in kept.items()
            if item.content is not None
        ]
        batch = self._prepared(other, contents)
        failed |= {item.id: item.error for item in batch.failed.values()}
        prepared = {
            item_id: replace(item, has_copy=items[item_id].has_copy)
            for item_id, item in batch.items.items()
        }
        written = await self._write(other, prepared, deadline, retry_full_queues)
        return failed | written.failed

    async def _write(
        self,
        info: CollectionInfo,
        items: dict[str, PreparedItem],
        deadline: Deadline,
        retry_full_queues: bool,
    ) -> _Written:
        """Write prepared items to one collection: look up, embed, store images, store rows.

        In `items` it marks those by reference of whose image there is a copy already.
        """
        if not items:
            return _Written()
        before = await self._stored_before(info, items, deadline)
        new = [
            item
            for item_id, item in items.items()
            if item_id not in before.unchanged and item_id not in before.vectors
        ]
        moved = [items[item_id] for item_id in before.moved]
        copied = [item for item in moved if not item.reference]
        async with self._usage.adding(info, [*new, *copied], before.ids, deadline) as refused:
            new = [item for item in new if item.id not in refused]
            failed = refused | await self._embedder.check_originals(moved, deadline)
            embedded = await self._embedder.embed(
                info, new, deadline, retry_full_queues=retry_full_queues
            )
            known = {one: vector for one, vector in before.vectors.items() if one not in failed}
            rows = [items[item_id].row(vector) for item_id, vector in known.items()]
            # Their thumbnails are stored.
            images = [_files(item, b"") for item in copied if item.id not in failed]
            for item in new:
                result = embedded.get(item.id)
                if result is not None and result.error is not None:
                    failed[item.id] = result.error
                    continue
                rows.append(item.row(result.vector if result is not None else None))
                if result is not None and item.image:
                    images.append(_files(item, result.thumbnail))
            await self._store_rows(info, rows, images, deadline)
        truncated = frozenset(key for key, result in embedded.items() if result.truncated)
        return _Written(before.unchanged, truncated, failed)

    async def _store_rows(
        self,
        info: CollectionInfo,
        rows: Sequence[Row],
        images: Sequence[tuple[str, bytes, bytes]],
        deadline: Deadline,
    ) -> None:
        if images:
            with self._metrics.stage("object_store"):
                await self._images.put_images(images, deadline)
        if rows:
            with self._metrics.stage("milvus_upsert"):
                await self._store.upsert(info, rows, deadline)
            self._on_write(info)

    async def _stored_before(
        self, info: CollectionInfo, items: dict[str, PreparedItem], deadline: Deadline
    ) -> _StoredBefore:
        with self._metrics.stage("milvus_lookup"):
            rows = await self._store.get(info, list(items), deadline)
        items.update(_keeping_copies(rows, items))
        ids = frozenset(row.id for row in rows)
        same_content = [row for row in rows if row.digest == items[row.id].digest]
        unchanged = frozenset(row.id for row in same_content if _is_equal(row, items[row.id]))
        changed = [row.id for row in same_content if row.id not in unchanged]
        if not changed:
            return _StoredBefore(ids, unchanged)
        rows = await self._store.get(info, changed, deadline, include_vectors=True)
        # Compare again: another caller may have written between the two reads.
        same_content = [row for row in rows if row.digest == items[row.id].digest]
        vectors = {row.id: row.vector for row in same_content}
        moved = {row.id for row in same_content if row.reference != items[row.id].reference}
        return _StoredBefore(ids, unchanged, vectors, frozenset(moved))

    async def count(self, info: CollectionInfo, selector: Selector, deadline: Deadline) -> int:
        """Return how many items are selected."""
        expression = filters.compile_selector(selector, info.fields)
        return await self._store.count(info, expression, deadline)

    async def delete(
        self,
        info: CollectionInfo,
        selector: Selector,
        deadline: Deadline,
        check: Callable[[int], None],
    ) -> int:
        """Delete the selected items; return how many there are.

        `check` gets their number before any is deleted, and may raise. Items that are written
        between the two are deleted, too.
        """
        count = await self.count(info, selector, deadline)
        check(count)
        check_writable(info)
        expression = filters.compile_selector(selector, info.fields)
        if count:
            await self._store.delete(info, expression, deadline)
            self._on_write(info)
        reached = {info.name}
        # During a reindex, also delete from the target.
        while target := await self._dual_write.next_target(info, reached, deadline):
            async with self._dual_write.unless_deleted(target, deadline):
                await self._delete_from_other(target, selector, deadline)
            reached.add(target.name)
        return count

    async def _delete_from_other(
        self, other: CollectionInfo, selector: Selector, deadline: Deadline
    ) -> None:
        try:
            expression = filters.compile_selector(selector, other.fields)
        except InvalidArgument:
            # The one that the alias has left lacks the field. In a moment nobody reads it.
            return
        await self._store.delete(other, expression, deadline)


def _is_equal(row: Row, item: PreparedItem) -> bool:
    """Return whether storing an item whose content a row has would change nothing."""
    return (row.fields, row.reference) == (item.fields, item.reference)


def _keeping_copies(
    rows: Sequence[Row], items: Mapping[str, PreparedItem]
) -> dict[str, PreparedItem]:
    """Return the items by reference of whose image a row has a copy, marked so that it stays."""
    found = ((row, items[row.id]) for row in rows)
    return {
        row.id: replace(item, has_copy=True)
        for row, item in found
        if item.original and not row.reference and row.image == item.image
    }


def _files(item: PreparedItem, thumbnail: bytes) -> tuple[str, bytes, bytes]:
    """Return the digest of an item's image, and what to store of the image and its thumbnail."""
    data = b"" if item.content is None or item.original else item.content.data
    return item.image, data, thumbnail


def _placed(error: SentinelError, item: PreparedItem) -> SentinelError:
    """Return an item's error with the path in the request."""
    if error.field is not None:  # of this item in another batch, for the target of a reindex
        return error.at(f"{item.path}{error.field.partition(']')[2]}")
    if item.content is None:
        return error.at(f"{item.path}.content")
    return placed(error, f"{item.path}.content", item.content)


def _vector_only_errors(
    info: CollectionInfo, other: CollectionInfo, items: Mapping[str, PreparedItem]
) -> dict[str, SentinelError]:
    """Return the errors of items that a reindex cannot embed for the other collection, by id."""
    if keeps_vectors(info, other):
        return {}
    return {
        item_id: vector_only_error(other.name)
        for item_id, item in items.items()
        if item.content is None
    }
