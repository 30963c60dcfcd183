"""`sentinel items`: look at what a collection holds, take a picture out, delete."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path

import click
from rich import box
from rich.table import Table
from rich.text import Text

from sentinel_client._client import AsyncSentinelClient
from sentinel_client._filters import Filter
from sentinel_client._types import Item
from sentinel_client.cli import _shown
from sentinel_client.cli._console import Failure, Options, out, run, short_path
from sentinel_client.cli._where import where

_PAGE_ITEMS = 200
_ID_CHARS = 12
# Names of files for the media types that a store can hold.
_ENDINGS = {
    "image/jpeg": ".jpg",
    "image/png": ".png",
    "image/webp": ".webp",
    "image/gif": ".gif",
    "image/bmp": ".bmp",
    "image/tiff": ".tif",
}

_collection = click.option(
    "--collection", "-c", default="photos", show_default=True, help="Of which collection."
)
_where = click.option(
    "--where",
    "conditions",
    multiple=True,
    metavar="'FIELD OP VALUE'",
    help="Only items whose field fits, as in `sentinel search`. Repeatable.",
)
_json = click.option("--json", "as_json", is_flag=True, help="One JSON object per item.")


@click.group()
def items() -> None:
    """List, read, download or delete the items of a collection."""


@items.command("list")
@_collection
@_where
@click.option(
    "--limit", "-n", type=click.IntRange(1), help="Most items.  [default: 100; with --json all]"
)
@_json
@click.pass_obj
def list_items(
    options: Options,
    collection: str,
    conditions: tuple[str, ...],
    limit: int | None,
    as_json: bool,
) -> None:
    """List the items by id."""
    most = limit if limit is not None or as_json else 100
    run(_list(options, collection, conditions, most, as_json))


@items.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@_collection
@_json
@click.pass_obj
def get(options: Options, ids: tuple[str, ...], collection: str, as_json: bool) -> None:
    """Read items by id; the short id of a hit shown before will do. Exit code 1: not all there."""
    raise SystemExit(run(_get(options, collection, _full(ids), as_json)))


@items.command()
@click.argument("ids", nargs=-1, metavar="[ID...]")
@_collection
@_where
@click.option("--dry-run", is_flag=True, help="Only say how many it would be.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def delete(
    options: Options,
    *,
    ids: tuple[str, ...],
    collection: str,
    conditions: tuple[str, ...],
    dry_run: bool,
    yes: bool,
) -> None:
    """Remove items for good: those with an ID, or those that fit --where."""
    if bool(ids) == bool(conditions):
        raise click.UsageError("say what to delete: ids or --where, not both")
    found = run(_delete(options, collection, _full(ids), conditions, dry_run=True))
    if dry_run:
        click.echo(f"Would delete {found:,} items of {collection}.")
        return
    if not yes:
        click.confirm(f"Delete {found:,} items of {collection}?", abort=True)
    deleted = run(_delete(options, collection, _full(ids), conditions, dry_run=False))
    click.echo(f"Deleted {deleted:,} items of {collection}.")


@items.command()
@click.argument("item_id", metavar="ID")
@_collection
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    help="File or folder; - is standard output.  [default: ID and its ending, here]",
)
@click.pass_obj
def download(options: Options, item_id: str, collection: str, output: Path | None) -> None:
    """Write the stored picture of an item to a file."""
    run(_download(options, collection, _shown.full_id(item_id), output))


def _full(ids: Sequence[str]) -> list[str]:
    return [_shown.full_id(one) for one in ids]


async def _filter(
    client: AsyncSentinelClient, collection: str, conditions: Sequence[str]
) -> Filter | None:
    if not conditions:
        return None
    return where(conditions, await client.get_collection(collection))


async def _list(
    options: Options,
    collection: str,
    conditions: Sequence[str],
    limit: int | None,
    as_json: bool,
) -> None:
    shown: list[Item] = []
    async with options.open_client() as client:
        found = client.list_items(
            collection=collection,
            filter=await _filter(client, collection, conditions),
            page_size=min(limit or _PAGE_ITEMS, _PAGE_ITEMS),
        )
        async with aclosing(found):
            number = 0
            async for item in found:
                if as_json:
                    click.echo(_json_line(item))
                else:
                    shown.append(item)
                number += 1
                if number == limit:
                    break
    if not as_json:
        _show(shown)


async def _get(options: Options, collection: str, ids: Sequence[str], as_json: bool) -> int:
    async with options.open_client() as client:
        found = await client.get_items(ids, collection=collection)
    if as_json:
        for item in found:
            click.echo(_json_line(item))
    else:
        _show(list(found))
    for missing in found.missing_ids:
        click.secho(f"no item {missing!r} in {collection}", fg="red", err=True)
    return 1 if found.missing_ids else 0


async def _delete(
    options: Options,
    collection: str,
    ids: Sequence[str],
    conditions: Sequence[str],
    *,
    dry_run: bool,
) -> int:
    async with options.open_client() as client:
        chosen = await _filter(client, collection, conditions)
        return await client.delete_items(
            None if chosen is not None else ids,
            collection=collection,
            filter=chosen,
            dry_run=dry_run,
        )


async def _download(options: Options, collection: str, item_id: str, output: Path | None) -> None:
    async with options.open_client() as client:
        image = await client.download_image(item_id, collection=collection)
    if output is not None and str(output) == "-":
        click.echo(image.data, nl=False)
        return
    # An id may be any text; as the name of a file it must not lead elsewhere.
    name = item_id.replace("/", "_").lstrip(".") or "picture"
    ending = _ENDINGS.get(image.media_type, "")
    if output is None or await asyncio.to_thread(output.is_dir):
        name = name if Path(name).suffix.lower() == ending else f"{name}{ending}"
        output = (output or Path()) / name
    try:
        await asyncio.to_thread(output.write_bytes, image.data)
    except OSError as error:
        raise Failure(f"cannot write {output}: {error.strerror}") from error
    click.echo(output)


def _show(found: Sequence[Item]) -> None:
    if not found:
        click.echo("No items.")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("id", style="bold", no_wrap=True)
    table.add_column("item", overflow="ellipsis", no_wrap=True)
    table.add_column("fields", style="dim", overflow="fold")
    for item in found:
        path = item.fields.get("path")
        what = short_path(path) if isinstance(path, str) else item.text or item.image_uri
        rest = [f"{name}={value}" for name, value in item.fields.items() if name != "path"]
        table.add_row(
            Text(item.id[:_ID_CHARS]), Text(" ".join(what.split())), Text(", ".join(rest))
        )
    out().print(table)
    _shown.remember([item.id for item in found])


def _json_line(item: Item) -> str:
    line = {
        "id": item.id,
        "text": item.text,
        "image_uri": item.image_uri or None,
        "fields": dict(item.fields),
    }
    return json.dumps(line, ensure_ascii=False)
