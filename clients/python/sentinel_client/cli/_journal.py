"""What earlier runs found out: the hashes of files, and which entries a collection has.

A second run over the same data should cost seconds, and reading every byte again would not. So
this is remembered in one SQLite file of the user's cache folder (never among the data), by the
entry's key and its stamp: size and time of the file that holds it. It saves reading; whether an
item is stored is asked of the server wherever its id is known. Deleting it is harmless.
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

# A file changed within a clock tick of its reading can change again and look the same.
_SETTLED_S = 2.0


class Journal:
    """Remembered ids by scope, key and stamp. Blocking; for any thread.

    The scope "" remembers the SHA-256 of what a key stands for; any other scope is a collection
    and remembers the ids under which it holds what a key stands for.

    A journal that cannot be opened or written is no journal: everything is then done anew.
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
        """Return for each item the id that is remembered, or None."""
        asked = list(items)
        with self._lock, suppress(sqlite3.Error):
            if self._database is not None:
                return [self._one(self._database, scope, item) for item in asked]
        return [None] * len(asked)

    def _one(self, database: sqlite3.Connection, scope: str, item: ImportItem) -> str | None:
        row = database.execute(
            "SELECT id FROM entries WHERE scope = ? AND key = ? AND stamp = ?",
            (scope, _blob(item.key), item.stamp),
        ).fetchone()
        return None if row is None else str(row[0])

    def remember(self, scope: str, ids: Iterable[tuple[ImportItem, str]]) -> None:
        """Keep ids, but for those of files that are just being written."""
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
