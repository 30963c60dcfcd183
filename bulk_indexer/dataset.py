"""Yield the entries of folders, globs, files and manifests.

Memory holds one folder's listing, or what a glob matches; name a billion objects by a manifest.
Manifests are Parquet, CSV, JSON Lines and plain lists. A row that cannot be used becomes an entry
with an error, which is reported like a broken file.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

import fsspec
from fsspec.implementations.local import LocalFileSystem, make_path_posix
from fsspec.utils import get_protocol

from bulk_indexer.entries import DatasetEntry, modified_at, path_fields
from bulk_indexer.run_folder import BulkError
from sentinel_client.importers.csv_rows import read_csv
from sentinel_client.importers.folders import is_image_name
from sentinel_client.importers.rows import (
    RowError,
    TableRow,
    is_empty,
    read_json_lines,
    read_lines,
    read_parquet,
)

# Names of the column with a file's path or URI; the first one with a value counts.
URI_COLUMNS = ("uri", "url", "path", "image", "file_name")
_PARQUET_BATCH_ROWS = 8192
_GLOB_CHARACTERS = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class ManifestColumns:
    """Which columns of a manifest mean what. Columns may be missing; others are ignored.

    Without `uri`, the first of `URI_COLUMNS` counts. `text` is for items without a file.
    """

    uri: str
    id: str
    text: str
    fields: frozenset[str]

    @property
    def uri_columns(self) -> Sequence[str]:
        return [self.uri] if self.uri else URI_COLUMNS


def entries_of(inputs: Sequence[str], columns: ManifestColumns) -> Iterator[DatasetEntry]:
    """Yield the entries of the inputs in the given order; folders and globs sorted by name."""
    for one in inputs:
        try:
            file_system, path = fsspec.core.url_to_fs(one)
        except (ImportError, ValueError) as error:
            raise BulkError(
                f"{one}: {error}; is the package for {get_protocol(one)} installed?"
            ) from error
        try:
            yield from _entries(one, file_system, path, columns)
        except OSError as error:
            raise BulkError(f"cannot read {one}: {error}") from error


def _entries(
    given: str, file_system: Any, path: str, columns: ManifestColumns
) -> Iterator[DatasetEntry]:
    if _GLOB_CHARACTERS & set(path):
        for found, details in sorted(file_system.glob(path, detail=True).items()):
            if details["type"] == "file":
                yield from _file_entries(file_system, found, details, columns)
    elif file_system.isdir(path):
        yield from _folder_entries(file_system, path, columns)
    elif file_system.exists(path):
        yield from _file_entries(file_system, path, file_system.info(path), columns)
    else:
        raise BulkError(f"{given}: no such file, folder or object")


def _folder_entries(
    file_system: Any, root: str, columns: ManifestColumns
) -> Iterator[DatasetEntry]:
    """Yield the images below `root`; skip hidden files and folders, and links to folders."""
    for _, folders, files in file_system.walk(root, detail=True):
        for name in [n for n, info in folders.items() if n.startswith(".") or info.get("islink")]:
            del folders[name]
        for name, details in sorted(files.items()):
            if is_image_name(name):
                yield _image_entry(file_system, details["name"], details, columns)


def _file_entries(
    file_system: Any, path: str, details: Mapping[str, Any], columns: ManifestColumns
) -> Iterator[DatasetEntry]:
    """Yield the entries of a manifest, or else one entry for the file."""
    read = _READERS.get(posixpath.splitext(path)[1].lower())
    if read is None:
        yield _image_entry(file_system, path, details, columns)
        return
    uri = _uri(file_system, path)
    try:
        with file_system.open(path, "rb") as file:
            for row in read(file, columns):
                place = f"{uri}:{row.number}"
                if isinstance(row, RowError):
                    yield DatasetEntry(place, error=row.message)
                else:
                    yield _row_entry(row.cells, place, posixpath.dirname(uri), columns)
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        raise BulkError(f"cannot read the manifest {uri}: {error}") from error


def _image_entry(
    file_system: Any, path: str, details: Mapping[str, Any], columns: ManifestColumns
) -> DatasetEntry:
    uri = _uri(file_system, path)
    try:
        uri.encode()
    except UnicodeEncodeError:
        valid = uri.encode(errors="surrogateescape").decode(errors="replace")
        return DatasetEntry(valid, error="the file's name is not UTF-8; rename it")
    fields = {
        **path_fields(uri),
        "size_bytes": details.get("size"),
        "modified_at": modified_at(details),
    }
    known = {k: v for k, v in fields.items() if k in columns.fields and v is not None}
    return DatasetEntry(uri, uri, fields=known)


def _row_entry(
    cells: Mapping[str, Any], place: str, base: str, columns: ManifestColumns
) -> DatasetEntry:
    """Convert a manifest's row; relative paths start at `base`, the manifest's folder."""
    values = {name: cell for name, cell in cells.items() if not is_empty(cell)}
    source = next((name for name in columns.uri_columns if name in values), None)
    fields = {name: value for name, value in values.items() if name in columns.fields}
    item_id = str(values.get(columns.id, ""))
    if source is not None:
        uri = _absolute(str(values[source]), base)
        from_path = {k: v for k, v in path_fields(uri).items() if k in columns.fields}
        if source == "path":
            fields.pop("path", None)  # as the absolute path instead
        return DatasetEntry(place, uri, id=item_id, fields=from_path | fields)
    if columns.text in values:
        return DatasetEntry(place, text=str(values[columns.text]), id=item_id, fields=fields)
    names = ", ".join(columns.uri_columns)
    return DatasetEntry(place, error=f"the row names no file ({names}) and has no text")


def _uri(file_system: Any, path: str) -> str:
    """Return the absolute path of a local file, or the URI of another one."""
    if isinstance(file_system, LocalFileSystem):
        return path
    return str(file_system.unstrip_protocol(path))


def _absolute(uri: str, base: str) -> str:
    if "://" in uri:
        return uri
    if "://" in base:
        return f"{base}/{uri}"
    return str(make_path_posix(posixpath.normpath(posixpath.join(base, uri))))


def _parquet_rows(file: IO[bytes], columns: ManifestColumns) -> Iterator[TableRow]:
    names = {columns.id, columns.text, *columns.fields, *columns.uri_columns}
    for row in read_parquet(file, names, first_number=1, batch_rows=_PARQUET_BATCH_ROWS):
        if isinstance(row, RowError):
            # The error may be the network's. A plan never changes, so it must not miss these rows.
            raise ValueError(row.message)
        yield row


def _list_rows(file: IO[bytes], columns: ManifestColumns) -> Iterator[TableRow | RowError]:
    for row in read_lines(file):
        if isinstance(row, RowError):
            yield row
        else:
            yield TableRow(row[0], {columns.uri_columns[0]: row[1].strip()})


_READERS: dict[str, Callable[[IO[bytes], ManifestColumns], Iterator[TableRow | RowError]]] = {
    ".parquet": _parquet_rows,
    ".csv": lambda file, _: read_csv(file),
    ".jsonl": lambda file, _: read_json_lines(file),
    ".ndjson": lambda file, _: read_json_lines(file),
    ".txt": _list_rows,
}
