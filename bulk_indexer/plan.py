"""What a run is, and how its dataset is cut into shards; both written once, before anything else.

The cut never changes afterwards, so a restart finds the same items in the same shards however the
dataset was listed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from bulk_indexer import entries
from bulk_indexer.entries import Entry
from bulk_indexer.errors import BulkError
from bulk_indexer.run_folder import RunFolder, shard_file
from sentinel_store.collections import CollectionInfo
from sentinel_store.values import FieldType, ModelRef

_RUN_FILE = "run.json"
_PLAN_FILE = "plan.json"


@dataclass(frozen=True, slots=True)
class Run:
    """What makes two runs the same; a run folder holds one of them.

    Attributes:
        collection: Name of the collection.
        model: Whose vectors the rows hold.
        dimensions: Of the vectors.
        fields: Declared fields, which become columns, and their types.
        full_text: Those of them whose words can be searched, which become a column together.
        inputs: As the operator gave them.
        object_store_uri: Where image bytes go.
        thumbnail_side: In pixels.
        shard_items: Entries of a shard.
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

    @property
    def info(self) -> CollectionInfo:
        """What the collection is."""
        return CollectionInfo(
            self.collection,
            ModelRef(self.model, self.revision, self.fingerprint),
            self.dimensions,
            {name: FieldType(field_type) for name, field_type in self.fields.items()},
            full_text=self.full_text,
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """How large the run is."""

    shards: int
    entries: int


def read_run(folder: RunFolder) -> Run | None:
    """Return what the folder's run is; None if it holds none yet."""
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
    """Make the folder this run's own, or find that it is already.

    Raises:
        BulkError: It holds another run.
    """
    there = read_run(folder)
    if there is None:
        folder.write(_RUN_FILE, json.dumps(asdict(run), indent=1).encode())
        return
    ours, theirs = asdict(run), asdict(there)
    for name, value in ours.items():
        # The revision may be told by another version; the fingerprint says what counts.
        if value != theirs[name] and name != "revision":
            raise BulkError(
                f"{folder.uri} holds another run: its {name} is {theirs[name]!r}, not {value!r}; "
                "give the same command as then, or use a new --run folder"
            )


def read_plan(folder: RunFolder) -> Plan | None:
    """Return the finished plan; None if there is none."""
    try:
        return Plan(**json.loads(folder.read(_PLAN_FILE)))
    except FileNotFoundError:
        return None


def write_plan(folder: RunFolder, dataset: Iterable[Entry], shard_items: int) -> Plan:
    """Cut a dataset into shards of `shard_items` entries, in one pass.

    Raises:
        BulkError: The dataset cannot be read, or is empty.
    """
    shards = count = 0
    waiting: list[Entry] = []
    for entry in dataset:
        waiting.append(entry)
        count += 1
        if len(waiting) == shard_items:
            folder.write(shard_file("plan", shards), entries.to_parquet(waiting))
            shards, waiting = shards + 1, []
    if waiting:
        folder.write(shard_file("plan", shards), entries.to_parquet(waiting))
        shards += 1
    if not count:
        raise BulkError("nothing to index: the inputs name no picture and no row")
    plan = Plan(shards, count)
    folder.write(_PLAN_FILE, json.dumps(asdict(plan)).encode())
    return plan


def entries_of_shard(folder: RunFolder, shard: int) -> list[Entry]:
    """Return the entries of one shard, in the dataset's order."""
    return entries.from_parquet(folder.read(shard_file("plan", shard)))
