"""The command line `sentinel`; each command has its own module."""

from __future__ import annotations

from typing import Any

import click

from sentinel_client import SentinelError
from sentinel_client._config import ADDRESS_VARIABLE, DEFAULT_ADDRESS
from sentinel_client.cli._console import Failure, Options, explain
from sentinel_client.cli.collections import collections
from sentinel_client.cli.health import health
from sentinel_client.cli.imports import bulk_index, imports, index
from sentinel_client.cli.items import items
from sentinel_client.cli.search import search
from sentinel_client.cli.up import up


class _Commands(click.Group):
    """A group whose commands print one readable line instead of a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SentinelError as error:
            raise Failure(explain(error)) from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--address",
    envvar=ADDRESS_VARIABLE,
    default=DEFAULT_ADDRESS,
    show_default=True,
    show_envvar=True,
    metavar="HOST:PORT",
    help="Address of the gateway.",
)
@click.version_option(package_name="sentinel-retrieval", prog_name="sentinel")
@click.pass_context
def main(context: click.Context, address: str) -> None:
    """Search images by text, by image, or both.

    \b
    sentinel up                            start everything on this machine
    sentinel index ~/Pictures              make your pictures searchable
    sentinel search "a dog on the beach"   find them
    """  # noqa: D301 - click needs a real backspace to keep these lines as they are
    context.obj = Options(address)


for _command in (up, index, imports, bulk_index, search, items, collections, health):
    main.add_command(_command)
