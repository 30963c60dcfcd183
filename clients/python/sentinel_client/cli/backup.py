"""`sentinel backup`: write collections of a running gateway to one file.

It reads through the gateway like any caller, so searches and writes go on. Each item is in the file
as it was at one moment of the run: its vector, fields and content belong together. An item that was
there all the time is in the file; one that was stored or deleted meanwhile may be.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TypeAlias

import click
from rich.filesize import decimal
from rich.progress import Progress

from sentinel.search.v1 import collection_service_pb2 as collection_pb
from sentinel.search.v1 import item_service_pb2 as item_pb
from sentinel_client import AsyncSentinelClient, DownloadedImage, NotFound, SentinelError, _rpcs
from sentinel_client.cli import _backup_file
from sentinel_client.cli._backup_file import BackupWriter
from sentinel_client.cli._backup_items import belongs, saved_item, to_json, write_part
from sentinel_client.cli._commands import tell_error
from sentinel_client.cli._console import Failure, Options, err, progress_bar, tell
from sentinel_client.cli._options import complete_collection, outcome_options

_PAGE_ITEMS = 100
# A part has up to so many items, or bytes of images: what is held in memory.
_PART_ITEMS = 500
_PART_BYTES = 32 * 1024 * 1024
_DOWNLOADS = 8
_READINGS = 3
# A gateway may be restarted during a long backup.
ATTEMPTS = 12


# An item as it goes into the file, with its image.
_Saved: TypeAlias = tuple[item_pb.Item, DownloadedImage | None]


@dataclass(slots=True)
class _Counts:
    """What was written of one collection."""

    items: int = 0
    images: int = 0
    gone: list[str] = field(default_factory=list)


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--collection",
    "-c",
    "names",
    multiple=True,
    shell_complete=complete_collection,
    help="Only this collection. Repeatable.  [default: all]",
)
@click.option(
    "--no-originals",
    is_flag=True,
    help="Leave out the images that are stored by reference; their places are in the backup.",
)
@outcome_options
@click.pass_obj
def backup(
    options: Options,
    *,
    file: Path,
    names: tuple[str, ...],
    no_originals: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Write collections with all their items and images to FILE, while the gateway serves.

    FILE has the whole backup or, if it does not succeed, what it had before. `sentinel restore`
    reads it. Exit code 1: originals are gone from where they were; each is listed. Then a FILE that
    exists stays as it was.
    """
    with _backup_file.writing(file) as writer, progress_bar(err(quiet=quiet)) as progress:
        made = _Backup(options, writer, progress, originals=not no_originals)
        counts = asyncio.run(made.run(names))
        gone = sum(len(one.gone) for one in counts.values())
        if gone and file.exists():
            # The one before may have them, and a disk may only be away.
            raise Failure(
                f"{gone:,} originals are gone, and {file} has a backup of before, which stays: "
                "write to another file, or leave out all originals with --no-originals",
                exit_code=1,
            )
    size = file.stat().st_size
    items = sum(one.items for one in counts.values())
    facts = {
        "file": str(file),
        "bytes": size,
        "collections": {name: _as_dict(one) for name, one in counts.items()},
    }
    text = f"{file}: {items:,} items of {', '.join(counts) or 'no collection'}, {decimal(size)}."
    tell(text, facts, as_json=as_json, quiet=quiet)
    raise SystemExit(1 if gone else 0)


