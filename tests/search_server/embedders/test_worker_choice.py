"""Full and slow workers: who is asked, how often, and what the caller is told."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from search_server.embedders.pool import EmbedderPool
from sentinel_core.calls import Deadline
from sentinel_core.errors import FailedPrecondition, ResourceExhausted, Unavailable
from sentinel_core.metrics import ServerMetrics
from sentinel_store.values import ModelRef
from tests import processes
from tests.processes import metric
from tests.search_server.conftest import connect
from tests.search_server.conftest import text as query
from tests.search_server.embedders.pools import (
    Hold,
    Start,
    reasons,
    running_pool,
    text,
    worker_access,
)
from tests.search_server.embedders.test_faults import FAKE, caption, gateway_at
from tests.waiting import eventually


def embed_calls(worker: processes.Server, code: str) -> float:
    name = "sentinel_embedder_request_duration_seconds_count"
    method = "/sentinel.embedding.v1.EmbeddingService/Embed"
    return metric(worker.metrics_address, name, code=code, method=method)


async def test_a_worker_that_has_not_told_its_model_may_have_the_one_that_is_missed(
    start: Start,
) -> None:
    """A gateway that has just started knows some workers earlier than others; some are down."""
    known, other = start(), start()
    metrics = ServerMetrics("gateway", CollectorRegistry())
    pool = EmbedderPool([known.address, other.address], 64 << 20, metrics, worker_access())
    first, second = pool.fleet.workers
    await first.check()

    async def embed() -> None:
        await pool.embed([text("red")], fingerprint="f", deadline=Deadline.within(5.0))

    with pytest.raises(Unavailable):
        pool.model(ModelRef("missed", "", ""))
    with pytest.raises(Unavailable):
        pool.model_besides(first.fingerprint or "", None)
    with pytest.raises(Unavailable):
        await embed()
    await second.check()
    with pytest.raises(FailedPrecondition):
        pool.model(ModelRef("missed", "", ""))
    with pytest.raises(FailedPrecondition):
        pool.model_besides(first.fingerprint or "", None)
    with pytest.raises(FailedPrecondition):
        await embed()
    await pool.fleet.close()


async def test_full_workers_are_asked_once_and_the_shortest_wait_is_passed_on(
    start: Start, hold: Hold
) -> None:
    flags = ("--max-queue-items", "2", "--max-contents-per-request", "2")
    workers = [start(*flags, FAKE_HOLD=str(hold)) for _ in range(2)]
    async with running_pool(*(worker.address for worker in workers)) as bench:
        running = [asyncio.create_task(bench.embed(text(f"a {n}"), text("b"))) for n in range(2)]
        await eventually(
            lambda: [worker.load.items for worker in bench.pool.fleet.workers] == [2, 2]
        )
        waits = []
        start_s = time.monotonic()
        for number in range(20):
            with pytest.raises(ResourceExhausted) as caught:
                await bench.embed(text(f"red {number}"))
            assert caught.value.reason == "QUEUE_FULL"
            assert caught.value.retry_after_s is not None
            waits.append(caught.value.retry_after_s)
        looks = 1 + int(time.monotonic() - start_s)  # they are asked again after a second
        for worker in workers:
            # A worker counts a call after it has sent the answer.
            await eventually(lambda worker=worker: embed_calls(worker, "RESOURCE_EXHAUSTED") >= 1)
            assert embed_calls(worker, "RESOURCE_EXHAUSTED") <= looks
        assert looks > 1 or waits == sorted(waits, reverse=True)
        assert {bench.circuit(worker.address) for worker in workers} == {"full"}
        hold.release()
        await asyncio.gather(*running)
        assert reasons(await bench.embed(text("red"))) == ["ok"]
        assert "full" not in {bench.circuit(worker.address) for worker in workers}


async def test_one_full_worker_leaves_the_work_to_the_other(start: Start, hold: Hold) -> None:
    flags = ("--max-queue-items", "2", "--max-contents-per-request", "2")
    full, free = start(*flags, FAKE_HOLD=str(hold)), start(*flags)
    async with running_pool(full.address, free.address) as bench:
        while bench.worker(full).load.items < 2:
            task = asyncio.create_task(bench.embed(text("a"), text("b")))
            await asyncio.wait({task}, timeout=0.2)
        for number in range(20):
            assert reasons(await bench.embed(text(f"red {number}"))) == ["ok"]
        assert embed_calls(full, "RESOURCE_EXHAUSTED") <= 2
        hold.release()
        await task


async def test_a_slow_worker_gets_less_work(start: Start) -> None:
    fast = start(FAKE_SECONDS_PER_BATCH="0.01")
    slow = start(FAKE_SECONDS_PER_BATCH="0.2")
    async with running_pool(fast.address, slow.address) as bench:

        async def ask(caller: int) -> None:
            for number in range(40):
                await bench.embed(text(f"red {caller} {number}"))

        await asyncio.gather(*(ask(caller) for caller in range(8)))
        calls = [embed_calls(worker, "OK") for worker in (fast, slow)]
        assert sum(calls) == 320
        assert calls[1] / sum(calls) < 0.15, calls


@pytest.mark.slow
def test_no_search_waits_for_a_worker_that_hangs(tmp_path: Path) -> None:
    """Two workers, eight searchers, SIGSTOP of one: every search is answered within 4 s."""
    with (
        processes.running(tmp_path / "w1", FAKE) as one,
        processes.running(tmp_path / "w2", FAKE) as two,
        gateway_at(tmp_path / "g", one.address, two.address) as server,
        ThreadPoolExecutor(8) as callers,
    ):
        gateway = connect(server.address)
        name = gateway.create()
        gateway.upsert(name, caption("red"))
        over = threading.Event()

        def search(caller: int) -> list[float]:
            times = []
            while not over.is_set():
                start_s = time.monotonic()
                assert len(gateway.hits(name, query(f"red {caller} {len(times)}"))) == 1
                times.append(time.monotonic() - start_s)
            return times

        searchers = [callers.submit(search, caller) for caller in range(8)]
        time.sleep(1)
        one.process.send_signal(signal.SIGSTOP)
        time.sleep(6)
        one.process.send_signal(signal.SIGCONT)
        time.sleep(1)
        over.set()
        times = [seconds for searcher in searchers for seconds in searcher.result()]
        assert len(times) > 100
        assert max(times) < 4
