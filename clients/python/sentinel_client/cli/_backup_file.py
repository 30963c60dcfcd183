"""The file of a backup: a plain tar archive that any tar program lists and unpacks.

    backup.json                  format, date, and the descriptions of the collections
    photos/000001/items.jsonl    a part: one JSON object per item, as the contract's JSON
    photos/000001/0001.jpg       the images of the part's items, in their order
    …
    manifest.json                counts of each collection, and the SHA-256 of all bytes before it

It is written and read from the front to the back, an entry at a time, so memory does not grow with
its size. Nothing of it is ever unpacked to a name that it brings.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from sentinel_client.cli._console import Failure

FORMAT = 1
HEADER, MANIFEST, ITEMS = "backup.json", "manifest.json", "items.jsonl"
# An image and a part of items are bounded by what one message may hold.
MAX_ENTRY_BYTES = 128 * 1024 * 1024
_MAX_MANIFEST_BYTES = 16 * 1024 * 1024
_BLOCK = tarfile.BLOCKSIZE
_CHUNK_BYTES = 1024 * 1024


class BackupWriter:
    """Writes the entries of a backup, in order."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()

    def add(self, name: str, data: bytes) -> None:
        """Append an entry."""
        for piece in (_header(name, len(data)), data, bytes(-len(data) % _BLOCK)):
            self._digest.update(piece)
            self._file.write(piece)

    def finish(self, manifest: dict[str, Any]) -> None:
        """Append the manifest and the end."""
        self.add(MANIFEST, _json({**manifest, "sha256": self._digest.hexdigest()}))
        self._file.write(bytes(2 * _BLOCK))


@contextmanager
def writing(path: Path) -> Iterator[BackupWriter]:
    """Write a backup; `path` has the whole one or, after an error, what it had before.

    Raises:
        Failure: It cannot be written there.
    """
    draft = ""
    target = Path(os.path.realpath(path))  # a link stays one
    try:
        if target.exists() and not target.is_file():
            raise Failure(f"cannot write {path}: it is no ordinary file")
        with tempfile.NamedTemporaryFile(
            dir=target.parent, prefix=f".{target.name}.", suffix=".partial", delete=False
        ) as file:
            draft = file.name
            yield BackupWriter(file)  # type: ignore[arg-type] # it has all of BinaryIO
            file.flush()
            os.fsync(file.fileno())
        try:
            read_manifest(Path(draft))
        except Failure as error:
            raise Failure(f"{path}: the disk gives back other bytes than were written") from error
        os.replace(draft, target)
    except OSError as error:
        raise Failure(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if draft:
            Path(draft).unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a backup; `data` is empty if the reader did not want it."""

    name: str
    data: bytes


def read_manifest(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Check a whole backup; return its header and its manifest.

    Raises:
        Failure: It is no backup, is damaged or incomplete, or is of a newer format.
    """
    digest = hashlib.sha256()
    before = digest.hexdigest()

    def note(piece: bytes, is_header: bool) -> None:
        nonlocal before
        if is_header:
            before = digest.hexdigest()
        digest.update(piece)

    header: dict[str, Any] | None = None
    entry = None
    for entry in _entries(path, lambda name: name in (HEADER, MANIFEST), note):
        if header is None:
            header = _first(path, entry)
        if entry.name == MANIFEST:
            break
    if header is None or entry is None or entry.name != MANIFEST:
        raise damaged(path, "it has no end")
    manifest = _object(path, entry)
    if manifest.get("sha256") != before:
        raise damaged(path, "its bytes are not those that were written")
    return header, manifest


def read_entries(path: Path, wanted: Callable[[str], bool]) -> Iterator[Entry]:
    """Yield the entries between the header and the manifest of a backup that was checked."""
    for entry in _entries(path, wanted, None):
        if entry.name == MANIFEST:
            return
        if entry.name != HEADER:
            yield entry


def read_objects(path: Path, entry: Entry) -> list[dict[str, Any]]:
    """Return the objects of a part of items."""
    return [_object(path, Entry(entry.name, line)) for line in entry.data.splitlines()]


def _entries(
    path: Path,
    wanted: Callable[[str], bool],
    note: Callable[[bytes, bool], None] | None,
) -> Iterator[Entry]:
    """Yield all entries; give all bytes to `note`, each header with True.

    The tarfile module would read extended headers of any size, and keep all members in memory.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            while (block := file.read(_BLOCK)) != bytes(_BLOCK):
                name, length = _parsed(path, block)
                padded = length + -length % _BLOCK
                if file.tell() + padded > size:
                    raise damaged(path, "it is cut off")
                if note is not None:
                    note(block, True)
                data = b""
                if wanted(name):
                    data = file.read(padded)
                    if note is not None:
                        note(data, False)
                elif note is None:
                    file.seek(padded, os.SEEK_CUR)
                else:
                    for start in range(0, padded, _CHUNK_BYTES):
                        note(file.read(min(_CHUNK_BYTES, padded - start)), False)
                yield Entry(name, data[:length])
    except OSError as error:
        raise Failure(f"cannot read {path}: {error.strerror}") from error


def _parsed(path: Path, block: bytes) -> tuple[str, int]:
    """Return name and length of a plain file; a backup has nothing else."""
    try:
        found = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    except (tarfile.HeaderError, UnicodeDecodeError):
        raise damaged(path, "it is no archive, or is cut off") from None
    limit = _MAX_MANIFEST_BYTES if found.name in (HEADER, MANIFEST) else MAX_ENTRY_BYTES
    if found.type != tarfile.REGTYPE or not 0 <= found.size <= limit:
        raise damaged(path, f"it has an entry that no backup has: {found.name[:200]!r}")
    return found.name, found.size


def _first(path: Path, entry: Entry) -> dict[str, Any]:
    header = _object(path, entry) if entry.name == HEADER else {}
    version = header.get("format")
    if not isinstance(version, int):
        raise damaged(path, "it does not begin as one")
    if version > FORMAT:
        raise Failure(
            f"{path} is a backup of format {version}, and this Sentinel reads up to {FORMAT}: "
            "install a newer one"
        )
    return header


def _object(path: Path, entry: Entry) -> dict[str, Any]:
    try:
        found = json.loads(entry.data)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise damaged(path, f"its entry {entry.name[:200]!r} cannot be read")
    return found


def damaged(path: Path, why: str) -> Failure:
    """Return the error that refuses a file."""
    return Failure(f"{path} is no whole backup: {why}. Nothing was changed.")


def _header(name: str, size: int) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o600
    return entry.tobuf(tarfile.USTAR_FORMAT)


def _json(value: object) -> bytes:
    return json.dumps(value, indent=1).encode()
