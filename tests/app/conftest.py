"""Fixtures: the photo page in a real browser, in front of a real gateway and a real worker."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest
from playwright.sync_api import expect, sync_playwright

from sentinel_client import SentinelClient
from tests import processes
from tests.app import album
from tests.waiting import until

# Failed tests leave a screenshot here. Set the variable to get the others, too.
SHOTS = Path(os.environ.get("SENTINEL_SCREENSHOTS", "test-screenshots"))
# For everything that a test waits for, on a busy machine.
PATIENCE_MS = 90_000
# Chromium contacts hosts of its own at every start. Without a network, that is an error.
_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class HasErrors(Protocol):
    """A visitor with a page and the errors of its console."""

    page: Any
    errors: list[str]


V = TypeVar("V", bound=HasErrors)


@dataclass
class PhotoApp:
    """A running page and the gateway behind it."""

    url: str
    gateway: str


@dataclass
class Guest:
    """A browser window on the photo page, and the errors of its console."""

    page: Any
    errors: list[str] = field(default_factory=list)

    def open(self, app: PhotoApp, query: str = "") -> None:
        """Open an address of the page; wait for its photos."""
        self.page.goto(f"{app.url}/{query}")
        self.loaded()

    def loaded(self) -> None:
        """Wait until all that is asked for is there: photos, hits, or the words that none is."""
        self.page.wait_for_function(
            "() => { const main = document.querySelector('.gallery');"
            " return main && main.ariaBusy === 'false'"
            " && (main.querySelector('a.tile') || document.querySelector('.below .welcome')); }"
        )

    def search(self, words: str) -> None:
        """Type words into the search box."""
        self.box.fill(words)
        self.box.press("Enter")
        self.page.wait_for_url(f"**q={words.replace(' ', '+')}*", wait_until="commit")
        self.loaded()

    @property
    def box(self) -> Any:
        return self.page.get_by_role("searchbox", name="Search your photos")

    @property
    def tiles(self) -> Any:
        return self.page.locator("a.tile")

    @property
    def names(self) -> list[str]:
        return [one.get_attribute("aria-label") or "" for one in self.tiles.all()]

    @property
    def viewer(self) -> Any:
        return self.page.locator("#viewer")

    @property
    def toast(self) -> Any:
        return self.page.locator(".toast").last

    def open_photo(self, place: int) -> None:
        """Click a photo; wait until what is known about it is shown."""
        self.tiles.nth(place).click()
        self.viewer.locator(".facts h2").wait_for()

    def press_on(self, place: int, label: str) -> None:
        """Press one of the buttons that a mouse over a photo shows."""
        cell = self.page.locator(".cell").nth(place)
        cell.hover()
        cell.get_by_role("button", name=label).click()

    def drawn(self) -> None:
        """Wait until every picture that is near is decoded."""
        self.page.evaluate(
            "() => Promise.all([...document.querySelectorAll('a.tile img')].slice(0, 12)"
            ".map((one) => one.decode().catch(() => {})))"
        )

    def shot(self, name: str) -> None:
        """Take a screenshot of the page at rest, if screenshots are wanted."""
        if "SENTINEL_SCREENSHOTS" in os.environ:
            self.page.mouse.move(2, 2)
            self.drawn()
            self.page.screenshot(path=SHOTS / f"{name}.png")


@pytest.fixture(autouse=True)
def _same_main() -> Iterator[None]:
    """Undo what Streamlit's AppTest does: it leaves a script of its own as `__main__`.

    Processes that later tests spawn would run that.
    """
    main = sys.modules["__main__"]
    yield
    sys.modules["__main__"] = main


@pytest.fixture(scope="session")
def worker(default_worker: processes.Server) -> processes.Server:
    return default_worker


@pytest.fixture(scope="session")
def gateway(
    worker: processes.Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[processes.Server]:
    folder = tmp_path_factory.mktemp("gateway")
    flags = processes.gateway_flags(folder, str(folder / "milvus.db"), worker.address)
    with processes.running(folder, "search_server", *flags) as server:
        yield server


@pytest.fixture(scope="session")
def photo_app(
    gateway: processes.Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PhotoApp]:
    """The page, in front of the collection `photos`."""
    with SentinelClient(gateway.address) as client:
        client.create_collection("photos", album.DATED_FIELDS)
        results = client.upsert(list(album.dated_items()), collection="photos")
        assert all(result.error is None for result in results)
    with serving_photos(gateway.address, tmp_path_factory.mktemp("photo-app")) as url:
        yield PhotoApp(url, gateway.address)


@contextmanager
def serving_photos(gateway: str, folder: Path, *flags: str, **environment: str) -> Iterator[str]:
    """Run `sentinel-app` in front of a gateway; yield its URL. It ends as an operator ends it."""
    port = processes.free_port()
    command = [sys.executable, "-m", "sentinel_app", "--gateway", gateway, "--port", str(port)]
    log = folder / "app.log"
    own = {"XDG_CACHE_HOME": str(folder / "cache"), **environment}
    url = f"http://127.0.0.1:{port}"
    with page_process([*command, *flags], f"{url}/health", log, own):
        yield url
    assert "Traceback" not in log.read_text(), log.read_text()


@contextmanager
def page_process(
    command: list[str], health: str, log: Path, environment: dict[str, str]
) -> Iterator[None]:
    """Run a page's server while the block runs, which begins when it answers at `health`."""
    own = {**os.environ, **environment}
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=own)

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        return answers_health(health)

    try:
        until(answers, 120)
        yield
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def answers_health(url: str) -> bool:
    """Return whether a page answers with 200."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def run_apart(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine in another thread: the browser's loop runs in this one."""
    with ThreadPoolExecutor(1) as executor:
        executor.submit(asyncio.run, work).result()


