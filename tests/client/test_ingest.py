from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from sentinel_client import (
    AsyncSentinelClient,
    ClientConfig,
    DeadlineExceeded,
    IngestAck,
    InvalidArgument,
    Item,
    RetryPolicy,
    SentinelClient,
    Unavailable,
    _ingest,
)
from sentinel_client._connection import Attempts, Connection
from sentinel_core import errors as core
from tests.client.fake_gateway import FakeGateway

CONFIG = ClientConfig(retry=RetryPolicy(initial_backoff=0.01), upsert_max_items=4)


@pytest.fixture
async def client(gateway: FakeGateway) -> AsyncIterator[AsyncSentinelClient]:
    gateway.advice.suggested_batch_size = 4
    async with AsyncSentinelClient(gateway.address, config=CONFIG) as client:
        yield client


def texts(count: int) -> list[Item]:
    return [Item(id=f"{number:03}", text=f"text {number}") for number in range(count)]


async def all_of(acks: AsyncIterator[IngestAck]) -> list[IngestAck]:
    return [ack async for ack in acks]


def ids(acks: list[IngestAck]) -> list[str]:
    return [item.id for ack in acks for item in ack.items]


async def test_every_item_comes_back_once_in_order(
    gateway: FakeGateway, client: AsyncSentinelClient
) -> None:
    items = texts(30)
    acks = await all_of(client.ingest(iter(items), collection="c"))
    assert ids(acks) == [item.id for item in items]
    assert acks[0].items[0] is items[0]
    assert sum(ack.stored_count for ack in acks) == 30 == len(gateway.items)
    digests = [digest for ack in acks for digest in ack.digests]
    assert digests == [hashlib.sha256(str(item.text).encode()).hexdigest() for item in items]
    again = await all_of(client.ingest(items, collection="c"))
    assert sum(ack.unchanged_count for ack in again) == 30


async def test_batches_follow_the_servers_advice(
    gateway: FakeGateway, client: AsyncSentinelClient
) -> None:
    gateway.advice.suggested_batch_size = 2  # less than the client would send by itself
    await all_of(client.ingest(texts(9), collection="c"))
    assert max(len(batch.items) for batch in gateway.calls.pop("IngestBatch")) == 2
    gateway.advice.suggested_batch_size = 7
    await all_of(client.ingest(texts(40), collection="c"))
    sizes = [len(batch.items) for batch in gateway.calls["IngestBatch"]]
    assert sum(sizes) == 40
    assert sizes[3:-1] == [7] * len(sizes[3:-1])  # the first were cut before the advice came
    sequences = [batch.sequence for batch in gateway.calls["IngestBatch"]]
    assert sequences == sorted(set(sequences))


async def test_no_more_batches_are_on_the_way_than_advised(
    gateway: FakeGateway, client: AsyncSentinelClient
) -> None:
    gateway.ingest.silent_after = 0
    gateway.advice.suggested_batches_in_flight = 2
    read: list[int] = []

    def endless() -> Iterator[Item]:
        for number in range(10_000):
            read.append(number)
            yield Item(id=str(number), text="x")

    with pytest.raises(DeadlineExceeded) as caught:
        await all_of(client.ingest(endless(), collection="c", timeout=0.5))
    assert caught.value.reason == "OUT_OF_TIME"
    # Two on the way, one ready, one cut, one being read.
    assert len(read) <= 5 * CONFIG.upsert_max_items


async def test_failures_stand_beside_their_items(
    gateway: FakeGateway, client: AsyncSentinelClient, tmp_path: Path
) -> None:
    good, bad, gone = Item(image=b"ok"), Item(image=b"BAD"), Item(image=tmp_path / "gone.jpg")
    huge = Item(image=bytes(CONFIG.max_message_bytes))
    acks = await all_of(client.ingest([good, gone, bad, huge, good], collection="c"))
    failed = [(item, error) for ack in acks for item, error in ack.failed_items]
    assert [item for item, _ in failed] == [gone, bad, huge]
    reasons = [error.reason for _, error in failed]
    assert reasons == ["FILE_UNREADABLE", "IMAGE_DECODE_FAILED", "IMAGE_TOO_LARGE"]
    assert sum(ack.stored_count + ack.unchanged_count for ack in acks) == 2


