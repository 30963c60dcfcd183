"""Keep collections and rows in Milvus: create, describe, write, read by id, count, delete.

The gateway's `SearchStore` adds searches. `schema.py` describes the table of a collection.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pymilvus import MilvusClient

from sentinel_core.calls import Deadline
from sentinel_core.errors import AlreadyExists, FailedPrecondition, NotFound, SentinelError
from sentinel_core.tls import TlsFiles
from sentinel_store.collections import CollectionInfo, Origin, ReindexMark
from sentinel_store.items import Row
from sentinel_store.milvus import indexes, schema
from sentinel_store.milvus.connection import MilvusConnection
from sentinel_store.milvus.lite import LiteFlusher
from sentinel_store.milvus.movable import MovableConnection
from sentinel_store.milvus.storage_probe import StorageProbe
from sentinel_store.values import Consistency

logger = logging.getLogger(__name__)

_MAX_ROWS = 16_384  # of one Milvus query
_FLUSH_TIMEOUT_S = 60.0


class MilvusStore:
    """Use from one event loop. No method runs longer than its deadline.

    Attributes:
        connection: The connection to Milvus, for classes that extend this store.
    """

    def __init__(
        self,
        uri: str,
        token: str,
        threads: int,
        *,
        tls: TlsFiles | None = None,
        lite_fsync: bool = True,
    ) -> None:
        """Keep the address; the first call connects.

        Args:
            uri: A path ending in `.db` for Milvus Lite, or http(s)://host:port.
            token: `user:password` or an API key; empty for none.
            threads: Most blocking calls at once.
            tls: For an https URI: the CA of the server, and our certificate if it asks for one.
            lite_fsync: Whether Milvus Lite forces each write to disk before it is acknowledged.
        """
        self.connection = MovableConnection(
            MilvusConnection(uri, token, threads, tls=tls, lite_fsync=lite_fsync)
        )
        self._creating = asyncio.Lock()
        self._storages = StorageProbe(self.connection)
        self._flusher = LiteFlusher(self.flush)

    @property
    def is_lite(self) -> bool:
        """Whether Milvus is a file in this process and not a server."""
        return self.connection.is_lite

    async def run(self) -> None:
        """Flush what was written to Milvus Lite, for ever; a server flushes by itself."""
        await self._flusher.run()

    async def check(self, deadline: Deadline) -> SentinelError | None:
        """Return why Milvus takes no writes; None if it does. Raise Unavailable if it is down."""
        await self.list_collections(deadline)
        return await self.connection.write_problem()

    async def create_collection(
        self, info: CollectionInfo, deadline: Deadline, *, keep_id: bool = False
    ) -> None:
        """Create an empty collection, ready to search, with an id of its own or that of `info`.

        Raises:
            AlreadyExists: A collection or an alias has this name.
            FailedPrecondition: This Milvus lacks one of its indexes or its storage of vectors, or
                lacks full-text search and the collection has full-text fields.
        """
        await self._storages.check_supported(info.storage, deadline)

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
                schema=schema.table_schema(info),
                consistency_level="Session",  # a gateway finds what it wrote
                # Not Milvus's id, which is always 0 on Lite.
                properties=schema.to_properties(
                    info if keep_id else replace(info, id=uuid.uuid4().hex)
                ),
                timeout=timeout,
            )
            try:
                if info.full_text:
                    schema.build_full_text_index(client, info.name, timeout)
                indexes.build_indexes(client, info, timeout)
                client.load_collection(info.name, timeout=timeout)
            except BaseException:
                # Without its indexes it could not be loaded; free the name.
                client.drop_collection(info.name, timeout=timeout)
                raise

        async with self._creating:  # or two callers would both find the name free
            await self.connection.run(create, deadline, writes=True)

    async def is_complete(self, name: str, deadline: Deadline) -> bool:
        """Tell whether a collection was created completely, or a crash interrupted it."""
        names: list[str] = await self.connection.run(
            lambda client, timeout: client.list_indexes(name, timeout=timeout), deadline
        )
        return "vector" in names  # built last

    async def describe_collection(
        self, name: str, deadline: Deadline, *, foreign_ok: bool = False, follow: bool = True
    ) -> CollectionInfo | None:
        """Return the description of a collection by its name or alias; None if there is none.

        With `follow`, the name of a collection that has moved means the one that it moved to.

        Raises:
            FailedPrecondition: Sentinel did not create it; with `foreign_ok` it returns None.
        """

        def describe(client: MilvusClient, timeout: float) -> CollectionInfo | None:
            now = name
            # It ends: a name only ever moves to a collection that has not moved.
            while client.has_collection(now, timeout=timeout):
                # One answer has the own name and the model. If the alias moves meanwhile, both are
                # from before or both from after.
                found = client.describe_collection(now, timeout=timeout)
                properties = found.get("properties", {})
                if schema.COLLECTION not in properties:
                    break
                info = schema.from_properties(found["collection_name"], name, properties)
                if not follow or not info.moved_to:
                    return info
                now = info.moved_to
            else:
                return None
            if foreign_ok:
                return None
            raise FailedPrecondition(
                "COLLECTION_FOREIGN",
                f"Milvus collection {name!r} was not created by Sentinel; use another name",
                collection=name,
            )

        try:
            return await self.connection.run(describe, deadline)
        except NotFound:  # deleted between the two questions
            return None

    async def set_origin(self, name: str, origin: Origin, deadline: Deadline) -> None:
        """Record the collection that `name` was made from, and how far it is."""
        await self.set_property(name, schema.ORIGIN, schema.origin_property(origin), deadline)

    async def set_reindex(self, name: str, mark: ReindexMark | None, deadline: Deadline) -> None:
        """Record the reindex that reads the collection `name`; None: none."""
        await self.set_property(name, schema.REINDEX, schema.reindex_property(mark), deadline)

    async def set_match(self, info: CollectionInfo, deadline: Deadline) -> None:
        """Record the match levels of `info` and who looks for them."""
        await self.set_property(info.name, schema.MATCH, schema.match_property(info), deadline)

    async def properties(self, name: str, deadline: Deadline) -> dict[str, str]:
        """Return the properties of the collection `name` itself; see `schema.py`."""

        def describe(client: MilvusClient, timeout: float) -> dict[str, str]:
            return dict(client.describe_collection(name, timeout=timeout).get("properties", {}))

        return await self.connection.run(describe, deadline)

    async def set_property(self, name: str, key: str, value: str, deadline: Deadline) -> None:
        """Set one property of the collection `name` itself."""

        def alter(client: MilvusClient, timeout: float) -> None:
            alter_property(client, name, key, value, timeout, is_lite=self.is_lite)

        await self.connection.run(alter, deadline, writes=True)

    async def list_collections(self, deadline: Deadline) -> list[str]:
        """Return the names of all collections in Milvus, sorted."""
        names: list[str] = await self.connection.run(
            lambda client, timeout: client.list_collections(timeout=timeout), deadline
        )
        return sorted(names)

    async def drop_collection(self, name: str, deadline: Deadline) -> None:
        """Drop a collection and its rows."""
        self._flusher.forget(name)
        await self.connection.drop(name, deadline)

    async def upsert(self, info: CollectionInfo, rows: Sequence[Row], deadline: Deadline) -> None:
        """Insert rows, or replace those of equal id; they are durable when it returns.

        The ids must be different.
        """
        entities = [schema.to_entity(row, info) for row in rows]
        await self.connection.write("upsert", info.name, deadline, data=entities)
        if self.is_lite:
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
        """Return the existing rows with these ids, in no particular order.

        Strongly consistent by default: an upsert skips rows that it finds unchanged, so they must
        not be deleted already.
        """
        found = await self.connection.query(
            info.name,
            deadline,
            consistency=consistency,
            filter=schema.with_ids(ids),
            output_fields=schema.output_fields(include_vectors),
        )
        return [schema.from_entity(entity, info) for entity in found]

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
        """Return the first `limit` matching rows after `last_id`, sorted by the UTF-8 bytes of ids.

        Includes everything that any gateway wrote before the call.
        """
        columns = schema.output_fields(include_vectors)
        found = await self._by_id(
            info, expression, last_id, limit=limit, columns=columns, deadline=deadline
        )
        return [schema.from_entity(entity, info) for entity in found]

    async def ids(
        self, info: CollectionInfo, expression: str, last_id: str, limit: int, deadline: Deadline
    ) -> list[str]:
        """Return the ids of the rows that `page` returns."""
        found = await self._by_id(
            info, expression, last_id, limit=limit, columns=["id"], deadline=deadline
        )
        return [entity["id"] for entity in found]

    async def _by_id(
        self,
        info: CollectionInfo,
        expression: str,
        last_id: str,
        *,
        limit: int,
        columns: Sequence[str],
        deadline: Deadline,
    ) -> Sequence[Mapping[str, Any]]:
        async def read(after: str, most: int) -> Sequence[Mapping[str, Any]]:
            answer: Sequence[Mapping[str, Any]] = await self.connection.query(
                info.name,
                deadline,
                filter=schema.after_id(expression, after),
                output_fields=columns,
                limit=most,
                # As pymilvus's own iterator does, to get rows sorted by id.
                iterator="True",
                reduce_stop_for_best="True",
            )
            return answer

        if self.is_lite:
            return await read(last_id, limit)
        # Milvus takes the query above for an iterator's, which cannot choose its consistency.
        # A strong read before it waits until the rows have reached the node that reads.
        await self.get(info, [last_id], deadline)
        # A server stops where one of its segments has no more rows, so only an empty answer is the
        # end.
        found: list[Mapping[str, Any]] = []
        while len(found) < limit:
            part = await read(found[-1]["id"] if found else last_id, limit - len(found))
            if not part:
                break
            found += part
        return found

    async def values(
        self, info: CollectionInfo, expression: str, column: str, limit: int, deadline: Deadline
    ) -> list[tuple[str, float]]:
        """Return id and number in `column` of any `limit` rows that match `expression`."""
        found = await self.connection.query(
            info.name,
            deadline,
            consistency=Consistency.STRONG,
            filter=expression,
            output_fields=["id", column],
            limit=limit,
        )
        return [(entity["id"], entity[column]) for entity in found]

    async def named_images(
        self, info: CollectionInfo, digests: Sequence[str], deadline: Deadline
    ) -> set[str]:
        """Return the `digests` that rows of the collection name as their image."""
        left, named = set(digests), set[str]()
        while left:
            found = await self.connection.query(
                info.name,
                deadline,
                consistency=Consistency.STRONG,
                filter=schema.with_images(sorted(left)),
                output_fields=["image"],
                limit=_MAX_ROWS,
            )
            named.update(entity["image"] for entity in found)
            left -= named
            if len(found) < _MAX_ROWS:
                break  # otherwise one image of very many rows may hide the others
        return named

    async def count(
        self,
        info: CollectionInfo,
        expression: str,
        deadline: Deadline,
        *,
        consistency: Consistency = Consistency.STRONG,
    ) -> int:
        """Return how many rows match `expression`; an empty one matches all."""
        found = await self.connection.query(
            info.name,
            deadline,
            consistency=consistency,
            filter=expression,
            output_fields=["count(*)"],
        )
        return int(found[0]["count(*)"])

    async def delete(self, info: CollectionInfo, expression: str, deadline: Deadline) -> None:
        """Delete the rows that match `expression`; searches after it do not find them."""
        await self.connection.write("delete", info.name, deadline, filter=expression)
        # Session consistency covers upserts but not deletes (seen with Milvus 2.3.5). A strong
        # read waits until the deletion has reached the node that searches.
        await self.count(info, expression, deadline)

    async def close(self) -> None:
        """Finish the calls in progress and close the connection."""
        await self.connection.close()

    async def flush(self, name: str) -> None:
        """Have Milvus move new rows into segments, which it searches faster."""
        deadline = Deadline.within(_FLUSH_TIMEOUT_S)
        await self.connection.run(
            lambda client, timeout: client.flush(name, timeout=timeout), deadline, writes=True
        )


def alter_property(
    client: MilvusClient, name: str, key: str, value: str, timeout: float, *, is_lite: bool
) -> None:
    """Set one property of the collection `name`; those of `schema.py` describe it."""
    # Milvus 2.3.5 makes a change durable only with the next one: its restart takes back the last
    # one. So the same change follows.
    for _ in range(1 if is_lite else 2):
        client.alter_collection_properties(name, {key: value}, timeout=timeout)
