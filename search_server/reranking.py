"""Rankings that are not simply Milvus's order: diverse, grouped, blended with text.

They work on the best candidates of a ranking, of which only ids, scores and what is compared are
fetched; the rows of the hits come last. They are the same each time: of equals the lower id comes
first. Only where more candidates are equally near than are looked at, it is Milvus that says which
of them are among those.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

import numpy as np

from search_server import diversity, fusion
from search_server.cursor import JITTER, START, Position, Scored
from search_server.retrieval import Retrieval
from search_server.store import columns
from search_server.store.milvus import MilvusStore
from search_server.store.vectors import ROWS_PER_CALL
from search_server.types.collections import CollectionInfo
from search_server.types.items import Candidate, Hit, Search
from search_server.types.queries import Hybrid, Kind, Query, SearchSpec
from search_server.types.values import FieldType
from sentinel_core.deadlines import Deadline
from sentinel_core.errors import FailedPrecondition, InvalidArgument

# Candidates for diversity and groups.
_MOST_CANDIDATES = 1_000
# A search that is to return k hits looks at this many for each of them first, then at four times
# as many, until enough are left.
_OVERFETCH = 4
_LEAST_CANDIDATES = 64
# Candidates of each ranking that is blended. Fixed, since more of them would change the order. The
# 500th place of one ranking weighs a ninth of its first.
_BLENDED = 500
# Hits to fetch rows for in place of those that are deleted meanwhile.
_SPARE = 32
_MAX_TEXT_BYTES = 60_000
_GROUPABLE = (FieldType.STRING, FieldType.INT64, FieldType.BOOL)


def is_reranked(spec: SearchSpec) -> bool:
    """Tell whether a search's hits are not simply Milvus's."""
    return bool(spec.hybrid or spec.diversity or spec.grouping)


def settle(found: Sequence[Candidate]) -> list[Candidate]:
    """Return candidates best first; those of about one score by id, all with the best of them.

    Milvus may compute the cosine of equal vectors a little differently once it has moved a row, so
    their order would change between two pages.
    """
    settled: list[Candidate] = []
    tied: list[Candidate] = []
    for candidate in sorted(found, key=lambda one: -one.score):
        if tied and tied[-1].score - candidate.score > JITTER:
            settled += _tied(tied)
            tied = []
        tied.append(candidate)
    return settled + _tied(tied)


def _tied(tied: Sequence[Candidate]) -> list[Candidate]:
    by_id = sorted(tied, key=lambda one: one.id)
    return [replace(one, score=tied[0].score) for one in by_id]


class Reranker:
    """Fetches hits as `Retrieval` does, in such an order. Stateless."""

    def __init__(self, store: MilvusStore, retrieval: Retrieval) -> None:
        self._store = store
        self._retrieval = retrieval

    async def check(self, spec: SearchSpec, collection: CollectionInfo, deadline: Deadline) -> None:
        """Check what a search asks for against its collection and the Milvus at hand.

        Raises:
            InvalidArgument: No such field to group by, or one of another kind; no text, or too
                much of it.
            FailedPrecondition: The collection or Milvus cannot search text.
        """
        _check_grouping(spec, collection)
        if spec.hybrid is None:
            return
        _text_of(spec.hybrid, spec.query)
        if not collection.full_text:
            # Which of the two it is: Milvus cannot, or the collection was made without.
            await self._store.full_text.check_supported(deadline)
            raise FailedPrecondition(
                "FULL_TEXT_MISSING",
                f"collection {collection.name} has no field that is full_text; "
                "declare one in a new collection, or leave full_text and hybrid out",
                collection=collection.name,
            )

    async def blocks(
        self, search: Search, count: int, deadline: Deadline, after: Position = START
    ) -> AsyncGenerator[list[Hit], None]:
        """Yield up to `count` hits that follow `after`, in blocks of at most 500.

        A hit's score is its cosine; of a hybrid search, the fused score.

        Raises:
            SentinelError: Milvus does not answer.
        """
        if search.spec.hybrid is not None:
            following = await self._blended(search, search.spec.hybrid, deadline, after)
        else:
            following = await self._chosen(search, count, deadline, after)
        delivered = taken = 0
        while delivered < count and taken < len(following):
            part = following[taken : taken + min(ROWS_PER_CALL, count - delivered)]
            taken += len(part)
            block = await self._retrieval.with_rows(search, part, after.rank + delivered, deadline)
            delivered += len(block)
            yield block

    async def _blended(
        self, search: Search, hybrid: Hybrid, deadline: Deadline, after: Position
    ) -> list[Scored]:
        """Return all that follows in the fusion of the vector ranking and the text ranking."""
        with self._retrieval.stage(search, "milvus_hybrid_search"):
            near, worded = await asyncio.gather(
                self._near(search, hybrid, deadline), self._worded(search, hybrid, deadline)
            )
        fused = fusion.fuse(
            [(near, hybrid.vector_weight), (worded, hybrid.text_weight)], hybrid.rrf_k
        )
        return fused[after.rank :]

    async def _near(self, search: Search, hybrid: Hybrid, deadline: Deadline) -> list[str]:
        if hybrid.vector_weight == 0:  # what does not count finds nothing either
            return []
        least = _least_score(search.spec)
        found = await self._candidates(search, _BLENDED, deadline)
        return [candidate.id for candidate in found if candidate.score >= least]

    async def _worded(self, search: Search, hybrid: Hybrid, deadline: Deadline) -> list[str]:
        if hybrid.text_weight == 0:
            return []
        return await self._store.full_text.rank(
            search.collection,
            _text_of(hybrid, search.spec.query),
            limit=_BLENDED,
            expression=search.expression,
            options=search.options,
            deadline=deadline,
        )

    async def _chosen(
        self, search: Search, count: int, deadline: Deadline, after: Position
    ) -> list[Scored]:
        """Return what follows in the diverse and grouped ranking: `count`, more, or all there is.

        Where more candidates only add hits at its end, it begins with few of them, and a position
        is a score: two searches need not find the same candidates. Otherwise it is made of as many
        as there can be, and a position is a place in it.
        """
        end = after.rank + count + _SPARE
        adds_at_end = _adds_at_end(search.spec)
        window = _MOST_CANDIDATES
        if adds_at_end:
            window = min(window, max(_LEAST_CANDIDATES, _OVERFETCH * (after.rank + count)))
        while True:
            with self._retrieval.stage(search, "milvus_search"):
                found = await self._candidates(search, window, deadline)
            least = _least_score(search.spec)
            candidates = [candidate for candidate in found if candidate.score >= least]
            # In a thread: the most there can be to do takes some tenths of a second.
            ranking = await asyncio.to_thread(_ranked, search.spec, candidates, end)
            following = after.remaining(ranking) if adds_at_end else ranking[after.rank :]
            if len(following) >= count or window == _MOST_CANDIDATES:
                return following
            if len(candidates) < len(found) or await self._is_all(search, found, window, deadline):
                return following
            window = min(_MOST_CANDIDATES, _OVERFETCH * window)

    async def _is_all(
        self, search: Search, found: Sequence[Candidate], window: int, deadline: Deadline
    ) -> bool:
        """Return whether there are no more candidates; an index may find fewer than there are."""
        return len(found) < window and await self._store.vectors.is_all(
            search.collection, len(found), search.expression, search.options, deadline
        )

    async def _candidates(self, search: Search, limit: int, deadline: Deadline) -> list[Candidate]:
        """Return the nearest candidates, best first, of about equals by id."""
        spec = search.spec
        found = await self._store.candidates.nearest(
            search.collection,
            search.vector,
            limit=limit,
            expression=search.expression,
            include_vectors=spec.diversity is not None,
            field=spec.grouping.field if spec.grouping else "",
            options=search.options,
            deadline=deadline,
        )
        return settle(found)


def _ranked(spec: SearchSpec, candidates: Sequence[Candidate], end: int) -> list[Scored]:
    """Return the ranking made of `candidates`, up to its place `end` or further.

    Copies are dropped first, the rest is brought in order of diversity, that order is grouped.
    """
    places = list(range(len(candidates)))
    if spec.diversity is not None and candidates:
        vectors = np.stack([one.vector for one in candidates if one.vector is not None])
        threshold, share = spec.diversity.duplicate_threshold, spec.diversity.mmr_lambda
        if threshold is not None:
            places = diversity.distinct(vectors, threshold)
        if share is not None:
            relevance = np.array([candidates[place].score for place in places], np.float32)
            most = len(places) if spec.grouping else end
            order = diversity.diverse(relevance, vectors[places], share, most)
            places = [places[place] for place in order]
    if spec.grouping is not None:
        values = [candidates[place].value for place in places]
        places = [places[place] for place in diversity.grouped(values, spec.grouping.size)]
    return [(candidates[place].id, candidates[place].score) for place in places]


def _adds_at_end(spec: SearchSpec) -> bool:
    """Tell whether more candidates only add hits to a ranking's end, which is in order of score."""
    if spec.diversity is not None and spec.diversity.mmr_lambda is not None:
        return False
    return spec.grouping is None or spec.grouping.size == 1


