"""One run of a reindexing, from wherever the last one got to.

    1  copy       walks bring the source's items over; writers write the source alone
    2  mirror     the source is marked, and `SETTLE_S` later every gateway knows: from then on a
                  write is acknowledged only once it is in both
    3  verify     walks until one finds nothing to do; the two are the same now and stay so
    4  swap       the alias is pointed at the target
    5  finish     `SETTLE_S` later nobody goes by the alias's old meaning; the mark is cleared, and
                  `SETTLE_S` later no write to the source reaches the target

All that another run needs to go on lies in Milvus: the target's origin says how far it is, the
source's mark who is at it, and walks find by themselves what is left to do.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from contextlib import suppress
from dataclasses import replace

from search_server.collections.catalog import CACHE_S, Collections
from search_server.collections.reindex_copier import Copier, Progress
from search_server.milvus.search_store import SearchStore
from sentinel_core.calls import Deadline
from sentinel_core.errors import FailedPrecondition, SentinelError
from sentinel_store.collections import CollectionInfo, Origin, OriginState, ReindexMark

logger = logging.getLogger(__name__)

# After it every gateway knows what was changed: their caches, and room for a slow answer.
SETTLE_S = CACHE_S + 0.5
# So few differences that the walk beside mirrored writes is not much more than the comparison.
_FEW = 1_000
_MOST_WALKS = 5
_CALL_TIMEOUT_S = 30.0
# Each of the three calls that swap an alias; together less than a run waits that takes over.
_SWAP_TIMEOUT_S = 2.0
_TAKE_OVER_S = 8.0

# Ends of runs that nobody waits for any more; held, since the loop itself would forget them.
_finishing: set[asyncio.Task[None]] = set()


class ReindexJob:
    """Used once, inside one event loop, by the only call that works on this source here."""

    def __init__(
        self,
        source: CollectionInfo,
        target: CollectionInfo,
        alias: str,
        *,
        copier: Copier,
        collections: Collections,
        store: SearchStore,
        progress: Progress,
        gateway: str,
    ) -> None:
        """Remember what to do; `gateway` is the name of this process in marks."""
        self._source = source
        self._target = target
        self._alias = alias
        self._copier = copier
        self._collections = collections
        self._store = store
        self._progress = progress
        self._gateway = gateway
        self._mark = ReindexMark(target.name, f"{gateway}/{uuid.uuid4().hex}", mirrored=False)

    async def run(self) -> None:
        """Go through what is left of the five steps.

        Raises:
            FailedPrecondition: Another run took over, or an alias already points at the target.
            NotFound: The source or the target was deleted.
            SentinelError: Something needed is away.
        """
        await self._take_over()
        if not await self._is_swapped():
            await self._set_state(OriginState.COPYING)
            try:
                await self._copy_and_verify()
                await self._swap()
            except BaseException:
                await self._stop_mirroring()
                raise
        else:
            total = await self._store.count(self._target, "", _deadline())
            self._progress.done = self._progress.total = total
        self._progress.alias_swapped = bool(self._alias)
        # To its end even if the caller leaves: the alias has moved, writers must follow.
        finishing = asyncio.create_task(self._finish())
        _finishing.add(finishing)
        finishing.add_done_callback(_finishing.discard)
        finishing.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.shield(finishing)

    async def _take_over(self) -> None:
        """Become the one run that works on the source, whichever gateway had one before."""
        before = self._source.reindex
        mirrored = before is not None and before.mirrored
        await self._set_mark(replace(self._mark, mirrored=mirrored))
        others = before is not None and not before.runner.startswith(f"{self._gateway}/")
        if others and not self._store.is_lite:  # which has one gateway at a time
            # It may be alive, and past its last look at the mark: let it end its swap.
            await asyncio.sleep(_TAKE_OVER_S)
            self._target = await self._collections.get_now(self._target.name, _deadline())

    async def _is_swapped(self) -> bool:
        """Tell whether an earlier run got as far as the swap, so that the target leads now."""
        aliases = await self._store.aliases.of(self._target.name, _deadline())
        if not aliases:
            return False
        origin = self._target.origin
        if origin and origin.state is not OriginState.COPYING and self._alias in aliases:
            return True
        raise conflict(
            f"{', '.join(aliases)} points at {self._target.name!r}, which is not complete; point "
            "it back at the source first",
            "alias",
        )

    async def _copy_and_verify(self) -> None:
        if self._mark.mirrored:  # by a run that was cut short
            await self._set_mark(replace(self._mark, mirrored=False))
        for _ in range(_MOST_WALKS):
            if await self._copier.walk(self._check_mark) <= _FEW:
                break
        await self._set_mark(replace(self._mark, mirrored=True))
        await asyncio.sleep(SETTLE_S)
        for _ in range(_MOST_WALKS):
            if await self._copier.walk(self._check_mark, mirrored=True) == 0:
                break  # else only writers in the middle of their two writes

    async def _swap(self) -> None:
        await self._set_state(OriginState.VERIFIED)
        await self._check_mark()
        if self._alias:
            deadline = Deadline.after(None, default_s=_SWAP_TIMEOUT_S)
            await self._store.aliases.point(self._alias, self._target.name, deadline)
            self._collections.forget(self._source.name)

    async def _finish(self) -> None:
        if self._alias:
            await asyncio.sleep(SETTLE_S)
        await self._set_mark(None)
        await asyncio.sleep(SETTLE_S)
        await self._set_state(OriginState.COMPLETE)

    async def _check_mark(self) -> None:
        """Raise FailedPrecondition if this run is not the one that works on the source."""
        now = await self._collections.get_now(self._source.name, _deadline())
        if now.reindex != self._mark:
            raise conflict(f"another call has taken over reindexing {now.name!r}", "source")

    async def _stop_mirroring(self) -> None:
        """Let writers write the source alone again; if it cannot be said, they go on as they do."""
        if self._mark.mirrored:
            with suppress(SentinelError):
                await self._check_mark()
                await self._set_mark(replace(self._mark, mirrored=False))

    async def _set_mark(self, mark: ReindexMark | None) -> None:
        await self._store.properties.set_reindex(self._source.name, mark, _deadline())
        self._collections.forget(self._source.name)
        if mark is not None:
            self._mark = mark

    async def _set_state(self, state: OriginState) -> None:
        origin = Origin(self._source.name, state)
        await self._store.properties.set_origin(self._target.name, origin, _deadline())
        self._collections.forget(self._target.name)
        logger.info("reindex", extra={"target": self._target.name, "state": str(state)})


def conflict(message: str, field: str) -> FailedPrecondition:
    """Return the error of a reindexing that another one, or its own end, is in the way of."""
    return FailedPrecondition("REINDEX_CONFLICT", message, field=field)


def _deadline() -> Deadline:
    return Deadline.after(None, default_s=_CALL_TIMEOUT_S)
