"""A client leaves no connection behind, and ends an idle one before the server does.

Where the server ends one, gRPC writes a note on the standard error of the client's process.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator

import grpc
import psutil
import pytest

from search_server.embedders import connection as worker_connection
from sentinel_client import AsyncSentinelClient, NotFound, SentinelClient, _connection
from sentinel_core import errors as core
from sentinel_core import server
from tests.client.fake_gateway import FakeGateway
from tests.waiting import eventually, until


@pytest.fixture
def _no_search_for_cycles() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def connections(gateway: FakeGateway) -> int:
    port = int(gateway.address.rpartition(":")[2])
    found = psutil.Process().net_connections()
    return len([one for one in found if one.raddr and one.raddr.port == port])


@pytest.mark.usefixtures("_no_search_for_cycles")
def test_a_closed_client_has_no_connection_though_calls_failed(gateway: FakeGateway) -> None:
    gateway.failures["GetCollection"] += [core.NotFound("COLLECTION_NOT_FOUND", "none")] * 2
    gateway.failures["Search"].append(core.NotFound("COLLECTION_NOT_FOUND", "none"))
    with SentinelClient(gateway.address) as client:
        for _ in range(2):
            with pytest.raises(NotFound):
                client.get_collection("none")
        with pytest.raises(NotFound):
            list(client.stream_search("x", collection="none"))
        assert connections(gateway) == 1
    until(lambda: connections(gateway) == 0)


async def test_an_idle_connection_ends_and_the_next_call_makes_another(
    gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_connection, "_IDLE_MS", 200)
    async with AsyncSentinelClient(gateway.address) as client:
        await client.list_collections()
        channel = client._connection._channel
        assert channel is not None
        await eventually(lambda: channel.get_state() is grpc.ChannelConnectivity.IDLE)
        await eventually(lambda: connections(gateway) == 0)
        assert await client.list_collections() == []


def test_clients_and_gateways_end_idle_connections_first() -> None:
    ours = dict(worker_connection._options(1024))["grpc.client_idle_timeout_ms"]
    for idle_ms in (_connection._IDLE_MS, int(ours)):
        assert 2 * idle_ms < server._IDLE_MS, "gRPC takes up to twice the time of a client"
