"""Have Milvus Lite force to disk what it acknowledges, so that a power cut loses nothing.

Lite 3.2.2 forces its manifest and a log's end to disk, but neither the records of a log nor the
segments that replace it, nor aliases, nor the names of new files. It has no setting for that, so
we put our own in place of the functions that write. Each does what Lite's does, then syncs.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from milvus_lite.db import DEFAULT_DATABASE_NAME, MilvusLite
from milvus_lite.engine import collection, compaction, flush
from milvus_lite.storage.manifest import Manifest
from milvus_lite.storage.wal import WAL

from sentinel_store.images.local_files import sync_folder


class SyncedLog(WAL):  # type: ignore[misc]
    """A log whose records are on disk when a write returns."""

    def __init__(self, wal_dir: str, *arguments: Any, **options: Any) -> None:
        super().__init__(wal_dir, *arguments, **(options | {"sync_mode": "batch"}))
        self._named: set[str | None] = {None}

    def write_insert(self, record_batch: Any) -> None:
        """Append upserted rows."""
        super().write_insert(record_batch)
        self._sync_name(self.data_path)

    def write_delete(self, record_batch: Any) -> None:
        """Append deleted ids."""
        super().write_delete(record_batch)
        self._sync_name(self.delta_path)

    def _sync_name(self, path: str | None) -> None:
        if path not in self._named:
            sync_folder(Path(self.wal_dir))
            sync_folder(Path(self.wal_dir).parent)  # the folder of the logs may be new
            self._named.add(path)


class Lite(MilvusLite):  # type: ignore[misc]
    """A database that gives back its lock if it cannot be opened; Lite's own keeps it for good."""

    _lock_fd: int | None = None

    def __init__(self, folder: str) -> None:
        try:
            super().__init__(folder)
        except BaseException:
            self._release_lock()
            raise


class SyncedLite(Lite):
    """A database whose collections and aliases are on disk when a call returns."""

    def create_collection(self, name: str, *arguments: Any, **options: Any) -> Any:
        """Create a collection."""
        made = super().create_collection(name, *arguments, **options)
        folder = Path(made.data_dir)
        sync_folder(folder)
        sync_folder(folder.parent)
        return made

    def alter_collection_properties(self, name: str, *arguments: Any, **options: Any) -> None:
        """Change a collection's properties."""
        super().alter_collection_properties(name, *arguments, **options)
        sync_folder(Path(self.get_collection(name).data_dir))

    def _save_aliases(self, database_name: str = DEFAULT_DATABASE_NAME) -> None:
        path = Path(self._aliases_path(database_name))
        draft = path.with_suffix(".draft")
        with draft.open("w", encoding="utf-8") as file:
            json.dump(self._aliases(database_name), file, ensure_ascii=False, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        sync_folder(path.parent)


def _synced(write: Callable[..., str]) -> Callable[..., str]:
    """Return a function that writes a segment as `write` does, and syncs it and its folders."""

    @functools.wraps(write)
    def write_and_sync(table: Any, partition_dir: str, *arguments: Any, **options: Any) -> str:
        name = write(table, partition_dir, *arguments, **options)
        path = Path(partition_dir) / name
        with path.open("rb") as file:
            os.fsync(file.fileno())
        # Up to the collection's, since the first segment made them.
        for folder in path.parents[:4]:
            sync_folder(folder)
        return name

    return write_and_sync


def _save_and_sync(save: Callable[[Manifest], None]) -> Callable[[Manifest], None]:
    """Return a function that fails if the name of the saved manifest does not reach the disk.

    Lite's own ignores that, and deletes the log.
    """

    @functools.wraps(save)
    def save_and_sync(self: Manifest) -> None:
        save(self)
        sync_folder(Path(self.data_dir))

    return save_and_sync


@functools.cache
def install() -> None:
    """Put the functions in place, for this process."""
    collection.WAL = SyncedLog
    flush.write_data_file = _synced(flush.write_data_file)
    flush.write_delta_file = _synced(flush.write_delta_file)
    compaction.write_data_file = _synced(compaction.write_data_file)
    Manifest.save = _save_and_sync(Manifest.save)
