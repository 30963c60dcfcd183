"""What the page says and does when something behind it is away, busy or slow."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sentinel_client import Item, SentinelClient
from tests import photos, processes
from tests.app import album
from tests.app.conftest import Visitor, serving, visiting
from tests.app.fake_gateway import Told, telling
from tests.processes import in_flight
from tests.waiting import until

pytestmark = pytest.mark.timeout(240)


def gateway_in(folder: Path, worker: processes.Server) -> tuple[processes.Server, list[str]]:
    flags = processes.gateway_flags(folder, str(folder / "milvus.db"), worker.address)
    return processes.start(folder, "search_server", *flags), flags


def again(folder: Path, gateway: processes.Server, flags: list[str]) -> processes.Server:
    """Start a gateway where one was."""
    port = gateway.address.rpartition(":")[2]
    return processes.start(folder, "search_server", *flags, "--port", port)


def test_five_thousand_characters_are_answered(visitor: Visitor) -> None:
    visitor.search("many words " * 455)  # cut to what the model reads


def test_a_gateway_that_is_away_is_named_and_found_again(
    browser: Any, worker: processes.Server, tmp_path: Path
) -> None:
    gateway, flags = gateway_in(tmp_path, worker)
    with serving(gateway.address, tmp_path) as url, visiting(browser) as visitor:
        visitor.page.goto(url)
        visitor.page.get_by_role("button", name="Make it").click()  # there is no collection yet
        visitor.page.get_by_text("is empty").wait_for()
        gateway.kill()
        visitor.page.reload()
        visitor.page.get_by_text("No gateway answers at").wait_for()
        visitor.shot("away")
        restarted = again(tmp_path, gateway, flags)
        try:
            visitor.page.get_by_text("is empty").wait_for()  # without a click
        finally:
            restarted.stop()


def test_a_restart_of_the_gateway_is_not_noticed(
    browser: Any, worker: processes.Server, tmp_path: Path
) -> None:
    gateway, flags = gateway_in(tmp_path, worker)
    with SentinelClient(gateway.address) as client:
        client.create_collection("album", album.FIELDS)
        client.upsert([Item(image=photos.photo("chelsea"))], collection="album")
    with serving(gateway.address, tmp_path) as url, visiting(browser) as visitor:
        visitor.open(url)
        visitor.search("a cat")
        gateway.process.send_signal(signal.SIGKILL)
        gateway.process.wait()
        restarted = again(tmp_path, gateway, flags)
        try:
            visitor.cards.first.locator(".open").click()
            shown = visitor.page.get_by_role("dialog").locator("img")
            shown.wait_for()
            assert shown.evaluate("async (i) => (await i.decode(), i.naturalWidth)") > 300
            visitor.page.keyboard.press("Escape")
            visitor.search("a rocket")
        finally:
            restarted.stop()


def test_a_missing_worker_is_named(browser: Any, tmp_path: Path) -> None:
    worker = processes.start(tmp_path / "worker", "embedder_server")
    gateway, _ = gateway_in(tmp_path, worker)
    try:
        with SentinelClient(gateway.address) as client:
            client.create_collection("album", album.FIELDS)
        worker.kill()
        with serving(gateway.address, tmp_path) as url, visiting(browser) as visitor:
            visitor.open(url)
            visitor.ask("a cat")
            visitor.page.get_by_text("no embedder worker answers it").first.wait_for()
            visitor.page.get_by_role("button", name="Try again").wait_for()
    finally:
        gateway.stop()


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
        visitor.page.get_by_role("button", name="Look again now").wait_for()


def test_a_busy_worker_is_asked_again_after_its_own_pause(browser: Any, tmp_path: Path) -> None:
    # The client itself tries three times.
    told = Told(refusals=3, retry_after=3, texts=["found at last"])
    with (
        telling(told) as address,
        serving(address, tmp_path) as url,
        visiting(browser) as visitor,
    ):
        visitor.open(url)
        visitor.ask("a cat")
        visitor.page.get_by_text("Trying again in 3.0 s").wait_for()
        visitor.page.get_by_text("the queue is full").wait_for()
        assert visitor.box.is_enabled()  # nobody is held up meanwhile
        visitor.settled()
        assert "found at last" in visitor.labels[0]
        pauses = [b - a for a, b in zip(told.times, told.times[1:], strict=False)]
        assert len(pauses) == 3
        assert pauses[-1] >= 2.8


@contextmanager
def three_of_five_hits(browser: Any, folder: Path) -> Iterator[tuple[Visitor, Told]]:
    """Search; three hits come, and two more after `told.go_on` is set."""
    told = Told(texts=[f"text {n}" for n in range(5)], pause_at=3)
    with (
        telling(told) as address,
        serving(address, folder) as url,
        visiting(browser) as visitor,
    ):
        visitor.open(url)
        visitor.ask("a cat")
        yield visitor, told


def test_hits_are_shown_and_open_before_the_search_is_over(browser: Any, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    with three_of_five_hits(browser, tmp_path) as (visitor, told):
        visitor.page.get_by_text("3 hits so far …").wait_for()
        visitor.cards.nth(2).wait_for()
        visitor.cards.nth(1).locator(".open").click()
        dialog = visitor.page.get_by_role("dialog")
        dialog.get_by_role("heading", name="text 1").wait_for()
        told.go_on.set()
        visitor.line.wait_for()
        visitor.settled()
        assert [label.split(",")[0] for label in visitor.labels] == told.texts
        # Not closed by the rest; the last drawing of the page may be under way.
        expect(dialog.get_by_role("heading", name="text 1")).to_be_visible(timeout=30_000)


def test_hits_that_the_browser_did_not_get_are_sent_again(browser: Any, tmp_path: Path) -> None:
    with three_of_five_hits(browser, tmp_path) as (visitor, told):
        visitor.cards.nth(2).wait_for()
        visitor.page.wait_for_timeout(1000)  # whatever was to be sent was sent
        # As if Streamlit had dropped the messages, which it does when the machine is busy.
        visitor.page.locator(".grid").evaluate("grid => grid.replaceChildren()")
        visitor.cards.nth(2).wait_for(timeout=20_000)  # before the rest comes
        told.go_on.set()
        visitor.settled()
        assert [label.split(",")[0] for label in visitor.labels] == told.texts


def test_a_browser_that_goes_away_ends_its_search(browser: Any, tmp_path: Path) -> None:
    slow = {"FAKE_SECONDS_PER_BATCH": "12"}
    worker = processes.start(tmp_path / "worker", "tests.fakes.worker", environment=slow)
    try:
        gateway, _ = gateway_in(tmp_path, worker)
        with SentinelClient(gateway.address) as client:
            client.create_collection("album", album.FIELDS)
        with serving(gateway.address, tmp_path) as url:
            with visiting(browser) as visitor:
                visitor.open(url)
                visitor.ask("a cat")
                until(lambda: in_flight(gateway) == 1, 10)
            # Well before the worker would answer, and before the search's own limit of 15 s.
            until(lambda: in_flight(gateway) == 0, 8)
        gateway.stop()
    finally:
        worker.kill()


def test_text_of_others_is_shown_as_it_is(browser: Any, tmp_path: Path) -> None:
    told = Told(texts=["IMG_*a* ![](http://x.invalid/y.png) <b>c</b>"])
    asked: list[str] = []
    with (
        telling(told) as address,
        serving(address, tmp_path) as url,
        visiting(browser) as visitor,
    ):
        visitor.page.on("request", lambda request: asked.append(request.url))
        visitor.open(url)
        visitor.search("a cat")
        visitor.cards.first.locator(".open").click()
        dialog = visitor.page.get_by_role("dialog")
        dialog.get_by_text(told.texts[0]).first.wait_for()
        visitor.page.keyboard.press("Escape")
        visitor.press(0, "plus")
        visitor.chip(told.texts[0]).wait_for()
    assert not [one for one in asked if "x.invalid" in one]
