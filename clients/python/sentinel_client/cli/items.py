"""`sentinel items`: list, read, download and delete the items of a collection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing
from pathlib import Path

import click
from rich.text import Text

from sentinel_client import (
    AsyncSentinelClient,
    FieldValue,
    GeoPoint,
    Item,
    NotFound,
    SentinelClient,
)
from sentinel_client.cli import _filters, _options
from sentinel_client.cli._commands import tell_error
from sentinel_client.cli._console import (
    SHORT_ID_CHARS,
    Failure,
    Options,
    json_line,
    new_table,
    out,
    short_path,
    tell,
)
from sentinel_client.cli._files import echo_paths, file_name, path_of

_PAGE_ITEMS = 200
_TABLE_ITEMS = 100
# A list with fields in a narrow window would need a dozen lines for each item.
_WIDTH_WITH_FIELDS, _WIDTH_OF_LIST_WITH_FIELDS = 60, 110

_collection = _options.collection_option("The collection of the items.")
_where = _options.where_option(
    "Only items whose field matches, as in `sentinel search`. Repeatable."
)
_json = _options.json_option("item")


@click.group()
def items() -> None:
    """List, read, download or delete the items of a collection."""


@items.command("list")
@_collection
@_where
@click.option(
    "--limit",
    "-n",
    type=click.IntRange(1),
    help="Most items.  [default: 100; with --json, --paths or -0 all]",
)
@_json
@_options.paths_options
@click.pass_obj
def list_items(
    options: Options,
    *,
    collection: str,
    conditions: tuple[str, ...],
    limit: int | None,
    as_json: bool,
    paths: bool,
    nul: bool,
) -> None:
    """List the items by id."""
    if as_json and (paths or nul):
        raise click.UsageError("--json excludes --paths and -0")
    streamed = as_json or paths or nul
    if limit is None and not streamed:
        limit = _TABLE_ITEMS
    shown: list[Item] = []

    def show(item: Item) -> None:
        if as_json:
            click.echo(_json_line(item))
        elif streamed:
            echo_paths([path_of(item.fields, item.image_uri)], nul=nul)
        else:
            shown.append(item)

    asyncio.run(_list(options, collection, conditions, limit, show))
    if not streamed:
        _print_table(shown, with_fields=out().width >= _WIDTH_OF_LIST_WITH_FIELDS)


async def _list(
    options: Options,
    collection: str,
    conditions: Sequence[str],
    limit: int | None,
    show: Callable[[Item], None],
) -> None:
    # Asynchronous: the synchronous client needs another 0.1 ms for each item of a stream.
    async with options.open(AsyncSentinelClient) as client:
        condition = None
        if conditions:
            condition = _filters.parse_filter(conditions, await client.get_collection(collection))
        found = client.list_items(
            collection=collection,
            filter=condition,
            page_size=min(limit or _PAGE_ITEMS, _PAGE_ITEMS),
        )
        async with aclosing(found):
            number = 0
            async for item in found:
                show(item)
                number += 1
                if number == limit:
                    break


@items.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID...", type=_options.full_id)
@_collection
@_json
@_options.paths_options
@click.pass_obj
def get(
    options: Options,
    *,
    ids: tuple[str, ...],
    collection: str,
    as_json: bool,
    paths: bool,
    nul: bool,
) -> None:
    """Read items by id; short ids of earlier results work. Exit code 1 if one does not exist."""
    with options.open(SentinelClient) as client:
        found = client.get_items(ids, collection=collection)
    if as_json:
        for item in found:
            click.echo(_json_line(item))
    elif paths or nul:
        echo_paths((path_of(item.fields, item.image_uri) for item in found), nul=nul)
    else:
        _print_table(list(found), with_fields=out().width >= _WIDTH_WITH_FIELDS)
    for missing in found.missing_ids:
        tell_error(missing, NotFound("ITEM_NOT_FOUND", f"no such item in {collection}"))
    raise SystemExit(1 if found.missing_ids else 0)


@items.command()
@click.argument("ids", nargs=-1, metavar="[ID...]", type=_options.full_id)
@_collection
@_where
@click.option("--dry-run", is_flag=True, help="Only print how many items would be deleted.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_options.outcome_options
@click.pass_obj
def delete(
    options: Options,
    *,
    ids: tuple[str, ...],
    collection: str,
    conditions: tuple[str, ...],
    dry_run: bool,
    yes: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Delete items permanently: those with an ID, or those that match --where."""
    if bool(ids) == bool(conditions):
        raise click.UsageError("say what to delete: ids or --where, not both")
    with options.open(SentinelClient) as client:
        condition, token = None, ""
        if conditions:
            condition = _filters.parse_filter(conditions, client.get_collection(collection))
            found = client.preview_deletion(collection, filter=condition)
            count, token = found.count, found.confirmation_token
        else:
            count = client.delete_items(ids, collection=collection, dry_run=True)
        if dry_run:
            facts = {"collection": collection, "would_delete": count}
            text = f"Would delete {count:,} items of {collection}."
            tell(text, facts, as_json=as_json)
            return
        if not yes:
            click.confirm(f"Delete {count:,} items of {collection}?", abort=True, err=True)
        deleted = client.delete_items(
            ids or None, collection=collection, filter=condition, confirmation_token=token
        )
    facts = {"collection": collection, "deleted": deleted}
    tell(f"Deleted {deleted:,} items of {collection}.", facts, as_json=as_json, quiet=quiet)


