"""`sentinel open`: show the pictures of items in this system's viewer."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import click

from sentinel_client import Item, SentinelClient
from sentinel_client.cli._console import Failure, Options, cache_folder
from sentinel_client.cli._files import file_name, local_path
from sentinel_client.cli._options import LastSearch, collection_option, full_id, last_search
from sentinel_client.importers.folders import is_image_name

# A viewer may take its time; what was opened before that is no longer needed.
_KEEP_S = 24 * 3600
_MAX_RANK_DIGITS = 5


@click.command("open")
@click.argument("given", nargs=-1, required=True, metavar="RANK|ID...")
@collection_option("The collection of an ID.")
@click.option("--print-path", is_flag=True, help="Print the paths; open nothing.")
@click.pass_obj
def open_items(options: Options, given: tuple[str, ...], collection: str, print_path: bool) -> None:
    """Open pictures: the hits of these ranks in your last search, or items by id.

    It opens the original file if that is on this machine, otherwise a copy of the stored image.
    Short ids of earlier results work. An id that is a number is written id:42.

    \b
    sentinel search "a dog on the beach"
    sentinel open 1 3
    """  # noqa: D301 - a real backspace, for click
    search = last_search()
    for one in given:
        place, name, item_id = _find(one, search, options, collection)
        path = _file(replace(options, address=place), name, item_id)
        if print_path:
            click.echo(path)
        elif click.launch(str(path)) != 0:
            raise Failure(f"no program opens {path}: show its path with --print-path", 1)


def _find(
    given: str, search: LastSearch | None, options: Options, collection: str
) -> tuple[str, str, str]:
    """Return address, collection and id of the item that was meant."""
    if given.isdecimal() and len(given) <= _MAX_RANK_DIGITS:
        if search is None:
            raise click.UsageError(
                f"there is no last search, so {given} is no rank; an id is written id:{given}"
            )
        if not 1 <= int(given) <= len(search.ids):
            raise click.UsageError(f"your last search has {len(search.ids):,} hits, not {given}")
        return search.address, search.collection, search.ids[int(given) - 1]
    return options.address, collection, full_id(given.removeprefix("id:"))


def _file(options: Options, collection: str, item_id: str) -> Path:
    """Return the file of an item: its original, or a copy of what is stored."""
    with options.open(SentinelClient) as client:
        found = client.get_items([item_id], collection=collection)
        if not len(found):
            raise Failure(f"no item {item_id!r} in {collection}")
        (item,) = found
        original = _original(item)
        if original is not None:
            return original
        if not item.image_uri:
            raise Failure(f"item {item_id!r} has no picture: see it with `sentinel items get`")
        image = client.download_image(item_id, collection=collection)
    try:
        folder = cache_folder() / "opened"
        folder.mkdir(parents=True, exist_ok=True)
        _remove_old(folder)
        path = folder / file_name(item_id, image)
        path.write_bytes(image.data)
    except OSError as error:
        raise Failure(f"cannot write {error.filename}: {error.strerror}") from error
    return path


def _original(item: Item) -> Path | None:
    """Return the indexed file, or the one that a reference names, if it is on this machine."""
    named = item.fields.get("path")
    for path in (named if isinstance(named, str) else "", local_path(item.image_uri)):
        # Whoever stored the item has written its path: never open a program. And an image in the
        # gateway's folder has no ending, by which a viewer would know it.
        if os.path.isabs(path) and is_image_name(os.path.basename(path)) and os.path.isfile(path):
            return Path(path)
    return None


def _remove_old(folder: Path) -> None:
    before = time.time() - _KEEP_S
    for path in folder.iterdir():
        with suppress(OSError):
            if path.stat().st_mtime < before:
                path.unlink()
