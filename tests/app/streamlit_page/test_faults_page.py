"""What the page shows and does when something behind it is down, busy or slow."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from sentinel_client import Item, SentinelClient
from tests import photos, processes
from tests.app import album
from tests.app.streamlit_page.conftest import Visitor, serving, visiting
from tests.app.streamlit_page.fake_gateway import FakeGateway, Script, running_fake_gateway
from tests.processes import in_flight
from tests.waiting import until

pytestmark = pytest.mark.timeout(300)
PATIENCE_S = 90.0


@contextmanager
def gateway_in(
    folder: Path, worker: processes.Server, after: processes.Server | None = None
) -> Iterator[processes.Server]:
    """Run a gateway with its data in a folder, where an earlier one was if there was one."""
    flags = processes.gateway_flags(folder, str(folder / "milvus.db"), worker.address)
    if after is not None:
        flags += ["--port", after.address.rpartition(":")[2]]
    with processes.running(folder, "search_server", *flags) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FakeGateway, str]]:
    """A fake gateway, and the URL of a page in front of it."""
    with (
        running_fake_gateway() as gateway,
        serving(gateway.address, tmp_path_factory.mktemp("fake")) as url,
    ):
        yield gateway, url


@contextmanager
def visiting_fake(browser: Any, fake: tuple[FakeGateway, str], script: Script) -> Iterator[Visitor]:
    gateway, url = fake
    gateway.script = script
    try:
        with visiting(browser) as visitor:
            visitor.open(url)
            yield visitor
    finally:
        script.resume.set()


def test_five_thousand_characters_are_answered(visitor: Visitor) -> None:
    visitor.search("many words " * 455)  # cut to what the model reads


@pytest.mark.slow
def test_a_gateway_that_is_away_is_named_and_found_again(
    browser: Any, worker: processes.Server, tmp_path: Path
) -> None:
    with (
        gateway_in(tmp_path, worker) as gateway,
        serving(gateway.address, tmp_path) as url,
        visiting(browser) as visitor,
    ):
        visitor.page.goto(url)
        visitor.page.get_by_role("button", name="Create").click()  # there is no collection yet
        visitor.page.get_by_text("is empty").wait_for()
        gateway.kill()
        visitor.page.reload()
        visitor.page.get_by_text("No gateway answers at").wait_for()
        visitor.shot("away")
        with gateway_in(tmp_path, worker, after=gateway):
            visitor.page.get_by_text("is empty").wait_for()  # without a click


@pytest.mark.slow
def test_a_restart_of_the_gateway_is_not_noticed(
    browser: Any, worker: processes.Server, tmp_path: Path
) -> None:
    with (
        gateway_in(tmp_path, worker) as gateway,
        serving(gateway.address, tmp_path) as url,
        visiting(browser) as visitor,
    ):
        with SentinelClient(gateway.address) as client:
            client.create_collection("album", album.FIELDS)
            client.upsert([Item(image=photos.photo("chelsea"))], collection="album")
        visitor.open(url)
        visitor.search("a cat")
        gateway.kill()
        with gateway_in(tmp_path, worker, after=gateway):
            visitor.cards.first.locator(".open").click()
            shown = visitor.page.get_by_role("dialog").locator("img")
            shown.wait_for()
            assert shown.evaluate("async (i) => (await i.decode(), i.naturalWidth)") > 300
            visitor.idle()
            visitor.page.keyboard.press("Escape")
            visitor.search("a rocket")


@contextmanager
def stalled(gateway: processes.Server) -> Iterator[None]:
    gateway.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        gateway.process.send_signal(signal.SIGCONT)


@pytest.mark.slow
def test_a_stall_of_the_gateway_loses_nothing_that_was_entered(
    browser: Any, worker: processes.Server, tmp_path: Path
) -> None:
    with (
        gateway_in(tmp_path, worker) as gateway,
        serving(gateway.address, tmp_path) as url,
        visiting(browser) as visitor,
    ):
        with SentinelClient(gateway.address) as client:
            client.create_collection("album", album.FIELDS)
            client.upsert([Item(image=photos.photo("chelsea"))], collection="album")
        visitor.open(url)
        visitor.page.get_by_role("tab", name="Add").click()
        visitor.upload(photos.photo("rocket"))
        store = visitor.page.get_by_role("button", name="Store 1 file")
        store.wait_for()
        visitor.page.get_by_role("tab", name="Search").click()
        visitor.search("a cat")
        visitor.page.get_by_role("button", name="Add a filter").click()
        value = visitor.page.get_by_placeholder("value")
        value.fill("nothing")
        value.press("Enter")
        visitor.page.get_by_text("Nothing found").wait_for()
        visitor.idle()
        visitor.page.get_by_role("tab", name="Add").click()
        kept = visitor.page.get_by_text("chosen files are kept")
        with stalled(gateway):
            visitor.page.get_by_text("Captions", exact=True).click()  # runs the page
            kept.wait_for()
            expect(store).to_be_visible()  # the same tab is shown
            visitor.shot("stalled")
        expect(kept).to_have_count(0)
        visitor.idle()
        expect(store).to_be_visible()
        store.click()
        visitor.page.get_by_text("1 stored").wait_for()
        visitor.page.get_by_role("tab", name="Search").click()
        expect(value).to_have_value("nothing")
        visitor.page.get_by_text("Nothing found").wait_for()
        assert visitor.cards.count() == 0


@pytest.mark.slow
def test_what_a_restart_of_the_page_takes_is_said(browser: Any, tmp_path: Path) -> None:
    script = Script(texts=["text 0"])
    port = processes.free_port()
    with running_fake_gateway() as gateway, visiting(browser, expected="") as visitor:
        gateway.script = script
        with serving(gateway.address, tmp_path, "--port", str(port)) as url:
            visitor.open(url)
            visitor.search("a cat")
            visitor.press(0, "plus")
            visitor.chip("text 0").wait_for()
            visitor.page.get_by_role("tab", name="Add").click()
            visitor.upload(photos.photo("rocket"))
            visitor.page.get_by_role("button", name="Store 1 file").wait_for()
        with serving(gateway.address, tmp_path, "--port", str(port)):
            visitor.page.get_by_role("button", name="Store 1 file").click()  # once it is enabled
            visitor.page.get_by_text("1 file is no longer here").wait_for()
            visitor.page.get_by_role("tab", name="Search").click()
            visitor.page.get_by_text("This search had images or further terms").wait_for()
            visitor.holds("a cat")
            visitor.shot("restarted")


def test_a_missing_worker_is_named(browser: Any, tmp_path: Path) -> None:
    with (
        processes.running(tmp_path / "worker", "embedder_server") as worker,
        gateway_in(tmp_path, worker) as gateway,
        serving(gateway.address, tmp_path) as url,
        visiting(browser) as visitor,
    ):
        with SentinelClient(gateway.address) as client:
            client.create_collection("album", album.FIELDS)
        worker.kill()
        visitor.open(url)
        visitor.ask("a cat")
        visitor.page.get_by_text("No embedder worker answers").first.wait_for()
        visitor.page.get_by_role("button", name="Try again").wait_for()


def test_a_missing_milvus_is_named(browser: Any, worker: processes.Server, tmp_path: Path) -> None:
    nowhere = f"http://127.0.0.1:{processes.free_port()}"
    flags = processes.gateway_flags(tmp_path, nowhere, worker.address)
    with (
        processes.running(tmp_path, "search_server", *flags, serving=False) as gateway,
        serving(gateway.address, tmp_path) as url,
        visiting(browser) as visitor,
    ):
        visitor.page.goto(url)
        visitor.page.get_by_text("cannot reach Milvus").wait_for()
        visitor.page.get_by_role("button", name="Check again now").wait_for()


def test_a_busy_worker_is_asked_again_after_its_own_pause(
    browser: Any, fake: tuple[FakeGateway, str]
) -> None:
    # The client itself tries three times. The page waits long enough for the test to see it.
    script = Script(refusals=[0.2, 0.2, 6.0], texts=["found at last"])
    with visiting_fake(browser, fake, script) as visitor:
        visitor.ask("a cat")
        visitor.page.get_by_text("Trying again in 6.0 s").wait_for()
        visitor.page.get_by_text("the queue is full").wait_for()
        assert visitor.box.is_enabled()  # nobody is held up meanwhile
        visitor.settled()
        assert "found at last" in visitor.labels[0]
        pauses = [b - a for a, b in zip(script.times, script.times[1:], strict=False)]
        assert len(pauses) == 3
        assert pauses[-1] >= 5.8


def five_hits() -> Script:
    """Three hits come, and two more after `resume` is set."""
    return Script(texts=[f"text {n}" for n in range(5)], pause_at=3)


def test_hits_are_shown_and_open_before_the_search_is_over(
    browser: Any, fake: tuple[FakeGateway, str]
) -> None:
    script = five_hits()
    with visiting_fake(browser, fake, script) as visitor:
        visitor.ask("a cat")
        visitor.page.get_by_text("3 hits so far …").wait_for()
        visitor.cards.nth(2).wait_for()
        visitor.cards.nth(1).locator(".open").click()
        dialog = visitor.page.get_by_role("dialog")
        dialog.get_by_role("heading", name="text 1").wait_for()
        script.resume.set()
        visitor.line.wait_for()
        visitor.settled()
        assert [label.split(",")[0] for label in visitor.labels] == script.texts
        # Not closed by the rest; the last drawing of the page may be under way.
        expect(dialog.get_by_role("heading", name="text 1")).to_be_visible()


def test_hits_that_the_browser_did_not_get_are_sent_again(
    browser: Any, fake: tuple[FakeGateway, str]
) -> None:
    script = five_hits()
    with visiting_fake(browser, fake, script) as visitor:
        visitor.ask("a cat")
        visitor.cards.nth(2).wait_for()
        grid = visitor.page.locator(".grid")
        # Hits are sent twice: three updates later, nothing is on its way.
        at = int(grid.get_attribute("data-update"))
        until(lambda: int(grid.get_attribute("data-update")) >= at + 3, PATIENCE_S)
        # As if Streamlit had dropped the messages, which it does when the machine is busy.
        grid.evaluate("grid => grid.replaceChildren()")
        visitor.cards.nth(2).wait_for()  # before the rest comes
        script.resume.set()
        visitor.settled()
        assert [label.split(",")[0] for label in visitor.labels] == script.texts


@pytest.mark.slow
def test_a_browser_that_goes_away_ends_its_search(browser: Any, tmp_path: Path) -> None:
    # The worker would answer, and the search reach its own limit, long after the test has ended.
    stuck = {"FAKE_STUCK": "1"}
    worker = processes.start(tmp_path / "worker", "tests.fakes.worker", environment=stuck)
    try:
        with (
            gateway_in(tmp_path, worker) as gateway,
            serving(gateway.address, tmp_path, ABANDONED_AFTER_S="5") as url,
        ):
            with SentinelClient(gateway.address) as client:
                client.create_collection("album", album.FIELDS)
            with visiting(browser) as visitor:
                visitor.open(url)
                visitor.ask("a cat")
                until(lambda: in_flight(gateway) == 1, PATIENCE_S)
            until(lambda: in_flight(gateway) == 0, PATIENCE_S)
    finally:
        worker.kill()


def test_text_of_others_is_shown_as_it_is(browser: Any, fake: tuple[FakeGateway, str]) -> None:
    odd = "IMG_*a* ![](http://x.invalid/y.png) <b>c</b> www.example.com a@example.com -> b"
    script = Script(texts=[odd], pause_at=0)
    requested: list[str] = []
    with visiting_fake(browser, fake, script) as visitor:
        visitor.page.on("request", lambda request: requested.append(request.url))
        script.resume.set()
        visitor.search("a cat")
        visitor.cards.first.locator(".open").click()
        dialog = visitor.page.get_by_role("dialog")
        dialog.get_by_text(odd).first.wait_for()
        visitor.page.keyboard.press("Escape")
        visitor.press(0, "plus")
        visitor.chip(odd).wait_for()
        links = visitor.page.locator("a[href*='example.com'], a[href^=mailto]")
        assert links.count() == 0
    assert not [one for one in requested if "x.invalid" in one]


def test_an_error_with_text_of_others_has_no_link_and_no_arrow(
    browser: Any, fake: tuple[FakeGateway, str]
) -> None:
    message = "bad: www.example.com a@example.com a -> b -- c http://x.invalid :smile:"
    script = Script(refusals=[0.2, 0.2, 60.0], message=message)
    with visiting_fake(browser, fake, script) as visitor:
        visitor.ask("a cat")
        # One attempt may end while the page still shows the error of the one before.
        alert = visitor.page.locator("[data-testid=stAlert]", has_text="bad:").first
        alert.wait_for()
        assert message in alert.inner_text().replace("\u2060", "")
        assert alert.locator("a").count() == 0
