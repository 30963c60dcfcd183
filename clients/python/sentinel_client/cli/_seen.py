"""Keep what one run has seen: the items, and the content at each path.

The tables are in a temporary file of SQLite, so that a run over any number of files needs little
memory. Ids and paths are kept as digests of 16 bytes.
"""

from __future__ import annotations

import hashlib
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

_UNKNOWN = b""  # the content at a path that could not be read or stored
_CHUNK = 1_000


class Seen:
    """The items and paths of one run. Blocking and thread-safe; close it at the end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # No name: a temporary file that SQLite removes. Nothing of it has to survive.
        self._database = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._database.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -8192;"
            "CREATE TABLE items (id BLOB PRIMARY KEY) WITHOUT ROWID;"
            "CREATE TABLE paths (path BLOB PRIMARY KEY, id BLOB) WITHOUT ROWID;"
            "CREATE TABLE duplicates (key TEXT, id TEXT);"
            "CREATE TABLE gone (id TEXT PRIMARY KEY) WITHOUT ROWID;"
            "BEGIN"
        )

    def claim(self, ids: Sequence[str]) -> list[bool]:
        """Note these items; return for each whether it was new."""
        statement = "INSERT OR IGNORE INTO items VALUES (?)"
        with self._lock:
            return [self._database.execute(statement, (_digest(one),)).rowcount > 0 for one in ids]

    def has(self, item_id: str) -> bool:
        """Tell whether the run has seen this item."""
        with self._lock:
            query = "SELECT 1 FROM items WHERE id = ?"
            return self._database.execute(query, (_digest(item_id),)).fetchone() is not None

    def note_paths(self, paths: Iterable[tuple[str, str]]) -> None:
        """Note the id of the content at each path; empty: a file that could not be read."""
        rows = [(_digest(path), _digest(one) if one else _UNKNOWN) for path, one in paths]
        with self._lock:
            self._database.executemany("INSERT OR REPLACE INTO paths VALUES (?, ?)", rows)

    def at(self, path: str) -> bool | None:
        """Tell what is at a path: True a known content, False an unknown one, None no picture."""
        with self._lock:
            query = "SELECT id FROM paths WHERE path = ?"
            row = self._database.execute(query, (_digest(path),)).fetchone()
        return None if row is None else row[0] != _UNKNOWN

    def add_duplicates(self, entries: Iterable[tuple[str, str]]) -> None:
        """Keep the keys of entries with the id of an earlier one, each with that id."""
        with self._lock:
            self._database.executemany(
                "INSERT INTO duplicates VALUES (?, ?)",
                # Names of files may be no Unicode.
                ((key.encode("utf-8", "surrogatepass"), one) for key, one in entries),
            )

    def duplicates(self) -> Iterator[tuple[str, str]]:
        """Yield the keys and ids of `add_duplicates`, in order."""
        for key, item_id in self._rows("SELECT key, id FROM duplicates ORDER BY rowid"):
            yield key.decode("utf-8", "surrogatepass"), item_id

    def add_gone(self, ids: Iterable[str]) -> None:
        """Keep the ids of items to delete."""
        with self._lock:
            self._database.executemany(
                "INSERT OR IGNORE INTO gone VALUES (?)", ((one,) for one in ids)
            )

    def gone(self) -> Iterator[list[str]]:
        """Yield the ids of `add_gone`, in lists of at most 1,000."""
        chunk: list[str] = []
        for (item_id,) in self._rows("SELECT id FROM gone"):
            chunk.append(item_id)
            if len(chunk) == _CHUNK:
                yield chunk
                chunk = []
        if chunk:
            yield chunk

    def _rows(self, query: str) -> Iterator[tuple[Any, ...]]:
        with self._lock:
            cursor = self._database.execute(query)
        while True:
            with self._lock:
                rows = cursor.fetchmany(_CHUNK)
            if not rows:
                return
            yield from rows

    def close(self) -> None:
        with self._lock:
            self._database.close()


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
