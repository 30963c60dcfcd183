"""`sentinel-app`: start the search page."""

from __future__ import annotations

import os
from pathlib import Path

import click

from sentinel_client import Scope

_PAGE = Path(__file__).with_name("page.py")
_INSTALL = "the app is not installed: run pip install '.[app]' in Sentinel's folder"
# Streamlit's settings, so that the app needs no configuration file.
_STREAMLIT = {
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


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--gateway",
    metavar="HOST:PORT",
    help="Default: SENTINEL_ADDRESS, or else port 50050 of this machine.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8501, show_default=True, type=click.IntRange(1, 65535))
@click.option(
    "--allowed-host",
    "names",
    metavar="NAME",
    multiple=True,
    help="A name under which browsers may open the page, for example photos.example.com. Needs no "
    "naming: IP addresses and names without a dot. May be repeated.",
)
@click.option(
    "--upload-limit",
    "limits",
    metavar="SCOPE MB FILES",
    type=(
        click.Choice([scope.value for scope in (Scope.SEARCH, Scope.WRITE, Scope.ADMIN)]),
        click.IntRange(1),
        click.IntRange(1),
    ),
    multiple=True,
    help="The most that a visitor with this scope can upload at once. Images to search with count, "
    "too. May be repeated.  [default: search 48 4, write 192 2000, admin 192 4000]",
)
def main(
    gateway: str | None,
    host: str,
    port: int,
    names: tuple[str, ...],
    limits: tuple[tuple[str, int, int], ...],
) -> None:
    """Serve the search page of a Sentinel gateway.

    If the gateway asks for a key, the page serves all visitors with the one in SENTINEL_API_KEY or
    SENTINEL_API_KEY_FILE. Without one, visitors sign in with their own.
    """
    try:
        from starlette.middleware import Middleware  # noqa: PLC0415 - only with the extra
        from streamlit.starlette import App  # noqa: PLC0415

        from sentinel_app import uploads  # noqa: PLC0415
        from sentinel_app.guard import Guard  # noqa: PLC0415
        from sentinel_app.upload_space import UploadSpace  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise click.ClickException(_INSTALL) from error
    if gateway:
        os.environ["SENTINEL_ADDRESS"] = gateway
    for scope, megabytes, files in limits:
        uploads.limits[Scope(scope)] = uploads.UploadLimit(megabytes * uploads.MIB, files)
    guard = Middleware(Guard, names=(*names, host))
    app = App(_PAGE, middleware=[guard, Middleware(UploadSpace)])
    # Otherwise Streamlit asks a host on the internet for this machine's address, and prints it.
    shown = "localhost" if host in ("0.0.0.0", "::") else host
    address = {"server.address": host, "server.port": port, "browser.serverAddress": shown}
    largest = max(limit.bytes for limit in uploads.limits.values())
    size = {"server.maxUploadSize": largest // uploads.MIB}
    app.run(config={**_STREAMLIT, **address, **size})


if __name__ == "__main__":
    main()
