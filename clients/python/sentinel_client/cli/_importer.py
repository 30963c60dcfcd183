"""Import a dataset into a collection: find out which entries are missing, and send those.

    entries ──chunks──▶ ids ──▶ GetItems: which exist? ──▶ IngestItems ──▶ tally, journal

An item's id is the SHA-256 of its content unless the dataset has its own ids. So equal images are
one item; in folders, the first path of a walk is its path. The gateway says which items are stored,
with which content and fields; those are not sent again. The journal spares reading the files again.
Only the gateway reads an image at a URL. It says the content when it has stored it: from then on,
an equal URL counts as an equal image.
"""

from __future__ import annotations

import asyncio
import time
import unicodedata
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

from sentinel_client import (
    AsyncSentinelClient,
    Collection,
    FailedPrecondition,
    ImageUri,
    IngestAck,
    Item,
)
from sentinel_client._filters import FieldValue
from sentinel_client._pipeline import chunks, in_order
from sentinel_client._processes import in_thread
from sentinel_client._requests import gather_bounded
from sentinel_client._text import valid_text
from sentinel_client.cli._journal import Journal, Reading, read_item
from sentinel_client.cli._references import References
from sentinel_client.cli._seen import Seen
from sentinel_client.importers.dataset import (
    BrokenEntry,
    Dataset,
    EmbeddedPreview,
    FileSlice,
    ImportItem,
    unreadable,
)
from sentinel_client.importers.folders import Folders, is_below
from sentinel_client.importers.raw_previews import PreviewReader

# One GetItems. Items that must be read first come in small groups, so that sending begins at once.
_CHUNK = 1_000
_CHUNK_TO_READ = 64
_READ_AT_ONCE = 8
_LOOKUPS_AT_ONCE = 3
_QUEUE = 256
# How many stored items are looked up again at the end.
_CHECKED_IDS = 100
_MAX_NEW_PATHS = 2_000
# The contract's limit.
_MAX_ID_BYTES = 256
# Fields of the file's location, not of its content.
_LOCATION_FIELDS = frozenset({"path", "folder", "file_name", "modified_at"})
# In folders they follow from the path, so that they need no reading.
_DERIVED_FIELDS = frozenset({"folder", "file_name"})
# The content itself is refused, now and later.
_BAD_CONTENT = "IMAGE_"


@dataclass
class Tally:
    """The number of entries so far, by result."""

    stored: int = 0
    moved: int = 0  # only where the file is has changed: nothing was embedded
    unchanged: int = 0
    duplicates: int = 0
    failed: int = 0
    truncated: int = 0  # texts, stored now, of which the model read only the beginning
    below: int = 0  # stored items whose path is below the folders that were walked
    started: float = field(default_factory=time.monotonic)

    @property
    def done(self) -> int:
        return self.stored + self.moved + self.unchanged + self.duplicates + self.failed

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started


class _Identified(NamedTuple):
    """An item with its id, the hex SHA-256 of its content, and all its fields.

    Id and content are empty if only the gateway knows the content. It has moved if it is stored
    with the path of another place, and the same otherwise.
    """

    item: ImportItem
    id: str
    content: str
    fields: Mapping[str, FieldValue]
    has_moved: bool = False


