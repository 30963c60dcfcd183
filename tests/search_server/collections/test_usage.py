"""What tenants have stored: counted in time, with what is being stored, on a real Milvus Lite."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search_server.collections import usage as module
from search_server.collections.usage import StoredUsage
from search_server.milvus.search_store import SearchStore
from sentinel_core.access.quotas import LocalBuckets, Quotas
from sentinel_core.calls import Deadline
from sentinel_core.errors import DeadlineExceeded
from sentinel_store.collections import CollectionInfo
from sentinel_store.images.image_store import ImageStore
from sentinel_store.items import Content, Item, Kind, Row
from sentinel_store.prepared_item import PreparedItem, prepare_item
from sentinel_store.values import ModelRef

INFO = CollectionInfo("photos", ModelRef("m", "r", "f"), 4, {})


def deadline(seconds: float = 30.0) -> Deadline:
    return Deadline.within(seconds)


def items(*numbers: int, text: str = "text") -> list[PreparedItem]:
    return [
        prepare_item(
            Item(str(number), Content(Kind.TEXT, f"{text} {number}".encode())),
            INFO,
            "items[0]",
            max_image_bytes=1000,
        )
        for number in numbers
    ]


@dataclass
class Parts:
    store: SearchStore
    images: ImageStore
    usage: StoredUsage

    async def add(self, new: list[PreparedItem], known: frozenset[str] = frozenset()) -> set[str]:
        """Store items as the writer does; return the ids that were refused."""
        async with self.usage.adding(INFO, new, known, deadline()) as refused:
            rows = [one.row(np.ones(4, np.float32)) for one in new if one.id not in refused]
            if rows:
                await self.store.upsert(INFO, rows, deadline())
        return set(refused)


@pytest.fixture(params=[{"stored_items": 10}])
async def parts(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Parts]:
    store = SearchStore(str(tmp_path / "milvus.db"), "", 4)
    await store.create_collection(INFO, deadline())
    path = tmp_path / "quotas.json"
    path.write_text(json.dumps({"tenants": {"": request.param}}))
    images = ImageStore(str(tmp_path / "objects"))
    yield Parts(store, images, StoredUsage(store, images, Quotas(path, LocalBuckets())))
    await store.close()
    images.close()


async def test_a_count_that_takes_longer_than_a_call_goes_on_for_the_next_one(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, go_on = parts.store.count, asyncio.Event()

    async def slow(*arguments: Any, **options: Any) -> int:
        await go_on.wait()
        return await count(*arguments, **options)

    monkeypatch.setattr(parts.store, "count", slow)
    for _ in range(2):
        with pytest.raises(DeadlineExceeded):
            async with parts.usage.adding(INFO, items(1), frozenset(), deadline(0.1)):
                raise AssertionError("it has not counted")
    go_on.set()
    assert await parts.add(items(1)) == set()


async def test_a_collection_that_is_deleted_meanwhile_is_not_counted(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = replace(INFO, name="left")
    await parts.store.create_collection(left, deadline())
    count = parts.store.count

    async def after_a_deletion(info: CollectionInfo, *arguments: Any, **options: Any) -> int:
        if info.name == "left":
            await parts.store.drop_collection("left", deadline())
        return await count(info, *arguments, **options)

    monkeypatch.setattr(parts.store, "count", after_a_deletion)
    assert await parts.add(items(1)) == set()


async def test_what_is_being_stored_counts_also_after_a_new_count(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LEAST_S", 0.0)
    monkeypatch.setattr(module, "_MOST_OF_TIME", 1e9)
    async with parts.usage.adding(INFO, items(*range(6)), frozenset(), deadline()) as refused:
        assert not refused
        assert await parts.add(items(*range(6, 12))) == {"10", "11"}  # it has counted once more


async def test_what_was_not_stored_does_not_count(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LEAST_S", 1e9)  # no new count
    with pytest.raises(RuntimeError):
        async with parts.usage.adding(INFO, items(*range(9)), frozenset(), deadline()):
            raise RuntimeError("Milvus is down")
    assert await parts.add(items(*range(9))) == set()
    assert await parts.add(items(8, 9, 10), known=frozenset({"8"})) == {"10"}


@pytest.mark.parametrize("parts", [{"stored_bytes": 10**9}], indirect=True)
async def test_of_an_image_by_reference_only_the_thumbnail_counts(parts: Parts) -> None:
    """Also where another item has a copy of the same image."""
    digest, data, thumbnail = "a" * 64, b"x" * 5_000, b"y" * 70
    await parts.images.put_images([(digest, data, thumbnail)], deadline())
    vector, uri = np.ones(4, np.float32), "file:///photos/x.jpg"
    rows = [
        Row("copy", digest, digest, "", {}, vector),
        Row("reference", digest, digest, "", {}, vector, uri),
    ]
    await parts.store.upsert(INFO, rows, deadline())
    await parts.add(items(0))
    [usage] = parts.usage._usages.values()
    each = len("{}") + 4 * INFO.dimensions
    total = 2 * each + len(data) + len(thumbnail) + len(uri)
    assert usage.counted[module.Quota.STORED_BYTES] == pytest.approx(total)


@pytest.mark.parametrize("parts", [{"stored_bytes": 1_000}], indirect=True)
async def test_a_large_image_by_reference_fits_into_a_small_quota(parts: Parts) -> None:
    def made(digest: str) -> list[PreparedItem]:
        content = Content(Kind.IMAGE, b"x" * 5_000, uri="file:///x.jpg", digest=digest)
        return [prepare_item(Item("x", content), INFO, "items[0]", max_image_bytes=10_000)]

    assert await parts.add(made("")) == {"x"}
    assert await parts.add(made("a" * 64)) == set()


@pytest.mark.parametrize("parts", [{"stored_bytes": 10**9}], indirect=True)
async def test_bytes_of_many_items_are_estimated_from_a_sample(parts: Parts) -> None:
    rng = np.random.default_rng(5)
    rows, total = [], 0
    for number, item in enumerate(items(*range(4_000))):
        text = "x" * int(rng.integers(1, 4_000))
        total += len(text) + len("{}") + 4 * INFO.dimensions
        rows.append(Row(str(number), item.digest, "", text, {}, np.ones(4, np.float32)))
    for start in range(0, len(rows), 500):
        await parts.store.upsert(INFO, rows[start : start + 500], deadline())
    await parts.add(items(0))
    [usage] = parts.usage._usages.values()
    assert usage.counted[module.Quota.STORED_BYTES] == pytest.approx(total, rel=0.25)
    assert usage.counted[module.Quota.STORED_ITEMS] == 4_000
