"""Serve EmbeddingService before all workers: choose the model, fetch images, embed, rank.

Contents with default options, of either role, use the cache of queries. Bulk work does not: it
would evict them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from functools import reduce
from time import perf_counter

from search_server.api import embedding_messages
from search_server.api.common_messages import Context, out_of_range
from search_server.embedders.pool import EmbedderPool
from search_server.embedders.query_cache import QueryCache
from search_server.embedders.worker import ServedModel
from search_server.image_uris.fetcher import Fetcher
from search_server.types.embeddings import EmbeddedItem, EmbedOptions, WorkerTimings, placed
from sentinel.embedding.v1 import embedding_service_pb2 as pb
from sentinel.embedding.v1 import embedding_service_pb2_grpc as pb_grpc
from sentinel_core.admission import Admission
from sentinel_core.calls import Deadline, check_count, note_items, together
from sentinel_core.errors import (
    Internal,
    InvalidArgument,
    PermissionDenied,
    SentinelError,
    Unimplemented,
)
from sentinel_core.metrics import ServerMetrics
from sentinel_core.vectors import Role, rank
from sentinel_store.items import Content

_Answer = tuple[list[EmbeddedItem], WorkerTimings]


class EmbeddingService(pb_grpc.EmbeddingServiceServicer):
    """Embeds and ranks contents without a collection."""

    def __init__(
        self,
        pool: EmbedderPool,
        embeddings: QueryCache,
        fetcher: Fetcher,
        *,
        admission: Admission,
        metrics: ServerMetrics,
        max_contents: int,
        timeout_s: float,
    ) -> None:
        self._pool = pool
        self._embeddings = embeddings
        self._fetcher = fetcher
        self._admission = admission
        self._metrics = metrics
        self._max_contents = max_contents
        self._timeout_s = timeout_s

    async def Embed(self, request: pb.EmbedRequest, context: Context) -> pb.EmbedResponse:
        start, count = perf_counter(), len(request.contents)
        note_items(count)
        options = embedding_messages.options_from(request.options)
        element = embedding_messages.element_from(request.options)
        served = self._pool.named(request.options.model)
        check_count(count, self._max_contents, "contents")
        paths = [f"contents[{index}]" for index in range(count)]
        contents = embedding_messages.contents_from(request.contents, paths)
        if options.thumbnail_side:
            contents = [
                _unless_by_uri(one, path) for one, path in zip(contents, paths, strict=True)
            ]
        with self._admission.admit({"contents": count}):
            items, timings = await self._embed(
                contents, paths, options, served[0], self._deadline(context)
            )
        return embedding_messages.embed_response(
            items,
            embedding_messages.timings_to(perf_counter() - start, timings),
            element,
            served[0].details,
        )

    async def EmbedStream(
        self, request_iterator: object, context: Context
    ) -> AsyncIterator[pb.EmbedStreamResponse]:
        for nothing in list[pb.EmbedStreamResponse]():  # only makes it a stream
            yield nothing
        raise Unimplemented(
            "METHOD_UNSUPPORTED",
            "a gateway has no EmbedStream, since a stream stays on one worker; call Embed, several "
            "at once, with options.priority BULK",
        )

    async def Rank(self, request: pb.RankRequest, context: Context) -> pb.RankResponse:
        start, count = perf_counter(), len(request.candidates)
        note_items(1 + count)
        if request.top_k < 0:
            raise out_of_range(f"{request.top_k} is negative; 0 returns all", "top_k")
        served = self._pool.named(request.model)
        # The query is one of the contents.
        check_count(count, self._max_contents - 1, "candidates")
        paths = ["query", *(f"candidates[{index}]" for index in range(count))]
        contents = embedding_messages.contents_from([request.query, *request.candidates], paths)
        roles = embedding_messages.rank_roles_from(request)
        with self._admission.admit({"contents": 1 + count}):
            items, timings = await self._embed_by_role(
                contents, paths, roles, served[0], self._deadline(context)
            )
        query, *candidates = items
        if query.vector is None:
            raise query.error or Internal("MODEL_FAILED", "the query has no vector")
        good = [
            (index, one.vector) for index, one in enumerate(candidates) if one.vector is not None
        ]
        errors = [
            (index, one.error) for index, one in enumerate(candidates) if one.error is not None
        ]
        model = served[0].details
        return embedding_messages.rank_response(
            rank(query.vector, good, model, request.top_k),
            errors,
            embedding_messages.timings_to(perf_counter() - start, timings),
            model,
        )

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        served = self._pool.named(request.model)
        return pb.GetModelResponse(model=embedding_messages.model_to(served, self._max_contents))

    def _deadline(self, context: Context) -> Deadline:
        return Deadline.after(context.time_remaining(), default_s=self._timeout_s)

    async def _embed_by_role(
        self,
        contents: Sequence[Content | SentinelError],
        paths: Sequence[str],
        roles: tuple[Role, Role],
        served: ServedModel,
        deadline: Deadline,
    ) -> _Answer:
        """Embed a query with one role, and the candidates after it with another."""
        of_query, of_candidates = (EmbedOptions(role=role) for role in roles)
        if of_query == of_candidates or not served.details.asymmetric:
            return await self._embed(contents, paths, of_query, served, deadline)
        query, candidates = await together(
            [
                self._embed(contents[:1], paths[:1], of_query, served, deadline),
                self._embed(contents[1:], paths[1:], of_candidates, served, deadline),
            ]
        )
        return query[0] + candidates[0], query[1].longest(candidates[1])

    async def _embed(
        self,
        contents: Sequence[Content | SentinelError],
        paths: Sequence[str],
        options: EmbedOptions,
        served: ServedModel,
        deadline: Deadline,
    ) -> _Answer:
        """Return one item for each content, with the path in the request in its error."""
        fetched = await self._fetch(contents, paths, deadline)
        usable = [one for one in fetched if isinstance(one, Content)]
        if not usable:
            embedded: _Answer = [], WorkerTimings()
        else:
            with self._metrics.stage("embed"):
                embedded = await self._embed_usable(usable, options, served, deadline)
        items, timings = iter(embedded[0]), embedded[1]
        answers = []
        for content, path in zip(fetched, paths, strict=True):
            if isinstance(content, SentinelError):
                answers.append(EmbeddedItem(None, error=content))
                continue
            item = next(items)
            if item.error is not None:
                item = replace(item, error=placed(item.error, path, content))
            answers.append(item)
        return answers, timings

    async def _fetch(
        self,
        contents: Sequence[Content | SentinelError],
        paths: Sequence[str],
        deadline: Deadline,
    ) -> list[Content | SentinelError]:
        """Return the contents with the bytes of images that are named by URI."""
        fetched = list(contents)
        named = {
            place: one for place, one in enumerate(contents) if isinstance(one, Content) and one.uri
        }
        if named:
            answers = await self._fetcher.fetch(list(named.values()), deadline)
            for place, answer in zip(named, answers, strict=True):
                if isinstance(answer, SentinelError):
                    fetched[place] = answer.at(f"{paths[place]}.image.uri")
                else:
                    fetched[place] = answer
        return fetched

    async def _embed_usable(
        self,
        contents: Sequence[Content],
        options: EmbedOptions,
        served: ServedModel,
        deadline: Deadline,
    ) -> _Answer:
        fingerprint = served.model.fingerprint
        if options == EmbedOptions(role=options.role):
            found = await self._embeddings.embed(
                contents, fingerprint=fingerprint, deadline=deadline, role=options.role
            )
            for one in found:
                if one.call_failed and one.error is not None:
                    raise one.error
            timings = (one.timings for one in found if one.timings is not None)
            return [one.item for one in found], reduce(
                WorkerTimings.longest, timings, WorkerTimings()
            )
        try:
            answer = await self._pool.embed(
                contents, fingerprint=fingerprint, deadline=deadline, options=options
            )
        except InvalidArgument as error:  # a worker's, of an option
            raise error.at(error.metadata.get("field")) from error
        return answer.items, answer.timings


def _unless_by_uri(content: Content | SentinelError, path: str) -> Content | SentinelError:
    """Return the content, or an error if a thumbnail would show an image that others may read."""
    if isinstance(content, SentinelError) or not content.uri:
        return content
    return PermissionDenied(
        "URI_FORBIDDEN",
        "there are no thumbnails of images by URI, since the gateway may read more than its "
        "callers; send the bytes, or leave out thumbnail_side",
        field=f"{path}.image.uri",
    )