async def test_what_cannot_be_sent_at_all_needs_no_server(tmp_path: Path) -> None:
    async with AsyncSentinelClient("127.0.0.1:1") as client:
        (ack,) = await all_of(client.ingest([Item(image=tmp_path / "gone")], collection="c"))
    assert isinstance(ack.failures[0], InvalidArgument)


@pytest.mark.parametrize("broken", [0, 1, 3])
async def test_a_lost_stream_goes_on_after_the_last_acknowledgement(
    gateway: FakeGateway, client: AsyncSentinelClient, broken: int
) -> None:
    gateway.ingest.break_after = broken
    acks = await all_of(client.ingest(texts(30), collection="c"))
    assert sorted(ids(acks)) == [item.id for item in texts(30)]
    assert len(ids(acks)) == 30
    assert len(gateway.calls["IngestItems"]) == 2
    assert sum(ack.stored_count for ack in acks) == 30  # nothing acknowledged was sent again


async def test_a_draining_gateway_is_left_and_the_rest_goes_to_the_next(
    gateway: FakeGateway, client: AsyncSentinelClient
) -> None:
    gateway.ingest.drain_after = 2
    gateway.failures["IngestItems"].extend([None, core.Unavailable("DRAINING", "bye")])
    acks = await all_of(client.ingest(texts(60), collection="c"))
    assert ids(acks) == [item.id for item in texts(60)]
    assert len(gateway.calls["IngestItems"]) == 3


@pytest.mark.parametrize("more", [[], texts(9)[1:]])
async def test_a_stream_that_ends_as_idle_is_followed_by_another_when_items_come(
    gateway: FakeGateway,
    client: AsyncSentinelClient,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    more: list[Item],
) -> None:
    gateway.ingest.stall_after = 1
    # The second ends the first batch, and cannot be sent itself.
    items = [*texts(1), Item(id="gone", image=tmp_path / "gone"), *more]
    opened: list[str] = []
    has_ended = asyncio.Event()
    open_duplex, pause_or_raise = Connection.open_duplex, Attempts.pause_or_raise

    def note_opening(*args: Any) -> Any:
        opened.append("stream")
        return open_duplex(*args)

    async def note_end(*args: Any, **options: Any) -> None:
        await pause_or_raise(*args, **options)
        has_ended.set()

    monkeypatch.setattr(Connection, "open_duplex", note_opening)
    monkeypatch.setattr(Attempts, "pause_or_raise", note_end)

    async def source() -> AsyncIterator[Item]:
        yield items[0]
        yield items[1]
        await asyncio.wait_for(has_ended.wait(), 20)
        opened.append("items")
        for item in more:
            yield item

    acks = await all_of(client.ingest(source(), collection="c"))
    assert ids(acks) == [item.id for item in items]
    assert opened == ["stream", "items", "stream"][: 3 if more else 2]


async def test_a_gateway_that_ends_every_stream_as_stalled_ends_it(
    gateway: FakeGateway, client: AsyncSentinelClient
) -> None:
    stalled = core.DeadlineExceeded("STREAM_STALLED", "too slow")
    gateway.failures["IngestItems"].extend([stalled] * 99)
    with pytest.raises(DeadlineExceeded, match="too slow"):
        await all_of(client.ingest(texts(9), collection="c"))
    assert len(gateway.calls["IngestItems"]) == CONFIG.retry.max_attempts


async def test_a_gateway_that_stays_away_ends_it(
    gateway: FakeGateway, client: AsyncSentinelClient
) -> None:
    gateway.failures["IngestItems"].extend([grpc.StatusCode.UNAVAILABLE] * 99)
    with pytest.raises(Unavailable):
        await all_of(client.ingest(texts(9), collection="c"))
    assert len(gateway.calls["IngestItems"]) == CONFIG.retry.max_attempts


