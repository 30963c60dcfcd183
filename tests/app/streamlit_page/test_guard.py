"""The page is for its own visitors: not for other web sites, and not for frames on them."""

from __future__ import annotations

import asyncio
import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from sentinel_app import guard
from sentinel_app.guard import Guard
from tests.app.streamlit_page.conftest import App, run_apart, serving, visiting

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": KEY,
}


def ask(url: str, path: str, **headers: str) -> http.client.HTTPResponse:
    """Send a GET, without a Host header unless it is given."""
    place = url.removeprefix("http://")
    connection = http.client.HTTPConnection(place, timeout=60)
    connection.putrequest("GET", path, skip_host=True)
    for name, value in {"Host": place, **headers}.items():
        connection.putheader(name, value)
    connection.endheaders()
    return connection.getresponse()


@contextmanager
def outside() -> Iterator[tuple[str, list[bytes]]]:
    """A proxy to the internet that notes what it is asked for, and answers nothing."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    client, _ = server.accept()
                    with client:
                        asked.append(client.recv(200))

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", asked


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, list[bytes]]]:
    """A page on all addresses without a gateway, and what it asked the internet for."""
    with outside() as (proxy, asked):
        environment = {"http_proxy": proxy, "https_proxy": proxy, "no_proxy": "127.0.0.1"}
        folder = tmp_path_factory.mktemp("guarded")
        flags = ("--host", "0.0.0.0", "--allowed-host", "photos.example.com")
        with serving("127.0.0.1:1", folder, *flags, **environment) as url:
            yield url, asked


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8501", 200),
        ("[::1]:8501", 200),
        ("localhost", 200),
        ("sentinel-app:8501", 200),  # of a network of containers
        ("photos.example.com", 200),
        ("PHOTOS.example.com.:443", 200),
        ("evil.test", 403),  # it may point to 127.0.0.1
        ("evil.photos.example.com", 403),
        ("127.0.0.1.evil.test:8501", 403),
        ("localhost@evil.test", 403),
        ("evil.test:no", 403),
        ("", 403),
    ],
)
@pytest.mark.parametrize("path", ["/", "/_stcore/health", "/_stcore/metrics"])
def test_the_page_answers_to_its_own_names(
    page: tuple[str, list[bytes]], host: str, status: int, path: str
) -> None:
    answer = ask(page[0], path, Host=host)
    assert answer.status == status
    if status == 403:
        assert b"--allowed-host NAME" in answer.read()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "localhost:1", "Origin": "http://localhost:1"}, 101),
        ({}, 101),  # not a browser
        ({"Host": "evil.test", "Origin": "http://evil.test"}, 403),
        ({"Origin": "http://evil.test"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://["}, 403),
        ({"Host": "localhost:1", "Origin": "http://localhost:2"}, 403),
    ],
)
def test_no_other_web_site_opens_a_session_and_nobody_outside_is_asked(
    page: tuple[str, list[bytes]], headers: dict[str, str], status: int
) -> None:
    url, asked = page
    assert ask(url, "/_stcore/stream", **UPGRADE, **headers).status == status
    assert ask(url, "/_stcore/health", **headers).status == (403 if status == 403 else 200)
    assert asked == []


def test_every_answer_forbids_frames_and_guesses(page: tuple[str, list[bytes]]) -> None:
    for path in ("/", "/_stcore/health", "/media/none", "/index.html"):
        headers = ask(page[0], path).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]


def test_a_foreign_page_cannot_frame_it(browser: Any, app: App, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.html"
    foreign.write_text(f"<iframe src='{app.url}'></iframe>")
    with visiting(browser, expected="frame") as visitor:
        with visitor.page.expect_event("console", lambda m: "frame-ancestors" in m.text):
            visitor.page.goto(foreign.as_uri())
        assert visitor.page.frames[-1].locator(".stApp").count() == 0


def test_open_pages_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "MAX_OPEN_PAGES", 2)
    sent: list[Any] = []

    async def run() -> None:
        leave = asyncio.Event()

        async def session(*_: Any) -> None:
            await leave.wait()

        async def note(message: Any) -> None:
            sent.append(message)

        async def never() -> Any:
            raise AssertionError

        door = Guard(session)
        scope = {"type": "websocket", "headers": [(b"host", b"localhost")]}
        pages = [asyncio.create_task(door(scope, never, note)) for _ in range(2)]
        await asyncio.sleep(0)
        await door(scope, never, note)
        assert [one["reason"] for one in sent] == ["too many pages are open"]
        leave.set()
        await asyncio.gather(*pages)
        await door(scope, never, note)

    run_apart(run())
    assert len(sent) == 1
