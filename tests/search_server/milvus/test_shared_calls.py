"""Searches that share a call to Milvus: which do, what each gets, and who may leave."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from search_server.milvus.vector_search import SharedCalls
from sentinel_core.calls import Deadline
from sentinel_core.errors import DeadlineExceeded, Unavailable
from sentinel_store.values import FloatArray
from tests import processes
from tests.processes import in_flight
from tests.search_server.conftest import connect, photo_item, text
from tests.search_server.milvus import milvus_front


class Milvus:
    """Answers each vector with its number, when it is told to."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[int]]] = []
        self.cancelled = 0
        self.go = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(
        self, key: str, vectors: Sequence[FloatArray], deadline: Deadline
    ) -> list[str]:
        numbers = [int(vector[0]) for vector in vectors]
        self.calls.append((key, numbers))
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        return [f"{key}{number}" for number in numbers]


@pytest.fixture
async def milvus() -> Milvus:
    return Milvus()


@pytest.fixture
async def shared(milvus: Milvus) -> SharedCalls[str, str]:
    return SharedCalls(milvus)


def asked(
    shared: SharedCalls[str, str], number: int, *, key: str = "a", most: int = 4, seconds: float = 5
) -> asyncio.Task[str]:
    vector = np.array([number], np.float32)
    deadline = Deadline.after(seconds, default_s=60)
    return asyncio.create_task(shared.search(key, vector, deadline, most=most))


async def begun() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_the_first_two_go_at_once_and_the_rest_share_what_comes_next(
    milvus: Milvus, shared: SharedCalls[str, str]
) -> None:
    searches = [asked(shared, number) for number in range(9)]
    await begun()
    assert milvus.calls == [("a", [0]), ("a", [1])]
    milvus.go.set()
    assert await asyncio.gather(*searches) == [f"a{number}" for number in range(9)]
    assert milvus.calls[2:] == [("a", [2, 3, 4, 5]), ("a", [6, 7, 8])]


async def test_one_after_the_other_never_waits(
    milvus: Milvus, shared: SharedCalls[str, str]
) -> None:
    milvus.go.set()
    for number in range(5):
        assert await asked(shared, number) == f"a{number}"
    assert [len(numbers) for _, numbers in milvus.calls] == [1] * 5


async def test_what_is_not_alike_neither_shares_nor_waits(
    milvus: Milvus, shared: SharedCalls[str, str]
) -> None:
    searches = [asked(shared, number, key=key) for key in "abc" for number in range(3)]
    await begun()
    assert sorted(key for key, _ in milvus.calls) == list("aabbcc")
    milvus.go.set()
    assert await asyncio.gather(*searches) == [f"{key}{n}" for key in "abc" for n in range(3)]
    assert all(len(numbers) == 1 for _, numbers in milvus.calls)


async def test_an_error_reaches_all_of_a_call_and_nobody_else(
    milvus: Milvus, shared: SharedCalls[str, str]
) -> None:
    searches = [asked(shared, number) for number in range(4)]
    await begun()
    milvus.error = Unavailable("STORE_UNAVAILABLE", "away", retry_after_s=2.0)
    milvus.go.set()
    errors = await asyncio.gather(*searches, return_exceptions=True)
    assert [getattr(error, "reason", None) for error in errors] == ["STORE_UNAVAILABLE"] * 4
    assert errors[2] is not errors[3]  # each may be changed on its own
    assert [error.retry_after_s for error in errors if isinstance(error, Unavailable)] == [2.0] * 4
    milvus.error = None
    assert await asked(shared, 7) == "a7"


async def test_one_that_leaves_takes_nobody_along(
    milvus: Milvus, shared: SharedCalls[str, str]
) -> None:
    searches = [asked(shared, number) for number in range(5)]
    await begun()
    searches[3].cancel()  # it waits, and is not even asked for
    await begun()
    milvus.go.set()
    assert [await searches[number] for number in (0, 1, 2, 4)] == ["a0", "a1", "a2", "a4"]
    assert milvus.calls[2:] == [("a", [2, 4])]


async def test_a_call_is_cancelled_when_the_last_who_shares_it_leaves(
    milvus: Milvus, shared: SharedCalls[str, str]
) -> None:
    searches = [asked(shared, number) for number in range(4)]
    await begun()
    searches[0].cancel()
    await begun()
    assert milvus.calls[2:] == [("a", [2, 3])]  # its own call was cancelled, and made room
    assert milvus.cancelled == 1
    searches[2].cancel()
    await begun()
    assert milvus.cancelled == 1
    searches[3].cancel()
    await begun()
    assert milvus.cancelled == 2
    milvus.go.set()
    assert await searches[1] == "a1"
    assert await asked(shared, 9) == "a9"


async def test_a_short_deadline_ends_one_search_and_not_the_call(
    milvus: Milvus, shared: SharedCalls[str, str]
) -> None:
    searches = [asked(shared, number) for number in range(3)]
    hasty = asked(shared, 3, seconds=0.1)
    with pytest.raises(DeadlineExceeded) as caught:
        await hasty
    assert caught.value.reason == "OUT_OF_TIME"
    milvus.go.set()
    assert await asyncio.gather(*searches) == ["a0", "a1", "a2"]


@pytest.mark.milvus
def test_searches_at_once_get_their_own_hits_by_fewer_calls(
    milvus_server_uri: str, worker: processes.Server, tmp_path: Path
) -> None:
    words = ["a cat", "a cup of coffee", "a rocket", "bricks", "the moon", "coins", "a horse"] * 3
    with milvus_front.before(milvus_server_uri) as front:
        flags = processes.gateway_flags(tmp_path, front.uri, worker.address)
        with processes.running(tmp_path, "search_server", *flags) as server:
            gateway = connect(server.address)
            collection = gateway.create()
            names = ("chelsea", "coffee", "rocket", "brick", "moon", "coins", "horse")
            gateway.upsert(collection, *map(photo_item, names))

            def hits(one: str) -> list[tuple[str, float]]:
                found = gateway.hits(collection, text(one), limit=3)
                return [(hit.id, round(hit.score, 5)) for hit in found]

            alone = {one: hits(one) for one in words}
            before = front.counts["Search"]
            with front.holding("Search") as call, ThreadPoolExecutor(len(words)) as callers:
                found = callers.map(hits, words)
                assert call.begun.wait(10)
                while in_flight(server) < len(words):
                    time.sleep(0.05)
                time.sleep(0.5)  # embedded, too
                call.release()
                assert list(found) == [alone[one] for one in words]
            assert front.counts["Search"] - before <= 4
