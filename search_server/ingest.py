"""Use case: store, read and delete items.

The order of an upsert is its safety: image bytes first, rows second, the answer last. A crash
between two steps leaves at worst image bytes that no row names; a retry finds them and goes on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from search_server.embedders.pool import EmbedderPool
from search_server.embedders.worker import EmbeddedItem
from search_server.store import columns
from search_server.store.milvus import MilvusStore
from search_server.store.objects import ObjectStore
from search_server.types import (
    CollectionInfo,
    Content,
    FloatArray,
    Item,
    ItemOutcome,
    Kind,
    Outcome,
    Row,
    StoredItem,
)
from search_server.vectors import check_vector
from sentinel_core.deadlines import Deadline
from sentinel_core.errors import InvalidArgument, SentinelError
from sentinel_core.metrics import ServerMetrics

MAX_ID_BYTES = 256
MAX_TEXT_BYTES = 60_000
MAX_FIELDS_BYTES = 60_000


@dataclass(slots=True)
class _Draft:
    """An item that passed its checks, on its way to becoming a row."""

    row: Row
    content: Content | None
    vector: FloatArray | None
    thumbnail: bytes = b""
    unchanged: bool = False

    @property
    def to_embed(self) -> Content | None:
        """What a worker has to see: content without a vector, and any image for its thumbnail."""
        if self.unchanged or self.content is None:
            return None
        if self.vector is not None and self.content.kind is Kind.TEXT:
            return None
        return self.content


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
        drafts: dict[str, _Draft] = {}
        places: dict[int, str] = {}
        for place, item in enumerate(items):
            try:
                draft = self._draft(item, info, place)
            except SentinelError as error:
                item_id = item.id if isinstance(item, Item) else ""
                outcomes[place] = ItemOutcome(item_id, Outcome.FAILED, error)
                continue
            drafts[draft.row.id] = draft  # of equal ids the last one wins
            places[place] = draft.row.id
        failed = await self._store_drafts(info, drafts, deadline) if drafts else {}
        for place, item_id in places.items():
            outcomes[place] = _outcome(drafts[item_id], failed.get(item_id), place)
        for outcome in outcomes.values():
            self._metrics.items.labels("upsert", _label(outcome)).inc()
        return [outcomes[place] for place in range(len(items))]

    async def _store_drafts(
        self, info: CollectionInfo, drafts: dict[str, _Draft], deadline: Deadline
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
        self, info: CollectionInfo, drafts: dict[str, _Draft], deadline: Deadline
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
            # The image and its thumbnail were stored before the row was.
            draft.row.vector, draft.content = row.vector, None

    async def _embed(
        self, info: CollectionInfo, drafts: Sequence[_Draft], deadline: Deadline
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

    def _draft(self, item: Item | SentinelError, info: CollectionInfo, place: int) -> _Draft:
        """Check one item and return it as a row without, as yet, its vector."""
        if isinstance(item, SentinelError):
            raise item
        where = f"items[{place}]"
        if item.content is None and item.vector is None:
            raise InvalidArgument(
                "CONTENT_MISSING", "an item needs a text, an image or a vector", field=where
            )
        columns.check_values(item.fields, info.fields, where)
        if len(json.dumps(item.fields).encode()) > MAX_FIELDS_BYTES:
            raise InvalidArgument(
                "PARAMETER_OUT_OF_RANGE",
                f"the fields are more than {MAX_FIELDS_BYTES} bytes as JSON",
                field=f"{where}.fields",
                limit=MAX_FIELDS_BYTES,
            )
        vector = None
        if item.vector is not None:
            vector = check_vector(item.vector, info, f"{where}.vector")
        if item.content is not None:
            self._check_content(item.content, where)
        row = _row(item, vector)
        check_id(row.id, f"{where}.id")
        return _Draft(row, item.content, vector)

    def _check_content(self, content: Content, where: str) -> None:
        if content.kind is Kind.TEXT and len(content.data) > MAX_TEXT_BYTES:
            raise InvalidArgument(
                "TEXT_TOO_LONG",
                f"the text has {len(content.data)} bytes; at most {MAX_TEXT_BYTES} are stored",
                field=f"{where}.content.text",
                limit=MAX_TEXT_BYTES,
            )
        if content.kind is Kind.IMAGE and len(content.data) > self._max_image_bytes:
            raise InvalidArgument(
                "IMAGE_TOO_LARGE",
                f"the image has {len(content.data)} bytes, the limit is {self._max_image_bytes}; "
                "send a smaller version",
                field=f"{where}.content.image.data",
                limit=self._max_image_bytes,
            )

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
        pictures = [item for item in found if item.row.image]
        for item in pictures:
            item.image_uri = self._objects.image_uri(item.row.image)
        if include_thumbnails:
            thumbnails = await self._objects.get_thumbnails([item.row.image for item in pictures])
            for item, thumbnail in zip(pictures, thumbnails, strict=True):
                item.thumbnail = thumbnail
        if output_fields:
            for item in found:
                fields = item.row.fields
                item.row.fields = {key: fields[key] for key in output_fields if key in fields}
        return found

    async def delete(
        self, info: CollectionInfo, expression: str, deadline: Deadline, *, dry_run: bool
    ) -> int:
        """Remove what `expression` selects; return how many items that is."""
        count = await self._store.count(info, expression, deadline)
        if count and not dry_run:
            await self._store.delete(info, expression, deadline)
        return count


def check_id(item_id: str, field: str) -> None:
    """Raise InvalidArgument unless `item_id` can be stored and printed."""
    if not item_id:
        raise InvalidArgument(
            "NAME_INVALID", "an item that is a bare vector needs an id", field=field
        )
    if len(item_id.encode()) > MAX_ID_BYTES or not item_id.isprintable():
        raise InvalidArgument(
            "NAME_INVALID",
            f"an id is 1 to {MAX_ID_BYTES} bytes without control characters",
            field=field,
        )


def _row(item: Item, vector: FloatArray | None) -> Row:
    content = item.content
    data = content.data if content else b""
    content_digest = hashlib.sha256(data).hexdigest()
    given = vector.tobytes() if vector is not None else b""
    return Row(
        id=item.id or (content_digest if content else ""),
        digest=hashlib.sha256(data + given).hexdigest(),
        image=content_digest if content and content.kind is Kind.IMAGE else "",
        text=content.text if content and content.kind is Kind.TEXT else "",
        fields=item.fields,
        vector=vector,
    )


def _fill(draft: _Draft, embedded: EmbeddedItem) -> None:
    draft.thumbnail = embedded.thumbnail
    if draft.vector is None:
        draft.row.vector = embedded.vector


def _outcome(draft: _Draft, error: SentinelError | None, place: int) -> ItemOutcome:
    if error is not None:
        error.field = f"items[{place}].content"
        return ItemOutcome(draft.row.id, Outcome.FAILED, error)
    outcome = Outcome.UNCHANGED if draft.unchanged else Outcome.STORED
    return ItemOutcome(draft.row.id, outcome)


def _label(outcome: ItemOutcome) -> str:
    if isinstance(outcome.error, SentinelError):
        return outcome.error.reason.lower()
    return str(outcome.outcome)
