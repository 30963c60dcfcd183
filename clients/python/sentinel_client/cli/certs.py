"""`sentinel certs`: a private CA and certificates for trials. In production, use cert-manager."""

from __future__ import annotations

from pathlib import Path

import click

from sentinel_client.cli._console import Failure, require_modules

_LOCAL = ("localhost", "127.0.0.1", "::1")


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--name",
    "names",
    multiple=True,
    metavar="HOST",
    help="A name or address of the servers besides this machine's own. Repeatable.",
)
@click.option("--days", default=365, show_default=True, type=click.IntRange(1, 3650))
def certs(folder: Path, names: tuple[str, ...], days: int) -> None:
    """Create a CA in FOLDER, and certificates for servers and for clients.

    Run it again to replace the certificates; the CA stays, so that everybody still trusts them.
    """
    require_modules(
        ["cryptography"],
        "certificates need a library that is",
        "pip install 'sentinel-retrieval-client[certs]'",
    )
    from sentinel_client.cli import _certificates  # noqa: PLC0415 - only with the extra

    try:
        folder.mkdir(parents=True, exist_ok=True)
        ca = _certificates.existing_ca(folder) or _certificates.new_ca(folder)
        _certificates.issue(folder, "server", ca, (*names, *_LOCAL), days)
        _certificates.issue(folder, "client", ca, ("sentinel-client",), days)
    except OSError as error:
        raise Failure(f"cannot write {folder}: {error.strerror}") from error
    click.echo(
        f"servers:  --tls-cert {folder / 'server.pem'} --tls-key {folder / 'server-key.pem'}\n"
        f"clients:  --tls-ca {folder / 'ca.pem'}\n"
        f"          --tls-cert {folder / 'client.pem'} --tls-key {folder / 'client-key.pem'}, for "
        "servers with --tls-client-ca"
    )
