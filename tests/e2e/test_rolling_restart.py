"""Restart every gateway and every worker, one at a time, under load: no call of a client fails."""

from __future__ import annotations

import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from sentinel_client import Item, SentinelClient
from tests import processes
from tests.processes import metric
from tests.waiting import until

pytestmark = [pytest.mark.milvus, pytest.mark.slow, pytest.mark.long]
CALLERS = 6
CALLS = 5_000


class Deployment:
    """Gateways and workers on fixed ports. Each can be restarted."""

    def __init__(self, folder: Path, milvus_uri: str, gateways: int, workers: int) -> None:
        self._folder = folder
        self._milvus_uri = milvus_uri
        self._ports = {f"worker-{number}": processes.free_port() for number in range(workers)}
        self._workers = [f"127.0.0.1:{port}" for port in self._ports.values()]
        self.gateways = [f"gateway-{number}" for number in range(gateways)]
        self._ports |= {name: processes.free_port() for name in self.gateways}
        self.servers: dict[str, processes.Server] = {}

    def start(self, name: str) -> None:
        module, flags = "embedder_server", ["--port", str(self._ports[name])]
        if name in self.gateways:
            module = "search_server"
            flags += processes.gateway_flags(self._folder, self._milvus_uri, *self._workers)
        self.servers[name] = processes.start(self._folder / name, module, *flags)

    def stop(self, name: str) -> None:
        """Stop a server as an operator does."""
        assert self.servers[name].stop() == 0

    def restart(self, name: str) -> None:
        """Stop a server, start it anew, and wait until it has work again."""
        self.stop(name)
        self.start(name)
        until(lambda: self._calls(name) > 0)

    def _calls(self, name: str) -> float:
        process = "gateway" if name in self.gateways else "embedder"
        return metric(
            self.servers[name].metrics_address,
            f"sentinel_{process}_request_duration_seconds_count",
            code="OK",
        )

    @property
    def address(self) -> str:
        return "ipv4:" + ",".join(self.servers[name].address for name in self.gateways)


@pytest.fixture
def deployment(tmp_path: Path, milvus_server_uri: str) -> Iterator[Deployment]:
    made = Deployment(tmp_path, milvus_server_uri, gateways=2, workers=3)
    with ExitStack() as stack:
        for name in made._ports:
            made.start(name)
            stack.callback(made.stop, name)
        yield made


def call_until(
    over: threading.Event, address: str, collection: str, caller: int, calls: Counter[str]
) -> None:
    """Search, upsert, read and delete one after the other; count the calls by kind."""
    with SentinelClient(address) as client:
        while not over.is_set():
            number = calls.total()
            item_id = f"{caller}-{number}"
            match number % 10:
                case 0:
                    item = Item(id=item_id, text=f"a photo of a dog, number {item_id}")
                    [result] = client.upsert([item], collection=collection)
                    assert result.error is None, result
                    calls["upsert"] += 1
                case 1:
                    before = f"{caller}-{number - 1}"
                    assert [item.id for item in client.get_items([before], collection=collection)]
                    calls["get"] += 1
                case 2 if number % 100 == 2:
                    before = f"{caller}-{number - 2}"
                    client.delete_items([before], collection=collection)
                    calls["delete"] += 1
                case _:
                    hits = client.search(f"a dog, number {item_id}", collection=collection, limit=3)
                    assert len(hits) == 3
                    calls["search"] += 1


@pytest.mark.timeout(600)
def test_a_rolling_restart_fails_no_call(deployment: Deployment) -> None:
    name = f"c_{uuid.uuid4().hex}"
    with SentinelClient(deployment.address) as client:
        client.create_collection(name)
        client.upsert([Item(id=f"i{n}", text=f"dog {n}") for n in range(10)], collection=name)
    over = threading.Event()
    calls = [Counter[str]() for _ in range(CALLERS)]
    rounds = 0
    with ThreadPoolExecutor(CALLERS) as threads:
        callers = [
            threads.submit(call_until, over, deployment.address, name, caller, calls[caller])
            for caller in range(CALLERS)
        ]
        try:
            while sum(map(Counter.total, calls)) < CALLS:
                rounds += 1
                for server in list(deployment.servers):
                    deployment.restart(server)
                    assert not any(caller.done() for caller in callers)
        finally:
            over.set()
        for caller in callers:
            caller.result()
    by_kind = sum(calls, Counter[str]())
    print(f"{by_kind.total()} calls {dict(by_kind)}, {rounds} rounds")
