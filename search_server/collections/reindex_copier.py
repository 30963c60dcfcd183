"""Makes one collection hold what another one holds, in the space of its own model.

It walks through both by id and compares: content and fields, not vectors. What differs is
embedded anew and written, what is too much is deleted, and then *the source is read again*, until
a read finds nothing to do. That order is what makes it safe beside writers:

* A writer that reaches the source only is seen by that read, or by a later walk.
* One that reaches the source and then the target (mirrors.py) may be overwritten in the target by
  something older; it was in the source before that, so the read after it finds the difference.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from search_server.embedders.pool import EmbedderPool
from search_server.milvus.search_store import SearchStore
from sentinel_core.calls import Deadline
from sentinel_core.errors import (
    DeadlineExceeded,
    ResourceExhausted,
    Unavailable,
)
from sentinel_store.collections import CollectionInfo
from sentinel_store.images.image_store import ObjectStore
from sentinel_store.items import Content, Kind, Row
from sentinel_store.milvus import schema

logger = logging.getLogger(__name__)

T = TypeVar("T")

# A row without its vector has at most 0.12 MB (text and fields).
_PAGE = 256
_BATCH = 32
_BATCHES_AT_ONCE = 4
_MAX_CALL_BYTES = 16 * 1024 * 1024
# A restart of a worker, of Milvus or of the object store fits in here.
_PATIENCE_S = 60.0
_RETRY_S = 1.0
_MAX_FAILURES = 100
_TRIES = 3


@dataclass(slots=True)
class Progress:
    """How far it is; changes while it runs.

    Attributes:
        done: Items that are in the target as they are in the source.
        total: Items in the source.
        failed: Items that cannot be embedded again.
        failures: Ids and reasons of the first 100 of them.
        alias_swapped: Whether the alias points at the target.
    """

    done: int = 0
    total: int = 0
    failed: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)
    alias_swapped: bool = False


class Copier:
    """Copies one collection into another; one walk at a time, inside one event loop."""

    def __init__(
        self,
        source: CollectionInfo,
        target: CollectionInfo,
        *,
        store: SearchStore,
        objects: ObjectStore,
        pool: EmbedderPool,
        call_timeout_s: float,
        progress: Progress,
    ) -> None:
        self._source = source
        self._target = target
        self._store = store
        self._objects = objects
        self._pool = pool
        self._call_timeout_s = call_timeout_s
        self._progress = progress
        # Content that no worker could embed, by id and digest: not tried again.
        self._unusable: dict[tuple[str, str], str] = {}
        self._limit = asyncio.Semaphore(_BATCHES_AT_ONCE)

    async def walk(self, check: Callable[[], Awaitable[None]], *, mirrored: bool = False) -> int:
        """Compare the two collections once and make the target as the source is.

        Args:
            check: Awaited before every page; what it raises ends the walk.
            mirrored: Whether writers write both. Then no item is left before it is the same, as
                there may be no other walk; otherwise those that change all the time are.

        Returns:
            How many items differed.

        Raises:
            SentinelError: A part was away for a minute, or a collection is gone.
        """
        progress = self._progress
        progress.total = await self._patiently(
            lambda deadline: self._store.count(self._source, "", deadline)
        )
        differed, seen, after = 0, 0, ""
        failures: list[tuple[str, str]] = []
        failed = 0
        while True:
            await check()
            rows, there, last = await self._page(after)
            differing = [
                item_id
                for item_id in rows.keys() | there.keys()
                if self._differs(rows.get(item_id), there.get(item_id))
            ]
            async with asyncio.TaskGroup() as group:
                for start in range(0, len(differing), _BATCH):
                    part = differing[start : start + _BATCH]
                    group.create_task(self._settle(part, rows, there, mirrored=mirrored))
            unable = [(row.id, why) for row in rows.values() if (why := self._why_not(row))]
            failures += unable[: _MAX_FAILURES - len(failures)]
            differed, failed, seen = (
                differed + len(differing),
                failed + len(unable),
                seen + len(rows),
            )
            progress.done = max(progress.done, seen - failed)
            progress.failed = max(progress.failed, failed)
            if last is None:
                break
            after = last
        progress.done, progress.total = seen - failed, seen
        progress.failed, progress.failures = failed, failures
        return differed

    async def _page(self, after: str) -> tuple[dict[str, Row], dict[str, Row], str | None]:
        """Return the source's next rows and the target's up to the same id, and that id.

        The last page ends with None and has all of the target's rows that follow.
        """
        page = await self._rows_after(self._source, "", after)
        last = page[-1].id if len(page) == _PAGE else None
        expression = schema.up_to_id(last) if last is not None else ""
        there: list[Row] = []
        while True:
            part = await self._rows_after(self._target, expression, after)
            there += part
            if len(part) < _PAGE:
                return _by_id(page), _by_id(there), last
            after = part[-1].id

    async def _rows_after(self, info: CollectionInfo, expression: str, after: str) -> list[Row]:
        return await self._patiently(
            lambda deadline: self._store.page(info, expression, after, _PAGE, deadline)
        )

    async def _settle(
        self, ids: Sequence[str], rows: dict[str, Row], there: dict[str, Row], *, mirrored: bool
    ) -> None:
        """Make the target's items of these ids as the source's, until reading both confirms it."""
        async with self._limit:
            tries = 0
            while ids and (mirrored or tries < _TRIES):
                tries += 1
                await self._make_same(ids, rows, there)
                rows, there = await asyncio.gather(
                    self._read(self._source, ids), self._read(self._target, ids)
                )
                ids = [i for i in ids if self._differs(rows.get(i), there.get(i))]

    async def _make_same(
        self, ids: Sequence[str], rows: dict[str, Row], there: dict[str, Row]
    ) -> None:
        wanted = [rows[i] for i in ids if i in rows and not self._why_not(rows[i])]
        stored = await self._copy(wanted)
        surplus = [i for i in ids if i in there and i not in stored]
        if surplus:
            expression = schema.with_ids(surplus)
            await self._patiently(
                lambda deadline: self._store.delete(self._target, expression, deadline)
            )

    async def _read(self, info: CollectionInfo, ids: Sequence[str]) -> dict[str, Row]:
        return _by_id(await self._patiently(lambda deadline: self._store.get(info, ids, deadline)))

    async def _copy(self, rows: Sequence[Row]) -> set[str]:
        """Embed rows and write them to the target; return the ids of those that could be."""
        stored: set[str] = set()
        batch: list[tuple[Row, Content]] = []
        size = 0
        for row in rows:
            content = await self._content(row)
            if content is None:
                continue
            if batch and size + len(content.data) > _MAX_CALL_BYTES:
                stored |= await self._copy_batch(batch)
                batch, size = [], 0
            batch.append((row, content))
            size += len(content.data)
        return stored | (await self._copy_batch(batch) if batch else set())

    async def _copy_batch(self, batch: Sequence[tuple[Row, Content]]) -> set[str]:
        embedded = await self._patiently(
            lambda deadline: self._pool.embed(
                [content for _, content in batch],
                fingerprint=self._target.model.fingerprint,
                deadline=deadline,
                bulk=True,
            )
        )
        made = []
        for (row, _), item in zip(batch, embedded.items, strict=True):
            if item.error is not None:
                self._unusable[row.id, row.digest] = item.error.message
            else:
                made.append(replace(row, digest=_target_digest(row), vector=item.vector))
        if made:
            await self._patiently(lambda deadline: self._store.upsert(self._target, made, deadline))
        return {row.id for row in made}

    async def _content(self, row: Row) -> Content | None:
        if row.text:
            return Content(Kind.TEXT, row.text.encode())
        data = await self._patiently(lambda _: self._image(row.image))
        if data is None:
            self._unusable[row.id, row.digest] = "its picture is gone from the object store"
            return None
        return Content(Kind.IMAGE, data)

    async def _image(self, digest: str) -> bytes | None:
        image = await self._objects.find_image(digest)
        if image is None:
            return None
        return await self._objects.read_image(image, 0, image.size)

    def _why_not(self, row: Row) -> str:
        """Return why a row cannot be embedded again; empty if nothing is known against it."""
        if not row.image and not row.text:
            return "a bare vector, of which no content is stored"
        return self._unusable.get((row.id, row.digest), "")

    def _differs(self, row: Row | None, there: Row | None) -> bool:
        if row is None or self._why_not(row):
            return there is not None
        return there is None or (there.digest, there.fields) != (_target_digest(row), row.fields)

    async def _patiently(self, call: Callable[[Deadline], Awaitable[T]]) -> T:
        """Make a call again while what it needs is away or busy, for a minute."""
        until = Deadline.after(None, default_s=_PATIENCE_S)
        while True:
            try:
                return await call(Deadline.after(None, default_s=self._call_timeout_s))
            except (Unavailable, ResourceExhausted, DeadlineExceeded) as error:
                if until.remaining() == 0:
                    raise
                logger.info("reindex waits", extra={"reason": error.reason})
                await asyncio.sleep(error.retry_after_s or _RETRY_S)


def _target_digest(row: Row) -> str:
    """Return the digest of a row's content alone: in the new space no caller brought a vector."""
    return row.image or hashlib.sha256(row.text.encode()).hexdigest()


def _by_id(rows: Sequence[Row]) -> dict[str, Row]:
    return {row.id: row for row in rows}
