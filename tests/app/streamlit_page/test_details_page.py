"""The dialog of a hit: hostile stored images are shown and saved as images, or not at all."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sentinel_client import Item, SentinelClient
from tests.app import album
from tests.app.streamlit_page.conftest import App, visiting

pytestmark = pytest.mark.timeout(240)
SCRIPT = b"<script>document.title = 'taken over'</script>"


def saved(kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(out, kind, **options)
    return out.getvalue()


@pytest.fixture(scope="module")
def odd(app: App) -> Iterator[App]:
    """The page, with a collection of one GIF that is also HTML, and says that it is."""
    with SentinelClient(app.gateway) as client:
        client.create_collection("details", album.FIELDS)
        fields = {"path": "x/poly.html", "caption": "www.example.com -> \u202ehtml"}
        item = Item(image=saved("GIF") + SCRIPT, fields=fields)
        [stored] = client.upsert([item], collection="details")
        assert stored.error is None
    yield app


def test_a_picture_that_is_also_html_is_saved_and_served_as_a_picture(
    browser: Any, odd: App
) -> None:
    with visiting(browser) as visitor:
        visitor.open(f"{odd.url}?collection=details&q=lines")
        visitor.settled()
        visitor.cards.first.locator(".open").click()
        dialog = visitor.page.get_by_role("dialog")
        dialog.locator("img.full").wait_for()
        dialog.get_by_text("256 \N{MULTIPLICATION SIGN} 256 · GIF").wait_for()
        dialog.get_by_text("www.example.com -> ").wait_for()
        assert dialog.locator("a[href*='example.com']").count() == 0
        with visitor.page.expect_download() as download:
            dialog.get_by_role("button", name="Download").click()
        assert download.value.suggested_filename == "poly.gif"
        assert Path(download.value.path()).read_bytes().endswith(SCRIPT)
        answer = visitor.page.request.get(download.value.url)
        assert answer.headers["content-type"] == "image/gif"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-disposition"].startswith("attachment")
