"""An upsert between whose steps another caller writes; the other caller is the test."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry

from search_server.collections.catalog import Catalog
from search_server.collections.usage import StoredUsage
from search_server.items.dual_write import DualWrite
from search_server.items.writer import ItemWriter
from search_server.milvus.search_store import SearchStore
from search_server.types.embeddings import Embedded, EmbeddedItem
from search_server.types.items import Outcome
from sentinel_core.calls import Deadline
from sentinel_core.metrics import ServerMetrics
from sentinel_store.collections import CollectionInfo
from sentinel_store.images.image_store import ImageStore
from sentinel_store.items import Content, Item, Kind
from sentinel_store.values import FieldType, ModelRef
from tests.search_server.image_uris.test_fetching import fetching
from tests.search_server.items.ingesting import item_embedder

INFO = CollectionInfo("race", ModelRef("m", "r", "f"), 4, {"year": FieldType.INT64})
DIRECTIONS = {"a cat": [1.0, 0, 0, 0], "a bicycle": [0, 1.0, 0, 0]}


class Workers:
    """Embeds a text as its direction."""

    async def embed(self, contents: Sequence[Content], **_: Any) -> Embedded:
        vectors = [np.array(DIRECTIONS[content.text], np.float32) for content in contents]
        return Embedded([EmbeddedItem(vector) for vector in vectors], "f")


def deadline() -> Deadline:
    return Deadline.after(None, default_s=20.0)


def item(words: str, year: int) -> Item:
    return Item("x", Content(Kind.TEXT, words.encode()), fields={"year": year})


def test_a_vector_is_only_taken_over_from_equal_content(tmp_path: Path) -> None:
    async def run() -> None:
        store = SearchStore(str(tmp_path / "milvus.db"), "", 4)
        metrics = ServerMetrics("gateway", CollectorRegistry())
        objects = ImageStore(str(tmp_path / "objects"))
        workers: Any = Workers()
        usage = StoredUsage(store, objects, None)
        async with fetching() as fetcher:
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
            await store.create_collection(INFO, deadline())
            await writer.upsert(INFO, [item("a cat", 1)], deadline())
            read = store.get

            async def get_after_another_write(*arguments: Any, **options: Any) -> Any:
                if options.get("include_vectors"):  # the second look of the upsert under test
                    store.get = read  # type: ignore[method-assign]
                    await writer.upsert(INFO, [item("a bicycle", 1)], deadline())
                return await read(*arguments, **options)

            store.get = get_after_another_write  # type: ignore[method-assign]
            outcomes = await writer.upsert(INFO, [item("a cat", 2)], deadline())
            assert outcomes[0].outcome is Outcome.STORED
            row = (await store.get(INFO, ["x"], deadline(), include_vectors=True))[0]
            assert row.text == "a cat"
            assert row.vector is not None
            assert row.vector.tolist() == DIRECTIONS["a cat"]
        await store.close()

    asyncio.run(run())
