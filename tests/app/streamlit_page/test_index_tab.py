"""Adding images with the page."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from sentinel_client import SentinelClient
from tests import photos
from tests.app import album
from tests.app.streamlit_page.conftest import App, Visitor, visiting

pytestmark = pytest.mark.timeout(240)


def into(visitor: Visitor, app: App, collection: str) -> None:
    """Open the tab that adds images to a new collection."""
    with SentinelClient(app.gateway) as client:
        if any(one.name == collection for one in client.list_collections()):
            client.delete_collection(collection)  # of a run that failed
        client.create_collection(collection, album.FIELDS)
    visitor.open(app.url)
    visitor.choose(collection)
    visitor.page.get_by_role("tab", name="Add").click()
    # Files that are given to the uploader of the former collection are lost.
    visitor.page.get_by_text(f"images into {collection}").wait_for()


def failures(visitor: Visitor, *parts: str) -> None:
    """Wait until each of `parts` is among the visible failures: they come one by one."""
    shown = visitor.page.locator("[data-testid=stExpander]", has_text="failed").last
    for part in parts:
        expect(shown).to_contain_text(part, use_inner_text=True)


def test_files_and_a_zip_are_stored_and_failures_named(
    browser: Any, app: App, tmp_path: Path
) -> None:
    archive = tmp_path / "more.zip"
    with zipfile.ZipFile(archive, "w") as members:
        members.write(photos.photo("coffee"), "trip/coffee.png")
        members.write(photos.photo("rocket"), "../../out.jpg")
    fake = tmp_path / "fake.png"
    fake.write_text("not a picture")
    with visiting(browser) as visitor:
        into(visitor, app, "dropped")
        visitor.upload(photos.photo("chelsea"), archive, fake)
        visitor.page.get_by_role("button", name="Store 3 files").click()
        visitor.page.get_by_text("2 stored · 0 unchanged · 2 failed").wait_for()
        visitor.page.get_by_text("2 items").wait_for()
        failures(visitor, "fake.png", "more.zip/../../out.jpg: its path points outside the zip")
        visitor.shot("add")
        # The same again changes nothing.
        visitor.upload(photos.photo("chelsea"))
        visitor.page.get_by_role("button", name="Store 1 file").click()
        visitor.page.get_by_text("0 stored · 1 unchanged · 0 failed").wait_for()
        visitor.page.get_by_role("tab", name="Search").click()
        visitor.search("a cat")
        assert "chelsea" in visitor.labels[0]


def test_bombs_giants_and_impostors_are_named_and_the_good_is_stored(
    browser: Any, app: App, tmp_path: Path
) -> None:
    bomb, unknown = tmp_path / "bomb.zip", tmp_path / "unknown.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as members:
        for number in range(3):
            members.writestr(f"{number}.png", bytes(30_000_000))
    with zipfile.ZipFile(unknown, "w") as members:
        members.write(photos.photo("rocket"), "a.jpg")
    data = bytearray(unknown.read_bytes())
    data[data.rindex(b"PK\x01\x02") + 6] = 99  # version 9.9
    unknown.write_bytes(data)
    giant, impostor = tmp_path / "giant.jpg", tmp_path / "impostor.png"
    giant.write_bytes(bytes(50 * 1024 * 1024))
    impostor.write_text("plain text")
    with visiting(browser) as visitor:
        into(visitor, app, "odd")
        visitor.upload(bomb, giant, impostor, unknown, photos.photo("chelsea"))
        visitor.page.get_by_role("button", name="Store 5 files").click()
        visitor.page.get_by_text("1 stored · 0 unchanged · 4 failed").wait_for()
        failures(
            visitor,
            "bomb.zip: refused because it would unpack to 86 MB",
            "giant.jpg: larger than 16 MB",
            "impostor.png",
            "unknown.zip: this zip cannot be opened",
        )


def test_the_limits_are_said_once(visitor: Visitor) -> None:
    visitor.page.get_by_role("tab", name="Add").click()
    visitor.page.get_by_text("up to 16 MB each; 4,000 files and 192 MB at once").wait_for()
    assert not visitor.page.get_by_text("per file").locator("visible=true").count()


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("fake.png", b"plain text", "not a readable image"),
        ("huge.jpg", bytes(50 * 1024 * 1024), "16.0MB or smaller"),
    ],
)
def test_a_file_that_is_no_picture_is_refused_where_it_was_dropped(
    visitor: Visitor, tmp_path: Path, name: str, data: bytes, says: str
) -> None:
    (tmp_path / name).write_bytes(data)
    visitor.page.get_by_role("button", name="Image").click()
    visitor.upload(tmp_path / name)
    visitor.page.get_by_text(says).wait_for()
