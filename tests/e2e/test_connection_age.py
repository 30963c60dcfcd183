"""A long ingest outlives its connections, also when their grace is over."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from sentinel_client import ClientConfig, Item, RetryPolicy, SentinelClient
from tests import processes


def test_an_ingest_goes_on_when_its_connection_has_reached_its_age(
    tmp_path: Path, default_worker: processes.Server
) -> None:
    flags = processes.gateway_flags(tmp_path, str(tmp_path / "milvus.db"), default_worker.address)
    flags += ["--max-connection-seconds", "0.5", "--connection-grace-seconds", "0.5"]
    acknowledged: list[str] = []

    def items() -> Iterator[Item]:
        for number in range(80):
            time.sleep(0.05)  # four seconds, several connections
            yield Item(id=f"{number:04}", text=f"text number {number}")

    config = ClientConfig(retry=RetryPolicy(max_attempts=12), upsert_max_items=4)
    with (
        processes.running(tmp_path / "gateway", "search_server", *flags) as gateway,
        SentinelClient(gateway.address, config=config) as client,
    ):
        client.create_collection("texts")
        for ack in client.ingest(items(), collection="texts"):
            assert not ack.failures
            acknowledged += [item.id for item in ack.items]
        expected = [f"{number:04}" for number in range(80)]
        assert sorted(acknowledged) == expected
        assert [item.id for item in client.list_items(collection="texts")] == expected
