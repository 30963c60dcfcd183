"""Manifests (Parquet, CSV, JSON Lines, plain lists) to entries, one row at a time.

A row that cannot be used becomes an entry with its error: it is reported like a broken file, and
its neighbours are read on.
"""

from __future__ import annotations

import csv
import io
import json
import math
import posixpath
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem, make_path_posix

from bulk_indexer.entries import Entry, file_facts
from bulk_indexer.errors import BulkError

# What a manifest may call the column with the file's path or URI; the first that is there counts.
URI_COLUMNS = ("uri", "url", "path", "image", "file_name")
_ROWS_AT_ONCE = 8192


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of a manifest mean what.

    Attributes:
        uri: Column of the path or URI; empty: the first of `URI_COLUMNS`.
        id: Column of the id; need not be there.
        text: Column of the text of items without a file; need not be there.
        fields: Declared fields, each a column of its own; others are left out.
    """

    uri: str
    id: str
    text: str
    fields: frozenset[str]

    def wanted(self) -> set[str]:
        """Return all columns that are of use."""
        return {self.id, self.text, *self.fields, *([self.uri] if self.uri else URI_COLUMNS)}


# A row's place in its file, and its values or what is wrong with it.
_Row = tuple[int, Mapping[str, Any] | str]


def read_manifest(file_system: Any, path: str, columns: Columns) -> Iterator[Entry]:
    """Yield the entries of one manifest; relative paths count from the folder it is in.

    Raises:
        BulkError: The file as a whole cannot be read.
    """
    shown = shown_uri(file_system, path)
    read = _READERS[posixpath.splitext(path)[1].lower()]
    try:
        with file_system.open(path, "rb") as file:
            for number, row in read(file, columns):
                place = f"{shown}:{number}"
                if isinstance(row, str):
                    yield Entry(place, error=row)
                else:
                    yield _entry(row, place, posixpath.dirname(shown), columns)
    except (OSError, ValueError) as error:  # pyarrow's errors are among these
        raise BulkError(f"cannot read the manifest {shown}: {error}") from error


def is_manifest(path: str) -> bool:
    """Tell by its name whether a file lists a dataset rather than being part of it."""
    return posixpath.splitext(path)[1].lower() in _READERS


def shown_uri(file_system: Any, path: str) -> str:
    """Return a file's absolute path if it is local, else its URI."""
    if isinstance(file_system, LocalFileSystem):
        return str(path)
    return str(file_system.unstrip_protocol(path))


def _entry(row: Mapping[str, Any], place: str, base: str, columns: Columns) -> Entry:
    names = [columns.uri] if columns.uri else URI_COLUMNS
    given = [name for name in names if _is_set(row.get(name))]
    text = row.get(columns.text)
    if not given and not _is_set(text):
        return Entry(place, error=f"the row names no file ({', '.join(names)}) and has no text")
    for value in row.values():
        if isinstance(value, str) and not _is_unicode(value):
            return Entry(place, error="the row is not UTF-8")
    uri = _absolute(str(row[given[0]]), base) if given else ""
    facts = file_facts(uri) if uri else {}
    fields = {
        name: value
        for name, value in row.items()
        if name in columns.fields and _is_set(value) and not (name == "path" and name in given[:1])
    }
    return Entry(
        place,
        uri,
        "" if uri else str(text),
        str(row[columns.id]) if _is_set(row.get(columns.id)) else "",
        {**{name: value for name, value in facts.items() if name in columns.fields}, **fields},
    )


def _is_set(value: object) -> bool:
    if isinstance(value, float):
        return not math.isnan(value)  # how pandas writes a missing value
    return value is not None and value != ""


def _is_unicode(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _absolute(uri: str, base: str) -> str:
    if "://" in uri:
        return uri
    if "://" in base:
        return f"{base}/{uri}"
    return str(make_path_posix(posixpath.normpath(posixpath.join(base, uri))))


def _parquet(file: Any, columns: Columns) -> Iterator[_Row]:
    manifest = pq.ParquetFile(file)
    present = [name for name in manifest.schema_arrow.names if name in columns.wanted()]
    number = 0
    for batch in manifest.iter_batches(_ROWS_AT_ONCE, columns=present):
        for row in batch.to_pylist():
            number += 1
            yield number, row


def _csv(file: Any, _: Columns) -> Iterator[_Row]:
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    rows = csv.reader(text)
    header = next(rows, [])
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield rows.line_num, f"the row is not CSV: {error}"
            continue
        if len(row) == len(header):
            yield rows.line_num, dict(zip(header, row, strict=True))
        elif row:
            problem = f"the row has {len(row)} columns, the header {len(header)}"
            yield rows.line_num, problem


def _json_lines(file: Any, _: Columns) -> Iterator[_Row]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:  # also of bytes that are no text
            yield number, f"the line is not JSON: {error}"
            continue
        yield number, row if isinstance(row, dict) else "the line is not a JSON object"


def _list(file: Any, columns: Columns) -> Iterator[_Row]:
    for number, line in enumerate(file, 1):
        name = line.decode(errors="surrogateescape").strip()
        if name:
            yield number, {columns.uri or URI_COLUMNS[0]: name}


_READERS: dict[str, Callable[[Any, Columns], Iterator[_Row]]] = {
    ".parquet": _parquet,
    ".csv": _csv,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".txt": _list,
}
