"""Search text by BM25, if this Milvus can: Milvus Lite 3, and servers from 2.5 on.

A collection with full-text fields has two more columns, which callers never see:

    full_text        VARCHAR              the texts of these fields, one per line
    full_text_words  SPARSE_FLOAT_VECTOR  its words, computed by Milvus

The `standard` analyzer finds the words: runs of letters and digits, in lower case. It has no
stems and no stop words. It does not segment Chinese, Japanese or Thai.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from contextlib import suppress
from itertools import groupby

from pymilvus import DataType, MilvusClient

from search_server.types.searches import Selection
from sentinel_core.calls import Deadline
from sentinel_core.errors import FailedPrecondition
from sentinel_store.milvus import errors, schema
from sentinel_store.milvus.movable import Milvus

logger = logging.getLogger(__name__)

# A server may be replaced by a newer one while this process runs.
_CHECK_INTERVAL_S = 60.0
_DROP_TIMEOUT_S = 10.0


class FullText:
    """Searches text, and finds out whether Milvus can. Use from one event loop."""

    def __init__(self, milvus: Milvus) -> None:
        self._milvus = milvus
        self._checking = asyncio.Lock()
        self._is_supported = False
        self._checked_at = -_CHECK_INTERVAL_S

    async def check_supported(self, deadline: Deadline) -> None:
        """Check that this Milvus can search text.

        Raises:
            FailedPrecondition: It cannot.
            Unavailable, DeadlineExceeded: It did not answer.
        """
        async with self._checking:  # one scratch collection, for any number of callers
            if not self._is_supported and time.monotonic() - self._checked_at >= _CHECK_INTERVAL_S:
                self._is_supported = await self._milvus.run(
                    lambda client, _: _can_search_text(client, deadline), deadline, writes=True
                )
                self._checked_at = time.monotonic()
        if not self._is_supported:
            raise FailedPrecondition(
                "HYBRID_UNSUPPORTED",
                "this Milvus cannot search text; use Milvus Lite 3 or a server from 2.5 on, or "
                "leave full_text and hybrid out",
            )

    async def rank(self, selection: Selection, text: str, *, limit: int) -> list[str]:
        """Return up to `limit` ids of rows with any word of `text`: best first, ties by id.

        Returns no scores: their sign depends on the Milvus.
        """
        found = await self._milvus.search(
            selection.collection.name,
            selection.deadline,
            consistency=selection.consistency,
            data=[text],
            anns_field=schema.FULL_TEXT_WORDS,
            filter=selection.expression,
            limit=limit,
            output_fields=["id"],
            search_params={"metric_type": "BM25"},
        )
        return [
            item_id
            for _, ties in groupby(found[0], key=lambda hit: hit["distance"])
            for item_id in sorted(hit["id"] for hit in ties)
        ]


def _can_search_text(client: MilvusClient, deadline: Deadline) -> bool:
    """Try it on a scratch collection: some versions accept a schema that they cannot serve."""
    name = f"{schema.PROBE}{uuid.uuid4().hex}"
    try:
        return _finds_a_word(client, name, deadline)
    except errors.FOREIGN as error:
        if errors.is_no_answer(error):
            raise  # it did not answer, so the result is unknown
        logger.info("milvus cannot search text", extra={"answer": str(error)[:500]})
        return False
    finally:
        with suppress(*errors.FOREIGN):  # it may not exist
            client.drop_collection(name, timeout=_DROP_TIMEOUT_S)


def _finds_a_word(client: MilvusClient, name: str, deadline: Deadline) -> bool:
    table = MilvusClient.create_schema(enable_dynamic_field=False)
    table.add_field("id", DataType.VARCHAR, is_primary=True, max_length=8)
    table.add_field("vector", DataType.FLOAT_VECTOR, dim=2)
    schema.add_full_text_columns(table)
    client.create_collection(name, schema=table, timeout=deadline.for_next_hop("milvus"))
    schema.build_full_text_index(client, name, deadline.for_next_hop("milvus"))
    index = client.prepare_index_params()
    index.add_index("vector", index_type="FLAT", metric_type="COSINE")
    client.create_index(name, index, timeout=deadline.for_next_hop("milvus"), sync=False)
    client.load_collection(name, timeout=deadline.for_next_hop("milvus"))
    row = {"id": "a", "vector": [1.0, 0.0], schema.FULL_TEXT: "a probe"}
    client.insert(name, [row], timeout=deadline.for_next_hop("milvus"))
    found = client.search(
        name,
        data=["probe"],
        anns_field=schema.FULL_TEXT_WORDS,
        limit=1,
        search_params={"metric_type": "BM25"},
        consistency_level="Strong",
        timeout=deadline.for_next_hop("milvus"),
    )
    return len(found[0]) == 1
