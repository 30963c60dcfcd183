"""Import folders of image files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from sentinel_client._filters import FieldValue
from sentinel_client._text import valid_text
from sentinel_client._types import FieldSchema, FieldType
from sentinel_client.importers.dataset import (
    Dataset,
    ImportEntry,
    file_item,
    unreadable,
)

IMAGE_EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})

_FIELDS = (
    FieldSchema("path", FieldType.STRING),
    FieldSchema("file_name", FieldType.STRING),
    FieldSchema("folder", FieldType.STRING),
    FieldSchema("size_bytes", FieldType.INT64),
    FieldSchema("modified_at", FieldType.INT64),
)


def folders(roots: Sequence[Path]) -> Dataset:
    """Return the images under `roots`, each once, by name. Blocking: walks the folders.

    Hidden files and folders are skipped. Links are followed, but no folder is entered twice, so
    loops end. A root that is a file is included whatever its name.
    """
    found = list(_scan(roots))
    return Dataset(name="folders", fields=_FIELDS, entries=lambda: iter(found), total=len(found))


def is_image_name(name: str) -> bool:
    """Return whether a file of this name is an image that is not hidden."""
    return os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS and not name.startswith(".")


def _scan(roots: Sequence[Path]) -> Iterator[ImportEntry]:
    entered: set[tuple[int, int]] = set()
    seen: set[Path] = set()
    for root in roots:
        waiting = [Path(os.path.abspath(root))]
        while waiting:
            path = waiting.pop()
            try:
                if path.is_dir():
                    status = path.stat()
                    if (status.st_dev, status.st_ino) not in entered:
                        entered.add((status.st_dev, status.st_ino))
                        waiting.extend(_children(path))
                elif path not in seen:
                    seen.add(path)
                    yield _entry(path)
            except OSError as error:
                yield unreadable(str(path), error)


def _entry(path: Path) -> ImportEntry:
    status = path.stat()
    valid = Path(valid_text(str(path)))
    fields: dict[str, FieldValue] = {
        "path": str(valid),
        "file_name": valid.name,
        "folder": str(valid.parent),
        "size_bytes": status.st_size,
        "modified_at": status.st_mtime_ns // 1_000_000_000,
    }
    return file_item(path, status, fields=fields)


def _children(folder: Path) -> list[Path]:
    """Return the folders and images in `folder` in reverse order, to push on a stack."""
    with os.scandir(folder) as entries:
        chosen = [
            folder / entry.name
            for entry in entries
            if is_image_name(entry.name) or (not entry.name.startswith(".") and _is_folder(entry))
        ]
    return sorted(chosen, reverse=True)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or into a folder without access
        return False
