"""Finding picture files, and their SHA-256, which is their id on the server.

A second run over the same folder should cost seconds, and reading every byte again would not.
So hashes are remembered by path, size and modification time in one SQLite file of the user's
cache folder (never among the pictures). It only ever saves reading: whether an item is stored is
always asked of the server. Deleting it is harmless.
"""

from __future__ import annotations

import errno
import hashlib
import os
import sqlite3
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from sentinel_client.cli._console import cache_folder

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})

# A file changed within a clock tick of its hashing can change again and look the same.
_SETTLED_S = 2.0


@dataclass(frozen=True, slots=True)
class PictureFile:
    """One found file. Its path is absolute."""

    path: Path
    size: int
    modified_ns: int

    @property
    def path_text(self) -> str:
        """The path as valid Unicode, which a file name on Linux need not be."""
        return os.fsencode(self.path).decode("utf-8", "replace")


def scan(roots: Sequence[Path]) -> Iterator[PictureFile | OSError]:
    """Yield every picture file under `roots` once, by name; what cannot be read as its error.

    Hidden files and folders are left out. Links are followed, but no folder is entered twice,
    which ends loops. A root that is a file is taken whatever it is called.
    """
    entered: set[tuple[int, int]] = set()
    seen: set[Path] = set()
    for root in roots:
        waiting = [Path(os.path.abspath(root))]
        while waiting:
            path = waiting.pop()
            try:
                if path.is_dir():
                    status = path.stat()
                    if (status.st_dev, status.st_ino) not in entered:
                        entered.add((status.st_dev, status.st_ino))
                        waiting.extend(_children(path))
                elif path not in seen:
                    seen.add(path)
                    status = path.stat()
                    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
                        raise OSError(errno.EINVAL, "not a regular file", str(path))
                    yield PictureFile(path, status.st_size, status.st_mtime_ns)
            except OSError as error:
                yield error


def _children(folder: Path) -> list[Path]:
    """Return the folders and pictures in `folder`, last name first, as a stack wants them."""
    with os.scandir(folder) as entries:
        wanted = [
            folder / entry.name
            for entry in entries
            if not entry.name.startswith(".")
            and (_is_folder(entry) or os.path.splitext(entry.name)[1].lower() in EXTENSIONS)
        ]
    return sorted(wanted, reverse=True)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or into a closed folder: it costs nobody else anything
        return False


def sha256(path: Path) -> str:
    """Return the hex SHA-256 of a file's bytes.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class HashJournal:
    """Remembered hashes. Blocking; use from one thread at a time.

    A journal that cannot be opened or written is no journal: hashes are then computed anew.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._database: sqlite3.Connection | None = None
        path = path or cache_folder() / "hashes.sqlite3"
        with suppress(OSError, sqlite3.Error):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, check_same_thread=False, timeout=1)
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS hashes"
                " (path BLOB PRIMARY KEY, size INT, modified_ns INT, sha256 TEXT)"
            )

    def known(self, file: PictureFile) -> str | None:
        """Return the file's hash if it is remembered and the file looks unchanged since."""
        if self._database is None:
            return None
        with suppress(sqlite3.Error), closing(self._database.cursor()) as cursor:
            row = cursor.execute(
                "SELECT sha256 FROM hashes WHERE path = ? AND size = ? AND modified_ns = ?",
                (os.fsencode(file.path), file.size, file.modified_ns),
            ).fetchone()
            return None if row is None else str(row[0])
        return None

    def remember(self, hashes: Sequence[tuple[PictureFile, str]]) -> None:
        """Keep the hashes of files that are not just being written."""
        settled = time.time_ns() - int(_SETTLED_S * 1e9)
        rows = [
            (os.fsencode(file.path), file.size, file.modified_ns, sha)
            for file, sha in hashes
            if file.modified_ns < settled
        ]
        if self._database is not None and rows:
            with suppress(sqlite3.Error), self._database:
                self._database.executemany(
                    "INSERT OR REPLACE INTO hashes VALUES (?, ?, ?, ?)", rows
                )

    def close(self) -> None:
        """Close the file."""
        if self._database is not None:
            self._database.close()
            self._database = None
