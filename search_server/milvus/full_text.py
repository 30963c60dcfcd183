"""Full-text search by BM25, where the Milvus at hand can: Milvus Lite 3 and servers from 2.5 on.

A collection with full-text fields has two more columns, which callers never see:

    full_text        VARCHAR              the texts of these fields, one to a line
    full_text_words  SPARSE_FLOAT_VECTOR  its words, which Milvus makes of it

Words are what the `standard` analyzer finds: runs of letters and digits, in lower case. It knows
no language: no stems, no stop words, and text without spaces (Chinese, Japanese, Thai) is found
by whole runs only.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from contextlib import suppress
from itertools import groupby

from pymilvus import DataType, MilvusClient

from search_server.types.queries import ReadOptions
from sentinel_core.calls import Deadline
from sentinel_core.errors import FailedPrecondition
from sentinel_store.collections import CollectionInfo
from sentinel_store.milvus import errors
from sentinel_store.milvus.connection import MilvusConnection, level
from sentinel_store.milvus.schema import _WORDS, add_columns, build_index

logger = logging.getLogger(__name__)

# A server may be replaced by a newer one while this process runs.
_ASK_AGAIN_S = 60.0
_DROP_TIMEOUT_S = 10.0


class FullText:
    """Searches text, and knows whether Milvus can. Use from one event loop."""

    def __init__(self, milvus: MilvusConnection) -> None:
        self._milvus = milvus
        self._asking = asyncio.Lock()
        self._is_supported = False
        self._asked_at = -_ASK_AGAIN_S

    async def check_supported(self, deadline: Deadline) -> None:
        """Return if the Milvus at hand can search text.

        Raises:
            FailedPrecondition: It cannot.
            Unavailable, DeadlineExceeded: It did not say.
        """
        async with self._asking:  # one scratch collection, however many ask
            if not self._is_supported and time.monotonic() - self._asked_at >= _ASK_AGAIN_S:
                self._is_supported = await self._milvus.run(
                    lambda client, _: _can_search_text(client, deadline), deadline, writes=True
                )
                self._asked_at = time.monotonic()
        if not self._is_supported:
            raise FailedPrecondition(
                "HYBRID_UNSUPPORTED",
                "this Milvus cannot search text; use Milvus Lite 3 or a server from 2.5 on, or "
                "leave full_text and hybrid out",
            )

    async def rank(
        self,
        info: CollectionInfo,
        text: str,
        *,
        limit: int,
        expression: str,
        options: ReadOptions,
        deadline: Deadline,
    ) -> list[str]:
        """Return the ids of up to `limit` rows with any word of `text`: best first, equals by id.

        No scores: their sign depends on the Milvus.
        """
        found = await self._milvus.read(
            info.name,
            lambda client, timeout: client.search(
                info.name,
                data=[text],
                anns_field=_WORDS,
                filter=expression,
                limit=limit,
                output_fields=["id"],
                search_params={"metric_type": "BM25"},
                consistency_level=level(options.consistency),
                timeout=timeout,
            ),
            deadline,
        )
        return [
            item_id
            for _, equals in groupby(found[0], key=lambda hit: hit["distance"])
            for item_id in sorted(hit["id"] for hit in equals)
        ]


def _can_search_text(client: MilvusClient, deadline: Deadline) -> bool:
    """Try it on a scratch collection. Versions tell little: some take a schema they cannot serve.

    Raises:
        MilvusException, grpc.RpcError: Milvus did not answer, which says nothing about it.
    """
    name = f"sentinel_probe_{uuid.uuid4().hex}"
    try:
        return _finds_a_word(client, name, deadline)
    except errors.FOREIGN as error:
        if errors.is_no_answer(error):
            raise
        logger.info("milvus cannot search text", extra={"answer": str(error)[:500]})
        return False
    finally:
        with suppress(*errors.FOREIGN):  # it may not be there
            client.drop_collection(name, timeout=_DROP_TIMEOUT_S)


def _finds_a_word(client: MilvusClient, name: str, deadline: Deadline) -> bool:
    schema = MilvusClient.create_schema(enable_dynamic_field=False)
    schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=8)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=2)
    add_columns(schema)
    client.create_collection(name, schema=schema, timeout=deadline.for_next_hop("milvus"))
    build_index(client, name, deadline.for_next_hop("milvus"))
    index = client.prepare_index_params()
    index.add_index("vector", index_type="FLAT", metric_type="COSINE")
    client.create_index(name, index, timeout=deadline.for_next_hop("milvus"), sync=False)
    client.load_collection(name, timeout=deadline.for_next_hop("milvus"))
    row = {"id": "a", "vector": [1.0, 0.0], schema.FULL_TEXT: "a probe"}
    client.insert(name, [row], timeout=deadline.for_next_hop("milvus"))
    found = client.search(
        name,
        data=["probe"],
        anns_field=_WORDS,
        limit=1,
        search_params={"metric_type": "BM25"},
        consistency_level="Strong",
        timeout=deadline.for_next_hop("milvus"),
    )
    return len(found[0]) == 1
