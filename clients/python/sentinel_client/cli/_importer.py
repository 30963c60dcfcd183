"""Import a dataset into a collection: find out which entries are missing, and send those.

    entries ──chunks──▶ ids ──▶ GetItems: which exist? ──▶ IngestItems ──▶ tally, journal

An item's id is the SHA-256 of its content unless the dataset has its own ids. So equal images are
one item. The gateway says which items are stored, with which content and fields; those are not
sent again. The journal spares reading the files again. Only the gateway reads an image at a URL. It
says the content when it has stored it: from then on, an equal URL counts as an equal image.
"""

from __future__ import annotations

import asyncio
import time
import unicodedata
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from sentinel_client import (
    AsyncSentinelClient,
    Collection,
    FailedPrecondition,
    ImageUri,
    IngestAck,
    Item,
)
from sentinel_client._processes import in_thread
from sentinel_client._requests import gather_bounded
from sentinel_client.cli._journal import Journal, content_hash
from sentinel_client.importers.dataset import (
    BrokenEntry,
    Dataset,
    FileSlice,
    ImportItem,
    unreadable,
)

# Small, so that sending begins at once; large, so that GetItems costs little per item.
_CHUNK = 256
_HASHES_AT_ONCE = 8
# How many stored items are looked up again at the end.
_CHECKED_IDS = 100
# The contract's limit.
_MAX_ID_BYTES = 256
# Fields of the file's location, not of its content.
_LOCATION_FIELDS = frozenset({"path", "folder", "file_name", "modified_at"})


@dataclass
class Tally:
    """The number of entries so far, by result."""

    stored: int = 0
    unchanged: int = 0
    duplicates: int = 0
    failed: int = 0
    started: float = field(default_factory=time.monotonic)

    @property
    def done(self) -> int:
        return self.stored + self.unchanged + self.duplicates + self.failed

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started


class _Identified(NamedTuple):
    """An item with its id and the hex SHA-256 of its content; "" if only the gateway knows it."""

    item: ImportItem
    id: str
    content: str


