"""Find the live rows of a collection of Milvus Lite, and read columns of them.

A row is live if no other has its key and a higher number (`_seq`), and no deletion either. Lite
3.2.2 works that out for all rows, in Python, in every read. But segments never change. So each of
ours keeps which of its rows are live, until there is another segment or another flushed deletion.
Rows and deletions that are still in memory are few, and are looked up in the segments.

Lite also makes an object of every cell of a row. Ours reads the columns of the answer.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from milvus_lite.engine import collection
from milvus_lite.search.filter import evaluate_mask
from milvus_lite.search.indexed_filter import evaluate_segment_filter
from milvus_lite.storage.delta_index import DeltaIndex
from milvus_lite.storage.memtable import MemTable
from milvus_lite.storage.segment import Segment

Mask = npt.NDArray[np.bool_]
Record = dict[str, Any]

_numbers = itertools.count()
_FEW = 8  # rows that are read faster one by one


class CachedSegment(Segment):  # type: ignore[misc]
    """A segment that knows which of its rows are live.

    Attributes:
        number: Stands for this segment, in this process.
        live: Beside which segments and deletions this holds, and which rows are live.
    """

    __slots__ = ("live", "number")

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.number = next(_numbers)
        self.live: tuple[Any, Any] = (None, None)


class LiveRows:
    """The live rows of a collection now, by source: its segments, then what is in memory.

    Attributes:
        segments: Those that have rows.
        masks: For each source, which of its rows are live and match the filter.
        new_vectors: The vectors of the rows in memory.
    """

    def __init__(
        self,
        segments: Iterable[CachedSegment],
        deletions: DeltaIndex,
        memory: MemTable,
        *,
        vector_field: str | None = None,
        partitions: Sequence[str] | None = None,
        matching: Any = None,
        plan: Any = None,
    ) -> None:
        """Find them.

        Args:
            segments: The collection's segments.
            deletions: The flushed deletions, a frozen copy.
            memory: What is not flushed.
            vector_field: The column for `new_vectors`.
            partitions: Those to read; none: all.
            matching: A compiled filter.
            plan: How to evaluate it by indexes of segments.
        """
        self.segments = [
            segment
            for segment in segments
            if segment.num_rows and (not partitions or segment.partition in partitions)
        ]
        self._memory = memory
        self._new_keys, seqs, self.new_vectors, self._places, table = memory.to_search_snapshot(
            vector_field, partitions, matching is not None
        )
        new = dict(zip(self._new_keys, seqs.tolist(), strict=True))
        self.masks = _live_now(self.segments, deletions, new, memory.delete_index_snapshot())
        if matching is not None:
            for place, segment in enumerate(self.segments):
                found = evaluate_segment_filter(segment, matching, plan)
                self.masks[place] = self.masks[place] & found.astype(bool)
            if new:
                self.masks[-1] &= evaluate_mask(matching, table).astype(bool)

    def keys(self, source: int) -> list[Any]:
        """Return the keys of all rows of a source."""
        keys: list[Any] = self._new_keys
        if source < len(self.segments):
            keys = self.segments[source].pks
        return keys

    def read(self, source: int, rows: Sequence[int], columns: Sequence[str]) -> list[Record]:
        """Return columns of some rows of a source."""
        if source < len(self.segments):
            return read(self.segments[source].table, rows, columns)
        batches = self._memory._insert_batches
        places = (self._places[row] for row in rows)
        return [read(batches[batch], [row], columns)[0] for batch, row in places]

    def read_whole(self, source: int, row: int) -> Record:
        """Return a row as Lite does: all columns, and the fields in its `$meta`."""
        whole: Record = (
            self.segments[source].row_to_dict(row)
            if source < len(self.segments)
            else self._memory.materialize_row(*self._places[row])
        )
        return whole


def read(table: Any, rows: Sequence[int], columns: Iterable[str]) -> list[Record]:
    """Return columns of some rows of an Arrow table or batch, which may be older than a column."""
    known = table.schema.names
    names = [name for name in columns if name in known]
    if len(rows) < _FEW:
        cells = [(name, table.column(name)) for name in names]
        return [{name: column[row].as_py() for name, column in cells} for row in rows]
    found: list[Record] = table.select(names).take(pa.array(rows, pa.int64())).to_pylist()
    return found


def columns_of(schema: Any, output_fields: Sequence[str] | None) -> list[str] | None:
    """Return the columns to read for an answer with these fields; None: it needs whole rows."""
    if output_fields is None or "*" in output_fields or schema.enable_dynamic_field:
        return None
    return [field.name for field in schema.fields if field.name in output_fields]


def _live(segments: Sequence[CachedSegment], deletions: DeltaIndex) -> list[Mask]:
    """Return for each segment which rows are live beside the others and the flushed deletions."""
    # Frozen deletions never change; see `_frozen_copy`.
    key = (deletions, *(segment.number for segment in segments))
    kept = [segment.live for segment in segments]
    if all(known == key for known, _ in kept):
        return [mask for _, mask in kept]
    keys = [chunk for one in segments for chunk in one.table.column(one._pk_field).chunks]
    encoded = pa.concat_arrays(keys).dictionary_encode()
    codes, different = encoded.indices.to_numpy(), encoded.dictionary
    seqs = np.concatenate([segment.seqs for segment in segments])
    newest = np.zeros(len(different), np.uint64)
    np.maximum.at(newest, codes, seqs)
    live = seqs == newest[codes]
    if deletions._map:
        deleted = pa.array(list(deletions._map), different.type)
        places = pc.index_in(deleted, different).fill_null(-1).to_numpy()
        removed = np.zeros(len(different) + 1, np.uint64)  # the last is for unknown keys
        removed[places] = np.fromiter(deletions._map.values(), np.uint64, len(places))
        live &= seqs >= removed[codes]
    masks = np.split(live, np.cumsum([segment.num_rows for segment in segments])[:-1])
    for segment, mask in zip(segments, masks, strict=True):
        segment.live = (key, mask)
    return masks


def _live_now(
    segments: Sequence[CachedSegment],
    deletions: DeltaIndex,
    new: Mapping[Any, int],
    new_deletions: Mapping[Any, tuple[int, str]],
) -> list[Mask]:
    """Return which rows are live in the segments, and last in memory.

    `new` has the numbers of the rows in memory, `new_deletions` those of the deletions there.
    """
    masks = _live(segments, deletions) if segments else []
    live = np.array([not deletions.is_deleted(key, seq) for key, seq in new.items()], bool)
    keys = [*new, *new_deletions]
    later = np.array([*new.values(), *(seq for seq, _ in new_deletions.values())], np.uint64)
    for place, segment in enumerate(segments) if keys else ():
        find = segment.pk_to_row.get
        rows = np.array([find(key, -1) for key in keys])
        found = np.flatnonzero(rows >= 0)
        rows = rows[found]
        seqs = segment.seqs[rows]
        hidden = rows[seqs < later[found]]
        if len(hidden):
            masks[place] = masks[place].copy()
            masks[place][hidden] = False
        # A log that was read again may have rows that are older than a segment's.
        older = found[seqs > later[found]]
        live[older[older < len(new)]] = False
    return [*masks, live]


def _frozen_copy(freeze: Callable[[DeltaIndex], DeltaIndex]) -> Callable[[DeltaIndex], DeltaIndex]:
    """Return a function that copies deletions only where they have changed since the last copy."""

    @functools.wraps(freeze)
    def frozen_copy(self: Any) -> DeltaIndex:
        kept: DeltaIndex | None = getattr(self, "_kept", None)
        if kept is None:
            kept = self._kept = freeze(self)
        return kept

    return frozen_copy


def _forgetting(change: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that changes deletions and forgets their last copy.

    Lite changes and copies them under the same lock.
    """

    @functools.wraps(change)
    def change_and_forget(self: Any, *arguments: Any) -> Any:
        self._kept = None
        return change(self, *arguments)

    return change_and_forget


