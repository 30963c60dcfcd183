"""A bulk ingest that outlives its gateway: stopped, or killed, and started again."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sentinel_client import ClientConfig, Item, RetryPolicy, SentinelClient
from tests import processes

pytestmark = pytest.mark.timeout(180)

TOTAL = 600


@pytest.fixture
def worker(default_worker: processes.Server) -> str:
    return default_worker.address


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_every_item_is_acknowledged_once_and_there(tmp_path: Path, worker: str, how: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = [
        *processes.gateway_flags(tmp_path, str(tmp_path / "milvus.db"), worker),
        *("--port", str(port)),
    ]
    gateways = [processes.start(tmp_path / "gateway", "search_server", *flags)]

    def restart() -> None:
        getattr(gateways[-1], how)()
        gateways.append(processes.start(tmp_path / "gateway", "search_server", *flags))

    restarting = threading.Thread(target=restart)

    def items() -> Iterator[Item]:
        for number in range(TOTAL):
            if number == TOTAL // 2:
                restarting.start()
            yield Item(id=f"{number:04}", text=f"text number {number}")

    config = ClientConfig(retry=RetryPolicy(max_attempts=12), upsert_max_items=16)
    try:
        with SentinelClient(f"127.0.0.1:{port}", config=config) as client:
            client.create_collection("texts")
            acknowledged: list[str] = []
            for ack in client.ingest(items(), collection="texts"):
                assert not ack.failures
                acknowledged += [item.id for item in ack.items]
            restarting.join()
            expected = [f"{number:04}" for number in range(TOTAL)]
            assert sorted(acknowledged) == expected
            assert [item.id for item in client.list_items(collection="texts")] == expected
            assert client.get_collection("texts").item_count == TOTAL
    finally:
        restarting.join()
        gateways[-1].stop()
