"""What a collection of another model takes over of a batch, as a mirror (mirrors.py)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from search_server.drafts import Draft
from search_server.types.collections import CollectionInfo
from search_server.types.items import Item
from sentinel_core.errors import FailedPrecondition, SentinelError


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
