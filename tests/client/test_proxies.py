"""No proxy is asked for what is on this machine, and elsewhere an error names the proxy."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sentinel_client import AsyncSentinelClient, ConnectionFailed, SentinelClient
from sentinel_client._proxy import is_on_loopback, proxy_of
from sentinel_core.proxies import bypass_proxies_on_loopback
from tests import processes
from tests.client.fake_gateway import FakeGateway

VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy", "no_grpc_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def _no_proxy_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def silent_proxy() -> Iterator[str]:
    """A proxy that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_a_gateway_on_this_machine_is_reached_at_once(
    gateway: FakeGateway, silent_proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", silent_proxy)
    port = gateway.address.rpartition(":")[2]
    for host in ("127.0.0.1", "localhost", "ipv4:127.0.0.1", "dns:///localhost"):
        with SentinelClient(f"{host}:{port}") as client:
            assert client.health(timeout=20).serving


@pytest.mark.parametrize("server", ["lite", pytest.param("server", marks=pytest.mark.milvus)])
def test_servers_reach_each_other_on_this_machine(
    tmp_path: Path, request: pytest.FixtureRequest, silent_proxy: str, server: str
) -> None:
    proxy = {"http_proxy": silent_proxy}
    uri = str(tmp_path / "m.db")
    if server == "server":
        uri = request.getfixturevalue("milvus_server_uri")
    with processes.running(tmp_path / "w", "tests.fakes.worker", environment=proxy) as worker:
        flags = processes.gateway_flags(tmp_path, uri, worker.address)
        with processes.running(
            tmp_path / "g", "search_server", *flags, environment=proxy
        ) as gateway:
            done = subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "sentinel_client.cli",
                    "--address",
                    gateway.address,
                    "health",
                ],
                env={**os.environ, **proxy},
                capture_output=True,
                check=False,
                timeout=60,
            )
            assert done.returncode == 0, done.stderr


async def test_elsewhere_the_error_names_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://me:secret@127.0.0.1:1")
    async with AsyncSentinelClient("search.example:50050") as client:
        with pytest.raises(ConnectionFailed) as told:
            await client.health(timeout=20)
    message = str(told.value)
    assert "by the proxy of https_proxy=http://127.0.0.1:1" in message
    assert "add search.example to no_proxy" in message
    assert "secret" not in message


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("localhost", True),
        ("LOCALHOST:1", True),
        ("a.localhost:1", True),
        ("127.8.9.1:1", True),
        ("[::1]:1", True),
        ("::1", True),
        ("ipv6:[::1]:1", True),
        ("0.0.0.0:1", True),
        ("unix:/run/x", True),
        ("dns://10.0.0.1/127.0.0.1:1", True),
        ("10.0.0.1:1", False),
        ("[fe80::1]:1", False),
        ("dns:///search.example:1", False),
        ("localhost.example:1", False),
    ],
)
def test_what_is_on_this_machine(address: str, loopback: bool) -> None:
    assert is_on_loopback(address) == loopback


@pytest.mark.parametrize(
    ("bypass", "proxied"),
    [
        ({}, True),
        ({"no_proxy": "other.example, .search.example"}, False),
        ({"no_proxy": "example"}, False),
        ({"no_proxy": "example", "no_grpc_proxy": "other"}, True),
        ({"no_grpc_proxy": "a.search.example"}, False),
        ({"NO_PROXY": "example"}, True),  # which gRPC does not read
    ],
)
def test_no_proxy_is_read_as_grpc_reads_it(
    monkeypatch: pytest.MonkeyPatch, bypass: dict[str, str], proxied: bool
) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    for name, value in bypass.items():
        monkeypatch.setenv(name, value)
    assert proxy_of("a.search.example:50050") == ("http_proxy=http://proxy:3128" if proxied else "")
    monkeypatch.setenv("no_grpc_proxy", "10.0.0.0/8")
    assert not proxy_of("10.1.2.3:50050")
    assert proxy_of("11.1.2.3:50050")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, None),
        ({"http_proxy": "http://p:1"}, "localhost,127.0.0.1,127.0.0.0/8,::1"),
        (
            {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "a, localhost"},
            "a,localhost,127.0.0.1,127.0.0.0/8,::1",
        ),
    ],
)
def test_servers_add_this_machine_to_no_proxy(
    monkeypatch: pytest.MonkeyPatch, before: dict[str, str], after: str | None
) -> None:
    monkeypatch.setattr(os, "environ", dict(before))
    bypass_proxies_on_loopback()
    assert os.environ.get("no_proxy") == after
