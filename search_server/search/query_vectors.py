"""Find the vectors of queries: of any kind, one or many at once, each failing alone.

The queries of one request are resolved together: all images by URI at once, contents in one Embed
call for each model and length of vectors, items in one read for each collection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from search_server.embedders.query_cache import QueryCache
from search_server.embedders.worker import ServedModel
from search_server.image_uris.fetcher import Fetcher
from search_server.milvus.search_store import SearchStore
from search_server.search.languages import names_of, unknown_language
from search_server.types.embeddings import EmbeddedItem, placed
from search_server.types.queries import Query, Term
from search_server.types.searches import Notice, NoticeKind, SearchTimings
from sentinel_core.calls import Deadline
from sentinel_core.errors import InvalidArgument, NotFound, SentinelError
from sentinel_core.metrics import ServerMetrics
from sentinel_store.collections import CollectionInfo
from sentinel_store.items import Content, Kind
from sentinel_store.prepared_item import check_vector
from sentinel_store.values import FloatArray

# A shorter sum, relative to the sum of the weights, is only rounding noise. Vectors
# are float32, and a content embedded twice, in batches of other sizes, may come out 1e-6 apart.
_CANCELLED = 1e-5
_PATH = "params.query"


@dataclass(slots=True)
class QueryVector:
    """The vector of a query or of one of its terms: float32 `[dimensions]`, L2-normalised.

    Attributes:
        timings: The times of its embedding; empty if no content was embedded.
        notices: What the caller should know about its texts.
    """

    vector: FloatArray
    timings: SearchTimings = field(default_factory=SearchTimings)
    notices: tuple[Notice, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)  # a dictionary key, by identity
class _Part:
    """One term of one query, and its path in the request."""

    term: Term
    collection: CollectionInfo
    path: str


_Result = QueryVector | SentinelError
_Results = dict[_Part, _Result]
_Work = Coroutine[Any, Any, _Results]


class QueryVectors:
    """Finds the vectors of queries. Stateless; any number of calls run at once."""

    def __init__(
        self,
        embeddings: QueryCache,
        fetcher: Fetcher,
        store: SearchStore,
        metrics: ServerMetrics,
        model_of: Callable[[str], ServedModel | None],
    ) -> None:
        """Keep the collaborators; `model_of` returns what is known of a model by fingerprint."""
        self._embeddings = embeddings
        self._model_of = model_of
        self._fetcher = fetcher
        self._store = store
        self._metrics = metrics

    async def find(
        self, queries: Sequence[tuple[Query, CollectionInfo]], deadline: Deadline
    ) -> list[QueryVector | SentinelError]:
        """Return the vector of each query, or why it has none, in order.

        Each query comes with the collection that it searches. They share the deadline.
        """
        parts = [_parts_of(query, collection) for query, collection in queries]
        every = [part for of_query in parts for part in of_query]
        contents = {part: part.term.content for part in every if part.term.content is not None}
        results = _given(every)
        if any(content.uri for content in contents.values()):
            results |= await self._fetch(contents, deadline)
        by_space = _groups(
            contents,
            lambda part: (
                part.collection.model.fingerprint,
                part.collection.requested_dimensions,
            ),
        )
        items = [part for part in every if part.term.item_id is not None]
        by_collection = _groups(items, lambda part: part.collection.name)
        works = [
            *(self._embed(group, contents, deadline) for group in by_space),
            *(self._read(group, deadline) for group in by_collection),
        ]
        for found in await _all(works):
            results |= found
        return [_combined([(part, results[part]) for part in of_query]) for of_query in parts]

    async def _fetch(self, contents: dict[_Part, Content], deadline: Deadline) -> _Results:
        """Put the bytes of images by URI into `contents`; take out and return what failed."""
        failed: _Results = {}
        remote = {part: content for part, content in contents.items() if content.uri}
        answers = await self._fetcher.fetch(list(remote.values()), deadline)
        for part, answer in zip(remote, answers, strict=True):
            if isinstance(answer, SentinelError):
                failed[part] = answer.at(f"{part.path}.content.image.uri")
                del contents[part]
            else:
                contents[part] = answer
        return failed

    async def _embed(
        self, group: Sequence[_Part], contents: Mapping[_Part, Content], deadline: Deadline
    ) -> _Results:
        try:
            with self._metrics.stage("embed") as stage:
                embeddings = await self._embeddings.embed(
                    [contents[part] for part in group],
                    fingerprint=group[0].collection.model.fingerprint,
                    dimensions=group[0].collection.requested_dimensions,
                    deadline=deadline,
                )
        except SentinelError as error:
            return {part: error.at(None) for part in group}
        results: _Results = {}
        for part, found in zip(group, embeddings, strict=True):
            item = found.item
            if item.vector is not None:
                timings = SearchTimings(embed_cached=found.cached)
                if found.timings is not None:
                    timings.embed, timings.embed_queue = stage.seconds, found.timings.queue
                    timings.embed_inference = found.timings.inference
                if found.notices is None:  # kept for all who ask for this text: they get the same
                    found.notices = self._notices(contents[part], item, part.collection)
                results[part] = QueryVector(item.vector, timings, found.notices or ())
            elif item.error is not None:
                results[part] = placed(item.error, f"{part.path}.content", contents[part])
        return results

    def _notices(
        self, content: Content, item: EmbeddedItem, collection: CollectionInfo
    ) -> tuple[Notice, ...] | None:
        """Return what the model did not read or understand of a text.

        None for an image, and as long as no worker has told of the model.
        """
        model = self._model_of(collection.model.fingerprint)
        if content.kind is not Kind.TEXT or model is None:
            return None
        notices = []
        if item.truncated:
            notices.append(
                Notice(
                    NoticeKind.TEXT_TRUNCATED,
                    "The model read only the beginning of the text, "
                    f"{model.details.max_text_tokens} of {item.token_count} tokens. Shorten it.",
                )
            )
        known = model.details.languages
        language = unknown_language(content.text, known)
        if language is not None:
            notices.append(
                Notice(
                    NoticeKind.LANGUAGE_UNKNOWN,
                    f"The text seems to be in {language}, but the model knows only "
                    f"{names_of(known)}. Search in a language that it knows, or use a model for "
                    "many languages.",
                )
            )
        return tuple(notices)

    async def _read(self, group: Sequence[_Part], deadline: Deadline) -> _Results:
        ids = list(dict.fromkeys(str(part.term.item_id) for part in group))
        try:
            rows = await self._store.get(group[0].collection, ids, deadline, include_vectors=True)
        except SentinelError as error:
            return {part: error.at(None) for part in group}
        vectors = {row.id: row.vector for row in rows}
        results: _Results = {}
        for part in group:
            vector = vectors.get(str(part.term.item_id))
            results[part] = _no_item(part) if vector is None else QueryVector(vector)
        return results


async def _all(works: Sequence[_Work]) -> Sequence[_Results]:
    """Do all works at once; a single one, as in most searches, needs no task."""
    if len(works) == 1:
        return [await works[0]]
    return await asyncio.gather(*works)


def _groups(parts: Iterable[_Part], key: Callable[[_Part], Hashable]) -> list[list[_Part]]:
    groups: dict[Hashable, list[_Part]] = {}
    for part in parts:
        groups.setdefault(key(part), []).append(part)
    return list(groups.values())


def _parts_of(query: Query, collection: CollectionInfo) -> list[_Part]:
    if not query.is_composite:
        return [_Part(query.terms[0], collection, _PATH)]
    return [
        _Part(term, collection, f"{_PATH}.composite.terms[{index}]")
        for index, term in enumerate(query.terms)
    ]


def _given(parts: Sequence[_Part]) -> _Results:
    """Return the vectors that the caller sent, checked."""
    results: _Results = {}
    for part in parts:
        if part.term.vector is not None:
            path = f"{part.path}.vector"
            try:
                results[part] = QueryVector(check_vector(part.term.vector, part.collection, path))
            except SentinelError as error:
                results[part] = error
    return results


def _no_item(part: _Part) -> NotFound:
    return NotFound(
        "ITEM_NOT_FOUND",
        f"no item {str(part.term.item_id)[:100]!r} in collection {part.collection.name}",
        field=f"{part.path}.item_id",
        id=part.term.item_id,
    )


def _combined(parts: Sequence[tuple[_Part, _Result]]) -> QueryVector | SentinelError:
    """Return the vector of a query from those of its parts, or the first part's error."""
    terms: list[tuple[float, FloatArray]] = []
    notices: dict[Notice, None] = {}  # in order, each once
    embedded: list[SearchTimings] = []
    for part, result in parts:
        if isinstance(result, SentinelError):
            return result
        terms.append((part.term.weight, result.vector))
        notices |= dict.fromkeys(result.notices)
        if part.term.content is not None:
            embedded.append(result.timings)
    # One Embed call for all contents that were not cached.
    timings = min(embedded, key=lambda one: one.embed_cached) if embedded else SearchTimings()
    try:
        return QueryVector(_sum(terms), timings, tuple(notices))
    except SentinelError as error:
        return error


def _sum(terms: Sequence[tuple[float, FloatArray]]) -> FloatArray:
    """Return the weighted sum of vectors, each at unit length first, at unit length."""
    if len(terms) == 1 and terms[0][0] > 0:
        return terms[0][1]
    weights = np.array([weight for weight, _ in terms])
    units = np.stack([vector for _, vector in terms]).astype(np.float64)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    total = weights @ units
    length = float(np.linalg.norm(total))
    if length < _CANCELLED * np.abs(weights).sum():
        raise InvalidArgument(
            "QUERY_CANCELS_OUT",
            "the terms cancel each other out, so that no direction is left; change their weights",
            field=f"{_PATH}.composite",
        )
    return (total / length).astype(np.float32)
