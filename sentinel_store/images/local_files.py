"""Read and write files on a local disk; readers never see part of a file.

A file is written under `drafts/`, synced and renamed into place; then its folder is synced. A
crash at any moment leaves the whole file or none, and at worst an unfinished file in `drafts/`.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

_DRAFTS = "drafts"
_PROBE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file of a listing, local or remote.

    Attributes:
        name: Path below the store's root, with slashes.
        size: In bytes.
        changed: When it was last written or touched, in UTC.
    """

    name: str
    size: int
    changed: datetime


class LocalFiles:
    """A folder. Every method blocks; any number of threads may call them.

    Raises OSError, and FileNotFoundError for a file that does not exist.
    """

    writers = 8  # how many threads should write one batch

    def __init__(self, root: str) -> None:
        """Create the folder if it does not exist."""
        self._root = Path(root)
        # Made once: pathlib takes about 10 us for each URI.
        self._root_uri = self._root.absolute().as_uri().removesuffix("/")
        self._known: set[Path] = set()  # folders whose own names are on disk
        if not self.exists():
            (self._root / _DRAFTS).mkdir(parents=True, exist_ok=True)

    def probe(self) -> None:
        """Raise OSError if nothing can be written."""
        self._make_drafts()
        draft = self._root / _DRAFTS / uuid.uuid4().hex
        try:
            _write_synced(draft, bytes(_PROBE_BYTES))
        finally:
            with suppress(OSError):
                draft.unlink(missing_ok=True)

    def _make_drafts(self) -> None:
        """Make the folder of drafts again if somebody emptied the store; not the store itself."""
        (self._root / _DRAFTS).mkdir(exist_ok=True)

    def exists(self) -> bool:
        """Tell whether the store itself exists."""
        return self._root.is_dir()

    def uris(self, names: Sequence[str]) -> list[str]:
        """Return the file URIs, which work on this machine.

        Names have digits, letters, dots and slashes only, so nothing in them needs escapes.
        """
        return [f"{self._root_uri}/{name}" for name in names]

    def write(self, files: Sequence[tuple[str, bytes]]) -> None:
        """Write (name, bytes) pairs; touch a file that exists with the same size.

        Names follow from the bytes, so files of equal name and size are equal.
        """
        changed: set[Path] = set()
        for name, data in files:
            path = self._root / name
            if not _touched(path, len(data)):
                self._write_one(path, data)
            changed.add(path.parent)
        for folder in changed:
            sync_folder(folder)

    def _write_one(self, path: Path, data: bytes) -> None:
        self._make_drafts()
        self._make_folder(path.parent)
        temporary = self._root / _DRAFTS / uuid.uuid4().hex
        try:
            _write_synced(temporary, data)
            temporary.replace(path)
        except OSError:
            with suppress(OSError):
                temporary.unlink()  # free the space on a full disk
            raise

    def _make_folder(self, folder: Path) -> None:
        """Make sure that a folder exists and that its name is on disk.

        Another thread may have made it and not yet have synced its name.
        """
        if folder in self._known and folder.is_dir():
            return
        folder.mkdir(parents=True, exist_ok=True)
        for above in (folder.parent, self._root, self._root.parent):
            sync_folder(above)
        self._known.add(folder)

    def read_many(self, names: Sequence[str]) -> list[bytes]:
        """Return the files' bytes, in order; empty for missing ones."""
        return [self._read_or_empty(name) for name in names]

    def _read_or_empty(self, name: str) -> bytes:
        try:
            return (self._root / name).read_bytes()
        except FileNotFoundError:
            return b""

    def size(self, name: str) -> int:
        """Return a file's size in bytes."""
        return (self._root / name).stat().st_size

    def read(self, name: str, start: int, end: int) -> bytes:
        """Return the bytes from `start` up to `end`, exclusive."""
        with (self._root / name).open("rb") as file:
            file.seek(start)
            return file.read(end - start)

    def list_folder(self, folder: str) -> Iterator[StoredFile]:
        """Yield the files of one folder, without its subfolders; nothing if it does not exist."""
        try:
            entries = os.scandir(self._root / folder)
        except FileNotFoundError:
            return
        with entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # deleted in between
                    facts = entry.stat()
                    changed = datetime.fromtimestamp(facts.st_mtime, UTC)
                    yield StoredFile(f"{folder}/{entry.name}", facts.st_size, changed)

    def unfinished(self) -> Iterator[StoredFile]:
        """Yield files that are being written, and files that crashed writers left."""
        return self.list_folder(_DRAFTS)

    def move(self, name: str, target: str) -> None:
        """Move a file and set its time to now."""
        source, goal = self._root / name, self._root / target
        goal.parent.mkdir(parents=True, exist_ok=True)
        os.utime(source)
        source.replace(goal)
        sync_folder(goal.parent)
        sync_folder(source.parent)

    def remove(self, names: Iterable[str]) -> None:
        """Delete files; ignore missing ones."""
        for name in names:
            (self._root / name).unlink(missing_ok=True)


def _touched(path: Path, size: int) -> bool:
    """Set a file's time to now if it exists with this size; tell whether it does."""
    try:
        if path.stat().st_size != size:
            return False
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, where the system supports it."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
