"""Convert the entries of one shard to rows, with the worker's engine and the gateway's checks.

    entries ──slices──▶ read ──▶ check (ids, digests) ──▶ embed ──▶ image store ──▶ rows

Several slices are in progress at once, so that readers, decoders, the device and the image store
are all busy. A bad entry becomes a failure; a system error raises.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bulk_indexer.entries import DatasetEntry, typed_fields
from bulk_indexer.file_reader import FileReader
from embedder_server.in_process import ImageFile, InProcessEmbedder, ItemResult
from sentinel_core.calls import Deadline
from sentinel_core.errors import Internal, InvalidArgument, SentinelError, Unavailable, first_error
from sentinel_store.collections import CollectionInfo
from sentinel_store.images.image_store import ImageStore
from sentinel_store.items import Content, Item, Kind, Row
from sentinel_store.prepared_item import PreparedItem, prepare_item

_SLICE_ENTRIES = 32
# Enough that the device finds a batch ready while other slices are read and stored.
_SLICES_AT_ONCE = 6
# For one slice in the engine and in the image store: long enough for any queue, but finite.
_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class Failure:
    """An entry that is not indexed, and why."""

    entry: DatasetEntry
    reason: str
    message: str

    def as_line(self) -> dict[str, Any]:
        """Return a row of a manifest, so that a later run can index the failed entries."""
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
    """The result of a shard.

    Attributes:
        rows: In the order of the entries; of equal ids only the first.
        duplicates: Number of entries left out because of an equal id.
        image_bytes: Size of all images that were read.
    """

    rows: list[Row] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    duplicates: int = 0
    image_bytes: int = 0


class ShardEmbedder:
    """Embeds shards for one collection. Use from the embedder's event loop."""

    def __init__(
        self,
        embedder: InProcessEmbedder,
        objects: ImageStore,
        reader: FileReader,
        info: CollectionInfo,
        *,
        thumbnail_side: int,
        max_image_bytes: int,
    ) -> None:
        self._embedder = embedder
        self._objects = objects
        self._reader = reader
        self._info = info
        self._thumbnail_side = thumbnail_side
        self._max_image_bytes = max_image_bytes

    async def embed(self, entries: Sequence[DatasetEntry]) -> ShardRows:
        """Return the rows of a shard, after their images are stored.

        After a SentinelError of the engine or the image store, repeat the whole shard.
        """
        shard = ShardRows()
        slices: dict[int, list[Row | Failure]] = {}
        starts = iter(range(0, len(entries), _SLICE_ENTRIES))

        async def work() -> None:
            for start in starts:
                slices[start] = await self._slice(entries[start : start + _SLICE_ENTRIES], shard)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(_SLICES_AT_ONCE):
                    group.create_task(work())
        except BaseExceptionGroup as errors:
            raise first_error(errors) from None
        seen: set[str] = set()
        for outcome in (one for start in sorted(slices) for one in slices[start]):
            if isinstance(outcome, Failure):
                shard.failures.append(outcome)
            elif outcome.id in seen:
                shard.duplicates += 1
            else:
                seen.add(outcome.id)
                shard.rows.append(outcome)
        return shard

    async def _slice(
        self, entries: Sequence[DatasetEntry], shard: ShardRows
    ) -> list[Row | Failure]:
        """Embed a slice and store its images; return one outcome per entry."""
        prepared = await asyncio.gather(*(self._prepare(entry) for entry in entries))
        items = [item for item in prepared if isinstance(item, PreparedItem)]
        results = iter(await self._embed(items))
        outcomes: list[Row | Failure] = []
        images: list[tuple[str, bytes, bytes]] = []
        for entry, item in zip(entries, prepared, strict=True):
            if isinstance(item, Failure):
                outcomes.append(item)
                continue
            result = next(results)
            if isinstance(result.outcome, SentinelError):
                outcomes.append(_failure(entry, result.outcome))
                continue
            outcomes.append(item.row(result.outcome))
            if result.image is not None and item.content is not None:
                images.append((item.image, item.content.data, result.image.thumbnail))
        if images:
            await self._objects.put_images(images, Deadline.within(_TIMEOUT_S))
            shard.image_bytes += sum(len(data) for _, data, _ in images)
        return outcomes

    async def _prepare(self, entry: DatasetEntry) -> PreparedItem | Failure:
        """Read an entry's content and check it."""
        try:
            if entry.error:
                raise InvalidArgument("CONTENT_MISSING", entry.error)
            values = dict(entry.fields)
            if entry.uri:
                read = await self._reader.read(entry.uri)
                content = Content(Kind.IMAGE, read.data)
                learned = {"size_bytes": len(read.data), "modified_at": read.modified_at}
                for name, value in learned.items():
                    if name in self._info.fields and value is not None:
                        values.setdefault(name, value)
            else:
                content = Content(Kind.TEXT, entry.text.encode())
            item = Item(entry.id, content, fields=typed_fields(values, self._info.fields))
            return prepare_item(item, self._info, "item", max_image_bytes=self._max_image_bytes)
        except SentinelError as error:
            return _failure(entry, error)

    async def _embed(self, items: Sequence[PreparedItem]) -> list[ItemResult]:
        """Return one result per item; raise if all failed: device or model is then at fault."""
        contents = [_content(item.content) for item in items if item.content is not None]
        if not contents:
            return []
        results = await self._call(contents)
        # One content can break its whole batch, so the failed contents are tried again alone.
        for index, result in enumerate(results):
            if isinstance(result.outcome, Internal):
                [results[index]] = await self._call([contents[index]])
        broken = [one.outcome for one in results if isinstance(one.outcome, Internal)]
        if len(broken) == len(contents) > 1:
            raise broken[0]
        return results

    async def _call(self, contents: Sequence[str | ImageFile]) -> list[ItemResult]:
        results = await self._embedder.embed(
            contents,
            timeout_s=_TIMEOUT_S,
            thumbnail_side=self._thumbnail_side,
            dimensions=self._info.requested_dimensions or 0,
        )
        for result in results:
            if isinstance(result.outcome, Unavailable):  # the engine is closing
                raise result.outcome
        return results


def _content(content: Content) -> str | ImageFile:
    return content.text if content.kind is Kind.TEXT else ImageFile(content.data)


def _failure(entry: DatasetEntry, error: SentinelError) -> Failure:
    return Failure(entry, error.reason, error.message)
