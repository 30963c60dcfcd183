"""Use case: a collection changes its model without stopping.

Checks what is asked for, finds or makes the target, and lets one call at a time work on a source;
the work itself is in reindex_job.py. Why it is done this way: docs/adr/0011.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace

from search_server.collections.catalog import Collections
from search_server.collections.reindex_copier import Copier, Progress
from search_server.collections.reindex_run import ReindexJob, conflict
from search_server.embedders.pool import EmbedderPool, matches
from search_server.milvus.search_store import SearchStore
from sentinel_core.calls import Deadline
from sentinel_core.errors import AlreadyExists, FailedPrecondition, NotFound, first_error
from sentinel_store.collections import CollectionInfo, Origin, OriginState, check_collection_name
from sentinel_store.images.image_store import ObjectStore
from sentinel_store.values import ModelRef


@dataclass(frozen=True, slots=True)
class Reindexing:
    """What a caller wants: `source` embedded again into `target`, then `alias` pointed at that.

    Attributes:
        source: Name or alias.
        alias: Empty: none is pointed.
        model: Chooses the new model; None: the one that is not the source's.
    """

    source: str
    target: str
    alias: str
    model: ModelRef | None


class Reindexer:
    """Runs reindexings, each of another source. Use from one event loop."""

    def __init__(
        self,
        collections: Collections,
        pool: EmbedderPool,
        store: SearchStore,
        objects: ObjectStore,
        *,
        call_timeout_s: float,
    ) -> None:
        """Remember the parts; `call_timeout_s` bounds each call of one of them."""
        self._collections = collections
        self._pool = pool
        self._store = store
        self._objects = objects
        self._call_timeout_s = call_timeout_s
        self._running: set[str] = set()
        self._gateway = uuid.uuid4().hex

    async def run(self, wanted: Reindexing, progress: Progress) -> None:
        """Do all of it, or what is left of it; after any failure the same call goes on.

        Raises:
            InvalidArgument: A name that is not allowed.
            NotFound: There is no such source.
            AlreadyExists: A collection has the alias's name.
            FailedPrecondition: Another reindexing is in the way, or no worker serves the model.
            Unavailable: Something needed was away for a minute.
        """
        source = await self._collections.get_now(wanted.source, self._deadline())
        if source.name in self._running:
            raise conflict(f"another call is reindexing {source.name!r} just now", "source")
        self._running.add(source.name)
        try:
            await self._run(source, wanted, progress)
        except BaseExceptionGroup as group:
            raise first_error(group) from None
        finally:
            self._running.discard(source.name)

    async def _run(self, source: CollectionInfo, wanted: Reindexing, progress: Progress) -> None:
        await self._check(source, wanted)
        target = await self._target(source, wanted)
        if target.origin == Origin(source.name, OriginState.COMPLETE):
            await self._report(target, wanted, progress)
            return
        copier = Copier(
            source,
            target,
            store=self._store,
            objects=self._objects,
            pool=self._pool,
            call_timeout_s=self._call_timeout_s,
            progress=progress,
        )
        job = ReindexJob(
            source,
            target,
            wanted.alias,
            copier=copier,
            collections=self._collections,
            store=self._store,
            progress=progress,
            gateway=self._gateway,
        )
        await job.run()

    async def _check(self, source: CollectionInfo, wanted: Reindexing) -> None:
        """Refuse at once what could not be ended after hours."""
        deadline = self._deadline()
        check_collection_name(wanted.target, "target")
        if wanted.alias:
            check_collection_name(wanted.alias, "alias")
            now = await self._store.aliases.resolve(wanted.alias, deadline)
            if wanted.alias in (wanted.target, now):
                raise AlreadyExists(
                    "COLLECTION_EXISTS",
                    f"{wanted.alias!r} is the name of a collection; an alias needs one of its own",
                    field="alias",
                    collection=wanted.alias,
                )
        mark = source.reindex
        if mark is None or mark.target == wanted.target:
            return
        other = await self._collections.find(mark.target, deadline)
        if other and other.origin and other.origin.source == source.name:
            raise conflict(
                f"{source.name!r} is being embedded again into {mark.target!r}; go on with that, "
                "or delete it first",
                "target",
            )

    async def _target(self, source: CollectionInfo, wanted: Reindexing) -> CollectionInfo:
        deadline = self._deadline()
        try:
            found = await self._collections.get_now(wanted.target, deadline)
        except NotFound:
            return await self._made(source, wanted, deadline)
        if found.name != wanted.target:
            raise FailedPrecondition(
                "COLLECTION_ALIASED",
                f"{wanted.target!r} is an alias of {found.name!r}; the target needs its own name",
                field="target",
                collection=found.name,
            )
        ours = found.origin is not None and found.origin.source == source.name
        if not ours or (wanted.model and not matches(found.model, wanted.model)):
            raise conflict(
                f"collection {wanted.target!r} is there and was not made of {source.name!r} with "
                "this model; use another name, or delete it first",
                "target",
            )
        if await self._store.is_whole(found.name, deadline):
            return found
        await self._store.drop_collection(found.name, deadline)  # has nothing in it yet
        return await self._made(source, wanted, deadline)

    async def _made(
        self, source: CollectionInfo, wanted: Reindexing, deadline: Deadline
    ) -> CollectionInfo:
        model, dimensions = self._pool.model_besides(source.model.fingerprint, wanted.model)
        target = replace(
            source,
            name=wanted.target,
            asked=wanted.target,
            model=model,
            dimensions=dimensions,
            origin=Origin(source.name, OriginState.COPYING),
            reindex=None,
        )
        await self._store.create_collection(target, deadline)
        return target

    async def _report(self, target: CollectionInfo, wanted: Reindexing, progress: Progress) -> None:
        """Answer a call for what was done long ago."""
        if wanted.alias:
            now = await self._store.aliases.resolve(wanted.alias, self._deadline())
            if now != target.name:
                raise conflict(
                    f"{target.name!r} was completed without {wanted.alias!r} pointing at it, and "
                    "has not followed its source since; use SetAlias if that is right",
                    "alias",
                )
            progress.alias_swapped = True
        progress.done = progress.total = await self._collections.count(target, self._deadline())

    def _deadline(self) -> Deadline:
        return Deadline.after(None, default_s=self._call_timeout_s)
