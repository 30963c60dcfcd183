"""Use case: collections, and the model each one is tied to."""

from __future__ import annotations

import asyncio
import time

from search_server.embedders.pool import EmbedderPool
from search_server.milvus.search_store import SearchStore
from sentinel_core.calls import Deadline
from sentinel_core.errors import FailedPrecondition, NotFound
from sentinel_store.collections import (
    CollectionInfo,
    NewCollection,
    check_collection_name,
    check_declaration,
)
from sentinel_store.milvus import indexes

# How long another gateway's change of an alias or a collection may go unnoticed here. A search
# that meets the new one with the old one's model fails; it never mixes spaces unless both models
# have equal dimensions, hence seconds and not minutes.
CACHE_S = 2.0


class Collections:
    """Creates, describes, names and deletes collections.

    A name that callers use is a collection's own or an alias. It is looked up once per request;
    from there on the `CollectionInfo` found is what the request is about, its own name and its
    model together, wherever the alias points meanwhile.
    """

    def __init__(self, store: SearchStore, pool: EmbedderPool) -> None:
        self._store = store
        self._pool = pool
        self._cache: dict[str, tuple[float, CollectionInfo]] = {}
        self._naming = asyncio.Lock()  # or an alias could be given to what is just deleted

    async def create(self, wanted: NewCollection, deadline: Deadline) -> CollectionInfo:
        """Make an empty collection in the space of the workers' model.

        Raises:
            InvalidArgument: A name that is not allowed, too many fields, a parameter of the index.
            AlreadyExists: There is a collection or an alias of this name.
            Unavailable: No worker is up to say what the model is.
            FailedPrecondition: No worker serves the model wanted, or Milvus has no such index or
                no full-text search.
        """
        check_declaration(wanted.name, wanted.fields)
        index = indexes.chosen(
            wanted.index, wanted.expected_item_count, is_lite=self._store.is_lite
        )
        model, dimensions = self._pool.model(wanted.model)
        info = CollectionInfo(
            name=wanted.name,
            model=model,
            dimensions=dimensions,
            fields=wanted.fields,
            indexed=wanted.indexed,
            full_text=wanted.full_text,
            index=index,
            expected_item_count=wanted.expected_item_count,
            consistency=wanted.consistency,
        )
        async with self._naming:
            await self._store.create_collection(info, deadline)
        return info

    async def get(self, name: str, deadline: Deadline) -> CollectionInfo:
        """Return what the collection of this name or alias is.

        It was so at most two seconds ago.

        Raises:
            NotFound: There is none of this name.
            FailedPrecondition: The Milvus collection of this name is not Sentinel's.
        """
        known = self._cache.get(name)
        if known is not None and time.monotonic() - known[0] < CACHE_S:
            return known[1]
        return await self.get_now(name, deadline)

    async def get_now(self, name: str, deadline: Deadline) -> CollectionInfo:
        """Return what the collection of this name or alias is just now; errors as `get`."""
        self._cache.pop(name, None)
        check_collection_name(name, "collection")
        asked_at = time.monotonic()
        info = await self._store.describe_collection(name, deadline)
        if info is None:
            raise NotFound(
                "COLLECTION_NOT_FOUND",
                f"no collection {name!r}",
                collection=name,
            )
        self._cache[name] = (asked_at, info)
        return info

    async def find(self, name: str, deadline: Deadline) -> CollectionInfo | None:
        """Return what `get` returns, or None where there is no such collection."""
        try:
            return await self.get(name, deadline)
        except NotFound:
            return None

    async def count(self, info: CollectionInfo, deadline: Deadline) -> int:
        """Return how many items a collection holds."""
        return await self._store.count(info, "", deadline)

    async def aliases(self, info: CollectionInfo, deadline: Deadline) -> list[str]:
        """Return the aliases of a collection, sorted."""
        return await self._store.aliases.of(info.name, deadline)

    async def list_after(
        self, last_name: str, page_size: int, deadline: Deadline
    ) -> tuple[list[CollectionInfo], bool]:
        """Return Sentinel's collections that sort after `last_name`, and whether more follow."""
        page: list[CollectionInfo] = []
        for name in await self._store.list_collections(deadline):
            if name <= last_name:
                continue
            info = await self._store.describe_collection(name, deadline, foreign_ok=True)
            if info is None:
                continue
            if len(page) == page_size:
                return page, True
            page.append(info)
        return page, False

    async def delete(self, name: str, deadline: Deadline) -> None:
        """Drop a collection and its items. Image bytes stay: other collections may use them.

        Raises:
            NotFound: There is none of this name.
            FailedPrecondition: It is not Sentinel's to drop, an alias, or has one.
        """
        async with self._naming:
            info = await self._by_own_name(name, "name", deadline)
            aliases = await self._store.aliases.of(name, deadline)
            if aliases:
                # Whoever uses them would find nothing, at best; Milvus would drop them, too.
                raise FailedPrecondition(
                    "COLLECTION_ALIASED",
                    f"{', '.join(aliases)} point at {name!r}; point them elsewhere or delete them "
                    "first",
                    field="name",
                    collection=name,
                )
            await self._store.drop_collection(info.name, deadline)
            self.forget(info.name)
            await self._end_reindex_into(info, deadline)

    async def set_alias(self, alias: str, name: str, deadline: Deadline) -> None:
        """Point an alias at the collection `name`; other gateways notice within two seconds.

        Raises:
            InvalidArgument: A name that is not allowed.
            NotFound: There is no collection of this name.
            AlreadyExists: `alias` is the name of a collection.
            FailedPrecondition: `name` is an alias, or not Sentinel's.
        """
        check_collection_name(alias, "alias")
        async with self._naming:
            info = await self._by_own_name(name, "collection", deadline)
            await self._store.aliases.point(alias, info.name, deadline)
        self._cache.pop(alias, None)

    async def delete_alias(self, alias: str, deadline: Deadline) -> None:
        """Remove an alias; one that is not there is no error."""
        check_collection_name(alias, "alias")
        async with self._naming:
            await self._store.aliases.remove(alias, deadline)
        self._cache.pop(alias, None)

    async def _by_own_name(self, name: str, field: str, deadline: Deadline) -> CollectionInfo:
        info = await self.get_now(name, deadline)
        if info.name != name:
            raise FailedPrecondition(
                "COLLECTION_ALIASED",
                f"{name!r} is an alias of {info.name!r}; say the collection's own name",
                field=field,
                collection=info.name,
            )
        return info

    async def _end_reindex_into(self, dropped: CollectionInfo, deadline: Deadline) -> None:
        """Clear the mark of what `dropped` was being made of; writers ignore it in any case."""
        if dropped.origin is None:
            return
        source = await self.find(dropped.origin.source, deadline)
        if source and source.reindex and source.reindex.target == dropped.name:
            await self._store.properties.set_reindex(source.name, None, deadline)
            self.forget(source.name)

    def forget(self, name: str) -> None:
        """Look a collection up anew the next time, under whatever name."""
        self._cache = {key: known for key, known in self._cache.items() if known[1].name != name}
