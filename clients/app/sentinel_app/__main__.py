"""`sentinel-app`: start the search page."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

_PAGE = Path(__file__).with_name("page.py")
_INSTALL = "the app is not installed: run pip install '.[app]' in Sentinel's folder"
# Streamlit's settings, so that the app needs no configuration file.
_STREAMLIT = {
    "browser.gatherUsageStats": "false",
    "client.showErrorDetails": "none",
    "client.toolbarMode": "minimal",
    "server.fileWatcherType": "none",
    "server.headless": "true",
    "server.maxUploadSize": "192",  # as uploads.MAX_UPLOAD_BYTES
    "theme.base": "light",
    "theme.primaryColor": "#5b5bd6",
    "theme.baseRadius": "0.6rem",
    "theme.showWidgetBorder": "true",
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
def main(gateway: str | None, host: str, port: int) -> None:
    """Serve the search page of a Sentinel gateway."""
    try:
        from streamlit.web import cli  # noqa: PLC0415 - only with the extra

        from sentinel_app import uploads  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise click.ClickException(_INSTALL) from error
    if gateway:
        os.environ["SENTINEL_ADDRESS"] = gateway
    click.echo(f"Search page: http://{host}:{port}")
    settings = {**_STREAMLIT, "server.address": host, "server.port": str(port)}
    flags = [f"--{name}={value}" for name, value in settings.items()]
    uploads.install()
    sys.argv = ["streamlit", "run", str(_PAGE), *flags]
    cli.main()


if __name__ == "__main__":
    main()
