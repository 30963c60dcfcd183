"""`sentinel collections`: list, create, alias, reindex and delete collections."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

import click
from rich.table import Table
from rich.text import Text

from sentinel_client import (
    Collection,
    Consistency,
    ElementType,
    FieldSchema,
    FieldType,
    IndexType,
    ModelVersion,
    ReindexProgress,
    SentinelClient,
    VectorIndex,
)
from sentinel_client.cli._commands import DefaultGroup
from sentinel_client.cli._console import (
    Options,
    err,
    json_line,
    new_table,
    out,
    progress_bar,
    tell,
)
from sentinel_client.cli._options import (
    complete_collection,
    consistency_option,
    index_param_option,
    json_option,
    outcome_options,
    storage_from,
    storage_options,
)

# A gateway may be replaced during a reindex: retry for about half a minute.
REINDEX_ATTEMPTS = 12
# Narrower tables would break the names; `show` has them line by line.
_WIDTH_WITH_FIELDS = 72


@click.group(cls=DefaultGroup, default="list")
def collections() -> None:
    """List, show, create, alias, reindex or delete collections.

    Without a command: list them.
    """


@collections.command("list")
@json_option("collection")
@click.pass_obj
def list_collections(options: Options, as_json: bool) -> None:
    """List the collections."""
    with options.open(SentinelClient) as client:
        found = client.list_collections()
    if as_json:
        for collection in found:
            click.echo(json_line(_as_dict(collection)))
    elif found:
        out().print(_table(found))
    else:
        click.echo("No collections yet. `sentinel index FOLDER` creates one.")


@collections.command()
@click.argument("name", shell_complete=complete_collection)
@json_option("collection")
@click.pass_obj
def show(options: Options, name: str, as_json: bool) -> None:
    """Show one collection: its fields, model, storage, index, names and match levels."""
    with options.open(SentinelClient) as client:
        found = client.get_collection(name)
    if as_json:
        click.echo(json_line(_as_dict(found)))
        return
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in _facts(found):
        table.add_row(label, Text(value))
    out().print(table)


@collections.command()
@click.argument("name")
@click.option(
    "--field",
    "fields",
    multiple=True,
    metavar="NAME:TYPE[:indexed]",
    help="A field of the items; TYPE is string, int64, double, bool, string_list, timestamp or "
    "geo; `indexed` makes filters faster. Repeatable.",
)
@click.option(
    "--full-text",
    multiple=True,
    metavar="NAME",
    help="A string field that `search --hybrid` searches. Repeatable.",
)
@click.option(
    "--index",
    "index_type",
    type=click.Choice([kind.value for kind in IndexType]),
    help="Kind of vector index.  [default: chosen from --expect]",
)
@index_param_option("A build parameter of the index, such as M=16. Repeatable.")
@click.option("--expect", default=0, type=click.IntRange(0), help="How many items it will hold.")
@consistency_option("Which writes its reads see by default.  [default: session]")
@storage_options
@click.option("--model", default="", help="One of the workers' models.  [default: the only one]")
@outcome_options
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
    dimensions: int,
    storage: str | None,
    rescore: bool,
    model: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Create the empty collection NAME."""
    schemas = [
        *map(field_schema, fields),
        *(FieldSchema(one, FieldType.STRING, full_text=True) for one in full_text),
    ]
    index = None
    if index_type is not None or index_params:
        kind = None if index_type is None else IndexType(index_type)
        index = VectorIndex(kind, dict(index_params))
    with options.open(SentinelClient) as client:
        created = client.create_collection(
            name,
            schemas,
            index=index,
            expected_item_count=expect,
            default_consistency=None if consistency is None else Consistency(consistency),
            model=_model(model),
            dimensions=dimensions,
            storage=storage_from(storage, rescore),
        )
    text = (
        f"Created {created.name} for {created.model.model}, {created.dimensions} dimensions"
        f"{_stored_as(created)}."
    )
    tell(text, _as_dict(created), as_json=as_json, quiet=quiet)


@collections.command()
@click.argument("name", metavar="ALIAS")
@click.argument("collection", shell_complete=complete_collection)
@outcome_options
@click.pass_obj
def alias(options: Options, name: str, collection: str, as_json: bool, quiet: bool) -> None:
    """Point ALIAS at COLLECTION, for all callers at once. Replaces an existing alias."""
    with options.open(SentinelClient) as client:
        client.set_alias(name, collection)
    facts = {"alias": name, "collection": collection}
    tell(f"{name} now points to {collection}.", facts, as_json=as_json, quiet=quiet)


@collections.command()
@click.argument("name", metavar="ALIAS", shell_complete=complete_collection)
@outcome_options
@click.pass_obj
def unalias(options: Options, name: str, as_json: bool, quiet: bool) -> None:
    """Delete ALIAS; its collection stays."""
    with options.open(SentinelClient) as client:
        client.delete_alias(name)
    tell(f"Deleted the alias {name}.", {"deleted_alias": name}, as_json=as_json, quiet=quiet)


