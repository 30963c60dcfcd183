"""The thumbnails that were shown last, in memory."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Sequence

from sentinel_client import AsyncSentinelClient, SentinelError

_MAX_THUMBNAIL_BYTES = 64 * 2**20
# Browsers ask for those of a page one by one, within a few milliseconds.
_GATHER_S = 0.004
_MAX_IDS = 200
_MAX_ID_BYTES = 256


class Thumbnails:
    """The thumbnails that were shown last. Requests for others are gathered into few calls."""

    def __init__(self, client: AsyncSentinelClient) -> None:
        self._client = client
        self._kept: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._bytes = 0
        self._wanted: dict[str, dict[str, asyncio.Future[bytes]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def keep(self, collection: str, item_id: str, thumbnail: bytes) -> str:
        """Keep a thumbnail for the page that will ask for it; return its version, or ""."""
        if not thumbnail:
            return ""
        key = (collection, item_id)
        self._bytes += len(thumbnail) - len(self._kept.pop(key, b""))
        self._kept[key] = thumbnail
        while self._bytes > _MAX_THUMBNAIL_BYTES:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= len(oldest)
        return hashlib.sha256(thumbnail).hexdigest()[:16]

    def forget(self, collection: str, ids: Sequence[str]) -> None:
        """Keep these thumbnails no longer: their items are deleted."""
        for item_id in ids:
            self._bytes -= len(self._kept.pop((collection, item_id), b""))

    async def get(self, collection: str, item_id: str) -> bytes:
        """Return the thumbnail of an item; empty if there is none."""
        if not 0 < len(item_id.encode()) <= _MAX_ID_BYTES:
            return b""  # or the gateway refused those of its neighbours, too
        kept = self._kept.get((collection, item_id))
        if kept is not None:
            return kept
        wanted = self._wanted.setdefault(collection, {})
        if item_id not in wanted:
            wanted[item_id] = asyncio.get_running_loop().create_future()
            if len(wanted) == 1:
                task = asyncio.create_task(self._fetch(collection))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(wanted[item_id])

    async def _fetch(self, collection: str) -> None:
        await asyncio.sleep(_GATHER_S)
        wanted = self._wanted.pop(collection)
        found: dict[str, bytes] = {}
        error: SentinelError | None = None
        ids = list(wanted)
        try:
            for start in range(0, len(ids), _MAX_IDS):
                items = await self._client.get_items(
                    ids[start : start + _MAX_IDS], collection=collection, include_thumbnails=True
                )
                found |= {item.id: item.thumbnail for item in items}
        except SentinelError as failed:
            error = failed
        for item_id, future in wanted.items():
            if error is not None and item_id not in found:
                future.set_exception(error)
                future.exception()  # if nobody waits any more
                continue
            self.keep(collection, item_id, found.get(item_id, b""))
            future.set_result(found.get(item_id, b""))
