"""The connection of the page's server, its caches, and deletions that can be undone."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from starlette.requests import Request

from sentinel_app.bounded_folder import BoundedFolder
from sentinel_app.decoders import Decoders
from sentinel_app.thumbnails import Thumbnails
from sentinel_app.trash import Trash
from sentinel_app.upload_budget import UploadBudget
from sentinel_app.web import Slots
from sentinel_client import AsyncSentinelClient, Caller, Collection, Grant, Scope, SentinelError

_MAX_PICTURE_BYTES = 2**30
_MAX_QUERY_IMAGE_BYTES = 512 * 2**20
_PATIENCE_S = 5.0
_FRESH_S = 10.0
_MAX_COLLECTIONS = 1_000
# Of gateways that are too old to tell: nothing is left out of the page, and they refuse themselves.
_UNKNOWN = Caller("", "", tuple(Grant(scope) for scope in Scope), access_controlled=False)


class Library:
    """One per process, on one event loop. Use it as an asynchronous context manager.

    Attributes:
        client: The connection to the gateway, with the page's key. Its owner closes it.
        read_only: Whether the page neither adds nor deletes.
        larger: Copies of stored images, larger than thumbnails, on disk.
        query_images: Images that people search with, by the SHA-256 of their bytes, on disk.
        decoders: Processes that decode images.
        thumbnails: Recently shown thumbnails.
        trash: Deletions that can still be undone.
        uploads: Memory for uploads.
        searches: Bounds the searches and lists that run at once.
    """

    def __init__(
        self, client: AsyncSentinelClient, cache: Path, *, read_only: bool = False
    ) -> None:
        self.client = client
        self.read_only = read_only
        self.larger = BoundedFolder(cache / "pictures", _MAX_PICTURE_BYTES)
        self.query_images = BoundedFolder(cache / "query-images", _MAX_QUERY_IMAGE_BYTES)
        self.decoders = Decoders()
        self.thumbnails = Thumbnails(client)
        self.trash = Trash(client, self._forget)
        self.uploads = UploadBudget()
        self.searches = Slots(16, 64)
        self._exit = AsyncExitStack()
        # With the time of the look.
        self._collections: dict[str, tuple[float, Collection]] = {}

    async def __aenter__(self) -> Library:
        await self._exit.enter_async_context(self.decoders)
        await self._exit.enter_async_context(self.trash)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exit.aclose()

    async def caller(self) -> Caller:
        """Return what the gateway allows this page."""
        try:
            return await self.client.get_caller(timeout=_PATIENCE_S)
        except SentinelError as error:
            if error.code.name != "UNIMPLEMENTED":
                raise
            return _UNKNOWN

    async def collection(self, name: str) -> Collection:
        """Return a collection as it was some seconds ago at most."""
        now = time.monotonic()
        seen, found = self._collections.get(name, (0.0, None))
        if found is None or now - seen > _FRESH_S:
            found = await self.client.get_collection(name, timeout=_PATIENCE_S)
            if len(self._collections) > _MAX_COLLECTIONS:
                self._collections.clear()
            self._collections[name] = (now, found)
        return found

    def copies_of(self, collection: str, item_id: str) -> str:
        """Return how the names of an item's files in `larger` begin."""
        # The folder outlives the page, which may show another library the next time.
        whole = "\0".join((self.client.address, collection, item_id))
        return hashlib.sha256(whole.encode("utf-8", "replace")).hexdigest()[:32]

    async def _forget(self, collection: str, ids: Sequence[str]) -> None:
        """Remove what the page keeps of deleted items."""
        self.thumbnails.forget(collection, ids)
        copies = {self.copies_of(collection, one) for one in ids}
        await asyncio.to_thread(self.larger.remove, copies)


def library_of(request: Request) -> Library:
    """Return the library that serves a request."""
    library: Library = request.app.state.library
    return library
