"""How much visitors can upload, in a real browser in front of the page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.app.streamlit_page.conftest import Visitor, serving, visiting
from tests.app.streamlit_page.fake_gateway import running_fake_gateway

pytestmark = pytest.mark.timeout(240)
KIB = 1024


@pytest.fixture(scope="module")
def small_page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a page with space for 1 MiB of one visitor, and 2 MiB of all."""
    flags = [
        word
        for scope in ("search", "write", "admin")
        for word in ("--upload-limit", scope, "1", "9")
    ]
    with (
        running_fake_gateway() as gateway,
        serving(gateway.address, tmp_path_factory.mktemp("small"), *flags) as url,
    ):
        yield url


def file(folder: Path, name: str, kib: int) -> Path:
    path = folder / name
    path.write_bytes(bytes(kib * KIB))
    return path


def drop(visitor: Visitor, path: Path) -> None:
    visitor.idle()
    visitor.page.locator(".st-key-upload input[type=file]").set_input_files(path)


def opened(visitor: Visitor, url: str) -> None:
    visitor.open(url)
    visitor.page.get_by_role("tab", name="Add").click()


def test_one_visitor_cannot_take_all_the_space_and_gets_it_back(
    browser: Any, small_page: str, tmp_path: Path
) -> None:
    with visiting(browser, expected="413") as visitor:
        opened(visitor, small_page)
        drop(visitor, file(tmp_path, "a.jpg", 700))
        visitor.page.get_by_role("button", name="Store 1 file").wait_for()
        drop(visitor, file(tmp_path, "b.jpg", 700))
        visitor.page.get_by_text("413").wait_for()
        # Stored files are no longer held.
        visitor.page.get_by_role("button", name="Store 1 file").click()
        visitor.page.get_by_text("were not stored").wait_for()
        # A new uploader takes the place of the one with the stored files.
        visitor.page.get_by_role("button", name="Store 1 file").wait_for(state="detached")
        drop(visitor, file(tmp_path, "c.jpg", 700))
        visitor.page.get_by_role("button", name="Store 1 file").wait_for()


@pytest.mark.slow
def test_visitors_who_left_hold_no_space(browser: Any, small_page: str, tmp_path: Path) -> None:
    for _ in range(4):
        with visiting(browser) as visitor:
            opened(visitor, small_page)
            drop(visitor, file(tmp_path, "a.jpg", 900))
            visitor.page.get_by_role("button", name="Store 1 file").wait_for()
