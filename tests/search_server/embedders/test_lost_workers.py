"""Workers that end, hang or are cut off in the middle of calls."""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import suppress
from pathlib import Path

import grpc
import pytest
from prometheus_client import CollectorRegistry

from search_server.embedders.query_cache import QueryCache, QueryEmbedding
from search_server.embedders.worker import WorkerState
from sentinel.search.v1 import item_service_pb2
from sentinel.search.v1.search_service_pb2 import Query
from sentinel_core.calls import Deadline
from sentinel_core.errors import InvalidArgument, Unavailable
from sentinel_core.metrics import ServerMetrics
from tests import processes
from tests.processes import metric
from tests.search_server.conftest import connect, error_info, image, reason_of
from tests.search_server.conftest import text as query
from tests.search_server.embedders.pools import (
    Hold,
    Start,
    alive,
    picture,
    reasons,
    running_pool,
    text,
)
from tests.search_server.embedders.test_faults import free_port, gateway_at
from tests.waiting import eventually, until
from tests.wire import Wire


def embedding(worker: processes.Server) -> float:
    """Return how many Embed calls a worker is at."""
    return metric(worker.metrics_address, "sentinel_embedder_requests_in_flight")


async def held_by(workers: list[processes.Server], calls: int) -> processes.Server:
    """Wait until one of these workers is at so many calls; return it."""
    async with asyncio.timeout(30):
        while True:
            for worker in workers:
                if await asyncio.to_thread(embedding, worker) >= calls:
                    return worker
            await asyncio.sleep(0.02)


async def test_a_poisonous_image_ends_two_workers_and_fails_by_itself(start: Start) -> None:
    workers = [start(FAKE_KILLER="magenta") for _ in range(4)]
    async with running_pool(*(worker.address for worker in workers)) as bench:
        batch = [text("red"), picture("blue"), picture("magenta"), text("lime"), picture("red", 1)]
        embedded = await bench.embed(*batch, bulk=True)
        assert reasons(embedded) == ["ok", "ok", "CONTENT_POISONOUS", "ok", "ok"]
        assert isinstance(embedded.items[2].error, InvalidArgument)
        await eventually(lambda: alive(workers) == 2)
        # At once, without asking a worker, and whatever else is in the batch.
        again = await bench.embed(picture("magenta"), text("cyan"))
        assert reasons(again) == ["CONTENT_POISONOUS", "ok"]
        assert alive(workers) == 2
        assert (bench.verdicts("cleared"), bench.verdicts("rejected")) == (4, 1)


async def test_one_that_comes_twice_ends_no_more_workers_and_nobody_else_fails(
    start: Start,
) -> None:
    workers = [start(FAKE_KILLER="magenta", FAKE_SECONDS_PER_BATCH="0.05") for _ in range(3)]
    async with running_pool(*(worker.address for worker in workers)) as bench:
        others = [bench.embed(text(f"red {n}"), picture("blue", n)) for n in range(20)]
        bad = bench.embed(picture("magenta"), text("a"), picture("magenta"))
        embedded, *answers = await asyncio.gather(bad, *others)
        assert reasons(embedded) == ["CONTENT_POISONOUS", "ok", "CONTENT_POISONOUS"]
        assert {reason for answer in answers for reason in reasons(answer)} == {"ok"}
        assert alive(workers) == 1


async def test_a_poisonous_text_ends_two_workers(start: Start) -> None:
    workers = [start(FAKE_KILLER="deadly") for _ in range(3)]
    async with running_pool(*(worker.address for worker in workers)) as bench:
        embedded = await bench.embed(text("red"), text("a deadly word"), text("blue"))
        assert reasons(embedded) == ["ok", "CONTENT_POISONOUS", "ok"]
        await eventually(lambda: alive(workers) == 1)


