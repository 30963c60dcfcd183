"""Delete images that no row names, without ever losing an image that is being stored.

An upsert stores an image before its row, and sets the image's time to now when it stores it again.
So an image is an orphan only if no row names it and it is older than any upsert can take. But no
store can check that and delete the image in one step: in between, an upsert may touch the image
and then write a row that names it. Therefore it takes two runs. The first moves orphans aside,
where readers still find them. A later run, at least as long after, deletes those that still no
row names, and brings back the others. The command is `sentinel-gateway collect-orphans`.
"""

from __future__ import annotations

import asyncio
import logging
import re
import sys
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import SettingsConfigDict

from search_server.maintenance.library import LibraryError, with_library
from search_server.settings import GatewaySettings
from sentinel_core.calls import Deadline
from sentinel_core.errors import FailedPrecondition, SentinelError
from sentinel_core.proxies import bypass_proxies_on_loopback
from sentinel_core.settings import print_settings_errors, refuse_secret_flags
from sentinel_store.collections import CollectionInfo
from sentinel_store.images import image_store
from sentinel_store.images.image_store import ImageStore
from sentinel_store.images.local_files import StoredFile
from sentinel_store.milvus import schema
from sentinel_store.milvus.store import MilvusStore

logger = logging.getLogger(__name__)

_CALL_TIMEOUT_S = 120.0
# Digests in one query of Milvus: an expression of about 70 kB.
_DIGESTS_PER_QUERY = 1_000
# Listing a remote store is mostly waiting.
_SHARDS_AT_ONCE = 8


@dataclass(slots=True)
class OrphanReport:
    """Numbers of files and their bytes, images and thumbnails together.

    A dry run counts what a real run would move or delete.

    Attributes:
        looked_at: Files that are not aside.
        set_aside: Files that this run moved aside.
        set_aside_bytes: Their size.
        waiting: Files that are not aside for long enough to be deleted.
        removed: Files that this run deleted, with those that crashed writers left.
        removed_bytes: Their size.
        brought_back: Files that were aside although a row names them.
        old_rows: Rows of collections that have moved, which this run deleted.
    """

    looked_at: int = 0
    set_aside: int = 0
    set_aside_bytes: int = 0
    waiting: int = 0
    removed: int = 0
    removed_bytes: int = 0
    brought_back: int = 0
    old_rows: int = 0


class OrphanCollector:
    """One run. It holds the listings of eight of the 256 folders in memory at a time."""

    def __init__(
        self, store: MilvusStore, images: ImageStore, *, older_than: timedelta, dry_run: bool
    ) -> None:
        """Prepare a run; a dry one only counts.

        `store` has every collection whose items have their images in `images`. `older_than` is
        longer than any upsert can take.
        """
        self._store = store
        self._images = images
        self._older_than = older_than
        self._dry_run = dry_run
        self._report = OrphanReport()

    async def run(self) -> OrphanReport:
        """Process all files once.

        Raises:
            FailedPrecondition: Milvus has no collection of Sentinel.
            Unavailable: Milvus or the object store failed; completed steps stay done.
        """
        for info in await self._collections():  # fail before any change
            # While the mark is there, gateways may still read by the name's old meaning.
            if info.moved_to and info.reindex is None:
                await self._empty(info)
        for start in range(0, len(image_store.SHARDS), _SHARDS_AT_ONCE):
            shards = image_store.SHARDS[start : start + _SHARDS_AT_ONCE]
            await asyncio.gather(*(self._delete_or_bring_back(shard) for shard in shards))
            await asyncio.gather(*(self._set_aside_orphans(shard) for shard in shards))
        unfinished = [file for file in await self._images.list_unfinished() if self._is_old(file)]
        await self._remove(unfinished)
        return self._report

    async def _empty(self, moved: CollectionInfo) -> None:
        """Delete the rows of a collection that has moved: no name means them any more."""
        count = await self._store.count(moved, "", _deadline())
        self._report.old_rows += count
        if count and not self._dry_run:
            await self._store.delete(moved, schema.after_id("", ""), _deadline())

    async def _delete_or_bring_back(self, shard: str) -> None:
        files = await self._images.list_shard(shard, aside=True)
        named = await self._named(files)
        old = []
        for file in files:
            digest = image_store.digest_of(file.name)
            if digest in named:
                self._report.brought_back += 1
                if not self._dry_run:
                    await self._images.bring_back(file.name)
            elif digest is not None and self._is_old(file):
                old.append(file)
            else:
                self._report.waiting += 1
        await self._remove(old)

    async def _set_aside_orphans(self, shard: str) -> None:
        files = await self._images.list_shard(shard)
        self._report.looked_at += len(files)
        candidates = [file for file in files if self._is_old(file)]
        named = await self._named(candidates)
        for file in candidates:
            digest = image_store.digest_of(file.name)
            if digest is None or digest in named:
                continue
            if self._dry_run or await self._images.set_aside(file.name):
                self._report.set_aside += 1
                self._report.set_aside_bytes += file.size

    async def _remove(self, files: Sequence[StoredFile]) -> None:
        if files and not self._dry_run:
            await self._images.remove([file.name for file in files])
        self._report.removed += len(files)
        self._report.removed_bytes += sum(file.size for file in files)

    async def _named(self, files: Iterable[StoredFile]) -> set[str]:
        """Return the digests of these files that any row names."""
        found = {image_store.digest_of(file.name) for file in files}
        digests = sorted(digest for digest in found if digest is not None)
        if not digests:
            return set()
        named: set[str] = set()
        # List them each time: a collection may have been created since.
        for info in await self._collections():
            for start in range(0, len(digests), _DIGESTS_PER_QUERY):
                part = digests[start : start + _DIGESTS_PER_QUERY]
                named |= await self._store.named_images(info, part, _deadline())
        return named

    async def _collections(self) -> list[CollectionInfo]:
        """Return every collection of Sentinel; fail without any: it is probably another Milvus."""
        collections = []
        for name in await self._store.list_collections(_deadline()):
            info = await self._store.describe_collection(
                name, _deadline(), foreign_ok=True, follow=False
            )
            if info is not None:
                collections.append(info)
        if not collections:
            raise FailedPrecondition(
                "COLLECTION_NOT_FOUND",
                "this Milvus has no collection of Sentinel, so every image would be an orphan; "
                "check --milvus-uri, or delete the object store by hand",
            )
        return collections

    def _is_old(self, file: StoredFile) -> bool:
        return datetime.now(UTC) - file.changed > self._older_than


