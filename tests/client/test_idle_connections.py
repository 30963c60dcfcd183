"""A client leaves no connection behind, and ends an idle one before the server does.

Where the server ends one, gRPC writes a note on the standard error of the client's process.
"""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

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
        for _ in range(3):  # a channel of gRPC does it only once
            assert await client.list_collections() == []
            await eventually(lambda: connections(gateway) == 0)


async def test_calls_at_once_after_a_rest_share_one_new_connection(
    gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_connection, "_IDLE_MS", 1000)
    opened: list[str] = []
    once = _connection._open
    monkeypatch.setattr(
        _connection, "_open", lambda where, *more: (opened.append(where), once(where, *more))[1]
    )
    async with AsyncSentinelClient(gateway.address) as client:
        await client.list_collections()
        await eventually(lambda: connections(gateway) == 0)
        await asyncio.gather(*(client.list_collections() for _ in range(8)))
    assert len(opened) == 2


def test_clients_end_idle_connections_before_servers_do() -> None:
    idle_ms = _connection._IDLE_MS
    assert 2 * idle_ms < server._IDLE_MS, "gRPC takes up to twice the time of a client"


def test_a_gateway_leaves_notes_of_grpc_out_of_its_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRPC_VERBOSITY", raising=False)
    program = """if True:
        import os, sys
        from search_server import __main__
        assert "grpc" not in sys.modules, "it would have read the variable"
        sys.argv[1:] = ["--no-such-flag"]
        try:
            __main__.main()
        except SystemExit:
            print(os.environ["GRPC_VERBOSITY"])
    """
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "ERROR\n"