async def test_the_only_worker_ends_twice_and_the_content_is_refused_after_that(
    start: Start,
) -> None:
    flags = ("--port", str(free_port()))
    worker = start(*flags, FAKE_KILLER="magenta")
    async with running_pool(worker.address) as bench:
        for _ in range(2):
            with suppress(Unavailable):
                embedded = await bench.embed(picture("magenta"), text("red"))
                assert reasons(embedded)[0] == "CONTENT_POISONOUS"
            await eventually(lambda: alive([worker]) == 0)  # noqa: B023 - waits at once
            worker = start(*flags, FAKE_KILLER="magenta")
            await eventually(lambda: bench.pool.any_healthy)
        embedded = await bench.embed(picture("magenta"), text("red"))
        assert reasons(embedded) == ["CONTENT_POISONOUS", "ok"]
        assert alive([worker]) == 1


async def test_sigkill_rejects_nothing(start: Start, hold: Hold) -> None:
    """A batch of images and many texts are there when it comes; all are embedded, once more."""
    workers = [start(FAKE_HOLD=str(hold)) for _ in range(2)]
    async with running_pool(*(worker.address for worker in workers)) as bench:
        calls = [asyncio.create_task(bench.embed(*(picture("red", n) for n in range(8))))]
        calls += [asyncio.create_task(bench.embed(text(f"red {n}"))) for n in range(20)]
        victim = await held_by(workers, 1)
        await eventually(lambda: bench.worker(victim).load.items >= 8)
        hold.release()
        victim.kill()
        answers = await asyncio.gather(*calls)
        assert {reason for answer in answers for reason in reasons(answer)} == {"ok"}
        assert bench.verdicts("rejected") == 0
        # They are as before: no content is tried alone any more.
        cleared = bench.verdicts("cleared")
        assert cleared
        await bench.embed(*(picture("red", n) for n in range(8)))
        assert bench.verdicts("cleared") == cleared


@pytest.mark.slow
async def test_a_planned_stop_makes_nothing_suspect(start: Start) -> None:
    """Not even when the drain is too short for the calls in flight."""
    slow = {"FAKE_SECONDS_PER_BATCH": "2"}
    workers = [start("--drain-seconds", "0.7", **slow) for _ in range(2)]
    async with running_pool(*(worker.address for worker in workers)) as bench:
        calls = [asyncio.create_task(bench.embed(text(f"red {n}"))) for n in range(4)]
        stopped = await held_by(workers, 1)
        stopped.process.terminate()
        assert {reason for call in calls for reason in reasons(await call)} == {"ok"}
        assert bench.failures("WORKER_LOST") >= 1
        assert bench.verdicts("cleared") == 0


async def test_a_connection_that_is_cut_is_not_the_death_of_a_worker(
    start: Start, hold: Hold
) -> None:
    worker = start(FAKE_HOLD=str(hold))
    async with Wire(worker.address) as wire, running_pool(wire.address) as bench:
        call = asyncio.create_task(bench.embed(picture("red"), text("red")))
        await held_by([worker], 1)
        wire.cut()
        await eventually(lambda: bench.failures("WORKER_LOST"))
        hold.release()
        assert reasons(await call) == ["ok", "ok"]
        assert bench.verdicts("cleared") == 0


@pytest.mark.slow
async def test_a_connection_that_goes_silent_is_replaced(start: Start, hold: Hold) -> None:
    """As if a firewall had forgotten it; nobody says so."""
    worker = start(FAKE_HOLD=str(hold))
    async with Wire(worker.address) as wire, running_pool(wire.address) as bench:
        call = asyncio.create_task(bench.embed(text("red"), seconds=60))
        await held_by([worker], 1)
        wire.silence()
        hold.release()
        await eventually(lambda: bench.circuit(wire.address) == "open", 10)
        await eventually(lambda: bench.circuit(wire.address) == "closed", 10)
        assert reasons(await bench.embed(text("blue"), seconds=5)) == ["ok"]
        start_s = time.monotonic()
        assert reasons(await call) == ["ok"]
        assert time.monotonic() - start_s < 20


