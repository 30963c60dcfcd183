"""Where else a write has to go while a collection moves to another model (reindex.py).

A write looks here after it is done, not before: one that has waited for a worker for a minute may
end in another world than it began in. What it finds is at most `CACHE_S` old, so whoever changes
where writes go and then waits a little longer knows that every write that ends from then on goes
there, too.


What a collection of another model takes over of a batch, as a mirror (mirrors.py).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from search_server.collections.catalog import Collections
from sentinel_core.calls import Deadline
from sentinel_core.errors import FailedPrecondition, SentinelError
from sentinel_store.collections import CollectionInfo, OriginState
from sentinel_store.items import Item
from sentinel_store.prepared_item import Draft


class Mirrors:
    """Tells writers about the collections made of the one that they write to."""

    def __init__(self, collections: Collections) -> None:
        self._collections = collections

    async def next(
        self, info: CollectionInfo, written: Collection[str], deadline: Deadline
    ) -> CollectionInfo | None:
        """Return a collection that a write to `info` has to reach before it is acknowledged.

        That is what `info` is mirrored to; or what its alias means by now, if made of `info`.

        Args:
            info: The collection that the write was for.
            written: Names of those that it has reached.
            deadline: Of the write.

        Raises:
            NotFound: There is no collection of that name any more.
        """
        now = await self._collections.get(info.asked or info.name, deadline)
        other: CollectionInfo | None = now
        if now.name == info.name:
            if now.reindex is None or not now.reindex.mirrored:
                return None
            if now.reindex.target in written:
                return None
            other = await self._collections.find(now.reindex.target, deadline)
        if other is None or other.name in written or other.origin is None:
            return None
        return other if other.origin.source == info.name else None

    async def is_gone(self, other: CollectionInfo, deadline: Deadline) -> bool:
        """Tell whether a collection that `next` returned was deleted; then nothing is missed."""
        self._collections.forget(other.name)
        return await self._collections.find(other.name, deadline) is None


def check_writable(info: CollectionInfo) -> None:
    """Raise FailedPrecondition for a collection that is still being filled from another one."""
    if info.origin is not None and info.origin.state is OriginState.COPYING:
        raise FailedPrecondition(
            "REINDEX_CONFLICT",
            f"{info.name!r} is being filled from {info.origin.source!r}; write to that one until "
            "ReindexCollection is done",
            field="collection",
        )


def items_of(drafts: Iterable[Draft]) -> dict[str, Item]:
    """Return drafts as items of another space, by id: without vectors. Storing uses drafts up."""
    return {
        draft.row.id: Item(draft.row.id, draft.content, fields=draft.row.fields) for draft in drafts
    }


def refused(info: CollectionInfo, items: Mapping[str, Item]) -> dict[str, SentinelError]:
    """Return why items cannot be written while `info` is mirrored, by id: bare vectors."""
    if info.reindex is None or not info.reindex.mirrored:
        return {}
    return {
        item_id: bare(info.reindex.target) for item_id, item in items.items() if not item.content
    }


def bare(target: str) -> SentinelError:
    """Return the error of a bare vector that a space of another model cannot take."""
    return FailedPrecondition(
        "REINDEX_CONFLICT",
        f"the collection is about to become {target!r}, whose model cannot take over a bare "
        "vector; send its content, or wait until ReindexCollection is done",
    )
