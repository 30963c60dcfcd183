"""The page on small and wide screens, by day and by night."""

from __future__ import annotations

from typing import Any

import pytest

from tests import photos
from tests.app.streamlit_page.conftest import App, Visitor, visiting

pytestmark = pytest.mark.timeout(240)


def brightness(visitor: Visitor) -> int:
    colour = visitor.page.locator(".stApp").evaluate("e => getComputedStyle(e).backgroundColor")
    return sum(int(part) for part in colour[4:-1].split(","))


def test_it_fits_a_phone(browser: Any, app: App) -> None:
    with visiting(browser, wide=390) as visitor:
        visitor.open(app.url)
        visitor.search("a cat")
        wide = visitor.page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 390
        boxes = [visitor.cards.nth(n).bounding_box() for n in range(2)]
        assert boxes[0]
        assert boxes[1]
        assert boxes[0]["y"] == pytest.approx(boxes[1]["y"], abs=4)  # two abreast
        visitor.shot("phone")


@pytest.mark.parametrize(("scheme", "least", "most"), [("dark", 0, 150), ("light", 700, 765)])
def test_it_is_dark_or_light_as_people_like_it(
    browser: Any, app: App, scheme: str, least: int, most: int
) -> None:
    with visiting(browser, color_scheme=scheme) as visitor:
        visitor.open(app.url)
        visitor.search("a cat")
        assert least <= brightness(visitor) <= most
        visitor.shot(scheme)


def test_wide_screens_are_used(browser: Any, app: App) -> None:
    with visiting(browser, wide=1800) as visitor:
        visitor.open(app.url)
        visitor.search("a cat")
        grid = visitor.page.locator(".grid").bounding_box()
        assert grid
        assert 1800 - (grid["x"] + grid["width"]) < 60
        assert grid["y"] < 180  # no dead space above


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_the_whole_image_panel_is_visible_at_once(browser: Any, app: App, scheme: str) -> None:
    with visiting(browser, color_scheme=scheme) as visitor:
        visitor.open(app.url)
        visitor.page.get_by_role("button", name="Image").click()
        visitor.upload(photos.photo("astronaut"))
        picture = visitor.page.locator(".picture")
        picture.wait_for()
        visitor.page.locator(".picture img").evaluate("one => one.decode()")
        visitor.idle()
        area = picture.bounding_box()
        assert area
        visitor.page.mouse.move(area["x"] + 0.2 * area["width"], area["y"] + 0.1 * area["height"])
        visitor.page.mouse.down()
        visitor.page.mouse.move(area["x"] + 0.7 * area["width"], area["y"] + 0.6 * area["height"])
        visitor.page.mouse.up()
        visitor.idle()
        search = visitor.page.get_by_role("button", name="Search with it").bounding_box()
        popover = visitor.page.get_by_test_id("stPopoverBody").bounding_box()
        assert search
        assert popover
        assert search["y"] + search["height"] < popover["y"] + popover["height"] <= 800
        visitor.shot(f"crop-{scheme}")
