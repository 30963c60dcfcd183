from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from sentinel_client import (
    AsyncSentinelClient,
    ClientConfig,
    DeadlineExceeded,
    Hedging,
    Item,
    NotFound,
    Timeouts,
)
from sentinel_client._hedging import Hedges
from sentinel_client._retry_budget import RetryBudget
from sentinel_core import errors as core
from tests.client.fake_gateway import FakeGateway, hit

PROMPT = 0.05  # seconds after which a test's call is slow


@pytest.fixture(autouse=True)
def _name_of_the_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the secure mode: certificates name hosts, and a list of addresses has no name."""
    monkeypatch.setenv("SENTINEL_TLS_SERVER_NAME", "localhost")


@pytest.fixture
def other() -> Any:
    fake = FakeGateway()
    yield fake
    fake.close()


@pytest.fixture
async def client(gateway: FakeGateway, other: FakeGateway) -> AsyncIterator[AsyncSentinelClient]:
    """A client that has called both gateways, so that its next two calls go to one each."""
    for one in (gateway, other):
        one.hits = [hit(rank, 1 / rank) for rank in range(1, 9)]
        one.add_collection("c")
    config = ClientConfig(
        hedging=Hedging(after=PROMPT), timeouts=Timeouts(search=20, read=20, upsert=20)
    )
    address = f"ipv4:{gateway.address},{other.address}"
    async with AsyncSentinelClient(address, config=config) as client:
        while not (gateway.calls["GetCollection"] and other.calls["GetCollection"]):
            await client.get_collection("c")
        yield client


READS: dict[str, Callable[[AsyncSentinelClient], Any]] = {
    "Search": lambda client: client.search("x", collection="c"),
    "SearchPage": lambda client: client.search_page("x", collection="c"),
    "BatchSearch": lambda client: client.batch_search(["x"], collection="c"),
    "GetItems": lambda client: client.get_items(["a"], collection="c"),
    "GetCollection": lambda client: client.get_collection("c"),
    "ListCollections": lambda client: client.list_collections(),
    "Embed": lambda client: client.embed("1"),
    "Rank": lambda client: client.rank("1", ["2"]),
}


@pytest.mark.parametrize("method", READS)
async def test_a_read_that_one_gateway_keeps_waiting_is_answered_by_the_other(
    gateway: FakeGateway, other: FakeGateway, client: AsyncSentinelClient, method: str
) -> None:
    gateway.stall()
    for _ in range(2):  # at least one of them goes to the stalled one first
        assert await READS[method](client) is not None
    assert gateway.calls[method]
    # The call that lost is cancelled.
    assert await asyncio.to_thread(gateway.cancelled.wait, 20)


async def test_a_stream_goes_on_where_its_first_message_came_from(
    gateway: FakeGateway, other: FakeGateway, client: AsyncSentinelClient
) -> None:
    gateway.stall()
    for _ in range(2):
        hits = [one.rank async for one in client.stream_search("x", collection="c", limit=8)]
        assert hits == list(range(1, 9))


async def test_no_write_is_sent_twice(
    gateway: FakeGateway, other: FakeGateway, client: AsyncSentinelClient
) -> None:
    gateway.stall()
    other.stall()
    with pytest.raises(DeadlineExceeded):
        await client.upsert([Item(text="x")], collection="c", timeout=10 * PROMPT)
    assert len(gateway.calls["UpsertItems"]) + len(other.calls["UpsertItems"]) == 1


async def test_bulk_embedding_is_not_sent_twice(
    gateway: FakeGateway, other: FakeGateway, client: AsyncSentinelClient
) -> None:
    gateway.stall()
    other.stall()
    with pytest.raises(DeadlineExceeded):
        async for _ in client.embed_many(["1"], timeout=10 * PROMPT):
            pass
    assert len(gateway.calls["Embed"]) + len(other.calls["Embed"]) == 1


async def test_without_the_option_nothing_is_sent_twice(
    gateway: FakeGateway, other: FakeGateway
) -> None:
    gateway.stall()
    other.stall()
    async with AsyncSentinelClient(f"ipv4:{gateway.address},{other.address}") as client:
        with pytest.raises(DeadlineExceeded):
            await client.search("x", collection="c", timeout=10 * PROMPT)
    assert len(gateway.calls["Search"]) + len(other.calls["Search"]) == 1


async def test_an_error_that_all_would_give_is_told_at_once(
    gateway: FakeGateway, other: FakeGateway, client: AsyncSentinelClient
) -> None:
    for one in (gateway, other):
        one.failures["GetItems"].append(core.NotFound("COLLECTION_NOT_FOUND", "no"))
    with pytest.raises(NotFound):
        await client.get_items(["a"], collection="c")


async def test_closing_the_client_ends_hedged_calls(
    gateway: FakeGateway, other: FakeGateway, client: AsyncSentinelClient
) -> None:
    gateway.stall()
    other.stall()
    call = asyncio.ensure_future(client.search_page("x", collection="c"))
    for one in (gateway, other):
        assert await asyncio.to_thread(one.entered.wait, 20)
    await client.close()
    with pytest.raises(RuntimeError, match="closed during the call"):
        await call


# The rules, without gateways


class Answer:
    """A call whose answer the test gives."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.was_cancelled = False

    def cancel(self) -> None:
        self.was_cancelled = True


