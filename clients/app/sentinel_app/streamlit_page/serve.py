"""Serve the original page with Streamlit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from starlette.middleware import Middleware
from streamlit.starlette import App

from sentinel_app import uploads
from sentinel_app.guard import STREAMLIT_POLICY, Guard
from sentinel_app.streamlit_page.upload_space import UploadSpace

_PAGE = Path(__file__).with_name("page.py")
# Streamlit's settings, so that the app needs no configuration file.
_SETTINGS = {
    "browser.gatherUsageStats": False,
    "client.showErrorDetails": "none",
    "client.toolbarMode": "minimal",
    "server.fileWatcherType": "none",
    "server.headless": True,
    "theme.base": "light",
    "theme.primaryColor": "#5b5bd6",
    "theme.baseRadius": "0.6rem",
    "theme.showWidgetBorder": True,
    "theme.light.backgroundColor": "#fbfbfd",
    "theme.light.secondaryBackgroundColor": "#f1f1f6",
    "theme.dark.backgroundColor": "#121218",
    "theme.dark.secondaryBackgroundColor": "#1d1d27",
}


def serve(host: str, port: int, names: Sequence[str]) -> None:
    """Serve the page until the process ends; `names` are those of the page."""
    guard = Middleware(Guard, names=(*names, host), policy=STREAMLIT_POLICY)
    app = App(_PAGE, middleware=[guard, Middleware(UploadSpace)])
    # Otherwise Streamlit asks a host on the internet for this machine's address, and prints it.
    shown = "localhost" if host in ("0.0.0.0", "::") else host
    address = {"server.address": host, "server.port": port, "browser.serverAddress": shown}
    largest = max(limit.bytes for limit in uploads.limits.values())
    size = {"server.maxUploadSize": largest // uploads.MIB}
    app.run(config={**_SETTINGS, **address, **size})
