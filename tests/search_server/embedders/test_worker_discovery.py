"""One name, many workers: each address is one, whatever comes and goes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from pydantic import ValidationError

from search_server.embedders import worker as worker_module
from search_server.embedders.pool import EmbedderPool
from search_server.embedders.worker import WorkerState
from search_server.settings import GatewaySettings
from sentinel_core.calls import Deadline
from sentinel_core.errors import Unavailable
from sentinel_core.metrics import ServerMetrics
from sentinel_store.items import Content, Kind
from tests import processes
from tests.processes import metric
from tests.search_server.conftest import connect, text
from tests.search_server.embedders.pools import worker_access
from tests.search_server.embedders.test_faults import caption, free_port, gateway_at

FAKE = "tests.fakes.worker"
HOSTS = ("127.0.0.1", "127.0.0.2")


class Names:
    """What the resolver answers; real sockets, since only the look-up is replaced."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hosts: tuple[str, ...] = ()
        self.down = False
        self._system = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self._answer)

    def _answer(self, host: str, port: int, *rest: Any, **named: Any) -> list[Any]:
        if host != "worker.test":
            return self._system(host, port, *rest, **named)
        if self.down or not self.hosts:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in self.hosts
        ]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    return Names(monkeypatch)


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def workers(port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Any]]:
    folder = tmp_path_factory.mktemp("workers")
    slow = {"FAKE_SECONDS_PER_BATCH": "0.2"}
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                processes.running(
                    folder / host, FAKE, "--host", host, "--port", str(port), environment=slow
                )
            )
            for host in HOSTS
        ]


@pytest.fixture
async def pool(port: int, workers: list[Any], names: Names) -> AsyncIterator[EmbedderPool]:
    metrics = ServerMetrics("gateway", CollectorRegistry())
    pool = EmbedderPool([f"dns:///worker.test:{port}"], 64 << 20, metrics, worker_access())
    yield pool
    await pool.fleet.close()


async def look(pool: EmbedderPool) -> None:
    await pool.fleet.resolve()
    await pool.fleet.check()


async def embed(pool: EmbedderPool, words: str) -> None:
    embedded = await pool.embed(
        [Content(Kind.TEXT, words.encode())],
        fingerprint=pool.model().model.fingerprint,
        deadline=Deadline.after(None, default_s=10),
    )
    assert embedded.items[0].vector is not None


def answered(worker: processes.Server) -> float:
    name = "sentinel_embedder_items_total"
    return metric(worker.metrics_address, name, operation="text", outcome="ok")


async def test_every_address_of_a_name_gets_work(
    pool: EmbedderPool, names: Names, workers: list[Any]
) -> None:
    names.hosts = HOSTS
    await look(pool)
    before = [answered(worker) for worker in workers]
    await asyncio.gather(*(embed(pool, f"red {n}") for n in range(20)))
    shares = [answered(worker) - start for worker, start in zip(workers, before, strict=True)]
    assert sum(shares) == 20
    assert min(shares) >= 5, shares


async def test_a_replica_that_goes_finishes_a_check_for_which_a_call_waits(
    names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "_HEALTH_TIMEOUT_S", 0.5)
    with socket.create_server((HOSTS[0], 0)) as silent:
        port = silent.getsockname()[1]
        metrics = ServerMetrics("gateway", CollectorRegistry())
        pool = EmbedderPool([f"dns:///worker.test:{port}"], 64 << 20, metrics)
        names.hosts = HOSTS
        await pool.fleet.resolve()
        [worker] = [one for one in pool.fleet.workers if one.address.startswith(HOSTS[0])]
        checking = asyncio.create_task(worker.check())
        await asyncio.sleep(0)
        names.hosts = HOSTS[1:]
        await pool.fleet.resolve()
        assert worker not in pool.fleet.workers
        await checking  # or the call that lost this worker would end as cancelled
        assert worker.state is WorkerState.SILENT
        await pool.fleet.close()


async def test_a_replica_that_goes_finishes_its_calls_and_gets_no_new_ones(
    pool: EmbedderPool, names: Names, workers: list[Any]
) -> None:
    names.hosts = (HOSTS[0],)
    await look(pool)
    running = [asyncio.create_task(embed(pool, f"blue {n}")) for n in range(4)]
    await asyncio.sleep(0.05)
    names.hosts = (HOSTS[1],)
    await look(pool)
    before = answered(workers[1])
    await embed(pool, "green")
    assert answered(workers[1]) - before == 1
    await asyncio.gather(*running)


