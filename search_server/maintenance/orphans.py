"""Use case: remove pictures that no row names, without ever losing one that is being stored.

An upsert stores a picture first and its row second, and makes a picture young when it stores it
again. So a picture is an orphan only if no row names it and it is older than any upsert can take.
No store lets us look at that and remove the picture in one step, though: between the two, an
upsert may make it young and then name it. Hence two runs. The first moves orphans aside, where
readers still find them. A later one, when they have been there for as long again, removes those
that still no row names, and brings back the others.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sentinel_core.calls import Deadline
from sentinel_core.errors import FailedPrecondition
from sentinel_store.collections import CollectionInfo
from sentinel_store.images import image_store as layout
from sentinel_store.images.image_store import ObjectStore
from sentinel_store.images.local_files import StoredFile
from sentinel_store.milvus.store import MilvusStore

logger = logging.getLogger(__name__)

_CALL_TIMEOUT_S = 120.0
# Digests in one question to Milvus: an expression of some 70 kB.
_DIGESTS_PER_QUERY = 1_000
# A listing of a remote store is mostly waiting.
_SHARDS_AT_ONCE = 8


@dataclass(slots=True)
class OrphanReport:
    """Files and bytes, images and thumbnails alike.

    Attributes:
        looked_at: Files of images and thumbnails that are not aside.
        set_aside: Moved aside by this run, or that would be.
        set_aside_bytes: Their size.
        waiting: Aside for too short a time to be removed.
        removed: Removed for good, or that would be, crashed writers' leftovers included.
        removed_bytes: Their size.
        brought_back: Were aside, but a row names them.
    """

    looked_at: int = 0
    set_aside: int = 0
    set_aside_bytes: int = 0
    waiting: int = 0
    removed: int = 0
    removed_bytes: int = 0
    brought_back: int = 0


class OrphanCollector:
    """One run. Memory is bounded by eight of the 256 folders that files are spread over."""

    def __init__(
        self, store: MilvusStore, objects: ObjectStore, *, older_than: timedelta, dry_run: bool
    ) -> None:
        """Prepare a run.

        Args:
            store: Every collection whose items have their pictures in `objects`.
            objects: The pictures.
            older_than: Longer than storing a batch can take.
            dry_run: Only count.
        """
        self._store = store
        self._objects = objects
        self._older_than = older_than
        self._dry_run = dry_run
        self._report = OrphanReport()

    async def run(self) -> OrphanReport:
        """Go through all files once.

        Raises:
            FailedPrecondition: Milvus has no collection of ours at all.
            Unavailable: Milvus or the object store failed; what was done before stays done.
        """
        await self._collections()  # before anything is touched
        for start in range(0, len(layout.SHARDS), _SHARDS_AT_ONCE):
            shards = layout.SHARDS[start : start + _SHARDS_AT_ONCE]
            await asyncio.gather(*(self._end_what_is_aside(shard) for shard in shards))
            await asyncio.gather(*(self._set_aside_orphans(shard) for shard in shards))
        leftovers = [file for file in await self._objects.list_drafts() if self._is_old(file)]
        await self._remove(leftovers)
        return self._report

    async def _end_what_is_aside(self, shard: str) -> None:
        files = await self._objects.list_shard(shard, aside=True)
        named = await self._named(files)
        old = []
        for file in files:
            digest = layout.digest_of(file.name)
            if digest in named:
                self._report.brought_back += 1
                if not self._dry_run:
                    await self._objects.bring_back(file.name)
            elif digest is not None and self._is_old(file):
                old.append(file)
            else:
                self._report.waiting += 1
        await self._remove(old)

    async def _set_aside_orphans(self, shard: str) -> None:
        files = await self._objects.list_shard(shard)
        self._report.looked_at += len(files)
        candidates = [file for file in files if self._is_old(file)]
        named = await self._named(candidates)
        for file in candidates:
            digest = layout.digest_of(file.name)
            if digest is None or digest in named:
                continue
            if self._dry_run or await self._objects.set_aside(file.name):
                self._report.set_aside += 1
                self._report.set_aside_bytes += file.size

    async def _remove(self, files: Sequence[StoredFile]) -> None:
        if files and not self._dry_run:
            await self._objects.remove([file.name for file in files])
        self._report.removed += len(files)
        self._report.removed_bytes += sum(file.size for file in files)

    async def _named(self, files: Iterable[StoredFile]) -> set[str]:
        """Return the digests among the files' names that any row of ours names."""
        found = {layout.digest_of(file.name) for file in files}
        digests = sorted(digest for digest in found if digest is not None)
        if not digests:
            return set()
        named: set[str] = set()
        # Listed anew each time: a collection may have been made since.
        for info in await self._collections():
            for start in range(0, len(digests), _DIGESTS_PER_QUERY):
                part = digests[start : start + _DIGESTS_PER_QUERY]
                named |= await self._store.named_images(info, part, _deadline())
        return named

    async def _collections(self) -> list[CollectionInfo]:
        """Return every collection of ours; there must be one.

        Raises:
            FailedPrecondition: There is none: more likely another Milvus than an empty one.
        """
        collections = []
        for name in await self._store.list_collections(_deadline()):
            info = await self._store.describe_collection(name, _deadline(), foreign_ok=True)
            if info is not None:
                collections.append(info)
        if not collections:
            raise FailedPrecondition(
                "COLLECTION_NOT_FOUND",
                "this Milvus has no collection of Sentinel, so every picture would be an orphan; "
                "check --milvus-uri, or remove the object store by hand",
            )
        return collections

    def _is_old(self, file: StoredFile) -> bool:
        return datetime.now(UTC) - file.changed > self._older_than


def _deadline() -> Deadline:
    return Deadline.after(None, default_s=_CALL_TIMEOUT_S)
