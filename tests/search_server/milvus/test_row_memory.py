"""Rows get their memory before they are read, by the largest that their collection has shown."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from search_server.milvus.row_memory import RowMemory
from sentinel_core.calls import Deadline
from sentinel_core.errors import ResourceExhausted
from sentinel_core.memory import MemoryBudget
from sentinel_core.metrics import ServerMetrics
from sentinel_store.collections import CollectionInfo, ModelRef
from sentinel_store.items import Row

MIB = 1024 * 1024


def collection(name: str) -> CollectionInfo:
    return CollectionInfo(name, ModelRef("m", "r", "f"), 16, {})


def row(size: int) -> Row:
    return Row("id", "d", "", "x" * size, {}, None)


def later() -> Deadline:
    return Deadline.within(30)


@pytest.fixture
def budget() -> MemoryBudget:
    return MemoryBudget(1024 * MIB, ServerMetrics("gateway", CollectorRegistry()))


def test_blocks_are_smaller_until_rows_are_known_to_be_small(budget: MemoryBudget) -> None:
    rows = RowMemory(budget)
    photos, books = collection("photos"), collection("books")
    assert rows.at_once(photos) == 64
    rows.note(photos, [row(100)] * 3)
    assert rows.at_once(photos) == 500
    rows.note(books, [row(100), row(400_000), row(100)])
    assert rows.at_once(books) == 10
    rows.note(books, [row(100)])  # the largest counts
    assert rows.at_once(books) == 10
    assert rows.at_once(photos) == 500


def test_a_single_row_is_always_read(budget: MemoryBudget) -> None:
    rows = RowMemory(budget)
    rows.note(collection("books"), [row(10 * MIB)])
    assert rows.at_once(collection("books")) == 1


async def test_reads_wait_for_memory_and_are_refused_without(budget: MemoryBudget) -> None:
    rows = RowMemory(budget)
    books = collection("books")
    rows.note(books, [row(MIB)])
    async with rows.share(books, 200, later()):
        assert budget.used > 600 * MIB
        with pytest.raises(ResourceExhausted) as caught:
            async with rows.share(books, 100, Deadline.within(0.05)):
                pass
    assert caught.value.reason == "MEMORY_EXHAUSTED"
    async with rows.share(books, 100, later()) as share:
        before = budget.used
        rows.fetched(share)  # the rows stay, their copies are gone
        assert budget.used == before // 3
    async with rows.share(books, 10_000, later()):  # at most what one share may have
        assert budget.used == budget.largest
    assert budget.used == 0
