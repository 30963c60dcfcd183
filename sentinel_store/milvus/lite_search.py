"""Have Milvus Lite search in little more time than the arithmetic takes.

Lite 3.2.2 copies all vectors for each search and computes their lengths, and then looks at every
candidate in Python. Ours keeps the lengths beside the vectors of a FLAT index, and takes its rows
from `lite_rows`. Other indexes and distances are searched as before.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from milvus_lite.engine import collection
from milvus_lite.index import factory
from milvus_lite.index.brute_force import BruteForceIndex
from milvus_lite.index.protocol import VectorIndex
from milvus_lite.storage.delta_index import DeltaIndex
from milvus_lite.storage.memtable import MemTable

from sentinel_store.milvus import lite_rows
from sentinel_store.milvus.lite_rows import CachedSegment, LiveRows, Mask, Record, columns_of

_Floats = npt.NDArray[np.float32]
_Numbers = npt.NDArray[np.int64]

_BLOCK = 4_096  # rows, to compute lengths without a copy of all vectors


class FlatIndex(BruteForceIndex):  # type: ignore[misc]
    """A FLAT index that knows the lengths of its vectors."""

    __slots__ = ("_kept_lengths",)

    def search(
        self,
        queries: _Floats,
        top_k: int,
        valid_mask: Mask | None = None,
        params: dict[str, Any] | None = None,
    ) -> tuple[_Numbers, _Floats]:
        """Return rows and distances of the nearest to each query, padded with -1 and infinity.

        Of equally near ones, those that come first.
        """
        if self.metric != "COSINE":
            found: tuple[_Numbers, _Floats] = super().search(queries, top_k, valid_mask, params)
            return found
        rows = None if valid_mask is None else np.flatnonzero(valid_mask)
        ids = np.full((len(queries), top_k), -1, np.int64)
        distances = np.full((len(queries), top_k), np.inf, np.float32)
        most = min(top_k, self.num_vectors if rows is None else len(rows))
        if most == 0:
            return ids, distances
        for query, near in enumerate(self._distances(queries, rows)):
            # Not `<=`: a vector that is not a number compares to none, and comes last.
            best = np.flatnonzero(~(near > np.partition(near, most - 1)[most - 1]))
            best = best[np.argsort(near[best], kind="stable")[:most]]
            ids[query, : len(best)] = best if rows is None else rows[best]
            distances[query, : len(best)] = near[best]
        return ids, distances

    def _distances(self, queries: _Floats, rows: _Numbers | None) -> _Floats:
        """Return the cosine distances of queries to rows; a null vector has 1 to all."""
        vectors, lengths = self._vectors, self._lengths()
        # To copy a vector takes about three times as long as to compare it.
        few = rows is not None and 4 * len(rows) < len(lengths)
        if few:
            vectors, lengths = vectors[rows], lengths[rows]
        near: _Floats = (queries / _lengths(queries)[:, np.newaxis]) @ vectors.T
        near /= lengths
        np.subtract(1, near, out=near)
        np.maximum(near, 0, out=near)
        return near if few or rows is None else near[:, rows]

    def _lengths(self) -> _Floats:
        lengths: _Floats | None = getattr(self, "_kept_lengths", None)
        if lengths is None:
            lengths = self._kept_lengths = _lengths(self._vectors)
        return lengths


def _lengths(vectors: _Floats) -> _Floats:
    """Return the lengths of vectors, and 1 for null vectors."""
    blocks = (vectors[at : at + _BLOCK] for at in range(0, len(vectors), _BLOCK))
    lengths = np.concatenate([np.linalg.norm(block, axis=1) for block in blocks])
    return np.where(lengths == 0, np.float32(1), lengths)


@functools.wraps(collection.execute_search_with_index)
def execute_search(
    *,
    query_vectors: _Floats,
    segments: Iterable[CachedSegment],
    memtable: MemTable,
    delta_index: DeltaIndex,
    top_k: int,
    metric_type: str,
    pk_field: str,
    vector_field: str,
    partition_names: Sequence[str] | None = None,
    compiled_filter: Any = None,
    output_fields: Sequence[str] | None = None,
    indexed_filter_plan: Any = None,
    project_record_fn: Callable[[Record], Record],
    search_params: dict[str, Any] | None = None,
) -> list[list[Record]]:
    """Return the nearest rows to each query, best first, as Lite's function does."""
    live = LiveRows(
        segments,
        delta_index,
        memtable,
        vector_field=vector_field,
        partitions=partition_names,
        matching=compiled_filter,
        plan=indexed_filter_plan,
    )
    found = []
    for source, mask in enumerate(live.masks):
        index, has_vector = _index(live, source, vector_field, metric_type)
        wanted = mask if has_vector is None else mask & has_vector
        if wanted.any():
            valid = None if wanted.all() else wanted
            most = min(top_k, len(mask))  # it returns so many places for each query
            ids, distances = index.search(query_vectors, most, valid, search_params)
            found.append((np.full_like(ids, source), ids, distances))
    if not found:
        return [[] for _ in query_vectors]
    ranked = _ranked(found, top_k)
    columns = columns_of(memtable._schema, output_fields)
    if columns is not None:
        columns = [name for name in columns if name != pk_field]
    # Of all queries at once: that makes fewer reads.
    hits = iter(
        _hits(
            live,
            *(np.concatenate(part) for part in zip(*ranked, strict=True)),
            entities=lambda source, rows: _entities(live, source, rows, columns, project_record_fn),
        )
    )
    return [list(itertools.islice(hits, len(rows))) for _, rows, _ in ranked]


