"""Searching with the page, in a real Chromium, against a real gateway and worker."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import expect

from tests import photos
from tests.app import album
from tests.app.streamlit_page.conftest import App, Visitor, visiting

pytestmark = pytest.mark.timeout(240)
CAT, ROCKET = album.CAPTIONS["chelsea"], album.CAPTIONS["rocket"]


def test_words_find_pictures_with_their_scores_and_timings(visitor: Visitor) -> None:
    visitor.search("a cup of hot coffee")  # words that nobody has searched for, so not cached
    assert "coffee" in visitor.labels[0]
    scores = [float(label.rsplit(" ", 1)[1]) for label in visitor.labels]
    assert scores == sorted(scores, reverse=True)
    line = visitor.line.inner_text()
    assert all(stage in line for stage in ("gateway", "inference", "Milvus"))
    visitor.shot("search")


def test_thirty_hits_are_shown_and_an_address_with_words_leads_to_them(
    browser: Any, app: App
) -> None:
    with visiting(browser) as visitor:
        visitor.open(f"{app.url}?collection=album&q=a+cat")
        visitor.cards.first.wait_for()
        visitor.settled()
        visitor.holds("a cat")
        assert visitor.line.inner_text().startswith("30 hits in")
        assert visitor.cards.count() == 30
        widths = visitor.page.locator(".open img").evaluate_all(
            "all => Promise.all(all.map(async one => (await one.decode(), one.naturalWidth)))"
        )
        assert len(widths) == 30
        assert all(widths)


def test_captions_show_on_demand(visitor: Visitor) -> None:
    visitor.search("a cat")
    caption = visitor.page.locator(".caption").first
    assert not caption.is_visible()
    visitor.page.get_by_text("Captions", exact=True).click()
    caption.wait_for()
    assert CAT in caption.inner_text()
    assert visitor.cards.count() == 30  # though only new hits are sent


def test_a_click_opens_the_full_picture_with_its_fields(visitor: Visitor) -> None:
    visitor.search("a cat")
    visitor.page.locator(f".open[aria-label^='{CAT}, score']").click()
    dialog = visitor.page.get_by_role("dialog")
    dialog.locator("img").wait_for()
    width = dialog.locator("img").evaluate("async (i) => (await i.decode(), i.naturalWidth)")
    assert width > 300  # the thumbnail has 256
    dialog.get_by_role("heading", name="chelsea.png").wait_for()
    dialog.get_by_text("451 \N{MULTIPLICATION SIGN} 300 · PNG · 241 KB").wait_for()
    visitor.shot("details")
    visitor.idle()
    visitor.page.keyboard.press("Escape")
    dialog.wait_for(state="detached")
    # Closed is closed, also when the page is drawn anew.
    visitor.page.get_by_text("Captions", exact=True).click()
    visitor.page.locator(".caption").first.wait_for()
    assert not dialog.count()


def test_more_like_this_leaves_the_picture_itself_out(visitor: Visitor) -> None:
    visitor.search("a cat")
    label = visitor.labels[0].rsplit(", score", 1)[0]
    visitor.press(0, "like")
    visitor.chip(label).wait_for()
    visitor.page.locator(f".open[aria-label^='{label}, score']").wait_for(state="detached")
    visitor.settled()
    visitor.holds("")


def test_chips_mix_with_plus_and_minus_and_weights(visitor: Visitor) -> None:
    visitor.search("a rocket")
    found = visitor.labels[0].rsplit(", score", 1)[0]
    visitor.press(0, "minus")
    rocket = visitor.chip(found)
    rocket.wait_for()
    assert "minus" in (rocket.get_attribute("class") or "")
    visitor.chip("a rocket").wait_for()  # the words are one of the things that are mixed
    rocket.locator(".sign").click()  # for it instead
    visitor.page.locator(".chip:not(.minus)", has_text=found).wait_for()
    rocket.locator(".more").click()
    visitor.chip("0.75").wait_for()
    visitor.page.get_by_role("button", name="Mix").click()
    visitor.page.get_by_placeholder("at night").fill("flower")
    visitor.page.get_by_text("Subtract", exact=True).click()
    visitor.chip("flower").wait_for()
    visitor.page.keyboard.press("Escape")
    visitor.settled()
    visitor.shot("mix")
    visitor.chip("a rocket").locator(".remove").click()
    visitor.chip("a rocket").wait_for(state="detached")
    visitor.page.wait_for_function("!document.querySelector('.st-key-typed input').value")
    rocket.locator(".remove").click()
    rocket.wait_for(state="detached")


def test_a_picture_searches_and_the_popover_closes_over_the_hits(visitor: Visitor) -> None:
    visitor.page.get_by_role("button", name="Image").click()
    visitor.upload(photos.photo("astronaut"))
    search = visitor.page.get_by_role("button", name="Search with it")
    search.click()
    visitor.chip("astronaut.png").wait_for()
    expect(search).to_have_count(0)
    expect(visitor.page.get_by_text("Search with an image").locator("visible=true")).to_have_count(
        0
    )
    visitor.settled()
    assert visitor.labels[0] == f"{album.CAPTIONS['astronaut']}, score 1.00"
    # Once more: it opens empty, and closes when a term is added, too.
    visitor.page.get_by_role("button", name="Image").click()
    visitor.upload(photos.photo("rocket"))
    popover = visitor.page.get_by_test_id("stPopoverBody")
    popover.get_by_role("button", name="Add to the search").click()
    visitor.chip("rocket.jpg").wait_for()
    expect(visitor.page.get_by_text("Search with an image").locator("visible=true")).to_have_count(
        0
    )


# The side


def counted(visitor: Visitor, count: str) -> None:
    visitor.line.filter(has_text=re.compile(f"^{count} in")).wait_for()
    visitor.settled()


def test_more_hits_are_shown_on_demand(visitor: Visitor) -> None:
    visitor.search("a cat")
    visitor.page.get_by_role("slider", name="Hits").focus()
    visitor.page.keyboard.press("ArrowRight")
    everything = len(list(album.items()))
    counted(visitor, f"{everything} hits")
    assert visitor.cards.count() == everything


def test_a_least_score_leaves_out_the_rest(visitor: Visitor) -> None:
    visitor.search("a cup of coffee")
    visitor.page.get_by_text("More", exact=True).click()
    slider = visitor.page.get_by_role("slider", name="Minimum score")
    slider.focus()
    for _ in range(50):
        visitor.page.keyboard.press("ArrowRight")
    counted(visitor, "6 hits")
    assert all("coffee" in label for label in visitor.labels)


def test_near_duplicates_are_hidden_on_demand(visitor: Visitor) -> None:
    pair = {album.CAPTIONS["coffee"], f"{album.CAPTIONS['coffee']}, copy"}

    def coffees() -> set[str]:
        found = {label.rsplit(", score", 1)[0] for label in visitor.labels}
        return {one for one in found if "coffee" in one}

    visitor.search("a cup of coffee")
    every = coffees()
    assert pair < every
    before = visitor.search_number()
    visitor.page.get_by_text("Hide near-duplicates").click()
    visitor.next_search(before)
    assert 1 <= len(coffees()) < len(every)
    assert not pair <= coffees()


def test_filters_come_from_the_declared_fields(visitor: Visitor) -> None:
    visitor.search("an animal")
    assert visitor.cards.count() == 30
    visitor.page.get_by_role("button", name="Add a filter").click()
    visitor.page.get_by_placeholder("value").fill("horse.png")
    visitor.page.get_by_placeholder("value").press("Enter")
    counted(visitor, "1 hit")
    assert "horse" in visitor.labels[0]


def test_numbers_filter_by_size_and_flags_by_what_they_are(visitor: Visitor) -> None:
    every = [item.fields for item in album.items()]
    visitor.search("an animal")
    visitor.page.get_by_role("button", name="Add a filter").click()
    visitor.page.get_by_role("combobox", name="Field").click()
    visitor.page.get_by_role("option", name="bytes").click()
    visitor.idle()
    visitor.page.get_by_role("combobox", name="Comparison").click()
    visitor.page.get_by_role("option", name="at least").click()
    visitor.page.get_by_placeholder("number").fill("150000")
    visitor.page.get_by_placeholder("number").press("Enter")
    large = [one for one in every if int(str(one["bytes"])) >= 150_000]
    assert 2 < len(large) < 30
    counted(visitor, f"{len(large)} hits")
    visitor.page.get_by_role("combobox", name="Field").click()
    visitor.page.get_by_role("option", name="colour").click()
    visitor.idle()
    visitor.page.get_by_role("combobox", name="Value").click()
    visitor.page.get_by_role("option", name="False").click()
    grey = [one for one in every if not one["colour"]]
    assert 2 < len(grey) < 30
    counted(visitor, f"{len(grey)} hits")


# By keyboard


def test_arrows_walk_from_the_box_through_the_hits_and_enter_opens(visitor: Visitor) -> None:
    visitor.search("a cat")
    visitor.box.focus()
    visitor.page.keyboard.press("ArrowDown")
    visitor.page.locator(".open:focus").wait_for()
    visitor.page.keyboard.press("ArrowUp")
    assert visitor.box.evaluate("one => one === document.activeElement")
    visitor.page.keyboard.press("ArrowDown")
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
    visitor.page.get_by_role("dialog").locator("img").evaluate("one => one.decode()")


def test_arrows_lead_from_picture_to_picture(visitor: Visitor) -> None:
    dialog = visitor.page.get_by_role("dialog")

    def name(place: int) -> str:
        dialog.get_by_text(f"{place} of 30").wait_for()
        visitor.idle()
        dialog.locator("img").evaluate("one => one.decode()")
        return str(dialog.get_by_role("heading").last.inner_text())

    visitor.search("a cat")
    visitor.cards.first.locator(".open").click()
    first = name(1)
    visitor.page.keyboard.press("ArrowRight")
    assert name(2) != first
    visitor.page.keyboard.press("ArrowLeft")
    assert name(1) == first
    visitor.page.keyboard.press("ArrowLeft")  # there is nothing before
    assert name(1) == first


def test_enter_searches_again_where_nothing_was_changed(visitor: Visitor) -> None:
    visitor.search("a cat")
    before = visitor.search_number()
    visitor.box.press("Enter")
    visitor.next_search(before)
    assert visitor.cards.count() == 30


def test_two_people_do_not_share_what_they_look_for(browser: Any, app: App) -> None:
    with visiting(browser) as one, visiting(browser) as other:
        one.open(app.url)
        other.open(app.url)
        one.search("a cat")
        other.search("a rocket")
        assert CAT in one.labels[0]
        assert ROCKET in other.labels[0]
        one.holds("a cat")


def test_the_page_names_the_model_and_how_to_get_a_real_one(visitor: Visitor) -> None:
    sidebar = visitor.page.locator("[data-testid=stSidebar]")
    sidebar.get_by_text("Model: conse-minilm-lite0, for demos only.").wait_for()
    sidebar.locator("code", has_text="sentinel models use siglip2-b16").wait_for()
    visitor.shot("model")
