"""`sentinel collections`: what is there, making, renaming, re-embedding, and removing it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import aclosing

import click
from rich import box
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from sentinel_client._types import (
    Collection,
    CollectionOptions,
    Consistency,
    FieldSchema,
    FieldType,
    IndexType,
    ModelVersion,
    ReindexProgress,
    VectorIndex,
)
from sentinel_client.cli._console import Options, err, out, run
from sentinel_client.cli._search_options import IndexParam

# A gateway may be replaced meanwhile: about half a minute.
_REINDEX_ATTEMPTS = 12


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per collection.")
@click.pass_context
def collections(context: click.Context, as_json: bool) -> None:
    """List the collections; make, alias, reindex or delete one."""
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
@click.option(
    "--field",
    "fields",
    multiple=True,
    metavar="NAME:TYPE[:indexed]",
    help="A field of the items; TYPE is string, int64, double, bool or string_list; indexed: for "
    "faster filters. Repeatable.",
)
@click.option(
    "--full-text",
    multiple=True,
    metavar="NAME",
    help="A field of strings that `search --hybrid` searches. Repeatable.",
)
@click.option(
    "--index",
    "index_type",
    type=click.Choice([kind.value for kind in IndexType]),
    help="How vectors are searched.  [default: chosen from --expect]",
)
@click.option(
    "--index-param",
    "index_params",
    multiple=True,
    type=IndexParam(),
    help="A parameter of the index, such as M=16. Repeatable.",
)
@click.option("--expect", default=0, type=click.IntRange(0), help="How many items it will hold.")
@click.option(
    "--consistency",
    type=click.Choice([level.value for level in Consistency]),
    help="How fresh reads are that do not say.  [default: session]",
)
@click.option("--model", default="", help="One of the workers' models.  [default: the only one]")
@click.pass_obj
def create(
    options: Options,
    *,
    name: str,
    fields: tuple[str, ...],
    full_text: tuple[str, ...],
    index_type: str | None,
    index_params: tuple[tuple[str, int], ...],
    expect: int,
    consistency: str | None,
    model: str,
) -> None:
    """Make the empty collection NAME."""
    schemas = [
        *map(_schema, fields),
        *(FieldSchema(one, FieldType.STRING, full_text=True) for one in full_text),
    ]
    index = None
    if index_type is not None or index_params:
        kind = None if index_type is None else IndexType(index_type)
        index = VectorIndex(kind, dict(index_params))
    made = run(
        _create(
            options,
            name,
            schemas,
            {
                "index": index,
                "expected_item_count": expect,
                "default_consistency": None if consistency is None else Consistency(consistency),
                "model": ModelVersion(model) if model else None,
            },
        )
    )
    click.echo(f"Made {made.name} for {made.model.model}, {made.dimensions} dimensions.")


@collections.command()
@click.argument("name", metavar="ALIAS")
@click.argument("collection")
@click.pass_obj
def alias(options: Options, name: str, collection: str) -> None:
    """Let ALIAS stand for COLLECTION, at once for everybody, whatever it stood for before."""
    run(_alias(options, name, collection))
    click.echo(f"{name} stands for {collection}.")


@collections.command()
@click.argument("name", metavar="ALIAS")
@click.pass_obj
def unalias(options: Options, name: str) -> None:
    """Remove ALIAS; its collection stays."""
    run(_alias(options, name, None))
    click.echo(f"{name} stands for nothing.")


@collections.command()
@click.argument("source")
@click.argument("target")
@click.option("--alias", "alias_name", default="", help="Let it stand for TARGET in the end.")
@click.option(
    "--model",
    default="",
    help="One of the workers' models.  [default: the one that is not SOURCE's]",
)
@click.pass_obj
def reindex(options: Options, source: str, target: str, alias_name: str, model: str) -> None:
    """Embed every item of SOURCE with another model, into the new collection TARGET.

    SOURCE serves meanwhile, and what is written to it is carried over. Running it again goes on
    where it stopped. Exit code 1 means that some items could not be embedded; each is named.
    """
    raise SystemExit(run(_reindex(options, source, target, alias_name, model)))


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


def _schema(text: str) -> FieldSchema:
    name, _, rest = text.partition(":")
    kind, _, extra = rest.partition(":")
    types = {one.value: one for one in FieldType}
    if not name or kind not in types or extra not in ("", "indexed"):
        raise click.UsageError(
            f"--field {text!r} is not NAME:TYPE[:indexed] with TYPE one of {', '.join(types)}"
        )
    return FieldSchema(name, types[kind], indexed=extra == "indexed")


async def _create(
    options: Options, name: str, fields: Sequence[FieldSchema], more: CollectionOptions
) -> Collection:
    async with options.open_client() as client:
        return await client.create_collection(name, fields, **more)


async def _alias(options: Options, name: str, collection: str | None) -> None:
    async with options.open_client() as client:
        if collection is None:
            await client.delete_alias(name)
        else:
            await client.set_alias(name, collection)


async def _reindex(options: Options, source: str, target: str, alias: str, model: str) -> int:
    report = ReindexProgress(0, 0)
    progress = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        console=err(),
        transient=True,
    )
    with progress:
        bar = progress.add_task("embedding again", total=None)
        async with options.open_client(max_attempts=_REINDEX_ATTEMPTS) as client:
            reports = client.reindex(
                source, target, alias=alias, model=ModelVersion(model) if model else None
            )
            async with aclosing(reports):
                async for report in reports:
                    done = report.done_count + report.failed_count
                    progress.update(bar, completed=done, total=report.total_count)
    for item_id, message in report.failures.items():
        err().print(f"✗ {item_id}: {message}", style="red", markup=False, soft_wrap=True)
    swapped = f"; {alias} stands for it now" if report.alias_swapped else ""
    failed = f", {report.failed_count:,} failed" if report.failed_count else ""
    click.echo(f"{target}: {report.done_count:,} items{failed}{swapped}.")
    return 1 if report.failed_count else 0


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
    aliased = any(collection.aliases for collection in found)
    if aliased:
        table.add_column("aliases")
    for collection in found:
        table.add_row(
            Text(collection.name),
            f"{collection.item_count:,}",
            Text(collection.model.model),
            str(collection.dimensions),
            Text(", ".join(schema.name for schema in collection.fields)),
            *([Text(", ".join(collection.aliases))] if aliased else []),
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
        "aliases": list(collection.aliases),
        "index": None if collection.index.type is None else collection.index.type.value,
    }
