"""The gateway goes away and comes back: the page says so, keeps everything, and continues."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from sentinel_client import FieldSchema, FieldType, Item, SentinelClient
from tests import photos, processes
from tests.app.conftest import Guest, PhotoApp, serving_photos, window

pytestmark = pytest.mark.timeout(240)


def test_the_page_waits_for_its_gateway_and_keeps_search_and_filters(
    browser: Any, worker: processes.Server, tmp_path: Path
) -> None:
    """E7: nothing that a person has entered is lost."""
    port = str(processes.free_port())
    flags = processes.gateway_flags(tmp_path, str(tmp_path / "milvus.db"), worker.address)
    flags = [*flags, "--port", port]
    with (
        serving_photos(f"127.0.0.1:{port}", tmp_path) as url,
        window(browser, Guest, expected="50") as guest,
    ):
        # Without a gateway at first.
        guest.page.goto(url)
        banner = guest.page.locator("#banner")
        expect(banner).to_contain_text("sentinel up")
        with processes.running(tmp_path, "search_server", *flags) as server:
            guest.page.get_by_text("No photos yet").wait_for()  # by itself
            command = f"sentinel --address 127.0.0.1:{port} index ~/Pictures"
            assert command in guest.page.inner_text("main")
            with SentinelClient(server.address) as client:
                field = FieldSchema("path", FieldType.STRING)
                client.create_collection("photos", fields=[field])
                items = [
                    Item(image=path.read_bytes(), fields={"path": path.name})
                    for path in photos.all_photos()[:3]
                ]
                client.upsert(items, collection="photos")
            guest.open(PhotoApp(url, server.address), "?q=a+cat&f=path%3Acontains%3Apng")
            names = guest.names
        # It is away. The next search fails, and everything stays.
        guest.box.fill("an astronaut")
        guest.box.press("Enter")
        expect(banner).to_be_visible()
        assert "f=path" in guest.page.url
        expect(guest.page.locator(".chip.active")).to_have_text("Path contains png")
        with processes.running(tmp_path, "search_server", *flags):
            guest.loaded()
            expect(banner).to_be_hidden()
            expect(guest.tiles).to_have_count(len(names))
            assert sorted(guest.names) == sorted(names)
            expect(guest.box).to_have_value("an astronaut")
