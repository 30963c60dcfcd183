"""CollectionService: convert requests, call the catalog or the reindexer, convert the results."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from functools import partial

from search_server.api import collection_messages
from search_server.api.admission import GatewayAdmission
from search_server.api.common_messages import Context, is_listed, stored_name
from search_server.api.confirmations import Confirmations
from search_server.api.page_tokens import PageTokens, page_size
from search_server.collections.catalog import Catalog
from search_server.collections.reindex_copier import ReindexProgress
from search_server.collections.reindexer import Reindexer
from sentinel.search.v1 import collection_service_pb2 as pb
from sentinel.search.v1 import collection_service_pb2_grpc as pb_grpc
from sentinel_core.calls import Deadline
from sentinel_core.errors import NotFound, Unavailable
from sentinel_core.responses import room_for_rows
from sentinel_store.collections import CollectionInfo, MatchLevels

_DEFAULT_PAGE = 100
_PROGRESS_INTERVAL_S = 1.0
_MAX_PAGE = 1_000
_COLLECTION_BYTES = 8  # tag and length
# The request that a page token of ListCollections is bound to: it has no other parameters.
_LIST_IDENTITY = b"ListCollections"


class CollectionService(pb_grpc.CollectionServiceServicer):
    """Creates, describes, names, reindexes and deletes collections."""

    def __init__(
        self,
        catalog: Catalog,
        reindexer: Reindexer,
        tokens: PageTokens,
        timeout_s: float,
        draining: asyncio.Event,
        *,
        admission: GatewayAdmission,
        confirmations: Confirmations,
        levels_of: Callable[[CollectionInfo], MatchLevels | None],
    ) -> None:
        """Keep the collaborators; setting `draining` ends reindexes, which continue elsewhere."""
        self._catalog = catalog
        self._reindexer = reindexer
        self._levels_of = levels_of
        self._draining = draining
        self._tokens = tokens
        self._confirmations = confirmations
        self._reads = admission.reads
        self._timeout_s = timeout_s

    async def CreateCollection(
        self, request: pb.CreateCollectionRequest, context: Context
    ) -> pb.CreateCollectionResponse:
        new = collection_messages.new_collection_from(request.collection)
        info = await self._catalog.create(new, self._deadline(context))
        return pb.CreateCollectionResponse(
            collection=self._described(info, item_count=0, aliases=())
        )

    async def GetCollection(
        self, request: pb.GetCollectionRequest, context: Context
    ) -> pb.GetCollectionResponse:
        deadline = self._deadline(context)
        with self._reads.admit({"reads": 1}):
            info = await self._catalog.get(stored_name(request.name, "name"), deadline)
            collection = await self._with_counts(info, deadline)
        return pb.GetCollectionResponse(collection=collection)

    async def ListCollections(
        self, request: pb.ListCollectionsRequest, context: Context
    ) -> pb.ListCollectionsResponse:
        size = page_size(request.page_size, _DEFAULT_PAGE, _MAX_PAGE)
        last_name = self._tokens.read(request.page_token, _LIST_IDENTITY).decode()
        deadline = self._deadline(context)
        with self._reads.admit({"reads": 1}):
            infos, more = await self._catalog.list_after(last_name, size, deadline, is_listed)
            response, room = pb.ListCollectionsResponse(), room_for_rows()
            for info in infos:
                with suppress(NotFound):  # somebody has deleted it just now
                    collection = await self._with_counts(info, deadline)
                    room -= collection.ByteSize() + _COLLECTION_BYTES
                    if room < 0 and response.collections:
                        more = True
                        break
                    response.collections.append(collection)
                last_name = info.name
        if more:
            response.next_page_token = self._tokens.make(last_name.encode(), _LIST_IDENTITY)
        return response

    async def DeleteCollection(
        self, request: pb.DeleteCollectionRequest, context: Context
    ) -> pb.DeleteCollectionResponse:
        check = None
        if self._confirmations.may_refuse(request):  # or it need not be counted
            check = partial(self._confirmations.check, request)
        name = stored_name(request.name, "name")
        await self._catalog.delete(name, self._deadline(context), check)
        return pb.DeleteCollectionResponse()

    async def PreviewDeletion(
        self, request: pb.PreviewDeletionRequest, context: Context
    ) -> pb.PreviewDeletionResponse:
        deadline = self._deadline(context)
        with self._reads.admit({"reads": 1}):
            info = await self._catalog.deletable(stored_name(request.name, "name"), deadline)
            count = await self._catalog.count(info, deadline)
        deletion = pb.DeleteCollectionRequest(name=request.name)
        token = self._confirmations.make(deletion, info, count)
        return pb.PreviewDeletionResponse(item_count=count, confirmation_token=token)

    async def SetAlias(self, request: pb.SetAliasRequest, context: Context) -> pb.SetAliasResponse:
        alias = stored_name(request.alias, "alias")
        collection = stored_name(request.collection, "collection")
        await self._catalog.set_alias(alias, collection, self._deadline(context))
        return pb.SetAliasResponse()

    async def DeleteAlias(
        self, request: pb.DeleteAliasRequest, context: Context
    ) -> pb.DeleteAliasResponse:
        alias = stored_name(request.alias, "alias")
        await self._catalog.delete_alias(alias, self._deadline(context))
        return pb.DeleteAliasResponse()

    async def ReindexCollection(
        self, request: pb.ReindexCollectionRequest, context: Context
    ) -> AsyncIterator[pb.ReindexCollectionResponse]:
        progress = ReindexProgress()
        reindex = collection_messages.reindex_request_from(request)
        work = asyncio.create_task(self._reindexer.run(reindex, progress))
        stop = asyncio.create_task(self._draining.wait())
        try:
            while not work.done():
                await asyncio.wait(
                    {work, stop}, timeout=_PROGRESS_INTERVAL_S, return_when=asyncio.FIRST_COMPLETED
                )
                if stop.done() and not work.done():
                    raise Unavailable(
                        "DRAINING", "this process is shutting down; repeat the call on another one"
                    )
                if not work.done():
                    yield collection_messages.progress_to(progress)
            await work
            yield collection_messages.progress_to(progress, done=True)
        finally:
            # Also runs when the caller leaves.
            stop.cancel()
            work.cancel()
            await asyncio.gather(work, stop, return_exceptions=True)

    async def _with_counts(self, info: CollectionInfo, deadline: Deadline) -> pb.Collection:
        count, aliases = await self._catalog.count_and_aliases(info, deadline)
        return self._described(info, count, aliases)

    def _described(
        self, info: CollectionInfo, item_count: int, aliases: Sequence[str]
    ) -> pb.Collection:
        return collection_messages.collection_to(info, item_count, aliases, self._levels_of(info))

    def _deadline(self, context: Context) -> Deadline:
        return Deadline.after(context.time_remaining(), default_s=self._timeout_s)
