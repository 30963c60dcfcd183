"""Parts of the page that draw themselves again, when their timers come late."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sentinel_client import SentinelClient
from tests import photos, processes
from tests.app import album
from tests.app.streamlit_page.conftest import Visitor, serving, visiting
from tests.waiting import until

pytestmark = pytest.mark.timeout(300)
PATIENCE_S = 90.0
# Longer than the browser waits between two requests of a timer.
LATE = {"LATE_EVENTS_S": "0.5"}


def requests_sent(visitor: Visitor) -> list[object]:
    """Return a list that gets each message that the page sends from now on."""
    sent: list[object] = []

    # Playwright takes functions of Python only.
    def note(message: object) -> None:
        sent.append(message)

    visitor.page.on("websocket", lambda socket: socket.on("framesent", note))
    return sent


@pytest.mark.parametrize(
    "late", [pytest.param({}, id="unsent"), pytest.param(LATE, id="late", marks=pytest.mark.slow)]
)
def test_the_uploader_outlives_an_import(
    browser: Any, tmp_path: Path, late: dict[str, str]
) -> None:
    work, messages = tmp_path / "work", tmp_path / "messages"
    work.touch()
    folder = tmp_path / "worker"
    worker = processes.start(folder, "tests.fakes.worker", environment={"FAKE_HOLD": str(work)})
    flags = processes.gateway_flags(tmp_path, str(tmp_path / "milvus.db"), worker.address)
    try:
        with (
            processes.running(tmp_path, "search_server", *flags) as gateway,
            serving(gateway.address, tmp_path, HOLD_MESSAGES=str(messages), **late) as url,
            SentinelClient(gateway.address) as client,
            visiting(browser) as visitor,
        ):
            client.create_collection("album", album.FIELDS)
            sent = requests_sent(visitor)
            visitor.open(url)
            visitor.page.get_by_role("tab", name="Add").click()
            visitor.upload(photos.photo("chelsea"))
            visitor.page.get_by_role("button", name="Store 1 file").click()
            visitor.page.get_by_role("button", name="Stop").wait_for()  # its timer runs
            if not late:
                messages.touch()
            work.unlink()
            if not late:
                # The browser does not hear of the end, and its timer goes on.
                until(lambda: client.get_collection("album").item_count == 1, PATIENCE_S)
                enough = len(sent) + 6
                until(lambda: visitor.page.wait_for_timeout(1) or len(sent) > enough, PATIENCE_S)
                messages.unlink()
            visitor.page.get_by_text("1 stored · 0 unchanged · 0 failed").wait_for()
            visitor.upload(photos.photo("chelsea"))
            visitor.page.get_by_role("button", name="Store 1 file").wait_for()
    finally:
        worker.kill()
