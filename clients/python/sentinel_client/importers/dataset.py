"""Define what importers return: a dataset, its items with their origin, and broken entries."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

from sentinel_client._filters import FieldValue
from sentinel_client._types import FieldSchema, FieldType, ImageUri


@dataclass(frozen=True, slots=True)
class FileSlice:
    """An image inside a larger file, such as a tar archive: `size` bytes from `offset`."""

    path: Path
    offset: int
    size: int

    def read(self) -> bytes:
        """Return the bytes; raise OSError if the file is too short, too."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) != self.size:
            raise OSError(None, "the file is shorter than it was", str(self.path))
        return data


@dataclass(frozen=True, slots=True)
class EmbeddedPreview:
    """The preview inside a RAW file: what is sent instead of the file, which is the content."""

    path: Path


# Where an image is, or its bytes if it is in no file of its own.
ImageSource: TypeAlias = Path | FileSlice | EmbeddedPreview | bytes | ImageUri


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportItem:
    """One item to store: an image or a text."""

    # Names the entry in its source, the same in every run: a path, or `rows.csv#17`.
    key: str
    # Changes when the content may have changed: size and time of its file.
    stamp: str
    changed_ns: int = 0  # when that file was changed, since 1970; 0: not a file
    image: ImageSource | None = field(default=None, repr=False)
    text: str | None = None
    id: str = ""  # empty: the SHA-256 of the content
    fields: Mapping[str, FieldValue] = field(default_factory=dict)
    # Reads further fields out of the file, as long as its stamp is the same; blocks.
    details: Callable[[], Mapping[str, FieldValue]] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class BrokenEntry:
    """An entry that cannot be stored; the run continues."""

    key: str  # as in `ImportItem`
    reason: str  # for programs: FILE_MISSING, FILE_UNREADABLE, ROW_INVALID …
    message: str


ImportEntry: TypeAlias = ImportItem | BrokenEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A dataset to import."""

    name: str
    fields: tuple[FieldSchema, ...]  # its collection should declare them
    # Starts reading from the beginning, in any thread; blocks. Yields broken entries, raises none.
    entries: Callable[[], Iterator[ImportEntry]]
    total: int | None = None  # number of entries, if it is known
    left_out: tuple[str, ...] = ()  # columns that cannot become fields, to report


class LayoutError(ValueError):
    """The files do not have the layout that this importer reads; the message says what is wrong."""


def searchable(dataset: Dataset, names: Iterable[str]) -> Dataset:
    """Return the dataset with full-text search of these string fields."""
    wanted = set(names)
    strings = {schema.name for schema in dataset.fields if schema.type is FieldType.STRING}
    if wanted - strings:
        raise LayoutError(
            f"no string field {', '.join(sorted(wanted - strings))}; "
            f"the string fields are {', '.join(sorted(strings)) or 'none'}"
        )
    fields = tuple(replace(one, full_text=one.name in wanted) for one in dataset.fields)
    return replace(dataset, fields=fields)


def file_stamp(status: os.stat_result) -> str:
    """Return the size and the times of a file, which change with its content.

    Programs can set back the time of a file's content, but not that of its last change.
    """
    return f"{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"


def changed_ns(status: os.stat_result) -> int:
    """Return when a file was changed, in nanoseconds since 1970."""
    return max(status.st_mtime_ns, status.st_ctime_ns)


def digest_stamp(*values: object) -> str:
    """Return a short digest of values that JSON can hold."""
    text = json.dumps(values, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def local_file(path: Path, *, id: str = "", fields: Mapping[str, FieldValue]) -> ImportEntry:
    """Return the item of the image at an absolute path, or why there is none."""
    key = str(path)
    try:
        status = path.stat()
    except FileNotFoundError:
        return BrokenEntry(key, "FILE_MISSING", "no such file")
    except (OSError, ValueError) as error:
        return unreadable(key, error)
    return file_item(path, status, id=id, fields=fields)


def file_item(
    path: Path, status: os.stat_result, *, id: str = "", fields: Mapping[str, FieldValue]
) -> ImportEntry:
    """Return the item of an image file, or the broken entry of something else."""
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would block forever
        return BrokenEntry(str(path), "FILE_UNREADABLE", "cannot be read: not a regular file")
    return ImportItem(
        key=str(path),
        stamp=file_stamp(status),
        changed_ns=changed_ns(status),
        image=path,
        id=id,
        fields=fields,
    )


def unreadable(key: str, error: Exception) -> BrokenEntry:
    """Return the broken entry of a file that cannot be read."""
    reason = error.strerror if isinstance(error, OSError) else None
    return BrokenEntry(key, "FILE_UNREADABLE", f"cannot be read: {reason or error}")
