"""The page in a real browser, in front of a real gateway and a real worker."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sentinel_client import FieldSchema, FieldType, Item, SentinelClient
from tests import photos, processes

FIELDS = (
    FieldSchema("path", FieldType.STRING),
    FieldSchema("caption", FieldType.STRING),
    FieldSchema("bytes", FieldType.INT64),
)
# Screenshots, to be looked at.
SHOTS = Path(os.environ.get("SENTINEL_SCREENSHOTS", "test-screenshots"))
# Chromium looks up hosts of its own at every start; where there is no network, that is an error.
_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@dataclass
class App:
    """A running page and what is behind it."""

    url: str
    gateway: str
    album: str


@dataclass
class Visitor:
    """A browser window, and what it complained of."""

    page: Any
    complaints: list[str] = field(default_factory=list)

    def open(self, url: str) -> None:
        self.page.goto(url)
        self.page.get_by_role("tab", name="Search").wait_for()

    @property
    def cards(self) -> Any:
        return self.page.locator("article.card")

    @property
    def labels(self) -> list[str]:
        return [c.get_attribute("aria-label") or "" for c in self.page.locator(".open").all()]

    def ask(self, words: str) -> None:
        box = self.page.get_by_placeholder("a dog on the beach")
        box.fill(words)
        box.press("Enter")

    def search(self, words: str) -> None:
        self.ask(words)
        self.settled()

    def settled(self) -> None:
        """Wait until the hits of the last search, of which there must be some, are all there."""
        self.page.locator("[data-testid=stCaptionContainer]", has_text="hits in").wait_for()
        self.cards.first.wait_for()
        self.page.wait_for_function("!document.querySelector('[data-testid=stStatusWidget]')")

    def shot(self, name: str) -> None:
        SHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SHOTS / f"{name}.png")


@pytest.fixture(scope="session")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[processes.Server]:
    with processes.running(tmp_path_factory.mktemp("worker"), "embedder_server") as server:
        yield server


@pytest.fixture(scope="session")
def gateway(
    worker: processes.Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[processes.Server]:
    folder = tmp_path_factory.mktemp("gateway")
    flags = processes.gateway_flags(folder, str(folder / "milvus.db"), worker.address)
    with processes.running(folder, "search_server", *flags) as server:
        yield server


@pytest.fixture(scope="session")
def app(gateway: processes.Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    with SentinelClient(gateway.address) as client:
        client.create_collection("album", FIELDS)
        items = [
            Item(
                image=path,
                fields={
                    "path": path.name,
                    "caption": f"this is {path.stem}",
                    "bytes": path.stat().st_size,
                },
            )
            for path in photos.all_photos()
        ]
        assert all(result.error is None for result in client.upsert(items, collection="album"))
    with serving(gateway.address, tmp_path_factory.mktemp("app")) as url:
        yield App(url, gateway.address, "album")


@contextmanager
def serving(gateway: str, folder: Path) -> Iterator[str]:
    """Run `sentinel-app` in front of a gateway; yield its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "sentinel_app", "--gateway", gateway, "--port", str(port)]
    with (folder / "app.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 60
        while not _answers(f"{url}/_stcore/health"):
            assert process.poll() is None and time.monotonic() < end, (
                folder / "app.log"
            ).read_text()
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(20)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


# Of a module, not of the session: while it lives, no asynchronous test can run in this thread.
@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=_FLAGS)
        yield launched
        launched.close()


@contextmanager
def visiting(browser: Any, **context: Any) -> Iterator[Visitor]:
    """Open a window of its own, without cookies of others; no complaint may be left at its end."""
    opened = browser.new_context(viewport={"width": 1280, "height": 800}, **context)
    opened.set_default_timeout(60_000)
    visitor = Visitor(opened.new_page())

    def note(message: Any) -> None:
        if message.type == "error":
            visitor.complaints.append(f"{message.text} ({message.location.get('url', '')})")

    visitor.page.on("console", note)
    visitor.page.on("pageerror", lambda error: visitor.complaints.append(str(error)))
    try:
        yield visitor
    except BaseException:
        visitor.shot("failed")
        raise
    finally:
        opened.close()


@pytest.fixture
def visitor(browser: Any, app: App) -> Iterator[Visitor]:
    with visiting(browser) as one:
        one.open(app.url)
        yield one
        assert one.complaints == []
