"""Datasets of pictures with several captions each: what Flickr and COCO share."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sentinel_client._filters import FieldValue
from sentinel_client._types import FieldSchema, FieldType
from sentinel_client.importers._entries import (
    BrokenEntry,
    Dataset,
    Entry,
    LayoutError,
    local_file,
    path_text,
)
from sentinel_client.importers.folders import EXTENSIONS

# How deep a published archive nests its folders, unpacked under a folder of one's own.
_DEPTH = 3


@dataclass
class Captions:
    """Captions by file name, and the rows that could not be read."""

    by_name: dict[str, list[str]] = field(default_factory=dict)
    broken: list[BrokenEntry] = field(default_factory=list)

    def add(self, name: str, caption: str) -> None:
        """Keep one caption of a picture."""
        self.by_name.setdefault(name, []).append(caption)


def caption_fields(*more: FieldSchema, full_text: bool) -> tuple[FieldSchema, ...]:
    """Return the fields of a captioned picture; `full_text` makes the captions searchable."""
    text = FieldSchema("caption", FieldType.STRING, full_text=True)
    return (
        FieldSchema("path", FieldType.STRING),
        FieldSchema("file_name", FieldType.STRING),
        FieldSchema("captions", FieldType.STRING_LIST),
        FieldSchema("split", FieldType.STRING),
        *([text] if full_text else []),
        *more,
    )


def captioned_picture(
    path: Path,
    captions: Sequence[str],
    *,
    split: str = "",
    id: str = "",
    more: Mapping[str, FieldValue] | None = None,
) -> Entry:
    """Return one picture of such a dataset."""
    fields: dict[str, FieldValue] = {
        "path": path_text(path),
        "file_name": path_text(Path(path.name)),
        "captions": list(captions),
        **(more or {}),
    }
    if captions:
        fields["caption"] = "\n".join(captions)
    if split:
        fields["split"] = split
    return local_file(path, id=id, fields=fields)


def captioned_folder(
    name: str,
    folder: Path,
    captions: Captions,
    splits: Mapping[str, str],
    *,
    by_name: bool,
    full_text: bool,
) -> Dataset:
    """Return the pictures of `folder` and those that only the captions name, by name.

    Args:
        name: Of the dataset.
        folder: Where the pictures lie.
        captions: Read before.
        splits: Split by file name.
        by_name: Whether a picture's id is its file name instead of its content's hash.
        full_text: Whether the captions can be searched.
    """
    there = {
        entry.name
        for entry in os.scandir(folder)
        if os.path.splitext(entry.name)[1].lower() in EXTENSIONS and not entry.name.startswith(".")
    }
    names = sorted(there | set(captions.by_name))

    def entries() -> Iterator[Entry]:
        yield from captions.broken
        for one in names:
            yield captioned_picture(
                folder / one,
                captions.by_name.get(one, []),
                split=splits.get(one, ""),
                id=path_text(Path(one)) if by_name else "",
            )

    return Dataset(
        name=name,
        fields=caption_fields(full_text=full_text),
        entries=entries,
        total=len(names) + len(captions.broken),
    )


def find_file(root: Path, names: Iterable[str]) -> Path | None:
    """Return the first of these files under `root`, the names in order of preference."""
    for name in names:
        for folder in _folders(root):
            if (folder / name).is_file():
                return folder / name
    return None


def find_pictures(root: Path, names: Sequence[str]) -> Path:
    """Return the folder of one of these names that holds pictures, `root` itself included.

    Raises:
        LayoutError: There is none.
    """
    wanted = set(names)
    for folder in _folders(root):
        if folder.name in wanted and _holds_pictures(folder):
            return folder
    raise LayoutError(f"{root} has no folder {' or '.join(names)} with pictures in it")


def _folders(root: Path) -> list[Path]:
    """Return `root` and the folders under it, the upper ones first."""
    level, found = [root], [root]
    for _ in range(_DEPTH):
        level = sorted(
            Path(entry.path)
            for folder in level
            for entry in os.scandir(folder)
            if entry.is_dir() and not entry.name.startswith(".")
        )
        found += level
    return found


def _holds_pictures(folder: Path) -> bool:
    return any(
        os.path.splitext(entry.name)[1].lower() in EXTENSIONS for entry in os.scandir(folder)
    )
