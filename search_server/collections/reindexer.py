"""Reindex: move a collection to other vectors or more fields, without stopping searches or writes.

The vectors are another model's, of another length, or held in another way; or they are copied.

Checks the request, finds or creates the target, and lets one call at a time work on a source. The
work itself is in `reindex_run.py`. Why it is done this way: docs/adr/0011.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field, replace

from search_server.collections.catalog import Catalog, checked_dimensions
from search_server.collections.reindex_copier import ReindexCopier, ReindexProgress
from search_server.collections.reindex_run import ReindexRun, reindex_conflict
from search_server.embedders.pool import EmbedderPool, matches
from search_server.embedders.worker import ServedModel
from search_server.image_uris.originals import Originals
from search_server.milvus.search_store import SearchStore
from sentinel_core.calls import Deadline
from sentinel_core.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    first_error,
)
from sentinel_store.collections import (
    CollectionInfo,
    NewFields,
    Origin,
    OriginState,
    VectorStorage,
    check_collection_name,
    check_fields,
    columns_for,
)
from sentinel_store.images.image_store import ImageStore
from sentinel_store.milvus import indexes
from sentinel_store.values import ModelRef


@dataclass(frozen=True, slots=True)
class ReindexRequest:
    """Embed the items of `source` again into `target`, then point `alias` at the target.

    Attributes:
        source: Name or alias.
        alias: Empty: point no alias. The source's own name: the source moves to the target.
        model: Chooses the new model. None: the source's own if the vectors change otherwise, or
            the only served model that is not the source's.
        dimensions: Length of the new vectors; 0: the source's for its model, or the new model's.
        storage: How Milvus holds them; None: as the source's.
        added: Fields that the target has beside the source's.
    """

    source: str
    target: str
    alias: str
    model: ModelRef | None
    dimensions: int = 0
    storage: VectorStorage | None = None
    added: NewFields = field(default_factory=NewFields)

    @property
    def only_adds_fields(self) -> bool:
        """Whether nothing changes about the vectors."""
        changes = self.model is not None or self.dimensions or self.storage is not None
        return bool(self.added.types) and not changes

    def fits(self, target: CollectionInfo, source: CollectionInfo) -> bool:
        """Tell whether `target` was made for this request."""
        if self.model is not None:
            is_model = matches(target.model, self.model)
        else:
            keeps_model = target.model.fingerprint == source.model.fingerprint
            changes_else = self.dimensions or self.storage is not None or self.added.types
            is_model = keeps_model == bool(changes_else)
        return (
            is_model
            and self.dimensions in (0, target.dimensions)
            and target.storage == (self.storage or source.storage)
            and target.fields == source.fields | self.added.types
        )


class Reindexer:
    """Runs reindexes, one per source. Use from one event loop."""

    def __init__(
        self,
        catalog: Catalog,
        pool: EmbedderPool,
        store: SearchStore,
        images: ImageStore,
        originals: Originals,
        *,
        call_timeout_s: float,
    ) -> None:
        """Keep the collaborators; `call_timeout_s` limits each call to one of them."""
        self._catalog = catalog
        self._pool = pool
        self._store = store
        self._images = images
        self._originals = originals
        self._call_timeout_s = call_timeout_s
        self._running: set[str] = set()
        self._gateway = uuid.uuid4().hex

    async def run(self, request: ReindexRequest, progress: ReindexProgress) -> None:
        """Run the reindex. After a failure, repeat the call to continue.

        Raises:
            InvalidArgument: A name is invalid, or the source declares an added field, or has too
                many fields for it.
            NotFound: The source does not exist, or many originals are gone.
            AlreadyExists: A collection has the alias's name.
            FailedPrecondition: Another reindex is in the way, or no worker serves the model.
            Unavailable: A service that it needs was unavailable for a minute.
        """
        source = await self._source(request)
        if source.name in self._running:
            raise reindex_conflict(f"another call is reindexing {source.name!r}", "source")
        self._running.add(source.name)
        try:
            await self._run(source, request, progress)
        except BaseExceptionGroup as group:
            raise first_error(group) from None
        finally:
            self._running.discard(source.name)

    async def _run(
        self, source: CollectionInfo, request: ReindexRequest, progress: ReindexProgress
    ) -> None:
        await self._check(source, request)
        target = await self._target(source, request)
        if target.origin == Origin(source.name, OriginState.COMPLETE):
            await self._report_complete(target, request, progress)
            return
        copier = ReindexCopier(
            source,
            target,
            store=self._store,
            images=self._images,
            originals=self._originals,
            pool=self._pool,
            call_timeout_s=self._call_timeout_s,
            progress=progress,
        )
        run = ReindexRun(
            source,
            target,
            request.alias,
            copier=copier,
            catalog=self._catalog,
            store=self._store,
            progress=progress,
            gateway=self._gateway,
        )
        await run.run()

    async def _source(self, request: ReindexRequest) -> CollectionInfo:
        found = await self._catalog.get_fresh(request.source, self._deadline())
        if found.name != request.target or request.source == found.name or found.origin is None:
            return found
        # An earlier call has pointed the name at the target already.
        source = await self._catalog.find_own(found.origin.source, self._deadline())
        return found if source is None else source

    async def _check(self, source: CollectionInfo, request: ReindexRequest) -> None:
        """Refuse at once what could otherwise fail after hours."""
        deadline = self._deadline()
        check_collection_name(request.target, "target")
        if request.alias:
            check_collection_name(request.alias, "alias")
            current = await self._store.aliases.resolve(request.alias, deadline)
            taken = request.alias == current != source.name
            if taken or request.alias == request.target:
                raise AlreadyExists(
                    "COLLECTION_EXISTS",
                    f"{request.alias!r} is the name of a collection; an alias needs one of its own",
                    field="alias",
                    collection=request.alias,
                )
        self._check_added(source, request.added)
        mark = source.reindex
        if mark is None or mark.target == request.target:
            return
        other = await self._catalog.find(mark.target, deadline)
        if other and other.origin and other.origin.source == source.name:
            raise reindex_conflict(
                f"{source.name!r} is being reindexed into {mark.target!r}; continue with that "
                "one, or delete it first",
                "target",
            )

    def _check_added(self, source: CollectionInfo, added: NewFields) -> None:
        check_fields(added.types, "added_fields", others=columns_for(source.fields))
        for index, name in enumerate(added.types):
            if name in source.fields:
                raise InvalidArgument(
                    "PARAMETER_OUT_OF_RANGE",
                    f"{source.name!r} declares field {name!r} already, as a {source.fields[name]}; "
                    "leave it out, or use another name",
                    field=f"added_fields[{index}].name",
                )

    async def _target(self, source: CollectionInfo, request: ReindexRequest) -> CollectionInfo:
        """Return the target of an earlier call for the same reindex, or create a new one."""
        deadline = self._deadline()
        try:
            found = await self._catalog.get_fresh(request.target, deadline)
        except NotFound:
            return await self._create_target(source, request, deadline)
        if found.name != request.target:
            raise FailedPrecondition(
                "COLLECTION_ALIASED",
                f"{request.target!r} is an alias of {found.name!r}; the target needs its own name",
                field="target",
                collection=found.name,
            )
        ours = found.origin is not None and found.origin.source == source.name
        if not ours or not request.fits(found, source):
            raise reindex_conflict(
                f"collection {request.target!r} exists and was not made from {source.name!r} with "
                "this model, dimensions, storage and fields; use another name, or delete it first",
                "target",
            )
        if await self._store.is_complete(found.name, deadline):
            return found
        await self._store.drop_collection(found.name, deadline)  # it has no items yet
        return await self._create_target(source, request, deadline)

    async def _create_target(
        self, source: CollectionInfo, request: ReindexRequest, deadline: Deadline
    ) -> CollectionInfo:
        changed = source if request.only_adds_fields else self._with_vectors(source, request)
        target = replace(
            changed,
            name=request.target,
            requested_name=request.target,
            fields=source.fields | request.added.types,
            indexed=source.indexed + request.added.indexed,
            full_text=source.full_text + request.added.full_text,
            origin=Origin(source.name, OriginState.COPYING),
            reindex=None,
            moved_to="",
        )
        await self._catalog.add(target, deadline)
        return target

    def _with_vectors(self, source: CollectionInfo, request: ReindexRequest) -> CollectionInfo:
        """Return the source with the vectors that the target shall have."""
        served = self._new_model(source, request)
        wanted = request.dimensions
        if not wanted and served.model.fingerprint == source.model.fingerprint:
            wanted = source.dimensions
        dimensions = checked_dimensions(served, wanted, "dimensions")
        storage, index = source.storage, source.index
        if request.storage not in (None, storage):
            storage = request.storage
            index = indexes.choose_index(
                None,
                source.expected_item_count,
                is_lite=self._store.is_lite,
                storage=storage,
            )
        return replace(
            source,
            model=served.model,
            dimensions=dimensions,
            shortened=dimensions != served.dimensions,
            storage=storage,
            index=index,
        )

    def _new_model(self, source: CollectionInfo, request: ReindexRequest) -> ServedModel:
        fingerprint = source.model.fingerprint
        if not request.dimensions and request.storage is None:
            return self._pool.model_besides(fingerprint, request.model)
        return self._pool.model(request.model or ModelRef("", "", fingerprint))

    async def _report_complete(
        self, target: CollectionInfo, request: ReindexRequest, progress: ReindexProgress
    ) -> None:
        """Answer a call for a reindex that was completed before."""
        if request.alias:
            current = await self._store.aliases.resolve(request.alias, self._deadline())
            if current != target.name:
                raise reindex_conflict(
                    f"{target.name!r} was completed without {request.alias!r} pointing at it, and "
                    "has not received its source's writes since; use SetAlias if that is right",
                    "alias",
                )
            progress.alias_swapped = True
        progress.done = progress.total = await self._store.count(target, "", self._deadline())

    def _deadline(self) -> Deadline:
        return Deadline.within(self._call_timeout_s)