def _least_score(spec: SearchSpec) -> float:
    return -1.0 if spec.min_score is None else spec.min_score


def _check_grouping(spec: SearchSpec, collection: CollectionInfo) -> None:
    if spec.grouping is None:
        return
    where = "params.group.field"
    field_type = columns.type_of(spec.grouping.field, collection.fields, where)
    if field_type not in _GROUPABLE:
        raise InvalidArgument(
            "FIELD_TYPE",
            f"field {spec.grouping.field!r} is a {field_type}; hits are grouped by fields of type "
            f"{', '.join(_GROUPABLE)}",
            field=where,
            name=spec.grouping.field,
        )


def _text_of(hybrid: Hybrid, query: Query) -> str:
    """Return the words to look for.

    Raises:
        InvalidArgument: There are none, or too many.
    """
    text = hybrid.text
    if not text and query.content is not None and query.content.kind is Kind.TEXT:
        text = query.content.text
    if not text.strip():
        raise InvalidArgument(
            "TEXT_EMPTY",
            "a hybrid search needs words: set hybrid.text, or make the query a text",
            field="params.hybrid.text",
        )
    if len(text.encode()) > _MAX_TEXT_BYTES:
        raise InvalidArgument(
            "TEXT_TOO_LONG",
            f"the text has more than {_MAX_TEXT_BYTES} bytes",
            field="params.hybrid.text",
            limit=_MAX_TEXT_BYTES,
        )
    return text
