"""The command line `sentinel`; each command has its own module."""

from __future__ import annotations

import os

import click

from sentinel_client import Tls
from sentinel_client._config import ADDRESS_VARIABLE, DEFAULT_ADDRESS
from sentinel_client.cli._commands import SentinelGroup
from sentinel_client.cli._console import Options
from sentinel_client.cli.add_fields import add_fields
from sentinel_client.cli.backup import backup
from sentinel_client.cli.certs import certs
from sentinel_client.cli.collections import collections
from sentinel_client.cli.completion import completion
from sentinel_client.cli.embed import embed, rank
from sentinel_client.cli.health import health
from sentinel_client.cli.imports import bulk_index, imports
from sentinel_client.cli.index import index
from sentinel_client.cli.items import items
from sentinel_client.cli.keys import keys
from sentinel_client.cli.migrate import migrate
from sentinel_client.cli.models import models
from sentinel_client.cli.open import open_items
from sentinel_client.cli.restore import restore
from sentinel_client.cli.search import search
from sentinel_client.cli.status import status
from sentinel_client.cli.up import up
from sentinel_client.cli.use import use
from sentinel_client.cli.whoami import whoami

# By what they are for, in the order of the help: first what a newcomer needs.
_SECTIONS = {
    "Start": (up, index, search, open_items, status),
    "Collections and items": (collections, items, imports, bulk_index),
    "Keep and move": (backup, restore, migrate),
    "Models": (models, embed, rank),
    "Servers and access": (health, whoami, keys, certs),
    "Your shell": (completion,),
}


@click.group(
    cls=SentinelGroup,
    sections=_SECTIONS,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option(
    "--address",
    envvar=ADDRESS_VARIABLE,
    default=DEFAULT_ADDRESS,
    show_default=True,
    show_envvar=True,
    metavar="HOST:PORT",
    help="Address of the gateway.",
)
@click.option(
    "--tls-ca",
    envvar="SENTINEL_TLS_CA",
    show_envvar=True,
    type=click.Path(dir_okay=False),
    help="PEM file with the CA of the gateway's certificate; connect with TLS. With SENTINEL_TLS=1 "
    "instead, the system's CAs count.",
)
@click.option(
    "--tls-cert",
    envvar="SENTINEL_TLS_CERT",
    show_envvar=True,
    type=click.Path(dir_okay=False),
    help="PEM file with your own certificate, if the gateway asks for one.",
)
@click.option(
    "--tls-key",
    envvar="SENTINEL_TLS_KEY",
    show_envvar=True,
    type=click.Path(dir_okay=False),
    help="PEM file with the key of your certificate.",
)
@click.version_option(package_name="sentinel-retrieval-client", prog_name="sentinel")
@click.pass_context
def main(
    context: click.Context,
    address: str,
    tls_ca: str | None,
    tls_cert: str | None,
    tls_key: str | None,
) -> None:
    """Search images by text, by image, or both.

    \b
    sentinel up                            start everything on this machine
    sentinel index ~/Pictures              make your pictures searchable
    sentinel search "a dog on the beach"   find them

    A gateway that asks for an API key gets that of SENTINEL_API_KEY or SENTINEL_API_KEY_FILE.
    """  # noqa: D301 - click needs a real backspace to keep these lines as they are
    name = os.environ.get("SENTINEL_TLS_SERVER_NAME", "")
    try:
        tls = Tls.from_environment()
        if tls_ca or tls_cert or tls_key:
            tls = Tls(ca=tls_ca, cert=tls_cert, key=tls_key, server_name=name)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    context.obj = Options(address, tls)


models.add_command(use)
collections.add_command(add_fields)
