"""Reads of Milvus Lite: what they find beside a flush, and that they read no more than needed."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from milvus_lite.engine import collection as engine
from milvus_lite.engine.collection import Collection
from milvus_lite.storage.memtable import MemTable
from milvus_lite.storage.segment import Segment

from search_server.milvus import filters
from search_server.milvus.search_store import SearchStore
from search_server.types.queries import Comparison, Group, Junction, Operator
from search_server.types.searches import Selection
from sentinel_core.calls import Deadline
from sentinel_core.errors import DeadlineExceeded
from sentinel_store.collections import CollectionInfo
from sentinel_store.items import Row
from sentinel_store.milvus import lite_reads, lite_rows, schema
from sentinel_store.milvus.lite import LiteGate
from sentinel_store.values import Consistency, FieldType, ModelRef

INFO = CollectionInfo("c", ModelRef("m", "r", "f"), 4, {})
IDS = [f"i{number}" for number in range(5)]


def deadline(seconds: float = 30.0) -> Deadline:
    return Deadline.after(None, default_s=seconds)


async def counted(store: SearchStore) -> int:
    return await store.count(INFO, "", deadline())


async def looked_up(store: SearchStore) -> int:
    return len(await store.get(INFO, IDS, deadline()))


async def searched(store: SearchStore) -> int:
    selection = Selection(INFO, "", Consistency.SESSION, deadline())
    vector = np.ones(4, np.float32)
    found = await store.vectors.candidates(
        selection, vector, limit=9, include_vectors=False, field=""
    )
    return len(found)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SearchStore]:
    """A store with five rows in memory."""
    store = SearchStore(str(tmp_path / "milvus.db"), "", 8)
    await store.create_collection(INFO, deadline())
    rows = [Row(item_id, "d" * 64, "", "", {}, np.ones(4, np.float32)) for item_id in IDS]
    await store.upsert(INFO, rows, deadline())
    yield store
    await store.close()


@pytest.mark.parametrize("read", [counted, looked_up, searched])
async def test_a_flush_in_the_middle_of_a_read_hides_nothing(
    store: SearchStore,
    monkeypatch: pytest.MonkeyPatch,
    read: Callable[[SearchStore], Awaitable[int]],
) -> None:
    """The read has seen the segments, and looks into memory when the flush has begun."""
    segments_seen, flush_begun = threading.Event(), threading.Event()
    read_snapshot, execute_flush = Collection._read_snapshot, engine.execute_flush

    def see(self: Collection) -> object:
        snapshot = read_snapshot(self)
        segments_seen.set()
        flush_begun.wait(1.0)  # which it does not, where reads and flushes keep apart
        return snapshot

    def begin(**options: Any) -> None:
        flush_begun.set()
        execute_flush(**options)

    monkeypatch.setattr(Collection, "_read_snapshot", see)
    monkeypatch.setattr(engine, "execute_flush", begin)
    reading = asyncio.ensure_future(read(store))
    await asyncio.to_thread(segments_seen.wait)
    await asyncio.gather(reading, store.flush("c"))
    assert reading.result() == len(IDS)
    assert flush_begun.is_set()


async def test_a_read_without_time_to_wait_for_a_flush_says_so(
    store: SearchStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    execute_flush = engine.execute_flush

    def slow(**options: Any) -> None:
        begun.set()
        go_on.wait()
        execute_flush(**options)

    monkeypatch.setattr(engine, "execute_flush", slow)
    flush = asyncio.create_task(store.flush("c"))
    await asyncio.to_thread(begun.wait)
    with pytest.raises(DeadlineExceeded) as caught:
        await store.count(INFO, "", deadline(0.1))
    assert caught.value.reason == "OUT_OF_TIME"
    go_on.set()
    await flush
    assert await counted(store) == len(IDS)


def test_reads_and_writes_let_each_other_in() -> None:
    gate, done = LiteGate(), threading.Event()
    inside: list[str] = []
    reads, writes = [0], [0]

    def use(kind: str, counter: list[int]) -> None:
        while not done.is_set():
            with gate.reading(30.0) if kind == "read" else gate.writing():
                inside.append(kind)
                time.sleep(0.001)
                others = [other for other in inside if other == "write"]
                assert len(others) == (kind == "write"), inside
                inside.remove(kind)
                counter[0] += 1
            if reads[0] >= 50 and writes[0] >= 50:
                done.set()

    with ThreadPoolExecutor(5) as threads:
        uses = [threads.submit(use, "write", writes)]
        uses += [threads.submit(use, "read", reads) for _ in range(4)]
        assert done.wait(60.0), (reads, writes)
    for one in uses:
        one.result()


@pytest.mark.parametrize("flushed", [False, True])
async def test_a_read_makes_no_objects_of_columns_that_nobody_asked_for(
    store: SearchStore, monkeypatch: pytest.MonkeyPatch, flushed: bool
) -> None:
    if flushed:
        await store.flush("c")
    made: list[set[str]] = []
    read = lite_rows.read

    def spy(table: Any, rows: Sequence[int], columns: Sequence[str]) -> Any:
        found = read(table, rows, columns)
        made.extend(set(row) for row in found)
        return found

    for module in (lite_rows, lite_reads):
        monkeypatch.setattr(module, "read", spy)
    for owner, name in ((Segment, "row_to_dict"), (MemTable, "_row_to_dict")):
        monkeypatch.setattr(owner, name, None)  # those make whole rows
    plain = {"id", "digest", "image", "text", "fields"}
    found = await store.get(INFO, IDS[:2], deadline())
    assert [(row.id, row.digest, row.fields) for row in found] == [
        (item_id, "d" * 64, {}) for item_id in IDS[:2]
    ]
    assert made == [plain] * 2
    assert [row.id for row in await store.page(INFO, "", "i1", 2, deadline())] == ["i2", "i3"]
    assert made == [plain] * 4
    selection = Selection(INFO, "", Consistency.SESSION, deadline())
    vector = np.ones(4, np.float32)
    [hits] = await store.vectors.search(selection, [vector], limit=9, include_vectors=False)
    assert sorted(row.id for row, _ in hits) == IDS
    assert made[4:] == [plain - {"id"}] * 5
    assert await store.count(INFO, 'digest != "x"', deadline()) == 5
    assert await store.ids(INFO, "", "i1", 2, deadline()) == ["i2", "i3"]
    assert await searched(store) == 5
    assert len(made) == 9  # ids are known without a read
    with_vectors = await store.get(INFO, IDS[:1], deadline(), include_vectors=True)
    assert with_vectors[0].vector is not None


@pytest.mark.parametrize("item_id", ['"', "\\", "\n", "]", '", "', "ü", "\u2028", "'"])
async def test_ids_of_every_kind_are_found_by_themselves(store: SearchStore, item_id: str) -> None:
    row = Row(item_id, "e" * 64, "", "", {}, np.ones(4, np.float32))
    await store.upsert(INFO, [row], deadline())
    assert [one.digest for one in await store.get(INFO, [item_id], deadline())] == ["e" * 64]
    await store.delete(INFO, schema.with_ids([item_id]), deadline())
    assert await store.get(INFO, [item_id], deadline()) == []
    assert await counted(store) == 5


async def test_a_long_text_is_looked_for_in_long_texts(tmp_path: Path) -> None:
    """As a regular expression, that took minutes of all cores' time."""
    store = SearchStore(str(tmp_path / "milvus.db"), "", 8)
    info = CollectionInfo(
        "c",
        ModelRef("m", "r", "f"),
        4,
        {"name": FieldType.STRING, "tags": FieldType.STRING_LIST},
    )
    await store.create_collection(info, deadline())
    long = "a" * 59_000
    rows = [
        Row(item_id, "d" * 64, "", "", {"name": long, "tags": ["x"]}, np.ones(4, np.float32))
        for item_id in IDS
    ]
    await store.upsert(info, rows, deadline())
    by_tag = Comparison("tags", Operator.CONTAINS, ("x",))  # Lite reads those row by row
    for text, count in ((f"{long[30_000:]}b", 0), (long[30_000:], len(IDS))):
        within = Comparison("name", Operator.CONTAINS, (text,))
        for filter_ in (within, Group(Junction.ALL, (within, by_tag))):
            expression = filters.compile_filter(filter_, info.fields)
            assert await store.count(info, expression, deadline(10)) == count
    await store.close()
