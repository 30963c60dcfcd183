"""With --lite-fsync, what Milvus Lite has acknowledged is on disk, whatever it did last."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from search_server.milvus.search_store import SearchStore
from sentinel_store.collections import CollectionInfo, ReindexMark
from sentinel_store.milvus import schema
from tests.power_cut import PowerCut
from tests.search_server.milvus.test_lite_faults import INFO, deadline, ids, opened, rows


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PowerCut:
    (tmp_path / "data").mkdir()
    return PowerCut(tmp_path / "data", monkeypatch)


@pytest.fixture
async def store(tmp_path: Path, disk: PowerCut) -> AsyncIterator[SearchStore]:
    async with opened(tmp_path / "data" / "milvus.db") as store:
        await store.create_collection(INFO, deadline())
        yield store
    disk.close()


async def on_disk(disk: PowerCut, tmp_path: Path) -> set[str]:
    """The ids after a power cut now."""
    copy = tmp_path / "copy"
    disk.rebuild(copy)
    try:
        async with opened(copy / "milvus.db") as store:
            return await ids(store)
    finally:
        shutil.rmtree(copy)


async def test_upserts_deletes_flushes_and_compactions(
    tmp_path: Path, disk: PowerCut, store: SearchStore
) -> None:
    expected: set[str] = set()
    for n in range(6):  # the fourth flush merges segments
        await store.upsert(INFO, rows(n * 10, n * 10 + 10), deadline())
        expected |= {f"i{number}" for number in range(n * 10, n * 10 + 10)}
        assert await on_disk(disk, tmp_path) == expected
        await store.delete(INFO, schema.with_ids([f"i{n * 10 + 3}"]), deadline())
        expected.remove(f"i{n * 10 + 3}")
        assert await on_disk(disk, tmp_path) == expected
        await store.flush("c")
        assert await on_disk(disk, tmp_path) == expected


async def test_collections_aliases_and_properties(
    tmp_path: Path, disk: PowerCut, store: SearchStore
) -> None:
    await store.create_collection(CollectionInfo("d", INFO.model, 4, {}), deadline())
    await store.aliases.point("live", "c", deadline())
    await store.aliases.point("live", "d", deadline())
    await store.set_reindex("c", ReindexMark("d", "run", dual_write=True), deadline())
    disk.rebuild(tmp_path / "copy")
    async with opened(tmp_path / "copy" / "milvus.db") as copy:
        assert await copy.list_collections(deadline()) == ["c", "d"]
        assert await copy.aliases.resolve("live", deadline()) == "d"
        info = await copy.describe_collection("c", deadline())
        assert info is not None
        assert info.reindex is not None
    await store.aliases.remove("live", deadline())
    await store.drop_collection("d", deadline())
    disk.rebuild(tmp_path / "later")
    async with opened(tmp_path / "later" / "milvus.db") as copy:
        assert await copy.list_collections(deadline()) == ["c"]
