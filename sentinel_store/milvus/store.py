"""Milvus: the only file that imports pymilvus, and the only place rows are kept.

One schema for every collection and every Milvus, from the embedded file to a cluster:

    id      VARCHAR, primary key
    vector  FLOAT_VECTOR, metric COSINE
    digest  VARCHAR   what the vector was made from (types.items.Row)
    image   VARCHAR   name of the image in the object store, or empty
    text    VARCHAR   the text of a text item, or empty
    fields  JSON      the fields, as callers get them back
    f_…     one typed column per declared scalar field, for filters (columns.py)
    full_text, full_text_words, where there are full-text fields (full_text.py)

What a collection is (model, fields) lies in its Milvus properties (properties.py), so that gateways
share it and it is dropped with the collection.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from pymilvus import DataType, MilvusClient

from sentinel_core.calls import Deadline
from sentinel_core.errors import AlreadyExists, FailedPrecondition
from sentinel_store.collections import CollectionInfo
from sentinel_store.items import Row
from sentinel_store.milvus import indexes, schema
from sentinel_store.milvus.connection import MilvusConnection
from sentinel_store.milvus.lite import LiteFlusher
from sentinel_store.milvus.schema import Properties
from sentinel_store.values import Consistency, FieldType

logger = logging.getLogger(__name__)

_ID_LENGTH = 256
_TEXT_LENGTH = 65_535
_HEX_SHA256_LENGTH = 64
_MAX_ROWS = 16_384  # of one Milvus query
_COLUMN_TYPES: dict[FieldType, tuple[DataType, dict[str, int]]] = {
    FieldType.STRING: (DataType.VARCHAR, {"max_length": _TEXT_LENGTH}),
    FieldType.INT64: (DataType.INT64, {}),
    FieldType.DOUBLE: (DataType.DOUBLE, {}),
    FieldType.BOOL: (DataType.INT8, {}),
}


class MilvusStore:
    """Use from one event loop.

    Nothing here waits longer than the deadline it is given: pymilvus by itself knows none.

    Attributes:
        connection: To the same Milvus, for those who build on this store.
        properties: Records what happens to a collection.
    """

    def __init__(self, uri: str, token: str, threads: int) -> None:
        """Remember where Milvus is; the first call connects.

        Args:
            uri: A path ending in `.db` for Milvus Lite, or http(s)://host:port.
            token: `user:password` or an API key; empty for none.
            threads: Most calls at once.
        """
        self.connection = MilvusConnection(uri, token, threads)
        self._creating = asyncio.Lock()
        self._flusher = LiteFlusher(self.flush)
        self.properties = Properties(self.connection)

    @property
    def is_lite(self) -> bool:
        """Whether Milvus is a file in this process and not a server."""
        return self.connection.is_lite

    async def run(self) -> None:
        """Do what Milvus Lite leaves to its user, for ever; nothing for a server."""
        await self._flusher.run()

    async def ping(self, deadline: Deadline) -> None:
        """Raise Unavailable or DeadlineExceeded unless Milvus answers."""
        await self.list_collections(deadline)

    async def create_collection(self, info: CollectionInfo, deadline: Deadline) -> None:
        """Make an empty collection, ready to search.

        Raises:
            AlreadyExists: There is a collection or an alias of this name.
            FailedPrecondition: This Milvus does not have one of its indexes, or no
                full-text search where there are full-text fields.
        """

        def create(client: MilvusClient, timeout: float) -> None:
            if client.has_collection(info.name, timeout=timeout):
                raise AlreadyExists(
                    "COLLECTION_EXISTS",
                    f"there is a collection or an alias {info.name!r}; use another name, or delete "
                    "it first",
                    collection=info.name,
                )
            client.create_collection(
                info.name,
                schema=_schema(info),
                consistency_level="Session",  # a gateway finds what it wrote
                properties=schema.of_info(info),
                timeout=timeout,
            )
            try:
                if info.full_text:
                    schema.build_index(client, info.name, timeout)
                indexes.build(client, info, timeout)
                client.load_collection(info.name, timeout=timeout)
            except BaseException:
                # Without its index it would never load; the name must be free again.
                client.drop_collection(info.name, timeout=timeout)
                raise

        async with self._creating:  # or two callers would both find the name free
            await self.connection.run(create, deadline)

    async def is_whole(self, name: str, deadline: Deadline) -> bool:
        """Tell whether a collection was created to the end; a crash may have cut it short."""
        names: list[str] = await self.connection.run(
            lambda client, timeout: client.list_indexes(name, timeout=timeout), deadline
        )
        return "vector" in names  # which is built last

    async def describe_collection(
        self, name: str, deadline: Deadline, *, foreign_ok: bool = False
    ) -> CollectionInfo | None:
        """Return what the collection of this name or alias is; None if there is none.

        Raises:
            FailedPrecondition: Sentinel did not make it; with `foreign_ok` None is returned.
        """

        def describe(client: MilvusClient, timeout: float) -> CollectionInfo | None:
            if not client.has_collection(name, timeout=timeout):
                return None
            # One answer tells the own name and the model: of an alias that is pointed elsewhere
            # meanwhile, both are from before or both from after.
            found = client.describe_collection(name, timeout=timeout)
            noted = found.get("properties", {})
            if schema.COLLECTION in noted:
                return schema.to_info(found["collection_name"], name, noted)
            if foreign_ok:
                return None
            raise FailedPrecondition(
                "COLLECTION_FOREIGN",
                f"Milvus collection {name!r} was not made by Sentinel; use another name",
                collection=name,
            )

        return await self.connection.run(describe, deadline)

    async def list_collections(self, deadline: Deadline) -> list[str]:
        """Return the names of all collections in Milvus, sorted."""
        names: list[str] = await self.connection.run(
            lambda client, timeout: client.list_collections(timeout=timeout), deadline
        )
        return sorted(names)

    async def drop_collection(self, name: str, deadline: Deadline) -> None:
        """Drop a collection and its rows."""
        self._flusher.forget(name)
        await self.connection.run(
            lambda client, timeout: client.drop_collection(name, timeout=timeout),
            deadline,
            writes=True,
        )

    async def upsert(
        self, info: CollectionInfo, new_rows: Sequence[Row], deadline: Deadline
    ) -> None:
        """Write rows of different ids over those of equal id; on return they are durable."""
        entities = [schema.to_entity(row, info) for row in new_rows]
        await self.connection.write(
            info.name,
            lambda client, timeout: client.upsert(info.name, entities, timeout=timeout),
            deadline,
        )
        if self.connection.is_lite:
            self._flusher.note(info.name, len(entities))

    async def get(
        self,
        info: CollectionInfo,
        ids: Sequence[str],
        deadline: Deadline,
        *,
        include_vectors: bool = False,
        consistency: Consistency = Consistency.STRONG,
    ) -> list[Row]:
        """Return the rows with these ids that are there, in no particular order.

        Strongly consistent unless told otherwise: an upsert relies on it, since what it takes for
        unchanged must not be deleted.
        """
        found = await self.connection.query(
            info.name,
            deadline,
            consistency=consistency,
            filter=schema.with_ids(ids),
            output_fields=schema.output_fields(include_vectors),
        )
        return [schema.from_entity(entity) for entity in found]

    async def page(
        self,
        info: CollectionInfo,
        expression: str,
        last_id: str,
        limit: int,
        deadline: Deadline,
        *,
        include_vectors: bool = False,
    ) -> list[Row]:
        """Return the `limit` rows with the least ids above `last_id` that match, by id.

        Ids sort by their bytes in UTF-8. Reads what any gateway wrote before the call.
        """
        if not self.connection.is_lite:
            # The query below has no consistency of its own, being an iterator's to Milvus; a
            # strong read before it waits until the rows have reached the node that reads.
            await self.get(info, [last_id], deadline)
        found = await self.connection.query(
            info.name,
            deadline,
            filter=schema.after_id(expression, last_id),
            output_fields=schema.output_fields(include_vectors),
            limit=limit,
            # What pymilvus's own iterator sends, for rows in the order of their ids.
            iterator="True",
            reduce_stop_for_best="True",
        )
        return [schema.from_entity(entity) for entity in found]

    async def named_images(
        self, info: CollectionInfo, digests: Sequence[str], deadline: Deadline
    ) -> set[str]:
        """Return those of `digests` that rows of the collection name as their picture."""
        left, named = set(digests), set[str]()
        while left:
            found = await self._images_among(info, sorted(left), deadline)
            named.update(found)
            left -= named
            if len(found) < _MAX_ROWS:
                break  # else one picture of very many rows may hide the others
        return named

    async def _images_among(
        self, info: CollectionInfo, digests: Sequence[str], deadline: Deadline
    ) -> list[str]:
        """Return the pictures of up to `_MAX_ROWS` rows that name one of `digests`."""
        found = await self.connection.query(
            info.name,
            deadline,
            consistency=Consistency.STRONG,
            filter=schema.with_images(digests),
            output_fields=["image"],
            limit=_MAX_ROWS,
        )
        return [entity["image"] for entity in found]

    async def count(
        self,
        info: CollectionInfo,
        expression: str,
        deadline: Deadline,
        *,
        consistency: Consistency = Consistency.STRONG,
    ) -> int:
        """Return how many rows match `expression`; all of them for the empty one."""
        found = await self.connection.query(
            info.name,
            deadline,
            consistency=consistency,
            filter=expression,
            output_fields=["count(*)"],
        )
        return int(found[0]["count(*)"])

    async def delete(self, info: CollectionInfo, expression: str, deadline: Deadline) -> None:
        """Delete the rows that match `expression`; on return searches no longer find them."""
        await self.connection.write(
            info.name,
            lambda client, timeout: client.delete(info.name, filter=expression, timeout=timeout),
            deadline,
        )
        # Session consistency covers upserts but not deletes (seen with Milvus 2.3.5). A strong
        # read waits until the deletion has reached the node that searches.
        await self.count(info, expression, deadline)

    async def close(self) -> None:
        """Finish the calls in progress and close the connection."""
        await self.connection.close()

    async def flush(self, name: str) -> None:
        """Have Milvus put what was written into segments, which it searches faster."""
        deadline = Deadline.after(None, default_s=60.0)
        await self.connection.run(
            lambda client, timeout: client.flush(name, timeout=timeout), deadline, writes=True
        )


def _schema(info: CollectionInfo) -> Any:
    table = MilvusClient.create_schema(enable_dynamic_field=False)
    table.add_field("id", DataType.VARCHAR, is_primary=True, max_length=_ID_LENGTH)
    table.add_field("vector", DataType.FLOAT_VECTOR, dim=info.dimensions)
    table.add_field("digest", DataType.VARCHAR, max_length=_HEX_SHA256_LENGTH)
    table.add_field("image", DataType.VARCHAR, max_length=_HEX_SHA256_LENGTH)
    table.add_field("text", DataType.VARCHAR, max_length=_TEXT_LENGTH)
    table.add_field("fields", DataType.JSON)
    for name, field_type in info.fields.items():
        if field_type in _COLUMN_TYPES:
            column_type, parameters = _COLUMN_TYPES[field_type]
            table.add_field(schema.column_of(name), column_type, **parameters)
    if info.full_text:
        schema.add_columns(table)
    return table
