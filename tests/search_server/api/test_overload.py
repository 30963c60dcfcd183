"""A gateway with more work than it can do refuses the rest at once, and says when to retry."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from sentinel.common.v1 import content_pb2
from sentinel.embedding.v1 import embedding_service_pb2, embedding_service_pb2_grpc
from sentinel.search.v1 import (
    item_service_pb2,
    item_service_pb2_grpc,
    search_service_pb2,
    search_service_pb2_grpc,
)
from tests import processes, secure
from tests.processes import metric
from tests.search_server.conftest import connect, error_info, string
from tests.search_server.embedders.test_faults import caption
from tests.waiting import until


@pytest.fixture(scope="module")
def hold(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """While this file exists, the worker embeds nothing."""
    return tmp_path_factory.mktemp("hold") / "hold"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, hold: Path) -> Iterator[processes.Server]:
    """A gateway that takes four searches and four items at once."""
    folder = tmp_path_factory.mktemp("small")
    hold.touch()
    hold.unlink()
    environment = {"FAKE_HOLD": str(hold)}
    with processes.running(folder / "w", "tests.fakes.worker", environment=environment) as worker:
        flags = processes.gateway_flags(folder / "g", str(folder / "m.db"), worker.address)
        flags += ["--max-searches-in-flight", "4"]
        flags += ["--max-items-in-flight", "64", "--query-cache-entries", "0"]
        with processes.running(folder / "g", "search_server", *flags) as gateway:
            connect(gateway.address).create("photos")
            connect(gateway.address).create("written")
            connect(gateway.address).upsert("photos", caption("red"))
            yield gateway


STORED = item_service_pb2.ItemResult.OUTCOME_STORED


class Hold:
    """Keeps the worker from embedding anything, until it is released."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def hold(self) -> None:
        self._file.touch()

    def release(self) -> None:
        self._file.unlink(missing_ok=True)


@pytest.fixture
def held(hold: Path) -> Iterator[Hold]:
    made = Hold(hold)
    made.hold()
    yield made
    made.release()


class Caller:
    """A connection of its own, which gRPC would otherwise share within a process."""

    def __init__(self, address: str, number: int = 0) -> None:
        # Without the probe, or a busy machine's client makes room for all that nobody reads.
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        options += [("grpc.http2.bdp_probe", 0)]
        self.channel = secure.aio_channel(address, options, caller=number)
        self.stub = search_service_pb2_grpc.SearchServiceStub(self.channel)
        self.items = item_service_pb2_grpc.ItemServiceStub(self.channel)
        self.embedding = embedding_service_pb2_grpc.EmbeddingServiceStub(self.channel)

    async def search(self, words: str) -> int:
        request = search_service_pb2.SearchRequest(params=params(words), limit=5)
        return sum([len(one.chunk.hits) async for one in self.stub.Search(request, timeout=60)])

    async def batch(self, *texts: str) -> int:
        searches = [search_service_pb2.SearchPageRequest(params=params(text)) for text in texts]
        request = search_service_pb2.BatchSearchRequest(searches=searches)
        return len((await self.stub.BatchSearch(request, timeout=60)).results)

    async def upsert(self, count: int) -> int:
        items = [caption(text) for text in _new_texts(count)]
        request = item_service_pb2.UpsertItemsRequest(collection="written", items=items)
        return len((await self.items.UpsertItems(request, timeout=60)).results)

    async def embed(self, count: int) -> int:
        request = embedding_service_pb2.EmbedRequest(contents=_contents(count))
        return len((await self.embedding.Embed(request, timeout=60)).results)

    async def rank(self, count: int) -> int:
        request = embedding_service_pb2.RankRequest(
            query=_contents(1)[0], candidates=_contents(count)
        )
        return len((await self.embedding.Rank(request, timeout=60)).candidates)


