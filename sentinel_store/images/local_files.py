"""Files on a disk of this machine: written whole, durable, never seen half.

A file is written under `drafts/`, synced, renamed into place, and its folder synced. A crash at
any moment leaves the whole file or none, and at worst a draft that nobody reads.


What a listing of the object store says of one file.
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


class LocalFiles:
    """A folder. Every method blocks; any number of threads may call them.

    Attributes:
        writers: Into how many parts a batch of writes is best divided.
    """

    writers = 8

    def __init__(self, root: str) -> None:
        """Make the folder unless it is there, and try to write into it.

        Raises:
            OSError: It cannot be made, or nothing can be written to it.
        """
        self._root = Path(root)
        (self._root / _DRAFTS).mkdir(parents=True, exist_ok=True)
        # Now rather than in somebody's first upsert: a volume that belongs to another user.
        probe = self._root / _DRAFTS / uuid.uuid4().hex
        probe.touch()
        probe.unlink()

    def is_there(self) -> bool:
        """Tell whether the store as a whole is there, whatever it holds."""
        return self._root.is_dir()

    def uris(self, names: Sequence[str]) -> list[str]:
        """Return where these files are, for people and programs on this machine."""
        return [(self._root / name).absolute().as_uri() for name in names]

    def write(self, files: Sequence[tuple[str, bytes]]) -> None:
        """Write (name, bytes) pairs; a file that is there with as many bytes is only made young.

        The names say what the bytes are, so bytes of equal name and size are equal.
        """
        changed: set[Path] = set()
        for name, data in files:
            path = self._root / name
            if not _refreshed(path, len(data)):
                self._write_one(path, data, changed)
            changed.add(path.parent)
        for folder in changed:
            _sync(folder)

    def _write_one(self, path: Path, data: bytes, changed: set[Path]) -> None:
        draft = self._root / _DRAFTS / uuid.uuid4().hex
        try:
            with draft.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if not path.parent.is_dir():
                path.parent.mkdir(parents=True, exist_ok=True)
                changed.update((path.parent.parent, self._root))
            draft.replace(path)
        except OSError:
            with suppress(OSError):
                draft.unlink()  # a full disk should not fill further
            raise

    def read_many(self, names: Sequence[str]) -> list[bytes]:
        """Return the files' bytes, in order; empty for one that is not there."""
        return [self._read_or_empty(name) for name in names]

    def _read_or_empty(self, name: str) -> bytes:
        try:
            return (self._root / name).read_bytes()
        except FileNotFoundError:
            return b""

    def size(self, name: str) -> int:
        """Return a file's size in bytes; FileNotFoundError if it is not there."""
        return (self._root / name).stat().st_size

    def read(self, name: str, start: int, end: int) -> bytes:
        """Return the bytes from `start` to before `end`; FileNotFoundError if it is gone."""
        with (self._root / name).open("rb") as file:
            file.seek(start)
            return file.read(end - start)

    def list_folder(self, folder: str) -> Iterator[StoredFile]:
        """Yield the files of one folder, without its subfolders; none if it is not there."""
        try:
            entries = os.scandir(self._root / folder)
        except FileNotFoundError:
            return
        with entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # removed meanwhile
                    facts = entry.stat()
                    changed = datetime.fromtimestamp(facts.st_mtime, UTC)
                    yield StoredFile(f"{folder}/{entry.name}", facts.st_size, changed)

    def drafts(self) -> Iterator[StoredFile]:
        """Yield what writers left that never came to an end, and what they are writing now."""
        return self.list_folder(_DRAFTS)

    def move(self, name: str, target: str) -> None:
        """Move a file and make it young; FileNotFoundError if it is not there."""
        source, goal = self._root / name, self._root / target
        goal.parent.mkdir(parents=True, exist_ok=True)
        os.utime(source)
        source.replace(goal)
        _sync(goal.parent)
        _sync(source.parent)

    def remove(self, names: Iterable[str]) -> None:
        """Remove files; one that is not there is no error."""
        for name in names:
            (self._root / name).unlink(missing_ok=True)


def _refreshed(path: Path, size: int) -> bool:
    """Make a file young if it is there with this size; tell whether it is."""
    try:
        if path.stat().st_size != size:
            return False
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def _sync(folder: Path) -> None:
    """Make the names in a folder durable, where the system can."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file.

    Attributes:
        name: Path below the store's root, with slashes.
        size: In bytes.
        changed: When it was last written or refreshed, in UTC.
    """

    name: str
    size: int
    changed: datetime
