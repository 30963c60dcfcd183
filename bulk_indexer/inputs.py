"""What the operator names (folders, globs, files, manifests) to a stream of entries.

Nothing is held in memory but one folder's listing, or what a glob matches; a billion objects are
better named by a manifest than listed.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import fsspec
from fsspec.utils import get_protocol

from bulk_indexer.entries import Entry, file_facts
from bulk_indexer.errors import BulkError
from bulk_indexer.manifests import Columns, is_manifest, read_manifest, shown_uri

_PICTURES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
_MAGIC = frozenset("*?[")


def entries_of(inputs: Sequence[str], columns: Columns) -> Iterator[Entry]:
    """Yield every entry of the inputs, in the order given; folders and globs sorted by name.

    Raises:
        BulkError: An input cannot be read, or nothing is there.
    """
    for one in inputs:
        try:
            file_system, path = fsspec.core.url_to_fs(one)
        except (ImportError, ValueError) as error:
            raise BulkError(
                f"{one}: {error}; the package for {get_protocol(one)} is missing?"
            ) from error
        yield from _entries(one, file_system, path, columns)


def _entries(given: str, file_system: Any, path: str, columns: Columns) -> Iterator[Entry]:
    try:
        if _MAGIC & set(path):
            for found, details in sorted(file_system.glob(path, detail=True).items()):
                if details["type"] != "file":
                    continue
                if is_manifest(found):
                    yield from read_manifest(file_system, found, columns)
                else:
                    yield _file(file_system, found, details, columns)
        elif file_system.isdir(path):
            yield from _folder(file_system, path, columns)
        elif not file_system.exists(path):
            raise BulkError(f"{given}: no such file, folder or object")
        elif is_manifest(path):
            yield from read_manifest(file_system, path, columns)
        else:
            yield _file(file_system, path, file_system.info(path), columns)
    except OSError as error:
        raise BulkError(f"cannot read {given}: {error}") from error


def _folder(file_system: Any, root: str, columns: Columns) -> Iterator[Entry]:
    """Yield the pictures below `root` without hidden ones; links to folders are not followed."""
    for _, folders, files in file_system.walk(root, detail=True):
        for name in [n for n, info in folders.items() if n.startswith(".") or info.get("islink")]:
            del folders[name]
        for name, details in sorted(files.items()):
            if posixpath.splitext(name)[1].lower() in _PICTURES and not name.startswith("."):
                yield _file(file_system, details["name"], details, columns)


def _file(file_system: Any, path: str, details: dict[str, Any], columns: Columns) -> Entry:
    uri = shown_uri(file_system, path)
    try:
        uri.encode()
    except UnicodeEncodeError:
        shown = uri.encode(errors="surrogateescape").decode(errors="replace")
        return Entry(shown, error="the file's name is not UTF-8; rename it")
    facts = file_facts(uri) | {"size_bytes": details.get("size")}
    if (modified := modified_at(details)) is not None:
        facts["modified_at"] = modified
    return Entry(uri, uri, fields={k: v for k, v in facts.items() if k in columns.fields})


def modified_at(details: dict[str, Any]) -> int | None:
    """Return when a file was changed, in seconds since 1970, if its file system tells."""
    for name in ("mtime", "LastModified", "last_modified", "updated"):
        match details.get(name):
            case int() | float() as seconds:
                return int(seconds)
            case datetime() as moment:
                return int(moment.timestamp())
    return None