def _new_texts(count: int) -> list[str]:
    """Return texts that nobody has embedded or stored, also when a test runs again."""
    return [uuid.uuid4().hex for _ in range(count)]


def _contents(count: int) -> list[content_pb2.Content]:
    return [content_pb2.Content(text=text) for text in _new_texts(count)]


def params(words: str, collection: str = "photos") -> search_service_pb2.SearchParams:
    made = search_service_pb2.SearchParams(collection=collection)
    made.query.content.text = words
    return made


@pytest.fixture
async def callers(small: processes.Server) -> AsyncIterator[list[Caller]]:
    async with AsyncExitStack() as stack:
        made = [Caller(small.address, number) for number in range(3)]
        for caller in made:
            await stack.enter_async_context(caller.channel)
        yield made


async def until_metric(server: processes.Server, name: str, count: float, **labels: str) -> None:
    def reached() -> bool:
        return metric(server.metrics_address, f"sentinel_gateway_{name}", **labels) == count

    await asyncio.to_thread(until, reached)


async def until_admitted(server: processes.Server, kind: str, count: float) -> None:
    await until_metric(server, "admitted", count, kind=kind)


def refusal(error: BaseException) -> float:
    """Return when to retry, in seconds, of a call that was refused for overload."""
    assert isinstance(error, grpc.aio.AioRpcError)
    assert error_info(error) == ("RESOURCE_EXHAUSTED", "OVERLOADED")
    details = dict(error.trailing_metadata() or ())
    retry = error_details_pb2.RetryInfo()
    status = status_pb2.Status.FromString(details["grpc-status-details-bin"])
    assert [detail.Unpack(retry) for detail in status.details].count(True) == 1
    assert int(details["grpc-retry-pushback-ms"]) > 0
    return retry.retry_delay.ToTimedelta().total_seconds()


async def test_more_searches_than_allowed_are_refused_and_the_others_answered(
    small: processes.Server, callers: list[Caller], held: Hold
) -> None:
    heavy = callers[0]
    calls = [asyncio.create_task(heavy.search(text)) for text in _new_texts(20)]
    done, waiting = await asyncio.wait(calls, timeout=20, return_when=asyncio.FIRST_EXCEPTION)
    while len(waiting) != metric(small.metrics_address, "sentinel_gateway_admitted", kind="search"):
        done, waiting = await asyncio.wait(calls, timeout=0.1)
    assert len(waiting) in (3, 4)  # three, where another caller asked a moment ago
    assert all(0.05 <= refusal(call.exception()) <= 30 for call in done)
    held.release()
    assert set(await asyncio.gather(*waiting)) == {1}
    assert await heavy.search("afterwards") == 1
    await until_admitted(small, "search", 0)


async def test_a_batch_counts_its_searches_and_long_texts_their_characters(
    small: processes.Server, callers: list[Caller], held: Hold
) -> None:
    heavy = callers[0]
    first = asyncio.create_task(heavy.batch(*_new_texts(3)))
    await until_admitted(small, "search", 3)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await heavy.batch(*_new_texts(2))
    refusal(caught.value)
    held.release()
    assert await first == 3
    held.hold()
    [text] = _new_texts(1)
    long = asyncio.create_task(heavy.search(text + " word" * 5_000))  # of 16,384 characters
    await until_admitted(small, "search", 1)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await heavy.search(text + " word" * 2_000)
    refusal(caught.value)
    short = asyncio.create_task(heavy.search(*_new_texts(1)))
    await until_admitted(small, "search", 2)
    held.release()
    assert await asyncio.gather(long, short) == [1, 1]


async def test_a_light_caller_is_answered_beside_a_heavy_one(
    small: processes.Server, callers: list[Caller], held: Hold
) -> None:
    heavy, light, _ = callers
    calls = [asyncio.create_task(heavy.search(text)) for text in _new_texts(40)]
    # It may have three, because other callers asked, too.
    done, _ = await asyncio.wait(calls, timeout=20, return_when=asyncio.FIRST_EXCEPTION)
    assert done
    full = metric(small.metrics_address, "sentinel_gateway_admitted", kind="search")
    mine = asyncio.create_task(light.search(*_new_texts(1)))
    await until_admitted(small, "search", full + 1)
    held.release()
    assert await mine == 1
    await asyncio.gather(*calls, return_exceptions=True)