def _ranked(
    found: Sequence[tuple[_Numbers, _Numbers, _Floats]], top_k: int
) -> list[tuple[_Numbers, _Numbers, _Floats]]:
    """Return sources, rows and distances of the nearest to each query.

    `found` has the same for each source, by query.
    """
    sources, rows, distances = (np.concatenate(part, axis=1) for part in zip(*found, strict=True))
    ranked = []
    for query in range(len(rows)):
        order = np.lexsort((rows[query], sources[query], distances[query]))
        best = (query, order[rows[query, order] >= 0][:top_k])
        ranked.append((sources[best], rows[best], distances[best]))
    return ranked


def _index(
    live: LiveRows, source: int, vector_field: str, metric_type: str
) -> tuple[VectorIndex, Mask | None]:
    """Return the index of a source's vectors, and which of its rows have one; None: all."""
    if source == len(live.segments):
        return FlatIndex.build(live.new_vectors, metric_type), None
    vectors, has_vector = live.segments[source].vector_data(vector_field)
    index = live.segments[source].indexes.get(vector_field)
    # It is built in the background.
    return index or FlatIndex.build(vectors, metric_type), has_vector


def _hits(
    live: LiveRows,
    sources: _Numbers,
    rows: _Numbers,
    distances: _Floats,
    *,
    entities: Callable[[int, list[int]], list[Record]],
) -> list[Record]:
    hits: list[Record] = [{}] * len(rows)
    for source in np.unique(sources).tolist():
        places = np.flatnonzero(sources == source)
        some, near = rows[places].tolist(), distances[places].tolist()
        keys = live.keys(source)
        for place, row, distance, entity in zip(
            places.tolist(), some, near, entities(source, some), strict=True
        ):
            hits[place] = {"id": keys[row], "distance": distance, "entity": entity}
    return hits


def _entities(
    live: LiveRows,
    source: int,
    rows: list[int],
    columns: list[str] | None,
    project: Callable[[Record], Record],
) -> list[Record]:
    if columns is None:
        return [project(live.read_whole(source, row)) for row in rows]
    return live.read(source, rows, columns) if columns else [{} for _ in rows]


@functools.cache
def install() -> None:
    """Put the functions in place, for this process."""
    lite_rows.install()
    factory.BruteForceIndex = FlatIndex
    collection.execute_search_with_index = execute_search
