"""SearchService of the fake: read the request, rank all items, cut the ranking into messages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import grpc
import numpy as np

from sentinel.search.v1 import search_service_pb2 as pb
from sentinel.search.v1 import search_service_pb2_grpc as pb_grpc
from sentinel_client._errors import InvalidArgument, NotFound, SentinelError
from sentinel_client._types import Vector
from sentinel_client.testing import _checks, _filters, _ranking, _responses, _search_checks
from sentinel_client.testing._model import HashingModel, unit
from sentinel_client.testing._ranking import Scored
from sentinel_client.testing._status import to_status
from sentinel_client.testing._store import FakeCollection, Store, StoredItem

_DEFAULT_LIMIT = 20
_DEFAULT_CHUNK = 32
_MAX_SEARCHES = 64
# Room that every search of a batch has for an error, whatever the pages before it took.
_ERROR_BYTES = 8 * 1024
# A shorter sum, relative to the sum of the weights, is only rounding noise.
_CANCELLED = 1e-5


@dataclass(frozen=True, slots=True)
class _Search:
    """A checked search and its complete ranking."""

    params: pb.SearchParams
    collection: FakeCollection
    ranking: list[Scored]
    embeds: bool
    truncated: bool


class SearchService(pb_grpc.SearchServiceServicer):
    """Streams, pages and batches of ranked hits."""

    def __init__(self, store: Store, model: HashingModel) -> None:
        self._store = store
        self._model = model

    def Search(
        self, request: pb.SearchRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.SearchResponse]:
        limit = _checks.optional(request, "limit", _DEFAULT_LIMIT, (1, _checks.MAX_HITS))
        size = _checks.optional(request, "chunk_size", _DEFAULT_CHUNK, (1, _checks.MAX_PAGE))
        search = self._run(request.params)
        header = pb.SearchHeader(
            collection=search.collection.name,
            model_version=search.collection.description.model_version,
        )
        response = pb.SearchResponse(header=header)
        room = _responses.room_for_rows(context)
        ranking, sent = search.ranking[:limit], 0
        while sent < len(ranking):
            if sent:
                yield response
                response = pb.SearchResponse()
            hits = _hits(search, ranking[sent : sent + size], sent, room)
            response.chunk.hits.extend(hits)
            sent += len(hits)
        response.summary.CopyFrom(_summary(search, sent))
        yield response

    def SearchPage(
        self, request: pb.SearchPageRequest, context: grpc.ServicerContext
    ) -> pb.SearchPageResponse:
        return self._page(request, _responses.room_for_rows(context))

    def BatchSearch(
        self, request: pb.BatchSearchRequest, context: grpc.ServicerContext
    ) -> pb.BatchSearchResponse:
        _checks.check_count(len(request.searches), _MAX_SEARCHES, "searches")
        response = pb.BatchSearchResponse()
        count = len(request.searches)
        rows = _responses.room_for_rows(context) // count
        room = _responses.max_bytes(context) - _ERROR_BYTES * count
        for index, search in enumerate(request.searches):
            path = f"searches[{index}]"
            try:
                page = self._page(search, rows, room)
                room -= page.ByteSize()
                response.results.add(page=page)
            except SentinelError as error:
                error.field = f"{path}.{error.field}" if error.field else path
                response.results.add(error=to_status(error))
        return response

    def _page(
        self, request: pb.SearchPageRequest, room_for_rows: int, room: int | None = None
    ) -> pb.SearchPageResponse:
        """Return a page; without hits, and a token for them, if it has more than `room` bytes."""
        _search_checks.check_params(request.params)
        size = _checks.page_size(request.page_size, _DEFAULT_LIMIT)
        bound = b"SearchPage" + request.params.SerializeToString(deterministic=True)
        position = self._store.position(request.page_token, bound)
        collection, rank, *last = position or ["", 0]
        search = self._run(request.params, collection)
        following = search.ranking[rank:]
        if last and not _ranking.is_reordered(request.params):
            # By the last hit and not by its rank, which changes as items come and go.
            score, item_id = last
            following = [one for one in search.ranking if (-one[1], one[0].id) > (-score, item_id)]
        page = following[: min(size, _checks.MAX_HITS - rank)]
        hits = _hits(search, page, rank, room_for_rows)
        response = pb.SearchPageResponse(hits=hits, summary=_summary(search, len(hits)))
        end = rank + len(hits)
        if len(following) > len(hits) and end < _checks.MAX_HITS:
            item, score = following[len(hits) - 1]
            response.next_page_token = self._store.seal(
                [search.collection.name, end, score, item.id], bound
            )
        if room is not None and response.ByteSize() > room:
            start = self._store.seal([search.collection.name, 0], bound)
            return pb.SearchPageResponse(
                summary=_summary(search, 0), next_page_token=request.page_token or start
            )
        return response

    def _run(self, params: pb.SearchParams, collection_name: str = "") -> _Search:
        _search_checks.check_params(params)
        with self._store.lock:
            collection = self._store.find(collection_name or params.collection)
            declared = collection.declared
            _filters.check_declared(params.output_fields, declared, "params.output_fields")
            _search_checks.check_against(params, collection)
            items = list(collection.items.values())
            if params.HasField("filter"):
                matches = _filters.predicate(params.filter, declared, "params.filter")
                items = [one for one in items if matches(one.fields)]
            vector = self._query_vector(params.query, collection)
            own = set(_search_checks.item_ids(params.query))
            ranking = _ranking.ranked(
                params, vector, [one for one in items if one.id not in own], collection
            )
        contents = [
            term.content
            for term in _search_checks.terms_of(params.query)
            if term.HasField("content")
        ]
        truncated = any(self._model.embed(one, "params.query").truncated for one in contents)
        return _Search(params, collection, ranking, bool(contents), truncated)

    def _query_vector(self, query: pb.Query, collection: FakeCollection) -> Vector:
        if not query.HasField("composite"):
            return self._term_vector(query, "params.query", collection)
        path = "params.query.composite"
        total = np.zeros(collection.description.dimensions, np.float64)
        weights = 0.0
        for index, term in enumerate(query.composite.terms):
            weight = term.weight if term.HasField("weight") else 1.0
            vector = self._term_vector(term, f"{path}.terms[{index}]", collection)
            total += weight * vector.astype(np.float64)
            weights += abs(weight)
        if np.linalg.norm(total) < _CANCELLED * weights:
            raise InvalidArgument(
                "QUERY_CANCELS_OUT",
                "the terms cancel each other out, so that no direction is left; change their "
                "weights",
                field=path,
            )
        return unit(total.astype(np.float32))

    def _term_vector(
        self, term: pb.Query | pb.WeightedTerm, path: str, collection: FakeCollection
    ) -> Vector:
        """Return the vector of one term, at length 1."""
        if term.HasField("content"):
            whole = self._model.embed(term.content, f"{path}.content").vector
            return unit(whole[: collection.description.dimensions])
        if term.HasField("vector"):
            given = _checks.vector_from(term.vector, f"{path}.vector")
            return _checks.unit_vector(given, collection.description.dimensions, f"{path}.vector")
        stored = collection.items.get(term.item_id)
        if stored is None:
            raise NotFound(
                "ITEM_NOT_FOUND",
                f"no item {term.item_id[:100]!r} in collection {collection.name}",
                field=f"{path}.item_id",
                metadata={"id": term.item_id},
            )
        return stored.vector


def _hits(search: _Search, ranking: Sequence[Scored], delivered: int, room: int) -> list[pb.Hit]:
    """Return the first hits of this part of a ranking that have `room` bytes, at least one."""
    params = search.params

    def hit(rank: int, item: StoredItem, score: float) -> pb.Hit:
        level = _match_level(search, item, score)
        message = pb.Hit(rank=rank, score=score, text=item.text, match_level=level)
        item.fill(
            message,
            params.output_fields,
            vectors=params.include_vectors,
            thumbnails=params.include_thumbnails,
        )
        return message

    made = (hit(rank, *scored) for rank, scored in enumerate(ranking, delivered + 1))
    return _responses.fitting(made, room)


def _match_level(search: _Search, item: StoredItem, score: float) -> pb.MatchLevel:
    """Return how good a hit is; unknown, except for images that one text found."""
    params, description = search.params, search.collection.description
    levels = description.match_levels
    is_text = params.query.content.WhichOneof("kind") == "text" and not params.HasField("hybrid")
    if not (is_text and item.image and description.HasField("match_levels")):
        return pb.MATCH_LEVEL_UNSPECIFIED
    if score < levels.fair:
        return pb.MATCH_LEVEL_WEAK
    return pb.MATCH_LEVEL_FAIR if score < levels.strong else pb.MATCH_LEVEL_STRONG


def _summary(search: _Search, count: int) -> pb.SearchSummary:
    summary = pb.SearchSummary(hit_count=count)
    if search.truncated:
        message = "The model read only the beginning of a text. Shorten it."
        summary.notices.add(kind=pb.Notice.KIND_TEXT_TRUNCATED, message=message)
    summary.total.FromNanoseconds(1)
    summary.vector_search.FromNanoseconds(1)
    if search.embeds:
        summary.embed.FromNanoseconds(1)
    return summary
