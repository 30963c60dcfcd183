"""Orphans are removed, in two runs; a picture that is being stored never is."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from search_server.collections.catalog import Catalog
from search_server.collections.usage import StoredUsage
from search_server.items.dual_write import DualWrite
from search_server.items.writer import ItemWriter
from search_server.maintenance import orphans
from search_server.maintenance.orphans import OrphanCollector, OrphanReport
from search_server.milvus.search_store import SearchStore
from search_server.types.embeddings import Embedded, EmbeddedItem
from search_server.types.items import Outcome
from sentinel_core.calls import Deadline
from sentinel_core.errors import FailedPrecondition
from sentinel_core.metrics import ServerMetrics
from sentinel_store.collections import CollectionInfo, ReindexMark
from sentinel_store.images import image_store as layout
from sentinel_store.images.image_store import ImageStore
from sentinel_store.items import Content, Item, Kind
from sentinel_store.milvus import schema
from sentinel_store.values import ModelRef
from tests.s3_server import S3Server
from tests.search_server.items.ingesting import item_embedder

LATER = timedelta(seconds=2.1)  # a store may tell whole seconds
NOW, HOUR = timedelta(seconds=1), timedelta(hours=1)


def info(name: str) -> CollectionInfo:
    return CollectionInfo(name, ModelRef("m", "r", "f"), 4, {})


def deadline() -> Deadline:
    return Deadline.after(None, default_s=30.0)


def picture(number: int) -> bytes:
    return f"picture {number}".encode()


def digest(number: int) -> str:
    return hashlib.sha256(picture(number)).hexdigest()


class Workers:
    """Embeds anything, with a thumbnail."""

    async def embed(self, contents: Sequence[Content], **_: Any) -> Embedded:
        item = EmbeddedItem(np.ones(4, np.float32), thumbnail=b"small")
        return Embedded([item] * len(contents), "f")


class NoFetcher:
    """Pictures come along here, or stay where they are."""

    async def fetch_items(self, items: Sequence[Item], deadline: Deadline) -> list[Item]:
        assert all(not one.content.uri or one.content.digest for one in items if one.content)
        return list(items)


class Clock(datetime):
    """The collector's clock, which a test can put forward."""

    ahead = timedelta()

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        return datetime.now(tz) + cls.ahead


@dataclass
class Parts:
    """A gateway's parts for storing, without its network."""

    store: SearchStore
    objects: ImageStore
    writer: ItemWriter
    folder: Path

    async def upsert(self, collection: str, *numbers: int) -> None:
        items = [Item("", Content(Kind.IMAGE, picture(number))) for number in numbers]
        outcomes = await self.writer.upsert(info(collection), items, deadline())
        assert {outcome.outcome for outcome in outcomes} <= {Outcome.STORED, Outcome.UNCHANGED}

    async def refer(self, collection: str, number: int) -> None:
        path = self.folder / f"{number}.jpg"
        path.write_bytes(picture(number))
        content = Content(Kind.IMAGE, b"", uri=path.as_uri(), digest=digest(number))
        [outcome] = await self.writer.upsert(info(collection), [Item("", content)], deadline())
        assert outcome.outcome is Outcome.STORED

    async def delete(self, collection: str, *numbers: int) -> None:
        expression = schema.with_ids([digest(number) for number in numbers])
        await self.store.delete(info(collection), expression, deadline())

    async def collect(self, older_than: timedelta, *, dry_run: bool = False) -> OrphanReport:
        collector = OrphanCollector(
            self.store, self.objects, older_than=older_than, dry_run=dry_run
        )
        return await collector.run()

    async def there(self, number: int) -> bool:
        found = await self.objects.find_image(digest(number))
        if found is None:
            return False
        assert await self.objects.read_image(found, 0, found.size) == picture(number)
        return await self.objects.get_thumbnails([digest(number)]) == [b"small"]


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.s3)])
async def parts(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Parts]:
    uri = str(tmp_path / "objects")
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("s3")
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        uri = f"s3://{server.bucket()}/x"
        # A listing takes a while there, and the other folders are empty.
        used = tuple({digest(number)[:2] for number in range(20)})
        monkeypatch.setattr(layout, "SHARDS", used)
    monkeypatch.setattr(Clock, "ahead", timedelta())
    monkeypatch.setattr(orphans, "datetime", Clock)
    store, objects = SearchStore(str(tmp_path / "milvus.db"), "", 4), ImageStore(uri)
    metrics = ServerMetrics("gateway", CollectorRegistry())
    workers: Any = Workers()
    fetcher: Any = NoFetcher()
    usage = StoredUsage(store, objects, None)
    writer = ItemWriter(
        item_embedder(workers, metrics),
        fetcher,
        store,
        objects,
        metrics,
        dual_write=DualWrite(Catalog(store, workers, usage)),
        usage=usage,
        on_write=lambda info: None,
        max_image_bytes=1000,
    )
    yield Parts(store, objects, writer, tmp_path)
    await store.close()
    objects.close()


