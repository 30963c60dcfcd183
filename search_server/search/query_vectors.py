"""From queries to their vectors: of any kind, one or many at once, each failing alone.

Everything the queries of one request need is asked for together: images by URI in one go,
contents in one Embed call for each model, items in one read for each collection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np

from search_server.embedders.query_cache import EmbeddingCache, QueryEmbedding
from search_server.image_uris.fetcher import Fetcher
from search_server.milvus.search_store import SearchStore
from search_server.types.items import SearchTimings
from search_server.types.queries import Query, Term
from sentinel_core.calls import Deadline
from sentinel_core.errors import InvalidArgument, NotFound, SentinelError
from sentinel_core.metrics import ServerMetrics
from sentinel_store.collections import CollectionInfo
from sentinel_store.items import Content
from sentinel_store.prepared_item import check_vector
from sentinel_store.values import FloatArray

# Of the sum of the weights: a shorter sum is rounding noise and no direction. Vectors are float32,
# and a content that is embedded twice, in batches of other sizes, may come out 1e-6 apart.
_CANCELLED = 1e-5

_Work = Coroutine[Any, Any, None]


@dataclass(frozen=True, slots=True)
class Asked:
    """A query, the collection it is for, and its path in the request."""

    query: Query
    collection: CollectionInfo
    where: str = "params.query"


@dataclass(slots=True)
class Found:
    """The vector of a query.

    Attributes:
        vector: float32 `[dimensions]`, L2-normalised.
        timings: The embedding's part alone.
    """

    vector: FloatArray
    timings: SearchTimings


@dataclass(slots=True)
class _Part:
    """One term of one query on its way to a vector; `error` ends it."""

    term: Term
    collection: CollectionInfo
    where: str
    content: Content | None = None
    vector: FloatArray | None = None
    error: SentinelError | None = None
    cached: bool = False


@dataclass(slots=True)
class _Batch:
    """The terms of all queries of a request."""

    parts: list[_Part] = field(default_factory=list)
    # By fingerprint: the seconds of the Embed call, in the queue and in the forward pass.
    timings: dict[str, SearchTimings] = field(default_factory=dict)


class QueryVectors:
    """Finds the vectors of queries. Stateless; any number of calls run at once."""

    def __init__(
        self,
        embeddings: EmbeddingCache,
        fetcher: Fetcher,
        store: SearchStore,
        metrics: ServerMetrics,
    ) -> None:
        self._embeddings = embeddings
        self._fetcher = fetcher
        self._store = store
        self._metrics = metrics

    async def find(self, asked: Sequence[Asked], deadline: Deadline) -> list[Found | SentinelError]:
        """Return the vector of each query, or why it has none, in order."""
        queries = [_parts_of(one) for one in asked]
        batch = _Batch([part for parts in queries for part in parts])
        await self._fetch(batch, deadline)
        await _all([*self._to_embed(batch, deadline), *self._to_read(batch, deadline)])
        _take_given(batch)
        return [_combined(one, parts, batch) for one, parts in zip(asked, queries, strict=True)]

    async def _fetch(self, batch: _Batch, deadline: Deadline) -> None:
        waiting = [part for part in batch.parts if part.term.content is not None]
        contents = [part.term.content for part in waiting if part.term.content is not None]
        answers = await self._fetcher.fill(contents, deadline)
        for part, answer in zip(waiting, answers, strict=True):
            if isinstance(answer, SentinelError):
                part.error = answer.at(f"{part.where}.content.image.uri")
            else:
                part.content = answer

    def _to_embed(self, batch: _Batch, deadline: Deadline) -> list[_Work]:
        async def embed(fingerprint: str, parts: list[_Part]) -> None:
            start = perf_counter()
            with self._metrics.stage("embed"):
                answer = await self._embeddings.embed(
                    [part.content for part in parts if part.content is not None],
                    fingerprint=fingerprint,
                    deadline=deadline,
                )
            if answer.queue_s is not None:
                batch.timings[fingerprint] = SearchTimings(
                    embed=perf_counter() - start,
                    embed_queue=answer.queue_s,
                    embed_inference=answer.inference_s,
                )
            for part, item in zip(parts, answer.items, strict=True):
                _take_embedding(part, item)

        waiting = [part for part in batch.parts if part.content is not None]
        return _each(waiting, lambda part: part.collection.model.fingerprint, embed)

    def _to_read(self, batch: _Batch, deadline: Deadline) -> list[_Work]:
        async def read(_: str, parts: list[_Part]) -> None:
            ids = list(dict.fromkeys(str(part.term.item_id) for part in parts))
            rows = await self._store.get(parts[0].collection, ids, deadline, include_vectors=True)
            vectors = {row.id: row.vector for row in rows}
            for part in parts:
                part.vector = vectors.get(str(part.term.item_id))
                if part.vector is None:
                    part.error = _no_item(part)

        waiting = [part for part in batch.parts if part.term.item_id is not None]
        return _each(waiting, lambda part: part.collection.name, read)


async def _all(works: Sequence[_Work]) -> None:
    """Do all of this at once; what is alone needs no task, as in most searches."""
    if len(works) == 1:
        await works[0]
    else:
        await asyncio.gather(*works)


def _each(
    waiting: Sequence[_Part],
    key: Callable[[_Part], str],
    work: Callable[[str, list[_Part]], _Work],
) -> list[_Work]:
    """Return `work` for the parts of each key; its error is theirs and nobody else's."""
    groups: dict[str, list[_Part]] = {}
    for part in waiting:
        groups.setdefault(key(part), []).append(part)

    async def guarded(name: str, parts: list[_Part]) -> None:
        try:
            await work(name, parts)
        except SentinelError as error:
            for part in parts:
                part.error = error.at(None)

    return [guarded(name, parts) for name, parts in groups.items()]


