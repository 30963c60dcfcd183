"""Aliases, kept by Milvus itself: second names of collections that can be pointed elsewhere."""

from __future__ import annotations

from pymilvus import MilvusClient

from sentinel_core.calls import Deadline
from sentinel_core.errors import AlreadyExists
from sentinel_store.milvus import errors
from sentinel_store.milvus.connection import MilvusConnection

# Others may make or remove the alias between our look and our change of it.
_TRIES = 3


class Aliases:
    """Points, lists and removes aliases. Use from one event loop."""

    def __init__(self, milvus: MilvusConnection) -> None:
        self._milvus = milvus

    async def of(self, collection: str, deadline: Deadline) -> list[str]:
        """Return the aliases of a collection, sorted."""

        def listed(client: MilvusClient, timeout: float) -> list[str]:
            return sorted(client.list_aliases(collection, timeout=timeout)["aliases"])

        return await self._milvus.run(listed, deadline)

    async def point(self, alias: str, collection: str, deadline: Deadline) -> None:
        """Point `alias` at `collection` in one step: whoever asks finds the old one or the new.

        Raises:
            AlreadyExists: A collection has this name.
        """

        def point(client: MilvusClient, timeout: float) -> None:
            for left in reversed(range(_TRIES)):
                there = _meaning(client, alias, timeout)
                if there == alias:
                    raise AlreadyExists(
                        "COLLECTION_EXISTS",
                        f"there is a collection {alias!r}; an alias needs a name of its own",
                        field="alias",
                        collection=alias,
                    )
                if there == collection:
                    return
                change = client.create_alias if there is None else client.alter_alias
                try:
                    change(collection, alias, timeout=timeout)
                except errors.FOREIGN:
                    if not left:
                        raise
                else:
                    return

        await self._milvus.run(point, deadline)

    async def meaning(self, name: str, deadline: Deadline) -> str | None:
        """Return the own name of the collection that `name` means; None if it means none."""
        return await self._milvus.run(
            lambda client, timeout: _meaning(client, name, timeout), deadline
        )

    async def remove(self, alias: str, deadline: Deadline) -> None:
        """Remove an alias; one that is not there is no error."""

        def remove(client: MilvusClient, timeout: float) -> None:
            if _meaning(client, alias, timeout) not in (None, alias):
                client.drop_alias(alias, timeout=timeout)

        await self._milvus.run(remove, deadline)


def _meaning(client: MilvusClient, name: str, timeout: float) -> str | None:
    """Return the own name of the collection that `name` means; None if it means none."""
    if not client.has_collection(name, timeout=timeout):
        return None
    own: str = client.describe_collection(name, timeout=timeout)["collection_name"]
    return own
