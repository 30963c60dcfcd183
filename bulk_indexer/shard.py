"""One shard: its entries to rows, through the worker's own engine and the gateway's own checks.

    entries ──slices──▶ read ──▶ draft (ids, digests, checks) ──▶ embed ──▶ image store ──▶ rows

Several slices are under way at once, so that reading, decoding, the device and the image store all
have work. What is wrong with an entry becomes a failure; what is wrong with the machinery raises.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bulk_indexer.entries import Entry
from bulk_indexer.field_values import typed
from bulk_indexer.reading import FileReader
from embedder_server.engine.engine import Engine
from embedder_server.engine.requests import EmbedOptions, ImageFile, ItemResult
from embedder_server.types import Priority
from sentinel_core.calls import Deadline
from sentinel_core.errors import Internal, InvalidArgument, SentinelError, Unavailable, first_error
from sentinel_store.collections import CollectionInfo
from sentinel_store.images.image_store import ObjectStore
from sentinel_store.items import Content, Item, Kind, Row
from sentinel_store.prepared_item import Draft, make_draft

_SLICE_ENTRIES = 32
# Enough that the device finds a batch ready while other slices are read and stored.
_SLICES_AT_ONCE = 6
# Of one slice, in the engine and in the image store: long enough for any queue, not for ever.
_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class Failure:
    """An entry that is not indexed, and why."""

    entry: Entry
    reason: str
    message: str

    def as_line(self) -> dict[str, Any]:
        """Return it as a row of a manifest: what failed can be given to a run of its own."""
        entry = self.entry
        known = {"uri": entry.uri, "text": entry.text, "id": entry.id}
        return {
            **entry.fields,
            **{name: value for name, value in known.items() if value},
            "place": entry.place,
            "error_reason": self.reason,
            "error_message": self.message,
        }


@dataclass(slots=True)
class ShardRows:
    """What became of a shard.

    Attributes:
        rows: In the order of the entries, each id once: the first of equals.
        duplicates: Entries left out because one before them has their id.
        image_bytes: Of the images that were read.
    """

    rows: list[Row] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    duplicates: int = 0
    image_bytes: int = 0


class ShardEmbedder:
    """Embeds shards into one collection. Use from the engine's event loop."""

    def __init__(
        self,
        engine: Engine,
        objects: ObjectStore,
        reader: FileReader,
        info: CollectionInfo,
        *,
        thumbnail_side: int,
        max_image_bytes: int,
    ) -> None:
        self._engine = engine
        self._objects = objects
        self._reader = reader
        self._info = info
        self._options = EmbedOptions(priority=Priority.BULK, thumbnail_side=thumbnail_side)
        self._max_image_bytes = max_image_bytes

    async def embed(self, entries: Sequence[Entry]) -> ShardRows:
        """Return the rows of a shard; their images are stored then.

        Raises:
            SentinelError: Engine or image store failed; nothing of the shard counts as done.
        """
        shard = ShardRows()
        outcomes: list[Draft | Failure | None] = [None] * len(entries)
        starts = iter(range(0, len(entries), _SLICE_ENTRIES))

        async def work() -> None:
            for start in starts:
                part = entries[start : start + _SLICE_ENTRIES]
                outcomes[start : start + len(part)] = await self._slice(part, shard)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(_SLICES_AT_ONCE):
                    group.create_task(work())
        except BaseExceptionGroup as errors:
            raise first_error(errors) from None
        _gather(outcomes, shard)
        return shard

    async def _slice(self, entries: Sequence[Entry], shard: ShardRows) -> list[Draft | Failure]:
        drafted = await asyncio.gather(*(self._draft(entry) for entry in entries))
        good = [draft for draft in drafted if isinstance(draft, Draft)]
        errors = await self._embed(good)
        outcomes: list[Draft | Failure] = []
        for entry, draft in zip(entries, drafted, strict=True):
            error = errors.get(id(draft))
            outcomes.append(draft if error is None else _failed(entry, error))
        stored = [
            (draft.row.image, draft.content.data, draft.thumbnail)
            for draft in good
            if id(draft) not in errors and draft.content and draft.content.kind is Kind.IMAGE
        ]
        if stored:
            await self._objects.put_images(stored, _deadline())
            shard.image_bytes += sum(len(data) for _, data, _ in stored)
        for draft in good:
            draft.content = None  # or a shard's images would all stay in memory
        return outcomes

    async def _draft(self, entry: Entry) -> Draft | Failure:
        try:
            if entry.error:
                raise InvalidArgument("CONTENT_MISSING", entry.error)
            raw = dict(entry.fields)
            if entry.uri:
                read = await self._reader.read(entry.uri)
                content = Content(Kind.IMAGE, read.data)
                learned = {"size_bytes": len(read.data), "modified_at": read.modified_at}
                for name, value in learned.items():
                    if name in self._info.fields and value is not None:
                        raw.setdefault(name, value)
            else:
                content = Content(Kind.TEXT, entry.text.encode())
            fields = typed(raw, self._info.fields)
            item = Item(entry.id, content, fields=fields)
            return make_draft(item, self._info, "item", self._max_image_bytes)
        except SentinelError as error:
            return _failed(entry, error)

    async def _embed(self, drafts: Sequence[Draft]) -> dict[int, SentinelError]:
        """Fill in vectors and thumbnails; return the errors, by the drafts' `id()`."""
        if not drafts:
            return {}
        results = await self._ask(drafts)
        # One content can spoil its batch for the others, so those that failed go once more, alone.
        alone = [place for place, one in enumerate(results) if isinstance(one.outcome, Internal)]
        for place in alone:
            [results[place]] = await self._ask([drafts[place]])
        errors: dict[int, SentinelError] = {}
        for draft, result in zip(drafts, results, strict=True):
            if isinstance(result.outcome, SentinelError):
                errors[id(draft)] = result.outcome
                continue
            draft.row.vector = result.outcome
            if result.image is not None:
                draft.thumbnail = result.image.thumbnail
        broken = [error for error in errors.values() if isinstance(error, Internal)]
        if len(broken) == len(drafts) > 1:
            raise broken[0]  # that is the device or the model, and no item's fault
        return errors

    async def _ask(self, drafts: Sequence[Draft]) -> list[ItemResult]:
        answer = await self._engine.embed(
            [_to_engine(draft.content) for draft in drafts if draft.content is not None],
            self._options,
            _deadline(),
        )
        for result in answer.results:
            if isinstance(result.outcome, Unavailable):  # the engine is closing
                raise result.outcome
        return answer.results


def _to_engine(content: Content) -> str | ImageFile:
    return content.text if content.kind is Kind.TEXT else ImageFile(content.data)


def _deadline() -> Deadline:
    return Deadline.after(None, default_s=_TIMEOUT_S)


def _failed(entry: Entry, error: SentinelError) -> Failure:
    return Failure(entry, error.reason, error.message)


def _gather(outcomes: Sequence[Draft | Failure | None], shard: ShardRows) -> None:
    seen: set[str] = set()
    for outcome in outcomes:
        if isinstance(outcome, Failure):
            shard.failures.append(outcome)
        elif isinstance(outcome, Draft):
            if outcome.row.id in seen:
                shard.duplicates += 1
                continue
            seen.add(outcome.row.id)
            shard.rows.append(outcome.row)