def _parts_of(asked: Asked) -> list[_Part]:
    query = asked.query
    if query.terms:
        return [
            _Part(term, asked.collection, f"{asked.where}.composite.terms[{index}]")
            for index, term in enumerate(query.terms)
        ]
    return [_Part(Term(query.content, query.vector, query.item_id), asked.collection, asked.where)]


def _take_embedding(part: _Part, item: QueryEmbedding) -> None:
    part.vector, part.cached = item.vector, item.cached
    if isinstance(item.error, InvalidArgument):
        # The worker's path is "contents[0].image.crop"; what follows the bracket is ours, too.
        inside = item.error.metadata.get("field", "").partition("]")[2]
        part.error = item.error.at(f"{part.where}.content{inside}")
    elif item.error is not None:
        part.error = item.error.at(None)


def _take_given(batch: _Batch) -> None:
    for part in batch.parts:
        if part.term.vector is None:
            continue
        try:
            part.vector = check_vector(part.term.vector, part.collection, f"{part.where}.vector")
        except SentinelError as error:
            part.error = error


def _no_item(part: _Part) -> NotFound:
    return NotFound(
        "ITEM_NOT_FOUND",
        f"no item {str(part.term.item_id)[:100]!r} in collection {part.collection.name}",
        field=f"{part.where}.item_id",
        id=part.term.item_id,
    )


def _combined(asked: Asked, parts: Sequence[_Part], batch: _Batch) -> Found | SentinelError:
    error = next((part.error for part in parts if part.error is not None), None)
    if error is not None:
        return error
    timings = SearchTimings()
    embedded = [part for part in parts if part.content is not None]
    if embedded:
        timings.embed_cached = all(part.cached for part in embedded)
    if embedded and not timings.embed_cached:
        theirs = batch.timings.get(asked.collection.model.fingerprint, timings)
        timings.embed = theirs.embed
        timings.embed_queue, timings.embed_inference = theirs.embed_queue, theirs.embed_inference
    try:
        return Found(_sum(parts, f"{asked.where}.composite"), timings)
    except SentinelError as cancelled:
        return cancelled


def _sum(parts: Sequence[_Part], where: str) -> FloatArray:
    """Return the weighted sum of unit vectors, at unit length."""
    vectors = [part.vector for part in parts if part.vector is not None]
    assert len(vectors) == len(parts)
    if len(vectors) == 1 and parts[0].term.weight > 0:
        return vectors[0]
    weights = np.array([part.term.weight for part in parts])
    units = np.stack(vectors).astype(np.float64)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    total = weights @ units
    length = float(np.linalg.norm(total))
    if length < _CANCELLED * np.abs(weights).sum():
        raise InvalidArgument(
            "QUERY_CANCELS_OUT",
            "the terms cancel each other out, so that no direction is left; change their weights",
            field=where,
        )
    return (total / length).astype(np.float32)
