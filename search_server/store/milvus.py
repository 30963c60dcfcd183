"""Milvus: the only file that imports pymilvus, and the only place rows are kept.

One schema for every collection and every Milvus, from the embedded file to a cluster:

    id      VARCHAR, primary key
    vector  FLOAT_VECTOR, metric COSINE
    digest  VARCHAR   what the vector was made from (types.Row)
    image   VARCHAR   name of the image in the object store, or empty
    text    VARCHAR   the text of a text item, or empty
    fields  JSON      the fields, as callers get them back
    f_…     one typed column per declared scalar field, for filters (columns.py)

What a collection is (model, fields) lies in its Milvus properties, so that gateways share it
and it is dropped with the collection.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from pymilvus import DataType, MilvusClient

from search_server.store import columns, filters, rows
from search_server.store.connection import MilvusConnection
from search_server.store.lite import LiteFlusher
from search_server.types import CollectionInfo, FieldType, FloatArray, Row
from sentinel_core.deadlines import Deadline
from sentinel_core.errors import AlreadyExists, FailedPrecondition

logger = logging.getLogger(__name__)

_PROPERTY = "sentinel.collection"
_ID_LENGTH = 256
_TEXT_LENGTH = 65_535
_HEX_SHA256_LENGTH = 64
_COLUMN_TYPES: dict[FieldType, tuple[DataType, dict[str, int]]] = {
    FieldType.STRING: (DataType.VARCHAR, {"max_length": _TEXT_LENGTH}),
    FieldType.INT64: (DataType.INT64, {}),
    FieldType.DOUBLE: (DataType.DOUBLE, {}),
    FieldType.BOOL: (DataType.INT8, {}),
}


class MilvusStore:
    """Use from one event loop; pymilvus's blocking calls run in threads this object owns.

    Nothing here waits longer than the deadline it is given: pymilvus by itself knows none.
    """

    def __init__(self, uri: str, token: str, threads: int) -> None:
        """Remember where Milvus is; the first call connects.

        Args:
            uri: A path ending in `.db` for Milvus Lite, or http(s)://host:port.
            token: `user:password` or an API key; empty for none.
            threads: Most calls at once.
        """
        self._milvus = MilvusConnection(uri, token, threads)
        self._creating = asyncio.Lock()
        self._flusher = LiteFlusher(self._flush)

    async def run(self) -> None:
        """Do what Milvus Lite leaves to its user, for ever; nothing for a server."""
        await self._flusher.run()

    async def ping(self, deadline: Deadline) -> None:
        """Raise Unavailable or DeadlineExceeded unless Milvus answers."""
        await self.list_collections(deadline)

    async def create_collection(self, info: CollectionInfo, deadline: Deadline) -> None:
        """Make an empty collection, ready to search.

        Raises:
            AlreadyExists: There is one of this name.
        """

        def create(client: MilvusClient, timeout: float) -> None:
            if client.has_collection(info.name, timeout=timeout):
                raise AlreadyExists(
                    "COLLECTION_EXISTS",
                    f"collection {info.name!r} exists; delete it first or use another name",
                    collection=info.name,
                )
            index = client.prepare_index_params()
            # FLAT is exact, and on Lite no slower than its other indexes (docs/adr/0004).
            index_type = "FLAT" if self._milvus.is_lite else "AUTOINDEX"
            index.add_index("vector", index_type=index_type, metric_type="COSINE")
            client.create_collection(
                info.name,
                schema=_schema(info),
                index_params=index,
                consistency_level="Session",  # a gateway finds what it wrote
                properties={_PROPERTY: rows.info_to_json(info)},
                timeout=timeout,
            )

        async with self._creating:  # or two callers would both find the name free
            await self._milvus.run(create, deadline)

    async def describe_collection(
        self, name: str, deadline: Deadline, *, foreign_ok: bool = False
    ) -> CollectionInfo | None:
        """Return what a collection is; None if there is none.

        Raises:
            FailedPrecondition: Sentinel did not make it; with `foreign_ok` None is returned.
        """

        def describe(client: MilvusClient, timeout: float) -> CollectionInfo | None:
            if not client.has_collection(name, timeout=timeout):
                return None
            properties = client.describe_collection(name, timeout=timeout).get("properties", {})
            if _PROPERTY in properties:
                return rows.info_from_json(name, properties[_PROPERTY])
            if foreign_ok:
                return None
            raise FailedPrecondition(
                "COLLECTION_FOREIGN",
                f"Milvus collection {name!r} was not made by Sentinel; use another name",
                collection=name,
            )

        return await self._milvus.run(describe, deadline)

    async def list_collections(self, deadline: Deadline) -> list[str]:
        """Return the names of all collections in Milvus, sorted."""
        names: list[str] = await self._milvus.run(
            lambda client, timeout: client.list_collections(timeout=timeout), deadline
        )
        return sorted(names)

    async def drop_collection(self, name: str, deadline: Deadline) -> None:
        """Drop a collection and its rows."""
        self._flusher.forget(name)
        await self._milvus.run(
            lambda client, timeout: client.drop_collection(name, timeout=timeout), deadline
        )

    async def upsert(
        self, info: CollectionInfo, new_rows: Sequence[Row], deadline: Deadline
    ) -> None:
        """Write rows of different ids over those of equal id; on return they are durable."""
        entities = [rows.to_entity(row, info.fields) for row in new_rows]
        await self._milvus.run_loaded(
            info.name,
            lambda client, timeout: client.upsert(info.name, entities, timeout=timeout),
            deadline,
        )
        if self._milvus.is_lite:
            self._flusher.note(info.name, len(entities))

    async def get(
        self,
        info: CollectionInfo,
        ids: Sequence[str],
        deadline: Deadline,
        *,
        include_vectors: bool = False,
    ) -> list[Row]:
        """Return the rows with these ids that are there, in no particular order."""
        found = await self._milvus.run_loaded(
            info.name,
            lambda client, timeout: client.query(
                info.name,
                filter=filters.with_ids(ids),
                output_fields=rows.output_fields(include_vectors),
                # An upsert relies on it: what it takes for unchanged must not be deleted.
                consistency_level="Strong",
                timeout=timeout,
            ),
            deadline,
        )
        return [rows.from_entity(entity) for entity in found]

    async def count(self, info: CollectionInfo, expression: str, deadline: Deadline) -> int:
        """Return how many rows match `expression`; all of them for the empty one."""
        found = await self._milvus.run_loaded(
            info.name,
            lambda client, timeout: client.query(
                info.name,
                filter=expression,
                output_fields=["count(*)"],
                consistency_level="Strong",
                timeout=timeout,
            ),
            deadline,
        )
        return int(found[0]["count(*)"])

    async def delete(self, info: CollectionInfo, expression: str, deadline: Deadline) -> None:
        """Delete the rows that match `expression`; on return searches no longer find them."""
        await self._milvus.run_loaded(
            info.name,
            lambda client, timeout: client.delete(info.name, filter=expression, timeout=timeout),
            deadline,
        )
        # Session consistency covers upserts but not deletes (seen with Milvus 2.3.5). A strong
        # read waits until the deletion has reached the node that searches.
        await self.count(info, expression, deadline)

    async def search(
        self,
        info: CollectionInfo,
        vector: FloatArray,
        *,
        limit: int,
        offset: int,
        expression: str,
        include_vectors: bool,
        deadline: Deadline,
    ) -> list[tuple[Row, float]]:
        """Return up to `limit` rows from place `offset` on, with their cosines, best first."""
        found = await self._milvus.run_loaded(
            info.name,
            lambda client, timeout: client.search(
                info.name,
                data=[vector],
                anns_field="vector",
                filter=expression,
                limit=limit,
                output_fields=rows.output_fields(include_vectors),
                search_params={"metric_type": "COSINE", "offset": offset},
                timeout=timeout,
            ),
            deadline,
        )
        return [
            # Rounding takes the cosine of equal vectors a little over 1.
            (rows.from_entity(hit["entity"]), max(-1.0, min(1.0, hit["distance"])))
            for hit in found[0]
        ]

    async def close(self) -> None:
        """Finish the calls in progress and close the connection."""
        await self._milvus.close()

    async def _flush(self, name: str) -> None:
        deadline = Deadline.after(None, default_s=60.0)
        await self._milvus.run(
            lambda client, timeout: client.flush(name, timeout=timeout), deadline
        )


def _schema(info: CollectionInfo) -> Any:
    schema = MilvusClient.create_schema(enable_dynamic_field=False)
    schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=_ID_LENGTH)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=info.dimensions)
    schema.add_field("digest", DataType.VARCHAR, max_length=_HEX_SHA256_LENGTH)
    schema.add_field("image", DataType.VARCHAR, max_length=_HEX_SHA256_LENGTH)
    schema.add_field("text", DataType.VARCHAR, max_length=_TEXT_LENGTH)
    schema.add_field("fields", DataType.JSON)
    for name, field_type in info.fields.items():
        if field_type in _COLUMN_TYPES:
            column_type, parameters = _COLUMN_TYPES[field_type]
            schema.add_field(columns.column_of(name), column_type, **parameters)
    return schema
