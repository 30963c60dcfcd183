"""What every importer yields: items to store with where they came from, and what is broken."""

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
    """A picture inside a larger file, such as a tar archive; `size` bytes from `offset`."""

    path: Path
    offset: int
    size: int

    def read(self) -> bytes:
        """Return the bytes.

        Raises:
            OSError: The file cannot be read, or ends before.
        """
        with self.path.open("rb") as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) != self.size:
            raise OSError(None, "the file is shorter than it was", str(self.path))
        return data


# Where a picture is, or its bytes where there is no other way to them.
Picture: TypeAlias = Path | FileSlice | bytes | ImageUri


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportItem:
    """One thing to store.

    Attributes:
        key: Names the entry in its source, the same in every run: a path, `rows.csv#17`.
        stamp: Differs when the content may differ: size and time of the file that holds it.
        modified_ns: When that file was written, in ns since 1970; 0 for what is no file.
        image: The picture.
        text: Instead of a picture.
        id: Empty takes the SHA-256 of the content.
        fields: Values of the dataset's fields; those it lacks are left out.
    """

    key: str
    stamp: str
    modified_ns: int = 0
    image: Picture | None = field(default=None, repr=False)
    text: str | None = None
    id: str = ""
    fields: Mapping[str, FieldValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BrokenEntry:
    """Something that cannot be stored; the run goes on.

    Attributes:
        key: Names it.
        reason: One word for programs: FILE_MISSING, FILE_UNREADABLE, ROW_INVALID …
        message: What is wrong.
    """

    key: str
    reason: str
    message: str


Entry: TypeAlias = ImportItem | BrokenEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Something to import.

    Attributes:
        name: What people call it.
        fields: What a collection for it should declare.
        entries: Starts reading; may be called again. Yields without end, in any thread, and
            blocks. What is broken is yielded, never raised.
        total: How many entries there are, if that is known beforehand.
        left_out: Columns and the like that cannot become fields, for people.
    """

    name: str
    fields: tuple[FieldSchema, ...]
    entries: Callable[[], Iterator[Entry]]
    total: int | None = None
    left_out: tuple[str, ...] = ()


class LayoutError(ValueError):
    """The files are not what this importer reads; says what is missing."""


def searchable(dataset: Dataset, names: Iterable[str]) -> Dataset:
    """Return the dataset with these fields declared for the search of words.

    Raises:
        LayoutError: It has no such field of strings.
    """
    wanted = set(names)
    strings = {schema.name for schema in dataset.fields if schema.type is FieldType.STRING}
    if wanted - strings:
        raise LayoutError(
            f"no field of strings: {', '.join(sorted(wanted - strings))}; "
            f"there are {', '.join(sorted(strings)) or 'none'}"
        )
    fields = tuple(replace(one, full_text=one.name in wanted) for one in dataset.fields)
    return replace(dataset, fields=fields)


def file_stamp(status: os.stat_result) -> str:
    """Return size and time of a file, which change when its content does."""
    return f"{status.st_size}:{status.st_mtime_ns}"


def digest_stamp(*values: object) -> str:
    """Return a short digest of values that JSON can hold."""
    text = json.dumps(values, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def path_text(path: Path) -> str:
    """Return a path as valid Unicode, which a file name on Linux need not be."""
    return os.fsencode(path).decode("utf-8", "replace")


def local_file(path: Path, *, id: str = "", fields: Mapping[str, FieldValue]) -> Entry:
    """Return the item of an absolute path's picture, or why there is none."""
    key = str(path)
    try:
        status = path.stat()
    except FileNotFoundError:
        return BrokenEntry(key, "FILE_MISSING", "no such file")
    except (OSError, ValueError) as error:
        return unreadable(key, error)
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
        return BrokenEntry(key, "FILE_UNREADABLE", "cannot be read: not a regular file")
    return ImportItem(
        key=key,
        stamp=file_stamp(status),
        modified_ns=status.st_mtime_ns,
        image=path,
        id=id,
        fields=fields,
    )


def unreadable(key: str, error: Exception) -> BrokenEntry:
    """Return the entry of something that the system would not let us read."""
    said = error.strerror if isinstance(error, OSError) else None
    return BrokenEntry(key, "FILE_UNREADABLE", f"cannot be read: {said or error}")
