"""Files in any store that fsspec can reach, S3 above all: one PUT, whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from sentinel_store.images.local_files import StoredFile


class RemoteFiles:
    """A prefix of a bucket. Every method blocks; any number of threads may call them.

    Attributes:
        writers: Into how many parts a batch of writes is best divided; the file system sends
            what it is given concurrently by itself.
    """

    writers = 1

    def __init__(self, file_system: Any, root: str, presign_seconds: int) -> None:
        """Remember where the files are; nothing is asked of the store yet.

        Args:
            file_system: An fsspec file system that keeps no listings.
            root: Bucket and prefix.
            presign_seconds: How long the URLs in `uris` let anybody read; 0 for plain URIs.
        """
        self._fs = file_system
        self._root = root.rstrip("/")
        self._presign_seconds = presign_seconds

    def is_there(self) -> bool:
        """Tell whether the bucket is there, whatever it holds."""
        return bool(self._fs.exists(self._root.split("/", 1)[0]))

    def uris(self, names: Sequence[str]) -> list[str]:
        """Return presigned URLs where the store can make them, its plain URIs otherwise."""
        paths = [self._path(name) for name in names]
        if self._presign_seconds:
            try:
                return [self._fs.sign(path, expiration=self._presign_seconds) for path in paths]
            except NotImplementedError:
                self._presign_seconds = 0
        return [str(self._fs.unstrip_protocol(path)) for path in paths]

    def write(self, files: Sequence[tuple[str, bytes]]) -> None:
        """Write (name, bytes) pairs, also over what is there: that makes it young."""
        self._fs.pipe({self._path(name): data for name, data in files})

    def read_many(self, names: Sequence[str]) -> list[bytes]:
        """Return the files' bytes, in order; empty for one that is not there."""
        paths = [self._path(name) for name in names]
        if not paths:
            return []
        # A mapping, whatever the number of paths: repeated ones are asked for once.
        found = self._fs.cat(list(dict.fromkeys(paths)), on_error="return")
        return [_bytes_or_empty(found[path]) for path in paths]

    def size(self, name: str) -> int:
        """Return a file's size in bytes; FileNotFoundError if it is not there."""
        return int(self._fs.info(self._path(name))["size"])

    def read(self, name: str, start: int, end: int) -> bytes:
        """Return the bytes from `start` to before `end`; FileNotFoundError if it is gone."""
        return bytes(self._fs.cat_file(self._path(name), start=start, end=end))

    def list_folder(self, folder: str) -> Iterator[StoredFile]:
        """Yield the files of one folder, without its subfolders; none if it is not there."""
        try:
            entries = self._fs.ls(self._path(folder), detail=True)
        except FileNotFoundError:
            return
        for entry in entries:
            base = entry["name"].rsplit("/", 1)[-1]
            if entry["type"] == "file" and base:  # some stores list the folder itself, too
                yield StoredFile(f"{folder}/{base}", int(entry["size"]), _changed(entry))

    def drafts(self) -> Iterator[StoredFile]:
        """Yield nothing: what a writer does not finish never becomes a file."""
        return iter(())

    def move(self, name: str, target: str) -> None:
        """Copy, then remove the original; FileNotFoundError if it is not there."""
        self._fs.cp_file(self._path(name), self._path(target))
        self._fs.rm_file(self._path(name))

    def remove(self, names: Iterable[str]) -> None:
        """Remove files; one that is not there is no error."""
        for name in names:
            try:
                self._fs.rm_file(self._path(name))
            except FileNotFoundError:
                continue

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


def _bytes_or_empty(found: Any) -> bytes:
    if isinstance(found, FileNotFoundError):
        return b""
    if isinstance(found, Exception):
        raise found
    return bytes(found)


def _changed(entry: dict[str, Any]) -> datetime:
    # Each file system has its own name for it; one without any never looks old.
    for key in ("LastModified", "mtime", "updated", "last_modified", "created"):
        value = entry.get(key)
        if isinstance(value, datetime):
            return value if value.tzinfo else value.replace(tzinfo=UTC)
        if isinstance(value, int | float):
            return datetime.fromtimestamp(value, UTC)
    return datetime.now(UTC)
