"""Every flow of the page, in a real Chromium, against a real gateway and worker."""

from __future__ import annotations

import io
import signal
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from sentinel_client import SentinelClient
from tests import photos, processes
from tests.app.conftest import FIELDS, App, Visitor, serving, visiting

pytestmark = pytest.mark.timeout(240)


def upload(visitor: Visitor, button: str, *files: Any) -> None:
    """Give files to the uploader that is visible."""
    with visitor.page.expect_file_chooser() as chooser:
        visitor.page.get_by_role("button", name=button).locator("visible=true").click()
    chooser.value.set_files(list(files))


def chip(visitor: Visitor, label: str) -> Any:
    return visitor.page.locator(".chip", has_text=label)


def press(visitor: Visitor, place: int, kind: str) -> None:
    card = visitor.cards.nth(place)
    card.hover()
    card.locator(f"[data-kind={kind}]").click()


# Searching


def test_words_find_pictures_with_their_scores_and_timings(visitor: Visitor) -> None:
    visitor.search("a cup of coffee")
    assert "coffee" in visitor.labels[0]
    scores = [float(label.rsplit(" ", 1)[1]) for label in visitor.labels]
    assert scores == sorted(scores, reverse=True)
    line = visitor.page.locator("[data-testid=stCaptionContainer]", has_text="hits in").inner_text()
    assert all(stage in line for stage in ("gateway", "inference", "Milvus"))
    visitor.shot("search")


def test_captions_show_on_demand(visitor: Visitor) -> None:
    visitor.search("a cat")
    caption = visitor.page.locator(".caption").first
    assert not caption.is_visible()
    visitor.page.get_by_text("Captions", exact=True).click()
    caption.wait_for()
    assert "this is chelsea" in caption.inner_text()


def test_a_click_opens_the_full_picture_with_its_fields(visitor: Visitor) -> None:
    visitor.search("a cat")
    visitor.cards.first.locator(".open").click()
    dialog = visitor.page.get_by_role("dialog")
    dialog.locator("img").wait_for()
    width = dialog.locator("img").evaluate("async (i) => (await i.decode(), i.naturalWidth)")
    assert width > 300  # the thumbnail has 256
    assert "this is chelsea" in dialog.inner_text()
    visitor.shot("details")
    visitor.page.keyboard.press("Escape")
    dialog.wait_for(state="detached")


def test_more_like_this_leaves_the_picture_itself_out(visitor: Visitor) -> None:
    visitor.search("a cat")
    label = visitor.labels[0]
    press(visitor, 0, "like")
    chip(visitor, "this is chelsea").wait_for()
    visitor.settled()
    visitor.page.wait_for_function(
        "label => ![...document.querySelectorAll('*')].some(e => e.shadowRoot?.querySelector("
        "`.open[aria-label^='${label}']`))", arg=label.split(",")[0],
    )  # fmt: skip
    assert visitor.page.get_by_placeholder("a dog on the beach").input_value() == ""


def test_chips_mix_with_plus_and_minus_and_weights(visitor: Visitor) -> None:
    visitor.search("a rocket")
    press(visitor, 0, "minus")
    rocket = chip(visitor, "this is rocket")
    rocket.wait_for()
    assert "minus" in (rocket.get_attribute("class") or "")
    rocket.locator(".sign").click()  # for it instead
    visitor.page.locator(".chip:not(.minus)", has_text="this is rocket").wait_for()
    rocket.locator(".more").click()
    chip(visitor, "0.75").wait_for()
    visitor.page.get_by_role("button", name="Mix").click()
    visitor.page.get_by_placeholder("at night").fill("flower")
    visitor.page.get_by_test_id("stForm").get_by_text("Steer away").click()
    chip(visitor, "flower").wait_for()
    visitor.page.keyboard.press("Escape")
    visitor.shot("mix")
    rocket.locator(".remove").click()
    rocket.wait_for(state="detached")