async def test_calls_to_a_worker_that_hangs_go_to_another_one(start: Start, hold: Hold) -> None:
    """The fault of A7: SIGSTOP of one of two workers under load."""
    workers = [start(FAKE_HOLD=str(hold)) for _ in range(2)]
    async with running_pool(*(worker.address for worker in workers)) as bench:
        calls = [asyncio.create_task(bench.embed(text(f"red {n}"))) for n in range(8)]
        stopped = await held_by(workers, 2)
        stopped.process.send_signal(signal.SIGSTOP)
        hold.release()
        start_s = time.monotonic()
        assert {reason for call in calls for reason in reasons(await call)} == {"ok"}
        assert time.monotonic() - start_s < 4
        assert bench.circuit(stopped.address) == "open"
        # Once it runs again, it gets work.
        stopped.process.send_signal(signal.SIGCONT)
        await eventually(lambda: bench.circuit(stopped.address) == "closed", 10)


async def test_the_only_worker_keeps_its_calls_while_it_hangs(start: Start, hold: Hold) -> None:
    worker = start(FAKE_HOLD=str(hold))
    async with running_pool(worker.address) as bench:
        call = asyncio.create_task(bench.embed(text("red")))
        await held_by([worker], 1)
        worker.process.send_signal(signal.SIGSTOP)
        hold.release()
        await eventually(lambda: bench.circuit(worker.address) == "open")
        worker.process.send_signal(signal.SIGCONT)
        assert reasons(await call) == ["ok"]
        assert bench.failures("WORKER_LOST") == 0


@pytest.mark.slow
async def test_a_text_that_hangs_workers_does_not_hang_all(start: Start) -> None:
    workers = [start(FAKE_FREEZER="sticky") for _ in range(3)]
    async with running_pool(*(worker.address for worker in workers)) as bench:
        with pytest.raises(Unavailable) as caught:
            await bench.embed(text("a sticky text"))
        assert caught.value.reason == "WORKER_LOST"
        assert bench.verdicts("unproven") == 1
        assert [bench.circuit(worker.address) for worker in workers].count("closed") == 1
        assert reasons(await bench.embed(text("red"))) == ["ok"]


async def test_one_worker_that_hangs_does_not_delay_the_checks_of_others(start: Start) -> None:
    one, two = start(), start()
    async with running_pool(one.address, two.address) as bench:
        one.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(0.6)  # until its check hangs
        start_s = time.monotonic()
        two.kill()
        await eventually(lambda: bench.circuit(two.address) == "open")
        assert time.monotonic() - start_s < 1.5


