"""Remember the contents of earlier imports, so that no file is read twice."""

from __future__ import annotations

import hashlib
import sqlite3
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from sentinel_client.cli._console import cache_folder
from sentinel_client.importers.dataset import FileSlice, ImportItem

# A file that was just written can change again within the same clock tick and keep its stamp.
_SETTLED_S = 2.0


class Journal:
    """The SHA-256 of the entries of earlier imports, by key and stamp. Blocking and thread-safe.

    It knows no collection: only the server says what is stored. So a collection may lose items, or
    be deleted and created again. The journal is one SQLite file in the user's cache folder. If the
    file cannot be opened or written, the journal is empty and everything is read again.
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
                "CREATE TABLE IF NOT EXISTS contents"
                " (key BLOB PRIMARY KEY, stamp TEXT, sha256 TEXT) WITHOUT ROWID"
            )
            self._database.execute("DROP TABLE IF EXISTS entries")  # of earlier versions

    def known(self, items: Iterable[ImportItem]) -> list[str | None]:
        """Return the remembered hex SHA-256 of each item, or None."""
        listed = list(items)
        with self._lock, suppress(sqlite3.Error):
            if self._database is not None:
                query = "SELECT sha256 FROM contents WHERE key = ? AND stamp = ?"
                keys = [(_blob(item.key), item.stamp) for item in listed]
                rows = [self._database.execute(query, key).fetchone() for key in keys]
                return [None if row is None else str(row[0]) for row in rows]
        return [None] * len(listed)

    def remember(self, contents: Iterable[tuple[ImportItem, str]]) -> None:
        """Store the SHA-256 of items, except of files that were just written."""
        settled = time.time_ns() - int(_SETTLED_S * 1e9)
        rows = [
            (_blob(item.key), item.stamp, sha256)
            for item, sha256 in contents
            if item.modified_ns < settled
        ]
        with self._lock:
            if self._database is not None and rows:
                with suppress(sqlite3.Error), self._database:
                    self._database.executemany(
                        "INSERT OR REPLACE INTO contents VALUES (?, ?, ?)", rows
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
    # A text that is not Unicode is hashed, too; the client refuses to send it.
    return hashlib.sha256((item.text or "").encode(errors="surrogatepass")).hexdigest()


def _blob(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")  # file names may be any bytes
