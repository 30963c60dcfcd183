"""A part of an image is chosen by drawing a box, by mouse, finger and keyboard."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import expect

from tests import photos
from tests.app import album
from tests.app.streamlit_page.conftest import App, Visitor, visiting

pytestmark = pytest.mark.timeout(240)
Point = tuple[float, float]
EDGES = ("left top", "top", "right top", "left", "right", "left bottom", "bottom", "right bottom")


class Crop:
    """The crop box of a page; all numbers are fractions of the image."""

    def __init__(self, visitor: Visitor) -> None:
        self.visitor = visitor
        self.page = visitor.page
        visitor.page.get_by_role("button", name="Image").click()
        visitor.upload(photos.photo("astronaut"))
        self.picture = visitor.page.locator(".picture")
        self.picture.wait_for()
        visitor.page.locator(".picture img").evaluate("one => one.decode()")
        visitor.idle()
        self.frame = visitor.page.locator(".stage .box")

    def point(self, x: float, y: float) -> Point:
        area = self.picture.bounding_box()
        return area["x"] + x * area["width"], area["y"] + y * area["height"]

    def drag(self, start: Point, end: Point) -> None:
        mouse = self.page.mouse
        mouse.move(*self.point(*start))
        mouse.down()
        mouse.move(*self.point(*end), steps=5)
        mouse.up()

    @property
    def box(self) -> tuple[float, ...]:
        """Left, top, right and bottom as they are drawn."""
        area, box = self.picture.bounding_box(), self.frame.bounding_box()
        left = (box["x"] - area["x"]) / area["width"]
        top = (box["y"] - area["y"]) / area["height"]
        return left, top, left + box["width"] / area["width"], top + box["height"] / area["height"]

    def is_at(self, *box: float) -> None:
        assert self.box == pytest.approx(box, abs=0.02)


@pytest.fixture
def crop(visitor: Visitor) -> Iterator[Crop]:
    yield Crop(visitor)


def test_a_box_is_drawn_anywhere_moved_and_drawn_anew(crop: Crop) -> None:
    expect(crop.frame).to_be_hidden()  # at first, it is the whole image
    crop.drag((0.2, 0.3), (0.6, 0.7))
    crop.is_at(0.2, 0.3, 0.6, 0.7)
    crop.drag((0.4, 0.5), (0.6, 0.6))  # inside: moved
    crop.is_at(0.4, 0.4, 0.8, 0.8)
    crop.drag((0.6, 0.6), (0.95, 0.9))  # not out of the image
    crop.is_at(0.6, 0.6, 1.0, 1.0)
    crop.visitor.shot("crop")
    crop.drag((0.3, 0.4), (0.05, 0.1))  # outside: a new one, in any direction
    crop.is_at(0.05, 0.1, 0.3, 0.4)
    crop.page.mouse.click(*crop.point(0.8, 0.8))  # a click beside it: the whole image again
    expect(crop.frame).to_be_hidden()


def test_every_pixel_to_the_edge_and_beyond_answers(crop: Crop) -> None:
    for margin in (-0.02, 0.0, 0.005, 0.995, 1.0, 1.02):
        crop.drag((margin, margin), (0.5, 0.5))
        edge = min(1.0, max(0.0, margin))
        crop.is_at(min(edge, 0.5), min(edge, 0.5), max(edge, 0.5), max(edge, 0.5))
        crop.page.get_by_role("button", name="Whole image").click()
        expect(crop.frame).to_be_hidden()


def test_eight_handles_resize_it_and_none_is_clipped(crop: Crop) -> None:
    crop.drag((-0.01, -0.01), (1.01, 1.01))  # as large as the image: handles lie on its edge
    for edge in EDGES:
        handle = crop.page.locator(f"[data-edge='{edge}']")
        area = handle.bounding_box()
        for x, y in ((0.1, 0.5), (0.9, 0.5), (0.5, 0.1), (0.5, 0.9)):
            at = [area["x"] + x * area["width"], area["y"] + y * area["height"]]
            # Components live in shadow roots.
            hit = handle.evaluate(
                "(one, at) => one.getRootNode().elementFromPoint(...at) === one", at
            )
            assert hit, (edge, x, y)
    box = [0.2, 0.2, 0.8, 0.8]
    crop.page.get_by_role("button", name="Whole image").click()
    crop.drag((0.2, 0.2), (0.8, 0.8))
    for edge in EDGES:
        left, top, right, bottom = box
        x = {"left": left, "right": right}.get(edge.split()[0], (left + right) / 2)
        y = {"top": top, "bottom": bottom}.get(edge.split()[-1], (top + bottom) / 2)
        crop.drag((x, y), (x - 0.05, y + 0.05))
        if "left" in edge:
            box[0] -= 0.05
        if "right" in edge:
            box[2] -= 0.05
        if "top" in edge:
            box[1] += 0.05
        if "bottom" in edge:
            box[3] += 0.05
        crop.is_at(*box)


def test_the_search_is_with_the_part_and_the_chip_shows_it(crop: Crop) -> None:
    visitor = crop.visitor
    crop.drag((0.3, 0.0), (0.7, 0.4))
    visitor.idle()
    crop.page.get_by_role("button", name="Search with it").click()
    chip = visitor.chip("part of astronaut.png")
    chip.wait_for()
    visitor.settled()
    assert not any(label.endswith("1.00") for label in visitor.labels)
    whole, part = (
        crop.page.evaluate(
            """async (source) => {
              const image = new Image();
              image.src = source;
              await image.decode();
              const canvas = Object.assign(document.createElement("canvas"), {width: 1, height: 1});
              const context = canvas.getContext("2d");
              context.drawImage(image, 0, 0, 1, 1);
              return [...context.getImageData(0, 0, 1, 1).data];
            }""",
            source,
        )
        for source in (_source(visitor, album.CAPTIONS["astronaut"]), _chip_source(chip))
    )
    assert whole != part
    visitor.shot("crop-chip")


def _source(visitor: Visitor, caption: str) -> str:
    shown = visitor.page.locator(f".open[aria-label^='{caption}, score'] img").first
    return str(shown.get_attribute("src"))


def _chip_source(chip: Any) -> str:
    source = str(chip.locator("img").get_attribute("src"))
    assert re.match("data:image/(jpeg|webp);base64,", source)
    return source


def test_keys_make_move_resize_and_remove_it(crop: Crop) -> None:
    crop.page.locator(".stage").focus()
    crop.page.keyboard.press("ArrowRight")
    crop.is_at(0.2, 0.2, 0.8, 0.8)
    crop.page.keyboard.press("ArrowRight")
    crop.page.keyboard.press("Shift+ArrowUp")
    crop.is_at(0.22, 0.2, 0.82, 0.78)
    crop.visitor.idle()
    crop.is_at(0.22, 0.2, 0.82, 0.78)  # nor does a run of the page change it
    crop.page.keyboard.press("Delete")
    expect(crop.frame).to_be_hidden()


def test_a_finger_draws_it(browser: Any, app: App) -> None:
    with visiting(browser, wide=390, has_touch=True, is_mobile=True) as visitor:
        visitor.open(app.url)
        crop = Crop(visitor)
        session = visitor.page.context.new_cdp_session(visitor.page)

        def touch(kind: str, *points: Point) -> None:
            at = [{"x": x, "y": y} for x, y in points]
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": at})

        touch("touchStart", crop.point(0.2, 0.2))
        for step in range(1, 6):
            touch("touchMove", crop.point(0.2 + 0.1 * step, 0.2 + 0.1 * step))
        touch("touchEnd")
        crop.is_at(0.2, 0.2, 0.7, 0.7)
        visitor.shot("crop-phone")