@collections.command()
@click.argument("source")
@click.argument("target")
@click.option(
    "--alias",
    "alias_name",
    default="",
    help="Point this alias at TARGET when it is complete. SOURCE itself: its name means TARGET.",
)
@click.option(
    "--model",
    default="",
    help="One of the workers' models.  [default: the one that SOURCE does not use; with "
    "--dimensions or --storage, its own]",
)
@storage_options
@outcome_options
@click.pass_obj
def reindex(
    options: Options,
    *,
    source: str,
    target: str,
    alias_name: str,
    model: str,
    dimensions: int,
    storage: str | None,
    rescore: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Embed every item of SOURCE again into the new collection TARGET.

    TARGET has another model, or other vectors of the same one: shorter, or stored in less memory.
    SOURCE stays available, and its new writes also go to TARGET. Run the command again to
    continue where it stopped. Exit code 1: some items could not be embedded; each is listed.
    """
    report = ReindexProgress(0, 0)
    with progress_bar(err(quiet=quiet)) as progress:
        bar = progress.add_task("embedding again", total=None)
        with options.open(SentinelClient, max_attempts=REINDEX_ATTEMPTS) as client:
            for report in client.reindex(
                source,
                target,
                alias=alias_name,
                model=_model(model),
                dimensions=dimensions,
                storage=storage_from(storage, rescore),
            ):
                done = report.done_count + report.failed_count
                progress.update(bar, completed=done, total=report.total_count)
    if not as_json:
        for item_id, message in report.failures.items():
            err().print(f"✗ {item_id}: {message}", style="red", markup=False, soft_wrap=True)
    swapped = f"; {alias_name} now points to it" if report.alias_swapped else ""
    failed = f", {report.failed_count:,} failed" if report.failed_count else ""
    facts = {"target": target, **asdict(report)}
    text = f"{target}: {report.done_count:,} items{failed}{swapped}."
    tell(text, facts, as_json=as_json, quiet=quiet)
    raise SystemExit(1 if report.failed_count else 0)


@collections.command()
@click.argument("name", shell_complete=complete_collection)
@click.option("--yes", is_flag=True, help="Do not ask.")
@outcome_options
@click.pass_obj
def delete(options: Options, name: str, yes: bool, as_json: bool, quiet: bool) -> None:
    """Delete the collection NAME and its items permanently."""
    with options.open(SentinelClient) as client:
        found = client.preview_deletion(name)
        if not yes:
            question = f"Delete the collection {name} with its {found.count:,} items?"
            click.confirm(question, abort=True, err=True)
        client.delete_collection(name, confirmation_token=found.confirmation_token)
    facts = {"collection": name, "deleted": found.count}
    tell(f"Deleted {name} ({found.count:,} items).", facts, as_json=as_json, quiet=quiet)


def field_schema(text: str) -> FieldSchema:
    """Read NAME:TYPE[:indexed]; raise UsageError for anything else."""
    name, _, rest = text.partition(":")
    kind, _, extra = rest.partition(":")
    types = {one.value: one for one in FieldType}
    if not name or kind not in types or extra not in ("", "indexed"):
        raise click.UsageError(
            f"--field {text!r} is not NAME:TYPE[:indexed] with TYPE one of {', '.join(types)}"
        )
    return FieldSchema(name, types[kind], indexed=extra == "indexed")


def _stored_as(collection: Collection) -> str:
    storage = collection.storage
    if storage.element_type is ElementType.FLOAT32:
        return ""
    return f", stored as {storage.element_type.value}{' and rescored' if storage.rescore else ''}"


def _model(name: str) -> ModelVersion | None:
    return ModelVersion(name) if name else None


def _table(found: list[Collection]) -> Table:
    table = new_table()
    table.add_column("collection", style="bold")
    table.add_column("items", justify="right")
    table.add_column("model", style="cyan")
    table.add_column("dimensions", justify="right")
    if with_fields := out().width >= _WIDTH_WITH_FIELDS:
        table.add_column("fields", style="dim", overflow="fold")
    aliased = any(collection.aliases for collection in found)
    if aliased:
        table.add_column("aliases")
    for collection in found:
        fields = Text(", ".join(schema.name for schema in collection.fields))
        table.add_row(
            Text(collection.name),
            f"{collection.item_count:,}",
            Text(collection.model.model),
            str(collection.dimensions),
            *([fields] if with_fields else []),
            *([Text(", ".join(collection.aliases))] if aliased else []),
        )
    return table


def _facts(collection: Collection) -> Iterator[tuple[str, str]]:
    """Yield the labels and values of `show`."""
    model, index, levels = collection.model, collection.index, collection.match_levels
    default = collection.default_consistency
    yield "collection", collection.name
    yield "aliases", ", ".join(collection.aliases) or "none"
    yield "items", f"{collection.item_count:,}"
    yield "model", " ".join(filter(None, (model.model, model.revision)))
    yield "fingerprint", model.fingerprint
    yield "vectors", f"{collection.dimensions} dimensions{_stored_as(collection)}"
    parameters = "".join(f" {name}={value}" for name, value in index.params.items())
    yield "index", f"{index.type.value if index.type else 'chosen by the gateway'}{parameters}"
    yield "consistency", default.value if default else "the gateway's setting"
    if levels is not None:
        yield "match levels", f"fair from {levels.fair:.3f}, strong from {levels.strong:.3f}"
    longest = max((len(schema.name) for schema in collection.fields), default=0)
    for number, schema in enumerate(collection.fields):
        marks = [("indexed", schema.indexed), ("full text", schema.full_text)]
        more = "".join(f", {mark}" for mark, is_set in marks if is_set)
        yield "" if number else "fields", f"{schema.name.ljust(longest)}  {schema.type.value}{more}"
    if not collection.fields:
        yield "fields", "none"


def _as_dict(collection: Collection) -> dict[str, object]:
    levels = collection.match_levels
    return {
        "name": collection.name,
        "item_count": collection.item_count,
        "model": collection.model.model,
        "revision": collection.model.revision,
        "fingerprint": collection.model.fingerprint,
        "dimensions": collection.dimensions,
        "storage": collection.storage.element_type.value,
        "rescore": collection.storage.rescore,
        "fields": {schema.name: schema.type.value for schema in collection.fields},
        "aliases": list(collection.aliases),
        "index": None if collection.index.type is None else collection.index.type.value,
        "match_levels": None if levels is None else {"fair": levels.fair, "strong": levels.strong},
    }
