"""Inspect the files of Milvus Lite before it opens them.

    collections/NAME/schema.json     columns and properties; without it Lite sees no collection
                    /manifest.json   which segments there are; Lite deletes all others
                    /wal/            logs: rows that are in no segment yet
                    /partitions/…    segments (data) and deletions (delta), as Parquet
    aliases.json                     second names of collections

Lite 3.2.2 takes what it finds: it skips a missing segment, reads a log up to the first damage,
deletes segments that an old copy of the manifest does not name, and then the logs. So whatever is
damaged must be found before it opens the folder. What a crash leaves is put in order here:

* A flush was killed between the manifest and the end of its log. The rows are in both, and Lite
  would count and find them twice.
* A collection was created or dropped halfway. Its name could not be used again.
* A record was written halfway. Lite ignores it; a copy is kept in `damaged/`.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sentinel_store.images.local_files import sync_folder
from sentinel_store.milvus import schema
from sentinel_store.milvus.lite_log import LogFile, LogState, read_log

logger = logging.getLogger(__name__)

DAMAGED = "damaged"  # the folder for copies of what was found damaged
_DROPPING = "sentinel-dropping"  # one file for each collection that is being dropped


class Kind(StrEnum):
    """What is wrong with a file."""

    SCHEMA = "schema"
    MANIFEST = "manifest"
    ALIASES = "aliases"
    SEGMENT_MISSING = "segment missing"
    SEGMENT = "segment"
    FOLDER = "folder"
    LOG = "log"


@dataclass(frozen=True, slots=True)
class Damage:
    """A damaged file.

    Attributes:
        path: The file, below the database's folder.
        kind: What is wrong with it.
        why: The same in words.
    """

    path: Path
    kind: Kind
    why: str

    def __str__(self) -> str:
        return f"{self.path}: {self.why}"


@dataclass(slots=True)
class CollectionFiles:
    """The files of one collection.

    Attributes:
        folder: Its folder.
        manifest: What manifest.json says; empty if it cannot be read or there is none.
        logs: Its logs by number; rows first, then deletions.
    """

    folder: Path
    manifest: dict[str, Any] = field(default_factory=dict)
    logs: dict[int, list[LogFile]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The collection's name."""
        return self.folder.name

    def segments(self) -> Iterator[Path]:
        """Yield the Parquet files that the manifest names."""
        for partition, files in self.manifest.get("partitions", {}).items():
            for kind in ("data_files", "delta_files"):
                for name in files.get(kind, []):
                    yield self.folder / "partitions" / partition / name


def collections(database: Path) -> list[Path]:
    """Return the folders of all collections, sorted."""
    root = database / "collections"
    return sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []


def put_in_order(database: Path) -> None:
    """Finish what crashes interrupted. The caller holds the database's lock."""
    for mark in _marks(database):
        _remove(database / "collections" / mark.name)
        _forget_aliases(database, mark.name)
        logger.warning("finished dropping a collection", extra={"collection": mark.name})
        end_drop(database, mark.name)
    for folder in collections(database):
        is_half_made = not (folder / "schema.json").exists() and not _has_rows(folder)
        if is_half_made or folder.name.startswith(schema.PROBE):
            logger.warning("removed a half-made collection", extra={"collection": folder.name})
            _remove(folder)


def begin_drop(database: Path, name: str) -> None:
    """Note that a collection is being dropped, so that a crash cannot leave half of it."""
    folder = database / _DROPPING
    folder.mkdir(exist_ok=True)
    (folder / name).touch()
    sync_folder(folder)


def end_drop(database: Path, name: str) -> None:
    """Note that a collection is gone."""
    sync_folder(database / "collections")
    folder = database / _DROPPING
    (folder / name).unlink(missing_ok=True)
    sync_folder(folder)


def inspect(
    database: Path, *, thorough: bool = False
) -> tuple[list[CollectionFiles], list[Damage]]:
    """Read the files of all collections; return them, and what is damaged.

    Logs are read as a whole. Segments only with `thorough`; otherwise their footers.
    """
    damages = [
        *_unreadable_json(database / "aliases.json", Kind.ALIASES, "its aliases cannot be read")
    ]
    found = []
    for folder in collections(database):
        files = CollectionFiles(folder)
        damages += _inspect_collection(files, thorough=thorough)
        found.append(files)
    relative = [
        Damage(damage.path.relative_to(database), damage.kind, damage.why) for damage in damages
    ]
    return found, relative