class _Backup:
    """One run of the command."""

    def __init__(
        self, options: Options, writer: BackupWriter, progress: Progress, *, originals: bool
    ) -> None:
        self._options = options
        self._writer = writer
        self._progress = progress
        self._originals = originals

    async def run(self, names: tuple[str, ...]) -> dict[str, _Counts]:
        """Write everything; return what was written, by collection."""
        async with self._options.open(AsyncSentinelClient, max_attempts=ATTEMPTS) as client:
            self._client = client
            self._call = client._connection.unary  # items as the contract's own messages
            found = [await self._describe(name) for name in names] or [
                await self._describe(one.name) for one in await client.list_collections()
            ]
            found = list({one.name: one for one in found}.values())  # two names of one
            header = {
                "format": _backup_file.FORMAT,
                "made_by": f"sentinel {version('sentinel-retrieval-client')}",
                "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
                "collections": [to_json(one) for one in found],
            }
            self._writer.add(_backup_file.HEADER, json.dumps(header, indent=1).encode())
            counts = {one.name: await self._collection(one) for one in found}
            self._writer.finish(
                {"collections": {name: _as_dict(one) for name, one in counts.items()}}
            )
            return counts

    async def _describe(self, name: str) -> collection_pb.Collection:
        request = collection_pb.GetCollectionRequest(name=name)
        return (await self._call(_rpcs.GET_COLLECTION, request, None)).collection

    async def _collection(self, collection: collection_pb.Collection) -> _Counts:
        """Write the items of one collection, in parts."""
        counts = _Counts()
        bar = self._progress.add_task(collection.name, total=collection.item_count)
        part: list[_Saved] = []
        held = number = 0
        async with aclosing(self._items(collection.name, counts)) as items:
            async for item, image in items:
                part.append((item, image))
                held += item.ByteSize() + (len(image.data) if image else 0)
                self._progress.advance(bar)
                if len(part) >= _PART_ITEMS or held >= _PART_BYTES:
                    number += 1
                    folder = f"{collection.name}/{number:06}"
                    await asyncio.to_thread(write_part, self._writer, folder, part)
                    part, held = [], 0
        if part:
            folder = f"{collection.name}/{number + 1:06}"
            await asyncio.to_thread(write_part, self._writer, folder, part)
        return counts

    async def _items(self, collection: str, counts: _Counts) -> AsyncGenerator[_Saved, None]:
        """Yield the items in the order of their ids, with a few downloads in flight."""
        request = item_pb.ListItemsRequest(
            collection=collection, page_size=_PAGE_ITEMS, include_vectors=True
        )
        waiting: deque[asyncio.Task[_Saved | None]] = deque()
        try:
            while True:
                page = await self._call(_rpcs.LIST_ITEMS, request, None)
                for item in page.items:
                    task = asyncio.create_task(self._saved(collection, item, counts))
                    waiting.append(task)
                    if len(waiting) >= _DOWNLOADS and (saved := await waiting.popleft()):
                        yield saved
                if not page.next_page_token:
                    break
                request.page_token = page.next_page_token
            while waiting:
                if saved := await waiting.popleft():
                    yield saved
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def _saved(self, collection: str, item: item_pb.Item, counts: _Counts) -> _Saved | None:
        """Return an item with the image that belongs to it; None if it was deleted."""
        for _ in range(_READINGS):
            image = None
            if item.image_uri and (self._originals or not item.by_reference):
                try:
                    image = await self._client.download_image(item.id, collection=collection)
                except NotFound as error:
                    if error.reason == "ORIGINAL_GONE":
                        self._note_gone(item, error, counts)
                        return saved_item(item, b""), None
            data = image.data if image else item.content.text.encode()
            was_read = image is not None or not item.image_uri or item.by_reference
            if was_read and (not data or belongs(item, data)):
                break
            # It was replaced or deleted meanwhile; or its vector is stored in fewer bits than the
            # caller gave, and will look the same the next time.
            request = item_pb.GetItemsRequest(
                collection=collection, ids=[item.id], include_vectors=True
            )
            answer = await self._call(_rpcs.GET_ITEMS, request, None)
            if not answer.items:
                return None
            if was_read and answer.items[0].digest == item.digest:
                break
            item = answer.items[0]
        counts.items += 1
        counts.images += image is not None
        return saved_item(item, data), image

    def _note_gone(self, item: item_pb.Item, error: SentinelError, counts: _Counts) -> None:
        counts.items += 1
        counts.gone.append(item.id)
        tell_error(item.image_uri, error)


def _as_dict(counts: _Counts) -> dict[str, object]:
    return {"items": counts.items, "images": counts.images, "gone": len(counts.gone)}
