"""Repair damaged files of Milvus Lite so that it can open what is left.

Nothing is deleted: whatever is taken out is in `damaged/` before.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sentinel_store.images.local_files import sync_folder
from sentinel_store.milvus.lite_files import (
    DAMAGED,
    CollectionFiles,
    Damage,
    Kind,
    keep_copy,
)
from sentinel_store.milvus.lite_log import LogState, rewrite


def repair(database: Path, found: list[CollectionFiles], damages: list[Damage]) -> Iterator[str]:
    """Repair what can be repaired; yield what was done, a line each.

    The caller holds the database's lock, and inspects it again afterwards.
    """
    by_name = {files.name: files for files in found}
    for damage in damages:
        path = database / damage.path
        files = by_name.get(damage.path.parts[1]) if len(damage.path.parts) > 1 else None
        if files is not None and not files.folder.exists():
            continue  # set aside as a whole
        if damage.kind is Kind.ALIASES:
            _set_aside(database, path)
            yield f"{damage.path} is set aside: set the aliases again"
        elif damage.kind is Kind.FOLDER:
            _set_aside(database, path)
            yield f"{damage.path} is set aside"
        elif damage.kind is Kind.SCHEMA and files is not None:
            _set_aside(database, files.folder)
            yield (
                f"collection {files.name!r} is set aside: restore its schema.json from a backup, "
                "then move the folder back"
            )
        elif damage.kind is Kind.MANIFEST and files is not None:
            yield _mend_manifest(database, files)
        elif damage.kind in (Kind.SEGMENT, Kind.SEGMENT_MISSING) and files is not None:
            yield _forget_segment(database, files, path)
    for files in found:
        if files.folder.exists():
            yield from _mend_logs(database, files)


def _mend_logs(database: Path, files: CollectionFiles) -> Iterator[str]:
    for log in (log for logs in files.logs.values() for log in logs):
        if log.state is LogState.WHOLE:
            continue
        copy = keep_copy(database, log.path)
        rewrite(log)
        yield (
            f"{log.path.relative_to(database)} has its {len(log.records)} readable writes; all of "
            f"it is in {copy.relative_to(database)}"
        )


def _forget_segment(database: Path, files: CollectionFiles, segment: Path) -> str:
    """Take a segment out of the manifest."""
    manifest = files.folder / "manifest.json"
    keep_copy(database, manifest)
    content = json.loads(manifest.read_text())
    name = f"{segment.parent.name}/{segment.name}"
    names = content["partitions"][segment.parents[1].name]
    for kind in ("data_files", "delta_files"):
        names[kind] = [other for other in names.get(kind, []) if other != name]
    _write(manifest, content)
    if segment.exists():
        _set_aside(database, segment)
    lost = "its rows are lost" if segment.parent.name == "data" else "deleted items may return"
    return f"{segment.relative_to(database)} is not used any more; {lost}, unless it is restored"


def _mend_manifest(database: Path, files: CollectionFiles) -> str:
    """Make a manifest of the one before and of all segments that can be read.

    Segments that the lost manifest no longer named have only older states of rows.
    """
    manifest, before = files.folder / "manifest.json", files.folder / "manifest.json.prev"
    try:
        content: dict[str, Any] = json.loads(before.read_text())
        partitions = content["partitions"]
    except (OSError, ValueError, KeyError, TypeError):
        return (
            f"collection {files.name!r} cannot be repaired: neither manifest.json nor the one "
            "before can be read; restore it from a backup"
        )
    if manifest.exists():
        keep_copy(database, manifest)
    last = int(content.get("current_seq", 0))
    for partition in sorted((files.folder / "partitions").iterdir()):
        names: dict[str, list[str]] = {"data_files": [], "delta_files": []}
        for path in sorted(partition.glob("d*/*.parquet")):
            try:
                numbers = pq.read_table(path, columns=["_seq"])["_seq"].to_pylist()
            except (pa.ArrowException, OSError):
                _set_aside(database, path)
                continue
            last = max([last, *numbers])
            names[f"{path.parent.name}_files"].append(f"{path.parent.name}/{path.name}")
        partitions[partition.name] = names
    content |= {"current_seq": last, "active_wal_number": None}
    content["version"] = int(content.get("version", 0)) + 2
    _write(manifest, content)
    return f"{manifest.relative_to(database)} is made again from the segments"


def _write(path: Path, content: dict[str, Any]) -> None:
    draft = path.with_suffix(".draft")
    with draft.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=2, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    sync_folder(path.parent)


def _set_aside(database: Path, path: Path) -> None:
    """Move a file or folder to `damaged/`, beside those of the same name."""
    name = "-".join(path.relative_to(database).parts)
    target, number = database / DAMAGED / name, 1
    while target.exists():
        number += 1
        target = database / DAMAGED / f"{name}.{number}"
    target.parent.mkdir(exist_ok=True)
    shutil.move(path, target)
    sync_folder(path.parent)
    sync_folder(target.parent)