def _search_snapshot(snapshot: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that does not make a Python object of each element of a vector."""

    @functools.wraps(snapshot)
    def to_search_snapshot(
        self: Any,
        vector_field: str | None,
        partition_names: Sequence[str] | None = None,
        include_table: bool = False,
    ) -> Any:
        with self._lock:
            batches, new = tuple(self._insert_batches), dict(self._pk_index)
        if not new or partition_names is not None:
            return snapshot(self, vector_field, partition_names, include_table)
        starts = np.cumsum([0, *(batch.num_rows for batch in batches)]).tolist()
        rows = pa.array([starts[batch] + row for batch, row, _ in new.values()], pa.int64())
        table, vectors = pa.Table.from_batches(batches), np.zeros((0, 0), np.float32)
        if vector_field is not None:
            column = table.column(vector_field).take(rows).combine_chunks()
            if column.null_count or not isinstance(column.type, pa.FixedSizeListType):
                return snapshot(self, vector_field, partition_names, include_table)
            vectors = column.flatten().to_numpy().astype(np.float32, copy=False)
            vectors = vectors.reshape(len(rows), -1)
        return (
            list(new),
            np.array([seq for _, _, seq in new.values()], np.uint64),
            vectors,
            [(batch, row) for batch, row, _ in new.values()],
            table.take(rows).drop_columns(["_partition"]) if include_table else None,
        )

    return to_search_snapshot


@functools.cache
def install() -> None:
    """Put the functions in place, for this process."""
    collection.Segment = CachedSegment
    DeltaIndex.frozen_copy = _frozen_copy(DeltaIndex.frozen_copy)
    DeltaIndex.add_batch = _forgetting(DeltaIndex.add_batch)
    DeltaIndex.gc_below = _forgetting(DeltaIndex.gc_below)
    MemTable.to_search_snapshot = _search_snapshot(MemTable.to_search_snapshot)
