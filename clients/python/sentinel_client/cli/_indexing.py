"""Files into a collection: hash, ask what is there, send the rest; resumable at any point.

    files ──chunks──▶ hash ──▶ GetItems: which are there? ──batches──▶ senders (several) ──▶ tally

An item's id is the SHA-256 of its bytes, so two equal files are one item, and a file that is
stored is never read or sent again unless it has moved.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sentinel_client._batches import cut, gather_bounded
from sentinel_client._client import AsyncSentinelClient
from sentinel_client._config import MIB
from sentinel_client._errors import SentinelError
from sentinel_client._filters import FieldValue
from sentinel_client._types import Collection, FieldSchema, FieldType, Item, ItemResult, Outcome
from sentinel_client.cli._scan import HashJournal, PictureFile, sha256

FIELDS = (
    FieldSchema("path", FieldType.STRING),
    FieldSchema("file_name", FieldType.STRING),
    FieldSchema("folder", FieldType.STRING),
    FieldSchema("size_bytes", FieldType.INT64),
    FieldSchema("modified_at", FieldType.INT64),
)

# Small enough that sending begins at once, large enough that asking costs nothing.
_CHUNK_FILES = 128
_HASHING_AT_ONCE = 8
_BATCH_FILES = 32
# With ids and fields a request stays under 16 MiB.
_BATCH_BYTES = 14 * MIB
# What one message can carry at all.
_MAX_FILE_BYTES = 63 * MIB
# Pauses before items that failed for a passing reason are sent again.
_ITEM_RETRY_PAUSES_S = (1.0, 3.0, 9.0)


@dataclass
class Tally:
    """What has become of the files so far."""

    stored: int = 0
    unchanged: int = 0
    duplicates: int = 0
    failed: int = 0
    bytes_sent: int = 0
    started: float = field(default_factory=time.monotonic)

    @property
    def done(self) -> int:
        """Files that are decided."""
        return self.stored + self.unchanged + self.duplicates + self.failed

    @property
    def seconds(self) -> float:
        """Time since the start."""
        return time.monotonic() - self.started


class Indexer:
    """Indexes files into one collection. Run it once; `tally` is right at any moment.

    Args:
        client: An open client.
        collection: The collection; fields it does not declare are left out.
        journal: Remembered hashes.
        on_done: Called with the number of files decided, for a progress bar.
        on_failed: Called with each file that is not stored, and why.
        in_flight: Upsert requests at once.
        refresh: Send what is there as well.
    """

    def __init__(
        self,
        client: AsyncSentinelClient,
        collection: Collection,
        journal: HashJournal,
        *,
        on_done: Callable[[int], None],
        on_failed: Callable[[str, str], None],
        in_flight: int = 4,
        refresh: bool = False,
    ) -> None:
        self._client = client
        self._collection = collection.name
        self._declared = set(collection.fields)
        self._journal = journal
        self._on_done = on_done
        self._on_failed = on_failed
        self._in_flight = in_flight
        self._refresh = refresh
        self._first_path: dict[str, str] = {}  # by id, of this run
        self._failed_ids: dict[str, str] = {}
        self._duplicates: list[tuple[PictureFile, str]] = []
        self.tally = Tally()

    async def run(self, files: Sequence[PictureFile]) -> None:
        """Index `files`.

        Raises:
            SentinelError: A call failed for good; what was stored until then stays stored.
        """
        # Bounded, so that hashing does not run far ahead of what was asked and may change.
        batches: asyncio.Queue[list[tuple[PictureFile, str]] | None] = asyncio.Queue(
            self._in_flight
        )
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._produce(files, batches))
                for _ in range(self._in_flight):
                    group.create_task(self._send_all(batches))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        for file, item_id in self._duplicates:
            reason = self._failed_ids.get(item_id)
            if reason is None:
                self.tally.duplicates += 1
                self._on_done(1)
            else:
                self._fail(file, reason)

    async def _produce(
        self,
        files: Sequence[PictureFile],
        batches: asyncio.Queue[list[tuple[PictureFile, str]] | None],
    ) -> None:
        for chunk in _chunks(files):
            new = [pair for pair in await self._hash(chunk) if self._is_first(*pair)]
            missing = new if self._refresh else await self._missing(new)
            for batch in cut(
                missing, lambda pair: pair[0].size, max_items=_BATCH_FILES, max_bytes=_BATCH_BYTES
            ):
                await batches.put(batch)
        for _ in range(self._in_flight):
            await batches.put(None)

    async def _hash(self, files: Sequence[PictureFile]) -> list[tuple[PictureFile, str]]:
        """Return the files that can be read and sent, with their hashes."""

        async def one(file: PictureFile) -> tuple[PictureFile, str] | None:
            if file.size > _MAX_FILE_BYTES:
                self._fail(file, f"larger than {_MAX_FILE_BYTES // MIB} MiB")
                return None
            try:
                return file, await asyncio.to_thread(sha256, file.path)
            except OSError as error:
                self._fail(file, f"cannot be read: {error.strerror or error}")
                return None

        remembered = await asyncio.to_thread(lambda: [self._journal.known(file) for file in files])
        known = {file: sha for file, sha in zip(files, remembered, strict=True) if sha is not None}
        unknown = [file for file in files if file not in known]
        hashed = [
            pair
            for pair in await gather_bounded(one, unknown, _HASHING_AT_ONCE)
            if pair is not None
        ]
        await asyncio.to_thread(self._journal.remember, hashed)
        computed = dict(hashed)
        shas = {**known, **computed}
        return [(file, shas[file]) for file in files if file in shas]

    def _is_first(self, file: PictureFile, item_id: str) -> bool:
        if item_id in self._first_path:
            self._duplicates.append((file, item_id))  # decided when the first one is
            return False
        self._first_path[item_id] = file.path_text
        return True

    async def _missing(
        self, files: Sequence[tuple[PictureFile, str]]
    ) -> list[tuple[PictureFile, str]]:
        """Return the files that are not stored, or that moved since."""
        by_path = FIELDS[0] in self._declared
        found = await self._client.get_items(
            [item_id for _, item_id in files],
            collection=self._collection,
            output_fields=["path"] if by_path else (),
        )
        stored = {item.id: str(item.fields.get("path", "")) for item in found}
        missing = []
        for file, item_id in files:
            there = item_id in stored
            if there and by_path and stored[item_id] != file.path_text:
                # Stored from elsewhere. If that file is gone, this one is where it went.
                there = await asyncio.to_thread(_exists, stored[item_id])
            if there:
                self.tally.unchanged += 1
                self._on_done(1)
            else:
                missing.append((file, item_id))
        return missing

    async def _send_all(self, batches: asyncio.Queue[list[tuple[PictureFile, str]] | None]) -> None:
        while (batch := await batches.get()) is not None:
            await self._send(batch)

    async def _send(self, batch: list[tuple[PictureFile, str]]) -> None:
        for pause in (*_ITEM_RETRY_PAUSES_S, None):
            # No id: the server derives it from the bytes it gets, whatever the file has become.
            items = [Item(image=file.path, fields=self._fields(file)) for file, _ in batch]
            results = await self._client.upsert(items, collection=self._collection)
            again = []
            for (file, item_id), result in zip(batch, results, strict=True):
                if pause is not None and result.error is not None and result.error.retryable:
                    again.append((file, item_id))
                else:
                    self._count(file, item_id, result)
            if not again or pause is None:
                return
            batch = again
            await asyncio.sleep(pause)

    def _count(self, file: PictureFile, item_id: str, result: ItemResult) -> None:
        if result.error is not None:
            reason = _say(result.error)
            self._failed_ids[item_id] = reason
            self._fail(file, reason)
            return
        if result.outcome is Outcome.STORED:
            self.tally.stored += 1
        else:
            self.tally.unchanged += 1
        self.tally.bytes_sent += file.size
        self._on_done(1)

    def _fail(self, file: PictureFile, reason: str) -> None:
        self.tally.failed += 1
        self._on_failed(file.path_text, reason)
        self._on_done(1)

    def _fields(self, file: PictureFile) -> dict[str, FieldValue]:
        path = Path(file.path_text)
        values: dict[str, FieldValue] = {
            "path": file.path_text,
            "file_name": path.name,
            "folder": str(path.parent),
            "size_bytes": file.size,
            "modified_at": file.modified_ns // 1_000_000_000,
        }
        return {schema.name: values[schema.name] for schema in FIELDS if schema in self._declared}


def _chunks(files: Sequence[PictureFile]) -> Iterator[Sequence[PictureFile]]:
    return (files[start : start + _CHUNK_FILES] for start in range(0, len(files), _CHUNK_FILES))


def _exists(path: str) -> bool:
    try:
        return bool(path) and Path(path).exists()
    except (OSError, ValueError):  # not ours to look at, or no path at all
        return False


def _say(error: SentinelError) -> str:
    return f"{error.message.rstrip('.')} [{error.reason}]"
