"""IngestItems: batches up, acknowledgements down."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from search_server.embedders.pool import Capacity
from search_server.items.write_stream import Ack, Advice, Batch, WriteStream, advise
from search_server.items.writer import PreparedBatch
from search_server.settings import GatewaySettings
from search_server.types.items import ItemOutcome, Outcome
from sentinel.common.v1 import content_pb2
from sentinel.search.v1 import item_service_pb2 as pb
from sentinel_core.errors import Unavailable
from sentinel_store.collections import CollectionInfo
from sentinel_store.values import ModelRef
from tests import processes
from tests.search_server.conftest import Gateway, connect, error_info, image, reason_of, string
from tests.search_server.items.ingesting import Stream, picture, picture_item

FAKE = "tests.fakes.worker"


def numbers(messages: list[pb.IngestItemsResponse]) -> list[int]:
    return [m.ack.sequence for m in messages if m.WhichOneof("message") == "ack"]


def test_advice_comes_first_then_acks_in_order_then_a_summary(gateway: Gateway) -> None:
    name = gateway.create()
    with Stream(gateway, name) as stream:
        advice = stream.advice()
        assert advice.suggested_batch_size > 1
        assert advice.suggested_batches_in_flight > 1
        assert not advice.draining
        for number in range(9):
            stream.send(number * 10, *(picture_item(number * 3 + n) for n in range(3)))
        messages = stream.rest()
    assert numbers(messages) == [number * 10 for number in range(9)]
    assert all(m.ack.stored_count == 3 for m in messages[:-1])
    assert messages[-1].summary == pb.IngestSummary(stored_count=27)
    assert gateway.count(name) == 27


def test_an_ack_counts_the_texts_of_which_only_the_beginning_was_read(gateway: Gateway) -> None:
    def item(words: str) -> pb.Item:
        return pb.Item(content=content_pb2.Content(text=words))

    name = gateway.create()
    long = "word " * 1000
    with Stream(gateway, name) as stream:
        stream.send(1, *(item(words) for words in ("short", long, long + "end")))
        ack = stream.ack()
        assert (ack.stored_count, ack.truncated_count) == (3, 2)
        stream.send(2, item(long))
        ack = stream.ack()
        assert (ack.unchanged_count, ack.truncated_count) == (1, 0)


def test_a_failed_item_is_named_by_its_place_and_fails_alone(gateway: Gateway) -> None:
    name = gateway.create()
    with Stream(gateway, name) as stream:
        stream.send(
            1,
            picture_item(1),
            pb.Item(id="cut", content=image(picture(2)[:300])),
            pb.Item(id="empty", content=image(b"")),
            picture_item(3),
            pb.Item(id="odd", content=image(picture(4)), fields={"nope": string("x")}),
        )
        ack = stream.ack()
        assert stream.rest()[-1].summary == pb.IngestSummary(stored_count=2, failed_count=3)
    assert ack.stored_count == 2
    contents = [hashlib.sha256(picture(number)).hexdigest() for number in (1, 3)]
    assert list(ack.digests) == [contents[0], "", "", contents[1], ""]
    assert list(ack.failure_places) == [1, 2, 4]
    assert [(failure.id, reason_of(failure.error)) for failure in ack.failures] == [
        ("cut", "IMAGE_DECODE_FAILED"),
        ("empty", "IMAGE_EMPTY"),
        ("odd", "FIELD_UNKNOWN"),
    ]
    assert gateway.count(name) == 2


def test_the_same_stream_again_changes_nothing(gateway: Gateway) -> None:
    name = gateway.create()
    for expected in (pb.IngestSummary(stored_count=12), pb.IngestSummary(unchanged_count=12)):
        with Stream(gateway, name) as stream:
            for number in range(4):
                stream.send(number, *(picture_item(number * 3 + n) for n in range(3)))
            assert stream.rest()[-1].summary == expected
    assert gateway.count(name) == 12


def test_equal_ids_in_batches_in_flight_end_as_if_stored_in_order(gateway: Gateway) -> None:
    """Each batch changes content and fields of two items that all of them name."""
    name = gateway.create()
    with Stream(gateway, name) as stream:
        for number in range(12):
            item, other = picture_item(number, "same"), picture_item(100 + number, "other")
            item.fields["year"].int_value = other.fields["year"].int_value = number
            stream.send(number, item, picture_item(200 + number), other)
        assert stream.rest()[-1].summary == pb.IngestSummary(stored_count=36)
    for row in gateway.get(name, "same", "other").items:
        assert row.fields["year"].int_value == 11
    assert gateway.count(name) == 14


def test_a_broken_order_is_told_after_the_acks_of_what_came_before(gateway: Gateway) -> None:
    name = gateway.create()
    with Stream(gateway, name) as stream:
        stream.send(5, picture_item(1))
        stream.send(6, picture_item(2))
        stream.send(6, picture_item(3))
        assert [stream.ack().sequence, stream.ack().sequence] == [5, 6]
        with pytest.raises(grpc.RpcError) as caught:
            stream.next()
    assert error_info(caught.value) == ("INVALID_ARGUMENT", "STREAM_INVALID")
    assert gateway.count(name) == 2


@pytest.fixture
def slow_worker(tmp_path: Path) -> Iterator[processes.Server]:
    environment = {"FAKE_SECONDS_PER_BATCH": "0.1"}
    with processes.running(tmp_path / "w", FAKE, environment=environment) as server:
        yield server


def flags(folder: Path, *workers: str) -> list[str]:
    return processes.gateway_flags(folder, str(folder / "milvus.db"), *workers)


def test_a_stopping_gateway_says_so_and_acknowledges_what_it_read(
    tmp_path: Path, slow_worker: processes.Server
) -> None:
    with processes.running(tmp_path, "search_server", *flags(tmp_path, slow_worker.address)) as one:
        gateway = connect(one.address)
        gateway.create("album")
        with Stream(gateway, "album") as stream:
            stream.advice()
            for number in range(6):
                stream.send(number, *(picture_item(number * 10 + n) for n in range(10)))
            stream.ack()
            one.process.terminate()
            while not (message := stream.next()).advice.draining:
                pass
            messages = stream.rest()
        assert message.advice.suggested_batch_size
        assert messages[-1].summary == pb.IngestSummary(stored_count=60)
        assert one.process.wait(30) == 0


def test_a_caller_that_ignores_the_draining_resumes_on_another_gateway(
    tmp_path: Path, slow_worker: processes.Server
) -> None:
    def send(stream: Stream, first: int, last: int) -> None:
        for number in range(first, last):
            stream.send(number, *(picture_item(number * 3 + n) for n in range(3)))

    acknowledged = 0
    drained = [*flags(tmp_path, slow_worker.address), "--drain-seconds", "4"]
    with processes.running(tmp_path, "search_server", *drained) as one:
        gateway = connect(one.address)
        gateway.create("album")
        with Stream(gateway, "album") as stream:
            send(stream, 0, 500)
            with pytest.raises(grpc.RpcError) as caught:
                while True:
                    assert stream.ack().sequence == acknowledged
                    acknowledged += 1
                    if acknowledged == 3:
                        one.process.terminate()
        assert error_info(caught.value) == ("UNAVAILABLE", "DRAINING")
        assert one.process.wait(30) == 0
    with processes.running(tmp_path, "search_server", *flags(tmp_path, slow_worker.address)) as two:
        gateway = connect(two.address)
        assert gateway.count("album") == 3 * acknowledged
        with Stream(gateway, "album") as stream:
            send(stream, acknowledged - 1, acknowledged + 4)  # one of them twice
            assert stream.rest()[-1].summary == pb.IngestSummary(stored_count=12, unchanged_count=3)
        assert gateway.count("album") == 3 * (acknowledged + 4)


def test_a_lost_worker_ends_the_stream_and_its_return_lets_it_go_on(tmp_path: Path) -> None:
    port = processes.free_port()
    folder = tmp_path / "w"
    worker = processes.start(
        folder, FAKE, "--port", str(port), environment={"FAKE_SECONDS_PER_BATCH": "0.1"}
    )
    with processes.running(tmp_path, "search_server", *flags(tmp_path, worker.address)) as server:
        gateway = connect(server.address)
        gateway.create("album")
        done = 0
        with Stream(gateway, "album") as stream:
            for number in range(40):
                stream.send(number, *(picture_item(number * 4 + n) for n in range(4)))
            with pytest.raises(grpc.RpcError) as caught:
                while True:
                    assert stream.ack().sequence == done
                    done += 1
                    if done == 3:
                        worker.kill()
        code, reason = error_info(caught.value)
        assert code == "UNAVAILABLE"
        assert reason in ("WORKER_LOST", "NO_HEALTHY_WORKER")
        assert 3 <= done < 40
        assert gateway.count("album") >= 4 * done
        # Until it is known, the old status could be taken for the new worker's.
        assert processes.wait_for_health(server.address, False, 20)
        with processes.running(folder, FAKE, "--port", str(port)):
            assert processes.wait_for_health(server.address, True, 20)
            with Stream(gateway, "album") as stream:
                for number in range(done, 40):
                    stream.send(number, *(picture_item(number * 4 + n) for n in range(4)))
                summary = stream.rest()[-1].summary
            assert summary.stored_count + summary.unchanged_count == 4 * (40 - done)
        assert gateway.count("album") == 160


def test_a_stream_outlives_the_time_limit_of_its_batches(
    tmp_path: Path, slow_worker: processes.Server
) -> None:
    limited = [*flags(tmp_path, slow_worker.address), "--write-timeout-seconds", "3"]
    with processes.running(tmp_path, "search_server", *limited) as server:
        gateway = connect(server.address)
        gateway.create("album")
        with Stream(gateway, "album") as stream:
            for number in range(3):
                stream.send(number, picture_item(number))
                assert stream.ack().stored_count == 1
                time.sleep(1.5)
            assert stream.rest()[-1].summary.stored_count == 3


# --- the use case by itself, where the other side of it must be held in place


class Workshop:
    """Stands for the use case below, for the collections and for the pool."""

    def __init__(self) -> None:
        self.capacity_now = Capacity(1, 256, 1024)
        self.started: list[str] = []
        self.finish: dict[str, asyncio.Event] = {}
        self.fails: set[str] = set()
        self.slow_to_fetch = ""

    async def get(self, name: str, deadline: object) -> CollectionInfo:
        return CollectionInfo(name, ModelRef("m", "r", "f"), 4, {})

    def capacity(self, fingerprint: str) -> Capacity:
        return self.capacity_now

    async def prepare(
        self, info: CollectionInfo, items: list[str], deadline: object
    ) -> PreparedBatch:
        if self.slow_to_fetch in items:
            await settle()
        prepared: Any = dict.fromkeys(items)
        return PreparedBatch(len(items), prepared, {}, {})

    async def store(
        self,
        info: CollectionInfo,
        batch: PreparedBatch,
        deadline: object,
        *,
        retry_full_queues: bool,
    ) -> list[ItemOutcome]:
        [name, *_] = batch.items
        self.started.append(name)
        await self.finish.setdefault(name, asyncio.Event()).wait()
        if name in self.fails:
            raise Unavailable("STORE_UNAVAILABLE", "Milvus is gone")
        return [ItemOutcome(name, Outcome.STORED)]

    def done(self, name: str) -> None:
        self.finish.setdefault(name, asyncio.Event()).set()


def stream_of(workshop: Any, *, max_bytes: int = 10**6) -> WriteStream:
    return WriteStream(
        workshop,
        workshop,
        workshop,
        GatewaySettings.model_construct(
            max_items_per_upsert=64,
            max_message_bytes=max_bytes,
            write_timeout_seconds=30.0,
            drain_seconds=0.0,
        ),
        collection="c",
        draining=asyncio.Event(),
        time_left=lambda: None,
    )


class Source:
    """Batches that know how many of them were read."""

    def __init__(self, *batches: list[str], size: int = 1) -> None:
        self._batches = batches
        self._size = size
        self.read = 0

    async def __aiter__(self) -> AsyncIterator[Batch]:
        for number, ids in enumerate(self._batches):
            self.read += 1
            items: Any = ids
            yield Batch(number, items, self._size, lambda: None)


async def settle() -> None:
    """Let everything go on that can."""
    for _ in range(20):
        await asyncio.sleep(0.005)


async def test_no_more_is_read_than_may_be_in_flight() -> None:
    workshop, source = Workshop(), Source(*([str(n)] for n in range(20)))
    events = stream_of(workshop).run(aiter(source))
    advice = await anext(events)
    assert advice == Advice(64, 4)
    await settle()
    assert source.read == len(workshop.started) == 4
    workshop.done("0")
    assert isinstance(await anext(events), Ack)
    await settle()
    assert source.read == 4  # the acknowledgement is on its way, not yet taken
    workshop.done("1")
    assert isinstance(await anext(events), Ack)
    await settle()
    assert source.read == 5
    await events.aclose()


async def test_no_more_is_read_than_fits_in_memory() -> None:
    workshop, source = Workshop(), Source(*([str(n)] for n in range(20)), size=600)
    events = stream_of(workshop, max_bytes=1000).run(aiter(source))
    await anext(events)
    await settle()
    assert source.read == 2
    await events.aclose()


async def test_acks_keep_the_order_of_the_batches() -> None:
    workshop, source = Workshop(), Source(["0"], ["1"], ["2"])
    events = stream_of(workshop).run(aiter(source))
    await anext(events)
    for name in "210":
        workshop.done(name)
        await settle()
    acks = [event async for event in events]
    assert [ack.sequence for ack in acks if isinstance(ack, Ack)] == [0, 1, 2]


async def test_a_batch_waits_for_those_before_it_that_name_the_same_item() -> None:
    workshop = Workshop()
    workshop.slow_to_fetch = "0"
    source = Source(["0", "x"], ["1"], ["2", "x"], ["3", "x"])
    events = stream_of(workshop).run(aiter(source))
    await anext(events)
    await settle()
    await settle()
    assert workshop.started == ["0", "1"]
    workshop.done("0")
    await settle()
    assert workshop.started == ["0", "1", "2"]
    for name in "123":
        workshop.done(name)
    assert [ack.sequence async for ack in events if isinstance(ack, Ack)] == [0, 1, 2, 3]


async def test_a_failed_batch_is_told_after_the_acks_before_it_and_stops_what_depends_on_it() -> (
    None
):
    workshop = Workshop()
    workshop.fails.add("1")
    source = Source(["0"], ["1", "x"], ["2", "x"], ["3"])
    events = stream_of(workshop).run(aiter(source))
    await anext(events)
    for name in "123":
        workshop.done(name)
    await settle()
    workshop.done("0")
    told = []
    with pytest.raises(Unavailable, match="Milvus is gone"):
        async for event in events:
            told.append(event)
    assert [ack.sequence for ack in told if isinstance(ack, Ack)] == [0]
    assert "2" not in workshop.started


async def test_advice_comes_again_when_the_workers_change() -> None:
    workshop, source = Workshop(), Source(["0"])
    events = stream_of(workshop).run(aiter(source))
    assert await anext(events) == Advice(64, 4)
    workshop.capacity_now = Capacity(3, 32, 3 * 1024)
    assert await anext(events) == Advice(32, 12)
    workshop.done("0")
    assert isinstance(await anext(events), Ack)


@pytest.mark.parametrize(
    ("capacity", "max_items", "expected"),
    [
        (Capacity(), 256, Advice(64, 4)),
        (Capacity(1, 256, 1024), 256, Advice(64, 4)),
        (Capacity(8, 256, 8192), 256, Advice(64, 32)),
        (Capacity(1, 16, 1024), 256, Advice(16, 4)),
        (Capacity(1, 256, 256), 256, Advice(64, 2)),
        (Capacity(1, 256, 64), 10, Advice(10, 3)),
        (Capacity(1, 256, 64), 256, Advice(64, 1)),
    ],
)
def test_advice_follows_what_the_workers_take(
    capacity: Capacity, max_items: int, expected: Advice
) -> None:
    assert advise(capacity, max_items) == expected
