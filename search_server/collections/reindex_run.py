"""One run of a reindex, from wherever an earlier run ended.

    1  copy        copy the source's items to the target; writers write to the source only
    2  dual write  mark the source; after `SETTLE_S` every gateway knows the mark and acknowledges
                   a write only once it is in both collections
    3  verify      compare until nothing differs; from then on the two stay equal
    4  swap        point the alias at the target; writes by the alias still reach both collections,
                   since other gateways may read by its old meaning. The alias may be the source's
                   own name: then the source moves
    5  finish      after `SETTLE_S` nobody uses the alias's old meaning: clear the mark; another
                   `SETTLE_S` later no write to the source reaches the target

Milvus holds everything that another run needs to continue: the target's origin says how far it
is, the source's mark names the run that works on it, and a comparison finds the rest of the work.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from contextlib import suppress
from dataclasses import replace

from search_server.collections.catalog import CACHE_S, Catalog
from search_server.collections.reindex_copier import ReindexCopier, ReindexProgress
from search_server.milvus.search_store import SearchStore
from sentinel_core.calls import Deadline
from sentinel_core.errors import FailedPrecondition, NotFound, SentinelError
from sentinel_store.collections import CollectionInfo, Origin, OriginState, ReindexMark

logger = logging.getLogger(__name__)

# After this time every gateway knows a change: their caches, and a margin for a slow answer.
SETTLE_S = CACHE_S + 0.5
# With so few differences, a pass during dual writes costs little more than the comparison.
_FEW = 1_000
_MAX_PASSES = 5
# So many originals may be gone for good.
_FEW_GONE = 10
_CALL_TIMEOUT_S = 30.0
# Each of the three calls that swap an alias; together shorter than `_TAKE_OVER_S`.
_SWAP_TIMEOUT_S = 2.0
_TAKE_OVER_S = 8.0

# The last steps of runs whose callers have left; the event loop alone would not keep them alive.
_finishing: set[asyncio.Task[None]] = set()


class ReindexRun:
    """Use it once, inside one event loop; this gateway has one run per source at a time."""

    def __init__(
        self,
        source: CollectionInfo,
        target: CollectionInfo,
        alias: str,
        *,
        copier: ReindexCopier,
        catalog: Catalog,
        store: SearchStore,
        progress: ReindexProgress,
        gateway: str,
    ) -> None:
        """Keep what to do; `gateway` names this process in marks."""
        self._source = source
        self._target = target
        self._alias = alias
        self._copier = copier
        self._catalog = catalog
        self._store = store
        self._progress = progress
        self._gateway = gateway
        self._mark = ReindexMark(target.name, f"{gateway}/{uuid.uuid4().hex}", dual_write=False)

    async def run(self) -> None:
        """Do the steps that are left.

        Raises:
            FailedPrecondition: Another run took over, or an alias already points at the target.
            NotFound: So many originals are gone that the alias was not swapped.
        """
        await self._take_over()
        if not await self._is_swapped():
            await self._set_state(OriginState.COPYING)
            try:
                await self._copy_and_verify()
                await self._swap()
            except BaseException:
                await self._stop_dual_write()
                raise
        else:
            total = await self._store.count(self._target, "", _deadline())
            self._progress.done = self._progress.total = total
        self._progress.alias_swapped = bool(self._alias)
        # Finish even if the caller leaves: the alias has moved, so writers must follow.
        finishing = asyncio.create_task(self._finish())
        _finishing.add(finishing)
        finishing.add_done_callback(_finishing.discard)
        finishing.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.shield(finishing)

    async def _take_over(self) -> None:
        """Mark this run as the one that works on the source, whichever gateway had it before."""
        before = self._source.reindex
        dual_write = before is not None and before.dual_write
        await self._set_mark(replace(self._mark, dual_write=dual_write))
        others = before is not None and not before.runner.startswith(f"{self._gateway}/")
        if others and not self._store.is_lite:  # Lite has one gateway at a time
            # The other run may be alive and past its last check of the mark: let its swap end.
            await asyncio.sleep(_TAKE_OVER_S)
            self._target = await self._catalog.get_fresh(self._target.name, _deadline())

    async def _is_swapped(self) -> bool:
        """Tell whether an earlier run swapped the alias, so that callers use the target now."""
        aliases = (await self._store.aliases.of(self._target.name, _deadline())).all
        if not aliases:
            return False
        origin = self._target.origin
        if origin and origin.state is not OriginState.COPYING and self._alias in aliases:
            return True
        raise reindex_conflict(
            f"{', '.join(aliases)} points at {self._target.name!r}, which is not complete; point "
            "it back at the source first",
            "alias",
        )

    async def _copy_and_verify(self) -> None:
        if self._mark.dual_write:  # an interrupted run left it on
            await self._set_mark(replace(self._mark, dual_write=False))
        for _ in range(_MAX_PASSES):
            if await self._copier.copy_differences(self._check_mark) <= _FEW:
                break
        await self._set_mark(replace(self._mark, dual_write=True))
        await asyncio.sleep(SETTLE_S)
        for _ in range(_MAX_PASSES):
            if await self._copier.copy_differences(self._check_mark, dual_write=True) == 0:
                break  # remaining differences are dual writes in progress

    def _check_originals(self) -> None:
        """Raise NotFound before an alias loses many items whose disk may only be away."""
        progress = self._progress
        if self._alias and progress.gone > max(_FEW_GONE, progress.total // 10):
            raise NotFound(
                "ORIGINAL_GONE",
                f"the originals of {progress.gone} of {progress.total} items are gone; is their "
                f"disk mounted? {self._alias!r} means {self._source.name!r} as before. Mount it "
                "and send the same request again, or delete those items first",
            )

    async def _swap(self) -> None:
        self._check_originals()
        await self._set_state(OriginState.VERIFIED)
        await self._check_mark()
        if self._alias:
            deadline = Deadline.within(_SWAP_TIMEOUT_S)
            may_move = self._alias == self._source.name
            await self._store.aliases.point(
                self._alias, self._target.name, deadline, may_move=may_move
            )
            self._catalog.forget(self._source.name)

    async def _finish(self) -> None:
        if self._alias:
            await asyncio.sleep(SETTLE_S)
        await self._set_mark(None)
        await asyncio.sleep(SETTLE_S)
        await self._set_state(OriginState.COMPLETE)

    async def _check_mark(self) -> None:
        """Raise FailedPrecondition if another run has taken over the source."""
        now = await self._catalog.get_own(self._source.name, _deadline())
        if now.reindex != self._mark:
            raise reindex_conflict(f"another call has taken over reindexing {now.name!r}", "source")

    async def _stop_dual_write(self) -> None:
        """Let writers write to the source only again; on an error they keep writing to both."""
        if self._mark.dual_write:
            with suppress(SentinelError):
                await self._check_mark()
                await self._set_mark(replace(self._mark, dual_write=False))

    async def _set_mark(self, mark: ReindexMark | None) -> None:
        await self._store.set_reindex(self._source.name, mark, _deadline())
        self._catalog.forget(self._source.name)
        if mark is not None:
            self._mark = mark

    async def _set_state(self, state: OriginState) -> None:
        origin = Origin(self._source.name, state)
        await self._store.set_origin(self._target.name, origin, _deadline())
        self._catalog.forget(self._target.name)
        logger.info("reindex", extra={"target": self._target.name, "state": str(state)})


def reindex_conflict(message: str, field: str) -> FailedPrecondition:
    """Return the error of a reindex that conflicts with another one or with an earlier result."""
    return FailedPrecondition("REINDEX_CONFLICT", message, field=field)


def _deadline() -> Deadline:
    return Deadline.within(_CALL_TIMEOUT_S)
