"""`sentinel collections`: what is there, and removing it."""

from __future__ import annotations

import json

import click
from rich import box
from rich.table import Table
from rich.text import Text

from sentinel_client._types import Collection
from sentinel_client.cli._console import Options, out, run


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per collection.")
@click.pass_context
def collections(context: click.Context, as_json: bool) -> None:
    """List the collections, or delete one."""
    if context.invoked_subcommand is None:
        found = run(_list(context.obj))
        if as_json:
            for collection in found:
                click.echo(json.dumps(_as_dict(collection), ensure_ascii=False))
        elif found:
            out().print(_table(found))
        else:
            click.echo("No collections yet. `sentinel index FOLDER` makes one.")


@collections.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def delete(options: Options, name: str, yes: bool) -> None:
    """Remove the collection NAME and its items for good."""
    count = run(_count(options, name))
    if not yes:
        click.confirm(f"Delete the collection {name} with its {count:,} items?", abort=True)
    run(_delete(options, name))
    click.echo(f"Deleted {name} ({count:,} items).")


async def _list(options: Options) -> list[Collection]:
    async with options.open_client() as client:
        return await client.list_collections()


async def _count(options: Options, name: str) -> int:
    async with options.open_client() as client:
        return (await client.get_collection(name)).item_count


async def _delete(options: Options, name: str) -> None:
    async with options.open_client() as client:
        await client.delete_collection(name)


def _table(found: list[Collection]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("collection", style="bold")
    table.add_column("items", justify="right")
    table.add_column("model", style="cyan")
    table.add_column("dimensions", justify="right")
    table.add_column("fields", style="dim", overflow="fold")
    for collection in found:
        table.add_row(
            Text(collection.name),
            f"{collection.item_count:,}",
            Text(collection.model.model),
            str(collection.dimensions),
            Text(", ".join(schema.name for schema in collection.fields)),
        )
    return table


def _as_dict(collection: Collection) -> dict[str, object]:
    return {
        "name": collection.name,
        "item_count": collection.item_count,
        "model": collection.model.model,
        "revision": collection.model.revision,
        "fingerprint": collection.model.fingerprint,
        "dimensions": collection.dimensions,
        "fields": {schema.name: schema.type.value for schema in collection.fields},
    }
