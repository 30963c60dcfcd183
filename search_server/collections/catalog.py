"""Create, describe, name and delete collections; cache their descriptions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from search_server.collections.usage import StoredUsage
from search_server.embedders.pool import EmbedderPool
from search_server.embedders.worker import ServedModel
from search_server.milvus.search_store import SearchStore
from sentinel_core.calls import Deadline
from sentinel_core.errors import FailedPrecondition, InvalidArgument, NotFound
from sentinel_store.collections import (
    CollectionInfo,
    NewCollection,
    check_collection_name,
    check_declaration,
)
from sentinel_store.milvus import indexes

# How long this gateway may use an old description after another gateway changed an alias or a
# collection. A search of the new collection with the old one's model fails. Only if both models
# have equal dimensions could it mix vector spaces, so this is seconds and not minutes.
CACHE_S = 2.0


class Catalog:
    """Creates, describes, names and deletes collections.

    Callers use a collection's own name or an alias. A request resolves it once. From then on it
    uses this `CollectionInfo`, with the collection's own name and model, even if the alias moves.
    """

    def __init__(self, store: SearchStore, pool: EmbedderPool, usage: StoredUsage) -> None:
        self._store = store
        self._pool = pool
        self._usage = usage
        self._cache: dict[str, tuple[float, CollectionInfo]] = {}
        # Prevents an alias of a collection that is being deleted, and one collection too many.
        self._naming = asyncio.Lock()

    async def create(self, new: NewCollection, deadline: Deadline) -> CollectionInfo:
        """Create an empty collection for vectors of the workers' model.

        Raises:
            InvalidArgument: A name is invalid, there are too many fields, an index parameter is
                out of range, or the model has no vectors of this length.
            AlreadyExists: A collection or an alias has this name.
            Unavailable: No worker is up, so the model is unknown.
            FailedPrecondition: No worker serves the requested model, or Milvus lacks the index,
                the storage or full-text search.
            ResourceExhausted: The tenant has as many collections as it may have.
        """
        check_declaration(new.name, new.fields)
        index = indexes.choose_index(
            new.index,
            new.expected_item_count,
            is_lite=self._store.is_lite,
            storage=new.storage,
        )
        served = self._pool.model(new.model)
        dimensions = checked_dimensions(served, new.dimensions, "collection.dimensions")
        info = CollectionInfo(
            name=new.name,
            model=served.model,
            dimensions=dimensions,
            fields=new.fields,
            indexed=new.indexed,
            full_text=new.full_text,
            index=index,
            expected_item_count=new.expected_item_count,
            consistency=new.consistency,
            storage=new.storage,
            shortened=dimensions != served.dimensions,
        )
        await self.add(info, deadline)
        return info

    async def add(self, info: CollectionInfo, deadline: Deadline) -> None:
        """Create the empty collection that `info` describes; errors as `create`."""
        async with self._naming:
            await self._usage.check_new_collection(info.name, deadline)
            await self._store.create_collection(info, deadline)

    async def get(self, name: str, deadline: Deadline) -> CollectionInfo:
        """Return the description of a collection by its name or alias, at most two seconds old.

        Raises:
            NotFound: Neither a collection nor an alias has this name.
            FailedPrecondition: The Milvus collection of this name is not Sentinel's.
        """
        cached = self._cache.get(name)
        if cached is not None and time.monotonic() - cached[0] < CACHE_S:
            return cached[1]
        return await self.get_fresh(name, deadline)

    async def get_fresh(self, name: str, deadline: Deadline) -> CollectionInfo:
        """Return the current description, without the cache; errors as `get`."""
        self._cache.pop(name, None)
        check_collection_name(name, "collection")
        read_at = time.monotonic()
        info = await self._store.describe_collection(name, deadline)
        if info is None:
            raise _not_found(name)
        self._cache[name] = (read_at, info)
        return info

    async def find(self, name: str, deadline: Deadline) -> CollectionInfo | None:
        """Return what `get` returns, or None if there is no such collection."""
        try:
            return await self.get(name, deadline)
        except NotFound:
            return None

    async def find_own(self, name: str, deadline: Deadline) -> CollectionInfo | None:
        """Return the current description of the collection `name` itself, also if it has moved."""
        return await self._store.describe_collection(name, deadline, follow=False)

    async def get_own(self, name: str, deadline: Deadline) -> CollectionInfo:
        """Return what `find_own` returns; raise NotFound if there is no such collection."""
        info = await self.find_own(name, deadline)
        if info is None:
            raise _not_found(name)
        return info

    async def count_and_aliases(
        self, info: CollectionInfo, deadline: Deadline
    ) -> tuple[int, list[str]]:
        """Return how many items a collection holds, and its other names, sorted."""
        count = await self.count(info, deadline)
        return count, (await self._store.aliases.of(info.name, deadline)).all

    async def count(self, info: CollectionInfo, deadline: Deadline) -> int:
        """Return how many items a collection holds."""
        return await self._store.count(info, "", deadline)

    async def list_after(
        self,
        last_name: str,
        page_size: int,
        deadline: Deadline,
        is_listed: Callable[[str], bool],
    ) -> tuple[list[CollectionInfo], bool]:
        """Return Sentinel's collections that sort after `last_name`, and whether more follow.

        Only those whose names `is_listed` accepts. One that has moved is another name of a listed
        one.
        """
        page: list[CollectionInfo] = []
        for name in await self._store.list_collections(deadline):
            if name <= last_name or not is_listed(name):
                continue
            info = await self._store.describe_collection(
                name, deadline, foreign_ok=True, follow=False
            )
            if info is None or info.moved_to:
                continue
            if len(page) == page_size:
                return page, True
            page.append(info)
        return page, False

    async def deletable(self, name: str, deadline: Deadline) -> CollectionInfo:
        """Return the current description of a collection that `delete` would drop.

        The name of a collection that has moved deletes the one that it moved to as well.

        Raises:
            NotFound: No collection has this name.
            FailedPrecondition: It is not Sentinel's, the name is an alias, or it has an alias.
        """
        info = await self.get_fresh(name, deadline)
        names = await self._store.aliases.of(info.name, deadline)
        moved = name in names.moved
        if info.name != name and not moved:
            raise _is_alias(name, info, "name")
        if aliases := names.aliases if moved else names.all:
            # Milvus would drop the aliases too, and their users would find nothing.
            raise FailedPrecondition(
                "COLLECTION_ALIASED",
                f"{', '.join(aliases)} point at {info.name!r}; point them elsewhere or delete them "
                "first",
                field="name",
                collection=info.name,
            )
        return info

    async def delete(
        self,
        name: str,
        deadline: Deadline,
        check: Callable[[CollectionInfo, int], None] | None = None,
    ) -> None:
        """Drop a collection and its items. Image bytes stay: other collections may use them.

        `check` gets the collection and its number of items before it is dropped, and may raise.
        Raises as `deletable`.
        """
        async with self._naming:
            info = await self.deletable(name, deadline)
            if check is not None:
                check(info, await self.count(info, deadline))
            names = await self._store.aliases.of(info.name, deadline)
            for one in (*names.moved, info.name):
                await self._store.drop_collection(one, deadline)
            self.forget(info.name)
            await self._end_reindex_to(info, deadline)

    async def set_alias(self, alias: str, name: str, deadline: Deadline) -> None:
        """Point an alias at the collection `name`; other gateways notice within two seconds.

        Raises:
            InvalidArgument: A name is invalid.
            NotFound: No collection has this name.
            AlreadyExists: `alias` is the name of a collection, maybe of one that has moved.
            FailedPrecondition: `name` is an alias, or not Sentinel's.
        """
        check_collection_name(alias, "alias")
        async with self._naming:
            info = await self._by_own_name(name, "collection", deadline)
            await self._store.aliases.point(alias, info.name, deadline)
        self._cache.pop(alias, None)

    async def delete_alias(self, alias: str, deadline: Deadline) -> None:
        """Remove an alias; do nothing if it does not exist.

        Raises:
            FailedPrecondition: It is the name of a collection that has moved.
        """
        check_collection_name(alias, "alias")
        async with self._naming:
            await self._store.aliases.remove(alias, deadline)
        self._cache.pop(alias, None)

    async def _by_own_name(self, name: str, field: str, deadline: Deadline) -> CollectionInfo:
        info = await self.get_fresh(name, deadline)
        if info.name != name:
            raise _is_alias(name, info, field)
        return info

    async def _end_reindex_to(self, dropped: CollectionInfo, deadline: Deadline) -> None:
        """Clear the reindex mark of the source of `dropped`; writers ignore the mark anyway."""
        if dropped.origin is None:
            return
        source = await self.find_own(dropped.origin.source, deadline)
        if source and source.reindex and source.reindex.target == dropped.name:
            await self._store.set_reindex(source.name, None, deadline)
            self.forget(source.name)

    def forget(self, name: str) -> None:
        """Read a collection anew the next time, under any name."""
        self._cache = {key: one for key, one in self._cache.items() if one[1].name != name}


def _not_found(name: str) -> NotFound:
    return NotFound("COLLECTION_NOT_FOUND", f"no collection {name!r}", collection=name)


def _is_alias(name: str, info: CollectionInfo, field: str) -> FailedPrecondition:
    return FailedPrecondition(
        "COLLECTION_ALIASED",
        f"{name!r} is an alias of {info.name!r}; use the collection's own name",
        field=field,
        collection=info.name,
    )


def checked_dimensions(served: ServedModel, wanted: int, field: str) -> int:
    """Return the length of vectors that a caller wants; 0: the model's own.

    Raises:
        InvalidArgument: The model has no vectors of this length.
    """
    offered = sorted({*served.details.supported_dimensions, served.dimensions})
    if not wanted or wanted in offered:
        return wanted or served.dimensions
    supported = ", ".join(map(str, offered))
    raise InvalidArgument(
        "DIMENSIONS_UNSUPPORTED",
        f"{served.model.model!r} has no vectors of {wanted} dimensions; use {supported}",
        field=field,
        supported=supported,
    )