def _inspect_collection(files: CollectionFiles, *, thorough: bool) -> Iterator[Damage]:
    folder = files.folder
    yield from _unreadable_json(folder / "schema.json", Kind.SCHEMA, "it cannot be read")
    if not (folder / "schema.json").exists():
        yield Damage(folder / "schema.json", Kind.SCHEMA, "it is missing")
    for name in ("partitions", "wal"):
        if (folder / name).exists() and not (folder / name).is_dir():
            yield Damage(folder / name, Kind.FOLDER, "it is a file in place of a folder")
            return
    manifest = folder / "manifest.json"
    damaged = list(_unreadable_json(manifest, Kind.MANIFEST, "it cannot be read"))
    if not manifest.exists() and any((folder / "partitions").rglob("*.parquet")):
        damaged.append(Damage(manifest, Kind.MANIFEST, "it is missing"))
    if not damaged and manifest.exists():
        files.manifest = json.loads(manifest.read_text())
        partitions = files.manifest.get("partitions")
        if not isinstance(partitions, dict) or not all(
            isinstance(names, dict) for names in partitions.values()
        ):
            files.manifest = {}
            damaged.append(Damage(manifest, Kind.MANIFEST, "it lists no segments"))
    yield from damaged
    for path in files.segments():
        yield from _inspect_segment(path, thorough=thorough)
    for path in sorted((folder / "wal").glob("wal_*_*.arrow")):
        log = read_log(path)
        files.logs.setdefault(int(path.stem.rsplit("_", 1)[1]), []).append(log)
        if log.state is LogState.DAMAGED:
            yield Damage(
                path,
                Kind.LOG,
                f"it cannot be read from byte {log.readable} of {log.size} on",
            )


def _unreadable_json(path: Path, kind: Kind, why: str) -> Iterator[Damage]:
    try:
        if not isinstance(json.loads(path.read_text()), dict):
            yield Damage(path, kind, why)
    except FileNotFoundError:
        pass
    except ValueError as error:  # not JSON, or not UTF-8
        yield Damage(path, kind, f"{why}: {error}")


def _inspect_segment(path: Path, *, thorough: bool) -> Iterator[Damage]:
    try:
        if thorough:
            pq.read_table(path).validate(full=True)
        else:
            pq.read_metadata(path)
    except FileNotFoundError:
        yield Damage(path, Kind.SEGMENT_MISSING, "it is missing")
    except (pa.ArrowException, OSError) as error:
        if getattr(error, "errno", None):
            raise  # the system cannot read it now; Arrow's own errors have no number
        yield Damage(path, Kind.SEGMENT, f"it cannot be read: {error}")


def keep_torn_logs(database: Path, found: list[CollectionFiles]) -> None:
    """Copy logs that end in half a record to `damaged/`, and say so; Lite ignores that half."""
    for files in found:
        for log in (log for logs in files.logs.values() for log in logs):
            if log.state is not LogState.TORN:
                continue
            kept = keep_copy(database, log.path)
            logger.warning(
                "a log ends in half a record, which was not acknowledged unless the machine lost "
                "its power; a copy is kept",
                extra={"log": str(log.path), "bytes": log.size - log.readable, "copy": str(kept)},
            )


def keep_copy(database: Path, path: Path) -> Path:
    """Copy a file to `damaged/` under a name that tells where it was; once for each size of it."""
    name = "-".join(path.relative_to(database).parts)
    copy = database / DAMAGED / f"{name}.{path.stat().st_size}"
    if not copy.exists():
        copy.parent.mkdir(exist_ok=True)
        shutil.copy2(path, copy)
        sync_folder(copy.parent)
    return copy


def remove_flushed_logs(files: CollectionFiles) -> None:
    """Remove logs whose every row is in a segment already."""
    flushed_up_to = int(files.manifest.get("current_seq", 0))
    key = _key(files.folder)
    old = {
        number: logs
        for number, logs in files.logs.items()
        if all(number_ <= flushed_up_to for log in logs for _, number_ in log.rows(key))
    }
    if not old:
        return
    newest: dict[object, int] = {}
    for path in files.segments():
        table = pq.read_table(path, columns=[key, "_seq"])
        for row, seq in zip(table[key].to_pylist(), table["_seq"].to_pylist(), strict=True):
            newest[row] = max(seq, newest.get(row, -1))
    for number, logs in old.items():
        if all(newest.get(row, -1) >= seq for log in logs for row, seq in log.rows(key)):
            for log in logs:
                log.path.unlink()
            sync_folder(files.folder / "wal")
            extra = {"collection": files.name, "log": number}
            logger.info("removed a log that was flushed before a crash", extra=extra)
            del files.logs[number]


def _key(folder: Path) -> str:
    """Return the name of a collection's primary key."""
    columns = json.loads((folder / "schema.json").read_text())["fields"]
    return str(next(column["name"] for column in columns if column["is_primary"]))


def _has_rows(folder: Path) -> bool:
    return any(path.suffix in (".parquet", ".arrow") for path in folder.rglob("*"))


def _marks(database: Path) -> list[Path]:
    folder = database / _DROPPING
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
        sync_folder(folder.parent)


def _forget_aliases(database: Path, name: str) -> None:
    """Remove the aliases of a collection that is gone, as Lite does last."""
    path = database / "aliases.json"
    if not path.exists():
        return
    try:
        aliases = json.loads(path.read_text())
    except ValueError:
        return  # `inspect` says so
    left = {alias: target for alias, target in aliases.items() if target != name}
    if left != aliases:
        draft = path.with_suffix(".draft")
        draft.write_text(json.dumps(left))
        draft.replace(path)
