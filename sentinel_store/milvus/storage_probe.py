"""Find out which storages of vectors a Milvus can do, by trying.

A version says too little. Server 2.3.5 creates FLOAT16_VECTOR columns, indexes and fills them, and
then finds the wrong rows with scores of 0. So a scratch collection must find the right row with the
right score. Milvus Lite is not tried: version 3 keeps the float32 vectors of all rows in memory,
whatever the type of the index, so that a smaller one only adds to them.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from contextlib import suppress

import numpy as np
from pymilvus import DataType, MilvusClient

from sentinel_core.calls import Deadline
from sentinel_core.errors import FailedPrecondition
from sentinel_core.vectors import Element
from sentinel_store.collections import VectorStorage
from sentinel_store.milvus import errors, schema, vector_columns
from sentinel_store.milvus.movable import Milvus
from sentinel_store.values import FloatArray

logger = logging.getLogger(__name__)

# A server may be replaced by a newer one while this process runs.
_CHECK_INTERVAL_S = 60.0
_DROP_TIMEOUT_S = 10.0
_VECTORS: FloatArray = np.eye(8, dtype=np.float32)[:2]
_QUERY: FloatArray = np.array([0.6, 0.8, 0, 0, 0, 0, 0, 0], dtype=np.float32)
_COSINE, _ROUNDING = 0.8, 0.01
_ADVICE = {
    Element.FLOAT16: "Milvus servers have float16 from 2.4 on",
    Element.BFLOAT16: "Milvus servers have bfloat16 from 2.4 on",
    Element.INT8: "Milvus servers have int8 from 2.6 on, and earlier ones int8 with rescoring",
}


class StorageProbe:
    """Checks storages, each once. Use from one event loop."""

    def __init__(self, milvus: Milvus) -> None:
        self._milvus = milvus
        self._checking = asyncio.Lock()
        self._supported: set[VectorStorage] = set()
        self._refused_at: dict[VectorStorage, float] = {}

    async def check_supported(self, storage: VectorStorage, deadline: Deadline) -> None:
        """Check that this Milvus holds and searches such vectors.

        Raises:
            FailedPrecondition: It cannot.
            Unavailable, DeadlineExceeded: It did not answer.
        """
        if storage.element is Element.FLOAT32:
            return
        if self._milvus.is_lite:
            raise _unsupported(
                f"Milvus Lite holds float32 vectors only, none as {storage}; use a Milvus server, "
                "or leave the storage out"
            )
        async with self._checking:  # one scratch collection, for any number of callers
            refused_at = self._refused_at.get(storage, -_CHECK_INTERVAL_S)
            is_due = time.monotonic() - refused_at >= _CHECK_INTERVAL_S
            if storage not in self._supported and is_due:
                await self._try(storage, deadline)
        if storage not in self._supported:
            raise _unsupported(
                f"this Milvus does not search vectors stored as {storage}; "
                f"{_ADVICE[storage.element]}. Choose another storage, or none for float32"
            )

    async def _try(self, storage: VectorStorage, deadline: Deadline) -> None:
        works = await self._milvus.run(
            lambda client, _: _works(client, storage, deadline), deadline, writes=True
        )
        if works:
            self._supported.add(storage)
        else:
            self._refused_at[storage] = time.monotonic()


def _unsupported(message: str) -> FailedPrecondition:
    return FailedPrecondition("STORAGE_UNSUPPORTED", message)


def _works(client: MilvusClient, storage: VectorStorage, deadline: Deadline) -> bool:
    name = f"{schema.PROBE}{uuid.uuid4().hex}"
    try:
        return _finds_the_nearest(client, name, storage, deadline)
    except errors.FOREIGN as error:
        if errors.is_no_answer(error):
            raise  # it did not answer, so the result is unknown
        logger.info(
            "milvus lacks a vector storage",
            extra={"storage": str(storage), "answer": str(error)[:500]},
        )
        return False
    finally:
        with suppress(*errors.FOREIGN):  # it may not exist
            client.drop_collection(name, timeout=_DROP_TIMEOUT_S)


def _finds_the_nearest(
    client: MilvusClient, name: str, storage: VectorStorage, deadline: Deadline
) -> bool:
    table = MilvusClient.create_schema(enable_dynamic_field=False)
    table.add_field("id", DataType.VARCHAR, is_primary=True, max_length=8)
    table.add_field("vector", vector_columns.milvus_type(storage), dim=_VECTORS.shape[1])
    client.create_collection(name, schema=table, timeout=deadline.for_next_hop("milvus"))
    index = client.prepare_index_params()
    # Any kind does; FLAT is not one of int8.
    kind, params = ("IVF_SQ8", {"nlist": 1}) if storage.rescore else ("FLAT", {})
    if storage.column is Element.INT8:
        kind, params = "HNSW", {"M": 16, "efConstruction": 200}
    index.add_index("vector", index_type=kind, metric_type="COSINE", params=params)
    client.create_index(name, index, timeout=deadline.for_next_hop("milvus"), sync=False)
    client.load_collection(name, timeout=deadline.for_next_hop("milvus"))
    rows = [
        {"id": item_id, "vector": vector_columns.to_column(vector, storage)}
        for item_id, vector in zip("ab", _VECTORS, strict=True)
    ]
    client.insert(name, rows, timeout=deadline.for_next_hop("milvus"))
    [hits] = client.search(
        name,
        data=vector_columns.to_query([_QUERY], storage),
        anns_field="vector",
        limit=1,
        search_params={"metric_type": "COSINE"},
        consistency_level="Strong",
        timeout=deadline.for_next_hop("milvus"),
    )
    return [hit["id"] for hit in hits] == ["b"] and abs(hits[0]["distance"] - _COSINE) < _ROUNDING
