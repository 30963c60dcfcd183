"""Search by words, by pictures and by photos; mixes, stacks, filters; all of it in the address."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests import photos
from tests.app.conftest import Guest, PhotoApp, window

pytestmark = pytest.mark.timeout(240)

_TRANSFER = """([data, name]) => {
  const bytes = Uint8Array.from(atob(data), (one) => one.charCodeAt(0));
  const moved = new DataTransfer();
  moved.items.add(new File([bytes], name, { type: 'image/png' }));
  return moved;
}"""


def transfer(guest: Guest, path: Path) -> Any:
    """What the browser has when somebody drags or copies a picture."""
    data = base64.b64encode(path.read_bytes()).decode()
    return guest.page.evaluate_handle(_TRANSFER, [data, path.name])


def paste(guest: Guest, path: Path) -> None:
    guest.page.evaluate(
        "(moved) => window.dispatchEvent(new ClipboardEvent('paste',"
        " { clipboardData: moved, bubbles: true, cancelable: true }))",
        transfer(guest, path),
    )


def searched_with_picture(guest: Guest) -> None:
    guest.page.wait_for_url("**t=image*")
    guest.loaded()


def test_words_find_photos(guest: Guest, photo_app: PhotoApp) -> None:
    guest.open(photo_app)
    guest.box.click()
    guest.page.get_by_role("button", name="flowers").wait_for()
    guest.search("a cat")
    assert "Chelsea" in guest.names[0]
    expect(guest.page.get_by_role("heading", name="“a cat”")).to_be_visible()
    guest.shot(f"search-{guest.page.viewport_size['width']}")


def test_an_example_searches(guest: Guest, photo_app: PhotoApp) -> None:
    guest.open(photo_app)
    guest.box.click()
    guest.page.get_by_role("button", name="flowers").click()
    guest.page.wait_for_url("**q=flowers*")
    guest.loaded()
    expect(guest.box).to_have_value("flowers")


def test_look_alikes_are_stacked_and_a_click_opens_the_stack(
    guest: Guest, photo_app: PhotoApp
) -> None:
    guest.open(photo_app, "?q=a+cup+of+coffee")
    first = guest.tiles.first
    assert "and" in (first.get_attribute("aria-label") or "")
    count = int(first.locator(".count").inner_text())
    assert count > 1
    before = guest.tiles.count()
    first.click()
    expect(guest.tiles).to_have_count(before + count - 1)
    assert guest.viewer.is_hidden()
    guest.tiles.first.click()  # now it is one photo
    guest.viewer.wait_for()
    guest.page.keyboard.press("Escape")
    guest.page.get_by_role("button", name="Stack look-alikes").click()
    guest.page.wait_for_url("**flat=1*")
    expect(guest.tiles).to_have_count(48)


def test_a_picture_is_pasted_dropped_or_chosen(desktop: Guest, photo_app: PhotoApp) -> None:
    cat = photos.photo("chelsea")
    desktop.open(photo_app)
    paste(desktop, cat)
    searched_with_picture(desktop)
    assert "Chelsea" in desktop.names[0]
    pasted = desktop.page.url

    desktop.open(photo_app)
    moved = transfer(desktop, cat)
    desktop.page.dispatch_event("body", "dragenter", {"dataTransfer": moved})
    zone = desktop.page.locator(".zone", has_text="Search with this picture")
    area = zone.bounding_box()
    assert area
    place = {"clientX": area["x"] + 40, "clientY": area["y"] + 40, "dataTransfer": moved}
    desktop.page.dispatch_event("body", "dragover", place)
    desktop.page.dispatch_event("body", "drop", place)
    searched_with_picture(desktop)
    assert desktop.page.url == pasted  # the same picture has the same address

    desktop.open(photo_app)
    with desktop.page.expect_file_chooser() as chooser:
        desktop.page.get_by_role("button", name="Search with a picture").click()
    chooser.value.set_files(cat)
    searched_with_picture(desktop)
    assert desktop.page.url == pasted


def test_what_is_no_picture_is_refused_in_words(
    desktop: Guest, photo_app: PhotoApp, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"%!PS nothing")
    desktop.open(photo_app)
    desktop.errors.clear()
    with desktop.page.expect_response(lambda one: "query-image" in one.url):
        paste(desktop, broken)
    expect(desktop.toast).to_contain_text("not a readable image")
    desktop.errors[:] = [one for one in desktop.errors if "415" not in one]


def test_photos_are_added_to_a_search_and_subtracted(desktop: Guest, photo_app: PhotoApp) -> None:
    desktop.open(photo_app, "?q=a+rocket&flat=1")
    rocket = desktop.names.index("A rocket on its pad, at night")
    desktop.press_on(rocket, "Add to the search")
    desktop.page.wait_for_url("**t=item*")
    desktop.loaded()
    coffee = next(n for n, name in enumerate(desktop.names) if "coffee" in name)
    desktop.press_on(coffee, "Less like this")
    desktop.page.wait_for_url("**-0.5*")
    desktop.loaded()
    chips = desktop.page.locator(".chip.term")
    expect(chips).to_have_count(2)
    assert "coffee" not in desktop.names[0]
    desktop.page.get_by_role("button", name="Change: less like").click()
    desktop.page.get_by_label("Weight").fill("-1.5")
    desktop.page.locator(".panel:popover-open").get_by_role("button", name="Search").click()
    desktop.page.wait_for_url("**-1.5*")
    desktop.loaded()
    mixed, names = desktop.page.url, desktop.names
    desktop.page.reload()
    desktop.loaded()
    assert (desktop.page.url, desktop.names) == (mixed, names)
    expect(chips).to_have_count(2)
    for _ in range(3):
        desktop.page.go_back()
    desktop.loaded()
    expect(chips).to_have_count(0)
    expect(desktop.box).to_have_value("a rocket")


def test_more_like_a_photo_searches_for_nothing_else(desktop: Guest, photo_app: PhotoApp) -> None:
    desktop.open(photo_app, "?q=a+cat&flat=1")
    desktop.press_on(0, "More like this")
    desktop.page.wait_for_url(re.compile(r"\?t=item"))
    desktop.loaded()
    expect(desktop.box).to_have_value("")
    assert "Chelsea" in desktop.names[0]


def test_a_search_is_shared_with_its_picture_and_part(browser: Any, photo_app: PhotoApp) -> None:
    with window(browser, Guest) as sender:
        sender.open(photo_app)
        paste(sender, photos.photo("chelsea"))
        searched_with_picture(sender)
        address = sender.page.url.replace("%3A1%3A%3A", "%3A1%3A0.1%2C0.1%2C0.5%2C0.6%3A")
        sender.page.goto(address)
        sender.loaded()
        names = sender.names
    with window(browser, Guest) as receiver:
        receiver.page.goto(address)
        receiver.loaded()
        assert receiver.names == names
        expect(receiver.page.locator(".chip.term")).to_contain_text("like this part")
        receiver.page.locator(".mini img").evaluate("(one) => one.decode()")


def test_a_picture_that_is_no_longer_kept_is_named(browser: Any, photo_app: PhotoApp) -> None:
    with window(browser, Guest, expected="410") as guest:
        guest.page.goto(f"{photo_app.url}/?t=image:1::{'0' * 64}")
        guest.page.get_by_text("no longer kept. Add it again").wait_for()
        assert guest.tiles.count() == 0


def test_filters_are_in_everyday_words(guest: Guest, photo_app: PhotoApp) -> None:
    guest.open(photo_app)
    guest.page.get_by_role("button", name="Camera").click()
    guest.page.get_by_role("textbox", name="Camera").fill("iPhone")
    guest.page.locator(".panel:popover-open").get_by_role("button", name="Apply").click()
    chip = guest.page.locator(".chip.active")
    expect(chip).to_have_text("Camera contains iPhone")
    expect(guest.tiles).to_have_count(16)
    guest.page.get_by_role("button", name="Date").click()
    guest.page.get_by_role("textbox", name="From").fill("2024-01-01")
    guest.page.get_by_role("textbox", name="To").fill("2024-06-30")
    guest.page.locator(".panel:popover-open").get_by_role("button", name="Apply").click()
    expect(chip).to_have_count(3)
    texts = [one.inner_text() for one in chip.all()]
    assert texts[1:] == ["Taken from 2024-01-01", "Taken until 2024-06-30"]
    guest.loaded()
    few = guest.tiles.count()
    assert 0 < few < 16
    guest.page.reload()
    guest.loaded()
    assert guest.tiles.count() == few
    guest.page.get_by_role("button", name="Remove the filter: Camera").click()
    expect(chip).to_have_count(2)


def test_places_folders_and_keywords_filter(desktop: Guest, photo_app: PhotoApp) -> None:
    desktop.open(photo_app)
    desktop.page.get_by_role("button", name="Place").click()
    desktop.page.get_by_label("Latitude and longitude").fill("north")
    apply = desktop.page.locator(".panel:popover-open").get_by_role("button", name="Apply")
    apply.click()
    assert "f=" not in desktop.page.url  # said what to write
    desktop.page.get_by_label("Latitude and longitude").fill("48.0, 2.25")
    desktop.page.get_by_label("Distance").select_option("100 km")
    apply.click()
    expect(desktop.tiles).to_have_count(4)
    desktop.page.get_by_role("button", name="Keyword").click()
    desktop.page.get_by_role("textbox", name="Keyword").fill("home")
    desktop.page.locator(".panel:popover-open").get_by_role("button", name="Apply").click()
    expect(desktop.tiles).to_have_count(2)
    desktop.page.get_by_role("button", name="Folder").click()
    desktop.page.get_by_role("textbox", name="Folder").fill("astronaut.png")
    desktop.page.locator(".panel:popover-open").get_by_role("button", name="Apply").click()
    expect(desktop.page.locator(".chip.active").nth(2)).to_have_text("Path contains astronaut.png")
    expect(desktop.tiles).to_have_count(1)
    desktop.page.get_by_role("button", name="More").click()
    desktop.page.get_by_label("Field").select_option("bytes")
    desktop.page.get_by_label("Comparison").select_option("is at most")
    desktop.page.get_by_label("Value").fill("10")
    desktop.page.locator(".panel:popover-open").get_by_role("button", name="Apply").click()
    desktop.page.get_by_role("heading", name="Nothing found").wait_for()
    desktop.page.get_by_role("button", name="Remove the filters").click()
    expect(desktop.tiles).to_have_count(48)


def test_timings_are_behind_a_button(desktop: Guest, photo_app: PhotoApp) -> None:
    desktop.open(photo_app, "?q=a+cat")
    assert "Searching vectors" not in desktop.page.inner_text("body")
    desktop.page.get_by_role("button", name="How long it took").click()
    expect(desktop.page.locator(".timings")).to_contain_text("Searching vectors")


def test_it_says_that_the_demo_model_is_weak_and_how_to_get_another(
    desktop: Guest, photo_app: PhotoApp
) -> None:
    desktop.open(photo_app, "?q=a+cat")
    expect(desktop.page.locator(".message.demo")).to_contain_text("sentinel models use")


def test_a_malformed_address_shows_what_is_left_of_it(desktop: Guest, photo_app: PhotoApp) -> None:
    odd = "?q=a+cat&t=nothing&t=item:x::y&t=image:1:2,2,1,1:z&f=&f=a&c=none&before=never"
    desktop.open(photo_app, odd)
    assert "Chelsea" in desktop.names[0]


def test_labels_are_whole_and_long_terms_begin_at_their_beginning(
    guest: Guest, photo_app: PhotoApp
) -> None:
    guest.open(photo_app, "?q=a+cat&t=text:0.5::a+wooden+table+in+the+kitchen+of+a+house+at+night")
    words = guest.page.locator(".chip.term .label")
    icon, shown = words.locator("svg").bounding_box(), words.bounding_box()
    assert icon and shown
    assert icon["x"] >= shown["x"]
    guest.page.locator("#chips").get_by_role("button", name="Place").click()
    around = guest.page.get_by_text("around", exact=True)
    assert around.evaluate("(one) => one.clientHeight") < 30
