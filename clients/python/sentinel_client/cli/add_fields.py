"""`sentinel collections add-fields`: give a collection more fields while it is in use."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict

import click

from sentinel_client import (
    Collection,
    FieldSchema,
    FieldType,
    NotFound,
    ReindexProgress,
    SentinelClient,
)
from sentinel_client.cli._console import Options, err, progress_bar, tell
from sentinel_client.cli._options import complete_collection, outcome_options
from sentinel_client.cli.collections import REINDEX_ATTEMPTS, field_schema
from sentinel_client.importers import PHOTO_FIELDS

_MAX_NAME_CHARS = 128
_END = "__fields"


@click.command("add-fields")
@click.argument("name", shell_complete=complete_collection)
@click.option(
    "--field",
    "fields",
    multiple=True,
    metavar="NAME:TYPE[:indexed]",
    help="A field to add; TYPE is string, int64, double, bool, string_list, timestamp or geo; "
    "`indexed` makes filters faster. Repeatable.",
)
@click.option(
    "--full-text",
    multiple=True,
    metavar="NAME",
    help="A string field to add that `search --hybrid` searches. Repeatable.",
)
@click.option(
    "--photo",
    is_flag=True,
    help="Add the fields that `sentinel index` fills: date taken, camera, place, keywords, ….",
)
@outcome_options
@click.pass_obj
def add_fields(
    options: Options,
    *,
    name: str,
    fields: tuple[str, ...],
    full_text: tuple[str, ...],
    photo: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Add fields to the collection NAME.

    Its items are copied with their vectors, which needs no model, and NAME means the copy from
    then on. Meanwhile it is searched and written as usual. Run the command again to continue where
    it stopped. Fields that NAME has already are left as they are.
    """
    wanted = [
        *map(field_schema, fields),
        *(FieldSchema(one, FieldType.STRING, full_text=True) for one in full_text),
        *(PHOTO_FIELDS if photo else ()),
    ]
    if not wanted:
        raise click.UsageError("name fields to add: --field, --full-text or --photo")
    with options.open(SentinelClient, max_attempts=REINDEX_ATTEMPTS) as client:
        collection = client.get_collection(name)
        added = _missing(collection, wanted)
        report = ReindexProgress(0, 0)
        if added:
            report = _copy(client, collection, added, quiet=quiet)
    names = ", ".join(one.name for one in added)
    text = f"{name} has all these fields already."
    if added:
        text = f"{name}: added {names} ({report.done_count:,} items)."
        if photo:
            text += " To fill them, run `sentinel index` on your folders again."
    facts = {"collection": name, "added": [one.name for one in added], **asdict(report)}
    tell(text, facts, as_json=as_json, quiet=quiet)


def _missing(collection: Collection, wanted: Iterable[FieldSchema]) -> list[FieldSchema]:
    """Return the fields that the collection lacks; raise UsageError for another type."""
    known = {one.name: one.type for one in collection.fields}
    missing = []
    for schema in wanted:
        if schema.name not in known:
            missing.append(schema)
        elif known[schema.name] is not schema.type:
            raise click.UsageError(
                f"{collection.name} has a field {schema.name} already, of type "
                f"{known[schema.name].value} and not {schema.type.value}"
            )
    return missing


def _copy(
    client: SentinelClient, collection: Collection, added: list[FieldSchema], *, quiet: bool
) -> ReindexProgress:
    target = _target(client, collection, added)
    report = ReindexProgress(0, 0)
    with progress_bar(err(quiet=quiet)) as progress:
        bar = progress.add_task("copying", total=None)
        # The collection's own name moves; its aliases follow it.
        for report in client.reindex(
            collection.name, target, alias=collection.name, added_fields=added
        ):
            progress.update(bar, completed=report.done_count, total=report.total_count)
    return report


def _target(client: SentinelClient, collection: Collection, added: list[FieldSchema]) -> str:
    """Return the name of the copy that an earlier call has begun, or of a new one."""
    before, end, _ = collection.name.rpartition(_END)
    base = before if end and before in collection.aliases else collection.name
    number = 1
    while True:
        end = _END if number == 1 else f"{_END}_{number}"
        name = base[: _MAX_NAME_CHARS - len(end)] + end
        try:
            found = client.get_collection(name)
        except NotFound:
            return name
        if found.fields == (*collection.fields, *added) and not found.aliases:
            return name
        number += 1
