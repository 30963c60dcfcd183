"""`sentinel import` and `sentinel bulk-index`: store datasets."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from functools import partial, wraps
from pathlib import Path
from typing import Any, TypeAlias

import click

from sentinel_client import importers
from sentinel_client.cli._console import Failure, Options, install_servers, require_modules
from sentinel_client.cli._import_run import ImportPlan, run_import
from sentinel_client.cli._options import Decorator, outcome_options
from sentinel_client.importers import Column, Columns, Dataset, LayoutError

# Reads the layout of a dataset; blocks. A command returns one after it has checked its options.
Reader: TypeAlias = Callable[[], Dataset]

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER_ARGUMENT = click.argument("folder", type=_FOLDER)

_CAPTION_OPTIONS = [
    click.option(
        "--ids",
        type=click.Choice(["content", "name"]),
        default="content",
        show_default=True,
        help="Ids of the items: the hash of the image, or its name in the dataset.",
    ),
    click.option(
        "--full-text",
        is_flag=True,
        help="Also store the captions in a field that `search --hybrid` searches.",
    ),
]

_TABLE_OPTIONS = [
    click.option(
        "--image",
        metavar="COLUMN",
        help="Column of the images: paths, URLs that the gateway fetches or, in Parquet, bytes.",
    ),
    click.option("--text", metavar="COLUMN", help="Column of texts to store instead of images."),
    click.option(
        "--id",
        metavar="COLUMN",
        help="Column of the items' ids.  [default: the hash of the content]",
    ),
    click.option(
        "--field",
        "fields",
        multiple=True,
        metavar="[FIELD=]COLUMN[:TYPE]",
        help="A column to store; TYPE is string, int64, double, bool, string_list, timestamp "
        "(ISO 8601; UTC if it names no zone) or geo (LATITUDE,LONGITUDE). Repeatable.  "
        "[default: all others, with types from a sample]",
    ),
    click.option(
        "--full-text",
        multiple=True,
        metavar="FIELD",
        help="A field that `search --hybrid` searches. Repeatable.",
    ),
    click.option(
        "--base",
        type=_FOLDER,
        help="Base folder of relative paths.  [default: the table's folder]",
    ),
]

# The bulk indexer, and one module of each package that it needs.
_BULK_MODULES = ("bulk_indexer", "ray", "pyarrow", "onnxruntime", "pymilvus")


def _import_command(
    *parameters: Decorator, collection: str | None, noun: str = "pictures"
) -> Callable[[Callable[..., Reader]], Callable[..., None]]:
    """Turn a function that returns a `Reader` into the callback of an import command.

    `parameters` are its own, in the order of the help. Without a default `collection`, the option
    --collection is required. `noun` names the entries in messages.
    """

    def decorate(reader: Callable[..., Reader]) -> Callable[..., None]:
        @wraps(reader)
        @click.pass_obj
        def callback(
            options: Options,
            /,
            *,
            collection: str,
            refresh: bool,
            report: Path | None,
            as_json: bool,
            quiet: bool,
            **given: Any,
        ) -> None:
            run_import(
                ImportPlan(
                    options=options,
                    collection=collection,
                    read_dataset=reader(**given),
                    noun=noun,
                    refresh=refresh,
                    report=report,
                    as_json=as_json,
                    quiet=quiet,
                )
            )

        command: Callable[..., Any] = callback
        for parameter in reversed([*parameters, *_shared_options(collection)]):
            command = parameter(command)
        return command

    return decorate


def _shared_options(collection: str | None) -> list[Decorator]:
    # Not `default=None`, which newer releases of click show as a default.
    default: dict[str, Any] = {"required": True}
    if collection is not None:
        default = {"default": collection, "show_default": True}
    return [
        click.option("--collection", "-c", help="Created if missing.", **default),
        click.option("--refresh", is_flag=True, help="Send stored items again."),
        click.option(
            "--report",
            type=click.Path(dir_okay=False, writable=True, path_type=Path),
            help="Write the failures to this file, one JSON object each.",
        ),
        outcome_options,
    ]


@click.group("import")
def imports() -> None:
    """Import a dataset into a collection, which is created if missing.

    Running it again sends only new and changed entries, so you can stop it at any time. Broken
    entries are listed, and the import continues. Exit code: 0 all is stored, 1 something failed,
    2 the import could not run.
    """


@imports.command()
@_import_command(_FOLDER_ARGUMENT, *_CAPTION_OPTIONS, collection="flickr8k")
def flickr8k(folder: Path, ids: str, full_text: bool) -> Reader:
    """Flickr8k: FOLDER contains Flicker8k_Dataset/ and Flickr8k.token.txt.

    The layout of Kaggle, Images/ and captions.txt, works too.
    """
    return lambda: importers.flickr8k(folder, by_name=ids == "name", full_text=full_text)


@imports.command()
@_import_command(_FOLDER_ARGUMENT, *_CAPTION_OPTIONS, collection="flickr30k")
def flickr30k(folder: Path, ids: str, full_text: bool) -> Reader:
    """Flickr30k: FOLDER contains flickr30k-images/ and results_20130124.token.

    The layout of Kaggle, flickr30k_images/ and results.csv, works too.
    """
    return lambda: importers.flickr30k(folder, by_name=ids == "name", full_text=full_text)


@imports.command()
@_import_command(
    click.argument("annotations", type=_FILE),
    click.argument("pictures", type=_FOLDER),
    *_CAPTION_OPTIONS,
    collection="coco",
)
def coco(annotations: Path, pictures: Path, ids: str, full_text: bool) -> Reader:
    """COCO captions: ANNOTATIONS is a file like captions_val2017.json, PICTURES its folder."""
    return lambda: importers.coco(annotations, pictures, by_name=ids == "name", full_text=full_text)


@imports.command()
@_import_command(
    click.argument("shards", nargs=-1, required=True, metavar="SHARD..."),
    *_CAPTION_OPTIONS,
    collection=None,
)
def webdataset(shards: tuple[str, ...], ids: str, full_text: bool) -> Reader:
    """Tar archives in the webdataset layout; `*` and {000..127} are expanded.

    000000.jpg is an image, 000000.txt its caption, the values of 000000.json its fields.
    """
    return lambda: importers.webdataset(shards, by_name=ids == "name", full_text=full_text)


@imports.command("csv")
@_import_command(
    click.argument("file", type=_FILE),
    click.option("--delimiter", metavar="SIGN", help="Between cells.  [default: comma; .tsv: tab]"),
    *_TABLE_OPTIONS,
    collection=None,
    noun="rows",
)
def csv_file(file: Path, delimiter: str | None, **columns: Any) -> Reader:
    """A CSV file whose first line names the columns.

    sentinel import csv table.csv -c prints --image file --field year:int64 --field title
    """
    return partial(importers.csv_table, file, _columns(**columns), delimiter=delimiter)


@imports.command("jsonl")
@_import_command(click.argument("file", type=_FILE), *_TABLE_OPTIONS, collection=None, noun="rows")
def json_lines(file: Path, **columns: Any) -> Reader:
    """A file with one JSON object per line."""
    return partial(importers.json_lines_table, file, _columns(**columns))


@imports.command()
@_import_command(
    click.argument("files", nargs=-1, required=True, metavar="FILE...", type=_FILE),
    *_TABLE_OPTIONS,
    collection=None,
    noun="rows",
)
def parquet(files: tuple[Path, ...], **columns: Any) -> Reader:
    """Parquet files with one schema; needs the extra `import`."""
    return partial(importers.parquet_table, files, _columns(**columns))


def _columns(*, fields: Sequence[str], **columns: Any) -> Columns:
    try:
        parsed = [Column.parse(one) for one in fields] if fields else None
        return Columns(fields=parsed, **columns)
    except LayoutError as error:
        raise Failure(str(error)) from error


@click.command(
    "bulk-index",
    # The bulk indexer parses its own flags, even --help.
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    short_help="Index a dataset that is too large for one machine.",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def bulk_index(arguments: tuple[str, ...]) -> None:
    """Index a dataset that is too large for one machine, with Ray, directly into Milvus.

    The bulk indexer connects to Milvus and the object store itself, without a gateway.
    """
    require_modules(_BULK_MODULES, "the bulk indexer is", install_servers("bulk"))
    command = [sys.executable, "-P", "-m", "bulk_indexer", *arguments]
    os.execv(command[0], command)
