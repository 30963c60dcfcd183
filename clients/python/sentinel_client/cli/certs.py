"""`sentinel certs`: a private CA and certificates for trials. In production, use cert-manager."""

from __future__ import annotations

from pathlib import Path

import click

from sentinel_client.cli._console import Failure, require_modules, tell
from sentinel_client.cli._options import outcome_options

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
@outcome_options
def certs(folder: Path, names: tuple[str, ...], days: int, as_json: bool, quiet: bool) -> None:
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
    files = {
        name: str(folder / f"{name.replace('_', '-')}.pem")
        for name in ("ca", "server", "server_key", "client", "client_key")
    }
    tell(
        f"servers:  --tls-cert {files['server']} --tls-key {files['server_key']}\n"
        f"clients:  --tls-ca {files['ca']}\n"
        f"          --tls-cert {files['client']} --tls-key {files['client_key']}, for servers with "
        "--tls-client-ca",
        files,
        as_json=as_json,
        quiet=quiet,
    )