# Not of the session: while it lives, no asynchronous test can run in this thread, but with
# `run_apart`.
@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    # The first one loads a page in two thirds of the time.
    names = ("chromium-headless-shell", "chromium", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("no Chromium here: apt-get install chromium-headless-shell")
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=path, args=_FLAGS, timeout=PATIENCE_MS
        )
        yield launched
        launched.close()


@contextmanager
def window(
    browser: Any,
    make: Callable[[Any], V],
    *,
    wide: int = 1280,
    high: int = 800,
    expected: str | None = None,
    **context: Any,
) -> Iterator[V]:
    """Open a window without the cookies of others; fail if its console has errors at the end.

    Args:
        browser: The launched one.
        make: Makes the visitor of a page.
        wide: Width of the window.
        high: Height of the window.
        expected: Part of the errors that the test causes.
        context: Of the window, for example its colour scheme.
    """
    context = {"viewport": {"width": wide, "height": high}, "reduced_motion": "reduce", **context}
    opened = browser.new_context(**context)
    opened.set_default_timeout(PATIENCE_MS)
    visitor = make(opened.new_page())

    def note(message: Any) -> None:
        if message.type == "error":
            visitor.errors.append(f"{message.text} ({message.location.get('url', '')})")

    visitor.page.on("console", note)
    visitor.page.on("pageerror", lambda error: visitor.errors.append(str(error)))
    try:
        yield visitor
        left = [one for one in visitor.errors if expected is None or expected not in one]
        assert left == []
    except BaseException as error:
        with suppress(Exception):
            visitor.page.screenshot(path=SHOTS / "failed.png")
            error.add_note("The page shows: " + visitor.page.inner_text("body")[:2000])
        raise
    finally:
        opened.close()


@pytest.fixture(params=["desktop", "phone"])
def guest(request: pytest.FixtureRequest, browser: Any, photo_app: PhotoApp) -> Iterator[Guest]:
    """A visitor with a wide window in light colours, and one with a phone in dark ones."""
    sizes: dict[str, dict[str, Any]] = {
        "desktop": {"wide": 1280, "high": 800, "color_scheme": "light"},
        "phone": {
            "wide": 390,
            "high": 844,
            "color_scheme": "dark",
            "has_touch": True,
            "is_mobile": True,
            "device_scale_factor": 2,
        },
    }
    with window(browser, Guest, **sizes[request.param]) as one:
        yield one


@pytest.fixture
def desktop(browser: Any, photo_app: PhotoApp) -> Iterator[Guest]:
    with window(browser, Guest) as one:
        yield one
