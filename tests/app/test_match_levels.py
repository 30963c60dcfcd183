"""How good matches are, in plain words and on bars that do not depend on the other hits (D1)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from sentinel_client import SentinelClient
from tests import processes
from tests.app import album
from tests.app.conftest import Guest, PhotoApp, serving_photos, window
from tests.waiting import until

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def levelled(
    worker: processes.Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PhotoApp]:
    """A page whose gateway has found out what scores mean in its collection."""
    folder: Path = tmp_path_factory.mktemp("levels")
    database = str(folder / "milvus.db")
    flags = processes.gateway_flags(folder, database, worker.address, match_levels=True)
    with processes.running(folder, "search_server", *flags) as server:
        with SentinelClient(server.address) as client:
            client.create_collection("photos", album.DATED_FIELDS)
            client.upsert(list(album.dated_items()), collection="photos")
            until(lambda: client.get_collection("photos").match_levels is not None, 120)
        with serving_photos(server.address, folder) as url:
            yield PhotoApp(url, server.address)


def widths(guest: Guest, level: str) -> list[float]:
    """How far the bars of a level are filled, 0 to 1."""
    found: list[float] = guest.page.locator(f".bar.{level} i").evaluate_all(
        "all => all.map((one) => one.clientWidth / one.parentElement.clientWidth)"
    )
    return found


def test_hits_are_under_their_level(browser: Any, levelled: PhotoApp) -> None:
    with window(browser, Guest) as guest:
        guest.open(levelled, "?q=a+cat")
        headings = guest.page.locator(".block h2").all_text_contents()
        assert headings[0] == "Strong matches"
        assert headings[-1] == "Weak matches"
        assert "Chelsea" in guest.names[0]
        assert guest.page.locator(".message.weak").count() == 0
        assert min(widths(guest, "strong")) > 0.66
        assert max(widths(guest, "weak")) < 0.34
        guest.shot("levels")
        guest.press_on(0, "More like this")  # levels are for words only
        guest.page.wait_for_url("**t=item*")
        guest.loaded()
        expect(guest.page.locator(".block h2")).to_have_count(0)


def test_it_says_that_nothing_fits(browser: Any, levelled: PhotoApp) -> None:
    with window(browser, Guest, wide=390, high=844) as guest:
        guest.open(levelled, "?q=two+people+kissing")
        expect(guest.page.locator(".message.weak")).to_contain_text("No good match.")
        assert guest.page.locator(".block h2").all_text_contents() == ["Weak matches"]
        assert max(widths(guest, "weak")) < 0.34  # the best one, too
        guest.shot("no-good-match")


def test_it_says_that_the_model_does_not_know_the_language(
    browser: Any, levelled: PhotoApp
) -> None:
    with window(browser, Guest) as guest:
        guest.open(levelled, "?q=ein+Hund+am+Strand+im+Sommer+mit+einem+Ball")
        expect(guest.page.locator(".message.notice")).to_contain_text("German")
