"""`sentinel index`: a folder of pictures into a collection."""

from __future__ import annotations

from pathlib import Path

import click

from sentinel_client.cli._console import Options
from sentinel_client.cli._import_job import ImportPlan, run_import
from sentinel_client.importers import folders as read_folders


@click.command()
@click.argument(
    "folders",
    nargs=-1,
    required=True,
    metavar="FOLDER...",
    type=click.Path(exists=True, path_type=Path),
)
@click.option("--collection", "-c", default="photos", show_default=True, help="Made when missing.")
@click.option("--refresh", is_flag=True, help="Send files again that are stored already.")
@click.option(
    "--report",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write the failures to this file, one JSON object each.",
)
@click.pass_obj
def index(
    options: Options,
    folders: tuple[Path, ...],
    collection: str,
    refresh: bool,
    report: Path | None,
) -> None:
    """Make the pictures in FOLDER, and in the folders inside it, searchable.

    Running it again sends only what is new, so it may be stopped at any time. Hidden files and
    folders are left out. Exit code 1 means that some files failed; each is named. For datasets
    with captions, tables and archives there is `sentinel import`.
    """
    run_import(
        ImportPlan(
            options=options,
            collection=collection,
            dataset=lambda: read_folders(folders),
            noun="pictures",
            refresh=refresh,
            report=report,
        )
    )
