"""Hedged reads with two real gateways, one of which is stopped in the middle of its work."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from sentinel_client import ClientConfig, Hedging, Item, SentinelClient, Timeouts
from tests import processes

pytestmark = pytest.mark.slow  # two gateways, and a stop at each call


@pytest.fixture
def pair(
    default_worker: processes.Server, tmp_path: Path
) -> Iterator[tuple[processes.Server, processes.Server]]:
    """Two gateways, each with a Milvus Lite of its own and the same item in it."""
    folders = [tmp_path / name for name in ("one", "other")]
    flags = [
        processes.gateway_flags(folder, str(folder / "milvus.db"), default_worker.address)
        for folder in folders
    ]
    with (
        processes.running(folders[0], "search_server", *flags[0]) as one,
        processes.running(folders[1], "search_server", *flags[1]) as other,
    ):
        for server in (one, other):
            with SentinelClient(server.address) as client:
                client.create_collection("c")
                client.upsert([Item(id="1", text="a dog")], collection="c")
        yield one, other


def test_a_gateway_that_stops_answering_delays_reads_and_fails_none(
    pair: tuple[processes.Server, processes.Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SENTINEL_TLS_SERVER_NAME", "localhost")  # in the secure mode
    config = ClientConfig(
        # Keepalive would find out after 40 s, and the calls have 20.
        hedging=Hedging(after=0.2),
        timeouts=Timeouts(search=20, read=20, upsert=20),
    )
    address = "ipv4:" + ",".join(server.address for server in pair)
    with SentinelClient(address, config=config) as client:
        for _ in range(20):  # until both are connected
            client.get_collection("c")
        pair[0].process.send_signal(signal.SIGSTOP)
        try:
            for _ in range(4):  # every other one goes to the stopped gateway first
                assert client.search("a dog", collection="c")[0].id == "1"
            assert client.search_page("a dog", collection="c").hits
            assert client.get_items(["1"], collection="c").items
            assert client.embed("a cat").shape
            assert client.rank("a cat", ["a dog"])
        finally:
            pair[0].process.send_signal(signal.SIGCONT)