def _deadline() -> Deadline:
    return Deadline.within(_CALL_TIMEOUT_S)


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _duration(text: object) -> object:
    """Parse a duration such as `90s`, `30m`, `1h` or `2d`; leave anything else to pydantic."""
    matched = re.fullmatch(r"(\d+)([smhd])", text) if isinstance(text, str) else None
    return timedelta(seconds=int(matched[1]) * _UNITS[matched[2]]) if matched else text


class OrphanSettings(GatewaySettings):
    """Move images that no item names aside; delete those that an earlier run moved aside."""

    model_config = SettingsConfigDict(cli_prog_name="sentinel-gateway collect-orphans")

    older_than: Annotated[timedelta, BeforeValidator(_duration)] = Field(
        timedelta(hours=1),
        description="Youngest age of an orphan, as 90s, 30m, 1h or 2d; must be longer than "
        "--write-timeout-seconds and than a bulk-index needs to import the rows it wrote.",
    )
    dry_run: bool = Field(False, description="Only count.")


async def collect(settings: OrphanSettings) -> OrphanReport:
    """Run once; raise SentinelError if Milvus or the object store failed."""
    async with AsyncExitStack() as stack:
        store = MilvusStore(
            settings.milvus_uri,
            settings.milvus_token.get_secret_value(),
            settings.milvus_threads,
            tls=settings.milvus_tls(),
        )
        stack.push_async_callback(store.close)
        images = ImageStore(settings.object_store_uri)
        stack.callback(images.close)
        collector = OrphanCollector(
            store, images, older_than=settings.older_than, dry_run=settings.dry_run
        )
        return await collector.run()


def run(arguments: list[str]) -> int:
    """Read the settings, run once, print the counts; return the exit code."""
    bypass_proxies_on_loopback()
    try:
        if refuse_secret_flags("sentinel-gateway collect-orphans", OrphanSettings, arguments):
            return 2
        settings = OrphanSettings(_cli_parse_args=arguments)
    except ValidationError as error:
        print_settings_errors("collect-orphans", error)
        return 2
    if settings.older_than.total_seconds() <= settings.write_timeout_seconds:
        print(
            f"collect-orphans: --older-than must be above the {settings.write_timeout_seconds:g} s "
            "that a write may take, or images that are being stored look like orphans",
            file=sys.stderr,
        )
        return 2
    try:
        report = asyncio.run(collect(with_library(settings, "collect-orphans")))
    except LibraryError as error:
        print(f"collect-orphans: {error}", file=sys.stderr)
        return 2
    except SentinelError as error:
        print(f"collect-orphans: {error}", file=sys.stderr)
        return 1
    print(_summary(report, dry_run=settings.dry_run))
    return 0


def _summary(report: OrphanReport, *, dry_run: bool) -> str:
    would = "would be " if dry_run else ""
    rows = f", {report.old_rows} old rows {would}deleted" if report.old_rows else ""
    return (
        f"{report.looked_at} files: {report.set_aside} ({report.set_aside_bytes} bytes) "
        f"{would}moved aside, {report.removed} ({report.removed_bytes} bytes) {would}removed, "
        f"{report.waiting} not aside for long enough, {report.brought_back} {would}brought back"
        f"{rows}"
    )