async def test_a_gateway_that_was_stopped_does_not_take_its_workers_for_dead(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check that began before is late because the gateway was, not because of the worker."""
    server = start()
    async with running_pool(server.address) as bench:
        worker = bench.worker(server)
        ask, asked = worker._ask_health, 0

        async def ask_health() -> WorkerState:
            nonlocal asked
            asked += 1
            if asked > 1:
                return await ask()
            time.sleep(2.6)  # noqa: ASYNC251 - as SIGSTOP does
            return WorkerState.SILENT

        monkeypatch.setattr(worker, "_ask_health", ask_health)
        await worker.check()
        assert worker.healthy


async def test_a_worker_without_an_address_that_hangs_loses_its_calls(
    start: Start, hold: Hold, tmp_path: Path
) -> None:
    """A worker that is gone says nothing more; the list of workers has it no longer."""
    workers = [start(FAKE_HOLD=str(hold)) for _ in range(2)]
    listed = tmp_path / "workers"
    listed.write_text("\n".join(worker.address for worker in workers))
    async with running_pool(listed.as_uri()) as bench:
        await eventually(lambda: sum(one.healthy for one in bench.pool.fleet.workers) == 2)
        calls = [asyncio.create_task(bench.embed(text(f"red {n}"))) for n in range(8)]
        gone = await held_by(workers, 1)
        gone.process.send_signal(signal.SIGSTOP)
        hold.release()
        listed.write_text("\n".join(one.address for one in workers if one is not gone))
        await bench.pool.fleet.resolve()
        assert {reason for call in calls for reason in reasons(await call)} == {"ok"}
        assert bench.circuit(gone.address) is None


async def test_followers_of_a_query_are_served_though_its_worker_ends(
    start: Start, hold: Hold
) -> None:
    workers = [start(FAKE_HOLD=str(hold)) for _ in range(2)]
    async with running_pool(*(worker.address for worker in workers)) as bench:
        cache = QueryCache(bench.pool, 10, ServerMetrics("gateway", CollectorRegistry()))

        async def embed() -> list[QueryEmbedding]:
            deadline, fingerprint = Deadline.within(30), bench.fingerprint
            return await cache.embed([text("red")], fingerprint=fingerprint, deadline=deadline)

        callers = [asyncio.create_task(embed()) for _ in range(5)]
        victim = await held_by(workers, 1)
        callers[0].cancel()  # the one who began it
        victim.kill()
        hold.release()
        answers = await asyncio.gather(*callers[1:])
        assert all(answer.vector is not None for [answer] in answers)


async def test_a_caller_who_leaves_ends_the_call_on_the_worker(start: Start, hold: Hold) -> None:
    worker = start(FAKE_HOLD=str(hold))
    async with running_pool(worker.address) as bench:
        stays = asyncio.create_task(bench.embed(text("blue")))
        leaves = asyncio.create_task(bench.embed(text("red")))
        await held_by([worker], 2)
        leaves.cancel()
        with suppress(asyncio.CancelledError):
            await leaves
        until(lambda: embedding(worker) == 1)
        hold.release()
        assert reasons(await stays) == ["ok"]


async def test_a_worker_that_came_back_with_another_model_gets_no_calls_for_the_old_one(
    start: Start,
) -> None:
    port = str(free_port())
    old, other = start("--port", port, FAKE_NAME="old"), start(FAKE_NAME="old")
    async with running_pool(old.address, other.address) as bench:
        fingerprint, worker = bench.fingerprint, bench.worker(old)
        served = worker.served
        old.kill()
        start("--port", port, FAKE_NAME="new")  # perhaps between two health checks
        await eventually(lambda: worker.healthy and worker.served != served)
        for number in range(20):
            worker.served = served  # as if no health check had noticed
            embedded = await bench.pool.embed(
                [text(f"red {number}")], fingerprint=fingerprint, deadline=Deadline.within(30)
            )
            assert reasons(embedded) == ["ok"]
            assert embedded.fingerprint == fingerprint


def test_an_upsert_stores_all_but_the_poisonous_item_and_searches_go_on(
    start: Start, tmp_path: Path
) -> None:
    workers = [start(FAKE_KILLER="magenta") for _ in range(3)]
    with gateway_at(tmp_path, *(worker.address for worker in workers)) as server:
        gateway = connect(server.address)
        name = gateway.create()
        for _ in range(2):
            bad, good = gateway.upsert(
                name,
                item_service_pb2.Item(id="bad", content=image(picture("magenta").data)),
                item_service_pb2.Item(id="good", content=image(picture("red").data)),
            )
            assert reason_of(bad.error) == "CONTENT_POISONOUS"
            assert good.outcome != item_service_pb2.ItemResult.OUTCOME_FAILED
        with pytest.raises(grpc.RpcError) as caught:
            gateway.hits(name, Query(content=image(picture("magenta").data)))
        assert error_info(caught.value) == ("INVALID_ARGUMENT", "CONTENT_POISONOUS")
        assert [hit.id for hit in gateway.hits(name, query("red"))] == ["good"]
        assert alive(workers) == 1
