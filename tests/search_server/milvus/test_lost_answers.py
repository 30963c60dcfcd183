"""A server's answer to a write is lost: nothing is acknowledged, and a retry doubles nothing."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator

import numpy as np
import pytest

from search_server.milvus.search_store import SearchStore
from sentinel_core.calls import Deadline
from sentinel_core.errors import SentinelError
from sentinel_store.collections import CollectionInfo
from sentinel_store.items import Row
from sentinel_store.milvus import schema
from sentinel_store.values import ModelRef
from tests.search_server.milvus import milvus_front
from tests.search_server.milvus.milvus_front import MilvusFront
from tests.waiting import eventually

pytestmark = pytest.mark.milvus


def deadline(seconds: float = 30.0) -> Deadline:
    return Deadline.after(None, default_s=seconds)


@pytest.fixture
def front(milvus_server_uri: str) -> Iterator[MilvusFront]:
    with milvus_front.before(milvus_server_uri) as front:
        yield front


@pytest.fixture
async def store(front: MilvusFront) -> AsyncIterator[SearchStore]:
    store = SearchStore(front.uri, "", 4)
    yield store
    await store.close()


@pytest.mark.parametrize("what", ["Upsert", "Delete"])
async def test_a_write_whose_answer_is_lost_fails_and_may_be_sent_again(
    front: MilvusFront, store: SearchStore, what: str
) -> None:
    info = CollectionInfo(f"c_{uuid.uuid4().hex}", ModelRef("m", "r", "f"), 4, {})
    rows = [Row(f"i{n}", "d" * 64, "", "", {}, np.ones(4, np.float32)) for n in range(10)]
    await store.create_collection(info, deadline())
    if what == "Delete":
        await store.upsert(info, rows, deadline())

    async def write(seconds: float) -> None:
        if what == "Upsert":
            await store.upsert(info, rows, deadline(seconds))
        else:
            await store.delete(info, schema.with_ids(["i1", "i2"]), deadline(seconds))

    with front.holding(what) as held:
        for _ in range(2):
            with pytest.raises(SentinelError) as caught:
                await write(1.5)
            assert caught.value.code.name in ("DEADLINE_EXCEEDED", "UNAVAILABLE")
        assert held.begun.is_set()
        held.release()
    await write(30.0)
    left = {f"i{n}" for n in range(10)} - ({"i1", "i2"} if what == "Delete" else set())
    found = [row.id for row in await store.page(info, "", "", 100, deadline())]
    assert (set(found), len(found)) == (left, len(left))
    assert await store.count(info, "", deadline()) == len(left)
    await store.drop_collection(info.name, deadline())


async def test_no_attempt_to_write_outlives_its_call(
    front: MilvusFront, store: SearchStore
) -> None:
    """Or it could undo what is acknowledged later."""
    info = CollectionInfo(f"c_{uuid.uuid4().hex}", ModelRef("m", "r", "f"), 4, {})
    await store.create_collection(info, deadline())
    rows = [Row("i", "d" * 64, "", "", {}, np.ones(4, np.float32))]
    soon = deadline(1.5)
    with front.failing("Upsert", 0.4), pytest.raises(SentinelError):
        await store.upsert(info, rows, soon)
    assert front.counts["Upsert"] > 1
    assert max(front.ends["Upsert"]) < soon.at + 0.1
    await store.drop_collection(info.name, deadline())


async def test_a_caller_who_leaves_begins_no_other_attempt(
    front: MilvusFront, store: SearchStore
) -> None:
    info = CollectionInfo(f"c_{uuid.uuid4().hex}", ModelRef("m", "r", "f"), 4, {})
    await store.create_collection(info, deadline())
    rows = [Row("i", "d" * 64, "", "", {}, np.ones(4, np.float32))]
    with front.failing("Upsert", 0.4):
        write = asyncio.create_task(store.upsert(info, rows, deadline(5.0)))
        await eventually(lambda: front.counts["Upsert"])
        write.cancel()
        await asyncio.wait({write})
        await asyncio.sleep(1.0)
    assert front.counts["Upsert"] == 1
    await store.drop_collection(info.name, deadline())
