"""`sentinel import`: datasets as they are published, tables and archives into a collection."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from sentinel_client import importers
from sentinel_client.cli._console import Failure, Options
from sentinel_client.cli._import_job import ImportPlan, run_import
from sentinel_client.importers import Column, Columns, Dataset, LayoutError

Command = TypeVar("Command", bound=Callable[..., Any])

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group("import")
def imports() -> None:
    """Import a dataset into a collection, made when missing.

    Running it again sends only what is new or differs, so it may be stopped at any time. What is
    broken is named and the rest goes on. Exit code: 0 all is stored, 1 something failed, 2 it
    could not be done.
    """


def _shared(default_collection: str | None) -> Callable[[Command], Command]:
    """Return the options that all imports have."""
    # Not `default=None`, which newer releases of click take for a default.
    default: dict[str, Any] = {"required": True}
    if default_collection is not None:
        default = {"default": default_collection, "show_default": True}

    def add(command: Command) -> Command:
        for option in (
            click.option(
                "--report",
                type=click.Path(dir_okay=False, writable=True, path_type=Path),
                help="Write the failures to this file, one JSON object each.",
            ),
            click.option("--refresh", is_flag=True, help="Send again what is stored already."),
            click.option(
                "--collection",
                "-c",
                help="Made when missing.",
                **default,
            ),
        ):
            command = option(command)
        return command

    return add


def _captioned(command: Command) -> Command:
    """Add the options of datasets with captions."""
    command = click.option(
        "--full-text",
        is_flag=True,
        help="Keep the captions in a field that `search --hybrid` searches, too.",
    )(command)
    return click.option(
        "--ids",
        type=click.Choice(["content", "name"]),
        default="content",
        show_default=True,
        help="What becomes an item's id: the hash of its picture, or its name in the dataset.",
    )(command)


def _run(
    options: Options, dataset: Callable[[], Dataset], noun: str = "pictures", **shared: Any
) -> None:
    run_import(ImportPlan(options=options, dataset=dataset, noun=noun, **shared))


@imports.command()
@click.argument("folder", type=_FOLDER)
@_captioned
@_shared("flickr8k")
@click.pass_obj
def flickr8k(options: Options, /, folder: Path, ids: str, full_text: bool, **shared: Any) -> None:
    """Flickr8k: FOLDER holds Flicker8k_Dataset/ and Flickr8k.token.txt.

    The layout of Kaggle, Images/ and captions.txt, will do as well.
    """
    _run(
        options,
        lambda: importers.flickr8k(folder, by_name=ids == "name", full_text=full_text),
        **shared,
    )


@imports.command()
@click.argument("folder", type=_FOLDER)
@_captioned
@_shared("flickr30k")
@click.pass_obj
def flickr30k(options: Options, /, folder: Path, ids: str, full_text: bool, **shared: Any) -> None:
    """Flickr30k: FOLDER holds flickr30k-images/ and results_20130124.token.

    The layout of Kaggle, flickr30k_images/ and results.csv, will do as well.
    """
    _run(
        options,
        lambda: importers.flickr30k(folder, by_name=ids == "name", full_text=full_text),
        **shared,
    )


@imports.command()
@click.argument("annotations", type=_FILE)
@click.argument("pictures", type=_FOLDER)
@_captioned
@_shared("coco")
@click.pass_obj
def coco(
    options: Options,
    /,
    annotations: Path,
    pictures: Path,
    ids: str,
    full_text: bool,
    **shared: Any,
) -> None:
    """COCO captions: ANNOTATIONS is captions_val2017.json or the like, PICTURES its folder."""
    _run(
        options,
        lambda: importers.coco(annotations, pictures, by_name=ids == "name", full_text=full_text),
        **shared,
    )


@imports.command()
@click.argument("shards", nargs=-1, required=True, metavar="SHARD...")
@_captioned
@_shared(None)
@click.pass_obj
def webdataset(
    options: Options, /, shards: tuple[str, ...], ids: str, full_text: bool, **shared: Any
) -> None:
    """Tar archives in the layout of webdataset; `*` and {000..127} are expanded.

    000000.jpg is a picture, 000000.txt its caption, the values of 000000.json its fields.
    """
    _run(
        options,
        lambda: importers.webdataset(shards, by_name=ids == "name", full_text=full_text),
        **shared,
    )


def _table(command: Command) -> Command:
    """Add the options of tables."""
    for option in (
        click.option(
            "--base",
            type=_FOLDER,
            help="Where relative paths start.  [default: the table's folder]",
        ),
        click.option(
            "--full-text",
            multiple=True,
            metavar="FIELD",
            help="Let `search --hybrid` search this field. Repeatable.",
        ),
        click.option(
            "--field",
            "fields",
            multiple=True,
            metavar="[FIELD=]COLUMN[:TYPE]",
            help="A column to keep; TYPE is string, int64, double, bool or string_list. "
            "Repeatable.  [default: all others, with the types they look like]",
        ),
        click.option(
            "--id",
            "id_column",
            metavar="COLUMN",
            help="Holds the items' ids.  [default: the hash of the content]",
        ),
        click.option("--text", metavar="COLUMN", help="Holds texts to store, instead of pictures."),
        click.option(
            "--image",
            metavar="COLUMN",
            help="Holds the pictures: paths, URLs that the gateway fetches or, in Parquet, bytes.",
        ),
    ):
        command = option(command)
    return command


def _columns(named: dict[str, Any]) -> Columns:
    """Take the options of `_table` out of those of a command."""
    fields = named.pop("fields")
    try:
        return Columns(
            image=named.pop("image"),
            text=named.pop("text"),
            id=named.pop("id_column"),
            fields=[Column.parse(one) for one in fields] if fields else None,
            base=named.pop("base"),
        )
    except LayoutError as error:
        raise Failure(str(error)) from error


@imports.command("csv")
@click.argument("file", type=_FILE)
@click.option("--delimiter", metavar="SIGN", help="Between cells.  [default: comma; .tsv: tab]")
@_table
@_shared(None)
@click.pass_obj
def csv_file(
    options: Options, /, file: Path, delimiter: str | None, full_text: tuple[str, ...], **named: Any
) -> None:
    """A CSV file whose first line names the columns.

    sentinel import csv table.csv -c prints --image file --field year:int64 --field title
    """
    columns = _columns(named)
    _run(
        options,
        lambda: importers.searchable(
            importers.csv_table(file, columns, delimiter=delimiter), full_text
        ),
        "rows",
        **named,
    )


@imports.command("jsonl")
@click.argument("file", type=_FILE)
@_table
@_shared(None)
@click.pass_obj
def json_lines(options: Options, /, file: Path, full_text: tuple[str, ...], **named: Any) -> None:
    """A file with a JSON object in each line."""
    columns = _columns(named)
    _run(
        options,
        lambda: importers.searchable(importers.json_lines_table(file, columns), full_text),
        "rows",
        **named,
    )


@imports.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=_FILE)
@_table
@_shared(None)
@click.pass_obj
def parquet(
    options: Options, /, files: tuple[Path, ...], full_text: tuple[str, ...], **named: Any
) -> None:
    """Parquet files of one schema; needs the extra `import`."""
    columns = _columns(named)
    _run(
        options,
        lambda: importers.searchable(importers.parquet_table(files, columns), full_text),
        "rows",
        **named,
    )