async def test_an_error_of_the_whole_stream_is_raised(
    gateway: FakeGateway, client: AsyncSentinelClient
) -> None:
    gateway.failures["IngestItems"].append(core.InvalidArgument("STREAM_INVALID", "no"))
    with pytest.raises(InvalidArgument, match="no"):
        await all_of(client.ingest(texts(9), collection="c"))
    assert len(gateway.calls["IngestItems"]) == 1


async def test_an_item_that_fails_for_a_passing_reason_is_sent_again(
    gateway: FakeGateway, client: AsyncSentinelClient
) -> None:
    gateway.failures["item"].extend([None, core.Unavailable("WORKER_LOST", "lost")] * 2)
    acks = await all_of(client.ingest(texts(6), collection="c"))
    assert sorted(ids(acks)) == [item.id for item in texts(6)]
    assert not any(ack.failures for ack in acks)
    assert len(gateway.items) == 6


async def test_one_that_goes_on_failing_is_told_in_the_end(
    gateway: FakeGateway, client: AsyncSentinelClient
) -> None:
    lost = core.Unavailable("WORKER_LOST", "lost")
    gateway.failures["item"].extend([lost] * CONFIG.retry.max_attempts)
    (ack,) = await all_of(client.ingest(texts(1), collection="c"))
    assert ack.failures[0].reason == "WORKER_LOST"
    assert len(gateway.calls["IngestBatch"]) == CONFIG.retry.max_attempts


async def test_an_error_of_the_source_comes_after_what_was_before_it(
    gateway: FakeGateway, client: AsyncSentinelClient
) -> None:
    def breaking() -> Iterator[Item]:
        yield from texts(6)
        raise ZeroDivisionError

    acks = []
    with pytest.raises(ZeroDivisionError):
        async for ack in client.ingest(breaking(), collection="c"):
            acks.append(ack)
    assert ids(acks) == [item.id for item in texts(6)]


async def test_an_asynchronous_source_is_taken_too(client: AsyncSentinelClient) -> None:
    async def source() -> AsyncIterator[Item]:
        for item in texts(9):
            await asyncio.sleep(0)
            yield item

    acks = await all_of(client.ingest(source(), collection="c"))
    assert ids(acks) == [item.id for item in texts(9)]


async def test_leaving_it_ends_the_call_and_the_reading(
    gateway: FakeGateway, client: AsyncSentinelClient
) -> None:
    read: list[int] = []

    def endless() -> Iterator[Item]:
        while True:
            read.append(1)
            yield Item(text=f"{len(read)}")

    acks = client.ingest(endless(), collection="c")
    await anext(acks)
    await acks.aclose()
    count = len(read)
    await asyncio.sleep(0.1)
    assert len(read) <= count + CONFIG.upsert_max_items  # the pull that was under way


async def test_a_fast_source_fills_no_memory_while_the_caller_is_slow(
    gateway: FakeGateway, client: AsyncSentinelClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_ingest, "_MAX_UNREAD_BYTES", 1_000_000)
    read: list[int] = []

    def endless() -> Iterator[Item]:
        while True:
            read.append(1)
            yield Item(image=b"x" * 100_000 + str(len(read)).encode())

    acks = client.ingest(endless(), collection="c")
    await anext(acks)
    before = -1
    while before != len(read):  # until it rests
        before = len(read)
        await asyncio.sleep(0.3)
    # Ten unread, and of four each: one batch more, three in flight, one ready, one pulled.
    assert before <= 10 + 4 * 6 + 4
    for _ in range(10):
        await anext(acks)
    assert len(read) > before
    await acks.aclose()


def test_the_synchronous_client_ingests_from_a_generator_in_another_thread(
    gateway: FakeGateway,
) -> None:
    threads: set[str] = set()

    def source() -> Iterator[Item]:
        for item in texts(9):
            threads.add(threading.current_thread().name)
            yield item

    with SentinelClient(gateway.address, config=CONFIG) as client:
        acks = list(client.ingest(source(), collection="c"))
    assert ids(acks) == [item.id for item in texts(9)]
    assert not {"sentinel-client", threading.main_thread().name} & threads
