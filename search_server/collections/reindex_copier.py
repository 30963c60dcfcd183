"""Make one collection hold the items of another one, in its own vector space.

A pass reads both collections by id and compares content and fields, not vectors. It writes what
differs, with a new vector or, where it would be the same, with a copy of the old one. It deletes
what the source lacks, and then *reads the source again*, until a read finds nothing to do. That
order makes it safe beside writers:

* A write that reaches only the source is seen by that read, or by a later pass.
* A dual write may reach the target and then be overwritten there with something older. It was in
  the source before that, so the read after it finds the difference.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from search_server.embedders.pool import EmbedderPool
from search_server.image_uris.originals import Originals
from search_server.milvus.search_store import SearchStore
from search_server.types.embeddings import EmbedOptions
from sentinel_core.calls import Deadline
from sentinel_core.errors import (
    DeadlineExceeded,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)
from sentinel_store.collections import CollectionInfo, keeps_vectors
from sentinel_store.images.image_store import ImageStore
from sentinel_store.items import Content, Kind, Row
from sentinel_store.milvus import schema

logger = logging.getLogger(__name__)

T = TypeVar("T")

# A row without its vector has at most 0.12 MB (text and fields).
_PAGE = 256
_BATCH = 32
_BATCHES_AT_ONCE = 4
_MAX_CALL_BYTES = 16 * 1024 * 1024
# Long enough for a restart of a worker, of Milvus or of the object store.
_RETRY_FOR_S = 60.0
_RETRY_INTERVAL_S = 1.0
_MAX_FAILURES = 100
_TRIES = 3


@dataclass(slots=True)
class ReindexProgress:
    """How far a reindex is; changes while it runs.

    Attributes:
        done: Items that are equal in source and target.
        total: Items in the source.
        failed: Items that cannot be embedded again.
        failures: Ids and reasons of the first 100 of them.
        gone: How many of them are stored by reference, and their originals cannot be read.
        alias_swapped: Whether the alias points at the target.
    """

    done: int = 0
    total: int = 0
    failed: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)
    gone: int = 0
    alias_swapped: bool = False


class ReindexCopier:
    """Copies one collection to another; one pass at a time, inside one event loop."""

    def __init__(
        self,
        source: CollectionInfo,
        target: CollectionInfo,
        *,
        store: SearchStore,
        images: ImageStore,
        originals: Originals,
        pool: EmbedderPool,
        call_timeout_s: float,
        progress: ReindexProgress,
    ) -> None:
        self._source = source
        self._target = target
        self._store = store
        self._images = images
        self._originals = originals
        self._pool = pool
        self._call_timeout_s = call_timeout_s
        self._progress = progress
        # Reasons why content cannot be embedded, by `_identity` of its row: not tried again.
        self._unusable: dict[tuple[str, ...], str] = {}
        self._limit = asyncio.Semaphore(_BATCHES_AT_ONCE)
        self._copies_vectors = keeps_vectors(source, target)

    async def copy_differences(
        self, check: Callable[[], Awaitable[None]], *, dual_write: bool = False
    ) -> int:
        """Make the target equal to the source, in one pass; return how many items differed.

        Args:
            check: Awaited before every page; an error from it ends the pass.
            dual_write: Whether writers write to both. Then repeat each item until it is equal,
                since this may be the last pass; otherwise skip items that keep changing.

        Raises:
            SentinelError: A service was unavailable for a minute, or a collection was deleted.
        """
        progress = self._progress
        progress.total = await self._retry(
            lambda deadline: self._store.count(self._source, "", deadline)
        )
        differed, seen, failed, gone, after = 0, 0, 0, 0, ""
        failures: list[tuple[str, str]] = []
        while True:
            await check()
            wanted, present, last = await self._page(after)
            differing = [
                item_id
                for item_id in wanted.keys() | present.keys()
                if self._differs(wanted.get(item_id), present.get(item_id))
            ]
            async with asyncio.TaskGroup() as group:
                for start in range(0, len(differing), _BATCH):
                    part = differing[start : start + _BATCH]
                    group.create_task(self._copy_until_equal(part, wanted, present, dual_write))
            unable = [(row.id, why) for row in wanted.values() if (why := self._why_not(row))]
            failures += unable[: _MAX_FAILURES - len(failures)]
            gone += sum(bool(wanted[item_id].reference) for item_id, _ in unable)
            differed += len(differing)
            failed += len(unable)
            seen += len(wanted)
            progress.done = max(progress.done, seen - failed)
            progress.failed = max(progress.failed, failed)
            if last is None:
                break
            after = last
        progress.done, progress.total = seen - failed, seen
        progress.failed, progress.failures, progress.gone = failed, failures, gone
        return differed

    async def _page(self, after: str) -> tuple[dict[str, Row], dict[str, Row], str | None]:
        """Return the source's next rows, the target's rows up to the same id, and that id.

        The last page ends with None and has all remaining rows of the target.
        """
        page = await self._rows_after(self._source, "", after)
        last = page[-1].id if len(page) == _PAGE else None
        expression = schema.up_to_id(last) if last is not None else ""
        present: list[Row] = []
        while True:
            part = await self._rows_after(self._target, expression, after)
            present += part
            if len(part) < _PAGE:
                return _by_id(page), _by_id(present), last
            after = part[-1].id

    async def _rows_after(self, info: CollectionInfo, expression: str, after: str) -> list[Row]:
        return await self._retry(
            lambda deadline: self._store.page(info, expression, after, _PAGE, deadline)
        )

    async def _copy_until_equal(
        self,
        ids: Sequence[str],
        wanted: dict[str, Row],
        present: dict[str, Row],
        dual_write: bool,
    ) -> None:
        """Copy these items until reading both collections finds them equal."""
        async with self._limit:
            tries = 0
            while ids and (dual_write or tries < _TRIES):
                tries += 1
                await self._copy_or_delete(ids, wanted, present)
                wanted, present = await asyncio.gather(
                    self._read(self._source, ids), self._read(self._target, ids)
                )
                ids = [i for i in ids if self._differs(wanted.get(i), present.get(i))]

    async def _copy_or_delete(
        self, ids: Sequence[str], wanted: dict[str, Row], present: dict[str, Row]
    ) -> None:
        stored = await self._copy(
            [wanted[i] for i in ids if i in wanted and not self._why_not(wanted[i])]
        )
        surplus = [i for i in ids if i in present and i not in stored]
        if surplus:
            expression = schema.with_ids(surplus)
            await self._retry(
                lambda deadline: self._store.delete(self._target, expression, deadline)
            )

    async def _read(self, info: CollectionInfo, ids: Sequence[str]) -> dict[str, Row]:
        return _by_id(await self._retry(lambda deadline: self._store.get(info, ids, deadline)))

    async def _copy(self, rows: Sequence[Row]) -> set[str]:
        """Write rows with new vectors to the target; return the ids of those that succeeded."""
        if self._copies_vectors:
            return await self._copy_with_vectors([row.id for row in rows])
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

    async def _copy_with_vectors(self, ids: Sequence[str]) -> set[str]:
        rows = await self._retry(
            lambda deadline: self._store.get(self._source, ids, deadline, include_vectors=True)
        )
        if rows:
            await self._retry(lambda deadline: self._store.upsert(self._target, rows, deadline))
        return {row.id for row in rows}

    async def _copy_batch(self, batch: Sequence[tuple[Row, Content]]) -> set[str]:
        embedded = await self._retry(
            lambda deadline: self._pool.embed(
                [content for _, content in batch],
                fingerprint=self._target.model.fingerprint,
                deadline=deadline,
                options=EmbedOptions(bulk=True, dimensions=self._target.requested_dimensions),
            )
        )
        copies = []
        for (row, _), item in zip(batch, embedded.items, strict=True):
            if item.error is not None:
                self._unusable[_identity(row)] = item.error.message
            else:
                copies.append(replace(row, digest=_target_digest(row), vector=item.vector))
        if copies:
            await self._retry(lambda deadline: self._store.upsert(self._target, copies, deadline))
        return {row.id for row in copies}

    async def _content(self, row: Row) -> Content | None:
        if row.text:
            return Content(Kind.TEXT, row.text.encode())
        try:
            return Content(Kind.IMAGE, await self._retry(lambda _: self._image(row)))
        except (NotFound, PermissionDenied) as error:
            self._unusable[_identity(row)] = error.message
            return None

    async def _image(self, row: Row) -> bytes:
        if row.reference:
            return await self._originals.read(row.reference, row.image)
        image = await self._images.find_image(row.image)
        data = await self._images.read_image(image, 0, image.size) if image is not None else None
        if data is None:
            raise NotFound("IMAGE_NOT_FOUND", "its image bytes are gone from the object store")
        return data

    def _why_not(self, row: Row) -> str:
        """Return why a row cannot be embedded again; empty if no reason is known."""
        if self._copies_vectors:
            return ""
        if not row.image and not row.text:
            return "a vector without content, which cannot be embedded again"
        return self._unusable.get(_identity(row), "")

    def _differs(self, wanted: Row | None, present: Row | None) -> bool:
        if wanted is None or self._why_not(wanted):
            return present is not None
        digest = wanted.digest if self._copies_vectors else _target_digest(wanted)
        return present is None or (present.digest, present.reference, present.fields) != (
            digest,
            wanted.reference,
            wanted.fields,
        )

    async def _retry(self, call: Callable[[Deadline], Awaitable[T]]) -> T:
        """Repeat a call while the service it needs is unavailable or busy, for a minute."""
        until = Deadline.within(_RETRY_FOR_S)
        while True:
            try:
                return await call(Deadline.within(self._call_timeout_s))
            except (Unavailable, ResourceExhausted, DeadlineExceeded) as error:
                if until.remaining() == 0:
                    raise
                logger.info("reindex waits", extra={"reason": error.reason})
                await asyncio.sleep(error.retry_after_s or _RETRY_INTERVAL_S)


def _identity(row: Row) -> tuple[str, ...]:
    """Return what of a row tells where its content is and what it is."""
    return row.id, row.digest, row.reference


def _target_digest(row: Row) -> str:
    """Return the digest of the row's content alone: another space has no vectors from callers."""
    return row.image or hashlib.sha256(row.text.encode()).hexdigest()


def _by_id(rows: Sequence[Row]) -> dict[str, Row]:
    return {row.id: row for row in rows}