async def test_a_name_without_addresses_is_said_until_it_has_one(
    pool: EmbedderPool, names: Names, port: int
) -> None:
    await look(pool)
    with pytest.raises(Unavailable, match=f"dns:///worker.test:{port}") as caught:
        pool.model()
    assert caught.value.reason == "NO_HEALTHY_WORKER"
    names.hosts = (HOSTS[0],)
    await look(pool)
    await embed(pool, "red")


async def test_a_resolver_that_fails_costs_no_worker(pool: EmbedderPool, names: Names) -> None:
    names.hosts = HOSTS
    await look(pool)
    names.down = True
    await look(pool)
    await embed(pool, "red")


async def test_a_host_with_two_families_is_one_worker(
    pool: EmbedderPool, names: Names, monkeypatch: pytest.MonkeyPatch, port: int
) -> None:
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda *_, **__: [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0)),
        ],
    )
    await look(pool)
    assert [worker.address for worker in pool.fleet.workers] == [f"127.0.0.1:{port}"]


async def test_a_file_names_the_workers_in_its_order_and_is_read_again(
    workers: list[Any], tmp_path: Path
) -> None:
    file = tmp_path / "a, b" / "workers"
    metrics = ServerMetrics("gateway", CollectorRegistry())
    pool = EmbedderPool([file.as_uri()], 64 << 20, metrics, worker_access())
    assert [file.as_uri()] == GatewaySettings(workers=file.as_uri()).worker_entries()
    addresses = [worker.address for worker in workers]
    await look(pool)  # there is no file yet
    assert pool.fleet.workers == []
    file.parent.mkdir()
    for lines in (addresses[1:], addresses[::-1], addresses[:1]):
        file.write_text("".join(f"{line}\n" for line in lines))
        await look(pool)
        assert [worker.address for worker in pool.fleet.workers] == lines
    await embed(pool, "red")
    file.unlink()
    await look(pool)
    assert [worker.address for worker in pool.fleet.workers] == addresses[:1]
    await pool.fleet.close()


async def test_a_file_that_cannot_be_read_costs_no_worker(tmp_path: Path) -> None:
    file = tmp_path / "workers"
    metrics = ServerMetrics("gateway", CollectorRegistry())
    pool = EmbedderPool([file.as_uri(), "file:///a%00b"], 64 << 20, metrics)
    file.write_text("worker.test:1\n")
    await pool.fleet.resolve()
    file.write_bytes(b"\xff\xfe")
    await pool.fleet.resolve()
    assert [worker.address for worker in pool.fleet.workers] == ["worker.test:1"]
    await pool.fleet.close()


def test_a_gateway_finds_its_worker_by_name(tmp_path: Path, workers: list[Any], port: int) -> None:
    with gateway_at(tmp_path, f"dns:///localhost:{port}") as server:
        gateway = connect(server.address)
        name = gateway.create()
        gateway.upsert(name, caption("red"))
        assert gateway.hits(name, text("red"))[0].text == "red"


@pytest.mark.parametrize(
    "entries",
    ["worker", "worker:", ":50051", "worker:0", "worker:70000", "dns:worker:50051",
     "dns:///worker", "http://worker:50051", "a:1,b", "file:///", "file://host/x", "file:x"],
)  # fmt: skip
def test_what_is_no_worker_is_refused_at_start(entries: str) -> None:
    with pytest.raises(ValidationError, match="is not a worker; use host:port, dns:///name:port"):
        GatewaySettings(workers=entries)


@pytest.mark.parametrize(
    "entries",
    ["worker:50051", "10.0.0.1:1, b:2", "[::1]:50051", "dns:///worker.ns.svc:50051", "",
     "file:///run/a%20b%2Cc/workers"],
)  # fmt: skip
def test_what_is_a_worker_is_taken(entries: str) -> None:
    taken = GatewaySettings(workers=entries).worker_entries()
    assert taken == [entry.strip() for entry in entries.split(",") if entry.strip()]
