"""The page opens on the photos: newest first, by month, in rows that keep still, without an end."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import expect

from sentinel_client import FieldSchema, FieldType, Item, SentinelClient
from tests.app import album
from tests.app.conftest import Guest, PhotoApp, window

pytestmark = pytest.mark.timeout(240)

MANY = 150


@pytest.fixture(scope="module")
def many(photo_app: PhotoApp) -> str:
    """A collection of more photos than a page has: one for every two days."""
    fields = [FieldSchema("path", FieldType.STRING), FieldSchema("taken_at", FieldType.TIMESTAMP)]
    newest = datetime(2023, 5, 31, tzinfo=UTC)
    with SentinelClient(photo_app.gateway) as client:
        client.create_collection("many", fields)
        items = [
            Item(
                image=small(number),
                fields={"path": f"{number}.png", "taken_at": newest - timedelta(days=2 * number)},
            )
            for number in range(MANY)
        ]
        assert all(result.error is None for result in client.upsert(items, collection="many"))
    return "many"


def small(number: int) -> bytes:
    out = io.BytesIO()
    colour = (number * 5 % 256, number * 31 % 256, number * 77 % 256)
    Image.new("RGB", (96, 60 + number % 40), colour).save(out, "PNG")
    return out.getvalue()


def headings(guest: Guest) -> list[str]:
    return guest.page.locator(".block h2").all_text_contents()  # also of what is not painted


def test_it_opens_on_the_newest_photos_by_month(guest: Guest, photo_app: PhotoApp) -> None:
    guest.open(photo_app)
    assert headings(guest)[:3] == ["August 2024", "July 2024", "June 2024"]
    assert guest.tiles.count() == 48
    assert guest.names[0] == next(iter(album.dated_items())).fields["caption"]
    guest.shot(f"photos-{guest.page.viewport_size['width']}")


def test_rows_are_full_and_keep_the_shape_of_photos(guest: Guest, photo_app: PhotoApp) -> None:
    guest.open(photo_app, "?q=a+cat&flat=1")
    areas = guest.page.locator(".cell").evaluate_all(
        "all => all.map((one) => one.getBoundingClientRect().toJSON())"
    )
    width = guest.page.locator(".gallery").bounding_box()["width"]
    rows: dict[int, list[dict[str, float]]] = {}
    for area in areas:
        rows.setdefault(round(area["top"]), []).append(area)
    *full, _ = rows.values()
    for row in full:
        assert row[-1]["right"] - row[0]["left"] == pytest.approx(width, abs=1.5)
        assert len({round(one["height"]) for one in row}) == 1
    shapes = guest.page.evaluate(
        """() => Promise.all([...document.querySelectorAll('a.tile img')].slice(0, 9).map(
        async (one) => { one.loading = 'eager'; await one.decode().catch(() => one.decode());
          return [one.clientWidth / one.clientHeight, one.naturalWidth / one.naturalHeight]; }))"""
    )
    assert all(shown == pytest.approx(real, rel=0.06) for shown, real in shapes)
    assert guest.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_nothing_moves_when_pictures_arrive(desktop: Guest, photo_app: PhotoApp) -> None:
    waiting: list[Any] = []
    is_over = False

    def hold(route: Any) -> None:
        if is_over:
            route.continue_()
        else:
            waiting.append(route)

    desktop.page.route("**/api/thumbnail*", hold)
    desktop.open(photo_app)
    cells = desktop.page.locator(".cell")
    areas = "all => all.map((one) => JSON.stringify(one.getBoundingClientRect()))"
    before = cells.evaluate_all(areas)
    is_over = True
    for one in waiting:
        one.continue_()
    desktop.drawn()
    assert cells.evaluate_all(areas) == before


def test_scrolling_brings_photos_until_the_last_one(
    guest: Guest, photo_app: PhotoApp, many: str
) -> None:
    guest.open(photo_app, f"?c={many}")
    assert guest.tiles.count() < MANY
    while guest.tiles.count() < MANY:
        count = guest.tiles.count()
        guest.page.evaluate("scrollTo(0, document.body.scrollHeight)")
        guest.page.wait_for_function(
            "count => document.querySelectorAll('a.tile').length > count", arg=count
        )
    names = guest.names
    assert names == [f"{number}.png" for number in range(MANY)]
    assert headings(guest)[0] == "May 2023"
    assert headings(guest)[-1] == "August 2022"


def test_one_jumps_to_a_month_with_the_mouse_and_the_keys(
    desktop: Guest, photo_app: PhotoApp, many: str
) -> None:
    desktop.open(photo_app, f"?c={many}")
    strip = desktop.page.get_by_role("slider", name="Month")
    strip.wait_for()
    area = strip.bounding_box()
    assert area
    desktop.page.mouse.move(area["x"] + 5, area["y"] + area["height"] - 1)
    expect(desktop.page.locator(".tip")).to_have_text("August 2022")
    desktop.page.mouse.down()
    desktop.page.mouse.up()
    desktop.page.wait_for_url("**before=2022-08*")
    expect(desktop.page.locator(".block h2").first).to_have_text("August 2022")
    strip.focus()
    strip.press("Home")
    strip.press("ArrowDown")
    strip.press("ArrowDown")
    strip.press("Enter")
    expect(desktop.page.locator(".block h2").first).to_have_text("March 2023")
    desktop.page.get_by_role("button", name="Newest photos").click()
    expect(desktop.page.locator(".block h2").first).to_have_text("May 2023")


def test_the_back_button_returns_to_the_same_place(
    desktop: Guest, photo_app: PhotoApp, many: str
) -> None:
    desktop.open(photo_app, f"?c={many}")
    desktop.page.evaluate("scrollTo(0, document.body.scrollHeight)")
    desktop.page.wait_for_function("() => document.querySelectorAll('a.tile').length > 60")
    desktop.page.evaluate("scrollTo(0, 900)")
    desktop.search("green")
    assert desktop.page.evaluate("scrollY") == 0
    desktop.page.go_back()
    desktop.page.wait_for_function("() => document.querySelectorAll('a.tile').length > 60")
    desktop.page.wait_for_function("() => scrollY === 900")


def test_a_fine_screen_gets_sharper_pictures(browser: Any, photo_app: PhotoApp) -> None:
    with window(browser, Guest, device_scale_factor=2) as guest:
        guest.open(photo_app)
        sharp = guest.page.locator("a.tile img[data-sharp]").first
        sharp.wait_for()
        enough = sharp.evaluate("(one) => one.naturalWidth >= one.clientWidth * 1.6")
        assert enough
        first = guest.page.locator("a.tile img").first
        expect(first).to_have_attribute("data-sharp", "640")


def test_collections_are_switched_and_an_empty_one_says_what_to_do(
    guest: Guest, photo_app: PhotoApp
) -> None:
    with SentinelClient(photo_app.gateway) as client:
        client.get_or_create_collection("empty", fields=[FieldSchema("path", FieldType.STRING)])
    guest.open(photo_app)
    guest.page.get_by_label("Collection").select_option("empty")
    guest.page.get_by_text("empty is empty").wait_for()
    command = f"sentinel --address {photo_app.gateway} index ~/Pictures --collection empty"
    assert command in guest.page.inner_text("main")
    assert "c=empty" in guest.page.url
    guest.page.go_back()
    guest.loaded()
    assert guest.tiles.count() == 48


def test_photos_move_with_the_keys(desktop: Guest, photo_app: PhotoApp) -> None:
    desktop.open(photo_app)
    desktop.page.keyboard.press("ArrowDown")
    focused = "document.activeElement.getAttribute('aria-label')"
    assert desktop.page.evaluate(focused) == desktop.names[0]
    desktop.page.keyboard.press("ArrowRight")
    assert desktop.page.evaluate(focused) == desktop.names[1]
    top = desktop.page.evaluate("document.activeElement.getBoundingClientRect().top")
    desktop.page.keyboard.press("ArrowDown")
    assert desktop.page.evaluate("document.activeElement.getBoundingClientRect().top") > top
    desktop.page.keyboard.press("Enter")
    desktop.viewer.locator(".facts h2").wait_for()
    desktop.page.keyboard.press("Escape")
    desktop.viewer.wait_for(state="hidden")
    desktop.page.keyboard.press("?")
    desktop.page.get_by_role("dialog", name="Keyboard").wait_for()
    desktop.page.keyboard.press("Escape")
    desktop.page.keyboard.press("/")
    expect(desktop.box).to_be_focused()


def test_everything_has_a_name_for_screen_readers(guest: Guest, photo_app: PhotoApp) -> None:
    guest.open(photo_app, "?q=a+cat")
    unnamed = guest.page.evaluate(
        """() => [...document.querySelectorAll('button, a, input, select, [role=slider]')].filter(
        (one) => !(one.ariaLabel || one.innerText?.trim() || one.labels?.length)
        ).map((one) => one.outerHTML)"""
    )
    assert unnamed == []
