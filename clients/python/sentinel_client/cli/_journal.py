"""Remember what earlier imports read in files, so that no file is read twice."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from sentinel_client._filters import FieldValue
from sentinel_client.cli._console import cache_folder
from sentinel_client.importers.dataset import EmbeddedPreview, FileSlice, ImportItem, file_stamp
from sentinel_client.importers.photo_fields import fields_from_json, fields_to_json

# A file that was just written can change again within the same clock tick and keep its stamp.
_SETTLED_S = 2.0


class Reading(NamedTuple):
    """What a file holds: the hex SHA-256 of its content, and the fields of `ImportItem.details`."""

    sha256: str
    details: Mapping[str, FieldValue]


class Journal:
    """What entries of earlier imports held, by key and stamp. Blocking and thread-safe.

    It knows no collection: only the server says what is stored. So a collection may lose items, or
    be deleted and created again. The journal is one SQLite file in the user's cache folder. If the
    file cannot be opened or written, the journal is empty and everything is read again.

    It also remembers which folders were the top of another file system.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._database: sqlite3.Connection | None = None
        self._lock = threading.Lock()
        with suppress(OSError, sqlite3.Error):
            path = path or cache_folder() / "imports.sqlite3"
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, check_same_thread=False, timeout=1)
            self._database.executescript(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
                "CREATE TABLE IF NOT EXISTS readings"
                " (key BLOB PRIMARY KEY, stamp TEXT, sha256 BLOB, details TEXT) WITHOUT ROWID;"
                "CREATE TABLE IF NOT EXISTS mounts (path BLOB PRIMARY KEY) WITHOUT ROWID;"
                # Of earlier versions.
                "DROP TABLE IF EXISTS entries; DROP TABLE IF EXISTS contents;"
            )

    def known(self, items: Iterable[ImportItem]) -> list[Reading | None]:
        """Return what is remembered of each item, or None."""
        listed = list(items)
        with self._lock, suppress(sqlite3.Error, ValueError, TypeError):
            if self._database is not None:
                query = "SELECT sha256, details FROM readings WHERE key = ? AND stamp = ?"
                keys = [(_blob(item.key), item.stamp) for item in listed]
                rows = [self._database.execute(query, key).fetchone() for key in keys]
                return [
                    None if row is None else Reading(row[0].hex(), fields_from_json(row[1]))
                    for row in rows
                ]
        return [None] * len(listed)

    def has_content(self, path: str, sha256: str) -> bool:
        """Tell whether the file at a path has this content; read it only if it has changed."""
        try:
            stamp = file_stamp(os.stat(path)) if path else ""
        except (OSError, ValueError):  # no file, no permission, or not a path
            return False
        if not stamp:
            return False
        # Behind the file's own stamp may be those of its metadata.
        query = "SELECT sha256 FROM readings WHERE key = ? AND substr(stamp || ' ', 1, ?) = ?"
        with self._lock, suppress(sqlite3.Error):
            if self._database is not None:
                given = (_blob(path), len(stamp) + 1, f"{stamp} ")
                row = self._database.execute(query, given).fetchone()
                if row is not None:
                    return bool(row[0].hex() == sha256)
        with suppress(OSError):
            return file_hash(Path(path)) == sha256
        return False

    def remember(self, readings: Iterable[tuple[ImportItem, Reading]]) -> None:
        """Store what was read, except of files that were just written."""
        settled = time.time_ns() - int(_SETTLED_S * 1e9)
        rows = [
            (_blob(item.key), item.stamp, bytes.fromhex(one.sha256), fields_to_json(one.details))
            for item, one in readings
            if item.changed_ns < settled
        ]
        self._write("INSERT OR REPLACE INTO readings VALUES (?, ?, ?, ?)", rows)

    def mounts(self) -> list[str]:
        """Return the folders that were the top of another file system."""
        with self._lock, suppress(sqlite3.Error, ValueError):
            if self._database is not None:
                rows = self._database.execute("SELECT path FROM mounts").fetchall()
                return [row[0].decode("utf-8", "surrogatepass") for row in rows]
        return []

    def remember_mounts(self, paths: Iterable[str]) -> None:
        """Add folders that are the top of another file system."""
        self._write("INSERT OR IGNORE INTO mounts VALUES (?)", [(_blob(one),) for one in paths])

    def _write(self, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
        with self._lock:
            if self._database is not None and rows:
                with suppress(sqlite3.Error), self._database:
                    self._database.executemany(statement, rows)

    def close(self) -> None:
        with self._lock:
            if self._database is not None:
                self._database.close()
                self._database = None


def read_item(item: ImportItem) -> Reading:
    """Read an item: its content's hash, and its further fields. Blocking."""
    details = {} if item.details is None else item.details()
    return Reading(content_hash(item), details)


def content_hash(item: ImportItem) -> str:
    """Return the hex SHA-256 of the item's image or text. Blocking."""
    if isinstance(item.image, Path | EmbeddedPreview):
        return file_hash(item.image if isinstance(item.image, Path) else item.image.path)
    content = item.image.read() if isinstance(item.image, FileSlice) else item.image
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    # A text that is not Unicode is hashed, too; the client refuses to send it.
    return hashlib.sha256((item.text or "").encode(errors="surrogatepass")).hexdigest()


def file_hash(path: Path) -> str:
    """Return the hex SHA-256 of a file. Blocking."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _blob(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")  # file names may be any bytes