async def test_pictures_that_no_item_names_go_in_two_runs_and_no_others(parts: Parts) -> None:
    for name in ("one", "two"):
        await parts.store.create_collection(info(name), deadline())
        await parts.upsert(name, 0, 1, 2)
    await parts.upsert("one", 10, 11, 12)
    await parts.delete("one", 0, 1, 2, 10, 11, 12)
    assert (await parts.collect(HOUR)).set_aside == 0  # all of them are young
    Clock.ahead += LATER
    assert (await parts.collect(NOW, dry_run=True)).set_aside == 6  # pictures and thumbnails
    first = await parts.collect(NOW)
    assert (first.looked_at, first.set_aside, first.removed, first.brought_back) == (12, 6, 0, 0)
    assert first.set_aside_bytes == 3 * len(picture(10)) + 3 * len(b"small")
    assert all([await parts.there(number) for number in (0, 1, 2, 10, 11, 12)])

    early = await parts.collect(HOUR)  # aside for too short a time
    assert (early.removed, early.waiting, early.brought_back) == (0, 6, 0)
    Clock.ahead += LATER
    assert (await parts.collect(NOW, dry_run=True)).removed == 6
    second = await parts.collect(NOW)
    assert (second.looked_at, second.removed, second.waiting) == (6, 6, 0)
    assert second.removed_bytes == first.set_aside_bytes
    assert all([await parts.there(number) for number in (0, 1, 2)])
    assert not any([await parts.there(number) for number in (10, 11, 12)])
    await parts.upsert("one", 10)
    assert await parts.there(10)


async def test_thumbnails_of_pictures_by_reference_stay_as_long_as_an_item_names_them(
    parts: Parts,
) -> None:
    await parts.store.create_collection(info("one"), deadline())
    for number in (0, 1):
        await parts.refer("one", number)
    await parts.delete("one", 1)
    for removed in (0, 1):
        Clock.ahead += LATER
        assert (await parts.collect(NOW)).removed == removed
    assert await parts.objects.get_thumbnails([digest(0), digest(1)]) == [b"small", b""]


async def test_storing_a_picture_again_makes_it_too_young_to_be_an_orphan(parts: Parts) -> None:
    """The upsert is between its picture and its row when the run comes."""
    await parts.store.create_collection(info("one"), deadline())
    await parts.upsert("one", 10)
    await parts.delete("one", 10)
    await asyncio.sleep(6.0)
    await parts.objects.put_images([(digest(10), picture(10), b"small")], deadline())
    assert (await parts.collect(timedelta(seconds=5))).set_aside == 0


async def test_a_row_that_comes_while_its_picture_is_taken_for_an_orphan_gets_it_back(
    parts: Parts,
) -> None:
    """The run has seen an old picture that no row names; only then the upsert writes both."""
    await parts.store.create_collection(info("one"), deadline())
    await parts.upsert("one", 10)
    await parts.delete("one", 10)
    Clock.ahead += LATER
    move = parts.objects.set_aside

    async def set_aside_late(name: str) -> bool:
        if name.startswith("images/"):
            await parts.upsert("one", 10)
        return await move(name)

    parts.objects.set_aside = set_aside_late  # type: ignore[method-assign]
    assert (await parts.collect(NOW)).set_aside == 2
    parts.objects.set_aside = move  # type: ignore[method-assign]
    assert await parts.there(10)  # found aside
    Clock.ahead += LATER
    after = await parts.collect(NOW)
    assert (after.brought_back, after.removed, after.set_aside) == (2, 0, 0)
    assert await parts.there(10)
    assert (await parts.collect(HOUR)).looked_at == 2


async def test_old_rows_stay_while_a_gateway_may_still_read_them(parts: Parts) -> None:
    """Just after a reindex has moved the name, others still use its old meaning."""
    for name in ("old", "new"):
        await parts.store.create_collection(info(name), deadline())
        await parts.upsert(name, 0, 1)
    mark = ReindexMark("new", "gateway/run", dual_write=True)
    await parts.store.set_reindex("old", mark, deadline())
    await parts.store.aliases.point("old", "new", deadline(), may_move=True)
    assert (await parts.collect(HOUR)).old_rows == 0
    assert await parts.store.count(info("old"), "", deadline()) == 2
    await parts.store.set_reindex("old", None, deadline())
    assert (await parts.collect(HOUR)).old_rows == 2


async def test_without_a_collection_nothing_is_touched(parts: Parts) -> None:
    await parts.objects.put_images([(digest(10), picture(10), b"small")], deadline())
    Clock.ahead += LATER
    with pytest.raises(FailedPrecondition, match="no collection of Sentinel"):
        await parts.collect(NOW)
    assert await parts.there(10)
