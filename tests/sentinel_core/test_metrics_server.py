"""The metrics port answers honest scrapers, whoever else connects to it."""

from __future__ import annotations

import asyncio
import socket
import threading
import urllib.request
from collections.abc import AsyncIterator

import pytest
from prometheus_client import CollectorRegistry, Counter

from sentinel_core import metrics_server
from sentinel_core.metrics_server import MetricsServer
from tests.waiting import eventually


@pytest.fixture
async def address() -> AsyncIterator[str]:
    registry = CollectorRegistry()
    Counter("cats_total", "Cats seen.", registry=registry).inc(3)
    server = MetricsServer(registry, lambda: True)
    yield await server.start("127.0.0.1", 0)
    await server.close()


def scrape(address: str, accept: str = "") -> tuple[str, bytes]:
    request = urllib.request.Request(f"http://{address}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=20) as response:
        return response.headers["Content-Type"], response.read()


def connect(address: str) -> socket.socket:
    host, port = address.split(":")
    return socket.create_connection((host, int(port)), timeout=20)


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "text/plain"),
        ("application/openmetrics-text; version=1.0.0", "application/open"),
    ],
)
async def test_a_scraper_gets_the_form_that_it_asks_for(
    address: str, accept: str, kind: str
) -> None:
    found, body = await asyncio.to_thread(scrape, address, accept)
    assert found.startswith(kind)
    assert b"cats_total 3.0" in body


async def test_silent_connections_keep_no_scraper_waiting(address: str) -> None:
    threads = threading.active_count()
    silent = await asyncio.gather(*(asyncio.to_thread(connect, address) for _ in range(300)))
    try:
        for _ in range(5):
            await asyncio.to_thread(scrape, address)
        await eventually(lambda: closed(silent[0]))  # the oldest made place
        assert threading.active_count() <= threads + 20  # those of this test
    finally:
        for one in silent:
            one.close()


def closed(connection: socket.socket) -> bool:
    try:
        connection.setblocking(False)
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


async def test_a_silent_connection_ends(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server, "_LONGEST_S", 0.2)
    with await asyncio.to_thread(connect, address) as silent:
        silent.sendall(b"GET /metrics HTTP/1.1\r\n")
        await eventually(lambda: closed(silent))


async def test_twenty_scrapers_at_once_are_all_answered(address: str) -> None:
    answers = await asyncio.gather(*(asyncio.to_thread(scrape, address) for _ in range(20)))
    assert all(b"cats_total 3.0" in body for _, body in answers)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /nothing HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405"),
        (b"\xff\xfe\r\n\r\n", b"405"),
        (b"GET /metrics HTTP/1.1\r\nx: " + b"y" * 100_000, b""),
        (b"HEAD /metrics HTTP/1.1\r\n\r\n", b"200"),
    ],
)
async def test_what_is_no_scrape_is_refused(
    address: str, request_bytes: bytes, status: bytes
) -> None:
    def ask() -> bytes:
        with connect(address) as connection:
            try:
                connection.sendall(request_bytes)
                return connection.recv(100)
            except ConnectionError:
                return b""

    assert status in (await asyncio.to_thread(ask))[:12]


async def test_a_taken_port_is_told(address: str) -> None:
    with pytest.raises(OSError, match="in use"):
        await MetricsServer(CollectorRegistry(), lambda: True).start(
            "127.0.0.1", int(address.split(":")[1])
        )