def test_a_picture_searches_and_its_crop_narrows_it(visitor: Visitor) -> None:
    visitor.page.get_by_role("button", name="Picture").click()
    upload(visitor, "Upload", photos.photo("astronaut"))
    visitor.page.get_by_role("button", name="Search with it").click()
    chip(visitor, "astronaut.png").wait_for()
    visitor.settled()
    assert visitor.labels[0] == "this is astronaut, score 1.00"
    whole = visitor.labels

    if not visitor.page.get_by_role("button", name="Upload").locator("visible=true").count():
        visitor.page.get_by_role("button", name="Picture").click()
    upload(visitor, "Upload", photos.photo("astronaut"))
    frame = visitor.page.locator(".stage .box")
    frame.wait_for()
    before = frame.bounding_box()
    corner = visitor.page.locator("[data-corner='right bottom']").bounding_box()
    assert before
    assert corner
    x, y = corner["x"] + corner["width"] / 2 - 6, corner["y"] + corner["height"] / 2 - 6
    visitor.page.mouse.move(x, y)
    visitor.page.mouse.down()
    visitor.page.mouse.move(x - before["width"] / 2, y - before["height"] / 2, steps=4)
    visitor.page.mouse.up()
    after = frame.bounding_box()
    assert after
    assert after["width"] < 0.6 * before["width"]
    visitor.shot("crop")
    visitor.page.get_by_role("button", name="Search with it").click()
    visitor.page.wait_for_function(
        """score => ![...document.querySelectorAll('*')].some(
            e => e.shadowRoot?.querySelector('.open[aria-label$="' + score + '"]'))""",
        arg="score 1.00",
    )  # the whole picture is no longer what is looked for
    visitor.settled()
    assert visitor.labels != whole


def test_filters_come_from_the_declared_fields(visitor: Visitor) -> None:
    visitor.search("an animal")
    assert visitor.cards.count() == len(photos.all_photos())
    visitor.page.get_by_role("button", name="Add a filter").click()
    visitor.page.get_by_placeholder("value").fill("horse.png")
    visitor.page.get_by_placeholder("value").press("Enter")
    visitor.page.locator("[data-testid=stCaptionContainer]", has_text="1 hits in").wait_for()
    assert "horse" in visitor.labels[0]


def test_arrows_walk_through_the_hits_and_enter_opens(visitor: Visitor) -> None:
    visitor.search("a cat")
    visitor.cards.first.locator(".open").focus()
    visitor.page.keyboard.press("ArrowRight")
    visitor.page.keyboard.press("ArrowDown")
    visitor.page.keyboard.press("ArrowLeft")
    at = visitor.page.locator(".open:focus").evaluate(
        "one => [...one.closest('.grid').children].indexOf(one.closest('.card'))"
    )
    columns = visitor.page.locator(".grid").evaluate(
        "grid => getComputedStyle(grid).gridTemplateColumns.split(' ').length"
    )
    assert at == columns
    visitor.page.keyboard.press("Enter")
    visitor.page.get_by_role("dialog").locator("img").wait_for()


# Looks


def test_it_fits_a_phone(browser: Any, app: App) -> None:
    with visiting(browser) as visitor:
        visitor.page.set_viewport_size({"width": 390, "height": 800})
        visitor.open(app.url)
        visitor.search("a cat")
        wide = visitor.page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 390
        boxes = [visitor.cards.nth(n).bounding_box() for n in range(2)]
        assert boxes[0] and boxes[1]
        assert boxes[0]["y"] == pytest.approx(boxes[1]["y"], abs=4)  # two abreast
        visitor.shot("phone")
        assert visitor.complaints == []


def test_it_is_dark_for_those_who_like_it_dark(browser: Any, app: App) -> None:
    with visiting(browser, color_scheme="dark") as visitor:
        visitor.open(app.url)
        visitor.search("a cat")
        background = visitor.page.locator(".stApp").evaluate(
            "e => getComputedStyle(e).backgroundColor"
        )
        assert sum(int(part) for part in background[4:-1].split(",")) < 150, background
        visitor.shot("dark")


def test_two_people_do_not_share_what_they_look_for(browser: Any, app: App) -> None:
    with visiting(browser) as one, visiting(browser) as other:
        one.open(app.url)
        other.open(app.url)
        one.search("a cat")
        other.search("a rocket")
        assert "chelsea" in one.labels[0]
        assert "rocket" in other.labels[0]
        assert one.page.get_by_placeholder("a dog on the beach").input_value() == "a cat"


# Putting pictures in


def test_files_and_a_zip_are_stored_and_failures_named(
    browser: Any, app: App, tmp_path: Path
) -> None:
    with SentinelClient(app.gateway) as client:
        client.create_collection("dropped", FIELDS)
    archive = tmp_path / "more.zip"
    with zipfile.ZipFile(archive, "w") as members:
        members.write(photos.photo("coffee"), "trip/coffee.png")
        members.write(photos.photo("rocket"), "../../out.jpg")
    fake = tmp_path / "fake.png"
    fake.write_text("not a picture")
    with visiting(browser) as visitor:
        visitor.open(app.url)
        visitor.page.get_by_role("combobox", name="Collection").click()
        visitor.page.get_by_role("option", name="dropped").click()
        visitor.page.get_by_role("tab", name="Add").click()
        upload(visitor, "Upload", photos.photo("chelsea"), archive, fake)
        visitor.page.get_by_role("button", name="Store 3 files").click()
        visitor.page.get_by_text("2 stored · 0 there already · 2 failed").wait_for()
        visitor.page.get_by_text("2 items").wait_for()
        named = visitor.page.locator("[data-testid=stExpander]").inner_text()
        assert "fake.png" in named
        assert "more.zip/../../out.jpg: its path leads out of the zip" in named
        visitor.shot("add")
        # The same again changes nothing.
        upload(visitor, "Upload", photos.photo("chelsea"))
        visitor.page.get_by_role("button", name="Store 1 files").click()
        visitor.page.get_by_text("0 stored · 1 there already · 0 failed").wait_for()
        visitor.page.get_by_role("tab", name="Search").click()
        visitor.search("a cat")
        assert "chelsea" in visitor.labels[0]
        assert visitor.complaints == []


