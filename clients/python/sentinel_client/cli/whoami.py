"""`sentinel whoami`: what your key or token allows."""

from __future__ import annotations

import click
from rich.text import Text

from sentinel_client import Caller, Grant, Scope, SentinelClient
from sentinel_client.cli._console import Options, json_line, new_table, out
from sentinel_client.cli._options import json_option


@click.command()
@json_option("caller")
@click.pass_obj
def whoami(options: Options, as_json: bool) -> None:
    """Show who you are to the gateway, and what you may do there."""
    with options.open(SentinelClient) as client:
        caller = client.get_caller()
    if as_json:
        click.echo(json_line(_as_dict(caller)))
        return
    if not caller.access_controlled:
        click.echo(f"{options.address} has no access control: everybody may do everything.")
        return
    tenant = f" of tenant {caller.tenant}" if caller.tenant else ""
    click.echo(f"You are {caller.id}{tenant}.")
    table = new_table()
    table.add_column("scope")
    table.add_column("collections")
    for scope in Scope:
        names = [_shown(grant) for grant in caller.grants if grant.scope is scope]
        if names:
            table.add_row(scope.value, Text(", ".join(names)))
    if table.row_count:
        out().print(table)
    else:
        click.echo("You may do nothing. Ask the operator for a scope.")


def _shown(grant: Grant) -> str:
    if not grant.is_prefix:
        return grant.collection
    return f"{grant.collection}*" if grant.collection else "all"


def _as_dict(caller: Caller) -> dict[str, object]:
    return {
        "id": caller.id,
        "tenant": caller.tenant,
        "access_controlled": caller.access_controlled,
        "grants": [
            {
                "scope": grant.scope.value,
                "collection": grant.collection,
                "is_prefix": grant.is_prefix,
            }
            for grant in caller.grants
        ],
    }
