"""`sentinel index`: keep a collection equal to folders of pictures."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import click

from sentinel_client import importers
from sentinel_client.cli._console import Options, err, require_modules
from sentinel_client.cli._import_run import ImportPlan, run_import
from sentinel_client.cli._options import outcome_options
from sentinel_client.importers.folders import MetadataReader
from sentinel_client.importers.raw_previews import can_read_previews

_INSTALL = "pip install 'sentinel-retrieval-client[photos]'"
_METADATA_MODULES = ("PIL", "defusedxml")


@click.command()
@click.argument(
    "folders",
    nargs=-1,
    required=True,
    metavar="FOLDER...",
    type=click.Path(exists=True, path_type=Path),
)
@click.option("--collection", "-c", default="photos", show_default=True, help="Created if missing.")
@click.option("--prune", is_flag=True, help="Remove stored items whose files are gone.")
@click.option("--yes", "-y", is_flag=True, help="With --prune: remove any number, do not ask.")
@click.option(
    "--exclude",
    multiple=True,
    metavar="PATTERN",
    help="Leave out files and folders that match, as in a .gitignore file. Repeatable.",
)
@click.option(
    "--by-reference/--copy",
    default=None,
    help="Leave the images where they are and store only thumbnails and locations, or store copies "
    "of them.  [default: by reference if the gateway is on this machine and can read them]",
)
@click.option("--watch", is_flag=True, help="Keep running, and index what changes.")
@click.option("--refresh", is_flag=True, help="Send stored items again.")
@click.option(
    "--report",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write the failures to this file, one JSON object each.",
)
@outcome_options
@click.pass_obj
def index(
    options: Options,
    /,
    *,
    folders: tuple[Path, ...],
    collection: str,
    prune: bool,
    yes: bool,
    exclude: tuple[str, ...],
    by_reference: bool | None,
    watch: bool,
    refresh: bool,
    report: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Make the images in FOLDER and its subfolders searchable, with what cameras wrote in them.

    Running it again sends only new and changed files, so you can stop it at any time. A changed
    file replaces its item; a renamed or moved one keeps it. Items of deleted files stay until
    --prune. Hidden files and folders, recycle bins and thumbnails of NAS and photo programs are
    left out. Exit code: 0 all is stored, 1 some files failed, 2 it could not run, or --prune asks
    for --yes. Use `sentinel import` for datasets with captions, tables and archives.
    """
    if watch:
        require_modules(("watchfiles",), "--watch is", _INSTALL)
    read_dataset = partial(
        importers.folders,
        folders,
        exclude=exclude,
        read_metadata=_metadata_reader(),
        raw_previews=can_read_previews(),
    )
    plan = ImportPlan(
        options=options,
        collection=collection,
        read_dataset=read_dataset,
        noun="pictures",
        verb="indexing",
        refresh=refresh,
        report=report,
        by_reference=by_reference,
        prune=prune,
        yes=yes,
        as_json=as_json,
        quiet=quiet,
    )
    if watch:
        from sentinel_client.cli._watch import run_watch  # noqa: PLC0415 - an extra

        run_watch(plan, folders, read_dataset)
    run_import(plan)


def _metadata_reader() -> MetadataReader | None:
    """Return the reader of metadata; None, with a line on stderr, if it is not installed."""
    missing = _missing(_METADATA_MODULES)
    if missing:
        err().print(
            f"Without dates, places and cameras: {', '.join(missing)} missing, {_INSTALL}.",
            markup=False,
            soft_wrap=True,
        )
        return None
    from sentinel_client.importers.photo_metadata import read_metadata  # noqa: PLC0415 - an extra

    return read_metadata


def _missing(modules: Sequence[str]) -> list[str]:
    return [name for name in modules if importlib.util.find_spec(name) is None]
