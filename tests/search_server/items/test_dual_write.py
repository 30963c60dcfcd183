"""Which other collection a write must reach, at each step of a reindex."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from search_server.collections.catalog import Catalog
from search_server.items.dual_write import DualWrite
from search_server.milvus.search_store import SearchStore
from sentinel_core.calls import Deadline
from sentinel_store.collections import CollectionInfo, Origin, OriginState, ReindexMark
from sentinel_store.values import ModelRef

OLD = CollectionInfo("old", ModelRef("m", "r", "f1"), 4, {})
NEW = replace(OLD, name="new", model=ModelRef("n", "r", "f2"))


def deadline() -> Deadline:
    return Deadline.within(30.0)


@dataclass
class Reindexed:
    """A source and its target in a real store; each question is a gateway's without a cache."""

    store: SearchStore

    async def set(self, state: OriginState, mark: ReindexMark | None, alias: str) -> None:
        await self.store.set_origin("new", Origin("old", state), deadline())
        await self.store.set_reindex("old", mark, deadline())
        await self.store.aliases.point("now", alias, deadline())

    async def other(self, requested: str, *written: str) -> str | None:
        catalog = Catalog(self.store, None, None)  # type: ignore[arg-type] # only `create` asks
        info = await catalog.get(requested, deadline())
        reached = written or (info.name,)
        found = await DualWrite(catalog).next_target(info, reached, deadline())
        return None if found is None else found.name


@pytest.fixture
async def reindexed(tmp_path: Path) -> AsyncIterator[Reindexed]:
    store = SearchStore(str(tmp_path / "milvus.db"), "", 4)
    await store.create_collection(OLD, deadline())
    await store.create_collection(
        replace(NEW, origin=Origin("old", OriginState.COPYING)), deadline()
    )
    yield Reindexed(store)
    await store.close()


COPYING, VERIFIED, COMPLETE = OriginState.COPYING, OriginState.VERIFIED, OriginState.COMPLETE


async def test_before_the_swap_writes_reach_the_target_once_both_are_kept_equal(
    reindexed: Reindexed,
) -> None:
    await reindexed.set(COPYING, ReindexMark("new", "g/1", dual_write=False), "old")
    assert await reindexed.other("now") is None
    await reindexed.set(COPYING, ReindexMark("new", "g/1", dual_write=True), "old")
    assert await reindexed.other("now") == "new"
    assert await reindexed.other("old") == "new"
    assert await reindexed.other("now", "old", "new") is None


async def test_after_the_swap_writes_by_the_alias_reach_the_source_until_all_have_heard(
    reindexed: Reindexed,
) -> None:
    """Other gateways may still read there."""
    await reindexed.set(VERIFIED, ReindexMark("new", "g/1", dual_write=True), "new")
    assert await reindexed.other("now") == "old"
    assert await reindexed.other("now", "new", "old") is None
    assert await reindexed.other("new") is None  # by its own name: nobody means the source
    assert await reindexed.other("old") == "new"  # by the old meaning
    await reindexed.set(VERIFIED, None, "new")
    assert await reindexed.other("now") is None
    await reindexed.set(COMPLETE, ReindexMark("third", "g/2", dual_write=True), "new")
    assert await reindexed.other("now") is None


async def test_a_source_that_is_deleted_after_the_swap_is_missed_by_nobody(
    reindexed: Reindexed,
) -> None:
    await reindexed.set(VERIFIED, ReindexMark("new", "g/1", dual_write=True), "new")
    await reindexed.store.drop_collection("old", deadline())
    assert await reindexed.other("now") is None
