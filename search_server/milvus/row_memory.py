"""Take memory for rows before Milvus is asked for them.

Nobody knows how large rows are before they come. So this remembers the largest row of each
collection that this process has seen, and takes that much for each. The first read of a collection
assumes rows with long texts.
"""

from __future__ import annotations

from collections.abc import Sequence

from search_server.milvus.stored_vectors import CANDIDATES_PER_HIT
from sentinel_core.calls import Deadline
from sentinel_core.memory import MemoryBudget, Share
from sentinel_store.collections import CollectionInfo
from sentinel_store.items import Row
from sentinel_store.milvus.vector_columns import bytes_stored
from sentinel_store.values import Fields

_ROWS_AT_ONCE = 500
_BLOCK_BYTES = 4 * 1024 * 1024
_UNKNOWN_ROW_BYTES = 64 * 1024
_ROW_OVERHEAD_BYTES = 512
_VALUE_OVERHEAD_BYTES = 64
# Milvus's answer as bytes and parsed, and our values.
_COPIES = 3
_WAIT_S = 5.0
# Collections to remember; beyond that all are forgotten.
_MOST_COLLECTIONS = 10_000


class RowMemory:
    """Knows how large the rows of collections are. Use inside one event loop."""

    def __init__(self, memory: MemoryBudget) -> None:
        self._memory = memory
        self._largest: dict[str, int] = {}

    def at_once(self, collection: CollectionInfo) -> int:
        """Return how many rows to hold in one block, 1 to 500."""
        return max(1, min(_ROWS_AT_ONCE, _BLOCK_BYTES // self._row_bytes(collection)))

    def share(self, collection: CollectionInfo, rows: int, deadline: Deadline) -> Share:
        """Return a share for that many rows, for an `async with` block; see `MemoryBudget`."""
        row_bytes = self._row_bytes(collection)
        if collection.storage.rescore:  # the vectors of its candidates
            vector_bytes = bytes_stored(collection.dimensions, collection.storage)
            row_bytes += CANDIDATES_PER_HIT * vector_bytes
        size = min(_COPIES * rows * row_bytes, self._memory.largest)
        return self._memory.share(size, Deadline.within(min(_WAIT_S, deadline.remaining())))

    def fetched(self, share: Share) -> None:
        """Give back what only the fetching needed."""
        share.resize(share.size // _COPIES)

    def note(self, collection: CollectionInfo, rows: Sequence[Row]) -> None:
        """Remember the largest of these rows."""
        sizes = [
            len(row.text) + len(row.reference) + (_bytes_of_fields(row.fields) if row.fields else 0)
            for row in rows
        ]
        if not sizes:
            return
        largest = _ROW_OVERHEAD_BYTES + max(sizes)
        if rows[0].vector is not None:  # all have one, or none
            largest += rows[0].vector.nbytes
        if largest > self._largest.get(collection.name, 0):
            if len(self._largest) >= _MOST_COLLECTIONS:
                self._largest.clear()
            self._largest[collection.name] = largest

    def _row_bytes(self, collection: CollectionInfo) -> int:
        return self._largest.get(collection.name, _UNKNOWN_ROW_BYTES)


def _bytes_of_fields(fields: Fields) -> int:
    return sum(len(name) + _value_bytes(value) for name, value in fields.items())


def _value_bytes(value: object) -> int:
    if isinstance(value, str):
        return _VALUE_OVERHEAD_BYTES + len(value)
    if isinstance(value, list):
        return sum(map(_value_bytes, value), _VALUE_OVERHEAD_BYTES)
    return _VALUE_OVERHEAD_BYTES
