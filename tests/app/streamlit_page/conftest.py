"""Fixtures: the Streamlit page in a real browser, in front of a real gateway and a real worker."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from sentinel_client import SentinelClient
from tests import processes
from tests.app import album
from tests.app.conftest import PATIENCE_MS, SHOTS, page_process, run_apart, window
from tests.waiting import until

__all__ = ["PATIENCE_MS", "SHOTS", "run_apart"]


@dataclass
class App:
    """A running page and what is behind it."""

    url: str
    gateway: str
    album: str


@dataclass
class Visitor:
    """A browser window and the errors of its console."""

    page: Any
    errors: list[str] = field(default_factory=list)
    requests: set[Any] = field(default_factory=set)  # not answered yet

    def __post_init__(self) -> None:
        self.page.on("request", self._sent)
        self.page.on("requestfinished", self._answered)
        self.page.on("requestfailed", self._answered)

    # Playwright takes functions of Python only.
    def _sent(self, request: Any) -> None:
        self.requests.add(request)

    def _answered(self, request: Any) -> None:
        self.requests.discard(request)

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
        """Search for some words and wait for all hits."""
        before = self.search_number()
        self.ask(words)
        self.next_search(before)

    def search_number(self) -> str | None:
        """Return the number of the search whose hits are shown; None before the first one."""
        grid = self.page.locator(".grid")
        return grid.get_attribute("data-search") if grid.count() else None

    def next_search(self, before: str | None) -> None:
        """Wait for all hits of the search that follows the one with this number."""
        is_new = "[data-search]" if before is None else f":not([data-search='{before}'])"
        self.page.locator(f".grid{is_new}").wait_for(state="attached")
        self.settled()

    def settled(self) -> None:
        """Wait until all hits of the search that is shown are there, one at least."""
        self.line.wait_for()
        self.idle()
        count = int(self.line.inner_text().split()[0].replace(",", ""))
        expect(self.cards).to_have_count(count)
        self.idle()

    def holds(self, words: str) -> None:
        """Wait until the search box holds `words`: it is filled apart from the hits."""
        expect(self.box).to_have_value(words)

    def idle(self) -> None:
        """Wait until the page's script has ended, its requests are answered and nothing moves."""
        # The page sends what was entered just now after it has painted.
        self.page.evaluate(
            "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame("
            "() => setTimeout(done))))"
        )
        self.page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]")
        self.page.wait_for_function(
            "document.getAnimations().every(one => one.playState !== 'running')"
        )
        # Streamlit forgets a picture that is shown no more, and its download button checks whether
        # it is there: who closes a picture sooner sees an error.
        until(lambda: self.page.wait_for_timeout(1) or not self.requests, PATIENCE_MS / 1000)

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
        self.page.wait_for_url(f"**collection={collection}*", wait_until="commit")
        self.idle()

    def upload(self, *files: Path) -> None:
        """Give files to the uploader that is visible."""
        self.idle()  # or this uploader may be about to be replaced
        with self.page.expect_file_chooser() as chooser:
            self.page.get_by_role("button", name="Upload").locator("visible=true").click()
        chooser.value.set_files(list(files))

    def shot(self, name: str) -> None:
        """Take a screenshot of the page at rest, if screenshots are wanted."""
        if "SENTINEL_SCREENSHOTS" in os.environ:
            self.page.mouse.move(2, 2)  # nothing is hovered over
            self.page.evaluate("document.activeElement?.blur()")
            self.idle()
            self.page.screenshot(path=SHOTS / f"{name}.png")


@pytest.fixture(scope="session")
def app(gateway: processes.Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    with SentinelClient(gateway.address) as client:
        client.create_collection("album", album.FIELDS)
        results = client.upsert(list(album.items()), collection="album")
        assert all(result.error is None for result in results)
    with serving(gateway.address, tmp_path_factory.mktemp("app")) as url:
        yield App(url, gateway.address, "album")


@contextmanager
def serving(gateway: str, folder: Path, *flags: str, **environment: str) -> Iterator[str]:
    """Run `sentinel-app`, with long limits, in front of a gateway; yield its URL."""
    port = flags[flags.index("--port") + 1] if "--port" in flags else str(processes.free_port())
    command = [sys.executable, "-m", "tests.app.streamlit_page.patient_page"]
    command += ["--gateway", gateway, "--port", port, *flags]
    url = f"http://127.0.0.1:{port}"
    with page_process(command, f"{url}/_stcore/health", folder / "app.log", environment):
        yield url


@pytest.fixture(autouse=True)
def main_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the main module: Streamlit puts each script in its place, and new processes read it."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])


def visiting(
    browser: Any, *, wide: int = 1280, expected: str | None = None, **context: Any
) -> AbstractContextManager[Visitor]:
    """Open a window without the cookies of others; fail if its console has errors at the end."""
    return window(browser, Visitor, wide=wide, expected=expected, **context)


@pytest.fixture
def visitor(browser: Any, app: App) -> Iterator[Visitor]:
    with visiting(browser) as one:
        one.open(app.url)
        yield one
