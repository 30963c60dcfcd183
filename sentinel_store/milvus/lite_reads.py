"""Have Milvus Lite read by id, by filter and count without a look at each row in Python.

Lite 3.2.2 makes a Python object of every column of every row, vectors included, and of all rows
that it only counts. That is most of the time of a read by id. Ours reads the columns of the answer
from the live rows, which `lite_rows` knows. It also parses lists of ids as JSON, which they are:
that takes a tenth of the time.

Reads that Sentinel has none of, such as of whole rows and of single partitions, go Lite's way.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from milvus_lite.adapter.grpc.servicer import MilvusServicer
from milvus_lite.engine import collection

from sentinel_store.milvus import lite_rows
from sentinel_store.milvus.lite_rows import LiveRows, Record, columns_of, read

_IDS = "id in ["


def _get(get: Callable[..., list[Record]]) -> Callable[..., list[Record]]:
    @functools.wraps(get)
    def get_columns(
        self: Any, pks: list[Any], *, output_fields: Sequence[str] | None = None, **options: Any
    ) -> list[Record]:
        columns = _columns(self, output_fields)
        # An expression is evaluated on the whole row.
        if columns is None or any(options.values()):
            return get(self, pks, output_fields=output_fields, **options)
        self._require_loaded()
        found: dict[int, Record] = {}
        for table, rows in _places(self, pks).values():
            records = read(table, list(rows.values()), columns)
            found.update(zip(rows, records, strict=True))
        return [found[place] for place in sorted(found)]

    return get_columns


def _places(self: Any, keys: Sequence[Any]) -> dict[int, tuple[Any, dict[int, int]]]:
    """Return the tables that have the live rows of some keys, and their rows by place in `keys`."""
    segments, deletions = self._read_snapshot()
    new = dict(self._memtable.pk_index_snapshot())
    new_deletions = self._memtable.delete_index_snapshot()
    places: dict[int, tuple[Any, dict[int, int]]] = {}
    for place, key in enumerate(keys):
        if key in new:
            batch, row, _ = new[key]
            table = self._memtable._insert_batches[batch]
        elif key in new_deletions:
            continue
        else:
            seq, table, row = -1, None, -1
            for segment in segments:
                at = segment.pk_to_row.get(key)
                if at is not None and segment.seqs[at] > seq:
                    seq, table, row = int(segment.seqs[at]), segment.table, at
            if table is None or deletions.is_deleted(key, seq):
                continue
        places.setdefault(id(table), (table, {}))[1][place] = row
    return places


def _query(query: Callable[..., list[Record]]) -> Callable[..., list[Record]]:
    @functools.wraps(query)
    def query_columns(
        self: Any,
        expr: str | None = None,
        *,
        output_fields: Sequence[str] | None = None,
        limit: int | None = None,
        offset: int = 0,
        order_by_pk: bool = False,
        **options: Any,
    ) -> list[Record]:
        # Without names, the caller only counts the rows: all our queries name columns.
        output_fields = output_fields or [self._pk_name]
        columns = _columns(self, output_fields)
        if columns is None or any(options.values()):
            options |= {"limit": limit, "offset": offset, "order_by_pk": order_by_pk}
            return query(self, expr, output_fields=output_fields, **options)
        self._require_loaded()
        live = _live(self, self._compile_filter(expr) if expr else None)
        most = None if limit is None else offset + limit
        if not order_by_pk:
            found = list(itertools.islice(_rows(live), most))
        elif most is None:
            found = sorted(_rows(live))
        else:
            found = heapq.nsmallest(most, _rows(live))
        if columns == [self._pk_name]:
            return [{self._pk_name: key} for key, _, _ in found[offset:]]
        return _read(live, found[offset:], columns)

    return query_columns


def _num_entities(self: Any, partition_names: Sequence[str] | None) -> int:
    return sum(int(mask.sum()) for mask in _live(self, partitions=partition_names).masks)


def _live(self: Any, matching: Any = None, partitions: Sequence[str] | None = None) -> LiveRows:
    segments, deletions = self._read_snapshot()
    return LiveRows(
        segments,
        deletions,
        self._memtable,
        partitions=partitions,
        matching=matching,
        plan=self._indexed_filter_plan(matching),
    )


def _rows(live: LiveRows) -> Iterator[tuple[Any, int, int]]:
    """Yield key, source and row of the live rows."""
    for source, mask in enumerate(live.masks):
        keys = live.keys(source)
        for row in np.flatnonzero(mask).tolist():
            yield keys[row], source, row


def _read(
    live: LiveRows, found: Sequence[tuple[Any, int, int]], columns: Sequence[str]
) -> list[Record]:
    places: dict[int, list[int]] = {}
    for place, (_, source, _) in enumerate(found):
        places.setdefault(source, []).append(place)
    records: list[Record] = [{}] * len(found)
    for source, some in places.items():
        rows = [found[place][2] for place in some]
        for place, record in zip(some, live.read(source, rows, columns), strict=True):
            records[place] = record
    return records


def _columns(self: Any, output_fields: Sequence[str] | None) -> list[str] | None:
    """Return the columns to read, the primary key included; None: all."""
    if output_fields is None:
        return None
    return columns_of(self.schema, [self._pk_name, *output_fields])


def _ids(extract: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(extract)
    def extract_ids(expr: str, col: Any) -> Any:
        if expr.startswith(_IDS) and col._pk_name == "id":
            try:
                ids = json.loads(expr[len(_IDS) - 1 :])
            except ValueError:
                return extract(expr, col)
            if all(isinstance(one, str) for one in ids):
                return ids
        return extract(expr, col)

    return extract_ids


@functools.cache
def install() -> None:
    """Put the functions in place, for this process."""
    lite_rows.install()
    collection.Collection.get = _get(collection.Collection.get)
    collection.Collection.query = _query(collection.Collection.query)
    collection.Collection._num_entities = functools.wraps(collection.Collection._num_entities)(
        _num_entities
    )
    MilvusServicer._extract_pks_from_expr = staticmethod(
        _ids(MilvusServicer._extract_pks_from_expr)
    )
