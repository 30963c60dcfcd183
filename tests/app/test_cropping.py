"""Draw a box on a picture, move it, and drag its handles; with mouse, touch or keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests import photos
from tests.app.conftest import Guest, PhotoApp
from tests.app.test_searching import paste, searched_with_picture

pytestmark = pytest.mark.timeout(240)


class Crop:
    """The dialog in which a person draws."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self.area = guest.page.locator(".cropper").bounding_box()
        self.frame = guest.page.locator(".cropper .frame")

    @property
    def box(self) -> list[float]:
        """The box in hundredths of the picture."""
        found = self.frame.bounding_box()
        left, top = found["x"] - self.area["x"], found["y"] - self.area["y"]
        sides = left, top, left + found["width"], top + found["height"]
        lengths = (self.area["width"], self.area["height"]) * 2
        return [100 * side / length for side, length in zip(sides, lengths, strict=True)]

    def at(self, x: float, y: float) -> tuple[float, float]:
        return (
            self.area["x"] + x / 100 * self.area["width"],
            self.area["y"] + y / 100 * self.area["height"],
        )

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Drag with the mouse, or with a finger on a phone; in hundredths of the picture."""
        first, last = self.at(*start), self.at(*end)
        if self._guest.page.viewport_size["width"] < 600:
            touch = self._guest.page.context.new_cdp_session(self._guest.page)
            points = [{"x": first[0], "y": first[1]}]
            touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": points})
            for part in (0.5, 1):
                x = first[0] + (last[0] - first[0]) * part
                y = first[1] + (last[1] - first[1]) * part
                moved = {"type": "touchMove", "touchPoints": [{"x": x, "y": y}]}
                touch.send("Input.dispatchTouchEvent", moved)
            touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
            return
        mouse = self._guest.page.mouse
        mouse.move(*first)
        mouse.down()
        mouse.move(*last, steps=3)
        mouse.up()


@pytest.fixture
def crop(guest: Guest, photo_app: PhotoApp) -> Iterator[Crop]:
    guest.open(photo_app)
    paste(guest, photos.photo("chelsea"))
    searched_with_picture(guest)
    guest.page.get_by_role("button", name="Change: like this picture").click()
    guest.page.get_by_role("button", name="Search with a part of it").click()
    guest.page.locator(".cropper img").evaluate("(one) => one.decode()")
    yield Crop(guest)


def test_a_new_box_is_drawn_anywhere_and_moved(crop: Crop, guest: Guest) -> None:
    assert crop.frame.is_hidden()  # at first it is the whole picture
    crop.drag((20, 30), (60, 70))
    assert crop.box == pytest.approx([20, 30, 60, 70], abs=1.5)
    crop.drag((40, 50), (60, 60))  # from inside: it moves
    assert crop.box == pytest.approx([40, 40, 80, 80], abs=1.5)
    crop.drag((5, 5), (30, 25))  # from outside: another one
    assert crop.box == pytest.approx([5, 5, 30, 25], abs=1.5)
    crop.drag((15, 15), (90, 110))  # it stays inside
    assert crop.box[3] == pytest.approx(100, abs=0.5)
    guest.shot(f"crop-{guest.page.viewport_size['width']}")


@pytest.mark.parametrize(
    ("start", "end", "box"),
    [
        ((25, 25), (10, 15), [10, 15, 75, 75]),
        ((50, 25), (50, 10), [25, 10, 75, 75]),
        ((75, 25), (90, 10), [25, 10, 90, 75]),
        ((75, 50), (95, 50), [25, 25, 95, 75]),
        ((75, 75), (60, 90), [25, 25, 60, 90]),
        ((50, 75), (50, 95), [25, 25, 75, 95]),
        ((25, 75), (10, 60), [10, 25, 75, 60]),
        ((25, 50), (40, 50), [40, 25, 75, 75]),
    ],
)
def test_there_are_eight_handles(
    crop: Crop,
    guest: Guest,
    start: tuple[float, float],
    end: tuple[float, float],
    box: list[float],
) -> None:
    guest.page.get_by_role("button", name="Box in the middle").click()
    crop.drag(start, end)
    assert crop.box == pytest.approx(box, abs=1.5)


def test_keys_move_the_box_and_its_handles(crop: Crop, guest: Guest) -> None:
    guest.page.get_by_role("button", name="Box in the middle").click()
    guest.page.keyboard.press("ArrowRight")
    guest.page.keyboard.press("ArrowDown")
    assert crop.box == pytest.approx([27, 27, 77, 77], abs=0.5)
    guest.page.get_by_role("button", name="Move the lower right corner").focus()
    guest.page.keyboard.press("ArrowLeft")
    assert crop.box == pytest.approx([27, 27, 75, 77], abs=0.5)


def test_the_part_is_searched_for_and_shown(crop: Crop, guest: Guest, photo_app: PhotoApp) -> None:
    crop.drag((20, 30), (60, 70))
    with guest.page.expect_request("**/api/page") as asked:
        guest.page.locator("dialog.crop").get_by_role("button", name="Search").click()
    (term,) = asked.value.post_data_json["terms"]
    assert [100 * side for side in term["crop"]] == pytest.approx([20, 30, 60, 70], abs=1.5)
    guest.loaded()
    (kept,) = parse_qs(urlsplit(guest.page.url).query)["t"]
    assert kept.split(":")[2] == ",".join(f"{side:.4f}".rstrip("0") for side in term["crop"])
    guest.page.get_by_role("button", name="Change: like this part").wait_for()
    mini: Any = guest.page.locator(".mini.part").bounding_box()
    image: Any = guest.page.locator(".mini.part img").bounding_box()
    assert image["width"] == pytest.approx(mini["width"] / 0.4, rel=0.06)
    assert image["x"] - mini["x"] == pytest.approx(-0.2 * image["width"], abs=1.5)
