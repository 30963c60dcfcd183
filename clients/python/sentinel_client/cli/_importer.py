"""Import a dataset into a collection: find out which entries are missing, and send those.

    entries ──chunks──▶ ids ──▶ GetItems: which exist? ──▶ IngestItems ──▶ tally, journal

An item's id is the SHA-256 of its content unless the dataset has its own ids. So equal images are
one item. Stored items are not sent again and, with a journal, not read again.
"""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from sentinel_client import (
    AsyncSentinelClient,
    Collection,
    FieldValue,
    ImageUri,
    IngestAck,
    Item,
)
from sentinel_client._requests import gather_bounded
from sentinel_client.cli._console import cache_folder
from sentinel_client.importers.dataset import (
    BrokenEntry,
    Dataset,
    FileSlice,
    ImportItem,
    digest_stamp,
    unreadable,
)

# Small, so that sending begins at once; large, so that GetItems costs little per item.
_CHUNK = 256
_HASHES_AT_ONCE = 8
# Fields of the file's location, not of its content.
_LOCATION_FIELDS = frozenset({"path", "folder", "file_name", "modified_at"})

# A file that was just written can change again within the same clock tick and keep its stamp.
_SETTLED_S = 2.0


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
        # An empty collection was created again: the journal is about an earlier one.
        self._scope = f"{self.client.address}/{self.collection.name}"
        self._trust_journal = self.collection.item_count > 0 and not self.refresh
        self._seen: set[str] = set()
        self._failed_ids: dict[str, BrokenEntry] = {}
        self._duplicates: list[tuple[ImportItem, str]] = []
        # Bounded, so that the answers of GetItems are recent when the items are sent.
        self._to_send: asyncio.Queue[tuple[ImportItem, str] | None] = asyncio.Queue(_CHUNK)
        self._sent: dict[int, tuple[Item, ImportItem, str]] = {}
        self.tally = Tally()

    async def run(self) -> None:
        """Import the dataset. If it raises SentinelError, stored items stay stored."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._find_missing())
                group.create_task(self._send())
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        for item, item_id in self._duplicates:
            failure = self._failed_ids.get(item_id)
            if failure is None:
                self.tally.duplicates += 1
                self.on_done(1)
            else:
                self._fail(replace(failure, key=item.key))

    async def _find_missing(self) -> None:
        """Put the items to send into the queue."""
        entries = self.dataset.entries()
        while chunk := await asyncio.to_thread(lambda: list(islice(entries, _CHUNK))):
            items = []
            for entry in chunk:
                if isinstance(entry, BrokenEntry):
                    self._fail(entry)
                else:
                    fields = {key: one for key, one in entry.fields.items() if key in self.fields}
                    items.append(replace(entry, fields=fields))
            for pair in await self._missing(await self._identify(items)):
                await self._to_send.put(pair)
        await self._to_send.put(None)

    async def _identify(self, items: Sequence[ImportItem]) -> list[tuple[ImportItem, str]]:
        """Return each item with its id, "" if only the gateway knows it; without duplicates."""
        by_content = [item for item in items if _has_content_id(item)]
        hashes = await asyncio.to_thread(self.journal.known, "", by_content)
        ids = {item.key: one for item, one in zip(by_content, hashes, strict=True) if one}
        unknown = [item for item in by_content if item.key not in ids]
        hashed = await gather_bounded(self._hash, unknown, _HASHES_AT_ONCE)
        computed = [(item, one) for item, one in zip(unknown, hashed, strict=True) if one]
        await asyncio.to_thread(self.journal.remember, "", computed)
        ids.update((item.key, one) for item, one in computed)
        found = []
        for item in items:
            item_id = ids.get(item.key) if _has_content_id(item) else item.id
            if item_id is not None and self._is_first(item, item_id):
                found.append((item, item_id))
        return found

    async def _hash(self, item: ImportItem) -> str | None:
        try:
            return await asyncio.to_thread(content_hash, item)
        except OSError as error:
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

    async def _missing(
        self, items: Sequence[tuple[ImportItem, str]]
    ) -> list[tuple[ImportItem, str]]:
        """Return the items that are not stored, or stored with other fields."""
        if self.refresh:
            return list(items)
        # Only the journal knows the content of an item whose id is not a hash of it.
        without_hash = [item for item, _ in items if not _has_content_id(item)]
        ids = await asyncio.to_thread(
            self.journal.known, self._scope, map(_journal_key, without_hash)
        )
        unknown = {item.key for item, one in zip(without_hash, ids, strict=True) if one is None}
        to_check = [item_id for item, item_id in items if item_id and item.key not in unknown]
        stored = {}
        if to_check:
            found = await self.client.get_items(
                to_check, collection=self.collection.name, output_fields=self.fields
            )
            stored = {item.id: item.fields for item in found}
        missing = []
        for item, item_id in items:
            if item_id:
                exists = item_id in stored and await self._is_same(item.fields, stored[item_id])
            else:
                exists = item.key not in unknown and self._trust_journal
            if exists:
                self.tally.unchanged += 1
                self.on_done(1)
            else:
                missing.append((item, item_id))
        return missing

    async def _is_same(
        self, fields: Mapping[str, FieldValue], stored: Mapping[str, FieldValue]
    ) -> bool:
        old = {name: stored[name] for name in self.fields if name in stored}
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
        while (pair := await self._to_send.get()) is not None:
            entry, item_id = pair
            image = entry.image
            if isinstance(image, FileSlice):
                try:
                    image = await asyncio.to_thread(image.read)
                except OSError as error:
                    self._fail(unreadable(entry.key, error), item_id)
                    continue
            # Without an id, the server computes it from the bytes that it receives, so a file
            # that changed after it was hashed gets the right id.
            item = Item(id=entry.id, text=entry.text, image=image, fields=entry.fields)
            self._sent[id(item)] = (item, entry, item_id)
            yield item

    async def _count(self, ack: IngestAck) -> None:
        self.tally.stored += ack.stored_count
        self.tally.unchanged += ack.unchanged_count
        stored = []
        for index, item in enumerate(ack.items):
            _, entry, item_id = self._sent.pop(id(item))
            error = ack.failures.get(index)
            if error is not None:
                message = error.message.rstrip(".")
                self._fail(BrokenEntry(entry.key, error.reason, message), item_id)
                continue
            self.on_done(1)
            if not _has_content_id(entry):
                stored.append((_journal_key(entry), entry.id))
        if stored:
            await asyncio.to_thread(self.journal.remember, self._scope, stored)

    def _fail(self, failure: BrokenEntry, item_id: str = "") -> None:
        if item_id:
            self._failed_ids[item_id] = failure
        self.tally.failed += 1
        self.on_failed(failure)
        self.on_done(1)


class Journal:
    """Results of earlier imports: ids by scope, key and stamp. Blocking and thread-safe.

    The journal only saves reading all bytes again: if the id of an item is known, the server says
    whether the item is stored. It is one SQLite file in the user's cache folder. If the file cannot
    be opened or written, the journal is empty and everything is read again.

    The scope "" has the SHA-256 of an entry's content. Any other scope is a collection and has
    the id of the entry in it.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._database: sqlite3.Connection | None = None
        self._lock = threading.Lock()
        path = path or cache_folder() / "imports.sqlite3"
        with suppress(OSError, sqlite3.Error):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, check_same_thread=False, timeout=1)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS entries"
                " (scope TEXT, key BLOB, stamp TEXT, id TEXT, PRIMARY KEY (scope, key))"
                " WITHOUT ROWID"
            )

    def known(self, scope: str, items: Iterable[ImportItem]) -> list[str | None]:
        """Return the remembered id of each item, or None."""
        listed = list(items)
        with self._lock, suppress(sqlite3.Error):
            if self._database is not None:
                query = "SELECT id FROM entries WHERE scope = ? AND key = ? AND stamp = ?"
                keys = [(scope, _blob(item.key), item.stamp) for item in listed]
                rows = [self._database.execute(query, key).fetchone() for key in keys]
                return [None if row is None else str(row[0]) for row in rows]
        return [None] * len(listed)

    def remember(self, scope: str, ids: Iterable[tuple[ImportItem, str]]) -> None:
        """Store ids, except those of files that were just written."""
        settled = time.time_ns() - int(_SETTLED_S * 1e9)
        rows = [
            (scope, _blob(item.key), item.stamp, item_id)
            for item, item_id in ids
            if item.modified_ns < settled
        ]
        with self._lock:
            if self._database is not None and rows:
                with suppress(sqlite3.Error), self._database:
                    self._database.executemany(
                        "INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?)", rows
                    )

    def close(self) -> None:
        with self._lock:
            if self._database is not None:
                self._database.close()
                self._database = None


def content_hash(item: ImportItem) -> str:
    """Return the hex SHA-256 of the item's image or text. Blocking."""
    if isinstance(item.image, Path):
        with item.image.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    content = item.image.read() if isinstance(item.image, FileSlice) else item.image
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha256((item.text or "").encode()).hexdigest()


def _has_content_id(item: ImportItem) -> bool:
    """Check whether the item's id is a hash that can be computed here."""
    return not item.id and not isinstance(item.image, ImageUri)


def _journal_key(item: ImportItem) -> ImportItem:
    """Return the key and stamp in the journal of an item without such an id."""
    if item.id:
        return replace(item, key=f"{item.key}\n{item.id}")
    # Its id is unknown, so its fields cannot be compared with the stored ones.
    return replace(item, stamp=f"{item.stamp}:{digest_stamp(dict(item.fields))}")


def _exists(path: str) -> bool:
    try:
        return bool(path) and Path(path).exists()
    except (OSError, ValueError):  # no permission, or not a path
        return False


def _blob(key: str) -> bytes:
    return key.encode("utf-8", "surrogateescape")
