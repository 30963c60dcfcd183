"""Deletions that can be undone.

An item that a person deletes is hidden by this server and deleted some seconds later. Until then
nothing is lost: undoing shows it again. When the server ends, it deletes at once what is still
hidden. If it is killed, these items stay stored.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace

from sentinel_client import AsyncSentinelClient, DeadlineExceeded, NotFound, SentinelError

UNDO_SECONDS = 12.0
_RETRY_SECONDS = 5.0
_MAX_HIDDEN = 10_000
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Deletion:
    collection: str
    ids: frozenset[str]
    due: float


class Trash:
    """Hidden items. For one event loop; entering it starts a task, and leaving it deletes all."""

    def __init__(
        self,
        client: AsyncSentinelClient,
        forget: Callable[[str, Sequence[str]], Awaitable[None]] | None = None,
        undo_seconds: float = UNDO_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.undo_seconds = undo_seconds
        self._client = client
        self._forget = forget  # gets a collection and the ids of deleted items
        self._clock = clock
        self._deletions: dict[str, _Deletion] = {}
        self._running: set[str] = set()  # tokens that cannot be undone any more
        self._adding = 0
        self._none_adding = asyncio.Event()
        self._none_adding.set()
        self._deleting = asyncio.Lock()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Trash:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        for token in list(self._deletions):
            try:
                await self._delete(token)
            except Exception as error:  # the others are deleted all the same
                _log.warning("an item was not deleted: %s", error)

    def hide(self, collection: str, ids: Sequence[str]) -> str:
        """Hide items and delete them later; return the token that undoes it.

        Raises OverflowError if too many items are hidden: the gateway does not delete them.
        """
        if sum(len(one.ids) for one in self._deletions.values()) + len(ids) > _MAX_HIDDEN:
            raise OverflowError
        token = secrets.token_urlsafe(16)
        due = self._clock() + self.undo_seconds
        self._deletions[token] = _Deletion(collection, frozenset(ids), due)
        self._changed.set()
        return token

    def undo(self, token: str) -> bool:
        """Show hidden items again; return False if they were deleted in the meantime."""
        return token not in self._running and self._deletions.pop(token, None) is not None

    @asynccontextmanager
    async def adding(self) -> AsyncIterator[None]:
        """Delete nothing during the block, which adds items and says to `keep` them."""
        async with self._deleting:
            self._adding += 1
            self._none_adding.clear()
        try:
            yield
        finally:
            self._adding -= 1
            if not self._adding:
                self._none_adding.set()

    def keep(self, collection: str, item_id: str) -> None:
        """Do not delete an item, because it was added again."""
        for token, one in self._deletions.items():
            if one.collection == collection and item_id in one.ids:
                self._deletions[token] = replace(one, ids=one.ids - {item_id})

    def hidden(self, collection: str) -> set[str]:
        """Return the ids of a collection's hidden items."""
        found = (one.ids for one in self._deletions.values() if one.collection == collection)
        return set().union(*found)

    async def _run(self) -> None:
        while True:
            self._changed.clear()
            due = min((one.due for one in self._deletions.values()), default=None)
            wait = None if due is None else max(0.0, due - self._clock())
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), wait)
            ended = [token for token, one in self._deletions.items() if one.due <= self._clock()]
            for token in ended:
                await self._delete_or_show(token)

    async def _delete_or_show(self, token: str) -> None:
        try:
            await self._delete(token)
        except Exception as error:  # or nothing would be deleted any more
            _log.warning("an item was not deleted: %s", error)
            temporary = isinstance(error, SentinelError) and error.retryable
            if temporary or isinstance(error, DeadlineExceeded):
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                self._deletions.pop(token, None)  # it is shown again

    async def _delete(self, token: str) -> None:
        async with self._deleting:
            await self._none_adding.wait()
            await self._delete_now(token)

    async def _delete_now(self, token: str) -> None:
        deletion = self._deletions.get(token)
        if deletion is None or not deletion.ids:  # undone, or added again
            self._deletions.pop(token, None)
            return
        self._running.add(token)
        try:
            ids = sorted(deletion.ids)
            with suppress(NotFound):  # the collection is gone
                await self._client.delete_items(ids, collection=deletion.collection)
            if self._forget is not None:
                await self._forget(deletion.collection, ids)
            self._deletions.pop(token, None)
        finally:
            self._running.discard(token)
