"""The nearest rows with no more than what is compared to choose among them (reranking.py)."""

from __future__ import annotations

import numpy as np

from search_server.store import columns, searching
from search_server.store.connection import MilvusConnection
from search_server.types.collections import CollectionInfo
from search_server.types.items import Candidate
from search_server.types.queries import ReadOptions
from search_server.types.values import FloatArray
from sentinel_core.deadlines import Deadline


class Candidates:
    """Use from one event loop."""

    def __init__(self, milvus: MilvusConnection) -> None:
        self._milvus = milvus

    async def nearest(
        self,
        info: CollectionInfo,
        vector: FloatArray,
        *,
        limit: int,
        expression: str,
        include_vectors: bool,
        field: str,
        options: ReadOptions,
        deadline: Deadline,
    ) -> list[Candidate]:
        """Return up to `limit` rows as candidates, best first.

        Args:
            info: The collection.
            vector: The query's, float32 `[dimensions]`.
            limit: At most 16,384.
            expression: What candidates must match; empty for nothing.
            include_vectors: Whether they have their vectors.
            field: The declared STRING, INT64 or BOOL field they have the value of; empty: none.
            options: How Milvus is to search.
            deadline: When the search must be over.
        """
        column = columns.column_of(field) if field else ""
        absent = columns.absent_marker(info.fields[field]) if field else None
        wanted = {"id": True, "vector": include_vectors, column: bool(field)}
        found = await self._milvus.read(
            info.name,
            lambda client, timeout: client.search(
                info.name,
                data=[vector.tolist()],
                anns_field="vector",
                filter=expression,
                limit=limit,
                output_fields=[name for name, is_wanted in wanted.items() if is_wanted],
                search_params=searching.by_cosine(
                    searching.index_params(info.index, options.index_params, limit)
                ),
                consistency_level=searching.level(options.consistency),
                timeout=timeout,
            ),
            deadline,
        )
        candidates = []
        for hit in found[0]:
            entity = hit["entity"]
            value = entity.get(column)
            candidates.append(
                Candidate(
                    id=hit["id"],
                    # Rounding takes the cosine of equal vectors a little over 1.
                    score=max(-1.0, min(1.0, float(hit["distance"]))),
                    vector=np.asarray(entity["vector"], np.float32) if include_vectors else None,
                    value=None if value == absent else value,
                )
            )
        return candidates
