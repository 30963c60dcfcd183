"""`sentinel-app`: start the page."""

from __future__ import annotations

import os

import click

from sentinel_client import Scope

_INSTALL = "the app is not installed: run pip install '.[app]' in Sentinel's folder"


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
@click.option(
    "--read-only",
    is_flag=True,
    help="Offer no adding and no deleting, whatever the key of the page allows.",
)
@click.option(
    "--streamlit",
    is_flag=True,
    help="Serve the original page, on Streamlit. There, visitors can sign in with keys of their "
    "own or at an identity provider.",
)
def main(
    *,
    gateway: str | None,
    host: str,
    port: int,
    names: tuple[str, ...],
    limits: tuple[tuple[str, int, int], ...],
    read_only: bool,
    streamlit: bool,
) -> None:
    """Serve the photo page of a Sentinel gateway.

    If the gateway asks for a key, the page serves all visitors with the one in SENTINEL_API_KEY or
    SENTINEL_API_KEY_FILE.
    """
    if streamlit and read_only:
        raise click.UsageError("--read-only is not for --streamlit: give its visitors other keys")
    try:
        from sentinel_app import uploads  # noqa: PLC0415 - only with the extra

        if streamlit:
            from sentinel_app.streamlit_page import serve as original  # noqa: PLC0415
        else:
            from sentinel_app import serve as page  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise click.ClickException(_INSTALL) from error
    if gateway:
        os.environ["SENTINEL_ADDRESS"] = gateway
    for scope, megabytes, files in limits:
        uploads.limits[Scope(scope)] = uploads.UploadLimit(megabytes * uploads.MIB, files)
    if streamlit:
        original.serve(host, port, names)
    else:
        page.serve(host, port, names, read_only=read_only)


if __name__ == "__main__":
    main()
