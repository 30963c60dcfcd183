"""The folder of one run, local or in an object store: everything that a restart needs to know.

    run.json              what the run is; plan.json once all shards are planned
    plan/000012.parquet   the entries of shard 12
    rows/000012.parquet   its rows, in the collection's layout
    failures/000012.jsonl entries that could not be indexed, and why
    done/000012.json      written last: shard 12 is finished and never embedded again
    delivered/000012.json its rows are in Milvus
    failures.jsonl        all failures, at the end of the run

Every file except the last is written whole or not at all. The plan never changes, so a restart
finds the same entries in the same shards.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass
from itertools import islice
from typing import IO

import fsspec
from fsspec.implementations.local import LocalFileSystem

from bulk_indexer import entries
from bulk_indexer.entries import DatasetEntry
from sentinel_core.vectors import Element
from sentinel_store.collections import CollectionInfo, VectorStorage
from sentinel_store.values import FieldType, ModelRef

_RUN_FILE = "run.json"
_PLAN_FILE = "plan.json"
_SUFFIXES = {"plan": "parquet", "rows": "parquet", "failures": "jsonl"}


class BulkError(Exception):
    """The run cannot continue; the message says why and what to do.

    Finished shards stay finished: the same command continues from there. An error of one item
    never raises this; it becomes a line of the failures file.
    """


@dataclass(frozen=True, slots=True)
class Run:
    """What identifies a run; a run folder holds one run.

    Attributes:
        fields: Declared fields and their types; each becomes a column.
        full_text: Fields with full-text search; together they become one more column.
        inputs: As the user gave them.
        object_store_uri: Where image bytes are stored.
        thumbnail_side: In pixels.
        shard_items: Entries per shard.
        shortened: Whether the vectors have fewer elements than the model's own.
        element: Type of the elements in Milvus's memory.
        rescore: Whether Milvus keeps the float32 vectors, too.
    """

    collection: str
    model: str
    revision: str
    fingerprint: str
    dimensions: int
    fields: dict[str, str]
    full_text: tuple[str, ...]
    inputs: tuple[str, ...]
    object_store_uri: str
    thumbnail_side: int
    shard_items: int
    shortened: bool = False
    element: str = "float32"
    rescore: bool = False

    @property
    def info(self) -> CollectionInfo:
        """The collection."""
        return CollectionInfo(
            self.collection,
            ModelRef(self.model, self.revision, self.fingerprint),
            self.dimensions,
            {name: FieldType(field_type) for name, field_type in self.fields.items()},
            full_text=self.full_text,
            storage=VectorStorage(Element(self.element), self.rescore),
            shortened=self.shortened,
        )

    def entries_of(self, shard: int, plan: Plan) -> int:
        """Return the number of a shard's entries: the last one has the rest."""
        return min(self.shard_items, plan.entries - shard * self.shard_items)


@dataclass(frozen=True, slots=True)
class Plan:
    """How large the run is."""

    shards: int
    entries: int


class RunFolder:
    """Thread-safe. Any process can open the same folder by its URI."""

    def __init__(self, uri: str) -> None:
        """Open the folder; raise BulkError if the URI is not supported."""
        self.uri = uri
        try:
            self._fs, self._root = fsspec.core.url_to_fs(uri)
        except (ImportError, ValueError) as error:
            raise BulkError(f"cannot open the run folder {uri}: {error}") from error
        self._is_local = isinstance(self._fs, LocalFileSystem)

    def read(self, name: str) -> bytes:
        """Return a file's bytes; raise FileNotFoundError if there is no such file."""
        return bytes(self._fs.cat_file(self._path(name)))

    def write(self, name: str, data: bytes) -> None:
        """Write or replace a file, whole or not at all."""
        path = self._path(name)
        if not self._is_local:
            self._fs.pipe_file(path, data)  # one PUT, which object stores make atomic
            return
        temporary = f"{path}.{uuid.uuid4().hex}.tmp"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                file.write(data)
            os.replace(temporary, path)
        except OSError:
            with suppress(OSError):
                os.unlink(temporary)  # leave no garbage on a full disk
            raise

    def open_for_writing(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """Open a file too large for `write`; after a crash it may be incomplete."""
        self._fs.makedirs(self._root, exist_ok=True)
        opened: AbstractContextManager[IO[bytes]] = self._fs.open(self._path(name), "wb")
        return opened

    def numbers(self, folder: str) -> set[int]:
        """Return the shards that have a file in `folder`."""
        self._fs.invalidate_cache()  # another process may have written
        try:
            paths = self._fs.ls(self._path(folder), detail=False)
        except FileNotFoundError:
            return set()
        names = (str(path).rsplit("/", 1)[-1].split(".", 1) for path in paths)
        return {int(name[0]) for name in names if name[0].isdigit() and "tmp" not in name[1]}

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


def shard_file(folder: str, shard: int) -> str:
    """Return the name of a shard's file in one of the run's folders."""
    return f"{folder}/{shard:06d}.{_SUFFIXES.get(folder, 'json')}"


def read_run(folder: RunFolder) -> Run | None:
    """Return the folder's run; None for a new folder. BulkError: another version wrote it."""
    try:
        data = json.loads(folder.read(_RUN_FILE))
    except FileNotFoundError:
        return None
    try:
        tuples = {name: tuple(data[name]) for name in ("inputs", "full_text")}
        return Run(**{**data, **tuples})
    except (KeyError, TypeError) as error:
        raise BulkError(
            f"{folder.uri} was written by another version of Sentinel; use a new --run folder"
        ) from error


def claim(folder: RunFolder, run: Run) -> None:
    """Write the run into a new folder; raise BulkError if the folder holds another run."""
    existing = read_run(folder)
    if existing is None:
        folder.write(_RUN_FILE, json.dumps(asdict(run), indent=1).encode())
        return
    theirs = asdict(existing)
    for name, value in asdict(run).items():
        # Versions may name the revision differently; the fingerprint identifies the model.
        if value != theirs[name] and name != "revision":
            raise BulkError(
                f"{folder.uri} holds another run: its {name} is {theirs[name]!r}, not {value!r}; "
                "repeat the first command, or use a new --run folder"
            )


def read_plan(folder: RunFolder) -> Plan | None:
    """Return the finished plan; None if there is none."""
    try:
        return Plan(**json.loads(folder.read(_PLAN_FILE)))
    except FileNotFoundError:
        return None


def write_plan(folder: RunFolder, dataset: Iterable[DatasetEntry], shard_items: int) -> Plan:
    """Divide a dataset into shards, in one pass; raise BulkError if it is unreadable or empty."""
    shards = count = 0
    dataset = iter(dataset)
    while part := list(islice(dataset, shard_items)):
        folder.write(shard_file("plan", shards), entries.to_parquet(part))
        shards, count = shards + 1, count + len(part)
    if not count:
        raise BulkError("nothing to index: the inputs have no images and no rows")
    plan = Plan(shards, count)
    folder.write(_PLAN_FILE, json.dumps(asdict(plan)).encode())
    return plan


def read_entries(folder: RunFolder, shard: int) -> list[DatasetEntry]:
    """Return the entries of one shard, in the dataset's order."""
    return entries.from_parquet(folder.read(shard_file("plan", shard)))
