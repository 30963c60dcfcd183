"""Read the stored vectors of found rows, and score the rows by them.

Milvus scores by what its index holds. Where that is rounded to one byte an element, rows of almost
equal scores come in the wrong order, and a few of the nearest fall out of a short list. Twice as
many candidates hold them all (docs/adr/0022), and their float32 vectors put them in order.

The vectors are read by id and some hundreds at a time: the candidates of a deep ranking take tens
of MB.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from search_server.types.searches import ScoredId, Selection
from sentinel_store.milvus import schema, vector_columns
from sentinel_store.milvus.movable import Milvus
from sentinel_store.values import FloatArray

CANDIDATES_PER_HIT = 2
# The most hits of one Milvus search.
_MAX_CANDIDATES = 16_384
_LEAST_EXTRA = 32
_ROWS_PER_CALL = 500


def candidates_for(hits: int) -> int:
    """Return how many candidates to score for that many hits."""
    return min(max(CANDIDATES_PER_HIT * hits, hits + _LEAST_EXTRA), _MAX_CANDIDATES)


class StoredVectors:
    """Reads vectors. Use from one event loop."""

    def __init__(self, milvus: Milvus) -> None:
        self._milvus = milvus

    async def of(self, selection: Selection, ids: Sequence[str]) -> dict[str, FloatArray]:
        """Return the vectors, float32 `[dimensions]` of length 1, of the rows that exist."""
        found: dict[str, FloatArray] = {}
        for start in range(0, len(ids), _ROWS_PER_CALL):
            found |= await self._read(selection, ids[start : start + _ROWS_PER_CALL])
        return found

    async def _read(self, selection: Selection, ids: Sequence[str]) -> dict[str, FloatArray]:
        rows = await self._milvus.query(
            selection.collection.name,
            selection.deadline,
            consistency=selection.consistency,
            filter=schema.with_ids(ids),
            output_fields=["id", "vector"],
        )
        storage = selection.collection.storage
        return {row["id"]: vector_columns.from_column(row["vector"], storage) for row in rows}

    async def scored(
        self, selection: Selection, vectors: Sequence[FloatArray], found: Sequence[Sequence[str]]
    ) -> list[list[ScoredId]]:
        """Return the `found` ids of each vector with their cosines, best first, ties by id.

        Leaves out rows that are deleted meanwhile.
        """
        queries = np.stack(vectors).T
        places: dict[str, int] = {}
        cosines = [np.empty((0, len(vectors)), np.float32)]
        ids = list(dict.fromkeys(item_id for of_vector in found for item_id in of_vector))
        for start in range(0, len(ids), _ROWS_PER_CALL):
            part = await self._read(selection, ids[start : start + _ROWS_PER_CALL])
            if part:
                places |= {item_id: len(places) + at for at, item_id in enumerate(part)}
                cosines.append(np.clip(np.stack(list(part.values())) @ queries, -1.0, 1.0))
        scores = np.concatenate(cosines)
        return [
            sorted(
                ((one, float(scores[places[one], at])) for one in of_vector if one in places),
                key=lambda scored: (-scored[1], scored[0]),
            )
            for at, of_vector in enumerate(found)
        ]
