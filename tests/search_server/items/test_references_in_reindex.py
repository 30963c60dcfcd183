"""Items by reference that are written, and moved, while a reindex copies them."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from search_server.collections.catalog import Catalog
from search_server.collections.reindex_copier import ReindexCopier, ReindexProgress
from search_server.collections.usage import StoredUsage
from search_server.image_uris.originals import Originals
from search_server.items.dual_write import DualWrite
from search_server.items.writer import ItemWriter
from search_server.milvus.search_store import SearchStore
from search_server.types.embeddings import Embedded, EmbeddedItem
from search_server.types.items import Outcome
from sentinel_core.metrics import ServerMetrics
from sentinel_store.collections import CollectionInfo, Origin, OriginState, ReindexMark
from sentinel_store.images.image_store import ImageStore
from sentinel_store.items import Content, Item, Kind, Row
from tests.search_server.image_uris.test_fetching import fetching
from tests.search_server.items.ingesting import item_embedder
from tests.search_server.items.test_dual_write import NEW, OLD, deadline

PHOTO = b"the bytes of a photo"
DIGEST = hashlib.sha256(PHOTO).hexdigest()


class Workers:
    """Embeds the photo and nothing else."""

    async def embed(self, contents: Sequence[Content], **_: Any) -> Embedded:
        assert {content.data for content in contents} == {PHOTO}
        item = EmbeddedItem(np.ones(4, np.float32), thumbnail=b"small")
        return Embedded([item] * len(contents), "f")


@dataclass
class Parts:
    """A source that is being reindexed, and its target; writes reach both."""

    store: SearchStore
    images: ImageStore
    writer: ItemWriter
    catalog: Catalog
    workers: Any
    folder: Path

    def reference(self, name: str) -> Item:
        path = self.folder / name
        path.write_bytes(PHOTO)
        return Item("x", Content(Kind.IMAGE, b"", uri=path.as_uri(), digest=DIGEST))

    async def write(self, item: Item) -> None:
        info = replace(OLD, requested_name="old")
        [outcome] = await self.writer.upsert(info, [item], deadline())
        assert outcome.outcome is not Outcome.FAILED

    async def row(self, info: CollectionInfo) -> Row:
        [row] = await self.store.get(info, ["x"], deadline())
        return row

    async def copy(self) -> int:
        copier = ReindexCopier(
            OLD,
            NEW,
            store=self.store,
            images=self.images,
            originals=Originals(["file:///"], max_bytes=1_000, timeout_s=30.0),
            pool=self.workers,
            call_timeout_s=30.0,
            progress=ReindexProgress(),
        )

        async def go_on() -> None: ...

        return await copier.copy_differences(go_on)


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    store, images = SearchStore(str(tmp_path / "milvus.db"), "", 4), ImageStore(str(tmp_path / "o"))
    await store.create_collection(OLD, deadline())
    await store.create_collection(
        replace(NEW, origin=Origin("old", OriginState.COPYING)), deadline()
    )
    metrics, workers = ServerMetrics("gateway", CollectorRegistry()), Workers()
    usage = StoredUsage(store, images, None)
    catalog = Catalog(store, workers, usage)  # type: ignore[arg-type]
    async with fetching() as fetcher:
        writer = ItemWriter(
            item_embedder(workers, metrics),
            fetcher,
            store,
            images,
            metrics,
            dual_write=DualWrite(catalog),
            usage=usage,
            max_image_bytes=1000,
            on_write=lambda info: None,
        )
        yield Parts(store, images, writer, catalog, workers, tmp_path)
    await store.close()
    images.close()


async def write_to_both(parts: Parts) -> None:
    await parts.store.set_reindex("old", ReindexMark("new", "g/1", dual_write=True), deadline())
    parts.catalog.forget("old")


async def test_a_reference_reaches_the_target_too(parts: Parts) -> None:
    await write_to_both(parts)
    item = parts.reference("a.jpg")
    await parts.write(item)
    assert item.content is not None
    for info in (OLD, NEW):
        assert (await parts.row(info)).reference == item.content.uri


async def test_the_copy_of_an_item_is_that_of_the_target_too(parts: Parts) -> None:
    await parts.write(Item("x", Content(Kind.IMAGE, PHOTO)))
    await write_to_both(parts)
    await parts.write(parts.reference("a.jpg"))
    for info in (OLD, NEW):
        row = await parts.row(info)
        assert (row.image, row.reference) == (DIGEST, "")
    found = await parts.images.find_image(DIGEST)
    assert found is not None


async def test_a_reference_that_has_moved_is_copied_although_the_content_is_the_same(
    parts: Parts,
) -> None:
    await parts.write(parts.reference("a.jpg"))
    assert await parts.copy() == 1
    assert await parts.copy() == 0
    moved = parts.reference("b.jpg")
    await parts.write(moved)
    assert await parts.copy() == 1
    assert moved.content is not None
    assert (await parts.row(NEW)).reference == moved.content.uri


async def test_an_original_that_was_gone_and_is_found_elsewhere_is_copied(parts: Parts) -> None:
    await parts.write(parts.reference("a.jpg"))
    (parts.folder / "a.jpg").unlink()
    await parts.copy()
    assert await parts.store.get(NEW, ["x"], deadline()) == []
    await parts.write(parts.reference("b.jpg"))
    await parts.copy()
    assert (await parts.row(NEW)).reference.endswith("/b.jpg")