class Starts:
    """Starts calls, and wakes who waits for the next one."""

    def __init__(self) -> None:
        self.calls: list[Answer] = []
        self.more = asyncio.Event()

    def __call__(self) -> tuple[Answer, asyncio.Future[str]]:
        self.calls.append(Answer())
        self.more.set()
        return self.calls[-1], self.calls[-1].answer

    async def nth(self, number: int) -> Answer:
        async with asyncio.timeout(20):
            while len(self.calls) < number:
                self.more.clear()
                await self.more.wait()
        return self.calls[number - 1]


class Final(Exception):
    pass


def first(hedges: Hedges, starts: Starts) -> asyncio.Task[tuple[Any, Any]]:
    running = hedges.first("m", starts, is_final=lambda error: isinstance(error, Final))
    return asyncio.create_task(running)


def spent() -> RetryBudget:
    budget = RetryBudget()
    while budget.take():
        pass
    return budget


async def test_the_first_answer_wins_and_the_others_are_cancelled() -> None:
    starts = Starts()
    running = first(Hedges(Hedging(after=0.01, max_attempts=3), RetryBudget()), starts)
    last = await starts.nth(3)
    last.answer.set_result("third")
    assert await running == (last, "third")
    assert [one.was_cancelled for one in starts.calls] == [True, True, False]
    assert starts.calls[0].answer.cancelled()


async def test_while_one_runs_the_failure_of_another_is_not_the_end() -> None:
    starts = Starts()
    running = first(Hedges(Hedging(after=0.01), RetryBudget()), starts)
    (await starts.nth(2)).answer.set_exception(OSError("gone"))
    starts.calls[0].answer.set_result("first")
    assert (await running)[1] == "first"


async def test_when_all_have_failed_the_last_error_is_raised() -> None:
    starts = Starts()
    running = first(Hedges(Hedging(after=0.01), RetryBudget()), starts)
    (await starts.nth(2)).answer.set_exception(OSError("second"))
    starts.calls[0].answer.set_exception(OSError("first"))
    with pytest.raises(OSError, match="second"):
        await running


async def test_a_final_error_ends_all() -> None:
    starts = Starts()
    running = first(Hedges(Hedging(after=0.01), RetryBudget()), starts)
    (await starts.nth(2)).answer.set_exception(Final())
    with pytest.raises(Final):
        await running
    assert starts.calls[0].was_cancelled


async def test_a_spent_budget_sends_nothing_twice() -> None:
    starts = Starts()
    running = first(Hedges(Hedging(after=0.01), spent()), starts)
    only = await starts.nth(1)
    await asyncio.sleep(0.1)  # to see that nothing more is started
    only.answer.set_result("slow")
    assert (await running)[1] == "slow"
    assert len(starts.calls) == 1


async def test_hedges_count_as_retries() -> None:
    budget, starts = RetryBudget(clock=lambda: 0.0), Starts()
    hedges = Hedges(Hedging(after=0.001, max_attempts=5), budget)
    for number in (5, 10, 13):  # ten in ten seconds are free
        running = first(hedges, starts)
        last = await starts.nth(number)
        if number == 13:
            await asyncio.sleep(0.1)  # to see that nothing more is started
        last.answer.set_result("")
        await running
    assert len(starts.calls) == 13


async def test_slow_is_what_takes_longer_than_most_calls_of_the_method() -> None:
    now = 0.0
    hedges = Hedges(Hedging(), RetryBudget(), clock=lambda: now)
    for number in range(1, 21):
        assert hedges.delay("m") is None
        starts = Starts()
        running = first(hedges, starts)
        call = await starts.nth(1)
        now += number / 100
        call.answer.set_result("")
        await running
    assert hedges.delay("m") == pytest.approx(0.2)
    assert hedges.delay("another") is None


@pytest.mark.parametrize("wrong", [{"after": 0}, {"after": -1}, {"max_attempts": 1}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Hedging(**wrong)


def test_it_is_off_by_default() -> None:
    assert ClientConfig().hedging is None
