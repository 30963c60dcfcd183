"""Run `sentinel-app --streamlit` with longer limits, as `python -m`; flags as of the app.

On a busy machine a search can take longer than a person would wait, and a browser can pause for
longer than the page waits before it ends the search. `ABANDONED_AFTER_S` sets that wait.

Two variables make the page behave as on a machine that is busy at the worst moment. While the file
`HOLD_MESSAGES` exists, nothing is sent to a browser. `LATE_EVENTS_S` is for how long everything
that a script draws stays with the thread of the script.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from streamlit.runtime.app_session import AppSession

from sentinel_app import __main__
from sentinel_app.streamlit_page import backend, search_job
from sentinel_client import Timeouts

LIMIT_S = 200.0
_LOOK_S = 0.05


def _hold_messages(file: Path) -> None:
    flush = AppSession.flush_browser_queue

    def held(session: AppSession) -> list[Any]:
        if not file.exists():
            return flush(session)
        session._event_loop.call_later(_LOOK_S, session._message_enqueued_callback)
        return []

    AppSession.flush_browser_queue = held  # type: ignore[method-assign]


def _delay_events(seconds: float) -> None:
    soon = AppSession._call_soon_on_event_loop

    def late(session: AppSession, callback: Callable[[], None]) -> None:
        soon(session, lambda: session._event_loop.call_later(seconds, callback) and None)

    AppSession._call_soon_on_event_loop = late  # type: ignore[method-assign]


if __name__ == "__main__":
    timeouts = Timeouts(search=LIMIT_S, read=LIMIT_S, health=3.0)
    backend._CONFIG = replace(backend._CONFIG, timeouts=timeouts)
    search_job._ABANDONED_AFTER_S = float(os.environ.get("ABANDONED_AFTER_S", LIMIT_S))
    if hold := os.environ.get("HOLD_MESSAGES"):
        _hold_messages(Path(hold))
    if late := os.environ.get("LATE_EVENTS_S"):
        _delay_events(float(late))
    __main__.main(["--streamlit", *sys.argv[1:]])