@dataclass(kw_only=True)
class Importer:
    """Imports one dataset into one collection. Run it once; `tally` is always up to date.

    Fields that the collection does not declare are left out. `on_done` gets the number of entries
    that now have a result, `on_failed` each entry that could not be stored. `refresh` sends stored
    items again. `seen` is empty at first. `references` tells whose files stay where they are.
    """

    client: AsyncSentinelClient
    collection: Collection
    dataset: Dataset
    journal: Journal
    seen: Seen
    references: References
    on_done: Callable[[int], None]
    on_failed: Callable[[BrokenEntry], None]
    refresh: bool = False

    def __post_init__(self) -> None:
        declared = {(schema.name, schema.type) for schema in self.collection.fields}
        self.fields = [one.name for one in self.dataset.fields if (one.name, one.type) in declared]
        self._walk = self.dataset.walk if isinstance(self.dataset, Folders) else None
        derived = _DERIVED_FIELDS if self._walk and "path" in self.fields else frozenset()
        self._compared = [name for name in self.fields if name not in derived]
        # A collection of something else than folders: its items keep the fields that they have.
        self._is_foreign = self._walk is not None and "path" not in self.fields
        # Paths whose item may have replaced another; None: too many to keep.
        self.new_paths: list[str] | None = []
        self._first_ids: list[str] = []  # of stored items
        self._failed_ids: dict[str, BrokenEntry] = {}
        # Bounded, so that the answers of GetItems are recent when the items are sent.
        self._to_send: asyncio.Queue[_Identified | None] = asyncio.Queue(_QUEUE)
        self._previews = PreviewReader()
        self._sent: dict[int, tuple[Item, _Identified]] = {}
        self._to_copy: list[_Identified] = []  # the gateway cannot read their files
        self.tally = Tally()

    async def run(self) -> None:
        """Import the dataset. If it raises SentinelError, stored items stay stored."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._find_missing())
                group.create_task(self._send())
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            self._previews.close()
        await self._check_collection()
        for key, item_id in self.seen.duplicates():
            failure = self._failed_ids.get(item_id)
            if failure is None:
                self.tally.duplicates += 1
                self.on_done(1)
            else:
                self._fail(replace(failure, key=key))

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
        groups = in_order(self._missing, self._identified(), _LOOKUPS_AT_ONCE)
        async with aclosing(groups):
            async for missing in groups:
                for one in missing:
                    await self._to_send.put(one)
        await self._to_send.put(None)

    async def _identified(self) -> AsyncGenerator[list[_Identified], None]:
        """Yield the items with their ids and contents; without duplicates."""
        async for entries in chunks(self.dataset.entries(), _CHUNK):
            items = []
            for entry in entries:
                if isinstance(entry, BrokenEntry):
                    self._fail(entry)
                else:
                    items.append(entry)
            readings = await asyncio.to_thread(self.journal.known, items)
            known, unknown = [], []
            for item, reading in zip(items, readings, strict=True):
                if reading is not None:
                    known.append((item, reading))
                elif isinstance(item.image, ImageUri):
                    known.append((item, Reading("", {})))
                else:
                    unknown.append(item)
            if known:
                yield await asyncio.to_thread(self._first_ones, known)
            for start in range(0, len(unknown), _CHUNK_TO_READ):
                part = unknown[start : start + _CHUNK_TO_READ]
                done = await gather_bounded(self._read, part, _READ_AT_ONCE)
                read = [(item, one) for item, one in zip(part, done, strict=True) if one]
                await asyncio.to_thread(self.journal.remember, read)
                yield await asyncio.to_thread(self._first_ones, read)

    async def _read(self, item: ImportItem) -> Reading | None:
        try:
            return await in_thread(partial(read_item, item))
        except (OSError, ValueError) as error:  # ValueError: a path with NUL or not Unicode
            self._fail(unreadable(item.key, error))
            return None

    def _first_ones(self, read: Sequence[tuple[ImportItem, Reading]]) -> list[_Identified]:
        """Return the items whose id is new in this run; blocks."""
        found = [
            _Identified(item, item.id or one.sha256, one.sha256, self._all_fields(item, one))
            for item, one in read
        ]
        if self._walk is not None:
            self.seen.note_paths((str(one.item.fields["path"]), one.id) for one in found)
        new = iter(self.seen.claim([one.id for one in found if one.id]))
        first, duplicates = [], []
        for one in found:
            if not one.id or next(new):
                first.append(one)
            elif one.item.id:
                message = f"another entry has the id {one.id!r}, too"
                self._fail(BrokenEntry(one.item.key, "ID_TWICE", message))
            else:
                duplicates.append((one.item.key, one.id))  # get the result of the first one
        self.seen.add_duplicates(duplicates)
        return first

    def _all_fields(self, item: ImportItem, reading: Reading) -> Mapping[str, FieldValue]:
        fields = {**item.fields, **reading.details}
        return {name: fields[name] for name in self.fields if name in fields}

    async def _missing(self, items: Sequence[_Identified]) -> list[_Identified]:
        """Return the items that are not stored, or stored with another content or other fields."""
        if self.refresh:
            self._note_new(items)
            return list(items)
        stored = {}
        if to_check := [one.id for one in items if one.content and _is_id(one.id)]:
            found = await self.client.get_items(
                to_check, collection=self.collection.name, output_fields=self._compared
            )
            stored = {item.id: item for item in found}
        missing, unchanged = [], 0
        for one in items:
            old = stored.get(one.id) if one.content else None
            if old is not None and await self._is_same(one, old):
                unchanged += 1
                self._is_stored(one.id, str(old.fields.get("path", "")))
            else:
                missing.append(one._replace(has_moved=self._has_moved(one, old)))
        self._note_new(missing)
        self.tally.unchanged += unchanged
        self.on_done(unchanged)
        return missing

    async def _is_same(self, new: _Identified, stored: Item) -> bool:
        if new.content not in (stored.id, stored.digest):
            return False
        different = self._differences(new, stored)
        if not different or self._is_foreign:
            return self.references.is_same(new.item.image, stored)
        path = str(stored.fields.get("path", ""))
        if "path" not in different or not different <= _LOCATION_FIELDS or self._walks(path):
            return False
        # The stored path is another file, elsewhere. If it has this content no more, it was moved.
        return await asyncio.to_thread(self.journal.has_content, path, new.content)

    def _has_moved(self, new: _Identified, stored: Item | None) -> bool:
        if stored is None or new.content not in (stored.id, stored.digest):
            return False
        different = self._differences(new, stored)
        return "path" in different and different <= _LOCATION_FIELDS

    def _differences(self, new: _Identified, stored: Item) -> set[str]:
        """Return the fields that are stored with another value."""
        return {name for name in self._compared if new.fields.get(name) != stored.fields.get(name)}

    def _note_new(self, items: Sequence[_Identified]) -> None:
        if self.new_paths is not None and self._walk is not None:
            self.new_paths += [str(one.fields.get("path", "")) for one in items]
            if len(self.new_paths) > _MAX_NEW_PATHS:
                self.new_paths = None

    def _walks(self, path: str) -> bool:
        """Tell whether a path is in the folders that this run walks."""
        return self._walk is not None and any(is_below(path, one) for one in self._walk.starts)

    async def _send(self) -> None:
        await self._ingest(self._items(self._queued()))
        if self._to_copy:
            await self._ingest(self._items(self._refused()))

    async def _ingest(self, items: AsyncGenerator[Item, None]) -> None:
        acks = self.client.ingest(items, collection=self.collection.name)
        async with aclosing(acks):
            async for ack in acks:
                await self._count(ack)

    async def _queued(self) -> AsyncGenerator[tuple[_Identified, bool], None]:
        """Yield what to send, and whether by reference."""
        while (identified := await self._to_send.get()) is not None:
            yield identified, self.references.covers(identified.item.image)

    async def _refused(self) -> AsyncGenerator[tuple[_Identified, bool], None]:
        for identified in self._to_copy:
            yield identified, False

    async def _items(
        self, to_send: AsyncGenerator[tuple[_Identified, bool], None]
    ) -> AsyncGenerator[Item, None]:
        async for identified, by_reference in to_send:
            entry = identified.item
            # Without an id, the server computes it from the bytes that it receives, so a file
            # that changed after it was hashed gets the right id.
            item_id, image = entry.id, entry.image
            try:
                if isinstance(image, FileSlice):
                    image = await in_thread(image.read)
                elif isinstance(image, EmbeddedPreview):
                    read = partial(self._previews.read, image.path)
                    item_id, image = identified.id, await in_thread(read)
            except OSError as error:
                self._fail(unreadable(entry.key, error), identified.id)
                continue
            item = Item(
                id=item_id,
                text=entry.text,
                image=image,
                fields=identified.fields,
                digest=identified.content if by_reference else "",
                by_reference=by_reference,
            )
            self._sent[id(item)] = (item, identified)
            yield item

    async def _count(self, ack: IngestAck) -> None:
        moved = 0
        self.tally.unchanged += ack.unchanged_count
        self.tally.truncated += ack.truncated_count
        fetched = []
        for index, item in enumerate(ack.items):
            _, sent = self._sent.pop(id(item))
            error = ack.failures.get(index)
            if error is not None and item.by_reference and self.references.must_copy(error):
                self._to_copy.append(sent)
                continue
            if error is not None:
                message = error.message.rstrip(".")
                self._fail(BrokenEntry(sent.item.key, error.reason, message), sent.id)
                continue
            moved += sent.has_moved
            self.on_done(1)
            self.references.note_stored(sent.item.image, by_reference=item.by_reference)
            digest = ack.digests[index]
            path = str(sent.fields.get("path", ""))
            if item.id or digest in ("", sent.id):
                self._is_stored(sent.id or digest, path)
            elif not sent.id or self.seen.claim([digest])[0]:  # it changed after it was hashed
                self.seen.note_paths([(path, digest)])
                self._is_stored(digest, path)
            if isinstance(item.image, ImageUri) and digest:
                fetched.append((sent.item, Reading(digest, {})))
        moved = min(moved, ack.stored_count)  # somebody else may have stored the new path
        self.tally.moved += moved
        self.tally.stored += ack.stored_count - moved
        if fetched:
            await asyncio.to_thread(self.journal.remember, fetched)

    def _is_stored(self, item_id: str, path: str) -> None:
        self.tally.below += self._walks(path)
        if item_id and len(self._first_ids) < _CHECKED_IDS:
            self._first_ids.append(item_id)

    def _fail(self, failure: BrokenEntry, item_id: str = "") -> None:
        if item_id:
            self._failed_ids[item_id] = failure
        if not failure.reason.startswith(_BAD_CONTENT):
            self.seen.note_paths([(valid_text(failure.key), "")])
        self.tally.failed += 1
        self.on_failed(failure)
        self.on_done(1)


def _is_id(text: str) -> bool:
    """Check the contract's rules for ids: one wrong id would fail the request of all."""
    if len(text) == 64 and text.isalnum() and text.isascii():
        return True
    unusable = any(unicodedata.category(character) in ("Cc", "Cs") for character in text)
    return not unusable and len(text.encode()) <= _MAX_ID_BYTES
