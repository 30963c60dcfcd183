"""Use case: store, read and delete items.

The order of an upsert is its safety: image bytes first, rows second, the answer last. A crash
between two steps leaves at worst image bytes that no row names; a retry finds them and goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from search_server.embedders.pool import EmbedderPool
from search_server.embedders.worker import EmbeddedItem
from search_server.image_uris.fetcher import Fetcher, fetch_items
from search_server.images.presentation import illustrate
from search_server.items import dual_write
from search_server.items.dual_write import Mirrors, check_writable
from search_server.milvus.search_store import SearchStore
from search_server.types.items import ItemOutcome, Outcome, StoredItem, UnreadableItem
from sentinel_core.calls import Deadline
from sentinel_core.errors import NotFound, ResourceExhausted, SentinelError
from sentinel_core.metrics import ServerMetrics
from sentinel_store.collections import CollectionInfo
from sentinel_store.images.image_store import ObjectStore
from sentinel_store.items import Content, Item, Kind
from sentinel_store.milvus import schema
from sentinel_store.prepared_item import Draft, make_draft


@dataclass(slots=True)
class Checked:
    """A batch that passed the checks that need nobody else.

    Attributes:
        size: How many items the batch has.
        drafts: By id, what is to be stored; of equal ids the last one.
        places: Id by place in the batch, for those that are to be stored.
        refused: Outcome by place, for the others.
    """

    size: int
    drafts: dict[str, Draft]
    places: dict[int, str]
    refused: dict[int, ItemOutcome]


class Ingest:
    """Writes and reads items. Stateless; any number of calls run at once."""

    def __init__(
        self,
        pool: EmbedderPool,
        fetcher: Fetcher,
        store: SearchStore,
        objects: ObjectStore,
        metrics: ServerMetrics,
        *,
        mirrors: Mirrors,
        max_image_bytes: int,
        thumbnail_side: int,
    ) -> None:
        self._mirrors = mirrors
        self._pool = pool
        self._fetcher = fetcher
        self._store = store
        self._objects = objects
        self._metrics = metrics
        self._max_image_bytes = max_image_bytes
        self._thumbnail_side = thumbnail_side

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
    ) -> Checked:
        """Fetch images that are named by URI, check every item and hash its content."""
        fetched = await fetch_items(self._fetcher, items, deadline)
        return await asyncio.to_thread(self._checked, info, fetched)

    def _checked(self, info: CollectionInfo, items: Sequence[Item | UnreadableItem]) -> Checked:
        checked = Checked(len(items), {}, {}, {})
        for place, item in enumerate(items):
            if isinstance(item, UnreadableItem):
                checked.refused[place] = ItemOutcome(item.id, Outcome.FAILED, item.error)
                continue
            try:
                draft = make_draft(item, info, f"items[{place}]", self._max_image_bytes)
            except SentinelError as error:
                checked.refused[place] = ItemOutcome(item.id, Outcome.FAILED, error)
                continue
            checked.drafts[draft.row.id] = draft
            checked.places[place] = draft.row.id
        return checked

    async def store(
        self, info: CollectionInfo, checked: Checked, deadline: Deadline, *, patient: bool = False
    ) -> list[ItemOutcome]:
        """Store a checked batch; return one outcome per item, in order.

        While the collection moves to another model, an item counts as stored once it is in both.

        Args:
            info: The collection it was checked for.
            checked: The batch.
            deadline: For all of it.
            patient: Wait for workers whose queues are full instead of refusing.

        Raises:
            SentinelError: As `upsert`.
        """
        check_writable(info)
        outcomes = dict(checked.refused)
        items = dual_write.items_of(checked.drafts.values())
        failed = dual_write.refused(info, items)
        drafts = {key: draft for key, draft in checked.drafts.items() if key not in failed}
        failed |= await self._store_drafts(info, drafts, deadline, patient=patient)
        written = {info.name}
        while (other := await self._mirrors.next(info, written, deadline)) is not None:
            carried = [item for item_id, item in items.items() if item_id not in failed]
            try:
                failed |= await self._carry_over(other, carried, deadline, patient=patient)
            except NotFound:
                if not await self._mirrors.is_gone(other, deadline):
                    raise
            written.add(other.name)
        for place, item_id in checked.places.items():
            outcomes[place] = _outcome(checked.drafts[item_id], failed.get(item_id))
        for outcome in outcomes.values():
            self._metrics.items.labels("upsert", _label(outcome)).inc()
        return [outcomes[place] for place in range(checked.size)]

    async def _carry_over(
        self, other: CollectionInfo, items: Sequence[Item], deadline: Deadline, *, patient: bool
    ) -> dict[str, SentinelError]:
        """Store items in a collection of another model; return those that could not be."""
        failed = {item.id: dual_write.bare(other.name) for item in items if item.content is None}
        checked = self._checked(other, [item for item in items if item.content is not None])
        for refused in checked.refused.values():
            assert isinstance(refused.error, SentinelError)
            failed[refused.id] = refused.error
        return failed | await self._store_drafts(other, checked.drafts, deadline, patient=patient)

    async def _store_drafts(
        self,
        info: CollectionInfo,
        drafts: dict[str, Draft],
        deadline: Deadline,
        *,
        patient: bool,
    ) -> dict[str, SentinelError]:
        if not drafts:
            return {}
        await self._reuse_what_is_there(info, drafts, deadline)
        failed = await self._embed(info, list(drafts.values()), deadline, patient=patient)
        changed = [
            draft
            for item_id, draft in drafts.items()
            if item_id not in failed and not draft.unchanged
        ]
        images = [
            (draft.row.image, draft.content.data, draft.thumbnail)
            for draft in changed
            if draft.content is not None and draft.content.kind is Kind.IMAGE
        ]
        if images:
            with self._metrics.stage("object_store"):
                await self._objects.put_images(images, deadline)
        if changed:
            with self._metrics.stage("milvus_upsert"):
                await self._store.upsert(info, [draft.row for draft in changed], deadline)
        return failed

    async def _reuse_what_is_there(
        self, info: CollectionInfo, drafts: dict[str, Draft], deadline: Deadline
    ) -> None:
        """Mark what is stored already, and take over vectors of content that did not change."""
        with self._metrics.stage("milvus_lookup"):
            there = await self._store.get(info, list(drafts), deadline)
        same_content = []  # only their fields are new
        for row in there:
            draft = drafts[row.id]
            if row.digest != draft.row.digest:
                continue
            draft.unchanged = row.fields == draft.row.fields
            if not draft.unchanged:
                same_content.append(row.id)
        if not same_content:
            return
        for row in await self._store.get(info, same_content, deadline, include_vectors=True):
            draft = drafts[row.id]
            # Looked at again: another caller may have written between the two reads.
            if row.digest == draft.row.digest:
                # The image and its thumbnail were stored before the row was.
                draft.row.vector, draft.content = row.vector, None

    async def _embed(
        self, info: CollectionInfo, drafts: Sequence[Draft], deadline: Deadline, *, patient: bool
    ) -> dict[str, SentinelError]:
        """Fill in vectors and thumbnails; return the items that could not be embedded."""
        failed: dict[str, SentinelError] = {}
        waiting = [draft for draft in drafts if draft.to_embed is not None]
        if not waiting:
            return failed
        self._metrics.batch_size.labels("embed").observe(len(waiting))
        with self._metrics.stage("embed"):
            embedded = await self._embedded(
                [draft.to_embed for draft in waiting if draft.to_embed is not None],
                info.model.fingerprint,
                deadline,
                patient=patient,
            )
        for draft, one in zip(waiting, embedded, strict=True):
            if one.error is not None:
                failed[draft.row.id] = one.error
            else:
                _fill(draft, one)
        return failed

    async def _embedded(
        self, contents: Sequence[Content], fingerprint: str, deadline: Deadline, *, patient: bool
    ) -> list[EmbeddedItem]:
        while True:
            try:
                answer = await self._pool.embed(
                    contents,
                    fingerprint=fingerprint,
                    deadline=deadline,
                    bulk=True,
                    thumbnail_side=self._thumbnail_side,
                )
            except ResourceExhausted as error:
                wait_s = error.retry_after_s
                if not patient or wait_s is None or wait_s >= deadline.remaining():
                    raise
                await asyncio.sleep(wait_s)
            else:
                return answer.items

    async def get(
        self,
        info: CollectionInfo,
        ids: Sequence[str],
        deadline: Deadline,
        *,
        output_fields: Sequence[str] = (),
        include_vectors: bool = False,
        include_thumbnails: bool = False,
    ) -> list[StoredItem]:
        """Return the items that are there, in the order of `ids`, each once."""
        schema.check_names(output_fields, info.fields, "output_fields")
        rows = await self._store.get(info, ids, deadline, include_vectors=include_vectors)
        by_id = {row.id: row for row in rows}
        found = [StoredItem(by_id[item_id]) for item_id in dict.fromkeys(ids) if item_id in by_id]
        await illustrate(
            found,
            self._objects,
            output_fields=output_fields,
            include_thumbnails=include_thumbnails,
        )
        return found

    async def delete(
        self, info: CollectionInfo, expression: str, deadline: Deadline, *, dry_run: bool
    ) -> int:
        """Remove what `expression` selects; return how many items that is."""
        count = await self._store.count(info, expression, deadline)
        if dry_run:
            return count
        check_writable(info)
        if count:
            await self._store.delete(info, expression, deadline)
        written = {info.name}
        while (other := await self._mirrors.next(info, written, deadline)) is not None:
            try:
                await self._store.delete(other, expression, deadline)
            except NotFound:
                if not await self._mirrors.is_gone(other, deadline):
                    raise
            written.add(other.name)
        return count


def _fill(draft: Draft, embedded: EmbeddedItem) -> None:
    draft.thumbnail = embedded.thumbnail
    if draft.vector is None:
        draft.row.vector = embedded.vector


def _outcome(draft: Draft, error: SentinelError | None) -> ItemOutcome:
    if error is not None:
        return ItemOutcome(draft.row.id, Outcome.FAILED, error.at(f"{draft.where}.content"))
    outcome = Outcome.UNCHANGED if draft.unchanged else Outcome.STORED
    return ItemOutcome(draft.row.id, outcome)


def _label(outcome: ItemOutcome) -> str:
    if isinstance(outcome.error, SentinelError):
        return outcome.error.reason.lower()
    return str(outcome.outcome)
