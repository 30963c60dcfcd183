"""Use case: store, read and delete items.

The order of an upsert is its safety: image bytes first, rows second, the answer last. A crash
between two steps leaves at worst image bytes that no row names; a retry finds them and goes on.
"""

from __future__ import annotations

from collections.abc import Sequence

from search_server.drafts import Draft, make_draft
from search_server.embedders.pool import EmbedderPool
from search_server.embedders.worker import EmbeddedItem
from search_server.illustrate import illustrate
from search_server.store import columns
from search_server.store.milvus import MilvusStore
from search_server.store.objects import ObjectStore
from search_server.types import (
    CollectionInfo,
    Item,
    ItemOutcome,
    Kind,
    Outcome,
    StoredItem,
)
from sentinel_core.deadlines import Deadline
from sentinel_core.errors import SentinelError
from sentinel_core.metrics import ServerMetrics


class Ingest:
    """Writes and reads items. Stateless; any number of calls run at once."""

    def __init__(
        self,
        pool: EmbedderPool,
        store: MilvusStore,
        objects: ObjectStore,
        metrics: ServerMetrics,
        *,
        max_image_bytes: int,
        thumbnail_side: int,
    ) -> None:
        self._pool = pool
        self._store = store
        self._objects = objects
        self._metrics = metrics
        self._max_image_bytes = max_image_bytes
        self._thumbnail_side = thumbnail_side

    async def upsert(
        self, info: CollectionInfo, items: Sequence[Item | SentinelError], deadline: Deadline
    ) -> list[ItemOutcome]:
        """Store a batch; return one outcome per item, in order.

        An entry that is an error already (it could not be read from the request) stays one.

        Raises:
            SentinelError: The whole batch failed and nothing of it is acknowledged; retry.
        """
        outcomes: dict[int, ItemOutcome] = {}
        drafts: dict[str, Draft] = {}
        places: dict[int, str] = {}
        for place, item in enumerate(items):
            try:
                draft = self._checked(item, info, f"items[{place}]")
            except SentinelError as error:
                item_id = item.id if isinstance(item, Item) else ""
                outcomes[place] = ItemOutcome(item_id, Outcome.FAILED, error)
                continue
            drafts[draft.row.id] = draft  # of equal ids the last one wins, for all of them
            places[place] = draft.row.id
        failed = await self._store_drafts(info, drafts, deadline) if drafts else {}
        for place, item_id in places.items():
            outcomes[place] = _outcome(drafts[item_id], failed.get(item_id))
        for outcome in outcomes.values():
            self._metrics.items.labels("upsert", _label(outcome)).inc()
        return [outcomes[place] for place in range(len(items))]

    async def _store_drafts(
        self, info: CollectionInfo, drafts: dict[str, Draft], deadline: Deadline
    ) -> dict[str, SentinelError]:
        await self._reuse_what_is_there(info, drafts, deadline)
        failed = await self._embed(info, list(drafts.values()), deadline)
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
                await self._objects.put_images(images)
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
        self, info: CollectionInfo, drafts: Sequence[Draft], deadline: Deadline
    ) -> dict[str, SentinelError]:
        """Fill in vectors and thumbnails; return the items that could not be embedded."""
        failed: dict[str, SentinelError] = {}
        waiting = [draft for draft in drafts if draft.to_embed is not None]
        if not waiting:
            return failed
        self._metrics.batch_size.labels("embed").observe(len(waiting))
        with self._metrics.stage("embed"):
            answer = await self._pool.embed(
                [draft.to_embed for draft in waiting if draft.to_embed is not None],
                fingerprint=info.model.fingerprint,
                deadline=deadline,
                bulk=True,
                thumbnail_side=self._thumbnail_side,
            )
        for draft, embedded in zip(waiting, answer.items, strict=True):
            if embedded.error is not None:
                failed[draft.row.id] = embedded.error
            else:
                _fill(draft, embedded)
        return failed

    def _checked(self, item: Item | SentinelError, info: CollectionInfo, where: str) -> Draft:
        if isinstance(item, SentinelError):
            raise item
        return make_draft(item, info, where, self._max_image_bytes)

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
        columns.check_names(output_fields, info.fields, "output_fields")
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
        if count and not dry_run:
            await self._store.delete(info, expression, deadline)
        return count


def _fill(draft: Draft, embedded: EmbeddedItem) -> None:
    draft.thumbnail = embedded.thumbnail
    if draft.vector is None:
        draft.row.vector = embedded.vector


def _outcome(draft: Draft, error: SentinelError | None) -> ItemOutcome:
    if error is not None:
        error.field = f"{draft.where}.content"
        return ItemOutcome(draft.row.id, Outcome.FAILED, error)
    outcome = Outcome.UNCHANGED if draft.unchanged else Outcome.STORED
    return ItemOutcome(draft.row.id, outcome)


def _label(outcome: ItemOutcome) -> str:
    if isinstance(outcome.error, SentinelError):
        return outcome.error.reason.lower()
    return str(outcome.outcome)
