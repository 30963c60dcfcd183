"""During a reindex, find the other collection that a write must also reach.

Before the alias moves, that is the target. For a moment afterwards it is the source, too: other
gateways may still read there by the old meaning of the alias.

Writers call this after each write. A slow write may begin before a reindex and end during it. The
answer is at most `CACHE_S` old. So a reindex that changes where writes go, and then waits a little
longer, knows that every write which ends from then on also reaches the target.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

from search_server.collections.catalog import Catalog
from sentinel_core.calls import Deadline
from sentinel_core.errors import FailedPrecondition, NotFound, SentinelError
from sentinel_store.collections import CollectionInfo, OriginState


class DualWrite:
    """Finds the other collections that a write to one collection must reach."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def next_target(
        self, info: CollectionInfo, written: Collection[str], deadline: Deadline
    ) -> CollectionInfo | None:
        """Return a collection that a write to `info` must reach before it is acknowledged.

        That is the target of `info`'s reindex; or the collection that the alias points to by now,
        if it was made from `info`; or the one that the alias has left a moment ago. `written` has
        the names of the collections that it has reached. Raises NotFound if the collection was
        deleted.
        """
        now = await self._catalog.get(info.requested_name or info.name, deadline)
        other: CollectionInfo | None = now
        if now.name == info.name:
            if now.origin is not None and now.origin.state is OriginState.VERIFIED:
                return await self._left_a_moment_ago(now, now.origin.source, written, deadline)
            if now.reindex is None or not now.reindex.dual_write:
                return None
            if now.reindex.target in written:
                return None
            other = await self._catalog.find(now.reindex.target, deadline)
        if other is None or other.name in written or other.origin is None:
            return None
        return other if other.origin.source == info.name else None

    async def _left_a_moment_ago(
        self, target: CollectionInfo, name: str, written: Collection[str], deadline: Deadline
    ) -> CollectionInfo | None:
        """Return the source `name` of `target` until its reindex has cleared the mark there."""
        by_alias = target.requested_name not in ("", target.name)
        if not by_alias or name in written:
            return None
        source = await self._catalog.find_own(name, deadline)
        if source is None or source.reindex is None or source.reindex.target != target.name:
            return None
        return source

    @asynccontextmanager
    async def unless_deleted(
        self, target: CollectionInfo, deadline: Deadline
    ) -> AsyncIterator[None]:
        """Ignore NotFound from the block if somebody deleted `target`: nothing is missing then."""
        try:
            yield
        except NotFound:
            self._catalog.forget(target.name)
            if await self._catalog.find_own(target.name, deadline) is not None:
                raise


def check_writable(info: CollectionInfo) -> None:
    """Raise FailedPrecondition for a collection that a reindex is still copying to."""
    if info.origin is not None and info.origin.state is OriginState.COPYING:
        raise FailedPrecondition(
            "REINDEX_CONFLICT",
            f"{info.name!r} is being filled from {info.origin.source!r}; write to that one until "
            "ReindexCollection is done",
            field="collection",
        )


def vector_only_error(other: str) -> SentinelError:
    """Return the error for an item without content: another model cannot embed it."""
    return FailedPrecondition(
        "REINDEX_CONFLICT",
        f"during its reindex, writes also reach {other!r}, whose model cannot use a vector "
        "without content; send the content, or wait until ReindexCollection is done",
    )