# What goes wrong


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("fake.png", b"plain text", "not a picture that can be read"),
        ("huge.jpg", bytes(50 * 1024 * 1024), "has 50 MB"),
    ],
)
def test_a_file_that_is_no_picture_is_refused_where_it_was_dropped(
    visitor: Visitor, tmp_path: Path, name: str, data: bytes, says: str
) -> None:
    (tmp_path / name).write_bytes(data)
    visitor.page.get_by_role("button", name="Picture").click()
    upload(visitor, "Upload", tmp_path / name)
    visitor.page.get_by_text(says).wait_for()


def test_five_thousand_characters_are_answered(visitor: Visitor) -> None:
    visitor.page.get_by_placeholder("a dog on the beach").fill("many words " * 455)
    visitor.page.get_by_placeholder("a dog on the beach").press("Enter")
    visitor.page.get_by_text("hits in").wait_for()  # cut to what the model reads


def test_a_gateway_that_is_away_is_named_and_found_again(
    browser: Any, worker: processes.Server, tmp_path: Path
) -> None:
    flags = processes.gateway_flags(tmp_path, str(tmp_path / "milvus.db"), worker.address)
    gateway = processes.start(tmp_path, "search_server", *flags)
    with serving(gateway.address, tmp_path) as url, visiting(browser) as visitor:
        visitor.page.goto(url)
        visitor.page.get_by_role("button", name="Make it").click()  # there is no collection yet
        visitor.page.get_by_text("is empty").wait_for()
        gateway.kill()
        visitor.page.reload()
        visitor.page.get_by_text("No gateway answers at").wait_for()
        visitor.shot("away")
        port = gateway.address.rpartition(":")[2]
        again = processes.start(tmp_path, "search_server", *flags, "--port", port)
        try:
            visitor.page.get_by_text("is empty").wait_for()  # without a click
        finally:
            again.stop()


def test_a_search_meets_a_restart_of_the_gateway_and_goes_on(
    browser: Any, worker: processes.Server, tmp_path: Path
) -> None:
    flags = processes.gateway_flags(tmp_path, str(tmp_path / "milvus.db"), worker.address)
    gateway = processes.start(tmp_path, "search_server", *flags)
    with SentinelClient(gateway.address) as client:
        client.create_collection("album", FIELDS)
    with serving(gateway.address, tmp_path) as url, visiting(browser) as visitor:
        visitor.open(url)
        gateway.process.send_signal(signal.SIGKILL)
        gateway.process.wait()
        port = gateway.address.rpartition(":")[2]
        again = processes.start(tmp_path, "search_server", *flags, "--port", port)
        try:
            visitor.ask("a cat")
            visitor.page.get_by_text("Nothing found").wait_for()
        finally:
            again.stop()


def test_a_browser_that_goes_away_ends_its_search(app: App) -> None:
    from sentinel_app import searching
    from sentinel_app.backend import Backend
    from sentinel_client import Q

    backend = Backend(app.gateway)
    cancelled = []

    async def endless(*_: Any, on_timings: Any, **__: Any) -> Any:
        import asyncio

        try:
            await asyncio.sleep(60)
            yield None
        except (asyncio.CancelledError, GeneratorExit):
            cancelled.append(True)
            raise

    backend.client.stream_search = endless  # type: ignore[method-assign, assignment]
    job = searching.SearchJob.start(backend, searching.Request(Q("a cat"), "album", 10, {}))
    job._last_seen = time.monotonic() - 2 * searching._UNSEEN_S
    end = time.monotonic() + 20
    while job.running and time.monotonic() < end:
        time.sleep(0.05)
    assert not job.running
    assert cancelled == [True]


def test_what_is_dropped_is_read_as_a_stream_and_not_unpacked_at_once() -> None:
    from sentinel_app.archives import entries

    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for number in range(3):
            archive.writestr(f"{number}.jpg", photos.photo("rocket").read_bytes())
    following = entries([("z.zip", out.getvalue())])
    assert next(following).name == "z.zip/0.jpg"
