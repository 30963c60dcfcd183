"""The gateway's Milvus: the shared store, vector search, full-text search and aliases.

Milvus itself keeps the aliases: second names of collections that can be pointed elsewhere.
"""

from __future__ import annotations

from pymilvus import MilvusClient

from search_server.milvus.full_text import FullText
from search_server.milvus.vector_search import VectorSearch
from sentinel_core.calls import Deadline
from sentinel_core.errors import AlreadyExists
from sentinel_core.tls import TlsFiles
from sentinel_store.collections import CollectionInfo
from sentinel_store.milvus import errors
from sentinel_store.milvus.connection import MilvusConnection
from sentinel_store.milvus.store import MilvusStore

# Another gateway may create or remove the alias between our check and our change.
_TRIES = 3


class SearchStore(MilvusStore):
    """Use from one event loop.

    Attributes:
        aliases: Second names of collections.
        full_text: Searches words.
        vectors: Searches vectors.
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
        super().__init__(uri, token, threads, tls=tls, lite_fsync=lite_fsync)
        self.aliases = Aliases(self.connection)
        self.full_text = FullText(self.connection)
        self.vectors = VectorSearch(self)

    async def create_collection(self, info: CollectionInfo, deadline: Deadline) -> None:
        if info.full_text:
            await self.full_text.check_supported(deadline)
        await super().create_collection(info, deadline)


class Aliases:
    """Points, lists and removes aliases. Use from one event loop."""

    def __init__(self, milvus: MilvusConnection) -> None:
        self._milvus = milvus

    async def of(self, collection: str, deadline: Deadline) -> list[str]:
        """Return the aliases of a collection, sorted."""

        def aliases(client: MilvusClient, timeout: float) -> list[str]:
            return sorted(client.list_aliases(collection, timeout=timeout)["aliases"])

        return await self._milvus.run(aliases, deadline)

    async def point(self, alias: str, collection: str, deadline: Deadline) -> None:
        """Point `alias` at `collection` in one step: callers find the old one or the new one.

        Raises:
            AlreadyExists: A collection has this name.
        """

        def point(client: MilvusClient, timeout: float) -> None:
            for tries_left in reversed(range(_TRIES)):
                current = _resolve(client, alias, timeout)
                if current == alias:
                    raise AlreadyExists(
                        "COLLECTION_EXISTS",
                        f"there is a collection {alias!r}; an alias needs a name of its own",
                        field="alias",
                        collection=alias,
                    )
                if current == collection:
                    return
                change = client.create_alias if current is None else client.alter_alias
                try:
                    change(collection, alias, timeout=timeout)
                except errors.FOREIGN:
                    # Nobody else changes aliases of Lite, which believes in one that it did not
                    # save.
                    if not tries_left or self._milvus.is_lite:
                        raise
                else:
                    return

        await self._milvus.run(point, deadline, writes=True)

    async def resolve(self, name: str, deadline: Deadline) -> str | None:
        """Return the own name of the collection that `name` names; None if there is none."""
        return await self._milvus.run(
            lambda client, timeout: _resolve(client, name, timeout), deadline
        )

    async def remove(self, alias: str, deadline: Deadline) -> None:
        """Remove an alias; do nothing if there is none."""

        def remove(client: MilvusClient, timeout: float) -> None:
            if _resolve(client, alias, timeout) not in (None, alias):
                client.drop_alias(alias, timeout=timeout)

        await self._milvus.run(remove, deadline, writes=True)


def _resolve(client: MilvusClient, name: str, timeout: float) -> str | None:
    """Return the own name of the collection that `name` names; None if there is none."""
    if not client.has_collection(name, timeout=timeout):
        return None
    own: str = client.describe_collection(name, timeout=timeout)["collection_name"]
    return own
