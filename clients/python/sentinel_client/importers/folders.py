"""Walk folders of pictures: what to index, what is left out and why, and what could not be read.

Hidden files and folders, and what cameras' and photo programs' helpers leave, are left out (see
`left_out`). Links are followed, but no folder is entered twice, so loops end. Inside folders, the
ending of a name decides whether a file is a picture. A root that is a file is always one.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

from sentinel_client._filters import FieldValue
from sentinel_client._text import valid_text
from sentinel_client._types import FieldSchema, FieldType
from sentinel_client.importers.dataset import (
    BrokenEntry,
    Dataset,
    EmbeddedPreview,
    ImportEntry,
    ImportItem,
    file_item,
    file_stamp,
    unreadable,
)
from sentinel_client.importers.left_out import (
    BESIDE_PICTURE,
    EMPTY,
    IMAGE_EXTENSIONS,
    RAW_EXTENSIONS,
    SIDECAR_EXTENSION,
    LeftOut,
)
from sentinel_client.importers.photo_fields import PHOTO_FIELDS

FILE_FIELDS = (
    FieldSchema("path", FieldType.STRING),
    FieldSchema("file_name", FieldType.STRING),
    FieldSchema("folder", FieldType.STRING),
    FieldSchema("size_bytes", FieldType.INT64),
    FieldSchema("modified_at", FieldType.INT64),
)

# Reads the metadata of the photo at a path, with that of its sidecar, if any. Raises nothing.
MetadataReader: TypeAlias = Callable[[str, str | None], Mapping[str, FieldValue]]


@dataclass(slots=True)
class Walk:
    """What a walk met besides pictures; complete once all entries are read.

    Attributes:
        roots: The folders and files of the library, absolute.
        starts: What is walked: the roots, or folders below them.
        left_out: What was left out.
        unreadable: Folders whose content is not known, because they could not be read, and links
            that lead nowhere.
        mounts: Folders that are the top of another file system than the folder above them.
        found: Number of pictures by start.
        began_ns: When the walk was planned, in nanoseconds since 1970.
    """

    roots: tuple[str, ...]
    starts: tuple[str, ...]
    left_out: LeftOut
    unreadable: list[str] = field(default_factory=list)
    mounts: list[str] = field(default_factory=list)
    found: dict[str, int] = field(default_factory=dict)
    began_ns: int = field(default_factory=time.time_ns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Folders(Dataset):
    """The pictures of folders, and how the walk went."""

    walk: Walk
    # Counts the pictures by their names alone: quick, and a little too many. Blocks.
    count: Callable[[], int]


def folders(
    roots: Sequence[Path],
    *,
    only: Sequence[str] = (),
    exclude: Sequence[str] = (),
    read_metadata: MetadataReader | None = None,
    raw_previews: bool = False,
) -> Folders:
    """Return the pictures under `roots`, each once.

    Args:
        roots: Folders and files.
        only: Walk only these folders below the roots; empty: all of them.
        exclude: What else to leave out: patterns as in .gitignore, relative to each root.
        read_metadata: Reads the values of `PHOTO_FIELDS`; None: the pictures have none.
        raw_previews: Whether to send the embedded preview of a RAW file instead of the file.

    Raises:
        LayoutError: A pattern cannot be used.
    """
    absolute = tuple(os.path.abspath(root) for root in roots)
    walk = Walk(absolute, tuple(only) or absolute, LeftOut(exclude))
    silent = Walk(absolute, walk.starts, LeftOut(exclude))
    return Folders(
        name="folders",
        fields=FILE_FIELDS if read_metadata is None else FILE_FIELDS + PHOTO_FIELDS,
        entries=lambda: _Walker(walk, read_metadata, raw_previews=raw_previews).entries(),
        walk=walk,
        count=lambda: _Walker(silent, None, raw_previews=False).count(),
    )


def is_image_name(name: str) -> bool:
    """Return whether a file of this name is an image that is not hidden."""
    return os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS and not name.startswith(".")


@dataclass(frozen=True, slots=True)
class _Folder:
    """One folder: its start, its path, and the names in it, sorted."""

    start: str
    path: str
    device: int
    folders: list[str]
    pictures: list[str]
    sidecars: dict[str, str]  # names of .xmp files, by the part before .xmp in lower case


class _Walker:
    """Walks once. Its memory is bounded by the largest folder and the number of folders."""

    def __init__(
        self, walk: Walk, read_metadata: MetadataReader | None, *, raw_previews: bool
    ) -> None:
        self._walk = walk
        self._read_metadata = read_metadata
        self._raw_previews = raw_previews
        self._entered: set[tuple[int, int]] = set()
        self._root_files = frozenset(one for one in walk.starts if not os.path.isdir(one))

    def count(self) -> int:
        """Count the pictures by their names."""
        folders = (one for one in self._folders() if isinstance(one, _Folder))
        return len(self._root_files) + sum(len(one.pictures) for one in folders)

    def entries(self) -> Iterator[ImportEntry]:
        """Yield the pictures, and what cannot be read."""
        for path in sorted(self._root_files):
            yield from self._picture(path, path, [])
        for one in self._folders():
            if isinstance(one, BrokenEntry):
                yield one
                continue
            folder = valid_text(one.path)
            for name in one.pictures:
                path = os.path.join(one.path, name)
                if path not in self._root_files:
                    yield from self._picture(path, one.start, _sidecars(one, name), folder)

    def _folders(self) -> Iterator[_Folder | BrokenEntry]:
        for start in self._walk.starts:
            if start in self._root_files:
                continue
            self._walk.found.setdefault(start, 0)
            root = next((one for one in self._walk.roots if is_below(start, one)), start)
            waiting = [(start, -1)]
            while waiting:
                path, device = waiting.pop()
                try:
                    folder = self._read(path, start, root, device)
                except OSError as error:
                    self._walk.unreadable.append(path)
                    if not isinstance(error, FileNotFoundError) or path == start:
                        yield unreadable(path, error)
                    continue  # one that was deleted meanwhile is no failure
                if folder is not None:
                    yield folder
                    waiting += [
                        (os.path.join(path, name), folder.device)
                        for name in reversed(folder.folders)
                    ]

    def _read(self, path: str, start: str, root: str, device: int) -> _Folder | None:
        """Return the names in a folder; None if the walk was there already."""
        status = os.stat(path)
        identity = (status.st_dev, status.st_ino)
        if identity in self._entered:
            self._walk.found[start] += path == start  # another start contains it
            return None
        self._entered.add(identity)
        if status.st_dev != (device if device != -1 else _device(os.path.dirname(path))):
            self._walk.mounts.append(path)
        left_out, prefix = self._walk.left_out, path[len(root) :].lstrip(os.sep)
        prefix = f"{prefix.replace(os.sep, '/')}/" if prefix else ""
        folders, pictures, sidecars = list[str](), list[str](), dict[str, str]()
        with os.scandir(path) as entries:
            for entry in entries:
                name = entry.name
                if (is_folder := _is_folder(entry)) is None:
                    self._walk.unreadable.append(entry.path)
                if is_folder:
                    if not left_out.folder(name, path, prefix + name):
                        folders.append(name)
                elif name[-4:].lower() == SIDECAR_EXTENSION:
                    sidecars[name[:-4].lower()] = name
                elif not left_out.file(name, prefix + name):
                    pictures.append(name)
        pictures = sorted(self._without_pairs(pictures))
        return _Folder(start, path, status.st_dev, sorted(folders), pictures, sidecars)

    def _without_pairs(self, names: list[str]) -> Iterator[str]:
        """Leave out each RAW file beside a picture of the same name: cameras write both."""
        split = [(*os.path.splitext(name), name) for name in names]
        pictures = {stem for stem, ending, _ in split if ending.lower() not in RAW_EXTENSIONS}
        for stem, ending, name in split:
            if ending.lower() in RAW_EXTENSIONS and stem in pictures:
                self._walk.left_out.add(ending.lower(), BESIDE_PICTURE)
            else:
                yield name

    def _picture(
        self, path: str, start: str, sidecars: list[str], folder: str = ""
    ) -> Iterator[ImportEntry]:
        """Yield the picture at a path, or why there is none; nothing if it is left out."""
        try:
            status = os.stat(path)
        except (OSError, ValueError) as error:
            yield unreadable(path, error)
            return
        ending = os.path.splitext(path)[1].lower()
        if not status.st_size and stat.S_ISREG(status.st_mode):
            self._walk.left_out.add(ending or "files without an ending", EMPTY)
            return
        self._walk.found[start] = self._walk.found.get(start, 0) + 1
        shown = valid_text(path)
        fields: dict[str, FieldValue] = {
            "path": shown,
            "file_name": os.path.basename(shown),
            "folder": folder or os.path.dirname(shown),
            "size_bytes": status.st_size,
            "modified_at": status.st_mtime_ns // 1_000_000_000,
        }
        entry = file_item(Path(path), status, fields=fields)
        if isinstance(entry, ImportItem):
            entry = self._with_details(entry, path, sidecars)
            if self._raw_previews and ending in RAW_EXTENSIONS:
                entry = replace(entry, image=EmbeddedPreview(Path(path)))
        yield entry

    def _with_details(self, item: ImportItem, path: str, sidecars: list[str]) -> ImportItem:
        """Return the item with how its metadata is read; its stamp covers the sidecar, too."""
        if self._read_metadata is None:
            return item
        sidecar = sidecars[0] if sidecars else None
        stamp = f"{item.stamp} photo"  # a journal of a run without metadata lacks it
        if sidecar is not None:
            try:
                stamp += f" {file_stamp(os.stat(sidecar))}"
            except OSError:
                sidecar = None
        return replace(item, stamp=stamp, details=partial(self._read_metadata, path, sidecar))


def _sidecars(folder: _Folder, name: str) -> list[str]:
    """Return the sidecar of a picture, if it has one: that of its whole name, else of its stem."""
    if not folder.sidecars:
        return []
    names = (name.lower(), os.path.splitext(name)[0].lower())
    found = [folder.sidecars[one] for one in names if one in folder.sidecars]
    return [os.path.join(folder.path, one) for one in found[:1]]


def is_below(path: str, folder: str) -> bool:
    """Return whether a path is `folder` or below it, by their names alone."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def is_mount(path: str) -> bool:
    """Return whether a path is on another file system than the folder that it is in; blocks."""
    return _device(path) not in (None, _device(os.path.dirname(path)))


def _device(path: str) -> int | None:
    try:
        return os.stat(path).st_dev
    except OSError:
        return None


def _is_folder(entry: os.DirEntry[str]) -> bool | None:
    """Tell whether it is a folder; None: a link that leads nowhere now, perhaps to a folder."""
    try:
        if entry.is_dir():
            return True
    except OSError:  # a link to itself, or into a folder without access
        return None
    return None if entry.is_symlink() and not os.path.exists(entry.path) else False
