"""Remember the results of earlier imports: hashes of files, and which entries a collection has.

With this, a second run over the same data takes seconds, because it does not read all bytes again.
The journal is one SQLite file in the user's cache folder. Its rows have the entry's key and its
stamp: size and time of the file. It only saves reading: if the id of an item is known, the server
says whether the item is stored. The file can be deleted at any time.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from sentinel_client.cli._console import cache_folder
from sentinel_client.importers import ImportItem

# A file that was just written can change again within the same clock tick and keep its stamp.
_SETTLED_S = 2.0


class Journal:
    """Ids by scope, key and stamp. Blocking and thread-safe.

    The scope "" has the SHA-256 of an entry's content. Any other scope is a collection and has
    the id of the entry in it.

    If the file cannot be opened or written, the journal is empty and everything is read again.
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
                return [self._find(self._database, scope, item) for item in listed]
        return [None] * len(listed)

    def _find(self, database: sqlite3.Connection, scope: str, item: ImportItem) -> str | None:
        row = database.execute(
            "SELECT id FROM entries WHERE scope = ? AND key = ? AND stamp = ?",
            (scope, _blob(item.key), item.stamp),
        ).fetchone()
        return None if row is None else str(row[0])

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
        """Close the file."""
        with self._lock:
            if self._database is not None:
                self._database.close()
                self._database = None


def _blob(key: str) -> bytes:
    return key.encode("utf-8", "surrogateescape")
