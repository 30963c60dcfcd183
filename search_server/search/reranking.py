"""Rankings that are not simply Milvus's order: diverse, grouped, blended with text.

They work on the best candidates of a ranking, of which only ids, scores and what is compared are
fetched; the rows of the hits come last. They are the same each time: of equals the lower id comes
first. Only where more candidates are equally near than are looked at, it is Milvus that says which
of them are among those.


Pure functions that choose among ranked candidates: no copies, more variety, few of a kind.

They take candidates best first and return places (indices into them) in the order of the result.
n is the number of candidates, at most some thousand; d the length of a vector; every vector has
length 1, so that a dot product is a cosine.


Reciprocal rank fusion: one ranking out of several, by place alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Hashable, Sequence
from dataclasses import replace

import numpy as np

from search_server.milvus.search_store import SearchStore
from search_server.milvus.vector_search import ROWS_PER_CALL
from search_server.search.nearest import Retrieval
from search_server.search.position import JITTER, START, Position, Scored
from search_server.types.items import Candidate, Hit, Search
from search_server.types.queries import Hybrid, Query, SearchSpec
from sentinel_core.calls import Deadline
from sentinel_core.errors import FailedPrecondition, InvalidArgument
from sentinel_store.collections import CollectionInfo
from sentinel_store.items import Kind
from sentinel_store.milvus import schema
from sentinel_store.values import FieldType, FloatArray

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

    def __init__(self, store: SearchStore, retrieval: Retrieval) -> None:
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
        fused = fuse([(near, hybrid.vector_weight), (worded, hybrid.text_weight)], hybrid.rrf_k)
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
            places = distinct(vectors, threshold)
        if share is not None:
            relevance = np.array([candidates[place].score for place in places], np.float32)
            most = len(places) if spec.grouping else end
            order = diverse(relevance, vectors[places], share, most)
            places = [places[place] for place in order]
    if spec.grouping is not None:
        values = [candidates[place].value for place in places]
        places = [places[place] for place in grouped(values, spec.grouping.size)]
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
    field_type = schema.type_of(spec.grouping.field, collection.fields, where)
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


# float32 takes the cosine of equal vectors a little below 1; twice what 4,096 elements can lose.
_ROUNDING = 1e-6


def distinct(vectors: FloatArray, threshold: float) -> list[int]:
    """Return the places of the candidates that are no copies of a better one.

    A candidate is kept if its cosine to every one kept before it is below `threshold`. So the
    kept ones of a longer list begin with those of a shorter one.

    Args:
        vectors: float32 `[n, d]`, best first.
        threshold: Above 0, at most 1.

    Returns:
        Ascending places. O(kept * n * d).
    """
    bound = threshold - _ROUNDING
    is_copy = np.zeros(len(vectors), dtype=bool)
    kept: list[int] = []
    for place in range(len(vectors)):
        if is_copy[place]:
            continue
        kept.append(place)
        is_copy[place + 1 :] |= vectors[place + 1 :] @ vectors[place] >= bound
    return kept


def diverse(
    relevance: FloatArray, vectors: FloatArray, relevance_share: float, most: int
) -> list[int]:
    """Return the places of the candidates in the order of maximal marginal relevance.

    The first is the first candidate; each following one has the greatest
    `share * relevance - (1 - share) * cosine to the nearest one chosen before`, of equals the
    first (Carbonell and Goldstein, SIGIR 1998).

    Args:
        relevance: float32 `[n]`, descending: cosines to the query.
        vectors: float32 `[n, d]`.
        relevance_share: lambda, 0 to 1.
        most: Stop when this many are chosen; it does not change which come first.

    Returns:
        min(most, n) places. O(most * n * d): each chosen one is compared with all others once.
    """
    count = min(most, len(vectors))
    if count == 0:
        return []
    wanted = np.float32(relevance_share) * relevance
    novelty_share = np.float32(1.0 - relevance_share)
    nearest = np.full(len(vectors), -np.inf, dtype=np.float32)
    chosen = [0]
    is_chosen = np.zeros(len(vectors), dtype=bool)
    is_chosen[0] = True
    while len(chosen) < count:
        np.maximum(nearest, vectors @ vectors[chosen[-1]], out=nearest)
        gain = np.where(is_chosen, -np.inf, wanted - novelty_share * nearest)
        best = int(np.argmax(gain))  # of equals the first
        chosen.append(best)
        is_chosen[best] = True
    return chosen


def grouped(values: Sequence[Hashable | None], size: int) -> list[int]:
    """Return the places of the best `size` candidates of each value, group after group.

    Args:
        values: `[n]`, the candidates' values, best first; None is a group of its own each time.
        size: Most of each group, at least 1.

    Returns:
        Places; groups in the order of their best candidates, candidates of a group in theirs. With
        `size` 1, those of a longer list begin with those of a shorter one.
    """
    groups: dict[Hashable, list[int]] = {}
    for place, value in enumerate(values):
        # A tuple keeps what has no value apart from everything that has one.
        group = groups.setdefault((value,) if value is not None else place, [])
        if len(group) < size:
            group.append(place)
    return [place for group in groups.values() for place in group]


def fuse(rankings: Sequence[tuple[Sequence[str], float]], constant: int) -> list[tuple[str, float]]:
    """Return every id with its fused score, best first, of equals by id.

    score = sum of weight / (constant + rank) over the rankings that have the id, ranks from 1
    (Cormack, Clarke and Büttcher, SIGIR 2009; the weights are ours).

    Args:
        rankings: Ids best first, each at most once, with the ranking's weight, at least 0.
        constant: At least 1; the greater, the less the first places count.
    """
    scores: dict[str, float] = {}
    for ids, weight in rankings:
        for rank, item_id in enumerate(ids, 1):
            scores[item_id] = scores.get(item_id, 0.0) + weight / (constant + rank)
    return sorted(scores.items(), key=lambda scored: (-scored[1], scored[0]))
