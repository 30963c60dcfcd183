"""The page in a real browser, in front of a real gateway and a real worker."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sentinel_client import SentinelClient
from tests import processes
from tests.app import album

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
    def box(self) -> Any:
        return self.page.get_by_placeholder("a dog on the beach")

    @property
    def cards(self) -> Any:
        return self.page.locator("article.card")

    @property
    def labels(self) -> list[str]:
        return [c.get_attribute("aria-label") or "" for c in self.page.locator(".open").all()]

    @property
    def line(self) -> Any:
        """The line under the search box, once all hits are there."""
        return self.page.locator(
            "[data-testid=stCaptionContainer]", has_text=re.compile("hits? in")
        )

    def ask(self, words: str) -> None:
        self.box.fill(words)
        self.box.press("Enter")

    def search(self, words: str) -> None:
        self.ask(words)
        self.settled()

    def settled(self) -> None:
        """Wait until the hits of the last search, of which there must be some, are all there."""
        from playwright.sync_api import expect

        self.line.wait_for()
        self.idle()
        count = int(self.line.inner_text().split()[0].replace(",", ""))
        expect(self.cards).to_have_count(count, timeout=30_000)
        self.idle()

    def holds(self, words: str) -> None:
        """Wait until the search box holds `words`: it is filled apart from the hits."""
        from playwright.sync_api import expect

        expect(self.box).to_have_value(words, timeout=30_000)

    def idle(self) -> None:
        """Wait until the page neither runs nor moves."""
        self.page.wait_for_function("!document.querySelector('[data-testid=stStatusWidget]')")
        self.page.wait_for_function(
            "document.getAnimations().every(one => one.playState !== 'running')"
        )

    def chip(self, label: str) -> Any:
        return self.page.locator(".chip", has=self.page.get_by_text(label, exact=True))

    def press(self, place: int, kind: str) -> None:
        """Press one of a hit's buttons."""
        card = self.cards.nth(place)
        card.hover()
        card.locator(f"[data-kind={kind}]").click()

    def choose(self, collection: str) -> None:
        self.page.get_by_role("combobox", name="Collection").click()
        self.page.get_by_role("option", name=collection).click()
        self.idle()

    def upload(self, *files: Path) -> None:
        """Give files to the uploader that is visible."""
        with self.page.expect_file_chooser() as chooser:
            self.page.get_by_role("button", name="Upload").locator("visible=true").click()
        chooser.value.set_files(list(files))

    def shot(self, name: str, *, settled: bool = True) -> None:
        SHOTS.mkdir(parents=True, exist_ok=True)
        if settled:
            self.page.mouse.move(2, 2)  # nothing is hovered over
            self.page.evaluate("document.activeElement?.blur()")
            self.idle()
            self.page.wait_for_timeout(300)
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
        client.create_collection("album", album.FIELDS)
        results = client.upsert(list(album.items()), collection="album")
        assert all(result.error is None for result in results)
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
def visiting(
    browser: Any, *, wide: int = 1280, expected: str | None = None, **context: Any
) -> Iterator[Visitor]:
    """Open a window of its own, without cookies of others; no complaint may be left at its end.

    Args:
        browser: The launched one.
        wide: Width of the window.
        expected: Part of the complaints that the test brings about itself.
        context: Of the window, for example its colour scheme.
    """
    opened = browser.new_context(viewport={"width": wide, "height": 800}, **context)
    opened.set_default_timeout(60_000)
    visitor = Visitor(opened.new_page())

    def note(message: Any) -> None:
        if message.type == "error":
            visitor.complaints.append(f"{message.text} ({message.location.get('url', '')})")

    visitor.page.on("console", note)
    visitor.page.on("pageerror", lambda error: visitor.complaints.append(str(error)))
    try:
        yield visitor
        left = [one for one in visitor.complaints if expected is None or expected not in one]
        assert left == []
    except BaseException:
        with suppress(Exception):
            visitor.shot("failed", settled=False)
        raise
    finally:
        opened.close()


@pytest.fixture
def visitor(browser: Any, app: App) -> Iterator[Visitor]:
    with visiting(browser) as one:
        one.open(app.url)
        yield one