@dataclass(kw_only=True)
class Importer:
    """Imports one dataset into one collection. Run it once; `tally` is always up to date.

    Fields that the collection does not declare are left out. `on_done` gets the number of entries
    that now have a result, `on_failed` each entry that could not be stored. `refresh` sends stored
    items again.
    """

    client: AsyncSentinelClient
    collection: Collection
    dataset: Dataset
    journal: Journal
    on_done: Callable[[int], None]
    on_failed: Callable[[BrokenEntry], None]
    refresh: bool = False

    def __post_init__(self) -> None:
        declared = {(schema.name, schema.type) for schema in self.collection.fields}
        self.fields = [one.name for one in self.dataset.fields if (one.name, one.type) in declared]
        self._seen: set[str] = set()
        self._first_ids: list[str] = []  # of stored items
        self._failed_ids: dict[str, BrokenEntry] = {}
        self._duplicates: list[tuple[ImportItem, str]] = []
        # Bounded, so that the answers of GetItems are recent when the items are sent.
        self._to_send: asyncio.Queue[_Identified | None] = asyncio.Queue(_CHUNK)
        self._sent: dict[int, tuple[Item, _Identified]] = {}
        self.tally = Tally()

    async def run(self) -> None:
        """Import the dataset. If it raises SentinelError, stored items stay stored."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._find_missing())
                group.create_task(self._send())
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        await self._check_collection()
        for item, item_id in self._duplicates:
            failure = self._failed_ids.get(item_id)
            if failure is None:
                self.tally.duplicates += 1
                self.on_done(1)
            else:
                self._fail(replace(failure, key=item.key))

    async def _check_collection(self) -> None:
        """Raise FailedPrecondition if another collection has the name now, without the first items.

        Somebody may delete it, or delete and create it, during a long import.
        """
        if self._first_ids:
            found = await self.client.get_items(
                self._first_ids, collection=self.collection.name, output_fields=self.fields[:1]
            )
            if found.missing_ids:
                raise FailedPrecondition(
                    "ITEMS_GONE",
                    f"items of this import are gone again, the first is {found.missing_ids[0]}; "
                    f"was {self.collection.name} deleted or created again meanwhile?",
                )

    async def _find_missing(self) -> None:
        """Put the items to send into the queue."""
        entries = self.dataset.entries()
        while chunk := await in_thread(lambda: list(islice(entries, _CHUNK))):
            items = []
            for entry in chunk:
                if isinstance(entry, BrokenEntry):
                    self._fail(entry)
                else:
                    fields = {key: one for key, one in entry.fields.items() if key in self.fields}
                    items.append(replace(entry, fields=fields))
            for one in await self._missing(await self._identify(items)):
                await self._to_send.put(one)
        await self._to_send.put(None)

    async def _identify(self, items: Sequence[ImportItem]) -> list[_Identified]:
        """Return each item with its id and content; without duplicates."""
        known = await asyncio.to_thread(self.journal.known, items)
        contents = {item.key: one for item, one in zip(items, known, strict=True) if one}
        unknown = [
            item
            for item in items
            if item.key not in contents and not isinstance(item.image, ImageUri)
        ]
        hashed = await gather_bounded(self._hash, unknown, _HASHES_AT_ONCE)
        computed = [(item, one) for item, one in zip(unknown, hashed, strict=True) if one]
        await asyncio.to_thread(self.journal.remember, computed)
        contents.update((item.key, one) for item, one in computed)
        found = []
        for item in items:
            content = contents.get(item.key, "")
            readable = content or isinstance(item.image, ImageUri)
            identified = _Identified(item, item.id or content, content)
            if readable and self._is_first(item, identified.id):
                found.append(identified)
        return found

    async def _hash(self, item: ImportItem) -> str | None:
        try:
            return await in_thread(partial(content_hash, item))
        except (OSError, ValueError) as error:  # ValueError: a path with NUL or not Unicode
            self._fail(unreadable(item.key, error))
            return None

    def _is_first(self, item: ImportItem, item_id: str) -> bool:
        if item_id not in self._seen:
            if item_id:
                self._seen.add(item_id)
            return True
        if item.id:
            message = f"another entry has the id {item.id!r}, too"
            self._fail(BrokenEntry(item.key, "ID_TWICE", message))
        else:
            self._duplicates.append((item, item_id))  # gets the result of the first one
        return False

    async def _missing(self, items: Sequence[_Identified]) -> list[_Identified]:
        """Return the items that are not stored, or stored with another content or other fields."""
        if self.refresh:
            return list(items)
        stored = {}
        if to_check := [one.id for one in items if one.content and _is_id(one.id)]:
            found = await self.client.get_items(
                to_check, collection=self.collection.name, output_fields=self.fields
            )
            stored = {item.id: item for item in found}
        missing = []
        for one in items:
            old = stored.get(one.id) if one.content else None
            if old is not None and await self._is_same(one, old):
                self.tally.unchanged += 1
                self.on_done(1)
                self._is_stored(one.id)
            else:
                missing.append(one)
        return missing

    async def _is_same(self, new: _Identified, stored: Item) -> bool:
        if new.content not in (stored.id, stored.digest):
            return False
        fields = new.item.fields
        old = {name: stored.fields[name] for name in self.fields if name in stored.fields}
        different = {name for name in {*fields, *old} if fields.get(name) != old.get(name)}
        if not different:
            return True
        # The stored path is another file with the same image. If that file no longer exists, it
        # was moved, and the new path must be stored.
        copied = "path" in different and different <= _LOCATION_FIELDS
        return copied and await asyncio.to_thread(_exists, str(old.get("path", "")))

    async def _send(self) -> None:
        acks = self.client.ingest(self._items(), collection=self.collection.name)
        async with aclosing(acks):
            async for ack in acks:
                await self._count(ack)

    async def _items(self) -> AsyncGenerator[Item, None]:
        while (identified := await self._to_send.get()) is not None:
            entry = identified.item
            image = entry.image
            if isinstance(image, FileSlice):
                try:
                    image = await in_thread(image.read)
                except OSError as error:
                    self._fail(unreadable(entry.key, error), identified.id)
                    continue
            # Without an id, the server computes it from the bytes that it receives, so a file
            # that changed after it was hashed gets the right id.
            item = Item(id=entry.id, text=entry.text, image=image, fields=entry.fields)
            self._sent[id(item)] = (item, identified)
            yield item

    async def _count(self, ack: IngestAck) -> None:
        self.tally.stored += ack.stored_count
        self.tally.unchanged += ack.unchanged_count
        fetched = []
        for index, item in enumerate(ack.items):
            _, sent = self._sent.pop(id(item))
            error = ack.failures.get(index)
            if error is not None:
                message = error.message.rstrip(".")
                self._fail(BrokenEntry(sent.item.key, error.reason, message), sent.id)
                continue
            self.on_done(1)
            self._is_stored(sent.id or ack.digests[index])
            if isinstance(item.image, ImageUri) and ack.digests[index]:
                fetched.append((sent.item, ack.digests[index]))
        if fetched:
            await asyncio.to_thread(self.journal.remember, fetched)

    def _is_stored(self, item_id: str) -> None:
        if item_id and len(self._first_ids) < _CHECKED_IDS:
            self._first_ids.append(item_id)

    def _fail(self, failure: BrokenEntry, item_id: str = "") -> None:
        if item_id:
            self._failed_ids[item_id] = failure
        self.tally.failed += 1
        self.on_failed(failure)
        self.on_done(1)


def _is_id(text: str) -> bool:
    """Check the contract's rules for ids: one wrong id would fail the request of all."""
    unusable = any(unicodedata.category(character) in ("Cc", "Cs") for character in text)
    return not unusable and len(text.encode()) <= _MAX_ID_BYTES


def _exists(path: str) -> bool:
    try:
        return bool(path) and Path(path).exists()
    except (OSError, ValueError):  # no permission, or not a path
        return False
