"""Read and write files in S3 or another store that fsspec supports; each write is atomic."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from sentinel_store.images.local_files import StoredFile


class RemoteFiles:
    """A prefix of a bucket. Every method blocks; any number of threads may call them.

    Raises FileNotFoundError for a file that does not exist, and the file system's own errors.
    """

    writers = 1  # the file system itself sends the files of one call concurrently

    def __init__(self, file_system: Any, root: str, presign_seconds: int) -> None:
        """Keep bucket and prefix; do not contact the store yet. The file system is fsspec's."""
        self._fs = file_system
        self._root = root.rstrip("/")
        self._presign_seconds = presign_seconds

    def probe(self) -> None:
        """Raise if nothing can be written."""
        path = self._path("drafts/probe")
        self._fs.pipe({path: b"Sentinel tries whether it can write here."})
        with suppress(FileNotFoundError):  # another process has tried at the same time
            self._fs.rm_file(path)

    def exists(self) -> bool:
        """Tell whether the bucket exists."""
        return bool(self._fs.exists(self._root.split("/", 1)[0]))

    def uris(self, names: Sequence[str]) -> list[str]:
        """Return presigned URLs if the store supports them, otherwise plain URIs."""
        paths = [self._path(name) for name in names]
        if self._presign_seconds:
            try:
                return [self._fs.sign(path, expiration=self._presign_seconds) for path in paths]
            except NotImplementedError:
                self._presign_seconds = 0
        return [str(self._fs.unstrip_protocol(path)) for path in paths]

    def write(self, files: Sequence[tuple[str, bytes]]) -> None:
        """Write (name, bytes) pairs, also over existing files: that sets their time to now."""
        self._fs.pipe({self._path(name): data for name, data in files})

    def read_many(self, names: Sequence[str]) -> list[bytes]:
        """Return the files' bytes, in order; empty for missing ones."""
        paths = [self._path(name) for name in names]
        if not paths:
            return []
        # A list gives a mapping even for one path; request repeated paths once.
        found = self._fs.cat(list(dict.fromkeys(paths)), on_error="return")
        return [_bytes_or_empty(found[path]) for path in paths]

    def size(self, name: str) -> int:
        """Return a file's size in bytes."""
        return int(self._fs.info(self._path(name))["size"])

    def read(self, name: str, start: int, end: int) -> bytes:
        """Return the bytes from `start` up to `end`, exclusive."""
        return bytes(self._fs.cat_file(self._path(name), start=start, end=end))

    def list_folder(self, folder: str) -> Iterator[StoredFile]:
        """Yield the files of one folder, without its subfolders; nothing if it does not exist."""
        try:
            entries = self._fs.ls(self._path(folder), detail=True)
        except FileNotFoundError:
            return
        for entry in entries:
            base = entry["name"].rsplit("/", 1)[-1]
            if entry["type"] == "file" and base:  # some stores also list the folder itself
                yield StoredFile(f"{folder}/{base}", int(entry["size"]), _changed(entry))

    def unfinished(self) -> Iterator[StoredFile]:
        """Yield nothing: an unfinished write leaves no file."""
        return iter(())

    def move(self, name: str, target: str) -> None:
        """Copy, then delete the original."""
        self._fs.cp_file(self._path(name), self._path(target))
        self._fs.rm_file(self._path(name))

    def remove(self, names: Iterable[str]) -> None:
        """Delete files; ignore missing ones."""
        for name in names:
            with suppress(FileNotFoundError):
                self._fs.rm_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


def _bytes_or_empty(found: Any) -> bytes:
    if isinstance(found, FileNotFoundError):
        return b""
    if isinstance(found, Exception):
        raise found
    return bytes(found)


def _changed(entry: dict[str, Any]) -> datetime:
    # File systems name this differently; a file without any such time never looks old.
    for key in ("LastModified", "mtime", "updated", "last_modified", "created"):
        value = entry.get(key)
        if isinstance(value, datetime):
            return value if value.tzinfo else value.replace(tzinfo=UTC)
        if isinstance(value, int | float):
            return datetime.fromtimestamp(value, UTC)
    return datetime.now(UTC)
