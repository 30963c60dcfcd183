"""One photo on the whole screen: what is known about it, in words; delete it with undo."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any
from urllib.request import urlopen

import pytest
from PIL import Image
from playwright.sync_api import expect

from sentinel_client import FieldSchema, FieldType, FieldValue, Item, NotFound, SentinelClient
from tests import photos, processes
from tests.app.conftest import Guest, PhotoApp, serving_photos, window

pytestmark = pytest.mark.timeout(240)


def test_details_are_in_words(guest: Guest, photo_app: PhotoApp) -> None:
    guest.open(photo_app)
    guest.open_photo(0)
    told = guest.viewer.locator(".facts").inner_text()
    for words in (
        "astronaut.png",
        "An astronaut in an orange suit",
        "Tue, August 20, 2024, 12:00",
        "Canon EOS R6",
        "512 \u00d7 512",
        "48.0000° N, 2.2500° E",
        "home",
        "/home/anna/Pictures/2024/08/astronaut.png",
    ):
        assert words in told
    assert "taken_at" not in told
    large = guest.viewer.locator("img.large[data-side]")
    large.wait_for()
    assert large.evaluate("(one) => one.naturalWidth") == 512
    assert large.get_attribute("alt") == "An astronaut in an orange suit"
    image, stage = large.bounding_box(), guest.viewer.locator(".stage").bounding_box()
    assert image and stage
    assert image["height"] <= stage["height"] + 0.5  # all of it is visible
    assert image["width"] <= stage["width"] + 0.5
    guest.shot(f"details-{guest.page.viewport_size['width']}")


def test_when_the_file_changed_is_told_by_the_clock_here(
    browser: Any, gateway: processes.Server, photo_app: PhotoApp
) -> None:
    fields = [FieldSchema("modified_at", FieldType.INT64), FieldSchema("seen", FieldType.TIMESTAMP)]
    noon = datetime(2024, 7, 1, 12, tzinfo=UTC)
    values: dict[str, FieldValue] = {"modified_at": int(noon.timestamp()), "seen": noon}
    with SentinelClient(gateway.address) as client:
        client.create_collection("changed", fields)
        client.upsert([Item(image=photos.photo("coffee"), fields=values)], collection="changed")
    with window(browser, Guest, timezone_id="Europe/Vienna", locale="en-GB") as guest:
        guest.open(photo_app, "?c=changed")
        guest.open_photo(0)
        told = guest.viewer.locator(".facts").inner_text()
    with SentinelClient(gateway.address) as client:
        client.delete_collection("changed")
    for name in ("File changed", "Seen"):
        assert f"{name}\nMon 1 July 2024 at 14:00" in told.replace(",", ""), told


def test_the_opened_photo_is_in_the_address(desktop: Guest, photo_app: PhotoApp) -> None:
    desktop.open(photo_app, "?q=a+cat&flat=1")
    desktop.open_photo(1)
    title = desktop.viewer.locator(".facts h2").inner_text()
    desktop.page.reload()
    expect(desktop.viewer.locator(".facts h2")).to_have_text(title)
    desktop.page.go_back()
    desktop.viewer.wait_for(state="hidden")
    assert "item=" not in desktop.page.url
    desktop.page.go_forward()
    expect(desktop.viewer.locator(".facts h2")).to_have_text(title)
    desktop.viewer.get_by_role("button", name="Back to the photos").click()
    desktop.viewer.wait_for(state="hidden")
    assert "q=a+cat" in desktop.page.url


def test_arrows_keys_and_swipes_lead_to_the_neighbours(
    browser: Any, guest: Guest, photo_app: PhotoApp
) -> None:
    guest.open(photo_app)
    names = guest.names
    guest.open_photo(1)
    shown = guest.viewer.locator("img.large")
    guest.page.keyboard.press("ArrowRight")
    expect(shown).to_have_attribute("alt", names[2])
    guest.page.keyboard.press("ArrowLeft")
    expect(shown).to_have_attribute("alt", names[1])
    if guest.page.viewport_size["width"] > 900:
        guest.viewer.get_by_role("button", name="Next photo").click()
    else:
        swipe(guest, -150)
    expect(shown).to_have_attribute("alt", names[2])
    guest.page.keyboard.press("Escape")
    guest.viewer.wait_for(state="hidden")


def swipe(guest: Guest, by: int) -> None:
    """Send what a finger sends that moves sideways."""
    guest.page.locator(".stage").evaluate(
        """(stage, by) => {
          const at = (kind, x) => stage.dispatchEvent(new PointerEvent(kind,
            { pointerType: 'touch', isPrimary: true, clientX: x, clientY: 300, bubbles: true }));
          at('pointerdown', 200); at('pointerup', 200 + by);
        }""",
        by,
    )


def test_the_path_is_copied(desktop: Guest, photo_app: PhotoApp) -> None:
    desktop.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    desktop.open(photo_app)
    desktop.open_photo(0)
    desktop.viewer.get_by_role("button", name="Copy the path").click()
    expect(desktop.toast).to_contain_text("Copied")
    copied = desktop.page.evaluate("navigator.clipboard.readText()")
    assert copied == "/home/anna/Pictures/2024/08/astronaut.png"


def test_the_original_is_downloaded(desktop: Guest, photo_app: PhotoApp) -> None:
    desktop.open(photo_app)
    desktop.open_photo(0)
    with desktop.page.expect_download() as download:
        desktop.viewer.get_by_role("link", name="Download the original").click()
    assert download.value.suggested_filename == "astronaut.png"
    assert download.value.path().read_bytes() == photos.photo("astronaut").read_bytes()


def test_a_part_of_a_stored_photo_is_searched_for(desktop: Guest, photo_app: PhotoApp) -> None:
    desktop.open(photo_app, "?q=a+cat&flat=1")
    desktop.open_photo(0)
    desktop.viewer.get_by_role("button", name="Search with a part of it").click()
    dialog = desktop.page.get_by_role("dialog", name="Choose a part of the picture")
    dialog.get_by_role("button", name="Box in the middle").click()
    dialog.get_by_role("button", name="Search").click()
    desktop.page.wait_for_url("**0.25%2C0.25%2C0.75%2C0.75*")
    desktop.loaded()
    assert desktop.viewer.is_hidden()
    assert "Chelsea" in desktop.names[0]


def test_delete_is_undone(desktop: Guest, photo_app: PhotoApp) -> None:
    desktop.open(photo_app)
    name = desktop.names[3]
    desktop.open_photo(3)
    desktop.page.keyboard.press("Delete")
    expect(desktop.toast).to_contain_text("Deleted")
    expect(desktop.tiles).to_have_count(47)
    assert name not in desktop.names
    # The next photo is open; for everybody else it is gone, too.
    assert desktop.viewer.is_visible()
    desktop.page.get_by_role("button", name="Undo").click()
    expect(desktop.tiles).to_have_count(48)
    assert desktop.names[3] == name


def test_what_is_deleted_is_gone_for_all_and_deleted_when_the_page_ends(
    browser: Any, photo_app: PhotoApp, tmp_path: Any
) -> None:
    picture = photos.photo("coins").read_bytes()
    with SentinelClient(photo_app.gateway) as client:
        client.create_collection("doomed")
        client.upsert([Item(id=name, image=picture) for name in "ab"], collection="doomed")
        with serving_photos(photo_app.gateway, tmp_path) as url, window(browser, Guest) as guest:
            app = PhotoApp(url, photo_app.gateway)
            guest.open(app, "?c=doomed")
            guest.open_photo(0)
            guest.page.keyboard.press("Delete")
            expect(guest.tiles).to_have_count(1)
            with window(browser, Guest) as other:
                other.open(app, "?c=doomed")
                assert other.tiles.count() == 1
            assert len(client.get_items(["a", "b"], collection="doomed")) == 2  # not yet
        assert len(client.get_items(["a", "b"], collection="doomed")) == 1


def test_a_read_only_page_deletes_and_adds_nothing(
    browser: Any, photo_app: PhotoApp, tmp_path: Any
) -> None:
    with (
        serving_photos(photo_app.gateway, tmp_path, "--read-only") as url,
        window(browser, Guest, expected="403") as guest,
    ):
        guest.open(PhotoApp(url, photo_app.gateway))
        assert guest.page.get_by_role("button", name="Add photos").count() == 0
        guest.open_photo(0)
        assert guest.viewer.get_by_role("button", name="Delete").count() == 0
        answers = guest.page.evaluate(
            """() => Promise.all(['delete', 'add?c=photos', 'create'].map(async (path) => {
              const body = '{"collection":"photos","ids":["a"]}';
              const headers = { 'X-Sentinel-Page': '1' };
              return (await fetch('/api/' + path, { method: 'POST', body, headers })).status;
            }))"""
        )
        assert answers == [403, 403, 403]


def test_an_item_that_is_gone_says_so(browser: Any, photo_app: PhotoApp) -> None:
    with window(browser, Guest, expected="404") as guest:
        guest.page.goto(f"{photo_app.url}/?item=nothing")
        guest.viewer.get_by_text("not in the collection any more").wait_for()


def test_names_and_captions_are_text(browser: Any, photo_app: PhotoApp) -> None:
    odd = "<img src=x onerror=alert(1)> www.example.com -> a@example.com \u202egpj.exe"
    with SentinelClient(photo_app.gateway) as client:
        fields = client.get_collection("photos").fields
        client.create_collection("odd_names", fields)
        image = photos.photo("coins").read_bytes()
        item = Item(id=odd, image=image, fields={"path": f"/x/{odd}", "caption": odd})
        assert client.upsert([item], collection="odd_names")[0].error is None
        with window(browser, Guest) as guest:
            guest.open(photo_app, "?c=odd_names&q=%3Cimg+src%3Dx+onerror%3Dalert(1)%3E")
            guest.open_photo(0)
            assert guest.viewer.locator(".facts img, .facts a").count() == 0
            told = guest.viewer.locator(".facts").inner_text()
            assert "<img src=x onerror=alert(1)> www.example.com -> a@example.com" in told
            assert "\u202e" not in told
        client.delete_collection("odd_names")
        with pytest.raises(NotFound):
            client.get_collection("odd_names")


def test_the_download_of_a_page_in_disguise_is_no_page(photo_app: PhotoApp) -> None:
    """E6: a GIF that is also HTML."""
    with SentinelClient(photo_app.gateway) as client:
        client.get_or_create_collection("odd2", fields=client.get_collection("photos").fields)
        out = io.BytesIO()
        Image.new("L", (8, 8)).save(out, "GIF")
        data = out.getvalue() + b"<script>alert(1)</script>"
        item = Item(id="p", image=data, fields={"path": "x/poly.html"})
        assert client.upsert([item], collection="odd2")[0].error is None
    with urlopen(f"{photo_app.url}/api/original?c=odd2&id=p", timeout=60) as answer:
        assert answer.headers["Content-Type"] == "image/gif"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Content-Disposition"] == "attachment; filename*=UTF-8''poly.gif"
