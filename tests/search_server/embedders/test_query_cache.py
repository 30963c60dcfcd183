"""The cache of query embeddings: equal texts cost one forward pass, and nothing stale comes out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from embedder_server.app import running_worker
from embedder_server.settings import EmbedderSettings
from search_server.embedders.pool import EmbedderPool
from search_server.embedders.query_cache import QueryCache, QueryEmbedding
from search_server.search import query_vectors
from search_server.search.query_vectors import QueryVector, QueryVectors
from search_server.types.queries import Query, Term
from sentinel.search.v1 import collection_service_pb2, search_service_pb2
from sentinel_core.calls import Deadline
from sentinel_core.errors import DeadlineExceeded, SentinelError
from sentinel_core.metrics import ServerMetrics
from sentinel_store.collections import CollectionInfo
from sentinel_store.items import Content, Kind
from sentinel_store.values import ModelRef
from tests import photos, processes
from tests.fakes.fake_model import FakeModel
from tests.processes import metric
from tests.search_server.conftest import Gateway, connect, image, text
from tests.search_server.embedders.test_faults import FAKE, caption, gateway_at
from tests.waiting import eventually


@dataclass(slots=True)
class Bench:
    """A cache before a real worker with the fake model."""

    cache: QueryCache
    model: FakeModel
    pool: EmbedderPool
    registry: CollectorRegistry

    async def embed(self, *words: str, seconds: float = 20.0) -> list[QueryEmbedding]:
        contents = [Content(Kind.TEXT, word.encode()) for word in words]
        return await self.cache.embed(
            contents,
            fingerprint=self.model.info.fingerprint,
            deadline=Deadline.after(None, default_s=seconds),
        )

    def texts_embedded(self) -> list[str]:
        """Every text that went through the model."""
        return [text for batch in self.model.batches for text in batch.contents]

    def lookups(self, outcome: str) -> float:
        name = "sentinel_gateway_embedding_cache_lookups_total"
        return self.registry.get_sample_value(name, {"outcome": outcome}) or 0.0


@asynccontextmanager
async def running(max_entries: int) -> AsyncIterator[Bench]:
    model, registry = FakeModel(), CollectorRegistry()
    settings = EmbedderSettings(port=0)
    async with running_worker(settings, model=model) as worker:
        metrics = ServerMetrics("gateway", registry)
        pool = EmbedderPool([worker.address], 64 * 1024 * 1024, metrics)
        async with asyncio.timeout(10):
            while not pool.any_healthy:
                await pool.fleet.check()
                await asyncio.sleep(0.01)
        model.batches.clear()
        cache = QueryCache(pool, max_entries, metrics)
        try:
            yield Bench(cache, model, pool, registry)
        finally:
            model.faults.gate.set()
            await cache.close()
            await pool.fleet.close()


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with running(max_entries=3) as made:
        yield made


async def test_the_second_time_no_worker_is_asked(bench: Bench) -> None:
    [first] = await bench.embed("red")
    [second] = await bench.embed("red")
    assert (first.cached, second.cached) == (False, True)
    assert first.vector is not None
    assert second.vector is not None
    np.testing.assert_array_equal(first.vector, second.vector)
    assert bench.texts_embedded() == ["red"]
    assert (bench.lookups("miss"), bench.lookups("hit")) == (1, 1)


async def test_one_call_embeds_what_is_new_and_each_text_once(bench: Bench) -> None:
    await bench.embed("red")
    answers = await bench.embed("blue", "red", "lime", "blue")
    assert [answer.cached for answer in answers] == [False, True, False, False]
    assert [batch.contents for batch in bench.model.batches] == [("red",), ("blue", "lime")]
    assert answers[0].vector is not None
    np.testing.assert_array_equal(answers[0].vector, answers[3].vector)


async def test_the_least_recently_used_goes_first(bench: Bench) -> None:
    for word in ("red", "lime", "blue", "red", "cyan"):
        await bench.embed(word)
    bench.model.batches.clear()
    [red, blue, cyan, lime] = await bench.embed("red", "blue", "cyan", "lime")
    assert (red.cached, blue.cached, cyan.cached, lime.cached) == (True, True, True, False)
    assert bench.registry.get_sample_value("sentinel_gateway_embedding_cache_entries") == 3


async def test_a_caller_cannot_spoil_what_is_kept(bench: Bench) -> None:
    [first] = await bench.embed("red")
    assert first.vector is not None
    with pytest.raises(ValueError, match="read-only"):
        first.vector[0] = 7.0


async def test_the_language_of_a_text_is_not_looked_up_in_every_search(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(query_vectors, "unknown_language", lambda text, _: seen.append(text))
    metrics = ServerMetrics("gateway", CollectorRegistry())
    unused: Any = None
    vectors = QueryVectors(bench.cache, unused, unused, metrics, bench.pool.known)
    info = CollectionInfo("album", ModelRef("m", "r", bench.model.info.fingerprint), 8, {})
    query = Query((Term(Content(Kind.TEXT, b"blue")),))
    deadline = Deadline.after(None, default_s=20.0)
    for _ in range(5):
        [found] = await vectors.find([(query, info)], deadline)
        assert isinstance(found, QueryVector)
    assert seen == ["blue", "blue"]  # as it was embedded, and the first time from the cache


async def test_equal_queries_in_flight_are_one(bench: Bench) -> None:
    bench.model.faults.gate.clear()
    callers = [asyncio.create_task(bench.embed("red")) for _ in range(20)]
    await eventually(lambda: bench.lookups("joined") == 19, 10)
    bench.model.faults.gate.set()
    vectors = [(await caller)[0].vector for caller in callers]
    assert all(np.array_equal(vectors[0], vector) for vector in vectors)
    assert bench.texts_embedded() == ["red"]


async def test_the_first_caller_who_leaves_takes_nobody_along(bench: Bench) -> None:
    bench.model.faults.gate.clear()
    first = asyncio.create_task(bench.embed("red"))
    await eventually(lambda: bench.lookups("miss") == 1, 10)
    others = [asyncio.create_task(bench.embed("red")) for _ in range(3)]
    await eventually(lambda: bench.lookups("joined") == 3, 10)
    first.cancel()
    with suppress(asyncio.CancelledError):
        await first
    assert first.cancelled()
    bench.model.faults.gate.set()
    assert [(await other)[0].error for other in others] == [None] * 3
    assert bench.texts_embedded() == ["red"]


async def test_a_first_caller_in_a_hurry_takes_nobody_along(bench: Bench) -> None:
    bench.model.faults.gate.clear()
    hasty = asyncio.create_task(bench.embed("red", seconds=0.5))
    await eventually(lambda: bench.lookups("miss") == 1, 10)
    patient = asyncio.create_task(bench.embed("red"))
    assert isinstance((await hasty)[0].error, DeadlineExceeded)
    bench.model.faults.gate.set()
    [answer] = await patient
    assert answer.vector is not None


async def test_a_later_caller_in_a_hurry_does_not_wait_for_the_first(bench: Bench) -> None:
    bench.model.faults.gate.clear()
    first = asyncio.create_task(bench.embed("red"))
    await eventually(lambda: bench.lookups("miss") == 1, 10)
    assert isinstance((await bench.embed("red", seconds=0.3))[0].error, DeadlineExceeded)
    bench.model.faults.gate.set()
    assert (await first)[0].error is None


async def test_what_is_known_is_answered_though_the_rest_fails(bench: Bench) -> None:
    await bench.embed("red")
    bench.model.faults.error = RuntimeError("broken")
    red, blue = await bench.embed("red", "blue")
    assert red.cached
    assert isinstance(blue.error, SentinelError)


async def test_a_call_that_nobody_waits_for_ends_and_is_begun_anew(bench: Bench) -> None:
    bench.model.faults.gate.clear()
    lonely = asyncio.create_task(bench.embed("red"))
    await eventually(lambda: bench.lookups("miss") == 1, 10)
    lonely.cancel()
    with suppress(asyncio.CancelledError):
        await lonely
    again = asyncio.create_task(bench.embed("red"))
    await eventually(lambda: bench.lookups("miss") == 2, 10)
    bench.model.faults.gate.set()
    assert (await again)[0].vector is not None


async def test_an_error_reaches_everybody_and_is_not_kept(bench: Bench) -> None:
    bench.model.faults.gate.clear()
    bench.model.faults.error = RuntimeError("broken")
    callers = [asyncio.create_task(bench.embed("red")) for _ in range(3)]
    await eventually(lambda: bench.lookups("joined") == 2, 10)
    bench.model.faults.gate.set()
    failures = [(await caller)[0].error for caller in callers]
    assert all(isinstance(failure, SentinelError) for failure in failures)
    bench.model.faults.error = None
    [answer] = await bench.embed("red")
    assert answer.vector is not None
    assert not answer.cached


async def test_a_text_that_cannot_be_embedded_is_asked_for_again(bench: Bench) -> None:
    bench.model.faults.nan_for = {"red"}
    good, bad = await bench.embed("blue", "red")
    assert good.error is None
    assert bad.error is not None
    bench.model.faults.nan_for = set()
    [again] = await bench.embed("red")
    assert (again.error, again.cached) == (None, False)


async def test_images_are_not_kept(bench: Bench) -> None:
    picture = Content(Kind.IMAGE, photos.photo("chelsea").read_bytes())
    for _ in range(2):
        await bench.cache.embed(
            [picture],
            fingerprint=bench.model.info.fingerprint,
            deadline=Deadline.after(None, default_s=20.0),
        )
    assert len(bench.model.batches) == 2
    assert bench.lookups("miss") == 0


async def test_a_cache_of_no_entries_keeps_nothing() -> None:
    async with running(max_entries=0) as bench:
        for _ in range(2):
            [answer] = await bench.embed("red")
            assert not answer.cached
        assert bench.texts_embedded() == ["red", "red"]


def summary_of(gateway: Gateway, collection: str, words: str) -> search_service_pb2.SearchSummary:
    request = search_service_pb2.SearchRequest(
        params=search_service_pb2.SearchParams(collection=collection, query=text(words))
    )
    return list(gateway.search.Search(request, timeout=20))[-1].summary


def test_a_search_tells_whether_its_embedding_was_there(tmp_path: Path) -> None:
    with (
        processes.running(tmp_path / "w", FAKE) as worker,
        gateway_at(tmp_path, worker.address) as server,
    ):
        gateway = connect(server.address)
        name = gateway.create()
        gateway.upsert(name, caption("red"), caption("blue"))
        first, second = (summary_of(gateway, name, "red") for _ in range(2))
        assert not first.embed_cached
        assert first.HasField("embed")
        assert second.embed_cached
        assert not second.HasField("embed")
        assert not second.HasField("embed_queue")
        assert second.hit_count == 2
        # An upsert of the same text neither uses nor fills it.
        gateway.upsert(name, caption("lime"))
        assert not summary_of(gateway, name, "lime").embed_cached
        picture = search_service_pb2.Query(content=image(photos.photo("chelsea").read_bytes()))
        gateway.hits(name, picture)
        prefix = "sentinel_gateway_embedding_cache"
        lookups = {
            outcome: metric(server.metrics_address, f"{prefix}_lookups_total", outcome=outcome)
            for outcome in ("hit", "miss", "joined")
        }
        assert lookups == {"hit": 1, "miss": 2, "joined": 0}
        assert metric(server.metrics_address, f"{prefix}_entries") == 2


def test_a_collection_made_anew_with_another_model_gets_no_stale_vector(tmp_path: Path) -> None:
    with (
        processes.running(tmp_path / "w1", FAKE, environment={"FAKE_NAME": "old"}) as old,
        processes.running(tmp_path / "w2", FAKE, environment={"FAKE_NAME": "new"}) as new,
        gateway_at(tmp_path, old.address, new.address) as server,
    ):
        gateway = connect(server.address)
        for model in ("old", "new"):
            collection = collection_service_pb2.Collection(name="same")
            collection.model_version.model = model
            gateway.collections.CreateCollection(
                collection_service_pb2.CreateCollectionRequest(collection=collection), timeout=20
            )
            gateway.upsert("same", caption("red"))
            assert not summary_of(gateway, "same", "red").embed_cached
            assert summary_of(gateway, "same", "red").embed_cached
            gateway.collections.DeleteCollection(
                collection_service_pb2.DeleteCollectionRequest(name="same"), timeout=20
            )


def test_without_a_worker_only_new_queries_fail(tmp_path: Path) -> None:
    """What was asked before is found though no worker is left."""
    with (
        processes.running(tmp_path / "w", FAKE) as worker,
        gateway_at(tmp_path, worker.address) as server,
    ):
        gateway = connect(server.address)
        name = gateway.create()
        gateway.upsert(name, caption("red"))
        gateway.hits(name, text("red"))
        worker.kill()
        assert [hit.text for hit in gateway.hits(name, text("red"))] == ["red"]
        with pytest.raises(grpc.RpcError) as caught:
            gateway.hits(name, text("blue"))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