@items.command()
@click.argument("item_id", metavar="ID", type=_options.full_id)
@_collection
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    help="File or folder; - is standard output.  [default: the ID and its ending, here]",
)
@_options.outcome_options
@click.pass_obj
def download(
    options: Options,
    *,
    item_id: str,
    collection: str,
    output: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Write the stored image of an item to a file."""
    if as_json and str(output) == "-":
        raise click.UsageError("-o - writes the image where --json would write")
    with options.open(SentinelClient) as client:
        image = client.download_image(item_id, collection=collection)
    if output is not None and str(output) == "-":
        click.echo(image.data, nl=False)
        return
    if output is None or output.is_dir():
        output = (output or Path()) / file_name(item_id, image)
    try:
        output.write_bytes(image.data)
    except OSError as error:
        raise Failure(f"cannot write {output}: {error.strerror}") from error
    facts = {"id": item_id, "file": str(output), "bytes": len(image.data)}
    tell(str(output), facts, as_json=as_json, quiet=quiet)


def _print_table(found: Sequence[Item], *, with_fields: bool) -> None:
    if not found:
        click.echo("No items.")
        return
    table = new_table()
    table.add_column("id", style="bold", no_wrap=True)
    table.add_column("item", overflow="ellipsis", no_wrap=True)
    if with_fields:
        table.add_column("fields", style="dim", overflow="fold")
    for item in found:
        path = item.fields.get("path")
        if isinstance(path, str) and path:
            title, shown = short_path(path), {"path", "file_name", "folder"}
        else:
            title, shown = " ".join((item.text or item.image_uri).split()), {"path"}
        rest = [f"{k}={_plain(value)}" for k, value in item.fields.items() if k not in shown]
        more = [Text(", ".join(rest))] if with_fields else []
        table.add_row(Text(item.id[:SHORT_ID_CHARS]), Text(title), *more)
    out().print(table)
    _options.remember_ids([item.id for item in found])


def _plain(value: FieldValue) -> object:
    """Return a place as `--where` takes it, a list without brackets, and the others as they are."""
    if isinstance(value, GeoPoint):
        return f"{value.latitude:.5f},{value.longitude:.5f}"
    return ", ".join(value) if isinstance(value, tuple | list) else value


def _json_line(item: Item) -> str:
    line = {
        "id": item.id,
        "text": item.text,
        "image_uri": item.image_uri or None,
        "fields": dict(item.fields),
    }
    return json_line(line)
