"""The gateway's Milvus: the shared store, vector search, full-text search and aliases.

Milvus itself keeps the aliases: second names of collections that can be pointed elsewhere.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from pymilvus import MilvusClient

from search_server.milvus.full_text import FullText
from search_server.milvus.vector_search import VectorSearch
from sentinel_core.calls import Deadline
from sentinel_core.errors import AlreadyExists, FailedPrecondition
from sentinel_core.tls import TlsFiles
from sentinel_store.collections import CollectionInfo
from sentinel_store.milvus import errors, schema
from sentinel_store.milvus.movable import Milvus
from sentinel_store.milvus.store import MilvusStore, alter_property

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

    async def create_collection(
        self, info: CollectionInfo, deadline: Deadline, *, keep_id: bool = False
    ) -> None:
        if info.full_text:
            await self.full_text.check_supported(deadline)
        await super().create_collection(info, deadline, keep_id=keep_id)


@dataclass(frozen=True, slots=True)
class OtherNames:
    """The other names of a collection, sorted.

    Attributes:
        aliases: Its aliases in Milvus.
        moved: Collections that have moved to it. They still hold their old rows.
    """

    aliases: list[str]
    moved: list[str]

    @property
    def all(self) -> list[str]:
        return sorted([*self.aliases, *self.moved])


class Aliases:
    """Points, lists and removes aliases. Use from one event loop.

    The name of a collection that has moved is an alias, too: of the collection that its property
    `moved_to` names. So a reindex can replace a collection under its own name, which no alias of
    Milvus can have.
    """

    def __init__(self, milvus: Milvus) -> None:
        self._milvus = milvus

    async def of(self, collection: str, deadline: Deadline) -> OtherNames:
        """Return the other names of a collection."""

        def names(client: MilvusClient, timeout: float) -> OtherNames:
            aliases, moved, left = set[str](), set[str](), [collection]
            while left:
                one = left.pop()
                aliases.update(self._own(client, one, timeout))
                new = [name for name in _names(client, one, timeout) if name not in moved]
                new = [name for name in new if _moved_to(client, name, timeout) == one]
                moved.update(new)
                left += new
            return OtherNames(sorted(aliases), sorted(moved))

        return await self._milvus.run(names, deadline)

    async def own(self, collection: str, deadline: Deadline) -> list[str]:
        """Return the aliases of a collection itself, without those of collections moved to it."""
        return await self._milvus.run(
            lambda client, timeout: self._own(client, collection, timeout), deadline
        )

    def _own(self, client: MilvusClient, collection: str, timeout: float) -> list[str]:
        if self._milvus.is_lite:
            return sorted(client.list_aliases(collection, timeout=timeout)["aliases"])
        # Milvus 2.3.5 lists the aliases of the default database, whatever the connection's is.
        return sorted(client.describe_collection(collection, timeout=timeout)["aliases"])

    async def point(
        self, alias: str, collection: str, deadline: Deadline, *, may_move: bool = False
    ) -> None:
        """Point `alias` at `collection` in one step: callers find the old one or the new one.

        With `may_move`, `alias` may be the name of a collection, which moves.

        Raises:
            AlreadyExists: A collection has this name, and may not move.
        """

        def point(client: MilvusClient, timeout: float) -> None:
            for tries_left in reversed(range(_TRIES)):
                current = _own_name(client, alias, timeout)
                if current == alias:
                    self._move(client, alias, collection, timeout, may_move=may_move)
                    return
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

    def _move(
        self, client: MilvusClient, name: str, target: str, timeout: float, *, may_move: bool
    ) -> None:
        """Have the name of a collection mean `target` from now on."""
        if _moved_to(client, name, timeout) == target:
            return
        if not may_move:
            # Also one that has moved: deleting it by this name deletes what it means, and that must
            # be its own copy.
            raise AlreadyExists(
                "COLLECTION_EXISTS",
                f"there is a collection {name!r}; an alias needs a name of its own",
                field="alias",
                collection=name,
            )
        names = json.dumps(sorted({*_names(client, target, timeout), name}))
        # First: `of` must find the name as soon as it has moved.
        for moved, key, value in ((target, schema.NAMES, names), (name, schema.MOVED_TO, target)):
            alter_property(client, moved, key, value, timeout, is_lite=self._milvus.is_lite)

    async def resolve(self, name: str, deadline: Deadline) -> str | None:
        """Return the own name of the collection that `name` names; None if there is none."""

        def resolve(client: MilvusClient, timeout: float) -> str | None:
            now = _own_name(client, name, timeout)
            while now is not None and (moved := _moved_to(client, now, timeout)):
                now = _own_name(client, moved, timeout)
            return now

        return await self._milvus.run(resolve, deadline)

    async def remove(self, alias: str, deadline: Deadline) -> None:
        """Remove an alias; do nothing if there is none.

        Raises:
            FailedPrecondition: It is the name of a collection that has moved.
        """

        def remove(client: MilvusClient, timeout: float) -> None:
            own = _own_name(client, alias, timeout)
            if own == alias and (target := _moved_to(client, alias, timeout)):
                raise FailedPrecondition(
                    "COLLECTION_ALIASED",
                    f"{alias!r} is a collection that moved to {target!r}; DeleteCollection deletes "
                    "both, SetAlias points the name elsewhere",
                    field="alias",
                    collection=alias,
                )
            if own not in (None, alias):
                client.drop_alias(alias, timeout=timeout)

        await self._milvus.run(remove, deadline, writes=True)


def _own_name(client: MilvusClient, name: str, timeout: float) -> str | None:
    """Return the own name of the collection that Milvus has by `name`; None if it has none."""
    if not client.has_collection(name, timeout=timeout):
        return None
    own: str = client.describe_collection(name, timeout=timeout)["collection_name"]
    return own


def _moved_to(client: MilvusClient, name: str, timeout: float) -> str:
    """Return the collection that the collection `name` has moved to; empty if it has not."""
    return _properties(client, name, timeout).get(schema.MOVED_TO, "")


def _names(client: MilvusClient, name: str, timeout: float) -> list[str]:
    """Return the names of the collections that may have moved to the collection `name`."""
    found: list[str] = json.loads(_properties(client, name, timeout).get(schema.NAMES) or "[]")
    return found


def _properties(client: MilvusClient, name: str, timeout: float) -> dict[str, str]:
    if not client.has_collection(name, timeout=timeout):
        return {}
    found: dict[str, str] = client.describe_collection(name, timeout=timeout).get("properties", {})
    return found