async def test_writes_have_a_limit_of_their_own(
    small: processes.Server, callers: list[Caller], held: Hold
) -> None:
    writer, searcher, _ = callers
    first = asyncio.create_task(writer.upsert(60))
    await until_admitted(small, "write", 60)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await writer.upsert(5)
    refusal(caught.value)
    search = asyncio.create_task(searcher.search(*_new_texts(1)))
    await until_admitted(small, "search", 1)
    held.release()
    assert await first == 60
    assert await search >= 1  # of what is stored by then


async def test_contents_to_embed_have_a_limit_of_their_own(
    small: processes.Server, callers: list[Caller], held: Hold
) -> None:
    heavy, searcher, _ = callers
    first = asyncio.create_task(heavy.embed(60))
    await until_admitted(small, "embed", 60)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await heavy.embed(5)
    refusal(caught.value)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await heavy.rank(5)
    refusal(caught.value)
    search = asyncio.create_task(searcher.search(*_new_texts(1)))
    await until_admitted(small, "search", 1)
    held.release()
    assert await first == 60
    assert await search >= 1
    assert await heavy.rank(5) == 5
    await until_admitted(small, "embed", 0)


async def test_hits_that_nobody_reads_are_no_work(
    small: processes.Server, callers: list[Caller]
) -> None:
    """Or a few slow readers would keep everybody else out."""
    slow, other, _ = callers
    for _ in range(4):  # 14 MB, more than gRPC keeps for a reader
        items = [caption(text * 10) for text in _new_texts(60)]
        for item in items:
            item.fields["path"].CopyFrom(string("x" * 59_000))
        answer = await slow.items.UpsertItems(
            item_service_pb2.UpsertItemsRequest(collection="written", items=items), timeout=60
        )
        assert {one.outcome for one in answer.results} == {STORED}
    request = search_service_pb2.SearchRequest(params=params("1", "written"), limit=240)
    request.chunk_size = 1
    streams = []
    for _ in range(6):
        streams.append(slow.stub.Search(request, timeout=60))
        await streams[-1].read()
    await until_admitted(small, "search", 0)
    await until_metric(small, "requests_in_flight", 6)
    assert await other.search(*_new_texts(1)) == 1
    for stream in streams:
        stream.cancel()


@pytest.mark.slow
async def test_three_thousand_searches_at_once_end_in_an_answer_or_a_refusal(
    tmp_path: Path,
) -> None:
    """All of them were let in, and most timed out."""
    slow = {"FAKE_SECONDS_PER_BATCH": "0.05"}
    with processes.running(tmp_path / "w", "tests.fakes.worker", environment=slow) as worker:
        flags = processes.gateway_flags(tmp_path / "g", str(tmp_path / "m.db"), worker.address)
        with processes.running(tmp_path / "g", "search_server", *flags) as gateway:
            connect(gateway.address).create("photos")
            connect(gateway.address).create("written")
            connect(gateway.address).upsert("photos", caption("red"))
            async with AsyncExitStack() as stack:
                callers = [Caller(gateway.address) for _ in range(10)]
                for caller in callers:
                    await stack.enter_async_context(caller.channel)
                calls = [callers[n % 10].search(f"text {n}") for n in range(3_000)]
                outcomes = await asyncio.gather(*calls, return_exceptions=True)
                refused = [one for one in outcomes if isinstance(one, BaseException)]
                assert all(0.05 <= refusal(one) <= 30 for one in refused)
                assert len(refused) < 3_000 - 32
                assert await callers[0].search("afterwards") == 1
